//! The log: open, append, read, prove, truncate, reclaim. How appends reach the disk is in
//! `commit`.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::disk::{Buffer, Disk};
use crate::index::Entry;
use crate::meta::Meta;
use crate::record::{Change, Record, RecordHeader};
use crate::replay::{Verdict, verdict};
use crate::report::{
    Frontiers, Gap, RecordPlace, ReplayReport, ScanEnd, SegmentInfo, SegmentState,
};
use crate::retention::{PinInfo, PinKind, Registry, WalPin, check_pin};
use crate::segment::{SegmentFile, file_name};
use crate::walk::{Link, Place, Segment, Slots, Walk};
use crate::{Damage, Epoch, Error, Incarnation, Lineage, LineageEntry, Lsn, LsnRange, edge};

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
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) dir: PathBuf,
    pub(crate) ids: Ids,
    state: Mutex<State>,
    /// Signalled whenever a frontier moves, a leader steps down, or there is background work.
    pub(crate) progress: Condvar,
}

/// What never changes while a log is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids {
    pub(crate) volume: crate::VolumeId,
    pub(crate) log: crate::LogId,
    pub(crate) geometry: crate::Geometry,
}

/// Everything that changes, under one lock that is never held across I/O.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) frontiers: Frontiers,
    /// Last LSN handed to the operating system.
    pub(crate) written: Lsn,
    pub(crate) applied: Lsn,
    /// Records that have an LSN and no place yet.
    pub(crate) queue: VecDeque<Record>,
    pub(crate) queue_bytes: u64,
    /// Queued records and those being written, for readers.
    pub(crate) pending: BTreeMap<Lsn, Record>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) slots: Slots,
    /// Prepared for their next life.
    pub(crate) ready: Vec<Arc<SegmentFile>>,
    /// Reclaimed; reusable once no reader holds them.
    pub(crate) retired: Vec<Arc<SegmentFile>>,
    pub(crate) link: Link,
    /// Somebody is writing frames; there is never more than one.
    pub(crate) leading: bool,
    /// Somebody runs a background step.
    pub(crate) stepping: bool,
    pub(crate) stopped: bool,
    read_only: Option<&'static str>,
    poisoned: Option<Arc<Error>>,
    /// Known damage: LSN, and whether it is a hole (D15).
    damage: BTreeMap<Lsn, bool>,
    pub(crate) lineage: Lineage,
    pub(crate) writer: Option<(Epoch, Incarnation)>,
    /// Frames were written since the last mark.
    pub(crate) unmarked: bool,
    /// Frames were written since the last sync.
    pub(crate) unsynced: bool,
    pub(crate) pins: Registry,
    /// How far somebody wanted to reclaim; pins may have held it back (P09).
    pub(crate) reclaim_wanted: Lsn,
}

/// An append on its way. Dropping it does not undo the append.
#[derive(Debug)]
#[must_use = "an append is durable only once the ticket says so"]
pub struct Ticket {
    log: Arc<Log>,
    range: LsnRange,
}

impl Ticket {
    /// The LSNs assigned: dense, in order.
    #[must_use]
    pub fn range(&self) -> LsnRange {
        self.range
    }

    /// Waits until they are durable on this node.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when a write or sync failed, [`Error::Io`] with ENOSPC when no segment
    /// can be prepared: the records then stay queued and a later sync may succeed.
    pub fn wait(self) -> Result<Lsn, Error> {
        self.log.sync_through(self.range.through)
    }
}

impl State {
    /// The last segment, where appends go.
    pub(crate) fn active(&mut self) -> &mut Segment {
        self.segments
            .last_mut()
            .expect("a writable log has an active segment")
    }

    /// Known damage counts as on disk: what is lost was not reclaimed (D14).
    fn first_on_disk(&self) -> Lsn {
        let stored = self
            .segments
            .iter()
            .find_map(|segment| segment.entries.first());
        let pending = self.pending.keys().next().copied();
        let first = stored.map(|entry| entry.lsn).or(pending);
        let first = first.unwrap_or_else(|| self.frontiers.head.next());
        let damaged = self.damage.keys().next().copied();
        damaged.map_or(first, |damaged| damaged.min(first))
    }

    /// `max(tail + 1, first LSN on disk)` (D20).
    pub(crate) fn first_retained(&self) -> Lsn {
        self.frontiers.tail.next().max(self.first_on_disk())
    }

    fn find(&self, lsn: Lsn) -> Option<(&Segment, Entry)> {
        let index = self
            .segments
            .partition_point(|segment| segment.through < lsn);
        let segment = self.segments.get(index)?;
        let at = segment
            .entries
            .binary_search_by_key(&lsn, |entry| entry.lsn)
            .ok()?;
        Some((segment, segment.entries[at]))
    }

    /// Every change of a frontier passes through here; one that would break the chain is not made
    /// (W1).
    pub(crate) fn move_frontiers(&mut self, change: impl FnOnce(&mut Frontiers)) {
        let mut frontiers = self.frontiers;
        change(&mut frontiers);
        frontiers.assert_chain();
        self.frontiers = frontiers;
    }

    /// Damage of records that were dropped says nothing about the ones that take their LSNs.
    pub(crate) fn forget_damage_above(&mut self, after: Lsn) {
        self.damage.retain(|lsn, _| *lsn <= after);
    }

    /// Fails the log for good (L3).
    pub(crate) fn poison(&mut self, error: &Error) {
        self.poisoned.get_or_insert_with(|| Arc::new(error.clone()));
    }

    /// Refuses calls that would touch the disk after a failure or a stop.
    pub(crate) fn check_running(&self) -> Result<(), Error> {
        self.check_poison()?;
        if self.stopped {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    pub(crate) fn check_poison(&self) -> Result<(), Error> {
        match &self.poisoned {
            Some(first) => Err(Error::Poisoned {
                first: Arc::clone(first),
            }),
            None => Ok(()),
        }
    }

    /// The conditions of recoverability, in their order (SEMANTICS 1.1).
    fn check_range(&self, range: LsnRange) -> Result<(), Gap> {
        if range.after.next() < self.first_retained() {
            return Err(Gap::Reclaimed {
                tail: self.first_retained().before(),
            });
        }
        if range.through > self.frontiers.head {
            return Err(Gap::BeyondHead {
                head: self.frontiers.head,
            });
        }
        if let Some((lsn, hole)) = self.first_damage(range) {
            return Err(if hole {
                Gap::Hole { lsn }
            } else {
                Gap::Corrupt { lsn }
            });
        }
        Ok(())
    }

    /// First LSN of the range that is damaged or absent.
    fn first_damage(&self, range: LsnRange) -> Option<(Lsn, bool)> {
        if range.is_empty() {
            return None;
        }
        let known = self.damage.range(range.after.next()..=range.through).next();
        let known = known.map(|(lsn, hole)| (*lsn, *hole));
        let absent = self.first_absent(range).map(|lsn| (lsn, true));
        match (known, absent) {
            (Some(known), Some(absent)) if absent.0 < known.0 => Some(absent),
            (Some(known), _) => Some(known),
            (None, absent) => absent,
        }
    }

    fn first_absent(&self, range: LsnRange) -> Option<Lsn> {
        let mut expected = range.after.next();
        let first = self
            .segments
            .partition_point(|segment| segment.through <= range.after);
        for segment in &self.segments[first..] {
            let from = segment
                .entries
                .partition_point(|entry| entry.lsn < expected);
            let to = segment
                .entries
                .partition_point(|entry| entry.lsn <= range.through);
            let part = &segment.entries[from..to.max(from)];
            let (Some(head), Some(last)) = (part.first(), part.last()) else {
                continue;
            };
            let dense = last.lsn.get() - head.lsn.get() + 1 == part.len() as u64;
            if head.lsn != expected || !dense {
                let lsns = part.iter().map(|entry| entry.lsn);
                let odd = lsns.zip(LsnRange::new(expected.before(), last.lsn).iter());
                return odd.skip_while(|(a, b)| a == b).map(|(_, b)| b).next();
            }
            expected = last.lsn.next();
        }
        // Records without a place yet are dense behind what is written.
        let queued = self.written.next();
        (expected <= range.through && expected < queued).then_some(expected)
    }
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
        let contents = meta.get();
        if contents.tail > checkpoint {
            return Err(chain(
                "open with the tail at",
                contents.tail,
                "checkpoint",
                checkpoint,
            ));
        }
        let dir = dir.join(DIR_NAME);
        let writable = mode == LogMode::Writable;
        let place = Place {
            disk,
            dir: &dir,
            meta: &contents,
            checkpoint,
            writable,
        };
        let mut walk = place.walk()?;
        let verdict = verdict(walk.facts);
        let end = match verdict {
            Verdict::Clean => ScanEnd::Clean,
            Verdict::Torn => {
                walk.cut();
                ScanEnd::Torn {
                    at: walk.stop.clone(),
                    bytes: walk.bytes_behind,
                }
            }
            Verdict::Damaged => ScanEnd::Damaged(walk.keep_damaged()),
        };
        let report = ReplayReport {
            end,
            segments_scanned: walk.scanned,
            segments_indexed: walk.by_index,
            records: walk.records,
            clean_close: contents.clean_close.is_some(),
        };
        let torn = verdict == Verdict::Torn;
        if !(writable && torn) {
            let later = std::mem::take(&mut walk.slots.later);
            walk.slots.spare.extend(later);
        }
        let wipe_to = torn.then_some(walk.wipe_to);
        let ids = Ids {
            volume: contents.volume,
            log: contents.log,
            geometry: contents.geometry,
        };
        let log = Arc::new(Log {
            meta: Arc::clone(meta),
            disk: Arc::clone(disk),
            clock: Arc::clone(clock),
            dir,
            ids,
            state: Mutex::new(State::from_walk(
                walk, &contents, checkpoint, &report, writable,
            )),
            progress: Condvar::new(),
        });
        if writable && verdict != Verdict::Damaged {
            log.begin_writing(wipe_to)?;
            if !disk.is_stepped() {
                edge::spawn(&log)
                    .map_err(|source| Error::io(crate::IoOp::Open, &log.dir, None, source))?;
            }
        }
        Ok((log, report))
    }

    /// Makes a log that was just replayed ready for appends, everything durable. Behind a torn
    /// tail, `wipe_to` says how far the frames reach that were cut.
    fn begin_writing(&self, wipe_to: Option<u64>) -> Result<(), Error> {
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
        if let Some(wipe_to) = wipe_to {
            self.wipe_behind_cut(wipe_to)?;
        }
        if wipe_to.is_some() || self.state().active().sealed {
            // D16: the next append goes to a new generation.
            self.rotate()?;
            self.sync_active()?;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        // OK because a panic under the lock is an assertion of ours: frontiers move behind it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.progress
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Largest payload of one record: 1 MiB, or a quarter of a segment.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        let quarter = usize::try_from(self.ids.geometry.segment_bytes / 4).unwrap_or(usize::MAX);
        RecordHeader::PAYLOAD_BYTES_MAX.min(quarter)
    }

    /// Starts an incarnation of a primary at `epoch` (D2): durable in meta before it returns.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`], or [`Error::StaleEpoch`].
    pub fn start_incarnation(&self, epoch: Epoch) -> Result<LineageEntry, Error> {
        self.check_writable()?;
        let meta = self.meta.get();
        if epoch < meta.epoch {
            return Err(Error::StaleEpoch {
                found: epoch,
                known: meta.epoch,
            });
        }
        let first = {
            let mut state = self.state();
            // W4: nothing is appended under the incarnation before, from here on.
            state.writer = None;
            state.frontiers.head.next()
        };
        let entry = LineageEntry {
            epoch,
            incarnation: meta.incarnation_next,
            first,
        };
        self.adopt_entry(entry)?;
        self.state().writer = Some((epoch, entry.incarnation));
        Ok(entry)
    }

    /// Makes a lineage entry durable before the first record under it.
    fn adopt_entry(&self, entry: LineageEntry) -> Result<(), Error> {
        let lineage = self.state().lineage.with(entry);
        self.meta.update(|meta| {
            meta.lineage = lineage.clone();
            meta.epoch = meta.epoch.max(entry.epoch);
            meta.incarnation_next = meta.incarnation_next.max(entry.incarnation.next());
        })?;
        self.state().lineage = lineage;
        Ok(())
    }

    /// Assigns the next LSNs to `changes` under our incarnation and queues them; does no I/O.
    /// They are readable through [`Log::read_blocks`] at once.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Geometry`] for blocks outside the volume
    /// or a payload over the limit.
    pub fn append(self: &Arc<Self>, changes: Vec<Change>) -> Result<Ticket, Error> {
        for change in &changes {
            self.check_change(change)?;
        }
        let mut state = self.state();
        state.check_open(&self.dir)?;
        let Some((epoch, incarnation)) = state.writer else {
            let why = "no incarnation was started; open it as a primary";
            return Err(Error::ReadOnly {
                path: self.dir.clone(),
                why,
            });
        };
        let after = state.frontiers.head;
        for change in changes {
            let header = RecordHeader {
                kind: change.kind,
                no_hole: change.no_hole,
                block_size: self.ids.geometry.block_size,
                volume: self.ids.volume,
                epoch,
                incarnation,
                lsn: state.frontiers.head.next(),
                lba: change.lba,
                blocks: change.blocks,
                sum: 0,
            };
            state.enqueue(Record::seal(header, change.payload));
        }
        let range = LsnRange::new(after, state.frontiers.head);
        Ok(Ticket {
            log: Arc::clone(self),
            range,
        })
    }

    fn check_change(&self, change: &Change) -> Result<(), Error> {
        let geometry = self.ids.geometry;
        let end = change.lba.0.checked_add(u64::from(change.blocks));
        if change.blocks == 0 || end.is_none_or(|end| end > geometry.blocks) {
            let what = "blocks outside the volume";
            return Err(Error::Geometry {
                what,
                value: change.lba.0,
            });
        }
        let payload = change.payload.len();
        let expected = match change.kind {
            crate::RecordKind::Write => change.blocks as usize * geometry.block_size.bytes_usize(),
            _ => 0,
        };
        if payload != expected || payload > self.payload_bytes_max() {
            let what = "payload must be whole blocks, at most 1 MiB and a quarter of a segment";
            return Err(Error::Geometry {
                what,
                value: payload as u64,
            });
        }
        Ok(())
    }

    /// Queues records received from a primary, unchanged. The first must follow the head. A new
    /// lineage entry is made durable before its first record is queued.
    ///
    /// # Errors
    /// [`Error::NotNext`], [`Error::OtherVolume`], [`Error::StaleEpoch`] for a record of an older
    /// lineage entry than the last, and as [`Log::append`].
    pub fn append_received(self: &Arc<Self>, records: Vec<Record>) -> Result<Ticket, Error> {
        let after = self.frontiers().head;
        for record in records {
            self.append_one_received(record)?;
        }
        let through = self.frontiers().head;
        Ok(Ticket {
            log: Arc::clone(self),
            range: LsnRange::new(after, through),
        })
    }

    fn append_one_received(&self, record: Record) -> Result<(), Error> {
        let header = *record.header();
        if header.volume != self.ids.volume {
            return Err(Error::OtherVolume {
                expected: self.ids.volume,
                found: header.volume,
            });
        }
        self.check_change(&Change {
            kind: header.kind,
            no_hole: header.no_hole,
            lba: header.lba,
            blocks: header.blocks,
            payload: Arc::clone(record.payload()),
        })?;
        let (head, last) = {
            let state = self.state();
            state.check_open(&self.dir)?;
            let head = state.frontiers.head;
            (head, state.lineage.through(head).last())
        };
        if header.lsn != head.next() {
            return Err(Error::NotNext {
                found: header.lsn,
                head,
            });
        }
        let entry = (header.epoch, header.incarnation);
        let known = last.map(|last| (last.epoch, last.incarnation));
        if known.is_some_and(|known| entry < known) {
            let known = last.map_or(Epoch::default(), |last| last.epoch);
            return Err(Error::StaleEpoch {
                found: header.epoch,
                known,
            });
        }
        if known != Some(entry) {
            let (epoch, incarnation) = entry;
            self.adopt_entry(LineageEntry {
                epoch,
                incarnation,
                first: header.lsn,
            })?;
        } else {
            self.drop_empty_entry(head)?;
        }
        let mut state = self.state();
        state.check_open(&self.dir)?;
        // L6: assigned and queued in one step, whoever else appends or truncates.
        let head = state.frontiers.head;
        if header.lsn != head.next() {
            return Err(Error::NotNext {
                found: header.lsn,
                head,
            });
        }
        state.enqueue(record);
        Ok(())
    }

    /// D1: records that a primary lost are received under the entry before its present one, which
    /// has no record yet and is dropped. New appends need a new incarnation.
    fn drop_empty_entry(&self, head: Lsn) -> Result<(), Error> {
        let (lineage, kept) = {
            let state = self.state();
            (state.lineage.clone(), state.lineage.through(head))
        };
        if lineage == kept {
            return Ok(());
        }
        self.meta.update(|meta| meta.lineage = kept.clone())?;
        let mut state = self.state();
        state.lineage = kept;
        state.writer = None;
        Ok(())
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
        drop(state);
        self.progress.notify_all();
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

    /// The index entries of a range without payload, in order.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn places(&self, range: LsnRange) -> Result<Vec<RecordPlace>, Error> {
        let state = self.state();
        state
            .check_range(range)
            .map_err(|gap| self.gap_error(gap, range))?;
        let mut places = Vec::with_capacity(usize::try_from(range.len()).unwrap_or(0));
        let first = state
            .segments
            .partition_point(|segment| segment.through <= range.after);
        for segment in &state.segments[first..] {
            let from = segment
                .entries
                .partition_point(|entry| entry.lsn <= range.after);
            let to = segment
                .entries
                .partition_point(|entry| entry.lsn <= range.through);
            places.extend(
                segment.entries[from.min(to)..to]
                    .iter()
                    .map(|entry| RecordPlace {
                        lsn: entry.lsn,
                        kind: entry.kind,
                        no_hole: entry.no_hole,
                        lba: entry.lba,
                        blocks: entry.blocks,
                    }),
            );
        }
        let written = range.after.max(state.written);
        if written < range.through {
            let queued = state.pending.range(written.next()..=range.through);
            places.extend(queued.map(|(_, record)| RecordPlace {
                lsn: record.lsn(),
                kind: record.header().kind,
                no_hole: record.header().no_hole,
                lba: record.header().lba,
                blocks: record.header().blocks,
            }));
        }
        Ok(places)
    }

    /// Every record of the range in order, each verified when it is read. All or nothing: what
    /// cannot be complete is refused before the first record (L7). The range stays readable while
    /// the reader lives.
    ///
    /// # Errors
    /// [`Error::Reclaimed`], [`Error::BeyondHead`], [`Error::Hole`], [`Error::Corrupt`].
    pub fn read(self: &Arc<Self>, range: LsnRange) -> Result<RecordReader, Error> {
        let pin = self.pin(range.after, "reader")?;
        self.prove(range)
            .map_err(|gap| self.gap_error(gap, range))?;
        Ok(RecordReader {
            log: Arc::clone(self),
            range,
            _pin: pin,
        })
    }

    fn gap_error(&self, gap: Gap, range: LsnRange) -> Error {
        match gap {
            Gap::Reclaimed { tail } => Error::reclaimed(range, tail),
            Gap::BeyondHead { head } => Error::BeyondHead {
                through: range.through,
                head,
            },
            Gap::Hole { lsn } => Error::Hole { lsn },
            Gap::Corrupt { lsn } => Error::corrupt(&self.dir, 0, Some(lsn), Damage::Missing),
        }
    }

    /// One record, verified. A record that was damaged is read again: the answer is what is on disk
    /// now.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_record(&self, lsn: Lsn) -> Result<Record, Error> {
        if let Some(record) = self.state().pending.get(&lsn) {
            return Ok(record.clone());
        }
        let (header, bytes, payload_at) = self.read_stored(lsn)?;
        let payload = Arc::new(Buffer::copy_of(&bytes[payload_at..]));
        Record::verified(header, payload).map_err(|_| Error::Hole { lsn })
    }

    /// Copies blocks out of the payload of write record `lsn`: `out.len()` bytes from block
    /// `first` of the record on. The whole record is verified.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_blocks(&self, lsn: Lsn, first: u32, out: &mut [u8]) -> Result<(), Error> {
        let from = first as usize * self.ids.geometry.block_size.bytes_usize();
        let outside = Error::Geometry {
            what: "blocks outside the record",
            value: first.into(),
        };
        let pending = self
            .state()
            .pending
            .get(&lsn)
            .map(|record| Arc::clone(record.payload()));
        let (bytes, payload_at) = match &pending {
            Some(payload) => (payload.as_ref(), 0),
            None => {
                let (_, bytes, payload_at) = self.read_stored(lsn)?;
                let part = bytes.get(payload_at + from..payload_at + from + out.len());
                out.copy_from_slice(part.ok_or(outside)?);
                return Ok(());
            }
        };
        let part = bytes.get(payload_at + from..payload_at + from + out.len());
        out.copy_from_slice(part.ok_or(outside)?);
        Ok(())
    }

    /// Header and payload of a record on disk, verified: the bytes read, and where in them the
    /// payload begins. What fails joins the known damage (D15).
    fn read_stored(&self, lsn: Lsn) -> Result<(RecordHeader, Buffer, usize), Error> {
        let (file, entry, sealed) = {
            let state = self.state();
            if lsn < state.first_retained() {
                let tail = state.first_retained().before();
                return Err(Error::Reclaimed {
                    after: lsn.before(),
                    tail,
                });
            }
            if lsn > state.frontiers.head {
                return Err(Error::BeyondHead {
                    through: lsn,
                    head: state.frontiers.head,
                });
            }
            let Some((segment, entry)) = state.find(lsn) else {
                return Err(Error::Hole { lsn });
            };
            (Arc::clone(&segment.file), entry, segment.sealed)
        };
        let found = self.read_entry(&file, entry, sealed);
        if let Err(error) = &found {
            tracing::error!(%error, lsn = lsn.get(), "a record in the log is damaged");
            self.state().damage.insert(lsn, false);
        }
        found
    }

    fn read_entry(
        &self,
        file: &SegmentFile,
        entry: Entry,
        sealed: bool,
    ) -> Result<(RecordHeader, Buffer, usize), Error> {
        let block = self.ids.geometry.block_size.bytes_usize();
        let payload = match entry.kind {
            crate::RecordKind::Write => entry.blocks as usize * block,
            _ => 0,
        };
        let gap = match payload {
            0 => RecordHeader::BYTES,
            _ => (entry.payload_at.saturating_sub(entry.header_at)) as usize,
        };
        let at = u64::from(entry.header_at);
        let corrupt = |what| Error::corrupt(file.path(), at, Some(entry.lsn), what);
        // Records far behind their header share a large frame; two reads are then cheaper than one.
        let (header, bytes, payload_at) = if gap <= 16 << 10 {
            let bytes = file
                .read(at, gap + payload, sealed)
                .map_err(|_| corrupt(Damage::Unreadable))?;
            (RecordHeader::decode(&bytes).map_err(corrupt)?, bytes, gap)
        } else {
            let header = file
                .read(at, RecordHeader::BYTES, sealed)
                .map_err(|_| corrupt(Damage::Unreadable))?;
            let bytes = file
                .read(entry.payload_at.into(), payload, sealed)
                .map_err(|_| corrupt(Damage::Unreadable))?;
            (RecordHeader::decode(&header).map_err(corrupt)?, bytes, 0)
        };
        let payload_at = if payload == 0 {
            bytes.len()
        } else {
            payload_at
        };
        header.verify(&bytes[payload_at..]).map_err(corrupt)?;
        if header.lsn != entry.lsn || header.volume != self.ids.volume {
            return Err(corrupt(Damage::Identity));
        }
        Ok((header, bytes, payload_at))
    }

    /// Proves from the indexes and the known damage that every record of the range is there (D15).
    ///
    /// # Errors
    /// The first gap.
    pub fn prove(&self, range: LsnRange) -> Result<(), Gap> {
        self.state().check_range(range)
    }

    /// Proves it by reading every byte. What it finds joins the known damage.
    ///
    /// # Errors
    /// [`Error`] variants of [`Log::read`].
    pub fn prove_full(self: &Arc<Self>, range: LsnRange) -> Result<(), Error> {
        self.read(range)?.try_for_each(|record| record.map(drop))
    }

    /// Damage known so far, by LSN; `true` where the record is absent (a hole).
    #[must_use]
    pub fn known_damage(&self) -> Vec<(Lsn, bool)> {
        self.state()
            .damage
            .iter()
            .map(|(lsn, hole)| (*lsn, *hole))
            .collect()
    }

    /// Keeps every record above `after` readable, checked against the retention floor in the same
    /// critical section (L-N2).
    ///
    /// # Errors
    /// [`Error::Reclaimed`].
    pub fn pin(self: &Arc<Self>, after: Lsn, owner: &str) -> Result<WalPin, Error> {
        let now = self.clock.monotonic_ns();
        let mut state = self.state();
        check_pin(after, state.first_retained())?;
        let id = state.pins.add(PinKind::Wal, after, owner, now);
        drop(state);
        Ok(WalPin::new(Arc::clone(self), id))
    }

    /// Lists a pin of another crate in the registry; it holds no log. Dropping it unlists it.
    pub fn register_pin(self: &Arc<Self>, kind: PinKind, lsn: Lsn, owner: &str) -> WalPin {
        let now = self.clock.monotonic_ns();
        let id = self.state().pins.add(kind, lsn, owner, now);
        WalPin::new(Arc::clone(self), id)
    }

    pub(crate) fn pin_position(&self, id: u64) -> Lsn {
        self.state().pins.position(id).unwrap_or_default()
    }

    pub(crate) fn advance_pin(&self, id: u64, after: Lsn) {
        self.state().pins.advance(id, after);
        self.progress.notify_all();
    }

    pub(crate) fn release_pin(&self, id: u64) {
        self.state().pins.remove(id);
        self.progress.notify_all();
    }

    /// Every pin, oldest first.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        let now = self.clock.monotonic_ns();
        let state = self.state();
        let behind = |lsn| {
            let above = state
                .segments
                .iter()
                .filter(|segment| segment.through > lsn);
            above.map(|segment| segment.end).sum()
        };
        state.pins.list(now, behind)
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
                lsns: segment
                    .entries
                    .first()
                    .zip(segment.entries.last())
                    .map(|(a, b)| (a.lsn, b.lsn)),
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
        let state = self.state();
        let blocked = |state: &mut State| state.frontiers.durable <= after && !state.stopped;
        let timeout = Duration::from_nanos(timeout_ns);
        let waited = self.progress.wait_timeout_while(state, timeout, blocked);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .frontiers
            .durable
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

/// A refusal to move a frontier beyond the one that bounds it.
pub(crate) fn chain(action: &'static str, lsn: Lsn, name: &'static str, bound: Lsn) -> Error {
    Error::Chain {
        action,
        lsn,
        bound_name: name,
        bound,
    }
}

impl State {
    fn from_walk(
        walk: Walk,
        meta: &crate::MetaContents,
        checkpoint: Lsn,
        report: &ReplayReport,
        writable: bool,
    ) -> State {
        let (durable, applied, damage, read_only) = match &report.end {
            ScanEnd::Damaged(loss) => (
                loss.durable,
                loss.applied,
                Walk::damage_of(loss),
                Some("records below its durable frontier are damaged; see seawall verify"),
            ),
            _ if writable => (walk.head, walk.head, BTreeMap::new(), None),
            _ => (
                walk.head,
                walk.head,
                BTreeMap::new(),
                Some("it was opened for inspection"),
            ),
        };
        let frontiers = Frontiers {
            tail: meta.tail,
            checkpoint,
            committed: walk.committed.min(durable).max(checkpoint),
            durable,
            head: walk.head.max(durable),
        };
        frontiers.assert_chain();
        State {
            frontiers,
            written: frontiers.head,
            applied,
            queue: VecDeque::new(),
            queue_bytes: 0,
            pending: BTreeMap::new(),
            segments: walk.segments,
            slots: walk.slots,
            ready: Vec::new(),
            retired: Vec::new(),
            link: walk.link,
            leading: false,
            stepping: false,
            stopped: false,
            read_only,
            poisoned: None,
            damage,
            lineage: meta.lineage.clone(),
            writer: None,
            unmarked: false,
            unsynced: false,
            pins: Registry::default(),
            reclaim_wanted: meta.tail,
        }
    }

    fn check_open(&self, dir: &Path) -> Result<(), Error> {
        self.check_poison()?;
        if let Some(why) = self.read_only {
            return Err(Error::ReadOnly {
                path: dir.into(),
                why,
            });
        }
        if self.stopped {
            Err(Error::Closed)
        } else {
            Ok(())
        }
    }

    /// Gives a record its place in the order; the LSN was assigned under the same lock (L6).
    fn enqueue(&mut self, record: Record) {
        debug_assert_eq!(record.lsn(), self.frontiers.head.next(), "dense LSNs");
        self.move_frontiers(|frontiers| frontiers.head = record.lsn());
        self.applied = record.lsn();
        self.queue_bytes += record.bytes() as u64;
        self.pending.insert(record.lsn(), record.clone());
        self.queue.push_back(record);
    }

    pub(crate) fn push_active(&mut self, file: Arc<SegmentFile>) {
        let newest = self.segments.last().map(|last| last.file.generation);
        assert!(
            newest < Some(file.generation),
            "W8: generation {} behind {newest:?}",
            file.generation
        );
        self.segments.push(Segment {
            file,
            entries: Vec::new(),
            through: self.written,
            end: crate::segment::FIRST_FRAME_AT,
            sealed: false,
            indexed: false,
        });
    }
}

/// Iterator over a range of records; see [`Log::read`].
#[derive(Debug)]
pub struct RecordReader {
    log: Arc<Log>,
    range: LsnRange,
    _pin: WalPin,
}

impl Iterator for RecordReader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        self.range.after = self.range.after.next();
        let record = self.log.read_record(self.range.after);
        if record.is_err() {
            self.range.after = self.range.through;
        }
        Some(record)
    }
}
