//! From an outcome to the pins it needs and the work to do. Nothing here takes a pin: the planner
//! asks [`Storage`] for it.

use std::fmt;
use std::sync::{Arc, PoisonError};

use seawall_wal::sync::{Mutex, MutexGuard};
use seawall_wal::{Lsn, LsnRange};

use crate::failure::{Disposition, Failure};
use crate::history::History;
use crate::id::{ReplicaId, SessionId};
use crate::outcome::{Outcome, Proof, Source, SourceKind};

/// A claim on the storage of the primary. Dropping it gives the claim up.
pub trait Pin: Send {
    /// From now on only the records above `after` are claimed; a base that was claimed with them is
    /// given up. MUST NOT lower the claim.
    fn move_up(&mut self, after: Lsn);
}

/// All that planning needs of the primary's storage (1.19). Every pin MUST be checked against the
/// retention floor in the critical section that registers it, and MUST be registered as a whole or
/// not at all.
pub trait Storage {
    /// The claims this storage gives.
    type Pin: Pin;

    /// The retained history as of now, read from storage.
    fn history(&mut self) -> History;

    /// Keeps every record above `after` readable (WalPin).
    ///
    /// # Errors
    /// [`PinRefused`] when some of it is reclaimed already, or by policy.
    fn pin_log(&mut self, after: Lsn) -> Result<Self::Pin, PinRefused>;

    /// Keeps the image at exactly `base` and every record above it readable, as one.
    ///
    /// # Errors
    /// [`PinRefused`] naming the part that failed; the other part is not held then.
    fn pin_snapshot_tail(&mut self, base: Lsn) -> Result<Self::Pin, PinRefused>;

    /// Keeps the state at exactly `target` readable as an immutable image, and every record above
    /// it (BasePin).
    ///
    /// # Errors
    /// [`PinRefused`] naming the part that failed; nothing is held then.
    fn pin_full_base(&mut self, target: Lsn) -> Result<Self::Pin, PinRefused>;
}

/// The pin that a plan needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinRequest {
    /// The log after this LSN.
    Log {
        /// What the replica keeps.
        after: Lsn,
    },
    /// The image at exactly this checkpoint, and the log after it.
    SnapshotTail {
        /// The checkpoint.
        base: Lsn,
    },
    /// The overlay at exactly this LSN, and the log after it.
    FullBase {
        /// The target.
        target: Lsn,
    },
}

impl PinRequest {
    /// Asks `storage` for this pin.
    ///
    /// # Errors
    /// What `storage` refuses it for.
    pub fn take<S: Storage>(self, storage: &mut S) -> Result<S::Pin, PinRefused> {
        match self {
            PinRequest::Log { after } => storage.pin_log(after),
            PinRequest::SnapshotTail { base } => storage.pin_snapshot_tail(base),
            PinRequest::FullBase { target } => storage.pin_full_base(target),
        }
    }
}

/// The part of a pin that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinPart {
    /// The log.
    Log,
    /// The view of the image.
    Snapshot,
    /// The overlay of image and log.
    FullBase,
}

/// Why a pin was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinRefusal {
    /// The records are reclaimed already.
    Reclaimed {
        /// The first that is there.
        first_retained: Lsn,
    },
    /// There is no valid base at that LSN.
    NoBase,
    /// An open intent above that LSN left no preserved blocks (D9).
    Intent {
        /// Target of the intent.
        target: Lsn,
    },
    /// The LSN is not durable yet.
    NotDurable {
        /// What is.
        durable: Lsn,
    },
    /// A version that is needed is damaged everywhere (D10).
    Damaged {
        /// The LSN of the version.
        lsn: Lsn,
    },
    /// A limit on pins says no.
    Policy,
    /// There is no room to preserve blocks in.
    Resources,
}

/// A refused pin: which part, where, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinRefused {
    /// The part that failed.
    pub part: PinPart,
    /// The LSN that was asked for.
    pub at: Lsn,
    /// Why.
    pub why: PinRefusal,
}

impl PinRefused {
    /// What to do about it.
    #[must_use]
    pub const fn disposition(&self) -> Disposition {
        match self.part {
            PinPart::Log => Disposition::Retry,
            PinPart::Snapshot | PinPart::FullBase => Disposition::Rebuild,
        }
    }
}

impl fmt::Display for PinPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PinPart::Log => "the log after",
            PinPart::Snapshot => "the image at",
            PinPart::FullBase => "the full base at",
        })
    }
}

impl fmt::Display for PinRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinRefusal::Reclaimed { first_retained } => {
                write!(f, "it is reclaimed, the log begins at {first_retained}")
            }
            PinRefusal::NoBase => f.write_str("there is no base there"),
            PinRefusal::Intent { target } => {
                write!(f, "a checkpoint to {target} is unfinished")
            }
            PinRefusal::NotDurable { durable } => write!(f, "only {durable} is durable"),
            PinRefusal::Damaged { lsn } => {
                write!(f, "the version at {lsn} is needed and damaged everywhere")
            }
            PinRefusal::Policy => f.write_str("a limit on pins forbids it"),
            PinRefusal::Resources => f.write_str("there is no room to preserve blocks"),
        }
    }
}

impl fmt::Display for PinRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot pin {} {}: {}", self.part, self.at, self.why)
    }
}

/// A slot for one pin that several owners may empty: the plan, its session, the stream that takes
/// it over. Whoever comes first gets it, so it is dropped exactly once (H12).
#[derive(Debug)]
pub struct Held<P>(Arc<Mutex<Option<P>>>);

impl<P> Clone for Held<P> {
    fn clone(&self) -> Held<P> {
        Held(Arc::clone(&self.0))
    }
}

impl<P> Held<P> {
    /// A slot that holds `pin`.
    #[must_use]
    pub fn new(pin: P) -> Held<P> {
        Held(Arc::new(Mutex::new(Some(pin))))
    }

    /// Takes the pin out, if it is still there.
    #[must_use]
    pub fn take(&self) -> Option<P> {
        self.slot().take()
    }

    /// Drops the pin; whether there was one. A second call does nothing.
    pub fn release(&self) -> bool {
        self.take().is_some()
    }

    /// Whether the pin is still there.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.slot().is_some()
    }

    /// Lets `read` see the pin, unless it is gone.
    pub fn with<R>(&self, read: impl FnOnce(&P) -> R) -> Option<R> {
        self.slot().as_ref().map(read)
    }

    fn slot(&self) -> MutexGuard<'_, Option<P>> {
        // OK because the slot is a plain option: it is valid whoever panicked while holding it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a plan is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: the session completed, and its stream lives.
    ZeroGap,
    /// Send `range`, after a truncation if one is required.
    CatchUp {
        /// What to send.
        range: LsnRange,
        /// Where the replica has to cut first.
        truncate_to: Option<Lsn>,
    },
    /// The replica only has to cut; nothing is sent, and nothing is pinned (H09).
    TruncateOnly {
        /// Where to.
        to: Lsn,
    },
    /// Nothing: the session ended, and only a rebuild session leads on.
    NeedsRebuild,
    /// Rebuild from this source. Storage may change; the source and its target do not (A190).
    Rebuild {
        /// The source.
        source: Source,
    },
}

impl Work {
    /// What an outcome asks for.
    #[must_use]
    pub const fn of(outcome: Outcome) -> Work {
        match outcome {
            Outcome::ZeroGap => Work::ZeroGap,
            Outcome::CatchUp {
                range,
                truncate_to: Some(to),
            } if range.is_empty() => Work::TruncateOnly { to },
            Outcome::CatchUp { range, truncate_to } => Work::CatchUp { range, truncate_to },
            Outcome::NeedsRebuild => Work::NeedsRebuild,
        }
    }

    /// The pin it needs. Zero gap and truncate only need none: the stream takes its own.
    #[must_use]
    pub const fn pin(&self) -> Option<PinRequest> {
        match self {
            Work::CatchUp { range, .. } => Some(PinRequest::Log { after: range.after }),
            Work::Rebuild { source } => Some(match source.kind {
                SourceKind::SnapshotTail { base } => PinRequest::SnapshotTail { base },
                SourceKind::FullBase { .. } => PinRequest::FullBase {
                    target: source.target,
                },
            }),
            Work::ZeroGap | Work::TruncateOnly { .. } | Work::NeedsRebuild => None,
        }
    }

    /// A stable name for status and scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Work::ZeroGap => "zero-gap",
            Work::CatchUp { .. } => "catch-up",
            Work::TruncateOnly { .. } => "truncate-only",
            Work::NeedsRebuild => "needs-rebuild",
            Work::Rebuild { source } => match source.kind {
                SourceKind::SnapshotTail { .. } => "rebuild-snapshot-tail",
                SourceKind::FullBase { .. } => "rebuild-full-base",
            },
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::ZeroGap => f.write_str("zero gap"),
            Work::CatchUp {
                range,
                truncate_to: None,
            } => write!(f, "catch-up over {range}"),
            Work::CatchUp {
                range,
                truncate_to: Some(to),
            } => write!(f, "truncation to {to}, then catch-up over {range}"),
            Work::TruncateOnly { to } => write!(f, "truncation to {to}"),
            Work::NeedsRebuild => f.write_str("needs rebuild"),
            Work::Rebuild { source } => write!(f, "rebuild from {source}"),
        }
    }
}

/// What is to be done for one replica, with the proof and the pin.
///
/// The session knows the same pin: if it is invalidated, the pin is released under the plan (A196),
/// and if the plan is dropped, it is released under the session (A195).
#[derive(Debug)]
pub struct Plan<P> {
    /// The replica.
    pub replica: ReplicaId,
    /// The session the plan belongs to, or the one that ended (H32).
    pub session: SessionId,
    /// Why.
    pub proof: Proof,
    /// What.
    pub work: Work,
    held: Option<Held<P>>,
}

impl<P> Plan<P> {
    pub(crate) fn new(
        (replica, session): (ReplicaId, SessionId),
        proof: Proof,
        work: Work,
        held: Option<Held<P>>,
    ) -> Plan<P> {
        Plan {
            replica,
            session,
            proof,
            work,
            held,
        }
    }

    /// Whether the plan still holds its pin.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.held.as_ref().is_some_and(Held::is_held)
    }

    /// Lets `read` see the pin. `None` when the plan never had one or it is released: then the
    /// work cannot go on.
    pub fn with_pin<R>(&self, read: impl FnOnce(&P) -> R) -> Option<R> {
        self.held.as_ref().and_then(|held| held.with(read))
    }

    /// Releases the pin; whether there was one. A second call does nothing (A184).
    pub fn release(&self) -> bool {
        self.held.as_ref().is_some_and(Held::release)
    }
}

impl<P> Drop for Plan<P> {
    fn drop(&mut self) {
        self.release();
    }
}

impl From<PinRefused> for Failure {
    fn from(refused: PinRefused) -> Failure {
        Failure::PinRefused(refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TestPin, pins};

    // A184, A195
    #[test]
    fn a_pin_is_dropped_once_whoever_releases_it() {
        let count = pins();
        let held = Held::new(TestPin::new(&count, Lsn::new(5)));
        let plan_side = held.clone();
        assert_eq!(count.held(), 1);
        assert!(plan_side.release());
        assert!(!held.release());
        assert_eq!(count.held(), 0);
        assert_eq!(count.dropped(), 1);
    }

    // A185
    #[test]
    fn a_truncate_only_plan_takes_no_pin() {
        let at = Lsn::new(100);
        let work = Work::of(Outcome::CatchUp {
            range: LsnRange::new(at, at),
            truncate_to: Some(at),
        });
        assert_eq!(work, Work::TruncateOnly { to: at });
        assert_eq!(work.pin(), None);
    }

    #[test]
    fn a_catch_up_pins_the_log_after_what_the_replica_keeps() {
        let range = LsnRange::new(Lsn::new(90), Lsn::new(100));
        let work = Work::of(Outcome::CatchUp {
            range,
            truncate_to: Some(Lsn::new(90)),
        });
        let after = Lsn::new(90);
        assert_eq!(work.pin(), Some(PinRequest::Log { after }));
    }
}
