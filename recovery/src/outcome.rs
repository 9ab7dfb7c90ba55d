//! The decision: two histories in, outcome and proof out, by one function.
//!
//! [`classify`] walks the table of section 1.3 from the top; the first row whose condition holds
//! decides. Words: `c` is what recovery aims at ([`History::aim`]), `p` is the last LSN that the
//! replica may keep, the least of its durable, `c` and the fork point.
//!
//! ```text
//!  row                  condition                                       answer
//!   1 Integrity         committed beyond head or durable, no meta       refusal
//!   2 Unconfirmed       we are unconfirmed, the replica is only ahead   no outcome yet
//!   3 Unrelated         another volume                                  refusal
//!   4 BaseIncomplete    the replica was cut off while installing        needs rebuild
//!   5 NoCommonHistory   both hold records and share none                needs rebuild
//!   6 ZeroGap           replica durable == c, same lineage              zero gap
//!   7 BeyondRetention   next(p) < first retained                        needs rebuild
//!   8 UnsafeTruncation  must drop what its base or committed holds      needs rebuild
//!   9 Damaged           a record of (p, c] is missing or damaged        needs rebuild
//!  10 Truncate          p < replica durable                             catch-up (p, c], cut to p
//!  11 Gap               otherwise                                       catch-up (p, c]
//! ```

use std::fmt;

use seawall_wal::{Fork, LineageEntry, Lsn, LsnRange, VolumeId};

use crate::history::{DamageKind, Gap, History, IncompleteBase, ReplicaFacts, Standing, Trust};

/// A row of the decision table.
///
/// Each paragraph tells which history leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Our own facts make the target itself unreachable: the log lost what was acknowledged, or
    /// meta cannot be read. Nobody is told to follow such a primary (H01).
    Integrity,
    /// We reopened, and a replica holds records above our end under a history that equals ours. They
    /// may have been acknowledged, so it is neither cut nor rebuilt: those that our own last
    /// incarnation wrote are fetched, any others wait until we are confirmed (D1).
    Unconfirmed,
    /// The directory belongs to another volume: somebody mixed up an address.
    Unrelated,
    /// The replica died while a base was being written over its old state, so neither is whole (P05).
    BaseIncomplete,
    /// The replica holds records of the volume, but none of ours, or the point where the histories
    /// part is older than the lineage table remembers (D2).
    NoCommonHistory,
    /// The replica holds exactly what we aim at.
    ZeroGap,
    /// The replica was away so long that the first record it lacks is reclaimed. The question is
    /// asked at the LSN it may keep, not at the one it claims (H02).
    BeyondRetention,
    /// The replica would have to give up a record that is already in its base image, that an open
    /// intent is about to put there, or that it counts as committed (F17).
    UnsafeTruncation,
    /// Our own log is damaged inside the range (D14, D15).
    Damaged,
    /// The replica holds records that must go: an unacknowledged suffix of the same history, or one
    /// of another history (H21).
    Truncate,
    /// The ordinary case: the replica is behind, and the log holds all that it lacks.
    Gap,
}

/// One of the three outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing to send.
    ZeroGap,
    /// Send `range`, after the replica dropped everything above `truncate_to`, if that is set.
    CatchUp {
        /// What to send; empty for a replica that is only ahead.
        range: LsnRange,
        /// Where the replica has to cut first.
        truncate_to: Option<Lsn>,
    },
    /// Only a rebuild helps.
    NeedsRebuild,
}

/// An outcome, or one of the two answers beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// One of the three outcomes.
    Outcome(Outcome),
    /// Decide again later (D1).
    NotYet {
        /// Records to fetch from this replica first. Without any, wait until the primary is
        /// confirmed.
        fetch: Option<LsnRange>,
    },
    /// An integrity error or another volume.
    Refused,
}

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

/// The decision of one handshake: verdict and proof, from the same row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The row that decided.
    pub row: Row,
    /// What to do.
    pub verdict: Verdict,
    /// Why.
    pub proof: Proof,
    /// What this replica acknowledges to an unconfirmed primary: min(its durable, ours), if the
    /// lineages match (D1). `None` when the primary is confirmed: then only streams acknowledge.
    pub acknowledges: Option<Lsn>,
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

/// Decides what a replica needs, and proves it. R1: one function for both, so that they cannot
/// disagree (H01, H02).
#[must_use]
pub fn classify(history: &History, replica: &ReplicaFacts) -> Decision {
    let seen = Seen::new(history, replica);
    let (row, verdict, reason) = seen.decide();
    let proof = Proof {
        replica_durable: replica.durable,
        committed: history.committed,
        standing: history.standing,
        first_retained: history.first_retained,
        tail: history.tail,
        head: history.head,
        fork: seen.fork,
        reason,
    };
    Decision {
        row,
        verdict,
        proof,
        acknowledges: seen.acknowledges(row),
    }
}

/// The facts with what follows from them directly.
struct Seen<'a> {
    history: &'a History,
    replica: &'a ReplicaFacts,
    /// Where the histories part.
    fork: Fork,
    /// What recovery aims at.
    aim: Lsn,
    /// The last LSN that the replica may keep.
    keep: Lsn,
}

impl<'a> Seen<'a> {
    fn new(history: &'a History, replica: &'a ReplicaFacts) -> Seen<'a> {
        let fork = history.fork(replica);
        let aim = history.aim();
        let shared = match fork {
            Fork::At(lsn) => lsn,
            Fork::NoCommon | Fork::OlderThanTable => Lsn::ZERO,
        };
        Seen {
            history,
            replica,
            fork,
            aim,
            keep: replica.durable.min(aim).min(shared),
        }
    }

    fn decide(&self) -> (Row, Verdict, Reason) {
        let rebuild = Verdict::Outcome(Outcome::NeedsRebuild);
        let catch_up = |truncate_to| {
            Verdict::Outcome(Outcome::CatchUp {
                range: self.range(),
                truncate_to,
            })
        };
        if let Some(what) = self.integrity() {
            return (Row::Integrity, Verdict::Refused, Reason::Integrity(what));
        }
        if self.is_ahead_of_unconfirmed() {
            let fetch = self.fetch();
            return (
                Row::Unconfirmed,
                Verdict::NotYet { fetch },
                self.unconfirmed(fetch),
            );
        }
        if !self.replica.belongs_to(self.history.volume) {
            return (Row::Unrelated, Verdict::Refused, self.unrelated());
        }
        if let Some(base) = self.replica.incomplete_base {
            return (Row::BaseIncomplete, rebuild, Reason::BaseIncomplete(base));
        }
        if self.shares_nothing() {
            return (Row::NoCommonHistory, rebuild, self.no_common_history());
        }
        if self.replica.durable == self.aim && self.keep == self.aim {
            let zero_gap = Verdict::Outcome(Outcome::ZeroGap);
            return (Row::ZeroGap, zero_gap, Reason::ZeroGap { at: self.aim });
        }
        if self.keep.next() < self.history.first_retained {
            return (Row::BeyondRetention, rebuild, self.beyond_retention());
        }
        if self.keep < self.replica.durable && self.replica.undroppable() > self.keep {
            return (Row::UnsafeTruncation, rebuild, self.unsafe_truncation());
        }
        if let Some((lsn, kind)) = self.history.damage_in(self.range()) {
            return (Row::Damaged, rebuild, Reason::Damaged { lsn, kind });
        }
        if self.keep < self.replica.durable {
            return (
                Row::Truncate,
                catch_up(Some(self.keep)),
                self.must_truncate(),
            );
        }
        (Row::Gap, catch_up(None), self.within_retention())
    }

    fn range(&self) -> LsnRange {
        LsnRange::new(self.keep, self.aim)
    }

    /// Row 1 looks only at relations that make the target itself unreachable.
    fn integrity(&self) -> Option<Integrity> {
        let History {
            committed,
            head,
            durable,
            ..
        } = *self.history;
        if !self.history.control_readable {
            Some(Integrity::ControlUnreadable)
        } else if committed > head {
            Some(Integrity::CommittedBeyondHead { committed, head })
        } else if committed > durable {
            Some(Integrity::CommittedBeyondDurable { committed, durable })
        } else {
            None
        }
    }

    /// Row 2. "Above our head" reads "above our durable" here: the two are one right after an open,
    /// and a replica above our durable alone is only ahead as well, so D1 protects it likewise.
    fn is_ahead_of_unconfirmed(&self) -> bool {
        self.history.standing == Standing::Unconfirmed
            && self.replica.belongs_to(self.history.volume)
            && self.replica.incomplete_base.is_none()
            && self.replica.durable > self.history.durable
            && self.lineage_matches()
    }

    /// Equal as far as both reach.
    fn lineage_matches(&self) -> bool {
        self.fork == Fork::At(self.history.head.min(self.replica.durable))
    }

    /// The records above our head that our own last incarnation with records wrote (D1).
    fn fetch(&self) -> Option<LsnRange> {
        let head = self.history.head;
        let last = self.history.lineage.entry_at(head)?;
        let theirs = &self.replica.lineage;
        let entries = theirs.entries().iter();
        let other = entries.map(|entry| entry.first).find(|first| *first > head);
        let through = other.map_or(self.replica.durable, |first| {
            first.before().min(self.replica.durable)
        });
        let same = !head.is_zero() && theirs.entry_at(head.next()) == Some(last);
        (same && through > head).then_some(LsnRange::new(head, through))
    }

    /// Row 5. If nothing is committed, everything on the replica is an uncommitted suffix, and
    /// sharing none of it is no obstacle.
    fn shares_nothing(&self) -> bool {
        match self.fork {
            Fork::At(_) => false,
            Fork::NoCommon => !self.aim.is_zero(),
            Fork::OlderThanTable => true,
        }
    }

    /// A replica whose state is in doubt acknowledges nothing, whatever it claims.
    fn acknowledges(&self, row: Row) -> Option<Lsn> {
        let counts = self.history.standing == Standing::Unconfirmed
            && !matches!(row, Row::Integrity | Row::Unrelated | Row::BaseIncomplete)
            && !self.replica.needs_rebuild
            && self.lineage_matches();
        counts.then_some(self.replica.durable.min(self.history.durable))
    }

    fn unconfirmed(&self, fetch: Option<LsnRange>) -> Reason {
        Reason::Unconfirmed {
            durable: self.history.durable,
            replica_durable: self.replica.durable,
            fetch,
        }
    }

    fn unrelated(&self) -> Reason {
        Reason::Unrelated {
            ours: self.history.volume,
            theirs: self.replica.volume,
        }
    }

    fn no_common_history(&self) -> Reason {
        Reason::NoCommonHistory {
            ours: self.history.lineage.entries().first().copied(),
            theirs: self.replica.lineage.entries().first().copied(),
        }
    }

    fn beyond_retention(&self) -> Reason {
        Reason::BeyondRetention {
            first_needed: self.keep.next(),
            tail: self.history.tail,
            first_retained: self.history.first_retained,
        }
    }

    fn unsafe_truncation(&self) -> Reason {
        Reason::UnsafeTruncation {
            truncate_to: self.keep,
            checkpoint: self.replica.checkpoint,
            intent: self.replica.intent,
            committed: self.replica.committed,
        }
    }

    fn must_truncate(&self) -> Reason {
        match self.fork {
            Fork::At(fork) if fork < self.aim => Reason::Diverged {
                fork,
                ours: self.history.lineage.entry_at(fork.next()),
                theirs: self.replica.lineage.entry_at(fork.next()),
                truncate_to: self.keep,
            },
            Fork::At(_) | Fork::NoCommon | Fork::OlderThanTable => Reason::ReplicaAhead {
                truncate_to: self.keep,
                replica_durable: self.replica.durable,
            },
        }
    }

    fn within_retention(&self) -> Reason {
        Reason::WithinRetention {
            first_needed: self.keep.next(),
            last_needed: self.aim,
            tail: self.history.tail,
            head: self.history.head,
        }
    }
}

impl Decision {
    /// The outcome, unless the decision was deferred or refused.
    #[must_use]
    pub const fn outcome(&self) -> Option<Outcome> {
        match self.verdict {
            Verdict::Outcome(outcome) => Some(outcome),
            Verdict::NotYet { .. } | Verdict::Refused => None,
        }
    }
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

impl Outcome {
    /// A stable name for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Outcome::ZeroGap => "zero-gap",
            Outcome::CatchUp { .. } => "catch-up",
            Outcome::NeedsRebuild => "needs-rebuild",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::ZeroGap => f.write_str("zero gap"),
            Outcome::CatchUp {
                range,
                truncate_to: None,
            } => write!(f, "catch-up over {range}"),
            Outcome::CatchUp {
                range,
                truncate_to: Some(to),
            } => write!(f, "catch-up over {range} after truncation to {to}"),
            Outcome::NeedsRebuild => f.write_str("needs rebuild"),
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

/// What kind of rebuild is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Asked {
    /// Whatever is sound and smallest.
    #[default]
    Any,
    /// Full base, although snapshot + tail may be sound (`--rebuild full`, D11).
    FullBase,
}

/// Why the full base was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyFull {
    /// There is no base image to offer.
    NoBase,
    /// The base image is not trusted (D9).
    Untrusted {
        /// Its LSN.
        base: Lsn,
    },
    /// Nothing is committed, so no base can be at or below the target (H06).
    NothingCommitted {
        /// LSN of the base.
        base: Lsn,
    },
    /// The base lies above the target and would ship uncommitted writes (H07).
    AboveTarget {
        /// LSN of the base.
        base: Lsn,
        /// The target.
        target: Lsn,
    },
    /// The log between base and target cannot be served.
    TailUnusable {
        /// LSN of the base.
        base: Lsn,
        /// What is in the way.
        gap: Gap,
    },
    /// Snapshot + tail is sound, but full base was asked for (D11).
    Requested,
}

/// What a rebuild is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The base image at exactly `base`, then the log `(base, target]`.
    SnapshotTail {
        /// LSN of the base image.
        base: Lsn,
    },
    /// The overlay of image and log at exactly the target (D10).
    FullBase {
        /// Why not snapshot + tail.
        why: WhyFull,
    },
}

/// The source of a rebuild and what it leads to. There is always a target (H06).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is made from.
    pub kind: SourceKind,
    /// The LSN the replica ends at; [`Lsn::ZERO`] is the empty history.
    pub target: Lsn,
}

/// Chooses the source of a rebuild (1.5). The base offered is the primary's checkpoint.
#[must_use]
pub fn rebuild_source(history: &History, asked: Asked) -> Source {
    let target = rebuild_target(history);
    let kind = match (snapshot_tail(history, target), asked) {
        (Ok(base), Asked::Any) => SourceKind::SnapshotTail { base },
        (Ok(_), Asked::FullBase) => SourceKind::FullBase {
            why: WhyFull::Requested,
        },
        (Err(why), Asked::Any | Asked::FullBase) => SourceKind::FullBase { why },
    };
    Source { kind, target }
}

/// Committed; the head if nothing is committed. On an unconfirmed primary only what is known to be
/// committed, so that nothing unacknowledged enters a base (D1).
fn rebuild_target(history: &History) -> Lsn {
    match history.standing {
        Standing::Confirmed if history.committed.is_zero() => history.head,
        Standing::Confirmed | Standing::Unconfirmed => history.committed,
    }
}

fn snapshot_tail(history: &History, target: Lsn) -> Result<Lsn, WhyFull> {
    let checkpoint = history.checkpoint.ok_or(WhyFull::NoBase)?;
    let base = checkpoint.lsn;
    if checkpoint.trust == Trust::Untrusted {
        return Err(WhyFull::Untrusted { base });
    }
    if history.committed.is_zero() {
        return Err(WhyFull::NothingCommitted { base });
    }
    if base > target {
        return Err(WhyFull::AboveTarget { base, target });
    }
    match history.recoverable(LsnRange::new(base, target)) {
        Ok(()) => Ok(base),
        Err(gap) => Err(WhyFull::TailUnusable { base, gap }),
    }
}

impl Source {
    /// LSN of the base image that is sent; `None` for a full base.
    #[must_use]
    pub const fn snapshot(&self) -> Option<Lsn> {
        match self.kind {
            SourceKind::SnapshotTail { base } => Some(base),
            SourceKind::FullBase { .. } => None,
        }
    }

    /// A stable name for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.kind {
            SourceKind::SnapshotTail { .. } => "snapshot-tail",
            SourceKind::FullBase { .. } => "full-base",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target;
        match self.kind {
            SourceKind::SnapshotTail { base } => {
                write!(f, "base at {base} and the log ({base}, {target}]")
            }
            SourceKind::FullBase { why } => write!(f, "full base at {target}: {why}"),
        }
    }
}

impl fmt::Display for WhyFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyFull::NoBase => f.write_str("there is no base image"),
            WhyFull::Untrusted { base } => write!(f, "the base image at {base} is not trusted"),
            WhyFull::NothingCommitted { base } => {
                write!(
                    f,
                    "nothing is committed, the base image at {base} is above it"
                )
            }
            WhyFull::AboveTarget { base, target } => {
                write!(f, "the base image at {base} is above the target {target}")
            }
            WhyFull::TailUnusable { base, gap } => {
                write!(
                    f,
                    "the log after the base image at {base} is unusable: {gap}"
                )
            }
            WhyFull::Requested => f.write_str("requested"),
        }
    }
}

#[cfg(test)]
mod tests;
