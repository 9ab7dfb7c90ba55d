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
use crate::pipe::{ReadPipe, WritePipe};
use crate::sumcache::SumCache;
use crate::sumpage::{
    self, Blocks, Mended, PAGE_BYTES, PAGE_SUMS, SECTOR_BYTES, SECTOR_SUMS, is_sound, page_at,
    sums_of,
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
    file: File,
    /// For whole pages: what a checkpoint writes does not pass through the page cache, where it
    /// would reach the disk all at once and keep the log from it.
    direct: Option<File>,
    cache: SumCache,
    blocks: Blocks,
}

/// Sums that fail their own sum, 31 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rot {
    /// The first of their blocks.
    pub(crate) first: u64,
    /// The first block whose sum is wrong, or the first of all.
    pub(crate) lba: u64,
    /// The blocks vouch for what the sums have to be.
    pub(crate) mended: bool,
}

/// The sums of a page, and the blocks whose sums may be wrong because neither they nor their sector
/// fit anything.
#[derive(Debug, Default)]
struct Page {
    sums: Vec<Digest>,
    suspects: Vec<u64>,
    /// It is not on disk as it is here.
    mended: bool,
}

impl Page {
    /// Whether the sum of one of these blocks may be wrong.
    fn doubts(&self, range: &Range<u64>) -> bool {
        self.suspects.iter().any(|lba| range.contains(lba))
    }
}

impl Sums {
    /// Creates or opens the file that belongs to `blocks`.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        mode: OpenMode,
        blocks: Blocks,
    ) -> Result<Sums, Error> {
        let file = File::open(disk, path, mode)?;
        if mode == OpenMode::CreateNew {
            file.set_length(sumpage::file_bytes(blocks.count))?;
        }
        let direct = match mode {
            OpenMode::Read => None,
            _ => Some(File::open_direct(disk, path, OpenMode::ReadWrite)?),
        };
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
            file,
            direct: None,
            cache: SumCache::new(),
            blocks: self.blocks.clone(),
        })
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

    /// The sums of `count` blocks from `lba` on.
    pub(crate) fn read(&self, lba: u64, count: usize) -> Result<Vec<Digest>, Error> {
        let first = lba / SECTOR_SUMS;
        let mut bytes = self.sectors(lba, count)?;
        self.blocks.mend(first, &mut bytes);
        let skipped = to_usize(lba - first * SECTOR_SUMS);
        Ok(sums_of(&bytes).skip(skipped).take(count).collect())
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
        if self.blocks.mend(page * 8, &mut bytes).suspects.is_empty() {
            self.cache.keep(page, &bytes, seen);
        }
        Ok(bytes)
    }

    fn page_of(&self, page: u64, mut bytes: Buffer) -> Page {
        let Mended { suspects, mended } = self.blocks.mend(page * 8, &mut bytes);
        let sums = sums_of(&bytes).collect();
        Page {
            sums,
            suspects,
            mended,
        }
    }

    fn read_page(&self, page: u64) -> Result<Page, Error> {
        let bytes = self.file.read_exact(page_at(page), PAGE_BYTES)?;
        Ok(self.page_of(page, bytes))
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
            if is_sound(number, sector) {
                continue;
            }
            let mut mended = sector.to_vec();
            let suspects = self.blocks.mend(number, &mut mended).suspects;
            let first = number * SECTOR_SUMS;
            let pairs = (first..).zip(sums_of(sector).zip(sums_of(&mended)));
            let wrong = pairs.filter(|(_, (stored, right))| stored != right);
            let mut wrong = wrong.map(|(lba, _)| lba).chain(suspects.first().copied());
            rotten.push(Rot {
                first,
                lba: wrong.next().unwrap_or(first),
                mended: suspects.is_empty(),
            });
        }
        Ok(rotten)
    }

    /// Writes the pages of these blocks again, mended. What they have to be is known, so a crash
    /// puts nothing at risk. The caller syncs.
    pub(crate) fn refresh(&self, lbas: &[u64]) -> Result<(), Error> {
        let mut writer = SumWriter::new(self);
        for lba in lbas {
            writer.load(lba / PAGE_SUMS)?;
        }
        writer.flush()
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
}

/// Reads pages of sums before they are asked for.
#[derive(Debug)]
struct Ahead<'a> {
    sums: &'a Sums,
    pages: std::vec::IntoIter<u64>,
    pipe: ReadPipe<'a>,
}

impl<'a> Ahead<'a> {
    fn of(sums: &'a Sums, pages: Vec<u64>) -> Ahead<'a> {
        Ahead {
            sums,
            pages: pages.into_iter(),
            pipe: ReadPipe::of(&sums.file, PAGE_BYTES),
        }
    }

    /// The sums of a page: of one that was announced, or of any other.
    fn load(&mut self, page: u64) -> Result<Page, Error> {
        while self.pipe.oldest().is_some_and(|oldest| oldest < page) {
            drop(self.pipe.take());
        }
        while !self.pipe.is_full()
            && let Some(next) = self.pages.next()
        {
            if next >= page && self.sums.cache.with(next, |_| ()).is_none() {
                self.pipe.submit(next);
            }
        }
        let read = match self.pipe.oldest() == Some(page) {
            true => self.pipe.take().transpose()?,
            false => None,
        };
        let cached = self.sums.cache.with(page, |bytes| Page {
            sums: sums_of(bytes).collect(),
            ..Page::default()
        });
        match (cached, read) {
            (Some(page), _) => Ok(page),
            (None, Some(bytes)) if bytes.len() == PAGE_BYTES => Ok(self.sums.page_of(page, bytes)),
            (None, _) => self.sums.read_page(page),
        }
    }
}

/// The pages of those ranges that are short, in order: in a long one there may be holes.
fn pages_of(ranges: impl Iterator<Item = Range<u64>>) -> Vec<u64> {
    let mut pages = Vec::new();
    for range in ranges.filter(|range| range.end - range.start <= PAGE_SUMS) {
        pages.extend(range.start / PAGE_SUMS..=(range.end - 1) / PAGE_SUMS);
    }
    pages.dedup();
    pages
}

/// Walks sums in order of their blocks; each page is read once.
#[derive(Debug)]
pub(crate) struct SumCursor<'a> {
    sums: &'a Sums,
    ahead: Option<Ahead<'a>>,
    page: u64,
    loaded: Page,
    data: Range<u64>,
    doubtful: bool,
    /// The first block of each page that was mended.
    mended: Vec<u64>,
}

impl<'a> SumCursor<'a> {
    /// Over what the file holds.
    pub(crate) fn new(sums: &'a Sums) -> SumCursor<'a> {
        SumCursor {
            sums,
            ahead: None,
            page: 0,
            loaded: Page::default(),
            data: 0..0,
            doubtful: false,
            mended: Vec::new(),
        }
    }

    /// For a checkpoint that is about to visit these ranges: takes pages from memory too, and has
    /// several reads in flight.
    pub(crate) fn over(sums: &'a Sums, ranges: impl Iterator<Item = Range<u64>>) -> SumCursor<'a> {
        SumCursor {
            ahead: Some(Ahead::of(sums, pages_of(ranges))),
            ..SumCursor::new(sums)
        }
    }

    /// Calls `each` with every block of `range` whose sum is not zero. Holes cost nothing.
    pub(crate) fn visit(
        &mut self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, Digest) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut lba = range.start;
        while lba < range.end {
            if range.end - lba > PAGE_SUMS && !self.data.contains(&lba) {
                match self.sums.next_data(lba)? {
                    None => return Ok(()),
                    Some(data) => {
                        lba = data.start;
                        self.data = data;
                    }
                }
                if lba >= range.end {
                    return Ok(());
                }
            }
            let end = range.end.min((lba / PAGE_SUMS + 1) * PAGE_SUMS);
            self.load(lba / PAGE_SUMS)?;
            self.doubtful |= self.loaded.doubts(&(lba..end));
            let first = to_usize(lba % PAGE_SUMS);
            let sums = &self.loaded.sums[first..first + to_usize(end - lba)];
            for (lba, sum) in (lba..end).zip(sums) {
                if *sum != Digest::ZERO {
                    each(lba, *sum)?;
                }
            }
            lba = end;
        }
        Ok(())
    }

    /// The first blocks of the pages that [`Sums::refresh`] writes again.
    pub(crate) fn mended(&self) -> &[u64] {
        &self.mended
    }

    /// A sum that was visited may be wrong: it failed together with its block.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    fn load(&mut self, page: u64) -> Result<(), Error> {
        if self.loaded.sums.is_empty() || self.page != page {
            self.loaded = match &mut self.ahead {
                Some(ahead) => ahead.load(page)?,
                None => self.sums.read_page(page)?,
            };
            if self.loaded.mended {
                self.mended.push(page * PAGE_SUMS);
            }
            self.page = page;
        }
        Ok(())
    }
}

/// Changes sums in order of their blocks; each page is read and written once, several at a time.
#[derive(Debug)]
pub(crate) struct SumWriter<'a> {
    sums: &'a Sums,
    page: u64,
    loaded: Page,
    ahead: Ahead<'a>,
    pipe: WritePipe<'a>,
}

impl<'a> SumWriter<'a> {
    pub(crate) fn new(sums: &'a Sums) -> SumWriter<'a> {
        SumWriter::over(sums, std::iter::empty())
    }

    /// As [`SumWriter::new`], for sums that lie in these ranges.
    pub(crate) fn over(sums: &'a Sums, ranges: impl Iterator<Item = Range<u64>>) -> SumWriter<'a> {
        sums.cache.begin_write();
        SumWriter {
            sums,
            page: 0,
            loaded: Page::default(),
            ahead: Ahead::of(sums, pages_of(ranges)),
            pipe: WritePipe::of(sums.direct.as_ref().unwrap_or(&sums.file)),
        }
    }

    /// Sets the sums of the blocks from `lba` on.
    pub(crate) fn put(&mut self, mut lba: u64, mut sums: &[Digest]) -> Result<(), Error> {
        while !sums.is_empty() {
            self.load(lba / PAGE_SUMS)?;
            let first = to_usize(lba % PAGE_SUMS);
            let count = sums.len().min(to_usize(PAGE_SUMS) - first);
            self.loaded.sums[first..first + count].copy_from_slice(&sums[..count]);
            let end = lba + count as u64;
            let suspects = &mut self.loaded.suspects;
            suspects.retain(|suspect| !(lba..end).contains(suspect));
            sums = &sums[count..];
            lba = end;
        }
        Ok(())
    }

    /// Sets the sums of `range` to zero; whole pages become holes.
    pub(crate) fn zero(&mut self, range: Range<u64>) -> Result<(), Error> {
        let first = range.start.next_multiple_of(PAGE_SUMS).min(range.end);
        let last = (range.end / PAGE_SUMS * PAGE_SUMS).max(first);
        let none = [Digest::ZERO; 248];
        self.put(range.start, &none[..to_usize(first - range.start)])?;
        if first < last {
            self.turn()?;
            self.sums
                .cache
                .forget(&(first / PAGE_SUMS..last / PAGE_SUMS));
            let (from, to) = (page_at(first / PAGE_SUMS), page_at(last / PAGE_SUMS));
            self.sums.file.punch_hole(from, to - from)?;
        }
        self.put(last, &none[..to_usize(range.end - last)])
    }

    fn load(&mut self, page: u64) -> Result<(), Error> {
        if self.loaded.sums.is_empty() || self.page != page {
            self.turn()?;
            self.loaded = self.ahead.load(page)?;
            self.page = page;
        }
        Ok(())
    }

    /// Submits the page at hand.
    fn turn(&mut self) -> Result<(), Error> {
        let loaded = std::mem::take(&mut self.loaded);
        if loaded.sums.is_empty() {
            return Ok(());
        }
        let mut bytes = Buffer::zeroed(PAGE_BYTES);
        sumpage::encode(self.page, &loaded.sums, &loaded.suspects, &mut bytes);
        match loaded.suspects.is_empty() {
            true => self.sums.cache.write(self.page, &bytes),
            false => self.sums.cache.forget(&(self.page..self.page + 1)),
        }
        self.pipe.write(page_at(self.page), vec![Arc::new(bytes)])
    }

    /// Writes what is at hand and waits for what is in flight. The caller syncs.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        self.turn()?;
        self.pipe.finish()
    }
}

impl Drop for SumWriter<'_> {
    fn drop(&mut self) {
        // OK because whoever drops it without a flush has an error already.
        let _ = self.pipe.finish();
        self.sums.cache.end_write();
    }
}
