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
const PAGE_BYTES: usize = 4096;
const _: () = assert!(PAGE_BYTES == Digest::BYTES * 256);

/// The file `sums` of a base: 16 bytes a block, sparse where blocks are zero.
#[derive(Debug)]
pub(crate) struct Sums {
    file: File,
    blocks: u64,
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
        Ok(Sums { file, blocks })
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
        Ok(bytes
            .chunks_exact(Digest::BYTES)
            .map(Digest::from_bytes)
            .collect())
    }

    fn write(&self, lba: u64, sums: &[Digest]) -> Result<(), Error> {
        let mut bytes = Buffer::zeroed(sums.len() * Digest::BYTES);
        for (place, sum) in bytes.chunks_exact_mut(Digest::BYTES).zip(sums) {
            LittleEndian::write_u128(place, sum.0);
        }
        Ok(self.file.write_bytes(at(lba), bytes)?)
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

/// Walks sums in order of their blocks; each page is read once.
#[derive(Debug)]
pub(crate) struct SumCursor<'a> {
    sums: &'a Sums,
    page: u64,
    loaded: Vec<Digest>,
    data: Range<u64>,
}

impl<'a> SumCursor<'a> {
    pub(crate) fn new(sums: &'a Sums) -> SumCursor<'a> {
        SumCursor {
            sums,
            page: 0,
            loaded: Vec::new(),
            data: 0..0,
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
            self.loaded = self.sums.read_page(page)?;
            self.page = page;
        }
        Ok(())
    }
}

impl Sums {
    fn read_page(&self, page: u64) -> Result<Vec<Digest>, Error> {
        let first = page * PAGE_SUMS;
        self.read(first, to_usize(PAGE_SUMS.min(self.blocks - first)))
    }
}

/// Changes sums in order of their blocks; each page is read and written once.
#[derive(Debug)]
pub(crate) struct SumWriter<'a> {
    sums: &'a Sums,
    page: u64,
    loaded: Vec<Digest>,
}

impl<'a> SumWriter<'a> {
    pub(crate) fn new(sums: &'a Sums) -> SumWriter<'a> {
        SumWriter {
            sums,
            page: 0,
            loaded: Vec::new(),
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
            self.flush()?;
            self.sums.file.punch_hole(at(first), at(last - first))?;
        }
        self.put(last, &none[..to_usize(range.end - last)])
    }

    fn load(&mut self, page: u64) -> Result<(), Error> {
        if self.loaded.is_empty() || self.page != page {
            self.flush()?;
            self.loaded = self.sums.read_page(page)?;
            self.page = page;
        }
        Ok(())
    }

    /// Writes the page at hand. The caller syncs.
    pub(crate) fn flush(&mut self) -> Result<(), Error> {
        let loaded = std::mem::take(&mut self.loaded);
        match loaded.is_empty() {
            true => Ok(()),
            false => self.sums.write(self.page * PAGE_SUMS, &loaded),
        }
    }
}
