use super::*;
use crate::history::{Damaged, Trust};
use crate::testing::{entry, history, lsn, replica};
use seawall_wal::{Lineage, NodeIncarnation};

mod oracle;

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

#[test]
fn a_proof_reads_as_a_sentence() {
    let proof = classify(&history(100).tail(60), &replica(50)).proof;
    assert_eq!(
        proof.to_string(),
        "the replica needs 51 first, but the log begins at 61 (tail 60)"
    );
}

// A054, A055 and the table of section 1.1
#[test]
fn recoverable_asks_tail_head_and_damage_in_this_order() {
    let tail_50 = history(100).tail(50);
    assert_eq!(tail_50.recoverable(range(50, 100)), Ok(()));
    assert_eq!(
        tail_50.recoverable(range(49, 100)),
        Err(Gap::Reclaimed {
            first_needed: lsn(50),
            first_retained: lsn(51),
        })
    );
    assert_eq!(
        history(80).recoverable(range(0, 100)),
        Err(Gap::BeyondHead { head: lsn(80) })
    );
    let holed = History {
        damage: vec![Damaged::at(lsn(4), DamageKind::Hole)],
        ..history(6)
    };
    let hole = Err(Gap::Damaged {
        lsn: lsn(4),
        kind: DamageKind::Hole,
    });
    for (after, through, expected) in [
        (0, 6, hole),
        (0, 3, Ok(())),
        (0, 4, hole),
        (3, 5, hole),
        (4, 6, Ok(())),
    ] {
        assert_eq!(
            holed.recoverable(range(after, through)),
            expected,
            "({after}, {through}]"
        );
    }
    assert_eq!(history(50).recoverable(range(50, 50)), Ok(()));
    assert_eq!(history(50).recoverable(range(60, 40)), Ok(()));
}

fn full(why: WhyFull, target: u64) -> Source {
    Source {
        kind: SourceKind::FullBase { why },
        target: lsn(target),
    }
}

fn tail_unusable(base: u64, first_retained: u64) -> WhyFull {
    WhyFull::TailUnusable {
        base: lsn(base),
        gap: Gap::Reclaimed {
            first_needed: lsn(base + 1),
            first_retained: lsn(first_retained),
        },
    }
}

// A057 to A064, A237 and the table of section 1.5
#[test]
fn every_worked_value_of_the_source_table() {
    let snapshot = |base, target| Source {
        kind: SourceKind::SnapshotTail { base: lsn(base) },
        target: lsn(target),
    };
    let base = lsn(50);
    let above = WhyFull::AboveTarget {
        base,
        target: lsn(40),
    };
    let h = history(100);
    for (claim, history, asked, expected) in [
        (
            "A057",
            h.clone().tail(30).base(50),
            Asked::Any,
            snapshot(50, 100),
        ),
        (
            "A061, equality is fine",
            h.clone().tail(50).base(50),
            Asked::Any,
            snapshot(50, 100),
        ),
        (
            "A061",
            h.clone().tail(51).base(50),
            Asked::Any,
            full(tail_unusable(50, 52), 100),
        ),
        (
            "A060",
            h.clone().tail(80).base(50),
            Asked::Any,
            full(tail_unusable(50, 81), 100),
        ),
        (
            "60/50",
            h.clone().tail(60).base(50),
            Asked::Any,
            full(tail_unusable(50, 61), 100),
        ),
        (
            "60/40",
            h.clone().tail(60).base(40),
            Asked::Any,
            full(tail_unusable(40, 61), 100),
        ),
        (
            "A058",
            h.clone().base(50).untrusted(),
            Asked::Any,
            full(WhyFull::Untrusted { base }, 100),
        ),
        ("A059", h.clone(), Asked::Any, full(WhyFull::NoBase, 100)),
        (
            "A237",
            h.clone().tail(30).base(50),
            Asked::FullBase,
            full(WhyFull::Requested, 100),
        ),
        (
            "requested, and not sound anyway",
            h.clone().tail(60).base(50),
            Asked::FullBase,
            full(tail_unusable(50, 61), 100),
        ),
        (
            "A063",
            h.clone().tail(30).committed(0).base(50),
            Asked::Any,
            full(WhyFull::NothingCommitted { base }, 100),
        ),
        (
            "A064",
            history(200).committed(40).base(50),
            Asked::Any,
            full(above, 40),
        ),
        (
            "an empty base of a log that begins at 1",
            h.clone().base(0),
            Asked::Any,
            snapshot(0, 100),
        ),
        (
            "nothing was ever written",
            history(0),
            Asked::Any,
            full(WhyFull::NoBase, 0),
        ),
    ] {
        assert_eq!(rebuild_source(&history, asked), expected, "{claim}");
    }
}

// D1, 1.5: nothing unacknowledged enters a base.
#[test]
fn an_unconfirmed_primary_rebuilds_only_to_what_is_known_committed() {
    let source = rebuild_source(&reopened().base(60), Asked::Any);
    assert_eq!(source.target, lsn(90));
    assert_eq!(source.snapshot(), Some(lsn(60)));
    let nothing_known = history(100).committed(0).unconfirmed();
    assert_eq!(rebuild_source(&nothing_known, Asked::Any).target, lsn(0));
}

#[test]
fn damage_between_base_and_target_makes_the_tail_unusable() {
    let kind = DamageKind::Corrupt;
    let history = History {
        damage: vec![Damaged::at(lsn(70), kind)],
        ..history(100).base(50)
    };
    let gap = Gap::Damaged { lsn: lsn(70), kind };
    let why = WhyFull::TailUnusable { base: lsn(50), gap };
    assert_eq!(rebuild_source(&history, Asked::Any), full(why, 100));
    let trust = history.checkpoint.map(|checkpoint| checkpoint.trust);
    assert_eq!(trust, Some(Trust::Trusted));
}

#[test]
fn lineages_that_are_empty_on_both_sides_agree_only_on_nothing() {
    let mut history = history(0);
    history.lineage = Lineage::default();
    let empty = ReplicaFacts::empty(NodeIncarnation([3; 16]));
    assert_eq!(classify(&history, &empty).verdict, ZERO_GAP);
}
