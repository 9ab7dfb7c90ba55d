//! What replay makes of damage and of crashes that meet each other: each test is a way to lose what
//! was acknowledged, or to return what was dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::sim::{Effect, Fault, SimDisk};
use crate::disk::{self, Buffer, Disk};
use crate::draft::Drafted;
use crate::flight::Phase;
use crate::handles::Handles;
use crate::index::{self, Entry, Scanned};
use crate::log::DIR_NAME;
use crate::segment::SegmentFile;
use crate::tests::contents;
use crate::*;

pub(crate) const DIR: &str = "/volume";
pub(crate) const PAGE: u64 = 4096;

pub(crate) fn create(segment_bytes: u64) -> Arc<SimDisk> {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR);
    disk::make_dir(disk.as_ref(), dir).unwrap();
    disk::make_dir(disk.as_ref(), &dir.join(DIR_NAME)).unwrap();
    disk::sync_dir(disk.as_ref(), dir).unwrap();
    disk::sync_dir(disk.as_ref(), Path::new("/")).unwrap();
    let mut contents = contents();
    contents.geometry.segment_bytes = segment_bytes;
    Meta::create(&disk, dir, contents).unwrap();
    sim
}

pub(crate) fn open(sim: &Arc<SimDisk>) -> (Arc<Log>, ReplayReport) {
    let (log, report) = open_replica(sim);
    if log.check_writable().is_ok() {
        log.start_incarnation(Epoch::new(1)).unwrap();
    }
    (log, report)
}

/// A log that nobody writes but by what a primary sent.
pub(crate) fn open_replica(sim: &Arc<SimDisk>) -> (Arc<Log>, ReplayReport) {
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(&disk, dir, true).unwrap());
    let clock = SystemClock::new();
    Log::open(&disk, dir, &meta, &clock, LogMode::Writable, Lsn::ZERO).unwrap()
}

pub(crate) fn change(stamp: u8) -> Change {
    let payload = Buffer::copy_of(&[stamp; 4096]);
    Change::write(Lba(0), BlockSize::DEFAULT, payload)
}

/// A record of epoch 1 that holds a change.
pub(crate) fn record_of(change: Change, lsn: Lsn, incarnation: Incarnation) -> Record {
    let header = RecordHeader {
        kind: change.kind,
        no_hole: false,
        block_size: BlockSize::DEFAULT,
        volume: contents().volume,
        epoch: Epoch::new(1),
        incarnation,
        lsn,
        lba: change.lba,
        blocks: change.blocks,
        sum: 0,
    };
    Record::seal(header, change.payload)
}

/// One frame of one record for each stamp, synced.
pub(crate) fn append(log: &Arc<Log>, stamps: &[u8]) {
    for stamp in stamps {
        log.append(vec![change(*stamp)]).unwrap().wait().unwrap();
    }
}

/// A log of four records, cut behind the second, with another third one that is marked or not.
pub(crate) fn cut_and_written_again(marked: bool) -> Arc<SimDisk> {
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3, 4]);
    log.truncate(Lsn::new(2)).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[13]);
    if marked {
        log.mark().unwrap();
    }
    log.stop();
    sim
}

/// Writes what is queued in one frame whose completion nobody hears of before the power cut.
fn write_unheard(log: &Log) {
    let mut state = log.state();
    let goal = state.frontiers.head;
    let drafted = state.draft(&log.ids, 0, goal, usize::MAX, Phase::Claimed);
    drop(state);
    let Drafted::Frame(frame) = drafted else {
        panic!("a record is queued: {drafted:?}");
    };
    log.disk.run(crate::commit::write_of(frame, true)).unwrap();
}

pub(crate) fn stamps(log: &Arc<Log>, after: u64, through: u64) -> Vec<u8> {
    let range = LsnRange::new(Lsn::new(after), Lsn::new(through));
    let records = log.read(range).unwrap();
    records.map(|record| record.unwrap().payload()[0]).collect()
}

pub(crate) fn segment(slot: u32) -> PathBuf {
    Path::new(DIR)
        .join(DIR_NAME)
        .join(crate::segment::file_name(slot))
}

/// Offset of the frame of `number`, from 0, in a segment of frames with one record each.
pub(crate) fn frame_at(number: u64) -> u64 {
    PAGE + number * 2 * PAGE
}

fn generations(log: &Log) -> Vec<u64> {
    let live = log.segments().into_iter();
    live.filter(|segment| segment.state != SegmentState::Free)
        .map(|segment| segment.generation)
        .collect()
}

#[test]
fn generations_rise_along_the_chain_when_a_background_preparation_is_overtaken() {
    // W8: the background takes a generation, an append in a hurry takes the next one and uses it
    // first. Replay looks for evidence in later generations only, so the order must hold.
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    let slow = log.prepare().unwrap();
    log.rotate().unwrap();
    log.state().ready.push(slow);
    append(&log, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let found = generations(&log);
    assert!(found.len() > 2, "{found:?}");
    assert!(found.is_sorted(), "{found:?}");
}

#[test]
fn committed_in_the_middle_of_a_damaged_frame_is_never_cut() {
    // One frame of three records; a quorum committed the first two; the third rots.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    let all = vec![change(1), change(2), change(3)];
    log.append(all).unwrap().wait().unwrap();
    log.commit(Lsn::new(2)).unwrap();
    log.meta()
        .update(|meta| meta.committed = Lsn::new(2))
        .unwrap();
    log.stop();
    drop(log);
    sim.flip(&segment(0), 2 * PAGE + 2 * PAGE + 7, 1).unwrap();
    let (log, report) = open(&sim);
    assert!(matches!(report.end, ScanEnd::Damaged(_)), "{report:?}");
    assert_eq!(stamps(&log, 0, 2), [1, 2]);
}

#[test]
fn a_torn_record_behind_a_truncation_in_the_same_segment_is_cut() {
    // The truncation reached the disk and its seal did not, so appends go on behind it.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3]);
    sim.inject(
        Fault::at(IoOp::Write, Effect::ShortWrite(0))
            .on("0.seg")
            .after(1),
    );
    log.truncate(Lsn::new(1)).unwrap_err();
    log.stop();
    drop(log);
    sim.clear_faults();
    let (log, report) = open(&sim);
    assert_eq!(report.end, ScanEnd::Clean);
    assert_eq!(log.frontiers().head, Lsn::new(1));
    append(&log, &[4]);
    log.stop();
    drop(log);
    // Behind three frames and the truncation.
    sim.flip(&segment(0), frame_at(3) + PAGE + PAGE + 9, 1)
        .unwrap();
    let (log, report) = open(&sim);
    assert!(matches!(report.end, ScanEnd::Torn { .. }), "{report:?}");
    assert_eq!(log.frontiers().head, Lsn::new(1));
    assert_eq!(stamps(&log, 0, 1), [1]);
}

#[test]
fn what_was_cut_does_not_return_when_the_seal_at_the_cut_is_damaged() {
    // L2, D16: frames 1 to 4, the second torn by a power cut, the others whole behind it.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1]);
    for stamp in [2, 3, 4] {
        drop(log.append(vec![change(stamp)]).unwrap());
        write_unheard(&log);
    }
    drop(log);
    let sim = sim.crash_keep_all();
    sim.flip(&segment(0), frame_at(1), 0xff).unwrap();
    let (log, report) = open(&sim);
    assert!(matches!(report.end, ScanEnd::Torn { .. }), "{report:?}");
    append(&log, &[12, 13, 14]);
    log.stop();
    drop(log);
    sim.flip(&segment(0), frame_at(1), 0xff).unwrap();
    let (log, report) = open(&sim);
    assert!(matches!(report.end, ScanEnd::Damaged(_)), "{report:?}");
    for lsn in 2..=4_u64 {
        let range = LsnRange::new(Lsn::new(lsn - 1), Lsn::new(lsn));
        if let Ok(mut records) = log.read(range) {
            let found = records.next().unwrap().unwrap().payload()[0];
            assert_eq!(u64::from(found), lsn + 10, "LSN {lsn}");
        }
    }
}

#[test]
fn truncated_records_do_not_return_when_the_truncation_is_damaged() {
    // L6, D4: what follows the lost frame says that the history was cut.
    let sim = cut_and_written_again(true);
    sim.flip(&segment(0), frame_at(4), 0xff).unwrap();
    let (log, report) = open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!(loss.applied, Lsn::new(2));
    assert_eq!(stamps(&log, 0, 3), [1, 2, 13]);
    assert!(log.read_record(Lsn::new(4)).is_err());
}

#[test]
fn a_truncation_ends_the_incarnation_that_wrote() {
    // D2: LSN 2 of this incarnation had a content already.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2]);
    log.truncate(Lsn::new(1)).unwrap();
    let refused = log.append(vec![change(3)]);
    assert!(
        matches!(refused, Err(Error::ReadOnly { .. })),
        "{refused:?}"
    );
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[3]);
    assert_eq!(stamps(&log, 0, 2), [1, 3]);
}

#[test]
fn known_damage_goes_with_the_records_that_a_truncation_drops() {
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2]);
    sim.flip(&segment(0), frame_at(1) + PAGE, 1).unwrap();
    assert!(matches!(
        log.read_record(Lsn::new(2)),
        Err(Error::Corrupt(_))
    ));
    log.truncate(Lsn::new(1)).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[3]);
    assert_eq!(stamps(&log, 0, 2), [1, 3]);
}

#[test]
fn closing_a_poisoned_log_gives_the_cause() {
    // L3: a caller that closes instead of syncing must not take silence for durability.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    sim.inject(Fault::at(IoOp::Write, Effect::ShortWrite(700)).on(".seg"));
    let ticket = log.append(vec![change(1)]).unwrap();
    ticket.wait().unwrap_err();
    let closed = log.close();
    assert!(matches!(closed, Err(Error::Poisoned { .. })), "{closed:?}");
}

#[test]
fn an_unreadable_segment_header_does_not_keep_the_log_from_opening() {
    // L-T10: the first frame says whose life it is.
    let sim = create(1 << 20);
    let (log, _) = open(&sim);
    append(&log, &[1, 2]);
    log.stop();
    drop(log);
    sim.set_unreadable(&segment(0), 0..512).unwrap();
    let (log, _) = open(&sim);
    assert_eq!(stamps(&log, 0, 2), [1, 2]);
}

#[test]
fn an_index_that_begins_before_the_end_of_the_segment_before_it_costs_no_record() {
    // Its page of entries is damaged too, so that the segment itself is read; what of the range is
    // not there was never there.
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    append(&log, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    while log.step().unwrap() {}
    let second = log.segments()[1].clone();
    let (first, last) = second.lsns.unwrap();
    log.stop();
    drop(log);
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR).join(DIR_NAME);
    let file = SegmentFile::at_rest(&Handles::new(&disk), &dir, 1, second.generation);
    let log_id = contents().log;
    let (mut summary, sealed) = index::open(&file, log_id).unwrap();
    let all = LsnRange::new(first.before(), last);
    let mut entries = sealed.entries(all).unwrap();
    let before = Entry {
        lsn: first.before(),
        ..entries[0]
    };
    entries.insert(0, before);
    summary.after = summary.after.before();
    let scanned = Scanned { summary, entries };
    drop(index::write(&disk, &file, log_id, &scanned).unwrap());
    sim.flip(sealed.path(), PAGE + 40, 1).unwrap();
    let (log, _) = open(&sim);
    let whole = LsnRange::new(Lsn::ZERO, Lsn::new(11));
    assert_eq!(stamps(&log, 0, 11), (1..=11).collect::<Vec<u8>>());
    assert_eq!(log.known_damage(), []);
    log.prove_full(whole).unwrap();
}

#[test]
fn an_epoch_behind_which_nothing_can_be_counted_is_refused_and_the_log_opens_again() {
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    append(&log, &[1]);
    let last = Epoch::new(u64::MAX);
    assert!(matches!(
        log.start_incarnation(last),
        Err(Error::Corrupt(_))
    ));
    log.stop();
    drop(log);
    let (log, _) = open(&sim);
    assert_eq!(stamps(&log, 0, 1), [1]);
    log.start_incarnation(Epoch::new(u64::MAX - 1)).unwrap();
    append(&log, &[2]);
    log.stop();
    drop(log);
    let disk: Arc<dyn Disk> = sim.clone();
    assert!(Meta::open(&disk, Path::new(DIR), true).is_ok());
}
