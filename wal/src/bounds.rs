//! The two ends of the log: truncate at the head, reclaim at the tail, mark and close.

use crate::draft::Event;
use crate::flight::Released;
use crate::frame::FrameKind;
use crate::log::Log;
use crate::retention::reclaim_floor;
use crate::state::chain;
use crate::walk::Segment;
use crate::{CleanClose, Error, Lsn};

impl Log {
    /// Drops every record above `after`, durably, with a new segment generation behind it (D4).
    /// What is queued is written first. When anything is dropped, a primary starts a new
    /// incarnation before it appends again (D2).
    ///
    /// # Errors
    /// [`Error::Chain`] below tail, checkpoint or committed; [`Error::BeyondHead`] above the head.
    pub fn truncate(&self, after: Lsn) -> Result<(), Error> {
        self.check_writable()?;
        let leader = self.lead_alone()?;
        self.write_queue()?;
        let frontiers = self.frontiers();
        let bounds = [
            ("tail", frontiers.tail),
            ("checkpoint", frontiers.checkpoint),
            ("committed", frontiers.committed),
        ];
        if let Some((name, bound)) = bounds.into_iter().find(|(_, bound)| after < *bound) {
            return Err(chain("truncate after", after, name, bound));
        }
        if after >= frontiers.head {
            return Ok(());
        }
        // W4: no LSN above `after` is written under this incarnation again.
        self.state().writer = None;
        self.write_queue()?;
        self.make_room()?;
        self.write_event(Event {
            kind: FrameKind::Truncation,
            after,
            next_generation: 0,
        })?;
        self.rotate()?;
        drop(leader);
        self.persist_lineage(after)
    }

    fn persist_lineage(&self, through: Lsn) -> Result<(), Error> {
        let lineage = self.state().lineage.through(through);
        self.meta.update(|meta| meta.lineage = lineage.clone())?;
        self.state().lineage = lineage;
        Ok(())
    }

    /// Moves the tail to `lsn`, or as far as the pins allow, durably, and frees whole segments.
    /// Returns the tail. A pin that held it back releases the rest when it goes (P09).
    ///
    /// # Errors
    /// [`Error::Chain`] above head, committed or checkpoint (D20).
    pub fn reclaim(&self, lsn: Lsn) -> Result<Lsn, Error> {
        self.check_writable()?;
        self.want_reclaimed(lsn)?;
        self.enforce_pins();
        let durable_tail = self.meta.tail();
        let (tail, first_generation) = {
            let mut state = self.state();
            let before = state.frontiers.tail;
            let tail = reclaim_floor(state.reclaim_wanted, state.pins.floor()).max(before);
            // D17: a tail that meta failed to take is not acknowledged by asking again.
            if tail == before && tail <= durable_tail {
                return Ok(tail);
            }
            // Pins below are refused from here on (L-N2).
            state.move_frontiers(|frontiers| frontiers.tail = tail);
            let kept = state.reclaimable(tail);
            (tail, state.segments[kept].file.generation)
        };
        // P08: meta durable before the space is reused.
        self.meta.update(|meta| {
            meta.tail = meta.tail.max(tail);
            meta.first_generation = meta.first_generation.max(Some(first_generation));
        })?;
        // W10: what meta names stays, whatever a truncation did meanwhile.
        let mut state = self.state();
        let oldest = |segment: &Segment| segment.file.generation == first_generation;
        let kept = state.segments.iter().position(oldest).unwrap_or(0);
        let freed: Vec<_> = state
            .segments
            .drain(..kept)
            .map(|segment| segment.file)
            .collect();
        state.retired.extend(freed);
        state.count_unindexed();
        Ok(tail)
    }

    fn want_reclaimed(&self, lsn: Lsn) -> Result<(), Error> {
        let mut state = self.state();
        let frontiers = state.frontiers;
        let bounds = [
            ("checkpoint", frontiers.checkpoint),
            ("committed", frontiers.committed),
            ("head", frontiers.head),
        ];
        if let Some((name, bound)) = bounds.into_iter().find(|(_, bound)| lsn > *bound) {
            return Err(chain("reclaim through", lsn, name, bound));
        }
        state.reclaim_wanted = state.reclaim_wanted.max(lsn);
        Ok(())
    }

    /// Syncs, then writes a mark frame (frontier = head) if frames were written since the last one
    /// (D13).
    ///
    /// # Errors
    /// As [`Log::sync_through`].
    pub fn mark(&self) -> Result<(), Error> {
        {
            let state = self.state();
            state.check_poison()?;
            let idle = !state.unmarked && state.pending.is_empty();
            if idle || state.stopped {
                return Ok(());
            }
        }
        let leader = self.lead_alone()?;
        self.write_mark()?;
        drop(leader);
        Ok(())
    }

    /// Leader only. Gives the sequence of the mark, and the head it speaks of.
    fn write_mark(&self) -> Result<CleanClose, Error> {
        self.write_queue()?;
        self.make_room()?;
        let head = self.state().drafted_through();
        self.write_event(Event {
            kind: FrameKind::Mark,
            after: head,
            next_generation: 0,
        })?;
        let mut state = self.state();
        state.unmarked = false;
        Ok(CleanClose {
            sequence: state.link.sequence - 1,
            head,
        })
    }

    /// Syncs, writes a mark, and leaves the clean-close mark in meta. Later appends are refused.
    ///
    /// # Errors
    /// As [`Log::sync_through`].
    pub fn close(&self) -> Result<(), Error> {
        if let Err(error) = self.check_writable() {
            self.stop();
            return match error {
                Error::Poisoned { .. } => Err(error),
                _ => Ok(()),
            };
        }
        let leader = self.lead_alone()?;
        let mark = self.write_mark()?;
        // Nothing goes behind the mark that meta will name.
        self.state().stopped = true;
        drop(leader);
        self.stop();
        let committed = self.frontiers().committed;
        self.meta.update(|meta| {
            meta.committed = meta.committed.max(committed);
            meta.clean_close = Some(mark);
        })
    }

    /// Ends background work and refuses later appends, without a clean close. Nothing of this log
    /// touches the disk once it returns, but for calls that others still make.
    pub fn stop(&self) {
        let mut state = self.state();
        state.stopped = true;
        let mut released = Released::default();
        state.release_all(&mut released);
        self.signal(&state);
        self.signal_work(&state);
        self.called.notify_all();
        drop(state);
        released.wake();
        let mut state = self.state();
        while state.leading || state.stepping || state.preparing {
            state = self.wait(state);
        }
        drop(state);
        self.drain();
    }
}
