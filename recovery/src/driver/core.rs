//! What the threads of a primary share: the deciding half behind one lock, and the volume.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_snapshot::Volume;
use seawall_wal::sync::{Condvar, Mutex, MutexGuard, RwLock};
use seawall_wal::{Clock, Epoch, Lsn};

use super::primary::PrimaryOptions;
use super::storage::VolumePin;
use crate::error::Error;
use crate::event::{Event, What};
use crate::failure::Failure;
use crate::history::Standing;
use crate::id::{ReplicaId, SessionId, Tick};
use crate::orchestrator::Orchestrator;
use crate::progress::Progress;
use crate::sender::Endpoint;
use crate::state::{Entry, StateLog};
use crate::status::{DecisionRecord, RecoveryRecord};
use crate::throttle::{Throttle, ThrottleView};

/// Nanoseconds of one tick.
const TICK_NS: u64 = 1_000_000;

/// What is known of one replica beside its sender.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Which thread keeps it level: a replica that was removed and added again has another.
    pub(super) keeper: u64,
    /// Why the last session, stream or dial ended.
    pub(super) cause: Option<String>,
    /// It refused because it is not the replica that it was assigned as.
    pub(super) misassigned: bool,
    /// Chunks done and to do.
    pub(super) chunks: Option<(u64, u64)>,
    /// How far the recovery under way is.
    pub(super) progress: Option<Progress>,
    /// Last durable LSN that it reported.
    pub(super) durable: Option<Lsn>,
    /// A full base was asked for and has not completed yet (D11).
    pub(super) full_asked: bool,
    /// Giving back what its log lost has failed: a base is what is left.
    pub(super) unhealed: bool,
    /// The stream that the replica was told about, once its recovery is on record.
    pub(super) live: Option<SessionId>,
}

/// Whom an attempt is for, as it was assigned when the attempt began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aim {
    pub(super) replica: ReplicaId,
    pub(super) keeper: u64,
    pub(super) endpoint: Endpoint,
    pub(super) epoch: Epoch,
    /// A session that the assignment asked for and that nobody has begun yet.
    pub(super) awaiting: Option<SessionId>,
}

/// The deciding half, with what has to be durable of it.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) orchestrator: Orchestrator<VolumePin>,
    pub(super) state: StateLog,
    pub(super) extras: BTreeMap<ReplicaId, Extra>,
    pub(super) deposed: Option<Epoch>,
    /// Recoveries that send, and those that wait for one of them to end, oldest first.
    pub(super) sending: u64,
    pub(super) queue: VecDeque<SessionId>,
    pub(super) keepers: u64,
    seen: u64,
}

impl Core {
    pub(super) fn new(orchestrator: Orchestrator<VolumePin>, state: StateLog) -> Core {
        let seen = orchestrator.log().last_seq();
        Core {
            orchestrator,
            state,
            extras: BTreeMap::new(),
            deposed: None,
            sending: 0,
            queue: VecDeque::new(),
            keepers: 0,
            seen,
        }
    }

    /// Makes durable what the newest events say and a restart must not forget (D8). What could not
    /// be written is tried again with the next step.
    fn keep(&mut self, unix_ns: u64) -> Result<(), Error> {
        let fresh = self.orchestrator.log().after(self.seen);
        let fresh: Vec<(u64, Entry)> = fresh
            .filter_map(|event| Some((event.seq, entry(event, unix_ns)?)))
            .collect();
        for (seq, entry) in fresh {
            if !self.state.repeats(&entry) {
                self.state.append(entry)?;
            }
            self.seen = seq;
        }
        self.seen = self.orchestrator.log().last_seq();
        Ok(())
    }

    /// What is known of a replica, if this thread still keeps it level.
    pub(super) fn kept(&mut self, replica: &ReplicaId, keeper: u64) -> Option<&mut Extra> {
        let extra = self.extras.get_mut(replica);
        extra.filter(|extra| extra.keeper == keeper)
    }

    /// Whether somebody asked for the full base, although less may do.
    pub(super) fn is_full_asked(&mut self, replica: &ReplicaId, keeper: u64) -> bool {
        self.kept(replica, keeper)
            .is_some_and(|extra| extra.full_asked)
    }

    /// What the next attempt of this thread is about; `None` when its replica was removed.
    pub(super) fn aim(&mut self, replica: &ReplicaId, keeper: u64) -> Option<Aim> {
        self.kept(replica, keeper)?;
        let sender = self.orchestrator.registry().sender(replica).ok()?;
        Some(Aim {
            replica: replica.clone(),
            keeper,
            endpoint: sender.endpoint().clone(),
            epoch: sender.epoch(),
            awaiting: sender.session_id(),
        })
    }

    /// Whether no assignment has come between: the replica is still where and what `aim` says, and
    /// nobody but `session` works on it.
    pub(super) fn stands(&mut self, aim: &Aim, session: Option<SessionId>) -> bool {
        if self.kept(&aim.replica, aim.keeper).is_none() {
            return false;
        }
        let sender = self.orchestrator.registry().sender(&aim.replica);
        sender.is_ok_and(|sender| {
            let current = sender.session_id().or(sender.stream_id());
            *sender.endpoint() == aim.endpoint
                && sender.epoch() == aim.epoch
                && (current.is_none() || current == session)
        })
    }
}

/// What of an event goes to the state log.
fn entry(event: &Event, unix_ns: u64) -> Option<Entry> {
    let replica = event.replica.as_ref()?.to_string();
    let session = event.session.map(|session| session.to_string());
    let decision = |outcome: &str, proof: String| Entry::Decision {
        replica: replica.clone(),
        made: DecisionRecord {
            session: session.clone().unwrap_or_default(),
            unix_ns,
            outcome: outcome.into(),
            proof,
        },
    };
    match &event.what {
        What::Marked(cause) => Some(Entry::Mark {
            replica,
            set: true,
            cause: cause.name().into(),
        }),
        What::MarkCleared => Some(Entry::Mark {
            replica,
            set: false,
            cause: String::new(),
        }),
        What::AcknowledgementsVoided { node } => Some(Entry::Sender {
            replica,
            epoch: event.epoch.get(),
            node: Some(node.to_string()),
        }),
        What::Handshake { outcome, proof } => Some(decision(outcome, proof.to_string())),
        What::PlanRebuildSnapshotTail(source) | What::PlanRebuildFullBase(source) => {
            Some(decision("rebuild", source.to_string()))
        }
        What::HandshakeFailed(Failure::HandshakeRefused(proof)) => {
            Some(decision("refused", proof.to_string()))
        }
        _ => None,
    }
}

/// Everything the threads of one primary share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) volume: Arc<Volume>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: PrimaryOptions,
    core: Mutex<Core>,
    /// Anything in the core changed, or the primary stops.
    pub(super) changed: Condvar,
    /// Read by appends, written while records that only a replica holds are fetched (D1).
    pub(super) appends: RwLock<()>,
    throttle: Mutex<Throttle>,
    confirmed: AtomicBool,
    deposed: AtomicBool,
    stopping: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        volume: Arc<Volume>,
        clock: Arc<dyn Clock>,
        options: PrimaryOptions,
        core: Core,
    ) -> Shared {
        let throttle = Throttle::new(options.throttle, clock.monotonic_ns());
        Shared {
            volume,
            clock,
            options,
            core: Mutex::new(core),
            changed: Condvar::new(),
            appends: RwLock::new(()),
            throttle: Mutex::new(throttle),
            confirmed: AtomicBool::new(false),
            deposed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        }
    }

    pub(super) fn core(&self) -> MutexGuard<'_, Core> {
        // OK because the deciding half changes nothing before its checks have passed.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Tick {
        Tick(self.clock.monotonic_ns() / TICK_NS)
    }

    /// Runs foreground work that ends durable on our own disk, and tells the throttle how long it
    /// took.
    pub(super) fn in_foreground<R>(&self, work: impl FnOnce() -> R) -> R {
        let begun = self.clock.monotonic_ns();
        let result = work();
        let now = self.clock.monotonic_ns();
        self.throttle().wrote(now.saturating_sub(begun), now);
        result
    }

    /// How long `bytes` of a recovery have to wait before they are read and sent.
    pub(super) fn turn(&self, bytes: u64) -> Duration {
        Duration::from_nanos(self.throttle().send(bytes, self.clock.monotonic_ns()))
    }

    pub(super) fn throttle_view(&self) -> ThrottleView {
        let mut throttle = self.throttle();
        throttle.advance(self.clock.monotonic_ns());
        throttle.view()
    }

    fn throttle(&self) -> MutexGuard<'_, Throttle> {
        // OK because it holds numbers, and any of them will do.
        self.throttle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a peer that is alive may owe us something.
    pub(super) fn stall_ticks(&self) -> u64 {
        u64::try_from(self.options.stall_timeout.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether the ack rule has covered what we reopened with (D1). It never turns back.
    pub(super) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Whether a replica has promised a newer epoch (D5). It never turns back.
    pub(super) fn was_deposed(&self) -> bool {
        self.deposed.load(Ordering::Acquire)
    }

    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Takes one step of the deciding half; what follows from it is durable when this returns.
    pub(super) fn step<R>(
        &self,
        take: impl FnOnce(&mut Core, Tick) -> Result<R, Failure>,
    ) -> Result<R, Error> {
        self.change(|core, now| Ok(take(core, now)?))
    }

    /// As [`Shared::step`], for a step that the disk may fail as well.
    pub(super) fn change<R>(
        &self,
        take: impl FnOnce(&mut Core, Tick) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (taken, kept) = self.change_first(take)?;
        kept.map(|()| taken)
    }

    /// As [`Shared::change`], for a step that has to be followed up although what follows from it
    /// could not be made durable: gives what was taken, and beside it whether it was kept. An error
    /// of its own means that nothing was taken.
    pub(super) fn change_first<R>(
        &self,
        take: impl FnOnce(&mut Core, Tick) -> Result<R, Error>,
    ) -> Result<(R, Result<(), Error>), Error> {
        let mut core = self.core();
        let result = take(&mut core, self.now());
        let kept = core.keep(self.clock.unix_ns());
        let committed = self.advance(&mut core);
        drop(core);
        self.changed.notify_all();
        let kept = kept.and(committed.map(drop));
        match result {
            Ok(taken) => Ok((taken, kept)),
            Err(refused) => Err(kept.err().unwrap_or(refused)),
        }
    }

    /// Moves committed as far as our own sync and the ack rule allow.
    pub(super) fn advance(&self, core: &mut Core) -> Result<Lsn, Error> {
        let log = self.volume.log();
        // D14: above damage the durable frontier is a fact, but not one to build on.
        let durable = log.frontiers().durable.min(log.applied());
        core.orchestrator.synced(durable, self.now());
        let committed = core.orchestrator.ledger().committed();
        if committed > log.frontiers().committed {
            log.commit(committed)?;
        }
        if core.orchestrator.ledger().standing() == Standing::Confirmed {
            self.confirmed.store(true, Ordering::Release);
        }
        self.deposed
            .store(core.deposed.is_some(), Ordering::Release);
        Ok(committed)
    }

    /// Our own log moved: committed may follow.
    pub(super) fn synced(&self) -> Result<Lsn, Error> {
        let mut core = self.core();
        let before = core.orchestrator.ledger().committed();
        let committed = self.advance(&mut core)?;
        drop(core);
        if committed > before {
            self.changed.notify_all();
        }
        Ok(committed)
    }

    /// Waits under the core's lock until `ready` gives something; `None` when time ran out.
    pub(super) fn wait<R>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut(&mut Core) -> Option<R>,
    ) -> Option<R> {
        let start = self.clock.monotonic_ns();
        let mut core = self.core();
        loop {
            if let Some(result) = ready(&mut core) {
                return Some(result);
            }
            let spent = Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(start));
            let left = timeout.checked_sub(spent).filter(|left| !left.is_zero())?;
            let waited = self.changed.wait_timeout(core, left);
            core = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for `pause`, or less when the primary stops or an assignment changes the aim.
    pub(super) fn pause_at(&self, aim: &Aim, pause: Duration) {
        let _ = self.wait(pause, |core| {
            let over = self.stopping() || !core.stands(aim, aim.awaiting);
            over.then_some(())
        });
    }

    /// Waits for `pause`, or less when the primary stops.
    pub(super) fn pause(&self, pause: Duration) {
        let _ = self.wait(pause, |_| self.stopping().then_some(()));
    }

    /// Tells every thread to end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        // The lock orders the store before a waiter's last look.
        drop(self.core());
        self.changed.notify_all();
    }

    /// Remembers a recovery that ended.
    pub(super) fn record(&self, record: RecoveryRecord) -> Result<(), Error> {
        let kept = self.core().state.append(Entry::Recovery(Box::new(record)));
        self.changed.notify_all();
        kept
    }

    /// Notes something about a replica; nothing once another thread keeps it level, or none.
    pub(super) fn set_extra(&self, aim: &Aim, set: impl FnOnce(&mut Extra)) {
        if let Some(extra) = self.core().kept(&aim.replica, aim.keeper) {
            set(extra);
        }
        self.changed.notify_all();
    }
}
