//! Model checking (R3 to R10): two replicas, any number of epochs and restarts of the primary,
//! changed endpoints, refused pins, ticks, damage and further faults in every state, breadth first
//! until nothing new is found. What grows is bounded (three records) or does not count
//! (`signature`), so the states are finite.

use super::*;
use crate::budget::Peer;
use crate::outcome;
use crate::session::Session;
use crate::testing::Random;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

mod act;
mod signature;
mod steps;
mod world;

use act::{Act, Event, LOCAL, ORDERLY, events};
use act::{faults_of_both, recoveries_of_both, still, with_neighbour};
use world::{FOREIGN, World};

/// Behind and of another history; empty and equal; ahead and of no common history.
const STARTS: [[&[u64]; 2]; 3] = [
    [&[1], &[1, FOREIGN]],
    [&[], &[1, 1]],
    [&[1, 1, 1], &[FOREIGN]],
];

fn number(name: &str, default: usize) -> usize {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
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
        assert_eq!(view.endpoint.version, node.endpoint);
        // R7: only a live stream counts for the ack rule, and for what it has acknowledged.
        let acknowledged = view.stream.as_ref().map(|stream| stream.acknowledged);
        let counted = world.orchestrator.ledger.known(&node.id).0;
        assert_eq!(counted, acknowledged);
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
        let strange = SessionId {
            boot: 0,
            counter: 1,
        };
        let old = world.nodes[at].old.clone();
        for session in old.into_iter().chain(other).chain([strange]) {
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
                o.ship(call, lsn(3), lsn(3)).is_err(),
                o.acknowledge(call, lsn(3)).is_err(),
                o.stream_lost(call, StreamEnd::PinBroken).is_err(),
                o.link_lost(call, Link::Closed).is_err(),
            ];
            assert!(!refused.contains(&false), "{refused:?} with {session:?}");
            // An executor that gives up a plan of long ago ends nothing but that plan.
            let proof = outcome::classify(&s.history, &facts).proof;
            let plan = Plan::new((replica, session), proof, Work::ZeroGap, None);
            o.cancel(plan, Cancelled::ByRequest, world.now);
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
    // An epoch that rose without an assignment has applied no version yet.
    let known = world.orchestrator.registry.known_version();
    let versions = known
        .inspect(|known| assert_eq!(*known, world.version))
        .is_some();
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

/// Whether every assigned replica is in sync, and connected.
fn is_goal(world: &World) -> bool {
    (0..2).all(|at| {
        let state = world.sender(at).map(Sender::state);
        state.is_none() || state == Some(State::InSync) && world.nodes[at].is_here()
    })
}

/// A link that is there is not lost in good order.
fn is_orderly(world: &World, (act, at): Event) -> bool {
    let lost = matches!(act, Act::LinkLost | Act::StreamLost);
    let known = ORDERLY.contains(&act) || act == Act::Recover;
    known && !(lost && world.nodes[at].is_here())
}

/// All states that were found, and how they follow from each other.
struct Graph {
    numbers: HashMap<u128, u32>,
    /// How each state was first reached.
    parents: Vec<(u32, Event)>,
    goals: Vec<u32>,
    /// Steps without a fault: (to, from).
    orderly: Vec<(u32, u32)>,
    steps: usize,
    /// New states at each depth.
    widths: Vec<usize>,
    /// Whether nothing new was found at the end.
    exhausted: bool,
}

impl Graph {
    fn path(&self, mut state: u32) -> Vec<Event> {
        let mut path = Vec::new();
        while state != 0 {
            let (parent, event) = self.parents[state as usize];
            path.push(event);
            state = parent;
        }
        path.reverse();
        path
    }

    /// Checks a state that was reached by `event` and gives it a number; `None` if it is known.
    fn number(&mut self, from: u32, event: Event, world: &mut World) -> (u32, bool) {
        let new = u32::try_from(self.parents.len()).expect("fewer states than 2^32");
        let signature = world.signature();
        let number = *self.numbers.entry(signature).or_insert(new);
        if number != new {
            return (number, false);
        }
        self.parents.push((from, event));
        let told = catch_unwind(AssertUnwindSafe(|| {
            check(world);
            refuse_the_stale(world);
        }));
        if let Err(told) = told {
            eprintln!("reached by {:?}", self.path(number));
            resume_unwind(told);
        }
        if is_goal(world) {
            self.goals.push(number);
        }
        (number, true)
    }

    /// A state from which no path without a fault leads to where all are in sync.
    fn lost(&self) -> Option<u32> {
        let mut orderly = self.orderly.clone();
        orderly.sort_unstable();
        let mut found = vec![false; self.parents.len()];
        let mut open = self.goals.clone();
        for goal in &open {
            found[*goal as usize] = true;
        }
        while let Some(to) = open.pop() {
            let first = orderly.partition_point(|step| step.0 < to);
            for &(_, from) in orderly[first..].iter().take_while(|step| step.0 == to) {
                if !std::mem::replace(&mut found[from as usize], true) {
                    open.push(from);
                }
            }
        }
        let lost = found.iter().position(|found| !found)?;
        Some(u32::try_from(lost).expect("a state"))
    }
}

/// Explores all that can follow from one start, or the first `states_max` states of it.
fn explore(start: [&[u64]; 2], can_happen: &[Event], states_max: usize) -> Graph {
    let mut graph = Graph {
        numbers: HashMap::new(),
        parents: Vec::new(),
        goals: Vec::new(),
        orderly: Vec::new(),
        steps: 0,
        widths: Vec::new(),
        exhausted: false,
    };
    let mut world = World::new(start);
    graph.number(0, (Act::Restart, 0), &mut world);
    let mut frontier = vec![(0, world)];
    while !frontier.is_empty() && graph.parents.len() < states_max {
        let mut next = Vec::new();
        for (from, world) in frontier {
            let mut copy = world.forked();
            let signature = world.signature();
            for event in can_happen {
                let stepped = catch_unwind(AssertUnwindSafe(|| copy.apply(*event)));
                let happened = stepped.unwrap_or_else(|told| {
                    eprintln!("{event:?} after {:?}", graph.path(from));
                    resume_unwind(told)
                });
                if !happened {
                    let path = || graph.path(from);
                    let same = copy.signature() == signature;
                    assert!(same, "{event:?} is refused and changes {:?}", path());
                    continue;
                }
                graph.steps += 1;
                let (number, new) = graph.number(from, *event, &mut copy);
                if is_orderly(&world, *event) && number != from {
                    graph.orderly.push((number, from));
                }
                let reached = std::mem::replace(&mut copy, world.forked());
                if new {
                    next.push((number, reached));
                }
            }
        }
        frontier = next;
        graph.widths.push(frontier.len());
    }
    graph.exhausted = frontier.is_empty();
    graph
}

/// Explores from every start; where nothing is left out, every state has a way to in sync.
fn explore_all(name: &str, can_happen: &[Event], states_max: usize, must_end: bool) {
    for start in STARTS {
        let graph = explore(start, can_happen, states_max);
        let (states, Graph { steps, widths, .. }) = (graph.parents.len(), &graph);
        let exhausted = graph.exhausted;
        let depth = widths.len() - usize::from(exhausted);
        println!(
            "{name} {start:?}: {states} states, {steps} steps, depth {depth}, \
             exhausted: {exhausted}, widths {widths:?}"
        );
        assert!(exhausted || !must_end, "more than {states_max} states");
        let lost = graph.lost().filter(|_| exhausted);
        let path = lost.map(|state| graph.path(state));
        assert_eq!(path, None, "no way to in sync from {start:?}");
    }
}

#[test]
fn every_state_of_a_replica_and_its_neighbour_keeps_its_promises() {
    let states_max = number("SEAWALL_STATES", 3000);
    explore_all("neighbour", &with_neighbour(), states_max, false);
}

#[test]
fn every_state_of_two_replicas_keeps_its_promises() {
    let states_max = number("SEAWALL_STATES", 3000);
    explore_all("both", &recoveries_of_both(), states_max, false);
    explore_all("both, faults", &faults_of_both(), states_max, false);
}

/// As above, to the end: no state is left out.
#[test]
fn every_state_of_two_replicas_has_a_way_to_in_sync() {
    let states_max = number("SEAWALL_STATES", 1_000_000);
    explore_all("still", &still(), states_max, true);
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
