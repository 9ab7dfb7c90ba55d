//! One session of a primary at the replica: takes the place of an older one, applies, acknowledges.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_snapshot::{Access, CreateOptions, Error as VolumeError, Volume};
use seawall_wal::sync::MutexGuard;
use seawall_wal::sync::beside;
use seawall_wal::sync::mpsc::{Receiver as Inbox, RecvTimeoutError, SyncSender, sync_channel};
use seawall_wal::{Epoch, Error as LogError, Lsn, LsnRange, Record, Role, Ticket, VolumeId};

use super::contained;
use super::conversation::{ALIVE_AFTER, Batch, LOOK, Life, SILENCE};
use super::healing::{self, Source};
use super::mending::Mender;
use super::replica::{Current, Gate, PATIENCE, Shared};
use crate::error::Error;
use crate::id::SessionId;
use crate::message::{Body, Fence, Hello, Message, Refusal};
use crate::receiver::{self, Effect, Receiver, Stage, Taking};
use crate::transport::Link;

/// Batches that may wait for their sync.
const UNSYNCED_MAX: usize = 64;

/// One session of a primary, from its hello to its end.
struct Session<'a> {
    shared: &'a Shared,
    link: &'a Link,
    fence: Fence,
    id: SessionId,
    life: Life,
}

fn refuse(link: &Link, reason: Refusal) -> Error {
    Error::Refused {
        peer: link.peer().into(),
        reason,
    }
}

/// Refuses a primary of another volume, or of another shape of it.
fn check_volume(link: &Link, volume: &Volume, id: VolumeId, hello: &Hello) -> Result<(), Error> {
    let ours = volume.meta().get().volume;
    if ours != id {
        return Err(refuse(link, Refusal::OtherVolume { volume: ours }));
    }
    receiver::check_shape(volume, hello).map_err(|reason| refuse(link, reason))
}

/// The primary of a session, as the source of what our log lost.
struct FromPrimary<'a> {
    session: &'a Session<'a>,
    /// What was asked for ends here.
    asked: Lsn,
}

impl Source for FromPrimary<'_> {
    fn give(&mut self, rest: LsnRange) -> Result<Vec<Record>, Error> {
        if rest.after >= self.asked {
            self.session.send(Body::Fetch(rest))?;
            self.asked = rest.through;
        }
        loop {
            match self.session.hear()? {
                Body::Alive => {}
                Body::Records { records, .. } => {
                    return healing::check(self.session.link, rest, records);
                }
                body => {
                    return Err(Error::Unexpected {
                        peer: self.session.link.peer().into(),
                        got: body.name(),
                        expected: "the records that were asked for",
                    });
                }
            }
        }
    }
}

/// Runs the session that `hello` opens, to its end.
pub(super) fn session(
    shared: &Arc<Shared>,
    link: &Link,
    fence: Fence,
    hello: &Hello,
) -> Result<(), Error> {
    let (Some(volume), Some(epoch), Some(id)) = (fence.volume, fence.epoch, fence.session) else {
        return Err(refuse(link, Refusal::NoSession));
    };
    let session = Session {
        shared,
        link,
        fence,
        id,
        life: Life::default(),
    };
    let gate = session.take_over(epoch, hello)?;
    let result = contained(|| {
        let prepared = match shared.volume() {
            Some(open) => Ok((open, false)),
            None => create(shared, link, volume, epoch, hello).map(|created| (created, true)),
        };
        drop(gate);
        let (open, fresh) = prepared?;
        session.run(&open, fresh, hello)
    });
    session.leave();
    result
}

/// An empty directory adopts volume id and geometry at its first handshake (D8). One that was
/// created by an earlier handshake and could not be opened then, for lack of space say, is opened.
fn create(
    shared: &Arc<Shared>,
    link: &Link,
    id: VolumeId,
    epoch: Epoch,
    hello: &Hello,
) -> Result<Arc<Volume>, Error> {
    let options = CreateOptions {
        volume: Some(id),
        geometry: hello.geometry,
        role: Role::Replica,
    };
    if Volume::is_vacant(&shared.disk, &shared.dir)? {
        Volume::create(&shared.disk, &shared.dir, options)?;
    }
    let opened = Volume::open(&shared.disk, &shared.dir, &shared.clock, Access::Replica)?;
    let volume = opened.0;
    let ours = check_volume(link, &volume, id, hello);
    if ours.is_ok() {
        volume
            .meta()
            .update(|meta| meta.epoch = meta.epoch.max(epoch))?;
    }
    shared.adopt(Arc::clone(&volume))?;
    ours.map(|()| volume)
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
            check_volume(self.link, &volume, theirs, hello)?;
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
        let taking = Taking {
            session: self.id,
            compare: !fresh && !self.shared.distrusts.load(Ordering::Acquire),
            in_place: self.shared.in_place,
        };
        let mut receiver = Receiver::new(Arc::clone(volume), taking);
        let (queue, tickets) = sync_channel(UNSYNCED_MAX);
        beside(
            "seawall-acker",
            move || {
                let acknowledged = contained(|| {
                    self.acknowledge(&tickets);
                    Ok(())
                });
                if let Err(error) = acknowledged {
                    tracing::error!(%error, "acknowledgements end");
                    self.link.close();
                }
            },
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
        loop {
            match self.hear() {
                Ok(Body::Alive) => receiver.commit()?,
                Ok(Body::Bye) | Err(Error::Closed { .. }) => return Ok(()),
                Ok(body) => {
                    let effect = self.apply(receiver, body)?;
                    self.follow_up(receiver, effect, &queue)?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message of this session; silence ends the wait (D7).
    fn hear(&self) -> Result<Body, Error> {
        let mut silent = Duration::ZERO;
        let message = loop {
            match self.link.receive(LOOK)? {
                Some(message) => break message,
                None if self.life.shows(self.link) => silent = Duration::ZERO,
                None if silent >= SILENCE => {
                    return Err(Error::Silent {
                        peer: self.link.peer().into(),
                        silent,
                    });
                }
                None => silent += LOOK,
            }
        };
        match message.fence == self.fence {
            true => Ok(message.body),
            false => Err(refuse(self.link, Refusal::NoSession)),
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
        match &effect {
            Ok(Effect::Switched(volume, _)) => {
                self.shared.set_volume(Some(Arc::clone(volume)));
                self.shared.distrusts.store(false, Ordering::Release);
            }
            Err(Error::Volume(VolumeError::InstallMismatch { .. })) => {
                self.shared.distrusts.store(true, Ordering::Release);
            }
            _ => {}
        }
        drop(gate);
        if effect.is_err() {
            self.reopen_if_closed();
        }
        effect
    }

    fn follow_up(
        &self,
        receiver: &mut Receiver,
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
            Effect::Heal => self.heal(receiver),
        }
    }

    /// Sends records that only we hold to a primary that lost them (D1, D14).
    fn serve_records(&self, range: LsnRange) -> Result<(), Error> {
        let volume = self.shared.volume().ok_or(Error::ShutDown)?;
        let committed = volume.log().frontiers().committed;
        Batch::each(volume.log(), range, |batch| {
            let records = batch.records;
            self.send(Body::Records { committed, records })
        })
    }

    /// Takes back from the primary what our log lost (D14), and says what we hold then. Whatever it
    /// gives was ours and acknowledged by us, so no promise stands against it (D5).
    fn heal(&self, receiver: &mut Receiver) -> Result<(), Error> {
        let source = FromPrimary {
            session: self,
            asked: Lsn::ZERO,
        };
        let healed = healing::heal(receiver.volume(), source);
        {
            let _gate = self.shared.gate();
            if let Ok((volume, ..)) = &healed {
                self.shared.set_volume(Some(Arc::clone(volume)));
            }
        }
        if healed.is_err() {
            self.reopen_if_closed();
        }
        let (volume, _, records) = healed?;
        tracing::warn!(
            records,
            "records that the log had lost came back from the primary"
        );
        let report = receiver::report(&volume, &self.shared.id, false)?;
        receiver.healed(volume);
        self.send(Body::HelloReply(report))
    }

    /// Acknowledges what is synced, cumulatively, and says that we are alive (H24).
    fn acknowledge(&self, tickets: &Inbox<Ticket>) {
        let mut mender = Mender::default();
        loop {
            let said = match tickets.recv_timeout(ALIVE_AFTER) {
                Ok(ticket) => self.sync(ticket, tickets),
                Err(RecvTimeoutError::Timeout) => self.send(Body::Alive),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let said = said.and_then(|()| self.ask_for_blocks(&mut mender));
            if let Err(error) = said {
                tracing::debug!(%error, "acknowledgements end");
                drop(self.send(Body::Refused(receiver::refusal(&error))));
                return self.link.close();
            }
        }
    }

    /// Asks the primary for blocks that our image lost.
    fn ask_for_blocks(&self, mender: &mut Mender) -> Result<(), Error> {
        let Some(volume) = self
            .shared
            .streams()
            .then(|| self.shared.volume())
            .flatten()
        else {
            return Ok(());
        };
        let questions = mender.questions(&volume, self.shared.clock.monotonic_ns());
        questions.into_iter().try_for_each(|body| self.send(body))
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
