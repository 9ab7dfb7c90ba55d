//! Which records a segment holds, and where to look them up: the ones of a sealed segment in its
//! index on disk, the others in memory.

use std::sync::Arc;

use crate::index::{Entry, SealedIndex};
use crate::{Lsn, LsnRange};

/// The retained records of one segment.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// Their LSNs, in order. More than one run only where damage took what lay between.
    runs: Vec<LsnRange>,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// One entry for each LSN of the runs: 32 bytes a record.
    Memory(Vec<Entry>),
    /// The sealed index, which may know of more than the runs: a later truncation cut those.
    Sealed(Arc<SealedIndex>),
}

impl Default for Store {
    fn default() -> Store {
        Store::Memory(Vec::new())
    }
}

/// Where the entries of a range come from; reading them needs no lock.
#[derive(Debug)]
pub(crate) enum Source {
    /// They were in memory.
    Memory(Vec<Entry>),
    /// The index on disk has them.
    Sealed(Arc<SealedIndex>),
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        let mut all = Entries::default();
        all.extend(entries);
        all
    }
}

impl From<SealedIndex> for Entries {
    fn from(index: SealedIndex) -> Entries {
        let mut runs = vec![index.lsns()];
        runs.retain(|run| !run.is_empty());
        Entries {
            runs,
            store: Store::Sealed(Arc::new(index)),
        }
    }
}

impl Entries {
    /// Adds records behind the last one.
    ///
    /// # Panics
    /// When the segment is sealed and indexed: nothing is added to one.
    pub(crate) fn extend(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let Store::Memory(stored) = &mut self.store else {
            panic!("records were added to a segment behind its sealed index")
        };
        for entry in entries {
            match self.runs.last_mut() {
                Some(run) if run.through.next() == entry.lsn => run.through = entry.lsn,
                _ => self.runs.push(LsnRange::new(entry.lsn.before(), entry.lsn)),
            }
            stored.push(entry);
        }
    }

    /// The LSNs, in order, as runs without a gap.
    pub(crate) fn runs(&self) -> &[LsnRange] {
        &self.runs
    }

    /// First LSN.
    pub(crate) fn first(&self) -> Option<Lsn> {
        self.runs.first().map(|run| run.after.next())
    }

    /// Last LSN.
    pub(crate) fn last(&self) -> Option<Lsn> {
        self.runs.last().map(|run| run.through)
    }

    /// Number of records.
    pub(crate) fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// Drops every record above `after`.
    pub(crate) fn drop_above(&mut self, after: Lsn) {
        for run in &mut self.runs {
            run.through = run.through.min(after);
        }
        self.runs.retain(|run| !run.is_empty());
        if let Store::Memory(stored) = &mut self.store {
            let keep = stored.partition_point(|entry| entry.lsn <= after);
            stored.truncate(keep);
        }
    }

    /// The part of `range` that is here without a gap from its first LSN on.
    pub(crate) fn part(&self, range: LsnRange) -> Option<LsnRange> {
        let first = range.after.next();
        let at = self.runs.partition_point(|run| run.through < first);
        let run = self.runs.get(at).filter(|run| run.contains(first))?;
        Some(LsnRange::new(range.after, range.through.min(run.through)))
    }

    /// Where the entries of a range come from that [`Entries::part`] gave.
    pub(crate) fn source(&self, part: LsnRange) -> Source {
        match &self.store {
            Store::Sealed(index) => Source::Sealed(Arc::clone(index)),
            Store::Memory(stored) => {
                let from = stored.partition_point(|entry| entry.lsn <= part.after);
                let to = stored.partition_point(|entry| entry.lsn <= part.through);
                Source::Memory(stored[from.min(to)..to].to_vec())
            }
        }
    }

    /// Whether the entries are on disk.
    pub(crate) fn is_settled(&self) -> bool {
        matches!(self.store, Store::Sealed(_))
    }

    /// From here on the index on disk has the entries, if it knows of every record that is here.
    /// Whether it does.
    pub(crate) fn settle(&mut self, index: SealedIndex) -> bool {
        let known = index.lsns();
        let covered = |run: &LsnRange| known.after <= run.after && run.through <= known.through;
        let covered = self.runs.iter().all(covered);
        if covered {
            self.store = Store::Sealed(Arc::new(index));
        }
        covered
    }

    /// Goes on with the records found in the segment itself in place of `damaged`, if that is
    /// still where they come from: of those that were here. Gives the runs of LSNs that are no
    /// longer found.
    pub(crate) fn replace(
        &mut self,
        damaged: &Arc<SealedIndex>,
        found: Vec<Entry>,
    ) -> Option<Vec<LsnRange>> {
        match &self.store {
            Store::Sealed(index) if Arc::ptr_eq(index, damaged) => {}
            _ => return None,
        }
        let had = std::mem::take(self);
        let here = |lsn| had.runs.iter().any(|run| run.contains(lsn));
        self.extend(found.into_iter().filter(|entry| here(entry.lsn)));
        let mut lost = Vec::new();
        for mut run in had.runs {
            for kept in &self.runs {
                if kept.through <= run.after || kept.after >= run.through {
                    continue;
                }
                lost.push(LsnRange::new(run.after, kept.after));
                run.after = kept.through;
            }
            lost.push(run);
        }
        lost.retain(|run| !run.is_empty());
        Some(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lba, RecordKind};

    fn entry(lsn: u64) -> Entry {
        Entry {
            lsn: Lsn::new(lsn),
            lba: Lba(lsn),
            blocks: 1,
            header_at: 0,
            payload_at: 0,
            kind: RecordKind::Trim,
            no_hole: false,
        }
    }

    fn range(after: u64, through: u64) -> LsnRange {
        LsnRange::new(Lsn::new(after), Lsn::new(through))
    }

    #[test]
    fn a_part_ends_where_the_records_do() {
        let entries = Entries::from([3, 4, 5, 8, 9].map(entry).to_vec());
        assert_eq!(entries.runs(), [range(2, 5), range(7, 9)]);
        let parts = [
            ((2, 9), Some((2, 5))),
            ((3, 4), Some((3, 4))),
            ((1, 5), None),
            ((5, 9), None),
            ((7, 20), Some((7, 9))),
            ((9, 20), None),
        ];
        for ((after, through), expected) in parts {
            let expected = expected.map(|(after, through)| range(after, through));
            assert_eq!(
                entries.part(range(after, through)),
                expected,
                "({after}, {through}]"
            );
        }
    }

    #[test]
    fn what_is_dropped_is_in_no_part() {
        let mut entries = Entries::from([3, 4, 5, 8, 9].map(entry).to_vec());
        entries.drop_above(Lsn::new(8));
        assert_eq!(entries.runs(), [range(2, 5), range(7, 8)]);
        entries.drop_above(Lsn::new(4));
        assert_eq!((entries.last(), entries.count()), (Some(Lsn::new(4)), 2));
        assert!(matches!(entries.source(range(2, 4)), Source::Memory(stored) if stored.len() == 2));
        entries.drop_above(Lsn::new(1));
        assert_eq!((entries.first(), entries.count()), (None, 0));
    }
}
