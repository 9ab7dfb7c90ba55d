//! The decision against an oracle that compares two small histories record by record.
//!
//! The space is exhausted, not sampled: every pair of lineages from a small set, every head,
//! durable, committed and tail of a short log, every replica, with and without damage, an
//! undroppable suffix, an interrupted base and another volume, confirmed and unconfirmed.

use std::collections::BTreeSet;

use super::*;
use crate::history::Trust;
use crate::testing::{VOLUME, lineage};

const HEAD_MAX: u64 = 3;

/// Epoch, incarnation and first LSN of each entry.
type Entries = &'static [(u64, u64, u64)];

/// The lineages: one writer; a second one from 2 or 3 on; a stranger from the start.
const LINEAGES: [Entries; 4] = [
    &[(1, 1, 1)],
    &[(1, 1, 1), (1, 2, 2)],
    &[(1, 1, 1), (2, 3, 3)],
    &[(1, 9, 1)],
];

/// What was written at each LSN, as a value that is equal only for the same record.
fn records(lineage: &[(u64, u64, u64)], through: u64) -> Vec<(u64, u64)> {
    (1..=through)
        .map(|lsn| {
            let writer = lineage.iter().rev().find(|(_, _, first)| *first <= lsn);
            let (_, incarnation, _) = writer.expect("every lineage begins at 1");
            (lsn, *incarnation)
        })
        .collect()
}

fn common(a: &[(u64, u64)], b: &[(u64, u64)]) -> u64 {
    a.iter().zip(b).take_while(|(a, b)| a == b).count() as u64
}

/// Primary facts; all combinations that a log can show, and some that it cannot.
fn primaries() -> Vec<(History, Entries)> {
    let mut all = Vec::new();
    for entries in LINEAGES {
        for head in 0..=HEAD_MAX {
            for durable in 0..=head {
                for committed in 0..=HEAD_MAX {
                    for tail in 0..=head {
                        for damaged in 0..=head {
                            for standing in [Standing::Confirmed, Standing::Unconfirmed] {
                                let mut h = history(head).committed(committed).tail(tail);
                                h.durable = lsn(durable);
                                h.standing = standing;
                                h.lineage = lineage(entries);
                                let kind = DamageKind::Corrupt;
                                h.damage = (damaged > 0)
                                    .then(|| Damaged::at(lsn(damaged), kind))
                                    .into_iter()
                                    .collect();
                                all.push((h, entries));
                            }
                        }
                    }
                }
            }
        }
    }
    all
}

fn replicas() -> Vec<(ReplicaFacts, Entries)> {
    let incomplete = IncompleteBase {
        session: crate::id::SessionId {
            boot: 1,
            counter: 1,
        },
        base: lsn(1),
    };
    let mut all = Vec::new();
    for entries in LINEAGES {
        for durable in 0..=HEAD_MAX + 1 {
            for undroppable in 0..=durable {
                for volume in [Some(VOLUME), Some(VolumeId([2; 16]))] {
                    for incomplete_base in [None, Some(incomplete)] {
                        let facts = ReplicaFacts {
                            volume,
                            committed: lsn(undroppable),
                            incomplete_base,
                            lineage: lineage(entries),
                            ..replica(durable)
                        };
                        all.push((facts, entries));
                    }
                }
            }
        }
    }
    all
}

/// What the naive reader of both logs says, stated without the words of the table.
#[derive(Debug, PartialEq, Eq)]
enum Naive {
    Refuse,
    NotYet,
    Equal,
    /// Keep this many records, then take the rest from the primary.
    Send {
        keep: u64,
    },
    Rebuild,
}

fn naive(
    history: &History,
    ours: &[(u64, u64)],
    facts: &ReplicaFacts,
    theirs: &[(u64, u64)],
) -> Naive {
    let (head, durable) = (ours.len() as u64, history.durable.get());
    let committed = history.committed.get();
    if committed > durable {
        return Naive::Refuse;
    }
    let held = theirs.len() as u64;
    let shared = common(ours, theirs);
    let unconfirmed = history.standing == Standing::Unconfirmed;
    let (same_volume, whole) = (
        facts.volume == Some(VOLUME),
        facts.incomplete_base.is_none(),
    );
    if unconfirmed && same_volume && whole && held > durable && shared == head.min(held) {
        return Naive::NotYet;
    }
    if !same_volume {
        return Naive::Refuse;
    }
    if !whole {
        return Naive::Rebuild;
    }
    let target = if unconfirmed { durable } else { committed };
    let goal = &ours[..usize::try_from(target).unwrap()];
    if theirs == goal {
        return Naive::Equal;
    }
    if head > 0 && held > 0 && shared == 0 && target > 0 {
        return Naive::Rebuild;
    }
    // Keep as much as is right, and see whether the rest can be had.
    let keep = shared.min(target);
    let readable = |lsn: u64| {
        let damaged = history
            .damage
            .iter()
            .any(|damaged| damaged.range.through.get() == lsn);
        lsn > history.tail.get() && !damaged
    };
    let gives_up_too_much = keep < held && facts.committed.get() > keep;
    let reclaimed = keep < history.tail.get();
    match !reclaimed && !gives_up_too_much && (keep + 1..=target).all(readable) {
        true => Naive::Send { keep },
        false => Naive::Rebuild,
    }
}

/// Carries a decision out on the replica's records.
fn carried_out(decision: &Decision, ours: &[(u64, u64)], theirs: &[(u64, u64)]) -> Naive {
    match decision.verdict {
        Verdict::Refused => Naive::Refuse,
        Verdict::NotYet { .. } => Naive::NotYet,
        Verdict::Outcome(Outcome::NeedsRebuild) => Naive::Rebuild,
        Verdict::Outcome(Outcome::ZeroGap) => Naive::Equal,
        Verdict::Outcome(Outcome::CatchUp { range, truncate_to }) => {
            let mut result = theirs.to_vec();
            if let Some(to) = truncate_to {
                result.truncate(usize::try_from(to.get()).unwrap());
            }
            assert_eq!(
                result.len() as u64,
                range.after.get(),
                "sends what is missing"
            );
            let sent = range.iter().map(|lsn| usize::try_from(lsn.get()).unwrap());
            result.extend(sent.map(|lsn| ours[lsn - 1]));
            let through = usize::try_from(range.through.get()).unwrap();
            assert_eq!(result, ours[..through], "the replica ends up equal");
            let keep = range.after.get();
            Naive::Send { keep }
        }
    }
}

#[test]
fn every_small_pair_of_histories_is_decided_as_record_by_record_comparison_says() {
    let mut rows = BTreeSet::new();
    let replicas = replicas();
    for (history, our_entries) in &primaries() {
        let ours = records(our_entries, history.head.get());
        for (facts, their_entries) in &replicas {
            let theirs = records(their_entries, facts.durable.get());
            let decision = classify(history, facts);
            rows.insert(decision.row);
            assert_eq!(
                carried_out(&decision, &ours, &theirs),
                naive(history, &ours, facts, &theirs),
                "{history:?} {facts:?} {decision:?}"
            );
            check_agreement(&decision);
            check_acknowledgement(&decision, history, &ours, &theirs);
        }
    }
    assert_eq!(rows.len(), 11, "every row is reached: {rows:?}");
}

/// H01, H02: outcome and proof never disagree.
fn check_agreement(decision: &Decision) {
    let expected = match decision.verdict {
        Verdict::Outcome(Outcome::ZeroGap | Outcome::CatchUp { .. }) => Recoverable::Yes,
        Verdict::Outcome(Outcome::NeedsRebuild) => Recoverable::No,
        Verdict::NotYet { .. } => Recoverable::NotYet,
        Verdict::Refused => Recoverable::Refused,
    };
    assert_eq!(decision.proof.recoverable(), expected, "{decision:?}");
}

/// D1: what counts as acknowledged is really there, record by record.
fn check_acknowledgement(
    decision: &Decision,
    history: &History,
    ours: &[(u64, u64)],
    theirs: &[(u64, u64)],
) {
    if let Some(lsn) = decision.acknowledges {
        assert_eq!(history.standing, Standing::Unconfirmed);
        assert!(lsn.get() <= common(ours, theirs), "{decision:?}");
        assert!(lsn <= history.durable, "{decision:?}");
    }
}

/// The conditions of the table as section 1.3 states them, each by itself.
fn conditions(history: &History, facts: &ReplicaFacts) -> [bool; 11] {
    let aim = history.aim();
    let fork = history.fork(facts);
    let shared = match fork {
        Fork::At(lsn) => lsn,
        Fork::NoCommon | Fork::OlderThanTable => Lsn::ZERO,
    };
    let keep = facts.durable.min(aim).min(shared);
    let same_volume = facts.volume == Some(history.volume);
    let whole = facts.incomplete_base.is_none();
    let equal_through_ours = fork == Fork::At(history.head.min(facts.durable));
    let ahead = facts.durable > history.durable && equal_through_ours;
    let drops = keep < facts.durable;
    [
        history.committed > history.head || history.committed > history.durable,
        same_volume && whole && history.standing == Standing::Unconfirmed && ahead,
        !same_volume,
        !whole,
        fork == Fork::NoCommon && !aim.is_zero() || fork == Fork::OlderThanTable,
        facts.durable == aim && keep == aim,
        keep.next() < history.first_retained,
        drops && facts.undroppable() > keep,
        history.damage_in(LsnRange::new(keep, aim)).is_some(),
        drops,
        true,
    ]
}

#[test]
fn the_first_row_whose_condition_holds_decides_and_no_other() {
    let rows = [
        Row::Integrity,
        Row::Unconfirmed,
        Row::Unrelated,
        Row::BaseIncomplete,
        Row::NoCommonHistory,
        Row::ZeroGap,
        Row::BeyondRetention,
        Row::UnsafeTruncation,
        Row::Damaged,
        Row::Truncate,
        Row::Gap,
    ];
    let replicas = replicas();
    for (history, _) in &primaries() {
        for (facts, _) in &replicas {
            let first = conditions(history, facts).iter().position(|holds| *holds);
            let expected = rows[first.expect("the last row always holds")];
            assert_eq!(
                classify(history, facts).row,
                expected,
                "{history:?} {facts:?}"
            );
        }
    }
}

/// The source against reading every record between base and target.
#[test]
fn every_source_can_be_read_record_by_record() {
    for (mut history, entries) in primaries() {
        let written = records(entries, history.head.get()).len() as u64;
        for base in 0..=HEAD_MAX {
            for trust in [Trust::Trusted, Trust::Untrusted] {
                let checkpoint = crate::history::Checkpoint {
                    lsn: lsn(base),
                    trust,
                };
                history.checkpoint = Some(checkpoint);
                let source = rebuild_source(&history, Asked::Any);
                let readable = |lsn: u64| {
                    let mut damage = history.damage.iter();
                    lsn > history.tail.get()
                        && lsn <= written
                        && !damage.any(|damaged| damaged.range.through.get() == lsn)
                };
                let target = source.target.get();
                let sound = trust == Trust::Trusted
                    && !history.committed.is_zero()
                    && base <= target
                    && base >= history.tail.get()
                    && target <= written
                    && (base + 1..=target).all(readable);
                assert_eq!(source.snapshot(), sound.then_some(lsn(base)), "{history:?}");
            }
        }
    }
}
