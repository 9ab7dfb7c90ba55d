//! What can go wrong in a volume, as facts.

use std::path::PathBuf;
use std::sync::Arc;

use seawall_wal::{Epoch, Lba, Lsn};

/// Errors of a volume. Errors of the log pass through as [`Error::Log`].
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] seawall_wal::Error),
    /// A byte range outside the volume.
    #[error("bytes {offset}..{} are outside the volume of {size} bytes", offset.saturating_add(*length))]
    OutOfRange {
        /// First byte asked for.
        offset: u64,
        /// Number of bytes.
        length: u64,
        /// Size of the volume in bytes.
        size: u64,
    },
    /// A block of the image fails its sum, or cannot be read, and the log cannot repair it.
    #[error("block {lba} of the image {} is damaged; rebuild it from a replica", path.display())]
    ImageDamaged {
        /// The image file.
        path: PathBuf,
        /// The block.
        lba: Lba,
    },
    /// The state at this LSN is older than the base and cannot be given exactly.
    #[error("the state at LSN {lsn} is gone: the base is at {base}; ask for {base} or later")]
    StateReclaimed {
        /// What was asked for.
        lsn: Lsn,
        /// Oldest state that can be given.
        base: Lsn,
    },
    /// The state was asked for beyond the head.
    #[error("the state at LSN {lsn} was asked for, but the log ends at {head}")]
    StateBeyondHead {
        /// What was asked for.
        lsn: Lsn,
        /// Last LSN written.
        head: Lsn,
    },
    /// A checkpoint was begun and is not finished: the state asked for cannot be told from it (D9).
    #[error("the checkpoint to LSN {target} is unfinished; ask for {target} or later")]
    IntentOpen {
        /// What it leads to.
        target: Lsn,
    },
    /// A sync of the image failed; its contents are unknown until a reopen writes them again (D21).
    #[error("the image stopped after a failed sync ({first}); reopen the volume")]
    ImageStopped {
        /// The first failure.
        first: Arc<Error>,
    },
    /// The newest version of the blocks asked for may lie in a damaged part of the log (D14).
    #[error("blocks from {lba} on may have newer data in a damaged part of the log: {cause}")]
    NotApplied {
        /// First block asked for that is in doubt.
        lba: Lba,
        /// The first damage.
        cause: Arc<seawall_wal::Error>,
    },
    /// The volume was opened for inspection, and its owner has captured a newer base since; or it
    /// changed under a read as often as that was tried.
    #[error("{} was changed while it was read; look again", path.display())]
    Overtaken {
        /// The volume directory.
        path: PathBuf,
    },
    /// A base is being installed in place and is not whole (D12).
    #[error("the base of {} is incomplete; rebuild it from its primary", path.display())]
    BaseIncomplete {
        /// The volume directory.
        path: PathBuf,
    },
    /// A call that the role of this directory forbids.
    #[error("{} is a {role}; {hint}", path.display())]
    WrongRole {
        /// The volume directory.
        path: PathBuf,
        /// "replica" or "primary".
        role: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// An epoch that is not above the one this node has persisted.
    #[error("epoch {offered} is not above epoch {ours} of {}", path.display())]
    EpochNotAbove {
        /// The volume directory.
        path: PathBuf,
        /// What was asked for.
        offered: Epoch,
        /// What is persisted.
        ours: Epoch,
    },
    /// Bytes of a base that is being installed do not match what was announced.
    #[error(
        "{what} of the base does not match what the primary announced; the next rebuild compares \
         nothing, and if that fails too, run seawall verify on both"
    )]
    InstallMismatch {
        /// Which digest or size.
        what: &'static str,
    },
}
