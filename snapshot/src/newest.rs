//! The newest record of every block above the checkpoint, in shards that are locked apart.
//!
//! A shard has two locks. Its `gate` is held shared from before a record gets its LSN until the
//! record has its place here, and alone by whoever completes a part of a block from its newest
//! version, or has to know that every record appended so far has its place. Its `index` is held
//! for the time of a lookup or an insert, never across an append or I/O. So the order of inserts
//! does not follow the LSNs; an entry gives way only to one of a higher LSN (S5).

use std::ops::Range;
use std::sync::PoisonError;

use seawall_wal::disk::Bytes;
use seawall_wal::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use seawall_wal::{Lsn, RecordPlace};

use crate::index::{Index, Version};
use crate::recent::Recent;
use crate::{read_lock, to_usize, write_lock};

/// Neighbouring blocks of one shard: as many as a record of 4 KiB blocks has at most.
const REGION_BLOCKS: u64 = 256;
const SHARDS: u64 = 64;

/// A piece of a range, and its newest version above the checkpoint if it has one.
pub(crate) type Piece = (Range<u64>, Option<Version>);

/// What readers look at before they look at the image.
///
/// Region `r` belongs to shard `r % 64`. A range that has no more regions than there are shards
/// lies in the shards of its regions, cut at their borders; a longer one lies whole in every shard,
/// so that a trim of a terabyte costs 64 entries. A shard is asked about its own regions only.
#[derive(Debug)]
pub(crate) struct Newest {
    shards: Vec<Shard>,
    recent: Recent,
}

#[derive(Debug, Default)]
struct Shard {
    gate: RwLock<()>,
    index: RwLock<Index>,
}

/// Keeps parts of blocks from being completed while a record about them gets its place.
pub(crate) type Shared<'a> = Vec<RwLockReadGuard<'a, ()>>;
/// Keeps every other writer of the blocks away.
pub(crate) type Alone<'a> = Vec<RwLockWriteGuard<'a, ()>>;

fn regions(range: &Range<u64>) -> Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / REGION_BLOCKS..(range.end - 1) / REGION_BLOCKS + 1,
    }
}

fn part(region: u64, range: &Range<u64>) -> Range<u64> {
    let start = range.start.max(region * REGION_BLOCKS);
    start..range.end.min((region + 1) * REGION_BLOCKS)
}

/// The regions of a range that has no more of them than there are shards, in the order in which
/// their shards are locked.
fn in_lock_order(regions: Range<u64>) -> impl Iterator<Item = u64> {
    let wrap = (regions.start / SHARDS + 1) * SHARDS;
    (wrap..regions.end).chain(regions.start..regions.end.min(wrap))
}

impl Newest {
    /// Of records in LSN order.
    pub(crate) fn of(places: &[RecordPlace]) -> Newest {
        let newest = Newest {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            recent: Recent::new(),
        };
        places.iter().for_each(|place| newest.note(place));
        newest
    }

    fn shard(&self, region: u64) -> &Shard {
        &self.shards[to_usize(region % SHARDS)]
    }

    /// The shard in which a range lies whole, when that is one alone.
    fn only_shard(&self, range: &Range<u64>) -> Option<&Shard> {
        let regions = regions(range);
        (regions.end - regions.start == 1).then(|| self.shard(regions.start))
    }

    /// The shards in which a range lies, in the order in which they are locked, each with the part
    /// that lies in it.
    fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = (Range<u64>, &Shard)> {
        let regions = regions(range);
        let whole = regions.end - regions.start > SHARDS;
        let numbers = if whole { 0..SHARDS } else { regions };
        let range = range.clone();
        in_lock_order(numbers).map(move |region| {
            let part = if whole {
                range.clone()
            } else {
                part(region, &range)
            };
            (part, self.shard(region))
        })
    }

    /// Held from before a record about these blocks gets its LSN until it has its place.
    pub(crate) fn share(&self, range: &Range<u64>) -> Shared<'_> {
        let parts = self.parts(range);
        parts.map(|(_, shard)| read_lock(&shard.gate)).collect()
    }

    /// Held while a part of these blocks is completed from its newest version and appended.
    pub(crate) fn alone(&self, range: &Range<u64>) -> Alone<'_> {
        let parts = self.parts(range);
        parts.map(|(_, shard)| write_lock(&shard.gate)).collect()
    }

    /// Keeps every other writer away.
    pub(crate) fn all_alone(&self) -> Alone<'_> {
        let shards = self.shards.iter();
        shards.map(|shard| write_lock(&shard.gate)).collect()
    }

    /// Whether somebody holds the gate of a block alone.
    #[cfg(test)]
    pub(crate) fn is_gated(&self, lba: u64) -> bool {
        self.shard(lba / REGION_BLOCKS).gate.try_read().is_err()
    }

    /// Returns once every record that has an LSN by now has its place.
    pub(crate) fn settle(&self) {
        for shard in &self.shards {
            drop(write_lock(&shard.gate));
        }
    }

    /// Gives a record its place; readers see all of it or nothing.
    pub(crate) fn note(&self, place: &RecordPlace) {
        let range = place.lba.0..place.lba.0 + u64::from(place.blocks);
        if let Some(shard) = self.only_shard(&range) {
            let replaced = write_lock(&shard.index).note_newer(range, Version::of(place));
            if let Some(replaced) = replaced.filter(|replaced| replaced.lsn < place.lsn) {
                self.recent.forget(replaced.lsn);
            }
            return;
        }
        let parts = self.parts(&range);
        let mut held: Vec<_> = parts
            .map(|(part, shard)| (part, write_lock(&shard.index)))
            .collect();
        for (part, index) in &mut held {
            index.note_newer(part.clone(), Version::of(place));
        }
    }

    /// As [`Newest::note`], and keeps the payload at hand.
    pub(crate) fn note_with(&self, place: &RecordPlace, payload: &Bytes) {
        if !payload.is_empty() {
            self.recent.keep(place.lsn, place.lba.0, payload);
        }
        self.note(place);
    }

    /// The payload of the record at `lsn` that begins at block `first`, if it is at hand.
    pub(crate) fn payload(&self, lsn: Lsn, first: u64) -> Option<Bytes> {
        self.recent.get(lsn, first)
    }

    /// Every piece of a range of a few regions, gaps included, in order and as of one moment.
    pub(crate) fn pieces(&self, range: &Range<u64>) -> Vec<Piece> {
        if let Some(shard) = self.only_shard(range) {
            return read_lock(&shard.index).pieces(range.clone()).collect();
        }
        let parts = self.parts(range);
        let mut held: Vec<_> = parts
            .map(|(part, shard)| (part, read_lock(&shard.index)))
            .collect();
        held.sort_unstable_by_key(|(part, _)| part.start);
        let mut pieces: Vec<Piece> = Vec::new();
        for (piece, version) in held
            .iter()
            .flat_map(|(part, index)| index.pieces(part.clone()))
        {
            match pieces.last_mut() {
                // One record is read once, also across the border of a region.
                Some((before, same)) if *same == version => before.end = piece.end,
                _ => pieces.push((piece, version)),
            }
        }
        pieces
    }

    /// A piece that begins at `at`, at most up to `end`.
    pub(crate) fn piece(&self, at: u64, end: u64) -> Piece {
        let own = part(at / REGION_BLOCKS, &(at..end));
        let (piece_end, version) =
            read_lock(&self.shard(at / REGION_BLOCKS).index).piece(at, own.end);
        if version.is_some() || piece_end < own.end {
            return (at..piece_end, version);
        }
        // Nothing up to the border of the region: then nothing up to the first entry of any shard.
        let firsts = (1..=SHARDS).filter_map(|ahead| {
            let region = at / REGION_BLOCKS + ahead;
            let from = region * REGION_BLOCKS;
            let start = read_lock(&self.shard(region).index).next_from(from)?;
            Some(start.max(from))
        });
        (at..firsts.min().unwrap_or(end).min(end), None)
    }

    /// Forgets every version at or below `through`: the image has it.
    pub(crate) fn forget(&self, through: Lsn) {
        self.recent.forget_through(through);
        for shard in &self.shards {
            write_lock(&shard.index).retain(|version| version.lsn > through);
        }
    }

    /// Lets `change` say anew what there is, while nobody reads; `None` is what there was.
    pub(crate) fn replace(&self, change: impl FnOnce() -> Option<Vec<RecordPlace>>) {
        let mut held: Vec<_> = self
            .shards
            .iter()
            .map(|shard| write_lock(&shard.index))
            .collect();
        let Some(changed) = change() else {
            return;
        };
        self.recent.clear();
        let fresh = Newest::of(&changed);
        for (index, shard) in held.iter_mut().zip(fresh.shards) {
            **index = shard
                .index
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use seawall_wal::{Lba, RecordKind};

    fn place(lsn: u64, lba: u64, blocks: u64) -> RecordPlace {
        RecordPlace {
            lsn: Lsn::new(lsn),
            kind: RecordKind::Write,
            no_hole: false,
            lba: Lba(lba),
            blocks: u32::try_from(blocks).unwrap(),
        }
    }

    /// The LSN of every block, found piece by piece.
    fn walked(newest: &Newest, blocks: u64) -> Vec<u64> {
        let mut found = Vec::new();
        while (found.len() as u64) < blocks {
            let at = found.len() as u64;
            let (piece, version) = newest.piece(at, blocks);
            assert!(piece.start == at && piece.end > at && piece.end <= blocks);
            found.extend(piece.map(|_| version.map_or(0, |version| version.lsn.get())));
        }
        found
    }

    #[test]
    fn locks_are_taken_in_ascending_order_wherever_a_range_begins() {
        for first in 0..2 * SHARDS {
            for count in 1..=SHARDS {
                let order: Vec<_> = in_lock_order(first..first + count).collect();
                assert!(
                    order.is_sorted_by_key(|region| region % SHARDS),
                    "{first} {count}"
                );
                assert_eq!(order.len() as u64, count);
            }
        }
    }

    #[test]
    fn a_trim_of_a_terabyte_costs_one_entry_in_each_shard_and_is_forgotten_whole() {
        let newest = Newest::of(&[place(1, 0, 1 << 28), place(2, 1000, 1)]);
        let entries = |newest: &Newest| -> usize {
            let shards = newest.shards.iter();
            shards
                .map(|shard| read_lock(&shard.index).iter().count())
                .sum()
        };
        assert!(entries(&newest) <= 64 + 2, "{}", entries(&newest));
        newest.forget(Lsn::new(1));
        assert_eq!(entries(&newest), 1);
        assert_eq!(newest.piece(0, 1 << 28), (0..1000, None));
        assert_eq!(newest.piece(1001, 1 << 28), (1001..1 << 28, None));
    }

    #[test]
    fn a_piece_of_one_record_is_one_piece_across_regions() {
        let newest = Newest::of(&[place(1, 200, 100)]);
        let pieces = newest.pieces(&(150..350));
        let ranges: Vec<_> = pieces.into_iter().map(|(range, _)| range).collect();
        assert_eq!(ranges, [150..200, 200..300, 300..350]);
    }

    proptest! {
        #[test]
        fn the_newest_record_wins_in_whatever_order_places_are_noted(
            places in proptest::collection::vec((1u64..1000, 0u64..25_000, 1u64..20_000), 1..40),
            forgotten in 0u64..1000,
        ) {
            let blocks = 45_000u64;
            let newest = Newest::of(&[]);
            let mut naive = vec![0; usize::try_from(blocks).unwrap()];
            for (lsn, lba, count) in places {
                newest.note(&place(lsn, lba, count));
                for block in &mut naive[to_usize(lba)..to_usize(lba + count)] {
                    *block = lsn.max(*block);
                }
            }
            prop_assert!(walked(&newest, blocks) == naive);
            for lba in (0..blocks - 300).step_by(97) {
                let mut at = lba;
                for (piece, version) in newest.pieces(&(lba..lba + 300)) {
                    prop_assert_eq!(piece.start, at);
                    let lsn = version.map_or(0, |version| version.lsn.get());
                    prop_assert!(piece.clone().all(|lba| naive[to_usize(lba)] == lsn));
                    at = piece.end;
                }
                prop_assert_eq!(at, lba + 300);
            }
            newest.forget(Lsn::new(forgotten));
            naive.iter_mut().for_each(|lsn| *lsn = if *lsn > forgotten { *lsn } else { 0 });
            prop_assert!(walked(&newest, blocks) == naive);
        }
    }
}
