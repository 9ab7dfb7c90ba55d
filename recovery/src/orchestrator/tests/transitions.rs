//! Every transition leaves exactly one event (1.17): whatever is called, wherever the replica
//! stands, what became of sender, session, stream and mark is told once each, and nothing is told
//! that did not happen.

use std::collections::BTreeMap;

use super::refusals::{CALLS, POSITIONS};
use super::*;
use crate::event::Event;
use crate::sender::SenderView;

/// What happens without a call of the session, by name.
type Happening = (&'static str, fn(&mut One));

/// What must have been told of a transition, and how often.
type Told = BTreeMap<&'static str, usize>;

const HAPPENINGS: &[Happening] = &[
    ("nothing", |_| ()),
    ("the same assignment", |one| {
        one.orchestrator.assign(&assignment(&["r1"]), T0);
    }),
    ("another replica is listed", |one| {
        one.orchestrator.assign(&assignment(&["r1", "r2"]), T0);
    }),
    ("nobody is listed", |one| {
        one.orchestrator.assign(&assignment(&[]), T0);
    }),
    ("the replica moves", |one| {
        let mut moved = assignment(&["r1"]);
        moved.replicas[0].1.version += 1;
        one.orchestrator.assign(&moved, T0);
    }),
    ("a catch-up is assigned", |one| {
        let target = assignment(&["r1"]).recovering(id("r1"), Kind::CatchUp);
        one.orchestrator.assign(&target, T0);
    }),
    ("a rebuild is assigned", |one| {
        let target = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
        one.orchestrator.assign(&target, T0);
    }),
    ("a rebuild is assigned with a newer epoch", |one| {
        let mut target = Assignment::of(listed(&["r1"]), Epoch::new(3));
        target.targets = vec![(id("r1"), SessionOptions::unbounded(Kind::Rebuild))];
        one.orchestrator.assign(&target, T0);
    }),
    ("the epoch rises", |one| {
        one.orchestrator.advance_epoch(Epoch::new(3), T0);
    }),
    ("the same epoch", |one| {
        let epoch = one.orchestrator.registry.epoch();
        one.orchestrator.advance_epoch(epoch, T0);
    }),
    ("everything stops", |one| one.orchestrator.stop_all(T0)),
    ("a mark is remembered", |one| {
        // OK because a replica that is not listed has nothing to restore.
        let _ = one.orchestrator.restore(&id("r1"), true, None, T0);
    }),
    ("no mark is remembered", |one| {
        // OK as above.
        let _ = one.orchestrator.restore(&id("r1"), false, None, T0);
    }),
    ("our own log is synced", |one| {
        one.orchestrator.synced(lsn(100), T0);
    }),
];

/// The events that tell of something, for each of what can happen. A session that completes is
/// told by its completion, one that fails by its invalidation.
const CREATED: [&str; 2] = ["session-created", "session-superseded"];
const ENDED: [&str; 3] = ["session-invalidated", "completed", "rebuild-completed"];

fn views(one: &One) -> BTreeMap<ReplicaId, SenderView> {
    let senders = one.orchestrator.registry.status().senders;
    senders
        .into_iter()
        .map(|view| (view.replica.clone(), view))
        .collect()
}

/// What the difference between two readings of one replica calls for, by what anybody can see.
fn due(before: Option<&SenderView>, after: Option<&SenderView>) -> Told {
    let session = |view: Option<&SenderView>| Some(view?.session.as_ref()?.id());
    let stream = |view: Option<&SenderView>| Some(view?.stream.as_ref()?.id);
    let marked = |view: Option<&SenderView>| view.is_some_and(|view| view.needs_rebuild);
    let (sessions, streams) = (
        (session(before), session(after)),
        (stream(before), stream(after)),
    );
    let changed = |was: Option<SessionId>, is: Option<SessionId>| was.is_some() && was != is;
    let stays = after.is_some();
    let was_marked = stays && marked(before);
    [
        ("added", before.is_none() && stays),
        ("removed", before.is_some() && !stays),
        ("created", changed(sessions.1, sessions.0)),
        ("ended", changed(sessions.0, sessions.1)),
        ("stream-started", changed(streams.1, streams.0)),
        ("stream-ended", changed(streams.0, streams.1)),
        ("marked", marked(after) && !was_marked),
        ("mark-cleared", was_marked && !marked(after)),
    ]
    .into_iter()
    .filter(|(_, happened)| *happened)
    .map(|(what, _)| (what, 1))
    .collect()
}

/// What the events tell of one replica, in the words of `due`.
fn told(events: &[Event], replica: &ReplicaId) -> Told {
    let mut told = Told::new();
    for event in events {
        if event.replica.as_ref() != Some(replica) {
            continue;
        }
        let what = match event.what.name() {
            "sender-added" => "added",
            "sender-removed" => "removed",
            name if CREATED.contains(&name) => "created",
            name if ENDED.contains(&name) => "ended",
            "marked" | "mark-restored" => "marked",
            name @ ("stream-started" | "stream-ended" | "mark-cleared") => name,
            _ => continue,
        };
        *told.entry(what).or_default() += 1;
    }
    told
}

/// Lets something happen and compares what it changed with what was told; how many transitions.
fn walk(story: &str, one: &mut One, happen: impl FnOnce(&mut One)) -> usize {
    let before = views(one);
    let seq = one.orchestrator.log.last_seq();
    happen(one);
    let after = views(one);
    let events: Vec<Event> = one.orchestrator.log.after(seq).cloned().collect();
    let mut transitions = 0;
    let replicas: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for replica in replicas {
        let due = due(before.get(replica), after.get(replica));
        let told = told(&events, replica);
        assert_eq!(told, due, "{story}, {replica}: {events:?}");
        transitions += due.len();
    }
    transitions
}

/// As [`POSITIONS`], and after a restart that remembers a mark.
fn positions() -> impl Iterator<Item = super::refusals::Position> {
    let marked: super::refusals::Position = ("marked by an earlier process", |one| {
        let lost = call(&one.replica, one.session);
        one.orchestrator.link_lost(lost, Link::Closed).unwrap();
        let now = T0;
        one.orchestrator
            .restore(&one.replica, true, None, now)
            .unwrap();
        (one.replica.clone(), one.session)
    });
    POSITIONS.iter().copied().chain([marked])
}

#[test]
fn every_transition_of_every_call_leaves_exactly_one_event() {
    let mut transitions = 0;
    for (position, put) in positions() {
        for (name, made) in CALLS {
            let mut one = one(Kind::CatchUp, history(100));
            let (replica, session) = put(&mut one);
            let story = format!("{position}: {name}");
            transitions += walk(&story, &mut one, |one| {
                // OK because what is refused has a test of its own; here what changed counts.
                let _ = made(one, call(&replica, session));
            });
        }
        for (name, happen) in HAPPENINGS {
            let mut one = one(Kind::CatchUp, history(100));
            put(&mut one);
            transitions += walk(&format!("{position}: {name}"), &mut one, happen);
        }
    }
    assert!(transitions > 100, "{transitions}");
}

// A231
#[test]
fn a_mark_that_is_restored_is_told_once_and_by_its_own_name() {
    let mut orchestrator = orchestrator(&["r1", "r2"]);
    let replica = id("r1");
    for _ in 0..2 {
        orchestrator.restore(&replica, true, None, T0).unwrap();
        orchestrator.restore(&id("r2"), false, None, T0).unwrap();
    }
    assert_eq!(
        orchestrator.names_of(&replica),
        ["sender-added", "mark-restored"]
    );
    assert_eq!(orchestrator.names_of(&id("r2")), ["sender-added"]);
    assert_eq!(orchestrator.state_of(&replica), State::NeedsRebuild);
}
