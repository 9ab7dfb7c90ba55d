//! Every single bit of image, sums and meta, flipped: found and named, or without any effect; never
//! returned as data (S2). `SEAWALL_STRIDE` says every which bit is tried.

use super::model::number;
use super::oracle::{Change, Oracle};
use super::story::{Op, Shape, Teller};
use super::*;

const SHAPE: Shape = Shape {
    block: 512,
    blocks: 24,
};
const IMAGE: &str = "/volume/base/1/image";
const SUMS: &str = "/volume/base/1/sums";
const META: &str = "/volume/meta";

/// Blocks that only the image has, blocks whose record is still in the log, blocks that a newer
/// record hides, holes, and zeros that keep their space.
fn story() -> Vec<Op> {
    let write = |lba: u64, blocks: u64, fill: u8| {
        let bytes = vec![fill; usize::try_from(blocks * SHAPE.block).unwrap()];
        Op::Change(
            Change::Write(lba * SHAPE.block, bytes),
            Durability::Volatile,
        )
    };
    vec![
        write(0, 6, 0x11),
        write(9, 2, 0x22),
        Op::Change(
            Change::Trim(2 * SHAPE.block, SHAPE.block),
            Durability::Volatile,
        ),
        Op::Flush,
        Op::AdvanceTail(0),
        write(5, 2, 0x33),
        Op::ZeroInPlace(9 * SHAPE.block, SHAPE.block),
        write(20, 1, 0x44),
        Op::Flush,
        Op::Checkpoint(0),
        write(1, 1, 0x55),
        write(21, 2, 0x66),
    ]
}

fn told() -> Teller {
    let mut teller = Teller::alone(SimDisk::new(3), SHAPE).unwrap();
    for op in story() {
        teller.carry_out(&op).unwrap();
    }
    teller
}

/// The disk after a clean close, and what it holds.
fn closed() -> (Arc<SimDisk>, Oracle) {
    let mut teller = told();
    teller.volume().close().unwrap();
    teller.leave();
    let oracle = teller.oracle().clone();
    (teller.sim.crash_keep_all(), oracle)
}

/// The disk in the middle of a capture: meta has the intent, the image some of its blocks.
fn half_captured() -> (Arc<SimDisk>, Oracle) {
    use seawall_wal::disk::sim::{Effect, Fault};
    let mut teller = told();
    teller.carry_out(&Op::Flush).unwrap();
    let fails = Fault::at(seawall_wal::IoOp::Sync, Effect::FailErrno(5)).on("/image");
    teller.sim.inject(fails);
    let refused = teller.carry_out(&Op::Checkpoint(0));
    assert!(
        refused.is_err() && teller.sim.faults_left() == 0,
        "{refused:?}"
    );
    teller.leave();
    let oracle = teller.oracle().clone();
    (teller.sim.crash_keep_all(), oracle)
}

/// What readers of a volume saw of a flip.
#[derive(Debug, Default)]
struct Seen {
    /// Damage that `verify` names.
    found: Vec<crate::DamageFound>,
    /// Blocks that a read or a view refused.
    refused: Vec<u64>,
}

/// Reads everything a volume has, block by block; a wrong byte fails, whatever else is found.
fn look(volume: &Arc<Volume>, oracle: &Oracle) -> Seen {
    let f = volume.log().frontiers();
    assert_eq!(f.head, lsn(oracle.head()));
    let mut seen = Seen {
        found: damage_of(volume),
        refused: Vec::new(),
    };
    let mut block = vec![0; usize::try_from(SHAPE.block).unwrap()];
    let check = |lba: u64, at: u64, found: &[u8], state: &super::oracle::State| {
        let same = match state.get(&lba) {
            None => found.iter().all(|byte| *byte == 0),
            Some(wanted) => found == &wanted[..],
        };
        assert!(same, "block {lba} at {at} is wrong and was returned");
    };
    oracle.each_state(f.checkpoint.get(), oracle.head(), |at, state| {
        let view = match volume.state_at(lsn(at), "flips") {
            Ok(view) => view,
            Err(Error::IntentOpen { .. }) => return,
            Err(error) => panic!("state at {at}: {error}"),
        };
        for lba in 0..SHAPE.blocks {
            let mut one = |read: Result<(), Error>, found: &[u8]| match read {
                Ok(()) => check(lba, at, found, state),
                Err(Error::ImageDamaged { lba: named, .. }) => {
                    assert_eq!(named.0, lba, "another block is named");
                    seen.refused.push(lba);
                }
                Err(error) => panic!("block {lba} at {at}: {error}"),
            };
            let read = view.read(lba * SHAPE.block, &mut block);
            one(read, &block);
            if at == oracle.head() {
                let read = volume.read(lba * SHAPE.block, &mut block);
                one(read, &block);
            }
        }
    });
    seen
}

/// Every which bit, from a first one that differs with the file.
fn bits(bytes: u64, gate: u64) -> impl Iterator<Item = (u64, u8)> {
    let stride = usize::try_from(number("SEAWALL_STRIDE").unwrap_or(gate)).unwrap();
    (0..bytes * 8)
        .step_by(stride)
        .map(|bit| (bit / 8, 1 << (bit % 8)))
}

#[test]
fn a_flipped_bit_of_image_or_sums_is_named_and_never_read() {
    let (sim, oracle) = closed();
    let block = SHAPE.block;
    for (path, size, gate) in [(IMAGE, block, 4999), (SUMS, 16, 131)] {
        let (mut flips, mut repaired) = (0, 0);
        let sums = path == SUMS;
        // All of the sums, and the sum over them, lie in one sector.
        let bytes = if sums { 512 } else { SHAPE.blocks * size };
        for (at, mask) in bits(bytes, gate) {
            let cut = sim.crash_keep_all();
            cut.flip(path.as_ref(), at, mask).unwrap();
            let flipped = (at / size).min(SHAPE.blocks - 1);
            let story = format!("{path}: {mask:#04x} at {at}, block {flipped}");
            let inspect = Place::simulated(&cut).try_open("volume", Access::ReadOnly);
            let seen = look(&inspect.unwrap(), &oracle);
            let named = |damage: &crate::DamageFound| {
                let base = damage.file.starts_with("/volume/base/1");
                base && damage
                    .blocks
                    .is_some_and(|(lba, count)| (lba..lba + count).contains(&flipped))
            };
            assert!(seen.found.iter().any(named), "{story}: {:?}", seen.found);
            assert!(
                seen.refused.iter().all(|lba| *lba == flipped),
                "{story}: {seen:?}"
            );
            // A writer serves no wrong byte either, and a new version heals the block.
            let volume = super::story::open(cut.clone()).unwrap();
            let seen = look(&volume, &oracle);
            assert!(
                seen.refused.iter().all(|lba| *lba == flipped),
                "{story}: {seen:?}"
            );
            assert!(seen.refused.is_empty() || !sums, "{story}: {seen:?}");
            repaired += u64::from(seen.refused.is_empty());
            flips += 1;
            let bytes = vec![0x77; usize::try_from(block).unwrap()];
            let healed = volume
                .write(flipped * block, &bytes, Durability::Durable)
                .unwrap();
            volume.advance_tail(healed).unwrap();
            let mut oracle = oracle.clone();
            oracle.issue(&Change::Write(flipped * block, bytes));
            let digest = Oracle::digest(&oracle.state(oracle.head()));
            assert_eq!(volume.digest(), (healed, digest), "{story}");
            let found = damage_of(&volume);
            assert!(found.is_empty(), "{story}: {found:?}");
        }
        println!("{path}: {flips} flips, {repaired} of them without a refused read");
        assert!(
            repaired > 0 && (sums || repaired < flips),
            "both kinds of blocks were hit"
        );
    }
}

#[test]
fn a_flipped_bit_of_meta_changes_nothing_that_is_served() {
    for (name, (sim, oracle)) in [("closed", closed()), ("half captured", half_captured())] {
        let size = sim.read_file(META.as_ref()).unwrap().len() as u64;
        let (mut flips, mut named) = (0, 0);
        for (at, mask) in bits(size, 49_999) {
            let cut = sim.crash_keep_all();
            cut.flip(META.as_ref(), at, mask).unwrap();
            let inspected = Place::simulated(&cut).try_open("volume", Access::ReadOnly);
            let inspected = inspected.unwrap_or_else(|e| panic!("{name}, {mask} at {at}: {e}"));
            let seen = look(&inspected, &oracle);
            assert_eq!(seen.refused, [0; 0], "{name}, {mask} at {at}");
            flips += 1;
            named += u64::from(!seen.found.is_empty());
            drop(inspected);
            let volume = super::story::open(cut.clone()).unwrap();
            let mut promised = oracle.clone();
            super::promises::settle(&volume, &mut promised);
            super::promises::agree(&volume, &promised).unwrap();
            drop(volume);
            // What an open wrote stands on its own: the damaged copy is not needed again.
            let volume = super::story::open(cut.crash_lose_all()).unwrap();
            super::promises::agree(&volume, &promised).unwrap();
        }
        println!("meta, {name}: {flips} flips, {named} of them named by verify");
    }
}
