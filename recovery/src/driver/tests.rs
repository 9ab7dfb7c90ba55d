//! Every path of recovery between real volumes over loopback.

use std::path::{Path, PathBuf};

use seawall_snapshot::{Access, CreateOptions, Durability, Volume};
use seawall_wal::disk::{
    Buffer, Completion, Disk, File, FileDisk, OpenMode, Operation, Token, list, make_dir, remove,
};
use seawall_wal::sync::beside;
use seawall_wal::{BlockSize, Clock, Geometry, Role, SegmentState, SystemClock};
use tempfile::TempDir;

use super::*;
use crate::state::StateLog;
use crate::status::RecoveryRecord;
use crate::transport::Listener as _;

mod assigning;
mod cost;
mod decisions;
mod fencing;
mod healing;
mod memory;
mod pacing;
mod panics;
mod paths;
mod rebuilds;
mod restarts;

const PATIENCE: Duration = Duration::from_secs(30);
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
const MIB: u64 = 1 << 20;

/// Two places, a disk and a clock.
struct Lab {
    root: TempDir,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
}

/// A disk that is watched: `before` sees every operation first.
struct Watched<F> {
    disk: Arc<dyn Disk>,
    before: F,
}

impl<F> std::fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watched").field(&self.disk).finish()
    }
}

impl<F: Fn(&Operation) + Send + Sync> Disk for Watched<F> {
    fn submit(&self, operation: Operation) -> Token {
        (self.before)(&operation);
        self.disk.submit(operation)
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.disk.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.disk.wait(token)
    }

    fn backend(&self) -> &'static str {
        self.disk.backend()
    }
}

/// A primary with what it serves.
struct Served {
    primary: Primary,
}

/// A new volume of `size` bytes for a primary.
fn create(disk: &Arc<dyn Disk>, dir: &Path, size: u64) {
    let options = CreateOptions {
        volume: None,
        geometry: Geometry {
            block_size: BlockSize::DEFAULT,
            blocks: size / BLOCK,
            segment_bytes: MIB,
        },
        role: Role::Primary,
    };
    Volume::create(disk, dir, options).unwrap();
}

impl Lab {
    fn new() -> Lab {
        Lab {
            root: tempfile::tempdir().unwrap(),
            disk: FileDisk::new(),
            clock: SystemClock::new(),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn create(&self, name: &str, size: u64) {
        create(&self.disk, &self.dir(name), size);
    }

    fn open(&self, name: &str, access: Access) -> Arc<Volume> {
        let opened = Volume::open(&self.disk, &self.dir(name), &self.clock, access);
        opened.unwrap().0
    }

    fn serve(&self, name: &str, options: PrimaryOptions) -> Served {
        let volume = self.open(name, Access::Primary);
        let primary = Primary::start(&self.disk, &self.clock, volume, options).unwrap();
        Served { primary }
    }

    fn replica(&self, id: &str) -> Replica {
        self.replica_at(id, "127.0.0.1:0")
    }

    fn replica_at(&self, id: &str, listen: &str) -> Replica {
        let options = ReplicaOptions::default();
        Replica::serve(&self.disk, &self.clock, &self.dir(id), id, listen, options).unwrap()
    }

    fn promote(&self, name: &str, epoch: u64) {
        let volume = self.open(name, Access::Maintain);
        volume.promote(Epoch::new(epoch)).unwrap();
        volume.close().unwrap();
    }

    /// Copies a volume as a crash would leave it: no lock, no socket.
    fn copy(&self, from: &Path, to: &Path) {
        make_dir(self.disk.as_ref(), to).unwrap();
        for name in list(self.disk.as_ref(), from).unwrap() {
            let (source, target) = (from.join(&name), to.join(&name));
            if name == "lock" || name == "ctl" {
                continue;
            }
            if list(self.disk.as_ref(), &source).is_ok() {
                self.copy(&source, &target);
                continue;
            }
            let source = File::open(&self.disk, &source, OpenMode::Read).unwrap();
            let length = source.length().unwrap();
            let bytes = source
                .read_exact(0, usize::try_from(length).unwrap())
                .unwrap();
            let target = File::open(&self.disk, &target, OpenMode::CreateNew).unwrap();
            target.write_bytes(0, Buffer::copy_of(&bytes)).unwrap();
            target.sync().unwrap();
        }
    }
}

fn options(replicas: &[&Replica]) -> PrimaryOptions {
    let replicas = replicas.iter().map(|replica| ReplicaAddress {
        id: replica.status().id.unwrap(),
        address: replica.address().to_string(),
    });
    PrimaryOptions {
        replicas: replicas.collect(),
        ..PrimaryOptions::default()
    }
}

impl Served {
    fn fill(&self, blocks: std::ops::Range<u64>, byte: u8) -> Lsn {
        for block in blocks {
            let bytes = [byte.wrapping_add(block.to_le_bytes()[0]); BLOCK_BYTES];
            self.primary
                .write(block * BLOCK, &bytes, Durability::Volatile)
                .unwrap();
        }
        self.primary.flush().unwrap()
    }

    fn in_sync(&self, id: &str, lsn: Lsn) {
        let reached = self.primary.wait_in_sync(id, lsn, PATIENCE);
        assert!(reached, "{:#?}", self.primary.status());
    }

    fn last(&self, id: &str) -> RecoveryRecord {
        let all = self.primary.recoveries();
        let of = all.into_iter().rfind(|record| record.replica == id);
        of.expect("a recovery of this replica")
    }

    /// Waits until a recovery of `id` ended with this outcome.
    fn recovered(&self, id: &str, outcome: &str) -> RecoveryRecord {
        let found = self.primary.shared().wait(PATIENCE, |core| {
            let records = core.state.recoveries().iter();
            let mut records = records.rev();
            records
                .find(|record| record.replica == id && record.outcome == outcome)
                .cloned()
        });
        found.unwrap_or_else(|| panic!("no {outcome}: {:#?}", self.primary.status()))
    }

    fn stop(self) {
        let volume = Arc::clone(self.primary.volume());
        self.primary.shutdown();
        // A capture in the background pins what it reads, and ends with the volume.
        volume.close().unwrap();
        assert!(volume.pins().is_empty(), "{:?}", volume.pins());
    }
}

/// Same state at `lsn`, by digest and byte by byte.
fn assert_equal(primary: &Volume, replica: &Replica, lsn: Lsn) {
    let replica = replica.volume().unwrap();
    let mut ours = vec![0; usize::try_from(primary.size()).unwrap()];
    let mut theirs = ours.clone();
    primary.read(0, &mut ours).unwrap();
    replica.read(0, &mut theirs).unwrap();
    assert!(ours == theirs, "the copies differ");
    assert_eq!(replica.log().frontiers().head, lsn);
}

/// Flips one bit of the payload of record `lsn` in the log of `volume`, once every sealed segment
/// has its index: without one an open would find the damage before anybody reads the record.
fn damage(lab: &Lab, volume: &Volume, lsn: Lsn) {
    let segments = volume.log().segments();
    let sealed = segments.iter().filter(|s| s.state == SegmentState::Sealed);
    let index_of = |name: &str| volume.dir().join("wal").join(name).with_extension("idx");
    let indexes: Vec<_> = sealed.map(|segment| index_of(&segment.name)).collect();
    let missing = |path: &PathBuf| File::open(&lab.disk, path, OpenMode::Read).is_err();
    while indexes.iter().any(missing) {
        volume.log().step().unwrap();
    }
    let record = volume.log().read_record(lsn).unwrap();
    let wal = volume.dir().join("wal");
    for name in list(lab.disk.as_ref(), &wal).unwrap() {
        let file = File::open(&lab.disk, &wal.join(name), OpenMode::ReadWrite).unwrap();
        let length = usize::try_from(file.length().unwrap()).unwrap();
        let bytes = file.read_exact(0, length).unwrap();
        let aligned = (0..bytes.len()).step_by(512);
        let mut aligned = aligned.filter(|at| bytes[*at..].starts_with(record.payload()));
        if let Some(at) = aligned.next() {
            let flipped = [bytes[at] ^ 1];
            file.write_bytes(at as u64, Buffer::copy_of(&flipped))
                .unwrap();
            file.sync().unwrap();
            return;
        }
    }
    panic!("record {lsn} is not on disk");
}
