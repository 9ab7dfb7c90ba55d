//! Which blocks of zeros get their places in the image before a capture writes others near them.
//!
//! A write to a hole makes the file system find a place for one block, which takes several times as
//! long as the write of a block that has one; zeros written in one run find places for all of it at
//! once. So where a capture takes a fair part of what one sector of sums is about, and nothing of
//! that was ever written, all of it gets its place first. What reads zero goes on reading zero, so
//! a crash in the middle puts nothing at risk.

use std::ops::Range;

use crate::error::Error;
use crate::sumpage::SECTOR_SUMS;
use crate::sumwalk::SumCursor;
use crate::to_usize;

/// Of so many blocks one must be about to be written for all to get places: an image takes no more
/// than so many times the space of the blocks that were written to it.
const THINNEST: u64 = 8;

/// Looks at blocks that take payload, in order, and gathers what is to be filled.
#[derive(Debug)]
pub(crate) struct Fills {
    /// Blocks in the image.
    blocks: u64,
    /// The sector looked at, with the numbers of its blocks among all that take payload.
    sector: u64,
    numbers: Range<usize>,
    /// In order and apart from each other.
    ranges: Vec<Range<u64>>,
}

impl Fills {
    pub(crate) fn below(blocks: u64) -> Fills {
        Fills {
            blocks,
            sector: 0,
            numbers: 0..0,
            ranges: Vec::new(),
        }
    }

    /// Looks at a range behind all others, whose first block has this number. `placed` is told of
    /// the blocks that get their places.
    pub(crate) fn visit(
        &mut self,
        range: &Range<u64>,
        number: usize,
        cursor: &mut SumCursor<'_>,
        placed: &mut [bool],
    ) -> Result<(), Error> {
        let mut lba = range.start;
        while lba < range.end {
            let sector = lba / SECTOR_SUMS;
            let end = range.end.min((sector + 1) * SECTOR_SUMS);
            let from = number + to_usize(lba - range.start);
            if sector != self.sector {
                self.decide(cursor, placed)?;
                (self.sector, self.numbers) = (sector, from..from);
            }
            self.numbers.end = from + to_usize(end - lba);
            lba = end;
        }
        Ok(())
    }

    /// No range follows: what is to be filled.
    pub(crate) fn finish(
        mut self,
        cursor: &mut SumCursor<'_>,
        placed: &mut [bool],
    ) -> Result<Vec<Range<u64>>, Error> {
        self.decide(cursor, placed)?;
        Ok(self.ranges)
    }

    fn decide(&mut self, cursor: &mut SumCursor<'_>, placed: &mut [bool]) -> Result<(), Error> {
        let taken = self.numbers.len() as u64;
        let first = self.sector * SECTOR_SUMS;
        let blocks = first..self.blocks.min(first + SECTOR_SUMS);
        let count = blocks.end - blocks.start;
        // Blocks that are all written find their places as one run.
        if taken * THINNEST < count || taken == count || !cursor.is_blank(&blocks)? {
            return Ok(());
        }
        placed[self.numbers.clone()].fill(true);
        match self.ranges.last_mut() {
            Some(last) if last.end == blocks.start => last.end = blocks.end,
            _ => self.ranges.push(blocks),
        }
        Ok(())
    }
}
