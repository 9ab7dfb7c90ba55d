//! What can go wrong in a log, as facts.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Epoch, Lsn, LsnRange, PinBreak, VolumeId};

/// Operation of a failed call to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOp {
    /// Open or create a file.
    Open,
    /// Read bytes.
    Read,
    /// Write bytes.
    Write,
    /// Make bytes durable.
    Sync,
    /// Ask for a size.
    Length,
    /// Set a size.
    SetLength,
    /// Punch a hole.
    PunchHole,
    /// Copy a range from another file.
    Copy,
    /// Look for data between holes.
    NextData,
    /// Take the lock.
    Lock,
    /// List a directory.
    List,
    /// Create a directory.
    MakeDir,
    /// Rename.
    Rename,
    /// Remove.
    Remove,
    /// Make names durable.
    SyncDir,
    /// Draw random bytes.
    Random,
}

impl fmt::Display for IoOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IoOp::Open => "open",
            IoOp::Read => "read",
            IoOp::Write => "write",
            IoOp::Sync => "sync",
            IoOp::Length => "stat",
            IoOp::SetLength => "set the size of",
            IoOp::PunchHole => "punch a hole in",
            IoOp::Copy => "copy a range to",
            IoOp::NextData => "look for data in",
            IoOp::Lock => "lock",
            IoOp::List => "list",
            IoOp::MakeDir => "create directory",
            IoOp::Rename => "rename",
            IoOp::Remove => "remove",
            IoOp::SyncDir => "sync directory",
            IoOp::Random => "read randomness from",
        })
    }
}

/// How bytes on disk contradict the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The magic number is not ours.
    BadMagic,
    /// The format version is not known to this build.
    UnknownVersion {
        /// The version found.
        found: u16,
    },
    /// A sum does not match.
    Checksum {
        /// Sum stored on disk.
        expected: u32,
        /// Sum of the bytes found.
        found: u32,
    },
    /// The bytes belong to another log, generation, place or volume.
    Identity,
    /// The frame does not follow the one before it.
    Link {
        /// Sequence expected.
        expected: u64,
        /// Sequence found.
        found: u64,
    },
    /// An LSN does not follow the one before it.
    LsnGap {
        /// LSN expected.
        expected: Lsn,
        /// LSN found.
        found: Lsn,
    },
    /// A length or count is over its limit or contradicts another field.
    Length {
        /// The value found.
        found: u64,
    },
    /// A kind, flag or reserved byte has a value the version does not define.
    Field {
        /// Name of the field in the format document.
        field: &'static str,
        /// The value found.
        found: u64,
    },
    /// The device answered a read with an error.
    Unreadable,
    /// No frame where one must be: zeros or old bytes at or below a recorded frontier.
    Missing,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Damage::BadMagic => write!(f, "bad magic number"),
            Damage::UnknownVersion { found } => write!(f, "unknown format version {found}"),
            Damage::Checksum { expected, found } => {
                write!(
                    f,
                    "checksum {found:#010x} where {expected:#010x} is recorded"
                )
            }
            Damage::Identity => write!(f, "bytes of another log, generation or place"),
            Damage::Link { expected, found } => {
                write!(f, "frame {found} where frame {expected} must follow")
            }
            Damage::LsnGap { expected, found } => {
                write!(f, "LSN {found} where LSN {expected} must follow")
            }
            Damage::Length { found } => write!(f, "impossible length or count {found}"),
            Damage::Field { field, found } => write!(f, "field {field} has value {found}"),
            Damage::Unreadable => write!(f, "the device cannot read it"),
            Damage::Missing => write!(f, "no frame where one must be"),
        }
    }
}

/// Where damage lies and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// File that holds the damage.
    pub path: PathBuf,
    /// Byte offset in it.
    pub offset: u64,
    /// Record that is hit, where it is known.
    pub lsn: Option<Lsn>,
    /// What is wrong.
    pub what: Damage,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at offset {}", self.path.display(), self.offset)?;
        if let Some(lsn) = self.lsn {
            write!(f, ", LSN {lsn}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// Why a record cannot take the place of a lost one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is lost, and the records given do not hold it.
    NotGiven,
    /// No record of this LSN is known to be lost here.
    NotLost,
    /// It was written under another lineage entry than ours at this LSN, or under one that our
    /// lineage no longer knows (D2).
    Lineage,
    /// Its sum fails, or it contradicts what is still known of the lost record.
    Content,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Misfit::NotGiven => "it is lost here and was not given",
            Misfit::NotLost => "it is not known to be lost",
            Misfit::Lineage => "it belongs to another history; rebuild in place of healing",
            Misfit::Content => "it is not the record that was lost",
        })
    }
}

/// Errors of the log.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation.
    #[error("cannot {op} {}{}: {source}", path.display(), At(*offset))]
    Io {
        /// What was tried.
        op: IoOp,
        /// On which file.
        path: PathBuf,
        /// At which byte, where there is one.
        offset: Option<u64>,
        /// The reason given.
        source: Arc<std::io::Error>,
    },
    /// A disk backend that was asked for cannot be had on this system.
    #[error("cannot use {backend} here: {source}; choose the portable backend")]
    Backend {
        /// The backend.
        backend: &'static str,
        /// The reason given.
        source: Arc<std::io::Error>,
    },
    /// Bytes on disk are damaged.
    #[error("damage in {0}; fetch the data from a replica, or inspect it with wal-dump --verify")]
    Corrupt(Corrupt),
    /// The range starts at or below the tail.
    #[error("records after LSN {after} were asked for, but those through {tail} are reclaimed")]
    Reclaimed {
        /// What was asked for.
        after: Lsn,
        /// Last LSN that is gone.
        tail: Lsn,
    },
    /// The range ends beyond the head.
    #[error("LSN {through} was asked for, but the log ends at {head}")]
    BeyondHead {
        /// What was asked for.
        through: Lsn,
        /// Last LSN written.
        head: Lsn,
    },
    /// An LSN is absent between intact neighbours.
    #[error("LSN {lsn} is missing from the log")]
    Hole {
        /// The missing LSN.
        lsn: Lsn,
    },
    /// A record does not follow the head.
    #[error("record {found} does not follow the head {head}")]
    NotNext {
        /// LSN offered.
        found: Lsn,
        /// Last LSN written.
        head: Lsn,
    },
    /// A frontier would move beyond the one that bounds it.
    #[error("cannot {action} {lsn}: {bound_name} is {bound}")]
    Chain {
        /// What was tried, as a verb phrase that precedes an LSN.
        action: &'static str,
        /// The LSN asked for.
        lsn: Lsn,
        /// Name of the frontier that forbids it.
        bound_name: &'static str,
        /// Its value.
        bound: Lsn,
    },
    /// An earlier write or sync failed; the log takes no more appends (L3).
    #[error(
        "the log stopped after a failed write ({first}); what is durable stays readable, reopen it"
    )]
    Poisoned {
        /// The first failure.
        first: Arc<Error>,
    },
    /// The log was opened for reading, or is read-only because of damage below its frontier (D14).
    #[error("the log at {} is read-only: {why}", path.display())]
    ReadOnly {
        /// The volume directory.
        path: PathBuf,
        /// Why.
        why: &'static str,
    },
    /// An epoch below the one this node has persisted (fencing).
    #[error("epoch {found} is refused: this node has already seen epoch {known}")]
    StaleEpoch {
        /// The epoch offered.
        found: Epoch,
        /// The epoch persisted here.
        known: Epoch,
    },
    /// Bytes of another volume were offered.
    #[error("record of volume {found} offered to volume {expected}")]
    OtherVolume {
        /// Our volume.
        expected: VolumeId,
        /// The one found.
        found: VolumeId,
    },
    /// The directory holds no volume.
    #[error("{} is not a Seawall volume: {why}", path.display())]
    NotAVolume {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        why: &'static str,
    },
    /// Another process holds the volume.
    #[error("{} is in use by another process; stop it first, or inspect it with seawall status", path.display())]
    Locked {
        /// The volume directory.
        path: PathBuf,
    },
    /// A size or address that the geometry forbids.
    #[error("{what} (got {value})")]
    Geometry {
        /// The rule.
        what: &'static str,
        /// The value that breaks it.
        value: u64,
    },
    /// A record offered in place of a lost one is not that record; nothing was changed.
    #[error("record {lsn} cannot be put back: {why}")]
    Misfit {
        /// Its LSN, or the one that is wanted.
        lsn: Lsn,
        /// What does not fit.
        why: Misfit,
    },
    /// A pin was broken, by its budget or under space pressure; its reader has to start over (D20).
    #[error("the pin after LSN {after} was broken: {why}")]
    PinBroken {
        /// What the pin held.
        after: Lsn,
        /// Why it was broken, with the limit.
        why: PinBreak,
    },
    /// The log was closed while a call was waiting.
    #[error("the log was closed")]
    Closed,
}

struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |offset| write!(f, " at offset {offset}"))
    }
}

impl Error {
    /// An I/O failure with its place.
    #[cold]
    #[must_use]
    pub fn io(op: IoOp, path: &Path, offset: Option<u64>, source: std::io::Error) -> Error {
        Error::Io {
            op,
            path: path.into(),
            offset,
            source: Arc::new(source),
        }
    }

    /// Damage with its place.
    #[cold]
    #[must_use]
    pub fn corrupt(path: &Path, offset: u64, lsn: Option<Lsn>, what: Damage) -> Error {
        Error::Corrupt(Corrupt {
            path: path.into(),
            offset,
            lsn,
            what,
        })
    }

    /// A range that was asked for below the tail.
    pub(crate) fn reclaimed(range: LsnRange, tail: Lsn) -> Error {
        Error::Reclaimed {
            after: range.after,
            tail,
        }
    }

    /// Whether the device or its quota is full.
    #[must_use]
    pub fn is_out_of_space(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        match self {
            Error::Io { source, .. } => matches!(source.kind(), StorageFull | QuotaExceeded),
            Error::Poisoned { first } => first.is_out_of_space(),
            _ => false,
        }
    }
}
