use super::*;
use crate::id::Tick;
use crate::outcome::{Asked, rebuild_source};
use crate::testing::{TestPin, endpoint, history, lsn, pins, replica};

mod fork;
mod matrix;

type TestRegistry = Registry<TestPin>;

fn id(name: &str) -> ReplicaId {
    ReplicaId::new(name)
}

fn registry() -> TestRegistry {
    Registry::new(Epoch::new(1), SessionIds::new(1))
}

/// Replicas by name, each at an address of its own.
fn listed(names: &[&str]) -> Vec<(ReplicaId, Endpoint)> {
    names
        .iter()
        .map(|name| (id(name), endpoint(name)))
        .collect()
}

fn assignment(names: &[&str], epoch: u64) -> Assignment {
    Assignment::of(listed(names), Epoch::new(epoch))
}

fn with(names: &[&str]) -> TestRegistry {
    let mut registry = registry();
    registry.assign(&assignment(names, 1));
    registry.drain_notes();
    registry
}

fn attach(registry: &mut TestRegistry, name: &str) -> SessionId {
    let options = SessionOptions::unbounded(Kind::CatchUp);
    registry.attach(&id(name), options).unwrap()
}

fn session(registry: &TestRegistry, name: &str) -> Option<SessionId> {
    registry.sender(&id(name)).unwrap().session_id()
}

/// Brings a replica in sync through a session it already has.
fn bring_in_sync(registry: &mut TestRegistry, name: &str, session: SessionId) {
    let sender = registry.sender_mut(&id(name)).unwrap();
    sender.connect(session).unwrap();
    sender
        .handshake(session, &replica(100), &history(100))
        .unwrap();
    let pins = pins();
    sender
        .complete(session, |after| Ok(TestPin::new(&pins, after)))
        .unwrap();
}

// A137, A142
#[test]
fn new_replicas_are_added_and_listed_in_order() {
    let mut registry = registry();
    let assigned = registry.assign(&assignment(&["r2", "r1"], 1));
    assert_eq!(assigned.added, [id("r1"), id("r2")]);
    assert_eq!(assigned.removed, []);
    assert_eq!(registry.count(), 2);
    let names: Vec<_> = registry.replicas().map(ReplicaId::as_str).collect();
    assert_eq!(names, ["r1", "r2"]);
}

// A138
#[test]
fn a_replica_that_is_not_listed_any_more_is_stopped_and_removed() {
    let mut registry = with(&["r1", "r2"]);
    let kept = attach(&mut registry, "r1");
    let dead = attach(&mut registry, "r2");
    let assigned = registry.assign(&assignment(&["r1"], 1));
    assert_eq!(assigned.removed, [id("r2")]);
    assert_eq!(session(&registry, "r1"), Some(kept));
    let reason = Invalidation::SenderStopped;
    let note = Note::SessionInvalidated { id: dead, reason };
    assert_eq!(registry.drain_notes(), [(id("r2"), Epoch::new(1), note)]);
    let replica = id("r2");
    let unknown = registry.sender(&replica).map(drop);
    assert_eq!(unknown, Err(Failure::UnknownReplica { replica }));
}

// A139
#[test]
fn a_mixed_assignment_touches_only_what_it_changes() {
    let mut registry = with(&["r1", "r2", "r3"]);
    let kept = attach(&mut registry, "r1");
    attach(&mut registry, "r3");
    let mut next = assignment(&["r1", "r3", "r4"], 1);
    next.replicas[1].1 = endpoint("elsewhere");
    let assigned = registry.assign(&next);
    assert_eq!(assigned.added, [id("r4")]);
    assert_eq!(assigned.removed, [id("r2")]);
    assert_eq!(session(&registry, "r1"), Some(kept));
    assert_eq!(session(&registry, "r3"), None);
}

// A140
#[test]
fn the_same_assignment_again_changes_nothing() {
    let mut registry = with(&["r1", "r2"]);
    attach(&mut registry, "r1");
    let in_sync = attach(&mut registry, "r2");
    bring_in_sync(&mut registry, "r2", in_sync);
    registry.drain_notes();
    let before = registry.status();
    let assigned = registry.assign(&assignment(&["r1", "r2"], 1));
    assert_eq!(assigned, Assigned::default());
    assert_eq!(registry.status(), before);
    assert_eq!(registry.drain_notes(), []);
}

// A141, A144
#[test]
fn a_moved_replica_keeps_its_sender_and_gets_a_new_session() {
    let mut registry = with(&["r1"]);
    // What only this sender knows: another one in its place would not.
    let sender = registry.sender_mut(&id("r1")).unwrap();
    sender.restore(true, None);
    registry.drain_notes();
    let options = SessionOptions::unbounded(Kind::Rebuild);
    let old = registry.attach(&id("r1"), options).unwrap();
    let moved = |data, version| {
        let endpoint = Endpoint {
            data: String::from(data),
            version,
            ..endpoint("r1")
        };
        Assignment::of(vec![(id("r1"), endpoint)], Epoch::new(1))
    };
    assert_eq!(
        registry.assign(&moved("10.0.0.2", 1)),
        Assigned::default(),
        "neither removed nor added"
    );
    assert_eq!(session(&registry, "r1"), None);
    let reason = Invalidation::EndpointChanged;
    let note = Note::SessionInvalidated { id: old, reason };
    assert_eq!(registry.drain_notes(), [(id("r1"), Epoch::new(1), note)]);
    let sender = registry.sender(&id("r1")).unwrap();
    assert_eq!(sender.endpoint().data, "10.0.0.2");
    assert!(sender.needs_rebuild());
    let again = registry.assign(&moved("10.0.0.2", 1).recovering(id("r1"), Kind::Rebuild));
    let (_, new) = &again.created[0];
    assert_ne!(*new, old);
    assert_eq!(session(&registry, "r1"), Some(*new));
    registry.assign(&moved("10.0.0.2", 2));
    assert_eq!(session(&registry, "r1"), None, "the version alone counts");
}

// A085: the sender remembers the life of the directory from the first cycle on; one that was made
// anew in between could not tell that the sixth has another.
#[test]
fn five_recoveries_leave_the_sender_that_began_them() {
    let mut registry = with(&["r1"]);
    let mut seen = Vec::new();
    for _ in 0..5 {
        let session = attach(&mut registry, "r1");
        bring_in_sync(&mut registry, "r1", session);
        let sender = registry.sender(&id("r1")).unwrap();
        assert_eq!(sender.state(), State::InSync);
        assert!(!seen.contains(&session));
        seen.push(session);
    }
    registry.drain_notes();
    let session = attach(&mut registry, "r1");
    registry.drain_notes();
    let sender = registry.sender_mut(&id("r1")).unwrap();
    sender.connect(session).unwrap();
    let node = seawall_wal::NodeIncarnation([0x77; 16]);
    let facts = crate::history::ReplicaFacts {
        node,
        ..replica(100)
    };
    sender.handshake(session, &facts, &history(100)).unwrap();
    let voided = Note::AcknowledgementsVoided { node };
    assert!(sender.drain_notes().contains(&voided));
}

// A143
#[test]
fn stop_all_stops_every_sender() {
    let mut registry = with(&["r1", "r2"]);
    attach(&mut registry, "r1");
    registry.stop_all();
    let status = registry.status();
    assert!(status.senders.iter().all(|sender| sender.stopped));
    assert!(status.senders.iter().all(|sender| sender.session.is_none()));
}

// A147, A149
#[test]
fn recovery_targets_get_sessions_and_strangers_fail() {
    let mut registry = registry();
    let targets = assignment(&["r1", "r2"], 1)
        .recovering(id("r9"), Kind::CatchUp)
        .recovering(id("r1"), Kind::CatchUp);
    let assigned = registry.assign(&targets);
    let created: Vec<_> = assigned.created.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(created, [id("r1")]);
    assert_eq!(session(&registry, "r2"), None);
    let replica = id("r9");
    let unknown = Failure::UnknownReplica { replica };
    assert_eq!(assigned.failed, [(id("r9"), unknown)]);
}

// A148
#[test]
fn a_rebuild_target_supersedes_an_active_catch_up() {
    let mut registry = with(&["r1"]);
    let old = attach(&mut registry, "r1");
    let rebuild = assignment(&["r1"], 1).recovering(id("r1"), Kind::Rebuild);
    let assigned = registry.assign(&rebuild);
    let new = session(&registry, "r1").expect("the rebuild session");
    assert_eq!(assigned.superseded, [(id("r1"), old, new)]);
    assert_eq!(assigned.created, []);
    let reason = Invalidation::AssignmentIntent;
    let note = Note::SessionInvalidated { id: old, reason };
    assert_eq!(registry.drain_notes(), [(id("r1"), Epoch::new(1), note)]);
}

// H16: a takeover answers an active session only.
#[test]
fn a_marked_replica_is_not_taken_over_by_a_catch_up() {
    let mut registry = with(&["r1"]);
    registry.sender_mut(&id("r1")).unwrap().restore(true, None);
    let target = assignment(&["r1"], 1).recovering(id("r1"), Kind::CatchUp);
    let assigned = registry.assign(&target);
    let replica = id("r1");
    let marked = Failure::NeedsRebuild { replica };
    assert_eq!(assigned.failed, [(id("r1"), marked)]);

    let rebuild = assignment(&["r1"], 1).recovering(id("r1"), Kind::Rebuild);
    registry.assign(&rebuild);
    let active = session(&registry, "r1");
    let assigned = registry.assign(&target);
    assert_eq!(assigned.failed.len(), 1);
    assert_eq!(session(&registry, "r1"), active, "the rebuild goes on");
}

// A150, A152
#[test]
fn a_stale_assignment_changes_nothing_at_all() {
    let mut registry = registry();
    registry.assign(&assignment(&["r1", "r2"], 2));
    attach(&mut registry, "r1");
    registry.drain_notes();
    let before = registry.status();
    let mut stale = assignment(&["r1", "r3"], 1).recovering(id("r1"), Kind::Rebuild);
    stale.replicas[0].1 = endpoint("elsewhere");
    let assigned = registry.assign(&stale);
    let refused = Failure::StaleAssignment {
        given: Epoch::new(1),
        given_version: None,
        current: Epoch::new(2),
        current_version: None,
    };
    assert_eq!(assigned.refused, Some(refused.clone()));
    assert_eq!(assigned.failed, [(id("r1"), refused)]);
    assert_eq!((assigned.added, assigned.removed), (vec![], vec![]));
    assert_eq!(registry.status(), before);
    assert_eq!(registry.drain_notes(), []);
}

#[test]
fn an_older_version_of_one_epoch_is_stale() {
    let mut registry = registry();
    let versioned = |names: &[&str], epoch, version| Assignment {
        version: Some(version),
        ..assignment(names, epoch)
    };
    assert_eq!(registry.assign(&versioned(&["r1"], 1, 7)).refused, None);
    let refused = registry.assign(&versioned(&[], 1, 6)).refused;
    assert_eq!(
        refused,
        Some(Failure::StaleAssignment {
            given: Epoch::new(1),
            given_version: Some(6),
            current: Epoch::new(1),
            current_version: Some(7),
        })
    );
    assert_eq!(registry.count(), 1);
    assert_eq!(registry.assign(&versioned(&["r1"], 1, 7)).refused, None);
    let newer_epoch = registry.assign(&versioned(&["r1"], 2, 1)).refused;
    assert_eq!(newer_epoch, None, "versions count within one epoch");
}

// A153, A154
#[test]
fn duplicates_are_refused_before_anything_changes() {
    let mut registry = with(&["r1"]);
    let before = registry.status();
    let twice = registry.assign(&assignment(&["r2", "r2"], 1));
    let replica = id("r2");
    assert_eq!(twice.refused, Some(Failure::DuplicateReplica { replica }));
    let shared = vec![(id("r1"), endpoint("x")), (id("r2"), endpoint("x"))];
    let same_place = registry.assign(&Assignment::of(shared, Epoch::new(1)));
    assert_eq!(
        same_place.refused,
        Some(Failure::DuplicateEndpoint {
            first: id("r1"),
            second: id("r2"),
        })
    );
    assert_eq!(registry.status(), before);
}

// A155, A160
#[test]
fn a_risen_epoch_ends_every_older_session_and_raises_every_sender_at_once() {
    let mut registry = with(&["r1", "r2", "r3"]);
    attach(&mut registry, "r1");
    attach(&mut registry, "r2");
    let in_sync = attach(&mut registry, "r3");
    bring_in_sync(&mut registry, "r3", in_sync);
    let next = Epoch::new(2);
    assert_eq!(
        registry.advance_epoch(next),
        2,
        "streams are not in the count"
    );
    let status = registry.status();
    assert_eq!(status.epoch, next);
    for sender in &status.senders {
        assert_eq!(sender.state, State::Disconnected);
        assert_eq!(sender.epoch, next);
        assert_eq!((&sender.session, &sender.stream), (&None, &None));
    }
    attach(&mut registry, "r1");
}

// A156
#[test]
fn a_session_of_the_same_epoch_survives() {
    let mut registry = with(&["r1"]);
    registry.advance_epoch(Epoch::new(2));
    let session_id = attach(&mut registry, "r1");
    assert_eq!(registry.advance_epoch(Epoch::new(2)), 0);
    assert_eq!(session(&registry, "r1"), Some(session_id));
}

// A158
#[test]
fn an_epoch_rise_ends_a_session_that_merely_connects() {
    let mut registry = with(&["r1"]);
    let session_id = attach(&mut registry, "r1");
    let sender = registry.sender_mut(&id("r1")).unwrap();
    sender.connect(session_id).unwrap();
    assert_eq!(registry.advance_epoch(Epoch::new(2)), 1);
    let sender = registry.sender_mut(&id("r1")).unwrap();
    let replica_id = id("r1");
    assert_eq!(
        sender
            .handshake(session_id, &replica(100), &history(100))
            .map(drop),
        Err(Failure::NoSession {
            replica: replica_id
        })
    );
}

// A089: neither while it waits for a link nor in any phase after that.
#[test]
fn a_replica_that_is_recovered_again_is_counted_in_sync_only_when_it_is_done() {
    let mut registry = with(&["r1"]);
    let in_sync = |registry: &TestRegistry| registry.status().totals.in_sync;
    let first = attach(&mut registry, "r1");
    bring_in_sync(&mut registry, "r1", first);
    assert_eq!(in_sync(&registry), 1);
    let session = attach(&mut registry, "r1");
    assert_eq!(in_sync(&registry), 0);
    let sender = registry.sender_mut(&id("r1")).unwrap();
    sender.connect(session).unwrap();
    assert_eq!(in_sync(&registry), 0);
    let sender = registry.sender_mut(&id("r1")).unwrap();
    sender
        .handshake(session, &replica(80), &history(100))
        .unwrap();
    sender.begin_catch_up(session, Tick(0)).unwrap();
    sender.sent(session, lsn(100), 4096).unwrap();
    sender.progress(session, lsn(100), None).unwrap();
    assert_eq!(in_sync(&registry), 0, "although it holds everything");
    let sender = registry.sender_mut(&id("r1")).unwrap();
    let pins = pins();
    sender
        .complete(session, |after| Ok(TestPin::new(&pins, after)))
        .unwrap();
    assert_eq!(in_sync(&registry), 1);
}

// 1.18
#[test]
fn every_state_is_counted_in_its_group() {
    let mut registry = with(&["r1", "r2", "r3", "r4", "r5"]);
    let in_sync = attach(&mut registry, "r1");
    bring_in_sync(&mut registry, "r1", in_sync);
    let connecting = attach(&mut registry, "r2");
    registry
        .sender_mut(&id("r2"))
        .unwrap()
        .connect(connecting)
        .unwrap();
    registry.sender_mut(&id("r3")).unwrap().restore(true, None);
    let options = SessionOptions::unbounded(Kind::Rebuild);
    let rebuilding = registry.attach(&id("r4"), options).unwrap();
    let sender = registry.sender_mut(&id("r4")).unwrap();
    sender.connect(rebuilding).unwrap();
    sender
        .handshake(rebuilding, &replica(1), &history(100))
        .unwrap();
    let source = rebuild_source(&history(100), Asked::Any);
    assert_eq!(source.target, lsn(100));
    assert_eq!(
        registry.status().totals,
        Totals {
            all: 5,
            in_sync: 1,
            recovering: 1,
            degraded: 0,
            rebuilding: 2,
        }
    );
}
