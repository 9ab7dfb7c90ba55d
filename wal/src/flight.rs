//! Frames on their way to the disk. They land in any order; what they hold becomes readable, and
//! durable, over the prefix without a gap (L-W5).
//!
//! ```text
//! Starting -> Submitted -> Claimed -> Landed -> Syncing -> Stable    write, then sync
//!        \______________/         \______________________/           durable by itself
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use crate::disk::Token;
use crate::frame::{FrameHeader, FrameKind};
use crate::index::Entry;
use crate::segment::SegmentFile;
use crate::state::State;
use crate::sync::Gate;
use crate::{Lsn, walk};

/// How far a frame has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It has a place, and its write is being submitted.
    Starting,
    /// Its write was submitted and nobody waits for it yet.
    Submitted(Token),
    /// Somebody waits for its write.
    Claimed,
    /// Its write is complete.
    Landed,
    /// Its write was complete before a sync that is under way (L5).
    Syncing,
    /// It is durable.
    Stable,
}

impl Phase {
    fn is_landed(self) -> bool {
        matches!(self, Phase::Landed | Phase::Syncing | Phase::Stable)
    }
}

/// One frame between its draft and the frontier.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) header: FrameHeader,
    pub(crate) entries: Vec<Entry>,
    pub(crate) file: Arc<SegmentFile>,
    /// Opens when the frame is behind the frontier, or never will be.
    pub(crate) gate: Arc<Gate>,
    /// How many sleep at the gate.
    pub(crate) sleepers: usize,
    pub(crate) phase: Phase,
}

/// Whom to wake, once the lock is gone.
#[derive(Debug, Default)]
#[must_use = "somebody sleeps until told"]
pub(crate) struct Released {
    gates: Vec<Arc<Gate>>,
    one: Option<Arc<Gate>>,
    wakers: Vec<Waker>,
}

impl Released {
    /// Wakes them: one call for all that wait for a frame.
    pub(crate) fn wake(self) {
        for gate in self.gates {
            gate.open_all();
        }
        if let Some(gate) = self.one {
            gate.open_one();
        }
        for waker in self.wakers {
            waker.wake();
        }
    }
}

impl State {
    fn flight_mut(&mut self, sequence: u64) -> Option<&mut Flight> {
        let front = self.flights.front()?.header.sequence;
        let index = usize::try_from(sequence.checked_sub(front)?).ok()?;
        self.flights.get_mut(index)
    }

    /// Whether nobody waits for the write of a frame that was submitted.
    pub(crate) fn is_unclaimed(&mut self, sequence: u64) -> bool {
        let phase = self.flight_mut(sequence).map(|flight| flight.phase);
        matches!(phase, Some(Phase::Submitted(_)))
    }

    /// Takes over the completion of a frame.
    pub(crate) fn claim_this(&mut self, sequence: u64) {
        if let Some(flight) = self.flight_mut(sequence) {
            flight.phase = Phase::Claimed;
        }
    }

    /// Submitted frames that nobody waits for.
    pub(crate) fn submissions(&self) -> Vec<(Token, u64)> {
        let flights = self.flights.iter();
        let submitted = flights.filter_map(|flight| match flight.phase {
            Phase::Submitted(token) => Some((token, flight.header.sequence)),
            _ => None,
        });
        submitted.collect()
    }

    /// Frames whose write is not complete.
    pub(crate) fn in_the_air(&self) -> usize {
        let flights = self.flights.iter();
        flights.filter(|flight| !flight.phase.is_landed()).count()
    }

    /// Notes that the write of a frame is on its way. Whoever already sleeps for it may wait in
    /// place of the submitter.
    pub(crate) fn submitted(&mut self, sequence: u64, token: Token) -> Released {
        let mut released = Released::default();
        if let Some(flight) = self.flight_mut(sequence) {
            flight.phase = Phase::Submitted(token);
            if flight.sleepers > 0 {
                flight.sleepers -= 1;
                released.one = Some(Arc::clone(&flight.gate));
            }
        }
        released
    }

    /// Takes over waiting for the first submitted frame that begins before `through`.
    pub(crate) fn claim(&mut self, through: Lsn) -> Option<(Token, u64)> {
        let before = |flight: &&mut Flight| flight.header.after < through;
        for flight in self.flights.iter_mut().take_while(before) {
            if let Phase::Submitted(token) = flight.phase {
                flight.phase = Phase::Claimed;
                return Some((token, flight.header.sequence));
            }
        }
        None
    }

    /// Notes that a write is complete; `durable` when it needs no sync.
    pub(crate) fn landed(&mut self, sequence: u64, durable: bool) {
        let phase = match durable {
            true => Phase::Stable,
            false => Phase::Landed,
        };
        if let Some(flight) = self.flight_mut(sequence) {
            flight.phase = phase;
        }
    }

    /// Captures what the next sync covers (L5); `false` when there is nothing.
    pub(crate) fn begin_sync(&mut self) -> bool {
        let mut any = false;
        for flight in &mut self.flights {
            if flight.phase == Phase::Landed {
                flight.phase = Phase::Syncing;
                any = true;
            }
        }
        any
    }

    /// The sync that was begun succeeded.
    pub(crate) fn end_sync(&mut self) {
        for flight in &mut self.flights {
            if flight.phase == Phase::Syncing {
                flight.phase = Phase::Stable;
            }
        }
    }

    /// Accounts for every frame of the landed prefix, and moves the frontier over the durable one.
    /// Nothing moves any more once the log failed: then everybody is told.
    pub(crate) fn settle(&mut self) -> Released {
        let mut released = Released::default();
        if self.poisoned.is_some() {
            self.release_all(&mut released);
            return released;
        }
        while let Some(flight) = self.flights.get(self.placed)
            && flight.phase.is_landed()
        {
            if self.place(self.placed) == FrameKind::Truncation {
                // Whoever sleeps for a record that is no more has to hear it.
                released.gates.push(Arc::clone(&self.queue_gate));
            }
            self.placed += 1;
        }
        while let Some(front) = self.flights.front()
            && front.phase == Phase::Stable
        {
            let through = front.header.last();
            self.move_frontiers(|frontiers| frontiers.durable = frontiers.durable.max(through));
            self.returning += front_sleepers(&self.flights) + 1;
            if let Some(flight) = self.flights.pop_front()
                && flight.sleepers > 0
            {
                released.gates.push(flight.gate);
            }
            self.placed -= 1;
        }
        self.release_wakers(self.frontiers.durable, &mut released);
        self.hand_over(&mut released);
        released
    }

    /// Somebody has to lead for those who sleep for the queue, if nobody else will come by.
    pub(crate) fn hand_over(&mut self, released: &mut Released) {
        let idle = !self.leading && !self.gathering && self.in_the_air() == 0;
        if idle && self.queue_length() > 0 && self.queue_sleepers > 0 {
            self.queue_sleepers -= 1;
            released.one = Some(Arc::clone(&self.queue_gate));
        }
    }

    /// Everybody who waits for anything (L-W3).
    pub(crate) fn release_all(&mut self, released: &mut Released) {
        let gates = self.flights.iter().map(|flight| Arc::clone(&flight.gate));
        released.gates.extend(gates);
        released.gates.push(Arc::clone(&self.queue_gate));
        self.release_wakers(Lsn::new(u64::MAX), released);
    }

    fn release_wakers(&mut self, through: Lsn, released: &mut Released) {
        while let Some(first) = self.wakers.first_entry()
            && *first.key() <= through
        {
            released.wakers.extend(first.remove());
        }
    }

    /// Accounts for the frame at `index`, which reached the disk behind all earlier ones.
    fn place(&mut self, index: usize) -> FrameKind {
        let flight = &mut self.flights[index];
        let header = flight.header;
        let entries = std::mem::take(&mut flight.entries);
        self.unmarked |= header.kind != FrameKind::Mark;
        self.drafted -= header.record_count;
        for record in self.pending.drain(..header.record_count) {
            self.pending_bytes -= record.bytes() as u64;
        }
        let active = self.active();
        active.entries.extend(entries);
        active.end = header.offset + header.frame_bytes as u64;
        active.sealed = header.kind == FrameKind::Seal;
        match header.kind {
            FrameKind::Records => {
                active.through = header.last();
                self.written = header.last();
            }
            FrameKind::Truncation => self.drop_above(header.after),
            FrameKind::Mark | FrameKind::Seal => {}
        }
        header.kind
    }

    fn drop_above(&mut self, after: Lsn) {
        walk::drop_above(&mut self.segments, after);
        self.pending.clear();
        self.drafted = 0;
        self.pending_bytes = 0;
        self.queued_cost = 0;
        self.queued_bytes = 0;
        self.forget_damage_above(after);
        self.written = after;
        self.applied = after;
        self.move_frontiers(|frontiers| {
            frontiers.head = after;
            frontiers.durable = frontiers.durable.min(after);
        });
    }
}

fn front_sleepers(flights: &std::collections::VecDeque<Flight>) -> usize {
    flights.front().map_or(0, |flight| flight.sleepers)
}

/// Who is called when an LSN is durable, or never will be.
pub(crate) type Wakers = BTreeMap<Lsn, Vec<Waker>>;
