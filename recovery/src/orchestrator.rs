//! The entry path above the senders (1.14): every call goes through here, is fenced by replica and
//! session, leaves its event, and moves the ack ledger.
//!
//! It owns registry, ledger and event log, and still does nothing: the driver calls it, sends what
//! it decides, and reports back what the replica acknowledged.

use seawall_wal::{Epoch, Lsn, LsnRange};

use crate::ack::Ledger;
use crate::budget::Peer;
use crate::event::{EventLog, What};
use crate::failure::{Cancelled, Failure, Invalidation, Link, StreamEnd};
use crate::history::Standing;
use crate::id::{ReplicaId, SessionId, Tick};
use crate::plan::{Pin, Plan, Storage};
use crate::rebuild::{Chunks, Compared, Install};
use crate::registry::{self, Assigned, Assignment, Registry};
use crate::sender::{Note, Sender, State};
use crate::session::SessionOptions;

/// Registry, ledger and event log of one primary, under one owner.
#[derive(Debug)]
pub struct Orchestrator<P> {
    pub(crate) registry: Registry<P>,
    pub(crate) ledger: Ledger,
    pub(crate) log: EventLog,
}

/// Which call: when, for which replica, in which session.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Now.
    pub now: Tick,
    /// The replica.
    pub replica: &'a ReplicaId,
    /// The session or stream.
    pub session: SessionId,
}

impl<P: Pin> Orchestrator<P> {
    /// The orchestrator of a primary that has just opened.
    #[must_use]
    pub const fn new(registry: Registry<P>, ledger: Ledger, log: EventLog) -> Orchestrator<P> {
        Orchestrator {
            registry,
            ledger,
            log,
        }
    }

    /// The senders.
    #[must_use]
    pub const fn registry(&self) -> &Registry<P> {
        &self.registry
    }

    /// The acknowledgements.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The event log.
    #[must_use]
    pub const fn log(&self) -> &EventLog {
        &self.log
    }

    /// Applies an assignment.
    pub fn assign(&mut self, assignment: &Assignment, now: Tick) -> Assigned {
        let assigned = self.registry.assign(assignment);
        self.log_assigned(&assigned, now);
        assigned
    }

    /// Notes an assignment that the edge refused: nothing changes.
    pub(crate) fn refuse_assignment(
        &mut self,
        assignment: &Assignment,
        refused: &Failure,
        now: Tick,
    ) {
        self.log_assigned(&registry::refuse(assignment, refused), now);
    }

    fn log_assigned(&mut self, assigned: &Assigned, now: Tick) {
        let epoch = self.registry.epoch();
        if let Some(refused) = &assigned.refused {
            let what = What::AssignmentRefused(refused.clone());
            self.log.primary(now, epoch, what);
        }
        for replica in &assigned.added {
            self.log
                .replica(now, (replica, epoch), None, What::SenderAdded);
        }
        for replica in &assigned.removed {
            self.log
                .replica(now, (replica, epoch), None, What::SenderRemoved);
        }
        self.settle(now);
        self.log_targets(assigned, now);
        if assigned.refused.is_none() {
            let was = self.ledger.standing();
            self.ledger.assigned(self.registry.replicas().cloned());
            self.log_confirmed(was, now);
        }
    }

    /// Attaches a session at the epoch of the registry.
    ///
    /// # Errors
    /// Those of [`Registry::attach`].
    pub fn attach(
        &mut self,
        replica: &ReplicaId,
        options: SessionOptions,
        now: Tick,
    ) -> Result<SessionId, Failure> {
        let result = self.registry.attach(replica, options);
        let epoch = self.registry.epoch();
        let (session, what) = match &result {
            Ok(id) => (Some(*id), What::SessionCreated),
            Err(failure) => (None, What::SessionFailed(failure.clone())),
        };
        self.log.replica(now, (replica, epoch), session, what);
        self.settle(now);
        result
    }

    /// Raises the epoch of registry and senders in one step; the number of sessions that died.
    pub fn advance_epoch(&mut self, epoch: Epoch, now: Tick) -> usize {
        let ours = self.registry.epoch();
        if epoch < ours {
            let what = What::EpochRefused { given: epoch };
            self.log.primary(now, ours, what);
        }
        let died = self.registry.advance_epoch(epoch);
        self.settle(now);
        died
    }

    /// Restores what the state log remembers of a replica (D8).
    ///
    /// # Errors
    /// [`Failure::UnknownReplica`].
    pub fn restore(
        &mut self,
        replica: &ReplicaId,
        needs_rebuild: bool,
        node: Option<seawall_wal::NodeIncarnation>,
        now: Tick,
    ) -> Result<(), Failure> {
        let restored = self.registry.with_sender(replica, |sender| {
            sender.restore(needs_rebuild, node);
            Ok(())
        });
        self.settle(now);
        let epoch = self.registry.epoch();
        restored.map_err(|refused| {
            let sender = (replica, epoch);
            self.log
                .refused(now, sender, None, refused, What::RestoreRefused)
        })
    }

    /// Stops every sender: the primary closes.
    pub fn stop_all(&mut self, now: Tick) {
        self.registry.stop_all();
        self.settle(now);
    }

    /// The link is being set up.
    ///
    /// # Errors
    /// Those of [`Sender::connect`].
    pub fn connect(&mut self, call: Call<'_>) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.connect(call.session),
            |()| Some(What::Connected),
            What::ConnectFailed,
        )
    }

    /// Catch-up begins. Returns nothing new: the target is in the plan.
    ///
    /// # Errors
    /// Those of [`Sender::begin_catch_up`].
    pub fn begin_catch_up(&mut self, call: Call<'_>, range: LsnRange) -> Result<(), Failure> {
        let target = range.through;
        self.step(
            call,
            |sender| sender.begin_catch_up(call.session, call.now),
            |()| Some(What::CatchUpStarted { target }),
            What::CatchUpBeginFailed,
        )
    }

    /// The replica acknowledged a truncation as durable.
    ///
    /// # Errors
    /// Those of [`Sender::truncated`].
    pub fn truncated(&mut self, call: Call<'_>, to: Lsn) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.truncated(call.session, to),
            |()| Some(What::TruncationRecorded { to }),
            What::TruncationFailed,
        )
    }

    /// Records went to the replica.
    ///
    /// # Errors
    /// Those of [`Sender::sent`].
    pub fn sent(&mut self, call: Call<'_>, through: Lsn, bytes: u64) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.sent(call.session, through, bytes),
            |()| None,
            What::CatchUpProgressFailed,
        )
    }

    /// The replica acknowledged records as durable.
    ///
    /// # Errors
    /// Those of [`Sender::progress`].
    pub fn progress(&mut self, call: Call<'_>, through: Lsn) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.progress(call.session, through, Some(call.now)),
            |()| None,
            What::CatchUpProgressFailed,
        )
    }

    /// Checks the budget of the session; the streaming loop calls this before it sends more.
    ///
    /// # Errors
    /// Those of [`Sender::check_budget`].
    pub fn check_budget(&mut self, call: Call<'_>, peer: Peer) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.check_budget(call.session, call.now, peer),
            |()| None,
            |failure| match failure {
                Failure::Budget(_) => What::BudgetEscalated(failure),
                failure => What::BudgetCheckRefused(failure),
            },
        )
    }

    /// The session is done and becomes a stream. Returns where the stream starts.
    ///
    /// # Errors
    /// Those of [`Sender::complete`].
    pub fn complete<S: Storage<Pin = P>>(
        &mut self,
        call: Call<'_>,
        storage: &mut S,
    ) -> Result<Lsn, Failure> {
        let zero_gap = false;
        self.step(
            call,
            |sender| sender.complete(call.session, |at| storage.pin_log(at)),
            |&at| Some(What::Completed { at, zero_gap }),
            What::CompletionRejected,
        )
    }

    /// The replica has durably noted that a base is being installed. The mark that follows has to
    /// be durable before the first byte is sent.
    ///
    /// # Errors
    /// Those of [`Sender::begin_transfer`].
    pub fn begin_transfer(&mut self, call: Call<'_>, install: Install) -> Result<(), Failure> {
        self.rebuild_step(call, |sender| {
            sender.begin_transfer(call.session, install, call.now)
        })
    }

    /// Chunks went to the replica, or matched there.
    ///
    /// # Errors
    /// Those of [`Sender::chunks`].
    pub fn chunks(&mut self, call: Call<'_>, moved: Chunks) -> Result<(), Failure> {
        self.rebuild_step(call, |sender| sender.chunks(call.session, moved, call.now))
    }

    /// Every chunk matches at the replica and proves the state through `through`; these are the
    /// manifest digests.
    ///
    /// # Errors
    /// Those of [`Sender::transfer_progress`] and [`Sender::base_verified`].
    pub fn base_verified(
        &mut self,
        call: Call<'_>,
        through: Lsn,
        manifest: Compared,
    ) -> Result<(), Failure> {
        self.rebuild_step(call, |sender| {
            // A base of the empty history proves nothing beyond where it began.
            if !through.is_zero() {
                sender.transfer_progress(call.session, through)?;
            }
            sender.base_verified(call.session, manifest)
        })
    }

    /// The base is whole, the tail begins.
    ///
    /// # Errors
    /// Those of [`Sender::begin_tail`].
    pub fn begin_tail(&mut self, call: Call<'_>) -> Result<(), Failure> {
        self.rebuild_step(call, |sender| sender.begin_tail(call.session))
    }

    /// The replica applied and synced the tail through this LSN.
    ///
    /// # Errors
    /// Those of [`Sender::tail_progress`].
    pub fn tail_progress(&mut self, call: Call<'_>, through: Lsn) -> Result<(), Failure> {
        self.rebuild_step(call, |sender| {
            sender.tail_progress(call.session, through, call.now)
        })
    }

    /// The replica switched to its new base; these are the state digests at the target. The session
    /// becomes a stream. Returns where it starts.
    ///
    /// # Errors
    /// Those of [`Sender::complete_rebuild`].
    pub fn complete_rebuild<S: Storage<Pin = P>>(
        &mut self,
        call: Call<'_>,
        state: Compared,
        storage: &mut S,
    ) -> Result<Lsn, Failure> {
        self.step(
            call,
            |sender| sender.complete_rebuild(call.session, state, |at| storage.pin_log(at)),
            |&at| Some(What::RebuildCompleted { at }),
            What::RebuildFailed,
        )
    }

    /// Records went to the replica over its stream.
    ///
    /// # Errors
    /// Those of [`Sender::ship`].
    pub fn ship(&mut self, call: Call<'_>, through: Lsn, own_durable: Lsn) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.ship(call.session, through, own_durable),
            |()| None,
            What::ShipRefused,
        )
    }

    /// The replica acknowledged everything through `lsn` over its stream. Returns committed if it
    /// rose.
    ///
    /// # Errors
    /// Those of [`Sender::acknowledge`].
    pub fn acknowledge(&mut self, call: Call<'_>, lsn: Lsn) -> Result<Option<Lsn>, Failure> {
        let held = self.step(
            call,
            |sender| sender.acknowledge(call.session, lsn),
            |_| None,
            What::AcknowledgementRefused,
        )?;
        let was = self.ledger.standing();
        let committed = self.ledger.stream_acknowledged(call.replica, held);
        self.log_confirmed(was, call.now);
        Ok(committed)
    }

    /// Our own log is synced through `durable`. Returns committed if it rose.
    pub fn synced(&mut self, durable: Lsn, now: Tick) -> Option<Lsn> {
        let was = self.ledger.standing();
        let committed = self.ledger.synced(durable);
        self.log_confirmed(was, now);
        committed
    }

    /// An attempt to reach the replica has ended, well or not: we are not kept unconfirmed any
    /// longer because nobody asked it (D1).
    pub fn asked(&mut self, replica: &ReplicaId, now: Tick) {
        let was = self.ledger.standing();
        self.ledger.asked(replica);
        self.log_confirmed(was, now);
    }

    /// Records that the replica held above our head were fetched and are synced here (D1).
    pub fn fetched(&mut self, call: Call<'_>, range: LsnRange) -> Option<Lsn> {
        self.log_of(call, What::RecordsFetched { range });
        let was = self.ledger.standing();
        let committed = self.ledger.fetched(range.through);
        self.log_confirmed(was, call.now);
        committed
    }

    /// The replica fetched `records` records of `range`, which its log had lost (D14).
    pub fn healed(&mut self, call: Call<'_>, range: LsnRange, records: u64) {
        self.log_of(call, What::ReplicaHealed { range, records });
    }

    /// The stream is over. An id that is not current any more changes nothing and is refused.
    ///
    /// # Errors
    /// Those of [`Sender::stream_lost`].
    pub fn stream_lost(&mut self, call: Call<'_>, cause: StreamEnd) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.stream_lost(call.session, cause),
            |()| None,
            What::StreamLossRefused,
        )
    }

    /// The link of the session is gone (D7).
    ///
    /// # Errors
    /// Those of [`Sender::link_lost`].
    pub fn link_lost(&mut self, call: Call<'_>, how: Link) -> Result<(), Failure> {
        self.invalidate(call, Invalidation::LinkLost(how), State::Disconnected)
    }

    /// Ends the session without success.
    ///
    /// # Errors
    /// Those of [`Sender::invalidate`].
    pub fn invalidate(
        &mut self,
        call: Call<'_>,
        reason: Invalidation,
        state: State,
    ) -> Result<(), Failure> {
        self.step(
            call,
            |sender| sender.invalidate(call.session, reason, state),
            |()| None,
            What::InvalidationRefused,
        )
    }

    /// Gives a plan up: releases its pin, and ends its session if it is still the current one.
    pub fn cancel(&mut self, plan: Plan<P>, why: Cancelled, now: Tick) {
        plan.release();
        let reason = Invalidation::ExecutorCancelled(why);
        let replica = &plan.replica;
        let session = plan.session;
        let call = Call {
            now,
            replica,
            session,
        };
        let sender = self.registry.sender(replica);
        // A session that is not the plan's any more has ended for a reason of its own.
        if sender.is_ok_and(|sender| sender.session_id() == Some(session)) {
            // OK because a refusal would have left its own event.
            let _ = self.invalidate(call, reason.clone(), State::Disconnected);
        }
        self.log_of(call, What::PlanCancelled(reason));
    }

    /// A barrier of one waiter expired; the stream goes on (D6).
    pub fn barrier_expired(&mut self, lsn: Lsn, now: Tick) {
        let epoch = self.registry.epoch();
        self.log.primary(now, epoch, What::BarrierExpired { lsn });
    }

    fn rebuild_step(
        &mut self,
        call: Call<'_>,
        take: impl FnOnce(&mut Sender<P>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        self.step(call, take, |()| None, What::RebuildFailed)
    }

    /// Takes one step of one sender and logs it: first its own event, then what it led to.
    pub(crate) fn step<R>(
        &mut self,
        call: Call<'_>,
        take: impl FnOnce(&mut Sender<P>) -> Result<R, Failure>,
        done: impl FnOnce(&R) -> Option<What>,
        refused: impl FnOnce(Failure) -> What,
    ) -> Result<R, Failure> {
        let result = match self.registry.with_sender(call.replica, take) {
            Ok(value) => {
                if let Some(what) = done(&value) {
                    self.log_of(call, what);
                }
                Ok(value)
            }
            Err(unlogged) => {
                let sender = (call.replica, self.epoch_of(call.replica));
                let session = Some(call.session);
                let log = &mut self.log;
                Err(log.refused(call.now, sender, session, unlogged, refused))
            }
        };
        self.settle(call.now);
        result
    }

    pub(crate) fn log_of(&mut self, call: Call<'_>, what: What) {
        let epoch = self.epoch_of(call.replica);
        self.log
            .replica(call.now, (call.replica, epoch), Some(call.session), what);
    }

    fn epoch_of(&self, replica: &ReplicaId) -> Epoch {
        let sender = self.registry.sender(replica);
        sender.map_or(self.registry.epoch(), Sender::epoch)
    }

    /// Moves what senders noted into the log and the ledger.
    pub(crate) fn settle(&mut self, now: Tick) {
        let was = self.ledger.standing();
        for (replica, epoch, note) in self.registry.drain_notes() {
            match &note {
                Note::StreamStarted { at, .. } => {
                    self.ledger.stream_acknowledged(&replica, *at);
                }
                Note::StreamEnded { .. } => self.ledger.stream_ended(&replica),
                Note::AcknowledgementsVoided { .. } => self.ledger.void(&replica),
                Note::SessionInvalidated { .. }
                | Note::Marked(_)
                | Note::MarkRestored
                | Note::MarkCleared
                | Note::DamageFound { .. } => {}
            }
            self.log.note(now, (&replica, epoch), note);
        }
        self.log_confirmed(was, now);
    }

    pub(crate) fn log_confirmed(&mut self, was: Standing, now: Tick) {
        if was == Standing::Unconfirmed && self.ledger.standing() == Standing::Confirmed {
            let committed = self.ledger.committed();
            let epoch = self.registry.epoch();
            self.log
                .primary(now, epoch, What::PrimaryConfirmed { committed });
        }
    }

    fn log_targets(&mut self, assigned: &Assigned, now: Tick) {
        let epoch = self.registry.epoch();
        for (replica, id) in &assigned.created {
            self.log
                .replica(now, (replica, epoch), Some(*id), What::SessionCreated);
        }
        for &(ref replica, old, new) in &assigned.superseded {
            let what = What::SessionSuperseded { old };
            self.log.replica(now, (replica, epoch), Some(new), what);
        }
        for (replica, failure) in &assigned.failed {
            let what = What::SessionFailed(failure.clone());
            self.log.replica(now, (replica, epoch), None, what);
        }
    }
}

#[cfg(test)]
mod tests;
