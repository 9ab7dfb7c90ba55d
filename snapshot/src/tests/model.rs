//! Random stories of every operation, against the oracle: shapes, sizes around the boundaries of
//! blocks, pins in every order, reopens and kills. `SEAWALL_SEEDS` says how many; a failing one
//! prints its seed, and `SEAWALL_STORY` repeats it alone.

use std::collections::HashMap;
use std::ops::Range;

use seawall_wal::disk::sim::Rng;

use super::oracle::{Oracle, State};
use super::promises::{agree, assert_nothing_preserved};
use super::story::{Op, Shape, Teller};
use super::*;

/// A number from the environment.
pub(super) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number")),
    )
}

/// Which random stories are told.
pub(super) fn stories() -> Range<u64> {
    match number("SEAWALL_STORY") {
        Some(story) => story..story + 1,
        None => 0..number("SEAWALL_SEEDS").unwrap_or(4),
    }
}

const SHAPES: [Shape; 6] = [
    shape(512, 40),
    shape(4096, 24),
    shape(65536, 40),
    // A state of one block, chunks that end inside a page of sums, and many TiB.
    shape(512, 1),
    shape(4096, 700),
    shape(4096, 1 << 31),
];

const fn shape(block: u64, blocks: u64) -> Shape {
    Shape { block, blocks }
}

const STEPS: u64 = 90;

fn tell(seed: u64) {
    let mut random = Rng::new(seed);
    let shape = SHAPES[usize::try_from(seed).unwrap() % SHAPES.len()];
    println!("story {seed}: {shape:?}");
    let sim = match random.below(2) {
        0 => SimDisk::new(seed),
        _ => SimDisk::with_syncs(seed),
    };
    let mut teller = Teller::alone(sim, shape).unwrap();
    for step in 0..STEPS {
        let op = shape.op(&mut random);
        if let Err(error) = teller.carry_out(&op) {
            panic!("story {seed}, step {step}: {op:?}: {error}");
        }
        if teller.pins() == 0 {
            assert_nothing_preserved(&teller.sim);
        }
    }
    while teller.pins() > 0 {
        teller.drop_pin(random.next());
    }
    teller.agree().unwrap();
}

#[test]
fn every_random_story_reads_as_its_acknowledged_writes_replayed() {
    for seed in stories() {
        tell(seed);
    }
}

/// Two volumes that come to the same states on different ways have the same digests, and no two
/// different states have one digest (D18).
#[test]
fn digests_are_equal_iff_the_states_are() {
    let mut known: HashMap<Digest, State> = HashMap::new();
    let mut twice = 0;
    for seed in stories() {
        let mut random = Rng::new(seed);
        println!("story {seed}");
        let place = Place::simulated(&SimDisk::new(seed));
        let volume = place.primary();
        let mut oracle = Oracle::new(BLOCK as u64, BLOCKS);
        for _ in 0..40 {
            // Few blocks with few values: states come back, within a story and among stories.
            let (lba, value) = (random.below(2), u8::try_from(random.below(3)).unwrap());
            let bytes = vec![value; BLOCK];
            oracle.issue(&super::oracle::Change::Write(lba * BLOCK as u64, bytes));
            put(&volume, lba, value);
            if random.below(5) == 0 {
                volume.checkpoint(None).unwrap();
            }
            let state = oracle.state(oracle.head());
            let digest = volume.digest_at(lsn(oracle.head())).unwrap();
            match known.get(&digest) {
                Some(known) => twice += u64::from(*known == state),
                None => drop(known.insert(digest, state.clone())),
            }
            assert_eq!(known[&digest], state, "two states with digest {digest}");
        }
    }
    // Two blocks with three values each make nine states, and one digest each.
    assert!(known.len() <= 9, "{} digests of 9 states", known.len());
    assert!(twice > 0, "no state came back");
}

/// Nobody has to write, or to ask again, for the space that a pin held (A197).
#[test]
fn the_log_goes_with_the_last_pin_that_held_it() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    put(&volume, 1, 1);
    volume.checkpoint(None).unwrap();
    let pins = [
        volume.pin_snapshot("first").unwrap(),
        volume.pin_snapshot("second").unwrap(),
    ];
    put(&volume, 1, 2);
    assert_eq!(volume.advance_tail(lsn(2)).unwrap(), lsn(1));
    let [first, second] = pins;
    drop(first);
    assert_eq!(volume.log().frontiers().tail, lsn(1));
    drop(second);
    // What the thread of the log does where there is one.
    volume.log().step().unwrap();
    assert_eq!(volume.log().frontiers().tail, lsn(2));
}

/// A replica that is ahead drops records, captures what it keeps, and takes other records in their
/// place: every state it still has is that of the primary (A024, A026).
#[test]
fn a_replica_that_is_truncated_again_and_again_equals_its_primary() {
    for seed in stories() {
        println!("story {seed}");
        truncations(seed);
    }
}

fn truncations(seed: u64) {
    let mut random = Rng::new(seed);
    let shape = shape(512, 24);
    let mut primary = Teller::alone(SimDisk::new(seed), shape).unwrap();
    for _ in 0..30 {
        let change = shape.change(&mut random);
        primary
            .carry_out(&Op::Change(change, Durability::Volatile))
            .unwrap();
    }
    primary.carry_out(&Op::Flush).unwrap();
    let history = primary.oracle().clone();
    let place = Place::simulated(&SimDisk::new(seed + 1));
    place.create("volume", shape.options(Role::Replica));
    let mut replica = place.try_open("volume", Access::Replica).unwrap();
    for _ in 0..40 {
        let f = replica.log().frontiers();
        match random.below(6) {
            0 => {
                let floor = f.committed.get();
                let after = floor + random.below(f.head.get() - floor + 1);
                replica.truncate(lsn(after)).unwrap();
                assert_eq!(replica.log().frontiers().head, lsn(after));
                let gone = replica.state_at(lsn(after + 1), "test");
                assert!(
                    matches!(gone, Err(Error::StateBeyondHead { .. })),
                    "{gone:?}"
                );
            }
            1 => {
                let target =
                    f.committed.get() + random.below(f.durable.get() - f.committed.get() + 1);
                replica.log().commit(lsn(target)).unwrap();
                let below = target
                    .checked_sub(1)
                    .map(|below| replica.truncate(lsn(below)));
                assert!(
                    matches!(
                        below,
                        None | Some(Err(Error::Log(seawall_wal::Error::Chain { .. })))
                    ),
                    "{below:?}"
                );
            }
            2 => drop(replica.checkpoint(None).unwrap()),
            3 => drop(replica.advance_tail(f.committed).unwrap()),
            4 => {
                replica.close().unwrap();
                drop(replica);
                replica = place.try_open("volume", Access::Replica).unwrap();
            }
            _ => {
                let through = history.head().min(f.head.get() + 1 + random.below(6));
                let range = seawall_wal::LsnRange::new(f.head, lsn(through));
                let records = primary.volume().log().read(range).unwrap();
                let records = records.map(Result::unwrap).collect();
                replica.receive(records).unwrap().wait().unwrap();
            }
        }
        let mut so_far = history.clone();
        so_far.cut(replica.log().frontiers().head.get());
        agree(&replica, &so_far).unwrap();
    }
}
