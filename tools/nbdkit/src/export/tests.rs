use std::sync::{Arc, Mutex};

use super::*;

/// Bytes in memory, with what was asked of it.
#[derive(Debug, Default)]
struct Fake {
    bytes: Mutex<Vec<u8>>,
    data: Vec<(u64, u64)>,
    calls: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, call: String) -> Result<(), Error> {
        self.calls.lock().unwrap().push(call);
        Ok(())
    }
}

impl Engine for Arc<Fake> {
    fn size(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }
    fn block_bytes(&self) -> u64 {
        512
    }
    fn check_writable(&self) -> Result<(), Error> {
        Ok(())
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[offset..offset + out.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<(), Error> {
        let first = usize::try_from(offset).unwrap();
        self.bytes.lock().unwrap()[first..first + bytes.len()].copy_from_slice(bytes);
        self.note(format!("write {offset} {} {durability:?}", bytes.len()))
    }
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<(), Error> {
        self.note(format!(
            "zero {offset} {length} no_hole={no_hole} {durability:?}"
        ))
    }
    fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<(), Error> {
        self.note(format!("trim {offset} {length} {durability:?}"))
    }
    fn flush(&self) -> Result<(), Error> {
        self.note("flush".to_owned())
    }
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        let behind = self.data.iter().find(|(_, second)| *second > offset);
        Ok(behind.map(|&(first, second)| (first.max(offset), second)))
    }
    fn close(&self) -> Result<(), Error> {
        self.note("close".to_owned())
    }
}

fn export(size: usize, data: &[(u64, u64)]) -> (Export, Arc<Fake>) {
    let fake = Arc::new(Fake {
        bytes: Mutex::new(vec![0; size]),
        data: data.to_vec(),
        calls: Mutex::default(),
    });
    (Export::new(Box::new(Arc::clone(&fake))), fake)
}

fn extents(export: &Export, offset: u64, length: u64, one: bool) -> Vec<(u64, u64, bool)> {
    let mut found = Vec::new();
    export
        .extents(offset, length, one, |e| {
            found.push((e.offset, e.length, e.data));
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn extents_cover_the_request_without_gaps_and_never_call_data_a_hole() {
    let data = [(512, 1024), (1024, 1536), (4000, 4096)];
    let (export, _) = export(8192, &data);
    for offset in (0..8192).step_by(100) {
        for length in [1, 511, 512, 1500, 8192 - offset] {
            let length = length.min(8192 - offset);
            let found = extents(&export, offset, length, false);
            let mut next = offset;
            for &(at, length, kind) in &found {
                assert_eq!(at, next);
                assert!(length > 0);
                for byte in at..at + length {
                    let is_data = data.iter().any(|&(a, b)| a <= byte && byte < b);
                    assert_eq!(is_data, kind, "byte {byte}");
                }
                next += length;
            }
            assert_eq!(next, offset + length);
        }
    }
}

#[test]
fn request_one_gets_the_extent_at_the_offset_alone() {
    let (export, _) = export(8192, &[(512, 1024)]);
    assert_eq!(extents(&export, 0, 8192, true), [(0, 512, false)]);
    assert_eq!(extents(&export, 600, 8192, true), [(600, 424, true)]);
    assert_eq!(extents(&export, 2000, 100, true), [(2000, 100, false)]);
}

#[test]
fn a_map_of_many_extents_is_cut_not_refused() {
    let data: Vec<_> = (0..5000).map(|n| (n * 1024, n * 1024 + 512)).collect();
    let (export, _) = export(5000 * 1024, &data);
    let found = extents(&export, 0, 5000 * 1024, false);
    assert_eq!(found.len(), EXTENTS_MAX);
    assert_eq!(found[1], (512, 512, false));
}

#[test]
fn an_answer_without_progress_counts_as_data() {
    let extent = extent_at(100, 200, Some((50, 100)));
    assert_eq!((extent.length, extent.data), (100, true));
}

#[test]
fn zero_keeps_the_space_unless_trimming_is_permitted() {
    let (export, fake) = export(8192, &[]);
    let keep = ZeroOptions {
        may_trim: false,
        durability: Durability::Volatile,
    };
    let give = ZeroOptions {
        may_trim: true,
        durability: Durability::Durable,
    };
    export.zero(0, 4096, keep).unwrap();
    export.zero(4096, 4096, give).unwrap();
    let calls = fake.calls.lock().unwrap();
    assert_eq!(
        *calls,
        [
            "zero 0 4096 no_hole=true Volatile",
            "zero 4096 4096 no_hole=false Durable"
        ]
    );
}

#[test]
fn writes_are_read_back_and_any_alignment_is_offered() {
    let (export, _) = export(8192, &[]);
    export.write(13, b"seawall", Durability::Durable).unwrap();
    let mut out = [0; 7];
    export.read(13, &mut out).unwrap();
    assert_eq!(&out, b"seawall");
    let sizes = export.block_sizes();
    assert_eq!((sizes.minimum, sizes.preferred), (1, 512));
    assert_eq!(sizes.maximum % sizes.preferred, 0);
}
