//! The pages of the file `sums`, sector by sector: each sector has a sum over the block sums in it,
//! and one that fails is mended from the blocks.
//!
//! A sector is what a crash leaves old or new and never between, so one that fails is damaged, at
//! any time. What the blocks give in place of the sums that they do not fit is the truth if the
//! sector's own sum says so. One that was never written is a hole, and so are its blocks: zeros
//! over blocks that are not zero are a sector that was lost.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use seawall_wal::BlockSize;
use seawall_wal::disk::File;
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::sums::{Digest, block_sum, block_sums, is_zero};
use crate::to_usize;

/// Sums in a sector.
pub(crate) const SECTOR_SUMS: u64 = 31;
pub(crate) const SECTOR_BYTES: usize = 512;
/// Sums in a page, the unit in which the file is read and written.
pub(crate) const PAGE_SUMS: u64 = 248;
pub(crate) const PAGE_BYTES: usize = 4096;
const PAGE_SECTORS: u64 = 8;
/// Where the sum of a sector lies, behind the sums of its blocks.
pub(crate) const CHECK_AT: usize = SECTOR_BYTES - Digest::BYTES;

const _: () = assert!(CHECK_AT == Digest::BYTES * 31);
const _: () = assert!(PAGE_BYTES == SECTOR_BYTES * 8);

/// Sums that may be wrong at once for all ways to mend a sector to be tried.
const DIFFER_MAX: usize = 8;

/// Bytes of the file of a volume of `blocks` blocks.
pub(crate) const fn file_bytes(blocks: u64) -> u64 {
    blocks.div_ceil(PAGE_SUMS) * PAGE_BYTES as u64
}

/// Where a page begins.
pub(crate) const fn page_at(page: u64) -> u64 {
    page * PAGE_BYTES as u64
}

/// Where the sum of a block lies.
pub(crate) const fn sum_at(lba: u64) -> u64 {
    lba / SECTOR_SUMS * SECTOR_BYTES as u64 + lba % SECTOR_SUMS * Digest::BYTES as u64
}

/// The blocks whose sums lie in these bytes of the file, and in the sectors that they cut.
pub(crate) const fn blocks_at(first: u64, second: u64) -> Range<u64> {
    let sector = SECTOR_BYTES as u64;
    first / sector * SECTOR_SUMS..second.div_ceil(sector) * SECTOR_SUMS
}

/// The sums in whole sectors.
pub(crate) fn sums_of(sectors: &[u8]) -> impl Iterator<Item = Digest> {
    let sums = |sector| <[u8]>::chunks_exact(sector, Digest::BYTES).take(31);
    sectors
        .chunks_exact(SECTOR_BYTES)
        .flat_map(sums)
        .map(Digest::from_bytes)
}

/// The sum of sector `sector` of the file over the sums in it; its number keeps one that was
/// written in a wrong place from passing. It is never zero: a sector of zeros was never written,
/// or is lost.
fn check_of(sector: u64, sums: impl Iterator<Item = Digest>) -> Digest {
    let own = Digest(xxh3_128(&sector.to_le_bytes()));
    let first = sector * SECTOR_SUMS;
    (first..)
        .zip(sums)
        .fold(own, |check, (lba, sum)| check.with_block(lba, sum))
}

/// What the sum of a sector has beyond the sums in it: nothing if the sector is as it was written.
/// It stays the same when a sum that is right is replaced, and tells what the wrong ones have to
/// be as long as the blocks can be read.
fn excess_of(sector: u64, bytes: &[u8]) -> Digest {
    let check = Digest::from_bytes(&bytes[CHECK_AT..]);
    Digest(check.0.wrapping_sub(check_of(sector, sums_of(bytes)).0))
}

/// The excess with which a sector that was lost is written: of no use, and not zeros again.
const LOST: Digest = Digest(1);

/// Whether a sector is as it was written.
fn is_sound(sector: u64, bytes: &[u8]) -> bool {
    excess_of(sector, bytes) == Digest::ZERO
}

/// Whether a sector of a page is all zeros.
pub(crate) fn has_absent(page: &[u8]) -> bool {
    page.chunks_exact(SECTOR_BYTES).any(is_zero)
}

/// The sums of a page, and what of them is in doubt.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// Empty before a page was loaded.
    pub(crate) sums: Vec<Digest>,
    /// The blocks whose sums may be wrong: neither they nor their sector fit anything.
    pub(crate) suspects: Vec<u64>,
    /// The sectors of these, with their excess.
    unsound: Vec<(u64, Digest)>,
    /// It is not on disk as it has to be.
    pub(crate) stale: bool,
}

impl Page {
    /// Of bytes that were mended.
    pub(crate) fn of(page: u64, bytes: &[u8], mended: Mended) -> Page {
        let mut sectors: Vec<u64> = mended
            .suspects
            .iter()
            .map(|lba| lba / SECTOR_SUMS)
            .collect();
        sectors.dedup();
        let excess = |sector: u64| {
            let at = to_usize(sector - page * PAGE_SECTORS) * SECTOR_BYTES;
            let bytes = &bytes[at..at + SECTOR_BYTES];
            match is_zero(bytes) {
                true => (sector, LOST),
                false => (sector, excess_of(sector, bytes)),
            }
        };
        Page {
            sums: sums_of(bytes).collect(),
            suspects: mended.suspects,
            unsound: sectors.into_iter().map(excess).collect(),
            stale: mended.stale,
        }
    }

    /// Whether the sum of one of these blocks may be wrong.
    pub(crate) fn doubts(&self, range: &Range<u64>) -> bool {
        self.suspects.iter().any(|lba| range.contains(lba))
    }

    /// Sets the sums of the blocks of page `page` from `lba` on.
    pub(crate) fn put(&mut self, lba: u64, sums: &[Digest]) {
        let (first, end) = (to_usize(lba % PAGE_SUMS), lba + sums.len() as u64);
        self.sums[first..first + sums.len()].copy_from_slice(sums);
        let suspects = &mut self.suspects;
        suspects.retain(|suspect| !(lba..end).contains(suspect));
        let doubtful = |sector: u64| suspects.iter().any(|lba| lba / SECTOR_SUMS == sector);
        self.unsound.retain(|(sector, _)| doubtful(*sector));
    }

    /// The bytes of it. A sector with a suspect in it stays unsound by as much as it was: its sums
    /// are not vouched for, and what can mend it is not lost.
    pub(crate) fn encode(&self, page: u64, out: &mut [u8]) {
        let sectors = out.chunks_exact_mut(SECTOR_BYTES);
        let each = self.sums.chunks(to_usize(SECTOR_SUMS));
        for (number, (sector, sums)) in (page * PAGE_SECTORS..).zip(sectors.zip(each)) {
            for (place, sum) in sector.chunks_exact_mut(Digest::BYTES).zip(sums) {
                LittleEndian::write_u128(place, sum.0);
            }
            let unsound = self.unsound.iter().find(|(sector, _)| *sector == number);
            let excess = unsound.map_or(0, |(_, excess)| excess.0);
            let check = check_of(number, sums.iter().copied()).0;
            LittleEndian::write_u128(&mut sector[CHECK_AT..], check.wrapping_add(excess));
        }
    }
}

/// The blocks that sums are about: what a damaged sector is mended from.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    pub(crate) file: Arc<File>,
    pub(crate) size: BlockSize,
    pub(crate) count: u64,
}

/// What a sector of zeros is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// One that was never written: whoever asks looks at the blocks, or writes them.
    Believed,
    /// One that was never written only if its blocks are zeros, and lost otherwise.
    Proven,
}

/// What became of sectors that were read.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// The blocks whose sums may still be wrong.
    pub(crate) suspects: Vec<u64>,
    /// Not all of it is on disk as it has to be: one was unsound and is no longer, or was lost.
    pub(crate) stale: bool,
}

impl Blocks {
    /// The sums of the blocks of a sector as they are now; `None` where one cannot be read.
    fn sums(&self, sector: u64) -> Vec<Option<Digest>> {
        let first = sector * SECTOR_SUMS;
        let count = to_usize(self.count.saturating_sub(first).min(SECTOR_SUMS));
        let (shift, size) = (self.size.shift(), self.size.bytes_usize());
        let mut sums: Vec<_> = match self.file.read_exact(first << shift, count * size) {
            Ok(bytes) => block_sums(&bytes, self.size)
                .into_iter()
                .map(Some)
                .collect(),
            Err(_) => (first..first + count as u64)
                .map(|lba| self.file.read_exact(lba << shift, size).ok())
                .map(|block| block.map(|block| block_sum(&block)))
                .collect(),
        };
        // Behind the end of the volume everything is zero.
        sums.resize(to_usize(SECTOR_SUMS), Some(Digest::ZERO));
        sums
    }

    /// The first block at or behind `lba` that may hold data, and the end of that data.
    pub(crate) fn next_data(&self, lba: u64) -> Result<Option<Range<u64>>, Error> {
        if lba >= self.count {
            return Ok(None);
        }
        let Some((first, second)) = self.file.next_data(lba << self.size.shift())? else {
            return Ok(None);
        };
        let size = self.size.bytes();
        let range = (first / size).max(lba)..second.div_ceil(size).min(self.count);
        Ok((range.start < range.end).then_some(range))
    }

    /// Mends the unsound ones of whole sectors from number `first` on, in memory.
    pub(crate) fn mend(&self, first: u64, sectors: &mut [u8], absent: Absent) -> Mended {
        let mut done = Mended::default();
        let mut hole = 0..0;
        for (number, sector) in (first..).zip(sectors.chunks_exact_mut(SECTOR_BYTES)) {
            let zero = is_zero(sector);
            if zero && (absent == Absent::Believed || self.is_hole(number, &mut hole)) {
                continue;
            }
            if !zero && is_sound(number, sector) {
                continue;
            }
            let left = self.mend_sector(number, sector);
            if zero && left.is_empty() {
                continue;
            }
            let (mended, lba) = (left.is_empty(), number * SECTOR_SUMS);
            tracing::warn!(path = %self.file.path().display(), lba, mended,
                "the sums of 31 blocks from here on failed their own sum");
            done.stale |= mended || zero;
            done.suspects.extend(left);
        }
        done
    }

    /// As [`Blocks::mend`], for a whole page.
    pub(crate) fn mend_page(&self, page: u64, bytes: &mut [u8], absent: Absent) -> Mended {
        self.mend(page * PAGE_SECTORS, bytes, absent)
    }

    /// Whether all blocks of a sector lie in a hole; `hole` is one that is known.
    fn is_hole(&self, sector: u64, hole: &mut Range<u64>) -> bool {
        let (first, end) = (sector * SECTOR_SUMS, (sector + 1) * SECTOR_SUMS);
        if !hole.contains(&first) {
            let data = self.next_data(first);
            // What cannot be asked is read.
            let data = data.map(|data| data.map_or(u64::MAX, |data| data.start));
            *hole = first..data.unwrap_or(first);
        }
        end <= hole.end
    }

    /// Puts right what the blocks tell of a sector; gives the blocks whose sums may be wrong where
    /// that is not all, and leaves it as it is then.
    fn mend_sector(&self, number: u64, sector: &mut [u8]) -> Vec<u64> {
        let first = number * SECTOR_SUMS;
        let stored: Vec<Digest> = sums_of(sector).collect();
        let found = self.sums(number);
        let pairs = (first..).zip(found.into_iter().zip(stored));
        let (mut differ, mut suspects) = (Vec::new(), Vec::new());
        for (lba, (found, stored)) in pairs.filter(|(_, (found, stored))| *found != Some(*stored)) {
            suspects.push(lba);
            if let Some(found) = found {
                let change = Digest::ZERO
                    .with_block(lba, found)
                    .without_block(lba, stored);
                differ.push((lba, found, change));
            }
        }
        let excess = excess_of(number, sector);
        for choice in choices(differ.len()) {
            let chosen = || (0..).zip(&differ).filter(|(bit, _)| choice >> bit & 1 == 1);
            let change = chosen().fold(0_u128, |sum, (_, (.., change))| sum.wrapping_add(change.0));
            // With nothing that differs the blocks themselves vouch for every sum.
            if change == excess.0 || suspects.is_empty() {
                for (_, (lba, found, _)) in chosen() {
                    let at = to_usize(lba - first) * Digest::BYTES;
                    LittleEndian::write_u128(&mut sector[at..at + Digest::BYTES], found.0);
                }
                let check = check_of(number, sums_of(sector));
                LittleEndian::write_u128(&mut sector[CHECK_AT..], check.0);
                return Vec::new();
            }
        }
        suspects
    }
}

/// Which of the sums that differ are taken from the blocks, bit by bit: every choice of a few, all
/// of many.
fn choices(differ: usize) -> Box<dyn Iterator<Item = u32>> {
    match differ {
        0..=DIFFER_MAX => Box::new(0..1 << differ),
        _ => Box::new(std::iter::once(u32::MAX)),
    }
}
