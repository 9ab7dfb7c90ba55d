//! Everything of a log that changes, under one lock that is never held across I/O.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::entries::{Entries, Source};
use crate::flight::{Flight, Wakers};
use crate::known::KnownDamage;
use crate::prepare::SPARE_BYTES_LEAST;
use crate::record::Record;
use crate::report::{Frontiers, Gap, ReplayReport, ScanEnd, Stats};
use crate::retention::Registry;
use crate::segment::SegmentFile;
use crate::slots::Slots;
use crate::sync::Gate;
use crate::walk::{Link, Segment, Walk};
use crate::{Damage, Epoch, Error, Incarnation, Lineage, Lsn, LsnRange};

/// Everything that changes, under one lock that is never held across I/O.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) frontiers: Frontiers,
    /// Last LSN handed to the operating system.
    pub(crate) written: Lsn,
    pub(crate) applied: Lsn,
    /// Records above `written`, dense: those in flight, then the queued ones.
    pub(crate) pending: VecDeque<Record>,
    pub(crate) pending_bytes: u64,
    /// How many of the pending ones are in flight.
    pub(crate) drafted: usize,
    /// Bytes of frames that the queued ones need at most.
    pub(crate) queued_cost: u64,
    pub(crate) queued_bytes: u64,
    /// Frames on their way, by sequence.
    pub(crate) flights: VecDeque<Flight>,
    /// How many of them, from the front, are accounted for in the segments.
    pub(crate) placed: usize,
    /// Where the next frame goes in the active segment.
    pub(crate) next_offset: u64,
    /// Where those sleep whose records are queued.
    pub(crate) queue_gate: Arc<Gate>,
    pub(crate) queue_sleepers: usize,
    /// Callers that were woken and did not append since.
    pub(crate) returning: usize,
    /// Whom to call at which LSN.
    pub(crate) wakers: Wakers,
    /// A thread calls them.
    pub(crate) attended: bool,
    pub(crate) segments: Vec<Segment>,
    pub(crate) slots: Slots,
    /// Bytes of files kept for reuse beyond the ready ones.
    pub(crate) spare_bytes: u64,
    /// Prepared for their next life.
    pub(crate) ready: Vec<Arc<SegmentFile>>,
    /// Reclaimed; reusable once no reader holds them.
    pub(crate) retired: Vec<Arc<SegmentFile>>,
    pub(crate) link: Link,
    /// Somebody has the sole right to write frames.
    pub(crate) leading: bool,
    /// Somebody lets others queue their records before it writes them.
    pub(crate) gathering: bool,
    /// Somebody prepares a segment.
    pub(crate) preparing: bool,
    /// Somebody runs a background step.
    pub(crate) stepping: bool,
    pub(crate) stopped: bool,
    pub(crate) read_only: Option<&'static str>,
    pub(crate) poisoned: Option<Arc<Error>>,
    /// Known damage (D15).
    pub(crate) damage: KnownDamage,
    pub(crate) lineage: Lineage,
    pub(crate) writer: Option<(Epoch, Incarnation)>,
    /// Frames were written since the last mark.
    pub(crate) unmarked: bool,
    pub(crate) pins: Registry,
    /// How far somebody wanted to reclaim; pins may have held it back (P09).
    pub(crate) reclaim_wanted: Lsn,
    /// Bytes of sealed segments without an index.
    pub(crate) unindexed_bytes: u64,
    /// Threads that sleep for `Log::progress`.
    pub(crate) waiting: usize,
    pub(crate) stats: Stats,
}

/// Records of one segment, one behind the other, and what is needed to read them without the lock.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) file: Arc<SegmentFile>,
    /// Nobody writes the file any more, as long as somebody holds it.
    pub(crate) sealed: bool,
    /// Offset behind the last frame.
    pub(crate) end: u64,
    pub(crate) lsns: LsnRange,
    pub(crate) source: Source,
}

impl State {
    /// The last segment, where appends go.
    pub(crate) fn active(&mut self) -> &mut Segment {
        self.segments
            .last_mut()
            .expect("a writable log has an active segment")
    }

    /// Known damage counts as on disk: what is lost was not reclaimed (D14).
    pub(crate) fn first_on_disk(&self) -> Lsn {
        let stored = self
            .segments
            .iter()
            .find_map(|segment| segment.entries.first());
        let pending = self.pending.front().map(Record::lsn);
        let first = stored.or(pending);
        let first = first.unwrap_or_else(|| self.frontiers.head.next());
        let damaged = self.damage.first();
        damaged.map_or(first, |damaged| damaged.min(first))
    }

    /// `max(tail + 1, first LSN on disk)` (D20).
    pub(crate) fn first_retained(&self) -> Lsn {
        self.frontiers.tail.next().max(self.first_on_disk())
    }

    /// Where the records of `range` lie: of its first one, and of those behind it in the same
    /// segment without a gap.
    ///
    /// # Errors
    /// [`Error::Hole`] when the first is not on disk, [`Error::Corrupt`] when it was.
    pub(crate) fn find(&self, range: LsnRange) -> Result<Found, Error> {
        let index = self
            .segments
            .partition_point(|segment| segment.through <= range.after);
        let segment = self.segments.get(index);
        let part = segment.and_then(|segment| Some((segment, segment.entries.part(range)?)));
        let Some((segment, part)) = part else {
            let lsn = range.after.next();
            return Err(match (self.damage.at(lsn), segment) {
                (Some(false), Some(segment)) => {
                    Error::corrupt(segment.file.path(), 0, Some(lsn), Damage::Missing)
                }
                _ => Error::Hole { lsn },
            });
        };
        Ok(Found {
            file: Arc::clone(&segment.file),
            // A seal in the last segment may not be durable yet.
            sealed: segment.sealed && index + 1 < self.segments.len(),
            end: segment.end,
            lsns: part,
            source: segment.entries.source(part),
        })
    }

    /// Refuses an LSN that cannot be read: gone, or not there yet.
    pub(crate) fn check_retained(&self, lsn: Lsn) -> Result<(), Error> {
        let first = self.first_retained();
        if lsn < first {
            return Err(Error::Reclaimed {
                after: lsn.before(),
                tail: first.before(),
            });
        }
        if lsn > self.frontiers.head {
            return Err(Error::BeyondHead {
                through: lsn,
                head: self.frontiers.head,
            });
        }
        Ok(())
    }

    /// The first records of `range` if they wait to be written, `most` at most.
    pub(crate) fn queued(&self, range: LsnRange, most: usize) -> Vec<Record> {
        if range.after < self.written || range.is_empty() {
            return Vec::new();
        }
        let skipped = usize::try_from(range.after.get() - self.written.get()).unwrap_or(usize::MAX);
        let count = usize::try_from(range.len()).unwrap_or(usize::MAX).min(most);
        self.pending
            .iter()
            .skip(skipped)
            .take(count)
            .cloned()
            .collect()
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
        self.damage.forget_above(after);
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
    pub(crate) fn check_range(&self, range: LsnRange) -> Result<(), Gap> {
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
    pub(crate) fn first_damage(&self, range: LsnRange) -> Option<(Lsn, bool)> {
        if range.is_empty() {
            return None;
        }
        let known = self.damage.first_in(range);
        let absent = self.first_absent(range).map(|lsn| (lsn, true));
        match (known, absent) {
            (Some(known), Some(absent)) if absent.0 < known.0 => Some(absent),
            (Some(known), _) => Some(known),
            (None, absent) => absent,
        }
    }

    pub(crate) fn first_absent(&self, range: LsnRange) -> Option<Lsn> {
        let mut expected = range.after.next();
        let first = self
            .segments
            .partition_point(|segment| segment.through <= range.after);
        let runs = self.segments[first..]
            .iter()
            .flat_map(|segment| segment.entries.runs());
        for run in runs {
            if run.through < expected {
                continue;
            }
            if run.after >= expected || expected > range.through {
                break;
            }
            expected = run.through.next();
        }
        // Records without a place yet are dense behind what is written.
        let queued = self.written.next();
        (expected <= range.through && expected < queued).then_some(expected)
    }
}

impl State {
    pub(crate) fn from_walk(
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
            _ if writable => (walk.head, walk.head, KnownDamage::default(), None),
            _ => (
                walk.head,
                walk.head,
                KnownDamage::default(),
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
            pending: VecDeque::new(),
            pending_bytes: 0,
            drafted: 0,
            queued_cost: 0,
            queued_bytes: 0,
            flights: VecDeque::new(),
            placed: 0,
            next_offset: walk.segments.last().map_or(0, |active| active.end),
            queue_gate: Arc::default(),
            queue_sleepers: 0,
            returning: 0,
            wakers: Wakers::new(),
            attended: false,
            segments: walk.segments,
            slots: walk.slots,
            spare_bytes: SPARE_BYTES_LEAST,
            ready: Vec::new(),
            retired: Vec::new(),
            link: walk.link,
            leading: false,
            gathering: false,
            preparing: false,
            stepping: false,
            stopped: false,
            read_only,
            poisoned: None,
            damage,
            lineage: meta.lineage.clone(),
            writer: None,
            unmarked: false,
            pins: Registry::default(),
            reclaim_wanted: meta.tail,
            waiting: 0,
            unindexed_bytes: 0,
            stats: Stats::default(),
        }
    }

    pub(crate) fn check_open(&self, dir: &Path) -> Result<(), Error> {
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
    pub(crate) fn enqueue(&mut self, record: Record) {
        debug_assert_eq!(record.lsn(), self.frontiers.head.next(), "dense LSNs");
        self.move_frontiers(|frontiers| frontiers.head = record.lsn());
        self.applied = record.lsn();
        self.stats.records += 1;
        self.pending_bytes += record.bytes() as u64;
        self.queued_cost += record.frame_cost();
        self.queued_bytes += record.bytes() as u64;
        self.pending.push_back(record);
    }

    pub(crate) fn push_active(&mut self, file: Arc<SegmentFile>) {
        let newest = self.segments.last().map(|last| last.file.generation);
        assert!(
            newest < Some(file.generation),
            "W8: generation {} behind {newest:?}",
            file.generation
        );
        assert!(
            self.flights.is_empty(),
            "W8: a frame in flight behind the seal"
        );
        self.next_offset = crate::segment::FIRST_FRAME_AT;
        self.segments.push(Segment {
            file,
            entries: Entries::default(),
            through: self.written,
            end: crate::segment::FIRST_FRAME_AT,
            sealed: false,
            indexed: false,
        });
        self.count_unindexed();
    }

    /// Number of segments at the front that hold nothing above `tail`; the active one never counts.
    pub(crate) fn reclaimable(&self, tail: Lsn) -> usize {
        let sealed = &self.segments[..self.segments.len() - 1];
        sealed
            .iter()
            .take_while(|segment| segment.through <= tail)
            .count()
    }

    /// Counts the bytes of sealed segments without an index anew.
    pub(crate) fn count_unindexed(&mut self) {
        let waiting = self.segments.iter();
        let waiting = waiting.filter(|segment| segment.sealed && !segment.indexed);
        self.unindexed_bytes = waiting.map(|segment| segment.end).sum();
    }

    pub(crate) fn collect_retired(&mut self) {
        let retired = std::mem::take(&mut self.retired);
        for file in retired {
            match Arc::strong_count(&file) {
                1 => self.slots.spare.push(file.slot),
                _ => self.retired.push(file),
            }
        }
    }

    pub(crate) fn take_slot(&mut self) -> u32 {
        self.collect_retired();
        self.slots.take()
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
