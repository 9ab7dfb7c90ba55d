//! The primary's authority over one replica (1.8). It outlives sessions and streams and owns at
//! most one of them.
//!
//! Every execution call carries a session id. Authority is checked in this order: stopped, no
//! session, other id, phase. A refused call changes nothing, unless its failure says that the
//! session ended.

use seawall_wal::{Epoch, Lsn, NodeIncarnation};

use crate::failure::{Failure, Invalidation, StreamEnd};
use crate::id::{ReplicaId, SessionId, SessionIds};
use crate::plan::{Held, Pin, PinPart, PinRefused};
use crate::session::{self, Kind, Session, SessionOptions};
use crate::stream::Stream;

mod catch_up;
mod handshake;
mod rebuilding;
mod state;
#[cfg(test)]
mod tests;

pub use state::{Endpoint, MarkCause, Note, SenderView, State};

/// The primary's authority over one replica. `P` is a pin of the storage.
#[derive(Debug)]
pub struct Sender<P> {
    replica: ReplicaId,
    endpoint: Endpoint,
    epoch: Epoch,
    state: State,
    marked: bool,
    stopped: bool,
    node: Option<NodeIncarnation>,
    work: Work<P>,
    notes: Vec<Note>,
}

#[derive(Debug)]
enum Work<P> {
    Idle,
    Session {
        session: Box<Session>,
        held: Option<Held<P>>,
    },
    Stream(Box<Stream<P>>),
}

impl<P: Pin> Sender<P> {
    /// A sender for a newly assigned replica: disconnected, without a session.
    #[must_use]
    pub const fn new(replica: ReplicaId, endpoint: Endpoint, epoch: Epoch) -> Sender<P> {
        Sender {
            replica,
            endpoint,
            epoch,
            state: State::Disconnected,
            marked: false,
            stopped: false,
            node: None,
            work: Work::Idle,
            notes: Vec::new(),
        }
    }

    /// Restores what the state log remembers: the mark, and which life of the replica's directory
    /// it was about (D8).
    pub fn restore(&mut self, needs_rebuild: bool, node: Option<NodeIncarnation>) {
        self.node = self.node.or(node);
        if needs_rebuild && !self.marked {
            self.marked = true;
            self.notes.push(Note::MarkRestored);
            if matches!(self.work, Work::Idle) {
                self.state = State::NeedsRebuild;
            }
        }
    }

    /// The replica.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// How it is reached.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether it is marked needs-rebuild.
    #[must_use]
    pub const fn needs_rebuild(&self) -> bool {
        self.marked
    }

    /// Whether it is stopped.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The id of the active session.
    #[must_use]
    pub fn session_id(&self) -> Option<SessionId> {
        match &self.work {
            Work::Session { session, .. } => Some(session.id()),
            Work::Idle | Work::Stream(_) => None,
        }
    }

    /// The id of the live stream.
    #[must_use]
    pub fn stream_id(&self) -> Option<SessionId> {
        match &self.work {
            Work::Stream(stream) => Some(stream.id()),
            Work::Idle | Work::Session { .. } => None,
        }
    }

    /// A detached copy.
    #[must_use]
    pub fn view(&self) -> SenderView {
        let (session, stream) = match &self.work {
            Work::Idle => (None, None),
            Work::Session { session, .. } => (Some(Session::clone(session)), None),
            Work::Stream(stream) => (None, Some(stream.view())),
        };
        SenderView {
            replica: self.replica.clone(),
            endpoint: self.endpoint.clone(),
            epoch: self.epoch,
            state: self.state,
            stopped: self.stopped,
            needs_rebuild: self.marked,
            session,
            stream,
        }
    }

    /// Hands over what happened since the last call.
    pub fn drain_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// Attaches a new session. A live stream ends: a replica that is being changed is not counted
    /// as in sync (H17).
    ///
    /// # Errors
    /// [`Failure::Stopped`], [`Failure::WrongEpoch`] (older and newer), [`Failure::SessionActive`],
    /// [`Failure::NeedsRebuild`].
    pub fn attach(
        &mut self,
        epoch: Epoch,
        options: SessionOptions,
        ids: &mut SessionIds,
    ) -> Result<SessionId, Failure> {
        self.check_running()?;
        if epoch != self.epoch {
            return Err(Failure::WrongEpoch {
                replica: self.replica.clone(),
                given: epoch,
                current: self.epoch,
            });
        }
        if let Some(current) = self.session_id() {
            return Err(Failure::SessionActive {
                replica: self.replica.clone(),
                current,
            });
        }
        self.check_mark(options.kind)?;
        self.end_stream(StreamEnd::SessionAttached);
        Ok(self.start_session(options, ids))
    }

    /// Replaces the active session `old` by a new one at the sender's epoch.
    ///
    /// # Errors
    /// [`Failure::Stopped`], [`Failure::NoSession`], [`Failure::OtherSession`],
    /// [`Failure::NeedsRebuild`].
    pub fn supersede(
        &mut self,
        old: SessionId,
        options: SessionOptions,
        reason: Invalidation,
        ids: &mut SessionIds,
    ) -> Result<SessionId, Failure> {
        self.session(old)?;
        self.check_mark(options.kind)?;
        self.end_session(reason);
        Ok(self.start_session(options, ids))
    }

    /// The link is being set up.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongPhase`].
    pub fn connect(&mut self, id: SessionId) -> Result<(), Failure> {
        let session = self.session(id)?;
        session.on(session::Event::Connect)?;
        self.state = match session.kind() {
            Kind::Rebuild => State::Rebuilding,
            Kind::Bootstrap | Kind::CatchUp | Kind::Reassign => State::Connecting,
        };
        Ok(())
    }

    /// Records went to the replica over the live stream.
    ///
    /// # Errors
    /// Authority over the stream; [`Failure::BeyondDurable`] (D3).
    pub fn ship(&mut self, id: SessionId, through: Lsn, own_durable: Lsn) -> Result<(), Failure> {
        self.stream(id)?.ship(through, own_durable)
    }

    /// The replica acknowledged everything through `lsn` over the live stream. Returns what it
    /// holds durably: what counts for the ack rule.
    ///
    /// # Errors
    /// Authority over the stream; [`Failure::BeyondSent`].
    pub fn acknowledge(&mut self, id: SessionId, lsn: Lsn) -> Result<Lsn, Failure> {
        self.stream(id)?.acknowledge(lsn)
    }

    /// The stream is over.
    ///
    /// # Errors
    /// Authority over the stream.
    pub fn stream_lost(&mut self, id: SessionId, cause: StreamEnd) -> Result<(), Failure> {
        self.stream(id)?;
        self.end_stream(cause);
        Ok(())
    }

    /// Ends the active session without success.
    ///
    /// # Errors
    /// Authority; [`Failure::InvalidTargetState`] for `in_sync`.
    pub fn invalidate(
        &mut self,
        id: SessionId,
        reason: Invalidation,
        state: State,
    ) -> Result<(), Failure> {
        self.session(id)?;
        if state == State::InSync {
            return Err(Failure::InvalidTargetState);
        }
        if state == State::NeedsRebuild {
            self.mark(MarkCause::Invalidated);
        }
        self.invalidate_to(reason, state);
        Ok(())
    }

    /// A pin that the plan of session `id` needs was refused; ends the session. A replica whose
    /// rebuild cannot be pinned stays marked (A187).
    ///
    /// # Errors
    /// Authority.
    pub fn pin_refused(&mut self, id: SessionId, refused: PinRefused) -> Result<(), Failure> {
        let kind = self.session(id)?.kind();
        match (kind, refused.part) {
            (Kind::Rebuild, PinPart::FullBase) => {
                self.mark(MarkCause::RebuildPinRefused);
                let reason = Invalidation::FullBasePinFailed(refused);
                self.invalidate_to(reason, State::NeedsRebuild);
            }
            (Kind::Rebuild, PinPart::Snapshot | PinPart::Log) => {
                self.mark(MarkCause::RebuildPinRefused);
                let reason = Invalidation::SnapshotPinFailed(refused);
                self.invalidate_to(reason, State::NeedsRebuild);
            }
            (
                Kind::Bootstrap | Kind::CatchUp | Kind::Reassign,
                PinPart::Log | PinPart::Snapshot | PinPart::FullBase,
            ) => self.invalidate_to(Invalidation::WalPinFailed(refused), State::Disconnected),
        }
        Ok(())
    }

    /// Makes the pin of a plan known to its session: if the session ends, the pin is released, and
    /// when it completes, the stream takes the pin over.
    ///
    /// # Errors
    /// Authority.
    pub fn hold(&mut self, id: SessionId, pin: Held<P>) -> Result<(), Failure> {
        self.session(id)?;
        match &mut self.work {
            Work::Session { held, .. } => *held = Some(pin),
            Work::Idle | Work::Stream(_) => unreachable!("R4: the session was found above"),
        }
        Ok(())
    }

    /// Raises the epoch of this sender; an older or equal one changes nothing. A session or stream
    /// of the old epoch ends. Returns the session that died.
    pub fn advance_epoch(&mut self, epoch: Epoch) -> Option<SessionId> {
        let old = self.epoch;
        self.raise_epoch(
            epoch,
            Invalidation::EpochAdvanced { old, new: epoch },
            StreamEnd::EpochAdvanced { old, new: epoch },
        )
    }

    /// The registry raises its epoch: the same in one atomic step (A160), with the registry's
    /// reason.
    pub(crate) fn bump_epoch(&mut self, epoch: Epoch) -> Option<SessionId> {
        let old = self.epoch;
        self.raise_epoch(
            epoch,
            Invalidation::EpochBump { old, new: epoch },
            StreamEnd::EpochBump,
        )
    }

    /// Moves the replica to another endpoint; the same one changes nothing.
    pub fn change_endpoint(&mut self, endpoint: Endpoint) {
        if self.stopped || endpoint == self.endpoint {
            return;
        }
        self.endpoint = endpoint;
        self.drop_work(Invalidation::EndpointChanged, StreamEnd::EndpointChanged);
    }

    /// What an assignment says about a known replica, in one transition with one cause: a risen
    /// epoch wins over a changed endpoint (H15).
    pub(crate) fn reassign(&mut self, endpoint: Endpoint, epoch: Epoch) {
        if self.stopped {
            return;
        }
        if epoch > self.epoch {
            self.endpoint = endpoint;
            self.advance_epoch(epoch);
        } else {
            self.change_endpoint(endpoint);
        }
    }

    /// Stops the sender for good. A second call changes nothing.
    pub fn stop(&mut self) {
        if self.stopped {
            return;
        }
        self.end_session(Invalidation::SenderStopped);
        self.end_stream(StreamEnd::SenderStopped);
        self.stopped = true;
    }

    /// Whether a call with this session id has authority; the kind of the session.
    ///
    /// # Errors
    /// [`Failure::Stopped`], [`Failure::NoSession`], [`Failure::OtherSession`],
    /// [`Failure::SessionIsStream`].
    pub fn authority(&self, id: SessionId) -> Result<Kind, Failure> {
        self.check_running()?;
        let replica = self.replica.clone();
        let (current, kind) = match &self.work {
            Work::Idle => return Err(Failure::NoSession { replica }),
            Work::Session { session, .. } => (session.id(), Some(session.kind())),
            Work::Stream(stream) => (stream.id(), None),
        };
        if current != id {
            return Err(Failure::OtherSession {
                replica,
                given: id,
                current,
            });
        }
        kind.ok_or(Failure::SessionIsStream {
            replica,
            session: id,
        })
    }

    fn check_running(&self) -> Result<(), Failure> {
        match self.stopped {
            true => Err(Failure::Stopped {
                replica: self.replica.clone(),
            }),
            false => Ok(()),
        }
    }

    fn check_mark(&self, kind: Kind) -> Result<(), Failure> {
        match self.marked && kind != Kind::Rebuild {
            true => Err(Failure::NeedsRebuild {
                replica: self.replica.clone(),
            }),
            false => Ok(()),
        }
    }

    /// The active session, if the call has authority over it.
    fn session(&mut self, id: SessionId) -> Result<&mut Session, Failure> {
        self.authority(id)?;
        match &mut self.work {
            Work::Session { session, .. } => Ok(session),
            Work::Idle | Work::Stream(_) => unreachable!("R4: the call had authority over it"),
        }
    }

    /// The live stream, if the call has authority over it.
    fn stream(&mut self, id: SessionId) -> Result<&mut Stream<P>, Failure> {
        self.check_running()?;
        let replica = &self.replica;
        match &mut self.work {
            Work::Stream(stream) => match stream.id() == id {
                true => Ok(stream),
                false => Err(Failure::OtherSession {
                    replica: replica.clone(),
                    given: id,
                    current: stream.id(),
                }),
            },
            Work::Idle | Work::Session { .. } => Err(Failure::NoStream {
                replica: replica.clone(),
            }),
        }
    }

    fn start_session(&mut self, options: SessionOptions, ids: &mut SessionIds) -> SessionId {
        let id = ids.next_id();
        let session = Session::new(id, self.replica.clone(), self.epoch, options);
        self.work = Work::Session {
            session: Box::new(session),
            held: None,
        };
        id
    }

    /// R4: a completed session becomes a stream with the same id in one step (D6).
    fn become_stream(
        &mut self,
        pin: impl FnOnce(Lsn) -> Result<P, PinRefused>,
    ) -> Result<Lsn, Failure> {
        let Work::Session { session, held } = std::mem::replace(&mut self.work, Work::Idle) else {
            unreachable!("R4: only a session completes");
        };
        let session::Phase::Completed { at } = *session.phase() else {
            unreachable!("R4: the session has just completed");
        };
        let id = session.id();
        let taken = match held.and_then(|held| held.take()) {
            Some(pin) => Ok(pin),
            None => pin(at),
        };
        let pin = match taken {
            Ok(pin) => pin,
            Err(refused) => {
                let reason = Invalidation::WalPinFailed(refused);
                self.notes.push(Note::SessionInvalidated { id, reason });
                self.settle(State::Disconnected);
                return Err(Failure::PinRefused(refused));
            }
        };
        let node = self
            .node
            .expect("a session that completed has had a handshake");
        let lineage = (id, session.epoch());
        let stream = Stream::after_session(lineage, self.replica.clone(), node, at, pin);
        self.work = Work::Stream(Box::new(stream));
        self.state = State::InSync;
        self.notes.push(Note::StreamStarted { id, at });
        Ok(at)
    }

    /// R8: the epoch rises, and what belongs to an older one ends in the same step.
    fn raise_epoch(
        &mut self,
        epoch: Epoch,
        reason: Invalidation,
        cause: StreamEnd,
    ) -> Option<SessionId> {
        if self.stopped || epoch <= self.epoch {
            return None;
        }
        self.epoch = epoch;
        let session = self.session_id();
        self.drop_work(reason, cause);
        session
    }

    fn drop_work(&mut self, reason: Invalidation, cause: StreamEnd) {
        if self.end_session(reason) {
            self.settle(State::Disconnected);
        }
        self.end_stream(cause);
    }

    /// Ends the session and leaves the replica in `state`.
    fn invalidate_to(&mut self, reason: Invalidation, state: State) {
        self.end_session(reason);
        self.settle(state);
    }

    /// R5: ends the session, if there is one, and releases its pin. The state is the caller's.
    fn end_session(&mut self, reason: Invalidation) -> bool {
        let Work::Session { .. } = self.work else {
            return false;
        };
        let Work::Session { session, held } = std::mem::replace(&mut self.work, Work::Idle) else {
            unreachable!("R4: it was a session a line above");
        };
        if let Some(held) = held {
            held.release();
        }
        let id = session.id();
        self.notes.push(Note::SessionInvalidated { id, reason });
        true
    }

    /// R5: ends the stream, if there is one; its pin goes with it.
    fn end_stream(&mut self, cause: StreamEnd) {
        if let Work::Stream(stream) = &self.work {
            let id = stream.id();
            self.work = Work::Idle;
            self.notes.push(Note::StreamEnded { id, cause });
            self.settle(State::Disconnected);
        }
    }

    /// R6: while the mark is set, nothing but a rebuild leads out of `needs_rebuild` (H18).
    fn settle(&mut self, state: State) {
        self.state = match (state, self.marked) {
            (State::Disconnected, true) => State::NeedsRebuild,
            (state, _) => state,
        };
    }

    fn mark(&mut self, cause: MarkCause) {
        if !self.marked {
            self.marked = true;
            self.notes.push(Note::Marked(cause));
        }
    }

    fn clear_mark(&mut self) {
        if self.marked {
            self.marked = false;
            self.notes.push(Note::MarkCleared);
        }
    }
}
