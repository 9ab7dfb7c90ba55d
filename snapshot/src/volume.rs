//! Volume: log plus image. Write, read, flush, trim, state at an LSN, checkpoint, advance_tail.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use seawall_wal::disk::{Bytes, Disk, File};
use seawall_wal::sync::Mutex;
use seawall_wal::{
    Clock, Epoch, Geometry, Log, Lsn, LsnRange, Meta, PinBudget, PinInfo, Record, ReplayReport,
    Role, Ticket,
};

use crate::base::{BasePin, SnapshotPin, StateView};
use crate::edge::Edge;
use crate::error::Error;
use crate::image::Image;
use crate::index::place_of;
use crate::lost::Lost;
use crate::mend::Damaged;
use crate::newest::Newest;
use crate::open::Access;
use crate::preserve::Preserved;
use crate::scrub::{self, ScrubStatus};
use crate::section::BaseFacts;
use crate::sums::Digest;
use crate::verify::{Progress, VerifyReport};
use crate::{checkpoint, lock, to_usize, verify};

/// When a write may be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// At once; a later flush makes it durable.
    Volatile,
    /// Only when it is durable on this node (FUA).
    Durable,
}

/// A block volume. Share it behind an [`Arc`]; every call takes `&self` and many may run at once.
///
/// Locks are taken in this order: `capture`, gates and indexes of `newest`, `base`.
#[derive(Debug)]
pub struct Volume {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) access: Access,
    pub(crate) geometry: Geometry,
    pub(crate) log: Arc<Log>,
    pub(crate) image: Arc<Image>,
    /// What the open found.
    pub(crate) replay: ReplayReport,
    /// Which record holds the newest version of a block above the checkpoint.
    pub(crate) newest: Newest,
    /// Checkpoints that began to write the image.
    pub(crate) captures: AtomicU64,
    /// Truncations that began: an LSN above one names another record than before.
    pub(crate) truncations: AtomicU64,
    /// Blocks whose newest record is damaged.
    pub(crate) lost: Lost,
    /// What is known about the image.
    pub(crate) base: Mutex<Base>,
    /// One checkpoint, truncation, reclaim or pin at a time.
    pub(crate) capture: Mutex<()>,
    /// Views of the image at some checkpoint, and the old blocks they need.
    pub(crate) preserved: Arc<Preserved>,
    pub(crate) lock_file: Mutex<Option<File>>,
    /// Committed follows durable by itself.
    pub(crate) alone: AtomicBool,
    /// Committed as far as it followed by itself.
    pub(crate) followed: AtomicU64,
    pub(crate) closed: AtomicBool,
    /// How far the scrub is and what it found; held across no I/O.
    pub(crate) scrub: Mutex<ScrubStatus>,
    pub(crate) edge: Edge,
}

/// The facts in meta and what this process knows beyond them.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) facts: BaseFacts,
    /// The sync of the image that failed (D21).
    pub(crate) failed: Option<Arc<Error>>,
    /// Blocks that failed their sum and that the log could not repair.
    pub(crate) damaged: Damaged,
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

impl Volume {
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
        &self.dir
    }

    /// Its shape.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.geometry.bytes()
    }

    /// Reads `out.len()` bytes at byte `offset`: the newest acknowledged version of every block.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::ImageDamaged`], [`Error::NotApplied`], [`Error::Log`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.check_range(offset, out.len() as u64)?;
        self.check_open()?;
        self.read_any(offset, out)
    }

    /// Writes bytes at byte `offset`, of any alignment. Split into records of at most 1 MiB, each
    /// atomic. Returns the last LSN used.
    ///
    /// # Errors
    /// [`Error::OutOfRange`], [`Error::WrongRole`], [`Error::Log`].
    pub fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<Lsn, Error> {
        self.check_range(offset, bytes.len() as u64)?;
        self.check_writer()?;
        let last = self.write_bytes(offset, bytes)?;
        self.settle(last, durability)
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
        self.check_range(offset, length)?;
        self.check_writer()?;
        let last = self.zero_bytes(offset, length, no_hole)?;
        self.settle(last, durability)
    }

    /// Makes the whole blocks inside the range read zero and gives their space back; parts of
    /// blocks at its ends are left as they are.
    ///
    /// # Errors
    /// As [`Volume::write`].
    pub fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<Lsn, Error> {
        self.check_range(offset, length)?;
        self.check_writer()?;
        let last = self.trim_bytes(offset, length)?;
        self.settle(last, durability)
    }

    /// Makes everything acknowledged before the call durable on this node; gives the durable LSN.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn flush(&self) -> Result<Lsn, Error> {
        self.check_open()?;
        let durable = self.log.sync()?;
        self.commit_durable_if_alone()?;
        Ok(durable)
    }

    /// From now on committed follows our own durable frontier by itself: the rule of a volume
    /// without replicas, and of best effort (D1). Gives committed.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn commit_best_effort(&self) -> Result<Lsn, Error> {
        self.alone.store(true, Ordering::Release);
        self.commit_durable_if_alone()?;
        Ok(self.log.frontiers().committed)
    }

    /// Ends what [`Volume::commit_best_effort`] began: committed moves only when it is told.
    pub fn commit_by_acks(&self) {
        self.alone.store(false, Ordering::Release);
    }

    /// Lets committed follow the durable frontier, which was at `durable`; `needed` is an LSN at or
    /// below it that has to be committed when this returns.
    pub(crate) fn commit_if_alone(&self, durable: Lsn, needed: Lsn) -> Result<(), Error> {
        if !self.alone.load(Ordering::Acquire)
            || self.followed.load(Ordering::Acquire) >= needed.get()
        {
            return Ok(());
        }
        self.log.commit(durable)?;
        self.followed.fetch_max(durable.get(), Ordering::Release);
        Ok(())
    }

    /// As [`Volume::commit_if_alone`], for everything durable.
    pub(crate) fn commit_durable_if_alone(&self) -> Result<(), Error> {
        // D14: above damage the durable frontier is a fact, but not one to build on.
        let ours = self.log.frontiers().durable.min(self.log.applied());
        self.commit_if_alone(ours, ours)
    }

    /// Replica: appends received records unchanged and makes them visible to reads.
    ///
    /// # Errors
    /// As `Log::append_received`.
    pub fn receive(&self, records: Vec<Record>) -> Result<Ticket, Error> {
        self.check_open()?;
        self.check_complete()?;
        let places: Vec<_> = records
            .iter()
            .map(|record| (place_of(record), Bytes::clone(record.payload())))
            .collect();
        let bytes = records.iter().map(Record::bytes).sum::<usize>();
        self.edge.admit(bytes as u64);
        self.log.admit(bytes as u64)?;
        let result = {
            let _alone = self.newest.all_alone();
            let before = self.log.frontiers().head;
            let result = self.log.append_received(records);
            // S5: where one record is refused, those before it are in the log all the same.
            let taken = LsnRange::new(before, self.log.frontiers().head);
            for (place, payload) in places.iter().take(to_usize(taken.len())) {
                self.newest.note_with(place, payload);
            }
            result
        };
        self.edge.appended(bytes);
        Ok(result?)
    }

    /// Captures the base through `target`, or through committed: intent, image and sums, meta (D9).
    /// A target at or below the checkpoint is a no-op. Returns the checkpoint.
    ///
    /// # Errors
    /// [`Error::Log`] beyond committed; ENOSPC in the image fails this call only (D21).
    pub fn checkpoint(&self, target: Option<Lsn>) -> Result<Lsn, Error> {
        self.check_maintainer()?;
        let _one = lock(&self.capture);
        self.checkpoint_alone(target)
    }

    fn checkpoint_alone(&self, target: Option<Lsn>) -> Result<Lsn, Error> {
        self.check_complete()?;
        let committed = self.log.frontiers().committed;
        let Some(target) = target else {
            let capture = self.edge.pace().begin();
            let through = checkpoint::run(self, committed)?;
            capture.succeed();
            return Ok(through);
        };
        if target > committed {
            return Err(Error::Log(seawall_wal::Error::Chain {
                action: "capture the base through",
                lsn: target,
                bound_name: "committed",
                bound: committed,
            }));
        }
        checkpoint::run(self, target)
    }

    /// Captures the base through at least `lsn`, then reclaims through `lsn` as far as pins allow
    /// (D20). Returns the tail.
    ///
    /// # Errors
    /// As [`Volume::checkpoint`].
    pub fn advance_tail(&self, lsn: Lsn) -> Result<Lsn, Error> {
        self.check_maintainer()?;
        let _one = lock(&self.capture);
        self.checkpoint_alone(Some(lsn))?;
        Ok(self.log.reclaim(lsn)?)
    }

    /// One round of background work, as the edge thread does it: brings the retained log below the
    /// watermark. `true` when something still holds it above. For simulators.
    ///
    /// # Errors
    /// As [`Volume::checkpoint`].
    pub fn step(&self) -> Result<bool, Error> {
        crate::edge::step(self)
    }

    /// Replica: drops every record above `after` (log and block index).
    ///
    /// # Errors
    /// As `Log::truncate`; refused below an open intent.
    pub fn truncate(&self, after: Lsn) -> Result<(), Error> {
        self.check_maintainer()?;
        let _one = lock(&self.capture);
        let facts = self.facts();
        if let Some(intent) = facts.intent.filter(|intent| after < intent.target) {
            return Err(Error::Log(seawall_wal::Error::Chain {
                action: "truncate after",
                lsn: after,
                bound_name: "the target of an unfinished checkpoint",
                bound: intent.target,
            }));
        }
        let _alone = self.newest.all_alone();
        // Before the cut, so that no failure comes between it and what readers are told.
        let kept = after.min(self.log.applied()).max(facts.checkpoint);
        let kept = self.log.places(LsnRange::new(facts.checkpoint, kept))?;
        let mut truncated = Ok(());
        self.newest.replace(|| {
            self.truncations.fetch_add(1, Ordering::SeqCst);
            truncated = self.log.truncate(after);
            // A cut that failed halfway is one for readers too.
            (self.log.frontiers().head <= after).then_some(kept)
        });
        Ok(truncated?)
    }

    /// The exact state at `lsn`, for every LSN in [base, head], as a reader that stays valid while
    /// it lives (it holds a pin). While the log still begins at 1, the empty base counts too.
    ///
    /// # Errors
    /// [`Error::StateReclaimed`], [`Error::StateBeyondHead`], [`Error::IntentOpen`], or damage on
    /// the way.
    pub fn state_at(self: &Arc<Self>, lsn: Lsn, owner: &str) -> Result<StateView, Error> {
        self.check_open()?;
        StateView::take(self, lsn, owner)
    }

    /// Pins the view of the image at the present checkpoint together with the log after it: the
    /// composite pin of a rebuild, atomic against the floor.
    ///
    /// # Errors
    /// [`Error::BaseIncomplete`], [`Error::IntentOpen`], [`Error::Log`] with `Reclaimed`.
    pub fn pin_snapshot(self: &Arc<Self>, owner: &str) -> Result<SnapshotPin, Error> {
        self.check_open()?;
        SnapshotPin::take(self, owner, PinBudget::default())
    }

    /// Pins the whole state at exactly `target`: image overlaid with the log through it (D10).
    ///
    /// # Errors
    /// As [`Volume::pin_snapshot`]; `BeyondHead` above durable.
    pub fn pin_base(self: &Arc<Self>, target: Lsn, owner: &str) -> Result<BasePin, Error> {
        self.check_open()?;
        BasePin::take(self, target, owner, PinBudget::default())
    }

    /// LSN and digest of the image at the checkpoint: free.
    #[must_use]
    pub fn digest(&self) -> (Lsn, Digest) {
        let facts = self.facts();
        (facts.checkpoint, facts.digest)
    }

    /// Digest of the whole state at `lsn`, overlaid on demand (D18).
    ///
    /// # Errors
    /// As [`Volume::state_at`].
    pub fn digest_at(self: &Arc<Self>, lsn: Lsn) -> Result<Digest, Error> {
        use crate::base::View as _;
        self.state_at(lsn, "digest")?.digest()
    }

    /// Checkpoint LSN, its trust (`None` is trusted, `Some` says why not), and an open intent.
    #[must_use]
    pub fn base_state(&self) -> BaseState {
        let base = lock(&self.base);
        let damaged = !base.damaged.is_empty();
        let untrusted = match (base.facts.incomplete, base.facts.intent, damaged) {
            (Some(_), _, _) => Some(Untrusted::Incomplete),
            (None, Some(_), _) => Some(Untrusted::IntentOpen),
            (None, None, true) => Some(Untrusted::BlockDamaged),
            (None, None, false) => None,
        };
        BaseState {
            checkpoint: base.facts.checkpoint,
            untrusted,
            intent: base.facts.intent.map(|intent| intent.target),
        }
    }

    /// Session and LSN of a base whose installation in place has begun and not ended (D12).
    #[must_use]
    pub fn incomplete_base(&self) -> Option<([u8; 16], Lsn)> {
        let incomplete = self.facts().incomplete?;
        Some((incomplete.session, incomplete.base))
    }

    /// Every pin of every kind.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        self.log.pins()
    }

    /// Scrubs on: checks up to `budget_bytes` of the image against its sums, one run at least, past
    /// the page cache where the system has a way. A damaged block whose version the log holds is
    /// written again, durably; any other makes the base untrusted (D9) and is named in
    /// [`Volume::scrub_status`]. `true` when that was the end of the image. How often it is called
    /// is the rate: the background does so once a second.
    ///
    /// # Errors
    /// [`Error::BaseIncomplete`], [`Error::ImageStopped`], [`Error::Log`]; damage is no error.
    pub fn scrub(&self, budget_bytes: u64) -> Result<bool, Error> {
        self.check_maintainer()?;
        self.check_complete()?;
        scrub::advance(self, budget_bytes)
    }

    /// How far the scrub is, and what it found in this process.
    #[must_use]
    pub fn scrub_status(&self) -> ScrubStatus {
        lock(&self.scrub).clone()
    }

    /// Reads everything: frames, image, sums, the invariant chain. Writes nothing.
    ///
    /// # Errors
    /// Only when it cannot even look; damage is in the report.
    pub fn verify(&self, progress: Progress<'_>) -> Result<VerifyReport, Error> {
        verify::verify(self, progress)
    }

    /// First byte range `[first, second)` at or behind `offset` whose newest state may be data.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        self.check_open()?;
        self.newest_data(offset)
    }

    /// Flushes, marks the log clean, stops background work and releases the lock. Later calls fail.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn close(&self) -> Result<(), Error> {
        let lock_file = self.shut();
        let result = self.close_log();
        drop(lock_file);
        result
    }

    fn close_log(&self) -> Result<(), Error> {
        if self.access != Access::ReadOnly && self.log.check_writable().is_ok() {
            self.log.sync()?;
            // Committed in meta is a lower bound (D1); a clean close is the time to raise it.
            self.commit_durable_if_alone()?;
        }
        Ok(self.log.close()?)
    }

    /// Whether it was closed, or replaced by an installed base; later calls fail.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Stops everything but the log, and gives the lock away.
    pub(crate) fn shut(&self) -> Option<File> {
        self.closed.store(true, Ordering::Release);
        self.edge.stop();
        // Whoever is in the middle of a capture finishes it.
        let _one = lock(&self.capture);
        lock(&self.lock_file).take()
    }

    /// A promotion by hand (D5): persists `epoch` and the role primary.
    ///
    /// # Errors
    /// [`Error::EpochNotAbove`], [`Error::BaseIncomplete`], [`Error::Log`].
    pub fn promote(&self, epoch: Epoch) -> Result<(), Error> {
        self.check_maintainer()?;
        self.check_complete()?;
        let ours = self.meta().get().epoch;
        if epoch <= ours {
            return Err(Error::EpochNotAbove {
                path: self.dir.clone(),
                offered: epoch,
                ours,
            });
        }
        Ok(self.meta().update(|meta| {
            meta.epoch = meta.epoch.max(epoch);
            meta.role = Role::Primary;
        })?)
    }

    pub(crate) fn facts(&self) -> BaseFacts {
        lock(&self.base).facts
    }

    pub(crate) fn image_usable(&self) -> Result<(), Error> {
        match &lock(&self.base).failed {
            None => Ok(()),
            Some(first) => Err(Error::ImageStopped {
                first: Arc::clone(first),
            }),
        }
    }

    /// D21: after a failed sync it is unknown what the image holds, until a reopen finishes the
    /// intent.
    pub(crate) fn synced(&self, synced: Result<(), Error>) -> Result<(), Error> {
        synced.inspect_err(|error| lock(&self.base).failed = Some(Arc::new(error.clone())))
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), Error> {
        let size = self.size();
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::OutOfRange {
                offset,
                length,
                size,
            }),
        }
    }

    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match self.closed.load(Ordering::Acquire) {
            false => Ok(()),
            true => Err(Error::Log(seawall_wal::Error::Closed)),
        }
    }

    pub(crate) fn check_maintainer(&self) -> Result<(), Error> {
        self.check_open()?;
        match self.access {
            Access::ReadOnly => Err(self.read_only("it was opened for inspection")),
            Access::Primary | Access::Replica | Access::Maintain => Ok(()),
        }
    }

    fn check_writer(&self) -> Result<(), Error> {
        self.check_open()?;
        match self.access {
            // The log says itself whether it takes a record.
            Access::Primary => Ok(()),
            Access::Replica => Err(Error::WrongRole {
                path: self.dir.clone(),
                role: "replica",
                hint: "write to its primary",
            }),
            Access::Maintain => Err(self.read_only("it was opened for maintenance")),
            Access::ReadOnly => Err(self.read_only("it was opened for inspection")),
        }
    }

    fn read_only(&self, why: &'static str) -> Error {
        Error::Log(seawall_wal::Error::ReadOnly {
            path: self.dir.clone(),
            why,
        })
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.edge.stop();
        // The lock goes with this value: nothing of ours may touch the files after it.
        self.log.stop();
    }
}
