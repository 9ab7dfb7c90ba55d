//! The volume as its users see it, over real files and over the simulated disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::disk::{Disk, FileDisk};
use seawall_wal::{BlockSize, Clock, Geometry, Lsn, Role};

use crate::{Access, Background, CreateOptions, Durability, View, Volume};

#[derive(Debug, Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn unix_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
    fn monotonic_ns(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

const BLOCK: usize = 4096;

struct Fixture {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    _scratch: Option<tempfile::TempDir>,
}

impl Fixture {
    fn on_files(blocks: u64) -> Fixture {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("volume");
        let fixture = Fixture {
            disk: FileDisk::new(),
            clock: Arc::new(Ticks::default()),
            dir,
            _scratch: Some(scratch),
        };
        fixture.create(&fixture.dir, blocks, Role::Primary);
        fixture
    }

    fn create(&self, dir: &Path, blocks: u64, role: Role) {
        let geometry = Geometry {
            block_size: BlockSize::DEFAULT,
            blocks,
            segment_bytes: 1 << 20,
        };
        let options = CreateOptions {
            volume: None,
            geometry,
            role,
        };
        Volume::create(&self.disk, dir, options).unwrap();
    }

    fn open(&self) -> Arc<Volume> {
        let opened = Volume::open_with(
            &self.disk,
            &self.dir,
            &self.clock,
            Access::Primary,
            Background::OFF,
        );
        opened.unwrap().0
    }
}

fn block(value: u8) -> Vec<u8> {
    vec![value; BLOCK]
}

fn put(volume: &Volume, lba: u64, value: u8) -> Lsn {
    let offset = lba * BLOCK as u64;
    volume
        .write(offset, &block(value), Durability::Volatile)
        .unwrap()
}

fn get(volume: &Volume, lba: u64) -> u8 {
    let mut out = block(0);
    volume.read(lba * BLOCK as u64, &mut out).unwrap();
    assert!(out.iter().all(|byte| *byte == out[0]));
    out[0]
}

fn view_get(view: &dyn View, lba: u64) -> u8 {
    let mut out = block(0);
    view.read(lba * BLOCK as u64, &mut out).unwrap();
    assert!(out.iter().all(|byte| *byte == out[0]));
    out[0]
}

#[test]
fn what_was_flushed_is_there_after_checkpoint_reclaim_and_reopen() {
    let fixture = Fixture::on_files(64);
    let volume = fixture.open();
    for lba in 0..10 {
        put(&volume, lba, u8::try_from(lba).unwrap() + 1);
    }
    volume.trim(0, BLOCK as u64, Durability::Durable).unwrap();
    volume.commit_best_effort().unwrap();
    assert_eq!(volume.checkpoint(None).unwrap(), Lsn::new(11));
    assert_eq!(volume.advance_tail(Lsn::new(11)).unwrap(), Lsn::new(11));
    put(&volume, 5, 99);
    volume.close().unwrap();
    drop(volume);
    let volume = fixture.open();
    assert_eq!(get(&volume, 0), 0);
    assert_eq!(get(&volume, 4), 5);
    assert_eq!(get(&volume, 5), 99);
    assert_eq!(get(&volume, 60), 0);
    let report = volume.verify(&mut |_, _| {}).unwrap();
    assert_eq!(report.damage, []);
}
