//! A primary with its replicas.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_snapshot::{Durability, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::sync::RwLockReadGuard;
use seawall_wal::{Clock, Epoch, Lsn};

use super::assigning::decide;
use super::attempt::keep_level;
use super::core::{Extra, Shared};
use super::queries::{Answer, Queries};
use super::{AckRule, CtlServer, Threads, serve_ctl};
use crate::budget::Budget;
use crate::error::Error;
use crate::event::Event;
use crate::id::{ReplicaId, Tick};
use crate::registry::{Assigned, Assignment};
use crate::sender::{Endpoint, SenderView};
use crate::session::Phase;
use crate::status::{ProgressStatus, RecoveryRecord, ReplicaStatus, Status, ThrottleStatus};
use crate::throttle::ThrottleOptions;
use crate::transport::tls::Security;
use crate::transport::{self, tcp};

/// How long committed may lag behind our own sync while nobody flushes.
const LOOK: Duration = Duration::from_millis(100);

/// One replica and where it listens; `ID=ADDR` in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaAddress {
    /// Its stable id, never derived from the address.
    pub id: String,
    /// `host:port`.
    pub address: String,
}

impl FromStr for ReplicaAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<ReplicaAddress, Error> {
        match text.split_once('=') {
            Some((id, address)) if !id.is_empty() && !address.is_empty() => Ok(ReplicaAddress {
                id: id.into(),
                address: address.into(),
            }),
            _ => Err(Error::Address {
                text: text.into(),
                expected: "a replica as ID=HOST:PORT",
            }),
        }
    }
}

/// How a primary treats its replicas.
#[derive(Clone, Debug)]
pub struct PrimaryOptions {
    /// The replicas; with the primary they are the members that the ack rule counts.
    pub replicas: Vec<ReplicaAddress>,
    /// What a control plane wants first, in place of `replicas`; [`Primary::assign`] follows.
    pub assignment: Option<Assignment>,
    /// When a write counts as committed.
    pub ack: AckRule,
    /// Rebuild every replica once with a full base, although less may do (reason `requested`, D11).
    pub rebuild_full: bool,
    /// Start a rebuild by itself when a replica needs one.
    pub auto_rebuild: bool,
    /// Where to answer status queries over TCP.
    pub listen: Option<String>,
    /// How connections are protected.
    pub security: Security,
    /// What one session may spend before it ends in needs rebuild (1.10).
    pub budget: Budget,
    /// How recoveries give way to foreground writes.
    pub throttle: ThrottleOptions,
    /// Recoveries that send at the same time, at least 1. Others wait with what they need pinned,
    /// so that waiting never makes more of them.
    pub recoveries_max: u64,
    /// How long a replica that says it is alive may owe an acknowledgement or an answer before its
    /// session or stream ends; answers that take a whole base get a second more for each 4 MiB of
    /// the volume.
    pub stall_timeout: Duration,
    /// How long flush, FUA and the first write after a reopen wait for the ack rule (D6).
    pub commit_timeout: Duration,
}

impl PrimaryOptions {
    /// What is assigned first: by the control plane, or at `epoch` what was listed.
    pub(super) fn assigned(&self, epoch: Epoch) -> Assignment {
        let listed = self.replicas.iter().map(|replica| {
            let endpoint = Endpoint {
                data: replica.address.clone(),
                control: replica.address.clone(),
                version: 0,
            };
            (ReplicaId::new(&replica.id), endpoint)
        });
        let given = self.assignment.clone();
        given.unwrap_or_else(|| Assignment::of(listed.collect(), epoch))
    }
}

impl Default for PrimaryOptions {
    fn default() -> PrimaryOptions {
        PrimaryOptions {
            replicas: Vec::new(),
            assignment: None,
            ack: AckRule::BestEffort,
            rebuild_full: false,
            auto_rebuild: true,
            listen: None,
            security: Security::default(),
            budget: Budget::UNBOUNDED,
            throttle: ThrottleOptions::default(),
            recoveries_max: 4,
            stall_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(30),
        }
    }
}

/// A volume that takes writes and keeps its replicas in step. Dropping it stops its threads.
#[derive(Debug)]
pub struct Primary {
    shared: Arc<Shared>,
    threads: Threads,
    queries: Option<Queries>,
    ctl: Option<CtlServer>,
}

impl Primary {
    /// Starts serving `volume`, which was opened with `Access::Primary`. Also answers on its `ctl`
    /// socket.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Insecure`], [`Error::Socket`], [`Error::StateLog`];
    /// [`Error::Failure`] for a replica that is listed twice.
    pub fn start(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        volume: Arc<Volume>,
        options: PrimaryOptions,
    ) -> Result<Primary, Error> {
        for (_, endpoint) in &options.assigned(Epoch::default()).replicas {
            tcp::resolve(&endpoint.data, &options.security)?;
        }
        let listener = match &options.listen {
            Some(listen) => Some(transport::listen(listen, &options.security)?),
            None => None,
        };
        let now = Tick(clock.monotonic_ns() / 1_000_000);
        let core = decide(disk, &volume, &options, now)?;
        // The ack rule is ours from here on, best effort included.
        volume.commit_by_acks();
        let shared = Arc::new(Shared::new(volume, Arc::clone(clock), options, core));
        shared.synced()?;
        let mut primary = Primary {
            shared,
            threads: Threads::default(),
            queries: None,
            ctl: None,
        };
        primary.ctl = serve_status(&primary.shared);
        let answer = answer(&primary.shared);
        primary.queries = listener.map(|listener| Queries::serve(listener, answer));
        primary.start_threads();
        Ok(primary)
    }

    fn start_threads(&self) {
        let shared = Arc::clone(&self.shared);
        self.threads
            .start("seawall-commit", move || follow_own_sync(&shared));
        let first: Vec<ReplicaId> = self.shared.core().extras.keys().cloned().collect();
        self.keep(first);
    }

    /// Applies an assignment of a control plane (1.7): replicas that it lists are kept level from
    /// now on, those that it does not list no longer. Its version is durable before anything
    /// follows from it. One that is refused changes nothing; one of a higher epoch is refused,
    /// because an epoch comes from a promotion of a primary at rest (`Volume::promote`, D5).
    ///
    /// # Errors
    /// [`Error::Failure`] with the reason of a refusal, [`Error::Deposed`]; [`Error::Log`] when the
    /// version could not be made durable.
    pub fn assign(&self, assignment: &Assignment) -> Result<Assigned, Error> {
        let shared = &self.shared;
        let (assigned, kept) = shared.change_first(|core, now| core.assign(assignment, now))?;
        // It took effect, whether or not all that follows from it could be remembered.
        self.keep(assigned.added.clone());
        kept.map(|()| assigned)
    }

    /// Starts a thread for each of these replicas.
    fn keep(&self, replicas: Vec<ReplicaId>) {
        for id in replicas {
            let shared = Arc::clone(&self.shared);
            let keeper = shared.core().extras.get(&id).map(|extra| extra.keeper);
            let work = move || keep_level(&shared, &id, keeper.unwrap_or_default());
            self.threads.start("seawall-sender", work);
        }
    }

    #[cfg(test)]
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.shared.volume
    }

    /// Where it answers status queries, if it was asked to.
    #[must_use]
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.queries.as_ref().map(Queries::address)
    }

    /// Reads as [`Volume::read`].
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        Ok(self.shared.volume.read(offset, out)?)
    }

    /// Writes as [`Volume::write`]; `Durable` waits until the ack rule covers it.
    ///
    /// # Errors
    /// As [`Volume::write`]; [`Error::CommitTimeout`], [`Error::Unconfirmed`], [`Error::Deposed`].
    pub fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<Lsn, Error> {
        let write = |volume: &Volume| volume.write(offset, bytes, durability);
        self.append(durability, write)
    }

    /// Makes bytes read zero, as [`Volume::write_zeroes`].
    ///
    /// # Errors
    /// As [`Primary::write`].
    pub fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        let write = |volume: &Volume| volume.write_zeroes(offset, length, no_hole, durability);
        self.append(durability, write)
    }

    /// Trims as [`Volume::trim`].
    ///
    /// # Errors
    /// As [`Primary::write`].
    pub fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<Lsn, Error> {
        let write = |volume: &Volume| volume.trim(offset, length, durability);
        self.append(durability, write)
    }

    /// Returns when everything acknowledged before the call is committed under the ack rule.
    ///
    /// # Errors
    /// As [`Primary::write`].
    pub fn flush(&self) -> Result<Lsn, Error> {
        let durable = self.shared.in_foreground(|| self.shared.volume.flush())?;
        self.wait_committed(durable, self.shared.options.commit_timeout)
    }

    fn append(
        &self,
        durability: Durability,
        write: impl FnOnce(&Volume) -> Result<Lsn, seawall_snapshot::Error>,
    ) -> Result<Lsn, Error> {
        let lsn = {
            let _appending = self.admit()?;
            match durability {
                Durability::Volatile => write(&self.shared.volume)?,
                Durability::Durable => {
                    let volume = &self.shared.volume;
                    self.shared.in_foreground(|| write(volume))?
                }
            }
        };
        match durability {
            Durability::Volatile => Ok(lsn),
            Durability::Durable => {
                self.wait_committed(lsn, self.shared.options.commit_timeout)?;
                Ok(lsn)
            }
        }
    }

    /// Nothing new is appended before the ack rule covers what we reopened with (D1), nor after
    /// another primary took over (D5).
    fn admit(&self) -> Result<RwLockReadGuard<'_, ()>, Error> {
        let timeout = self.shared.options.commit_timeout;
        if !self.confirmed() {
            let confirmed = self.shared.wait(timeout, |core| match core.deposed {
                Some(_) => Some(()),
                None => self.confirmed().then_some(()),
            });
            confirmed.ok_or_else(|| Error::Unconfirmed {
                durable: self.shared.volume.log().frontiers().durable,
                timeout,
            })?;
        }
        self.check_deposed()?;
        let appends = self.shared.appends.read();
        Ok(appends.unwrap_or_else(PoisonError::into_inner))
    }

    fn check_deposed(&self) -> Result<(), Error> {
        if !self.shared.was_deposed() {
            return Ok(());
        }
        let core = self.shared.core();
        match core.deposed {
            None => Ok(()),
            Some(promised) => Err(Error::Deposed {
                ours: core.orchestrator.registry().epoch(),
                promised,
            }),
        }
    }

    /// Waits until committed reaches `lsn`.
    ///
    /// # Errors
    /// [`Error::CommitTimeout`], [`Error::Deposed`].
    pub fn wait_committed(&self, lsn: Lsn, timeout: Duration) -> Result<Lsn, Error> {
        let committed = self.shared.synced()?;
        if committed >= lsn {
            return Ok(committed);
        }
        let shared = &self.shared;
        let waited = shared.wait(timeout, |core| {
            let committed = core.orchestrator.ledger().committed();
            let over = core.deposed.is_some() || shared.stopping();
            (committed >= lsn || over).then_some(committed)
        });
        match waited {
            Some(committed) if committed >= lsn => Ok(committed),
            Some(_) if shared.stopping() => Err(Error::ShutDown),
            Some(_) => Err(self.check_deposed().expect_err("deposed ends the wait")),
            None => {
                // The waiter fails alone; a late acknowledgement still counts (D6), and one that
                // came before we tell anybody is not late (A207).
                let mut core = shared.core();
                let committed = core.orchestrator.ledger().committed();
                if committed >= lsn {
                    return Ok(committed);
                }
                core.orchestrator.barrier_expired(lsn, shared.now());
                Err(Error::CommitTimeout {
                    lsn,
                    committed,
                    timeout,
                })
            }
        }
    }

    /// Waits until replica `id` is in sync, its recovery is on record, and it has acknowledged
    /// `lsn`; `false` when time ran out.
    #[must_use]
    pub fn wait_in_sync(&self, id: &str, lsn: Lsn, timeout: Duration) -> bool {
        let id = ReplicaId::new(id);
        let reached = self.shared.wait(timeout, |core| {
            let sender = core.orchestrator.registry().sender(&id).ok()?;
            let stream = sender.view().stream?;
            let live = core.extras.get(&id)?.live == Some(stream.id);
            (live && stream.acknowledged >= lsn).then_some(())
        });
        reached.is_some()
    }

    /// Whether the ack rule has covered the head found at open (D1).
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.shared.is_confirmed()
    }

    /// One consistent reading of everything.
    #[must_use]
    pub fn status(&self) -> Status {
        status(&self.shared)
    }

    /// Every recovery that ended, oldest first, earlier runs included (D8).
    #[must_use]
    pub fn recoveries(&self) -> Vec<RecoveryRecord> {
        self.shared.core().state.recoveries().to_vec()
    }

    /// The newest events, oldest first (1.17).
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        let core = self.shared.core();
        core.orchestrator.log().all().cloned().collect()
    }

    /// Stops: streams end, threads are joined. The volume stays open.
    pub fn shutdown(self) {
        drop(self);
    }
}

impl Drop for Primary {
    fn drop(&mut self) {
        self.shared.stop();
        drop(self.queries.take());
        self.threads.join();
        drop(self.ctl.take());
        let now = self.shared.now();
        self.shared.core().orchestrator.stop_all(now);
    }
}

/// Committed follows our own sync also while nobody flushes.
fn follow_own_sync(shared: &Shared) {
    let patience = u64::try_from(LOOK.as_nanos()).expect("a short time");
    let mut durable = shared.volume.log().frontiers().durable;
    while !shared.stopping() {
        durable = shared.volume.log().wait_durable_beyond(durable, patience);
        if let Err(error) = shared.synced() {
            return tracing::error!(%error, "committed stands still");
        }
        if shared.volume.log().check_writable().is_err() {
            // A log that has stopped reports no progress: do not spin on it.
            shared.pause(LOOK);
        }
    }
}

fn answer(shared: &Arc<Shared>) -> Answer {
    let weak = Arc::downgrade(shared);
    Arc::new(move || {
        let shared = weak.upgrade();
        shared.map_or_else(String::new, |shared| status(&shared).to_json())
    })
}

/// Without the socket, for a path that is too long for one, the tools read the files (D24).
fn serve_status(shared: &Arc<Shared>) -> Option<CtlServer> {
    serve_ctl(shared.volume.dir(), answer(shared))
        .inspect_err(|error| tracing::warn!(%error, "no ctl socket"))
        .ok()
}

fn status(shared: &Shared) -> Status {
    let core = shared.core();
    let mut status = Status::of_volume(&shared.volume);
    status.live = true;
    status.committed = core.orchestrator.ledger().committed().get();
    status.confirmed = shared.is_confirmed();
    status.ack = Some(shared.options.ack.to_string());
    let senders = core.orchestrator.registry().status().senders;
    status.replicas = senders
        .into_iter()
        .filter_map(|sender| {
            let extra = core.extras.get(&sender.replica)?;
            let remembered = core.state.remembered(sender.replica.as_str());
            let mut replica = replica_status(extra, sender);
            replica.decision = remembered.decision;
            Some(replica)
        })
        .collect();
    status.throttle = Some(ThrottleStatus::of(&shared.throttle_view()));
    status.recoveries = core.state.recoveries().to_vec();
    status
}

fn replica_status(extra: &Extra, sender: SenderView) -> ReplicaStatus {
    let session = sender.session.as_ref().map(|session| session.id());
    let stream = sender.stream.as_ref();
    let shipped = match sender.session.as_ref().map(|session| session.phase()) {
        Some(Phase::CatchUp { sent_to, .. }) => Some(*sent_to),
        _ => stream.map(|stream| stream.shipped),
    };
    let acknowledged = stream.map(|stream| stream.acknowledged);
    ReplicaStatus {
        id: sender.replica.to_string(),
        address: sender.endpoint.data.clone(),
        state: sender.state.name().into(),
        session: session
            .or(stream.map(|stream| stream.id))
            .map(|id| id.to_string()),
        lsn: acknowledged.or(extra.durable).map(Lsn::get),
        shipped: shipped.map(Lsn::get),
        needs_rebuild: sender.needs_rebuild,
        cause: extra.cause.clone(),
        misassigned: extra.misassigned,
        chunks: extra.chunks,
        progress: extra.progress.as_ref().map(ProgressStatus::of),
        decision: None,
    }
}
