//! The portable backend against the contract and at its own edges.

use super::FileDisk;
use crate::disk::{Disk, File, OpenMode, contract};
use std::sync::Arc;

fn keeps_the_contract(make: impl Fn() -> Arc<FileDisk>) {
    let scratch = tempfile::tempdir().unwrap();
    let mut cases = 0;
    contract::contract(|| {
        cases += 1;
        let path = scratch.path().join(format!("case-{cases}"));
        std::fs::create_dir(&path).unwrap();
        (make(), path)
    });
}

#[test]
fn portable_backend_keeps_the_contract() {
    keeps_the_contract(FileDisk::new);
}

#[test]
fn direct_backend_keeps_the_contract_where_there_is_one() {
    if FileDisk::direct().is_some() {
        keeps_the_contract(|| FileDisk::direct().unwrap());
    }
}

#[test]
fn a_backend_taken_in_place_of_a_ring_says_why() {
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let disk = FileDisk::in_place_of_ring(&refused);
    let reason = disk.fallback().unwrap();
    assert!(reason.contains("io_uring"), "{reason}");
    assert!(reason.contains(&refused.to_string()), "{reason}");
    assert_eq!(FileDisk::new().fallback(), None);
    let names = [disk.backend(), FileDisk::new().backend()];
    let best = if cfg!(target_os = "linux") {
        "direct"
    } else {
        "portable"
    };
    assert_eq!(names, [best, "portable"]);
}

#[test]
fn a_closed_handle_frees_the_lock_even_while_a_child_holds_a_copy() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("lock");
    let portable = FileDisk::new();
    let disk: Arc<dyn Disk> = portable.clone();
    let first = File::open(&disk, &path, OpenMode::CreateNew).unwrap();
    first.lock().unwrap();
    let copy = portable.with_file(first.id(), std::fs::File::try_clone);
    let second = File::open(&disk, &path, OpenMode::ReadWrite).unwrap();
    drop(first);
    second.lock().unwrap();
    drop(copy.unwrap());
}

#[test]
fn a_mapped_file_shows_the_bytes_of_the_file() {
    let scratch = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = FileDisk::new();
    let path = scratch.path().join("sealed");
    let file = File::open(&disk, &path, OpenMode::CreateNew).unwrap();
    let pattern: Vec<u8> = (0..10_000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    file.write_bytes(0, crate::disk::Buffer::copy_of(&pattern))
        .unwrap();
    assert!(
        file.map(0, 10_001).is_none(),
        "a view past the end of the file"
    );
    assert!(file.map(0, 0).is_none());
    let map = file.map(0, 10_000).unwrap();
    assert_eq!(map.len(), 10_000);
    // False only where the system cannot be asked; then nobody may touch the bytes (D23).
    if map.populate(4_097..10_000) {
        assert_eq!(map.bytes(4_097..10_000).unwrap(), &pattern[4_097..]);
    }
    assert!(!map.populate(1..10_001));
    assert!(map.bytes(9_999..10_001).is_none());
    let part = file.map(4_096, 5_904).unwrap();
    if part.populate(0..5_904) {
        assert_eq!(part.bytes(0..5_904).unwrap(), &pattern[4_096..]);
    }
    assert!(file.map(4_096, 5_905).is_none());
}

#[test]
fn short_writes_of_every_size_are_continued_to_the_last_byte() {
    let parts: [&[u8]; 5] = [b"", b"one", b"", b"three", b"six"];
    let buffers = parts.map(|part| Arc::new(crate::disk::Buffer::copy_of(part)));
    for step in 1..=11 {
        let mut taken = Vec::new();
        let mut interrupted = false;
        let result = super::open::write_all_by(7, &buffers, |slices, offset| {
            assert_eq!(offset, 7 + taken.len() as u64, "L-W6");
            interrupted = !interrupted;
            if interrupted {
                return Err(super::ErrorKind::Interrupted.into());
            }
            let offered: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
            let count = step.min(offered.len());
            taken.extend_from_slice(&offered[..count]);
            Ok(count)
        });
        assert!(matches!(result, Ok(())));
        assert_eq!(taken, b"onethreesix", "{step} bytes a time");
    }
}

#[test]
fn a_hole_is_written_as_zeros_where_none_can_be_punched() {
    let scratch = tempfile::tempdir().unwrap();
    let disk = FileDisk::new();
    let path = scratch.path().join("a");
    let shared: Arc<dyn Disk> = disk.clone();
    let file = File::open(&shared, &path, OpenMode::CreateNew).unwrap();
    let size = 3 * super::open::ZEROS_BYTES;
    file.write_bytes(0, crate::disk::Buffer::copy_of(&vec![1; size]))
        .unwrap();
    let (start, end) = (100, size as u64 - 7);
    disk.with_open(file.id(), |open| open.write_zeros_piecewise(start, end))
        .unwrap();
    let bytes = file.read_exact(0, size).unwrap();
    let (before, rest) = bytes.split_at(100);
    let (hole, behind) = rest.split_at(size - 107);
    assert_eq!((before, behind), (&[1; 100][..], &[1; 7][..]));
    assert!(hole.iter().all(|byte| *byte == 0));
}

#[test]
fn a_write_that_stops_taking_bytes_fails() {
    let buffers = [Arc::new(crate::disk::Buffer::copy_of(b"bytes"))];
    let stuck = super::open::write_all_by(0, &buffers, |_, _| Ok(0)).unwrap_err();
    assert_eq!(stuck.kind(), super::ErrorKind::WriteZero);
    let mut calls = 0;
    let full = super::open::write_all_by(0, &buffers, |_, _| {
        calls += 1;
        if calls == 1 {
            Ok(2)
        } else {
            Err(super::ErrorKind::StorageFull.into())
        }
    });
    assert_eq!(full.unwrap_err().kind(), super::ErrorKind::StorageFull);
    assert_eq!(calls, 2, "nothing is retried after an error");
}

#[test]
fn vectored_writes_of_more_buffers_than_one_call_takes_arrive_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = FileDisk::new();
    let path = scratch.path().join("many");
    let file = File::open(&disk, &path, OpenMode::CreateNew).unwrap();
    let count = 3 * super::open::SLICES_MAX + 7;
    let buffers = (0..count)
        .map(|i| {
            Arc::new(crate::disk::Buffer::copy_of(
                &[u8::try_from(i % 256).unwrap(); 3],
            ))
        })
        .collect();
    file.write(5, buffers).unwrap();
    let bytes = file.read(5, 3 * count).unwrap();
    assert_eq!(bytes.len(), 3 * count);
    for (i, triple) in bytes.chunks(3).enumerate() {
        assert_eq!(triple, [u8::try_from(i % 256).unwrap(); 3]);
    }
}
