//! Chunks to `base/ID.new` beside the old image; one meta update switches to it (D12).

use std::path::Path;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{Geometry, Lineage, Lsn, VolumeId};

use crate::error::Error;
use crate::sums::Digest;
use crate::volume::Volume;

/// Bytes of a chunk: 1 MiB.
pub const CHUNK_BYTES: usize = 1 << 20;

/// XXH3-128 of the bytes of a chunk. A chunk of zeros has the digest of its zero bytes.
#[must_use]
pub fn chunk_digest(bytes: &[u8]) -> Digest {
    let _ = bytes;
    todo!()
}

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
/// state as it is; what was built is removed at the next start.
#[derive(Debug)]
pub struct Install {}

impl Install {
    /// Starts beside `old`, whose state stays readable until the switch. Matching chunks can be
    /// copied from it by [`Install::keep`].
    ///
    /// # Errors
    /// [`Error::Log`] with I/O or another geometry.
    pub fn begin(old: &Arc<Volume>, manifest: Manifest) -> Result<Install, Error> {
        let _ = (old, manifest);
        todo!()
    }

    /// Digest of chunk `index` of the state that the replica has now, from re-read bytes, so that a
    /// matching chunk is not sent (D12).
    ///
    /// # Errors
    /// [`Error::Log`]. An unreadable or damaged chunk answers `None`: it has to be sent.
    pub fn present(&self, index: u64) -> Result<Option<Digest>, Error> {
        let _ = index;
        todo!()
    }

    /// Takes chunk `index` from the old state; verified against `digest`.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`].
    pub fn keep(&mut self, index: u64, digest: Digest) -> Result<(), Error> {
        let _ = (index, digest);
        todo!()
    }

    /// Takes the bytes of chunk `index` (the last one may be short); verified against `digest`.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`].
    pub fn put(&mut self, index: u64, bytes: &[u8], digest: Digest) -> Result<(), Error> {
        let _ = (index, bytes, digest);
        todo!()
    }

    /// Chunks `[first, first + count)` are zero.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn zero(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let _ = (first, count);
        todo!()
    }

    /// Every chunk was given: syncs the new base, checks `chunks` (XXH3-128 over all chunk digests
    /// in order) and the state digest, then switches by one meta update: new base, new log id, old
    /// log dropped, all frontiers at the manifest's LSN. The old volume is closed; the new one is
    /// open when this returns.
    ///
    /// # Errors
    /// [`Error::InstallMismatch`], and the old state is intact.
    pub fn switch(self, chunks: Digest, state: Digest) -> Result<Arc<Volume>, Error> {
        let _ = (chunks, state);
        todo!()
    }
}

/// Removes what an interrupted install left in `dir`.
///
/// # Errors
/// [`Error::Log`].
pub fn sweep(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
    let _ = (disk, dir);
    todo!()
}
