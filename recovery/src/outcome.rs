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

use seawall_wal::{Fork, Lsn, LsnRange};

use crate::history::{History, ReplicaFacts, Standing};

mod proof;
mod source;
#[cfg(test)]
mod tests;

pub use proof::{Integrity, Proof, Reason, Recoverable};
pub use source::{Asked, Source, SourceKind, WhyFull, rebuild_source};

/// A row of the decision table.
///
/// Each paragraph tells which history leads there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// Our own facts make the target itself unreachable: the log lost what was acknowledged, or
    /// meta cannot be read. Nobody is told to follow such a primary (H01).
    Integrity,
    /// We reopened, and a replica holds records above our end under a history that equals ours.
    /// They may have been acknowledged, so it is neither cut nor rebuilt: those that our own last
    /// incarnation wrote are fetched, any others wait until we are confirmed (D1).
    Unconfirmed,
    /// The directory belongs to another volume: somebody mixed up an address.
    Unrelated,
    /// The replica died while a base was being written over its old state, so neither is whole
    /// (P05).
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
