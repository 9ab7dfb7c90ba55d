//! What each kind of damage must come to: nothing acknowledged is ever lost without notice, and
//! nothing is ever read that was not written there. Each case builds a log of known records,
//! damages it, opens it and compares.

use std::path::Path;
use std::sync::Arc;

use crate::damage_tests::{DIR, PAGE, append, change, create, frame_at, segment};
use crate::disk::sim::SimDisk;
use crate::disk::{self, Disk};
use crate::flight_tests::Hand;
use crate::log::DIR_NAME;
use crate::segment::SegmentHeader;
use crate::tests::contents;
use crate::*;

const RECORDS: u8 = 12;

/// What an open came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// Nothing below this LSN is lost; what lies above it is cut or was never there.
    Exact { head: u64 },
    /// Read-only, with these LSNs `(after, through]` lost, whether absent, and whether their blocks
    /// are known.
    Report {
        durable: u64,
        applied: u64,
        lost: Vec<(u64, u64, bool, bool)>,
    },
    /// It does not open, and names this file.
    Refuse { file: String },
}

use Outcome::Exact;

fn report(durable: u64, lost: (u64, u64), absent: bool, known: bool) -> Outcome {
    Outcome::Report {
        durable,
        applied: lost.0,
        lost: vec![(lost.0, lost.1, absent, known)],
    }
}

fn try_open(sim: &Arc<SimDisk>) -> Result<(Arc<Log>, ReplayReport), Error> {
    let disk: Arc<dyn Disk> = sim.clone();
    let meta = Arc::new(Meta::open(&disk, Path::new(DIR), true)?);
    let (clock, mode) = (SystemClock::new(), LogMode::Writable);
    Log::open(&disk, Path::new(DIR), &meta, &clock, mode, Lsn::ZERO)
}

/// Opens a damaged log and checks what holds whatever the damage: every record reads as it was
/// written or with an error, and what is lost below the frontier is named.
fn outcome(sim: &Arc<SimDisk>, name: &str) -> Outcome {
    let (log, found) = match try_open(sim) {
        Ok(opened) => opened,
        Err(Error::Corrupt(at)) => {
            let file = at.path.file_name().unwrap().to_str().unwrap();
            return Outcome::Refuse { file: file.into() };
        }
        Err(other) => panic!("{name}: {other}"),
    };
    let head = log.frontiers().head;
    let named = |lsn: Lsn| match &found.end {
        ScanEnd::Damaged(loss) => loss.places.iter().any(|place| place.lsns.contains(lsn)),
        ScanEnd::Clean | ScanEnd::Torn { .. } => false,
    };
    for lsn in 1..=head.get() {
        match log.read_record(Lsn::new(lsn)) {
            Ok(record) => {
                let wrong = record
                    .payload()
                    .iter()
                    .find(|byte| u64::from(**byte) != lsn);
                assert_eq!(wrong, None, "{name}: LSN {lsn} has a content never written");
                assert!(!named(Lsn::new(lsn)), "{name}: LSN {lsn} is not lost");
            }
            Err(error) => assert!(named(Lsn::new(lsn)), "{name}: LSN {lsn}: {error}"),
        }
    }
    match found.end {
        ScanEnd::Clean | ScanEnd::Torn { .. } => {
            log.check_writable().unwrap();
            Exact { head: head.get() }
        }
        ScanEnd::Damaged(loss) => {
            log.check_writable().unwrap_err();
            assert_eq!(log.frontiers().durable, loss.durable, "{name}");
            let place = |place: &Loss| {
                let (after, through) = (place.lsns.after.get(), place.lsns.through.get());
                (after, through, place.hole, place.blocks.is_some())
            };
            Outcome::Report {
                durable: loss.durable.get(),
                applied: loss.applied.get(),
                lost: loss.places.iter().map(place).collect(),
            }
        }
    }
}

/// How the writer left the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Killed: each frame records what was durable before it, and no mark follows.
    Killed,
    /// Closed cleanly.
    Closed,
}

/// Twelve acknowledged records, one frame each, five frames to a segment, none with an index.
fn log_of(left: Left) -> Arc<SimDisk> {
    let sim = create(48 << 10);
    let (log, _) = crate::damage_tests::open(&sim);
    append(&log, &(1..=RECORDS).collect::<Vec<_>>());
    match left {
        Left::Killed => log.stop(),
        Left::Closed => log.close().unwrap(),
    }
    sim
}

fn remove(sim: &Arc<SimDisk>, path: &Path) {
    let disk: Arc<dyn Disk> = sim.clone();
    disk::remove(disk.as_ref(), path).unwrap();
    disk::sync_dir(disk.as_ref(), &Path::new(DIR).join(DIR_NAME)).unwrap();
}

fn noise(bytes: usize) -> Vec<u8> {
    let step = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        Some(state.to_le_bytes()[3])
    };
    std::iter::repeat_n((), bytes)
        .scan(88_172_645_463_325_252_u64, |state, ()| step(state))
        .collect()
}

fn copy(sim: &Arc<SimDisk>, from: (u32, u64), to: (u32, u64), pages: u64) {
    let bytes = sim.read_file(&segment(from.0)).unwrap();
    let start = usize::try_from(from.1).unwrap();
    let part = &bytes[start..start + usize::try_from(pages * PAGE).unwrap()];
    sim.overwrite(&segment(to.0), to.1, part).unwrap();
}

/// A name, how the log was left, the damage, and what it must come to.
type Case = (&'static str, Left, fn(&Arc<SimDisk>), Outcome);

/// Frame of record 12, the second of the third segment.
const LAST: u64 = PAGE + 2 * PAGE;
/// Behind it.
const END: u64 = LAST + 2 * PAGE;

fn cases() -> Vec<Case> {
    let whole = || Exact { head: 12 };
    let cut = || Exact { head: 11 };
    vec![
        (
            "last record cut short",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(2), LAST + PAGE + 2048, &[0; 2048])
                    .unwrap();
            },
            cut(),
        ),
        (
            "last frame without its header",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(2), LAST, &[0; 512]).unwrap();
            },
            cut(),
        ),
        (
            "tail of zeros",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(2), END, &[0; 16384]).unwrap();
            },
            whole(),
        ),
        (
            "tail of ones",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(2), END, &[0xff; 16384]).unwrap();
            },
            whole(),
        ),
        (
            "tail of noise",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(2), END, &noise(16384)).unwrap();
            },
            whole(),
        ),
        (
            "tail of old records at their own offset",
            Left::Killed,
            |sim| {
                copy(sim, (1, END), (2, END), 4);
            },
            whole(),
        ),
        (
            "tail of old records of this life",
            Left::Killed,
            |sim| {
                copy(sim, (2, PAGE), (2, END), 4);
            },
            whole(),
        ),
        (
            "payload bit below a frontier",
            Left::Killed,
            |sim| {
                sim.flip(&segment(0), frame_at(2) + PAGE + 9, 1).unwrap();
            },
            report(11, (2, 3), false, true),
        ),
        (
            "record header bit below a frontier",
            Left::Killed,
            |sim| {
                sim.flip(&segment(0), frame_at(2) + 140, 1).unwrap();
            },
            report(11, (2, 3), false, false),
        ),
        (
            "frame header bit below a frontier",
            Left::Killed,
            |sim| {
                sim.flip(&segment(1), frame_at(2) + 90, 1).unwrap();
            },
            report(11, (7, 8), false, false),
        ),
        (
            "length field",
            Left::Killed,
            |sim| {
                sim.flip(&segment(0), frame_at(2) + 17, 0x80).unwrap();
            },
            report(11, (2, 3), false, false),
        ),
        (
            "count field",
            Left::Killed,
            |sim| {
                sim.flip(&segment(0), frame_at(2) + 15, 0x7f).unwrap();
            },
            report(11, (2, 3), false, false),
        ),
        (
            "bit in the last window before any mark",
            Left::Killed,
            |sim| {
                sim.flip(&segment(2), LAST + PAGE, 1).unwrap();
            },
            cut(),
        ),
        (
            "the same bit behind a clean close",
            Left::Closed,
            |sim| {
                sim.flip(&segment(2), LAST + PAGE, 1).unwrap();
            },
            report(12, (11, 12), false, true),
        ),
        (
            "the mark of a clean close",
            Left::Closed,
            |sim| {
                sim.flip(&segment(2), END + 60, 1).unwrap();
            },
            report(12, (12, 12), false, false),
        ),
        (
            "segment header",
            Left::Closed,
            |sim| {
                sim.flip(&segment(1), 20, 1).unwrap();
            },
            whole(),
        ),
        (
            "header page zeroed",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(0), frame_at(2), &[0; 4096]).unwrap();
            },
            report(11, (2, 3), true, false),
        ),
        (
            "record absent between intact neighbours",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(0), frame_at(2), &[0; 8192]).unwrap();
            },
            report(11, (2, 3), true, false),
        ),
        (
            "payload page zeroed",
            Left::Killed,
            |sim| {
                sim.overwrite(&segment(0), frame_at(2) + PAGE, &[0; 4096])
                    .unwrap();
            },
            report(11, (2, 3), false, true),
        ),
        (
            "header page of an older life",
            Left::Killed,
            |sim| {
                copy(sim, (1, frame_at(2)), (0, frame_at(2)), 1);
            },
            report(11, (2, 3), true, false),
        ),
        (
            "old payload behind a new header",
            Left::Killed,
            |sim| {
                copy(sim, (1, frame_at(2) + PAGE), (0, frame_at(2) + PAGE), 1);
            },
            report(11, (2, 3), false, true),
        ),
        (
            "old payload behind a header never covered",
            Left::Killed,
            |sim| {
                copy(sim, (1, LAST + PAGE), (2, LAST + PAGE), 1);
            },
            cut(),
        ),
        (
            "middle segment missing",
            Left::Killed,
            |sim| {
                remove(sim, &segment(1));
            },
            report(11, (5, 10), true, false),
        ),
        (
            "middle segment of another log",
            Left::Killed,
            |sim| {
                let other = SegmentHeader {
                    volume: contents().volume,
                    log: LogId([9; 16]),
                    generation: 2,
                    segment_bytes: 48 << 10,
                };
                sim.overwrite(&segment(1), 0, &other.encode()).unwrap();
            },
            report(11, (5, 10), true, false),
        ),
        (
            "middle segment duplicated",
            Left::Killed,
            |sim| {
                let bytes = sim.read_file(&segment(1)).unwrap();
                let disk: Arc<dyn Disk> = sim.clone();
                let path = segment(9);
                let file = disk::File::open(&disk, &path, disk::OpenMode::CreateNew).unwrap();
                file.write_bytes(0, disk::Buffer::copy_of(&bytes)).unwrap();
                file.sync().unwrap();
            },
            Outcome::Refuse {
                file: "00000001.seg".into(),
            },
        ),
        (
            "payload sector that cannot be read",
            Left::Killed,
            |sim| {
                let at = frame_at(2) + PAGE + 512;
                sim.set_unreadable(&segment(0), at..at + 512).unwrap();
            },
            report(11, (2, 3), false, true),
        ),
        (
            "header sector that cannot be read",
            Left::Killed,
            |sim| {
                let at = frame_at(2);
                sim.set_unreadable(&segment(0), at..at + 512).unwrap();
            },
            report(11, (2, 3), false, false),
        ),
    ]
}

#[test]
fn every_kind_of_damage_comes_to_what_the_table_says() {
    for (name, left, damage, expected) in cases() {
        let sim = log_of(left);
        damage(&sim);
        assert_eq!(outcome(&sim, name), expected, "{name}");
        if let Outcome::Report { .. } = expected {
            // Nothing is cut, so a second open says the same.
            assert_eq!(outcome(&sim.crash_lose_all(), name), expected, "{name}");
        }
    }
}

#[test]
fn an_island_behind_a_hole_that_nobody_acknowledged_is_gone_for_ever() {
    let mut hand = Hand::behind(&[1, 2, 3]);
    let hole = hand.record(3, 4);
    hand.record(3, 55);
    hand.sim.overwrite(&segment(0), hole, &[0; 8192]).unwrap();
    assert_eq!(outcome(&hand.sim, "island"), Exact { head: 3 });
    let (log, _) = crate::damage_tests::open(&hand.sim);
    append(&log, &[4, 5, 6]);
    log.stop();
    for seed in 0..8 {
        let crashed = hand.sim.crash(seed);
        assert_eq!(outcome(&crashed, "behind the cut"), Exact { head: 6 });
    }
}

#[test]
fn behind_a_clean_close_every_bit_of_every_frame_is_reported() {
    // A239, D13: header bytes one by one, payload every 61st byte.
    let closed = log_of(Left::Closed);
    let frames = [
        (0, frame_at(0)),
        (0, frame_at(4)),
        (1, frame_at(2)),
        (2, LAST),
    ];
    for (slot, at) in frames {
        let headers = 0..192;
        let payload = (PAGE..2 * PAGE).step_by(61);
        for byte in headers.chain(payload) {
            let sim = closed.crash_lose_all();
            sim.flip(&segment(slot), at + byte, 1 << (byte % 8))
                .unwrap();
            let (_, report) = try_open(&sim).unwrap();
            let ScanEnd::Damaged(loss) = &report.end else {
                panic!("byte {byte} of the frame at {at} in {slot}: {report:?}")
            };
            assert_eq!(loss.durable, Lsn::new(12));
        }
    }
}

#[test]
fn damage_under_a_sealed_index_is_reported_with_the_first_read_that_meets_it() {
    // D15, A242: the open trusts the index; prove_full and every read name the record.
    let sim = create(48 << 10);
    let (log, _) = crate::damage_tests::open(&sim);
    append(&log, &(1..=RECORDS).collect::<Vec<_>>());
    while log.step().unwrap() {}
    log.close().unwrap();
    sim.flip(&segment(0), frame_at(1) + PAGE + 3, 4).unwrap();
    let (log, report) = try_open(&sim).unwrap();
    assert!(report.segments_indexed > 0);
    assert_eq!(report.end, ScanEnd::Clean);
    let all = LsnRange::new(Lsn::ZERO, Lsn::new(12));
    assert_eq!(log.prove(all), Ok(()));
    let found = log.prove_full(all);
    let named = matches!(&found, Err(Error::Corrupt(at)) if at.lsn == Some(Lsn::new(2)));
    assert!(named, "{found:?}");
    assert_eq!(log.prove(all), Err(Gap::Corrupt { lsn: Lsn::new(2) }));
    assert_eq!(
        log.known_damage(),
        [(LsnRange::new(Lsn::new(1), Lsn::new(2)), false)]
    );
}

#[test]
fn an_index_is_never_written_before_the_seal_that_it_describes_is_durable() {
    // W9, L-T7: a power cut that takes the seal must not leave an index that knows of it.
    let mut hand = Hand::behind(&[1, 2]);
    let disk: Arc<dyn Disk> = hand.sim.clone();
    let meta = Arc::new(Meta::open(&disk, Path::new(DIR), true).unwrap());
    let (clock, mode) = (SystemClock::new(), LogMode::Writable);
    let dir = Path::new(DIR);
    let (log, _) = Log::open(&disk, dir, &meta, &clock, mode, Lsn::ZERO).unwrap();
    // The seal is in the file, and whoever wrote it has not heard that it is durable.
    hand.seal();
    log.state().active().sealed = true;
    while log.step().unwrap() {}
    let indexes = hand.sim.paths().into_iter();
    let indexes: Vec<_> = indexes
        .filter(|path| path.extension().is_some_and(|e| e == "idx"))
        .collect();
    assert_eq!(indexes, Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_inspection_of_a_log_that_moved_on_since_meta_was_read_finds_no_damage() {
    // D24: the handle on meta is of before a truncation, new records under a new incarnation, and
    // the reuse of the oldest segment.
    let sim = create(48 << 10);
    let (log, _) = crate::damage_tests::open(&sim);
    append(&log, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR);
    let stale = Arc::new(Meta::open(&disk, dir, false).unwrap());
    log.truncate(Lsn::new(6)).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, &[17, 18]);
    let inspect = |checkpoint| {
        let (clock, mode) = (SystemClock::new(), LogMode::ReadOnly);
        Log::open(&disk, dir, &stale, &clock, mode, checkpoint).unwrap()
    };
    let (seen, report) = inspect(Lsn::ZERO);
    assert_eq!(report.end, ScanEnd::Clean);
    assert_eq!(seen.frontiers().head, Lsn::new(8));
    assert_eq!(seen.read_record(Lsn::new(7)).unwrap().payload()[0], 17);
    log.commit(Lsn::new(8)).unwrap();
    log.set_checkpoint(Lsn::new(8));
    log.reclaim(Lsn::new(8)).unwrap();
    drop(log.append(vec![change(9)]).unwrap());
    log.sync().unwrap();
    while log.step().unwrap() {}
    append(&log, &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
    let (seen, report) = inspect(Lsn::new(8));
    assert_eq!(report.end, ScanEnd::Clean);
    assert_eq!(seen.frontiers().tail, Lsn::new(8));
}
