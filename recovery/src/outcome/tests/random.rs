//! The decision against the oracle over random pairs of histories: forks, strangers, holes,
//! truncations, reclaimed prefixes, logs that start above 1, lineage tables that forgot.
//!
//! `SEAWALL_SEEDS` seeds of 2,000 pairs each; a failure prints the seed and the pair.

use super::*;
use crate::history::{Checkpoint, Standing, Trust};
use crate::testing::{Random, VOLUME};

/// Who wrote a record: no other record at its LSN has the same writer.
pub(super) type Writer = (u64, u64);

/// One true history: the writer of every record, and the table as its node kept it.
#[derive(Clone, Debug, Default)]
pub(super) struct Branch {
    pub(super) writers: Vec<Writer>,
    /// Where the next writer begins an entry without a record yet.
    pub(super) idle: Option<Writer>,
}

impl Branch {
    pub(super) fn len(&self) -> u64 {
        self.writers.len() as u64
    }

    pub(super) fn cut(&self, through: u64) -> Branch {
        let through = usize::try_from(through).unwrap();
        let writers = self.writers[..through].to_vec();
        let idle = None;
        Branch { writers, idle }
    }

    /// Lets one new writer after another go on. `given` numbers all writers ever.
    fn grow(&mut self, random: &mut Random, given: &mut u64, writers_max: u64, run_max: u64) {
        for _ in 0..random.below(writers_max + 1) {
            *given += 1;
            // Epochs rise with the number, some of them with several incarnations.
            let writer = (*given / 3, *given);
            let run = random.below(run_max);
            self.idle = (run == 0).then_some(writer);
            self.writers.extend((0..run).map(|_| writer));
        }
    }

    /// The entries, newest 64 at most, without the oldest `forgotten`.
    pub(super) fn table(&self, forgotten: u64) -> Vec<(u64, u64, u64)> {
        let mut entries: Vec<(u64, u64, u64)> = Vec::new();
        let numbered = self.writers.iter().chain(&self.idle).zip(1..);
        for (&(epoch, incarnation), first) in numbered {
            if entries.last().is_none_or(|last| last.1 != incarnation) {
                entries.push((epoch, incarnation, first));
            }
        }
        let known = entries
            .len()
            .saturating_sub(usize::try_from(forgotten).unwrap());
        entries.split_off(entries.len() - known.min(Lineage::ENTRIES_MAX))
    }
}

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) history: History,
    pub(super) facts: ReplicaFacts,
    pub(super) ours: Branch,
    pub(super) theirs: Branch,
    pub(super) tables: [Vec<(u64, u64, u64)>; 2],
}

fn branches(random: &mut Random) -> (Branch, Branch) {
    let mut given = 2;
    let (writers_max, run_max) = *random.one_of(&[(2, 40), (6, 8), (90, 3), (3, 2)]);
    let mut trunk = Branch::default();
    trunk.grow(random, &mut given, writers_max, run_max);
    let mut ours = trunk.cut(random.below(trunk.len() + 1));
    let mut theirs = trunk.cut(random.below(trunk.len() + 1));
    match random.below(5) {
        // Both hold the same.
        0 => theirs = ours.clone(),
        // One of them, or both, went on under writers of their own.
        1 => ours.grow(random, &mut given, 3, run_max),
        2 => theirs.grow(random, &mut given, 3, run_max),
        3 => {
            ours.grow(random, &mut given, 3, run_max);
            theirs.grow(random, &mut given, 3, run_max);
        }
        // A stranger, or an empty log, once in a while.
        _ => {
            theirs = Branch::default();
            theirs.grow(random, &mut given, 2, run_max);
        }
    }
    (ours, theirs)
}

fn damage(random: &mut Random, head: u64) -> Vec<Damaged> {
    let mut found = Vec::new();
    let mut at = 0;
    for _ in 0..random.below(4) {
        let after = at + random.below(head + 1);
        let through = after + 1 + random.below(3);
        let kind = *random.one_of(&[DamageKind::Hole, DamageKind::Corrupt]);
        found.push(Damaged {
            range: range(after, through),
            kind,
        });
        at = through;
    }
    found.retain(|damaged| damaged.range.through.get() <= head);
    found
}

fn pair(random: &mut Random) -> Pair {
    let (ours, theirs) = branches(random);
    let forgets = |random: &mut Random| match random.below(8) {
        0 => random.below(5),
        _ => 0,
    };
    let tables = [ours.table(forgets(random)), theirs.table(forgets(random))];
    let head = ours.len();
    let rarely = |random: &mut Random| random.below(40) == 0;
    let standing = *random.one_of(&[
        Standing::Confirmed,
        Standing::Confirmed,
        Standing::Unconfirmed,
    ]);
    let durable = match standing {
        Standing::Confirmed => head - random.below(head.min(3) + 1),
        Standing::Unconfirmed => head,
    };
    let committed = match random.below(4) {
        0 => random.below(durable + 1),
        _ if rarely(random) => durable + 1 + random.below(3),
        _ => durable,
    };
    let tail = match random.below(2) {
        0 => 0,
        _ => random.below(committed.min(head) + 1),
    };
    let late = match random.below(10) {
        0 => random.below(4),
        _ => 0,
    };
    let checkpoint = (random.below(3) > 0).then(|| Checkpoint {
        lsn: lsn(random.below(head + 2)),
        trust: *random.one_of(&[Trust::Trusted, Trust::Trusted, Trust::Untrusted]),
    });
    let history = History {
        durable: lsn(durable),
        standing,
        first_retained: lsn(tail + 1 + late),
        checkpoint,
        lineage: lineage(&tables[0]),
        damage: damage(random, head),
        control_readable: !rarely(random),
        ..history(head).committed(committed).tail(tail)
    };
    let held = theirs.len();
    let maybe = |random: &mut Random| (random.below(3) == 0).then(|| lsn(random.below(held + 1)));
    let facts = ReplicaFacts {
        volume: match random.below(20) {
            0 => None,
            1 => Some(VolumeId([2; 16])),
            _ => Some(VOLUME),
        },
        checkpoint: maybe(random),
        intent: maybe(random),
        committed: maybe(random).unwrap_or(Lsn::ZERO),
        incomplete_base: rarely(random).then(|| IncompleteBase {
            session: crate::id::SessionId {
                boot: 1,
                counter: 1,
            },
            base: lsn(1),
        }),
        lineage: lineage(&tables[1]),
        ..replica(held)
    };
    Pair {
        history,
        facts,
        ours,
        theirs,
        tables,
    }
}

fn lineage(entries: &[(u64, u64, u64)]) -> Lineage {
    crate::testing::lineage(entries)
}

/// What reading both logs shows about where they part, as far as the tables can know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parted {
    Known(u64),
    FromTheStart,
    Forgotten,
}

fn parted(pair: &Pair) -> Parted {
    let (ours, theirs) = (&pair.ours.writers, &pair.theirs.writers);
    if ours.is_empty() || theirs.is_empty() {
        return Parted::Known(0);
    }
    let shared = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let knows = |table: &[(u64, u64, u64)], lsn: usize| {
        let (_, writer) = ours[lsn - 1];
        table.iter().any(|entry| entry.1 == writer)
    };
    let whole = |table: &[(u64, u64, u64)]| table.first().is_some_and(|entry| entry.2 == 1);
    match shared {
        0 if pair.tables.iter().all(|table| whole(table)) => Parted::FromTheStart,
        0 => Parted::Forgotten,
        _ if pair.tables.iter().all(|table| knows(table, shared)) => Parted::Known(shared as u64),
        _ => Parted::Forgotten,
    }
}

/// The answer, the name of its reason, and the record it names.
type Answer = (Verdict, &'static str, Option<u64>);

fn oracle(pair: &Pair) -> Answer {
    let Pair { history, facts, .. } = pair;
    let (head, held) = (pair.ours.len(), pair.theirs.len());
    let (durable, committed) = (history.durable.get(), history.committed.get());
    let parted = parted(pair);
    let unconfirmed = history.standing == Standing::Unconfirmed;
    let rebuild = |why, lsn| (NEEDS_REBUILD, why, lsn);
    if !history.control_readable || committed > head || committed > durable {
        return (Verdict::Refused, "integrity", None);
    }
    let same_volume = match facts.volume {
        Some(volume) => volume == VOLUME,
        None => held == 0,
    };
    let whole = facts.incomplete_base.is_none();
    if unconfirmed && same_volume && whole && held > head && parted == Parted::Known(head) {
        let ours_last = pair.ours.writers.last();
        let above = &pair.theirs.writers[pair.ours.writers.len()..];
        let own = above
            .iter()
            .take_while(|writer| Some(*writer) == ours_last)
            .count() as u64;
        let fetch = (own > 0).then(|| range(head, head + own));
        return (Verdict::NotYet { fetch }, "unconfirmed", None);
    }
    if !same_volume {
        return (Verdict::Refused, "unrelated", None);
    }
    if !whole {
        return rebuild("base-incomplete", None);
    }
    let target = if unconfirmed { durable } else { committed };
    let shared = match parted {
        Parted::Known(lsn) => lsn,
        Parted::FromTheStart if target == 0 => 0,
        Parted::FromTheStart | Parted::Forgotten => return rebuild("no-common-history", None),
    };
    let goal = &pair.ours.writers[..usize::try_from(target).unwrap()];
    if pair.theirs.writers == goal {
        return (ZERO_GAP, "zero-gap", Some(target));
    }
    let keep = held.min(target).min(shared);
    if keep + 1 < history.first_retained.get() {
        return rebuild("gap-beyond-retention", Some(keep + 1));
    }
    let gives_up = keep + 1..=held;
    let holds_on_to = [facts.checkpoint, facts.intent, Some(facts.committed)];
    let mut holds_on_to = holds_on_to.iter().flatten();
    if !gives_up.is_empty() && holds_on_to.any(|lsn| lsn.get() > keep) {
        return rebuild("unsafe-truncation", Some(keep));
    }
    for lsn in keep + 1..=target {
        match unreadable(history, lsn) {
            Some(DamageKind::Hole) => return rebuild("hole", Some(lsn)),
            Some(DamageKind::Corrupt) => return rebuild("corrupt", Some(lsn)),
            None => {}
        }
    }
    match (
        gives_up.is_empty(),
        shared < target && parted != Parted::FromTheStart,
    ) {
        (true, _) => (
            catch_up(keep, target),
            "gap-within-retention",
            Some(keep + 1),
        ),
        (false, true) => (truncate(keep, target), "diverged", Some(keep)),
        (false, false) => (truncate(keep, target), "replica-ahead", Some(keep)),
    }
}

fn unreadable(history: &History, at: u64) -> Option<DamageKind> {
    let mut damage = history.damage.iter();
    let hit = damage.find(|damaged| damaged.range.iter().any(|lsn| lsn.get() == at))?;
    Some(hit.kind)
}

/// The record that a reason names.
fn names(reason: &Reason) -> Option<u64> {
    match reason {
        Reason::ZeroGap { at: lsn }
        | Reason::ReplicaAhead {
            truncate_to: lsn, ..
        }
        | Reason::Diverged {
            truncate_to: lsn, ..
        }
        | Reason::WithinRetention {
            first_needed: lsn, ..
        }
        | Reason::BeyondRetention {
            first_needed: lsn, ..
        }
        | Reason::Damaged { lsn, .. }
        | Reason::UnsafeTruncation {
            truncate_to: lsn, ..
        } => Some(lsn.get()),
        Reason::NoCommonHistory { .. }
        | Reason::BaseIncomplete(_)
        | Reason::Unconfirmed { .. }
        | Reason::Integrity(_)
        | Reason::Unrelated { .. } => None,
    }
}

/// Reads every record between base and target.
pub(super) fn source_is_sound(history: &History) {
    if history.committed > history.head {
        return;
    }
    let source = rebuild_source(history, Asked::Any);
    let committed = history.committed.get();
    let expected = match (history.standing, committed) {
        (Standing::Confirmed, 0) => history.head.get(),
        (Standing::Confirmed | Standing::Unconfirmed, committed) => committed,
    };
    assert_eq!(source.target.get(), expected);
    let sound = |base: &Checkpoint| {
        let mut needed = base.lsn.get() + 1..=expected;
        base.trust == Trust::Trusted
            && committed > 0
            && base.lsn.get() <= expected
            && base.lsn.next() >= history.first_retained
            && needed.all(|lsn| unreadable(history, lsn).is_none())
    };
    let base = history.checkpoint.filter(sound).map(|base| base.lsn);
    assert_eq!(source.snapshot(), base, "{history:?}");
}

/// What counts as acknowledged to an unconfirmed primary is there, record by record (D1).
fn acknowledged_is_held(pair: &Pair, decision: &Decision) {
    let Some(lsn) = decision.acknowledges else {
        return;
    };
    let lsn = usize::try_from(lsn.get()).unwrap();
    assert_eq!(pair.history.standing, Standing::Unconfirmed);
    assert_eq!(pair.theirs.writers[..lsn], pair.ours.writers[..lsn]);
}

/// Decides about a pair, and checks the answer against reading both logs. The name of its reason.
pub(super) fn decided_as_read(pair: &Pair, which: impl Fn() -> String) -> &'static str {
    let decision = classify(&pair.history, &pair.facts);
    let reason = &decision.proof.reason;
    let found = (decision.verdict, reason.name(), names(reason));
    assert_eq!(found, oracle(pair), "{}: {pair:?}", which());
    acknowledged_is_held(pair, &decision);
    reason.name()
}

#[test]
fn random_pairs_of_histories_are_decided_as_reading_both_logs_says() {
    let seeds = std::env::var("SEAWALL_SEEDS").ok();
    let seeds = seeds.map_or(4, |text| text.parse().expect("SEAWALL_SEEDS is a number"));
    let mut reasons = std::collections::BTreeMap::new();
    for seed in 0..seeds {
        let mut random = Random(seed);
        for case in 0..2000 {
            let pair = pair(&mut random);
            let reason = decided_as_read(&pair, || format!("seed {seed}, case {case}"));
            source_is_sound(&pair.history);
            *reasons.entry(reason).or_insert(0_u64) += 1;
        }
    }
    println!("{} pairs: {reasons:?}", seeds * 2000);
    assert_eq!(reasons.len(), 13, "every reason is reached: {reasons:?}");
}
