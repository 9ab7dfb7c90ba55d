//! What a crashed disk must still say, whatever the crash took.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::model::{BLOCK, BLOCKS, Issued, Model, Random};
use crate::disk::sim::{SimDisk, Watch};
use crate::disk::{self, Disk};
use crate::log::DIR_NAME;
use crate::tests::contents;
use crate::*;

pub(crate) const DIR: &str = "/volume";

/// A clock that ticks when it is read, so that a story repeats to the last bit.
#[derive(Debug, Default)]
pub(crate) struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn unix_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Creates the directories and the meta of a log with segments of so many bytes.
pub(crate) fn create(disk: &Arc<dyn Disk>, segment_bytes: u64) -> Result<(), Error> {
    let dir = Path::new(DIR);
    disk::make_dir(disk.as_ref(), dir)?;
    disk::make_dir(disk.as_ref(), &dir.join(DIR_NAME))?;
    disk::sync_dir(disk.as_ref(), dir)?;
    disk::sync_dir(disk.as_ref(), Path::new("/"))?;
    let mut contents = contents();
    contents.geometry = Geometry {
        block_size: BlockSize::from_bytes(BLOCK as u64)?,
        blocks: BLOCKS,
        segment_bytes,
    };
    Meta::create(disk, dir, contents).map(drop)
}

pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    mode: LogMode,
    checkpoint: u64,
) -> Result<(Arc<Log>, ReplayReport), Error> {
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(disk, dir, mode == LogMode::Writable)?);
    let clock: Arc<dyn Clock> = Arc::new(Ticks::default());
    Log::open(disk, dir, &meta, &clock, mode, Lsn::new(checkpoint))
}

pub(crate) fn plain(sim: &Arc<SimDisk>) -> Arc<dyn Disk> {
    Arc::clone(sim) as Arc<dyn Disk>
}

/// How many states were visited, how many of them were different, how many logs were opened.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    media: HashSet<u128>,
    seen: HashSet<u128>,
    /// Cuts of the power.
    pub(crate) visited: u64,
    /// Disks, each with what was promised about it, that no earlier cut had left.
    pub(crate) distinct: u64,
    /// Of the distinct ones, those in the middle of an open that repairs a crash.
    pub(crate) nested: u64,
    pub(crate) opens: u64,
    pub(crate) torn: u64,
    pub(crate) in_flight_max: usize,
}

impl Tally {
    /// Whether this very disk, with these very promises, was not judged yet.
    fn is_new(&mut self, sim: &SimDisk, model: &Model) -> bool {
        let medium = sim.digest();
        self.media.insert(medium);
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        hash.update(&medium.to_le_bytes());
        for number in model.key() {
            hash.update(&number.to_le_bytes());
        }
        let new = self.seen.insert(hash.digest128());
        self.visited += 1;
        self.distinct += u64::from(new);
        new
    }

    /// Different contents of the medium, whatever was promised about them.
    pub(crate) fn media(&self) -> usize {
        self.media.len()
    }
}

/// Everything an open shows agrees with the model; gives the frontiers.
pub(crate) fn assert_kept(log: &Arc<Log>, report: &ReplayReport, model: &Model) -> Frontiers {
    assert!(
        !matches!(report.end, ScanEnd::Damaged(_)),
        "a legal crash taken for damage: {report:?}"
    );
    let frontiers = log.frontiers();
    let [tail, checkpoint, committed, durable, head] = [
        frontiers.tail,
        frontiers.checkpoint,
        frontiers.committed,
        frontiers.durable,
        frontiers.head,
    ]
    .map(Lsn::get);
    assert!(
        model.allows(head),
        "{frontiers:?} came back: {}",
        model.brief()
    );
    assert_eq!(durable, head, "what an open shows is durable (L4)");
    assert!(
        (model.tail.0..=model.tail.1).contains(&tail),
        "tail {tail}: {}",
        model.brief()
    );
    assert_eq!(checkpoint, model.checkpoint);
    assert!(
        committed <= model.committed.max(checkpoint),
        "committed {committed}: {}",
        model.brief()
    );
    if model.closed {
        assert_eq!(report.end, ScanEnd::Clean, "closed cleanly");
        assert_eq!(head, model.issued(), "closed cleanly");
    }
    assert_contents(log, model, tail, head);
    frontiers
}

/// Every record of `(tail, head]` is the one issued, and nothing else can be read.
pub(crate) fn assert_contents(log: &Arc<Log>, model: &Model, tail: u64, head: u64) {
    assert_eq!(
        log.first_retained().get(),
        tail + 1,
        "records above the tail are gone"
    );
    let lineage = log.lineage();
    let range = LsnRange::new(Lsn::new(tail), Lsn::new(head));
    let mut lsn = tail;
    for record in log.read(range).unwrap() {
        lsn += 1;
        let issued = model.record(lsn);
        issued.assert_is(lsn, &record.unwrap());
        let entry = lineage.entry_at(Lsn::new(lsn)).unwrap();
        assert_eq!((entry.epoch, entry.incarnation), issued.writer, "lineage");
    }
    assert_eq!(lsn, head, "a short read (L7)");
    assert!(log.known_damage().is_empty());
    let beyond = log.read(LsnRange::new(Lsn::new(head), Lsn::new(head + 1)));
    assert!(matches!(beyond, Err(Error::BeyondHead { .. })));
    if tail > 0 {
        let below = log.read(LsnRange::new(Lsn::new(tail - 1), Lsn::new(tail)));
        assert!(matches!(below, Err(Error::Reclaimed { .. })));
    }
}

/// Opens what a crash left and demands every promise, three times over: as it is, after a second
/// crash, and after new records went behind what came back. False for a state judged before.
pub(crate) fn judge(
    sim: &Arc<SimDisk>,
    model: &Model,
    seed: u64,
    depth: u32,
    tally: &Mutex<Tally>,
) -> bool {
    if !tally.lock().unwrap().is_new(sim, model) {
        return false;
    }
    let mut random = Random::new(seed);
    if depth > 0 && random.below(16) == 0 {
        judge_open(sim, model, &mut random, depth, tally);
    }
    let (log, report) = match open(&plain(sim), LogMode::Writable, model.checkpoint) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!model.created, "cannot be opened: {error}");
            return true;
        }
    };
    let frontiers = assert_kept(&log, &report, model);
    log.stop();
    drop(log);
    let mut model = model.clone();
    model.came_back(frontiers);
    {
        let mut tally = tally.lock().unwrap();
        tally.opens += 3;
        tally.torn += u64::from(matches!(report.end, ScanEnd::Torn { .. }));
    }
    go_on(&sim.crash_lose_all(), &mut model, &mut random);
    true
}

/// L-W2: the second open knows no less. A240: what was cut never comes back, whatever is appended.
fn go_on(sim: &Arc<SimDisk>, model: &mut Model, random: &mut Random) {
    let (log, report) = open(&plain(sim), LogMode::Writable, model.checkpoint).unwrap();
    assert_kept(&log, &report, model);
    let entry = log.start_incarnation(Epoch::new(9)).unwrap();
    let kinds = [RecordKind::Write, RecordKind::WriteZeroes, RecordKind::Trim];
    for _ in 0..=random.below(3) {
        let record = model.issue(Issued {
            stamp: 0,
            kind: kinds[usize::try_from(random.below(3)).unwrap()],
            no_hole: false,
            lba: random.below(BLOCKS / 2),
            blocks: 1,
            writer: (entry.epoch, entry.incarnation),
        });
        let ticket = log.append(vec![record.change()]).unwrap();
        if random.below(2) == 0 {
            model.acknowledge(ticket.wait().unwrap());
        }
    }
    log.stop();
    drop(log);
    let sim = match random.below(3) {
        0 => sim.crash_lose_all(),
        1 => sim.crash_keep_all(),
        _ => sim.crash(random.next()),
    };
    let (log, report) = open(&plain(&sim), LogMode::Writable, model.checkpoint).unwrap();
    assert_kept(&log, &report, model);
    log.stop();
}

/// A crash in the middle of the open that repairs a crash, at every moment of it.
fn judge_open(
    sim: &Arc<SimDisk>,
    model: &Model,
    random: &mut Random,
    depth: u32,
    tally: &Mutex<Tally>,
) {
    let crashes: Arc<Mutex<Vec<Arc<SimDisk>>>> = Arc::default();
    let kept = Arc::clone(&crashes);
    let first = random.next();
    let visitor = move |sim: &Arc<SimDisk>| {
        let mut kept = kept.lock().unwrap();
        let choice = first.wrapping_add(kept.len() as u64);
        kept.push(sim.crash(choice));
        kept.push(sim.crash_keep_all());
    };
    let watch = Watch::over(&sim.crash_keep_all(), Arc::new(visitor));
    if let Ok((log, _)) = open(&watch, LogMode::Writable, model.checkpoint) {
        log.stop();
    }
    let crashes = std::mem::take(&mut *crashes.lock().unwrap());
    let before = tally.lock().unwrap().distinct;
    for crashed in crashes {
        judge(&crashed, model, random.next(), depth - 1, tally);
    }
    let mut tally = tally.lock().unwrap();
    tally.nested += tally.distinct - before;
}
