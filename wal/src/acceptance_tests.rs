//! The acceptance list as far as the log alone answers it; names begin with the number in
//! tests/BEHAVIOUR.md.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::damage_tests::{
    DIR, PAGE, append, change, create, frame_at, open, open_replica, record_of, segment, stamps,
};
use crate::disk::sim::SimDisk;
use crate::disk::{Buffer, Disk};
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
fn a006_a007_a008_a009_what_the_tail_passed_is_gone_and_the_rest_is_not() {
    let log = reclaimed(10, 5);
    assert_eq!(log.frontiers().tail, Lsn::new(5));
    assert_eq!(stamps(&log, 5, 10), [6, 7, 8, 9, 10]);
    let gone = log.read(range(0, 5)).map(drop);
    let named = matches!(&gone, Err(Error::Reclaimed { tail, .. }) if *tail == Lsn::new(5));
    assert!(named, "{gone:?}");
    for again in [5, 3] {
        assert_eq!(log.reclaim(Lsn::new(again)).unwrap(), Lsn::new(5));
    }
    assert_eq!(stamps(&log, 5, 10), [6, 7, 8, 9, 10]);
}

#[test]
fn a010_behind_a_truncation_no_record_is_left() {
    let (_, log) = log_of(10);
    log.commit(Lsn::new(7)).unwrap();
    log.truncate(Lsn::new(7)).unwrap();
    assert_eq!(log.frontiers().head, Lsn::new(7));
    assert_eq!(stamps(&log, 0, 7), [1, 2, 3, 4, 5, 6, 7]);
    let beyond = log.read(range(7, 10)).map(drop);
    assert!(
        matches!(&beyond, Err(Error::BeyondHead { .. })),
        "{beyond:?}"
    );
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
    let log = replica_at(4);
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
fn a033_the_tail_passes_neither_head_nor_committed_nor_the_base() {
    let (_, log) = log_of(5);
    log.commit(Lsn::new(4)).unwrap();
    log.set_checkpoint(Lsn::new(2));
    for beyond in [9, 5, 4, 3] {
        let refused = log.reclaim(Lsn::new(beyond));
        assert!(matches!(&refused, Err(Error::Chain { .. })), "{refused:?}");
    }
    assert_eq!(log.frontiers().tail, Lsn::ZERO);
    assert_eq!(stamps(&log, 0, 5), [1, 2, 3, 4, 5]);
}

#[test]
fn a034_no_truncation_reaches_below_the_tail_or_committed() {
    let (_, log) = log_of(10);
    log.commit(Lsn::new(8)).unwrap();
    log.set_checkpoint(Lsn::new(6));
    log.reclaim(Lsn::new(6)).unwrap();
    for after in [4, 7] {
        let refused = log.truncate(Lsn::new(after));
        assert!(matches!(&refused, Err(Error::Chain { .. })), "{refused:?}");
    }
    assert_eq!(stamps(&log, 6, 10), [7, 8, 9, 10]);
}

#[test]
fn a222_an_incarnation_without_a_record_leaves_no_entry_behind() {
    let (sim, log) = log_of(3);
    let held = log.lineage().entries().to_vec();
    log.close().unwrap();
    drop(log);
    let mut last = held.last().unwrap().incarnation;
    for _ in 0..3 {
        let (log, _) = open(&sim);
        log.close().unwrap();
        drop(log);
        let disk: Arc<dyn Disk> = sim.clone();
        let meta = Meta::open(&disk, Path::new(DIR), true).unwrap();
        let lineage = meta.get().lineage;
        let (idle, before) = lineage.entries().split_last().unwrap();
        assert_eq!(before, held);
        assert_eq!(idle.first, Lsn::new(4));
        assert!(idle.incarnation > last, "every open is another incarnation");
        last = idle.incarnation;
    }
}

/// Records of epoch 1, as a primary sent them; the stamps are the numbers from `stamp` on.
fn sent(lsns: std::ops::RangeInclusive<u64>, incarnation: u64, stamp: u8) -> Vec<Record> {
    let incarnation = Incarnation::new(incarnation);
    let numbered = lsns.map(Lsn::new).zip(stamp..);
    let records = numbered.map(|(lsn, stamp)| record_of(change(stamp), lsn, incarnation));
    records.collect()
}

#[test]
fn a226_what_a_truncation_dropped_never_reappears_wherever_it_crashes() {
    let before = create(128 << 10);
    let (log, _) = open_replica(&before);
    let all = log.append_received(sent(1..=105, 1, 1)).unwrap();
    assert_eq!(all.wait().unwrap(), Lsn::new(105));
    log.stop();
    drop(log);
    let old: Vec<u8> = (1..=105).collect();
    let (kept, new) = (&old[..100], [201, 202, 203]);
    let mut finished = false;
    for stop in 0.. {
        let sim = before.crash_lose_all();
        let (log, _) = open_replica(&sim);
        let generation = || log.state().active().file.generation;
        let first = generation();
        sim.freeze_after_ops(sim.changes() + stop);
        let truncated = log.truncate(Lsn::new(100)).is_ok();
        if truncated {
            assert_eq!(log.frontiers().head, Lsn::new(100));
            assert!(generation() > first, "D4: what follows is in another life");
            let gone = log.read(range(100, 101)).map(drop);
            let named = matches!(&gone, Err(Error::BeyondHead { head, .. })
                if *head == Lsn::new(100));
            assert!(named, "{gone:?}");
            // The primary's own 101 and on, of the same epoch.
            let again = log.append_received(sent(101..=103, 2, 201));
            finished = again.is_ok_and(|ticket| ticket.wait().is_ok());
        }
        let crashes = [
            sim.crash_lose_all(),
            sim.crash_keep_all(),
            sim.crash(stop),
            sim.crash(!stop),
        ];
        log.stop();
        for (crash, sim) in crashes.into_iter().enumerate() {
            let (log, _) = open_replica(&sim);
            let head = log.frontiers().head.get();
            let found = stamps(&log, 0, head);
            let story = format!("stop {stop}, crash {crash}, {truncated}, {finished}: {found:?}");
            if !truncated && found == old {
                continue;
            }
            assert_eq!(found[..100], *kept, "{story}");
            assert!(new.starts_with(&found[100..]), "{story}");
            assert!(!finished || found.len() == 103, "{story}");
        }
        if finished {
            break;
        }
    }
    assert!(finished);
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

/// What the blocks hold: a number for each block that was ever written.
type Blocks = BTreeMap<u64, u8>;

/// A write of one block, as a history lists it: the LSN is its place in the list, from 1.
type Write = (u64, u8);

/// Block contents after the first `through` writes of a history.
fn reference(history: &[Write], through: usize) -> Blocks {
    history[..through].iter().copied().collect()
}

/// Puts the records of `(after, through]` onto `blocks`, as a replay does.
fn replay(blocks: &mut Blocks, log: &Arc<Log>, after: u64, through: u64) {
    for record in log.read(range(after, through)).unwrap() {
        let record = record.unwrap();
        blocks.insert(record.header().lba.0, record.payload()[0]);
    }
}

/// Fifty-five writes over ten blocks, no two alike.
fn history() -> Vec<Write> {
    (1..=55)
        .map(|number| (u64::from(number) % 10, number))
        .collect()
}

fn write_all(log: &Arc<Log>, writes: &[Write]) {
    let write = |(block, value): &Write| {
        let payload = Buffer::copy_of(&[*value; 4096]);
        Change::write(Lba(*block), BlockSize::DEFAULT, payload)
    };
    drop(log.append(writes.iter().map(write).collect()).unwrap());
    log.sync().unwrap();
}

fn primary(history: &[Write]) -> Arc<Log> {
    let (log, _) = open(&create(1 << 20));
    write_all(&log, history);
    log
}

/// An empty log whose base holds everything through `base`; it belongs to a replica.
fn replica_at(base: u64) -> Arc<Log> {
    let disk: Arc<dyn Disk> = create(1 << 20);
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(&disk, dir, true).unwrap());
    let base = Lsn::new(base);
    meta.update(|meta| (meta.origin, meta.tail) = (base, base))
        .unwrap();
    let (clock, mode) = (SystemClock::new(), LogMode::Writable);
    Log::open(&disk, dir, &meta, &clock, mode, base).unwrap().0
}

/// Gives the records of `(after, through]` to another log, which makes them durable.
fn ship(from: &Arc<Log>, to: &Arc<Log>, after: u64, through: u64) {
    let records = from.read(range(after, through)).unwrap();
    let records = records.map(Result::unwrap).collect();
    let durable = to.append_received(records).unwrap().wait().unwrap();
    assert_eq!(durable, Lsn::new(through));
}

#[test]
fn a023_a_replica_that_took_the_missing_records_equals_its_primary() {
    let history = &history()[..50];
    let (primary, replica) = (primary(history), replica_at(0));
    ship(&primary, &replica, 0, 30);
    primary.commit(Lsn::new(50)).unwrap();
    primary.set_checkpoint(Lsn::new(10));
    primary.reclaim(Lsn::new(10)).unwrap();
    ship(&primary, &replica, 30, 50);
    let mut ours = reference(history, 10);
    replay(&mut ours, &primary, 10, 50);
    let mut theirs = Blocks::new();
    replay(&mut theirs, &replica, 0, 50);
    assert_eq!(ours, reference(history, 50));
    assert_eq!(theirs, ours);
    assert_eq!(replica.lineage(), primary.lineage());
}

#[test]
fn a025_a_promoted_replica_keeps_the_committed_state_and_nothing_behind_it() {
    let history = history();
    let (primary, replica) = (primary(&history), replica_at(0));
    primary.commit(Lsn::new(50)).unwrap();
    ship(&primary, &replica, 0, 50);
    let entry = replica.start_incarnation(Epoch::new(2)).unwrap();
    replica.commit(Lsn::new(50)).unwrap();
    assert_eq!((entry.epoch, entry.first), (Epoch::new(2), Lsn::new(51)));
    let frontiers = replica.frontiers();
    assert_eq!([frontiers.committed, frontiers.head], [Lsn::new(50); 2]);
    let beyond = replica.read(range(50, 51)).map(drop);
    let named = matches!(&beyond, Err(Error::BeyondHead { .. }));
    assert!(named, "{beyond:?}");
    let mut blocks = Blocks::new();
    replay(&mut blocks, &replica, 0, 50);
    assert_eq!(blocks, reference(&history, 50));
    // What it writes next is another history than 51..=55 of the old primary.
    write_all(&replica, &[(3, 99)]);
    let fork = primary.lineage();
    assert_ne!(
        replica.lineage().entry_at(Lsn::new(51)),
        fork.entry_at(Lsn::new(51))
    );
    assert_eq!(
        replica.lineage().entry_at(Lsn::new(50)),
        fork.entry_at(Lsn::new(50))
    );
}

#[test]
fn a027_blocks_that_were_not_written_keep_their_values() {
    let mut history: Vec<Write> = (1..=30).map(|number| (u64::from(number), number)).collect();
    history.extend((31..=50).map(|number| (u64::from(number) % 5, number)));
    let (primary, replica) = (primary(&history), replica_at(0));
    ship(&primary, &replica, 0, 30);
    let mut blocks = Blocks::new();
    replay(&mut blocks, &replica, 0, 30);
    ship(&primary, &replica, 30, 50);
    replay(&mut blocks, &replica, 30, 50);
    for block in 5..=30 {
        assert_eq!(u64::from(blocks[&block]), block, "block {block}");
    }
    assert_eq!(blocks, reference(&history, 50));
}

#[test]
fn a028_the_newest_contents_are_not_the_state_of_an_earlier_lsn() {
    let mut history: Vec<Write> = (1..=9).map(|number| (1, number)).collect();
    history.extend([(7, 10), (2, 11), (7, 12)]);
    let log = primary(&history);
    let (mut newest, mut at_10) = (Blocks::new(), Blocks::new());
    replay(&mut newest, &log, 0, 12);
    replay(&mut at_10, &log, 0, 10);
    assert_eq!(newest[&7], 12);
    assert_eq!(at_10, Blocks::from([(1, 9), (7, 10)]));
}

#[test]
fn a029_a_snapshot_and_the_records_behind_it_make_the_state() {
    let history = &history()[..13];
    let (primary, replica) = (primary(history), replica_at(11));
    let mut blocks = reference(history, 11);
    ship(&primary, &replica, 11, 13);
    assert_eq!(replica.first_retained(), Lsn::new(12));
    replay(&mut blocks, &replica, 11, 13);
    assert_eq!(blocks, reference(history, 13));
}
