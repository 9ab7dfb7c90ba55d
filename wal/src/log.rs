//! The log: opening it, and what it says about itself. Appending is in `append` and `commit`,
//! reading in `read`, its two ends in `bounds`, pins in `pins`, what runs by itself in
//! `background`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::flight::Released;
use crate::handles::Handles;
use crate::meta::Meta;
use crate::opening::Opening;
use crate::replay::Verdict;
use crate::report::{Frontiers, ReplayReport, ScanEnd, SegmentInfo, SegmentState, Stats};
use crate::segment::{SegmentFile, SegmentHeader, file_name};
use crate::state::{State, chain};
use crate::sync::{AtomicU64, Condvar, Mutex, MutexGuard};
use crate::{Damage, Error, Lineage, Lsn, edge};

/// Name of the directory of segments inside a volume directory.
pub(crate) const DIR_NAME: &str = "wal";

/// How a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// Replays, cuts a torn tail, takes appends.
    Writable,
    /// Replays and writes nothing at all: inspection, also of a live or damaged log.
    ReadOnly,
}

/// A durable log on one machine. Cheap to share behind an [`Arc`]; every call takes `&self`.
#[derive(Debug)]
pub struct Log {
    pub(crate) meta: Arc<Meta>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) handles: Arc<Handles>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: PathBuf,
    pub(crate) ids: Ids,
    pub(crate) mode: LogMode,
    /// Files in which the open found damage.
    pub(crate) suspects: Vec<PathBuf>,
    state: Mutex<State>,
    /// The durable frontier, for those who need nothing else.
    durable: AtomicU64,
    /// The disk goes on by itself with what was submitted.
    pub(crate) overlaps: bool,
    /// Signalled whenever a frontier moves, a leader steps down, or a segment is ready.
    progress: Condvar,
    /// Signalled when there is background work.
    work: Condvar,
    /// Signalled when somebody asks to be called.
    pub(crate) called: Condvar,
}

/// What never changes while a log is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids {
    pub(crate) volume: crate::VolumeId,
    pub(crate) log: crate::LogId,
    pub(crate) geometry: crate::Geometry,
}

impl Log {
    /// Opens the log of the volume in `dir` and replays it. `checkpoint` is what snapshot's section
    /// of meta says.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] only for damage that leaves nothing to open. Damage below
    /// the frontier opens the log read-only, see [`ScanEnd::Damaged`].
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        meta: &Arc<Meta>,
        clock: &Arc<dyn Clock>,
        mode: LogMode,
        checkpoint: Lsn,
    ) -> Result<(Arc<Log>, ReplayReport), Error> {
        let writable = mode == LogMode::Writable;
        let (volume, dir) = (dir, dir.join(DIR_NAME));
        let (contents, handles) = (meta.get(), Handles::new(disk));
        let opening = match mode {
            LogMode::Writable => Opening::look(&handles, &dir, contents, checkpoint, true),
            LogMode::ReadOnly => Opening::inspect(&handles, volume, &dir, contents, checkpoint),
        };
        let Opening {
            contents,
            mut walk,
            verdict,
            report,
        } = opening?;
        let suspects = match &report.end {
            ScanEnd::Damaged(loss) => loss
                .places
                .iter()
                .map(|loss| loss.at.path.clone())
                .collect(),
            ScanEnd::Clean | ScanEnd::Torn { .. } => Vec::new(),
        };
        let torn = verdict == Verdict::Torn;
        if !(writable && torn) {
            let later = std::mem::take(&mut walk.slots.later);
            walk.slots.spare.extend(later);
        }
        let wipe_to = torn.then_some(walk.wipe_to);
        let soiled = std::mem::take(&mut walk.soiled);
        let ids = Ids {
            volume: contents.volume,
            log: contents.log,
            geometry: contents.geometry,
        };
        let log = Arc::new(Log {
            meta: Arc::clone(meta),
            disk: Arc::clone(disk),
            handles,
            clock: Arc::clone(clock),
            dir,
            ids,
            mode,
            suspects,
            state: Mutex::new(State::from_walk(
                walk, &contents, checkpoint, &report, writable,
            )),
            durable: AtomicU64::new(0),
            overlaps: disk.durable_writes() && disk.overlaps(),
            progress: Condvar::new(),
            work: Condvar::new(),
            called: Condvar::new(),
        });
        log.publish(&log.state());
        if writable && verdict != Verdict::Damaged {
            log.begin_writing(wipe_to, &soiled)?;
            if !disk.is_stepped() {
                edge::spawn(&log)
                    .map_err(|source| Error::io(crate::IoOp::Open, &log.dir, None, source))?;
            }
        }
        Ok((log, report))
    }

    /// Makes a log that was just replayed ready for appends, everything durable. Behind a torn
    /// tail, `wipe_to` says how far the frames reach that were cut; `soiled` is what is to be
    /// padding in the last segment again.
    fn begin_writing(&self, wipe_to: Option<u64>, soiled: &[Range<u64>]) -> Result<(), Error> {
        if self.meta.get().clean_close.is_some() {
            self.meta.update(|meta| meta.clean_close = None)?;
        }
        if self.state().segments.is_empty() {
            let first = self.prepare()?;
            self.meta
                .update(|meta| meta.first_generation = Some(first.generation))?;
            self.state().push_active(first);
            return Ok(());
        }
        let active = Arc::clone(&self.state().active().file);
        self.count_on_from(&active)?;
        active.hold()?;
        self.clear_padding(soiled)?;
        if let Some(wipe_to) = wipe_to {
            self.wipe_behind_cut(wipe_to)?;
        }
        if wipe_to.is_some() || self.state().active().sealed {
            // D16: the next append goes to a new generation.
            self.rotate()?;
        }
        Ok(())
    }

    /// Generations go on behind that of the newest segment, whatever meta counted (D16).
    fn count_on_from(&self, newest: &SegmentFile) -> Result<(), Error> {
        let used = newest.generation;
        if used < self.meta.get().generation_next {
            return Ok(());
        }
        let next = used.checked_add(1).filter(|next| *next < u64::MAX);
        let next = next.ok_or_else(|| {
            let field = "generation";
            Error::corrupt(newest.path(), 0, None, Damage::Field { field, found: used })
        })?;
        self.meta.update(|meta| meta.generation_next = next)
    }

    /// What a segment of this log says of itself in the life of that generation.
    pub(crate) fn identity(&self, generation: u64) -> SegmentHeader {
        SegmentHeader {
            volume: self.ids.volume,
            log: self.ids.log,
            generation,
            segment_bytes: self.ids.geometry.segment_bytes,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // OK because a panic under the lock is an assertion of ours: frontiers move behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sleeps until a leader stepped down, a frame landed or a segment is ready.
    pub(crate) fn wait<'a>(&self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let mut state = (self.progress.wait(state)).unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state
    }

    /// Wakes those who sleep in [`Log::wait`]; costs nothing when nobody does.
    pub(crate) fn signal(&self, state: &State) {
        if state.waiting > 0 {
            self.progress.notify_all();
        }
    }

    /// Tells the background that there is work.
    pub(crate) fn signal_work(&self, _: &State) {
        self.work.notify_all();
    }

    /// Edge thread: waits until there is work. `true` when there was none for `timeout`.
    pub(crate) fn wait_for_work(&self, timeout: Duration) -> bool {
        let state = self.state();
        !state.stopped
            && (self.work.wait_timeout(state, timeout)).is_ok_and(|(_, out)| out.timed_out())
    }

    /// The durable frontier as of now, without a lock.
    pub(crate) fn durable(&self) -> Lsn {
        // OK because it is stored behind the accounting that it stands for, and only rises but for
        // a truncation, which nobody waits across.
        Lsn::new(self.durable.load(Ordering::Acquire))
    }

    pub(crate) fn publish(&self, state: &State) {
        self.durable
            .store(state.frontiers.durable.get(), Ordering::Release);
    }

    /// Fails the log for good and tells everybody who waits (L3, L-W3).
    pub(crate) fn fail(&self, error: &Error) {
        let mut released = Released::default();
        let mut state = self.state();
        state.poison(error);
        state.release_all(&mut released);
        self.signal(&state);
        drop(state);
        released.wake();
    }

    pub(crate) fn check_running(&self) -> Result<(), Error> {
        self.state().check_running()
    }

    /// Counters since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state().stats
    }

    /// The chain now.
    #[must_use]
    pub fn frontiers(&self) -> Frontiers {
        self.state().frontiers
    }

    /// Last LSN applied: the head, or the last one before the first damage (D14).
    #[must_use]
    pub fn applied(&self) -> Lsn {
        self.state().applied
    }

    /// First LSN that can be read: `max(tail + 1, first LSN on disk)`, or the next to be written.
    #[must_use]
    pub fn first_retained(&self) -> Lsn {
        self.state().first_retained()
    }

    /// The lineage of the history through the head.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        let state = self.state();
        state.lineage.through(state.frontiers.head)
    }

    /// Whether it takes appends, and if not, why.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] or [`Error::Poisoned`].
    pub fn check_writable(&self) -> Result<(), Error> {
        self.state().check_open(&self.dir)
    }

    /// Raises committed in memory; a lower value changes nothing. It reaches the disk with the next
    /// frame, checkpoint or close: a lower bound after a reopen (D1).
    ///
    /// # Errors
    /// [`Error::Chain`] beyond durable.
    pub fn commit(&self, lsn: Lsn) -> Result<(), Error> {
        let mut state = self.state();
        let durable = state.frontiers.durable;
        if lsn > durable {
            return Err(chain("commit", lsn, "durable", durable));
        }
        state.move_frontiers(|frontiers| frontiers.committed = frontiers.committed.max(lsn));
        self.signal(&state);
        Ok(())
    }

    /// Told by snapshot once meta durably says so; never moves down.
    ///
    /// # Panics
    /// When it would pass committed: our own mistake.
    pub fn set_checkpoint(&self, lsn: Lsn) {
        let mut state = self.state();
        state.move_frontiers(|frontiers| frontiers.checkpoint = frontiers.checkpoint.max(lsn));
    }

    /// Every segment file, in log order, free ones last.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let state = self.state();
        let last = state.segments.len().saturating_sub(1);
        let live = state
            .segments
            .iter()
            .enumerate()
            .map(|(index, segment)| SegmentInfo {
                name: file_name(segment.file.slot),
                generation: segment.file.generation,
                state: match index == last && !segment.sealed {
                    true => SegmentState::Active,
                    false => SegmentState::Sealed,
                },
                lsns: segment.entries.first().zip(segment.entries.last()),
                bytes: segment.end,
            });
        let free = |slot, generation| SegmentInfo {
            name: file_name(slot),
            generation,
            state: SegmentState::Free,
            lsns: None,
            bytes: 0,
        };
        let prepared = state.ready.iter().chain(&state.retired);
        let prepared = prepared.map(|file| free(file.slot, file.generation));
        let spare = state.slots.spare.iter().map(|slot| free(*slot, 0));
        live.chain(prepared).chain(spare).collect()
    }

    /// Bytes of frames in retained segments.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.state()
            .segments
            .iter()
            .map(|segment| segment.end)
            .sum()
    }

    /// Blocks until durable passes `after`, or `timeout_ns` elapsed, or the log stopped; gives
    /// durable. For shippers.
    #[must_use]
    pub fn wait_durable_beyond(&self, after: Lsn, timeout_ns: u64) -> Lsn {
        let mut state = self.state();
        state.waiting += 1;
        let blocked = |state: &mut State| state.frontiers.durable <= after && !state.stopped;
        let timeout = Duration::from_nanos(timeout_ns);
        let waited = self.progress.wait_timeout_while(state, timeout, blocked);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.frontiers.durable
    }

    /// Its meta.
    #[must_use]
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// The directory of its segments.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The disk under it.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// The clock it was opened with.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}
