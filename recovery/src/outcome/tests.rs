use super::*;
use crate::history::{DamageKind, Damaged, IncompleteBase};
use crate::testing::{entry, history, lsn, replica};
use seawall_wal::{Lineage, NodeIncarnation, VolumeId};

mod oracle;
mod random;
mod small;
mod source;

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(lsn(after), lsn(through))
}

fn catch_up(after: u64, through: u64) -> Verdict {
    Verdict::Outcome(Outcome::CatchUp {
        range: range(after, through),
        truncate_to: None,
    })
}

fn truncate(to: u64, through: u64) -> Verdict {
    Verdict::Outcome(Outcome::CatchUp {
        range: range(to, through),
        truncate_to: Some(lsn(to)),
    })
}

const ZERO_GAP: Verdict = Verdict::Outcome(Outcome::ZeroGap);
const NEEDS_REBUILD: Verdict = Verdict::Outcome(Outcome::NeedsRebuild);

/// A primary with committed 100 that retains everything from 50 on.
fn from_50() -> History {
    history(100).tail(49)
}

fn row_and_verdict(history: &History, replica: &ReplicaFacts) -> (Row, Verdict) {
    let decision = classify(history, replica);
    (decision.row, decision.verdict)
}

// A039
#[test]
fn the_handshake_carries_head_beside_the_three_numbers() {
    let history = history(100).committed(90).tail(30);
    let reply = history.reply(&replica(70));
    assert_eq!(
        (
            reply.replica_durable,
            reply.committed,
            reply.first_retained,
            reply.head
        ),
        (lsn(70), lsn(90), lsn(31), lsn(100))
    );
    assert_eq!(
        row_and_verdict(&history, &replica(70)),
        (Row::Gap, catch_up(70, 90))
    );
}

// A040 to A046 and the first table of section 1.3
#[test]
fn every_worked_value_of_the_outcome_table() {
    let nothing = history(0);
    let five = history(5);
    let late = History {
        first_retained: lsn(5),
        ..history(10)
    };
    for (claim, history, durable, expected) in [
        ("A040", from_50(), 100, (Row::ZeroGap, ZERO_GAP)),
        ("A041", from_50(), 105, (Row::Truncate, truncate(100, 100))),
        ("A042", from_50(), 80, (Row::Gap, catch_up(80, 100))),
        (
            "A043: 49 + 1 == 50",
            from_50(),
            49,
            (Row::Gap, catch_up(49, 100)),
        ),
        ("A044", from_50(), 48, (Row::BeyondRetention, NEEDS_REBUILD)),
        ("A045", from_50(), 10, (Row::BeyondRetention, NEEDS_REBUILD)),
        ("A046", nothing, 0, (Row::ZeroGap, ZERO_GAP)),
        (
            "A046: nothing of what we hold is committed",
            history(10).committed(0),
            0,
            (Row::ZeroGap, ZERO_GAP),
        ),
        ("all of a new log", five, 0, (Row::Gap, catch_up(0, 5))),
        (
            "H03: no tail, yet not all is there",
            late,
            0,
            (Row::BeyondRetention, NEEDS_REBUILD),
        ),
    ] {
        assert_eq!(
            row_and_verdict(&history, &replica(durable)),
            expected,
            "{claim}"
        );
    }
}

// A047
#[test]
fn committed_beyond_head_is_an_integrity_error_in_outcome_and_proof() {
    let decision = classify(&history(80).committed(100), &replica(0));
    assert_eq!(decision.verdict, Verdict::Refused);
    assert_eq!(
        decision.proof.reason,
        Reason::Integrity(Integrity::CommittedBeyondHead {
            committed: lsn(100),
            head: lsn(80),
        })
    );
    assert_eq!(decision.proof.recoverable(), Recoverable::Refused);
}

#[test]
fn committed_beyond_durable_is_an_integrity_error() {
    let history = History {
        durable: lsn(90),
        ..history(100)
    };
    let what = Integrity::CommittedBeyondDurable {
        committed: lsn(100),
        durable: lsn(90),
    };
    let decision = classify(&history, &replica(80));
    assert_eq!(decision.proof.reason, Reason::Integrity(what));
}

#[test]
fn unreadable_control_data_is_an_integrity_error() {
    let history = History {
        control_readable: false,
        ..history(100)
    };
    let decision = classify(&history, &replica(100));
    assert_eq!(decision.verdict, Verdict::Refused);
    let reason = Reason::Integrity(Integrity::ControlUnreadable);
    assert_eq!(decision.proof.reason, reason);
}

// A048
#[test]
fn a_replica_ahead_of_committed_but_below_the_tail_needs_a_rebuild() {
    let decision = classify(&history(100).committed(40).tail(60), &replica(45));
    assert_eq!(decision.verdict, NEEDS_REBUILD);
    assert_eq!(decision.proof.recoverable(), Recoverable::No);
    assert_eq!(
        decision.proof.reason,
        Reason::BeyondRetention {
            first_needed: lsn(41),
            tail: lsn(60),
            first_retained: lsn(61),
        }
    );
}

// A049
#[test]
fn equal_numbers_of_different_histories_are_never_zero_gap() {
    for ours in [[(1, 1, 1), (2, 2, 91)], [(1, 1, 1), (1, 2, 91)]] {
        let history = from_50().with_lineage(&ours);
        let decision = classify(&history, &replica(100));
        assert_eq!(
            (decision.row, decision.verdict),
            (Row::Truncate, truncate(90, 100))
        );
        let (epoch, incarnation, first) = ours[1];
        assert_eq!(
            decision.proof.reason,
            Reason::Diverged {
                fork: lsn(90),
                ours: Some(entry(epoch, incarnation, first)),
                theirs: Some(entry(1, 1, 1)),
                truncate_to: lsn(90),
            }
        );
    }
}

// Section 1.3, the divergent rows: what the replica cannot give up, and what is reclaimed.
#[test]
fn a_divergent_replica_is_cut_only_where_it_is_safe() {
    let ours = [(1, 1, 1), (2, 2, 91)];
    let history = from_50().with_lineage(&ours);
    let with = |change: fn(&mut ReplicaFacts)| {
        let mut facts = replica(100);
        change(&mut facts);
        row_and_verdict(&history, &facts)
    };
    let unsafe_cut = (Row::UnsafeTruncation, NEEDS_REBUILD);
    assert_eq!(with(|facts| facts.checkpoint = Some(lsn(91))), unsafe_cut);
    assert_eq!(with(|facts| facts.committed = lsn(91)), unsafe_cut);
    assert_eq!(with(|facts| facts.intent = Some(lsn(91))), unsafe_cut);
    let safe = (Row::Truncate, truncate(90, 100));
    assert_eq!(with(|facts| facts.checkpoint = Some(lsn(90))), safe);
    assert_eq!(with(|facts| facts.committed = lsn(90)), safe);
    assert_eq!(with(|facts| facts.intent = Some(lsn(90))), safe);

    let reclaimed = |tail| crate::testing::history(100).tail(tail).with_lineage(&ours);
    assert_eq!(row_and_verdict(&reclaimed(90), &replica(100)), safe);
    assert_eq!(
        row_and_verdict(&reclaimed(91), &replica(100)),
        (Row::BeyondRetention, NEEDS_REBUILD)
    );
}

// H21: a replica behind committed may hold a divergent suffix too.
#[test]
fn a_divergent_suffix_below_committed_is_cut() {
    let history = from_50().with_lineage(&[(1, 1, 1), (2, 2, 61)]);
    assert_eq!(
        row_and_verdict(&history, &replica(80)),
        (Row::Truncate, truncate(60, 100))
    );
}

// A117
#[test]
fn a_truncation_below_what_reached_the_replicas_base_is_refused_as_unsafe() {
    let facts = ReplicaFacts {
        checkpoint: Some(lsn(103)),
        ..replica(105)
    };
    let decision = classify(&from_50(), &facts);
    assert_eq!(decision.verdict, NEEDS_REBUILD);
    assert_eq!(
        decision.proof.reason,
        Reason::UnsafeTruncation {
            truncate_to: lsn(100),
            checkpoint: Some(lsn(103)),
            intent: None,
            committed: lsn(0),
        }
    );
}

fn reopened() -> History {
    history(105).committed(90).tail(49).unconfirmed()
}

// A218 and the unconfirmed rows of section 1.3 (D1)
#[test]
fn an_unconfirmed_primary_aims_at_its_own_durable_and_counts_matching_replicas() {
    for (durable, expected, acknowledged) in [
        (105, (Row::ZeroGap, ZERO_GAP), 105),
        (95, (Row::Gap, catch_up(95, 105)), 95),
    ] {
        let decision = classify(&reopened(), &replica(durable));
        assert_eq!((decision.row, decision.verdict), expected);
        assert_eq!(decision.acknowledges, Some(lsn(acknowledged)));
        assert_eq!(decision.proof.standing, Standing::Unconfirmed);
    }
    assert_eq!(classify(&from_50(), &replica(100)).acknowledges, None);
}

// A219, the decision: 106 and 107 lie under our last entry with records, whatever entry we have
// started since.
#[test]
fn records_above_an_unconfirmed_head_are_fetched_first() {
    let history = reopened().with_lineage(&[(1, 1, 1), (1, 2, 106)]);
    let decision = classify(&history, &replica(107));
    let fetch = Some(range(105, 107));
    assert_eq!(
        (decision.row, decision.verdict),
        (Row::Unconfirmed, Verdict::NotYet { fetch })
    );
    assert_eq!(decision.acknowledges, Some(lsn(105)));
    assert_eq!(decision.proof.recoverable(), Recoverable::NotYet);

    let fetched = crate::testing::history(107).committed(90).unconfirmed();
    assert_eq!(classify(&fetched, &replica(107)).verdict, ZERO_GAP);
}

#[test]
fn records_under_another_entry_wait_until_the_primary_is_confirmed() {
    let facts = replica(107).with_lineage(&[(1, 1, 1), (1, 3, 106)]);
    let waiting = Verdict::NotYet { fetch: None };
    assert_eq!(
        row_and_verdict(&reopened(), &facts),
        (Row::Unconfirmed, waiting)
    );
    let confirmed = history(105);
    assert_eq!(
        row_and_verdict(&confirmed, &facts),
        (Row::Truncate, truncate(105, 105))
    );
}

#[test]
fn only_the_records_under_our_last_entry_are_fetched() {
    let facts = replica(109).with_lineage(&[(1, 1, 1), (1, 3, 108)]);
    let fetch = Some(range(105, 107));
    assert_eq!(
        row_and_verdict(&reopened(), &facts),
        (Row::Unconfirmed, Verdict::NotYet { fetch })
    );
}

// D1, 1.11: a replica above our durable but not above our head is only ahead as well.
#[test]
fn an_unconfirmed_primary_never_cuts_a_replica_that_is_only_ahead() {
    let history = History {
        durable: lsn(100),
        ..reopened()
    };
    for durable in 101..=110 {
        let decision = classify(&history, &replica(durable));
        assert_eq!(decision.row, Row::Unconfirmed, "durable {durable}");
    }
}

// A221
#[test]
fn a_new_record_at_a_lost_lsn_is_another_history() {
    let history = history(101).with_lineage(&[(1, 1, 1), (1, 2, 101)]);
    let decision = classify(&history, &replica(101));
    assert_eq!(decision.verdict, truncate(100, 101));
    assert_eq!(decision.proof.fork, Fork::At(lsn(100)));
}

// A223
#[test]
fn a_replica_that_shares_no_record_needs_a_rebuild_and_another_volume_is_refused() {
    let stranger = replica(100).with_lineage(&[(1, 7, 1)]);
    let decision = classify(&from_50(), &stranger);
    assert_eq!(
        (decision.row, decision.verdict),
        (Row::NoCommonHistory, NEEDS_REBUILD)
    );
    assert_eq!(
        decision.proof.reason,
        Reason::NoCommonHistory {
            ours: Some(entry(1, 1, 1)),
            theirs: Some(entry(1, 7, 1)),
        }
    );
    let theirs = VolumeId([2; 16]);
    let other = ReplicaFacts {
        volume: Some(theirs),
        ..replica(100)
    };
    let decision = classify(&from_50(), &other);
    assert_eq!(decision.verdict, Verdict::Refused);
    assert_eq!(
        decision.proof.reason,
        Reason::Unrelated {
            ours: crate::testing::VOLUME,
            theirs: Some(theirs),
        }
    );
}

// A224
#[test]
fn a_fork_older_than_the_lineage_table_needs_a_rebuild() {
    let ours = history(600).with_lineage(&[(9, 70, 500)]);
    let facts = replica(400).with_lineage(&[(1, 1, 1), (1, 2, 300)]);
    let decision = classify(&ours, &facts);
    assert_eq!(
        (decision.row, decision.verdict),
        (Row::NoCommonHistory, NEEDS_REBUILD)
    );
    assert_eq!(decision.proof.fork, Fork::OlderThanTable);
}

// D8
#[test]
fn an_empty_directory_is_related_to_every_volume() {
    let empty = ReplicaFacts::empty(NodeIncarnation([3; 16]));
    let decision = classify(&history(5), &empty);
    assert_eq!(decision.verdict, catch_up(0, 5));
    assert_eq!(
        row_and_verdict(&from_50(), &empty),
        (Row::BeyondRetention, NEEDS_REBUILD)
    );
}

#[test]
fn records_without_a_volume_belong_to_none() {
    let nameless = ReplicaFacts {
        volume: None,
        ..replica(10)
    };
    let decision = classify(&from_50(), &nameless);
    assert_eq!(decision.row, Row::Unrelated);
}

// A136, the decision
#[test]
fn an_incomplete_base_needs_a_rebuild_whatever_else_is_claimed() {
    let incomplete = IncompleteBase {
        session: crate::id::SessionId {
            boot: 1,
            counter: 2,
        },
        base: lsn(50),
    };
    let facts = ReplicaFacts {
        incomplete_base: Some(incomplete),
        ..replica(100)
    };
    for history in [from_50(), reopened(), history(10).unconfirmed()] {
        let decision = classify(&history, &facts);
        assert_eq!(
            (decision.row, decision.verdict),
            (Row::BaseIncomplete, NEEDS_REBUILD)
        );
        assert_eq!(decision.proof.reason, Reason::BaseIncomplete(incomplete));
        assert_eq!(decision.acknowledges, None);
    }
}

// D14, D15
#[test]
fn damage_inside_the_range_is_named_and_damage_outside_does_not_matter() {
    for kind in [DamageKind::Hole, DamageKind::Corrupt] {
        let damaged = |at| History {
            damage: vec![Damaged::at(lsn(at), kind)],
            ..from_50()
        };
        let decision = classify(&damaged(90), &replica(80));
        let lsn = lsn(90);
        assert_eq!(decision.row, Row::Damaged);
        assert_eq!(decision.proof.reason, Reason::Damaged { lsn, kind });
        assert_eq!(classify(&damaged(80), &replica(80)).row, Row::Gap);
        assert_eq!(classify(&damaged(81), &replica(80)).row, Row::Damaged);
        assert_eq!(classify(&damaged(100), &replica(80)).row, Row::Damaged);
        assert_eq!(classify(&damaged(90), &replica(100)).row, Row::ZeroGap);
    }
}

#[test]
fn the_first_of_several_damages_is_named() {
    let history = History {
        damage: vec![
            Damaged {
                range: range(84, 99),
                kind: DamageKind::Corrupt,
            },
            Damaged::at(lsn(83), DamageKind::Hole),
        ],
        ..from_50()
    };
    assert_eq!(
        history.damage_in(range(80, 100)),
        Some((lsn(83), DamageKind::Hole))
    );
    assert_eq!(
        history.damage_in(range(90, 100)),
        Some((lsn(91), DamageKind::Corrupt))
    );
    assert_eq!(history.damage_in(range(99, 100)), None);
}

// Note below the table: if nothing is committed, sharing none of it is no obstacle (A116).
#[test]
fn with_nothing_committed_everything_on_the_replica_may_go() {
    let history = history(10).committed(0);
    assert_eq!(
        row_and_verdict(&history, &replica(5)),
        (Row::Truncate, truncate(0, 0))
    );
    let stranger = replica(5).with_lineage(&[(1, 7, 1)]);
    assert_eq!(
        row_and_verdict(&history, &stranger),
        (Row::Truncate, truncate(0, 0))
    );
}

// A050 to A053
#[test]
fn every_worked_value_of_the_proof_table() {
    let wide = history(100).tail(30);
    let proof = |history: &History, durable| classify(history, &replica(durable)).proof;
    let (yes, no) = (Recoverable::Yes, Recoverable::No);
    for (claim, proof, recoverable, reason) in [
        (
            "A050",
            proof(&wide, 100),
            yes,
            Reason::ZeroGap { at: lsn(100) },
        ),
        (
            "A051",
            proof(&wide, 105),
            yes,
            Reason::ReplicaAhead {
                truncate_to: lsn(100),
                replica_durable: lsn(105),
            },
        ),
        (
            "A052",
            proof(&wide, 50),
            yes,
            Reason::WithinRetention {
                first_needed: lsn(51),
                last_needed: lsn(100),
                tail: lsn(30),
                head: lsn(100),
            },
        ),
        (
            "A053",
            proof(&history(100).tail(60), 50),
            no,
            Reason::BeyondRetention {
                first_needed: lsn(51),
                tail: lsn(60),
                first_retained: lsn(61),
            },
        ),
    ] {
        assert_eq!(proof.recoverable(), recoverable, "{claim}");
        assert_eq!(proof.reason, reason, "{claim}");
    }
}

// A052, A053
#[test]
fn a_proof_reads_as_a_sentence() {
    for (tail, expected) in [
        (
            30,
            "the replica needs 51..100, and the log holds everything after tail 30 through head 100",
        ),
        (
            60,
            "the replica needs 51 first, but the log begins at 61 (tail 60)",
        ),
    ] {
        let proof = classify(&history(100).tail(tail), &replica(50)).proof;
        assert_eq!(proof.to_string(), expected);
    }
}

#[test]
fn lineages_that_are_empty_on_both_sides_agree_only_on_nothing() {
    let mut history = history(0);
    history.lineage = Lineage::default();
    let empty = ReplicaFacts::empty(NodeIncarnation([3; 16]));
    assert_eq!(classify(&history, &empty).verdict, ZERO_GAP);
}
