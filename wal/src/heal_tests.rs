//! Lost records are put back, whatever the damage, and a crash on the way takes nothing.

use std::path::Path;
use std::sync::Arc;

use crate::damage_tests::{DIR, append, change, create, frame_at, open, segment, stamps};
use crate::disk::sim::SimDisk;
use crate::disk::{self, Disk};
use crate::log::DIR_NAME;
use crate::*;

const STAMPS: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];
const SEGMENT_BYTES: u64 = 48 << 10;

/// A log of nine records in three segments, closed, and its records as a peer holds them.
fn whole() -> (Arc<SimDisk>, Vec<Record>) {
    let sim = create(SEGMENT_BYTES);
    let (log, _) = open(&sim);
    append(&log, &STAMPS);
    while log.step().unwrap() {}
    let all = LsnRange::new(Lsn::ZERO, Lsn::new(9));
    let records = log.read(all).unwrap().map(Result::unwrap).collect();
    assert!(log.segments().len() >= 3);
    log.close().unwrap();
    (sim, records)
}

/// Takes the sealed indexes away: what the segments hold is then scanned at the open.
fn without_indexes(sim: &Arc<SimDisk>) {
    let disk: Arc<dyn Disk> = sim.clone();
    let indexes = sim.paths().into_iter();
    for path in indexes.filter(|path| path.extension().is_some_and(|ext| ext == "idx")) {
        disk::remove(disk.as_ref(), &path).unwrap();
    }
    disk::sync_dir(disk.as_ref(), &Path::new(DIR).join(DIR_NAME)).unwrap();
}

/// A name and what it does to the disk.
type Case = (&'static str, fn(&Arc<SimDisk>));

const CASES: [Case; 8] = [
    ("a payload", |sim| {
        sim.flip(&segment(0), frame_at(1) + 5000, 1).unwrap();
    }),
    ("a record header", |sim| {
        sim.flip(&segment(0), frame_at(1) + 140, 1).unwrap();
    }),
    ("two frames", |sim| {
        sim.overwrite(&segment(1), frame_at(1), &[0; 16384])
            .unwrap();
    }),
    ("the first frame and the header", |sim| {
        sim.overwrite(&segment(0), 0, &[0xff; 12288]).unwrap();
    }),
    ("a seal", |sim| {
        sim.overwrite(&segment(0), frame_at(5), &[7; 4096]).unwrap();
    }),
    ("the mark", |sim| {
        // The last frame of the last segment.
        let at = frame_at(4);
        sim.flip(&segment(1), at + 9, 0xff).unwrap();
    }),
    ("a whole segment", |sim| {
        let disk: Arc<dyn Disk> = sim.clone();
        disk::remove(disk.as_ref(), &segment(1)).unwrap();
        disk::sync_dir(disk.as_ref(), &Path::new(DIR).join(DIR_NAME)).unwrap();
    }),
    ("a sector that cannot be read", |sim| {
        let at = frame_at(2) + 4608;
        sim.set_unreadable(&segment(1), at..at + 512).unwrap();
    }),
];

fn given(log: &Log, records: &[Record]) -> Vec<Record> {
    let lost = log.lost();
    let wanted = |record: &&Record| lost.iter().any(|range| range.contains(record.lsn()));
    records.iter().filter(wanted).cloned().collect()
}

fn damaged(case: Case) -> (Arc<SimDisk>, Vec<Record>) {
    let (sim, records) = whole();
    without_indexes(&sim);
    case.1(&sim);
    (sim, records)
}

fn is_whole(sim: &Arc<SimDisk>, name: &str) {
    let (log, report) = open(sim);
    assert_eq!(report.end, ScanEnd::Clean, "{name}");
    assert_eq!(log.frontiers().durable, Lsn::new(9), "{name}");
    assert_eq!(stamps(&log, 0, 9), STAMPS, "{name}");
    append(&log, &[10]);
    log.stop();
    let (log, _) = open(&sim.crash_lose_all());
    assert_eq!(stamps(&log, 8, 10), [9, 10], "{name}");
}

#[test]
fn a_damaged_log_is_whole_and_writable_once_its_lost_records_are_put_back() {
    for case in CASES {
        let (sim, records) = damaged(case);
        let (log, report) = open(&sim);
        let ScanEnd::Damaged(loss) = report.end else {
            panic!("{}: {report:?}", case.0)
        };
        assert_eq!(loss.durable, Lsn::new(9), "{}", case.0);
        log.heal(given(&log, &records)).unwrap();
        assert!(log.check_writable().is_err(), "{}: reopen it", case.0);
        drop(log);
        is_whole(&sim.crash_lose_all(), case.0);
    }
}

#[test]
fn what_was_damaged_is_copied_aside_before_it_goes() {
    let (sim, records) = damaged(CASES[0]);
    let before = sim.read_file(&segment(0)).unwrap();
    let (log, _) = open(&sim);
    log.heal(given(&log, &records)).unwrap();
    let crashed = sim.crash_lose_all();
    let paths = crashed.paths();
    let kept = paths
        .iter()
        .filter(|path| path.extension().is_some_and(|ext| ext == "lost"));
    let kept: Vec<_> = kept.map(|path| crashed.read_file(path).unwrap()).collect();
    assert_eq!(kept, [before]);
}

#[test]
fn a_crash_at_any_change_of_a_heal_leaves_the_damaged_log_or_the_healed_one() {
    for case in [CASES[0], CASES[2], CASES[3], CASES[6]] {
        let (sim, records) = damaged(case);
        let (log, report) = open(&sim);
        let given = given(&log, &records);
        drop(log);
        let base = sim.crash_lose_all();
        let copy = base.crash_lose_all();
        let (log, _) = open(&copy);
        let before = copy.changes();
        log.heal(given.clone()).unwrap();
        let changes = copy.changes() - before;
        assert!(changes > 20, "{changes}");
        for boundary in 0..=changes {
            let copy = base.crash_lose_all();
            let (log, _) = open(&copy);
            copy.freeze_after_ops(copy.changes() + boundary);
            let done = log.heal(given.clone());
            drop(log);
            for crashed in [
                copy.crash_lose_all(),
                copy.crash_keep_all(),
                copy.crash(boundary),
            ] {
                let (log, again) = open(&crashed);
                if again.end == ScanEnd::Clean {
                    log.stop();
                    drop(log);
                    is_whole(&crashed, case.0);
                    continue;
                }
                assert!(
                    done.is_err(),
                    "{}: a heal was told and is not there",
                    case.0
                );
                assert_eq!(again.end, report.end, "{} at {boundary}", case.0);
                log.heal(given.clone()).unwrap();
                drop(log);
                is_whole(&crashed, case.0);
            }
        }
    }
}

#[test]
fn a_record_that_is_not_the_lost_one_is_refused_and_changes_nothing() {
    let forged = |lsn: u64, edit: fn(&mut RecordHeader)| {
        let (_, records) = whole();
        let lsn = usize::try_from(lsn).unwrap();
        let mut header = *records[lsn - 1].header();
        edit(&mut header);
        Record::seal(header, Arc::clone(records[lsn - 1].payload()))
    };
    let misfit = |result: Result<(), Error>, lsn: u64, why: Misfit| {
        let fits = matches!(&result, Err(Error::Misfit { lsn: at, why: found })
            if *at == Lsn::new(lsn) && *found == why);
        assert!(fits, "{result:?} in place of {why:?} at {lsn}");
    };
    let (sim, records) = damaged(CASES[0]);
    let report = open(&sim).1;
    let heal = |records: Vec<Record>| open(&sim).0.heal(records);
    misfit(heal(vec![]), 2, Misfit::NotGiven);
    misfit(heal(vec![records[2].clone()]), 2, Misfit::NotGiven);
    misfit(
        heal(vec![records[0].clone(), records[1].clone()]),
        1,
        Misfit::NotLost,
    );
    misfit(
        heal(vec![records[1].clone(), records[2].clone()]),
        3,
        Misfit::NotLost,
    );
    let other = forged(2, |header| header.incarnation = Incarnation::new(77));
    misfit(heal(vec![other]), 2, Misfit::Lineage);
    let elsewhere = forged(2, |header| header.lba = Lba(3));
    misfit(heal(vec![elsewhere]), 2, Misfit::Content);
    let foreign = heal(vec![forged(2, |header| header.volume = VolumeId([9; 16]))]);
    assert!(
        matches!(foreign, Err(Error::OtherVolume { .. })),
        "{foreign:?}"
    );
    assert_eq!(open(&sim).1.end, report.end, "it is as it was");
    heal(vec![records[1].clone()]).unwrap();
    is_whole(&sim, "after the refusals");
}

#[test]
fn a_log_that_was_opened_for_inspection_is_not_healed() {
    let (sim, records) = damaged(CASES[0]);
    let disk: Arc<dyn Disk> = sim.clone();
    let meta = Arc::new(Meta::open(&disk, Path::new(DIR), false).unwrap());
    let (clock, mode) = (SystemClock::new(), LogMode::ReadOnly);
    let (log, _) = Log::open(&disk, Path::new(DIR), &meta, &clock, mode, Lsn::ZERO).unwrap();
    let refused = log.heal(given(&log, &records));
    assert!(
        matches!(refused, Err(Error::ReadOnly { .. })),
        "{refused:?}"
    );
}

#[test]
fn damage_that_was_found_while_the_log_was_in_use_is_healed_too() {
    // A sealed segment is taken from its index, so only a read finds that its payload rotted.
    let (sim, records) = whole();
    sim.flip(&segment(0), frame_at(1) + 5000, 1).unwrap();
    let (log, report) = open(&sim);
    assert_eq!(report.end, ScanEnd::Clean);
    assert_eq!(log.lost(), []);
    log.read_record(Lsn::new(2)).unwrap_err();
    assert_eq!(log.lost(), [LsnRange::new(Lsn::new(1), Lsn::new(2))]);
    drop(log.append(vec![change(10)]).unwrap());
    log.heal(given(&log, &records)).unwrap();
    drop(log);
    let (log, report) = open(&sim.crash_lose_all());
    assert_eq!(report.end, ScanEnd::Clean);
    assert_eq!(stamps(&log, 0, 10), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    let full = log.prove_full(LsnRange::new(Lsn::ZERO, Lsn::new(10)));
    full.unwrap();
}
