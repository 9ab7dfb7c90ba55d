//! Why a decision is what it is, as facts; sentences are made at the edge.

use std::fmt;

use seawall_wal::{Fork, LineageEntry, Lsn, LsnRange, VolumeId};

use crate::history::{DamageKind, IncompleteBase, Standing};

/// Whether the replica can be brought level from the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recoverable {
    /// Yes.
    Yes,
    /// No: rebuild.
    No,
    /// The facts do not tell yet (D1).
    NotYet,
    /// The question is refused.
    Refused,
}

/// The facts and the reason that belong to an outcome (1.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Last LSN synced on the replica.
    pub replica_durable: Lsn,
    /// Committed on the primary.
    pub committed: Lsn,
    /// Whether `committed` is exact or a lower bound.
    pub standing: Standing,
    /// The first LSN that can be read on the primary.
    pub first_retained: Lsn,
    /// Last LSN reclaimed on the primary.
    pub tail: Lsn,
    /// Last LSN written on the primary.
    pub head: Lsn,
    /// Where the histories part.
    pub fork: Fork,
    /// Why.
    pub reason: Reason,
}

/// Why a decision is what it is, with the numbers that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Both end at this LSN with the same lineage.
    ZeroGap {
        /// The LSN.
        at: Lsn,
    },
    /// The replica holds an unacknowledged suffix of the same history.
    ReplicaAhead {
        /// Where it has to cut.
        truncate_to: Lsn,
        /// What it holds.
        replica_durable: Lsn,
    },
    /// The replica holds records of another history.
    Diverged {
        /// The last LSN that both share.
        fork: Lsn,
        /// The primary's lineage entry after it.
        ours: Option<LineageEntry>,
        /// The replica's lineage entry after it.
        theirs: Option<LineageEntry>,
        /// Where the replica has to cut.
        truncate_to: Lsn,
    },
    /// All that the replica lacks is there.
    WithinRetention {
        /// First LSN it needs.
        first_needed: Lsn,
        /// Last LSN it needs.
        last_needed: Lsn,
        /// Last LSN reclaimed.
        tail: Lsn,
        /// Last LSN written.
        head: Lsn,
    },
    /// What the replica needs first is reclaimed.
    BeyondRetention {
        /// First LSN it needs.
        first_needed: Lsn,
        /// Last LSN reclaimed.
        tail: Lsn,
        /// First LSN that can be read.
        first_retained: Lsn,
    },
    /// A record it needs cannot be read on the primary.
    Damaged {
        /// The first such record.
        lsn: Lsn,
        /// Missing or corrupt.
        kind: DamageKind,
    },
    /// Both hold records and share none, or the lineage table does not reach back far enough.
    NoCommonHistory {
        /// The primary's oldest entry.
        ours: Option<LineageEntry>,
        /// The replica's oldest entry.
        theirs: Option<LineageEntry>,
    },
    /// The replica cannot give up what it would have to.
    UnsafeTruncation {
        /// Where it would have to cut.
        truncate_to: Lsn,
        /// Its base image.
        checkpoint: Option<Lsn>,
        /// Target of its open intent.
        intent: Option<Lsn>,
        /// What it counts as committed.
        committed: Lsn,
    },
    /// The replica was cut off in the middle of an installation in place.
    BaseIncomplete(IncompleteBase),
    /// The primary has reopened, and this replica may hold what was acknowledged (D1).
    Unconfirmed {
        /// The primary's durable.
        durable: Lsn,
        /// The replica's durable.
        replica_durable: Lsn,
        /// What to fetch from it before anything new is appended.
        fetch: Option<LsnRange>,
    },
    /// The primary's facts contradict each other.
    Integrity(Integrity),
    /// The replica belongs to another volume.
    Unrelated {
        /// The primary's volume.
        ours: VolumeId,
        /// The replica's; `None` when it holds records and names no volume.
        theirs: Option<VolumeId>,
    },
}

/// A contradiction in the primary's own facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integrity {
    /// Committed lies beyond the head.
    CommittedBeyondHead {
        /// Committed.
        committed: Lsn,
        /// The head.
        head: Lsn,
    },
    /// Committed lies beyond durable.
    CommittedBeyondDurable {
        /// Committed.
        committed: Lsn,
        /// Durable.
        durable: Lsn,
    },
    /// Meta cannot be read.
    ControlUnreadable,
}

impl Proof {
    /// Whether the replica can be brought level from the log.
    #[must_use]
    pub const fn recoverable(&self) -> Recoverable {
        self.reason.recoverable()
    }
}

impl Reason {
    /// Whether a replica with this reason can be brought level from the log.
    #[must_use]
    pub const fn recoverable(&self) -> Recoverable {
        match self {
            Reason::ZeroGap { .. }
            | Reason::ReplicaAhead { .. }
            | Reason::Diverged { .. }
            | Reason::WithinRetention { .. } => Recoverable::Yes,
            Reason::BeyondRetention { .. }
            | Reason::Damaged { .. }
            | Reason::NoCommonHistory { .. }
            | Reason::UnsafeTruncation { .. }
            | Reason::BaseIncomplete(_) => Recoverable::No,
            Reason::Unconfirmed { .. } => Recoverable::NotYet,
            Reason::Integrity(_) | Reason::Unrelated { .. } => Recoverable::Refused,
        }
    }

    /// A stable name for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Reason::ZeroGap { .. } => "zero-gap",
            Reason::ReplicaAhead { .. } => "replica-ahead",
            Reason::Diverged { .. } => "diverged",
            Reason::WithinRetention { .. } => "gap-within-retention",
            Reason::BeyondRetention { .. } => "gap-beyond-retention",
            Reason::Damaged {
                kind: DamageKind::Hole,
                ..
            } => "hole",
            Reason::Damaged {
                kind: DamageKind::Corrupt,
                ..
            } => "corrupt",
            Reason::NoCommonHistory { .. } => "no-common-history",
            Reason::UnsafeTruncation { .. } => "unsafe-truncation",
            Reason::BaseIncomplete(_) => "base-incomplete",
            Reason::Unconfirmed { .. } => "unconfirmed",
            Reason::Integrity(_) => "integrity",
            Reason::Unrelated { .. } => "unrelated",
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

/// An entry in a sentence.
struct Written(Option<LineageEntry>);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(entry) => write!(
                f,
                "epoch {} incarnation {} from {}",
                entry.epoch, entry.incarnation, entry.first
            ),
            None => f.write_str("an unknown entry"),
        }
    }
}

/// A position that may be none, in a sentence.
struct At(Option<Lsn>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(lsn) => lsn.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::ZeroGap { at } => {
                write!(f, "primary and replica end at {at} with equal lineage")
            }
            Reason::ReplicaAhead {
                truncate_to,
                replica_durable,
            } => write!(
                f,
                "the replica is ahead: it holds {replica_durable}, \
                 what is committed ends at {truncate_to}"
            ),
            Reason::Diverged {
                fork,
                ours,
                theirs,
                truncate_to,
            } => write!(
                f,
                "the histories part after {fork}: the primary goes on with {}, the replica with \
                 {}; it cuts to {truncate_to}",
                Written(*ours),
                Written(*theirs)
            ),
            Reason::WithinRetention {
                first_needed,
                last_needed,
                tail,
                head,
            } => write!(
                f,
                "the replica needs {first_needed}..{last_needed}, and the log holds everything \
                 after tail {tail} through head {head}"
            ),
            Reason::BeyondRetention {
                first_needed,
                tail,
                first_retained,
            } => write!(
                f,
                "the replica needs {first_needed} first, but the log begins at {first_retained} \
                 (tail {tail})"
            ),
            Reason::Damaged {
                lsn,
                kind: DamageKind::Hole,
            } => write!(f, "record {lsn} is missing on the primary"),
            Reason::Damaged {
                lsn,
                kind: DamageKind::Corrupt,
            } => write!(f, "record {lsn} is corrupt on the primary"),
            Reason::NoCommonHistory { ours, theirs } => write!(
                f,
                "the histories share no known record: the primary's begins with {}, the replica's \
                 with {}",
                Written(*ours),
                Written(*theirs)
            ),
            Reason::UnsafeTruncation {
                truncate_to,
                checkpoint,
                intent,
                committed,
            } => write!(
                f,
                "the replica would have to cut to {truncate_to}, but its base holds {}, its open \
                 intent {}, and it counts {committed} as committed",
                At(*checkpoint),
                At(*intent)
            ),
            Reason::BaseIncomplete(base) => write!(
                f,
                "session {} was cut off while it installed a base at {}",
                base.session, base.base
            ),
            Reason::Unconfirmed {
                durable,
                replica_durable,
                fetch,
            } => {
                write!(
                    f,
                    "the primary reopened at {durable} and is not confirmed yet, the replica holds \
                     {replica_durable}"
                )?;
                match fetch {
                    Some(range) => write!(f, "; {range} is fetched from it first"),
                    None => f.write_str("; it waits"),
                }
            }
            Reason::Integrity(what) => what.fmt(f),
            Reason::Unrelated { ours, theirs } => match theirs {
                Some(theirs) => write!(f, "the replica belongs to volume {theirs}, not to {ours}"),
                None => write!(
                    f,
                    "the replica holds records but names no volume, ours is {ours}"
                ),
            },
        }
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Integrity::CommittedBeyondHead { committed, head } => write!(
                f,
                "committed {committed} lies beyond the head {head} of the primary's own log"
            ),
            Integrity::CommittedBeyondDurable { committed, durable } => write!(
                f,
                "committed {committed} lies beyond durable {durable} of the primary's own log"
            ),
            Integrity::ControlUnreadable => f.write_str("the primary's control data is unreadable"),
        }
    }
}
