//! The edge of this crate: its only threads and time. It does what the deciding half says.
//!
//! A primary has one thread per replica that speaks and one that listens, one for its `ctl` socket,
//! one for its listening address and one per question there; a replica has one that accepts, and
//! two per session.

mod assigning;
mod attempt;
mod conversation;
mod core;
mod ending;
mod healing;
pub(crate) mod mending;
mod pace;
mod primary;
mod queries;
mod rebuild;
mod receiving;
mod replica;
mod ship;
mod storage;
mod tally;

#[cfg(test)]
mod tests;

pub use healing::Healed;
pub use primary::{Primary, PrimaryOptions, ReplicaAddress};
pub use replica::{Replica, ReplicaOptions};
pub use storage::history_of;

use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_wal::sync::{self, JoinHandle, Mutex};
use seawall_wal::{Epoch, LineageEntry, Lsn, VolumeId};

pub use crate::ack::AckRule;
use crate::error::Error;
use crate::message::{Body, Fence, Message};
use crate::transport::ctl::{self, CtlListener};
use crate::transport::tls::Security;
use crate::transport::{self, Link, tcp};

/// How long a tool waits for an answer.
const ANSWER: Duration = Duration::from_secs(10);

/// The threads of one primary or replica.
#[derive(Debug, Default)]
pub(crate) struct Threads(Mutex<Vec<JoinHandle>>);

impl Threads {
    /// Starts a thread; threads that ended since the last call are forgotten.
    pub(crate) fn start(&self, name: &str, work: impl FnOnce() + Send + 'static) {
        let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        match sync::spawn(name, work) {
            Ok(thread) => threads.push(thread),
            // OK because whoever dialled or waits sees its connection end.
            Err(error) => tracing::error!(name, %error, "a thread could not be started"),
        }
    }

    /// Waits for every thread. A thread that panicked has said so.
    pub(crate) fn join(&self) {
        let threads = {
            let mut threads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *threads)
        };
        for thread in threads {
            drop(thread.join());
        }
    }
}

/// Runs what one connection needs. A panic ends that and nothing else: what it holds is released on
/// the way, the deciding half changes nothing before its checks have passed, and log and volume
/// answer for themselves.
fn contained<R>(work: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    sync::contain(work).unwrap_or_else(|what| Err(Error::Panicked { what }))
}

/// Serves the `ctl` socket of a volume directory until dropped (D24).
#[derive(Debug)]
pub struct CtlServer {
    listener: Arc<CtlListener>,
    threads: Threads,
}

impl Drop for CtlServer {
    fn drop(&mut self) {
        self.listener.close();
        self.threads.join();
    }
}

/// Answers every connection to `DIR/ctl` with one line of JSON, as `answer` gives it. A stale
/// socket is removed first: the caller holds the volume. Use it where a process holds a volume and
/// is no [`Primary`].
///
/// # Errors
/// [`Error::Socket`].
pub fn serve_ctl(
    dir: &Path,
    answer: Arc<dyn Fn() -> String + Send + Sync>,
) -> Result<CtlServer, Error> {
    let listener = Arc::new(CtlListener::bind(dir)?);
    let threads = Threads::default();
    let serving = Arc::clone(&listener);
    threads.start("seawall-ctl", move || {
        loop {
            match serving.answer(|| answer()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => return tracing::warn!(%error, "the ctl socket ended"),
            }
        }
    });
    Ok(CtlServer { listener, threads })
}

/// Asks the process that holds the volume in `dir` for its status: one JSON object, or `None` when
/// no process answers on its `ctl` socket.
///
/// # Errors
/// [`Error::Socket`] when the socket is there and fails.
pub fn query_ctl(dir: &Path) -> Result<Option<String>, Error> {
    ctl::query(dir)
}

/// Asks a replica, or a primary started with `listen`, for its status: one JSON object.
///
/// # Errors
/// [`Error::Socket`], [`Error::Address`], [`Error::Insecure`], [`Error::Tls`].
pub fn query_status(address: &str, security: &Security) -> Result<String, Error> {
    let link = transport::dial(address, security, ANSWER)?;
    match ask(&link, Fence::default(), Body::StatusQuery)? {
        Body::StatusReply { json } => Ok(json),
        body => Err(unexpected(&link, &body, "StatusReply")),
    }
}

/// Whether `address` resolves and may be used; tells before a [`Primary`] is started.
///
/// # Errors
/// [`Error::Address`], [`Error::Insecure`].
pub fn check_address(address: &str, security: &Security) -> Result<(), Error> {
    tcp::resolve(address, security).map(drop)
}

/// What a member reports once it has persisted a new epoch (D5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromiseReport {
    /// Name of the member.
    pub id: String,
    /// Its volume.
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
/// [`Error::Refused`] with the epoch it already promised when that is not lower, or because it
/// holds no volume; [`Error::Socket`], [`Error::Tls`].
pub fn promise_epoch(
    address: &str,
    epoch: Epoch,
    security: &Security,
) -> Result<PromiseReport, Error> {
    let link = transport::dial(address, security, ANSWER)?;
    let fence = Fence {
        epoch: Some(epoch),
        ..Fence::default()
    };
    let report = match ask(&link, fence, Body::PromiseEpoch)? {
        Body::Promised(report) => report,
        body => return Err(unexpected(&link, &body, "Promised")),
    };
    Ok(PromiseReport {
        id: report.replica,
        volume: report.volume,
        epoch,
        last_entry: report.last_entry,
        durable: report.durable,
        committed: report.committed,
        needs_rebuild: report.needs_rebuild,
    })
}

fn unexpected(link: &Link, got: &Body, expected: &'static str) -> Error {
    Error::Unexpected {
        peer: link.peer().into(),
        got: got.name(),
        expected,
    }
}

fn ask(link: &Link, fence: Fence, body: Body) -> Result<Body, Error> {
    link.send(&Message { fence, body })?;
    let peer = || link.peer().to_owned();
    match link.receive(ANSWER)? {
        Some(Message {
            body: Body::Refused(reason),
            ..
        }) => Err(Error::Refused {
            peer: peer(),
            reason,
        }),
        Some(message) => Ok(message.body),
        None => Err(Error::Silent {
            peer: peer(),
            silent: ANSWER,
        }),
    }
}
