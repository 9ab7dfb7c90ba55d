//! The contract where it meets alignment, per-write durability, maps and threads.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{bytes, content, create, pattern};
use crate::disk::{
    Buffer, Bytes, Completion, Disk, File, FileId, MappedFile, OpenMode, Operation, Output, Token,
};

/// A disk whose every file is opened for direct writes.
#[derive(Debug)]
pub(super) struct Directly(pub(super) Arc<dyn Disk>);

fn directly(mut operation: Operation) -> Operation {
    if let Operation::Open { direct, .. } = &mut operation {
        *direct = true;
    }
    operation
}

impl Disk for Directly {
    fn submit(&self, operation: Operation) -> Token {
        self.0.submit(directly(operation))
    }

    fn run(&self, operation: Operation) -> Completion {
        self.0.run(directly(operation))
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.0.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.0.wait(token)
    }

    fn backend(&self) -> &'static str {
        self.0.backend()
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        self.0.map(file, offset, length)
    }
}

/// The parts of a buffer, each in memory of its own.
fn cut(content: &[u8], size: usize) -> Vec<Bytes> {
    content.chunks(size).map(bytes).collect()
}

pub(super) fn writes_of_every_alignment_are_seen_by_every_handle(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) {
    let path = directory.join("a");
    let file = File::open_direct(disk, &path, OpenMode::CreateNew).unwrap();
    let other = File::open(disk, &path, OpenMode::Read).unwrap();
    let mut expected = vec![0; 64 << 10];
    file.write_zeros(0, expected.len() as u64).unwrap();
    let places = [
        (4_096, 8_192, 8_192),  // aligned throughout
        (8_192, 4_096, 1_024),  // aligned, in small slices
        (12_288, 4_096, 1_000), // an aligned place, from slices that are not
        (512, 512, 512),        // a sector
        (16_384, 700, 700),     // an aligned offset, an odd length
        (20_001, 9_000, 4_096), // nothing aligned
        (61_440, 4_096, 4_096), // the last page
    ];
    for (round, (offset, length, slice)) in places.into_iter().cycle().take(28).enumerate() {
        let part = pattern(round, length);
        let buffers = cut(&part, slice);
        match round % 3 {
            0 => file.write(offset as u64, buffers).unwrap(),
            1 => file.write_durable(offset as u64, buffers).unwrap(),
            _ => {
                let token = disk.submit(Operation::Write {
                    file: file.id(),
                    offset: offset as u64,
                    buffers,
                    durable: round % 2 == 0,
                });
                assert!(matches!(disk.wait(token), Ok(Output::Done)));
            }
        }
        expected[offset..offset + length].copy_from_slice(&part);
        assert!(content(&file) == expected, "round {round} at {offset}");
        assert!(content(&other) == expected, "round {round} at {offset}");
    }
}

pub(super) fn a_durable_write_grows_the_file(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = File::open_direct(disk, &directory.join("a"), OpenMode::CreateNew).unwrap();
    let (first, second) = (pattern(1, 8_192), pattern(2, 4_096));
    file.write_durable(0, cut(&first, 4_096)).unwrap();
    file.write_durable(12_288, cut(&second, 4_096)).unwrap();
    file.write_durable(0, Vec::new()).unwrap();
    let expected = [first, vec![0; 4_096], second].concat();
    assert!(content(&file) == expected);
}

pub(super) fn a_view_sees_direct_writes(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = File::open_direct(disk, &directory.join("a"), OpenMode::CreateNew).unwrap();
    file.write_zeros(0, 32_768).unwrap();
    let Some(before) = file.map(0, 32_768) else {
        return;
    };
    for round in 0..4 {
        // A page that was touched is in the page cache, where a direct write must not leave it.
        if before.populate(0..32_768) {
            assert_eq!(before.bytes(0..1).unwrap().len(), 1);
        }
        let part = pattern(round, 16_384);
        file.write_durable(8_192, cut(&part, 4_096)).unwrap();
        let after = file.map(8_192, 16_384).unwrap();
        if before.populate(8_192..24_576) && after.populate(0..16_384) {
            assert!(before.bytes(8_192..24_576).unwrap() == part, "{round}");
            assert!(after.bytes(0..16_384).unwrap() == part, "{round}");
        }
    }
}

pub(super) fn reads_of_the_medium_are_those_of_the_cache_at_every_alignment(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) {
    let path = directory.join("a");
    let file = create(disk, &path);
    let early = File::open_direct(disk, &path, OpenMode::Read).unwrap();
    let mut expected = pattern(1, 70_001);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    for round in 0..3 {
        let late = File::open_direct(disk, &path, OpenMode::Read).unwrap();
        for at in [0, 1, 511, 512, 4_095, 4_096, 65_536, 69_632, 70_000, 70_001] {
            for length in [0, 1, 512, 4_096, 5_000, 65_536, 100_000] {
                let end = (at + length).min(expected.len());
                for handle in [&early, &late] {
                    let found = handle.read(at as u64, length).unwrap();
                    assert!(*found == expected[at..end], "{length} bytes at {at}");
                }
            }
        }
        let token = disk.submit(Operation::Read {
            file: late.id(),
            offset: 8_192,
            buffer: Buffer::zeroed(4_096),
        });
        let Ok(Output::Read { buffer, filled }) = disk.wait(token) else {
            panic!("not read");
        };
        assert!(buffer[..filled] == expected[8_192..12_288]);
        // What is written behind it, dirty or not, is seen as well.
        expected[9_000..9_100].copy_from_slice(&pattern(round, 100));
        file.write_bytes(9_000, Buffer::copy_of(&expected[9_000..9_100]))
            .unwrap();
        if round == 1 {
            file.sync().unwrap();
        }
    }
}

pub(super) fn written_zeros_read_zero_and_are_no_hole(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = File::open_direct(disk, &directory.join("a"), OpenMode::CreateNew).unwrap();
    let mut expected = pattern(3, 100_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    let ranges = [
        (4_096, 8_192),
        (20_001, 3),
        (40_960, 12_300),
        (90_000, 1 << 20),
    ];
    for (offset, length) in ranges {
        file.write_zeros(offset as u64, length as u64).unwrap();
        let end = offset + length;
        expected.resize(expected.len().max(end), 0);
        expected[offset..end].fill(0);
        assert!(content(&file) == expected, "zeros at {offset}");
    }
    file.write_zeros(7, 0).unwrap();
    let size = expected.len() as u64;
    assert_eq!(file.length().unwrap(), size);
    assert_eq!(file.next_data(0).unwrap(), Some((0, size)), "L-W9");
    file.sync().unwrap();
    let over = disk.run(Operation::WriteZeros {
        file: file.id(),
        offset: u64::MAX - 1,
        length: 2,
    });
    assert!(over.is_err());
}

#[expect(
    clippy::disallowed_methods,
    reason = "the claim is about several threads"
)]
pub(super) fn operations_outlive_the_thread_that_submitted_them(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) {
    let file = create(disk, &directory.join("a"));
    let size = 1 << 17;
    let tokens: Vec<Token> = std::thread::scope(|scope| {
        let submitter = scope.spawn(|| {
            let write = |slot: usize| Operation::Write {
                file: file.id(),
                offset: (slot * size) as u64,
                buffers: vec![bytes(&pattern(slot, size))],
                durable: slot.is_multiple_of(4),
            };
            (0..32).map(|slot| disk.submit(write(slot))).collect()
        });
        submitter.join().unwrap()
    });
    for token in tokens {
        let done = disk.wait(token);
        assert!(matches!(done, Ok(Output::Done)), "{done:?}");
    }
    for (slot, part) in content(&file).chunks(size).enumerate() {
        assert!(part == pattern(slot, size), "slot {slot}");
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the claim is about several threads"
)]
pub(super) fn every_waiter_hears_of_its_own_operation(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let (waiters, rounds) = (6, 60);
    let handed: Mutex<VecDeque<(usize, Token)>> = Mutex::new(VecDeque::new());
    let write = |slot: usize| Operation::Write {
        file: file.id(),
        offset: slot as u64 * 512,
        buffers: vec![bytes(&pattern(slot, 512))],
        durable: slot.is_multiple_of(3),
    };
    std::thread::scope(|scope| {
        for waiter in 0..waiters {
            let (handed, write) = (&handed, &write);
            scope.spawn(move || {
                for round in 0..rounds {
                    let slot = round * waiters + waiter;
                    let token = disk.submit(write(slot));
                    handed.lock().unwrap().push_back((slot, token));
                    // Mostly somebody else's, and the newest first: no order may be relied on.
                    let (_, token) = {
                        let mut handed = handed.lock().unwrap();
                        match round % 2 {
                            0 => handed.pop_back().unwrap(),
                            _ => handed.pop_front().unwrap(),
                        }
                    };
                    assert!(matches!(disk.wait(token), Ok(Output::Done)));
                }
            });
        }
    });
    assert!(handed.lock().unwrap().is_empty());
    for (slot, part) in content(&file).chunks(512).enumerate() {
        assert!(part == pattern(slot, 512), "slot {slot}");
    }
}
