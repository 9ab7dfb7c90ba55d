//! The ack rule: which LSN is committed, and when a reopened primary is confirmed again (D1, D3).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use seawall_wal::Lsn;

use crate::history::Standing;
use crate::id::ReplicaId;

/// Who has to hold a record durably before it is committed. The primary always has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum AckRule {
    /// The primary alone.
    #[default]
    BestEffort,
    /// A majority of the members, the primary included.
    Quorum,
    /// Every member.
    All,
}

impl AckRule {
    /// How many of `members` (the primary and all assigned replicas, whatever their state) have to
    /// hold a record, the primary included.
    #[must_use]
    pub const fn needed(self, members: usize) -> usize {
        match self {
            AckRule::BestEffort => 1,
            AckRule::Quorum => members / 2 + 1,
            AckRule::All => members,
        }
    }
}

impl fmt::Display for AckRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AckRule::BestEffort => "best-effort",
            AckRule::Quorum => "quorum",
            AckRule::All => "all",
        })
    }
}

/// The highest LSN that the rule has acknowledged: at most `own_durable`, and held durably by as
/// many members as the rule needs. `acks` has the replicas that acknowledge; a member that is not
/// in it holds nothing. Acknowledgements are cumulative, so the prefix is contiguous.
///
/// # Panics
/// When there are more acknowledgements than replicas: the caller counts a stranger.
#[must_use]
pub fn committed(rule: AckRule, members: usize, own_durable: Lsn, acks: &[Lsn]) -> Lsn {
    assert!(
        acks.len() < members,
        "R7: only assigned replicas count for the ack rule"
    );
    let Some(others) = rule.needed(members).checked_sub(2) else {
        return own_durable;
    };
    let mut acks = acks.to_vec();
    acks.sort_unstable_by(|a, b| b.cmp(a));
    acks.get(others)
        .map_or(Lsn::ZERO, |lsn| own_durable.min(*lsn))
}

/// The acknowledgements of one primary, and what they commit.
///
/// Only live streams acknowledge (D6). While the primary is unconfirmed, what a replica with
/// matching lineage reported at its handshake counts as well (D1).
#[derive(Clone, Debug)]
pub struct Ledger {
    rule: AckRule,
    replicas: BTreeMap<ReplicaId, Acked>,
    own_durable: Lsn,
    committed: Lsn,
    /// The inherited end that the rule has to cover before we are confirmed.
    inherited: Option<Lsn>,
    /// Replicas that were neither heard nor found unreachable since the open.
    unasked: BTreeSet<ReplicaId>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Acked {
    stream: Option<Lsn>,
    handshake: Option<Lsn>,
}

impl Ledger {
    /// The ledger of a primary that reopened, or was promoted, with this log: unconfirmed until the
    /// rule covers `durable` again and every replica was asked for what it holds above that
    /// ([`Ledger::asked`]). Under best effort, and without replicas, that is at once (A220).
    #[must_use]
    pub fn reopened(
        rule: AckRule,
        replicas: impl IntoIterator<Item = ReplicaId>,
        durable: Lsn,
        committed_at_least: Lsn,
    ) -> Ledger {
        let replicas: BTreeMap<_, _> = replicas
            .into_iter()
            .map(|id| (id, Acked::default()))
            .collect();
        let mut ledger = Ledger {
            rule,
            unasked: replicas.keys().cloned().collect(),
            replicas,
            own_durable: durable,
            committed: committed_at_least,
            inherited: Some(durable),
        };
        ledger.advance();
        ledger
    }

    /// Committed: never falls.
    #[must_use]
    pub const fn committed(&self) -> Lsn {
        self.committed
    }

    /// The rule.
    #[must_use]
    pub const fn rule(&self) -> AckRule {
        self.rule
    }

    /// Members: the assigned replicas, whatever their state, and the primary.
    #[must_use]
    pub fn members(&self) -> usize {
        self.replicas.len() + 1
    }

    /// Confirmed or not (D1).
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self.inherited {
            None => Standing::Confirmed,
            Some(_) => Standing::Unconfirmed,
        }
    }

    /// Our own log is synced through `durable`. Returns committed if it rose.
    pub fn synced(&mut self, durable: Lsn) -> Option<Lsn> {
        self.own_durable = self.own_durable.max(durable);
        self.advance()
    }

    /// A replica holds records above our end under our last lineage entry. They may have been
    /// acknowledged, so the rule has to cover them too before we are confirmed; our own sync is
    /// part of the rule, so they have to be fetched first (D1).
    pub fn found_above(&mut self, through: Lsn) {
        if let Some(inherited) = &mut self.inherited {
            *inherited = through.max(*inherited);
        }
    }

    /// The replica has answered a handshake since the open, or an attempt to reach it has failed.
    /// Until every replica was asked we stay unconfirmed, though the rule covers our end already:
    /// one that nobody asked may hold acknowledged records above it, and would have them cut (D1).
    pub fn asked(&mut self, replica: &ReplicaId) {
        if self.unasked.remove(replica) {
            self.advance();
        }
    }

    /// Such records were fetched and synced. Returns committed if it rose.
    pub fn fetched(&mut self, through: Lsn) -> Option<Lsn> {
        self.found_above(through);
        self.synced(through)
    }

    /// A live stream acknowledged through `lsn`. Returns committed if it rose.
    pub fn stream_acknowledged(&mut self, replica: &ReplicaId, lsn: Lsn) -> Option<Lsn> {
        let acked = self.replicas.get_mut(replica)?;
        acked.stream = acked.stream.max(Some(lsn));
        self.advance()
    }

    /// A replica whose lineage matches reported this at its handshake
    /// ([`Decision::acknowledges`](crate::outcome::Decision::acknowledges)). Without effect once
    /// confirmed. Returns committed if it rose.
    pub fn handshake_acknowledged(&mut self, replica: &ReplicaId, lsn: Lsn) -> Option<Lsn> {
        self.inherited?;
        let acked = self.replicas.get_mut(replica)?;
        // The newest report replaces an older one: a replica that came back with less holds less.
        acked.handshake = Some(lsn);
        self.advance()
    }

    /// The stream ended: it counts no more (A228). Committed stays.
    pub fn stream_ended(&mut self, replica: &ReplicaId) {
        if let Some(acked) = self.replicas.get_mut(replica) {
            acked.stream = None;
        }
    }

    /// The replica came back with another node incarnation: all it ever acknowledged is void (D8).
    pub fn void(&mut self, replica: &ReplicaId) {
        if let Some(acked) = self.replicas.get_mut(replica) {
            *acked = Acked::default();
        }
    }

    /// The assignment changed. Returns committed if it rose.
    pub fn assigned(&mut self, replicas: impl IntoIterator<Item = ReplicaId>) -> Option<Lsn> {
        let mut next = BTreeMap::new();
        for id in replicas {
            let known = self.replicas.get(&id).copied();
            if known.is_none() && self.inherited.is_some() {
                // It may have been a member before we reopened.
                self.unasked.insert(id.clone());
            }
            next.insert(id, known.unwrap_or_default());
        }
        self.unasked.retain(|id| next.contains_key(id));
        self.replicas = next;
        self.advance()
    }

    /// R7: committed never falls.
    fn advance(&mut self) -> Option<Lsn> {
        let confirmed = self.inherited.is_none();
        let acks: Vec<Lsn> = self
            .replicas
            .values()
            .filter_map(|acked| match confirmed {
                true => acked.stream,
                false => acked.stream.max(acked.handshake),
            })
            .collect();
        let reached = committed(self.rule, self.members(), self.own_durable, &acks);
        let alone = self.rule.needed(self.members()) == 1;
        let covered = self.inherited.is_some_and(|inherited| reached >= inherited);
        if covered && (alone || self.unasked.is_empty()) {
            self.inherited = None;
            self.unasked.clear();
        }
        let rose = reached > self.committed;
        self.committed = self.committed.max(reached);
        rose.then_some(self.committed)
    }
}

#[cfg(test)]
impl Ledger {
    /// A confirmed primary, for tests that are about something else.
    pub(crate) fn confirmed(
        rule: AckRule,
        replicas: impl IntoIterator<Item = ReplicaId>,
        committed: Lsn,
    ) -> Ledger {
        let mut ledger = Ledger::reopened(rule, replicas, committed, committed);
        ledger.inherited = None;
        ledger
    }

    /// All it knows of one replica: acknowledged by stream, by handshake, whether it was asked.
    pub(crate) fn known(&self, replica: &ReplicaId) -> (Option<Lsn>, Option<Lsn>, bool) {
        let acked = self.replicas.get(replica).copied().unwrap_or_default();
        let asked = !self.unasked.contains(replica);
        (acked.stream, acked.handshake, asked)
    }

    /// The inherited end, while unconfirmed.
    pub(crate) const fn inherited(&self) -> Option<Lsn> {
        self.inherited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    fn lsns(numbers: &[u64]) -> Vec<Lsn> {
        numbers.iter().copied().map(Lsn::new).collect()
    }

    fn id(name: &str) -> ReplicaId {
        ReplicaId::new(name)
    }

    fn unasked(rule: AckRule, durable: u64, committed: u64) -> Ledger {
        Ledger::reopened(rule, [id("r1"), id("r2")], lsn(durable), lsn(committed))
    }

    fn reopened(rule: AckRule, durable: u64, committed: u64) -> Ledger {
        let mut ledger = unasked(rule, durable, committed);
        ledger.asked(&id("r1"));
        ledger.asked(&id("r2"));
        ledger
    }

    #[test]
    fn committed_is_the_highest_lsn_that_enough_members_hold() {
        use AckRule::{All, BestEffort, Quorum};
        for (rule, members, own, acks, expected) in [
            (BestEffort, 1, 10, &[][..], 10),
            (BestEffort, 3, 10, &[][..], 10),
            (Quorum, 1, 10, &[][..], 10),
            (Quorum, 2, 10, &[][..], 0),
            (Quorum, 2, 10, &[7][..], 7),
            (Quorum, 3, 10, &[7][..], 7),
            (Quorum, 3, 10, &[7, 9][..], 9),
            // Never beyond our own sync, however much the replicas hold (D3).
            (Quorum, 3, 10, &[20, 20][..], 10),
            (Quorum, 4, 10, &[9, 8][..], 8),
            (Quorum, 5, 10, &[9, 8, 3][..], 8),
            (Quorum, 5, 10, &[9][..], 0),
            (All, 3, 10, &[9][..], 0),
            (All, 3, 10, &[9, 4][..], 4),
            (All, 1, 10, &[][..], 10),
        ] {
            assert_eq!(
                committed(rule, members, lsn(own), &lsns(acks)),
                lsn(expected),
                "{rule} of {members}, own {own}, acks {acks:?}"
            );
        }
    }

    #[test]
    #[should_panic(expected = "R7")]
    fn a_stranger_never_counts_for_the_ack_rule() {
        let _ = committed(AckRule::Quorum, 2, lsn(10), &lsns(&[10, 10]));
    }

    // A218
    #[test]
    fn a_handshake_with_matching_lineage_confirms_a_reopened_primary() {
        let mut ledger = reopened(AckRule::Quorum, 105, 90);
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        assert_eq!(ledger.committed(), lsn(90));
        assert_eq!(
            ledger.handshake_acknowledged(&id("r1"), lsn(105)),
            Some(lsn(105))
        );
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    #[test]
    fn a_replica_below_our_end_raises_committed_without_confirming() {
        let mut ledger = reopened(AckRule::Quorum, 105, 90);
        assert_eq!(
            ledger.handshake_acknowledged(&id("r1"), lsn(95)),
            Some(lsn(95))
        );
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
    }

    // A219
    #[test]
    fn fetched_records_are_confirmed_together_with_ours() {
        let mut ledger = reopened(AckRule::Quorum, 100, 90);
        assert_eq!(ledger.fetched(lsn(103)), None);
        assert_eq!(
            ledger.handshake_acknowledged(&id("r1"), lsn(100)),
            Some(lsn(100))
        );
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        assert_eq!(
            ledger.handshake_acknowledged(&id("r1"), lsn(103)),
            Some(lsn(103))
        );
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    // D1: confirming at 100 would let 101..103 be cut from the only replica that holds them.
    #[test]
    fn records_found_above_our_end_keep_us_unconfirmed_until_they_are_fetched() {
        let mut ledger = reopened(AckRule::Quorum, 100, 90);
        ledger.found_above(lsn(103));
        assert_eq!(
            ledger.handshake_acknowledged(&id("r1"), lsn(100)),
            Some(lsn(100))
        );
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        ledger.fetched(lsn(103));
        ledger.handshake_acknowledged(&id("r1"), lsn(103));
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    // D1: r2 holds 101..103, acknowledged with a sync of ours that was cut as torn (D13). Being
    // confirmed by r1 before r2 is heard would have them cut from r2.
    #[test]
    fn a_quorum_does_not_confirm_before_every_reachable_replica_was_heard() {
        let mut ledger = unasked(AckRule::Quorum, 100, 90);
        ledger.asked(&id("r1"));
        let r1 = ledger.handshake_acknowledged(&id("r1"), lsn(100));
        assert_eq!(r1, Some(lsn(100)));
        assert_eq!(ledger.stream_acknowledged(&id("r1"), lsn(100)), None);
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        ledger.found_above(lsn(103));
        ledger.asked(&id("r2"));
        ledger.handshake_acknowledged(&id("r2"), lsn(100));
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        assert_eq!(ledger.fetched(lsn(103)), None);
        ledger.handshake_acknowledged(&id("r2"), lsn(103));
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    #[test]
    fn a_replica_that_cannot_be_reached_does_not_keep_a_quorum_unconfirmed() {
        let mut ledger = unasked(AckRule::Quorum, 100, 90);
        ledger.asked(&id("r1"));
        ledger.handshake_acknowledged(&id("r1"), lsn(100));
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        ledger.asked(&id("r2"));
        assert_eq!(ledger.standing(), Standing::Confirmed);
        let mut ledger = unasked(AckRule::Quorum, 100, 90);
        ledger.asked(&id("r1"));
        ledger.handshake_acknowledged(&id("r1"), lsn(100));
        ledger.assigned([id("r1")]);
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    // D1: r3 was a member before the reopen, is listed again after it, and holds 101..103.
    #[test]
    fn a_replica_added_while_unconfirmed_is_asked_before_we_are_confirmed() {
        let mut ledger = unasked(AckRule::Quorum, 100, 90);
        ledger.assigned([id("r1"), id("r2"), id("r3")]);
        for name in ["r1", "r2"] {
            ledger.asked(&id(name));
            ledger.handshake_acknowledged(&id(name), lsn(100));
        }
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
        ledger.asked(&id("r3"));
        assert_eq!(ledger.standing(), Standing::Confirmed);
        ledger.assigned([id("r1"), id("r2"), id("r3"), id("r4")]);
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    // A220
    #[test]
    fn best_effort_is_confirmed_at_once() {
        let ledger = unasked(AckRule::BestEffort, 105, 90);
        assert_eq!(ledger.standing(), Standing::Confirmed);
        assert_eq!(ledger.committed(), lsn(105));
    }

    // A246: the inherited records are committed once the rule covers the head.
    #[test]
    fn a_promoted_replica_commits_what_it_inherited_when_the_rule_covers_it() {
        let mut ledger = reopened(AckRule::Quorum, 105, 90);
        assert_eq!(ledger.committed(), lsn(90));
        assert_eq!(
            ledger.stream_acknowledged(&id("r2"), lsn(105)),
            Some(lsn(105))
        );
        assert_eq!(ledger.standing(), Standing::Confirmed);
    }

    // A228
    #[test]
    fn a_lost_stream_counts_no_more_and_takes_nothing_back() {
        let mut ledger = reopened(AckRule::Quorum, 0, 0);
        ledger.handshake_acknowledged(&id("r1"), Lsn::ZERO);
        ledger.synced(lsn(50));
        assert_eq!(
            ledger.stream_acknowledged(&id("r1"), lsn(20)),
            Some(lsn(20))
        );
        ledger.stream_ended(&id("r1"));
        assert_eq!(ledger.synced(lsn(60)), None);
        assert_eq!(ledger.committed(), lsn(20));
    }

    #[test]
    fn a_confirmed_primary_counts_streams_only() {
        let mut ledger = reopened(AckRule::Quorum, 10, 0);
        ledger.handshake_acknowledged(&id("r1"), lsn(10));
        ledger.synced(lsn(50));
        assert_eq!(ledger.handshake_acknowledged(&id("r1"), lsn(50)), None);
        assert_eq!(ledger.committed(), lsn(10));
    }

    // D1: between two handshakes a replica may have lost what it reported at the first.
    #[test]
    fn the_last_handshake_of_a_replica_is_the_one_that_counts() {
        let mut ledger = reopened(AckRule::All, 105, 90);
        ledger.handshake_acknowledged(&id("r1"), lsn(105));
        ledger.handshake_acknowledged(&id("r1"), lsn(95));
        assert_eq!(
            ledger.handshake_acknowledged(&id("r2"), lsn(105)),
            Some(lsn(95))
        );
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
    }

    // A232
    #[test]
    fn a_new_node_incarnation_voids_what_was_acknowledged() {
        let mut ledger = reopened(AckRule::All, 100, 0);
        assert_eq!(ledger.handshake_acknowledged(&id("r1"), lsn(100)), None);
        ledger.void(&id("r1"));
        assert_eq!(ledger.handshake_acknowledged(&id("r2"), lsn(100)), None);
        assert_eq!(ledger.standing(), Standing::Unconfirmed);
    }

    // A229: the waiter is the caller's affair, the acknowledgement is cumulative and still counts.
    #[test]
    fn a_late_acknowledgement_still_commits() {
        let mut ledger = reopened(AckRule::All, 0, 0);
        ledger.synced(lsn(50));
        assert_eq!(ledger.stream_acknowledged(&id("r1"), lsn(50)), None);
        assert_eq!(
            ledger.stream_acknowledged(&id("r2"), lsn(50)),
            Some(lsn(50))
        );
    }

    #[test]
    fn a_removed_replica_is_no_member_any_more() {
        let mut ledger = reopened(AckRule::All, 40, 0);
        ledger.stream_acknowledged(&id("r1"), lsn(40));
        assert_eq!(ledger.assigned([id("r1")]), Some(lsn(40)));
        assert_eq!(ledger.members(), 2);
    }
}
