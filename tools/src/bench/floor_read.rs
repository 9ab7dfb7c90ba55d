//! The raw floors of a disk for reads, over the very files that the engine reads. They go past the
//! Disk seam on purpose.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use seawall_wal::disk::Buffer;

use super::to_usize;
use super::turn::{Turn, Until, turn};
use crate::error::Error;

/// What a direct read has to be a multiple of, on any device.
const DIRECT_BYTES: u64 = 4096;
/// Bytes of one read of the sequential floor, and how many are in flight.
const STREAM_BYTES: u64 = 1 << 20;
const STREAM_DEPTH: u32 = 4;
/// Bytes that the scanning floor reads before it sums them: they stay in the processor's cache.
const SCAN_BYTES: usize = 256 << 10;

/// Files that are read.
#[derive(Debug)]
pub struct ReadFloor {
    direct: Vec<Used>,
    cached: Vec<Used>,
}

/// An open file and the bytes of it that are used.
#[derive(Debug)]
struct Used {
    file: OwnedFd,
    bytes: u64,
}

/// Numbers that a disk cannot foresee.
#[derive(Debug)]
pub(super) struct Scatter(u64);

impl Scatter {
    pub(super) fn new(index: usize) -> Scatter {
        Scatter((index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

impl ReadFloor {
    /// Over these files, each with the bytes of it that are used.
    ///
    /// # Errors
    /// One of them cannot be opened, or none has bytes.
    pub fn open(files: &[(PathBuf, u64)]) -> Result<ReadFloor, Error> {
        let (mut direct, mut cached) = (Vec::new(), Vec::new());
        for (path, bytes) in files.iter().filter(|(_, bytes)| *bytes >= DIRECT_BYTES) {
            let open = |flags| rustix::fs::open(path, flags, Mode::empty());
            let plain = || open(OFlags::RDONLY).map_err(std::io::Error::from);
            let bytes = *bytes;
            // A file system without O_DIRECT has no lower floor than the page cache.
            let file = match open(OFlags::RDONLY | OFlags::DIRECT) {
                Ok(file) => file,
                Err(_) => plain()?,
            };
            direct.push(Used { file, bytes });
            let file = plain()?;
            cached.push(Used { file, bytes });
        }
        match direct.is_empty() {
            true => Err(Error::Usage("the log has no bytes to read".into())),
            false => Ok(ReadFloor { direct, cached }),
        }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cached.iter().map(|used| used.bytes).sum()
    }

    /// Direct reads of `length` bytes at random places, one in flight for each caller.
    ///
    /// # Errors
    /// The first failed read.
    pub fn random(&self, callers: u32, length: usize, until: Until) -> Result<Turn, Error> {
        let length = (length as u64).next_multiple_of(DIRECT_BYTES);
        turn(callers, 1, until, |index| {
            let mut scatter = Scatter::new(index);
            let mut buffer = Buffer::zeroed(to_usize(length));
            move || {
                let used = &self.direct[to_usize(scatter.below(self.direct.len() as u64))];
                let places = (used.bytes.saturating_sub(length) / DIRECT_BYTES).max(1);
                let offset = scatter.below(places) * DIRECT_BYTES;
                read(used, &mut buffer, offset).map(drop)
            }
        })
    }

    /// Direct reads of `length` bytes of the first file, one in flight for each caller, at the
    /// offsets that each caller's own source yields.
    ///
    /// # Errors
    /// The first failed read.
    pub fn at<P: FnMut() -> u64>(
        &self,
        callers: u32,
        length: usize,
        until: Until,
        offsets: impl Fn(usize) -> P + Sync,
    ) -> Result<Turn, Error> {
        turn(callers, 1, until, |index| {
            let mut next = offsets(index);
            let mut buffer = Buffer::zeroed(length);
            move || read(&self.direct[0], &mut buffer, next()).map(drop)
        })
    }

    /// Every byte once, in direct reads of 1 MiB, 4 in flight; an operation is one of them.
    ///
    /// # Errors
    /// The first failed read.
    pub fn stream(&self) -> Result<Turn, Error> {
        let pieces: Vec<(&Used, u64)> = self.direct.iter().flat_map(pieces).collect();
        let next = AtomicU64::new(0);
        let until = Until::Done(pieces.len() as u64);
        turn(STREAM_DEPTH, 1, until, |_| {
            let mut buffer = Buffer::zeroed(to_usize(STREAM_BYTES));
            let (next, pieces) = (&next, &pieces);
            move || {
                // Relaxed: only uniqueness counts.
                let number = to_usize(next.fetch_add(1, Ordering::Relaxed));
                let (used, offset) = pieces[number];
                read(used, &mut buffer, offset).map(drop)
            }
        })
    }

    /// Every byte through the page cache with a CRC-32 over it; an operation is one pass of one
    /// caller.
    ///
    /// # Errors
    /// The first failed read.
    pub fn scan(&self, callers: u32, until: Until) -> Result<Turn, Error> {
        turn(callers, 1, until, |_| {
            let mut buffer = Buffer::zeroed(SCAN_BYTES);
            move || self.pass(&mut buffer)
        })
    }

    /// Brings every byte into the page cache.
    ///
    /// # Errors
    /// The first failed read.
    pub fn warm(&self) -> Result<(), Error> {
        self.pass(&mut Buffer::zeroed(SCAN_BYTES))
    }

    fn pass(&self, buffer: &mut Buffer) -> Result<(), Error> {
        for used in &self.cached {
            let mut sum = crc32fast::Hasher::new();
            let mut offset = 0;
            while offset < used.bytes {
                let length = to_usize(used.bytes - offset).min(buffer.len());
                let filled = read(used, &mut buffer[..length], offset)?;
                sum.update(&buffer[..filled]);
                offset += filled as u64;
            }
            std::hint::black_box(sum.finalize());
        }
        Ok(())
    }
}

/// Where the reads of a sequential pass begin.
fn pieces(used: &Used) -> impl Iterator<Item = (&Used, u64)> {
    let step = to_usize(STREAM_BYTES);
    (0..used.bytes)
        .step_by(step)
        .map(move |offset| (used, offset))
}

/// A read that ends early only where the file does.
fn read(used: &Used, buffer: &mut [u8], offset: u64) -> Result<usize, Error> {
    let filled = rustix::io::pread(&used.file, buffer, offset).map_err(std::io::Error::from)?;
    match filled {
        0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        filled => Ok(filled),
    }
}

#[cfg(test)]
mod tests {
    use seawall_wal::disk::{File, OpenMode};

    use super::*;
    use crate::common;

    const MIB: usize = 1 << 20;

    /// Two files, of 3 MiB + 8 KiB and of 4 KiB.
    fn floor(dir: &std::path::Path) -> ReadFloor {
        let files = [("one", 3 * MIB + 8192), ("two", 4096)].map(|(name, bytes)| {
            let path = dir.join(name);
            let file = File::open(&common::disk(), &path, OpenMode::CreateNew).unwrap();
            file.write_bytes(0, Buffer::zeroed(bytes)).unwrap();
            file.sync().unwrap();
            (path, bytes as u64)
        });
        ReadFloor::open(&files).unwrap()
    }

    #[test]
    fn a_sequential_pass_reads_every_piece_once() {
        let dir = tempfile::tempdir().unwrap();
        let floor = floor(dir.path());
        assert_eq!(floor.bytes(), 3 * MIB as u64 + 8192 + 4096);
        assert!((floor.stream().unwrap().records() - 5.0).abs() < 1e-9);
    }

    #[test]
    fn random_reads_and_scans_stay_inside_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let floor = floor(dir.path());
        let random = floor.random(2, 4096, Until::Done(500)).unwrap();
        assert!((random.records() - 500.0).abs() < 1e-9);
        assert!((floor.scan(2, Until::Done(4)).unwrap().records() - 4.0).abs() < 1e-9);
    }

    #[test]
    fn reads_at_given_offsets_end_where_the_file_does() {
        let dir = tempfile::tempdir().unwrap();
        let floor = floor(dir.path());
        let inside = floor.at(2, 4096, Until::Done(4), |_| || 3 * MIB as u64);
        assert!((inside.unwrap().records() - 4.0).abs() < 1e-9);
        let behind = floor.at(1, 4096, Until::Done(1), |_| || 4 * MIB as u64);
        assert!(matches!(behind, Err(Error::Output(_))));
    }

    #[test]
    fn files_without_bytes_are_no_floor() {
        assert!(matches!(ReadFloor::open(&[]), Err(Error::Usage(_))));
    }
}
