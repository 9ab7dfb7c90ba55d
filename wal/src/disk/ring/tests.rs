//! The ring against the contract and at its own edges.

use super::*;
use crate::disk::{Buffer, File, OpenMode, Output, contract};

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
            let best = crate::disk::open_backend(crate::disk::Choice::Auto).unwrap();
            assert_eq!(best.backend(), "direct");
            let reason = best
                .fallback()
                .expect("a reason for what was taken instead");
            assert!(reason.contains(&refusal.to_string()), "{reason}");
            println!("no ring here: {reason}");
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
