//! The edge of this crate: its only threads and time. It does what the deciding half says.

mod primary;
mod replica;

pub use primary::{Primary, PrimaryOptions, ReplicaAddress};
pub use replica::{Replica, ReplicaOptions};

use std::path::Path;
use std::sync::Arc;

use seawall_wal::{Epoch, LineageEntry, Lsn, VolumeId};

use crate::error::Error;

/// When a write counts as committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum AckRule {
    /// The primary's own sync is enough.
    #[default]
    BestEffort,
    /// A majority of replicas plus primary.
    Quorum,
    /// Every replica and the primary.
    All,
}

/// Serves the `ctl` socket of a volume directory until dropped (D24).
#[derive(Debug)]
pub struct CtlServer {}

/// Answers every connection to `DIR/ctl` with one line of JSON, as `answer` gives it. A stale
/// socket is removed first. Use it where a process holds a volume and is no [`Primary`].
///
/// # Errors
/// [`Error::Socket`].
pub fn serve_ctl(
    dir: &Path,
    answer: Arc<dyn Fn() -> String + Send + Sync>,
) -> Result<CtlServer, Error> {
    let _ = (dir, answer);
    todo!()
}

/// Asks the process that holds the volume in `dir` for its status: one JSON object, or `None` when
/// no process answers on its `ctl` socket.
///
/// # Errors
/// [`Error::Socket`] when the socket is there and fails.
pub fn query_ctl(dir: &Path) -> Result<Option<String>, Error> {
    let _ = dir;
    todo!()
}

/// Asks a replica, or a primary started with `listen`, for its status: one JSON object.
///
/// # Errors
/// [`Error::Socket`], [`Error::Address`], [`Error::Insecure`].
pub fn query_status(address: &str, insecure: bool) -> Result<String, Error> {
    let _ = (address, insecure);
    todo!()
}

/// What a member reports once it has persisted a new epoch (D5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromiseReport {
    /// Name of the member.
    pub id: String,
    /// Its volume, unless its directory is empty.
    pub volume: Option<VolumeId>,
    /// The epoch it persisted.
    pub epoch: Epoch,
    /// Its newest lineage entry with records.
    pub last_entry: Option<LineageEntry>,
    /// Last LSN synced there.
    pub durable: Lsn,
    /// What it knows as committed.
    pub committed: Lsn,
    /// Whether it waits for a rebuild and so may not win.
    pub needs_rebuild: bool,
}

/// Makes the member at `address` persist `epoch`, which ends every stream of an older one, and
/// gives its report (D5).
///
/// # Errors
/// [`Error::Refused`] with the epoch it already promised when that is higher; [`Error::Socket`].
pub fn promise_epoch(address: &str, epoch: Epoch, insecure: bool) -> Result<PromiseReport, Error> {
    let _ = (address, epoch, insecure);
    todo!()
}
