//! One simulated file: what reads see, what is durable, and what a crash may choose from.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use xxhash_rust::xxh3::Xxh3;

use super::rng::Rng;

/// The unit that may tear (D19): a crash keeps or loses each one as a whole.
pub const SECTOR: u64 = 512;
const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

static ZERO: LazyLock<Arc<Sector>> = LazyLock::new(|| Arc::new([0; SECTOR_BYTES]));

/// Bytes and size. A missing sector is a hole. Nothing lies behind the size. The map is copied when
/// it is changed: a crash matrix cuts the power far more often than it writes.
#[derive(Clone, Debug, Default)]
struct Image {
    size: u64,
    sectors: Arc<BTreeMap<u64, Arc<Sector>>>,
}

/// One unsynced state of a sector; `None` is a hole.
#[derive(Clone, Debug)]
struct Version {
    sequence: u64,
    content: Option<Arc<Sector>>,
}

/// One unsynced size.
#[derive(Clone, Debug)]
struct Size {
    sequence: u64,
    size: u64,
    /// A write grew the file, so that any sector boundary on the way may be what survives.
    by_write: bool,
}

/// A file with its unsynced past.
#[derive(Clone, Debug, Default)]
pub(super) struct FileImage {
    live: Image,
    durable: Image,
    unsynced: BTreeMap<u64, Vec<Version>>,
    sizes: Vec<Size>,
    unreadable: Vec<Range<u64>>,
}

impl Image {
    fn content(&self, sector: u64) -> &Sector {
        self.sectors.get(&sector).unwrap_or(&ZERO)
    }

    fn set(&mut self, sector: u64, content: Option<Arc<Sector>>) {
        let sectors = Arc::make_mut(&mut self.sectors);
        match content {
            Some(content) => drop(sectors.insert(sector, content)),
            None => drop(sectors.remove(&sector)),
        }
    }

    /// Adds size and contents; a hole and a sector of zeros are the same.
    fn digest(&self, hash: &mut Xxh3) {
        hash.update(&self.size.to_le_bytes());
        for (number, sector) in self.sectors.iter() {
            if !Arc::ptr_eq(sector, &ZERO) {
                hash.update(&number.to_le_bytes());
                hash.update(&sector[..]);
            }
        }
    }

    /// Restores "nothing lies behind the size" after sectors and size were chosen apart.
    fn cut(&mut self) {
        let first_behind = self.size.div_ceil(SECTOR);
        if self.sectors.range(first_behind..).next().is_some() {
            Arc::make_mut(&mut self.sectors).split_off(&first_behind);
        }
        let (last, within) = (self.size / SECTOR, in_sector(self.size));
        if within > 0 && self.sectors.contains_key(&last) {
            let mut sector = *self.content(last);
            sector[within..].fill(0);
            self.set(last, Some(share(sector)));
        }
    }
}

impl FileImage {
    pub(super) fn size(&self) -> u64 {
        self.live.size
    }

    /// Adds what a reader sees, and what the next power cut keeps at least.
    pub(super) fn digest(&self, hash: &mut Xxh3) {
        self.live.digest(hash);
        if self.unsynced.is_empty() && self.sizes.is_empty() {
            return;
        }
        self.durable.digest(hash);
    }

    /// Sectors that take space.
    pub(super) fn allocated(&self) -> u64 {
        self.live.sectors.len() as u64
    }

    /// Copies live bytes into `target`, as many as there are.
    pub(super) fn read(&self, offset: u64, target: &mut [u8]) -> usize {
        self.copy_out(offset, target, |sector| self.live.content(sector))
    }

    /// As `read`, past the page cache: what is dirty is written first, and what a failed sync left
    /// clean there is not looked at.
    pub(super) fn read_medium(&self, offset: u64, target: &mut [u8]) -> usize {
        self.copy_out(offset, target, |sector| {
            match self.unsynced.contains_key(&sector) {
                true => self.live.content(sector),
                false => self.durable.content(sector),
            }
        })
    }

    fn copy_out<'a>(
        &self,
        offset: u64,
        target: &mut [u8],
        content: impl Fn(u64) -> &'a Sector,
    ) -> usize {
        let available = self.live.size.saturating_sub(offset);
        let length = usize::try_from(available).map_or(target.len(), |n| n.min(target.len()));
        let mut at = 0;
        while at < length {
            let place = offset + at as u64;
            let within = in_sector(place);
            let count = (SECTOR_BYTES - within).min(length - at);
            let sector = content(place / SECTOR);
            target[at..at + count].copy_from_slice(&sector[within..within + count]);
            at += count;
        }
        length
    }

    /// Whether a read of the range meets a place the medium cannot read.
    pub(super) fn is_unreadable(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length).min(self.live.size);
        let meets = |bad: &Range<u64>| bad.start < end && offset < bad.end;
        self.unreadable.iter().any(meets)
    }

    pub(super) fn set_unreadable(&mut self, range: Range<u64>) {
        self.unreadable.push(range);
    }

    pub(super) fn set_readable(&mut self) {
        self.unreadable.clear();
    }

    /// Writes until a sector would need more than `free` new ones; says how many bytes it took.
    pub(super) fn write(
        &mut self,
        sequence: u64,
        offset: u64,
        bytes: &[u8],
        free: &mut u64,
    ) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let place = offset + at as u64;
            let (number, within) = (place / SECTOR, in_sector(place));
            if !self.live.sectors.contains_key(&number) {
                if *free == 0 {
                    break;
                }
                *free -= 1;
            }
            let count = (SECTOR_BYTES - within).min(bytes.len() - at);
            let mut sector = *self.live.content(number);
            sector[within..within + count].copy_from_slice(&bytes[at..at + count]);
            self.change(sequence, number, Some(share(sector)));
            at += count;
        }
        let end = offset + at as u64;
        if at > 0 && end > self.live.size {
            self.resize(sequence, end, true);
        }
        at
    }

    pub(super) fn set_length(&mut self, sequence: u64, length: u64) {
        if length < self.live.size {
            self.zero(sequence, length, self.live.size.next_multiple_of(SECTOR));
        }
        if length != self.live.size {
            self.resize(sequence, length, false);
        }
    }

    pub(super) fn punch_hole(&mut self, sequence: u64, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.live.size);
        self.zero(sequence, offset, end);
    }

    /// Whole sectors become holes; of the others the covered bytes become zero.
    fn zero(&mut self, sequence: u64, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let touched: Vec<u64> = self
            .live
            .sectors
            .range(start / SECTOR..end.div_ceil(SECTOR))
            .map(|(number, _)| *number)
            .collect();
        for number in touched {
            let first = start.max(number * SECTOR);
            let last = end.min((number + 1) * SECTOR);
            let content = if last - first == SECTOR {
                None
            } else {
                let mut sector = *self.live.content(number);
                let within = in_sector(first);
                sector[within..in_sector_end(last, number)].fill(0);
                Some(share(sector))
            };
            self.change(sequence, number, content);
        }
    }

    pub(super) fn next_data(&self, offset: u64) -> Option<(u64, u64)> {
        let first = *self.live.sectors.range(offset / SECTOR..).next()?.0;
        let mut end = first;
        while self.live.sectors.contains_key(&end) {
            end += 1;
        }
        let range = (
            offset.max(first * SECTOR),
            (end * SECTOR).min(self.live.size),
        );
        (range.0 < range.1).then_some(range)
    }

    fn change(&mut self, sequence: u64, sector: u64, content: Option<Arc<Sector>>) {
        self.live.set(sector, content.clone());
        self.unsynced
            .entry(sector)
            .or_default()
            .push(Version { sequence, content });
    }

    fn resize(&mut self, sequence: u64, size: u64, by_write: bool) {
        self.live.size = size;
        self.sizes.push(Size {
            sequence,
            size,
            by_write,
        });
    }

    /// Makes everything durable that was changed at or before `covers`.
    pub(super) fn sync(&mut self, covers: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|sector, versions| {
            let covered = versions.partition_point(|version| version.sequence <= covers);
            if let Some(newest) = versions.drain(..covered).next_back() {
                durable.set(*sector, newest.content);
            }
            !versions.is_empty()
        });
        let covered = self.sizes.partition_point(|size| size.sequence <= covers);
        if let Some(newest) = self.sizes.drain(..covered).next_back() {
            durable.size = newest.size;
        }
    }

    /// Makes the sectors durable that were changed behind `before`, and no others. A size that the
    /// write grew is durable with it.
    pub(super) fn sync_since(&mut self, before: u64) {
        let durable = &mut self.durable;
        self.unsynced.retain(|sector, versions| {
            let newest = versions.pop_if(|version| version.sequence > before);
            let Some(newest) = newest else { return true };
            durable.set(*sector, newest.content);
            false
        });
        if let Some(newest) = self.sizes.pop_if(|size| size.sequence > before) {
            durable.size = newest.size;
            self.sizes.clear();
        }
    }

    /// What a failed sync may do: reads still see the bytes, and no later sync writes them (L-W1).
    pub(super) fn forget_unsynced(&mut self) {
        self.unsynced.clear();
        self.sizes.clear();
    }

    /// Changes one byte of the medium behind everybody's back.
    pub(super) fn rot(&mut self, offset: u64, change: impl Fn(u8) -> u8) {
        let (number, within) = (offset / SECTOR, in_sector(offset));
        let rotten = |content: Option<&Arc<Sector>>| {
            let mut sector = **content.unwrap_or(&ZERO);
            sector[within] = change(sector[within]);
            Some(share(sector))
        };
        let live = rotten(self.live.sectors.get(&number));
        self.live.set(number, live);
        if offset < self.durable.size {
            let durable = rotten(self.durable.sectors.get(&number));
            self.durable.set(number, durable);
        }
        for version in self.unsynced.get_mut(&number).into_iter().flatten() {
            version.content = rotten(version.content.as_ref());
        }
    }

    /// The file after a power cut that kept nothing unsynced.
    pub(super) fn lose_unsynced(&mut self) {
        self.live = self.durable.clone();
        self.live.cut();
        self.durable = self.live.clone();
        self.forget_unsynced();
    }

    /// The file after a power cut that kept any subset of what was unsynced.
    pub(super) fn settle(&mut self, rng: &mut Rng) {
        // Coins of several weights over runs of several lengths: single torn sectors, torn pages,
        // and whole writes kept or lost all come up often.
        let weight = rng.pick(&[0, 1, 8, 8, 15, 16]);
        let run = rng.pick(&[1, 1, 8, 64, u64::MAX]);
        let mut decided = None;
        for (sector, versions) in std::mem::take(&mut self.unsynced) {
            let keep = match decided {
                Some((number, keep)) if number == sector / run => keep,
                _ => rng.chance(weight),
            };
            decided = Some((sector / run, keep));
            if keep {
                let newest = versions.len() - 1;
                let chosen = if rng.chance(8) {
                    newest
                } else {
                    rng.index(versions.len())
                };
                self.durable.set(sector, versions[chosen].content.clone());
            }
        }
        self.durable.size = self.surviving_size(rng);
        self.lose_unsynced();
    }

    fn surviving_size(&self, rng: &mut Rng) -> u64 {
        let chosen = rng.index(self.sizes.len() + 1);
        if rng.chance(5) {
            return self.sizes.last().map_or(self.durable.size, |s| s.size);
        }
        if chosen == 0 {
            return self.durable.size;
        }
        let after = &self.sizes[chosen - 1];
        let before = match chosen {
            1 => self.durable.size,
            _ => self.sizes[chosen - 2].size,
        };
        let boundaries = after.size.div_ceil(SECTOR).saturating_sub(before / SECTOR);
        if after.by_write && boundaries > 1 && rng.chance(8) {
            return ((before / SECTOR + 1 + rng.below(boundaries)) * SECTOR).min(after.size);
        }
        after.size
    }
}

fn in_sector(offset: u64) -> usize {
    usize::try_from(offset % SECTOR).expect("below the sector size")
}

/// Where `end` lies in sector `number`, which it ends or lies within.
fn in_sector_end(end: u64, number: u64) -> usize {
    usize::try_from(end - number * SECTOR).expect("at most the sector size")
}

fn share(sector: Sector) -> Arc<Sector> {
    if sector == **ZERO {
        Arc::clone(&ZERO)
    } else {
        Arc::new(sector)
    }
}
