//! The acceptance list as far as the log alone answers it; names begin with the number in
//! tests/BEHAVIOUR.md.

use std::path::Path;
use std::sync::Arc;

use crate::damage_tests::{DIR, PAGE, append, change, create, frame_at, open, segment, stamps};
use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::tests::contents;
use crate::*;

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(Lsn::new(after), Lsn::new(through))
}

/// A log that holds 1 to `head`, in few frames.
fn log_of(head: u64) -> (Arc<SimDisk>, Arc<Log>) {
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    let stamp = |lsn: u64| u8::try_from(lsn % 251).unwrap();
    let changes = (1..=head).map(|lsn| change(stamp(lsn))).collect();
    drop(log.append(changes).unwrap());
    log.sync().unwrap();
    (sim, log)
}

fn reclaimed(head: u64, tail: u64) -> Arc<Log> {
    let (_, log) = log_of(head);
    log.commit(Lsn::new(head)).unwrap();
    log.set_checkpoint(Lsn::new(tail));
    log.reclaim(Lsn::new(tail)).unwrap();
    log
}

fn received(log: &Log, lsn: u64) -> Record {
    let change = change(9);
    let entry = log.lineage().last().unwrap();
    let header = RecordHeader {
        kind: change.kind,
        no_hole: false,
        block_size: BlockSize::DEFAULT,
        volume: contents().volume,
        epoch: entry.epoch,
        incarnation: entry.incarnation,
        lsn: Lsn::new(lsn),
        lba: change.lba,
        blocks: change.blocks,
        sum: 0,
    };
    Record::seal(header, change.payload)
}

/// One frame a record, LSN 4 absent: 1, 2, 3, 5, 6.
fn with_a_hole_at_4() -> Arc<Log> {
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3, 4, 5, 6]);
    log.close().unwrap();
    drop(log);
    let frame = vec![0; usize::try_from(2 * PAGE).unwrap()];
    sim.overwrite(&segment(0), frame_at(3), &frame).unwrap();
    open(&sim).0
}

#[test]
fn a001_commit_moves_committed_to_what_is_durable() {
    let (_, log) = log_of(2);
    log.commit(Lsn::new(2)).unwrap();
    assert_eq!(log.frontiers().head, Lsn::new(2));
    assert_eq!(log.frontiers().committed, Lsn::new(2));
}

#[test]
fn a002_a003_a_record_at_or_below_the_head_is_refused() {
    let (_, log) = log_of(5);
    for lsn in [3, 5, 7] {
        let refused = log.append_received(vec![received(&log, lsn)]);
        let named = matches!(&refused, Err(Error::NotNext { found, head })
            if (found.get(), head.get()) == (lsn, 5));
        assert!(named, "{refused:?}");
    }
    assert_eq!(log.frontiers().head, Lsn::new(5));
}

#[test]
fn a004_a_commit_beyond_the_head_is_refused_and_changes_nothing() {
    let (_, log) = log_of(5);
    let refused = log.commit(Lsn::new(10));
    assert!(matches!(refused, Err(Error::Chain { .. })), "{refused:?}");
    assert_eq!(log.frontiers().committed, Lsn::ZERO);
}

#[test]
fn a005_a_lower_commit_succeeds_and_changes_nothing() {
    let (_, log) = log_of(10);
    log.commit(Lsn::new(7)).unwrap();
    log.commit(Lsn::new(3)).unwrap();
    assert_eq!(log.frontiers().committed, Lsn::new(7));
}

#[test]
fn a012_a_range_beyond_the_head_is_not_recoverable() {
    let (_, log) = log_of(50);
    let head = Lsn::new(50);
    assert_eq!(log.prove(range(0, 100)), Err(Gap::BeyondHead { head }));
    assert_eq!(log.prove(range(50, 50)), Ok(()));
    assert_eq!(log.prove(range(60, 40)), Ok(()), "vacuously");
}

#[test]
fn a013_a014_a_range_is_recoverable_only_without_the_hole() {
    let log = with_a_hole_at_4();
    let hole = Err(Gap::Hole { lsn: Lsn::new(4) });
    assert_eq!(log.prove(range(0, 6)), hole);
    assert_eq!(log.prove(range(0, 3)), Ok(()));
    assert_eq!(log.prove(range(0, 4)), hole);
    assert_eq!(log.prove(range(3, 5)), hole);
    assert_eq!(
        log.prove(range(4, 6)),
        Ok(()),
        "a hole in front of it is no matter"
    );
    assert_eq!(stamps(&log, 4, 6), [5, 6]);
}

#[test]
fn a020_a021_a022_what_the_tail_leaves_is_recoverable_and_no_more() {
    for (tail, after, holds) in [
        (30, 50, true),
        (60, 50, false),
        (50, 50, true),
        (50, 49, false),
    ] {
        let log = reclaimed(100, tail);
        let tail = Lsn::new(tail);
        let expected = match holds {
            true => Ok(()),
            false => Err(Gap::Reclaimed { tail }),
        };
        assert_eq!(log.prove(range(after, 100)), expected, "tail {tail}");
        match log.read(range(after, 100)) {
            Ok(records) => assert_eq!(records.count() as u64, 100 - after),
            Err(error) => assert!(matches!(error, Error::Reclaimed { .. }), "{error}"),
        }
    }
}

#[test]
fn a031_a_read_across_a_hole_is_an_error_that_names_it() {
    let log = with_a_hole_at_4();
    let refused = log.read(range(2, 6));
    assert!(matches!(refused, Err(Error::Hole { lsn }) if lsn == Lsn::new(4)));
}

#[test]
fn a032_a_log_that_begins_at_5_does_not_give_what_comes_before() {
    // Installed with a base at 4: nothing was ever reclaimed here (D12, D20).
    let sim = create(1 << 20);
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(&disk, dir, true).unwrap());
    meta.update(|meta| (meta.origin, meta.tail) = (Lsn::new(4), Lsn::new(4)))
        .unwrap();
    let (clock, mode) = (SystemClock::new(), LogMode::Writable);
    let (log, _) = Log::open(&disk, dir, &meta, &clock, mode, Lsn::new(4)).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[5, 6, 7, 8, 9, 10]);
    assert_eq!(log.first_retained(), Lsn::new(5));
    assert_eq!(
        log.prove(range(0, 10)),
        Err(Gap::Reclaimed { tail: Lsn::new(4) })
    );
    assert_eq!(stamps(&log, 4, 10), [5, 6, 7, 8, 9, 10]);
}

#[test]
fn a244_an_acknowledged_epoch_survives_the_loss_of_either_copy_of_meta() {
    for copy in 0..2 {
        let (sim, log) = log_of(3);
        log.start_incarnation(Epoch::new(7)).unwrap();
        log.stop();
        drop(log);
        let path = Path::new(DIR).join("meta");
        sim.overwrite(&path, copy * (64 << 10), &[0x5a; 4096])
            .unwrap();
        let disk: Arc<dyn Disk> = sim.crash_lose_all();
        let meta = Meta::open(&disk, Path::new(DIR), true).unwrap();
        assert_eq!(meta.get().epoch, Epoch::new(7), "copy {copy}");
    }
}

#[test]
fn a250_a_sealed_segment_that_cannot_be_read_answers_with_the_record() {
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3, 4, 5, 6, 7, 8]);
    while log.step().unwrap() {}
    let at = frame_at(2) + PAGE;
    sim.set_unreadable(&segment(0), at..at + 512).unwrap();
    let found = log.prove_full(range(0, 8));
    let named = matches!(&found, Err(Error::Corrupt(at))
        if at.lsn == Some(Lsn::new(3)) && at.what == Damage::Unreadable);
    assert!(named, "{found:?}");
    assert_eq!(
        log.prove(range(0, 8)),
        Err(Gap::Corrupt { lsn: Lsn::new(3) })
    );
    assert_eq!(stamps(&log, 3, 8), [4, 5, 6, 7, 8]);
}
