//! Old content of blocks that pinned views need, kept before a checkpoint overwrites them (D9,
//! D10).
//!
//! A checkpoint copies what it is about to overwrite once, for all views that still need it, into
//! one layer of one scratch file, and shows each view its new pieces before the first byte of the
//! image changes. So the cost is that of the blocks overwritten while pinned, each counted once per
//! version that a view needs. A layer goes with the last view that shows a block of it, and its
//! space with it.

mod keeper;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use seawall_wal::disk::{Disk, File, OpenMode, remove};
use seawall_wal::sync::{Mutex, RwLock};
use seawall_wal::{Lba, Log, Lsn, PinBreak};

use self::keeper::Keeper;
use crate::base::Claim;
use crate::error::Error;
use crate::image::Image;
use crate::index::Index;
use crate::rangemap::RangeMap;
use crate::repair;
use crate::sumpage::PAGE_SUMS;
use crate::sums::{Digest, block_sum};
use crate::{lock, read_lock, to_usize, write_lock};

/// Sums read at once when a view is gone through.
const SUMS_AT_ONCE: u64 = 16 * PAGE_SUMS;

/// The views of one image, and the scratch file that they share.
#[derive(Debug)]
pub(crate) struct Preserved {
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    image: Arc<Image>,
    log: Arc<Log>,
    views: Mutex<Vec<Weak<ImageView>>>,
    scratch: Mutex<Scratch>,
}

/// The file in which old blocks lie. It is there as long as a layer is.
#[derive(Debug, Default)]
struct Scratch {
    file: Option<Arc<File>>,
    made: u64,
    /// Where the next layer begins; slots behind it are written once and never again.
    next: u64,
    layers: u64,
    /// Slots in use.
    slots: u64,
}

/// What one checkpoint kept: consecutive slots of the file, and the sums of their blocks.
#[derive(Debug)]
struct Layer {
    store: Arc<Preserved>,
    file: Option<Arc<File>>,
    first: u64,
    sums: Vec<Digest>,
}

/// The image at one checkpoint, for as long as this value lives, whatever becomes of the live
/// image.
///
/// No lock is held across I/O. A reader looks at `kept`, reads the live image where nothing is
/// kept, and looks again: what is still not kept was untouched when it was read, because a
/// checkpoint adds to `kept` before it overwrites (S6).
#[derive(Debug)]
pub(crate) struct ImageView {
    store: Arc<Preserved>,
    checkpoint: Lsn,
    kept: RwLock<Kept>,
    /// The pins that read it.
    claims: Mutex<Vec<Weak<Claim>>>,
}

#[derive(Debug, Default)]
struct Kept {
    blocks: RangeMap<Old>,
    /// The layers of these blocks, by their first slot.
    layers: BTreeMap<u64, Arc<Layer>>,
    /// Slots among them.
    slots: u64,
    broken: Option<PinBreak>,
}

/// What a block held at the checkpoint of a view.
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

/// Where a reader finds blocks of a view.
#[derive(Debug)]
enum Source {
    /// In the live image, unless a checkpoint keeps them meanwhile.
    Live,
    Zero,
    Slot {
        layer: Arc<Layer>,
        slot: u64,
    },
    Damaged,
}

impl Preserved {
    pub(crate) fn new(
        disk: &Arc<dyn Disk>,
        folder: PathBuf,
        image: &Arc<Image>,
        log: &Arc<Log>,
    ) -> Arc<Preserved> {
        Arc::new(Preserved {
            disk: Arc::clone(disk),
            folder,
            image: Arc::clone(image),
            log: Arc::clone(log),
            views: Mutex::default(),
            scratch: Mutex::default(),
        })
    }

    /// The view of the image at `checkpoint`, which is the present one, shared by all who hold it.
    /// The caller holds the capture lock.
    pub(crate) fn view(self: &Arc<Self>, checkpoint: Lsn) -> Arc<ImageView> {
        let whole = |view: &&Arc<ImageView>| view.checkpoint == checkpoint && !view.is_broken();
        if let Some(view) = self.views().iter().find(whole) {
            return Arc::clone(view);
        }
        let view = Arc::new(ImageView {
            store: Arc::clone(self),
            checkpoint,
            kept: RwLock::default(),
            claims: Mutex::default(),
        });
        lock(&self.views).push(Arc::downgrade(&view));
        view
    }

    /// Views that somebody holds.
    fn views(&self) -> Vec<Arc<ImageView>> {
        let mut views = lock(&self.views);
        views.retain(|view| view.strong_count() > 0);
        views.iter().filter_map(Weak::upgrade).collect()
    }

    /// Keeps what a checkpoint of `touched` is about to overwrite. The checkpoint MUST call it
    /// before its intent, under the capture lock; when it returns, every view that is not broken
    /// shows the old content of all touched blocks wherever they are written from then on. It
    /// cannot fail, because a view stops no checkpoint: one that cannot be kept is broken (D10).
    pub(crate) fn keep(self: &Arc<Self>, touched: &Index) {
        let views = self.views();
        if views.iter().all(|view| view.is_broken()) {
            return;
        }
        let mut keeper = Keeper::of(self, &views);
        match keeper.keep_all(touched) {
            Ok(()) => keeper.publish(),
            Err(error) => break_all(&views, &error),
        }
    }

    /// Breaks every view, because the image below them is about to be written without a checkpoint.
    /// A read that is under way looks again when it has read, and answers that its pin is broken.
    pub(crate) fn give_up(&self) {
        for view in self.views() {
            view.break_now(PinBreak::BaseReplaced);
        }
    }

    /// Bytes of old blocks that are kept.
    pub(crate) fn bytes(&self) -> u64 {
        lock(&self.scratch).slots << self.image.block_size().shift()
    }

    fn begin_layer(self: &Arc<Self>) -> Layer {
        let mut scratch = lock(&self.scratch);
        scratch.layers += 1;
        Layer {
            store: Arc::clone(self),
            file: None,
            first: scratch.next,
            sums: Vec::new(),
        }
    }

    fn file(&self) -> Result<Arc<File>, seawall_wal::Error> {
        let mut scratch = lock(&self.scratch);
        if let Some(file) = &scratch.file {
            return Ok(Arc::clone(file));
        }
        let path = self.folder.join(format!("preserved-{}", scratch.made));
        let file = Arc::new(File::open(&self.disk, &path, OpenMode::CreateOrOpen)?);
        scratch.made += 1;
        scratch.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn damaged(&self, lba: u64) -> Error {
        Error::ImageDamaged {
            path: self.image.path().into(),
            lba: Lba(lba),
        }
    }
}

/// A full disk has a name of its own; any other failure is in the log of the process.
fn cause_of(error: &Error) -> PinBreak {
    tracing::warn!(%error, "old blocks of pinned views could not be preserved");
    match error {
        Error::Log(error) if error.is_out_of_space() => PinBreak::NoSpace,
        _ => PinBreak::NotPreserved,
    }
}

fn break_all(views: &[Arc<ImageView>], error: &Error) {
    let why = cause_of(error);
    views.iter().for_each(|view| view.break_now(why));
}

impl Layer {
    /// Reads consecutive slots, each verified; `lba` is the block of the first.
    fn read(&self, slot: u64, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        let block_size = self.store.image.block_size();
        let file = self.file.as_ref().expect("a slot lies in the file");
        let bytes = file.read_exact(slot << block_size.shift(), out.len())?;
        out.copy_from_slice(&bytes);
        let blocks = out.chunks(block_size.bytes_usize());
        for ((lba, block), sum) in (lba..).zip(blocks).zip(self.sums_from(slot)) {
            if block_sum(block) != *sum {
                return Err(self.store.damaged(lba));
            }
        }
        Ok(())
    }

    fn sums_from(&self, slot: u64) -> &[Digest] {
        &self.sums[to_usize(slot - self.first)..]
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        let count = self.sums.len() as u64;
        let mut scratch = lock(&self.store.scratch);
        scratch.layers -= 1;
        scratch.slots -= count;
        let mut whole = None;
        if scratch.layers == 0 {
            whole = scratch.file.take();
            scratch.next = 0;
        }
        drop(scratch);
        let shift = self.store.image.block_size().shift();
        let freed = match (whole, self.file.take()) {
            (Some(whole), ours) => {
                let path = whole.path().to_path_buf();
                drop((whole, ours));
                remove(self.store.disk.as_ref(), &path)
            }
            (None, Some(file)) if count > 0 => file.punch_hole(self.first << shift, count << shift),
            (None, _) => Ok(()),
        };
        if let Err(error) = freed {
            tracing::warn!(%error, "space of preserved blocks comes back at the next open");
        }
    }
}

impl ImageView {
    pub(crate) fn is_broken(&self) -> bool {
        read_lock(&self.kept).broken.is_some()
    }

    /// Adds a pin that reads it.
    pub(crate) fn claimed_by(&self, claim: &Arc<Claim>) {
        let mut claims = lock(&self.claims);
        claims.retain(|claim| claim.strong_count() > 0);
        claims.push(Arc::downgrade(claim));
        drop(claims);
        self.charge();
    }

    fn claims(&self) -> Vec<Arc<Claim>> {
        let claims = lock(&self.claims);
        claims.iter().filter_map(Weak::upgrade).collect()
    }

    /// Tells the pins what they cost.
    fn charge(&self) {
        let slots = read_lock(&self.kept).slots;
        let bytes = slots << self.store.image.block_size().shift();
        for claim in self.claims() {
            claim.pin().charge(bytes);
        }
    }

    /// Gives up what it keeps, at once, and breaks the pins that read it.
    fn break_now(&self, why: PinBreak) {
        let broken = Kept {
            broken: Some(why),
            ..Kept::default()
        };
        let given_up = std::mem::replace(&mut *write_lock(&self.kept), broken);
        drop(given_up);
        for claim in self.claims() {
            claim.pin().break_now(why);
        }
    }

    fn usable(&self, kept: &Kept) -> Result<(), Error> {
        match kept.broken {
            None => Ok(()),
            Some(why) => Err(Error::Log(seawall_wal::Error::PinBroken {
                after: self.checkpoint,
                why,
            })),
        }
    }

    /// Where the blocks of `range` are now, in order.
    fn sources(&self, range: Range<u64>) -> Result<Vec<(Range<u64>, Source)>, Error> {
        let kept = read_lock(&self.kept);
        self.usable(&kept)?;
        let pieces = kept.blocks.pieces(range);
        Ok(pieces
            .map(|(piece, old)| {
                let source = kept.source(piece.start, old);
                (piece, source)
            })
            .collect())
    }

    /// Where block `lba` is, and up to which block in front of `end` the same holds.
    fn source(&self, lba: u64, end: u64) -> Result<(u64, Source), Error> {
        let kept = read_lock(&self.kept);
        self.usable(&kept)?;
        let (end, old) = kept.blocks.piece(lba, end);
        Ok((end, kept.source(lba, old)))
    }

    /// Whether all of `range`, which was read from the live image, is what the view holds.
    fn still_live(&self, range: Range<u64>) -> Result<bool, Error> {
        let kept = read_lock(&self.kept);
        self.usable(&kept)?;
        Ok(kept.blocks.pieces(range).all(|(_, old)| old.is_none()))
    }

    /// Reads blocks from `lba` on as they were at the checkpoint; every one is verified.
    pub(crate) fn read(&self, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        let size = self.store.image.block_size().bytes_usize();
        let end = lba + (out.len() / size) as u64;
        let at = |block: u64| to_usize(block - lba) * size;
        let sources = self.sources(lba..end)?;
        let live = sources
            .iter()
            .filter(|(_, source)| matches!(source, Source::Live));
        let live: Vec<&Range<u64>> = live.map(|(range, _)| range).collect();
        // One read over what is kept in between: many small ones take longer.
        let bad = match (live.first(), live.last()) {
            (Some(first), Some(last)) => {
                let part = &mut out[at(first.start)..at(last.end)];
                self.store.image.read(first.start, part)?
            }
            _ => Vec::new(),
        };
        for (range, source) in sources {
            let part = &mut out[at(range.start)..at(range.end)];
            match source {
                Source::Live => self.settle_live(range, part, &bad)?,
                Source::Zero => part.fill(0),
                Source::Slot { layer, slot } => layer.read(slot, range.start, part)?,
                Source::Damaged => return Err(self.store.damaged(range.start)),
            }
        }
        Ok(())
    }

    /// Blocks in `out` were read from the live image, where those in `bad` failed their sums.
    fn settle_live(&self, range: Range<u64>, out: &mut [u8], bad: &[u64]) -> Result<(), Error> {
        if !self.still_live(range.clone())? {
            return self.read(range.start, out);
        }
        let bad = bad.iter().copied().filter(|lba| range.contains(lba));
        let bad: Vec<u64> = bad.collect();
        let (image, log) = (&self.store.image, &self.store.log);
        match repair::fill(image, log, self.checkpoint, (range.start, out), &bad) {
            // A checkpoint that came in between makes a block look damaged that is kept by now.
            Err(_) if !self.still_live(range.clone())? => self.read(range.start, out),
            filled => filled,
        }
    }

    /// Calls `each` with every block of `range` that was not zero, and its sum.
    pub(crate) fn visit_sums(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, Digest) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let (end, source) = self.source(at, range.end)?;
            let (next, first, sums) = match &source {
                Source::Live => self.live_sums(at..end)?,
                Source::Zero => (end, end, Vec::new()),
                Source::Slot { layer, slot } => {
                    let sums = &layer.sums_from(*slot)[..to_usize(end - at)];
                    (end, at, sums.to_vec())
                }
                Source::Damaged => return Err(self.store.damaged(at)),
            };
            for (lba, sum) in (first..).zip(sums) {
                if sum != Digest::ZERO {
                    each(lba, sum)?;
                }
            }
            at = next;
        }
        self.store.image.check_watch()
    }

    /// Sums of the first blocks of `range`, which nothing is kept of: where they end, the first
    /// that is not in a hole, and the sums from there on. All three are the start when a checkpoint
    /// came in between.
    fn live_sums(&self, range: Range<u64>) -> Result<(u64, u64, Vec<Digest>), Error> {
        let sums = self.store.image.sums();
        let data = match range.end - range.start {
            0..=PAGE_SUMS => range.clone(),
            _ => match sums.next_known(range.start)? {
                Some(data) => data.start.min(range.end)..data.end.min(range.end),
                None => range.end..range.end,
            },
        };
        let end = data.end.min(data.start + SUMS_AT_ONCE);
        let (found, suspect) = match data.start < end {
            true => sums.read_proven(data.start, to_usize(end - data.start))?,
            false => (Vec::new(), None),
        };
        match (self.still_live(range.start..end)?, suspect) {
            (true, None) => Ok((end, data.start, found)),
            (true, Some(lba)) => Err(self.store.damaged(lba)),
            (false, _) => Ok((range.start, range.start, Vec::new())),
        }
    }

    /// First blocks in `[lba, end)` that may hold data.
    pub(crate) fn next_data(&self, lba: u64, end: u64) -> Result<Option<Range<u64>>, Error> {
        let mut at = lba;
        while at < end {
            let (piece_end, source) = self.source(at, end)?;
            match source {
                Source::Zero => at = piece_end,
                Source::Slot { .. } | Source::Damaged => return Ok(Some(at..piece_end)),
                Source::Live => {
                    let data = self.store.image.next_data(at)?;
                    let data = data.filter(|data| data.start < piece_end);
                    let data = data.map(|data| data.start..data.end.min(piece_end));
                    let seen = data.as_ref().map_or(piece_end, |data| data.end);
                    match (self.still_live(at..seen)?, data) {
                        (false, _) => {}
                        (true, Some(data)) => return Ok(Some(data)),
                        (true, None) => at = piece_end,
                    }
                }
            }
        }
        Ok(None)
    }
}

impl Kept {
    fn source(&self, lba: u64, old: Option<Old>) -> Source {
        match old {
            None => Source::Live,
            Some(Old::Zero) => Source::Zero,
            Some(Old::Damaged) => Source::Damaged,
            Some(Old::Slot { slot, lba: first }) => {
                let slot = slot + (lba - first);
                let (_, layer) = (self.layers.range(..=slot).next_back())
                    .expect("a view holds the layers of its blocks");
                Source::Slot {
                    layer: Arc::clone(layer),
                    slot,
                }
            }
        }
    }

    /// Takes in those parts of `range` that are not there yet; gives the slots among them.
    fn add(&mut self, range: &Range<u64>, old: Old) -> u64 {
        let missing = self.blocks.pieces(range.clone());
        let missing = missing.filter(|(_, old)| old.is_none());
        let missing: Vec<_> = missing.map(|(piece, _)| piece).collect();
        let blocks: u64 = missing.iter().map(|piece| piece.end - piece.start).sum();
        for piece in missing {
            self.blocks.insert(piece, old);
        }
        match old {
            Old::Slot { .. } => blocks,
            Old::Zero | Old::Damaged => 0,
        }
    }
}
