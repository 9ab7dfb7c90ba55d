//! One flipped bit in a log that was closed cleanly is found, and never read as good.

use seawall::snapshot::Access;
use seawall::wal::disk::sim::SimDisk;

use super::model::{Model, Op, Shape};
use super::volume::{apply, assert_same, create, open, segments};
use crate::harness::{Random, seeds};

const SHAPE: Shape = Shape {
    block: 512,
    blocks: 32,
};
const FLIPS: u64 = 40;

/// After the flip: verify reports damage, or the flip hit nothing that a record rests on and every
/// byte still reads as written.
fn is_noticed(sim: &std::sync::Arc<SimDisk>, model: &Model) -> bool {
    let Ok(volume) = open(sim, Access::ReadOnly) else {
        return true;
    };
    let report = volume.verify(&mut |_, _| {}).unwrap();
    if !report.damage.is_empty() {
        return true;
    }
    assert_eq!(
        volume.log().frontiers().head,
        model.head(),
        "records are missing, verify is silent"
    );
    let mut bytes = vec![0; SHAPE.bytes()];
    volume.read(0, &mut bytes).unwrap();
    assert_same(&bytes, model.state(model.head()), "head");
    false
}

#[test]
fn a_flipped_bit_after_a_clean_close_is_found_or_harmless() {
    for seed in seeds() {
        let mut random = Random::new(seed);
        let sim = SimDisk::new(seed);
        let mut model = Model::new(SHAPE);
        create(&sim, SHAPE).unwrap();
        let volume = open(&sim, Access::Primary).unwrap();
        for fill in 0..12 {
            let offset = SHAPE.block * usize::try_from(random.below(30)).unwrap();
            let bytes = vec![fill + 1; SHAPE.block];
            apply(
                &volume,
                &mut model,
                &Op::Write {
                    offset,
                    bytes,
                    durable: true,
                },
            )
            .unwrap();
        }
        volume.close().unwrap();
        drop(volume);
        let mut noticed = 0;
        for _ in 0..FLIPS {
            let cut = sim.crash_keep_all();
            let files = segments(&cut);
            let used = |bytes: &[u8]| bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1);
            let (path, bytes) = files.iter().max_by_key(|(_, bytes)| used(bytes)).unwrap();
            let at = random.below(used(bytes) as u64);
            let mask = 1 << random.below(8);
            println!(
                "seed {seed}: flip {mask:#04x} at {at} of {}",
                path.display()
            );
            cut.flip(path, at, mask).unwrap();
            noticed += u64::from(is_noticed(&cut, &model));
        }
        println!("seed {seed}: {noticed} of {FLIPS} flips noticed");
        assert!(noticed > 0, "no flip was noticed");
    }
}
