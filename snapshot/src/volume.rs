//! Volume: log plus image. Write, read, flush, trim, state at an LSN, checkpoint, advance_tail.

use std::path::Path;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{
    Clock, Epoch, Geometry, Log, Lsn, Meta, PinInfo, Record, ReplayReport, Ticket, VolumeId,
};

use crate::base::{BasePin, SnapshotPin, StateView};
use crate::error::Error;
use crate::sums::Digest;

/// When a write may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once; a later flush makes it durable.
    Volatile,
    /// Only when it is durable on this node (FUA).
    Durable,
}

/// Shape and identity of a new volume.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Identity; `None` draws one. A replica takes its primary's (D8).
    pub volume: Option<VolumeId>,
    /// Shape.
    pub geometry: Geometry,
    /// Primary or replica.
    pub role: seawall_wal::Role,
}

/// What the opener means to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Take writes: starts an incarnation at the epoch in meta (D2). Refused on a replica.
    Primary,
    /// Take records from a primary. Refused on a primary.
    Replica,
    /// Maintain without writing records (checkpoint, reclaim); any role.
    Maintain,
    /// Inspect; writes nothing, takes no lock.
    ReadOnly,
}

/// One damaged place that `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageFound {
    /// File that holds it.
    pub file: std::path::PathBuf,
    /// Byte offset in it.
    pub offset: u64,
    /// Record hit, where known.
    pub lsn: Option<Lsn>,
    /// Block hit and number of blocks, where known.
    pub blocks: Option<(u64, u64)>,
    /// What is wrong, for people.
    pub what: String,
}

/// Result of [`Volume::verify`].
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// Everything found; empty means whole.
    pub damage: Vec<DamageFound>,
    /// Frames' records read.
    pub records: u64,
    /// Image blocks checked against their sums.
    pub blocks: u64,
}

/// Bytes done and to do, for progress bars.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A block volume. Share it behind an [`Arc`]; every call takes `&self` and many may run at once.
#[derive(Debug)]
pub struct Volume {
    log: Arc<Log>,
}

impl Volume {
    /// Creates the directory `dir` (its parent must exist) with an empty volume, durable in full.
    ///
    /// # Errors
    /// [`Error::Log`]: the directory exists and is not empty, geometry, or I/O.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, options: CreateOptions) -> Result<(), Error> {
        let _ = (disk, dir, options);
        todo!()
    }

    /// Opens the volume: lock, meta, log replay, an open intent is finished (D9), the block index is
    /// rebuilt from the log.
    ///
    /// # Errors
    /// [`Error::Log`] with `Locked`, `NotAVolume`, damage or I/O; [`Error::WrongRole`].
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        clock: &Arc<dyn Clock>,
        access: Access,
    ) -> Result<(Arc<Volume>, ReplayReport), Error> {
        let _ = (disk, dir, clock, access);
        todo!()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Its meta.
    #[must_use]
    pub fn meta(&self) -> &Arc<Meta> {
        self.log.meta()
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        todo!()
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        todo!()
    }

    /// Reads `out.len()` bytes at byte `offset`: the newest acknowledged version of every block.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ImageDamaged`], [`Error::Log`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let _ = (offset, out);
        todo!()
    }

    /// Writes bytes at byte `offset`, of any alignment. Split into records of at most 1 MiB, each
    /// atomic. Returns the last LSN used.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::Log`].
    pub fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<Lsn, Error> {
        let _ = (offset, bytes, durability);
        todo!()
    }

    /// Makes bytes read zero. `no_hole` keeps the space allocated. Costs no memory per byte.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        let _ = (offset, length, no_hole, durability);
        todo!()
    }

    /// Makes the whole blocks inside the range read zero and gives their space back; parts of blocks
    /// at its ends are left as they are.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<Lsn, Error> {
        let _ = (offset, length, durability);
        todo!()
    }

    /// Makes everything acknowledged before the call durable on this node; gives the durable LSN.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn flush(&self) -> Result<Lsn, Error> {
        todo!()
    }

    /// Replica: appends received records unchanged and makes them visible to reads.
    ///
    /// # Errors
    /// As `Log::append_received`.
    pub fn receive(&self, records: Vec<Record>) -> Result<Ticket, Error> {
        let _ = records;
        todo!()
    }

    /// Captures the base through `target`, or through committed: intent, image and sums, meta (D9).
    /// A target at or below the checkpoint is a no-op. Returns the checkpoint.
    ///
    /// # Errors
    /// [`Error::Log`] beyond committed; ENOSPC in the image fails this call only (D21).
    pub fn checkpoint(&self, target: Option<Lsn>) -> Result<Lsn, Error> {
        let _ = target;
        todo!()
    }

    /// Captures the base through at least `lsn`, then reclaims through `lsn` as far as pins allow
    /// (D20). Returns the tail.
    ///
    /// # Errors
    /// As [`Volume::checkpoint`].
    pub fn advance_tail(&self, lsn: Lsn) -> Result<Lsn, Error> {
        let _ = lsn;
        todo!()
    }

    /// Replica: drops every record above `after` (log and block index).
    ///
    /// # Errors
    /// As `Log::truncate`; refused below an open intent.
    pub fn truncate(&self, after: Lsn) -> Result<(), Error> {
        let _ = after;
        todo!()
    }

    /// The exact state at `lsn`, for every LSN in [base, head], as a reader that stays valid while
    /// it lives (it holds a pin).
    ///
    /// # Errors
    /// [`Error::StateReclaimed`], [`Error::StateBeyondHead`], or damage on the way.
    pub fn state_at(self: &Arc<Self>, lsn: Lsn, owner: &str) -> Result<StateView, Error> {
        let _ = (lsn, owner);
        todo!()
    }

    /// Pins the view of the image at the present checkpoint together with the log after it: the
    /// composite pin of a rebuild, atomic against the floor.
    ///
    /// # Errors
    /// [`Error::BaseIncomplete`], [`Error::Log`] with `Reclaimed`.
    pub fn pin_snapshot(self: &Arc<Self>, owner: &str) -> Result<SnapshotPin, Error> {
        let _ = owner;
        todo!()
    }

    /// Pins the whole state at exactly `target`: image overlaid with the log through it (D10).
    ///
    /// # Errors
    /// As [`Volume::pin_snapshot`]; `BeyondHead` above durable.
    pub fn pin_base(self: &Arc<Self>, target: Lsn, owner: &str) -> Result<BasePin, Error> {
        let _ = (target, owner);
        todo!()
    }

    /// LSN and digest of the image at the checkpoint: free.
    #[must_use]
    pub fn digest(&self) -> (Lsn, Digest) {
        todo!()
    }

    /// Digest of the whole state at `lsn`, overlaid on demand (D18).
    ///
    /// # Errors
    /// As [`Volume::state_at`].
    pub fn digest_at(self: &Arc<Self>, lsn: Lsn) -> Result<Digest, Error> {
        let _ = lsn;
        todo!()
    }

    /// Checkpoint LSN, its trust (`None` is trusted, `Some` says why not), and an open intent.
    #[must_use]
    pub fn base_state(&self) -> BaseState {
        todo!()
    }

    /// Every pin of every kind.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        todo!()
    }

    /// Reads everything: frames, image, sums, the invariant chain. Writes nothing.
    ///
    /// # Errors
    /// Only when it cannot even look; damage is in the report.
    pub fn verify(&self, progress: Progress<'_>) -> Result<VerifyReport, Error> {
        let _ = progress;
        todo!()
    }

    /// First byte range `[first, second)` at or behind `offset` whose newest state may be data.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        let _ = offset;
        todo!()
    }

    /// Flushes, marks the log clean, stops background work and releases the lock. Later calls fail.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn close(&self) -> Result<(), Error> {
        todo!()
    }

    /// A promotion by hand (D5): persists `epoch` and the role primary.
    ///
    /// # Errors
    /// [`Error::Log`] for an epoch that is not above ours.
    pub fn promote(&self, epoch: Epoch) -> Result<(), Error> {
        let _ = epoch;
        todo!()
    }
}

/// What is known about the base image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseState {
    /// Last LSN wholly in the image.
    pub checkpoint: Lsn,
    /// Why it is not trusted; `None` is trusted (D9).
    pub untrusted: Option<Untrusted>,
    /// Target of an open intent.
    pub intent: Option<Lsn>,
}

/// Why a base is not trusted (D9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// A checkpoint was not finished.
    IntentOpen,
    /// A base was being installed in place (D12).
    Incomplete,
    /// A block failed its sum and the log cannot repair it.
    BlockDamaged,
}
