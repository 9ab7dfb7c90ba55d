//! What the plugin can refuse or fail at, and the errno a client sees for it.

use std::path::PathBuf;

use rustix::io::Errno;
use seawall_recovery as recovery;
use seawall_snapshot as snapshot;
use seawall_wal as wal;

/// Errors of the plugin. The text goes to nbdkit's log, the errno to the client.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key that the plugin does not know.
    #[error(
        "unknown parameter {key}; the parameters are dir, size, block-size, segment-size, \
         replica, ack, tls-cert, tls-key, tls-ca and insecure-plaintext"
    )]
    UnknownKey {
        /// The key.
        key: String,
    },
    /// A key that may be given once was given again.
    #[error("parameter {key} is given twice; give it once")]
    Repeated {
        /// The key.
        key: &'static str,
    },
    /// A value that its key does not take.
    #[error("{key}={value} is not usable; write {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// What to write, for example.
        expected: &'static str,
    },
    /// No directory was named.
    #[error("which volume? add dir=DIR")]
    MissingDir,
    /// Two replicas with one id.
    #[error("replica {id} is given twice; every replica needs an id of its own")]
    DuplicateReplica {
        /// The id.
        id: String,
    },
    /// An ack rule that counts replicas, without one.
    #[error("ack counts replicas, and there is none; add replica=ID=ADDR")]
    AckWithoutReplica,
    /// Parameters of TLS that are no whole, or that contradict each other.
    #[error("TLS needs tls-cert, tls-key and tls-ca, all of them and without insecure-plaintext")]
    PartialTls,
    /// There is no volume yet, and nobody said how large it is to be.
    #[error("{} holds no volume; add size=10G, say, to create one", path.display())]
    NothingThere {
        /// The directory.
        path: PathBuf,
    },
    /// The volume exists with another shape than asked for.
    #[error("the volume in {} has {key}={found}, not {asked}; leave {key} out, or name another \
             directory", path.display())]
    OtherShape {
        /// The directory.
        path: PathBuf,
        /// Which parameter differs.
        key: &'static str,
        /// Bytes asked for.
        asked: u64,
        /// Bytes it has.
        found: u64,
    },
    /// A size that is no whole number of blocks.
    #[error("size={size} is not a whole number of blocks of {block} bytes; round it")]
    PartialBlock {
        /// Bytes asked for.
        size: u64,
        /// Block size in bytes.
        block: u64,
    },
    /// A callback that needs an open volume came without one.
    #[error("the volume is not open")]
    NotOpen,
    /// A bug of ours was caught at the border to C (N1).
    #[error("internal error in {callback}; please report it")]
    Panicked {
        /// The callback.
        callback: &'static str,
    },
    /// nbdkit took no more extents; it has said why.
    #[error("nbdkit refused an extent")]
    ExtentRefused,
    /// The engine refused or failed.
    #[error(transparent)]
    Volume(#[from] snapshot::Error),
    /// Replicas could not be served, or did not acknowledge.
    #[error(transparent)]
    Recovery(recovery::Error),
}

impl From<recovery::Error> for Error {
    fn from(error: recovery::Error) -> Error {
        match error {
            recovery::Error::Volume(error) => error.into(),
            recovery::Error::Log(error) => error.into(),
            error => Error::Recovery(error),
        }
    }
}

impl From<wal::Error> for Error {
    fn from(error: wal::Error) -> Error {
        Error::Volume(snapshot::Error::Log(error))
    }
}

impl Error {
    /// The errno that tells a client what happened.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            Error::NotOpen => Errno::SHUTDOWN,
            Error::Panicked { .. } | Error::ExtentRefused => Errno::IO,
            Error::Volume(error) => volume_errno(error),
            Error::Recovery(error) => recovery_errno(error),
            Error::UnknownKey { .. }
            | Error::Repeated { .. }
            | Error::BadValue { .. }
            | Error::MissingDir
            | Error::DuplicateReplica { .. }
            | Error::AckWithoutReplica
            | Error::PartialTls
            | Error::NothingThere { .. }
            | Error::OtherShape { .. }
            | Error::PartialBlock { .. } => Errno::INVAL,
        }
    }
}

fn volume_errno(error: &snapshot::Error) -> Errno {
    match error {
        snapshot::Error::Log(error) => log_errno(error),
        snapshot::Error::OutOfRange { .. } => Errno::INVAL,
        snapshot::Error::WrongRole { .. } => Errno::ROFS,
        // The enum may grow; what we do not know is a failure of the device.
        _ => Errno::IO,
    }
}

fn recovery_errno(error: &recovery::Error) -> Errno {
    match error {
        recovery::Error::ShutDown => Errno::SHUTDOWN,
        // Another primary is in office: this one serves reads at most (D5).
        recovery::Error::Deposed { .. } => Errno::ROFS,
        _ => Errno::IO,
    }
}

fn log_errno(error: &wal::Error) -> Errno {
    match error {
        // A poisoned log stays so when space returns: only a reopen helps (L3, L-E2).
        wal::Error::Poisoned { .. } => Errno::IO,
        error if error.is_out_of_space() => Errno::NOSPC,
        wal::Error::ReadOnly { .. } => Errno::ROFS,
        wal::Error::Closed => Errno::SHUTDOWN,
        wal::Error::Geometry { .. } => Errno::INVAL,
        _ => Errno::IO,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use seawall_wal::IoOp;

    use super::*;

    fn full() -> wal::Error {
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        wal::Error::io(IoOp::Write, Path::new("wal/1.seg"), None, source)
    }

    #[test]
    fn a_client_sees_enospc_for_space_and_eio_once_the_log_is_poisoned() {
        assert_eq!(Error::from(full()).errno(), Errno::NOSPC);
        let first = Arc::new(full());
        assert_eq!(
            Error::from(wal::Error::Poisoned { first }).errno(),
            Errno::IO
        );
    }

    #[test]
    fn a_client_sees_the_errno_of_lessons_section_6() {
        let read_only = wal::Error::ReadOnly {
            path: PathBuf::new(),
            why: "damage",
        };
        assert_eq!(Error::from(read_only).errno(), Errno::ROFS);
        assert_eq!(Error::from(wal::Error::Closed).errno(), Errno::SHUTDOWN);
        let beyond = snapshot::Error::OutOfRange {
            offset: 8,
            length: 1,
            size: 8,
        };
        assert_eq!(Error::from(beyond).errno(), Errno::INVAL);
        let hole = wal::Error::Hole {
            lsn: wal::Lsn::new(7),
        };
        assert_eq!(Error::from(hole).errno(), Errno::IO);
        assert_eq!(Error::NotOpen.errno(), Errno::SHUTDOWN);
        assert_eq!(Error::Panicked { callback: "pread" }.errno(), Errno::IO);
    }
}
