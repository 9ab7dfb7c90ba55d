//! Damaged blocks of the image, taken from the log where that still holds their version.

use std::collections::BTreeSet;

use seawall_wal::{Lba, Log, Lsn, LsnRange, RecordPlace};

use crate::error::Error;
use crate::image::Image;
use crate::index::Index;
use crate::to_usize;

/// Index entries looked at together, from the newest down: what one block costs in memory, however
/// much log is retained. A block that was written lately is found in the first of them.
const WINDOW: u64 = 4096;

/// The versions of damaged blocks that the retained log holds.
#[derive(Debug)]
pub(crate) struct Versions {
    /// The newest version of each block that was found.
    pub(crate) found: Index,
    /// The version of any other block has at most this LSN: it was reclaimed, or what is damaged
    /// in the log hides it.
    pub(crate) older: Lsn,
}

impl Versions {
    /// Looks for the newest version at or below `checkpoint` of each of `blocks`. The log is gone
    /// through from there down and no further than to the first LSN that is lost: behind it an
    /// older version could pass for the newest.
    pub(crate) fn find(log: &Log, checkpoint: Lsn, blocks: &[u64]) -> Versions {
        let mut missing: BTreeSet<u64> = blocks.iter().copied().collect();
        let mut versions = Versions {
            found: Index::default(),
            older: checkpoint,
        };
        let floor = log.first_retained().before();
        while !missing.is_empty() && versions.older > floor {
            let Some((after, places)) = places_below(log, floor, versions.older) else {
                break;
            };
            for place in places.iter().rev() {
                versions.take(place, &mut missing);
            }
            versions.older = after;
        }
        versions
    }

    fn take(&mut self, place: &RecordPlace, missing: &mut BTreeSet<u64>) {
        let end = place.lba.0 + u64::from(place.blocks);
        let hit: Vec<u64> = missing.range(place.lba.0..end).copied().collect();
        for lba in hit {
            missing.remove(&lba);
            self.found.note_part(place, lba..lba + 1);
        }
    }

    /// LSNs among which the version of block `lba` is.
    pub(crate) fn lsns(&self, lba: u64) -> LsnRange {
        match self.found.piece(lba, lba + 1).1 {
            Some(version) => LsnRange::new(version.lsn.before(), version.lsn),
            None => LsnRange::new(Lsn::ZERO, self.older),
        }
    }

    /// Reads block `lba`; `false` where the log does not have it.
    pub(crate) fn read(&self, log: &Log, lba: u64, out: &mut [u8]) -> bool {
        let version = self.found.piece(lba, lba + 1).1;
        version.is_some_and(|version| version.read(log, lba, out).is_ok())
    }
}

/// The index entries of up to a window of records through `through`, and the LSN before them; fewer
/// where damage lies in between, `None` where the first of them is lost.
fn places_below(log: &Log, floor: Lsn, through: Lsn) -> Option<(Lsn, Vec<RecordPlace>)> {
    let mut window = WINDOW;
    while window > 0 {
        let after = floor.max(Lsn::new(through.get().saturating_sub(window)));
        if let Ok(places) = log.places(LsnRange::new(after, through)) {
            return Some((after, places));
        }
        window /= 2;
    }
    None
}

/// Puts what the log holds in place of those blocks of `out`, read from `lba` on as they are at
/// `checkpoint`, that are `bad`.
///
/// # Errors
/// [`Error::ImageDamaged`] with the first block that the log does not have.
pub(crate) fn fill(
    image: &Image,
    log: &Log,
    checkpoint: Lsn,
    (lba, out): (u64, &mut [u8]),
    bad: &[u64],
) -> Result<(), Error> {
    if bad.is_empty() {
        return Ok(());
    }
    let versions = Versions::find(log, checkpoint, bad);
    let size = image.block_size().bytes_usize();
    for block in bad {
        let first = to_usize(block - lba) * size;
        if !versions.read(log, *block, &mut out[first..first + size]) {
            return Err(Error::ImageDamaged {
                path: image.path().into(),
                lba: Lba(*block),
            });
        }
        tracing::warn!(lba = block, "a damaged block was read from the log");
    }
    Ok(())
}

/// Reads blocks of the image as they are at `checkpoint`. A block that fails its sum is taken from
/// the log where that still holds the version.
pub(crate) fn read_verified(
    image: &Image,
    log: &Log,
    checkpoint: Lsn,
    lba: u64,
    out: &mut [u8],
) -> Result<(), Error> {
    let bad = image.read(lba, out)?;
    fill(image, log, checkpoint, (lba, out), &bad)
}
