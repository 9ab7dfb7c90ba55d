//! Model checking (R3 to R10): every sequence of events over two replicas, three epochs, changed
//! endpoints, refused pins, ticks and second faults, breadth first, each state once. A state is
//! reached by replaying its events, so no machine has to be copied.

use super::*;
use crate::budget::Peer;
use crate::outcome;
use crate::session::Session;
use crate::testing::Random;
use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

mod act;
mod world;

use act::{Act, Event, LOCAL, events};
use world::World;

/// Behind, ahead, equal, beyond retention, of another history.
const STARTS: [[&[u64]; 2]; 3] = [
    [&[1, 1], &[1, 1, 1, 1]],
    [&[], &[1, 1, 1]],
    [&[1, 1, 9], &[1, 1, 1, 1]],
];

fn number(name: &str, default: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

fn replayed(start: [&[u64]; 2], path: &[Event]) -> World {
    let mut world = World::new(start);
    for event in path {
        assert!(world.apply(*event), "replay of {event:?} in {path:?}");
    }
    world
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// What holds in every state.
fn check(world: &World) {
    let mut owners = 0;
    for (at, node) in world.nodes.iter().enumerate() {
        let pinned = node.plan.as_ref().is_some_and(Plan::is_pinned);
        let Some(sender) = world.sender(at) else {
            assert!(!pinned, "R5: no pin without a sender");
            continue;
        };
        let view = sender.view();
        // R4
        assert!(view.session.is_none() || view.stream.is_none());
        assert_eq!(view.state == State::InSync, view.stream.is_some());
        // R8
        assert_eq!(view.epoch, world.epoch());
        for epoch in view.session.iter().map(Session::epoch) {
            assert_eq!(epoch, view.epoch);
        }
        for epoch in view.stream.iter().map(|stream| stream.epoch) {
            assert_eq!(epoch, view.epoch);
        }
        // R5
        if pinned {
            let plan = node.plan.as_ref().map(|plan| plan.session);
            assert_eq!(plan, sender.session_id(), "no pin without its live session");
        }
        owners += usize::from(pinned) + usize::from(view.stream.is_some());
        // R6
        if view.needs_rebuild {
            let marked = [State::NeedsRebuild, State::Rebuilding];
            assert!(marked.contains(&view.state), "{:?}", view.state);
            let kind = view.session.as_ref().map(Session::kind);
            assert!(kind.is_none_or(|kind| kind == Kind::Rebuild), "{kind:?}");
        }
        // In sync means equal histories, record by record.
        if let Some(stream) = view.stream
            && node.is_here()
        {
            let through = usize::try_from(stream.acknowledged.get()).unwrap();
            assert_eq!(node.records.get(..through), world.primary.get(..through));
        }
    }
    assert_eq!(
        world.storage.count.held(),
        owners,
        "R5: every pin has one owner"
    );
    assert!(world.orchestrator.ledger.committed() <= world.storage.history.durable);
}

/// No message of an old session, of another replica's, of another boot, and no stale assignment
/// has any effect.
fn refuse_the_stale(world: &mut World) {
    let before = world.signature();
    for at in 0..2 {
        let other = world.sender(1 - at);
        let other = other.and_then(|sender| sender.session_id().or(sender.stream_id()));
        let restarted = SessionId {
            boot: 2,
            counter: 1,
        };
        let old = world.nodes[at].old.clone();
        for session in old.into_iter().chain(other).chain([restarted]) {
            let replica = world.nodes[at].id.clone();
            let facts = world.facts(at);
            let call = Call {
                now: world.now,
                replica: &replica,
                session,
            };
            let (o, s) = (&mut world.orchestrator, &mut world.storage);
            let all = LsnRange::new(lsn(2), lsn(3));
            let refused = [
                o.connect(call).is_err(),
                o.plan(call, &facts, s).is_err(),
                o.plan_rebuild(call, &facts, Asked::Any, s).is_err(),
                o.begin_catch_up(call, all).is_err(),
                o.truncated(call, lsn(3)).is_err(),
                o.sent(call, lsn(3), 1).is_err(),
                o.progress(call, lsn(3)).is_err(),
                o.check_budget(call, Peer::Silent).is_err(),
                o.complete(call, s).is_err(),
                o.begin_transfer(call, Install::Beside).is_err(),
                o.chunks(call, Chunks::default()).is_err(),
                o.base_verified(call, lsn(3), EQUAL).is_err(),
                o.begin_tail(call).is_err(),
                o.tail_progress(call, lsn(3)).is_err(),
                o.complete_rebuild(call, EQUAL, s).is_err(),
                o.ship(&replica, session, lsn(3), lsn(3)).is_err(),
                o.acknowledge(call, lsn(3)).is_err(),
                o.stream_lost(call, StreamEnd::PinBroken).is_err(),
                o.link_lost(call, Link::Closed).is_err(),
            ];
            assert!(!refused.contains(&false), "{refused:?} with {session:?}");
        }
    }
    let mut stale = world.assignment(world.epoch(), Some((0, Kind::Rebuild)));
    stale.replicas.clear();
    stale.version = Some(world.version - 1);
    let older = Epoch::new(world.epoch().get() - 1);
    let of_old_epoch = Assignment {
        epoch: older,
        version: Some(9),
        ..stale.clone()
    };
    // OK because an epoch that rose without an assignment has applied no version yet.
    let versions = world.epoch() == EPOCH;
    for stale in [stale]
        .into_iter()
        .filter(|_| versions)
        .chain([of_old_epoch])
    {
        let assigned = world.orchestrator.assign(&stale, world.now);
        assert!(assigned.refused.is_some() && assigned.created.is_empty());
    }
    assert_eq!(
        world.signature(),
        before,
        "a refused message changes nothing"
    );
}

/// Drives a replica on without further faults; it ends in sync, or is not assigned any more.
fn reaches_in_sync(world: &mut World, at: usize) {
    let orderly = [
        Act::Connect,
        Act::Decide,
        Act::Begin,
        Act::Cut,
        Act::Install,
        Act::Verify,
        Act::BeginTail,
        Act::Send,
        Act::Ack,
        Act::TailAck,
        Act::Complete,
        Act::Finish,
    ];
    let begin = [Act::Attach, Act::AttachRebuild];
    for _attempt in 0..3 {
        let Some(sender) = world.sender(at) else {
            return;
        };
        if sender.state() == State::InSync && world.nodes[at].is_here() {
            return;
        }
        world.apply((Act::LinkLost, at));
        world.apply((Act::StreamLost, at));
        world.apply((Act::DropPlan, at));
        assert!(
            begin.iter().any(|act| world.apply((*act, at))),
            "nothing can be attached"
        );
        while orderly.iter().any(|act| world.apply((*act, at))) {
            check(world);
        }
    }
    let state = world.sender(at).map(Sender::state);
    assert_eq!(state, Some(State::InSync), "{}", world.signature());
}

/// Explores from one start; states and the depth at which nothing new was found, if it was.
fn explore(start: [&[u64]; 2], can_happen: &[Event], depth_max: usize) -> (usize, Option<usize>) {
    let mut seen = HashSet::from([hash(&World::new(start).signature())]);
    let mut frontier: Vec<Vec<Event>> = vec![Vec::new()];
    for depth in 1..=depth_max {
        let mut next = Vec::new();
        for path in &frontier {
            for event in can_happen {
                let mut world = replayed(start, path);
                if !world.apply(*event) || !seen.insert(hash(&world.signature())) {
                    continue;
                }
                let mut path = path.clone();
                path.push(*event);
                let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    check(&world);
                    refuse_the_stale(&mut world);
                    for at in 0..2 {
                        reaches_in_sync(&mut replayed(start, &path), at);
                    }
                }));
                assert!(told.is_ok(), "from {start:?} by {path:?}");
                next.push(path);
            }
        }
        if next.is_empty() {
            return (seen.len(), Some(depth));
        }
        frontier = next;
    }
    (seen.len(), None)
}

#[test]
fn every_reachable_state_of_two_replicas_keeps_its_promises() {
    let depth_max = number("SEAWALL_DEPTH", 3);
    for start in STARTS {
        let (states, exhausted) = explore(start, &events(), depth_max);
        println!("{start:?}: {states} states to depth {depth_max}, exhausted: {exhausted:?}");
        assert!(states > 100, "the events lead somewhere: {states}");
    }
}

/// One replica goes deeper: through whole recoveries and into the next ones.
#[test]
fn every_reachable_state_of_one_replica_keeps_its_promises() {
    let depth_max = number("SEAWALL_DEPTH_ALONE", 5);
    let own: Vec<Event> = events().into_iter().filter(|(_, at)| *at == 0).collect();
    for start in STARTS {
        let (states, exhausted) = explore(start, &own, depth_max);
        println!("{start:?}: {states} states to depth {depth_max}, exhausted: {exhausted:?}");
        assert!(states > 100, "the events lead somewhere: {states}");
    }
}

/// Events of different replicas that are no assignment do not depend on each other.
fn independent(a: Event, b: Event) -> bool {
    a.1 != b.1 && LOCAL.contains(&a.0) && LOCAL.contains(&b.0)
}

#[test]
fn independent_events_lead_to_the_same_state_in_any_order() {
    let all = events();
    for seed in 0..number("SEAWALL_SEEDS", 4) as u64 {
        println!("seed {seed}");
        let mut random = Random(seed);
        for case in 0..200 {
            let start = *random.one_of(&STARTS);
            let script: Vec<Event> = (0..60).map(|_| *random.one_of(&all)).collect();
            let mut reordered = script.clone();
            for _ in 0..200 {
                let at = random.below(reordered.len() as u64 - 1);
                let at = usize::try_from(at).unwrap();
                if independent(reordered[at], reordered[at + 1]) {
                    reordered.swap(at, at + 1);
                }
            }
            let end = |events: &[Event]| {
                let mut world = World::new(start);
                for event in events {
                    world.apply(*event);
                }
                world.signature()
            };
            let ends = [end(&script), end(&reordered)];
            assert_eq!(ends[0], ends[1], "seed {seed}, case {case}: {script:?}");
        }
    }
}
