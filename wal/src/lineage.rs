//! Lineage: which primary wrote which part of a history (D2).

use crate::{Epoch, Incarnation, Lsn};

/// One entry of a lineage: from `first` on, records carry this epoch and incarnation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LineageEntry {
    /// Epoch of the primary that wrote the records.
    pub epoch: Epoch,
    /// Its writable open.
    pub incarnation: Incarnation,
    /// First LSN of the entry. It may lie above the head: then the entry has no record yet.
    pub first: Lsn,
}

/// The entries of one history in order of their first LSN, at least the newest 64.
///
/// The table answers for LSNs from its oldest `first` on; a lineage that was never cut begins at
/// LSN 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    entries: Vec<LineageEntry>,
}

/// Where two histories part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// Equal through this LSN, the highest that both hold under equal entries.
    At(Lsn),
    /// Both hold records and share none.
    NoCommon,
    /// They part before the oldest entry that is still known.
    OlderThanTable,
}

impl Lineage {
    /// Entries kept at least (D2).
    pub const ENTRIES_MAX: usize = 64;

    /// A lineage from entries in order; `None` when they are not strictly ordered by first LSN, or
    /// epoch and incarnation do not rise together, or there are more than [`Self::ENTRIES_MAX`].
    #[must_use]
    pub fn from_entries(entries: Vec<LineageEntry>) -> Option<Lineage> {
        let ordered = entries.windows(2).all(|pair| {
            pair[0].first < pair[1].first
                && (pair[0].epoch, pair[0].incarnation) < (pair[1].epoch, pair[1].incarnation)
        });
        let real = entries.iter().all(|entry| !entry.first.is_zero());
        (ordered && real && entries.len() <= Lineage::ENTRIES_MAX).then_some(Lineage { entries })
    }

    /// The entries, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[LineageEntry] {
        &self.entries
    }

    /// The newest entry, with or without records.
    #[must_use]
    pub fn last(&self) -> Option<LineageEntry> {
        self.entries.last().copied()
    }

    /// The entry that LSN `lsn` was written under, if the table still knows it.
    #[must_use]
    pub fn entry_at(&self, lsn: Lsn) -> Option<LineageEntry> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.first <= lsn)
            .copied()
    }

    /// Starts an entry at `entry.first`. Entries that begin there or later got no record or were
    /// truncated, and are replaced; the oldest is dropped when the table is full.
    #[must_use]
    pub fn with(&self, entry: LineageEntry) -> Lineage {
        let mut next = self.through(entry.first.before());
        next.entries.push(entry);
        if next.entries.len() > Lineage::ENTRIES_MAX {
            next.entries.remove(0);
        }
        next
    }

    /// The lineage of the history cut after `lsn`: entries that begin above it are gone.
    #[must_use]
    pub fn through(&self, lsn: Lsn) -> Lineage {
        let entries = self
            .entries
            .iter()
            .filter(|entry| entry.first <= lsn)
            .copied()
            .collect();
        Lineage { entries }
    }

    /// Where this history, whose last record is `head`, parts from `other`, whose last record is
    /// `other_head`. Equal histories part at the lower head.
    #[must_use]
    pub fn fork_point(&self, head: Lsn, other: &Lineage, other_head: Lsn) -> Fork {
        let low = head.min(other_head);
        if low.is_zero() {
            return Fork::At(Lsn::ZERO);
        }
        let (ours, theirs) = (self.through(low), other.through(low));
        // The newest entry that both tables know with the same values: the histories agree from
        // its first LSN to the first LSN at which either one changes entries.
        let common = ours
            .entries
            .iter()
            .rev()
            .find(|entry| theirs.entries.contains(entry));
        let Some(common) = common else {
            return match (ours.entries.first(), theirs.entries.first()) {
                (Some(a), Some(b)) if a.first == Lsn::new(1) && b.first == Lsn::new(1) => {
                    Fork::NoCommon
                }
                _ => Fork::OlderThanTable,
            };
        };
        let change = |lineage: &Lineage| {
            lineage
                .entries
                .iter()
                .map(|entry| entry.first)
                .find(|first| *first > common.first)
        };
        let end = [change(&ours), change(&theirs)].into_iter().flatten().min();
        Fork::At(end.map_or(low, Lsn::before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(entries: &[(u64, u64, u64)]) -> Lineage {
        let entries = entries
            .iter()
            .map(|&(epoch, incarnation, first)| LineageEntry {
                epoch: Epoch::new(epoch),
                incarnation: Incarnation::new(incarnation),
                first: Lsn::new(first),
            });
        Lineage::from_entries(entries.collect()).expect("ordered entries")
    }

    fn fork(a: &Lineage, head: u64, b: &Lineage, other: u64) -> Fork {
        let there = a.fork_point(Lsn::new(head), b, Lsn::new(other));
        assert_eq!(
            there,
            b.fork_point(Lsn::new(other), a, Lsn::new(head)),
            "symmetric"
        );
        there
    }

    #[test]
    fn equal_lineages_part_at_the_lower_head() {
        let a = lineage(&[(1, 1, 1), (1, 2, 50)]);
        assert_eq!(fork(&a, 100, &a, 70), Fork::At(Lsn::new(70)));
        assert_eq!(fork(&a, 100, &a, 0), Fork::At(Lsn::ZERO));
    }

    #[test]
    fn another_incarnation_is_another_history() {
        let a = lineage(&[(1, 1, 1)]);
        let b = lineage(&[(1, 1, 1), (1, 2, 91)]);
        assert_eq!(fork(&a, 100, &b, 100), Fork::At(Lsn::new(90)));
        // An entry above the head got no record and forks nothing.
        assert_eq!(fork(&a, 90, &b, 90), Fork::At(Lsn::new(90)));
    }

    #[test]
    fn two_new_entries_after_a_common_one_part_at_the_earlier() {
        let a = lineage(&[(1, 1, 1), (2, 3, 60)]);
        let b = lineage(&[(1, 1, 1), (1, 2, 80)]);
        assert_eq!(fork(&a, 100, &b, 100), Fork::At(Lsn::new(59)));
    }

    #[test]
    fn nothing_shared_is_told_from_a_fork_older_than_the_table() {
        let a = lineage(&[(1, 1, 1)]);
        let b = lineage(&[(1, 2, 1)]);
        assert_eq!(fork(&a, 5, &b, 5), Fork::NoCommon);
        let cut = lineage(&[(9, 70, 500)]);
        assert_eq!(fork(&a, 300, &cut, 600), Fork::OlderThanTable);
    }

    #[test]
    fn an_entry_without_records_is_replaced() {
        let a = lineage(&[(1, 1, 1), (1, 2, 50)]);
        let next = LineageEntry {
            epoch: Epoch::new(1),
            incarnation: Incarnation::new(3),
            first: Lsn::new(50),
        };
        assert_eq!(a.with(next), lineage(&[(1, 1, 1), (1, 3, 50)]));
    }

    #[test]
    fn the_table_keeps_the_newest_entries() {
        let mut table = Lineage::default();
        for n in 1..=100 {
            table = table.with(LineageEntry {
                epoch: Epoch::new(1),
                incarnation: Incarnation::new(n),
                first: Lsn::new(n),
            });
        }
        assert_eq!(table.entries().len(), Lineage::ENTRIES_MAX);
        assert_eq!(table.last().map(|entry| entry.first), Some(Lsn::new(100)));
    }
}
