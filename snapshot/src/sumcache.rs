//! Pages of sums in memory, so that a checked read of the image costs one read of the disk.
//!
//! The cache holds what the file holds, or what a checkpoint is about to write there. While one
//! writes, pages that it does not hold are read and not kept: they may be old or new.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::sync::Mutex;

use crate::sumpage::PAGE_BYTES;
use crate::{lock, to_usize};

/// The most that pages take: the sums of 16 GiB in blocks of 4 KiB.
const CACHE_BYTES: usize = 68 << 20;
/// Pages that compete for the same places; neighbours do not.
const WAYS: usize = 8;
const SETS: usize = CACHE_BYTES / PAGE_BYTES / WAYS;

/// The pages of one set; the next one to give way is at `hand`.
#[derive(Debug, Default)]
struct Set {
    pages: Vec<(u64, Box<[u8]>)>,
    hand: usize,
}

impl Set {
    fn find(&mut self, page: u64) -> Option<&mut Box<[u8]>> {
        let mut pages = self.pages.iter_mut();
        pages.find_map(|(number, bytes)| (*number == page).then_some(bytes))
    }

    fn insert(&mut self, page: u64, bytes: &[u8]) {
        if let Some(held) = self.find(page) {
            *held = bytes.into();
        } else if self.pages.len() < WAYS {
            self.pages.push((page, bytes.into()));
        } else {
            self.pages[self.hand] = (page, bytes.into());
            self.hand = (self.hand + 1) % WAYS;
        }
    }
}

/// The cache of one file of sums.
#[derive(Debug)]
pub(crate) struct SumCache {
    sets: Vec<Mutex<Set>>,
    /// In the low bits how many write; above them a number that grows when one begins or ends.
    writing: AtomicU64,
}

const ONE_CHANGE: u64 = 1 << 16;
const ONE_WRITER: u64 = 1;

/// What a page was read under: it is kept only if nobody wrote meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen(u64);

impl SumCache {
    pub(crate) fn new() -> SumCache {
        SumCache {
            sets: (0..SETS).map(|_| Mutex::default()).collect(),
            writing: AtomicU64::new(0),
        }
    }

    fn set(&self, page: u64) -> &Mutex<Set> {
        &self.sets[to_usize(page % SETS as u64)]
    }

    /// Shows a page to `look` if it is here.
    pub(crate) fn with<T>(&self, page: u64, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        lock(self.set(page)).find(page).map(|bytes| look(bytes))
    }

    /// Before a page is read from the file.
    pub(crate) fn before_read(&self) -> Seen {
        Seen(self.writing.load(Ordering::SeqCst))
    }

    /// Keeps a page that was read from the file.
    pub(crate) fn keep(&self, page: u64, bytes: &[u8], seen: Seen) {
        let mut set = lock(self.set(page));
        // Under the lock: a writer that begins later finds the page here and changes it.
        if seen.0.is_multiple_of(ONE_CHANGE) && self.writing.load(Ordering::SeqCst) == seen.0 {
            set.insert(page, bytes);
        }
    }

    /// Before the first page is written.
    pub(crate) fn begin_write(&self) {
        self.writing
            .fetch_add(ONE_CHANGE + ONE_WRITER, Ordering::SeqCst);
    }

    /// Before a page is written: readers see the new one from here on. Those who need it look at
    /// the image only after it is durable, and the sums of its other blocks are the same.
    pub(crate) fn write(&self, page: u64, bytes: &[u8]) {
        let mut set = lock(self.set(page));
        if set.find(page).is_some() {
            set.insert(page, bytes);
        }
    }

    /// Pages that become holes.
    pub(crate) fn forget(&self, pages: &Range<u64>) {
        for set in &self.sets {
            let mut set = lock(set);
            set.pages.retain(|(page, _)| !pages.contains(page));
            set.hand = 0;
        }
    }

    /// Behind the last page that was written, or where writing failed.
    pub(crate) fn end_write(&self) {
        self.writing
            .fetch_add(ONE_CHANGE - ONE_WRITER, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sumpage::PAGE_SUMS;

    fn first(cache: &SumCache, page: u64) -> Option<u8> {
        cache.with(page, |bytes| bytes[0])
    }

    #[test]
    fn a_page_that_was_read_while_somebody_wrote_is_not_kept() {
        let cache = SumCache::new();
        cache.keep(7, &[1; PAGE_BYTES], cache.before_read());
        let before = cache.before_read();
        cache.begin_write();
        let during = cache.before_read();
        cache.write(7, &[2; PAGE_BYTES]);
        cache.write(8, &[2; PAGE_BYTES]);
        assert_eq!(first(&cache, 7), Some(2), "what is held is changed at once");
        cache.keep(9, &[1; PAGE_BYTES], during);
        cache.end_write();
        cache.keep(8, &[1; PAGE_BYTES], before);
        cache.keep(8, &[1; PAGE_BYTES], during);
        assert_eq!((first(&cache, 8), first(&cache, 9)), (None, None));
        cache.keep(8, &[3; PAGE_BYTES], cache.before_read());
        assert_eq!(first(&cache, 8), Some(3));
        cache.forget(&(0..8));
        assert_eq!((first(&cache, 7), first(&cache, 8)), (None, Some(3)));
    }

    #[test]
    fn the_sums_of_16_gib_fit_and_those_of_more_take_no_more_memory() {
        let cache = SumCache::new();
        let pages = (CACHE_BYTES / PAGE_BYTES) as u64;
        assert!(pages * PAGE_SUMS >= (16 << 30) / 4096);
        for page in 0..pages {
            cache.keep(page, &[1; PAGE_BYTES], cache.before_read());
        }
        assert!((0..pages).all(|page| first(&cache, page).is_some()));
        for page in pages..2 * pages + 3 {
            cache.keep(page, &[1; PAGE_BYTES], cache.before_read());
        }
        let held: usize = cache.sets.iter().map(|set| lock(set).pages.len()).sum();
        assert_eq!(held as u64, pages);
    }
}
