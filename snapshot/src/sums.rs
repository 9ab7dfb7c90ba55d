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
use crate::pipe::{ReadPipe, WritePipe};
use crate::sumcache::SumCache;
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

/// Sums in one page, the unit in which the file is read and written.
pub(crate) const PAGE_SUMS: u64 = 256;
pub(crate) const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES == Digest::BYTES * 256);

/// The file `sums` of a base: 16 bytes a block, sparse where blocks are zero.
#[derive(Debug)]
pub(crate) struct Sums {
    file: File,
    /// For whole pages: what a checkpoint writes does not pass through the page cache, where it
    /// would reach the disk all at once and keep the log from it.
    direct: Option<File>,
    cache: SumCache,
    blocks: u64,
}

fn digests(bytes: &[u8]) -> impl Iterator<Item = Digest> {
    bytes.chunks_exact(Digest::BYTES).map(Digest::from_bytes)
}

fn at(lba: u64) -> u64 {
    lba * Digest::BYTES as u64
}

impl Sums {
    /// Creates or opens the file of a volume of `blocks` blocks.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        path: &Path,
        mode: OpenMode,
        blocks: u64,
    ) -> Result<Sums, Error> {
        let file = File::open(disk, path, mode)?;
        if mode == OpenMode::CreateNew {
            file.set_length(at(blocks))?;
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
            blocks: self.blocks,
        })
    }

    pub(crate) fn has_full_length(&self) -> Result<bool, Error> {
        Ok(self.file.length()? == at(self.blocks))
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn sync(&self) -> Result<(), Error> {
        Ok(self.file.sync()?)
    }

    /// The sums of `count` blocks from `lba` on.
    pub(crate) fn read(&self, lba: u64, count: usize) -> Result<Vec<Digest>, Error> {
        let bytes = self.file.read_exact(at(lba), count * Digest::BYTES)?;
        Ok(digests(&bytes).collect())
    }

    /// As [`Sums::read`], from memory where the pages were read before.
    pub(crate) fn read_cached(&self, lba: u64, count: usize) -> Result<Vec<Digest>, Error> {
        let end = lba + count as u64;
        let mut sums = Vec::with_capacity(count);
        let mut at = lba;
        while at < end {
            let page = at / PAGE_SUMS;
            let part_end = end.min((page + 1) * PAGE_SUMS);
            let first = to_usize(at % PAGE_SUMS) * Digest::BYTES;
            let part = first..first + to_usize(part_end - at) * Digest::BYTES;
            let mut take = |bytes: &[u8]| sums.extend(digests(&bytes[part.clone()]));
            if self.cache.with(page, &mut take).is_none() {
                match self.load_page(page) {
                    Ok(bytes) => take(&bytes),
                    // A bad sector costs no more than what it covers (L-E3).
                    Err(_) => sums.extend(self.read(at, to_usize(part_end - at))?),
                }
            }
            at = part_end;
        }
        Ok(sums)
    }

    fn load_page(&self, page: u64) -> Result<Buffer, Error> {
        let seen = self.cache.before_read();
        let length = sums_in(page, self.blocks) * Digest::BYTES;
        let bytes = self.file.read_exact(at(page * PAGE_SUMS), length)?;
        self.cache.keep(page, &bytes, seen);
        Ok(bytes)
    }

    /// First block at or behind `lba` whose page may hold a sum, and the end of that data.
    pub(crate) fn next_data(&self, lba: u64) -> Result<Option<Range<u64>>, Error> {
        let Some((first, second)) = self.file.next_data(at(lba))? else {
            return Ok(None);
        };
        let size = Digest::BYTES as u64;
        let range = (first / size).max(lba)..second.div_ceil(size).min(self.blocks);
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
    fn load(&mut self, page: u64) -> Result<Vec<Digest>, Error> {
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
        let read = read.map(|bytes| digests(&bytes).collect());
        let cached = self.sums.cache.with(page, |bytes| digests(bytes).collect());
        let whole = sums_in(page, self.sums.blocks);
        match cached
            .or(read)
            .filter(|sums: &Vec<Digest>| sums.len() == whole)
        {
            Some(sums) => Ok(sums),
            None => self.sums.read_page(page),
        }
    }
}

/// Sums in a page of a volume of `blocks` blocks.
fn sums_in(page: u64, blocks: u64) -> usize {
    to_usize(PAGE_SUMS.min(blocks - page * PAGE_SUMS))
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
    loaded: Vec<Digest>,
    data: Range<u64>,
}

impl<'a> SumCursor<'a> {
    /// Over what the file holds.
    pub(crate) fn new(sums: &'a Sums) -> SumCursor<'a> {
        SumCursor {
            sums,
            ahead: None,
            page: 0,
            loaded: Vec::new(),
            data: 0..0,
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
            let first = to_usize(lba % PAGE_SUMS);
            let sums = &self.loaded[first..first + to_usize(end - lba)];
            for (lba, sum) in (lba..end).zip(sums) {
                if *sum != Digest::ZERO {
                    each(lba, *sum)?;
                }
            }
            lba = end;
        }
        Ok(())
    }

    fn load(&mut self, page: u64) -> Result<(), Error> {
        if self.loaded.is_empty() || self.page != page {
            self.loaded = match &mut self.ahead {
                Some(ahead) => ahead.load(page)?,
                None => self.sums.read_page(page)?,
            };
            self.page = page;
        }
        Ok(())
    }
}

impl Sums {
    fn read_page(&self, page: u64) -> Result<Vec<Digest>, Error> {
        self.read(page * PAGE_SUMS, sums_in(page, self.blocks))
    }
}

/// Changes sums in order of their blocks; each page is read and written once, several at a time.
#[derive(Debug)]
pub(crate) struct SumWriter<'a> {
    sums: &'a Sums,
    page: u64,
    loaded: Vec<Digest>,
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
            loaded: Vec::new(),
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
            self.loaded[first..first + count].copy_from_slice(&sums[..count]);
            sums = &sums[count..];
            lba += count as u64;
        }
        Ok(())
    }

    /// Sets the sums of `range` to zero; whole pages become holes.
    pub(crate) fn zero(&mut self, range: Range<u64>) -> Result<(), Error> {
        let first = range.start.next_multiple_of(PAGE_SUMS).min(range.end);
        let last = (range.end / PAGE_SUMS * PAGE_SUMS).max(first);
        let none = [Digest::ZERO; 256];
        self.put(range.start, &none[..to_usize(first - range.start)])?;
        if first < last {
            self.turn()?;
            self.sums
                .cache
                .forget(&(first / PAGE_SUMS..last / PAGE_SUMS));
            self.sums.file.punch_hole(at(first), at(last - first))?;
        }
        self.put(last, &none[..to_usize(range.end - last)])
    }

    fn load(&mut self, page: u64) -> Result<(), Error> {
        if self.loaded.is_empty() || self.page != page {
            self.turn()?;
            self.loaded = self.ahead.load(page)?;
            self.page = page;
        }
        Ok(())
    }

    /// Submits the page at hand.
    fn turn(&mut self) -> Result<(), Error> {
        let loaded = std::mem::take(&mut self.loaded);
        if loaded.is_empty() {
            return Ok(());
        }
        let mut bytes = Buffer::zeroed(loaded.len() * Digest::BYTES);
        for (place, sum) in bytes.chunks_exact_mut(Digest::BYTES).zip(&loaded) {
            LittleEndian::write_u128(place, sum.0);
        }
        self.sums.cache.write(self.page, &bytes);
        let offset = at(self.page * PAGE_SUMS);
        self.pipe.write(offset, vec![Arc::new(bytes)])
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
