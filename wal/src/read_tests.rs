//! What readers may rely on: sealed segments whose index or medium fails, segments that are
//! recycled meanwhile, and the cost of a seek.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::damage_tests::{DIR, create};
use crate::disk::sim::{Effect, Fault, SimDisk};
use crate::disk::{Buffer, Completion, Disk, Operation, Token};
use crate::index;
use crate::*;

/// Passes everything on and counts reads.
#[derive(Debug)]
struct Counting {
    inner: Arc<dyn Disk>,
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Counting {
    fn over(inner: Arc<dyn Disk>) -> Arc<Counting> {
        Arc::new(Counting {
            inner,
            reads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Reads and bytes of reads that `work` submitted.
    fn cost_of(&self, work: impl FnOnce()) -> (u64, u64) {
        // Relaxed: one thread counts.
        let now = || {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            (load(&self.reads), load(&self.bytes))
        };
        let before = now();
        work();
        let after = now();
        (after.0 - before.0, after.1 - before.1)
    }
}

impl Disk for Counting {
    fn submit(&self, operation: Operation) -> Token {
        if let Operation::Read { buffer, .. } = &operation {
            self.reads.fetch_add(1, Ordering::Relaxed);
            let bytes = buffer.len() as u64;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.inner.submit(operation)
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.inner.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.inner.wait(token)
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    fn is_stepped(&self) -> bool {
        true
    }
}

fn open(disk: Arc<dyn Disk>) -> (Arc<Log>, ReplayReport) {
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(&disk, dir, true).unwrap());
    let clock = SystemClock::new();
    let mode = LogMode::Writable;
    let (log, report) = Log::open(&disk, dir, &meta, &clock, mode, Lsn::ZERO).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    (log, report)
}

fn lsn(number: u64) -> Lsn {
    Lsn::new(number)
}

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(lsn(after), lsn(through))
}

fn stamp(number: u64) -> u8 {
    u8::try_from(number % 251).unwrap()
}

/// One frame a record through `through`, background work done.
fn fill(log: &Arc<Log>, through: u64) {
    while log.frontiers().head < lsn(through) {
        let next = log.frontiers().head.get() + 1;
        let payload = Buffer::copy_of(&[stamp(next); 4096]);
        let change = Change::write(Lba(next % 64), BlockSize::DEFAULT, payload);
        log.append(vec![change]).unwrap().wait().unwrap();
    }
    while log.step().unwrap() {}
}

/// Reads the range each way there is.
fn check(log: &Arc<Log>, after: u64, through: u64) {
    let mut next = after;
    for record in log.read(range(after, through)).unwrap() {
        let record = record.unwrap();
        next += 1;
        assert_eq!(
            (record.lsn(), record.payload()[4095]),
            (lsn(next), stamp(next))
        );
    }
    assert_eq!(next, through);
    let mut next = after;
    log.scan::<Error>(range(after, through), |header, payload| {
        next += 1;
        assert_eq!((header.lsn, payload[0]), (lsn(next), stamp(next)));
        Ok(())
    })
    .unwrap();
    assert_eq!(next, through);
    let places = log.places(range(after, through)).unwrap();
    let found: Vec<_> = places.iter().map(|place| (place.lsn, place.lba)).collect();
    let expected: Vec<_> = (after + 1..=through)
        .map(|n| (lsn(n), Lba(n % 64)))
        .collect();
    assert_eq!(found, expected);
}

fn path(log: &Log, name: &str) -> PathBuf {
    log.dir().join(name)
}

/// The first sealed segment: its file, its index, its records.
fn first_sealed(log: &Log) -> (PathBuf, PathBuf, LsnRange) {
    let info = log.segments().remove(0);
    assert_eq!(info.state, SegmentState::Sealed);
    let (first, last) = info.lsns.unwrap();
    let file = path(log, &info.name);
    let index = index::path_of(&file);
    (file, index, LsnRange::new(first.before(), last))
}

fn filled() -> (Arc<SimDisk>, Arc<Log>) {
    let sim = create(1 << 20);
    let (log, _) = open(sim.clone());
    fill(&log, 600);
    (sim, log)
}

#[test]
fn a_seek_costs_the_same_in_a_small_log_and_in_a_large_one() {
    let cost = |records: u64| {
        let sim = create(1 << 20);
        let counting = Counting::over(sim);
        let (log, _) = open(counting.clone());
        fill(&log, records);
        // Indexes are opened by the first look into them.
        check(&log, 0, records);
        let sealed = log.segments().remove(0).lsns.unwrap().1.get();
        let cost = |number| counting.cost_of(|| drop(log.read_record(lsn(number)).unwrap()));
        [cost(1), cost(sealed / 2), cost(sealed)]
    };
    let small = cost(300);
    assert_eq!(small, cost(3000));
    // A page of the index, and the record with its header.
    assert_eq!(small[0].0, 2, "{small:?}");
    assert!(small[0].1 <= 4096 + 64 + 2 * 4096, "{small:?}");
}

#[test]
fn an_open_reads_one_page_of_an_index_however_many_records_it_has() {
    let cost = |records: u64| {
        let sim = create(1 << 20);
        let (log, _) = open(sim.clone());
        fill(&log, records);
        log.close().unwrap();
        let sealed = log.segments();
        let sealed = sealed
            .iter()
            .filter(|info| info.state == SegmentState::Sealed);
        let sealed = sealed.count() as u64;
        drop(log);
        let counting = Counting::over(sim);
        let mut report = None;
        let cost = counting.cost_of(|| report = Some(open(counting.clone()).1));
        let report = report.unwrap();
        assert_eq!(
            (report.segments_indexed, report.segments_scanned),
            (sealed, 1)
        );
        (sealed, cost.0)
    };
    let (few, small) = cost(300);
    let (many, large) = cost(3000);
    assert!(many > 8 * few);
    // The header of a segment and the header of its index.
    let each = (large - small).div_ceil(many - few);
    assert_eq!(
        each, 2,
        "{few} segments {small} reads, {many} segments {large} reads"
    );
}

#[test]
fn a_damaged_page_of_a_sealed_index_costs_a_scan_and_no_record() {
    let (sim, log) = filled();
    let (_, index, _) = first_sealed(&log);
    sim.flip(&index, 4096 + 100, 1).unwrap();
    check(&log, 0, 600);
    assert_eq!(log.known_damage(), []);
    // The background writes it anew, and a reopen takes it.
    while log.step().unwrap() {}
    check(&log, 0, 600);
    log.close().unwrap();
    drop(log);
    let (log, report) = open(sim);
    assert_eq!(report.segments_scanned, 1);
    check(&log, 0, 600);
}

#[test]
fn a_damaged_index_of_a_damaged_segment_loses_exactly_what_the_segment_lost() {
    let (sim, log) = filled();
    let (file, index, _) = first_sealed(&log);
    sim.flip(&index, 4096 + 100, 1).unwrap();
    // The frame header of LSN 3: frames of two pages behind the page of the segment header.
    sim.flip(&file, 4096 + 2 * 8192, 1).unwrap();
    let refused = log.places(range(0, 10));
    assert!(
        matches!(&refused, Err(Error::Corrupt(corrupt)) if corrupt.lsn == Some(lsn(3))),
        "{refused:?}"
    );
    assert_eq!(log.known_damage(), [(range(2, 3), false)]);
    assert_eq!(log.prove(range(0, 600)), Err(Gap::Corrupt { lsn: lsn(3) }));
    check(&log, 0, 2);
    check(&log, 3, 600);
}

#[test]
fn a_sealed_segment_that_cannot_be_read_answers_a_typed_error() {
    // A250.
    let (sim, log) = filled();
    let (file, _, lsns) = first_sealed(&log);
    let payload = 4096 + 4 * 8192 + 4096;
    sim.set_unreadable(&file, payload..payload + 512).unwrap();
    let mut seen = 0;
    let scanned = log.scan::<Error>(lsns, |header, _| {
        seen = header.lsn.get();
        Ok(())
    });
    let unreadable = |error: &Error| match error {
        Error::Corrupt(corrupt) => {
            (corrupt.lsn, corrupt.what) == (Some(lsn(5)), Damage::Unreadable)
        }
        _ => false,
    };
    assert!(scanned.as_ref().is_err_and(unreadable), "{scanned:?}");
    assert_eq!(seen, 4, "what lies before the bad sector is shown");
    assert_eq!(log.known_damage(), [(range(4, 5), false)]);
    check(&log, 5, 600);
}

#[test]
fn a_reader_keeps_reading_while_the_log_rotates_and_recycles_behind_it() {
    let (_, log) = filled();
    let mut reader = log.read(range(0, 600)).unwrap();
    for number in 1..=10 {
        assert_eq!(reader.next().unwrap().unwrap().lsn(), lsn(number));
    }
    log.commit(lsn(600)).unwrap();
    log.set_checkpoint(lsn(600));
    // Its pin holds the tail; what it reads is not recycled.
    assert_eq!(log.reclaim(lsn(600)).unwrap(), Lsn::ZERO);
    fill(&log, 1500);
    for (number, record) in (11..).zip(reader.by_ref()) {
        let record = record.unwrap();
        assert_eq!(
            (record.lsn(), record.payload()[9]),
            (lsn(number), stamp(number))
        );
    }
    drop(reader);
    while log.step().unwrap() {}
    assert_eq!(log.frontiers().tail, lsn(600));
    fill(&log, 3000);
    check(&log, 1000, 3000);
}

#[test]
fn a_scan_goes_on_to_records_that_were_written_behind_what_it_had_read() {
    let sim = create(1 << 20);
    let (log, _) = open(sim);
    fill(&log, 62);
    for next in 63..=68 {
        let payload = Buffer::copy_of(&[stamp(next); 4096]);
        let change = Change::write(Lba(next % 64), BlockSize::DEFAULT, payload);
        drop(log.append(vec![change]).unwrap());
    }
    let mut next = 0;
    let scanned = log.scan_quietly::<Error>(range(0, 68), |header, payload| {
        next += 1;
        assert_eq!((header.lsn, payload[0]), (lsn(next), stamp(next)));
        if next == 62 {
            log.sync()?;
        }
        Ok(())
    });
    assert_eq!(scanned.map_err(|error| error.to_string()), Ok(()));
    assert_eq!(next, 68);
    assert!(log.read_record(lsn(64)).is_ok());
    assert!(log.prove(range(0, 68)).is_ok(), "known damage was made up");
}

#[test]
fn a_quiet_scan_shows_every_record_although_any_one_read_fails() {
    let sim = create(1 << 20);
    let (log, _) = open(sim.clone());
    fill(&log, 900);
    while log.step().unwrap() {}
    let mut failed = 0;
    for nth in 0..60 {
        sim.inject(Fault::at(IoOp::Read, Effect::FailErrno(5)).after(nth));
        let mut next = 0;
        let scanned = log.scan_quietly::<Error>(range(0, 900), |header, payload| {
            next += 1;
            assert_eq!((header.lsn, payload[9]), (lsn(next), stamp(next)));
            Ok(())
        });
        assert_eq!(scanned.map_err(|error| error.to_string()), Ok(()));
        assert_eq!(next, 900, "read {nth}");
        failed += 1 - sim.faults_left();
        sim.clear_faults();
    }
    assert!(failed > 10, "{failed} reads failed");
    assert_eq!(log.known_damage(), []);
}
