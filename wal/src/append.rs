//! Appending: our own changes under an incarnation, or a primary's records unchanged.

use std::sync::Arc;

use crate::log::Log;
use crate::record::{Change, Record, RecordHeader};
use crate::{Epoch, Error, LineageEntry, Lsn, LsnRange};

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

impl Log {
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
}
