//! What a call is refused for, what ends a session or a stream, and what to do about it.

use seawall_wal::{Epoch, Lsn, LsnRange};

use crate::budget::Violation;
use crate::id::{ReplicaId, SessionId};
use crate::outcome::{Decision, Proof};
use crate::plan::PinRefused;
use crate::rebuild::RebuildStep;
use crate::session::{Kind, Step};

/// What a caller does after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// Try again, with a new session and fresh facts.
    Retry,
    /// Only a rebuild session helps.
    Rebuild,
    /// Nothing this session or its peer can do helps; somebody has to look.
    Stop,
}

/// A refused call. Refused means: nothing has changed, unless the variant says that the session
/// ended.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The replica is not assigned.
    #[error("replica {replica} is not assigned")]
    UnknownReplica {
        /// The replica.
        replica: ReplicaId,
    },
    /// The sender was stopped for good.
    #[error("the sender of {replica} is stopped")]
    Stopped {
        /// The replica.
        replica: ReplicaId,
    },
    /// There is no session to act on.
    #[error("replica {replica} has no session")]
    NoSession {
        /// The replica.
        replica: ReplicaId,
    },
    /// There is no stream to act on.
    #[error("replica {replica} has no live stream")]
    NoStream {
        /// The replica.
        replica: ReplicaId,
    },
    /// The id names another session than the current one.
    #[error("session {given} of {replica} is over, the current one is {current}")]
    OtherSession {
        /// The replica.
        replica: ReplicaId,
        /// The id that was given.
        given: SessionId,
        /// The id that is current.
        current: SessionId,
    },
    /// The session has completed and lives on as a stream.
    #[error("session {session} of {replica} has become a stream")]
    SessionIsStream {
        /// The replica.
        replica: ReplicaId,
        /// The id of both.
        session: SessionId,
    },
    /// A session is active already.
    #[error("replica {replica} already has the active session {current}")]
    SessionActive {
        /// The replica.
        replica: ReplicaId,
        /// The active session.
        current: SessionId,
    },
    /// The epoch is not the sender's.
    #[error("epoch {given} is not the sender's epoch {current} of {replica}")]
    WrongEpoch {
        /// The replica.
        replica: ReplicaId,
        /// The epoch that was given.
        given: Epoch,
        /// The epoch of the sender.
        current: Epoch,
    },
    /// The replica is marked, and the session is no rebuild.
    #[error("replica {replica} is marked needs-rebuild and takes rebuild sessions only")]
    NeedsRebuild {
        /// The replica.
        replica: ReplicaId,
    },
    /// The call does not belong to the phase.
    #[error("{step} is not allowed in phase {phase}")]
    WrongPhase {
        /// The call.
        step: Step,
        /// The phase.
        phase: &'static str,
    },
    /// The call does not belong to this kind of session.
    #[error("{step} is not for a session of kind {kind}")]
    WrongKind {
        /// The call.
        step: Step,
        /// The kind.
        kind: Kind,
    },
    /// The call does not belong to the phase of the rebuild.
    #[error("{step} is not allowed in rebuild phase {phase}")]
    WrongRebuildPhase {
        /// The call.
        step: RebuildStep,
        /// The phase.
        phase: &'static str,
    },
    /// A range whose end lies before its beginning.
    #[error("range {range} ends before it begins")]
    ReversedRange {
        /// The range.
        range: LsnRange,
    },
    /// Progress that is none.
    #[error("progress to {lsn} is none, {reached} is reached already")]
    NoProgress {
        /// What was acknowledged.
        lsn: Lsn,
        /// What had been reached.
        reached: Lsn,
    },
    /// Progress beyond the frozen target.
    #[error("progress to {lsn} passes the frozen target {target}")]
    BeyondTarget {
        /// What was acknowledged.
        lsn: Lsn,
        /// The frozen target.
        target: Lsn,
    },
    /// An acknowledgement of what was never sent.
    #[error("{lsn} is acknowledged, but only {sent} was sent")]
    BeyondSent {
        /// What was acknowledged.
        lsn: Lsn,
        /// What was sent.
        sent: Lsn,
    },
    /// Shipping beyond our own durable (D3).
    #[error("{lsn} is to be shipped, but only {durable} is durable here")]
    BeyondDurable {
        /// What was to be shipped.
        lsn: Lsn,
        /// Our durable.
        durable: Lsn,
    },
    /// The session has a stall budget and the progress no tick.
    #[error("progress to {lsn} comes without a tick, but the session has a stall budget")]
    TickMissing {
        /// What was acknowledged.
        lsn: Lsn,
    },
    /// The replica has to cut first.
    #[error("the truncation to {required} is still outstanding")]
    TruncationOutstanding {
        /// Where to.
        required: Lsn,
    },
    /// A truncation nobody asked for.
    #[error("a truncation to {lsn} is reported, but none is required")]
    TruncationNotRequired {
        /// What was reported.
        lsn: Lsn,
    },
    /// A truncation to another LSN.
    #[error("a truncation to {lsn} is reported, {required} is required")]
    TruncationElsewhere {
        /// What was reported.
        lsn: Lsn,
        /// What is required.
        required: Lsn,
    },
    /// Completion before the target is reached.
    #[error("{reached} of {target} is reached")]
    NotConverged {
        /// What is reached.
        reached: Lsn,
        /// The target.
        target: Lsn,
    },
    /// A rebuild step before the base is verified.
    #[error("the base is not verified yet")]
    BaseNotVerified,
    /// A sum does not match; the rebuild is aborted.
    #[error("{what} is {found:032x}, expected {expected:032x}")]
    DigestDiffers {
        /// Which one.
        what: DigestOf,
        /// What it should be.
        expected: u128,
        /// What it is.
        found: u128,
    },
    /// `in_sync` as the state to invalidate to.
    #[error("an invalidated session leaves no replica in sync")]
    InvalidTargetState,
    /// The decision was deferred (D1): fetch or wait, then decide again. The session goes on.
    #[error("no outcome yet: {}", .0.proof)]
    NotYet(Box<Decision>),
    /// The decision was a refusal. The session ended.
    #[error("refused: {}", .0)]
    HandshakeRefused(Box<Proof>),
    /// The facts have to be read again: they moved more often than we care to follow (A194).
    #[error("the history moved {tries} times while it was being pinned")]
    HistoryMoved {
        /// How often it was read.
        tries: u32,
    },
    /// A pin was refused. The session ended.
    #[error("{0}")]
    PinRefused(PinRefused),
    /// The peer does not answer (D7). The session ended.
    #[error("the link to {replica} is lost: it does not answer")]
    LinkLost {
        /// The replica.
        replica: ReplicaId,
    },
    /// A limit was exceeded. The session ended.
    #[error("budget exceeded: {0}")]
    Budget(Violation),
    /// The assignment is older than what was applied.
    #[error(
        "assignment of epoch {given}{} is older than epoch {current}{}",
        of_version(*given_version), of_version(*current_version)
    )]
    StaleAssignment {
        /// Its epoch.
        given: Epoch,
        /// Its version.
        given_version: Option<u64>,
        /// The epoch of the registry.
        current: Epoch,
        /// The version applied last.
        current_version: Option<u64>,
    },
    /// The assignment is of an epoch that no majority has promised to this primary (D5).
    #[error(
        "epoch {given} is above epoch {current}, which this primary was promoted to; stop it and run seawall promote with --epoch {given} and its peers first"
    )]
    NotPromoted {
        /// Its epoch.
        given: Epoch,
        /// The epoch of the primary.
        current: Epoch,
    },
    /// An assignment that lists a replica twice.
    #[error("replica {replica} is listed twice")]
    DuplicateReplica {
        /// The replica.
        replica: ReplicaId,
    },
    /// An assignment that gives two replicas the same endpoint.
    #[error("replicas {first} and {second} have the same endpoint")]
    DuplicateEndpoint {
        /// One replica.
        first: ReplicaId,
        /// The other.
        second: ReplicaId,
    },
}

/// What a digest was taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DigestOf {
    /// The manifest of the base.
    Manifest,
    /// The whole state at the frozen target.
    State,
}

/// A version that was given, behind an epoch.
fn of_version(version: Option<u64>) -> String {
    version.map_or_else(String::new, |version| format!(", version {version},"))
}

impl std::fmt::Display for DigestOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DigestOf::Manifest => "the manifest digest",
            DigestOf::State => "the state digest at the target",
        })
    }
}

impl Failure {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> Disposition {
        match self {
            Failure::NeedsRebuild { .. }
            | Failure::BaseNotVerified
            | Failure::DigestDiffers { .. }
            | Failure::Budget(_) => Disposition::Rebuild,
            Failure::PinRefused(refused) => refused.disposition(),
            Failure::UnknownReplica { .. }
            | Failure::Stopped { .. }
            | Failure::WrongEpoch { .. }
            | Failure::WrongKind { .. }
            | Failure::InvalidTargetState
            | Failure::HandshakeRefused(_)
            | Failure::StaleAssignment { .. }
            | Failure::NotPromoted { .. }
            | Failure::DuplicateReplica { .. }
            | Failure::DuplicateEndpoint { .. } => Disposition::Stop,
            Failure::NoSession { .. }
            | Failure::NoStream { .. }
            | Failure::OtherSession { .. }
            | Failure::SessionIsStream { .. }
            | Failure::SessionActive { .. }
            | Failure::WrongPhase { .. }
            | Failure::WrongRebuildPhase { .. }
            | Failure::ReversedRange { .. }
            | Failure::NoProgress { .. }
            | Failure::BeyondTarget { .. }
            | Failure::BeyondSent { .. }
            | Failure::BeyondDurable { .. }
            | Failure::TickMissing { .. }
            | Failure::TruncationOutstanding { .. }
            | Failure::TruncationNotRequired { .. }
            | Failure::TruncationElsewhere { .. }
            | Failure::NotConverged { .. }
            | Failure::NotYet(_)
            | Failure::LinkLost { .. }
            | Failure::HistoryMoved { .. } => Disposition::Retry,
        }
    }
}

/// How a link was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// The peer does not answer a probe.
    Silence,
    /// The connection was closed.
    Closed,
}

/// Why a session was invalidated (1.17). The first reason stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invalidation {
    /// The registry moved on to a newer epoch.
    EpochBump {
        /// Epoch of the session.
        old: Epoch,
        /// Epoch of the registry.
        new: Epoch,
    },
    /// The sender moved on to a newer epoch.
    EpochAdvanced {
        /// Epoch of the session.
        old: Epoch,
        /// Epoch of the sender.
        new: Epoch,
    },
    /// The replica has another endpoint.
    EndpointChanged,
    /// The sender was stopped.
    SenderStopped,
    /// An assignment asked for another session.
    AssignmentIntent,
    /// The outcome is needs rebuild; the proof says why.
    GapExceedsRetention(Box<Proof>),
    /// The replica carries a durable needs-rebuild mark of its own (D8).
    ReplicaMarked,
    /// A limit was exceeded.
    Budget(Violation),
    /// The handshake was refused; the proof says why.
    HandshakeRefused(Box<Proof>),
    /// The link is gone (D7).
    LinkLost(Link),
    /// The pin of the log was refused.
    WalPinFailed(PinRefused),
    /// The pin of snapshot and tail was refused.
    SnapshotPinFailed(PinRefused),
    /// The pin of the full base was refused.
    FullBasePinFailed(PinRefused),
    /// A pin was broken under space pressure.
    PinBroken,
    /// A record could not be read while it was being sent (D15).
    ReadFailed {
        /// The record.
        lsn: Lsn,
    },
    /// A base or state digest does not match.
    DigestDiffers(DigestOf),
    /// The executor gave up.
    ExecutorCancelled(Cancelled),
}

/// Why an executor gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cancelled {
    /// Somebody asked for it.
    ByRequest,
    /// The plan was dropped before it was carried out.
    PlanDropped,
    /// A step failed.
    StepFailed,
    /// The primary is closing.
    Closing,
}

impl Cancelled {
    /// A stable name for scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cancelled::ByRequest => "by-request",
            Cancelled::PlanDropped => "plan-dropped",
            Cancelled::StepFailed => "step-failed",
            Cancelled::Closing => "closing",
        }
    }
}

impl Invalidation {
    /// A stable name for scripts, as section 1.17 spells it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Invalidation::EpochBump { .. } => "epoch-bump",
            Invalidation::EpochAdvanced { .. } => "epoch-advanced",
            Invalidation::EndpointChanged => "endpoint-changed",
            Invalidation::SenderStopped => "sender-stopped",
            Invalidation::AssignmentIntent => "assignment-intent",
            Invalidation::GapExceedsRetention(_) => "gap-exceeds-retention",
            Invalidation::ReplicaMarked => "replica-marked",
            Invalidation::Budget(Violation::Duration { .. }) => "budget-duration-exceeded",
            Invalidation::Budget(Violation::Records { .. }) => "budget-records-exceeded",
            Invalidation::Budget(Violation::Bytes { .. }) => "budget-bytes-exceeded",
            Invalidation::Budget(Violation::Stalled { .. }) => "budget-progress-stalled",
            Invalidation::HandshakeRefused(_) => "handshake-refused",
            Invalidation::LinkLost(_) => "link-lost",
            Invalidation::WalPinFailed(_) => "wal-pin-failed",
            Invalidation::SnapshotPinFailed(_) => "snapshot-pin-failed",
            Invalidation::FullBasePinFailed(_) => "full-base-pin-failed",
            Invalidation::PinBroken => "pin-broken",
            Invalidation::ReadFailed { .. } => "read-failed",
            Invalidation::DigestDiffers(_) => "digest-differs",
            Invalidation::ExecutorCancelled(_) => "executor-cancelled",
        }
    }
}

impl std::fmt::Display for Invalidation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        match self {
            Invalidation::EpochBump { old, new } | Invalidation::EpochAdvanced { old, new } => {
                write!(f, " from {old} to {new}")
            }
            Invalidation::GapExceedsRetention(proof) | Invalidation::HandshakeRefused(proof) => {
                write!(f, ": {proof}")
            }
            Invalidation::Budget(violation) => write!(f, ": {violation}"),
            Invalidation::LinkLost(Link::Silence) => f.write_str(": the peer does not answer"),
            Invalidation::LinkLost(Link::Closed) => f.write_str(": the connection was closed"),
            Invalidation::WalPinFailed(refused)
            | Invalidation::SnapshotPinFailed(refused)
            | Invalidation::FullBasePinFailed(refused) => write!(f, ": {refused}"),
            Invalidation::ReadFailed { lsn } => write!(f, ": LSN {lsn}"),
            Invalidation::DigestDiffers(what) => write!(f, ": {what}"),
            Invalidation::ExecutorCancelled(why) => write!(f, ": {}", why.name()),
            Invalidation::EndpointChanged
            | Invalidation::SenderStopped
            | Invalidation::AssignmentIntent
            | Invalidation::ReplicaMarked
            | Invalidation::PinBroken => Ok(()),
        }
    }
}

/// Why a stream ended (1.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StreamEnd {
    /// The link is gone.
    LinkLost(Link),
    /// A new session was attached.
    SessionAttached,
    /// The registry moved on to a newer epoch.
    EpochBump,
    /// The sender moved on to a newer epoch.
    EpochAdvanced {
        /// Epoch of the stream.
        old: Epoch,
        /// Epoch of the sender.
        new: Epoch,
    },
    /// The replica has another endpoint.
    EndpointChanged,
    /// The sender was stopped.
    SenderStopped,
    /// Its pin was broken under space pressure.
    PinBroken,
    /// A record could not be read while it was being shipped (D15).
    ReadFailed {
        /// The record.
        lsn: Lsn,
    },
}

impl StreamEnd {
    /// A stable name for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            StreamEnd::LinkLost(_) => "link-lost",
            StreamEnd::SessionAttached => "session-attached",
            StreamEnd::EpochBump => "epoch-bump",
            StreamEnd::EpochAdvanced { .. } => "epoch-advanced",
            StreamEnd::EndpointChanged => "endpoint-changed",
            StreamEnd::SenderStopped => "sender-stopped",
            StreamEnd::PinBroken => "pin-broken",
            StreamEnd::ReadFailed { .. } => "read-failed",
        }
    }
}

impl std::fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
