//! The contract of copies between files.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::{content, create, io_errno, io_kind, pattern};
use crate::disk::{Buffer, Disk, File, OpenMode, Operation, Output};

pub(super) fn a_copied_range_holds_what_its_source_held(disk: &Arc<dyn Disk>, directory: &Path) {
    let from = create(disk, &directory.join("from"));
    let mut source = pattern(8, 300_000);
    from.write_bytes(0, Buffer::copy_of(&source)).unwrap();
    from.set_length(400_000).unwrap();
    source.resize(400_000, 0);
    from.punch_hole(65_536, 131_072).unwrap();
    source[65_536..196_608].fill(0);
    let reader = File::open(disk, from.path(), OpenMode::Read).unwrap();
    let file = create(disk, &directory.join("to"));
    let mut expected = pattern(9, 100_000);
    file.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
    let ranges = [
        (0, 0, 4_096),
        (65_536, 4_096, 65_536),
        (1, 511, 3_000),
        (200_000, 90_000, 200_000),
        (0, 0, 0),
        (400_000, 7, 0),
    ];
    for (from_offset, offset, length) in ranges {
        file.copy_from(offset as u64, &reader, from_offset as u64, length as u64)
            .unwrap();
        expected.resize(expected.len().max(offset + length), 0);
        expected[offset..offset + length].copy_from_slice(&source[from_offset..][..length]);
        assert_eq!(content(&file), expected, "{length} bytes at {from_offset}");
    }
    assert_eq!(content(&from), source);
    // What is shared is not tied: neither file follows the other.
    from.write_bytes(0, Buffer::copy_of(&[7; 4_096])).unwrap();
    file.write_bytes(4_096, Buffer::copy_of(&[8; 4_096]))
        .unwrap();
    expected[4_096..8_192].fill(8);
    source[..4_096].fill(7);
    assert_eq!((content(&file), content(&from)), (expected, source));
    // Within one file as well.
    from.copy_from(300_000, &from, 0, 4_096).unwrap();
    assert_eq!(*from.read_exact(300_000, 4_096).unwrap(), [7; 4_096]);
    file.sync().unwrap();
}

pub(super) fn a_copy_that_cannot_be_whole_is_refused(disk: &Arc<dyn Disk>, directory: &Path) {
    let from = create(disk, &directory.join("from"));
    from.write_bytes(0, Buffer::copy_of(&[1; 5_000])).unwrap();
    let file = create(disk, &directory.join("to"));
    file.write_bytes(0, Buffer::copy_of(b"kept")).unwrap();
    for (from_offset, length) in [(0, 5_001), (5_000, 1), (9_000, 1)] {
        let short = file.copy_from(0, &from, from_offset, length);
        assert_eq!(io_kind(short), ErrorKind::UnexpectedEof);
    }
    let (past, fits) = (u64::MAX, 2);
    assert!(file.copy_from(past, &from, 0, fits).is_err());
    assert!(file.copy_from(0, &from, past, fits).is_err());
    let reader = File::open(disk, file.path(), OpenMode::Read).unwrap();
    assert!(io_errno(reader.copy_from(0, &from, 0, 4)).is_some());
    assert_eq!(content(&file), b"kept");
}

pub(super) fn a_copy_is_finished_before_either_handle_closes(
    disk: &Arc<dyn Disk>,
    directory: &Path,
) {
    for closes_source in [false, true] {
        let from = create(disk, &directory.join(format!("from-{closes_source}")));
        let expected = pattern(10, 200_000);
        from.write_bytes(0, Buffer::copy_of(&expected)).unwrap();
        let path = directory.join(format!("to-{closes_source}"));
        let file = create(disk, &path);
        let token = disk.submit(Operation::Copy {
            from: from.id(),
            from_offset: 0,
            file: file.id(),
            offset: 0,
            length: expected.len() as u64,
        });
        let (first, second) = match closes_source {
            true => (from, file),
            false => (file, from),
        };
        drop(first);
        assert!(matches!(disk.wait(token), Ok(Output::Done)));
        drop(second);
        let found = File::open(disk, &path, OpenMode::Read).unwrap();
        assert_eq!(content(&found), expected);
    }
}
