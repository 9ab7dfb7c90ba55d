//! What answers of the kernel mean, one by one.

use std::io::ErrorKind;
use std::sync::Arc;

use super::*;
use crate::disk::OpenMode;
use crate::disk::file::open::Open;

fn write_of(buffers: Vec<Bytes>, offset: u64, direct: bool) -> Write {
    let scratch = tempfile::tempdir().unwrap();
    let open = Open::new(&scratch.path().join("a"), OpenMode::CreateNew, false).unwrap();
    let mut write = Write::new(&open, offset, buffers, false);
    write.direct = direct;
    write
}

fn some_write(direct: bool) -> Work {
    Work::Write(write_of(
        vec![Arc::new(Buffer::copy_of(b"bytes"))],
        0,
        direct,
    ))
}

#[test]
fn short_completions_go_on_where_they_stopped() {
    let parts: [&[u8]; 4] = [b"one", b"", b"three", b"six"];
    let buffers: Vec<Bytes> = parts.map(|part| Arc::new(Buffer::copy_of(part))).into();
    for step in 1..=11usize {
        let mut work = Work::Write(write_of(buffers.clone(), 100, true));
        let mut taken = Vec::new();
        loop {
            let Work::Write(write) = &work else {
                panic!("not a write");
            };
            assert_eq!(write.offset, 100 + taken.len() as u64);
            assert_eq!(write.direct, taken.is_empty(), "the rest may be unaligned");
            let slices = write.slices[write.first..].iter();
            let left: Vec<u8> = slices.flat_map(|slice| slice.iter().copied()).collect();
            let count = step.min(left.len());
            taken.extend_from_slice(&left[..count]);
            match work.advance(i32::try_from(count).unwrap()) {
                Next::Again => {}
                Next::Finished => break,
                Next::Failed(error) => panic!("{error}"),
            }
        }
        assert_eq!(taken, b"onethreesix", "L-W6, {step} bytes a time");
    }
}

#[test]
fn errors_of_the_kernel_reach_the_caller_and_nothing_is_retried() {
    let errno = |next| match next {
        Next::Failed(error) => error.raw_os_error(),
        other => panic!("{other:?}"),
    };
    for code in [5, 28] {
        assert_eq!(errno(some_write(true).advance(-code)), Some(code));
        assert_eq!(errno(Work::Sync.advance(-code)), Some(code));
    }
    assert!(matches!(
        some_write(true).advance(0),
        Next::Failed(error) if error.kind() == ErrorKind::WriteZero
    ));
    let mut read = Work::Read {
        offset: 0,
        buffer: Buffer::zeroed(10),
        filled: 0,
    };
    assert!(matches!(read.advance(4), Next::Again));
    assert!(matches!(read.advance(0), Next::Finished));
    assert!(matches!(read.output(), Ok(Output::Read { filled: 4, .. })));
}

#[test]
fn what_was_cancelled_before_it_began_begins_again_unless_it_is_a_sync() {
    let cancelled = -Errno::CANCELED.raw_os_error();
    assert!(matches!(some_write(true).advance(cancelled), Next::Again));
    let mut read = Work::Read {
        offset: 0,
        buffer: Buffer::zeroed(1),
        filled: 0,
    };
    assert!(matches!(read.advance(cancelled), Next::Again));
    assert!(
        matches!(Work::Sync.advance(cancelled), Next::Failed(_)),
        "L3"
    );
}

#[test]
fn a_direct_write_that_is_refused_for_its_alignment_goes_through_the_page_cache_once() {
    let invalid = -Errno::INVAL.raw_os_error();
    let mut work = some_write(true);
    assert!(matches!(work.advance(invalid), Next::Again));
    assert!(matches!(&work, Work::Write(write) if !write.direct));
    assert!(matches!(work.advance(invalid), Next::Failed(_)));
}
