//! The decision against the oracle of `random`, over all that is small: every two logs of up to
//! three and four records, so a fork at every position, an empty log and a stranger; every
//! frontier; holes and damage at every record; reclaimed prefixes and logs that start above 1;
//! bases trusted and not; confirmed and not; tables that forgot their oldest entries, and tables
//! cut at 64.

use std::collections::BTreeMap;

use super::random::{Branch, Pair, Writer, decided_as_read, source_is_sound};
use super::*;
use crate::history::{Checkpoint, Trust};
use crate::testing::{VOLUME, lineage};

const HEAD_MAX: usize = 3;
const WRITERS: [Writer; 3] = [(1, 3), (1, 4), (2, 6)];
const NEXT: Writer = (3, 9);

/// How often each reason was given.
type Reasons = BTreeMap<&'static str, u64>;

/// Every log of up to `head_max` records: writers follow each other in order.
fn logs(head_max: usize) -> Vec<Vec<Writer>> {
    let mut all: Vec<Vec<Writer>> = vec![Vec::new()];
    let mut grown = all.clone();
    for _ in 0..head_max {
        let longer = |log: &Vec<Writer>| {
            let last = log.last().copied();
            let next = WRITERS.into_iter().filter(move |next| last <= Some(*next));
            let log = log.clone();
            next.map(move |next| [log.as_slice(), &[next]].concat())
        };
        grown = grown.iter().flat_map(longer).collect();
        all.extend_from_slice(&grown);
    }
    all
}

/// Whether both logs can be of one volume: a writer began once, after one history (D2).
fn can_meet(ours: &[Writer], theirs: &[Writer]) -> bool {
    WRITERS.iter().all(|writer| {
        let began = |log: &[Writer]| log.iter().position(|found| found == writer);
        match (began(ours), began(theirs)) {
            (Some(here), Some(there)) => ours[..here] == theirs[..there],
            _ => true,
        }
    })
}

/// Every two logs that can meet.
fn pairs() -> Vec<(Branch, Branch)> {
    let branch = |writers: &Vec<Writer>| Branch {
        writers: writers.clone(),
        idle: None,
    };
    let theirs = logs(HEAD_MAX + 1);
    let mut all = Vec::new();
    for ours in logs(HEAD_MAX) {
        let met = theirs.iter().filter(|theirs| can_meet(&ours, theirs));
        all.extend(met.map(|theirs| (branch(&ours), branch(theirs))));
    }
    all
}

fn pair(ours: &Branch, theirs: &Branch, [forgot, they_forgot]: [u64; 2]) -> Pair {
    let tables = [ours.table(forgot), theirs.table(they_forgot)];
    Pair {
        history: History {
            lineage: lineage(&tables[0]),
            ..history(ours.len())
        },
        facts: ReplicaFacts {
            lineage: lineage(&tables[1]),
            ..replica(theirs.len())
        },
        ours: ours.clone(),
        theirs: theirs.clone(),
        tables,
    }
}

/// Durable, committed (one that is too high among them), and whether that is sure.
fn frontiers(head: u64) -> Vec<(u64, u64, Standing)> {
    let mut all = Vec::new();
    for committed in 0..=head + 1 {
        all.extend((0..=head).map(|durable| (durable, committed, Standing::Confirmed)));
        all.push((head, committed, Standing::Unconfirmed));
    }
    all
}

impl Pair {
    fn set(&mut self, (durable, committed, standing): (u64, u64, Standing)) {
        self.history.durable = lsn(durable);
        self.history.committed = lsn(committed);
        self.history.standing = standing;
    }

    fn count(&self, reasons: &mut Reasons) {
        let reason = decided_as_read(self, String::new);
        *reasons.entry(reason).or_default() += 1;
    }
}

/// None, and one hole or damaged record or two of them at every record.
fn damages(head: u64) -> Vec<Vec<Damaged>> {
    let mut all = vec![Vec::new()];
    for kind in [DamageKind::Hole, DamageKind::Corrupt] {
        for at in 1..=head {
            all.push(vec![Damaged::at(lsn(at), kind)]);
        }
        for after in 0..head.saturating_sub(1) {
            let range = range(after, after + 2);
            all.push(vec![Damaged { range, kind }]);
        }
    }
    all
}

fn starts(head: u64, committed: u64) -> impl Iterator<Item = (u64, u64)> {
    let tails = 0..=committed.min(head);
    tails.flat_map(|tail| (0..2).map(move |late| (tail, tail + 1 + late)))
}

#[test]
fn every_fork_with_every_frontier_and_damage_is_decided_as_reading_both_logs_says() {
    let mut reasons = Reasons::new();
    for (ours, theirs) in pairs() {
        let mut pair = pair(&ours, &theirs, [0, 0]);
        let head = ours.len();
        for frontiers in frontiers(head) {
            pair.set(frontiers);
            for (tail, first_retained) in starts(head, frontiers.1) {
                pair.history.tail = lsn(tail);
                pair.history.first_retained = lsn(first_retained);
                for damage in damages(head) {
                    pair.history.damage = damage;
                    for checkpoint in 0..=theirs.len() {
                        pair.facts.checkpoint = (checkpoint > 0).then_some(lsn(checkpoint));
                        pair.count(&mut reasons);
                    }
                }
            }
        }
    }
    println!("{} pairs: {reasons:?}", reasons.values().sum::<u64>());
    let elsewhere = ["unrelated", "base-incomplete"];
    assert!(elsewhere.iter().all(|reason| !reasons.contains_key(reason)));
    assert_eq!(
        reasons.len(),
        11,
        "every other reason is given: {reasons:?}"
    );
}

#[test]
fn every_fork_is_decided_alike_by_tables_that_forgot() {
    let mut reasons = Reasons::new();
    for (ours, theirs) in pairs() {
        for idle in [None, Some(NEXT)] {
            let ours = Branch {
                idle,
                ..ours.clone()
            };
            for forgot in 0..=3 {
                for they_forgot in 0..=3 {
                    let mut pair = pair(&ours, &theirs, [forgot, they_forgot]);
                    for frontiers in frontiers(ours.len()) {
                        pair.set(frontiers);
                        pair.count(&mut reasons);
                    }
                }
            }
        }
    }
    println!("{} pairs: {reasons:?}", reasons.values().sum::<u64>());
    assert!(reasons["no-common-history"] > 0 && reasons["diverged"] > 0);
}

#[test]
fn every_claim_of_a_replica_is_decided_as_reading_both_logs_says() {
    let incomplete = IncompleteBase {
        session: crate::id::SessionId {
            boot: 1,
            counter: 1,
        },
        base: lsn(1),
    };
    let mut reasons = Reasons::new();
    for (ours, theirs) in pairs() {
        let mut pair = pair(&ours, &theirs, [0, 0]);
        for volume in [Some(VOLUME), None, Some(VolumeId([2; 16]))] {
            for incomplete_base in [None, Some(incomplete)] {
                for claim in 0..=3 * theirs.len() {
                    // Nothing, then each of the three at each record.
                    let at = (claim > 0).then(|| lsn(claim.div_ceil(3)));
                    let is = |kind: u64| at.filter(|_| claim % 3 == kind);
                    pair.facts = ReplicaFacts {
                        volume,
                        incomplete_base,
                        checkpoint: is(0),
                        intent: is(1),
                        committed: is(2).unwrap_or(Lsn::ZERO),
                        ..pair.facts
                    };
                    for frontiers in frontiers(ours.len()) {
                        pair.set(frontiers);
                        pair.count(&mut reasons);
                    }
                }
            }
        }
    }
    println!("{} pairs: {reasons:?}", reasons.values().sum::<u64>());
    assert!(reasons["unrelated"] > 0 && reasons["base-incomplete"] > 0);
    assert!(reasons["unsafe-truncation"] > 0);
}

/// D2: a table keeps 64 entries; older forks are not known any more.
#[test]
fn every_fork_of_a_history_of_seventy_writers_is_decided_by_what_the_table_kept() {
    const LONG: u64 = 70;
    let writer = |at: u64| (at / 3, at);
    let ours = Branch {
        writers: (1..=LONG).map(writer).collect(),
        idle: None,
    };
    let mut reasons = Reasons::new();
    for fork in 0..=LONG {
        for own in [0, 1, 2, LONG] {
            let mut theirs = ours.cut(fork);
            let others = (1..=own).map(|at| writer(LONG + at));
            theirs.writers.extend(others);
            let mut pair = pair(&ours, &theirs, [0, 0]);
            assert_eq!(pair.tables[0].len(), Lineage::ENTRIES_MAX);
            for committed in 0..=LONG {
                for standing in [Standing::Confirmed, Standing::Unconfirmed] {
                    pair.set((LONG, committed, standing));
                    pair.count(&mut reasons);
                }
            }
        }
    }
    println!("{} pairs: {reasons:?}", reasons.values().sum::<u64>());
    assert!(reasons["no-common-history"] > 0 && reasons["diverged"] > 0);
}

#[test]
fn every_small_source_can_be_read_record_by_record() {
    for head in 0..=HEAD_MAX as u64 {
        for (durable, committed, standing) in frontiers(head) {
            for (tail, first_retained) in starts(head, committed) {
                for damage in damages(head) {
                    for base in 0..=head + 1 {
                        for trust in [Trust::Trusted, Trust::Untrusted] {
                            source_is_sound(&History {
                                durable: lsn(durable),
                                standing,
                                tail: lsn(tail),
                                first_retained: lsn(first_retained),
                                damage: damage.clone(),
                                checkpoint: Some(Checkpoint {
                                    lsn: lsn(base),
                                    trust,
                                }),
                                ..history(head).committed(committed)
                            });
                        }
                    }
                }
            }
        }
    }
}
