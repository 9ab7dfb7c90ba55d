//! The pages of the file `sums`, sector by sector: each sector has a sum over the block sums in it,
//! and one that fails is mended from the blocks.
//!
//! A sector is what a crash leaves old or new and never between, so one that fails is damaged, at
//! any time. What the blocks give in place of the sums that they do not fit is the truth if the
//! sector's own sum says so.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use seawall_wal::BlockSize;
use seawall_wal::disk::File;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::sums::{Digest, block_sum, block_sums, is_zero};
use crate::to_usize;

/// Sums in a sector.
pub(crate) const SECTOR_SUMS: u64 = 31;
pub(crate) const SECTOR_BYTES: usize = 512;
/// Sums in a page, the unit in which the file is read and written.
pub(crate) const PAGE_SUMS: u64 = 248;
pub(crate) const PAGE_BYTES: usize = 4096;
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
/// written in a wrong place from passing.
fn check_of(sector: u64, sums: &[u8]) -> Digest {
    match is_zero(sums) {
        true => Digest::ZERO,
        false => Digest(xxh3_128_with_seed(sums, sector)),
    }
}

/// Whether a sector is as it was written.
pub(crate) fn is_sound(sector: u64, bytes: &[u8]) -> bool {
    Digest::from_bytes(&bytes[CHECK_AT..]) == check_of(sector, &bytes[..CHECK_AT])
}

/// A page with its sums. A sector with one of the `suspects` in it stays unsound: its sums are not
/// vouched for.
pub(crate) fn encode(page: u64, sums: &[Digest], suspects: &[u64], out: &mut [u8]) {
    let sectors = out.chunks_exact_mut(SECTOR_BYTES);
    let each = sums.chunks(to_usize(SECTOR_SUMS));
    for (number, (sector, sums)) in (page * 8..).zip(sectors.zip(each)) {
        for (place, sum) in sector.chunks_exact_mut(Digest::BYTES).zip(sums) {
            LittleEndian::write_u128(place, sum.0);
        }
        let check = check_of(number, &sector[..CHECK_AT]);
        let doubtful = suspects.iter().any(|lba| lba / SECTOR_SUMS == number);
        let check = match doubtful {
            true => !check.0,
            false => check.0,
        };
        LittleEndian::write_u128(&mut sector[CHECK_AT..], check);
    }
}

/// The blocks that sums are about: what a damaged sector is mended from.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    pub(crate) file: Arc<File>,
    pub(crate) size: BlockSize,
    pub(crate) count: u64,
}

/// What became of sectors that were read.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// The blocks whose sums may still be wrong.
    pub(crate) suspects: Vec<u64>,
    /// One was unsound, and is no longer.
    pub(crate) mended: bool,
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

    /// Mends the unsound ones of whole sectors from number `first` on, in memory.
    pub(crate) fn mend(&self, first: u64, sectors: &mut [u8]) -> Mended {
        let mut done = Mended::default();
        for (number, sector) in (first..).zip(sectors.chunks_exact_mut(SECTOR_BYTES)) {
            if !is_sound(number, sector) {
                let left = self.mend_sector(number, sector);
                let (mended, lba) = (left.is_empty(), number * SECTOR_SUMS);
                tracing::warn!(path = %self.file.path().display(), lba, mended,
                    "the sums of 31 blocks from here on failed their own sum");
                done.mended |= mended;
                done.suspects.extend(left);
            }
        }
        done
    }

    fn mend_sector(&self, number: u64, sector: &mut [u8]) -> Vec<u64> {
        let found = self.sums(number);
        let stored: Vec<Digest> = sums_of(sector).collect();
        let differ = (0..found.len()).filter(|index| found[*index] != Some(stored[*index]));
        let differ: Vec<usize> = differ.collect();
        let check = Digest::from_bytes(&sector[CHECK_AT..]);
        for choice in choices(differ.len()) {
            for (bit, index) in differ.iter().enumerate() {
                let sum = match (choice >> bit & 1, found[*index]) {
                    (1, Some(found)) => found,
                    _ => stored[*index],
                };
                let place = &mut sector[index * Digest::BYTES..][..Digest::BYTES];
                LittleEndian::write_u128(place, sum.0);
            }
            let sealed = check_of(number, &sector[..CHECK_AT]);
            // With nothing that differs the blocks themselves vouch for every sum.
            if sealed == check || differ.is_empty() {
                LittleEndian::write_u128(&mut sector[CHECK_AT..], sealed.0);
                return Vec::new();
            }
        }
        for (place, sum) in sector.chunks_exact_mut(Digest::BYTES).zip(&stored) {
            LittleEndian::write_u128(place, sum.0);
        }
        let first = number * SECTOR_SUMS;
        differ.iter().map(|index| first + *index as u64).collect()
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
