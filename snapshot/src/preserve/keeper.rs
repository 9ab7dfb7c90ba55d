//! Copies what a checkpoint is about to overwrite, within the limit on preserved blocks.

use std::ops::Range;
use std::sync::Arc;

use seawall_wal::disk::Buffer;
use seawall_wal::{Lsn, PinBreak};

use super::{ImageView, Layer, Old, Preserved};
use crate::error::Error;
use crate::image::RUN_BYTES;
use crate::index::Index;
use crate::rangemap::RangeMap;
use crate::repair::read_verified;
use crate::sums::{Digest, block_sums};
use crate::sumwalk::SumCursor;
use crate::{lock, read_lock, to_usize, write_lock};

/// Neighbours up to this many are read block by block, with others in flight.
const FEW_BLOCKS_MAX: usize = 8;
/// Blocks that wait to be read so.
const WAITING_MAX: usize = 2048;

/// Copies what views lack into a new layer.
pub(super) struct Keeper<'a> {
    store: &'a Arc<Preserved>,
    views: &'a [Arc<ImageView>],
    cursor: SumCursor<'a>,
    checkpoint: Lsn,
    layer: Layer,
    found: Vec<(Range<u64>, Old)>,
    /// Blocks that lie apart, and their sums.
    waiting: Vec<(u64, Digest)>,
    /// Blocks of the last slots, which are not in the file yet.
    run: Vec<u8>,
}

impl<'a> Keeper<'a> {
    pub(super) fn of(store: &'a Arc<Preserved>, views: &'a [Arc<ImageView>]) -> Keeper<'a> {
        Keeper {
            store,
            views,
            cursor: SumCursor::new(store.image.sums()),
            checkpoint: store.log.frontiers().checkpoint,
            layer: store.begin_layer(),
            found: Vec::new(),
            waiting: Vec::new(),
            run: Vec::new(),
        }
    }

    pub(super) fn keep_all(&mut self, touched: &Index) -> Result<(), Error> {
        for (range, _) in touched.iter() {
            for piece in self.missing(&range) {
                self.keep(piece)?;
            }
        }
        self.keep_waiting()?;
        self.flush()
    }

    /// Parts of `range` that some view lacks. One checkpoint runs at a time, and nobody else adds.
    fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut missing = RangeMap::default();
        for view in self.views {
            let kept = read_lock(&view.kept);
            if kept.broken.is_none() {
                for (piece, old) in kept.blocks.pieces(range.clone()) {
                    if old.is_none() {
                        missing.insert(piece, ());
                    }
                }
            }
        }
        missing.iter().map(|(piece, ())| piece).collect()
    }

    fn keep(&mut self, range: Range<u64>) -> Result<(), Error> {
        self.found.push((range.clone(), Old::Zero));
        let run_max = (RUN_BYTES >> self.store.image.block_size().shift()) as u64;
        let mut blocks: Vec<(u64, Digest)> = Vec::new();
        self.cursor.visit(range, &mut |lba, sum| {
            blocks.push((lba, sum));
            Ok(())
        })?;
        let follows =
            |a: &(u64, Digest), b: &(u64, Digest)| a.0 + 1 == b.0 && !b.0.is_multiple_of(run_max);
        for run in blocks.chunk_by(follows) {
            if run.len() <= FEW_BLOCKS_MAX {
                self.waiting.extend(run);
            } else {
                self.keep_run(run[0].0..run[0].0 + run.len() as u64)?;
            }
        }
        match self.waiting.len() < WAITING_MAX {
            true => Ok(()),
            false => self.keep_waiting(),
        }
    }

    /// Reads the blocks that lie apart, many in flight. One that is not as its sum says is read
    /// again by itself, and from the log if need be.
    fn keep_waiting(&mut self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        let store = Arc::clone(self.store);
        let mut reads = store.image.reads();
        let mut ahead = waiting.iter();
        for (lba, sum) in &waiting {
            while !reads.is_full()
                && let Some((next, _)) = ahead.next()
            {
                reads.submit(*next);
            }
            let read = reads.take().and_then(Result::ok);
            let sound = |bytes: &Buffer| block_sums(bytes, store.image.block_size()) == [*sum];
            match read.filter(sound) {
                Some(bytes) => {
                    self.make_room(1);
                    self.put(*lba..*lba + 1, &bytes)?;
                }
                None => self.keep_run(*lba..*lba + 1)?,
            }
        }
        Ok(())
    }

    fn keep_run(&mut self, run: Range<u64>) -> Result<(), Error> {
        let block_size = self.store.image.block_size();
        let count = run.end - run.start;
        self.make_room(count);
        let mut bytes = vec![0; to_usize(count << block_size.shift())];
        let (image, log) = (&self.store.image, &self.store.log);
        match read_verified(image, log, self.checkpoint, run.start, &mut bytes) {
            Ok(()) => {}
            Err(Error::ImageDamaged { .. }) if count == 1 => {
                self.found.push((run, Old::Damaged));
                return Ok(());
            }
            Err(Error::ImageDamaged { .. }) => {
                let mut blocks = run.into_iter();
                return blocks.try_for_each(|lba| self.keep_run(lba..lba + 1));
            }
            Err(error) => return Err(error),
        }
        self.put(run, &bytes)
    }

    /// Gives the blocks of a run the next slots.
    fn put(&mut self, run: Range<u64>, bytes: &[u8]) -> Result<(), Error> {
        let block_size = self.store.image.block_size();
        let count = run.end - run.start;
        let slot = self.layer.first + self.layer.sums.len() as u64;
        self.layer.sums.extend(block_sums(bytes, block_size));
        lock(&self.store.scratch).slots += count;
        let lba = run.start;
        self.found.push((run, Old::Slot { slot, lba }));
        self.run.extend_from_slice(bytes);
        match self.run.len() < RUN_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Keeps within the limit on preserved blocks: the oldest view goes first.
    fn make_room(&self, slots: u64) {
        let Some(limit) = self.store.log.pin_limits().preserved_bytes else {
            return;
        };
        let more = slots << self.store.image.block_size().shift();
        loop {
            let needed = self.store.bytes() + more;
            if needed <= limit || !self.break_oldest(PinBreak::PreservedLimit { needed, limit }) {
                return;
            }
        }
    }

    /// `false` when there is no view left to break.
    fn break_oldest(&self, why: PinBreak) -> bool {
        let whole = self.views.iter().filter(|view| !view.is_broken());
        match whole.min_by_key(|view| view.checkpoint) {
            None => false,
            Some(view) => {
                view.break_now(why);
                true
            }
        }
    }

    /// Writes what has gathered; while the disk is full, the oldest view makes room.
    fn flush(&mut self) -> Result<(), Error> {
        if self.run.is_empty() {
            return Ok(());
        }
        let shift = self.store.image.block_size().shift();
        let end = self.layer.first + self.layer.sums.len() as u64;
        let offset = (end << shift) - self.run.len() as u64;
        loop {
            match self.write_run(offset) {
                Err(error) if error.is_out_of_space() && self.break_oldest(PinBreak::NoSpace) => {}
                written => {
                    self.run.clear();
                    return Ok(written?);
                }
            }
        }
    }

    fn write_run(&mut self, offset: u64) -> Result<(), seawall_wal::Error> {
        let file = match &mut self.layer.file {
            Some(file) => file,
            none => none.insert(self.store.file()?),
        };
        file.write_bytes(offset, Buffer::copy_of(&self.run))
    }

    /// Shows every view what it lacked.
    pub(super) fn publish(self) {
        let Keeper {
            store,
            views,
            layer,
            found,
            ..
        } = self;
        lock(&store.scratch).next = layer.first + layer.sums.len() as u64;
        let layer = Arc::new(layer);
        for view in views {
            let mut kept = write_lock(&view.kept);
            if kept.broken.is_some() {
                continue;
            }
            // Later finds are more exact: a block that is not zero lies in a range of zeros.
            let slots: u64 = (found.iter().rev())
                .map(|(range, old)| kept.add(range, *old))
                .sum();
            if slots > 0 {
                kept.layers.insert(layer.first, Arc::clone(&layer));
                kept.slots += slots;
            }
            drop(kept);
            view.charge();
        }
    }
}
