//! The volume as its users see it, over the simulated disk and over real files.

mod capture;
mod crash;
mod damage;
mod faults;
mod fill;
mod flips;
mod in_place;
mod install;
mod install_faults;
mod limited;
mod lost_sums;
mod matrix;
mod model;
mod opening;
mod oracle;
mod pins;
mod promises;
mod races;
mod releases;
mod repair;
mod scrub;
mod stamps;
mod states;
mod story;
mod threads;
mod views;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::disk::sim::SimDisk;
use seawall_wal::disk::{Disk, FileDisk};
use seawall_wal::{BlockSize, Clock, Geometry, Lsn, Role, VolumeId};

use crate::{Access, CreateOptions, Digest, Durability, Error, View, Volume, block_sum};

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

const BLOCK: usize = 4096;
const BLOCKS: u64 = 64;

/// A place for volumes, on a simulated disk unless it says otherwise.
struct Place {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    root: PathBuf,
    _scratch: Option<tempfile::TempDir>,
}

impl Place {
    fn simulated(sim: &Arc<SimDisk>) -> Place {
        Place {
            disk: sim.clone(),
            clock: Arc::new(Ticks::default()),
            root: "/".into(),
            _scratch: None,
        }
    }

    fn on_files() -> Place {
        let scratch = tempfile::tempdir().unwrap();
        Place {
            disk: FileDisk::new(),
            clock: Arc::new(Ticks::default()),
            root: scratch.path().into(),
            _scratch: Some(scratch),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn create(&self, name: &str, options: CreateOptions) {
        Volume::create(&self.disk, &self.dir(name), options).unwrap();
    }

    fn try_open(&self, name: &str, access: Access) -> Result<Arc<Volume>, Error> {
        let opened = Volume::open(&self.disk, &self.dir(name), &self.clock, access);
        opened.map(|(volume, _)| volume)
    }

    /// Opens a volume that nobody replicates.
    fn open(&self, name: &str) -> Arc<Volume> {
        let volume = self.try_open(name, Access::Primary).unwrap();
        volume.commit_best_effort().unwrap();
        volume
    }

    /// A new primary of 64 blocks, open.
    fn primary(&self) -> Arc<Volume> {
        self.primary_of(BLOCKS)
    }

    /// A new primary of so many blocks, open.
    fn primary_of(&self, blocks: u64) -> Arc<Volume> {
        let options = CreateOptions {
            geometry: geometry(blocks),
            ..options(Role::Primary)
        };
        self.create("volume", options);
        self.open("volume")
    }
}

fn geometry(blocks: u64) -> Geometry {
    Geometry {
        block_size: BlockSize::DEFAULT,
        blocks,
        segment_bytes: 1 << 20,
    }
}

fn options(role: Role) -> CreateOptions {
    CreateOptions {
        volume: Some(VolumeId([7; 16])),
        geometry: geometry(BLOCKS),
        role,
    }
}

fn lsn(number: u64) -> Lsn {
    Lsn::new(number)
}

/// Sets block `lba` to `value` at the next LSN.
fn put(volume: &Volume, lba: u64, value: u8) -> Lsn {
    let bytes = [value; BLOCK];
    volume
        .write(lba * BLOCK as u64, &bytes, Durability::Durable)
        .unwrap()
}

fn uniform(bytes: &[u8]) -> u8 {
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "mixed block");
    bytes[0]
}

fn get(volume: &Volume, lba: u64) -> u8 {
    let mut out = [0xee; BLOCK];
    volume.read(lba * BLOCK as u64, &mut out).unwrap();
    uniform(&out)
}

/// The blocks of a view that are not zero, as (block, value).
fn contents(view: &dyn View) -> Vec<(u64, u8)> {
    let mut out = vec![0xee; usize::try_from(view.size()).unwrap()];
    view.read(0, &mut out).unwrap();
    let blocks = (0..).zip(out.chunks(BLOCK).map(uniform));
    blocks.filter(|(_, value)| *value != 0).collect()
}

fn state(volume: &Arc<Volume>, at: u64) -> Vec<(u64, u8)> {
    contents(&volume.state_at(lsn(at), "test").unwrap())
}

/// The digest of a state from its bytes alone.
fn digest_of(blocks: &[(u64, u8)]) -> Digest {
    blocks.iter().fold(Digest::ZERO, |digest, (lba, value)| {
        digest.with_block(*lba, block_sum(&[*value; BLOCK]))
    })
}

fn damage_of(volume: &Volume) -> Vec<crate::DamageFound> {
    volume.verify(&mut |_, _| {}).unwrap().damage
}

/// Reopens what a crash left of a disk.
fn reopen(sim: &Arc<SimDisk>) -> Arc<Volume> {
    Place::simulated(sim).open("volume")
}

fn wal(path: &Path) -> bool {
    path.starts_with("/volume/wal")
}
