//! What replay makes of frames that were in flight together when the power went, and of what their
//! order proves. Frames are placed by hand, so that each test says which of them reached the disk.

use std::sync::Arc;

use crate::damage_tests::{
    DIR, PAGE, append, change, create, cut_and_written_again, frame_at, open, record_of, segment,
    stamps,
};
use crate::disk::sim::SimDisk;
use crate::frame::{self, FrameHeader, FrameKind};
use crate::segment::SegmentHeader;
use crate::tests::{BLOCKS, contents};
use crate::walk::Link;
use crate::*;

/// Writes frames behind the end of a log, one record each.
pub(crate) struct Hand {
    pub(crate) sim: Arc<SimDisk>,
    link: Link,
    slot: u32,
    at: u64,
    generation: u64,
    /// The generation that a seal names.
    next_generation: u64,
    head: Lsn,
    incarnation: Incarnation,
}

impl Hand {
    /// Of a log that holds `stamps`, each acknowledged, with no mark behind them.
    pub(crate) fn behind(acknowledged: &[u8]) -> Hand {
        let sim = create(1 << 20);
        let (log, _) = open(&sim);
        append(&log, acknowledged);
        Hand::of(sim, &log)
    }

    fn of(sim: Arc<SimDisk>, log: &Log) -> Hand {
        log.stop();
        let incarnation = log.lineage().last().unwrap().incarnation;
        let mut state = log.state();
        let (link, head) = (state.link, state.frontiers.head);
        let active = state.active();
        let (at, generation) = (active.end, active.file.generation);
        drop(state);
        Hand {
            sim,
            link,
            slot: 0,
            at,
            generation,
            next_generation: 77,
            head,
            incarnation,
        }
    }

    /// Places one frame; gives its offset.
    fn place(&mut self, kind: FrameKind, after: Lsn, frontier: u64, stamp: Option<u8>) -> u64 {
        let record = stamp.map(|stamp| {
            let lba = Lba(u64::from(stamp) % BLOCKS);
            let change = Change {
                lba,
                ..change(stamp)
            };
            record_of(change, after.next(), self.incarnation)
        });
        let count = usize::from(record.is_some());
        let header = FrameHeader {
            kind,
            record_count: count,
            frame_bytes: frame::frame_bytes(count, count * 4096),
            log: contents().log,
            generation: self.generation,
            sequence: self.link.sequence,
            previous: self.link.previous,
            offset: self.at,
            frontier: Lsn::new(frontier),
            committed: Lsn::ZERO,
            timestamp_ns: 0,
            after,
            next_generation: match kind {
                FrameKind::Seal => self.next_generation,
                _ => 0,
            },
        };
        let headers: Vec<_> = record
            .iter()
            .map(|record| record.header().encode())
            .collect();
        let (page, digest) = header.encode(&headers);
        let mut bytes = page.to_vec();
        if let Some(record) = &record {
            bytes.extend_from_slice(record.payload());
        }
        self.sim
            .overwrite(&segment(self.slot), self.at, &bytes)
            .unwrap();
        self.link = Link {
            sequence: header.sequence + 1,
            previous: digest,
        };
        self.head = header.last();
        let at = self.at;
        self.at += header.frame_bytes as u64;
        at
    }

    pub(crate) fn record(&mut self, frontier: u64, stamp: u8) -> u64 {
        self.place(FrameKind::Records, self.head, frontier, Some(stamp))
    }

    /// Ends the segment.
    pub(crate) fn seal(&mut self) {
        let head = self.head;
        self.place(FrameKind::Seal, head, head.get(), None);
    }

    /// Ends the segment and goes on in the one that is prepared in `slot`.
    fn turn(&mut self, frontier: u64, slot: u32) {
        self.next_generation = generation(&self.sim, slot);
        self.place(FrameKind::Seal, self.head, frontier, None);
        (self.slot, self.at, self.generation) = (slot, PAGE, self.next_generation);
    }

    fn event(&mut self, kind: FrameKind, after: u64, frontier: u64) -> u64 {
        self.place(kind, Lsn::new(after), frontier, None)
    }

    fn break_header(&self, at: u64) {
        self.sim.flip(&segment(0), at + 90, 0xff).unwrap();
    }
}

/// What the header of a segment says.
fn generation(sim: &SimDisk, slot: u32) -> u64 {
    let page = sim.read_file(&segment(slot)).unwrap();
    SegmentHeader::decode(&page).unwrap().generation
}

/// What became of a frame in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Absent,
    HeaderTorn,
    PayloadTorn,
}

const FATES: [Fate; 4] = [
    Fate::Whole,
    Fate::Absent,
    Fate::HeaderTorn,
    Fate::PayloadTorn,
];

fn meet(hand: &Hand, at: u64, fate: Fate) {
    let bytes = usize::try_from(2 * PAGE).unwrap();
    match fate {
        Fate::Whole => {}
        Fate::Absent => hand
            .sim
            .overwrite(&segment(0), at, &vec![0; bytes])
            .unwrap(),
        Fate::HeaderTorn => hand.break_header(at),
        Fate::PayloadTorn => hand.sim.flip(&segment(0), at + PAGE + 600, 1).unwrap(),
    }
}

#[test]
fn whatever_became_of_frames_in_flight_the_whole_ones_in_front_are_kept_and_no_other() {
    // A240, D16: three frames in flight behind two acknowledged ones, every combination of fates.
    for combination in 0..64_usize {
        let fates = [0, 2, 4].map(|shift| FATES[combination >> shift & 3]);
        let mut hand = Hand::behind(&[1, 2]);
        let places = [3, 4, 5].map(|stamp| hand.record(2, stamp));
        for (at, fate) in places.into_iter().zip(fates) {
            meet(&hand, at, fate);
        }
        let whole = fates
            .iter()
            .take_while(|fate| **fate == Fate::Whole)
            .count();
        let mut expected: Vec<u8> = (1..=2 + u8::try_from(whole).unwrap()).collect();
        let (log, report) = open(&hand.sim);
        let rest = &fates[whole..];
        // A broken header behind space that was never written to says nothing.
        let torn = rest
            .iter()
            .any(|fate| matches!(fate, Fate::Whole | Fate::PayloadTorn))
            || rest.first() == Some(&Fate::HeaderTorn);
        match &report.end {
            ScanEnd::Torn { at, bytes } => {
                assert!(torn, "{fates:?}");
                assert_eq!(at.offset, frame_at(expected.len() as u64), "{fates:?}");
                assert!(*bytes >= PAGE, "{fates:?}: {bytes} bytes are cut");
            }
            ScanEnd::Clean => assert!(!torn, "{fates:?}"),
            ScanEnd::Damaged(_) => panic!("{fates:?}: a crash was taken for damage"),
        }
        assert_eq!(
            log.frontiers().head.get(),
            expected.len() as u64,
            "{fates:?}"
        );
        append(&log, &[90, 91, 92]);
        expected.extend([90, 91, 92]);
        log.stop();
        drop(log);
        for round in 0..3 {
            // However often it crashes afterwards.
            let crashed = hand.sim.crash(round);
            let (log, _) = open(&crashed);
            let head = log.frontiers().head.get();
            assert_eq!(stamps(&log, 0, head), expected, "{fates:?}");
            log.stop();
        }
        // Nor when the place of the cut is damaged: then it is known to be damage.
        hand.break_header(frame_at(2 + whole as u64));
        let (log, _) = open(&hand.sim);
        for (lsn, stamp) in (1_u64..).zip(&expected) {
            if let Ok(record) = log.read_record(Lsn::new(lsn)) {
                assert_eq!(record.payload()[0], *stamp, "{fates:?}: LSN {lsn}");
            }
        }
    }
}

#[test]
fn a_torn_tail_over_several_segments_is_in_no_life_of_them_before_the_next_append() {
    // A243, D16: 4 is torn in the first segment; 5 behind it, 6 in the second and 7 in the third
    // are whole, and no frontier covers any of them.
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3]);
    while log.step().unwrap() {}
    let second = log.prepare().unwrap().slot;
    let third = log.prepare().unwrap().slot;
    let mut hand = Hand::of(sim, &log);
    drop(log);
    let torn = hand.record(3, 4);
    hand.record(3, 5);
    hand.turn(3, second);
    hand.record(3, 6);
    hand.turn(3, third);
    hand.record(3, 7);
    hand.sim.flip(&segment(0), torn + PAGE + 600, 1).unwrap();
    let before = [0, second, third].map(|slot| generation(&hand.sim, slot));

    let (log, report) = open(&hand.sim);
    assert!(
        matches!(&report.end, ScanEnd::Torn { at, .. } if at.offset == torn),
        "{report:?}"
    );
    assert_eq!(log.frontiers().head, Lsn::new(3));
    // Nothing is appended yet. A power cut now leaves no frame of the tail that belongs to a life:
    // the segments that hold nothing else are in another one, and the first holds zeros there.
    let left = hand.sim.crash_lose_all();
    for (slot, before) in [second, third].into_iter().zip(&before[1..]) {
        assert!(generation(&left, slot) > *before, "slot {slot}");
    }
    let first = left.read_file(&segment(0)).unwrap();
    let mut blocks = first.chunks_exact(4096);
    assert!(!blocks.any(|block| block == [4; 4096] || block == [5; 4096]));
    // What is live in the first segment keeps it as it is; the next append is in another life.
    assert_eq!(generation(&left, 0), before[0]);
    append(&log, &[14]);
    let active = log.state().active().file.generation;
    assert!(before.iter().all(|before| active > *before), "{active}");
    append(&log, &[15, 16, 17]);
    log.stop();
    for choice in 0..8 {
        let (log, report) = open(&hand.sim.crash(choice));
        assert_eq!(report.end, ScanEnd::Clean);
        assert_eq!(stamps(&log, 0, 7), [1, 2, 3, 14, 15, 16, 17]);
    }
}

#[test]
fn bytes_of_a_half_frame_with_a_whole_header_are_reported_as_cut() {
    let mut hand = Hand::behind(&[1]);
    let first = hand.record(1, 2);
    hand.record(1, 3);
    meet(&hand, first, Fate::PayloadTorn);
    let (_, report) = open(&hand.sim);
    let ScanEnd::Torn { at, bytes } = report.end else {
        panic!("{report:?}")
    };
    assert_eq!((at.offset, bytes), (first, 4 * PAGE));
}

#[test]
fn a_frame_in_flight_proves_what_had_completed_before_it_was_written() {
    // 3 completed, then 5 was written with frontier 3 while 4 was under way. Without 4 that is a
    // crash; without 3 it is damage, because 3 may have been acknowledged (L5, D13).
    for (lost, damaged) in [(1, false), (0, true)] {
        let mut hand = Hand::behind(&[1, 2]);
        let places = [hand.record(2, 3), hand.record(2, 4), hand.record(3, 5)];
        meet(&hand, places[lost], Fate::Absent);
        let (log, report) = open(&hand.sim);
        assert_eq!(
            matches!(report.end, ScanEnd::Damaged(_)),
            damaged,
            "{report:?}"
        );
        assert_eq!(log.frontiers().durable, Lsn::new(3));
        assert_eq!(log.applied(), Lsn::new(if damaged { 2 } else { 3 }));
    }
}

#[test]
fn a_truncation_behind_a_hole_proves_that_what_it_kept_was_durable() {
    // Nothing is in flight while a truncation is written, so 3 and 4 had completed.
    let mut hand = Hand::behind(&[1, 2]);
    let lost = hand.record(2, 3);
    hand.record(2, 4);
    hand.event(FrameKind::Truncation, 3, 4);
    meet(&hand, lost, Fate::HeaderTorn);
    let (log, report) = open(&hand.sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!((loss.durable, loss.applied), (Lsn::new(3), Lsn::new(2)));
    assert!(log.read_record(Lsn::new(4)).is_err(), "it was truncated");
}

#[test]
fn a_seal_or_a_mark_behind_a_hole_proves_everything_before_it() {
    for kind in [FrameKind::Seal, FrameKind::Mark] {
        let mut hand = Hand::behind(&[1, 2]);
        let lost = hand.record(2, 3);
        hand.event(kind, 3, 3);
        meet(&hand, lost, Fate::Absent);
        let (log, report) = open(&hand.sim);
        let ScanEnd::Damaged(loss) = report.end else {
            panic!("{kind:?}: {report:?}")
        };
        assert_eq!((loss.durable, loss.applied), (Lsn::new(3), Lsn::new(2)));
        assert_eq!(loss.places.len(), 1);
        assert_eq!(loss.places[0].lsns, LsnRange::new(Lsn::new(2), Lsn::new(3)));
        assert_eq!(log.frontiers().durable, Lsn::new(3));
    }
}

#[test]
fn a_truncation_that_only_its_seal_tells_of_is_missed() {
    // L6: it was durable before the seal was written, so it is damage, and 2 does not return.
    let mut hand = Hand::behind(&[1, 2]);
    let lost = hand.event(FrameKind::Truncation, 1, 2);
    hand.event(FrameKind::Seal, 1, 1);
    hand.break_header(lost);
    let (log, report) = open(&hand.sim);
    assert!(matches!(report.end, ScanEnd::Damaged(_)), "{report:?}");
    assert_eq!(log.applied(), Lsn::new(1));
    assert!(log.read_record(Lsn::new(2)).is_err());
}

#[test]
fn records_that_the_lineage_contradicts_are_no_records() {
    // D2, D4: 3 and 4 were truncated and written again, and both the truncation and everything
    // behind it is lost. What meta says of LSN 3 is then all that tells.
    let sim = cut_and_written_again(false);
    let pages = |count: u64| vec![0; usize::try_from(count * PAGE).unwrap()];
    sim.overwrite(&segment(0), frame_at(4), &pages(2)).unwrap();
    sim.overwrite(&segment(1), PAGE, &pages(4)).unwrap();
    let (log, report) = open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!(loss.applied, Lsn::new(2));
    assert_eq!(stamps(&log, 0, 2), [1, 2]);
    assert!(log.read_record(Lsn::new(3)).is_err());
    assert!(log.read_record(Lsn::new(4)).is_err());
}

#[test]
fn an_island_that_the_lineage_contradicts_gives_no_records() {
    // As above, but the chain ends before the records that were truncated.
    let sim = cut_and_written_again(false);
    let pages = |count: u64| vec![0; usize::try_from(count * PAGE).unwrap()];
    sim.overwrite(&segment(0), frame_at(1), &pages(2)).unwrap();
    sim.overwrite(&segment(0), frame_at(4), &pages(2)).unwrap();
    sim.overwrite(&segment(1), PAGE, &pages(4)).unwrap();
    let (log, report) = open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!((loss.applied, loss.durable), (Lsn::new(1), Lsn::new(2)));
    assert!(log.read_record(Lsn::new(3)).is_err());
}

#[test]
fn a_record_that_the_lineage_contradicts_does_not_return_between_damaged_ones() {
    // D2, D4: 3, 4 and 5 were truncated and 3 was written again; that and the truncation is lost,
    // and of what was truncated only 4 can be read.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3, 4, 5]);
    log.truncate(Lsn::new(2)).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[13]);
    log.stop();
    drop(log);
    let pages = |count: u64| vec![0; usize::try_from(count * PAGE).unwrap()];
    sim.overwrite(&segment(0), frame_at(5), &pages(2)).unwrap();
    sim.overwrite(&segment(1), PAGE, &pages(4)).unwrap();
    for damaged in [2, 4] {
        sim.flip(&segment(0), frame_at(damaged) + PAGE, 1).unwrap();
    }
    let (log, report) = open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!(loss.applied, Lsn::new(2));
    assert_eq!(stamps(&log, 0, 2), [1, 2]);
    assert!(log.read_record(Lsn::new(4)).is_err());
}

#[test]
fn what_is_missing_between_the_tail_and_the_first_record_is_lost_and_not_reclaimed() {
    // D20: the oldest segment is gone and meta, which is sound, says that nothing was reclaimed.
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let second = log.segments()[1].clone();
    let first = second.lsns.unwrap().0;
    log.meta()
        .update(|meta| meta.first_generation = Some(second.generation))
        .unwrap();
    log.stop();
    drop(log);
    let (log, report) = open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!((loss.durable, loss.applied), (Lsn::new(7), Lsn::ZERO));
    assert_eq!(
        loss.places[0].lsns,
        LsnRange::new(Lsn::ZERO, first.before())
    );
    assert!(loss.places[0].hole);
    assert_eq!(log.first_retained(), Lsn::new(1));
    let all = LsnRange::new(Lsn::ZERO, Lsn::new(8));
    assert!(matches!(log.read(all), Err(Error::Hole { lsn }) if lsn == Lsn::new(1)));
    assert_eq!(
        stamps(&log, first.before().get(), 8),
        (u8::try_from(first.get()).unwrap()..=8).collect::<Vec<_>>()
    );
}

#[test]
fn a_log_of_one_empty_segment_goes_on_behind_its_tail() {
    // Everything was reclaimed right behind a rotation; the segment that is left has no frame.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3]);
    log.rotate().unwrap();
    log.commit(Lsn::new(3)).unwrap();
    log.set_checkpoint(Lsn::new(3));
    log.reclaim(Lsn::new(3)).unwrap();
    log.stop();
    drop(log);
    let disk: Arc<dyn crate::disk::Disk> = sim.clone();
    let dir = std::path::Path::new(DIR);
    let meta = Arc::new(Meta::open(&disk, dir, true).unwrap());
    let clock = SystemClock::new();
    let mode = LogMode::Writable;
    let (log, report) = Log::open(&disk, dir, &meta, &clock, mode, Lsn::new(3)).unwrap();
    assert_eq!(report.end, ScanEnd::Clean);
    assert_eq!(log.frontiers().head, Lsn::new(3));
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[4]);
    assert_eq!(stamps(&log, 3, 4), [4]);
}
