//! A replica daemon: accepts its primary, receives, acknowledges.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver as Inbox, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::Duration;

use seawall_snapshot::{Access, CreateOptions, Error as VolumeError, Volume};
use seawall_wal::disk::{self, Disk};
use seawall_wal::{Clock, Epoch, Error as LogError, LsnRange, Role, Ticket};

use super::conversation::{Batch, LOOK, SILENCE};
use super::{CtlServer, Threads, beside, serve_ctl};
use crate::error::Error;
use crate::id::SessionId;
use crate::message::{Body, Fence, Hello, Message, Promised, Refusal};
use crate::receiver::{self, Effect, Receiver, Stage};
use crate::state::NodeState;
use crate::status::Status;
use crate::transport::Link;
use crate::transport::tcp::Listener;

/// Time for a first message, and for a displaced session to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Batches that may wait for their sync.
const UNSYNCED_MAX: usize = 64;
/// Connections at a time; more are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// How a replica listens.
#[derive(Clone, Debug, Default)]
pub struct ReplicaOptions {
    /// Allow an address outside this machine without encryption.
    pub insecure: bool,
}

/// A replica of one volume. Dropping it stops its threads and closes the volume.
#[derive(Debug)]
pub struct Replica {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    dir: PathBuf,
    id: String,
    listener: Listener,
    threads: Threads,
    /// Installing a base replaces it; `None` before the first handshake of an empty directory.
    volume: RwLock<Option<Arc<Volume>>>,
    ctl: Mutex<Option<CtlServer>>,
    gate: Mutex<Gate>,
    changed: Condvar,
    /// What status shows of the session; a long step under the gate does not hide it.
    stage: Mutex<Option<Stage>>,
}

/// Who may change the replica. Whatever a session applies, it applies under this lock, so nothing
/// of an older epoch is applied after a promise was answered (D5).
#[derive(Debug, Default)]
struct Gate {
    /// Highest epoch promised before there is a meta to persist it in.
    promised: Epoch,
    /// The session that may apply.
    current: Option<Current>,
    /// The session whose thread has not ended yet.
    running: Option<SessionId>,
    /// Every open connection, to be closed when the replica stops.
    links: Vec<Link>,
    stopping: bool,
    failed: Option<Error>,
}

#[derive(Debug)]
struct Current {
    fence: Fence,
    link: Link,
}

impl Replica {
    /// Serves the directory `dir` under the name `id`. An absent or empty directory waits for its
    /// first primary and adopts volume id and geometry from it (D8). Also answers on the `ctl`
    /// socket.
    ///
    /// # Errors
    /// [`Error::Volume`] when the directory holds something else, belongs to a primary or is in use;
    /// [`Error::Address`], [`Error::Insecure`], [`Error::Socket`].
    pub fn serve(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        dir: &Path,
        id: &str,
        listen: &str,
        options: ReplicaOptions,
    ) -> Result<Replica, Error> {
        let volume = match is_empty(disk, dir)? {
            true => None,
            false => Some(Volume::open(disk, dir, clock, Access::Replica)?.0),
        };
        let shared = Arc::new(Shared {
            disk: Arc::clone(disk),
            clock: Arc::clone(clock),
            dir: dir.into(),
            id: id.into(),
            listener: Listener::bind(listen, options.insecure)?,
            threads: Threads::default(),
            volume: RwLock::new(None),
            ctl: Mutex::new(None),
            gate: Mutex::new(Gate::default()),
            changed: Condvar::new(),
            stage: Mutex::new(None),
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

fn is_empty(disk: &Arc<dyn Disk>, dir: &Path) -> Result<bool, Error> {
    match disk::list(disk.as_ref(), dir) {
        Ok(names) => Ok(names.is_empty()),
        Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        // OK because every field is valid by itself, whoever panicked while holding the lock.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn volume(&self) -> Option<Arc<Volume>> {
        let volume = self.volume.read();
        volume.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_volume(&self, volume: Option<Arc<Volume>>) {
        *self.volume.write().unwrap_or_else(PoisonError::into_inner) = volume;
    }

    /// Takes a volume that was opened or created, and answers for it on its `ctl` socket.
    fn adopt(self: &Arc<Self>, volume: Arc<Volume>) -> Result<(), Error> {
        NodeState::read_or_draw(volume.meta())?;
        self.set_volume(Some(volume));
        let weak: Weak<Shared> = Arc::downgrade(self);
        let answer = move || {
            let shared = weak.upgrade();
            shared.map_or_else(String::new, |shared| shared.status().to_json())
        };
        let server = serve_ctl(&self.dir, Arc::new(answer))?;
        *self.ctl.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
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
        status
    }

    fn show(&self, stage: Option<Stage>) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
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
    fn promised(&self, gate: &Gate) -> Epoch {
        let persisted = self.volume().map(|volume| volume.meta().get().epoch);
        persisted.unwrap_or_default().max(gate.promised)
    }

    /// Persists `epoch` if it is news, before anybody hears of it.
    fn promise(&self, gate: &mut Gate, epoch: Epoch) -> Result<(), Error> {
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
            if let Err(error) = serve(&serving, &link) {
                tracing::debug!(%error, "a connection ended");
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

/// Persists a new epoch, which ends every session of an older one, and reports (D5).
fn promise(shared: &Shared, fence: Fence) -> Result<Body, Error> {
    let Some(epoch) = fence.epoch else {
        return Ok(Body::Refused(Refusal::NoSession));
    };
    let mut gate = shared.gate();
    let promised = shared.promised(&gate);
    if epoch < promised {
        return Ok(Body::Refused(Refusal::EpochTooOld { promised }));
    }
    shared.promise(&mut gate, epoch)?;
    let older = |current: &Current| current.fence.epoch < Some(epoch);
    if gate.current.as_ref().is_some_and(older) {
        let current = gate.current.take().expect("it was just looked at");
        current.link.close();
    }
    let Some(volume) = shared.volume() else {
        return Ok(Body::Promised(Promised {
            replica: shared.id.clone(),
            volume: None,
            last_entry: None,
            durable: seawall_wal::Lsn::ZERO,
            committed: seawall_wal::Lsn::ZERO,
            needs_rebuild: false,
        }));
    };
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

/// One session of a primary, from its hello to its end.
struct Session<'a> {
    shared: &'a Shared,
    link: &'a Link,
    fence: Fence,
    id: SessionId,
}

fn refuse(link: &Link, reason: Refusal) -> Error {
    Error::Refused {
        peer: link.peer().into(),
        reason,
    }
}

fn session(shared: &Arc<Shared>, link: &Link, fence: Fence, hello: &Hello) -> Result<(), Error> {
    let (Some(volume), Some(epoch), Some(id)) = (fence.volume, fence.epoch, fence.session) else {
        return Err(refuse(link, Refusal::NoSession));
    };
    let session = Session {
        shared,
        link,
        fence,
        id,
    };
    let gate = session.take_over(epoch, hello)?;
    let prepared = match shared.volume() {
        Some(open) => Ok((open, false)),
        None => create(shared, volume, epoch, hello).map(|created| (created, true)),
    };
    drop(gate);
    let result = prepared.and_then(|(open, fresh)| session.run(&open, fresh, hello));
    session.leave();
    result
}

/// An empty directory adopts volume id and geometry at its first handshake (D8).
fn create(
    shared: &Arc<Shared>,
    volume: seawall_wal::VolumeId,
    epoch: Epoch,
    hello: &Hello,
) -> Result<Arc<Volume>, Error> {
    let options = CreateOptions {
        volume: Some(volume),
        geometry: hello.geometry,
        role: Role::Replica,
    };
    Volume::create(&shared.disk, &shared.dir, options)?;
    let opened = Volume::open(&shared.disk, &shared.dir, &shared.clock, Access::Replica)?;
    let volume = opened.0;
    volume
        .meta()
        .update(|meta| meta.epoch = meta.epoch.max(epoch))?;
    shared.adopt(Arc::clone(&volume))?;
    Ok(volume)
}

impl Session<'_> {
    /// Checks authority and takes the place of an older session, whose thread has ended when this
    /// returns.
    fn take_over(&self, epoch: Epoch, hello: &Hello) -> Result<MutexGuard<'_, Gate>, Error> {
        if hello.replica != self.shared.id {
            let id = self.shared.id.clone();
            return Err(refuse(self.link, Refusal::OtherId { id }));
        }
        let mut gate = self.shared.gate();
        self.check_epoch(&gate, epoch)?;
        if let (Some(volume), Some(theirs)) = (self.shared.volume(), self.fence.volume) {
            // Before anything changes: another volume moves nothing here, not even the epoch.
            let ours = volume.meta().get().volume;
            if ours != theirs {
                return Err(refuse(self.link, Refusal::OtherVolume { volume: ours }));
            }
            receiver::check_shape(&volume, hello).map_err(|reason| refuse(self.link, reason))?;
        }
        if let Some(old) = gate.current.take() {
            old.link.close();
        }
        let busy = |gate: &mut Gate| gate.running.is_some() && !gate.stopping;
        let waited = self.shared.changed.wait_timeout_while(gate, PATIENCE, busy);
        gate = waited.unwrap_or_else(PoisonError::into_inner).0;
        if gate.running.is_some() || gate.stopping {
            let text = "the session before does not end".into();
            return Err(refuse(self.link, Refusal::Failed { text }));
        }
        self.check_epoch(&gate, epoch)?;
        self.shared.promise(&mut gate, epoch)?;
        gate.running = Some(self.id);
        gate.current = Some(Current {
            fence: self.fence,
            link: Arc::clone(self.link),
        });
        self.shared.show(Some(Stage::Connected));
        Ok(gate)
    }

    fn check_epoch(&self, gate: &Gate, epoch: Epoch) -> Result<(), Error> {
        let promised = self.shared.promised(gate);
        match epoch < promised {
            true => Err(refuse(self.link, Refusal::EpochTooOld { promised })),
            false => Ok(()),
        }
    }

    /// Makes room for the next session.
    fn leave(&self) {
        let mut gate = self.shared.gate();
        if gate.running == Some(self.id) {
            gate.running = None;
        }
        if self.is_current(&gate) {
            gate.current = None;
        }
        if gate.current.is_none() {
            self.shared.show(None);
        }
        drop(gate);
        self.shared.changed.notify_all();
    }

    fn is_current(&self, gate: &Gate) -> bool {
        let current = gate.current.as_ref();
        current.is_some_and(|current| current.fence == self.fence) && !gate.stopping
    }

    fn send(&self, body: Body) -> Result<(), Error> {
        let fence = self.fence;
        self.link.send(&Message { fence, body })
    }

    fn run(&self, volume: &Arc<Volume>, fresh: bool, hello: &Hello) -> Result<(), Error> {
        tracing::debug!(primary_head = %hello.head, "session begins");
        let report = receiver::report(volume, &self.shared.id, fresh)?;
        self.send(Body::HelloReply(report))?;
        let mut receiver = Receiver::new(Arc::clone(volume), fresh);
        let (queue, tickets) = sync_channel(UNSYNCED_MAX);
        beside(
            "seawall-acker",
            move || self.acknowledge(&tickets),
            || {
                let result = self.receive(&mut receiver, queue);
                if result.is_ok() {
                    self.link.close();
                }
                result
            },
        )
    }

    /// Receives and applies until the connection ends. The queue ends with this call.
    fn receive(&self, receiver: &mut Receiver, queue: SyncSender<Ticket>) -> Result<(), Error> {
        let mut silent = Duration::ZERO;
        loop {
            let message = match self.link.receive(LOOK) {
                Ok(Some(message)) => message,
                Ok(None) if silent >= SILENCE => {
                    return Err(Error::Silent {
                        peer: self.link.peer().into(),
                        silent,
                    });
                }
                Ok(None) => {
                    silent += LOOK;
                    continue;
                }
                Err(Error::Closed { .. }) => return Ok(()),
                Err(error) => return Err(error),
            };
            silent = Duration::ZERO;
            if message.fence != self.fence {
                return Err(refuse(self.link, Refusal::NoSession));
            }
            match message.body {
                Body::Alive => receiver.commit()?,
                Body::Bye => return Ok(()),
                body => {
                    let effect = self.apply(receiver, body)?;
                    self.follow_up(receiver, effect, &queue)?;
                }
            }
        }
    }

    /// Applies one message in the critical section that also decides who may (D5).
    fn apply(&self, receiver: &mut Receiver, body: Body) -> Result<Effect, Error> {
        let gate = self.shared.gate();
        if !self.is_current(&gate) {
            return Err(refuse(self.link, Refusal::Displaced));
        }
        let effect = receiver.on(body);
        self.shared.show(Some(receiver.stage()));
        if let Ok(Effect::Switched(volume, _)) = &effect {
            self.shared.set_volume(Some(Arc::clone(volume)));
        }
        drop(gate);
        if effect.is_err() {
            self.reopen_if_closed();
        }
        effect
    }

    fn follow_up(
        &self,
        receiver: &Receiver,
        effect: Effect,
        queue: &SyncSender<Ticket>,
    ) -> Result<(), Error> {
        match effect {
            Effect::Quiet => Ok(()),
            Effect::Answer(body) | Effect::Switched(_, body) => self.send(body),
            Effect::Queued(ticket) => {
                receiver.commit()?;
                // The acker ends only with an error of its own, which it has sent.
                queue.send(ticket).map_err(|_| Error::Closed {
                    peer: self.link.peer().into(),
                })
            }
            Effect::Serve(range) => self.serve_records(range),
        }
    }

    /// Sends records that only we hold to a primary that lost them (D1).
    fn serve_records(&self, range: LsnRange) -> Result<(), Error> {
        let volume = self.shared.volume().ok_or(Error::ShutDown)?;
        let committed = volume.log().frontiers().committed;
        let mut batch = Batch::new();
        for record in volume.log().read(range)? {
            if let Some(full) = batch.push(record?) {
                let records = full.records;
                self.send(Body::Records { committed, records })?;
            }
        }
        let records = batch.records;
        match records.is_empty() {
            true => Ok(()),
            false => self.send(Body::Records { committed, records }),
        }
    }

    /// Acknowledges what is synced, cumulatively, and says that we are alive (H24).
    fn acknowledge(&self, tickets: &Inbox<Ticket>) {
        loop {
            let said = match tickets.recv_timeout(super::conversation::ALIVE_AFTER) {
                Ok(ticket) => self.sync(ticket, tickets),
                Err(RecvTimeoutError::Timeout) => self.send(Body::Alive),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Err(error) = said {
                tracing::debug!(%error, "acknowledgements end");
                drop(self.send(Body::Refused(receiver::refusal(&error))));
                return self.link.close();
            }
        }
    }

    /// One sync for everything that waits; one acknowledgement.
    fn sync(&self, first: Ticket, tickets: &Inbox<Ticket>) -> Result<(), Error> {
        let last = tickets.try_iter().last().unwrap_or(first);
        let durable = last.wait()?;
        self.send(Body::Ack { durable })
    }

    /// A switch that failed half-way may have closed the old volume: what lies in the directory is
    /// whole either way (D12), so it is opened again.
    fn reopen_if_closed(&self) {
        let shared = self.shared;
        let _gate = shared.gate();
        if shared.volume().is_none_or(|volume| !volume.is_closed()) {
            return;
        }
        match Volume::open(&shared.disk, &shared.dir, &shared.clock, Access::Replica) {
            Ok((volume, _)) => shared.set_volume(Some(volume)),
            Err(VolumeError::Log(LogError::Locked { .. })) => {}
            Err(error) => tracing::error!(%error, "the volume cannot be opened again"),
        }
    }
}
