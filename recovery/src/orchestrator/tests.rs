use super::*;
use crate::ack::AckRule;
use crate::budget::Budget;
use crate::history::{History, ReplicaFacts};
use crate::id::SessionIds;
use crate::outcome::{Asked, Reason, Recoverable, SourceKind, WhyFull};
use crate::plan::{PinPart, PinRefusal, PinRefused, Work};
use crate::sender::Endpoint;
use crate::session::{Kind, Phase, Step};
use crate::testing::{TestPin, TestStorage, endpoint, history, lsn, replica};
use seawall_wal::NodeIncarnation;

mod executor;
mod model;
mod planning;
mod refusals;
mod transitions;
mod ways_out;

const EPOCH: Epoch = Epoch::new(1);
const T0: Tick = Tick(0);
const EQUAL: Compared = Compared {
    expected: 7,
    found: 7,
};

fn id(name: &str) -> ReplicaId {
    ReplicaId::new(name)
}

fn listed(names: &[&str]) -> Vec<(ReplicaId, Endpoint)> {
    let named = names.iter();
    named.map(|name| (id(name), endpoint(name))).collect()
}

fn assignment(names: &[&str]) -> Assignment {
    Assignment::of(listed(names), EPOCH)
}

/// A confirmed primary under quorum that has committed 100, with these replicas assigned.
fn orchestrator(names: &[&str]) -> Orchestrator<TestPin> {
    let registry = Registry::new(EPOCH, SessionIds::new(1));
    let members = names.iter().copied().map(ReplicaId::new);
    let ledger = Ledger::confirmed(AckRule::Quorum, members, lsn(100));
    let mut orchestrator = Orchestrator::new(registry, ledger, EventLog::default());
    orchestrator.assign(&assignment(names), T0);
    orchestrator
}

/// The same after a restart: durable through `durable`, 90 known to be committed.
fn reopened(names: &[&str], durable: u64) -> Orchestrator<TestPin> {
    let registry = Registry::new(EPOCH, SessionIds::new(1));
    let members = names.iter().copied().map(ReplicaId::new);
    let ledger = Ledger::reopened(AckRule::Quorum, members, lsn(durable), lsn(90));
    let mut orchestrator = Orchestrator::new(registry, ledger, EventLog::default());
    orchestrator.assign(&assignment(names), T0);
    orchestrator
}

fn call(replica: &ReplicaId, session: SessionId) -> Call<'_> {
    Call {
        now: T0,
        replica,
        session,
    }
}

impl Orchestrator<TestPin> {
    /// A session of this kind that has connected.
    fn connected(&mut self, replica: &ReplicaId, kind: Kind) -> SessionId {
        self.connected_with(replica, SessionOptions::unbounded(kind))
    }

    fn connected_with(&mut self, replica: &ReplicaId, options: SessionOptions) -> SessionId {
        let session = self.attach(replica, options, T0).unwrap();
        self.connect(call(replica, session)).unwrap();
        session
    }

    fn names_of(&self, replica: &ReplicaId) -> Vec<&'static str> {
        let events = self.log.of(replica);
        events.map(|event| event.what.name()).collect()
    }

    fn state_of(&self, replica: &ReplicaId) -> State {
        self.registry.sender(replica).unwrap().state()
    }

    fn has(&self, replica: &ReplicaId, name: &str) -> bool {
        self.names_of(replica).contains(&name)
    }
}

/// Everything for one replica in one catch-up session.
struct One {
    orchestrator: Orchestrator<TestPin>,
    storage: TestStorage,
    replica: ReplicaId,
    session: SessionId,
}

fn one(kind: Kind, history: History) -> One {
    let replica = id("r1");
    let mut orchestrator = orchestrator(&["r1"]);
    let session = orchestrator.connected(&replica, kind);
    One {
        orchestrator,
        storage: TestStorage::new(history),
        replica,
        session,
    }
}

impl One {
    fn plan(&mut self, facts: &ReplicaFacts) -> Result<Plan<TestPin>, Failure> {
        let call = call(&self.replica, self.session);
        self.orchestrator.plan(call, facts, &mut self.storage)
    }

    fn plan_rebuild(&mut self, durable: u64, asked: Asked) -> Result<Plan<TestPin>, Failure> {
        let call = call(&self.replica, self.session);
        let facts = replica(durable);
        self.orchestrator
            .plan_rebuild(call, &facts, asked, &mut self.storage)
    }

    fn state(&self) -> State {
        self.orchestrator.state_of(&self.replica)
    }

    fn has(&self, name: &str) -> bool {
        self.orchestrator.has(&self.replica, name)
    }

    fn held(&self) -> usize {
        self.storage.count.held()
    }

    fn session_is_over(&self) -> bool {
        let sender = self.orchestrator.registry.sender(&self.replica);
        sender.unwrap().session_id().is_none()
    }
}

// A161, A174
#[test]
fn a_zero_gap_completes_by_itself() {
    let mut one = one(Kind::CatchUp, history(100).tail(30));
    let plan = one.plan(&replica(100)).unwrap();
    assert_eq!(plan.work, Work::ZeroGap);
    assert_eq!(plan.session, one.session, "H32: the session that ended");
    assert!(!plan.is_pinned());
    assert_eq!(one.state(), State::InSync);
    drop(plan);
    assert_eq!(one.held(), 1, "the stream holds its own pin");
    let names = one.orchestrator.names_of(&one.replica);
    assert_eq!(
        names,
        [
            "sender-added",
            "session-created",
            "connected",
            "handshake",
            "completed",
            "stream-started",
        ]
    );
}

// A165, A175
#[test]
fn a_replica_beyond_retention_escalates_and_is_rebuilt() {
    for base in [40, 50] {
        escalates_and_is_rebuilt(base);
    }
}

fn escalates_and_is_rebuilt(base: u64) {
    let mut one = one(Kind::CatchUp, history(100).tail(60).base(base));
    let plan = one.plan(&replica(30)).unwrap();
    assert_eq!(plan.work, Work::NeedsRebuild);
    assert!(!plan.is_pinned());
    assert_eq!(one.held(), 0);
    assert_eq!(one.state(), State::NeedsRebuild);
    assert!(one.has("escalated"));

    let rebuild = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
    let assigned = one.orchestrator.assign(&rebuild, T0);
    one.session = assigned.created[0].1;
    let replica_id = one.replica.clone();
    let at = call(&replica_id, one.session);
    one.orchestrator.connect(at).unwrap();
    let plan = one.plan_rebuild(30, Asked::Any).unwrap();
    let Work::Rebuild { source } = plan.work else {
        panic!("a rebuild: {:?}", plan.work);
    };
    assert_eq!(source.snapshot(), None);
    let orchestrator = &mut one.orchestrator;
    orchestrator.begin_transfer(at, Install::Beside).unwrap();
    orchestrator.base_verified(at, lsn(100), EQUAL).unwrap();
    orchestrator
        .complete_rebuild(at, EQUAL, &mut one.storage)
        .unwrap();
    assert_eq!(one.state(), State::InSync);
    assert!(one.has("rebuild-completed"));
}

// A218
#[test]
fn a_handshake_confirms_a_reopened_primary_and_nobody_is_cut() {
    let replica_id = id("r1");
    let mut orchestrator = reopened(&["r1", "r2"], 105);
    orchestrator.asked(&id("r2"), T0);
    let session = orchestrator.connected(&replica_id, Kind::CatchUp);
    let mut storage = TestStorage::new(history(105).committed(90));
    let at = call(&replica_id, session);
    let plan = orchestrator.plan(at, &replica(105), &mut storage).unwrap();
    assert_eq!(plan.work, Work::ZeroGap);
    assert_eq!(orchestrator.ledger.committed(), lsn(105));
    assert_eq!(orchestrator.ledger.standing(), Standing::Confirmed);
    let confirmed = orchestrator.log.all();
    let names: Vec<_> = confirmed.map(|event| event.what.name()).collect();
    assert!(names.contains(&"primary-confirmed"), "{names:?}");
}

// A219, the deciding half
#[test]
fn records_above_a_reopened_head_are_fetched_before_it_is_confirmed() {
    let (r1, r2) = (id("r1"), id("r2"));
    let mut orchestrator = reopened(&["r1", "r2"], 100);
    let mut storage = TestStorage::new(history(100).committed(90));
    let ahead = orchestrator.connected(&r1, Kind::CatchUp);
    let failure = orchestrator
        .plan(call(&r1, ahead), &replica(103), &mut storage)
        .unwrap_err();
    assert!(matches!(failure, Failure::NotYet(_)), "{failure}");
    assert!(orchestrator.has(&r1, "handshake-deferred"));

    // Another replica that holds all of ours does not confirm us past the records of the first.
    let level = orchestrator.connected(&r2, Kind::CatchUp);
    orchestrator
        .plan(call(&r2, level), &replica(100), &mut storage)
        .unwrap();
    assert_eq!(orchestrator.ledger.standing(), Standing::Unconfirmed);
    assert_eq!(orchestrator.ledger.committed(), lsn(100));

    let range = LsnRange::new(lsn(100), lsn(103));
    orchestrator.fetched(call(&r1, ahead), range);
    storage.history = history(103).committed(90);
    let at = call(&r1, ahead);
    let plan = orchestrator.plan(at, &replica(103), &mut storage).unwrap();
    assert_eq!(plan.work, Work::ZeroGap);
    assert_eq!(orchestrator.ledger.standing(), Standing::Confirmed);
    assert_eq!(orchestrator.ledger.committed(), lsn(103));
    assert!(orchestrator.has(&r1, "records-fetched"));
}

// D1, A219: r1 alone makes a quorum with us, but r2 may hold acknowledged records that we lost.
#[test]
fn the_first_replica_to_answer_does_not_have_the_records_of_the_next_one_cut() {
    let (r1, r2) = (id("r1"), id("r2"));
    let mut orchestrator = reopened(&["r1", "r2"], 100);
    let mut storage = TestStorage::new(history(100).committed(90));
    let level = orchestrator.connected(&r1, Kind::CatchUp);
    orchestrator
        .plan(call(&r1, level), &replica(100), &mut storage)
        .unwrap();
    assert_eq!(orchestrator.ledger.committed(), lsn(100));
    assert_eq!(orchestrator.ledger.standing(), Standing::Unconfirmed);
    let ahead = orchestrator.connected(&r2, Kind::CatchUp);
    let failure = orchestrator
        .plan(call(&r2, ahead), &replica(103), &mut storage)
        .unwrap_err();
    assert!(matches!(failure, Failure::NotYet(_)), "{failure}");
    assert_eq!(orchestrator.ledger.standing(), Standing::Unconfirmed);
    // The link to r2 breaks before they are fetched: they are not forgotten.
    orchestrator.asked(&r2, T0);
    assert_eq!(orchestrator.ledger.standing(), Standing::Unconfirmed);
}

#[test]
fn an_unreachable_replica_keeps_nobody_unconfirmed() {
    let (r1, r2) = (id("r1"), id("r2"));
    let mut orchestrator = reopened(&["r1", "r2"], 100);
    let mut storage = TestStorage::new(history(100).committed(90));
    let level = orchestrator.connected(&r1, Kind::CatchUp);
    orchestrator
        .plan(call(&r1, level), &replica(100), &mut storage)
        .unwrap();
    orchestrator.asked(&r2, T0);
    assert_eq!(orchestrator.ledger.standing(), Standing::Confirmed);
    assert!(
        orchestrator
            .log
            .all()
            .any(|e| e.what.name() == "primary-confirmed")
    );
}

// D1: a replica that is to be rebuilt may be the only one that holds an acknowledged record.
#[test]
fn records_on_a_replica_to_rebuild_keep_a_reopened_primary_unconfirmed() {
    let (r1, r2) = (id("r1"), id("r2"));
    let mut orchestrator = reopened(&["r1", "r2"], 100);
    let mut storage = TestStorage::new(history(100).committed(90));
    let ahead = orchestrator.connected(&r1, Kind::Rebuild);
    let failure = orchestrator
        .plan_rebuild(
            call(&r1, ahead),
            &replica(103),
            Asked::FullBase,
            &mut storage,
        )
        .unwrap_err();
    assert!(matches!(failure, Failure::NotYet(_)), "{failure}");
    orchestrator.asked(&r1, T0);
    let level = orchestrator.connected(&r2, Kind::CatchUp);
    orchestrator
        .plan(call(&r2, level), &replica(100), &mut storage)
        .unwrap();
    assert_eq!(orchestrator.ledger.standing(), Standing::Unconfirmed);
}

// A228
#[test]
fn a_lost_stream_is_logged_and_counts_no_more() {
    let mut one = one(Kind::CatchUp, history(100));
    one.plan(&replica(100)).unwrap();
    let at = call(&one.replica, one.session);
    let orchestrator = &mut one.orchestrator;
    assert_eq!(orchestrator.synced(lsn(120), T0), None);
    orchestrator
        .ship(call(&one.replica, one.session), lsn(120), lsn(120))
        .unwrap();
    assert_eq!(orchestrator.acknowledge(at, lsn(110)), Ok(Some(lsn(110))));
    let cause = StreamEnd::LinkLost(Link::Closed);
    orchestrator.stream_lost(at, cause).unwrap();
    assert_eq!(orchestrator.synced(lsn(130), T0), None);
    assert_eq!(orchestrator.ledger.committed(), lsn(110));
    let last = orchestrator.log.of(&one.replica).last().unwrap();
    assert_eq!(last.what, What::StreamEnded(cause));
    assert_eq!(one.state(), State::Disconnected);
}

// A229
#[test]
fn a_late_acknowledgement_commits_although_its_barrier_expired() {
    let mut one = one(Kind::CatchUp, history(100));
    one.plan(&replica(100)).unwrap();
    one.orchestrator.synced(lsn(150), T0);
    one.orchestrator
        .ship(call(&one.replica, one.session), lsn(150), lsn(150))
        .unwrap();
    one.orchestrator.barrier_expired(lsn(150), Tick(5));
    let expired = one.orchestrator.log.all().last().unwrap();
    assert_eq!(
        (expired.at, &expired.what),
        (Tick(5), &What::BarrierExpired { lsn: lsn(150) })
    );
    assert_eq!(one.orchestrator.ledger.committed(), lsn(100));
    let late = Call {
        now: Tick(7),
        ..call(&one.replica, one.session)
    };
    assert_eq!(
        one.orchestrator.acknowledge(late, lsn(150)),
        Ok(Some(lsn(150)))
    );
    assert_eq!(one.state(), State::InSync);
}

// A232
#[test]
fn a_wiped_replica_counts_for_nothing_until_it_is_recovered() {
    let mut one = one(Kind::CatchUp, history(100));
    one.plan(&replica(100)).unwrap();
    let at = call(&one.replica, one.session);
    let cause = StreamEnd::LinkLost(Link::Closed);
    one.orchestrator.stream_lost(at, cause).unwrap();
    one.session = one.orchestrator.connected(&one.replica, Kind::CatchUp);
    let wiped = ReplicaFacts::empty(NodeIncarnation([8; 16]));
    let plan = one.plan(&wiped).unwrap();
    let range = LsnRange::new(Lsn::ZERO, lsn(100));
    let truncate_to = None;
    assert_eq!(plan.work, Work::CatchUp { range, truncate_to });
    assert!(one.has("acknowledgements-voided"));
    assert_eq!(one.orchestrator.synced(lsn(130), T0), None);
}

// A232, D8: what it reported before it was wiped would confirm records that nobody holds.
#[test]
fn what_a_wiped_replica_reported_to_a_reopened_primary_is_void() {
    for kind in [Kind::CatchUp, Kind::Rebuild] {
        let (r1, r2) = (id("r1"), id("r2"));
        let mut orchestrator = reopened(&["r1", "r2"], 105);
        let mut storage = TestStorage::new(history(105).committed(90));
        let session = orchestrator.connected(&r1, Kind::CatchUp);
        let at = call(&r1, session);
        orchestrator.plan(at, &replica(95), &mut storage).unwrap();
        assert_eq!(orchestrator.ledger.known(&r1).1, Some(lsn(95)));
        orchestrator.link_lost(at, Link::Closed).unwrap();
        let session = orchestrator.connected(&r1, kind);
        let at = call(&r1, session);
        let wiped = ReplicaFacts::empty(NodeIncarnation([8; 16]));
        match kind {
            Kind::Rebuild => {
                let any = Asked::Any;
                orchestrator.plan_rebuild(at, &wiped, any, &mut storage)
            }
            _ => orchestrator.plan(at, &wiped, &mut storage),
        }
        .unwrap();
        let (stream, handshake, _) = orchestrator.ledger.known(&r1);
        assert_eq!((stream, handshake.unwrap_or(Lsn::ZERO)), (None, Lsn::ZERO));
        orchestrator.asked(&r2, T0);
        assert_eq!(orchestrator.ledger.standing(), Standing::Unconfirmed);
        assert_eq!(orchestrator.ledger.committed(), lsn(95), "it never falls");
    }
}

// A162, A163, A172
#[test]
fn every_session_that_an_assignment_ends_is_logged_with_its_one_cause() {
    let invalidated = |orchestrator: &Orchestrator<TestPin>, session| {
        let mut events = orchestrator.log.all();
        let event = events.find(|event| {
            event.session == Some(session) && event.what.name() == "session-invalidated"
        });
        match event.map(|event| event.what.clone()) {
            Some(What::SessionInvalidated(reason)) => reason.name(),
            other => panic!("an invalidation: {other:?}"),
        }
    };
    let mut moved = assignment(&["r1"]);
    moved.replicas[0].1 = endpoint("elsewhere");
    let superseding = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
    let risen = Assignment {
        epoch: Epoch::new(2),
        ..assignment(&["r1"])
    };
    for (next, reason) in [
        (moved, "endpoint-changed"),
        (superseding, "assignment-intent"),
        (risen, "epoch-advanced"),
        (assignment(&[]), "sender-stopped"),
    ] {
        let mut one = one(Kind::CatchUp, history(100));
        one.orchestrator.assign(&next, T0);
        assert_eq!(invalidated(&one.orchestrator, one.session), reason);
        let causes = one
            .orchestrator
            .log
            .all()
            .filter_map(|event| match &event.what {
                What::SessionInvalidated(reason) => Some(reason.name()),
                _ => None,
            });
        assert_eq!(
            causes.collect::<Vec<_>>(),
            [reason],
            "one cause and no other"
        );
    }
}

// A171
#[test]
fn a_supersede_is_logged_with_both_ids_and_the_epoch() {
    let mut one = one(Kind::CatchUp, history(100));
    let rebuild = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
    one.orchestrator.assign(&rebuild, Tick(9));
    let last = one.orchestrator.log.of(&one.replica).last().unwrap();
    let old = one.session;
    assert_eq!(last.what, What::SessionSuperseded { old });
    assert_ne!(last.session, Some(old));
    assert_eq!((last.epoch, last.at), (EPOCH, Tick(9)));
}

// A159
#[test]
fn an_old_session_is_over_after_an_epoch_rise_and_a_new_assignment_leads_on() {
    let mut one = one(Kind::CatchUp, history(100));
    let (r1, epoch) = (one.replica.clone(), Epoch::new(2));
    assert_eq!(one.orchestrator.advance_epoch(epoch, T0), 1);
    let failure = one.plan(&replica(100)).unwrap_err();
    let replica_id = one.replica.clone();
    assert_eq!(
        failure,
        Failure::NoSession {
            replica: replica_id
        }
    );
    assert!(one.has("session-invalidated"));
    let next = Assignment {
        epoch,
        ..assignment(&["r1"]).recovering(r1, Kind::CatchUp)
    };
    one.session = one.orchestrator.assign(&next, T0).created[0].1;
    let at = call(&one.replica, one.session);
    one.orchestrator.connect(at).unwrap();
    one.plan(&replica(100)).unwrap();
    assert_eq!(one.state(), State::InSync);
}

// A164
#[test]
fn a_replica_that_moves_comes_back_through_the_same_sender() {
    let mut one = one(Kind::CatchUp, history(100));
    let plan = one.plan(&replica(80)).unwrap();
    executor::run(&mut one, plan, 1).unwrap();
    assert_eq!(one.state(), State::InSync);
    let mut moved = assignment(&["r1"]).recovering(id("r1"), Kind::CatchUp);
    moved.replicas[0].1 = endpoint("elsewhere");
    let before = one.orchestrator.log.last_seq();
    let assigned = one.orchestrator.assign(&moved, T0);
    assert_eq!((&assigned.added, &assigned.removed), (&vec![], &vec![]));
    let sender = one.orchestrator.registry.sender(&one.replica).unwrap();
    assert_eq!(*sender.endpoint(), endpoint("elsewhere"));
    assert_eq!(one.held(), 0, "the pin of the stream there");
    assert_ne!(one.session, assigned.created[0].1);
    one.session = assigned.created[0].1;
    let at = call(&one.replica, one.session);
    one.orchestrator.connect(at).unwrap();
    let plan = one.plan(&replica(100)).unwrap();
    assert_eq!(plan.work, Work::ZeroGap);
    assert_eq!(one.state(), State::InSync);
    let events = one.orchestrator.log.after(before);
    let names: Vec<_> = events.map(|event| event.what.name()).collect();
    assert_eq!(
        names,
        [
            "stream-ended",
            "session-created",
            "connected",
            "handshake",
            "completed",
            "stream-started",
        ]
    );
    let mut events = one.orchestrator.log.after(before);
    let ended = events.next().map(|event| event.what.clone());
    let cause = StreamEnd::EndpointChanged;
    assert_eq!(ended, Some(What::StreamEnded(cause)));
}

// A166
#[test]
fn three_replicas_get_three_different_answers() {
    let mut orchestrator = orchestrator(&["r1", "r2", "r3"]);
    let mut storage = TestStorage::new(history(100).tail(40));
    let mut works = Vec::new();
    for (name, durable) in [("r1", 100), ("r2", 60), ("r3", 20)] {
        let replica_id = id(name);
        let session = orchestrator.connected(&replica_id, Kind::CatchUp);
        let at = call(&replica_id, session);
        let plan = orchestrator
            .plan(at, &replica(durable), &mut storage)
            .unwrap();
        works.push(plan.work.name());
        if let Work::CatchUp { range, .. } = plan.work {
            orchestrator.begin_catch_up(at, range).unwrap();
            orchestrator.sent(at, range.through, 4096).unwrap();
            orchestrator.progress(at, range.through).unwrap();
            orchestrator.complete(at, &mut storage).unwrap();
        }
    }
    assert_eq!(works, ["zero-gap", "catch-up", "needs-rebuild"]);
    let totals = orchestrator.registry.status().totals;
    assert_eq!((totals.in_sync, totals.rebuilding), (2, 1));
}

// A151
#[test]
fn a_recovery_of_one_replica_leaves_the_others_alone() {
    let mut orchestrator = orchestrator(&["r1", "r2"]);
    let other = id("r2");
    let before = orchestrator.registry.sender(&other).unwrap().view();
    let replica_id = id("r1");
    let session = orchestrator.connected(&replica_id, Kind::CatchUp);
    let mut storage = TestStorage::new(history(100));
    let at = call(&replica_id, session);
    let plan = orchestrator.plan(at, &replica(80), &mut storage).unwrap();
    let Work::CatchUp { range, .. } = plan.work else {
        panic!("a catch-up: {:?}", plan.work);
    };
    orchestrator.begin_catch_up(at, range).unwrap();
    orchestrator.sent(at, lsn(100), 4096).unwrap();
    orchestrator.progress(at, lsn(100)).unwrap();
    orchestrator.complete(at, &mut storage).unwrap();
    assert_eq!(orchestrator.state_of(&replica_id), State::InSync);
    let after = orchestrator.registry.sender(&other).unwrap().view();
    assert_eq!(after, before);
}
