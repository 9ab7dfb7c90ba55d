//! Views: the image at a checkpoint, or the image overlaid with the log through a target (D10).

use std::ops::Range;
use std::sync::{Arc, Weak};

use seawall_wal::sync::Mutex;
use seawall_wal::{
    BlockSize, Geometry, Log, Lsn, PinBreak, PinBudget, PinHolder, PinKind, PinRequest, WalPin,
};

use crate::checkpoint::{self, RecordCache, touched};
use crate::error::Error;
use crate::image::RUN_BYTES;
use crate::index::{Content, Index, Version};
use crate::open::Access;
use crate::preserve::ImageView;
use crate::section::BaseFacts;
use crate::sums::{Digest, block_sums};
use crate::volume::Volume;
use crate::{lock, to_usize};

/// Reading one pinned state. The three views share it.
pub trait View: Send + Sync + std::fmt::Debug {
    /// The LSN whose state this is.
    fn lsn(&self) -> Lsn;

    /// Size of the volume in bytes.
    fn size(&self) -> u64;

    /// Reads `out.len()` bytes at byte `offset`, both multiples of the block size; every block is
    /// verified.
    ///
    /// # Errors
    /// [`Error::ImageDamaged`], [`Error::Log`], [`Error::OutOfRange`].
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error>;

    /// Sums of the blocks in a byte range, whose ends are multiples of the block size; zero for
    /// blocks of zeros. No block of the image is read: only [`View::read`] tells damage.
    ///
    /// # Errors
    /// As [`View::read`].
    fn sums(&self, bytes: Range<u64>) -> Result<Vec<Digest>, Error>;

    /// Size of a block.
    fn block_size(&self) -> BlockSize;

    /// First byte range `[first, second)` at or behind `offset` that may hold data; the rest reads
    /// zero.
    ///
    /// # Errors
    /// [`Error::Log`].
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error>;

    /// Digest of the whole state (D18).
    ///
    /// # Errors
    /// As [`View::read`].
    fn digest(&self) -> Result<Digest, Error>;
}

/// The exact state at one LSN, readable while this value lives.
#[derive(Debug)]
pub struct StateView {
    pinned: Pinned,
}

/// A pinned view of the image at checkpoint `lsn()`, with the log after it.
#[derive(Debug)]
pub struct SnapshotPin {
    pinned: Pinned,
}

/// A pinned view of the whole state at `lsn()`, with the log after its checkpoint.
#[derive(Debug)]
pub struct BasePin {
    pinned: Pinned,
}

impl StateView {
    pub(crate) fn take(volume: &Volume, lsn: Lsn, owner: &str) -> Result<StateView, Error> {
        let _one = lock(&volume.capture);
        let wanted = Wanted {
            kind: PinKind::Base,
            lsn,
            owner,
            budget: PinBudget::default(),
        };
        let pinned = Pinned::state(volume, &wanted)?;
        Ok(StateView { pinned })
    }
}

impl SnapshotPin {
    pub(crate) fn take(
        volume: &Volume,
        owner: &str,
        budget: PinBudget,
    ) -> Result<SnapshotPin, Error> {
        let _one = lock(&volume.capture);
        settle_intent(volume)?;
        let wanted = Wanted {
            kind: PinKind::Snapshot,
            lsn: volume.facts().checkpoint,
            owner,
            budget,
        };
        let pinned = Pinned::state(volume, &wanted)?;
        Ok(SnapshotPin { pinned })
    }

    /// A pin on the log after [`View::lsn`], for the stream that takes over (D6). It cannot fail
    /// for reclaimed records, because this value holds them meanwhile.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn wal_pin(&self, owner: &str) -> Result<WalPin, Error> {
        self.pinned.wal_pin(owner)
    }
}

impl BasePin {
    pub(crate) fn take(
        volume: &Volume,
        target: Lsn,
        owner: &str,
        budget: PinBudget,
    ) -> Result<BasePin, Error> {
        let _one = lock(&volume.capture);
        let durable = volume.log.frontiers().durable;
        if target > durable {
            return Err(Error::Log(seawall_wal::Error::BeyondHead {
                through: target,
                head: durable,
            }));
        }
        let wanted = Wanted {
            kind: PinKind::Base,
            lsn: target,
            owner,
            budget,
        };
        let pinned = Pinned::state(volume, &wanted)?;
        Ok(BasePin { pinned })
    }

    /// A pin on the log after [`View::lsn`], for the stream that takes over (D6, D10). It cannot
    /// fail for reclaimed records, because this value holds them meanwhile.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn wal_pin(&self, owner: &str) -> Result<WalPin, Error> {
        self.pinned.wal_pin(owner)
    }

    /// Checkpoint of the view below the overlay; `None` for the empty base of a log that still
    /// begins at 1.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Lsn> {
        self.pinned.checkpoint
    }
}

/// A checkpoint that was left open is finished first, where that is possible; otherwise the image
/// cannot be pinned (D9).
fn settle_intent(volume: &Volume) -> Result<(), Error> {
    let Some(intent) = volume.facts().intent else {
        return Ok(());
    };
    let target = intent.target;
    match volume.access {
        Access::ReadOnly => Err(Error::IntentOpen { target }),
        Access::Primary | Access::Replica | Access::Maintain => {
            checkpoint::finish(volume).map_err(|_| Error::IntentOpen { target })
        }
    }
}

/// One pin, and the view of the image that it reads.
#[derive(Debug)]
pub(crate) struct Claim {
    pin: WalPin,
    image: Mutex<Option<Arc<ImageView>>>,
}

impl Claim {
    fn of(pin: WalPin, image: Option<Arc<ImageView>>) -> Result<Arc<Claim>, Error> {
        let claim = Arc::new(Claim {
            pin,
            image: Mutex::new(image.clone()),
        });
        let weak: Weak<Claim> = Arc::downgrade(&claim);
        claim.pin.set_holder(weak);
        if let Some(image) = image {
            image.claimed_by(&claim);
        }
        // It may have been broken before it had a holder to tell.
        claim.pin.check()?;
        Ok(claim)
    }

    pub(crate) fn pin(&self) -> &WalPin {
        &self.pin
    }
}

impl PinHolder for Claim {
    /// With the last claim on it a view goes, and with the view the blocks preserved for it.
    fn broken(&self, _: PinBreak) {
        let given_up = lock(&self.image).take();
        drop(given_up);
    }
}

/// An image, or nothing but zeros, overlaid with records.
#[derive(Debug)]
struct Pinned {
    geometry: Geometry,
    log: Arc<Log>,
    lsn: Lsn,
    /// Of the image; `None` is the empty base before LSN 1.
    checkpoint: Option<Lsn>,
    /// Keeps the image, the overlay and what follows it.
    claim: Arc<Claim>,
    overlay: Index,
    /// Digest below the overlay, without the blocks in `rewritten`.
    digest: Digest,
    /// Blocks that an open intent may have rewritten: all of them lie under the overlay.
    rewritten: Index,
}

/// What is asked for: the state at an LSN, as which pin.
struct Wanted<'a> {
    kind: PinKind,
    lsn: Lsn,
    owner: &'a str,
    budget: PinBudget,
}

impl Pinned {
    /// The state at `lsn`. The caller holds the capture lock, so that the image, the tail and the
    /// pins do not move meanwhile (L-N2).
    fn state(volume: &Volume, wanted: &Wanted<'_>) -> Result<Pinned, Error> {
        let (facts, lsn) = (volume.facts(), wanted.lsn);
        check_reachable(volume, &facts, lsn)?;
        let from_start = lsn < facts.checkpoint;
        let base = match from_start {
            true => Lsn::ZERO,
            false => facts.checkpoint,
        };
        let pin = volume.log.pin_as(PinRequest {
            kind: wanted.kind,
            lsn,
            after: base,
            owner: wanted.owner,
            budget: wanted.budget,
        })?;
        let rewritten = match facts.intent {
            Some(intent) if !from_start => touched(&volume.log, base, intent.target)?,
            _ => Index::default(),
        };
        let digest = match (from_start, facts.intent) {
            (true, _) => Digest::ZERO,
            (false, Some(intent)) => intent.rest,
            (false, None) => facts.digest,
        };
        let image = (!from_start).then(|| volume.preserved.view(facts.checkpoint));
        Ok(Pinned {
            geometry: volume.geometry,
            log: Arc::clone(&volume.log),
            lsn,
            checkpoint: image.as_ref().map(|_| facts.checkpoint),
            claim: Claim::of(pin, image)?,
            overlay: touched(&volume.log, base, lsn)?,
            digest,
            rewritten,
        })
    }

    fn wal_pin(&self, owner: &str) -> Result<WalPin, Error> {
        self.claim.pin.check()?;
        self.explain(self.log.pin(self.lsn, owner))
    }

    /// A failure that comes from a broken pin says so.
    fn explain<T, E: Into<Error>>(&self, result: Result<T, E>) -> Result<T, Error> {
        self.claim.pin.explain(result.map_err(E::into))
    }

    /// `None` is the empty base.
    fn image(&self) -> Result<Option<Arc<ImageView>>, Error> {
        if self.checkpoint.is_none() {
            return Ok(None);
        }
        match lock(&self.claim.image).clone() {
            Some(image) => Ok(Some(image)),
            None => Err(Error::Log(
                (self.claim.pin.check()).expect_err("only a broken pin has given up its view"),
            )),
        }
    }

    fn under(&self, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        match self.image()? {
            Some(image) => image.read(lba, out),
            None => {
                out.fill(0);
                Ok(())
            }
        }
    }

    fn read_blocks(&self, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        let size = self.geometry.block_size.bytes_usize();
        let end = lba + (out.len() / size) as u64;
        for (piece, version) in self.overlay.pieces(lba..end) {
            let first = to_usize(piece.start - lba) * size;
            let part = &mut out[first..first + to_usize(piece.end - piece.start) * size];
            match version {
                Some(version) => version.read(&self.log, piece.start, part)?,
                None => self.under(piece.start, part)?,
            }
        }
        Ok(())
    }

    fn sums_of(&self, blocks: Range<u64>) -> Result<Vec<Digest>, Error> {
        let block_size = self.geometry.block_size;
        let mut sums = vec![Digest::ZERO; to_usize(blocks.end - blocks.start)];
        for (piece, version) in self.overlay.pieces(blocks.clone()) {
            let first = to_usize(piece.start - blocks.start);
            match (version, self.image()?) {
                (Some(version), _) if matches!(version.content, Content::Payload { .. }) => {
                    let count = to_usize(piece.end - piece.start);
                    let mut bytes = vec![0; count << block_size.shift()];
                    version.read(&self.log, piece.start, &mut bytes)?;
                    sums[first..first + count].copy_from_slice(&block_sums(&bytes, block_size));
                }
                (Some(_), _) | (None, None) => {}
                (None, Some(image)) => image.visit_sums(piece, &mut |lba, sum| {
                    sums[to_usize(lba - blocks.start)] = sum;
                    Ok(())
                })?,
            }
        }
        Ok(sums)
    }

    fn check_range(&self, offset: u64, length: u64) -> Result<(), Error> {
        let (block, size) = (self.geometry.block_size.bytes(), self.geometry.bytes());
        let end = offset.checked_add(length);
        if end.is_none_or(|end| end > size) {
            return Err(Error::OutOfRange {
                offset,
                length,
                size,
            });
        }
        match offset.is_multiple_of(block) && length.is_multiple_of(block) {
            true => Ok(()),
            false => Err(Error::Log(seawall_wal::Error::Geometry {
                what: "a view is read in whole blocks",
                value: offset,
            })),
        }
    }

    /// First blocks of the piece that may hold data.
    fn data_in(
        &self,
        piece: Range<u64>,
        version: Option<Version>,
    ) -> Result<Option<Range<u64>>, Error> {
        match (version.map(|version| version.content), self.image()?) {
            (Some(Content::Payload { .. }), _) => Ok(Some(piece)),
            (Some(Content::Zeros | Content::Hole), _) | (None, None) => Ok(None),
            (None, Some(image)) => image.next_data(piece.start, piece.end),
        }
    }

    fn overlay_digest(&self) -> Result<Digest, Error> {
        let mut digest = self.digest;
        let mut records = RecordCache::of(&self.log);
        let shift = self.geometry.block_size.shift();
        for (range, version) in self.overlay.iter() {
            digest = self.without(digest, range.clone())?;
            if let Content::Payload { first } = version.content {
                let record = records.get(version.lsn)?;
                let bytes = to_usize((range.start - first) << shift)
                    ..to_usize((range.end - first) << shift);
                let sums = block_sums(&record.payload()[bytes], self.geometry.block_size);
                for (lba, sum) in range.zip(sums) {
                    digest = digest.with_block(lba, sum);
                }
            }
        }
        Ok(digest)
    }

    /// Takes the old contents of `range` out of a digest.
    fn without(&self, mut digest: Digest, range: Range<u64>) -> Result<Digest, Error> {
        let Some(image) = self.image()? else {
            return Ok(digest);
        };
        for (piece, rewritten) in self.rewritten.pieces(range) {
            if rewritten.is_none() {
                image.visit_sums(piece, &mut |lba, sum| {
                    digest = digest.without_block(lba, sum);
                    Ok(())
                })?;
            }
        }
        Ok(digest)
    }
}

fn check_reachable(volume: &Volume, facts: &BaseFacts, lsn: Lsn) -> Result<(), Error> {
    let head = volume.log.frontiers().head;
    if lsn > head {
        return Err(Error::StateBeyondHead { lsn, head });
    }
    if lsn > volume.log.applied() {
        let cause = volume.lost.cause().cloned();
        return Err(Error::Log(cause.unwrap_or(
            seawall_wal::Error::BeyondHead {
                through: lsn,
                head: volume.log.applied(),
            },
        )));
    }
    if facts.incomplete.is_some() {
        return Err(volume.incomplete());
    }
    // On a log that still begins at 1 the empty base counts.
    let whole_log = volume.log.first_retained() == Lsn::new(1);
    match facts.intent {
        _ if lsn < facts.checkpoint && whole_log => Ok(()),
        _ if lsn < facts.checkpoint => Err(Error::StateReclaimed {
            lsn,
            base: facts.checkpoint,
        }),
        Some(intent) if lsn < intent.target => Err(Error::IntentOpen {
            target: intent.target,
        }),
        _ => Ok(()),
    }
}

impl Volume {
    /// As [`Volume::pin_snapshot`], with a budget.
    ///
    /// # Errors
    /// As [`Volume::pin_snapshot`].
    pub fn pin_snapshot_within(
        self: &Arc<Self>,
        owner: &str,
        budget: PinBudget,
    ) -> Result<SnapshotPin, Error> {
        self.check_open()?;
        SnapshotPin::take(self, owner, budget)
    }

    /// As [`Volume::pin_base`], with a budget.
    ///
    /// # Errors
    /// As [`Volume::pin_base`].
    pub fn pin_base_within(
        self: &Arc<Self>,
        target: Lsn,
        owner: &str,
        budget: PinBudget,
    ) -> Result<BasePin, Error> {
        self.check_open()?;
        BasePin::take(self, target, owner, budget)
    }

    /// Bytes of old blocks that are preserved for pinned views.
    #[must_use]
    pub fn preserved_bytes(&self) -> u64 {
        self.preserved.bytes()
    }
}

impl View for Pinned {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn size(&self) -> u64 {
        self.geometry.bytes()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let size = self.geometry.block_size.bytes();
        self.check_range(offset, out.len() as u64)?;
        self.claim.pin.check()?;
        let mut lba = offset / size;
        for run in out.chunks_mut(RUN_BYTES) {
            self.explain(self.read_blocks(lba, run))?;
            lba += run.len() as u64 / size;
        }
        Ok(())
    }

    fn sums(&self, bytes: Range<u64>) -> Result<Vec<Digest>, Error> {
        let shift = self.geometry.block_size.shift();
        self.check_range(bytes.start, bytes.end.saturating_sub(bytes.start))?;
        self.claim.pin.check()?;
        self.explain(self.sums_of(bytes.start >> shift..bytes.end >> shift))
    }

    fn block_size(&self) -> BlockSize {
        self.geometry.block_size
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        self.claim.pin.check()?;
        let size = self.geometry.block_size.bytes();
        let mut found: Option<Range<u64>> = None;
        for (piece, version) in self.overlay.pieces(offset / size..self.geometry.blocks) {
            let data = self.explain(self.data_in(piece.clone(), version))?;
            match (&mut found, data) {
                (None, None) => {}
                (None, Some(data)) => found = Some(data),
                // Neighbours go together: an overlay of small records is still read in large runs.
                (Some(range), Some(data)) if data.start == range.end => range.end = data.end,
                (Some(_), _) => break,
            }
            if found.as_ref().is_some_and(|range| range.end < piece.end) {
                break;
            }
        }
        Ok(found.map(|range| ((range.start * size).max(offset), range.end * size)))
    }

    fn digest(&self) -> Result<Digest, Error> {
        self.claim.pin.check()?;
        self.explain(self.overlay_digest())
    }
}

macro_rules! view {
    ($name:ident) => {
        impl View for $name {
            fn lsn(&self) -> Lsn {
                self.pinned.lsn()
            }

            fn size(&self) -> u64 {
                self.pinned.size()
            }

            fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
                self.pinned.read(offset, out)
            }

            fn sums(&self, bytes: Range<u64>) -> Result<Vec<Digest>, Error> {
                self.pinned.sums(bytes)
            }

            fn block_size(&self) -> BlockSize {
                self.pinned.block_size()
            }

            fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
                self.pinned.next_data(offset)
            }

            fn digest(&self) -> Result<Digest, Error> {
                self.pinned.digest()
            }
        }
    };
}

view!(StateView);
view!(SnapshotPin);
view!(BasePin);
