//! Blocks of the image that are damaged and that the log does not hold: known here, given by a
//! peer.
//!
//! The sum of a block tells whether what a peer gives is the block that was lost, so it does not
//! matter at which LSN the peer is. Where it has a newer version, so has our log, or will: the next
//! capture writes over the damage.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, TryLockError};

use seawall_wal::LsnRange;
use seawall_wal::disk::Buffer;

use crate::error::Error;
use crate::image::Image;
use crate::scrub::ScrubFind;
use crate::sums::block_sum;
use crate::volume::Volume;
use crate::{checkpoint, lock};

/// Damaged blocks that are known one by one: 32 KiB of memory at most.
const KNOWN_MAX: usize = 4096;

/// Blocks of the image that failed their sum and that the log could not repair, since the open.
#[derive(Debug, Default)]
pub(crate) struct Damaged {
    blocks: BTreeSet<u64>,
    /// There are more than are known one by one.
    more: bool,
}

impl Damaged {
    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && !self.more
    }

    pub(crate) fn insert(&mut self, lba: u64) {
        match self.blocks.len() < KNOWN_MAX {
            true => drop(self.blocks.insert(lba)),
            false => self.more |= !self.blocks.contains(&lba),
        }
    }

    fn remove(&mut self, lba: u64) {
        self.blocks.remove(&lba);
    }
}

impl Volume {
    /// Up to `count` blocks behind `after`, or from the first one on, that failed their sum since
    /// the open and that the log could not repair.
    #[must_use]
    pub fn damaged_blocks(&self, after: Option<u64>, count: usize) -> Vec<u64> {
        let from = after.map_or(0, |after| after.saturating_add(1));
        let base = lock(&self.base);
        let behind = base.damaged.blocks.range(from..);
        behind.take(count).copied().collect()
    }

    /// Writes a damaged block of the image again as a peer holds it, durably, if its sum proves
    /// that it is the block that was lost. `false` when it is not, and while a capture is under
    /// way.
    ///
    /// # Errors
    /// [`Error::ImageStopped`], [`Error::BaseIncomplete`], [`Error::Log`].
    pub fn mend(&self, lba: u64, bytes: &[u8]) -> Result<bool, Error> {
        self.check_maintainer()?;
        self.check_complete()?;
        if lba >= self.geometry.blocks {
            return Ok(false);
        }
        let _one = match self.capture.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        self.image_usable()?;
        checkpoint::finish(self)?;
        let medium = self.image.on_medium()?;
        if is_damaged(&medium, lba)? {
            if !proves(&medium, lba, bytes)? {
                return Ok(false);
            }
            // Whoever read the damage meanwhile looks again.
            self.captures.fetch_add(1, Ordering::SeqCst);
            let block = Arc::new(Buffer::copy_of(bytes));
            self.image.fill(lba, vec![block])?;
            self.synced(self.image.sync_blocks())?;
            self.captures.fetch_add(1, Ordering::SeqCst);
            if is_damaged(&self.image.on_medium()?, lba)? {
                return Ok(false);
            }
            let checkpoint = self.facts().checkpoint;
            lock(&self.scrub).note(ScrubFind {
                lba,
                lsns: LsnRange::new(seawall_wal::Lsn::ZERO, checkpoint),
                repaired: true,
            });
            tracing::warn!(lba, "a damaged block of the image came back from a peer");
        }
        lock(&self.base).damaged.remove(lba);
        Ok(true)
    }
}

fn is_damaged(medium: &Image, lba: u64) -> Result<bool, Error> {
    let mut block = vec![0; medium.block_size().bytes_usize()];
    Ok(!medium.read_unwatched(lba, &mut block)?.is_empty())
}

/// Whether the sum of the block, itself sound, is that of `bytes`.
fn proves(medium: &Image, lba: u64, bytes: &[u8]) -> Result<bool, Error> {
    if bytes.len() != medium.block_size().bytes_usize() {
        return Ok(false);
    }
    let rotten = medium.sums().rotten(&(lba..lba + 1))?;
    if !rotten.is_empty() {
        return Ok(false);
    }
    let sum = medium.sums().read(lba, 1)?;
    Ok(sum.first() == Some(&block_sum(bytes)))
}
