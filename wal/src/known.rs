//! Known damage: which LSNs are lost, in runs, so that it costs what there is on disk and not what
//! a frontier says was lost (D15).

use std::collections::BTreeMap;

use crate::{Lsn, LsnRange};

/// Lost LSNs and whether each is a hole, as runs that neither overlap nor touch a run of their
/// kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KnownDamage {
    /// By the LSN before the run.
    runs: BTreeMap<Lsn, (Lsn, bool)>,
}

impl KnownDamage {
    /// Adds a run; what was known of its LSNs before is replaced.
    pub(crate) fn insert(&mut self, range: LsnRange, hole: bool) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        let (mut after, mut through) = (range.after, range.through);
        let before = self.runs.range(..after).next_back();
        if let Some((&first, &(last, kind))) = before
            && (last, kind) == (after, hole)
        {
            self.runs.remove(&first);
            after = first;
        }
        if let Some(&(last, kind)) = self.runs.get(&through)
            && kind == hole
        {
            self.runs.remove(&through);
            through = last;
        }
        self.runs.insert(after, (through, hole));
    }

    fn remove(&mut self, range: LsnRange) {
        let below = self.runs.range(..range.through).rev();
        let meets = below.take_while(|(_, (through, _))| *through > range.after);
        let meets: Vec<_> = meets.map(|(after, run)| (*after, *run)).collect();
        for (after, (through, hole)) in meets {
            self.runs.remove(&after);
            if after < range.after {
                self.runs.insert(after, (range.after, hole));
            }
            if through > range.through {
                self.runs.insert(range.through, (through, hole));
            }
        }
    }

    /// Damage of records that were dropped says nothing about the ones that take their LSNs.
    pub(crate) fn forget_above(&mut self, after: Lsn) {
        self.remove(LsnRange::new(after, Lsn::new(u64::MAX)));
    }

    /// The first lost LSN of a range, and whether it is a hole.
    pub(crate) fn first_in(&self, range: LsnRange) -> Option<(Lsn, bool)> {
        let around = self.runs.range(..=range.after).next_back();
        let around = around.filter(|(_, (through, _))| *through > range.after);
        let (after, (_, hole)) = around.or_else(|| self.runs.range(range.after..).next())?;
        let after = range.after.max(*after);
        (after < range.through).then(|| (after.next(), *hole))
    }

    /// Whether an LSN that is lost is a hole; `None` when it is not known to be lost.
    pub(crate) fn at(&self, lsn: Lsn) -> Option<bool> {
        let found = self.first_in(LsnRange::new(lsn.before(), lsn));
        found.map(|(_, hole)| hole)
    }

    /// The first lost LSN.
    pub(crate) fn first(&self) -> Option<Lsn> {
        self.runs.keys().next().map(|after| after.next())
    }

    /// The runs, in order.
    pub(crate) fn runs(&self) -> impl Iterator<Item = (LsnRange, bool)> {
        let runs = self.runs.iter();
        runs.map(|(after, (through, hole))| (LsnRange::new(*after, *through), *hole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(after: u64, through: u64) -> LsnRange {
        LsnRange::new(Lsn::new(after), Lsn::new(through))
    }

    #[test]
    fn runs_answer_as_a_list_of_every_lsn_does() {
        // Every triple of insertions over six LSNs, and a cut behind each.
        let runs: Vec<_> = (0..6u64)
            .flat_map(|after| (after..=6).map(move |through| (after, through)))
            .flat_map(|(after, through)| [(after, through, true), (after, through, false)])
            .collect();
        for first in &runs {
            for second in &runs {
                for cut in [2, 4, 7] {
                    let (mut known, mut list) = (KnownDamage::default(), BTreeMap::new());
                    for (after, through, hole) in [*first, *second, (2, 3, true)] {
                        known.insert(range(after, through), hole);
                        list.extend((after + 1..=through).map(|lsn| (lsn, hole)));
                    }
                    known.forget_above(Lsn::new(cut));
                    list.retain(|lsn, _| *lsn <= cut);
                    agree(&known, &list);
                }
            }
        }
    }

    fn agree(known: &KnownDamage, list: &BTreeMap<u64, bool>) {
        let of_runs = known.runs().flat_map(|(run, hole)| {
            let lsns = run.after.get() + 1..=run.through.get();
            lsns.map(move |lsn| (lsn, hole))
        });
        let of_runs: BTreeMap<_, _> = of_runs.collect();
        assert_eq!(&of_runs, list);
        assert_eq!(known.first().map(Lsn::get), list.keys().next().copied());
        for after in 0..7 {
            assert_eq!(
                known.at(Lsn::new(after + 1)),
                list.get(&(after + 1)).copied()
            );
            for through in after..7 {
                let found = known.first_in(range(after, through));
                let found = found.map(|(lsn, hole)| (lsn.get(), hole));
                let listed = (list.iter()).find(|(lsn, _)| (after + 1..=through).contains(*lsn));
                assert_eq!(found, listed.map(|(lsn, hole)| (*lsn, *hole)));
            }
        }
        let runs: Vec<_> = known.runs().collect();
        let touch = |pair: &[(LsnRange, bool)]| {
            pair[0].0.through == pair[1].0.after && pair[0].1 == pair[1].1
        };
        assert!(!runs.windows(2).any(touch), "{runs:?}");
    }

    #[test]
    fn a_run_of_any_length_costs_one_entry() {
        let mut known = KnownDamage::default();
        known.insert(range(3, u64::MAX - 1), true);
        known.insert(range(1, 3), true);
        assert_eq!(known.runs().count(), 1);
        assert_eq!(known.at(Lsn::new(1 << 62)), Some(true));
    }
}
