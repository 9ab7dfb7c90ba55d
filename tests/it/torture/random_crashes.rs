//! Many lives of one volume, each ended by a crash at a random change of the medium.

use std::sync::Arc;

use seawall::snapshot::Access;
use seawall::wal::disk::sim::SimDisk;

use super::model::{Model, Shape};
use super::volume::{apply, assert_agrees, create, open};
use crate::harness::{Random, seeds};

const LIVES: u64 = 6;
const OPS_MAX: u64 = 60;

/// One life: work until the disk freezes or the operations run out; gives the disk after the crash.
fn live(sim: &Arc<SimDisk>, model: &mut Model, random: &mut Random) -> Arc<SimDisk> {
    sim.freeze_after_ops(sim.changes() + random.below(150));
    if let Ok(volume) = open(sim, Access::Primary) {
        for _ in 0..random.below(OPS_MAX) {
            let op = model.shape.op(random);
            if let Err(error) = apply(&volume, model, &op) {
                assert!(sim.is_frozen(), "{op:?}: {error}");
                break;
            }
        }
    }
    match random.below(4) {
        0 => sim.crash_lose_all(),
        1 => sim.crash_keep_all(),
        _ => sim.crash(random.next()),
    }
}

fn torture(seed: u64) {
    let mut random = Random::new(seed);
    let block = [512, 4096][usize::try_from(random.below(2)).unwrap()];
    let mut model = Model::new(Shape { block, blocks: 48 });
    let mut sim = SimDisk::new(seed);
    create(&sim, model.shape).unwrap();
    for life in 0..LIVES {
        println!("seed {seed}, life {life}");
        let crashed = live(&sim, &mut model, &mut random);
        let volume = open(&crashed, Access::Primary).unwrap_or_else(|e| panic!("{e}"));
        model.came_back_at(volume.log().frontiers().head);
        assert_agrees(&volume, &model);
        if random.below(2) == 0 {
            volume.close().unwrap();
        }
        drop(volume);
        sim = crashed;
    }
}

#[test]
fn no_crash_loses_what_was_flushed_or_invents_what_was_not() {
    for seed in seeds() {
        torture(seed);
    }
}
