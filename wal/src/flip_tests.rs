//! Every single bit of a small log flips in turn (D13). After a clean close each flip is found, or
//! FORMAT.md says that nothing rests on the bit and nothing has changed. After a crash it is found
//! wherever a recorded frontier covers it, and leaves a legal torn tail elsewhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crash_tests::judge::{DIR, assert_contents, create, open, plain};
use crate::crash_tests::model::{Issued, Model};
use crate::crash_tests::stride;
use crate::disk::sim::SimDisk;
use crate::*;

const SEGMENT_BYTES: u64 = 32 << 10;
const FRAME_HEADER_BYTES: u64 = 128;
const RECORD_HEADER_BYTES: u64 = 64;
const PAGE: u64 = 4096;

/// What FORMAT.md says rests on a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rests {
    /// A copy of meta.
    Meta,
    /// The header of a segment in use, the rest of its page included.
    Header,
    /// A frame with this sequence: its header, its record headers, its payloads.
    Frame(u64),
    /// Zeros of a frame, which only verify looks at.
    Padding,
    /// An index, which is a copy of the headers.
    Copy,
    /// Nothing: space that no frame takes, and files of no life in use.
    Nothing,
}

#[derive(Debug)]
struct Found {
    offset: u64,
    bytes: u64,
    sequence: u64,
    records: u64,
    payloads: Vec<(u64, u64)>,
}

/// A finished log, and where its frames lie.
struct Subject {
    sim: Arc<SimDisk>,
    model: Model,
    frames: BTreeMap<PathBuf, Vec<Found>>,
    last: u64,
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

fn subject(closed: bool) -> Subject {
    let sim = SimDisk::new(1);
    let mut model = Model::default();
    create(&plain(&sim), SEGMENT_BYTES).unwrap();
    let (log, _) = open(&plain(&sim), LogMode::Writable, 0).unwrap();
    let entry = log.start_incarnation(Epoch::new(1)).unwrap();
    let kinds = [
        RecordKind::Write,
        RecordKind::Trim,
        RecordKind::Write,
        RecordKind::WriteZeroes,
    ];
    for turn in 0..6 {
        let count = if turn == 1 { 3 } else { 1 };
        let changes = (0..count).map(|number| {
            let kind = kinds[(turn + number) % 4];
            let record = model.issue(Issued {
                stamp: 0,
                kind,
                no_hole: kind == RecordKind::WriteZeroes,
                lba: 7,
                blocks: 2,
                writer: (entry.epoch, entry.incarnation),
            });
            record.change()
        });
        let ticket = log.append(changes.collect()).unwrap();
        let durable = ticket.wait().unwrap();
        model.acknowledge(durable);
    }
    while log.step().unwrap() {}
    match closed {
        true => log.close().unwrap(),
        false => log.stop(),
    }
    drop(log);
    let sim = sim.crash_lose_all();
    let (log, _) = open(&plain(&sim), LogMode::ReadOnly, 0).unwrap();
    let live = log.segments().into_iter();
    let live = live.filter(|segment| segment.state != SegmentState::Free);
    let frames: BTreeMap<_, _> = live
        .map(|segment| Path::new(DIR).join("wal").join(segment.name))
        .map(|path| (path.clone(), frames_of(&sim, &path)))
        .collect();
    let sequences = frames.values().flatten().map(|frame| frame.sequence);
    let last = sequences.max().expect("the log has frames");
    assert!(frames.len() > 1, "the log has a sealed segment");
    Subject {
        sim,
        model,
        frames,
        last,
    }
}

fn frames_of(sim: &Arc<SimDisk>, path: &Path) -> Vec<Found> {
    let mut frames: Vec<Found> = Vec::new();
    let mut each = |found: Inspected<'_>| match found {
        Inspected::Frame {
            offset,
            sequence,
            bytes,
            ..
        } => frames.push(Found {
            offset,
            bytes,
            sequence,
            records: 0,
            payloads: Vec::new(),
        }),
        Inspected::Record {
            payload_offset,
            payload,
            ..
        } => {
            let frame = frames.last_mut().expect("records follow their frame");
            frame.records += 1;
            frame
                .payloads
                .push((payload_offset, payload_offset + payload.len() as u64));
        }
        Inspected::Segment { .. } => {}
        Inspected::Damage(corrupt) => panic!("{corrupt:?}"),
    };
    inspect_segment(&plain(sim), path, &mut each).unwrap();
    frames
}

impl Subject {
    fn rests(&self, path: &Path, at: u64) -> Rests {
        if path.ends_with("meta") {
            return Rests::Meta;
        }
        if !is_segment(path) {
            return Rests::Copy;
        }
        let Some(frames) = self.frames.get(path) else {
            return Rests::Nothing;
        };
        if at < PAGE {
            return Rests::Header;
        }
        let frame = frames
            .iter()
            .find(|frame| (frame.offset..frame.offset + frame.bytes).contains(&at));
        let Some(frame) = frame else {
            return Rests::Nothing;
        };
        let headers = FRAME_HEADER_BYTES + frame.records * RECORD_HEADER_BYTES;
        let in_payload = frame
            .payloads
            .iter()
            .any(|(from, to)| (*from..*to).contains(&at));
        match at < frame.offset + headers || in_payload {
            true => Rests::Frame(frame.sequence),
            false => Rests::Padding,
        }
    }

    /// Every bit of every file, or every so many of them.
    fn bits(&self, stride: u64) -> impl Iterator<Item = (PathBuf, u64, u8)> + '_ {
        let files = self.sim.paths().into_iter();
        let bits = files.flat_map(|path| {
            let length = self.sim.read_file(&path).unwrap().len() as u64;
            (0..length * 8).map(move |bit| (path.clone(), bit / 8, 1 << (bit % 8)))
        });
        bits.step_by(usize::try_from(stride).unwrap())
    }

    fn flipped(&self, path: &Path, at: u64, mask: u8) -> Arc<SimDisk> {
        let sim = self.sim.crash_lose_all();
        sim.flip(path, at, mask).unwrap();
        sim
    }

    /// Whether an open and a read of everything notice something. What they give is right.
    fn is_noticed(&self, sim: &Arc<SimDisk>, mode: LogMode, what: &str) -> (bool, u64) {
        let (log, noticed, head) = self.look(sim, mode, what);
        log.stop();
        (noticed, head)
    }

    fn look(&self, sim: &Arc<SimDisk>, mode: LogMode, what: &str) -> (Arc<Log>, bool, u64) {
        let (log, report) = match open(&plain(sim), mode, 0) {
            Ok(opened) => opened,
            Err(error) => panic!("{what}: it cannot be opened: {error}"),
        };
        let head = log.frontiers().head.get();
        let mut noticed = false;
        match &report.end {
            ScanEnd::Damaged(loss) => {
                noticed = true;
                assert!(
                    loss.durable.get() <= self.model.issued(),
                    "{what}: {loss:?}"
                );
                assert!(!loss.places.is_empty(), "{what}: {loss:?}");
            }
            ScanEnd::Clean | ScanEnd::Torn { .. } => {}
        }
        for lsn in 1..=head.min(self.model.issued()) {
            match log.read_record(Lsn::new(lsn)) {
                Ok(record) => self.model.record(lsn).assert_is(lsn, &record),
                Err(_) => noticed = true,
            }
        }
        if !noticed {
            assert_contents(&log, &self.model, 0, head);
            assert_eq!(log.frontiers().durable.get(), head, "{what}");
        }
        (log, noticed, head)
    }

    /// What verify says beyond an open and a read: of a copy of meta, of frames that are not looked
    /// at once an index is there, of padding, and of a segment that ends before its last frame.
    fn verify_notices(log: &Log) -> bool {
        let mut noticed = !log.meta().verify().is_empty();
        for segment in log.segments() {
            if segment.state == SegmentState::Free {
                continue;
            }
            let path = Path::new(DIR).join("wal").join(segment.name);
            let mut end = PAGE;
            let mut each = |found: Inspected<'_>| match found {
                Inspected::Damage(_) => noticed = true,
                Inspected::Record { sum_ok, .. } => noticed |= !sum_ok,
                Inspected::Frame { offset, bytes, .. } => end = offset + bytes,
                Inspected::Segment { .. } => {}
            };
            if inspect_segment(&log.disk, &path, &mut each).is_err() {
                return true;
            }
            noticed |= end != segment.bytes;
        }
        noticed
    }
}

/// Flips met by what rested on them, and how many of those an open and a read noticed.
#[derive(Debug, Default)]
struct Counts(BTreeMap<&'static str, (u64, u64)>);

impl Counts {
    fn add(&mut self, rests: Rests, noticed: bool) {
        let name = match rests {
            Rests::Meta => "meta",
            Rests::Header => "segment header page",
            Rests::Frame(_) => "frames",
            Rests::Padding => "padding",
            Rests::Copy => "index",
            Rests::Nothing => "nothing",
        };
        let count = self.0.entry(name).or_default();
        count.0 += 1;
        count.1 += u64::from(noticed);
    }
}

#[test]
fn every_flipped_bit_of_a_cleanly_closed_log_is_found_or_nothing_rests_on_it() {
    let subject = subject(true);
    let issued = subject.model.issued();
    let mut counts = Counts::default();
    for (path, at, mask) in subject.bits(stride(1499)) {
        let rests = subject.rests(&path, at);
        let what = format!(
            "bit {mask:#04x} of byte {at} of {}, {rests:?}",
            path.display()
        );
        let sim = subject.flipped(&path, at, mask);
        let (log, noticed, head) = subject.look(&sim, LogMode::ReadOnly, &what);
        assert!(
            noticed || head == issued,
            "{what}: {head} came back in silence"
        );
        let found = noticed || Subject::verify_notices(&log);
        log.stop();
        match rests {
            Rests::Meta | Rests::Header | Rests::Frame(_) | Rests::Padding => {
                assert!(found, "{what} goes unnoticed");
            }
            Rests::Copy | Rests::Nothing => assert!(!noticed, "{what} costs something"),
        }
        counts.add(rests, noticed);
        // A writable open destroys no evidence: what was missed stays missed. Where nothing is
        // missed, one bit of each byte is enough to see that.
        if !noticed && mask != 1 << (at % 8) {
            continue;
        }
        let (writable, _) = subject.is_noticed(&sim, LogMode::Writable, &what);
        assert_eq!(noticed, writable, "{what}: read-only and writable differ");
        let (again, head) = subject.is_noticed(&sim, LogMode::ReadOnly, &what);
        assert_eq!(
            noticed, again,
            "{what}: the open in between took the evidence"
        );
        assert!(
            again || head == issued,
            "{what}: {head} after a writable open"
        );
    }
    println!("flips, and how many an open and a read noticed: {counts:?}");
    assert!(
        counts.0["frames"].1 > 10 && counts.0["meta"].0 > 300,
        "{counts:?}"
    );
}

#[test]
fn a_flipped_bit_of_a_crashed_log_is_found_below_the_frontier_and_cut_above_it() {
    let subject = subject(false);
    let issued = subject.model.issued();
    let mut counts = Counts::default();
    for (path, at, mask) in subject.bits(stride(1499)) {
        let rests = subject.rests(&path, at);
        let what = format!(
            "bit {mask:#04x} of byte {at} of {}, {rests:?}",
            path.display()
        );
        let sim = subject.flipped(&path, at, mask);
        let (log, noticed, head) = subject.look(&sim, LogMode::Writable, &what);
        match rests {
            // No frame behind it says that it was durable: a torn tail of one record.
            Rests::Frame(sequence) if sequence == subject.last => {
                assert!(!noticed, "{what}: a legal torn tail taken for damage");
                assert_eq!(head, issued - 1, "{what}");
            }
            Rests::Frame(_) => {
                assert!(
                    noticed || Subject::verify_notices(&log),
                    "{what} goes unnoticed"
                );
                assert!(
                    noticed || head == issued,
                    "{what}: {head} came back in silence"
                );
            }
            _ => assert!(
                !noticed && head == issued,
                "{what} costs something, head {head}"
            ),
        }
        log.stop();
        counts.add(rests, noticed);
    }
    println!("flips, and how many an open and a read noticed: {counts:?}");
    assert!(counts.0["frames"].1 > 10, "{counts:?}");
}
