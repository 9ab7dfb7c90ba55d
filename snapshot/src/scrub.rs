//! Step machine: image and sums against each other, a run at a time.

use std::ops::Range;

use crate::error::Error;
use crate::image::{Image, RUN_BYTES, is_failed_read};
use crate::sums::{Digest, SumCursor};
use crate::to_usize;

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
    /// Their sums as stored, where they are not zero.
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
        Ok(Some(Scrubbed { range, bad, sums }))
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
