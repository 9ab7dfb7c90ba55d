//! One attempt to bring one replica level: dial, shake hands, carry out the plan, stream.

use std::mem;
use std::time::Duration;

use seawall_snapshot::{Error as VolumeError, StateView, Volume};
use seawall_wal::sync::beside;
use seawall_wal::sync::mpsc::{Receiver, sync_channel};
use seawall_wal::{Lsn, LsnRange};

use super::contained;
use super::conversation::{Conversation, INBOX_MAX};
use super::core::{Aim, Core, Shared};
use super::ending::{conclude, conclude_current};
use super::storage::{VolumePin, VolumeStorage};
use super::tally::Tally;
use crate::budget::Peer;
use crate::error::Error;
use crate::failure::Failure;
use crate::history::{IncompleteBase, ReplicaFacts, Standing};
use crate::id::{ReplicaId, SessionId, Tick};
use crate::message::{Body, Fence, Hello, HelloReply, Refusal};
use crate::orchestrator::Call;
use crate::outcome::{Asked, Verdict};
use crate::plan::{Plan, Work};
use crate::session::{Kind, SessionOptions};
use crate::state::Entry;
use crate::transport;

/// Time to set a connection up.
const DIAL: Duration = Duration::from_secs(3);
/// First and longest pause between two attempts (D7).
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A replica that writes or reads a whole base is not stalled at this rate or above.
const BASE_BYTES_PER_S_MIN: u64 = 4 << 20;
/// How often the speaker looks whether it should stop.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// What follows an attempt.
enum Next {
    /// The primary stops, or the replica was removed.
    Stop,
    /// Another attempt: at once, where the outcome was needs rebuild.
    Again,
}

/// Keeps `replica` level until the primary stops or an assignment removes it: one attempt after
/// the other.
pub(super) fn keep_level(shared: &Shared, replica: &ReplicaId, keeper: u64) {
    let mut pause = PAUSE_MIN;
    while !shared.stopping() {
        match contained(|| try_once(shared, replica, keeper, &mut pause)) {
            Ok(Next::Stop) => return,
            Ok(Next::Again) => {}
            Err(error) => tracing::error!(%replica, %error, "between two attempts"),
        }
    }
}

/// One attempt, and the pause behind it.
fn try_once(
    shared: &Shared,
    replica: &ReplicaId,
    keeper: u64,
    pause: &mut Duration,
) -> Result<Next, Error> {
    let Some(aim) = shared.core().aim(replica, keeper) else {
        return Ok(Next::Stop);
    };
    let error = match contained(|| attempt(shared, &aim)) {
        Ok(Next::Stop) => return Ok(Next::Stop),
        Ok(Next::Again) => {
            *pause = PAUSE_MIN;
            return Ok(Next::Again);
        }
        Err(error) => error,
    };
    match &error {
        Error::Panicked { .. } => {
            tracing::error!(%replica, %error, "recovery attempt ended");
            conclude_current(shared, replica, &error);
        }
        error => tracing::debug!(%replica, %error, "recovery attempt ended"),
    }
    let streamed = shared.step(|core, now| {
        let Some(extra) = core.kept(replica, keeper) else {
            return Ok(false);
        };
        extra.cause = Some(error.to_string());
        extra.misassigned = error.is_misassigned();
        extra.chunks = None;
        extra.progress = None;
        let streamed = extra.live.take().is_some();
        core.orchestrator.asked(replica, now);
        Ok(streamed)
    });
    if streamed.unwrap_or(false) {
        *pause = PAUSE_MIN;
    }
    shared.pause_at(&aim, *pause);
    *pause = (*pause * 2).min(PAUSE_MAX);
    Ok(Next::Again)
}

/// The session of one connection, and what its speaker needs.
pub(super) struct Attempt<'a> {
    pub(super) shared: &'a Shared,
    pub(super) aim: &'a Aim,
    pub(super) replica: &'a ReplicaId,
    pub(super) session: SessionId,
    pub(super) kind: Kind,
    pub(super) talk: &'a Conversation,
    pub(super) inbox: Receiver<Body>,
    pub(super) started: Tick,
}

/// The state at the target of a rebuild, or why it cannot be read.
pub(super) type TargetView = Result<StateView, VolumeError>;

/// A plan, and what was taken with it.
struct Planned {
    plan: Plan<VolumePin>,
    target: Option<TargetView>,
}

fn attempt(shared: &Shared, aim: &Aim) -> Result<Next, Error> {
    let replica = &aim.replica;
    let kind = next_kind(shared, aim)?;
    let link = transport::dial(&aim.endpoint.data, &shared.options.security, DIAL)?;
    let session = begin_session(shared, aim, kind)?;
    let fence = Fence {
        volume: Some(shared.volume.meta().get().volume),
        epoch: Some(aim.epoch),
        session: Some(session),
    };
    let talk = Conversation::new(link, fence, &shared.clock);
    let (to_speaker, inbox) = sync_channel(INBOX_MAX);
    let attempt = Attempt {
        shared,
        aim,
        replica,
        session,
        kind,
        talk: &talk,
        inbox,
        started: shared.now(),
    };
    let reassigned = || !shared.core().stands(aim, Some(session));
    let take = |body| take_ack(shared, aim, session, body);
    let listener = || talk.listen(&to_speaker, take, reassigned);
    let result = contained(|| {
        beside("listener", listener, || {
            let result = contained(|| attempt.speak());
            talk.close();
            // The listener may wait for room in the inbox.
            drop(attempt.inbox);
            result
        })
    });
    if let Err(error) = &result {
        conclude(shared, replica, session, error);
    }
    result
}

/// Begins a session; one that began and could not be remembered (D8) is ended again, or it would
/// stand in the way of every later one.
fn begin_session(shared: &Shared, aim: &Aim, kind: Kind) -> Result<SessionId, Error> {
    let (session, kept) = shared.change_first(|core, now| begin(shared, core, aim, kind, now))?;
    if let Err(error) = &kept {
        conclude(shared, &aim.replica, session, error);
    }
    kept.map(|()| session)
}

/// Begins the session that an assignment asked for, or one of our own.
fn begin(
    shared: &Shared,
    core: &mut Core,
    aim: &Aim,
    kind: Kind,
    now: Tick,
) -> Result<SessionId, Error> {
    let replica = &aim.replica;
    if !core.stands(aim, aim.awaiting) {
        let peer = aim.endpoint.data.clone();
        return Err(Error::Reassigned { peer });
    }
    let orchestrator = &mut core.orchestrator;
    let session = match aim.awaiting {
        Some(session) => session,
        None => {
            let budget = shared.options.budget;
            orchestrator.attach(replica, SessionOptions { kind, budget }, now)?
        }
    };
    orchestrator.connect(Call {
        now,
        replica,
        session,
    })?;
    Ok(session)
}

/// Which kind of session comes next.
fn next_kind(shared: &Shared, aim: &Aim) -> Result<Kind, Error> {
    let replica = &aim.replica;
    let mut core = shared.core();
    if let Some(promised) = core.deposed {
        let ours = core.orchestrator.registry().epoch();
        return Err(Error::Deposed { ours, promised });
    }
    let asked = core.is_full_asked(replica, aim.keeper);
    let sender = core.orchestrator.registry().sender(replica)?;
    if let Some(session) = aim.awaiting {
        return Ok(sender.authority(session)?);
    }
    match sender.needs_rebuild() || asked {
        false => Ok(Kind::CatchUp),
        true if asked || shared.options.auto_rebuild => Ok(Kind::Rebuild),
        true => Err(Failure::NeedsRebuild {
            replica: replica.clone(),
        }
        .into()),
    }
}

/// Acknowledgements of a stream are counted by the listener, so that nobody waits for the speaker.
fn take_ack(shared: &Shared, aim: &Aim, session: SessionId, body: Body) -> Option<Body> {
    let replica = &aim.replica;
    let Body::Ack { durable } = body else {
        return Some(body);
    };
    let counted = shared.step(|core, now| {
        if let Some(extra) = core.kept(replica, aim.keeper) {
            extra.durable = Some(durable);
        }
        let call = Call {
            now,
            replica,
            session,
        };
        let sender = core.orchestrator.registry().sender(replica)?;
        let stream = match sender.stream_id() == Some(session) {
            true => sender.view().stream,
            false => None,
        };
        let counts = stream.is_some_and(|stream| durable <= stream.shipped);
        if counts {
            core.orchestrator.acknowledge(call, durable)?;
        }
        Ok(counts)
    });
    // Anything else is for the speaker: progress of a session, or the error of a stream.
    (!counted.unwrap_or(false)).then_some(body)
}

impl Attempt<'_> {
    pub(super) fn call(&self, now: Tick) -> Call<'_> {
        Call {
            now,
            replica: self.replica,
            session: self.session,
        }
    }

    /// Name under which pins are listed.
    pub(super) fn owner(&self) -> String {
        format!("session {} of {}", self.session, self.replica)
    }

    fn speak(&self) -> Result<Next, Error> {
        let (facts, lost) = self.shake_hands()?;
        let facts = self.heal(facts, &lost)?;
        let planned = loop {
            match self.plan(&facts) {
                Ok(planned) => break planned,
                Err(Error::Failure(Failure::NotYet(decision))) => match decision.verdict {
                    Verdict::NotYet { fetch: Some(range) } => self.fetch(range)?,
                    _ => return Err(Failure::NotYet(decision).into()),
                },
                // The mark of the replica is known here now; the next session is a rebuild.
                Err(Error::Failure(Failure::NeedsRebuild { .. })) => return self.again(),
                Err(error) => return Err(error),
            }
        };
        self.remember_node(&facts)?;
        let Planned { plan, target } = planned;
        let mut tally = Tally::begin(self, &plan);
        let result = self.carry_out(&plan, target, &facts, &mut tally);
        // What the stream did not take over is released before anything else is done.
        drop(plan);
        match result {
            Ok(Some(at)) => {
                tally.finish(self, "in sync")?;
                self.stream(at).map(|()| Next::Stop)
            }
            Ok(None) => {
                tally.finish(self, "needs rebuild")?;
                self.again()
            }
            Err(error) => {
                tally.finish(self, &error.to_string())?;
                Err(error)
            }
        }
    }

    /// Which life of its directory answered us (D8).
    fn remember_node(&self, facts: &ReplicaFacts) -> Result<(), Error> {
        let mut core = self.shared.core();
        if core.state.remembered(self.replica.as_str()).node == Some(facts.node) {
            return Ok(());
        }
        let epoch = core.orchestrator.registry().epoch();
        core.state.append(Entry::Sender {
            replica: self.replica.to_string(),
            epoch: epoch.get(),
            node: Some(facts.node.to_string()),
        })
    }

    /// A rebuild follows at once, where the policy allows it.
    fn again(&self) -> Result<Next, Error> {
        self.mark_replica(true)?;
        match self.shared.options.auto_rebuild {
            true => Ok(Next::Again),
            false => Err(Failure::NeedsRebuild {
                replica: self.replica.clone(),
            }
            .into()),
        }
    }

    fn shake_hands(&self) -> Result<(ReplicaFacts, Vec<LsnRange>), Error> {
        self.talk.send(Body::Hello(self.hello()))?;
        match self.due("HelloReply")? {
            Body::HelloReply(reply) => self.take_reply(reply),
            body => Err(self.talk.unexpected(&body, "HelloReply")),
        }
    }

    /// What the replica holds, and which records its log lost (D14).
    pub(super) fn take_reply(
        &self,
        mut reply: HelloReply,
    ) -> Result<(ReplicaFacts, Vec<LsnRange>), Error> {
        if reply.replica != self.replica.as_str() {
            let id = reply.replica;
            return Err(Error::Refused {
                peer: self.talk.peer(),
                reason: Refusal::OtherId { id },
            });
        }
        let durable = Some(reply.durable);
        let lost = mem::take(&mut reply.lost);
        self.shared.set_extra(self.aim, |extra| {
            extra.durable = durable;
            extra.unhealed &= !lost.is_empty();
        });
        Ok((facts(reply), lost))
    }

    fn hello(&self) -> Hello {
        let counted = {
            let core = self.shared.core();
            let ledger = core.orchestrator.ledger();
            (ledger.committed(), ledger.standing())
        };
        hello_of(&self.shared.volume, self.replica.as_str(), counted)
    }

    /// Plan and pins in one critical section (1.20).
    fn plan(&self, facts: &ReplicaFacts) -> Result<Planned, Error> {
        if self.kind == Kind::Rebuild {
            self.settle_base();
        }
        let owner = self.owner();
        let mut storage = VolumeStorage {
            volume: &self.shared.volume,
            owner: &owner,
        };
        self.shared.step(|core, now| {
            let call = self.call(now);
            if self.kind != Kind::Rebuild {
                let plan = core.orchestrator.plan(call, facts, &mut storage)?;
                return Ok(Planned { plan, target: None });
            }
            let asked = match core.is_full_asked(self.replica, self.aim.keeper) {
                true => Asked::FullBase,
                false => Asked::Any,
            };
            let plan = core
                .orchestrator
                .plan_rebuild(call, facts, asked, &mut storage)?;
            // Committed stands still under this lock, so no checkpoint passes the target yet.
            let target = self.target_view(&plan);
            Ok(Planned { plan, target })
        })
    }

    /// The state that both sides have to agree on at the target (D18), where the base alone does
    /// not give it.
    fn target_view(&self, plan: &Plan<VolumePin>) -> Option<TargetView> {
        let Work::Rebuild { source } = plan.work else {
            return None;
        };
        let base = source.snapshot().filter(|base| *base != source.target);
        base.map(|_| {
            let volume = &self.shared.volume;
            volume.state_at(source.target, &self.owner())
        })
    }

    /// Fetches records that only this replica holds, before anything new is appended (D1).
    fn fetch(&self, range: LsnRange) -> Result<(), Error> {
        let appends = self.shared.appends.write();
        let _no_append = appends.unwrap_or_else(std::sync::PoisonError::into_inner);
        let log = self.shared.volume.log();
        let unconfirmed =
            self.shared.core().orchestrator.ledger().standing() == Standing::Unconfirmed;
        if !unconfirmed || log.frontiers().head != range.after {
            // Decided again from what holds now.
            return Ok(());
        }
        let ours = log.lineage().through(range.after).last();
        self.talk.send(Body::Fetch(range))?;
        let mut head = range.after;
        while head < range.through {
            let records = match self.due("Records")? {
                Body::Records { records, .. } => records,
                body => return Err(self.talk.unexpected(&body, "Records")),
            };
            let fits = records.iter().all(|record| {
                let header = record.header();
                range.contains(header.lsn)
                    && ours.is_some_and(|ours| {
                        (ours.epoch, ours.incarnation) == (header.epoch, header.incarnation)
                    })
            });
            if !fits {
                return Err(Error::Unexpected {
                    peer: self.talk.peer(),
                    got: "records of another history",
                    expected: "records under our last lineage entry",
                });
            }
            self.shared.volume.receive(records)?.wait()?;
            head = log.frontiers().head;
        }
        log.start_incarnation(self.shared.volume.meta().get().epoch)?;
        self.shared.step(|core, now| {
            core.orchestrator.fetched(self.call(now), range);
            Ok(())
        })
    }

    fn carry_out(
        &self,
        plan: &Plan<VolumePin>,
        target: Option<TargetView>,
        facts: &ReplicaFacts,
        tally: &mut Tally,
    ) -> Result<Option<Lsn>, Error> {
        let _sending = match plan.work {
            Work::CatchUp { .. } | Work::Rebuild { .. } => Some(self.queue()?),
            Work::ZeroGap | Work::NeedsRebuild | Work::TruncateOnly { .. } => None,
        };
        match plan.work {
            Work::ZeroGap => Ok(Some(facts.durable)),
            Work::NeedsRebuild => Ok(None),
            Work::TruncateOnly { to } => {
                self.truncate(to)?;
                self.complete().map(Some)
            }
            Work::CatchUp { range, truncate_to } => {
                self.catch_up(range, truncate_to, tally).map(Some)
            }
            Work::Rebuild { source } => self.rebuild(plan, source, target, tally).map(Some),
        }
    }

    /// How long the peer may take for an answer while it says that it is alive. What it answers
    /// once it has read or written a whole base takes time in proportion to it.
    fn answer_within(&self, expected: &str) -> u64 {
        let whole = matches!(
            expected,
            "BaseReady" | "BaseInstalled" | "HelloReply after Heal"
        ) || expected.starts_with("DigestReply");
        let seconds = match whole {
            true => self.shared.volume.size() / BASE_BYTES_PER_S_MIN,
            false => 0,
        };
        self.shared.stall_ticks().saturating_add(seconds * 1000)
    }

    /// The next message for the speaker; silence ends the wait (D7), and so does a peer that is
    /// alive and does not answer.
    pub(super) fn due(&self, expected: &'static str) -> Result<Body, Error> {
        let (asked, allowed) = (self.shared.now(), self.answer_within(expected));
        loop {
            self.check_stall(expected, asked, allowed)?;
            if let Some(body) = self.talk.receive(&self.inbox, LOOK)? {
                return match body {
                    // A cumulative acknowledgement that crossed our question.
                    Body::Ack { .. } if expected != "Ack" => continue,
                    body => Ok(body),
                };
            }
            self.check_budget()?;
        }
    }

    /// Ends what has been due since `asked` for more than `allowed` ticks.
    pub(super) fn check_stall(
        &self,
        due: &'static str,
        asked: Tick,
        allowed: u64,
    ) -> Result<(), Error> {
        let waited = self.shared.now().since(asked);
        match waited > allowed {
            false => Ok(()),
            true => Err(self.talk.stalled(due, Duration::from_millis(waited))),
        }
    }

    /// Whether the session may go on: not while the primary stops, nor beyond its budget (H23).
    pub(super) fn check_budget(&self) -> Result<(), Error> {
        if self.shared.stopping() {
            return Err(Error::ShutDown);
        }
        self.shared.step(|core, now| {
            let orchestrator = &mut core.orchestrator;
            let sender = orchestrator.registry().sender(self.replica)?;
            // A session that is over, or a stream already, has nothing left to spend.
            match sender.session_id() == Some(self.session) {
                true => orchestrator.check_budget(self.call(now), Peer::Answers),
                false => Ok(()),
            }
        })
    }

    /// Sets or clears the replica's own copy of the needs-rebuild mark.
    pub(super) fn mark_replica(&self, needs_rebuild: bool) -> Result<(), Error> {
        self.talk.send(Body::Mark { needs_rebuild })?;
        match self.due("Marked")? {
            Body::Marked => Ok(()),
            body => Err(self.talk.unexpected(&body, "Marked")),
        }
    }
}

/// What the primary of `volume` says to the replica that it calls `id`, and what it counts as
/// committed.
pub(super) fn hello_of(volume: &Volume, id: &str, (committed, standing): (Lsn, Standing)) -> Hello {
    let log = volume.log();
    let frontiers = log.frontiers();
    Hello {
        replica: id.into(),
        geometry: volume.meta().get().geometry,
        committed,
        confirmed: standing == Standing::Confirmed,
        first_retained: log.first_retained(),
        durable: frontiers.durable,
        head: frontiers.head,
        lineage: log.lineage().through(frontiers.head),
    }
}

fn facts(reply: HelloReply) -> ReplicaFacts {
    let incomplete_base = reply
        .incomplete_base
        .map(|(session, base)| IncompleteBase { session, base });
    ReplicaFacts {
        volume: reply.volume,
        node: reply.node,
        durable: reply.durable,
        lineage: reply.lineage,
        checkpoint: reply.checkpoint,
        intent: reply.intent,
        committed: reply.committed,
        incomplete_base,
        needs_rebuild: reply.needs_rebuild,
    }
}
