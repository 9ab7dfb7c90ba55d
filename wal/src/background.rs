//! Background work in steps: pins over a limit, reclaim that a pin held back, seal, prepare, remove
//! (D22).

use std::sync::Arc;

use crate::Error;
use crate::disk;
use crate::frame::FrameKind;
use crate::index::{self, Scanned};
use crate::log::Log;
use crate::prepare::{READY_MIN, SPARE_BYTES_LEAST};
use crate::retention::reclaim_floor;
use crate::segment::{FIRST_FRAME_AT, Scanner, SegmentFile, file_name};
use crate::walk::{Link, Segment};

/// Bytes of sealed segments that may wait for their index while appends run: reading them back
/// takes from the disk what appends need, and what is reclaimed meanwhile need not be read at all.
const UNINDEXED_BYTES_MAX: u64 = 512 << 20;

/// Bytes of them at which appends wait: an open after a crash reads what has no index.
pub(crate) const UNINDEXED_BYTES_LIMIT: u64 = 1 << 30;

/// How much background work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Whatever there is.
    Everything,
    /// What appends need, and what may wait no longer.
    Needed,
}

/// The one turn at background work; it ends whatever happened.
struct Turn<'a> {
    log: &'a Log,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.log.state();
        state.stepping = false;
        self.log.signal(&state);
    }
}

impl Log {
    /// One step of background work: break pins over a limit, reclaim what a pin held back, seal,
    /// prepare, remove spares.
    /// `false` when there is nothing to do. The edge thread calls it; a simulator may instead.
    ///
    /// # Errors
    /// [`Error::Io`]; ENOSPC here is met before an append needs the space (L8).
    pub fn step(&self) -> Result<bool, Error> {
        self.step_with(Effort::Everything)
    }

    /// As [`Log::step`]; while appends run, only what they need.
    pub(crate) fn step_with(&self, effort: Effort) -> Result<bool, Error> {
        {
            let mut state = self.state();
            if state.stopped || state.stepping || state.check_poison().is_err() {
                return Ok(false);
            }
            state.stepping = true;
        }
        let _turn = Turn { log: self };
        self.step_once(effort)
    }

    fn step_once(&self, effort: Effort) -> Result<bool, Error> {
        if self.check_writable().is_err() {
            return Ok(false);
        }
        self.enforce_pins();
        let wanted = {
            let state = self.state();
            let floor = reclaim_floor(state.reclaim_wanted, state.pins.floor());
            (floor > state.frontiers.tail).then_some(state.reclaim_wanted)
        };
        if let Some(wanted) = wanted {
            return self.reclaim(wanted).map(|_| true);
        }
        // Segments first: an append may wait for one.
        let spare_bytes = self.state().spare_bytes;
        let done =
            self.prepare_one()? || self.seal_one(effort)? || self.remove_beyond(spare_bytes)?;
        Ok(done || self.disk.is_stepped() && self.attend_once())
    }

    /// Writes the index of a sealed segment from read-back (D15).
    fn seal_one(&self, effort: Effort) -> Result<bool, Error> {
        let (file, frames, can_wait) = {
            let state = self.state();
            let can_wait = state.unindexed_bytes <= UNINDEXED_BYTES_MAX;
            if effort == Effort::Needed && can_wait {
                return Ok(false);
            }
            // The last segment may carry a seal that is not durable yet, and an index must never
            // know more than its segment (L-T7).
            let earlier = state.segments.len().saturating_sub(1);
            let mut waiting = state.segments[..earlier].iter();
            match waiting.find(|segment| segment.sealed && !segment.indexed) {
                Some(segment) => (Arc::clone(&segment.file), state.stats.frames, can_wait),
                None => return Ok(false),
            }
        };
        let go_on = || !can_wait || self.stats().frames == frames;
        let read = self.read_back(&file, go_on)?;
        if read.is_none() && !go_on() {
            return Ok(false);
        }
        let index = match read {
            Some(scanned) => Some(index::write(&self.disk, &file, self.ids.log, &scanned)?),
            None => {
                tracing::error!(
                    segment = %file.path().display(),
                    "a sealed segment does not read back whole; run seawall verify"
                );
                None
            }
        };
        let mut state = self.state();
        let ours = |segment: &&mut Segment| segment.file.generation == file.generation;
        if let Some(segment) = state.segments.iter_mut().find(ours) {
            segment.indexed = true;
            index.map(|index| segment.entries.settle(index));
        }
        state.count_unindexed();
        Ok(true)
    }

    /// Everything in a sealed segment, or `None` when a byte of it is not as it was written, or
    /// when it is to go on no longer.
    fn read_back(
        &self,
        file: &SegmentFile,
        go_on: impl Fn() -> bool,
    ) -> Result<Option<Scanned>, Error> {
        let identity = self.identity(file.generation);
        let handle = file.medium()?;
        let mut scanner = Scanner::new(&handle, identity)?.in_small_reads();
        let mut scanned: Option<Scanned> = None;
        let mut link: Option<Link> = None;
        let mut at = FIRST_FRAME_AT;
        while let Ok(frame) = scanner.frame_at(at) {
            if !go_on() {
                return Ok(None);
            }
            if !frame.is_whole() || link.is_some_and(|link| !link.leads_to(&frame.header)) {
                return Ok(None);
            }
            link = Some(Link::behind(&frame));
            scanned
                .get_or_insert_with(|| Scanned::begin(&frame))
                .push(&frame);
            at += frame.header.frame_bytes as u64;
            if frame.header.kind == FrameKind::Seal {
                return Ok(scanned);
            }
        }
        Ok(None)
    }

    /// Keeps segments ready once the log is used: an idle one needs none.
    fn prepare_one(&self) -> Result<bool, Error> {
        let wanted = {
            let mut state = self.state();
            let begun = state.active().end > self.ids.geometry.segment_bytes / 8;
            let used = begun || state.stats.rotations > 0;
            state.ready.len() < READY_MIN && used && !state.preparing
        };
        if wanted {
            self.prepare_one_more()?;
        }
        Ok(wanted)
    }

    /// Keeps reclaimed files of so many bytes for reuse, where that is more than 256 MiB: as many
    /// as one reclaim is going to free. Others are removed, and made anew, zeros and all, as the
    /// log grows.
    pub fn keep_spare(&self, bytes: u64) {
        self.state().spare_bytes = bytes.max(SPARE_BYTES_LEAST);
    }

    /// Removes a file beyond a pool of so many bytes, but never the last one (L-R4).
    pub(crate) fn remove_beyond(&self, spare_bytes: u64) -> Result<bool, Error> {
        let slot = {
            let mut state = self.state();
            state.collect_retired();
            let kept = spare_bytes / self.ids.geometry.segment_bytes;
            if state.slots.spare.len() as u64 <= kept.max(1) {
                return Ok(false);
            }
            state.slots.give_up()
        };
        let Some(slot) = slot else { return Ok(false) };
        let path = self.dir.join(file_name(slot));
        disk::remove(self.disk.as_ref(), &index::path_of(&path))?;
        disk::remove(self.disk.as_ref(), &path)?;
        disk::sync_dir(self.disk.as_ref(), &self.dir)?;
        Ok(true)
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state().stopped
    }
}
