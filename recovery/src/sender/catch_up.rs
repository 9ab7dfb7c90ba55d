//! The calls of a catch-up: every one is fenced by its session id, and only what the replica has
//! acknowledged counts (H24).

use seawall_wal::Lsn;

use super::{MarkCause, Sender, State};
use crate::budget::Peer;
use crate::failure::{Failure, Invalidation, Link};
use crate::id::{SessionId, Tick};
use crate::plan::{Pin, PinRefused};
use crate::session;

impl<P: Pin> Sender<P> {
    /// Catch-up begins; its target is frozen.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongKind`], [`Failure::WrongPhase`].
    pub fn begin_catch_up(&mut self, id: SessionId, now: Tick) -> Result<(), Failure> {
        self.session(id)?.on(session::Event::BeginCatchUp { now })?;
        self.state = State::CatchingUp;
        Ok(())
    }

    /// Records went to the replica.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongKind`], [`Failure::WrongPhase`],
    /// [`Failure::TruncationOutstanding`], [`Failure::NoProgress`], [`Failure::BeyondTarget`].
    pub fn sent(&mut self, id: SessionId, through: Lsn, bytes: u64) -> Result<(), Failure> {
        self.session(id)?
            .on(session::Event::Sent { through, bytes })
    }

    /// The replica acknowledged records as durable (H24).
    ///
    /// # Errors
    /// As [`Self::sent`], [`Failure::BeyondSent`], [`Failure::TickMissing`].
    pub fn progress(
        &mut self,
        id: SessionId,
        through: Lsn,
        at: Option<Tick>,
    ) -> Result<(), Failure> {
        self.session(id)?
            .on(session::Event::Progress { through, at })
    }

    /// The replica acknowledged a truncation as durable.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongKind`], [`Failure::WrongPhase`],
    /// [`Failure::TruncationNotRequired`], [`Failure::TruncationElsewhere`].
    pub fn truncated(&mut self, id: SessionId, lsn: Lsn) -> Result<(), Failure> {
        self.session(id)?.on(session::Event::Truncated { lsn })
    }

    /// The session is done. In the same step a stream with the same id starts and takes over the
    /// pin of the log; if the session has none, `pin` takes it (D6). Returns where the stream
    /// starts.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongKind`], [`Failure::WrongPhase`],
    /// [`Failure::TruncationOutstanding`], [`Failure::NotConverged`]; [`Failure::PinRefused`],
    /// after which the session is over.
    pub fn complete(
        &mut self,
        id: SessionId,
        pin: impl FnOnce(Lsn) -> Result<P, PinRefused>,
    ) -> Result<Lsn, Failure> {
        self.session(id)?.on(session::Event::Complete)?;
        self.become_stream(pin)
    }

    /// Checks the budget of the active session. A peer that does not answer has lost its link,
    /// which comes before any violation (D7).
    ///
    /// # Errors
    /// Authority; [`Failure::LinkLost`] and [`Failure::Budget`], after which the session is over.
    pub fn check_budget(&mut self, id: SessionId, now: Tick, peer: Peer) -> Result<(), Failure> {
        let session = self.session(id)?;
        if peer == Peer::Silent {
            self.link_lost(id, Link::Silence)?;
            return Err(Failure::LinkLost {
                replica: self.replica.clone(),
            });
        }
        let Some(violation) = session.check_budget(now, peer) else {
            return Ok(());
        };
        self.mark(MarkCause::Budget);
        self.invalidate_to(Invalidation::Budget(violation), State::NeedsRebuild);
        Err(Failure::Budget(violation))
    }

    /// The link of the active session is gone (D7).
    ///
    /// # Errors
    /// Authority.
    pub fn link_lost(&mut self, id: SessionId, how: Link) -> Result<(), Failure> {
        self.invalidate(id, Invalidation::LinkLost(how), State::Disconnected)
    }
}
