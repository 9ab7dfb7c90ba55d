//! The log through its public face, on a real directory.
#![expect(
    clippy::disallowed_methods,
    reason = "tests damage files behind the engine's back and call it from many threads"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::damage_tests;
use crate::disk::{self, Buffer, Disk, FileDisk};
use crate::log::DIR_NAME;
use crate::*;

pub(crate) struct Fixture {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    _temp: Option<tempfile::TempDir>,
}

pub(crate) const BLOCKS: u64 = 4096;

pub(crate) fn contents() -> MetaContents {
    let geometry = Geometry {
        block_size: BlockSize::DEFAULT,
        blocks: BLOCKS,
        segment_bytes: 1 << 20,
    };
    MetaContents::of_new(VolumeId([1; 16]), LogId([2; 16]), geometry, Role::Primary)
}

impl Fixture {
    pub(crate) fn on_files() -> Fixture {
        Fixture::on_files_with(FileDisk::new())
    }

    pub(crate) fn on(disk: Arc<dyn Disk>) -> Fixture {
        Fixture::create(disk, "/volume".into(), None)
    }

    pub(crate) fn on_files_with(disk: Arc<dyn Disk>) -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        Fixture::create(disk, temp.path().join("volume"), Some(temp))
    }

    fn create(disk: Arc<dyn Disk>, dir: PathBuf, temp: Option<tempfile::TempDir>) -> Fixture {
        disk::make_dir(disk.as_ref(), &dir).unwrap();
        disk::make_dir(disk.as_ref(), &dir.join(DIR_NAME)).unwrap();
        disk::sync_dir(disk.as_ref(), &dir).unwrap();
        if let Some(parent) = dir.parent() {
            disk::sync_dir(disk.as_ref(), parent).unwrap();
        }
        Meta::create(&disk, &dir, contents()).unwrap();
        Fixture {
            disk,
            dir,
            _temp: temp,
        }
    }

    pub(crate) fn try_open(&self, mode: LogMode) -> Result<(Arc<Log>, ReplayReport), Error> {
        self.open_at(mode, Lsn::ZERO)
    }

    fn open_at(&self, mode: LogMode, checkpoint: Lsn) -> Result<(Arc<Log>, ReplayReport), Error> {
        let meta = Arc::new(Meta::open(
            &self.disk,
            &self.dir,
            mode == LogMode::Writable,
        )?);
        let clock = SystemClock::new();
        Log::open(&self.disk, &self.dir, &meta, &clock, mode, checkpoint)
    }

    pub(crate) fn open(&self) -> (Arc<Log>, ReplayReport) {
        let (log, report) = self.try_open(LogMode::Writable).unwrap();
        if log.check_writable().is_ok() {
            log.start_incarnation(Epoch::new(1)).unwrap();
        }
        (log, report)
    }

    fn segment(&self, slot: u32) -> PathBuf {
        self.dir
            .join(DIR_NAME)
            .join(crate::segment::file_name(slot))
    }
}

pub(crate) fn change(lsn: u64) -> Change {
    let fill = u8::try_from(lsn % 251).unwrap();
    Change::write(
        Lba(lsn % BLOCKS),
        BlockSize::DEFAULT,
        Buffer::copy_of(&[fill; 4096]),
    )
}

pub(crate) fn append(log: &Arc<Log>, through: u64) {
    let from = log.frontiers().head.get();
    for lsn in from + 1..=through {
        drop(log.append(vec![change(lsn)]).unwrap());
    }
    log.sync().unwrap();
}

pub(crate) fn check(log: &Arc<Log>, after: u64, through: u64) {
    let range = LsnRange::new(Lsn::new(after), Lsn::new(through));
    let mut expected = after;
    for record in log.read(range).unwrap() {
        let record = record.unwrap();
        expected += 1;
        assert_eq!(record.lsn().get(), expected);
        let fill = u8::try_from(expected % 251).unwrap();
        assert!(
            record.payload().iter().all(|byte| *byte == fill),
            "payload of LSN {expected}"
        );
    }
    assert_eq!(expected, through);
}

/// Steps background work until `done`; the edge thread works beside us.
fn step_until(log: &Arc<Log>, done: impl Fn() -> bool) {
    while !done() {
        log.step().unwrap();
        std::thread::yield_now();
    }
}

fn flip(path: &Path, offset: u64, mask: u8) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[usize::try_from(offset).unwrap()] ^= mask;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_is_synced_is_there_after_a_reopen() {
    // A001, A036.
    let fixture = Fixture::on_files();
    let (log, report) = fixture.open();
    assert_eq!(report.end, ScanEnd::Clean);
    append(&log, 10);
    log.stop();
    drop(log);
    let (log, report) = fixture.open();
    assert_eq!(
        (report.end, report.records, report.clean_close),
        (ScanEnd::Clean, 10, false)
    );
    append(&log, 12);
    check(&log, 0, 12);
    log.close().unwrap();
    drop(log);
    let (log, report) = fixture.open();
    assert!(report.clean_close);
    check(&log, 0, 12);
    assert_eq!(log.frontiers().durable, Lsn::new(12));
}

#[test]
fn the_log_rotates_and_reads_across_segments() {
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    append(&log, 2000);
    check(&log, 0, 2000);
    // The edge thread works beside us: whoever comes first writes an index.
    let sealed = log
        .segments()
        .iter()
        .filter(|s| s.state == SegmentState::Sealed)
        .count();
    let indexed = || {
        let names = disk::list(fixture.disk.as_ref(), &fixture.dir.join(DIR_NAME)).unwrap();
        names.iter().filter(|name| name.ends_with(".idx")).count()
    };
    assert!(sealed > 6, "{sealed} sealed segments");
    step_until(&log, || indexed() >= sealed);
    log.close().unwrap();
    drop(log);
    let (log, report) = fixture.open();
    assert!(report.segments_indexed >= sealed as u64, "{report:?}");
    // The mark of the close may have begun one more.
    assert!(report.segments_scanned <= 2, "{report:?}");
    check(&log, 0, 2000);
}

#[test]
fn reclaim_frees_whole_segments_and_they_are_reused() {
    // A006, A007, A008, A009, A033, A192 to A194, A197.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    append(&log, 1000);
    assert!(matches!(
        log.reclaim(Lsn::new(5)),
        Err(Error::Chain {
            bound_name: "checkpoint",
            ..
        })
    ));
    log.commit(Lsn::new(1000)).unwrap();
    log.set_checkpoint(Lsn::new(900));
    let pin = log.pin(Lsn::new(100), "test").unwrap();
    assert_eq!(log.reclaim(Lsn::new(800)).unwrap(), Lsn::new(100));
    let late = log.pin(Lsn::new(99), "late");
    assert!(matches!(late, Err(Error::Reclaimed { tail, .. }) if tail == Lsn::new(100)));
    drop(pin);
    step_until(&log, || log.frontiers().tail == Lsn::new(800));
    assert_eq!(log.first_retained(), Lsn::new(801));
    let gone = log.read(LsnRange::new(Lsn::new(799), Lsn::new(810)));
    assert!(matches!(gone, Err(Error::Reclaimed { tail, .. }) if tail == Lsn::new(800)));
    check(&log, 800, 1000);
    // Written through many times over, the log stays within its pool (L-R4).
    for round in 2..=12 {
        append(&log, 700 * round);
        let head = log.frontiers().head;
        log.commit(head).unwrap();
        log.set_checkpoint(head);
        log.reclaim(Lsn::new(head.get() - 200)).unwrap();
    }
    let segments = || {
        let names = disk::list(fixture.disk.as_ref(), &fixture.dir.join(DIR_NAME)).unwrap();
        names.iter().filter(|name| name.ends_with(".seg")).count()
    };
    step_until(&log, || segments() <= 8);
    check(&log, 8200, 8400);
    log.stop();
    drop(log);
    let (log, _) = fixture.open_at(LogMode::Writable, Lsn::new(8400)).unwrap();
    assert_eq!(log.frontiers().tail, Lsn::new(8200));
    check(&log, 8200, 8400);
}

#[test]
fn a_truncated_suffix_never_returns() {
    // A010, A034, A037, A226.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    append(&log, 105);
    log.commit(Lsn::new(90)).unwrap();
    let refused = log.truncate(Lsn::new(80));
    assert!(matches!(
        refused,
        Err(Error::Chain {
            bound_name: "committed",
            ..
        })
    ));
    log.truncate(Lsn::new(100)).unwrap();
    assert_eq!(log.frontiers().head, Lsn::new(100));
    let beyond = log.read(LsnRange::new(Lsn::new(100), Lsn::new(101)));
    assert!(matches!(beyond, Err(Error::BeyondHead { .. })));
    log.stop();
    drop(log);
    let (log, _) = fixture.open();
    assert_eq!(log.frontiers().head, Lsn::new(100));
    append(&log, 103);
    check(&log, 0, 103);
    log.stop();
    drop(log);
    let (log, _) = fixture.open();
    assert_eq!(log.frontiers().head, Lsn::new(103));
    check(&log, 0, 103);
}

#[test]
fn a_half_frame_at_the_end_is_torn_and_cut_for_good() {
    // A240: what lies behind the cut is under a seal.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    for through in 1..=3 {
        append(&log, through);
    }
    log.append(vec![change(4), change(5), change(6)])
        .unwrap()
        .wait()
        .unwrap();
    log.stop();
    drop(log);
    // Frames of 8 KiB each after the header, then one with three payload blocks.
    flip(&fixture.segment(0), 4096 + 3 * 8192 + 4096 + 5000, 1);
    let (log, report) = fixture.try_open(LogMode::ReadOnly).unwrap();
    assert!(matches!(&report.end, ScanEnd::Torn { at, .. } if at.offset == 4096 + 3 * 8192));
    assert_eq!(log.frontiers().head, Lsn::new(3));
    drop(log);
    let (log, report) = fixture.open();
    assert!(matches!(report.end, ScanEnd::Torn { .. }), "{report:?}");
    assert_eq!(log.frontiers().head, Lsn::new(3));
    append(&log, 5);
    log.stop();
    drop(log);
    let (log, report) = fixture.open();
    assert_eq!(report.end, ScanEnd::Clean);
    check(&log, 0, 5);
}

#[test]
fn damage_below_a_recorded_frontier_is_never_cut() {
    // A030, A031, A038, A241.
    // On a stepped disk no idle mark comes between the frames.
    let sim = damage_tests::create(1 << 20);
    let (log, _) = damage_tests::open(&sim);
    for through in 1..=50 {
        append(&log, through);
    }
    // The frame of 50 records 49 only.
    log.mark().unwrap();
    log.stop();
    drop(log);
    sim.flip(
        &damage_tests::segment(0),
        4096 + 39 * 8192 + 4096 + 100,
        0x40,
    )
    .unwrap();
    let (log, report) = damage_tests::open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    let (applied, durable) = (Lsn::new(39), Lsn::new(50));
    assert_eq!((loss.applied, loss.durable), (applied, durable));
    assert_eq!((log.applied(), log.frontiers().durable), (applied, durable));
    assert_eq!(loss.places.len(), 1);
    assert_eq!(
        loss.places[0].lsns,
        LsnRange::new(Lsn::new(39), Lsn::new(40))
    );
    assert_eq!(loss.places[0].blocks.as_deref(), Some(&[(Lba(40), 1)][..]));
    check(&log, 0, 39);
    check(&log, 40, 50);
    let lost = log.read(LsnRange::new(Lsn::new(30), Lsn::new(50)));
    assert!(
        matches!(lost, Err(Error::Corrupt(Corrupt { lsn: Some(lsn), .. })) if lsn == Lsn::new(40))
    );
    assert_eq!(
        log.prove(LsnRange::new(Lsn::new(30), Lsn::new(50))),
        Err(Gap::Corrupt { lsn: Lsn::new(40) })
    );
    assert!(matches!(
        log.append(vec![change(51)]),
        Err(Error::ReadOnly { .. })
    ));
}

// A241: what neither header nor index names is unknown.
#[test]
fn a_destroyed_frame_header_below_the_frontier_loses_exactly_its_records() {
    // On a stepped disk no idle mark comes between the frames.
    let sim = damage_tests::create(1 << 20);
    let (log, _) = damage_tests::open(&sim);
    for through in 1..=50 {
        append(&log, through);
    }
    log.stop();
    drop(log);
    sim.flip(&damage_tests::segment(0), 4096 + 19 * 8192 + 8, 0xff)
        .unwrap();
    let (log, report) = damage_tests::open(&sim);
    let ScanEnd::Damaged(loss) = report.end else {
        panic!("{report:?}")
    };
    assert_eq!((loss.durable, loss.applied), (Lsn::new(49), Lsn::new(19)));
    assert_eq!(
        loss.places[0].lsns,
        LsnRange::new(Lsn::new(19), Lsn::new(20))
    );
    assert_eq!(loss.places[0].blocks, None, "unknown");
    check(&log, 20, 50);
}

#[test]
fn after_a_clean_close_every_flipped_bit_of_the_last_frames_is_found() {
    // A239.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    append(&log, 2);
    append(&log, 4);
    log.close().unwrap();
    drop(log);
    let path = fixture.segment(0);
    let whole = std::fs::read(&path).unwrap();
    let end = 4096 + 2 * (4096 + 2 * 4096) + 4096;
    for offset in (4096..end).step_by(61) {
        flip(&path, offset as u64, 0x10);
        let (_, report) = fixture.try_open(LogMode::ReadOnly).unwrap();
        let mut reported = matches!(report.end, ScanEnd::Damaged(_));
        inspect_segment(&fixture.disk, &path, &mut |found| {
            reported |= matches!(found, Inspected::Damage(_));
        })
        .unwrap();
        assert!(reported, "flip at {offset}");
        std::fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_segment_whose_pages_cannot_be_had_while_it_is_read_answers_a_typed_error() {
    // A250, D23: on real files, where what is touched without asking is a signal. The file lost its
    // end, so that no page there can be brought into memory.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    for through in 1..=200 {
        append(&log, through);
    }
    let range = LsnRange::new(Lsn::ZERO, Lsn::new(200));
    let mut records = log.read(range).unwrap();
    let first = records.next().unwrap().unwrap();
    assert_eq!(first.payload()[0], 1);
    let mode = disk::OpenMode::ReadWrite;
    let file = disk::File::open(&fixture.disk, &fixture.segment(0), mode).unwrap();
    file.set_length(700 << 10).unwrap();
    let mut seen = first.lsn();
    let error = loop {
        match records.next().expect("not all can be read") {
            Ok(record) => {
                seen = seen.next();
                assert_eq!(u64::from(record.payload()[0]), seen.get());
            }
            Err(error) => break error,
        }
    };
    assert!(seen > Lsn::new(60), "{seen}");
    assert!(
        matches!(&error, Error::Corrupt(found)
            if found.lsn == Some(seen.next()) && found.what == Damage::Unreadable),
        "{error:?}"
    );
    let scanned = log.scan::<Error>(range, |_, _| Ok(()));
    assert!(
        matches!(&scanned, Err(Error::Corrupt(found)) if found.lsn == Some(seen.next())),
        "{scanned:?}"
    );
}

#[test]
fn many_callers_share_syncs_and_lose_nothing() {
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let ticket = {
                        let next = log.frontiers().head.get() + 1;
                        log.append(vec![change(next)]).unwrap()
                    };
                    let through = ticket.range().through;
                    assert!(ticket.wait().unwrap() >= through);
                }
            });
        }
    });
    assert_eq!(log.frontiers().durable, Lsn::new(400));
    log.stop();
    drop(log);
    let (log, report) = fixture.open();
    assert_eq!((report.end, report.records), (ScanEnd::Clean, 400));
    assert!(log.prove(LsnRange::new(Lsn::ZERO, Lsn::new(400))).is_ok());
}

#[test]
fn received_records_are_kept_unchanged_with_their_lineage() {
    let source = Fixture::on_files();
    let (from, _) = source.open();
    append(&from, 20);
    let target = Fixture::on_files();
    let (to, _) = target.try_open(LogMode::Writable).unwrap();
    let range = LsnRange::new(Lsn::ZERO, Lsn::new(20));
    let records: Vec<_> = from.read(range).unwrap().map(Result::unwrap).collect();
    let wrong = to.append_received(vec![records[1].clone()]);
    assert!(matches!(wrong, Err(Error::NotNext { found, .. }) if found == Lsn::new(2)));
    to.append_received(records).unwrap().wait().unwrap();
    assert_eq!(to.lineage(), from.lineage());
    check(&to, 0, 20);
    to.stop();
    drop(to);
    let (to, _) = target.try_open(LogMode::Writable).unwrap();
    assert_eq!(to.lineage(), from.lineage());
    check(&to, 0, 20);
}

#[test]
fn damage_below_the_tail_takes_nothing_from_anybody() {
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    for through in 1..=20 {
        append(&log, through);
    }
    log.commit(Lsn::new(20)).unwrap();
    log.set_checkpoint(Lsn::new(20));
    log.reclaim(Lsn::new(10)).unwrap();
    log.close().unwrap();
    drop(log);
    flip(&fixture.segment(0), 4096 + 4 * 8192 + 4096 + 77, 2);
    let (log, report) = fixture.open_at(LogMode::Writable, Lsn::new(20)).unwrap();
    assert_eq!(report.end, ScanEnd::Clean);
    check(&log, 10, 20);
    log.check_writable().unwrap();
}

#[test]
fn a_stray_file_in_the_last_slot_does_not_push_names_out_of_the_grammar() {
    // L-R5: a name outside the grammar would not be found by the next open.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    append(&log, 3);
    log.close().unwrap();
    drop(log);
    std::fs::write(fixture.segment(99_999_999), b"stray").unwrap();
    let (log, _) = fixture.open();
    append(&log, 1500);
    log.stop();
    drop(log);
    let (log, report) = fixture.open();
    assert_eq!(report.end, ScanEnd::Clean);
    check(&log, 0, 1500);
}
