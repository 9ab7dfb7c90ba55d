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
use crate::sums::{Digest, block_sum};
use crate::sumwalk::SumCursor;
use crate::{lock, read_lock, to_usize, write_lock};

/// Bytes that one read takes: it begins at a multiple of them at the earliest.
const READ_BYTES: usize = 128 << 10;
/// Blocks that are read although nobody needs them, because others lie around them.
const GAP_BLOCKS_MAX: u64 = 7;
/// Blocks that wait to be read.
const WAITING_MAX: usize = 4096;
/// Blocks whose sums are gone through before any of them is read.
const VISITED_MAX: u64 = 1 << 18;

/// Copies what views lack into a new layer.
pub(super) struct Keeper<'a> {
    store: &'a Arc<Preserved>,
    views: &'a [Arc<ImageView>],
    cursor: SumCursor<'a>,
    checkpoint: Lsn,
    layer: Layer,
    found: Vec<(Range<u64>, Old)>,
    /// Blocks that are not read yet, and their sums.
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
        let mut lba = range.start;
        while lba < range.end {
            // A range may be the whole volume, and what waits is bounded.
            let end = range.end.min(lba + VISITED_MAX);
            let waiting = &mut self.waiting;
            self.cursor.visit(lba..end, &mut |lba, sum| {
                waiting.push((lba, sum));
                Ok(())
            })?;
            if self.waiting.len() >= WAITING_MAX {
                self.keep_waiting()?;
            }
            lba = end;
        }
        Ok(())
    }

    /// Reads the blocks that wait, near ones at once and many in flight. One that is not as its sum
    /// says is read again by itself, and from the log if need be.
    fn keep_waiting(&mut self) -> Result<(), Error> {
        let waiting = std::mem::take(&mut self.waiting);
        let store = Arc::clone(self.store);
        let size = store.image.block_size();
        let window = (READ_BYTES / size.bytes_usize()).max(1) as u64;
        let near = |a: &(u64, Digest), b: &(u64, Digest)| {
            b.0 - a.0 <= GAP_BLOCKS_MAX + 1 && a.0 / window == b.0 / window
        };
        let groups = || waiting.chunk_by(near);
        let mut reads = store.image.reads();
        let mut ahead = groups();
        for group in groups() {
            while !reads.is_full()
                && let Some(next) = ahead.next()
            {
                let blocks = next[next.len() - 1].0 + 1 - next[0].0;
                reads.submit_run(next[0].0, to_usize(blocks));
            }
            let read = reads.take().and_then(Result::ok);
            for (lba, sum) in group {
                let at = to_usize(lba - group[0].0) << size.shift();
                let block = read.as_deref().and_then(|bytes| bytes.get(at..));
                let block = block.and_then(|rest| rest.get(..size.bytes_usize()));
                match block.filter(|block| block_sum(block) == *sum) {
                    Some(block) => self.put(*lba, block, *sum)?,
                    None => self.keep_one(*lba)?,
                }
            }
        }
        Ok(())
    }

    fn keep_one(&mut self, lba: u64) -> Result<(), Error> {
        let (image, log) = (&self.store.image, &self.store.log);
        let mut block = vec![0; image.block_size().bytes_usize()];
        match read_verified(image, log, self.checkpoint, lba, &mut block) {
            Ok(()) => self.put(lba, &block, block_sum(&block)),
            Err(Error::ImageDamaged { .. }) => {
                self.found.push((lba..lba + 1, Old::Damaged));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a block the next slot.
    fn put(&mut self, lba: u64, block: &[u8], sum: Digest) -> Result<(), Error> {
        self.make_room();
        let slot = self.layer.first + self.layer.sums.len() as u64;
        self.layer.sums.push(sum);
        lock(&self.store.scratch).slots += 1;
        match self.found.last_mut() {
            // Neighbours go together.
            Some((range, Old::Slot { .. })) if range.end == lba => range.end = lba + 1,
            _ => self.found.push((lba..lba + 1, Old::Slot { slot, lba })),
        }
        self.run.extend_from_slice(block);
        match self.run.len() < RUN_BYTES {
            true => Ok(()),
            false => self.flush(),
        }
    }

    /// Keeps within the limit on preserved blocks: the oldest view goes first.
    fn make_room(&self) {
        let Some(limit) = self.store.log.pin_limits().preserved_bytes else {
            return;
        };
        let more = self.store.image.block_size().bytes();
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
