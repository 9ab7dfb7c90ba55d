//! A replica daemon: accepts its primary, receives, acknowledges.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use seawall_snapshot::{Access, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::sync::{Condvar, Mutex, MutexGuard, RwLock};
use seawall_wal::{Clock, Epoch};

use super::receiving::session;
use super::{CtlServer, Threads, contained, serve_ctl};
use crate::error::Error;
use crate::id::SessionId;
use crate::message::{Body, Fence, Message, Promised, Refusal};
use crate::receiver::{self, Stage};
use crate::state::NodeState;
use crate::status::Status;
use crate::transport::tls::Security;
use crate::transport::{self, Link, Listener};

/// Time for a first message, and for a displaced session to end.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// How a replica listens.
#[derive(Clone, Debug, Default)]
pub struct ReplicaOptions {
    /// How connections are protected.
    pub security: Security,
    /// Install a base over the old one, for a node without the space for two. From its first byte
    /// to its last the replica holds no state (D12, P05).
    pub in_place: bool,
}

/// A replica of one volume. Dropping it stops its threads and closes the volume.
#[derive(Debug)]
pub struct Replica {
    shared: Arc<Shared>,
}

/// Everything the threads of one replica share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) dir: PathBuf,
    pub(super) id: String,
    /// Bases are installed over the old one.
    pub(super) in_place: bool,
    /// A base did not come out as announced: the next one is taken without comparing chunks.
    pub(super) distrusts: AtomicBool,
    listener: Arc<dyn Listener>,
    threads: Threads,
    /// Installing a base replaces it; `None` before the first handshake of an empty directory.
    volume: RwLock<Option<Arc<Volume>>>,
    ctl: Mutex<Option<CtlServer>>,
    gate: Mutex<Gate>,
    pub(super) changed: Condvar,
    /// What status shows of the session; a long step under the gate does not hide it.
    stage: Mutex<Option<Stage>>,
    /// Why the last connection that failed did so.
    cause: Mutex<Option<String>>,
}

/// Who may change the replica. Whatever a session applies, it applies under this lock, so nothing
/// of an older epoch is applied after a promise was answered (D5).
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Highest epoch promised before there is a meta to persist it in.
    promised: Epoch,
    /// The session that may apply.
    pub(super) current: Option<Current>,
    /// The session whose thread has not ended yet.
    pub(super) running: Option<SessionId>,
    /// Every open connection, to be closed when the replica stops.
    links: Vec<Link>,
    pub(super) stopping: bool,
    failed: Option<Error>,
}

/// The session that may apply, and its connection.
#[derive(Debug)]
pub(super) struct Current {
    pub(super) fence: Fence,
    pub(super) link: Link,
}

impl Replica {
    /// Serves the directory `dir` under the name `id`. An absent or empty directory, or one whose
    /// creation was cut off, waits for its first primary and adopts volume id and geometry from it
    /// (D8). Also answers on the `ctl`
    /// socket.
    ///
    /// # Errors
    /// [`Error::Volume`] when the directory holds something else, belongs to a primary or is in
    /// use; [`Error::Address`], [`Error::Insecure`], [`Error::Socket`].
    pub fn serve(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        dir: &Path,
        id: &str,
        listen: &str,
        options: ReplicaOptions,
    ) -> Result<Replica, Error> {
        let volume = match Volume::is_vacant(disk, dir)? {
            true => None,
            false => Some(Volume::open(disk, dir, clock, Access::Replica)?.0),
        };
        let shared = Arc::new(Shared {
            disk: Arc::clone(disk),
            clock: Arc::clone(clock),
            dir: dir.into(),
            id: id.into(),
            listener: transport::listen(listen, &options.security)?,
            in_place: options.in_place,
            distrusts: AtomicBool::new(false),
            threads: Threads::default(),
            volume: RwLock::new(None),
            ctl: Mutex::new(None),
            gate: Mutex::new(Gate::default()),
            changed: Condvar::new(),
            stage: Mutex::default(),
            cause: Mutex::default(),
        });
        if let Some(volume) = volume {
            shared.adopt(volume)?;
        }
        let accepting = Arc::clone(&shared);
        shared
            .threads
            .start("seawall-accept", move || accept(&accepting));
        Ok(Replica { shared })
    }

    /// Where it listens; the port is real when `listen` asked for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.listener.address()
    }

    /// The volume, once there is one. An installed base replaces it.
    #[must_use]
    pub fn volume(&self) -> Option<Arc<Volume>> {
        self.shared.volume()
    }

    /// One reading of everything.
    #[must_use]
    pub fn status(&self) -> Status {
        self.shared.status()
    }

    /// Blocks until [`Replica::shutdown`] is called from elsewhere or the replica fails for good.
    ///
    /// # Errors
    /// What stopped it.
    pub fn join(&self) -> Result<(), Error> {
        let gate = self.shared.gate();
        let waited = self.shared.changed.wait_while(gate, |gate| !gate.stopping);
        let gate = waited.unwrap_or_else(PoisonError::into_inner);
        gate.failed.clone().map_or(Ok(()), Err)
    }

    /// Ends the session, closes the volume, joins the threads.
    ///
    /// # Errors
    /// [`Error::Volume`] when the volume cannot be closed cleanly.
    pub fn shutdown(self) -> Result<(), Error> {
        self.shared.stop()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        if let Err(error) = self.shared.stop() {
            tracing::error!(%error, "the replica did not close cleanly");
        }
    }
}

impl Shared {
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        // OK because every field is valid by itself, whoever panicked while holding the lock.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn volume(&self) -> Option<Arc<Volume>> {
        let volume = self.volume.read();
        volume.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_volume(&self, volume: Option<Arc<Volume>>) {
        *self.volume.write().unwrap_or_else(PoisonError::into_inner) = volume;
    }

    /// Takes a volume that was opened or created, and answers for it on its `ctl` socket.
    pub(super) fn adopt(self: &Arc<Self>, volume: Arc<Volume>) -> Result<(), Error> {
        NodeState::read_or_draw(volume.meta())?;
        self.set_volume(Some(volume));
        let weak: Weak<Shared> = Arc::downgrade(self);
        let answer = move || {
            let shared = weak.upgrade();
            shared.map_or_else(String::new, |shared| shared.status().to_json())
        };
        // Without the socket, for a path that is too long for one, the tools read the files (D24).
        let server = serve_ctl(&self.dir, Arc::new(answer))
            .inspect_err(|error| tracing::warn!(%error, "no ctl socket"));
        *self.ctl.lock().unwrap_or_else(PoisonError::into_inner) = server.ok();
        Ok(())
    }

    fn status(&self) -> Status {
        let volume = self.volume();
        let mut status = match &volume {
            Some(volume) => Status::of_volume(volume),
            None => Status {
                role: "replica".into(),
                backend: self.disk.backend().into(),
                ..Status::default()
            },
        };
        status.live = true;
        status.id = Some(self.id.clone());
        let stage = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        status.link = Some(stage.map_or("disconnected", Stage::name).into());
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        status.link_cause.clone_from(&cause);
        status
    }

    pub(super) fn show(&self, stage: Option<Stage>) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Whether the session under way has become a stream.
    pub(super) fn streams(&self) -> bool {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *stage == Some(Stage::InSync)
    }

    fn remember(&self, error: &Error) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        *cause = Some(error.to_string());
    }

    /// Ends everything; a second call does nothing.
    fn stop(&self) -> Result<(), Error> {
        {
            let mut gate = self.gate();
            if std::mem::replace(&mut gate.stopping, true) {
                return Ok(());
            }
            gate.links.iter().for_each(|link| link.close());
        }
        self.changed.notify_all();
        self.listener.close();
        self.threads.join();
        let server = {
            let mut ctl = self.ctl.lock().unwrap_or_else(PoisonError::into_inner);
            ctl.take()
        };
        drop(server);
        let volume = self.volume();
        self.set_volume(None);
        match volume {
            Some(volume) => Ok(volume.close()?),
            None => Ok(()),
        }
    }

    /// Highest epoch that this node has persisted.
    pub(super) fn promised(&self, gate: &Gate) -> Epoch {
        let persisted = self.volume().map(|volume| volume.meta().get().epoch);
        persisted.unwrap_or_default().max(gate.promised)
    }

    /// Persists `epoch` if it is news, before anybody hears of it.
    pub(super) fn promise(&self, gate: &mut Gate, epoch: Epoch) -> Result<(), Error> {
        if epoch <= self.promised(gate) {
            return Ok(());
        }
        if let Some(volume) = self.volume() {
            volume
                .meta()
                .update(|meta| meta.epoch = meta.epoch.max(epoch))?;
        }
        gate.promised = epoch;
        Ok(())
    }
}

fn accept(shared: &Arc<Shared>) {
    loop {
        let link = match shared.listener.accept() {
            Ok(Some(link)) => link,
            Ok(None) => return,
            Err(error) => {
                let mut gate = shared.gate();
                gate.failed = Some(error);
                gate.stopping = true;
                shared.changed.notify_all();
                return;
            }
        };
        {
            let mut gate = shared.gate();
            if gate.stopping {
                return;
            }
            if gate.links.len() >= CONNECTIONS_MAX {
                continue;
            }
            gate.links.push(Arc::clone(&link));
        }
        let serving = Arc::clone(shared);
        shared.threads.start("seawall-receiver", move || {
            if let Err(error) = contained(|| serve(&serving, &link)) {
                tracing::debug!(%error, "a connection ended");
                serving.remember(&error);
                let body = Body::Refused(receiver::refusal(&error));
                let fence = Fence::default();
                // OK because the peer is usually gone already.
                drop(link.send(&Message { fence, body }));
            }
            link.close();
            let mut gate = serving.gate();
            gate.links.retain(|other| !Arc::ptr_eq(other, &link));
        });
    }
}

/// One connection: a session, a promise, or a question.
fn serve(shared: &Arc<Shared>, link: &Link) -> Result<(), Error> {
    let Some(message) = link.receive(PATIENCE)? else {
        return Ok(());
    };
    let fence = message.fence;
    let answer = match message.body {
        Body::Hello(hello) => return session(shared, link, fence, &hello),
        Body::PromiseEpoch => promise(shared, fence)?,
        Body::StatusQuery => Body::StatusReply {
            json: shared.status().to_json(),
        },
        _ => Body::Refused(Refusal::NoSession),
    };
    link.send(&Message {
        fence,
        body: answer,
    })
}

/// Persists a new epoch, which ends every session of an older one, and reports (D5). An epoch is
/// promised once: whoever asked first, or serves in it already, may be primary of it, nobody else.
fn promise(shared: &Shared, fence: Fence) -> Result<Body, Error> {
    let Some(epoch) = fence.epoch else {
        return Ok(Body::Refused(Refusal::NoSession));
    };
    let mut gate = shared.gate();
    let promised = shared.promised(&gate);
    if epoch <= promised {
        return Ok(Body::Refused(Refusal::EpochTooOld { promised }));
    }
    let Some(volume) = shared.volume() else {
        // There is no meta to persist it in, and a restart would forget it.
        let text = "it holds no volume yet and cannot keep a promise".into();
        return Ok(Body::Refused(Refusal::Failed { text }));
    };
    shared.promise(&mut gate, epoch)?;
    let older = |current: &Current| current.fence.epoch < Some(epoch);
    if gate.current.as_ref().is_some_and(older) {
        let current = gate.current.take().expect("it was just looked at");
        current.link.close();
    }
    let report = receiver::report(&volume, &shared.id, false)?;
    Ok(Body::Promised(Promised {
        replica: report.replica,
        volume: report.volume,
        last_entry: report.lineage.last(),
        durable: report.durable,
        committed: report.committed,
        needs_rebuild: report.needs_rebuild,
    }))
}
