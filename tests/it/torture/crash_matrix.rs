//! One short life of a volume, crashed at every change of the medium.

use std::sync::Arc;

use seawall::snapshot::{Access, Error};
use seawall::wal::Lsn;
use seawall::wal::disk::sim::SimDisk;

use super::model::{Model, Op, Shape};
use super::volume::{apply, assert_agrees, create, open};
use crate::harness::seeds;

const SHAPE: Shape = Shape {
    block: 512,
    blocks: 32,
};

fn write(block: usize, fill: u8, durable: bool) -> Op {
    let bytes = vec![fill; 2 * SHAPE.block];
    Op::Write {
        offset: block * SHAPE.block,
        bytes,
        durable,
    }
}

/// Appends, a checkpoint, a tail advance, overwrites of what was captured, and a reopen between.
fn lives() -> Vec<Vec<Op>> {
    vec![
        vec![
            write(0, 1, true),
            write(4, 2, false),
            Op::Flush,
            write(1, 3, false),
            Op::Checkpoint,
        ],
        vec![
            write(0, 4, false),
            Op::Trim {
                offset: 4 * SHAPE.block,
                length: SHAPE.block,
            },
            Op::AdvanceTail { behind: 0 },
            write(5, 5, true),
            Op::Zero {
                offset: 0,
                length: SHAPE.block,
                no_hole: false,
            },
            Op::Checkpoint,
            Op::AdvanceTail { behind: 1 },
            write(9, 6, false),
        ],
    ]
}

/// Lives until the end or until the disk freezes; true when it came to the end.
fn live(sim: &Arc<SimDisk>, model: &mut Model) -> bool {
    let through = |model: &mut Model| -> Result<(), Error> {
        create(sim, SHAPE)?;
        model.created = true;
        for life in lives() {
            let volume = open(sim, Access::Primary)?;
            for op in &life {
                apply(&volume, model, op)?;
            }
            volume.close()?;
            model.durable = model.head();
        }
        Ok(())
    };
    match through(model) {
        Ok(()) => true,
        Err(error) => {
            assert!(sim.is_frozen(), "only the freeze may fail it: {error}");
            false
        }
    }
}

/// Opens what the crash left, compares, crashes once more without a sync, and compares again: the
/// second open may not know less than the first (L-W2).
fn survives(crashed: &Arc<SimDisk>, mut model: Model) {
    let volume = match open(crashed, Access::Primary) {
        Ok(volume) => volume,
        Err(error) => {
            assert!(!model.created, "cannot be opened: {error}");
            // A creation that was cut off stands in nobody's way.
            create(crashed, SHAPE).unwrap();
            let volume = open(crashed, Access::Primary).unwrap();
            assert_agrees(&volume, &Model::new(SHAPE));
            return;
        }
    };
    model.came_back_at(volume.log().frontiers().head);
    assert_agrees(&volume, &model);
    let again = crashed.crash_lose_all();
    drop(volume);
    let volume = open(&again, Access::Primary).unwrap();
    model.came_back_at(volume.log().frontiers().head);
    assert_agrees(&volume, &model);
}

#[test]
fn every_crash_of_log_checkpoint_and_tail_advance_is_survived() {
    let first = SimDisk::new(1);
    assert!(
        live(&first, &mut Model::new(SHAPE)),
        "the life itself works"
    );
    let changes = first.changes();
    let whole = open(&first, Access::ReadOnly).unwrap();
    let frontiers = whole.log().frontiers();
    assert!(
        frontiers.tail > Lsn::ZERO && frontiers.checkpoint > frontiers.tail,
        "the life captures and reclaims: {frontiers:?}"
    );
    println!("{changes} changes of the medium, {} syncs", first.syncs());
    for boundary in 0..=changes {
        let sim = SimDisk::new(1);
        sim.freeze_after_ops(boundary);
        let mut model = Model::new(SHAPE);
        live(&sim, &mut model);
        println!(
            "boundary {boundary}: durable {}, head {}",
            model.durable,
            model.head()
        );
        survives(&sim.crash_lose_all(), model.clone());
        survives(&sim.crash_keep_all(), model.clone());
        for choice in seeds() {
            println!("  choice {choice}");
            survives(&sim.crash(choice), model.clone());
        }
    }
}
