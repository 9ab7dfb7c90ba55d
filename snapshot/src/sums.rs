//! Block sums, chunk digests, state digest (D18).

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use seawall_wal::BlockSize;
use seawall_wal::disk::{Buffer, Disk, File, OpenMode};
use xxhash_rust::xxh3::xxh3_128;

use crate::error::Error;
use crate::image::is_failed_read;
use crate::pipe::writes_to;
use crate::sumcache::SumCache;
use crate::sumpage::{
    self, Absent, Blocks, PAGE_BYTES, PAGE_SUMS, Page, SECTOR_BYTES, SECTOR_SUMS, page_at, sums_of,
};
use crate::to_usize;

/// A 128-bit sum: of a block, a chunk, or a whole state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Digest(pub u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Digest {
    /// Bytes of a sum on disk.
    pub const BYTES: usize = 16;
    /// The sum of a block of zeros, and the digest of a state of zeros.
    pub const ZERO: Digest = Digest(0);

    /// XXH3-128 of `bytes`, as it is.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(xxh3_128(bytes))
    }

    /// The bytes as they lie on disk.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Digest::BYTES] {
        let mut bytes = [0; Digest::BYTES];
        LittleEndian::write_u128(&mut bytes, self.0);
        bytes
    }

    /// From the bytes on disk; the first 16 count.
    ///
    /// # Panics
    /// With fewer than 16 bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Digest {
        Digest(LittleEndian::read_u128(bytes))
    }

    /// This state with block `lba` of sum `sum` put in place of a block of zeros.
    #[must_use]
    pub fn with_block(self, lba: u64, sum: Digest) -> Digest {
        Digest(self.0.wrapping_add(contribution(lba, sum)))
    }

    /// This state with block `lba` of sum `sum` replaced by a block of zeros.
    #[must_use]
    pub fn without_block(self, lba: u64, sum: Digest) -> Digest {
        Digest(self.0.wrapping_sub(contribution(lba, sum)))
    }
}

/// What one block adds to the digest of its state: nothing when it is zero, so that a hole and a
/// block of zeros are the same.
fn contribution(lba: u64, sum: Digest) -> u128 {
    if sum == Digest::ZERO {
        return 0;
    }
    let mut bytes = [0; 24];
    LittleEndian::write_u64(&mut bytes, lba);
    LittleEndian::write_u128(&mut bytes[8..], sum.0);
    xxh3_128(&bytes)
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Whether every byte is zero.
#[must_use]
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes
        .chunks(ZEROS.len())
        .all(|part| part == &ZEROS[..part.len()])
}

/// The sum of a block: zero for zeros and for nothing else.
#[must_use]
pub fn block_sum(block: &[u8]) -> Digest {
    if is_zero(block) {
        return Digest::ZERO;
    }
    match Digest::of(block) {
        Digest::ZERO => Digest(1),
        sum => sum,
    }
}

/// The sums of the blocks in `bytes`.
pub(crate) fn block_sums(bytes: &[u8], block_size: BlockSize) -> Vec<Digest> {
    bytes
        .chunks(block_size.bytes_usize())
        .map(block_sum)
        .collect()
}

/// The file `sums` of a base: 16 bytes a block and 16 for every 31 of them, sparse where blocks are
/// zero. Whatever is read of it has been checked, and mended where that is possible.
#[derive(Debug)]
pub(crate) struct Sums {
    pub(crate) file: Arc<File>,
    /// For whole pages: what a checkpoint writes does not pass through the page cache, where it
    /// would reach the disk all at once and keep the log from it.
    pub(crate) direct: Option<Arc<File>>,
    pub(crate) cache: SumCache,
    blocks: Blocks,
}

/// Sums that fail their own sum, 31 of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rot {
    /// The first of their blocks.
    pub(crate) first: u64,
    /// The first block whose sum is wrong, or the first of all.
    pub(crate) lba: u64,
    /// Blocks that fit neither their sums nor what the sector says of them; where there are none,
    /// the blocks vouch for what the sums have to be.
    pub(crate) suspects: Vec<u64>,
}

impl Sums {
    /// Creates or opens the file that belongs to `blocks`.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        mode: OpenMode,
        blocks: Blocks,
    ) -> Result<Sums, Error> {
        let file = Arc::new(File::open(disk, path, mode)?);
        if mode == OpenMode::CreateNew {
            file.set_length(sumpage::file_bytes(blocks.count))?;
        }
        let direct = writes_to(disk, path, mode)?;
        Ok(Sums {
            file,
            direct,
            cache: SumCache::new(),
            blocks,
        })
    }

    /// The same sums, read past the page cache.
    pub(crate) fn on_medium(&self) -> Result<Sums, Error> {
        let file = File::open_direct(self.file.disk(), self.path(), OpenMode::Read)?;
        Ok(Sums {
            file: Arc::new(file),
            direct: None,
            cache: SumCache::new(),
            blocks: self.blocks.clone(),
        })
    }

    /// The blocks that they are about.
    pub(crate) fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    pub(crate) fn has_full_length(&self) -> Result<bool, Error> {
        Ok(self.file.length()? == sumpage::file_bytes(self.blocks.count))
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        Ok(self.file.sync()?)
    }

    /// The sums of `count` blocks from `lba` on, to check the blocks.
    pub(crate) fn read(&self, lba: u64, count: usize) -> Result<Vec<Digest>, Error> {
        Ok(self.mended(lba, count, Absent::Believed)?.0)
    }

    /// The sums of `count` blocks from `lba` on, for one who does not look at the blocks, and the
    /// first of them whose sum may be wrong.
    pub(crate) fn read_proven(
        &self,
        lba: u64,
        count: usize,
    ) -> Result<(Vec<Digest>, Option<u64>), Error> {
        self.mended(lba, count, Absent::Proven)
    }

    fn mended(
        &self,
        lba: u64,
        count: usize,
        absent: Absent,
    ) -> Result<(Vec<Digest>, Option<u64>), Error> {
        let first = lba / SECTOR_SUMS;
        let mut bytes = self.sectors(lba, count)?;
        let suspects = self.blocks.mend(first, &mut bytes, absent).suspects;
        let skipped = to_usize(lba - first * SECTOR_SUMS);
        let range = lba..lba + count as u64;
        let suspect = suspects.into_iter().find(|lba| range.contains(lba));
        Ok((sums_of(&bytes).skip(skipped).take(count).collect(), suspect))
    }

    /// The sectors with the sums of these blocks, as they lie there.
    fn sectors(&self, lba: u64, count: usize) -> Result<Buffer, Error> {
        let first = lba / SECTOR_SUMS;
        let end = (lba + count as u64).div_ceil(SECTOR_SUMS);
        let length = to_usize(end - first) * SECTOR_BYTES;
        Ok(self.file.read_exact(first * SECTOR_BYTES as u64, length)?)
    }

    /// As [`Sums::read`], from memory where the pages were read before.
    pub(crate) fn read_cached(&self, lba: u64, count: usize) -> Result<Vec<Digest>, Error> {
        let end = lba + count as u64;
        let mut sums = Vec::with_capacity(count);
        let mut at = lba;
        while at < end {
            let page = at / PAGE_SUMS;
            let part_end = end.min((page + 1) * PAGE_SUMS);
            let (skipped, part) = (to_usize(at % PAGE_SUMS), to_usize(part_end - at));
            let mut take = |bytes: &[u8]| sums.extend(sums_of(bytes).skip(skipped).take(part));
            if self.cache.with(page, &mut take).is_none() {
                match self.load_page(page) {
                    Ok(bytes) => take(&bytes),
                    // A bad sector costs no more than what it covers (L-E3).
                    Err(_) => sums.extend(self.read(at, part)?),
                }
            }
            at = part_end;
        }
        Ok(sums)
    }

    fn load_page(&self, page: u64) -> Result<Buffer, Error> {
        let seen = self.cache.before_read();
        let mut bytes = self.file.read_exact(page_at(page), PAGE_BYTES)?;
        let mended = self.blocks.mend_page(page, &mut bytes, Absent::Believed);
        // One that is right in memory only would not be written again before its blocks change.
        if !mended.stale && mended.suspects.is_empty() {
            self.cache.keep(page, &bytes, seen);
        }
        Ok(bytes)
    }

    pub(crate) fn page_of(&self, page: u64, mut bytes: Buffer, absent: Absent) -> Page {
        let mended = self.blocks.mend_page(page, &mut bytes, absent);
        Page::of(page, &bytes, mended)
    }

    pub(crate) fn read_page(&self, page: u64, absent: Absent) -> Result<Page, Error> {
        let bytes = self.file.read_exact(page_at(page), PAGE_BYTES)?;
        Ok(self.page_of(page, bytes, absent))
    }

    /// What of the sums of `range` fails its own sum on the disk. What cannot be read is left out.
    pub(crate) fn rotten(&self, range: &Range<u64>) -> Result<Vec<Rot>, Error> {
        let count = to_usize(range.end - range.start);
        let bytes = match self.sectors(range.start, count) {
            Err(error) if is_failed_read(&error) && count > 1 => {
                let middle = range.start + count as u64 / 2;
                let mut rotten = self.rotten(&(range.start..middle))?;
                rotten.extend(self.rotten(&(middle..range.end))?);
                rotten.dedup();
                return Ok(rotten);
            }
            Err(error) if is_failed_read(&error) => return Ok(Vec::new()),
            other => other?,
        };
        let mut rotten = Vec::new();
        let sectors = bytes.chunks_exact(SECTOR_BYTES);
        for (number, sector) in (range.start / SECTOR_SUMS..).zip(sectors) {
            let mut mended = sector.to_vec();
            let done = self.blocks.mend(number, &mut mended, Absent::Proven);
            if !done.stale && done.suspects.is_empty() {
                continue;
            }
            let suspects = done.suspects;
            let first = number * SECTOR_SUMS;
            let pairs = (first..).zip(sums_of(sector).zip(sums_of(&mended)));
            let wrong = pairs.filter(|(_, (stored, right))| stored != right);
            let mut wrong = wrong.map(|(lba, _)| lba).chain(suspects.first().copied());
            rotten.push(Rot {
                first,
                lba: wrong.next().unwrap_or(first),
                suspects,
            });
        }
        Ok(rotten)
    }

    /// First block at or behind `lba` whose page may hold a sum, and the end of that data.
    pub(crate) fn next_data(&self, lba: u64) -> Result<Option<Range<u64>>, Error> {
        let sector = lba / SECTOR_SUMS * SECTOR_BYTES as u64;
        let Some((first, second)) = self.file.next_data(sector)? else {
            return Ok(None);
        };
        let data = sumpage::blocks_at(first, second);
        let range = data.start.max(lba)..data.end.min(self.blocks.count);
        Ok((range.start < range.end).then_some(range))
    }

    /// First block at or behind `lba` that may hold data or have a sum, and the end of that: where
    /// only one of the two is a hole, something was lost.
    pub(crate) fn next_known(&self, lba: u64) -> Result<Option<Range<u64>>, Error> {
        let known = [self.next_data(lba)?, self.blocks.next_data(lba)?];
        Ok(known.into_iter().flatten().min_by_key(|range| range.start))
    }
}
