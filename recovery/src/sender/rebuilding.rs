//! The calls of a rebuild: the steps of its machine, and what they mean for the mark.

use seawall_wal::Lsn;

use super::{MarkCause, Sender, State};
use crate::failure::{Failure, Invalidation};
use crate::id::{SessionId, Tick};
use crate::outcome::Source;
use crate::plan::{Pin, PinRefused};
use crate::rebuild::{self, Compared, Install};
use crate::session;

impl<P: Pin> Sender<P> {
    /// The source of a rebuild is chosen.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongKind`], [`Failure::WrongPhase`],
    /// [`Failure::WrongRebuildPhase`].
    pub fn select_source(
        &mut self,
        id: SessionId,
        source: Source,
        now: Tick,
    ) -> Result<(), Failure> {
        self.rebuild(id, rebuild::Event::SelectSource { source, now })
    }

    /// The replica has durably noted that an installation is under way. From now on the replica is
    /// marked until a rebuild completes.
    ///
    /// # Errors
    /// As [`Self::select_source`].
    pub fn begin_transfer(
        &mut self,
        id: SessionId,
        install: Install,
        now: Tick,
    ) -> Result<(), Failure> {
        self.rebuild(id, rebuild::Event::BeginTransfer { install, now })?;
        self.mark(MarkCause::TransferBegan);
        Ok(())
    }

    /// Chunks went to the replica, or matched there.
    ///
    /// # Errors
    /// As [`Self::select_source`].
    pub fn chunks(
        &mut self,
        id: SessionId,
        moved: rebuild::Chunks,
        now: Tick,
    ) -> Result<(), Failure> {
        let rebuild::Chunks {
            sent,
            matched,
            bytes,
        } = moved;
        let event = rebuild::Event::Chunks {
            sent,
            matched,
            bytes,
            now,
        };
        self.rebuild(id, event)
    }

    /// The base proves the state through this LSN.
    ///
    /// # Errors
    /// As [`Self::select_source`], [`Failure::NoProgress`], [`Failure::BeyondTarget`].
    pub fn transfer_progress(&mut self, id: SessionId, through: Lsn) -> Result<(), Failure> {
        self.rebuild(id, rebuild::Event::TransferProgress { through })
    }

    /// Every chunk matches at the replica, and these are the manifest digests.
    ///
    /// # Errors
    /// As [`Self::select_source`]; [`Failure::DigestDiffers`], after which the session is over.
    pub fn base_verified(&mut self, id: SessionId, manifest: Compared) -> Result<(), Failure> {
        self.rebuild(id, rebuild::Event::BaseVerified(manifest))
    }

    /// The base is whole, the tail begins.
    ///
    /// # Errors
    /// As [`Self::select_source`], [`Failure::NotConverged`], [`Failure::BaseNotVerified`].
    pub fn begin_tail(&mut self, id: SessionId) -> Result<(), Failure> {
        self.rebuild(id, rebuild::Event::BeginTail)
    }

    /// The replica applied and synced the tail through this LSN.
    ///
    /// # Errors
    /// As [`Self::transfer_progress`].
    pub fn tail_progress(&mut self, id: SessionId, through: Lsn, now: Tick) -> Result<(), Failure> {
        self.rebuild(id, rebuild::Event::TailProgress { through, now })
    }

    /// The replica switched to its new base, and these are the state digests at the target. Clears
    /// the mark; the stream starts in the same step. Returns where.
    ///
    /// # Errors
    /// As [`Self::begin_tail`]; [`Failure::DigestDiffers`] and [`Failure::PinRefused`], after which
    /// the session is over.
    pub fn complete_rebuild(
        &mut self,
        id: SessionId,
        state: Compared,
        pin: impl FnOnce(Lsn) -> Result<P, PinRefused>,
    ) -> Result<Lsn, Failure> {
        self.rebuild(id, rebuild::Event::Complete(state))?;
        self.clear_mark();
        self.become_stream(pin)
    }

    fn rebuild(&mut self, id: SessionId, event: rebuild::Event) -> Result<(), Failure> {
        let result = self.session(id)?.on(session::Event::Rebuild(event));
        if let Err(Failure::DigestDiffers { what, .. }) = result {
            self.mark(MarkCause::Invalidated);
            self.invalidate_to(Invalidation::DigestDiffers(what), State::NeedsRebuild);
        }
        result
    }
}
