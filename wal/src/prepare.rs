//! Segments made ready for their next life: rotation, the pool, and what a full disk means.

use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::background::{Effort, UNINDEXED_BYTES_LIMIT};
use crate::commit::PENDING_BYTES_MAX;
use crate::disk;
use crate::draft::Event;
use crate::frame::{self, FrameKind};
use crate::log::{Ids, Log};
use crate::segment::{SegmentFile, SegmentHeader, file_name};
use crate::state::State;

/// Prepared segments kept ready once the active one fills.
pub(crate) const READY_MIN: usize = 2;
/// Bytes of files kept for reuse beyond the ready ones, unless somebody needs more; others are
/// removed (L-R4).
pub(crate) const SPARE_BYTES_LEAST: u64 = 256 << 20;

impl Log {
    /// Waits until `bytes` more may be queued: for the disk when much is on its way, and for a
    /// segment when the prepared ones are full. Call it before taking locks that a reader needs.
    ///
    /// # Errors
    /// As [`Log::sync_through`]; [`Error::ReadOnly`]; [`Error::Io`] with ENOSPC when no segment
    /// can be prepared: nothing was appended, and it works again once there is space (L8).
    pub fn admit(&self, bytes: u64) -> Result<(), Error> {
        loop {
            let mut state = self.state();
            state.check_open(&self.dir)?;
            if state.admits(&self.ids, bytes) {
                return Ok(());
            }
            if state.unindexed_bytes > UNINDEXED_BYTES_LIMIT {
                if state.stepping {
                    drop(self.wait(state));
                } else {
                    drop(state);
                    self.step_with(Effort::Needed)?;
                }
                continue;
            }
            if let Some(first) = state.pending.front().map(crate::Record::lsn) {
                drop(state);
                self.sync_through(first)?;
                continue;
            }
            if state.preparing {
                drop(self.wait(state));
                continue;
            }
            state.stats.dry_pool += 1;
            drop(state);
            self.prepare_one_more()?;
        }
    }

    /// Prepares a segment and adds it to the ready ones, unless somebody does so already.
    pub(crate) fn prepare_one_more(&self) -> Result<(), Error> {
        {
            let mut state = self.state();
            if state.preparing {
                return Ok(());
            }
            state.preparing = true;
        }
        let mut prepared = self.prepare();
        let full = |prepared: &Result<_, Error>| {
            (prepared.as_ref().err()).is_some_and(Error::is_out_of_space)
        };
        // What pins keep is given up before appends fail (L8).
        while full(&prepared) && self.make_space().unwrap_or(false) {
            prepared = self.prepare();
        }
        let mut state = self.state();
        state.preparing = false;
        if let Ok(prepared) = &prepared {
            state.ready.push(Arc::clone(prepared));
        }
        self.signal(&state);
        prepared.map(drop)
    }

    /// Leader only, with no frame in the air: seals the active segment and goes on in a fresh one.
    /// The next segment is prepared and durable before the seal names it, and everything before the
    /// seal is durable before the first frame behind it is written.
    pub(crate) fn rotate(&self) -> Result<(), Error> {
        let ready = self.state().take_ready();
        let next = match ready {
            Some(next) => next,
            None => {
                self.state().stats.dry_pool += 1;
                self.prepare()?
            }
        };
        let (sealed, after) = {
            let mut state = self.state();
            (state.active().sealed, state.drafted_through())
        };
        if !sealed {
            let sealing = self.write_event(Event {
                kind: FrameKind::Seal,
                after,
                next_generation: next.generation,
            });
            sealing?;
        }
        let mut state = self.state();
        let before = Arc::clone(&state.active().file);
        state.push_active(next);
        state.stats.rotations += 1;
        self.signal_work(&state);
        drop(state);
        before.rest();
        Ok(())
    }

    /// Leader only: makes room for a frame of one page, rotating if there is none.
    pub(crate) fn make_room(&self) -> Result<(), Error> {
        let room = self.state().room(&self.ids);
        match room < frame::FRAME_ALIGNMENT {
            true => self.rotate(),
            false => Ok(()),
        }
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
            self.state().slots.spare.push(slot);
            if !error.is_out_of_space() {
                self.fail(error);
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
            (active.file.writer(), active.end, later)
        };
        if from < wipe_to {
            file.write_zeros(from, wipe_to - from)?;
            file.sync()?;
        }
        for slot in later {
            let prepared = self.prepare_slot(slot)?;
            self.state().ready.push(prepared);
        }
        Ok(())
    }

    /// Writes padding again that a crash left as it was in an earlier life of the segment: nobody
    /// reads it, but it is not to pass for damage (L2).
    pub(crate) fn clear_padding(&self, soiled: &[Range<u64>]) -> Result<(), Error> {
        let (file, end) = {
            let mut state = self.state();
            let active = state.active();
            (active.file.writer(), active.end)
        };
        let mut cleared = false;
        for padding in soiled.iter().filter(|padding| padding.end <= end) {
            file.write_zeros(padding.start, padding.end - padding.start)?;
            cleared = true;
        }
        match cleared {
            true => file.sync(),
            false => Ok(()),
        }
    }

    fn prepare_slot(&self, slot: u32) -> Result<Arc<SegmentFile>, Error> {
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
        let file = SegmentFile::prepare(&self.handles, &self.dir, slot, header)?;
        disk::sync_dir(self.disk.as_ref(), &self.dir)?;
        self.state().stats.prepared += 1;
        Ok(Arc::new(file))
    }
}

impl Ids {
    /// Bytes of frames that certainly fit a fresh segment, however the records fall: the last one
    /// may not fit any more.
    fn usable(&self) -> u64 {
        self.sure(self.capacity())
    }

    fn sure(&self, room: usize) -> u64 {
        let payload = crate::record::payload_bytes_max(self.geometry.segment_bytes);
        let wasted = frame::frame_bytes(1, payload);
        room.saturating_sub(wasted) as u64
    }
}

impl State {
    /// Whether `bytes` more may be queued, see [`Log::admit`].
    pub(crate) fn admits(&self, ids: &Ids, bytes: u64) -> bool {
        // A record is at most doubled by the frame around it, and no append asks for more than one
        // fresh segment.
        let cost = bytes.saturating_mul(2).max(frame::frame_bytes(1, 0) as u64);
        let cost = cost.min(ids.usable());
        let busy = self.pending_bytes + bytes > PENDING_BYTES_MAX;
        self.unindexed_bytes <= UNINDEXED_BYTES_LIMIT
            && (!busy || self.pending.is_empty())
            && self.room_ahead(ids) >= self.queued_cost + cost
    }

    /// Bytes of frames that certainly fit the active segment and the prepared ones.
    fn room_ahead(&self, ids: &Ids) -> u64 {
        ids.sure(self.room(ids)) + self.ready.len() as u64 * ids.usable()
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
