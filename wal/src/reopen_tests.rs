//! What a log says behind a failed sync, and what the next process makes of what it left.

use std::path::Path;
use std::sync::Arc;

use crate::damage_tests::{DIR, append, change, create, frame_at, open, segment, stamps};
use crate::disk::Disk;
use crate::disk::sim::{Effect, Fault, SimDisk};
use crate::tests::Fixture;
use crate::*;

#[test]
fn a_reopen_after_a_failed_sync_believes_the_medium_and_not_the_page_cache() {
    // L-W1, L-W2: the kernel marks the pages of a failed sync clean. The next process syncs, which
    // succeeds and writes nothing, and reads frames that no device has ever seen; it acknowledges
    // more behind them, and the next power cut takes them all.
    for lost in 1..4 {
        let sim = SimDisk::with_syncs(5);
        let volume = Fixture::on(sim.clone());
        let (log, _) = volume.open();
        append(&log, &[1, 2, 3]);
        sim.inject(Fault::at(IoOp::Sync, Effect::LoseUnsynced).on(".seg"));
        let ticket = log.append((0..lost).map(|_| change(9)).collect());
        let waited = ticket.unwrap().wait();
        assert!(matches!(waited, Err(Error::Io { op: IoOp::Sync, .. })));
        drop((log, volume));

        let killed = sim.crash_keep_all();
        let (log, report) = open(&killed);
        assert_eq!(log.frontiers().head, Lsn::new(3), "{report:?}");
        append(&log, &[4, 5]);
        drop(log);
        let (log, report) = open(&killed.crash_lose_all());
        assert_eq!(stamps(&log, 0, 5), [1, 2, 3, 4, 5], "{report:?}");
    }
}

// Found by the simulator, seeds 10225 and 16162.
#[test]
fn a_segment_whose_preparation_only_the_page_cache_has_takes_no_frames_after_a_reopen() {
    // L-W1, L-W2, W8: header and size of the segment are in the page cache of the next process, and
    // what it appends there goes with them at the next power cut.
    let mut lost = 0;
    for skipped in 0..4 {
        let sim = create(48 << 10);
        let (log, _) = open(&sim);
        let fault = Fault::at(IoOp::Sync, Effect::LoseUnsynced);
        sim.inject(fault.on(".seg").after(skipped));
        let acknowledged = log.append(vec![change(1)]).and_then(Ticket::wait).is_ok();
        while log.step().unwrap_or(false) {}
        lost += usize::from(sim.faults_left() == 0);
        drop(log);

        let killed = sim.crash_keep_all();
        let (log, report) = open(&killed);
        let first = log.frontiers().head;
        assert!(!acknowledged || first == Lsn::new(1), "{report:?}");
        // Into the next segments, too.
        let more: Vec<u8> = (2..20).collect();
        append(&log, &more);
        drop(log);
        let (log, report) = open(&killed.crash_lose_all());
        let head = log.frontiers().head;
        assert_eq!(stamps(&log, first.get(), head.get()), more, "{report:?}");
    }
    assert!(lost > 0, "no preparation failed");
}

#[test]
fn a_frame_torn_in_its_padding_is_damage_for_ever() {
    // A frame without payload is whole in its first sector. What the others of its page held in an
    // earlier life of the segment stays behind a power cut, and nobody misses anything.
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    append(&log, &[1]);
    log.mark().unwrap();
    drop(log);
    let sim = sim.crash_keep_all();
    let mark_at = frame_at(1);
    sim.overwrite(&segment(0), mark_at + 512, &[7; 3584])
        .unwrap();
    let damage = |sim: &Arc<SimDisk>| {
        let disk: Arc<dyn Disk> = sim.clone();
        let mut damage = Vec::new();
        inspect_segment(&disk, &segment(0), &mut |found| {
            if let Inspected::Damage(corrupt) = found {
                damage.push(corrupt.offset);
            }
        })
        .unwrap();
        damage
    };
    assert_eq!(damage(&sim), [mark_at]);
    let (log, report) = open(&sim);
    assert_eq!(log.frontiers().durable, Lsn::new(1), "{report:?}");
    assert_eq!(damage(&sim), []);
    drop(log);
    assert_eq!(damage(&sim.crash_lose_all()), []);
}

#[test]
fn a_failed_log_tells_who_waits_for_what_was_durable_and_refuses_every_sync() {
    for with_syncs in [true, false] {
        let sim = match with_syncs {
            true => SimDisk::with_syncs(8),
            false => SimDisk::new(8),
        };
        let volume = Fixture::on(sim.clone());
        let (log, _) = volume.open();
        let kept = log.append(vec![change(1)]).unwrap();
        assert_eq!(log.sync().unwrap(), Lsn::new(1));
        sim.inject(Fault::at_any(Effect::FailErrno(5)).on(".seg"));
        // A mark holds no record: behind it everything that was appended is durable.
        let marked = log.mark();
        assert!(matches!(
            marked,
            Err(Error::Io { .. } | Error::Poisoned { .. })
        ));
        assert_eq!(log.frontiers().durable, log.frontiers().head);

        // W3: one LSN is a fact, the log as a whole is not.
        assert_eq!(log.sync_through(Lsn::new(1)).unwrap(), Lsn::new(1));
        assert_eq!(kept.wait().unwrap(), Lsn::new(1));
        assert!(matches!(log.sync(), Err(Error::Poisoned { .. })));
        assert!(matches!(
            log.append(vec![change(2)]),
            Err(Error::Poisoned { .. })
        ));
        assert_eq!(stamps(&log, 0, 1), [1]);
        assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn meta_after_a_failed_sync_says_what_the_medium_says() {
    let sim = SimDisk::new(6);
    drop(Fixture::on(sim.clone()));
    let disk: Arc<dyn Disk> = sim.clone();
    let meta = Meta::open(&disk, Path::new(DIR), true).unwrap();
    sim.inject(Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("meta"));
    let promoted = meta.update(|meta| meta.epoch = Epoch::new(7));
    assert!(matches!(promoted, Err(Error::Io { op: IoOp::Sync, .. })));
    drop((meta, disk));

    let killed: Arc<dyn Disk> = sim.crash_keep_all();
    let meta = Meta::open(&killed, Path::new(DIR), true).unwrap();
    assert_eq!(meta.get().epoch, Epoch::new(1));
}
