//! Appending: our own changes under an incarnation, or a primary's records unchanged.

use std::sync::Arc;

use crate::log::Log;
use crate::record::{Change, Record, RecordHeader, Unnumbered, payload_bytes_max};
use crate::ticket::Ticket;
use crate::{Epoch, Error, Incarnation, LineageEntry, Lsn, LsnRange};

/// Changes that were checked and summed, and lack nothing but their LSNs.
#[derive(Debug)]
pub struct Ready {
    records: Vec<Unnumbered>,
    bytes: u64,
}

impl Ready {
    /// Bytes of their records.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Log {
    /// Largest payload of one record: 1 MiB, or a quarter of a segment.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        payload_bytes_max(self.ids.geometry.segment_bytes)
    }

    /// Starts an incarnation of a primary at `epoch` (D2): durable in meta before it returns.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`], or [`Error::StaleEpoch`].
    pub fn start_incarnation(&self, epoch: Epoch) -> Result<LineageEntry, Error> {
        self.check_writable()?;
        let meta = self.meta.get();
        let last = self.lineage().last();
        // Above both: a table out of order is one that meta cannot be read with again.
        let known = last.map_or(meta.epoch, |last| last.epoch.max(meta.epoch));
        if epoch < known {
            return Err(Error::StaleEpoch {
                found: epoch,
                known,
            });
        }
        let first = {
            let mut state = self.state();
            // W4: nothing is appended under the incarnation before, from here on.
            state.writer = None;
            state.frontiers.head.next()
        };
        let above = last.map_or(meta.incarnation_next, |last| last.incarnation.next());
        let entry = LineageEntry {
            epoch,
            incarnation: meta.incarnation_next.max(above),
            first,
        };
        self.adopt_entry(entry)?;
        self.state().writer = Some((epoch, entry.incarnation));
        Ok(entry)
    }

    /// Makes a lineage entry durable before the first record under it.
    fn adopt_entry(&self, entry: LineageEntry) -> Result<(), Error> {
        let lineage = self.state().lineage.with(entry);
        // Meta refuses the last of all numbers, which a peer may have sent.
        let next = Incarnation::new(entry.incarnation.get().saturating_add(1));
        self.meta.update(|meta| {
            meta.lineage = lineage.clone();
            meta.epoch = meta.epoch.max(entry.epoch);
            meta.incarnation_next = meta.incarnation_next.max(next);
        })?;
        self.state().lineage = lineage;
        Ok(())
    }

    /// Assigns the next LSNs to `changes` under our incarnation and queues them. They are readable
    /// through [`Log::read_blocks`] at once, and durable when the ticket says so.
    ///
    /// It waits for the disk only when much is queued already, see [`Log::admit`].
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Geometry`] for blocks outside the volume
    /// or a payload over the limit, and as [`Log::admit`]; nothing was appended then.
    pub fn append(self: &Arc<Self>, changes: Vec<Change>) -> Result<Ticket, Error> {
        let mut ready = self.ready(changes)?;
        loop {
            if let Some(ticket) = self.append_ready(&mut ready)? {
                return Ok(ticket);
            }
            self.admit(ready.bytes)?;
        }
    }

    /// Checks and sums changes, where callers do not wait for each other.
    ///
    /// # Errors
    /// [`Error::Geometry`], as [`Log::append`].
    pub fn ready(&self, changes: Vec<Change>) -> Result<Ready, Error> {
        let mut bytes = 0;
        for change in &changes {
            self.check_change(change)?;
            bytes += (RecordHeader::BYTES + change.payload.len()) as u64;
        }
        let (volume, block_size) = (self.ids.volume, self.ids.geometry.block_size);
        let changes = changes.into_iter();
        let records = changes.map(|change| Unnumbered::new(change, volume, block_size));
        Ok(Ready {
            records: records.collect(),
            bytes,
        })
    }

    /// As [`Log::append`], without ever waiting: `None` asks for [`Log::admit`] first, and nothing
    /// was appended. For callers who hold a lock that a wait would keep from others.
    ///
    /// # Errors
    /// As [`Log::append`].
    pub fn append_ready(self: &Arc<Self>, ready: &mut Ready) -> Result<Option<Ticket>, Error> {
        let mut state = self.state();
        state.check_open(&self.dir)?;
        if !state.admits(&self.ids, ready.bytes) {
            return Ok(None);
        }
        let Some((epoch, incarnation)) = state.writer else {
            let why = "no incarnation was started; open it as a primary";
            return Err(Error::ReadOnly {
                path: self.dir.clone(),
                why,
            });
        };
        let after = state.frontiers.head;
        for record in ready.records.drain(..) {
            let lsn = state.frontiers.head.next();
            state.enqueue(record.number(epoch, incarnation, lsn));
        }
        let range = LsnRange::new(after, state.frontiers.head);
        state.returning = state.returning.saturating_sub(1);
        self.kick(state);
        Ok(Some(Ticket::new(self, range)))
    }

    pub(crate) fn check_change(&self, change: &Change) -> Result<(), Error> {
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
        let mut state = self.state();
        let range = LsnRange::new(after, state.frontiers.head);
        state.returning = state.returning.saturating_sub(1);
        self.kick(state);
        Ok(Ticket::new(self, range))
    }

    /// Whether a record that somebody else holds can be one of this volume at all.
    pub(crate) fn check_foreign(&self, record: &Record) -> Result<(), Error> {
        let header = record.header();
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
        })
    }

    fn append_one_received(&self, record: Record) -> Result<(), Error> {
        let header = *record.header();
        self.check_foreign(&record)?;
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
        self.admit(record.bytes() as u64)?;
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
