//! Exit codes: the one table that turns an error into a number.
//!
//! | code | meaning | errors |
//! |---|---|---|
//! | 0 | fine | |
//! | 1 | damage found, or copies not equal | never an error: `verify`, `wal-dump --verify` and `demo` report it |
//! | 2 | wrong usage or unusable input; nothing was changed | arguments, sizes, a missing directory, no volume, wrong role, another volume, an LSN or epoch out of range, a path that cannot be opened |
//! | 3 | the operation failed | a volume in use by another process, I/O, a full disk, damage met on the way, a peer that failed or outranks us |

use seawall_recovery as recovery;
use seawall_recovery::failure::Failure;
use seawall_snapshot as snapshot;
use seawall_wal::{self as wal, IoOp};

use crate::error::Error;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0.
    Fine,
    /// 1: damage found, or copies not equal.
    Found,
    /// 2: wrong usage or unusable input.
    Unusable,
    /// 3: the operation failed.
    Failed,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Exit::Fine => 0,
            Exit::Found => 1,
            Exit::Unusable => 2,
            Exit::Failed => 3,
        }
    }

    /// The row of the table that `error` belongs to.
    #[must_use]
    pub fn of(error: &Error) -> Exit {
        match error {
            Error::NoDirectory { .. }
            | Error::SizeNotMultiple { .. }
            | Error::SizeZero
            | Error::InputTooLarge { .. }
            | Error::BadPath { .. }
            | Error::EpochTooLow { .. }
            | Error::Misassigned { .. }
            | Error::Control { .. }
            | Error::Unassigned { .. }
            | Error::Usage(_) => Exit::Unusable,
            Error::Volume(source) | Error::At { source, .. } => of_volume(source),
            Error::Recovery(source) => of_recovery(source),
            Error::Damaged { .. }
            | Error::Moving { .. }
            | Error::NoMajority { .. }
            | Error::MarkedForRebuild { .. }
            | Error::Outranked { .. }
            | Error::MarkedHoldsMore { .. }
            | Error::Node { .. }
            | Error::Interrupted
            | Error::Output(_) => Exit::Failed,
        }
    }
}

fn of_recovery(error: &recovery::Error) -> Exit {
    match error {
        recovery::Error::Address { .. }
        | recovery::Error::Insecure { .. }
        | recovery::Error::TlsFile { .. }
        | recovery::Error::Failure(
            Failure::StaleAssignment { .. }
            | Failure::NotPromoted { .. }
            | Failure::DuplicateReplica { .. }
            | Failure::DuplicateEndpoint { .. },
        ) => Exit::Unusable,
        // OK because everything else, now and later, is a command that started and failed.
        _ => Exit::Failed,
    }
}

fn of_volume(error: &snapshot::Error) -> Exit {
    match error {
        snapshot::Error::Log(source) => of_log(source),
        snapshot::Error::OutOfRange { .. }
        | snapshot::Error::StateReclaimed { .. }
        | snapshot::Error::StateBeyondHead { .. }
        | snapshot::Error::WrongRole { .. } => Exit::Unusable,
        // OK because everything else, now and later, is a command that started and failed.
        _ => Exit::Failed,
    }
}

fn of_log(error: &wal::Error) -> Exit {
    match error {
        wal::Error::NotAVolume { .. }
        | wal::Error::Geometry { .. }
        | wal::Error::OtherVolume { .. }
        | wal::Error::Chain { .. }
        | wal::Error::Reclaimed { .. }
        | wal::Error::BeyondHead { .. } => Exit::Unusable,
        wal::Error::Io { op, source, .. } => of_io(*op, source.kind()),
        // OK because everything else, now and later, is a command that started and failed.
        _ => Exit::Failed,
    }
}

/// A path that cannot be opened is unusable input; a call that fails on an open file is a failure.
fn of_io(op: IoOp, kind: std::io::ErrorKind) -> Exit {
    use std::io::ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, IsADirectory, NotADirectory, NotFound, PermissionDenied,
    };
    let opening = matches!(op, IoOp::Open | IoOp::List | IoOp::MakeDir);
    let unusable = matches!(
        kind,
        AlreadyExists
            | DirectoryNotEmpty
            | IsADirectory
            | NotADirectory
            | NotFound
            | PermissionDenied
    );
    match opening && unusable {
        true => Exit::Unusable,
        false => Exit::Failed,
    }
}

/// What to do next, where the message of a lower crate does not say it already.
#[must_use]
pub fn advice(error: &Error) -> Option<&'static str> {
    let (Error::Volume(source) | Error::At { source, .. }) = error else {
        return None;
    };
    let snapshot::Error::Log(source) = source else {
        return None;
    };
    match source {
        source if source.is_out_of_space() => Some("free space and run the command again"),
        wal::Error::NotAVolume { .. } => Some("make a volume with seawall create"),
        wal::Error::Chain { .. } | wal::Error::Reclaimed { .. } | wal::Error::BeyondHead { .. } => {
            Some("seawall status lists the frontiers")
        }
        wal::Error::Io { .. } => Some("check the path and the device, then run it again"),
        wal::Error::OtherVolume { .. } => Some("give the replica an empty directory"),
        wal::Error::Hole { .. } | wal::Error::ReadOnly { .. } => Some("run seawall verify"),
        _ => None,
    }
}

/// The one line that goes to standard error.
#[must_use]
pub fn line(error: &Error) -> String {
    let text = error.to_string().replace('\n', " ");
    match advice(error) {
        Some(next) if !text.contains(';') => format!("{text}; {next}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;

    use seawall_wal::Lsn;

    use super::*;

    fn io(op: IoOp, kind: ErrorKind) -> Error {
        wal::Error::io(op, Path::new("/v/wal/00000001.seg"), None, kind.into()).into()
    }

    #[test]
    fn a_missing_path_is_unusable_and_a_full_disk_is_a_failure() {
        assert_eq!(
            Exit::of(&io(IoOp::Open, ErrorKind::NotFound)),
            Exit::Unusable
        );
        assert_eq!(
            Exit::of(&io(IoOp::Write, ErrorKind::StorageFull)),
            Exit::Failed
        );
        assert_eq!(Exit::of(&io(IoOp::Read, ErrorKind::NotFound)), Exit::Failed);
    }

    #[test]
    fn a_volume_in_use_is_a_failure_that_ends_when_the_other_process_does() {
        let error = Error::from(wal::Error::Locked { path: "/v".into() });
        assert_eq!(Exit::of(&error).code(), 3);
    }

    #[test]
    fn an_lsn_out_of_range_names_what_to_do_next_in_one_line() {
        let error = Error::from(wal::Error::BeyondHead {
            through: Lsn::new(9),
            head: Lsn::new(4),
        });
        assert_eq!(Exit::of(&error), Exit::Unusable);
        let text = line(&error);
        assert!(text.contains("LSN 9") && text.contains("seawall status"));
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn a_full_disk_says_to_free_space() {
        let text = line(&io(IoOp::Write, ErrorKind::StorageFull));
        assert!(
            text.contains("00000001.seg") && text.ends_with("free space and run the command again")
        );
    }
}
