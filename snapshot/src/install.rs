//! Chunks to `base/ID.new` beside the old image; one meta update switches to it (D12).

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use seawall_wal::disk::{Buffer, Disk, OpenMode, remove, rename, sync_dir};
use seawall_wal::{Geometry, Lineage, LogId, Lsn, Meta, VolumeId};

use crate::base::{StateView, View};
use crate::error::Error;
use crate::export::{CHUNK_BYTES, chunk_count, chunk_digest, chunk_range};
use crate::image::{BASE_DIR, Image, base_dir, building_dir};
use crate::open::{Access, Held, open_locked};
use crate::section::BaseFacts;
use crate::sums::{Digest, SumCursor, SumWriter, block_sums, is_zero};
use crate::to_usize;
use crate::volume::Volume;

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

/// A base being built beside the old one. Dropping it without [`Install::switch`] leaves the old
/// state as it is; what was built stays in `base/ID.new` and is offered by [`Install::present`] to
/// the next attempt, until [`sweep`] removes it.
#[derive(Debug)]
pub struct Install {
    old: Arc<Volume>,
    /// Newest state of the old volume, where it can be read at all.
    view: Option<StateView>,
    manifest: Manifest,
    id: u64,
    image: Image,
    given: Vec<Option<Digest>>,
}

impl Install {
    /// Starts beside `old`, whose state stays readable until the switch. Matching chunks can be
    /// copied from it by [`Install::keep`].
    ///
    /// # Errors
    /// [`Error::Log`] with I/O or another volume; [`Error::InstallMismatch`] for another geometry.
    pub fn begin(old: &Arc<Volume>, manifest: Manifest) -> Result<Install, Error> {
        old.check_maintainer()?;
        let ours = old.meta().get();
        if manifest.volume != ours.volume {
            return Err(Error::Log(seawall_wal::Error::OtherVolume {
                expected: ours.volume,
                found: manifest.volume,
            }));
        }
        // The size of a segment is each node's own business.
        if (manifest.geometry.block_size, manifest.geometry.blocks)
            != (old.geometry.block_size, old.geometry.blocks)
        {
            return Err(Error::InstallMismatch { what: "geometry" });
        }
        let id = old.facts().base + 1;
        let image = begin_image(old, id)?;
        let view = old.state_at(old.log.applied(), "install").ok();
        Ok(Install {
            old: Arc::clone(old),
            view,
            given: vec![None; to_usize(chunk_count(old.size()))],
            manifest,
            id,
            image,
        })
    }

    fn range(&self, index: u64) -> Result<Range<u64>, Error> {
        match index < chunk_count(self.old.size()) {
            true => Ok(chunk_range(index, self.old.size())),
            false => Err(Error::InstallMismatch {
                what: "a chunk number",
            }),
        }
    }

    /// What an earlier attempt has built of a chunk, if it is whole and not zero.
    fn built(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; to_usize(range.end - range.start)];
        let lba = range.start >> self.image.block_size().shift();
        let whole = self
            .image
            .read(lba, &mut bytes)
            .is_ok_and(|bad| bad.is_empty());
        (whole && !is_zero(&bytes)).then_some(bytes)
    }

    fn old(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; to_usize(range.end - range.start)];
        let view = self.view.as_ref()?;
        view.read(range.start, &mut bytes).ok().map(|()| bytes)
    }

    /// Digest of chunk `index` as the replica has it now, from re-read bytes, so that a matching
    /// chunk is not sent (D12): of what an earlier attempt built, or of its old state.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`] for a chunk outside the volume. An unreadable or damaged chunk
    /// answers `None`: it has to be sent.
    pub fn present(&self, index: u64) -> Result<Option<Digest>, Error> {
        let range = self.range(index)?;
        let bytes = self.built(&range).or_else(|| self.old(&range));
        Ok(bytes.map(|bytes| chunk_digest(&bytes)))
    }

    /// Takes chunk `index` from what [`Install::present`] looked at; verified against `digest`.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`].
    pub fn keep(&mut self, index: u64, digest: Digest) -> Result<(), Error> {
        let range = self.range(index)?;
        let built = self.built(&range);
        if built.is_none_or(|bytes| chunk_digest(&bytes) != digest) {
            let old = self.old(&range);
            let Some(bytes) = old.filter(|bytes| chunk_digest(bytes) == digest) else {
                let what = "a chunk that was to be kept";
                return Err(Error::InstallMismatch { what });
            };
            self.store(&range, &bytes)?;
        }
        self.given[to_usize(index)] = Some(digest);
        Ok(())
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
        if chunk_digest(bytes) != digest {
            let what = "the digest of a chunk";
            return Err(Error::InstallMismatch { what });
        }
        self.store(&range, bytes)?;
        self.given[to_usize(index)] = Some(digest);
        Ok(())
    }

    /// Writes a chunk over whatever an earlier attempt left there; its blocks of zeros stay holes.
    fn store(&self, range: &Range<u64>, bytes: &[u8]) -> Result<(), Error> {
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
                self.image.write(lba, Buffer::copy_of(part))?;
            }
            lba += run.len() as u64;
        }
        let mut writer = SumWriter::new(self.image.sums());
        writer.put(blocks.start, &sums)?;
        writer.flush()
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
        let shift = self.image.block_size().shift();
        let blocks = front.start >> shift..back.end >> shift;
        self.image.punch(&blocks)?;
        let mut writer = SumWriter::new(self.image.sums());
        writer.zero(blocks)?;
        writer.flush()?;
        let full = chunk_digest(&vec![0; CHUNK_BYTES]);
        self.given[to_usize(first)..=to_usize(last)].fill(Some(full));
        let short = to_usize(back.end - back.start);
        self.given[to_usize(last)] = Some(chunk_digest(&vec![0; short]));
        Ok(())
    }

    /// Chunks that were not given yet.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.given.iter().filter(|digest| digest.is_none()).count() as u64
    }

    /// Every chunk was given: syncs the new base, checks `chunks` (XXH3-128 over all chunk digests
    /// in order) and the state digest, then switches by one meta update: new base, new log id, old
    /// log dropped, all frontiers at the manifest's LSN. The old volume is closed; the new one is
    /// open when this returns.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`], and the old state is intact.
    pub fn switch(self, chunks: Digest, state: Digest) -> Result<Arc<Volume>, Error> {
        if self.chunks_digest()? != chunks {
            let what = "the digest of all chunks";
            return Err(Error::InstallMismatch { what });
        }
        self.image.sync()?;
        if self.state_digest()? != state {
            let what = "the digest of the state";
            return Err(Error::InstallMismatch { what });
        }
        let Install {
            old,
            view,
            manifest,
            id,
            image,
            ..
        } = self;
        drop((view, image));
        name_base(&old, id)?;
        let lock_file = old.shut();
        // OK because the old log is about to be dropped; all that matters is that it writes no
        // more.
        let _ = old.log.close();
        switch_meta(&old, &manifest, id, state)?;
        let held = Held {
            meta: Arc::clone(old.meta()),
            lock_file,
            background: old.edge.background(),
        };
        let opened = open_locked(&old.disk, &old.dir, &old.clock, Access::Replica, held)?;
        Ok(opened.0)
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

/// Opens what an earlier attempt has built, or starts from zeros.
fn begin_image(old: &Volume, id: u64) -> Result<Image, Error> {
    let dir = building_dir(&old.dir, id);
    if let Ok(image) = Image::open(&old.disk, &dir, &old.geometry, OpenMode::ReadWrite)
        && image.has_full_length()?
    {
        return Ok(image);
    }
    remove(old.disk.as_ref(), &dir)?;
    let image = Image::create(&old.disk, &dir, &old.geometry)?;
    sync_dir(old.disk.as_ref(), &old.dir.join(BASE_DIR))?;
    Ok(image)
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
