//! The contract of [`Disk`] as one suite that runs over every backend.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Buffer, Bytes, Disk, File, FileId, OpenMode, Operation, Output};
use crate::error::Error;

mod copies;
mod ways;

type Case = fn(&Arc<dyn Disk>, &Path);

/// Runs every case twice, each on a disk of its own with an empty directory: with handles as the
/// case opens them, and with every handle opened for direct writes.
pub(super) fn contract(mut make: impl FnMut() -> (Arc<dyn Disk>, PathBuf)) {
    let cases: &[Case] = &[
        what_was_written_is_read_back,
        reads_are_short_only_at_the_end_of_the_file,
        buffers_of_one_write_lie_one_behind_the_other,
        overlapping_and_unaligned_writes_change_only_their_bytes,
        a_gap_left_by_a_write_reads_zero,
        synced_bytes_are_read_by_another_handle,
        open_modes_treat_names_as_they_say,
        a_read_only_handle_changes_nothing,
        the_lock_is_exclusive_until_close,
        names_are_listed_sorted,
        rename_replaces_its_target,
        rename_moves_a_directory_with_all_it_holds,
        remove_takes_whole_directories_and_missing_names,
        a_removed_file_lives_until_its_handle_closes,
        a_hole_reads_zero_and_keeps_the_size,
        next_data_never_calls_data_a_hole,
        set_length_cuts_and_grows_with_zeros,
        a_closed_handle_fails_every_operation,
        a_token_is_used_once,
        submitted_operations_all_complete,
        a_close_finishes_what_is_in_flight_on_its_handle,
        missing_directories_are_errors,
        many_threads_share_one_disk,
        copies::a_copied_range_holds_what_its_source_held,
        copies::a_copy_that_cannot_be_whole_is_refused,
        copies::a_copy_is_finished_before_either_handle_closes,
        ways::writes_of_every_alignment_are_seen_by_every_handle,
        ways::a_durable_write_grows_the_file,
        ways::a_view_sees_direct_writes,
        ways::reads_of_the_medium_are_those_of_the_cache_at_every_alignment,
        ways::written_zeros_read_zero_and_are_no_hole,
        ways::operations_outlive_the_thread_that_submitted_them,
        ways::every_waiter_hears_of_its_own_operation,
    ];
    for case in cases {
        let (disk, directory) = make();
        case(&disk, &directory);
        let (disk, directory) = make();
        let disk: Arc<dyn Disk> = Arc::new(ways::Directly(disk));
        case(&disk, &directory);
    }
}

fn io_kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Err(Error::Io { source, .. }) => source.kind(),
        other => panic!("expected an I/O error, got {other:?}"),
    }
}

fn io_errno<T: std::fmt::Debug>(result: Result<T, Error>) -> Option<i32> {
    match result {
        Err(Error::Io { source, .. }) => source.raw_os_error(),
        other => panic!("expected an I/O error, got {other:?}"),
    }
}

fn create(disk: &Arc<dyn Disk>, path: &Path) -> File {
    File::open(disk, path, OpenMode::CreateNew).unwrap()
}

fn bytes(content: &[u8]) -> Bytes {
    Arc::new(Buffer::copy_of(content))
}

/// Bytes that differ from their neighbours and from those of other seeds.
fn pattern(seed: usize, length: usize) -> Vec<u8> {
    let byte = |i: usize| u8::try_from((seed * 31 + i * 7 + i / 251) % 255 + 1).unwrap();
    (0..length).map(byte).collect()
}

fn content(file: &File) -> Vec<u8> {
    let length = usize::try_from(file.length().unwrap()).unwrap();
    file.read_exact(0, length).unwrap().to_vec()
}

fn what_was_written_is_read_back(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let expected = pattern(1, 10_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    assert_eq!(content(&file), expected);
    assert_eq!(*file.read_exact(511, 1_026).unwrap(), expected[511..1_537]);
    file.write_bytes(10_000, Buffer::zeroed(0)).unwrap();
    assert_eq!(file.length().unwrap(), 10_000);
}

fn reads_are_short_only_at_the_end_of_the_file(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let expected = pattern(2, 1_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    assert_eq!(*file.read(900, 4_096).unwrap(), expected[900..]);
    assert_eq!(file.read(1_000, 10).unwrap().len(), 0);
    assert_eq!(file.read(5_000, 10).unwrap().len(), 0);
    assert_eq!(file.read(0, 0).unwrap().len(), 0);
    assert_eq!(io_kind(file.read_exact(999, 2)), ErrorKind::UnexpectedEof);
}

fn buffers_of_one_write_lie_one_behind_the_other(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let parts: Vec<Vec<u8>> = [0, 1, 511, 0, 512, 4_096, 3, 0]
        .iter()
        .enumerate()
        .map(|(seed, length)| pattern(seed, *length))
        .collect();
    let buffers = parts.iter().map(|part| bytes(part)).collect();
    file.write(100, buffers).unwrap();
    let mut expected = vec![0; 100];
    expected.extend(parts.concat());
    assert_eq!(content(&file), expected);
    file.write(0, Vec::new()).unwrap();
    assert_eq!(content(&file), expected);
}

fn overlapping_and_unaligned_writes_change_only_their_bytes(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) {
    let file = create(disk, &directory.join("a"));
    let mut expected = pattern(3, 9_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    for (offset, length) in [(1, 1), (510, 3), (512, 512), (700, 5_000), (8_999, 1)] {
        let part = pattern(offset, length);
        file.write_bytes(offset as u64, Buffer::copy_of(&part))
            .unwrap();
        expected[offset..offset + length].copy_from_slice(&part);
        assert_eq!(content(&file), expected, "write at {offset}");
    }
}

fn a_gap_left_by_a_write_reads_zero(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    file.write_bytes(0, Buffer::copy_of(&[1; 10])).unwrap();
    file.write_bytes(100_000, Buffer::copy_of(&[2; 10]))
        .unwrap();
    assert_eq!(file.length().unwrap(), 100_010);
    assert!(file.read_exact(10, 99_990).unwrap().iter().all(|b| *b == 0));
    assert_eq!(*file.read_exact(100_000, 10).unwrap(), [2; 10]);
}

fn synced_bytes_are_read_by_another_handle(disk: &Arc<dyn Disk>, directory: &Path) {
    let path = directory.join("a");
    let writer = create(disk, &path);
    let reader = File::open(disk, &path, OpenMode::Read).unwrap();
    writer.write_bytes(0, Buffer::copy_of(b"seawall")).unwrap();
    writer.sync().unwrap();
    super::sync_dir(disk.as_ref(), directory).unwrap();
    assert_eq!(content(&reader), b"seawall");
    assert_ne!(writer.id(), reader.id());
    // A handle that only reads may make bytes durable as well: open does so before it reads (L4).
    reader.sync().unwrap();
}

fn open_modes_treat_names_as_they_say(disk: &Arc<dyn Disk>, directory: &Path) {
    let path = directory.join("a");
    for mode in [OpenMode::Read, OpenMode::ReadWrite] {
        assert_eq!(io_kind(File::open(disk, &path, mode)), ErrorKind::NotFound);
    }
    let first = File::open(disk, &path, OpenMode::CreateOrOpen).unwrap();
    first.write_bytes(0, Buffer::copy_of(b"kept")).unwrap();
    let again = File::open(disk, &path, OpenMode::CreateNew);
    assert_eq!(io_kind(again), ErrorKind::AlreadyExists);
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::CreateOrOpen] {
        assert_eq!(content(&File::open(disk, &path, mode).unwrap()), b"kept");
    }
}

fn a_read_only_handle_changes_nothing(disk: &Arc<dyn Disk>, directory: &Path) {
    let path = directory.join("a");
    let writer = create(disk, &path);
    writer.write_bytes(0, Buffer::copy_of(b"kept")).unwrap();
    let reader = File::open(disk, &path, OpenMode::Read).unwrap();
    let refused = reader.write_bytes(0, Buffer::copy_of(b"lost"));
    assert!(io_errno(refused).is_some());
    assert!(io_errno(reader.set_length(1)).is_some());
    assert!(io_errno(reader.punch_hole(0, 4)).is_some());
    assert!(io_errno(reader.write_zeros(0, 4)).is_some());
    assert_eq!(content(&writer), b"kept");
}

fn the_lock_is_exclusive_until_close(disk: &Arc<dyn Disk>, directory: &Path) {
    let path = directory.join("lock");
    let first = create(disk, &path);
    first.lock().unwrap();
    first.lock().unwrap();
    let second = File::open(disk, &path, OpenMode::ReadWrite).unwrap();
    assert_eq!(io_kind(second.lock()), ErrorKind::WouldBlock);
    drop(first);
    second.lock().unwrap();
    drop(second);
    File::open(disk, &path, OpenMode::ReadWrite)
        .unwrap()
        .lock()
        .unwrap();
}

fn names_are_listed_sorted(disk: &Arc<dyn Disk>, directory: &Path) {
    for name in ["b", "a", "c10", "c9"] {
        drop(create(disk, &directory.join(name)));
    }
    super::make_dir(disk.as_ref(), &directory.join("bb")).unwrap();
    super::make_dir(disk.as_ref(), &directory.join("bb")).unwrap();
    drop(create(disk, &directory.join("bb").join("inner")));
    let names = super::list(disk.as_ref(), directory).unwrap();
    assert_eq!(names, ["a", "b", "bb", "c10", "c9"]);
    let over_file = super::make_dir(disk.as_ref(), &directory.join("a"));
    assert_eq!(io_kind(over_file), ErrorKind::AlreadyExists);
}

fn rename_replaces_its_target(disk: &Arc<dyn Disk>, directory: &Path) {
    let (from, to) = (directory.join("new"), directory.join("old"));
    let new = create(disk, &from);
    new.write_bytes(0, Buffer::copy_of(b"new")).unwrap();
    create(disk, &to)
        .write_bytes(0, Buffer::copy_of(b"older"))
        .unwrap();
    super::rename(disk.as_ref(), &from, &to).unwrap();
    assert_eq!(super::list(disk.as_ref(), directory).unwrap(), ["old"]);
    let found = File::open(disk, &to, OpenMode::Read).unwrap();
    assert_eq!(content(&found), b"new");
    // The handle follows the file, not the name.
    new.write_bytes(0, Buffer::copy_of(b"NEW")).unwrap();
    assert_eq!(content(&found), b"NEW");
    let missing = super::rename(disk.as_ref(), &from, &to);
    assert_eq!(io_kind(missing), ErrorKind::NotFound);
    super::rename(disk.as_ref(), &to, &to).unwrap();
    assert_eq!(super::list(disk.as_ref(), directory).unwrap(), ["old"]);
}

fn rename_moves_a_directory_with_all_it_holds(disk: &Arc<dyn Disk>, directory: &Path) {
    let (from, to) = (directory.join("from"), directory.join("to"));
    super::make_dir(disk.as_ref(), &from).unwrap();
    create(disk, &from.join("a"))
        .write_bytes(0, Buffer::copy_of(b"inside"))
        .unwrap();
    super::rename(disk.as_ref(), &from, &to).unwrap();
    assert_eq!(super::list(disk.as_ref(), directory).unwrap(), ["to"]);
    let found = File::open(disk, &to.join("a"), OpenMode::Read).unwrap();
    assert_eq!(content(&found), b"inside");
    super::make_dir(disk.as_ref(), &from).unwrap();
    assert!(io_errno(super::rename(disk.as_ref(), &from, &to)).is_some());
    let into_itself = super::rename(disk.as_ref(), &to, &to.join("below"));
    assert!(io_errno(into_itself).is_some());
}

fn remove_takes_whole_directories_and_missing_names(disk: &Arc<dyn Disk>, directory: &Path) {
    let outer = directory.join("outer");
    super::make_dir(disk.as_ref(), &outer).unwrap();
    super::make_dir(disk.as_ref(), &outer.join("inner")).unwrap();
    drop(create(disk, &outer.join("inner").join("a")));
    drop(create(disk, &outer.join("b")));
    drop(create(disk, &directory.join("c")));
    super::remove(disk.as_ref(), &outer).unwrap();
    super::remove(disk.as_ref(), &outer).unwrap();
    super::remove(disk.as_ref(), &outer.join("inner")).unwrap();
    assert_eq!(super::list(disk.as_ref(), directory).unwrap(), ["c"]);
    super::remove(disk.as_ref(), &directory.join("c")).unwrap();
    super::sync_dir(disk.as_ref(), directory).unwrap();
    assert!(super::list(disk.as_ref(), directory).unwrap().is_empty());
}

fn a_removed_file_lives_until_its_handle_closes(disk: &Arc<dyn Disk>, directory: &Path) {
    let path = directory.join("a");
    let file = create(disk, &path);
    file.write_bytes(0, Buffer::copy_of(b"still")).unwrap();
    super::remove(disk.as_ref(), &path).unwrap();
    assert_eq!(content(&file), b"still");
    assert_eq!(content(&create(disk, &path)), b"");
    assert_eq!(content(&file), b"still");
}

fn a_hole_reads_zero_and_keeps_the_size(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let mut expected = pattern(4, 40_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    for (offset, length) in [(4_096, 8_192), (100, 1), (20_000, 5_000), (39_000, 100_000)] {
        file.punch_hole(offset as u64, length as u64).unwrap();
        let end = (offset + length).min(expected.len());
        expected[offset..end].fill(0);
        assert_eq!(content(&file), expected, "hole at {offset}");
    }
    file.punch_hole(0, 0).unwrap();
    file.punch_hole(50_000, 10).unwrap();
    assert_eq!(content(&file), expected);
}

fn next_data_never_calls_data_a_hole(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let size = 1 << 20;
    file.set_length(size).unwrap();
    let written = [(0, 10), (65_536, 4_096), (300_001, 1), (1 << 19, 70_000)];
    for (offset, length) in written {
        file.write_bytes(offset, Buffer::copy_of(&pattern(5, length)))
            .unwrap();
    }
    file.punch_hole(1 << 19, 4_096).unwrap();
    let mut covered = vec![false; usize::try_from(size).unwrap()];
    let mut at = 0;
    while let Some((first, end)) = file.next_data(at).unwrap() {
        assert!(first >= at && end > first && end <= size, "{first}..{end}");
        covered[usize::try_from(first).unwrap()..usize::try_from(end).unwrap()].fill(true);
        at = end;
    }
    for (position, byte) in content(&file).iter().enumerate() {
        assert!(*byte == 0 || covered[position], "data at {position}");
    }
    assert_eq!(file.next_data(size).unwrap(), None);
    assert_eq!(file.next_data(size + 10).unwrap(), None);
}

fn set_length_cuts_and_grows_with_zeros(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let expected = pattern(6, 5_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    file.set_length(700).unwrap();
    assert_eq!(content(&file), expected[..700]);
    file.set_length(3_000).unwrap();
    assert_eq!(file.length().unwrap(), 3_000);
    let grown = content(&file);
    assert_eq!(grown[..700], expected[..700]);
    assert!(grown[700..].iter().all(|byte| *byte == 0));
    file.set_length(0).unwrap();
    assert_eq!(content(&file), b"");
}

fn a_closed_handle_fails_every_operation(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let id = file.id();
    drop(file);
    let operations: [fn(FileId) -> Operation; 11] = [
        |file| Operation::Close { file },
        |file| Operation::Read {
            file,
            offset: 0,
            buffer: Buffer::zeroed(1),
        },
        |file| Operation::Write {
            file,
            offset: 0,
            buffers: vec![bytes(b"x")],
            durable: false,
        },
        |file| Operation::Sync { file },
        |file| Operation::Length { file },
        |file| Operation::SetLength { file, length: 1 },
        |file| Operation::PunchHole {
            file,
            offset: 0,
            length: 1,
        },
        |file| Operation::WriteZeros {
            file,
            offset: 0,
            length: 1,
        },
        |file| Operation::Copy {
            from: file,
            from_offset: 0,
            file,
            offset: 1,
            length: 1,
        },
        |file| Operation::NextData { file, offset: 0 },
        |file| Operation::Lock { file },
    ];
    for operation in operations {
        for closed in [id, FileId(u64::MAX)] {
            let token = disk.submit(operation(closed));
            let answer = disk.wait(token);
            let error = answer.expect_err("an operation on a closed handle");
            let errno = rustix::io::Errno::BADF.raw_os_error();
            assert_eq!(error.raw_os_error(), Some(errno), "{:?}", operation(closed));
        }
    }
    assert!(disk.map(id, 0, 1).is_none());
}

fn a_token_is_used_once(disk: &Arc<dyn Disk>, directory: &Path) {
    let token = disk.submit(Operation::List {
        path: directory.into(),
    });
    assert!(matches!(disk.wait(token), Ok(Output::Names(_))));
    let again = disk.wait(token).expect_err("a token used twice");
    assert_eq!(again.kind(), ErrorKind::InvalidInput);
}

fn submitted_operations_all_complete(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    let size = 700;
    let expected = pattern(7, 40 * size);
    let tokens: Vec<_> = expected
        .chunks(size)
        .enumerate()
        .map(|(i, part)| {
            disk.submit(Operation::Write {
                file: file.id(),
                offset: (i * size) as u64,
                buffers: vec![bytes(part)],
                durable: false,
            })
        })
        .collect();
    for token in tokens.iter().rev() {
        assert!(matches!(disk.wait(*token), Ok(Output::Done)));
    }
    assert_eq!(content(&file), expected);
    // Polling alone must get there as well.
    let token = disk.submit(Operation::Sync { file: file.id() });
    let answer = loop {
        if let Some(answer) = disk.take(token) {
            break answer;
        }
        std::thread::yield_now();
    };
    assert!(matches!(answer, Ok(Output::Done)));
}

fn a_close_finishes_what_is_in_flight_on_its_handle(disk: &Arc<dyn Disk>, directory: &Path) {
    let path = directory.join("a");
    let file = create(disk, &path);
    let size = 1 << 18;
    let tokens: Vec<_> = (0..16)
        .map(|slot: usize| {
            disk.submit(Operation::Write {
                file: file.id(),
                offset: (slot * size) as u64,
                buffers: vec![bytes(&pattern(slot, size))],
                durable: false,
            })
        })
        .collect();
    drop(file);
    let found = content(&File::open(disk, &path, OpenMode::Read).unwrap());
    for (slot, part) in found.chunks(size).enumerate() {
        assert!(part == pattern(slot, size), "slot {slot}");
    }
    assert_eq!(found.len(), 16 * size);
    for token in tokens {
        assert!(matches!(disk.wait(token), Ok(Output::Done)));
    }
}

fn missing_directories_are_errors(disk: &Arc<dyn Disk>, directory: &Path) {
    let missing = directory.join("missing");
    let below = missing.join("a");
    let disk_ref = disk.as_ref();
    assert_eq!(
        io_kind(super::list(disk_ref, &missing)),
        ErrorKind::NotFound
    );
    assert_eq!(
        io_kind(super::sync_dir(disk_ref, &missing)),
        ErrorKind::NotFound
    );
    assert_eq!(
        io_kind(super::make_dir(disk_ref, &below)),
        ErrorKind::NotFound
    );
    let opened = File::open(disk, &below, OpenMode::CreateOrOpen);
    assert_eq!(io_kind(opened), ErrorKind::NotFound);
    drop(create(disk, &directory.join("file")));
    let file = directory.join("file");
    let not_a_directory = super::sync_dir(disk_ref, &file);
    assert_eq!(io_kind(not_a_directory), ErrorKind::NotADirectory);
    let moved = super::rename(disk_ref, &file, &below);
    assert_eq!(io_kind(moved), ErrorKind::NotFound);
}

#[expect(
    clippy::disallowed_methods,
    reason = "the claim is about several threads"
)]
fn many_threads_share_one_disk(disk: &Arc<dyn Disk>, directory: &Path) {
    let file = create(disk, &directory.join("a"));
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let file = &file;
            scope.spawn(move || {
                for round in 0..50 {
                    let offset = (round * 4 + worker) * 600;
                    let part = pattern(offset, 600);
                    file.write_bytes(offset as u64, Buffer::copy_of(&part))
                        .unwrap();
                    file.sync().unwrap();
                    assert_eq!(*file.read_exact(offset as u64, 600).unwrap(), *part);
                }
            });
        }
    });
    for slot in 0..200 {
        let found = file.read_exact(slot * 600, 600).unwrap();
        let offset = usize::try_from(slot * 600).unwrap();
        assert_eq!(*found, *pattern(offset, 600));
    }
}
