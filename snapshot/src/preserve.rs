//! Old content of blocks that a pinned view needs, kept before a checkpoint overwrites them (D9,
//! D10).

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, RwLock};

use seawall_wal::disk::{Buffer, Disk, File, OpenMode, remove};
use seawall_wal::{Log, Lsn};

use crate::error::Error;
use crate::image::{Image, RUN_BYTES};
use crate::index::Index;
use crate::rangemap::RangeMap;
use crate::repair::read_verified;
use crate::sums::{Digest, SumCursor, block_sum, block_sums};
use crate::{read_lock, to_usize, write_lock};

/// The image at one checkpoint, for as long as this value lives, whatever becomes of the live
/// image.
///
/// A reader holds `kept` shared while it looks at the live image, and a checkpoint holds it alone
/// while it adds what it is about to overwrite: so what a reader does not find in `kept` is still
/// untouched in the image.
#[derive(Debug)]
pub(crate) struct ImageView {
    disk: Arc<dyn Disk>,
    scratch: PathBuf,
    image: Arc<Image>,
    log: Arc<Log>,
    checkpoint: Lsn,
    kept: RwLock<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: RangeMap<Old>,
    sums: Vec<Digest>,
    file: Option<File>,
    broken: bool,
}

/// What a block held at the checkpoint of the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Old {
    Zero,
    /// Block `lba` lies in slot `slot` of the scratch file, its neighbours behind it.
    Slot {
        slot: u64,
        lba: u64,
    },
    /// It failed its sum and nothing could repair it.
    Damaged,
}

impl ImageView {
    pub(crate) fn new(
        disk: &Arc<dyn Disk>,
        scratch: PathBuf,
        image: &Arc<Image>,
        log: &Arc<Log>,
        checkpoint: Lsn,
    ) -> ImageView {
        ImageView {
            disk: Arc::clone(disk),
            scratch,
            image: Arc::clone(image),
            log: Arc::clone(log),
            checkpoint,
            kept: RwLock::default(),
        }
    }

    pub(crate) fn checkpoint(&self) -> Lsn {
        self.checkpoint
    }

    pub(crate) fn is_broken(&self) -> bool {
        read_lock(&self.kept).broken
    }

    fn usable(&self, kept: &Kept) -> Result<(), Error> {
        match kept.broken {
            false => Ok(()),
            true => Err(Error::Log(seawall_wal::Error::PinBroken {
                after: self.checkpoint,
                why: "the blocks it needs could not be preserved",
            })),
        }
    }

    fn damaged(&self, lba: u64) -> Error {
        Error::ImageDamaged {
            path: self.image.path().into(),
            lba: seawall_wal::Lba(lba),
        }
    }

    /// Reads blocks from `lba` on as they were at the checkpoint; every one is verified.
    pub(crate) fn read(&self, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        let kept = read_lock(&self.kept);
        self.usable(&kept)?;
        let size = self.image.block_size().bytes_usize();
        let end = lba + (out.len() / size) as u64;
        for (range, old) in kept.blocks.pieces(lba..end) {
            let first = to_usize(range.start - lba) * size;
            let part = &mut out[first..first + to_usize(range.end - range.start) * size];
            match old {
                None => read_verified(&self.image, &self.log, self.checkpoint, range.start, part)?,
                Some(Old::Zero) => part.fill(0),
                Some(Old::Slot { slot, lba }) => {
                    self.read_kept(&kept, slot + (range.start - lba), range.start, part)?;
                }
                Some(Old::Damaged) => return Err(self.damaged(range.start)),
            }
        }
        Ok(())
    }

    fn read_kept(&self, kept: &Kept, slot: u64, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        let file = kept.file.as_ref().expect("a slot lies in the file");
        let block_size = self.image.block_size();
        let bytes = file.read_exact(slot << block_size.shift(), out.len())?;
        out.copy_from_slice(&bytes);
        let blocks = out.chunks(block_size.bytes_usize());
        for ((lba, block), sum) in (lba..).zip(blocks).zip(&kept.sums[to_usize(slot)..]) {
            if block_sum(block) != *sum {
                return Err(self.damaged(lba));
            }
        }
        Ok(())
    }

    /// Calls `each` with every block of `range` that was not zero, and its sum.
    pub(crate) fn visit_sums(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, Digest) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let kept = read_lock(&self.kept);
        self.usable(&kept)?;
        let mut cursor = SumCursor::new(self.image.sums());
        for (piece, old) in kept.blocks.pieces(range) {
            match old {
                None => cursor.visit(piece, each)?,
                Some(Old::Zero) => {}
                Some(Old::Slot { slot, lba }) => {
                    let first = to_usize(slot + (piece.start - lba));
                    for (lba, sum) in piece.zip(&kept.sums[first..]) {
                        each(lba, *sum)?;
                    }
                }
                Some(Old::Damaged) => return Err(self.damaged(piece.start)),
            }
        }
        self.image.check_watch()
    }

    /// First blocks in `[lba, end)` that may hold data.
    pub(crate) fn next_data(&self, lba: u64, end: u64) -> Result<Option<Range<u64>>, Error> {
        let kept = read_lock(&self.kept);
        self.usable(&kept)?;
        for (piece, old) in kept.blocks.pieces(lba..end) {
            match old {
                Some(Old::Zero) => {}
                Some(Old::Slot { .. } | Old::Damaged) => return Ok(Some(piece)),
                None => {
                    let data = self.image.next_data(piece.start)?;
                    if let Some(data) = data.filter(|data| data.start < piece.end) {
                        return Ok(Some(data.start..data.end.min(piece.end)));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Keeps what a checkpoint of `touched` is about to overwrite. When that is impossible the view
    /// is broken, because a view stops no checkpoint (D10).
    pub(crate) fn keep(&self, touched: &Index) {
        if self.is_broken() {
            return;
        }
        if let Err(error) = self.try_keep(touched) {
            tracing::warn!(checkpoint = %self.checkpoint, %error, "a pinned view is broken");
            self.give_up();
        }
    }

    /// Breaks the view. When this returns, nobody reads the live image through it any more.
    pub(crate) fn give_up(&self) {
        *write_lock(&self.kept) = Kept {
            broken: true,
            ..Kept::default()
        };
        // OK because whatever is left over is swept at the next open.
        let _ = remove(self.disk.as_ref(), &self.scratch);
    }

    fn try_keep(&self, touched: &Index) -> Result<(), Error> {
        let mut keeper = Keeper::of(self);
        for (range, _) in touched.iter() {
            // Only a checkpoint adds, and there is one at a time: what is missing stays missing.
            let missing: Vec<_> = read_lock(&self.kept)
                .blocks
                .pieces(range)
                .filter_map(|(piece, old)| old.is_none().then_some(piece))
                .collect();
            for piece in missing {
                keeper.keep(piece)?;
            }
        }
        let mut kept = write_lock(&self.kept);
        for (range, old) in keeper.found {
            kept.blocks.insert(range, old);
        }
        kept.sums.extend(keeper.sums);
        kept.file = kept.file.take().or(keeper.file);
        Ok(())
    }
}

impl Drop for ImageView {
    fn drop(&mut self) {
        let file = write_lock(&self.kept).file.take();
        if file.is_some() {
            drop(file);
            // OK because whatever is left over is swept at the next open.
            let _ = remove(self.disk.as_ref(), &self.scratch);
        }
    }
}

/// Copies blocks into the scratch file of one view.
struct Keeper<'a> {
    view: &'a ImageView,
    cursor: SumCursor<'a>,
    file: Option<File>,
    slot: u64,
    found: Vec<(Range<u64>, Old)>,
    sums: Vec<Digest>,
}

impl<'a> Keeper<'a> {
    fn of(view: &'a ImageView) -> Keeper<'a> {
        Keeper {
            view,
            cursor: SumCursor::new(view.image.sums()),
            file: None,
            slot: read_lock(&view.kept).sums.len() as u64,
            found: Vec::new(),
            sums: Vec::new(),
        }
    }

    fn keep(&mut self, range: Range<u64>) -> Result<(), Error> {
        self.found.push((range.clone(), Old::Zero));
        let run_max = (RUN_BYTES >> self.view.image.block_size().shift()) as u64;
        let mut runs: Vec<Range<u64>> = Vec::new();
        self.cursor.visit(range, &mut |lba, _| {
            match runs.last_mut() {
                Some(run) if run.end == lba && run.end - run.start < run_max => run.end += 1,
                _ => runs.push(lba..lba + 1),
            }
            Ok(())
        })?;
        runs.into_iter().try_for_each(|run| self.keep_run(run))
    }

    fn keep_run(&mut self, run: Range<u64>) -> Result<(), Error> {
        let block_size = self.view.image.block_size();
        let count = to_usize(run.end - run.start);
        let mut bytes = Buffer::zeroed(count << block_size.shift());
        let view = self.view;
        match read_verified(
            &view.image,
            &view.log,
            view.checkpoint,
            run.start,
            &mut bytes,
        ) {
            Ok(()) => {}
            Err(Error::ImageDamaged { .. }) if count == 1 => {
                self.found.push((run, Old::Damaged));
                return Ok(());
            }
            Err(Error::ImageDamaged { .. }) => {
                return run
                    .into_iter()
                    .try_for_each(|lba| self.keep_run(lba..lba + 1));
            }
            Err(error) => return Err(error),
        }
        self.sums.extend(block_sums(&bytes, block_size));
        let slot = self.slot;
        self.slot += count as u64;
        self.append(slot << block_size.shift(), bytes)?;
        let lba = run.start;
        self.found.push((run, Old::Slot { slot, lba }));
        Ok(())
    }

    fn append(&mut self, offset: u64, bytes: Buffer) -> Result<(), Error> {
        let kept = read_lock(&self.view.kept);
        if let Some(file) = &kept.file {
            return Ok(file.write_bytes(offset, bytes)?);
        }
        if self.file.is_none() {
            let view = self.view;
            let mode = OpenMode::CreateOrOpen;
            self.file = Some(File::open(&view.disk, &view.scratch, mode)?);
        }
        let file = self.file.as_ref().expect("opened above");
        Ok(file.write_bytes(offset, bytes)?)
    }
}
