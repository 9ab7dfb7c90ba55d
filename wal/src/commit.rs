//! Group commit: how queued records become frames, and when they are durable.
//!
//! There is no writer thread. Whoever waits and finds nobody writing leads: it writes what is
//! queued, its own records and those of everybody else, syncs once, and steps down. A lone caller
//! does its own I/O and pays no hand-over; callers that arrive meanwhile share the next sync.

use std::sync::Arc;

use crate::disk::{self, Buffer};
use crate::frame::{self, FRAME_ALIGNMENT, FRAME_BYTES_MAX, FRAME_RECORDS_MAX};
use crate::frame::{FrameHeader, FrameKind};
use crate::index::Entry;
use crate::log::Log;
use crate::record::{Record, RecordHeader};
use crate::segment::{FIRST_FRAME_AT, SegmentFile, SegmentHeader, file_name};
use crate::state::State;
use crate::walk::{Link, drop_above};
use crate::{Error, Lsn};

/// Bytes that may be queued before appenders wait for the disk.
const QUEUE_BYTES_MAX: u64 = 16 << 20;

/// Leadership; stepping down wakes everybody, whatever happened (L-W3).
pub(crate) struct Leader<'a> {
    log: &'a Log,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = self.log.state();
        state.leading = false;
        if std::thread::panicking() {
            // What the leader was about to account for is unknown (L3).
            state.poison(&Error::Closed);
        }
        drop(state);
        self.log.progress.notify_all();
    }
}

/// A frame about to be written.
pub(crate) struct Draft {
    kind: FrameKind,
    after: Lsn,
    next_generation: u64,
    records: Vec<Record>,
}

impl Draft {
    pub(crate) fn event(kind: FrameKind, after: Lsn) -> Draft {
        Draft {
            kind,
            after,
            next_generation: 0,
            records: Vec::new(),
        }
    }

    fn bytes(&self) -> usize {
        let payload = self
            .records
            .iter()
            .map(|record| record.payload().len())
            .sum();
        frame::frame_bytes(self.records.len(), payload)
    }
}

impl Log {
    /// Waits until `bytes` more may be queued (back pressure). Call before taking locks that a
    /// reader needs.
    ///
    /// # Errors
    /// As [`Log::sync_through`].
    pub fn admit(&self, bytes: u64) -> Result<(), Error> {
        loop {
            let state = self.state();
            state.check_running()?;
            if state.queue.is_empty() || state.queue_bytes + bytes <= QUEUE_BYTES_MAX {
                return Ok(());
            }
            if state.leading {
                drop(self.wait(state));
                continue;
            }
            let leader = self.lead(state);
            self.write_queue()?;
            drop(leader);
        }
    }

    /// Makes everything appended before the call durable and returns the durable LSN.
    ///
    /// # Errors
    /// As [`Log::sync_through`].
    pub fn sync(&self) -> Result<Lsn, Error> {
        self.sync_through(self.frontiers().head)
    }

    /// Waits until `lsn` is durable, driving the write if nobody else does.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when a write or sync failed; [`Error::Io`] with ENOSPC when no segment
    /// can be prepared, and a later call may succeed; [`Error::BeyondHead`] for an LSN that was not
    /// appended.
    pub fn sync_through(&self, lsn: Lsn) -> Result<Lsn, Error> {
        loop {
            let state = self.state();
            if state.frontiers.durable >= lsn {
                return Ok(state.frontiers.durable);
            }
            state.check_running()?;
            if lsn > state.frontiers.head {
                return Err(Error::BeyondHead {
                    through: lsn,
                    head: state.frontiers.head,
                });
            }
            if state.leading {
                drop(self.wait(state));
                continue;
            }
            let leader = self.lead(state);
            self.write_queue()?;
            self.sync_active()?;
            drop(leader);
        }
    }

    pub(crate) fn lead(&self, mut state: std::sync::MutexGuard<'_, State>) -> Leader<'_> {
        state.leading = true;
        drop(state);
        Leader { log: self }
    }

    /// Takes leadership, waiting for whoever has it.
    pub(crate) fn lead_alone(&self) -> Result<Leader<'_>, Error> {
        loop {
            let state = self.state();
            state.check_running()?;
            if !state.leading {
                return Ok(self.lead(state));
            }
            drop(self.wait(state));
        }
    }

    /// Leader only: writes what was queued when the call began.
    pub(crate) fn write_queue(&self) -> Result<(), Error> {
        let goal = self.frontiers().head;
        loop {
            let draft = self.next_draft(goal);
            if draft.records.is_empty() {
                return Ok(());
            }
            if !self.fits(draft.bytes()) {
                // Met before anything is taken from the queue: a full disk loses no record.
                self.rotate()?;
                continue;
            }
            self.write_frame(draft)?;
        }
    }

    /// The next records that fit one frame in the active segment; all that fit a fresh one when
    /// none fits this.
    pub(crate) fn next_draft(&self, goal: Lsn) -> Draft {
        let mut state = self.state();
        let room = self.room(&mut state);
        let most = FRAME_BYTES_MAX.min(self.capacity());
        let mut draft = Draft::event(FrameKind::Records, state.written);
        let mut payload = 0;
        for record in &state.queue {
            let count = draft.records.len() + 1;
            let bytes = frame::frame_bytes(count, payload + record.payload().len());
            let over = bytes > most || (bytes > room && !draft.records.is_empty());
            if record.lsn() > goal || count > FRAME_RECORDS_MAX || over {
                break;
            }
            payload += record.payload().len();
            draft.records.push(record.clone());
        }
        draft
    }

    /// Bytes of frames that a segment holds, its seal left out.
    pub(crate) fn capacity(&self) -> usize {
        let bytes = self.ids.geometry.segment_bytes - FIRST_FRAME_AT - FRAME_ALIGNMENT as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Bytes left in the active segment, its seal left out.
    pub(crate) fn room(&self, state: &mut State) -> usize {
        let used = state.active().end - FIRST_FRAME_AT;
        self.capacity() - usize::try_from(used).unwrap_or(usize::MAX)
    }

    pub(crate) fn fits(&self, bytes: usize) -> bool {
        let mut state = self.state();
        let sealed = state.active().sealed;
        !sealed && bytes <= self.room(&mut state)
    }

    /// Leader only: puts one frame behind the last one. A failure is final (L3): what reached the
    /// disk is unknown.
    pub(crate) fn write_frame(&self, draft: Draft) -> Result<(), Error> {
        let timestamp_ns = self.clock.unix_ns();
        let (file, header) = {
            let mut state = self.state();
            let (link, frontiers) = (state.link, state.frontiers);
            let active = state.active();
            let header = FrameHeader {
                kind: draft.kind,
                record_count: draft.records.len(),
                frame_bytes: draft.bytes(),
                log: self.ids.log,
                generation: active.file.generation,
                sequence: link.sequence,
                previous: link.previous,
                offset: active.end,
                frontier: frontiers.durable,
                committed: frontiers.committed,
                timestamp_ns,
                after: draft.after,
                next_generation: draft.next_generation,
            };
            (Arc::clone(&active.file), header)
        };
        let headers: Vec<_> = draft
            .records
            .iter()
            .map(|record| record.header().encode())
            .collect();
        let (page, digest) = header.encode(&headers);
        let mut used = page.len();
        let mut buffers = vec![Arc::new(page)];
        for record in draft
            .records
            .iter()
            .filter(|record| !record.payload().is_empty())
        {
            used += record.payload().len();
            buffers.push(Arc::clone(record.payload()));
        }
        if used < header.frame_bytes {
            buffers.push(Arc::new(Buffer::zeroed(header.frame_bytes - used)));
        }
        let written = file.file.write(header.offset, buffers);
        let mut state = self.state();
        if let Err(error) = written {
            state.poison(&error);
            return Err(error);
        }
        state.place(&header, digest, &draft.records);
        drop(state);
        self.progress.notify_all();
        Ok(())
    }

    /// Leader only: makes every written frame durable. The frontier is captured before the sync
    /// that covers it (L5).
    pub(crate) fn sync_active(&self) -> Result<(), Error> {
        let (file, captured) = {
            let mut state = self.state();
            if !state.unsynced {
                return Ok(());
            }
            state.unsynced = false;
            let captured = state.written;
            (Arc::clone(&state.active().file), captured)
        };
        let synced = file.file.sync();
        let mut state = self.state();
        if let Err(error) = synced {
            state.poison(&error);
            return Err(error);
        }
        state.move_frontiers(|frontiers| frontiers.durable = frontiers.durable.max(captured));
        drop(state);
        self.progress.notify_all();
        Ok(())
    }

    /// Leader only: seals the active segment and goes on in a fresh one. The next segment is
    /// prepared and durable before the seal names it, and everything before the seal is durable
    /// before the first frame behind it is written.
    pub(crate) fn rotate(&self) -> Result<(), Error> {
        let ready = self.state().take_ready();
        let next = match ready {
            Some(next) => next,
            None => self.prepare()?,
        };
        if !self.state().active().sealed {
            let after = self.state().written;
            let mut draft = Draft::event(FrameKind::Seal, after);
            draft.next_generation = next.generation;
            self.write_frame(draft)?;
            self.sync_active()?;
        }
        self.state().push_active(next);
        Ok(())
    }

    /// Prepares a segment for its next life: a generation that nobody used, written space, header
    /// and name durable (D16). A full disk is met here and may be tried again (L8); any other
    /// failure is final (L3).
    pub(crate) fn prepare(&self) -> Result<Arc<SegmentFile>, Error> {
        let slot = self.state().take_slot();
        let prepared = self.prepare_slot(slot);
        if let Err(error) = &prepared {
            if error.is_out_of_space() {
                // OK because a file that stays is written anew all the same: no sync is repeated.
                drop(disk::remove(
                    self.disk.as_ref(),
                    &self.dir.join(file_name(slot)),
                ));
            }
            let mut state = self.state();
            state.slots.spare.push(slot);
            if !error.is_out_of_space() {
                state.poison(error);
            }
        }
        prepared
    }

    /// Takes what was cut off the medium: zeros behind the cut, and a new life for every segment
    /// that it may reach into (L2, D16). The seal that follows then has nothing behind it to hide.
    pub(crate) fn wipe_behind_cut(&self, wipe_to: u64) -> Result<(), Error> {
        let (file, from, later) = {
            let mut state = self.state();
            let later = std::mem::take(&mut state.slots.later);
            let active = state.active();
            (Arc::clone(&active.file), active.end, later)
        };
        if from < wipe_to {
            SegmentFile::write_zeros(&file.file, from, wipe_to)?;
            file.file.sync()?;
        }
        for slot in later {
            let prepared = self.prepare_slot(slot)?;
            self.state().ready.push(prepared);
        }
        Ok(())
    }

    pub(crate) fn prepare_slot(&self, slot: u32) -> Result<Arc<SegmentFile>, Error> {
        let mut generation = 0;
        self.meta.update(|meta| {
            generation = meta.generation_next;
            meta.generation_next += 1;
        })?;
        let header = SegmentHeader {
            volume: self.ids.volume,
            log: self.ids.log,
            generation,
            segment_bytes: self.ids.geometry.segment_bytes,
        };
        let file = SegmentFile::prepare(&self.disk, &self.dir, slot, header)?;
        disk::sync_dir(self.disk.as_ref(), &self.dir)?;
        Ok(Arc::new(file))
    }
}

impl State {
    /// Accounts for a frame that reached the disk.
    fn place(&mut self, header: &FrameHeader, digest: u128, records: &[Record]) {
        self.link = Link {
            sequence: header.sequence + 1,
            previous: digest,
        };
        self.unsynced = true;
        self.unmarked |= header.kind != FrameKind::Mark;
        let mut payload_at = header.offset + frame::payload_at(records.len()) as u64;
        let small = |at: u64| u32::try_from(at).expect("segments are at most 1 GiB");
        let entries: Vec<Entry> = records
            .iter()
            .enumerate()
            .map(|(index, record)| {
                let at = payload_at;
                payload_at += record.payload().len() as u64;
                Entry {
                    lsn: record.lsn(),
                    lba: record.header().lba,
                    blocks: record.header().blocks,
                    header_at: small(header.offset + frame::headers_bytes(index) as u64),
                    payload_at: small(at),
                    kind: record.header().kind,
                    no_hole: record.header().no_hole,
                }
            })
            .collect();
        for record in records {
            self.pending.remove(&record.lsn());
            self.queue.pop_front();
            self.queue_bytes -= record.bytes() as u64;
        }
        let active = self.active();
        active.entries.extend(entries);
        active.end += header.frame_bytes as u64;
        active.sealed = header.kind == FrameKind::Seal;
        match header.kind {
            FrameKind::Records => {
                active.through = header.last();
                self.written = header.last();
            }
            FrameKind::Truncation => self.drop_above(header.after),
            FrameKind::Mark | FrameKind::Seal => {}
        }
    }

    fn drop_above(&mut self, after: Lsn) {
        drop_above(&mut self.segments, after);
        self.queue.clear();
        self.queue_bytes = 0;
        self.pending.clear();
        self.forget_damage_above(after);
        self.written = after;
        self.applied = after;
        self.move_frontiers(|frontiers| {
            frontiers.head = after;
            frontiers.durable = frontiers.durable.min(after);
        });
    }

    /// A segment prepared ahead, if it can follow the active one: generations rise along the chain
    /// (W8), and one prepared in the background may have been overtaken.
    fn take_ready(&mut self) -> Option<Arc<SegmentFile>> {
        let newest = self.active().file.generation;
        while !self.ready.is_empty() {
            let next = self.ready.remove(0);
            if next.generation > newest {
                return Some(next);
            }
            self.slots.spare.push(next.slot);
        }
        None
    }
}
const _: () = assert!(RecordHeader::BYTES * FRAME_RECORDS_MAX < FRAME_BYTES_MAX);
