//! Chunks to `base/ID.new` beside the old image, or over it where that is asked for; one meta
//! update switches to it (D12).

use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::sync::Arc;

use seawall_wal::disk::{Buffer, Bytes, Disk, OpenMode, remove, rename, sync_dir};
use seawall_wal::{Geometry, Lineage, LogId, Lsn, Meta, VolumeId};

use crate::base::{StateView, View};
use crate::error::Error;
use crate::export::{
    CHUNK_BYTES, chunk_count, chunk_digest, chunk_range, digest_of_sums, zero_chunk_digest,
};
use crate::image::{BASE_DIR, Image, base_dir, building_dir};
use crate::open::Access;
use crate::pipe::WritePipe;
use crate::section::{BaseFacts, Incomplete};
use crate::sums::{Digest, block_sums, is_zero};
use crate::sumwalk::{SumCursor, SumWriter};
use crate::volume::Volume;
use crate::{lock, to_usize};

/// Chunks whose sums are written together.
const SUMS_GATHERED: usize = 64;

/// What the primary announces about the base it sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Volume.
    pub volume: VolumeId,
    /// Shape.
    pub geometry: Geometry,
    /// LSN whose state the base is.
    pub lsn: Lsn,
    /// Lineage through that LSN.
    pub lineage: Lineage,
    /// Committed at the primary, at least `lsn` unless nothing was committed.
    pub committed: Lsn,
}

/// A base being built. Dropping it without [`Install::switch`] leaves the old state as it is, or in
/// place a volume that says that its base is incomplete; what was built is offered by
/// [`Install::present`] to the next attempt, until [`sweep`] removes it.
#[derive(Debug)]
pub struct Install {
    old: Arc<Volume>,
    place: Place,
    manifest: Manifest,
    image: Arc<Image>,
    given: Vec<Option<Digest>>,
    /// Blocks on their way to the image.
    blocks: WritePipe,
    /// Sums that are not in the image yet, each with its first block.
    sums: Vec<(u64, Vec<Digest>)>,
}

/// Where the new base is built.
#[derive(Debug)]
enum Place {
    Beside {
        id: u64,
        /// Newest state of the old volume, where it can be read at all.
        view: Option<StateView>,
    },
    /// Over the old base, under the marker.
    InPlace,
}

impl Install {
    /// Starts beside `old`, whose state stays readable until the switch. Matching chunks can be
    /// taken over from it by [`Install::keep`].
    ///
    /// # Errors
    /// [`Error::Log`] with I/O or another volume; [`Error::InstallMismatch`] for another geometry.
    pub fn begin(old: &Arc<Volume>, manifest: Manifest) -> Result<Install, Error> {
        check(old, &manifest)?;
        let id = old.facts().base + 1;
        let image = Arc::new(begin_image(old, id)?);
        let view = old.state_at(old.log.applied(), "install").ok();
        Ok(Install::over(
            old,
            Place::Beside { id, view },
            manifest,
            image,
        ))
    }

    /// Starts over the old base, for a node without the space for two. From here on the volume is
    /// incomplete, durably, until the switch: nothing is read from it, views of it are broken, and
    /// only an install leads out (P05). Only what the image holds matches; the log counts for
    /// nothing.
    ///
    /// # Errors
    /// As [`Install::begin`]; [`Error::ImageStopped`] after a failed sync of the image.
    pub fn begin_in_place(
        old: &Arc<Volume>,
        manifest: Manifest,
        session: [u8; 16],
    ) -> Result<Install, Error> {
        check(old, &manifest)?;
        old.image_usable()?;
        mark_incomplete(old, session, manifest.lsn)?;
        let image = Arc::clone(&old.image);
        sync_in_place(old)?;
        Ok(Install::over(old, Place::InPlace, manifest, image))
    }

    fn over(old: &Arc<Volume>, place: Place, manifest: Manifest, image: Arc<Image>) -> Install {
        Install {
            old: Arc::clone(old),
            place,
            given: vec![None; to_usize(chunk_count(old.size()))],
            manifest,
            blocks: image.writes(),
            sums: Vec::new(),
            image,
        }
    }

    fn range(&self, index: u64) -> Result<Range<u64>, Error> {
        match index < chunk_count(self.old.size()) {
            true => Ok(chunk_range(index, self.old.size())),
            false => Err(Error::InstallMismatch {
                what: "a chunk number",
            }),
        }
    }

    /// What the new image holds of a chunk, unless it is zeros. Read past the page cache: what an
    /// earlier attempt left there and a failed sync lost is not taken for present (L-W2). Its sums
    /// do not count: a crash may have kept them and not the blocks.
    fn built(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let lba = range.start >> self.image.block_size().shift();
        let end = range.end >> self.image.block_size().shift();
        let data = self.image.next_data_unwatched(lba).ok()?;
        if data.is_none_or(|data| data.start >= end) {
            return None;
        }
        let mut bytes = vec![0; to_usize(range.end - range.start)];
        // OK because the digest of the chunk decides, whatever its sums say.
        drop(self.image.read_unwatched(lba, &mut bytes).ok()?);
        (!is_zero(&bytes)).then_some(bytes)
    }

    fn view(&self) -> Option<&StateView> {
        match &self.place {
            Place::Beside { view, .. } => view.as_ref(),
            Place::InPlace => None,
        }
    }

    fn old(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; to_usize(range.end - range.start)];
        self.view()?.read(range.start, &mut bytes).ok()?;
        Some(bytes)
    }

    fn digest(&self, bytes: &[u8]) -> Digest {
        chunk_digest(bytes, self.image.block_size())
    }

    /// Digest of chunk `index` as the replica seems to have it now: of the re-read bytes that an
    /// earlier attempt built, or of its old state by the sums of that, so that comparing costs the
    /// sums. [`Install::keep`] reads what matches before it counts (D12).
    ///
    /// # Errors
    /// [`Error::InstallMismatch`] for a chunk outside the volume. A chunk of which nothing is known
    /// answers `None`: it has to be sent.
    pub fn present(&self, index: u64) -> Result<Option<Digest>, Error> {
        let range = self.range(index)?;
        if let Some(bytes) = self.built(&range) {
            return Ok(Some(self.digest(&bytes)));
        }
        let sums = self.view().and_then(|view| view.sums(range).ok());
        Ok(sums.map(|sums| digest_of_sums(&sums)))
    }

    /// Takes chunk `index` as [`Install::present`] showed it. Its bytes are read and have to fit
    /// `digest`; nothing has changed if they do not.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`] when it is not what `digest` says: it has to be sent.
    pub fn keep(&mut self, index: u64, digest: Digest) -> Result<(), Error> {
        let range = self.range(index)?;
        self.give(index..=index)?;
        if let Some(bytes) = self
            .built(&range)
            .filter(|bytes| self.digest(bytes) == digest)
        {
            let sums = block_sums(&bytes, self.image.block_size());
            self.store_sums(&range, sums)?;
        } else if let Some(bytes) = self
            .old(&range)
            .filter(|bytes| self.digest(bytes) == digest)
        {
            self.take_over(&range, &bytes)?;
        } else {
            let what = "a chunk that was to be kept";
            return Err(Error::InstallMismatch { what });
        }
        self.given[to_usize(index)] = Some(digest);
        Ok(())
    }

    /// Compares chunk `index` with what the primary has, and keeps it if it is the same; `false`
    /// when it has to be sent.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`] for a chunk outside the volume, [`Error::Log`].
    pub fn keep_if_present(&mut self, index: u64, digest: Digest) -> Result<bool, Error> {
        if self.present(index)? != Some(digest) {
            return Ok(false);
        }
        match self.keep(index, digest) {
            Ok(()) => Ok(true),
            // Sums that do not vouch for their blocks are no reason to go without the chunk.
            Err(Error::InstallMismatch { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a chunk of the old state one of the new base: shared by the file system where it can
    /// and the old image holds it, which reading it again shows, and written otherwise.
    fn take_over(&mut self, range: &Range<u64>, bytes: &[u8]) -> Result<(), Error> {
        let shift = self.image.block_size().shift();
        let blocks = range.start >> shift..range.end >> shift;
        let copied = self.image.share_from(&self.old.image, &blocks, bytes);
        match copied.unwrap_or(false) {
            true => self.store_sums(range, block_sums(bytes, self.image.block_size())),
            false => self.store(range, bytes),
        }
    }

    /// Sums are written for many chunks at once: neighbours share pages.
    fn store_sums(&mut self, range: &Range<u64>, sums: Vec<Digest>) -> Result<(), Error> {
        self.sums
            .push((range.start >> self.image.block_size().shift(), sums));
        match self.sums.len() < SUMS_GATHERED {
            true => Ok(()),
            false => self.write_sums(),
        }
    }

    fn write_sums(&mut self) -> Result<(), Error> {
        let mut gathered = std::mem::take(&mut self.sums);
        // A chunk that was given twice keeps what it was given last.
        gathered.sort_by_key(|(lba, _)| *lba);
        let mut writer = SumWriter::new(self.image.sums());
        for (lba, sums) in gathered {
            writer.put(lba, &sums)?;
        }
        writer.flush()
    }

    /// Chunks are about to be given: two writes of one block in flight would have no order.
    fn give(&mut self, chunks: RangeInclusive<u64>) -> Result<(), Error> {
        let given = &self.given[to_usize(*chunks.start())..=to_usize(*chunks.end())];
        match given.iter().any(Option::is_some) {
            false => Ok(()),
            true => self.land(),
        }
    }

    /// Nothing of the new base is on its way any more.
    fn land(&mut self) -> Result<(), Error> {
        self.blocks.finish()?;
        self.write_sums()
    }

    /// Takes the bytes of chunk `index` (the last one may be short); verified against `digest`.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`].
    pub fn put(&mut self, index: u64, bytes: &[u8], digest: Digest) -> Result<(), Error> {
        let range = self.range(index)?;
        if bytes.len() as u64 != range.end - range.start {
            let what = "the length of a chunk";
            return Err(Error::InstallMismatch { what });
        }
        if self.digest(bytes) != digest {
            let what = "the digest of a chunk";
            return Err(Error::InstallMismatch { what });
        }
        self.give(index..=index)?;
        self.store(&range, bytes)?;
        self.given[to_usize(index)] = Some(digest);
        Ok(())
    }

    /// Writes a chunk over whatever an earlier attempt left there; its blocks of zeros stay holes.
    fn store(&mut self, range: &Range<u64>, bytes: &[u8]) -> Result<(), Error> {
        let block_size = self.image.block_size();
        let shift = block_size.shift();
        let blocks = range.start >> shift..range.end >> shift;
        self.image.punch(&blocks)?;
        let sums = block_sums(bytes, block_size);
        let mut lba = blocks.start;
        for run in sums.chunk_by(|a, b| (*a == Digest::ZERO) == (*b == Digest::ZERO)) {
            if run[0] != Digest::ZERO {
                let from = to_usize((lba - blocks.start) << shift);
                let part = &bytes[from..from + (run.len() << shift)];
                let part: Bytes = Arc::new(Buffer::copy_of(part));
                self.blocks.write(self.image.offset(lba), vec![part])?;
            }
            lba += run.len() as u64;
        }
        self.store_sums(range, sums)
    }

    /// Chunks `[first, first + count)` are zero.
    ///
    /// # Errors
    /// [`Error::Log`], [`Error::InstallMismatch`] for chunks outside the volume.
    pub fn zero(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let Some(last) = count.checked_sub(1) else {
            return Ok(());
        };
        let last = first.saturating_add(last);
        let (front, back) = (self.range(first)?, self.range(last)?);
        self.give(first..=last)?;
        let shift = self.image.block_size().shift();
        let blocks = front.start >> shift..back.end >> shift;
        self.image.punch(&blocks)?;
        let mut writer = SumWriter::new(self.image.sums());
        writer.punch(blocks)?;
        writer.flush()?;
        let block_size = self.image.block_size();
        let full = zero_chunk_digest(CHUNK_BYTES as u64, block_size);
        self.given[to_usize(first)..=to_usize(last)].fill(Some(full));
        let short = zero_chunk_digest(back.end - back.start, block_size);
        self.given[to_usize(last)] = Some(short);
        Ok(())
    }

    /// Chunks that were not given yet.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.given.iter().filter(|digest| digest.is_none()).count() as u64
    }

    /// Every chunk was given: syncs the new base, checks `chunks` (XXH3-128 over all chunk digests
    /// in order) and the state digest, then switches by one meta update: new base, no marker, new
    /// log id, old log dropped, all frontiers at the manifest's LSN. The old volume is closed; the
    /// new one is open when this returns.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`], and the old state is intact, or in place still incomplete.
    pub fn switch(mut self, chunks: Digest, state: Digest) -> Result<Arc<Volume>, Error> {
        self.land()?;
        if self.chunks_digest()? != chunks {
            let what = "the digest of all chunks";
            return Err(Error::InstallMismatch { what });
        }
        self.sync()?;
        if self.state_digest()? != state {
            let what = "the digest of the state";
            return Err(Error::InstallMismatch { what });
        }
        let Install {
            old,
            place,
            manifest,
            ..
        } = self;
        let id = match place {
            Place::InPlace => old.facts().base,
            Place::Beside { id, .. } => {
                name_base(&old, id)?;
                id
            }
        };
        let lock_file = old.shut();
        // OK because the old log is about to be dropped; all that matters is that it writes no
        // more.
        let _ = old.log.close();
        switch_meta(&old, &manifest, id, state)?;
        let opened = old.open_anew(Access::Replica, lock_file)?;
        Ok(opened.0)
    }

    /// Makes the new base durable. After a failure nobody knows what of it is (L-W1): beside, the
    /// next attempt starts from nothing; in place the image has stopped.
    fn sync(&self) -> Result<(), Error> {
        match self.place {
            Place::InPlace => sync_in_place(&self.old),
            Place::Beside { id, .. } => self.image.sync().inspect_err(|_| {
                // OK to ignore: what cannot be removed now is read past the page cache then.
                let _ = remove(self.old.disk.as_ref(), &building_dir(&self.old.dir, id));
            }),
        }
    }

    fn chunks_digest(&self) -> Result<Digest, Error> {
        let mut bytes = Vec::with_capacity(self.given.len() * Digest::BYTES);
        for digest in &self.given {
            let what = "the number of chunks";
            let digest = digest.ok_or(Error::InstallMismatch { what })?;
            bytes.extend(digest.to_bytes());
        }
        Ok(Digest::of(&bytes))
    }

    fn state_digest(&self) -> Result<Digest, Error> {
        let mut digest = Digest::ZERO;
        let mut cursor = SumCursor::new(self.image.sums());
        cursor.visit(0..self.image.blocks(), &mut |lba, sum| {
            digest = digest.with_block(lba, sum);
            Ok(())
        })?;
        Ok(digest)
    }
}

/// Whether `old` may take the base that `manifest` announces.
fn check(old: &Volume, manifest: &Manifest) -> Result<(), Error> {
    old.check_maintainer()?;
    let ours = old.meta().get().volume;
    if manifest.volume != ours {
        return Err(Error::Log(seawall_wal::Error::OtherVolume {
            expected: ours,
            found: manifest.volume,
        }));
    }
    // The size of a segment is each node's own business.
    let shape = |geometry: &Geometry| (geometry.block_size, geometry.blocks);
    match shape(&manifest.geometry) == shape(&old.geometry) {
        true => Ok(()),
        false => Err(Error::InstallMismatch { what: "geometry" }),
    }
}

/// Opens what an earlier attempt has built, made durable or known to be lost, or starts from zeros.
fn begin_image(old: &Volume, id: u64) -> Result<Image, Error> {
    let (disk, dir) = (old.disk.as_ref(), building_dir(&old.dir, id));
    let image = match Image::open(&old.disk, &dir, &old.geometry, OpenMode::ReadWrite) {
        Ok(image) if image.has_full_length()? && image.sync().is_ok() => image,
        _ => {
            remove(disk, &dir)?;
            Image::create(&old.disk, &dir, &old.geometry)?
        }
    };
    // L4: the attempt that made these names may have been cut off before they were durable.
    sync_dir(disk, &dir)?;
    sync_dir(disk, &old.dir.join(BASE_DIR))?;
    Ok(image)
}

/// Says durably that the base is incomplete, and sees to it that nobody reads the image any more.
fn mark_incomplete(old: &Volume, session: [u8; 16], base: Lsn) -> Result<(), Error> {
    // No checkpoint is under way, and no view is taken.
    let _one = lock(&old.capture);
    let incomplete = Incomplete { session, base };
    let facts = BaseFacts {
        incomplete: Some(incomplete),
        ..old.facts()
    };
    old.meta().update(|meta| facts.store(meta))?;
    lock(&old.base).facts = facts;
    old.preserved.give_up();
    Ok(())
}

/// A failed sync stops the image (D21).
fn sync_in_place(old: &Volume) -> Result<(), Error> {
    old.synced(old.image.sync())
}

/// Gives the finished base its name, durably. It is used by nobody until meta says so.
fn name_base(old: &Volume, id: u64) -> Result<(), Error> {
    let disk = old.disk.as_ref();
    let to = base_dir(&old.dir, id);
    remove(disk, &to)?;
    rename(disk, &building_dir(&old.dir, id), &to)?;
    Ok(sync_dir(disk, &old.dir.join(BASE_DIR))?)
}

fn switch_meta(old: &Volume, manifest: &Manifest, id: u64, state: Digest) -> Result<(), Error> {
    let log = LogId::random()?;
    let facts = BaseFacts {
        base: id,
        checkpoint: manifest.lsn,
        digest: state,
        intent: None,
        incomplete: None,
        repair: None,
        scrubbed: 0,
    };
    Ok(old.meta().update(|meta| {
        meta.log = log;
        meta.lineage = manifest.lineage.through(manifest.lsn);
        if let Some(last) = meta.lineage.last() {
            meta.epoch = meta.epoch.max(last.epoch);
        }
        meta.committed = manifest.lsn;
        meta.tail = manifest.lsn;
        meta.origin = manifest.lsn;
        meta.clean_close = None;
        meta.first_generation = None;
        facts.store(meta);
    })?)
}

/// Removes what an interrupted install left in `dir`. The caller holds the volume's lock, or knows
/// that nobody does.
///
/// # Errors
/// [`Error::Log`].
pub fn sweep(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
    let facts = BaseFacts::of(&Meta::open(disk, dir, false)?.get(), dir)?;
    crate::image::sweep(disk.as_ref(), dir, facts.base, true)
}
