//! The only writer of `meta`: two checksummed copies of what a volume must not forget (D17).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::disk::Disk;
use crate::{BlockSize, Epoch, Error, Incarnation, Lineage, LogId, Lsn, VolumeId};

/// Shape of a volume, fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of a block.
    pub block_size: BlockSize,
    /// Size of the volume in blocks.
    pub blocks: u64,
    /// Size of a segment file in bytes: 1 MiB to 1 GiB, a multiple of 4096.
    pub segment_bytes: u64,
}

impl Geometry {
    /// Size of the volume in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * self.block_size.bytes()
    }
}

/// What a directory is to its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Takes records from a primary; `seawall promote` makes it one (D5).
    Replica,
}

/// Section of `meta` that another crate owns. The bytes are that crate's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionId {
    /// Owned by crate snapshot.
    Snapshot,
    /// Owned by crate recovery.
    Recovery,
}

/// Versioned bytes of one section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Format version of the bytes; 0 together with no bytes when the section was never written.
    pub version: u16,
    /// The bytes, at most 16 KiB.
    pub bytes: Vec<u8>,
}

/// The mark that a clean close leaves (D13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanClose {
    /// Sequence of the mark frame that ends the log.
    pub sequence: u64,
    /// Head at that moment, all of it durable.
    pub head: Lsn,
}

/// Everything `meta` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContents {
    /// Identity of the volume.
    pub volume: VolumeId,
    /// Identity of the log in `wal/`. A new one drops every frame written under the old (D12).
    pub log: LogId,
    /// Shape of the volume.
    pub geometry: Geometry,
    /// What this directory is to the volume.
    pub role: Role,
    /// Highest epoch this node has persisted; older ones are refused.
    pub epoch: Epoch,
    /// Who wrote the history (D2).
    pub lineage: Lineage,
    /// Lower bound of committed (D1).
    pub committed: Lsn,
    /// Last LSN reclaimed.
    pub tail: Lsn,
    /// The log begins after this LSN: 0, or the LSN of the base it was installed with.
    pub origin: Lsn,
    /// Next unused segment generation; everything below may have been used.
    pub generation_next: u64,
    /// Next unused incarnation.
    pub incarnation_next: Incarnation,
    /// Left by a clean close, removed by the next writable open.
    pub clean_close: Option<CleanClose>,
    /// Sections of the other crates.
    pub sections: BTreeMap<SectionId, Section>,
}

/// Handle on `meta`. All changes of all crates go through it.
#[derive(Debug)]
pub struct Meta {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    contents: Mutex<MetaContents>,
}

impl Meta {
    /// Writes the first `meta` of a volume in the existing directory `dir`, durable in both copies.
    ///
    /// # Errors
    /// [`Error::Io`]; of kind `AlreadyExists` when the directory already holds one.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, contents: MetaContents) -> Result<Meta, Error> {
        let _ = (disk, dir, contents);
        todo!()
    }

    /// Reads the newest valid copy. With `writable`, a damaged or older copy is repaired first.
    ///
    /// # Errors
    /// [`Error::NotAVolume`] without a meta file, [`Error::Corrupt`] without a valid copy.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, writable: bool) -> Result<Meta, Error> {
        let _ = (disk, dir, writable);
        todo!()
    }

    /// A copy of what it says now.
    #[must_use]
    pub fn get(&self) -> MetaContents {
        todo!()
    }

    /// Changes it durably, in both copies before the call returns (D17). The change is made to a
    /// copy; when writing fails, what `get` says is unchanged and the handle refuses more changes.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Poisoned`] after an earlier failure.
    pub fn update(&self, change: impl FnOnce(&mut MetaContents)) -> Result<(), Error> {
        let _ = (change, &self.disk, &self.path, &self.contents);
        todo!()
    }
}
