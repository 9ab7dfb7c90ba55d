//! Step machine: image and sums against each other, a run at a time; what the log still holds is
//! written again.

use std::ops::Range;

use seawall_wal::LsnRange;

use crate::error::Error;
use crate::image::{Image, RUN_BYTES, is_failed_read};
use crate::index::Index;
use crate::repair::Versions;
use crate::section::BaseFacts;
use crate::sums::{Digest, Rot};
use crate::sumwalk::SumCursor;
use crate::volume::Volume;
use crate::{checkpoint, lock, to_usize};

/// Finds that are kept; older ones are only counted.
const FINDS_MAX: usize = 64;
/// Bytes of the image after which a position is made durable: what a crash makes the scrub look at
/// again. At its usual rate that is every twenty minutes.
const DURABLE_BYTES: u64 = 1 << 30;

/// How far the scrub is, and what it found in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStatus {
    /// First block that the pass under way has not looked at.
    pub position: u64,
    /// Passes that came to the end of the image.
    pub passes: u64,
    /// Blocks checked in all.
    pub blocks: u64,
    /// Damaged blocks that were written again, from the log or as a peer holds them, and damaged
    /// sums.
    pub repaired: u64,
    /// Damaged blocks that the log does not hold.
    pub damaged: u64,
    /// The last finds of both kinds, oldest first.
    pub finds: Vec<ScrubFind>,
}

/// A damaged block of the image, or a damaged sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubFind {
    /// The block.
    pub lba: u64,
    /// LSNs among which the record is that wrote it.
    pub lsns: LsnRange,
    /// It was written again, from the log or a peer, or a sum from what the block and its
    /// neighbours give.
    pub repaired: bool,
}

impl ScrubStatus {
    /// Of a process that begins where another one was.
    pub(crate) fn from(position: u64) -> ScrubStatus {
        ScrubStatus {
            position,
            ..ScrubStatus::default()
        }
    }

    pub(crate) fn note(&mut self, find: ScrubFind) {
        match find.repaired {
            true => self.repaired += 1,
            false => self.damaged += 1,
        }
        // A block that stays damaged is found in every pass.
        self.finds.retain(|known| known.lba != find.lba);
        self.finds.push(find);
        let over = self.finds.len().saturating_sub(FINDS_MAX);
        self.finds.drain(..over);
    }
}

/// Looks at the next runs, at least one; `true` at the end of a pass.
pub(crate) fn advance(volume: &Volume, budget_bytes: u64) -> Result<bool, Error> {
    let medium = volume.image.on_medium()?;
    let mut scrub = Scrub::of(&medium);
    scrub.next = lock(&volume.scrub).position;
    let mut left = budget_bytes;
    loop {
        let Some(found) = scrub.step()? else {
            let mut status = lock(&volume.scrub);
            status.position = 0;
            status.passes += 1;
            drop(status);
            remember(volume, 0)?;
            return Ok(true);
        };
        let finds = match found.bad.is_empty() && found.rotten.is_empty() {
            true => Vec::new(),
            false => settle(volume, &medium, &found)?,
        };
        let count = found.range.end - found.range.start;
        let mut status = lock(&volume.scrub);
        status.position = found.range.end;
        status.blocks += count;
        finds.into_iter().for_each(|find| status.note(find));
        drop(status);
        let part = DURABLE_BYTES >> medium.block_size().shift();
        if found.range.start / part != found.range.end / part {
            remember(volume, found.range.end)?;
        }
        left = left.saturating_sub(count << medium.block_size().shift());
        if left == 0 {
            return Ok(false);
        }
    }
}

/// Makes durable where the next process begins.
fn remember(volume: &Volume, position: u64) -> Result<(), Error> {
    let _one = lock(&volume.capture);
    let facts = volume.facts();
    match facts.scrubbed == position {
        true => Ok(()),
        false => checkpoint::store(
            volume,
            BaseFacts {
                scrubbed: position,
                ..facts
            },
        ),
    }
}

/// Looks again at blocks that seemed damaged, while nothing else writes the image, and repairs what
/// the log holds.
fn settle(volume: &Volume, medium: &Image, seen: &Scrubbed) -> Result<Vec<ScrubFind>, Error> {
    let _one = lock(&volume.capture);
    volume.image_usable()?;
    checkpoint::finish(volume)?;
    let mut block = vec![0; medium.block_size().bytes_usize()];
    let mut bad = Vec::new();
    let mut rotten = medium.sums().rotten(&seen.range)?;
    // The blocks of the others fail their sums and are dealt with as such.
    rotten.retain(|rot| rot.suspects.is_empty());
    for lba in &seen.bad {
        bad.extend(medium.read_unwatched(*lba, &mut block)?);
    }
    let versions = Versions::find(&volume.log, volume.facts().checkpoint, &bad);
    let mut whole = Index::default();
    let mut finds = Vec::new();
    for lba in bad {
        let version = versions.found.piece(lba, lba + 1).1;
        let version = version.filter(|_| versions.read(&volume.log, lba, &mut block));
        if let Some(version) = version {
            whole.insert(lba..lba + 1, version);
        }
        let find = ScrubFind {
            lba,
            lsns: versions.lsns(lba),
            repaired: version.is_some(),
        };
        tracing::warn!(?find, "a block of the image is damaged");
        finds.push(find);
    }
    if let Some(first) = whole.iter().map(|(_, version)| version.lsn).min() {
        checkpoint::repair(volume, &whole, first.before())?;
    }
    {
        let mut base = lock(&volume.base);
        let lacking = finds.iter().filter(|find| !find.repaired);
        lacking.for_each(|find| base.damaged.insert(find.lba));
    }
    finds.extend(refresh(volume, &rotten)?);
    finds.sort_unstable_by_key(|find| find.lba);
    Ok(finds)
}

/// Writes sums that failed their own sum again.
fn refresh(volume: &Volume, rotten: &[Rot]) -> Result<Vec<ScrubFind>, Error> {
    if rotten.is_empty() {
        return Ok(Vec::new());
    }
    let lbas: Vec<u64> = rotten.iter().map(|rot| rot.lba).collect();
    checkpoint::refresh_sums(volume, &lbas, &Index::default())?;
    let versions = Versions::find(&volume.log, volume.facts().checkpoint, &lbas);
    let find = |lba| {
        let find = ScrubFind {
            lba,
            lsns: versions.lsns(lba),
            repaired: true,
        };
        tracing::warn!(?find, "sums of the image were damaged");
        find
    };
    Ok(lbas.into_iter().map(find).collect())
}

/// A walk over everything in an image that is not a hole in both files.
#[derive(Debug)]
pub(crate) struct Scrub<'a> {
    image: &'a Image,
    cursor: SumCursor<'a>,
    next: u64,
}

/// What one step found.
#[derive(Debug)]
pub(crate) struct Scrubbed {
    /// The blocks looked at.
    pub(crate) range: Range<u64>,
    /// Those of them that fail their sum.
    pub(crate) bad: Vec<u64>,
    /// What of their sums fails its own sum.
    pub(crate) rotten: Vec<Rot>,
    /// Their sums, where they are not zero.
    pub(crate) sums: Vec<(u64, Digest)>,
}

impl<'a> Scrub<'a> {
    pub(crate) fn of(image: &'a Image) -> Scrub<'a> {
        Scrub {
            image,
            cursor: SumCursor::new(image.sums()),
            next: 0,
        }
    }

    /// The first block not looked at yet.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// Looks at the next run, or gives `None` at the end.
    pub(crate) fn step(&mut self) -> Result<Option<Scrubbed>, Error> {
        let data = self.image.next_data_unwatched(self.next)?;
        let sums = self.image.sums().next_data(self.next)?;
        let Some(start) = [data, sums]
            .into_iter()
            .flatten()
            .map(|range| range.start)
            .min()
        else {
            self.next = self.image.blocks();
            return Ok(None);
        };
        let shift = self.image.block_size().shift();
        let run = (RUN_BYTES >> shift) as u64;
        let range = start..((start / run + 1) * run).min(self.image.blocks());
        let mut bytes = vec![0; to_usize(range.end - range.start) << shift];
        let bad = self.image.read_unwatched(range.start, &mut bytes)?;
        let sums = self.stored(range.clone(), &bad)?;
        self.next = range.end;
        Ok(Some(Scrubbed {
            rotten: self.image.sums().rotten(&range)?,
            range,
            bad,
            sums,
        }))
    }

    /// The sums of a run that are not zero, but for those of bad blocks where some cannot be read.
    fn stored(&mut self, range: Range<u64>, bad: &[u64]) -> Result<Vec<(u64, Digest)>, Error> {
        let mut stored = Vec::new();
        let visited = self.cursor.visit(range.clone(), &mut |lba, sum| {
            stored.push((lba, sum));
            Ok(())
        });
        match visited {
            Err(error) if is_failed_read(&error) => {}
            other => return other.map(|()| stored),
        }
        stored.clear();
        for lba in range.filter(|lba| !bad.contains(lba)) {
            stored.push((lba, self.image.sums().read(lba, 1)?[0]));
        }
        Ok(stored)
    }
}
