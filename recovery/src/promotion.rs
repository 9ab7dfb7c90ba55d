//! Who may win a promotion and what it inherits (D5). When to promote is not decided here.
//!
//! First enough members persist the new epoch, which refuses the old epoch's streams from then on;
//! only then they report. The highest (last lineage entry, durable) among the eligible wins and
//! keeps its whole log: nothing that the ack rule may have acknowledged is dropped.

use std::cmp::Reverse;
use std::fmt;

use seawall_wal::{Epoch, Incarnation, LineageEntry, Lsn, LsnRange};

use crate::ack::AckRule;
use crate::id::ReplicaId;
use crate::sender::State;

/// What a member reports after it has persisted the new epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The member.
    pub replica: ReplicaId,
    /// Whether it runs and answers.
    pub running: bool,
    /// The highest epoch that it has persisted.
    pub promised: Epoch,
    /// Its state as last known.
    pub state: State,
    /// The lineage entry of its last record; `None` without records.
    pub last_entry: Option<LineageEntry>,
    /// Last LSN synced there.
    pub durable: Lsn,
}

/// Why a candidate cannot win.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ineligible {
    /// It does not run.
    NotRunning,
    /// It has not persisted the new epoch, so it may still acknowledge to the old primary.
    EpochNotPromised {
        /// The new epoch.
        wanted: Epoch,
        /// What it has persisted.
        promised: Epoch,
    },
    /// Its state is in doubt.
    State(State),
    /// It lacks records that are known to be committed.
    BelowCommitted {
        /// What is known to be committed, a lower bound (D1).
        committed: Lsn,
        /// What it holds.
        durable: Lsn,
    },
}

impl fmt::Display for Ineligible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ineligible::NotRunning => f.write_str("it does not run"),
            Ineligible::EpochNotPromised { wanted, promised } => {
                write!(f, "it has promised epoch {promised}, not {wanted}")
            }
            Ineligible::State(state) => write!(f, "its state is {state}"),
            Ineligible::BelowCommitted { committed, durable } => {
                write!(f, "it holds {durable}, but {committed} is committed")
            }
        }
    }
}

/// The rank of a candidate: higher wins.
type Rank = (
    Option<(Epoch, Incarnation)>,
    Lsn,
    Reverse<u8>,
    Reverse<ReplicaId>,
);

impl Candidate {
    /// Whether it may win at `epoch` when at least `committed` is committed.
    ///
    /// # Errors
    /// The first reason why not.
    pub fn eligible(&self, epoch: Epoch, committed: Lsn) -> Result<(), Ineligible> {
        if !self.running {
            return Err(Ineligible::NotRunning);
        }
        if self.promised < epoch {
            return Err(Ineligible::EpochNotPromised {
                wanted: epoch,
                promised: self.promised,
            });
        }
        if matches!(self.state, State::NeedsRebuild | State::Rebuilding) {
            return Err(Ineligible::State(self.state));
        }
        if self.durable < committed {
            return Err(Ineligible::BelowCommitted {
                committed,
                durable: self.durable,
            });
        }
        Ok(())
    }

    /// Lineage before length (A245): a longer log of an older primary may lack what a newer one
    /// acknowledged.
    fn rank(&self) -> Rank {
        let entry = self
            .last_entry
            .map(|entry| (entry.epoch, entry.incarnation));
        let state = match self.state {
            State::InSync => 0,
            State::CatchingUp => 1,
            State::Disconnected
            | State::Connecting
            | State::Rebuilding
            | State::Degraded
            | State::NeedsRebuild => 2,
        };
        let id = Reverse(self.replica.clone());
        (entry, self.durable, Reverse(state), id)
    }
}

/// How many of `members` (the primary and all assigned replicas) must have persisted the new epoch
/// before anybody is asked what it holds: then every set that the ack rule may have used contains
/// one of them. Best effort promises nothing beyond the winner's own log.
#[must_use]
pub const fn promises_needed(rule: AckRule, members: usize) -> usize {
    rule.needed(members)
}

/// The safe choice: the best of the eligible, if there is one.
#[must_use]
pub fn choose(candidates: &[Candidate], epoch: Epoch, committed: Lsn) -> Option<&Candidate> {
    candidates
        .iter()
        .filter(|candidate| candidate.eligible(epoch, committed).is_ok())
        .max_by_key(|candidate| candidate.rank())
}

/// The explicit desperate choice: the highest (last lineage entry, durable) of those that run,
/// whatever their state. It may lose committed records; the caller has to say so.
#[must_use]
pub fn choose_desperately(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates
        .iter()
        .filter(|candidate| candidate.running)
        .max_by_key(|candidate| candidate.rank())
}

/// What the winner starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inheritance {
    /// It keeps its whole log through this LSN.
    pub keeps_through: Lsn,
    /// The entry it starts, durable before its first append.
    pub entry: LineageEntry,
    /// The records that are committed only once the ack rule covers its head: until then it is
    /// unconfirmed (D1).
    pub to_confirm: LsnRange,
}

/// What a replica inherits that holds records through `durable` and knew `committed`.
#[must_use]
pub fn inherit(
    durable: Lsn,
    committed: Lsn,
    epoch: Epoch,
    incarnation: Incarnation,
) -> Inheritance {
    Inheritance {
        keeps_through: durable,
        entry: LineageEntry {
            epoch,
            incarnation,
            first: durable.next(),
        },
        to_confirm: LsnRange::new(committed.min(durable), durable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{entry, lsn};

    const EPOCH: Epoch = Epoch::new(2);

    fn candidate(name: &str, state: State, durable: u64) -> Candidate {
        Candidate {
            replica: ReplicaId::new(name),
            running: true,
            promised: EPOCH,
            state,
            last_entry: Some(entry(1, 1, 1)),
            durable: lsn(durable),
        }
    }

    fn winner(candidates: &[Candidate], committed: u64) -> Option<&str> {
        choose(candidates, EPOCH, lsn(committed)).map(|candidate| candidate.replica.as_str())
    }

    // A213
    #[test]
    fn the_highest_eligible_durable_wins_and_doubtful_states_do_not() {
        let stopped = Candidate {
            running: false,
            ..candidate("r5", State::InSync, 100)
        };
        let mut all = vec![
            candidate("r1", State::InSync, 50),
            candidate("r2", State::InSync, 60),
            candidate("r3", State::CatchingUp, 80),
            candidate("r4", State::NeedsRebuild, 90),
            stopped,
        ];
        for expected in ["r3", "r2", "r1"] {
            assert_eq!(winner(&all, 0), Some(expected));
            all.retain(|candidate| candidate.replica.as_str() != expected);
        }
        assert_eq!(winner(&all, 0), None);
        let refused: Vec<_> = all
            .iter()
            .map(|candidate| candidate.eligible(EPOCH, Lsn::ZERO).unwrap_err())
            .collect();
        let doubtful = Ineligible::State(State::NeedsRebuild);
        assert_eq!(refused, [doubtful, Ineligible::NotRunning]);
    }

    // A214
    #[test]
    fn who_lacks_committed_records_is_ineligible_whatever_its_state() {
        let behind = candidate("r1", State::InSync, 1);
        let (committed, durable) = (lsn(100), lsn(1));
        assert_eq!(
            behind.eligible(EPOCH, committed),
            Err(Ineligible::BelowCommitted { committed, durable })
        );
        let catching_up = candidate("r2", State::CatchingUp, 100);
        let all = [behind, catching_up.clone()];
        assert_eq!(winner(&all, 100), Some("r2"));
        let in_sync = candidate("r3", State::InSync, 100);
        assert_eq!(winner(&[catching_up, in_sync], 100), Some("r3"));
    }

    // A215
    #[test]
    fn only_the_desperate_choice_takes_a_replica_that_needs_a_rebuild() {
        let mut all = [
            candidate("r1", State::NeedsRebuild, 90),
            candidate("r2", State::NeedsRebuild, 40),
        ];
        assert_eq!(winner(&all, 0), None);
        let desperate = |all: &[Candidate]| choose_desperately(all).map(|c| c.replica.to_string());
        assert_eq!(desperate(&all).as_deref(), Some("r1"));
        all[1].last_entry = Some(entry(2, 5, 30));
        assert_eq!(desperate(&all).as_deref(), Some("r2"));
    }

    // A245
    #[test]
    fn a_newer_lineage_entry_beats_a_longer_log() {
        let r1 = Candidate {
            last_entry: Some(entry(2, 1, 50)),
            ..candidate("r1", State::InSync, 105)
        };
        let r2 = Candidate {
            last_entry: Some(entry(1, 3, 50)),
            ..candidate("r2", State::InSync, 110)
        };
        assert_eq!(winner(&[r2, r1], 100), Some("r1"));
    }

    // A246
    #[test]
    fn the_winner_keeps_its_whole_log_and_has_the_rest_confirmed() {
        let inherited = inherit(lsn(105), lsn(90), EPOCH, Incarnation::new(4));
        assert_eq!(inherited.keeps_through, lsn(105));
        assert_eq!(inherited.entry, entry(2, 4, 106));
        assert_eq!(inherited.to_confirm, LsnRange::new(lsn(90), lsn(105)));
    }

    // 1.23, promotion: a member that has not persisted the epoch may still follow the old primary.
    #[test]
    fn nobody_wins_who_has_not_promised_the_epoch() {
        let late = Candidate {
            promised: Epoch::new(1),
            ..candidate("r1", State::InSync, 100)
        };
        let promised = Epoch::new(1);
        let wanted = EPOCH;
        assert_eq!(
            late.eligible(EPOCH, Lsn::ZERO),
            Err(Ineligible::EpochNotPromised { wanted, promised })
        );
        assert_eq!(winner(&[late], 0), None);
    }

    #[test]
    fn among_equals_the_lower_id_wins() {
        let all = [
            candidate("r2", State::InSync, 100),
            candidate("r1", State::InSync, 100),
        ];
        assert_eq!(winner(&all, 0), Some("r1"));
    }

    // Every acknowledging set and every promising set share a member that is no longer the old
    // primary's, for every size of volume.
    #[test]
    fn promises_reach_every_acknowledged_record() {
        for members in 1..=9 {
            for rule in [AckRule::Quorum, AckRule::All] {
                let acknowledged = rule.needed(members);
                let promised = promises_needed(rule, members);
                assert!(acknowledged + promised > members, "{rule} of {members}");
            }
        }
    }
}
