//! One recovery attempt of one replica. It decides about calls; it knows no socket, no thread and
//! no clock.

use std::fmt;

use seawall_wal::{Epoch, Lsn, LsnRange};

use crate::budget::{Budget, Peer, Tracker, Violation};
use crate::failure::{Failure, Invalidation};
use crate::id::{ReplicaId, SessionId, Tick};
use crate::rebuild::{self, Rebuild};

/// What a session is for. Only `Rebuild` changes behaviour; the others are labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The first recovery of a new replica.
    Bootstrap,
    /// The replica was away.
    CatchUp,
    /// The replica is built anew.
    Rebuild,
    /// The replica was moved here from another primary.
    Reassign,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Bootstrap => "bootstrap",
            Kind::CatchUp => "catchup",
            Kind::Rebuild => "rebuild",
            Kind::Reassign => "reassign",
        })
    }
}

/// Where the replica has to cut before anything is sent to it (1.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truncation {
    /// Nowhere.
    NotRequired,
    /// Here, and it has not reported it durable yet.
    Required(Lsn),
    /// Here, and it has reported it durable.
    Recorded(Lsn),
}

/// Phase of a session, with the data that is valid in it.
///
/// ```text
///  Init --connect--> Connecting --handshake--> Handshake --begin--> CatchUp --+
///                        |                         |                          |
///                        | (kind rebuild)          +--- empty range ----> Completed
///                        +--handshake--> Rebuilding -- rebuild done ----------^
///
///  every phase but Completed --invalidate--> Invalidated
/// ```
///
/// A completed session becomes a stream in the same step (D6); the sender does that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Attached, nothing done yet.
    Init,
    /// The link is being set up and facts are exchanged.
    Connecting,
    /// The range is known.
    Handshake {
        /// What is to be recovered.
        range: LsnRange,
        /// What the replica has to cut first.
        truncation: Truncation,
    },
    /// Records are on their way, through a target that never moves.
    CatchUp {
        /// `after` as agreed, through the frozen target.
        range: LsnRange,
        /// Last LSN that the replica acknowledged as durable.
        recovered_to: Lsn,
        /// Last LSN sent.
        sent_to: Lsn,
        /// What the replica has to cut first.
        truncation: Truncation,
        /// What was spent.
        tracker: Tracker,
    },
    /// The rebuild machine runs. Seen from outside this is phase handshake.
    Rebuilding {
        /// (0, target] as of the handshake; the machine freezes its own target with the source.
        range: LsnRange,
        /// The machine.
        machine: Rebuild,
    },
    /// The replica holds everything through this LSN.
    Completed {
        /// The LSN.
        at: Lsn,
    },
    /// Over; the first reason stays.
    Invalidated(Box<Invalidation>),
}

/// What happens to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The link is being set up.
    Connect,
    /// The facts were exchanged and decided upon.
    Handshake {
        /// What is to be recovered.
        range: LsnRange,
        /// Where the replica has to cut first.
        truncate_to: Option<Lsn>,
    },
    /// Catch-up begins; the target is frozen.
    BeginCatchUp {
        /// Now.
        now: Tick,
    },
    /// Records went to the replica.
    Sent {
        /// Last LSN sent.
        through: Lsn,
        /// Their bytes.
        bytes: u64,
    },
    /// The replica acknowledged records as durable.
    Progress {
        /// Last LSN durable there.
        through: Lsn,
        /// When; required if the session has a stall budget.
        at: Option<Tick>,
    },
    /// The replica acknowledged a truncation as durable.
    Truncated {
        /// Where it cut.
        lsn: Lsn,
    },
    /// The work is done.
    Complete,
    /// A step of the rebuild machine.
    Rebuild(rebuild::Event),
    /// Give up.
    Invalidate(Invalidation),
}

/// The name of an event, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Connect.
    Connect,
    /// Handshake.
    Handshake,
    /// Begin of catch-up.
    BeginCatchUp,
    /// A report of what was sent.
    Sent,
    /// Progress.
    Progress,
    /// A report of a truncation.
    Truncated,
    /// Completion.
    Complete,
    /// A step of the rebuild machine.
    Rebuild,
    /// Invalidation.
    Invalidate,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Connect => "connect",
            Step::Handshake => "handshake",
            Step::BeginCatchUp => "begin of catch-up",
            Step::Sent => "a report of what was sent",
            Step::Progress => "progress",
            Step::Truncated => "a report of a truncation",
            Step::Complete => "completion",
            Step::Rebuild => "a rebuild step",
            Step::Invalidate => "invalidation",
        })
    }
}

impl Event {
    /// Which step this is.
    #[must_use]
    pub const fn step(&self) -> Step {
        match self {
            Event::Connect => Step::Connect,
            Event::Handshake { .. } => Step::Handshake,
            Event::BeginCatchUp { .. } => Step::BeginCatchUp,
            Event::Sent { .. } => Step::Sent,
            Event::Progress { .. } => Step::Progress,
            Event::Truncated { .. } => Step::Truncated,
            Event::Complete => Step::Complete,
            Event::Rebuild(_) => Step::Rebuild,
            Event::Invalidate(_) => Step::Invalidate,
        }
    }
}

/// What a session is created with. Nothing of it ever changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionOptions {
    /// What it is for.
    pub kind: Kind,
    /// What it may spend.
    pub budget: Budget,
}

impl SessionOptions {
    /// A session without limits.
    #[must_use]
    pub const fn unbounded(kind: Kind) -> SessionOptions {
        SessionOptions {
            kind,
            budget: Budget::UNBOUNDED,
        }
    }
}

/// One session. Outside code holds copies only (1.13): the live one belongs to its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    id: SessionId,
    replica: ReplicaId,
    epoch: Epoch,
    options: SessionOptions,
    phase: Phase,
}

impl Session {
    /// A new session.
    #[must_use]
    pub(crate) const fn new(
        id: SessionId,
        replica: ReplicaId,
        epoch: Epoch,
        options: SessionOptions,
    ) -> Session {
        Session {
            id,
            replica,
            epoch,
            options,
            phase: Phase::Init,
        }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// The replica it recovers.
    #[must_use]
    pub const fn replica(&self) -> &ReplicaId {
        &self.replica
    }

    /// The epoch it was attached at.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What it is for.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.options.kind
    }

    /// What it may spend.
    #[must_use]
    pub const fn budget(&self) -> Budget {
        self.options.budget
    }

    /// Where it is.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// Whether it can still succeed.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        !matches!(self.phase, Phase::Completed { .. } | Phase::Invalidated(_))
    }

    /// The first limit that is exceeded, if any.
    #[must_use]
    pub fn check_budget(&self, now: Tick, peer: Peer) -> Option<Violation> {
        let tracker = match &self.phase {
            Phase::CatchUp { tracker, .. } => Some(tracker),
            Phase::Rebuilding { machine, .. } => machine.tracker(),
            Phase::Init
            | Phase::Connecting
            | Phase::Handshake { .. }
            | Phase::Completed { .. }
            | Phase::Invalidated(_) => None,
        };
        tracker.and_then(|tracker| self.options.budget.check(tracker, now, peer))
    }

    /// Takes one step.
    ///
    /// # Errors
    /// [`Failure::WrongKind`] and [`Failure::WrongPhase`] when the step does not belong here, and
    /// the failure of its guard otherwise. Nothing has changed then, except after
    /// [`Failure::DigestDiffers`]: the rebuild inside is aborted.
    pub(crate) fn on(&mut self, event: Event) -> Result<(), Failure> {
        let step = event.step();
        self.check_kind(step)?;
        let stall_limited = self.options.budget.stall_ticks_max.is_some();
        match (&mut self.phase, event) {
            (Phase::Init, Event::Connect) => self.phase = Phase::Connecting,
            (Phase::Connecting, Event::Handshake { range, truncate_to }) => {
                self.phase = agreed(self.options.kind, range, truncate_to)?;
            }
            (Phase::Handshake { range, truncation }, Event::BeginCatchUp { now }) => {
                self.phase = Phase::CatchUp {
                    range: *range,
                    recovered_to: range.after,
                    sent_to: range.after,
                    truncation: *truncation,
                    tracker: Tracker::begin(now),
                };
            }
            (
                Phase::CatchUp {
                    range,
                    sent_to,
                    tracker,
                    truncation,
                    ..
                },
                Event::Sent { through, bytes },
            ) => {
                outstanding(*truncation)?;
                forward(through, *sent_to, range.through)?;
                *sent_to = through;
                tracker.sent(bytes);
            }
            (
                Phase::CatchUp {
                    range,
                    recovered_to,
                    sent_to,
                    truncation,
                    tracker,
                },
                Event::Progress { through, at },
            ) => {
                outstanding(*truncation)?;
                forward(through, *recovered_to, range.through)?;
                if through > *sent_to {
                    return Err(Failure::BeyondSent {
                        lsn: through,
                        sent: *sent_to,
                    });
                }
                if stall_limited && at.is_none() {
                    return Err(Failure::TickMissing { lsn: through });
                }
                tracker.acknowledged(through.get() - recovered_to.get(), at);
                *recovered_to = through;
            }
            (
                Phase::Handshake { truncation, .. } | Phase::CatchUp { truncation, .. },
                Event::Truncated { lsn },
            ) => *truncation = recorded(*truncation, lsn)?,
            (Phase::Handshake { range, truncation }, Event::Complete) => {
                outstanding(*truncation)?;
                converged(range.after, range.through)?;
                self.phase = Phase::Completed { at: range.through };
            }
            (
                Phase::CatchUp {
                    range,
                    recovered_to,
                    truncation,
                    ..
                },
                Event::Complete,
            ) => {
                outstanding(*truncation)?;
                converged(*recovered_to, range.through)?;
                self.phase = Phase::Completed { at: range.through };
            }
            (Phase::Rebuilding { machine, .. }, Event::Rebuild(event)) => {
                machine.on(event)?;
                if let rebuild::Phase::Completed { at } = *machine.phase() {
                    self.phase = Phase::Completed { at };
                }
            }
            (
                Phase::Init
                | Phase::Connecting
                | Phase::Handshake { .. }
                | Phase::CatchUp { .. }
                | Phase::Rebuilding { .. },
                Event::Invalidate(reason),
            ) => self.phase = Phase::Invalidated(Box::new(reason)),
            // The first reason stays; a second invalidation is a no-op.
            (Phase::Invalidated(_), Event::Invalidate(_)) => {}
            (
                Phase::Init
                | Phase::Connecting
                | Phase::Handshake { .. }
                | Phase::CatchUp { .. }
                | Phase::Rebuilding { .. }
                | Phase::Completed { .. }
                | Phase::Invalidated(_),
                Event::Connect
                | Event::Handshake { .. }
                | Event::BeginCatchUp { .. }
                | Event::Sent { .. }
                | Event::Progress { .. }
                | Event::Truncated { .. }
                | Event::Complete
                | Event::Rebuild(_)
                | Event::Invalidate(_),
            ) => {
                let phase = self.phase.name();
                return Err(Failure::WrongPhase { step, phase });
            }
        }
        Ok(())
    }

    /// Exclusivity is by kind: only rebuild steps end a rebuild session with success (1.12).
    const fn check_kind(&self, step: Step) -> Result<(), Failure> {
        let kind = self.options.kind;
        let fits = match (kind, step) {
            (_, Step::Connect | Step::Handshake | Step::Invalidate) => true,
            (
                Kind::Rebuild,
                Step::BeginCatchUp | Step::Sent | Step::Progress | Step::Truncated | Step::Complete,
            ) => false,
            (Kind::Rebuild, Step::Rebuild) => true,
            (
                Kind::Bootstrap | Kind::CatchUp | Kind::Reassign,
                Step::BeginCatchUp | Step::Sent | Step::Progress | Step::Truncated | Step::Complete,
            ) => true,
            (Kind::Bootstrap | Kind::CatchUp | Kind::Reassign, Step::Rebuild) => false,
        };
        match fits {
            true => Ok(()),
            false => Err(Failure::WrongKind { step, kind }),
        }
    }
}

impl Phase {
    /// A stable name for status and scripts. A rebuild session stays in phase handshake while its
    /// machine runs (1.9).
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Phase::Init => "init",
            Phase::Connecting => "connecting",
            Phase::Handshake { .. } | Phase::Rebuilding { .. } => "handshake",
            Phase::CatchUp { .. } => "catchup",
            Phase::Completed { .. } => "completed",
            Phase::Invalidated(_) => "invalidated",
        }
    }
}

fn agreed(kind: Kind, range: LsnRange, truncate_to: Option<Lsn>) -> Result<Phase, Failure> {
    if range.through < range.after {
        return Err(Failure::ReversedRange { range });
    }
    Ok(match kind {
        Kind::Rebuild => Phase::Rebuilding {
            range,
            machine: Rebuild::new(),
        },
        Kind::Bootstrap | Kind::CatchUp | Kind::Reassign => Phase::Handshake {
            range,
            truncation: truncate_to.map_or(Truncation::NotRequired, Truncation::Required),
        },
    })
}

/// R3: no record is sent or counted before the replica has cut (H21).
const fn outstanding(truncation: Truncation) -> Result<(), Failure> {
    match truncation {
        Truncation::Required(required) => Err(Failure::TruncationOutstanding { required }),
        Truncation::NotRequired | Truncation::Recorded(_) => Ok(()),
    }
}

fn recorded(truncation: Truncation, lsn: Lsn) -> Result<Truncation, Failure> {
    match truncation {
        Truncation::NotRequired => Err(Failure::TruncationNotRequired { lsn }),
        Truncation::Required(required) | Truncation::Recorded(required) if required != lsn => {
            Err(Failure::TruncationElsewhere { lsn, required })
        }
        Truncation::Required(_) | Truncation::Recorded(_) => Ok(Truncation::Recorded(lsn)),
    }
}

/// Progress moves up, and not beyond the frozen target.
pub(crate) fn forward(lsn: Lsn, reached: Lsn, target: Lsn) -> Result<(), Failure> {
    if lsn <= reached {
        return Err(Failure::NoProgress { lsn, reached });
    }
    if lsn > target {
        return Err(Failure::BeyondTarget { lsn, target });
    }
    Ok(())
}

/// The frozen target is reached.
pub(crate) fn converged(reached: Lsn, target: Lsn) -> Result<(), Failure> {
    match reached >= target {
        true => Ok(()),
        false => Err(Failure::NotConverged { reached, target }),
    }
}

#[cfg(test)]
mod tests;
