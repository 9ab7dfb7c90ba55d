//! Walks over the sums of an image in order of their blocks: to look at them, and to change them.

use std::ops::Range;
use std::sync::Arc;

use seawall_wal::disk::Buffer;

use crate::error::Error;
use crate::pipe::{ReadPipe, WritePipe};
use crate::sumpage::{self, Absent, Mended, PAGE_BYTES, PAGE_SUMS, Page, page_at};
use crate::sums::{Digest, Sums};
use crate::to_usize;

/// The sums of a page of blocks of zeros.
static NO_SUMS: [Digest; 248] = [Digest::ZERO; 248];

impl Sums {
    /// Writes the pages of these blocks again that are not on disk as they have to be: mended, or
    /// as pages that cannot be vouched for. `changes` says which blocks are written again anyway,
    /// and do not vouch for anything. What they have to be is known, so a crash puts nothing at
    /// risk. The caller syncs. `false` when nothing was to be written.
    pub(crate) fn refresh(
        &self,
        lbas: &[u64],
        changes: impl Fn(u64) -> bool,
    ) -> Result<bool, Error> {
        let mut pages: Vec<u64> = lbas.iter().map(|lba| lba / PAGE_SUMS).collect();
        pages.dedup();
        let mut writer = SumWriter::new(self);
        writer.ahead = Ahead::of(self, pages.clone(), Absent::Proven);
        let mut wrote = false;
        for page in pages {
            writer.load(page)?;
            let Page {
                suspects, stale, ..
            } = &writer.loaded;
            let doubted = suspects.iter().any(|lba| !changes(*lba));
            match *stale && (doubted || suspects.is_empty()) {
                true => wrote = true,
                false => writer.loaded = Page::default(),
            }
        }
        writer.flush()?;
        Ok(wrote)
    }
}

/// Reads pages of sums before they are asked for.
#[derive(Debug)]
struct Ahead<'a> {
    sums: &'a Sums,
    absent: Absent,
    pages: std::vec::IntoIter<u64>,
    pipe: ReadPipe,
}

impl<'a> Ahead<'a> {
    fn of(sums: &'a Sums, pages: Vec<u64>, absent: Absent) -> Ahead<'a> {
        Ahead {
            sums,
            absent,
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
        // One with a sector of zeros was read by somebody who looks at the blocks.
        let cached = self.sums.cache.with(page, |bytes| {
            let whole = self.absent == Absent::Believed || !sumpage::has_absent(bytes);
            whole.then(|| Page::of(page, bytes, Mended::default()))
        });
        match (cached.flatten(), read) {
            (Some(page), _) => Ok(page),
            (None, Some(bytes)) if bytes.len() == PAGE_BYTES => {
                Ok(self.sums.page_of(page, bytes, self.absent))
            }
            (None, _) => self.sums.read_page(page, self.absent),
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
    /// The first block of each page that is not on disk as it has to be.
    stale: Vec<u64>,
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
            stale: Vec::new(),
        }
    }

    /// For a checkpoint that is about to visit these ranges: takes pages from memory too, and has
    /// several reads in flight.
    pub(crate) fn over(sums: &'a Sums, ranges: impl Iterator<Item = Range<u64>>) -> SumCursor<'a> {
        SumCursor {
            ahead: Some(Ahead::of(sums, pages_of(ranges), Absent::Proven)),
            ..SumCursor::new(sums)
        }
    }

    /// Calls `each` with every block of `range` whose sum is not zero, or may be wrong. Holes cost
    /// nothing.
    pub(crate) fn visit(
        &mut self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, Digest) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut lba = range.start;
        while lba < range.end {
            if range.end - lba > PAGE_SUMS && !self.data.contains(&lba) {
                match self.sums.next_known(lba)? {
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
                if *sum != Digest::ZERO || self.loaded.doubts(&(lba..lba + 1)) {
                    each(lba, *sum)?;
                }
            }
            lba = end;
        }
        Ok(())
    }

    /// Whether the blocks of a range in one page are zeros for sure.
    pub(crate) fn is_blank(&mut self, range: &Range<u64>) -> Result<bool, Error> {
        self.load(range.start / PAGE_SUMS)?;
        let first = to_usize(range.start % PAGE_SUMS);
        let sums = &self.loaded.sums[first..first + to_usize(range.end - range.start)];
        Ok(sums.iter().all(|sum| *sum == Digest::ZERO) && !self.loaded.doubts(range))
    }

    /// The first blocks of the pages that [`Sums::refresh`] writes again.
    pub(crate) fn stale(&self) -> &[u64] {
        &self.stale
    }

    /// A sum that was visited may be wrong: it failed together with its block.
    pub(crate) fn is_doubtful(&self) -> bool {
        self.doubtful
    }

    fn load(&mut self, page: u64) -> Result<(), Error> {
        if self.loaded.sums.is_empty() || self.page != page {
            self.loaded = match &mut self.ahead {
                Some(ahead) => ahead.load(page)?,
                None => self.sums.read_page(page, Absent::Proven)?,
            };
            if self.loaded.stale {
                self.stale.push(page * PAGE_SUMS);
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
    pipe: WritePipe,
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
            // Its blocks are being written. Who begins that sees to it that what is absent is
            // written as lost where it is ([`Sums::refresh`]).
            ahead: Ahead::of(sums, pages_of(ranges), Absent::Believed),
            pipe: WritePipe::of(sums.direct.as_ref().unwrap_or(&sums.file)),
        }
    }

    /// Sets the sums of the blocks from `lba` on.
    pub(crate) fn put(&mut self, mut lba: u64, mut sums: &[Digest]) -> Result<(), Error> {
        while !sums.is_empty() {
            self.load(lba / PAGE_SUMS)?;
            let count = sums.len().min(to_usize(PAGE_SUMS - lba % PAGE_SUMS));
            self.loaded.put(lba, &sums[..count]);
            sums = &sums[count..];
            lba += count as u64;
        }
        Ok(())
    }

    /// Sets the sums of `range`, whose blocks are zeros that keep their space, to zero.
    pub(crate) fn zero(&mut self, range: Range<u64>) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PAGE_SUMS + 1) * PAGE_SUMS);
            self.put(at, &NO_SUMS[..to_usize(end - at)])?;
            at = end;
        }
        Ok(())
    }

    /// Sets the sums of `range`, whose blocks are holes, to zero; whole pages become holes.
    pub(crate) fn punch(&mut self, range: Range<u64>) -> Result<(), Error> {
        let first = range.start.next_multiple_of(PAGE_SUMS).min(range.end);
        let last = (range.end / PAGE_SUMS * PAGE_SUMS).max(first);
        self.put(range.start, &NO_SUMS[..to_usize(first - range.start)])?;
        if first < last {
            self.turn()?;
            self.sums
                .cache
                .forget(&(first / PAGE_SUMS..last / PAGE_SUMS));
            let (from, to) = (page_at(first / PAGE_SUMS), page_at(last / PAGE_SUMS));
            self.sums.file.punch_hole(from, to - from)?;
        }
        self.put(last, &NO_SUMS[..to_usize(range.end - last)])
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
        loaded.encode(self.page, &mut bytes);
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
