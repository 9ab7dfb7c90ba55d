//! The event log: a bounded ring of typed events (1.17). It is the memory of a running primary;
//! what must survive a restart is written to `recovery/` by the caller (D8).

use std::collections::VecDeque;
use std::fmt;

use seawall_wal::{Epoch, Lsn, LsnRange, NodeIncarnation};

use crate::failure::{Failure, Invalidation, StreamEnd};
use crate::history::DamageKind;
use crate::id::{ReplicaId, SessionId, Tick};
use crate::outcome::{Proof, Source};
use crate::plan::PinRefused;
use crate::sender::{MarkCause, Note};

/// Something that happened, with what is needed to audit it.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Counted from 1 over the life of the log; the ring forgets, the number does not.
    pub seq: u64,
    /// When.
    pub at: Tick,
    /// To which replica; `None` for events of the primary itself.
    pub replica: Option<ReplicaId>,
    /// The epoch of the sender, or of the primary.
    pub epoch: Epoch,
    /// The session or stream concerned.
    pub session: Option<SessionId>,
    /// What.
    pub what: What,
}

/// The typed part of an event.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A sender was added.
    SenderAdded,
    /// A sender was removed.
    SenderRemoved,
    /// A session was created.
    SessionCreated,
    /// A session replaced another.
    SessionSuperseded {
        /// The one that was replaced.
        old: SessionId,
    },
    /// A recovery target got no session.
    SessionFailed(Failure),
    /// A session ended without success.
    SessionInvalidated(Invalidation),
    /// An assignment was refused as a whole.
    AssignmentRefused(Failure),
    /// An epoch below ours was to become ours; the event carries ours.
    EpochRefused {
        /// The one that was given.
        given: Epoch,
    },
    /// What a restart remembered fits no replica.
    RestoreRefused(Failure),
    /// A session was to end that is not the current one, or to end in a state that it cannot.
    InvalidationRefused(Failure),
    /// The link is being set up.
    Connected,
    /// It could not be.
    ConnectFailed(Failure),
    /// A handshake led to an outcome.
    Handshake {
        /// The outcome by name: zero-gap, catch-up, needs-rebuild, rebuild.
        outcome: &'static str,
        /// Why.
        proof: Box<Proof>,
    },
    /// No outcome yet (D1).
    HandshakeDeferred {
        /// Why.
        proof: Box<Proof>,
    },
    /// A handshake was refused.
    HandshakeFailed(Failure),
    /// The replica needs a rebuild.
    Escalated {
        /// Why.
        proof: Box<Proof>,
    },
    /// A plan for a catch-up.
    PlanCatchUp {
        /// What is sent.
        range: LsnRange,
    },
    /// A plan for a truncation and nothing else.
    PlanTruncateOnly {
        /// Where to.
        to: Lsn,
    },
    /// A plan for a rebuild from snapshot + tail.
    PlanRebuildSnapshotTail(Source),
    /// A plan for a rebuild from a full base, with the cause.
    PlanRebuildFullBase(Source),
    /// The pin of the log was refused.
    WalPinFailed(PinRefused),
    /// A part of the pin of snapshot and tail was refused.
    SnapshotPinFailed(PinRefused),
    /// The pin of the full base was refused.
    FullBasePinFailed(PinRefused),
    /// Catch-up began.
    CatchUpStarted {
        /// The frozen target.
        target: Lsn,
    },
    /// Catch-up could not begin.
    CatchUpBeginFailed(Failure),
    /// The replica cut its suffix.
    TruncationRecorded {
        /// Where to.
        to: Lsn,
    },
    /// The truncation was refused.
    TruncationFailed(Failure),
    /// Progress was refused.
    CatchUpProgressFailed(Failure),
    /// A budget was exceeded.
    BudgetEscalated(Failure),
    /// A budget was not checked: no such session, or its peer does not answer.
    BudgetCheckRefused(Failure),
    /// Completion was refused.
    CompletionRejected(Failure),
    /// A recovery without a base completed.
    Completed {
        /// What the replica holds.
        at: Lsn,
        /// Whether there was nothing to do.
        zero_gap: bool,
    },
    /// The source of a rebuild was chosen.
    RebuildSourceSelected(Source),
    /// The source of a rebuild could not be chosen.
    RebuildSourceFailed(Failure),
    /// A rebuild failed.
    RebuildFailed(Failure),
    /// A rebuild completed.
    RebuildCompleted {
        /// What the replica holds.
        at: Lsn,
    },
    /// A stream started.
    StreamStarted {
        /// What the replica holds.
        at: Lsn,
    },
    /// A stream ended.
    StreamEnded(StreamEnd),
    /// A stream was to end that does not live.
    StreamLossRefused(Failure),
    /// Records were to be shipped that may not be, or on a stream that does not live.
    ShipRefused(Failure),
    /// An acknowledgement does not count.
    AcknowledgementRefused(Failure),
    /// A plan was cancelled.
    PlanCancelled(Invalidation),
    /// The needs-rebuild mark was set.
    Marked(MarkCause),
    /// The needs-rebuild mark of an earlier process, or of an earlier assignment, holds again (D8).
    MarkRestored,
    /// The needs-rebuild mark was cleared.
    MarkCleared,
    /// The replica has a new node incarnation; its acknowledgements are void (D8).
    AcknowledgementsVoided {
        /// The new one.
        node: NodeIncarnation,
    },
    /// The primary's own log is damaged (D14).
    DamageFound {
        /// The record.
        lsn: Lsn,
        /// What is wrong with it.
        kind: DamageKind,
    },
    /// Records were fetched from the replica (D1).
    RecordsFetched {
        /// Which.
        range: LsnRange,
    },
    /// The replica has the records again that its log had lost, from ours (D14).
    ReplicaHealed {
        /// From before the first of them through the last.
        range: LsnRange,
        /// How many.
        records: u64,
    },
    /// The ack rule covers the inherited log again (D1).
    PrimaryConfirmed {
        /// Committed.
        committed: Lsn,
    },
    /// A barrier expired; it fails its waiter and nothing else (D6).
    BarrierExpired {
        /// What the waiter waited for.
        lsn: Lsn,
    },
}

impl What {
    /// A stable name for scripts, as section 1 spells it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            What::SenderAdded => "sender-added",
            What::SenderRemoved => "sender-removed",
            What::SessionCreated => "session-created",
            What::SessionSuperseded { .. } => "session-superseded",
            What::SessionFailed(_) => "session-failed",
            What::SessionInvalidated(_) => "session-invalidated",
            What::AssignmentRefused(_) => "assignment-refused",
            What::EpochRefused { .. } => "epoch-refused",
            What::RestoreRefused(_) => "restore-refused",
            What::InvalidationRefused(_) => "invalidation-refused",
            What::Connected => "connected",
            What::ConnectFailed(_) => "connect-failed",
            What::Handshake { .. } => "handshake",
            What::HandshakeDeferred { .. } => "handshake-deferred",
            What::HandshakeFailed(_) => "handshake-failed",
            What::Escalated { .. } => "escalated",
            What::PlanCatchUp { .. } => "plan-catchup",
            What::PlanTruncateOnly { .. } => "plan-truncate-only",
            What::PlanRebuildSnapshotTail(_) => "plan-rebuild-snapshot-tail",
            What::PlanRebuildFullBase(_) => "plan-rebuild-full-base",
            What::WalPinFailed(_) => "wal-pin-failed",
            What::SnapshotPinFailed(_) => "snapshot-pin-failed",
            What::FullBasePinFailed(_) => "full-base-pin-failed",
            What::CatchUpStarted { .. } => "catchup-started",
            What::CatchUpBeginFailed(_) => "catchup-begin-failed",
            What::TruncationRecorded { .. } => "truncation-recorded",
            What::TruncationFailed(_) => "truncation-failed",
            What::CatchUpProgressFailed(_) => "catchup-progress-failed",
            What::BudgetEscalated(_) => "budget-escalated",
            What::BudgetCheckRefused(_) => "budget-check-refused",
            What::CompletionRejected(_) => "completion-rejected",
            What::Completed { .. } => "completed",
            What::RebuildSourceSelected(_) => "rebuild-source-selected",
            What::RebuildSourceFailed(_) => "rebuild-source-failed",
            What::RebuildFailed(_) => "rebuild-failed",
            What::RebuildCompleted { .. } => "rebuild-completed",
            What::StreamStarted { .. } => "stream-started",
            What::StreamEnded(_) => "stream-ended",
            What::StreamLossRefused(_) => "stream-loss-refused",
            What::ShipRefused(_) => "ship-refused",
            What::AcknowledgementRefused(_) => "acknowledgement-refused",
            What::PlanCancelled(_) => "plan-cancelled",
            What::Marked(_) => "marked",
            What::MarkRestored => "mark-restored",
            What::MarkCleared => "mark-cleared",
            What::AcknowledgementsVoided { .. } => "acknowledgements-voided",
            What::DamageFound { .. } => "damage-found",
            What::RecordsFetched { .. } => "records-fetched",
            What::ReplicaHealed { .. } => "replica-healed",
            What::PrimaryConfirmed { .. } => "primary-confirmed",
            What::BarrierExpired { .. } => "barrier-expired",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            What::SenderAdded
            | What::SenderRemoved
            | What::SessionCreated
            | What::Connected
            | What::MarkRestored
            | What::MarkCleared => Ok(()),
            What::SessionSuperseded { old } => write!(f, ": it replaces {old}"),
            What::EpochRefused { given } => write!(f, ": epoch {given} is over"),
            What::SessionInvalidated(reason) | What::PlanCancelled(reason) => {
                write!(f, ": {reason}")
            }
            What::SessionFailed(failure)
            | What::AssignmentRefused(failure)
            | What::RestoreRefused(failure)
            | What::InvalidationRefused(failure)
            | What::StreamLossRefused(failure)
            | What::ShipRefused(failure)
            | What::AcknowledgementRefused(failure)
            | What::ConnectFailed(failure)
            | What::HandshakeFailed(failure)
            | What::CatchUpBeginFailed(failure)
            | What::TruncationFailed(failure)
            | What::CatchUpProgressFailed(failure)
            | What::BudgetEscalated(failure)
            | What::BudgetCheckRefused(failure)
            | What::CompletionRejected(failure)
            | What::RebuildSourceFailed(failure)
            | What::RebuildFailed(failure) => write!(f, ": {failure}"),
            What::Handshake { outcome, proof } => write!(f, ": {outcome}, because {proof}"),
            What::HandshakeDeferred { proof } | What::Escalated { proof } => {
                write!(f, ": {proof}")
            }
            What::PlanCatchUp { range } | What::RecordsFetched { range } => write!(f, ": {range}"),
            What::PlanTruncateOnly { to } | What::TruncationRecorded { to } => {
                write!(f, ": to {to}")
            }
            What::PlanRebuildSnapshotTail(source)
            | What::PlanRebuildFullBase(source)
            | What::RebuildSourceSelected(source) => write!(f, ": {source}"),
            What::WalPinFailed(refused)
            | What::SnapshotPinFailed(refused)
            | What::FullBasePinFailed(refused) => write!(f, ": {refused}"),
            What::CatchUpStarted { target } => write!(f, ": target {target}"),
            What::Completed { at, zero_gap: true } => write!(f, ": zero gap at {at}"),
            What::Completed { at, .. }
            | What::RebuildCompleted { at }
            | What::StreamStarted { at } => write!(f, ": at {at}"),
            What::StreamEnded(cause) => write!(f, ": {cause}"),
            What::Marked(cause) => write!(f, ": {}", cause.name()),
            What::AcknowledgementsVoided { node } => write!(f, ": node incarnation {node}"),
            What::DamageFound { lsn, kind } => write!(f, ": {kind} at {lsn}"),
            What::ReplicaHealed { range, records } => write!(f, ": {records} of {range}"),
            What::PrimaryConfirmed { committed } => write!(f, ": committed {committed}"),
            What::BarrierExpired { lsn } => write!(f, ": for {lsn}"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} {:?} epoch {}", self.seq, self.at, self.epoch)?;
        if let Some(replica) = &self.replica {
            write!(f, " {replica}")?;
        }
        if let Some(session) = self.session {
            write!(f, " {session}")?;
        }
        write!(f, " {}", self.what)
    }
}

/// A refusal that no event speaks of yet. Only [`EventLog::refused`] opens it, so that none is
/// passed on in silence.
#[derive(Debug)]
#[must_use = "a refusal leaves an event"]
pub(crate) struct Unlogged(Failure);

impl Unlogged {
    pub(crate) const fn new(failure: Failure) -> Unlogged {
        Unlogged(failure)
    }
}

/// A bounded, ordered log of events. The newest are kept.
#[derive(Debug)]
pub struct EventLog {
    ring: VecDeque<Event>,
    events_max: usize,
    last_seq: u64,
}

impl EventLog {
    /// Events kept unless told otherwise: enough for a day of flapping links.
    pub const EVENTS_MAX: usize = 4096;

    /// A log of at most `events_max` events.
    #[must_use]
    pub const fn new(events_max: usize) -> EventLog {
        EventLog {
            ring: VecDeque::new(),
            events_max,
            last_seq: 0,
        }
    }

    /// Records an event of a replica.
    pub fn replica(
        &mut self,
        at: Tick,
        (replica, epoch): (&ReplicaId, Epoch),
        session: Option<SessionId>,
        what: What,
    ) {
        self.push(at, Some(replica.clone()), epoch, session, what);
    }

    /// Records a refusal as `tell` puts it, and hands it on.
    pub(crate) fn refused(
        &mut self,
        at: Tick,
        sender: (&ReplicaId, Epoch),
        session: Option<SessionId>,
        Unlogged(failure): Unlogged,
        tell: impl FnOnce(Failure) -> What,
    ) -> Failure {
        self.replica(at, sender, session, tell(failure.clone()));
        failure
    }

    /// Records an event of the primary itself.
    pub fn primary(&mut self, at: Tick, epoch: Epoch, what: What) {
        self.push(at, None, epoch, None, what);
    }

    /// Records what a sender noted.
    pub fn note(&mut self, at: Tick, sender: (&ReplicaId, Epoch), note: Note) {
        let (session, what) = match note {
            Note::SessionInvalidated { id, reason } => (Some(id), What::SessionInvalidated(reason)),
            Note::StreamStarted { id, at } => (Some(id), What::StreamStarted { at }),
            Note::StreamEnded { id, cause } => (Some(id), What::StreamEnded(cause)),
            Note::Marked(cause) => (None, What::Marked(cause)),
            Note::MarkRestored => (None, What::MarkRestored),
            Note::MarkCleared => (None, What::MarkCleared),
            Note::AcknowledgementsVoided { node } => (None, What::AcknowledgementsVoided { node }),
            Note::DamageFound { lsn, kind } => (None, What::DamageFound { lsn, kind }),
        };
        self.replica(at, sender, session, what);
    }

    /// Every event that is kept, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Event> {
        self.ring.iter()
    }

    /// The events of one replica, oldest first.
    pub fn of<'a>(&'a self, replica: &'a ReplicaId) -> impl Iterator<Item = &'a Event> {
        self.ring
            .iter()
            .filter(move |event| event.replica.as_ref() == Some(replica))
    }

    /// The events after number `seq` that are still kept, oldest first.
    pub fn after(&self, seq: u64) -> impl Iterator<Item = &Event> {
        self.ring.iter().filter(move |event| event.seq > seq)
    }

    /// Number of the newest event; 0 before the first.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.last_seq
    }

    fn push(
        &mut self,
        at: Tick,
        replica: Option<ReplicaId>,
        epoch: Epoch,
        session: Option<SessionId>,
        what: What,
    ) {
        self.last_seq += 1;
        while self.ring.len() >= self.events_max.max(1) {
            self.ring.pop_front();
        }
        self.ring.push_back(Event {
            seq: self.last_seq,
            at,
            replica,
            epoch,
            session,
            what,
        });
    }
}

impl Default for EventLog {
    fn default() -> EventLog {
        EventLog::new(EventLog::EVENTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A171
    #[test]
    fn the_log_is_bounded_and_keeps_its_order() {
        let mut log = EventLog::new(3);
        let replica = ReplicaId::new("r1");
        for tick in 1..=5 {
            let sender = (&replica, Epoch::new(2));
            log.replica(Tick(tick), sender, None, What::Connected);
        }
        let kept: Vec<(u64, Tick)> = log.all().map(|event| (event.seq, event.at)).collect();
        assert_eq!(kept, [(3, Tick(3)), (4, Tick(4)), (5, Tick(5))]);
        assert_eq!(log.last_seq(), 5);
        assert!(log.all().all(|event| event.epoch == Epoch::new(2)));
    }

    #[test]
    fn events_are_found_by_replica_and_by_number() {
        let mut log = EventLog::default();
        let (r1, r2) = (ReplicaId::new("r1"), ReplicaId::new("r2"));
        let epoch = Epoch::new(1);
        log.replica(Tick(0), (&r1, epoch), None, What::SenderAdded);
        log.replica(Tick(0), (&r2, epoch), None, What::SenderAdded);
        log.replica(Tick(1), (&r1, epoch), None, What::Connected);
        let names: Vec<_> = log.of(&r1).map(|event| event.what.name()).collect();
        assert_eq!(names, ["sender-added", "connected"]);
        assert_eq!(log.after(2).count(), 1);
    }
}
