//! The ring against the contract and at its own edges.

use std::collections::BTreeMap;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::*;
use crate::disk::{Buffer, Choice, File, OpenMode, Output, contract, open_backend};
use crate::tests::{Fixture, append};
use crate::{Error, Lsn};

/// The number of `io_uring_setup` on every architecture.
const IO_URING_SETUP: i64 = 425;

/// Runs `work` in a thread that may set no ring up, as in many a container.
#[expect(
    clippy::disallowed_methods,
    reason = "what is forbidden to a thread stays so until it ends"
)]
fn without_rings(work: impl FnOnce() + Send) {
    let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
    let refused = SeccompAction::Errno(Errno::PERM.raw_os_error().unsigned_abs());
    let here = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, here).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    std::thread::scope(|scope| {
        let forbidden = move || {
            apply_filter(&filter).unwrap();
            work();
        };
        scope.spawn(forbidden).join().unwrap();
    });
}

#[test]
fn where_rings_are_forbidden_a_log_opens_on_the_next_best_backend_which_says_why() {
    without_rings(|| {
        let disk = open_backend(Choice::Auto).unwrap();
        assert_eq!(disk.backend(), "direct");
        let reason = disk.fallback().expect("a reason").to_owned();
        assert!(reason.contains("io_uring"), "{reason}");
        assert!(reason.contains("Operation not permitted"), "{reason}");
        let volume = Fixture::on_files_with(disk);
        let (log, _) = volume.open();
        append(&log, 3);
        assert_eq!(log.frontiers().durable, Lsn::new(3));
        assert_eq!(log.disk().fallback(), Some(reason.as_str()));
        log.close().unwrap();

        let forced = open_backend(Choice::Uring);
        let Err(Error::Backend { source, .. }) = forced else {
            panic!("{forced:?}");
        };
        assert_eq!(source.kind(), ErrorKind::PermissionDenied);
    });
}

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
