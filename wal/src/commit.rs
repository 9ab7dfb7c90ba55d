//! Group commit: who writes what is queued, and how others wait for it.
//!
//! There is no writer thread. Whoever waits for an LSN that is not on its way writes what is
//! queued, its own records and those of everybody else. A lone caller does its own I/O on its own
//! thread and pays no hand-over. Where writes are durable by themselves, several frames are in
//! flight and the frontier follows the gap-free prefix; otherwise one leader writes, syncs once,
//! and callers that arrive meanwhile share the next sync.
//!
//! Callers sleep at the gate of their frame, so that a frame wakes all of its callers at once and
//! nobody else.

use std::sync::Arc;

use crate::disk::{Operation, Output};
use crate::draft::{Drafted, Event, Frame};
use crate::error::IoOp;
use crate::flight::{Phase, Released};
use crate::log::Log;
use crate::state::State;
use crate::sync::{Gate, MutexGuard, yield_now};
use crate::{Error, Lsn};

/// Bytes that may be queued or on their way before appenders wait for the disk.
pub(crate) const PENDING_BYTES_MAX: u64 = 16 << 20;
/// Frames in the air at once.
const FLIGHTS_MAX: usize = 8;
/// A second frame starts while one is in the air only when so many records wait, or so many bytes:
/// splitting a few small ones over several frames costs more than it hides.
const OVERLAP_RECORDS_MIN: usize = 16;
const OVERLAP_BYTES_MIN: u64 = 64 << 10;
/// Bytes queued that an append hands to the disk by itself.
const KICK_BYTES: u64 = 256 << 10;
/// Times that a leader lets others run without any of them coming back with the next record.
const GATHER_IDLE_MAX: u32 = 2;
/// Records, or bytes, that are written without waiting for more: while these are on their way the
/// others come back, and their frame follows through the air.
const GATHER_RECORDS_MAX: usize = 32;
const GATHER_BYTES_MAX: u64 = 128 << 10;

/// The right to write frames while nobody else does; stepping down wakes those who wait for it,
/// whatever happened (L-W3).
pub(crate) struct Leader<'a> {
    log: &'a Log,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let mut state = self.log.state();
        state.leading = false;
        let mut released = Released::default();
        if std::thread::panicking() {
            // What the leader was about to account for is unknown (L3).
            state.poison(&Error::Closed);
            state.release_all(&mut released);
        } else {
            state.hand_over(&mut released);
        }
        self.log.signal(&state);
        drop(state);
        released.wake();
    }
}

/// What a caller does next to see its LSN durable.
enum Job {
    /// Write what is queued.
    Fly,
    /// Wait for a write that somebody submitted.
    Reap(crate::disk::Token, u64),
    Sleep(Arc<Gate>, u32),
}

impl State {
    fn next_job(&mut self, lsn: Lsn) -> Job {
        if let Some((token, sequence)) = self.claim(lsn) {
            return Job::Reap(token, sequence);
        }
        if lsn > self.drafted_through() {
            if self.may_fly() {
                return Job::Fly;
            }
            self.queue_sleepers += 1;
            return Job::Sleep(Arc::clone(&self.queue_gate), self.queue_gate.value());
        }
        let index = self
            .flights
            .partition_point(|flight| flight.header.last() < lsn);
        let flight = self.flights.get_mut(index);
        let flight = flight.expect("what has a place and is not durable is in flight");
        flight.sleepers += 1;
        Job::Sleep(Arc::clone(&flight.gate), flight.gate.value())
    }

    fn may_fly(&self) -> bool {
        if self.leading || self.gathering {
            return false;
        }
        match self.in_the_air() {
            0 => true,
            air => {
                let many = self.queue_length() >= OVERLAP_RECORDS_MIN;
                air < FLIGHTS_MAX && (many || self.queued_bytes >= OVERLAP_BYTES_MIN)
            }
        }
    }
}

impl Log {
    /// Makes everything appended before the call durable and returns the durable LSN.
    ///
    /// # Errors
    /// As [`Log::sync_through`]; and behind the first failed write or sync always, even when
    /// nothing is left to be made durable (W3).
    pub fn sync(&self) -> Result<Lsn, Error> {
        let head = {
            let state = self.state();
            state.check_poison()?;
            state.frontiers.head
        };
        self.sync_through(head)
    }

    /// Waits until `lsn` is durable, driving the write if nobody else does. An LSN that is durable
    /// stays so whatever fails behind it: then the answer is the durable LSN, as a ticket gives it.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when a write or sync failed; [`Error::Io`] with ENOSPC when no segment
    /// can be prepared, and a later call may succeed; [`Error::BeyondHead`] for an LSN that was not
    /// appended.
    pub fn sync_through(&self, lsn: Lsn) -> Result<Lsn, Error> {
        loop {
            let durable = self.durable();
            if durable >= lsn {
                return Ok(durable);
            }
            let mut state = self.state();
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
            match state.next_job(lsn) {
                Job::Fly => self.fly(state)?,
                Job::Reap(token, sequence) => {
                    drop(state);
                    let done = self.disk.wait(token);
                    self.land(sequence, done);
                }
                Job::Sleep(gate, seen) => {
                    drop(state);
                    gate.wait(seen);
                }
            }
        }
    }

    /// Writes what is queued, in one frame where writes are durable by themselves.
    fn fly(&self, state: MutexGuard<'_, State>) -> Result<(), Error> {
        let mut state = self.gather(state);
        if state.leading || state.check_running().is_err() {
            return Ok(());
        }
        if self.disk.durable_writes() {
            let (ids, now) = (&self.ids, self.clock.unix_ns());
            let goal = state.frontiers.head;
            match state.draft(ids, now, goal, usize::MAX, Phase::Claimed) {
                Drafted::Frame(frame) => {
                    drop(state);
                    self.write(frame);
                    return Ok(());
                }
                Drafted::Nothing => return Ok(()),
                Drafted::Full => {}
            }
        }
        let leader = self.lead(state);
        self.drain();
        self.write_queue()?;
        drop(leader);
        Ok(())
    }

    /// Callers whose frame just landed come back with their next record: lets them run first, so
    /// that one frame takes them all. Nobody is waited for who was not just woken.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        state.gathering = true;
        let mut idle = 0;
        let enough = |state: &State| {
            state.queue_length() >= GATHER_RECORDS_MAX || state.queued_bytes >= GATHER_BYTES_MAX
        };
        while state.returning > 0 && idle < GATHER_IDLE_MAX && !enough(&state) {
            let before = state.returning;
            drop(state);
            yield_now();
            state = self.state();
            idle = if state.returning < before {
                0
            } else {
                idle + 1
            };
        }
        if !enough(&state) {
            state.returning = 0;
        }
        state.gathering = false;
        state
    }

    /// Hands queued records to a disk that goes on by itself, once there are enough of them. Called
    /// by appends; does not wait.
    pub(crate) fn kick(&self, mut state: MutexGuard<'_, State>) {
        let kick_bytes = KICK_BYTES.min(self.ids.geometry.segment_bytes / 8);
        let ready = self.overlaps
            && !state.leading
            && !state.gathering
            && state.queued_bytes >= kick_bytes
            && state.in_the_air() < FLIGHTS_MAX
            && state.check_running().is_ok();
        if !ready {
            return;
        }
        let (ids, now, goal) = (&self.ids, self.clock.unix_ns(), state.frontiers.head);
        let Drafted::Frame(frame) = state.draft(ids, now, goal, usize::MAX, Phase::Starting) else {
            return;
        };
        drop(state);
        let sequence = frame.sequence;
        let token = self.disk.submit(write_of(frame, true));
        let mut state = self.state();
        let released = state.submitted(sequence, token);
        // Who drains may not have found anything to wait for: now there is.
        self.signal(&state);
        drop(state);
        released.wake();
    }

    /// Takes in what completed meanwhile, without waiting.
    pub(crate) fn look(&self) {
        let submitted = self.state().submissions();
        for (token, sequence) in submitted {
            // OK because a token that somebody claimed meanwhile is waited for by him alone.
            let mut state = self.state();
            if !state.is_unclaimed(sequence) {
                continue;
            }
            if let Some(done) = self.disk.take(token) {
                state.claim_this(sequence);
                drop(state);
                self.land(sequence, done);
            }
        }
    }

    /// Writes a frame that has a place. Its outcome is in the state (L3).
    fn write(&self, frame: Frame) {
        let sequence = frame.sequence;
        let operation = write_of(frame, self.disk.durable_writes());
        let done = self.disk.run(operation);
        self.land(sequence, done);
    }

    /// Takes the outcome of a write in, and wakes whom it concerns. A failure is final: what
    /// reached the disk is unknown (L3).
    pub(crate) fn land(&self, sequence: u64, done: std::io::Result<Output>) {
        let mut state = self.state();
        match done {
            Ok(_) => state.landed(sequence, self.disk.durable_writes()),
            Err(source) => {
                let error = state.write_error(sequence, source);
                state.poison(&error);
                state.landed(sequence, false);
            }
        }
        self.settle(state);
    }

    fn settle(&self, mut state: MutexGuard<'_, State>) {
        let released = state.settle();
        self.publish(&state);
        self.signal(&state);
        drop(state);
        released.wake();
    }

    /// The right to write frames; nobody may have it.
    pub(crate) fn lead(&self, mut state: MutexGuard<'_, State>) -> Leader<'_> {
        state.leading = true;
        drop(state);
        Leader { log: self }
    }

    /// Takes leadership, waiting for whoever has it and for every frame in the air.
    pub(crate) fn lead_alone(&self) -> Result<Leader<'_>, Error> {
        let mut state = self.state();
        loop {
            state.check_running()?;
            if !state.leading {
                break;
            }
            state = self.wait(state);
        }
        let leader = self.lead(state);
        self.drain();
        Ok(leader)
    }

    /// Waits until no frame is in the air.
    pub(crate) fn drain(&self) {
        let mut state = self.state();
        while state.in_the_air() > 0 {
            if let Some((token, sequence)) = state.claim(Lsn::new(u64::MAX)) {
                drop(state);
                let done = self.disk.wait(token);
                self.land(sequence, done);
                state = self.state();
            } else {
                state = self.wait(state);
            }
        }
    }

    /// Leader only: writes what was queued when the call began and makes it durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`]; [`Error::Io`] with ENOSPC, before anything is taken from the queue: a
    /// full disk loses no record.
    pub(crate) fn write_queue(&self) -> Result<(), Error> {
        let goal = self.frontiers().head;
        loop {
            let drafted = {
                let mut state = self.state();
                state.check_poison()?;
                let now = self.clock.unix_ns();
                state.draft(&self.ids, now, goal, usize::MAX, Phase::Claimed)
            };
            match drafted {
                Drafted::Frame(frame) => self.write(frame),
                Drafted::Nothing => return self.sync_landed(),
                Drafted::Full => self.rotate()?,
            }
        }
    }

    /// Leader only: writes a frame without records and makes it durable, with all before it. There
    /// has to be room for it.
    pub(crate) fn write_event(&self, event: Event) -> Result<(), Error> {
        let frame = {
            let mut state = self.state();
            state.check_poison()?;
            let now = self.clock.unix_ns();
            state.draft_frame(&self.ids, now, event, 0, Phase::Claimed)
        };
        self.write(frame);
        self.sync_landed()
    }

    /// Leader only: makes every written frame durable. The frontier is captured before the sync
    /// that covers it (L5).
    fn sync_landed(&self) -> Result<(), Error> {
        let file = {
            let mut state = self.state();
            state.check_poison()?;
            if !state.begin_sync() {
                return Ok(());
            }
            state.active().file.writer()
        };
        let synced = file.sync();
        let mut state = self.state();
        match &synced {
            Ok(()) => state.end_sync(),
            Err(error) => state.poison(error),
        }
        self.settle(state);
        synced
    }
}

impl State {
    fn write_error(&mut self, sequence: u64, source: std::io::Error) -> Error {
        let flight = self.flights.iter();
        let mut flight = flight.filter(|flight| flight.header.sequence == sequence);
        let flight = flight.next().expect("a frame lands once");
        let offset = Some(flight.header.offset);
        Error::io(IoOp::Write, flight.file.path(), offset, source)
    }
}

pub(crate) fn write_of(frame: Frame, durable: bool) -> Operation {
    Operation::Write {
        file: frame.file.writer().id(),
        offset: frame.offset,
        buffers: frame.buffers,
        durable,
    }
}
