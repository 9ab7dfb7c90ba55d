//! When and how fast a recovery sends: its turn among the others, and the throttle.

use super::attempt::{Attempt, LOOK};
use super::core::Shared;
use crate::error::Error;
use crate::id::SessionId;
use crate::progress::{Phase, Progress};

/// The right of one recovery to send; the next one in the queue has it afterwards.
pub(super) struct Sending<'a>(&'a Shared);

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.0.core().sending -= 1;
        self.0.changed.notify_all();
    }
}

/// The place of one recovery in the queue.
struct Waiting<'a>(&'a Shared, SessionId);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.core().queue.retain(|waiting| *waiting != self.1);
        self.0.changed.notify_all();
    }
}

impl<'a> Attempt<'a> {
    /// Waits until fewer recoveries run, first come, first served. The plan and its pins are held
    /// meanwhile: waiting never turns a catch-up into a rebuild.
    pub(super) fn queue(&self) -> Result<Sending<'a>, Error> {
        self.begin_phase(Phase::Queued, 0);
        self.shared.core().queue.push_back(self.session);
        // The next one may have a turn too once this is dropped.
        let _waiting = Waiting(self.shared, self.session);
        self.await_turn()?;
        self.shared.core().sending += 1;
        Ok(Sending(self.shared))
    }

    fn await_turn(&self) -> Result<(), Error> {
        let at_once = self.shared.options.recoveries_max.max(1);
        loop {
            let turn = self.shared.wait(LOOK, |core| {
                let free = core.sending < at_once;
                (free && core.queue.front() == Some(&self.session)).then_some(())
            });
            if turn.is_some() {
                return Ok(());
            }
            if let Some(cause) = self.talk.cause() {
                return Err(cause);
            }
            self.check_budget()?;
        }
    }

    /// Waits until `bytes` more may be read and sent.
    pub(super) fn pace(&self, bytes: u64) -> Result<(), Error> {
        let mut left = self.shared.turn(bytes);
        while !left.is_zero() {
            let nap = left.min(LOOK);
            self.shared.pause(nap);
            left -= nap;
            if let Some(cause) = self.talk.cause() {
                return Err(cause);
            }
            self.check_budget()?;
        }
        Ok(())
    }

    /// A phase with so much work begins.
    pub(super) fn begin_phase(&self, phase: Phase, total: u64) {
        let now = self.shared.clock.monotonic_ns();
        let progress = Some(Progress::begin(phase, total, now));
        self.shared
            .set_extra(self.aim, |extra| extra.progress = progress);
    }

    /// Something of the phase under way was done.
    pub(super) fn note(&self, note: impl FnOnce(&mut Progress, u64)) {
        let now = self.shared.clock.monotonic_ns();
        let mut core = self.shared.core();
        let extra = core.kept(self.replica, self.aim.keeper);
        if let Some(progress) = extra.and_then(|extra| extra.progress.as_mut()) {
            note(progress, now);
        }
    }
}
