//! The crash matrix: stories over checkpoint, tail advance, pins and install, cut at every change
//! of the medium and while operations are in flight, with any subset of what was not synced lost
//! or torn, and cut again while the first cut is being recovered from.
//!
//! `SEAWALL_SEEDS` says how many random stories are told, `SEAWALL_CHOICES` how many ways the
//! medium chooses at each moment, `SEAWALL_STRIDE` every which moment is cut. A failure prints the
//! line that repeats its state alone.

mod install;

use std::collections::HashSet;
use std::sync::Mutex;

use seawall_wal::disk::sim::{Rng, Visitor, Watch};
use xxhash_rust::xxh3::Xxh3;

use super::model::{number, stories};
use super::oracle::{Change, Oracle};
use super::promises::{agree, assert_nothing_preserved, settle, states_agree};
use super::story::{Op, Shape, Teller, open};
use super::*;

/// Choices at one moment that gave a state seen before, until no more are drawn there; each new
/// state allows two more.
const KNOWN_MAX: u64 = 3;

/// How many states were visited, how many of them were different.
#[derive(Debug, Default)]
struct Tally {
    seen: HashSet<u128>,
    visited: u64,
    distinct: u64,
    /// Of the distinct ones, those in the middle of an open that repairs a crash.
    nested: u64,
    /// Of the distinct ones, those whose newest meta has an open intent.
    intents: u64,
}

impl Tally {
    /// Whether this very disk, with these very promises, was not judged yet.
    fn is_new(&mut self, sim: &SimDisk, promise: &[u64]) -> bool {
        let mut hash = Xxh3::new();
        for number in promise {
            hash.update(&number.to_le_bytes());
        }
        for path in sim.paths() {
            hash.update(path.as_os_str().as_encoded_bytes());
            hash.update(&sim.read_file(&path).unwrap());
        }
        let new = self.seen.insert(hash.digest128());
        self.visited += 1;
        self.distinct += u64::from(new);
        new
    }
}

/// Prints how to repeat a state when judging it fails.
struct Rerun {
    test: &'static str,
    story: u64,
    moment: u64,
    choice: u64,
}

impl Drop for Rerun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "rerun: SEAWALL_STORY={} SEAWALL_MOMENT={} SEAWALL_CHOICE={} \
                 cargo test -p seawall-snapshot --lib {} -- --nocapture",
                self.story, self.moment, self.choice, self.test
            );
        }
    }
}

/// Demands of what a crash left that every promise was kept.
type Judge = Arc<dyn Fn(&Arc<SimDisk>, u64, &Mutex<Tally>) + Send + Sync>;

/// Cuts a disk at every which moment, in every way it is asked to.
fn cutter(
    test: &'static str,
    story: u64,
    gate: u64,
    tally: &Arc<Mutex<Tally>>,
    judge: Judge,
) -> Visitor {
    let choices = number("SEAWALL_CHOICES").unwrap_or(3);
    let stride = number("SEAWALL_STRIDE").unwrap_or(gate);
    let (only_moment, only_choice) = (number("SEAWALL_MOMENT"), number("SEAWALL_CHOICE"));
    let (moments, tally) = (AtomicU64::new(0), Arc::clone(tally));
    Arc::new(move |sim: &Arc<SimDisk>| {
        let moment = moments.fetch_add(1, Ordering::Relaxed);
        if only_moment.map_or(!(moment + story).is_multiple_of(stride), |only| {
            only != moment
        }) {
            return;
        }
        let (mut known, mut new) = (0, 0);
        for choice in 0..choices + 2 {
            if only_choice.is_some_and(|only| only != choice) {
                continue;
            }
            let _rerun = Rerun {
                test,
                story,
                moment,
                choice,
            };
            let seed = Rng::new(story << 40 ^ moment << 16 ^ choice).next();
            let crashed = match choice {
                0 => sim.crash_lose_all(),
                1 => sim.crash_keep_all(),
                _ => sim.crash(seed),
            };
            let before = tally.lock().unwrap().distinct;
            judge(&crashed, seed, &tally);
            match tally.lock().unwrap().distinct > before {
                true => new += 1,
                false => known += 1,
            }
            // Where little is unsynced there is little to choose.
            if known > KNOWN_MAX + 2 * new {
                break;
            }
        }
    })
}

/// The disks that cuts in the middle of `run` leave: one choice of the medium at every moment.
fn cuts(
    sim: &Arc<SimDisk>,
    random: &mut Rng,
    run: impl FnOnce(Arc<dyn Disk>),
) -> Vec<Arc<SimDisk>> {
    let left: Arc<Mutex<Vec<Arc<SimDisk>>>> = Arc::default();
    let (kept, first) = (Arc::clone(&left), random.next());
    let visitor = move |sim: &Arc<SimDisk>| {
        let mut kept = kept.lock().unwrap();
        let choice = first.wrapping_add(kept.len() as u64);
        kept.push(sim.crash(choice));
    };
    run(Watch::over(&sim.crash_keep_all(), Arc::new(visitor)));
    std::mem::take(&mut *left.lock().unwrap())
}

/// Opens what a crash left and demands every promise: as it is, after a second crash, in the middle
/// of the recovery, and after new records and a new capture went behind what came back.
fn judge(sim: &Arc<SimDisk>, oracle: &Oracle, seed: u64, depth: u32, tally: &Mutex<Tally>) {
    let promise = [oracle.head(), oracle.durable, oracle.checkpoint.asked];
    if !tally.lock().unwrap().is_new(sim, &promise) {
        return;
    }
    let mut random = Rng::new(seed);
    if depth > 0 && random.below(12) == 0 {
        let nested = cuts(sim, &mut random, |disk| drop(open(disk)));
        let before = tally.lock().unwrap().distinct;
        for crashed in nested {
            judge(&crashed, oracle, random.next(), depth - 1, tally);
        }
        let mut tally = tally.lock().unwrap();
        tally.nested += tally.distinct - before;
    }
    let inspected = Place::simulated(&sim.crash_keep_all()).try_open("volume", Access::ReadOnly);
    if let Ok(inspected) = &inspected
        && inspected.base_state().intent.is_some()
    {
        tally.lock().unwrap().intents += 1;
        is_exact_before_the_intent_is_finished(inspected, oracle);
    }
    drop(inspected);
    let volume = match open(sim.clone()) {
        Ok(volume) => volume,
        Err(error) => {
            assert!(!oracle.created, "cannot be opened: {error}");
            return;
        }
    };
    let mut oracle = oracle.clone();
    settle(&volume, &mut oracle);
    agree(&volume, &oracle).unwrap();
    assert_eq!(volume.base_state().intent, None, "an open finishes it (D9)");
    assert_nothing_preserved(sim);
    drop(volume);
    let again = sim.crash_lose_all();
    go_on(&again, &mut oracle, &mut random);
}

/// D9: an inspector serves head exactly and refuses what the intent made uncertain.
fn is_exact_before_the_intent_is_finished(volume: &Arc<Volume>, oracle: &Oracle) {
    let target = volume.base_state().intent.unwrap();
    let head = volume.log().frontiers().head.get();
    let newest = oracle.state(head);
    oracle
        .check_bytes(&newest, "head", |offset, out| volume.read(offset, out))
        .unwrap();
    oracle.each_state(0, head, |at, state| {
        let checked = volume.state_at(lsn(at), "judge");
        match checked.and_then(|view| oracle.check_view(&view, state)) {
            Ok(()) => {}
            Err(Error::IntentOpen { .. } | Error::StateReclaimed { .. }) => {
                assert!(lsn(at) < target, "state at {at} with an intent to {target}");
            }
            Err(error) => panic!("state at {at}: {error}"),
        }
    });
}

/// The second open knows no less (L-W2), and what was cut never comes back, whatever is written and
/// captured behind it (A240).
fn go_on(sim: &Arc<SimDisk>, oracle: &mut Oracle, random: &mut Rng) {
    let volume = open(sim.clone()).unwrap();
    settle(&volume, oracle);
    agree(&volume, oracle).unwrap();
    let lba = random.below(oracle.blocks);
    let bytes = super::story::bytes(random, oracle.block);
    oracle.issue(&Change::Write(lba * oracle.block, bytes.clone()));
    let at = volume
        .write(lba * oracle.block, &bytes, Durability::Durable)
        .unwrap();
    oracle.durable = at.get();
    if random.below(2) == 0 {
        oracle.checkpoint.settle(at.get());
        oracle.tail.settle(at.get());
        volume.advance_tail(at).unwrap();
    }
    drop(volume);
    let sim = match random.below(3) {
        0 => sim.crash_lose_all(),
        1 => sim.crash_keep_all(),
        _ => sim.crash(random.next()),
    };
    let volume = open(sim).unwrap();
    settle(&volume, oracle);
    agree(&volume, oracle).unwrap();
}

const SHAPE: Shape = Shape {
    block: 512,
    blocks: 48,
};

/// Captures of one block, of many and of none, holes, zeros in place, parts of blocks; views that
/// are kept while the image moves on and go in another order than they came; two tail advances, one
/// of them held back by a pin.
fn fixed_story() -> Vec<Op> {
    let write = |lba, blocks, fill| SHAPE.write(lba, blocks, fill);
    let trim = |lba, blocks| SHAPE.trim(lba, blocks, Durability::Volatile);
    vec![
        write(0, 4, 1),
        write(33, 2, 2),
        Op::Flush,
        Op::Checkpoint(0),
        Op::PinSnapshot,
        write(1, 2, 3),
        trim(33, 1),
        Op::ZeroInPlace(3 * SHAPE.block, SHAPE.block),
        Op::Change(Change::Write(700, vec![9; 900]), Durability::Durable),
        Op::PinBase(1),
        write(0, 1, 4),
        Op::Flush,
        Op::Checkpoint(2),
        Op::ReadPin(0),
        Op::AdvanceTail(1),
        Op::Checkpoint(0),
        Op::PinSnapshot,
        write(40, 3, 5),
        Op::DropPin(0),
        Op::Flush,
        Op::Checkpoint(0),
        Op::ReadPin(1),
        Op::DropPin(0),
        Op::DropPin(0),
        Op::AdvanceTail(0),
        trim(0, SHAPE.blocks),
        write(5, 1, 6),
        Op::Change(Change::Zero(10, 600), Durability::Volatile),
        Op::Flush,
        Op::AdvanceTail(1),
        write(6, 1, 7),
        Op::Close,
        Op::Checkpoint(0),
        write(7, 1, 8),
    ]
}

/// Pins of every kind over three captures, whose preserved blocks overlap, released from the
/// middle, the newest and the oldest end, each followed by what it held back: a layer that is
/// punched out of the scratch file, the file itself, the log.
fn release_story() -> Vec<Op> {
    let round = |first, blocks, fill| [SHAPE.write(first, blocks, fill), Op::Flush];
    let mut ops = Vec::new();
    ops.extend(round(0, 8, 1));
    ops.extend([Op::Checkpoint(0), Op::PinSnapshot, Op::PinBase(0)]);
    ops.extend(round(2, 4, 2));
    ops.extend([Op::Checkpoint(0), Op::PinSnapshot, Op::PinState(0)]);
    ops.extend(round(4, 6, 3));
    ops.extend([Op::Checkpoint(0), Op::PinBase(0)]);
    ops.push(SHAPE.trim(0, 6, Durability::Volatile));
    ops.extend(round(7, 3, 4));
    ops.extend([Op::Checkpoint(0), Op::AdvanceTail(0)]);
    for pin in [2, 3, 0] {
        ops.extend([Op::DropPin(pin), Op::Step, Op::ReadPin(0), Op::ReadPin(1)]);
        ops.push(Op::AdvanceTail(0));
    }
    // The last of the first capture goes while the next capture has kept more for the other.
    ops.extend(round(0, 12, 5));
    ops.extend([Op::Checkpoint(0), Op::DropPin(0), Op::Step, Op::ReadPin(0)]);
    ops.extend([Op::DropPin(0), Op::Step, Op::AdvanceTail(0)]);
    // Nothing is left, and the next view begins a new scratch file.
    ops.extend([Op::PinSnapshot, SHAPE.write(3, 2, 6), Op::Flush]);
    ops.extend([Op::Checkpoint(0), Op::DropPin(0), Op::AdvanceTail(0)]);
    ops
}

/// Small records only, so that each is there or not.
fn random_story(seed: u64) -> Vec<Op> {
    let mut random = Rng::new(seed);
    let steps = (0..).map(|_| SHAPE.op(&mut random));
    let small = |op: &Op| match op {
        Op::Change(Change::Write(_, bytes), _) => bytes.len() < 1 << 15,
        Op::Change(Change::Zero(_, length) | Change::Trim(_, length), _) => *length < 1 << 15,
        Op::Read(..) | Op::NextData(_) | Op::Look(_) | Op::Refusals => false,
        _ => true,
    };
    steps.filter(small).take(30).collect()
}

fn tell(test: &'static str, story: u64, ops: &[Op], tally: &Arc<Mutex<Tally>>) {
    println!("story {story}");
    let sim = match story % 2 {
        0 => SimDisk::new(story),
        _ => SimDisk::with_syncs(story),
    };
    let oracle = Arc::new(Mutex::new(Oracle::new(SHAPE.block, SHAPE.blocks)));
    let promises = Arc::clone(&oracle);
    let judge: Judge = Arc::new(move |sim, seed, tally| {
        // The story itself holds the oracle for moments only, and never over an operation.
        let oracle = promises.lock().unwrap().clone();
        judge(sim, &oracle, seed, 1, tally);
    });
    let visitor = cutter(test, story, 3, tally, judge);
    let mut teller = Teller::begin(sim, oracle, visitor, SHAPE).unwrap();
    for op in ops {
        let told = teller.carry_out(op);
        assert!(told.is_ok(), "story {story}, {op:?}: {told:?}");
    }
    tally.lock().unwrap().seen.clear();
}

fn report(test: &str, tally: &Mutex<Tally>) {
    let tally = tally.lock().unwrap();
    println!(
        "{test}: {} states visited, {} of them different, {} of those in the middle of an open, \
         {} with an open intent",
        tally.visited, tally.distinct, tally.nested, tally.intents
    );
}

#[test]
fn every_crash_of_captures_reclaims_and_pins_is_survived() {
    let test = "every_crash_of_captures_reclaims_and_pins_is_survived";
    let tally = Arc::default();
    let stories = number("SEAWALL_STORY").map_or(vec![0, 1], |story| vec![story]);
    for story in &stories {
        tell(test, *story, &fixed_story(), &tally);
    }
    report(test, &tally);
    let tally = tally.lock().unwrap();
    if number("SEAWALL_MOMENT").is_none() {
        assert!(tally.distinct > 100, "the story has many states: {tally:?}");
        assert!(tally.nested > 10, "opens are cut as well: {tally:?}");
        assert!(tally.intents > 20, "captures are cut: {tally:?}");
    }
}

#[test]
fn every_crash_while_pins_are_released_is_survived_and_preserves_nothing() {
    let test = "every_crash_while_pins_are_released_is_survived_and_preserves_nothing";
    let tally = Arc::default();
    let stories = number("SEAWALL_STORY").map_or(vec![0, 1], |story| vec![story]);
    for story in &stories {
        tell(test, *story, &release_story(), &tally);
    }
    report(test, &tally);
    let tally = tally.lock().unwrap();
    if number("SEAWALL_MOMENT").is_none() {
        assert!(tally.distinct > 100, "the story has many states: {tally:?}");
        assert!(tally.intents > 20, "captures are cut: {tally:?}");
    }
}

#[test]
fn every_crash_of_a_random_story_of_a_volume_is_survived() {
    let test = "every_crash_of_a_random_story_of_a_volume_is_survived";
    let tally = Arc::default();
    for story in stories() {
        tell(test, story, &random_story(story), &tally);
        if story % 100 == 99 {
            report(test, &tally);
        }
    }
    report(test, &tally);
    assert!(tally.lock().unwrap().visited > 0);
}
