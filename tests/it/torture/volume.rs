//! A volume on the simulated disk, driven by operations and compared with the model.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall::snapshot::{
    Access, CreateOptions, Digest, Durability, Error, View, Volume, block_sum,
};
use seawall::wal::disk::Disk;
use seawall::wal::disk::sim::SimDisk;
use seawall::wal::{BlockSize, Clock, Geometry, Lsn, Role};

use super::model::{Model, Op, Shape};

/// A clock that ticks when it is read.
#[derive(Debug, Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn unix_ns(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }
}

fn dir() -> PathBuf {
    PathBuf::from("/volume")
}

fn options(shape: Shape) -> CreateOptions {
    let geometry = Geometry {
        block_size: BlockSize::from_bytes(shape.block as u64).unwrap(),
        blocks: shape.blocks as u64,
        segment_bytes: 1 << 20,
    };
    CreateOptions {
        volume: None,
        geometry,
        role: Role::Primary,
    }
}

pub(super) fn create(sim: &Arc<SimDisk>, shape: Shape) -> Result<(), Error> {
    let disk: Arc<dyn Disk> = sim.clone();
    Volume::create(&disk, &dir(), options(shape))
}

pub(super) fn open(sim: &Arc<SimDisk>, access: Access) -> Result<Arc<Volume>, Error> {
    let disk: Arc<dyn Disk> = sim.clone();
    let clock: Arc<dyn Clock> = Arc::new(Ticks::default());
    let (volume, _) = Volume::open(&disk, &dir(), &clock, access)?;
    if access == Access::Primary {
        volume.commit_best_effort()?;
    }
    Ok(volume)
}

/// Segment files with their bytes.
pub(super) fn segments(sim: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let below = |path: &Path| path.starts_with(dir().join("wal"));
    let paths = sim.paths().into_iter().filter(|path| below(path));
    paths
        .filter_map(|path| sim.read_file(&path).ok().map(|bytes| (path, bytes)))
        .collect()
}

/// Carries out one operation on both sides. An error leaves in the model what may have happened.
pub(super) fn apply(volume: &Volume, model: &mut Model, op: &Op) -> Result<(), Error> {
    let before = model.head();
    let issued = model.issue(op);
    match op {
        Op::Write {
            offset,
            bytes,
            durable,
        } => {
            let durability = match durable {
                true => Durability::Durable,
                false => Durability::Volatile,
            };
            let lsn = volume.write(*offset as u64, bytes, durability)?;
            assert_eq!(lsn, before.next(), "a short write is one record");
            if *durable {
                model.durable = lsn;
            }
        }
        Op::Zero {
            offset,
            length,
            no_hole,
        } => {
            let (offset, length) = (*offset as u64, *length as u64);
            let lsn = volume.write_zeroes(offset, length, *no_hole, Durability::Volatile)?;
            assert_eq!(lsn, before.next(), "short zeroes are one record");
        }
        Op::Trim { offset, length } => {
            volume.trim(*offset as u64, *length as u64, Durability::Volatile)?;
        }
        Op::Flush => model.durable = volume.flush()?,
        Op::Checkpoint => {
            volume.checkpoint(None)?;
        }
        Op::Step => {
            volume.log().step()?;
        }
        Op::AdvanceTail { behind } => {
            let committed = volume.log().frontiers().committed.get();
            volume.advance_tail(Lsn::new(committed.saturating_sub(*behind)))?;
        }
    }
    assert_eq!(
        volume.log().frontiers().head,
        model.head(),
        "{op:?} issued {issued}"
    );
    Ok(())
}

fn assert_chain(volume: &Volume) {
    let f = volume.log().frontiers();
    let chain = [f.tail, f.checkpoint, f.committed, f.durable, f.head];
    assert!(chain.is_sorted(), "the chain is broken: {f:?}");
}

/// Everything the volume says agrees with the model: head, every state it still has, its sums.
pub(super) fn assert_agrees(volume: &Arc<Volume>, model: &Model) {
    assert_chain(volume);
    let frontiers = volume.log().frontiers();
    assert_eq!(frontiers.head, model.head());
    assert_same(&read(volume), model.state(model.head()), "head");
    let report = volume.verify(&mut |_, _| {}).unwrap();
    assert!(report.damage.is_empty(), "{report:#?}");
    for lsn in frontiers.checkpoint.get()..=frontiers.head.get() {
        let lsn = Lsn::new(lsn);
        let mut bytes = vec![0; model.shape.bytes()];
        let view = volume
            .state_at(lsn, "torture")
            .unwrap_or_else(|e| panic!("{lsn}: {e}"));
        view.read(0, &mut bytes).unwrap();
        assert_same(&bytes, model.state(lsn), "a state");
        assert_eq!(
            view.digest().unwrap(),
            digest(model, lsn),
            "digest at {lsn}"
        );
    }
}

/// The digest of a state from its bytes alone.
fn digest(model: &Model, lsn: Lsn) -> Digest {
    let blocks = model.state(lsn).chunks(model.shape.block);
    (0..)
        .zip(blocks)
        .fold(Digest::ZERO, |digest, (lba, block)| {
            digest.with_block(lba, block_sum(block))
        })
}

fn read(volume: &Volume) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(volume.size()).unwrap()];
    volume.read(0, &mut bytes).unwrap();
    bytes
}

/// Compares without printing two whole images.
pub(super) fn assert_same(found: &[u8], wanted: &[u8], what: &str) {
    let first = found.iter().zip(wanted).position(|(a, b)| a != b);
    assert_eq!(first, None, "{what} differs first at this byte");
    assert_eq!(found.len(), wanted.len());
}
