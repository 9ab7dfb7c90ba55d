//! The ring against the contract and at its own edges.

use super::*;
use crate::disk::{File, OpenMode, contract};

/// A ring, or the proof that the refusal is told clearly: some machines forbid rings (L-U4).
fn ring() -> Option<Arc<RingDisk>> {
    match RingDisk::new() {
        Ok(ring) => Some(ring),
        Err(refusal) => {
            let forced = crate::disk::open_backend(crate::disk::Choice::Uring);
            let told = forced
                .expect_err("a ring that was refused before")
                .to_string();
            assert!(told.contains("io_uring"), "{told}");
            assert!(told.contains(&refusal.to_string()), "{told}");
            None
        }
    }
}

#[test]
fn ring_backend_keeps_the_contract_or_says_why_there_is_none() {
    if ring().is_none() {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut cases = 0;
    contract::contract(|| {
        cases += 1;
        let path = scratch.path().join(format!("case-{cases}"));
        let disk: Arc<dyn Disk> = RingDisk::new().unwrap();
        crate::disk::make_dir(disk.as_ref(), &path).unwrap();
        (disk, path)
    });
}

#[test]
fn more_operations_than_the_ring_holds_all_complete() {
    let Some(disk) = ring() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let shared: Arc<dyn Disk> = disk.clone();
    let file = File::open(&shared, &scratch.path().join("a"), OpenMode::CreateNew).unwrap();
    let count = 3 * IN_FLIGHT_MAX;
    let tokens: Vec<Token> = (0..count)
        .map(|slot| {
            let byte = u8::try_from(slot % 256).unwrap();
            disk.submit(Operation::Write {
                file: file.id(),
                offset: slot as u64 * 512,
                buffers: vec![Arc::new(Buffer::copy_of(&[byte; 512]))],
                durable: false,
            })
        })
        .collect();
    for token in tokens.into_iter().rev() {
        assert!(matches!(disk.wait(token), Ok(Output::Done)));
    }
    let bytes = file.read_exact(0, count * 512).unwrap();
    for (slot, sector) in bytes.chunks(512).enumerate() {
        assert_eq!(sector, [u8::try_from(slot % 256).unwrap(); 512]);
    }
}

#[test]
fn a_dropped_ring_waits_for_what_is_in_flight() {
    let Some(disk) = ring() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("a");
    let shared: Arc<dyn Disk> = disk.clone();
    let token = disk.submit(Operation::Open {
        path: path.clone(),
        mode: OpenMode::CreateNew,
        direct: false,
    });
    let Ok(Output::File(file)) = disk.wait(token) else {
        panic!("not opened");
    };
    for slot in 0..64 {
        disk.submit(Operation::Write {
            file,
            offset: slot * 65_536,
            buffers: vec![Arc::new(Buffer::copy_of(&[7; 65_536]))],
            durable: false,
        });
    }
    disk.submit(Operation::Sync { file });
    drop((disk, shared));
    let portable: Arc<dyn Disk> = FileDisk::new();
    let file = File::open(&portable, &path, OpenMode::Read).unwrap();
    let bytes = file.read_exact(0, 64 * 65_536).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 7), "L-U2");
}

#[test]
fn short_completions_go_on_where_they_stopped() {
    let parts: [&[u8]; 4] = [b"one", b"", b"three", b"six"];
    let buffers: Vec<Bytes> = parts.map(|part| Arc::new(Buffer::copy_of(part))).into();
    for step in 1..=11usize {
        let mut work = Work::write(100, buffers.clone(), false);
        let mut taken = Vec::new();
        loop {
            let Work::Write {
                offset,
                slices,
                first,
                ..
            } = &work
            else {
                panic!("not a write");
            };
            assert_eq!(*offset, 100 + taken.len() as u64);
            let left: Vec<u8> = slices[*first..]
                .iter()
                .flat_map(|s| s.iter().copied())
                .collect();
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
    let write = || Work::write(0, vec![Arc::new(Buffer::copy_of(b"bytes"))], false);
    let errno = |next| match next {
        Next::Failed(error) => error.raw_os_error(),
        other => panic!("{other:?}"),
    };
    for code in [5, 28, 125] {
        assert_eq!(errno(write().advance(-code)), Some(code));
        assert_eq!(errno(Work::Sync.advance(-code)), Some(code));
    }
    assert!(matches!(
        write().advance(0),
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
