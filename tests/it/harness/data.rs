//! Scratch directories and bytes that a seed determines.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use tempfile::TempDir;

/// A directory that goes away with the value.
pub(crate) fn scratch() -> TempDir {
    TempDir::with_prefix("seawall-it-").unwrap()
}

/// A sequence of numbers determined by its seed (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(length).collect()
    }
}

/// Writes a whole file.
#[track_caller]
pub(crate) fn write_file(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn read_chunk(file: &mut File, chunk: &mut Vec<u8>) {
    chunk.clear();
    file.take(1 << 20).read_to_end(chunk).unwrap();
}

/// Demands that two files hold the same bytes.
#[track_caller]
pub(crate) fn assert_same_file(left: &Path, right: &Path) {
    let open = |p: &Path| File::open(p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    let (mut a, mut b) = (open(left), open(right));
    let (mut chunk_a, mut chunk_b) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        read_chunk(&mut a, &mut chunk_a);
        read_chunk(&mut b, &mut chunk_b);
        if chunk_a != chunk_b {
            let same = chunk_a
                .iter()
                .zip(&chunk_b)
                .take_while(|(x, y)| x == y)
                .count();
            panic!(
                "{} and {} differ at byte {}",
                left.display(),
                right.display(),
                offset + same
            );
        }
        if chunk_a.is_empty() {
            return;
        }
        offset += chunk_a.len();
    }
}
