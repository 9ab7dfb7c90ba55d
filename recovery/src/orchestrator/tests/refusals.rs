//! Every refusal leaves exactly one event (1.17), whatever is called, wherever the replica stands.

use super::*;
use crate::session::SessionOptions;

/// A call, under the name of its function; what it refuses.
pub(super) type Called = (&'static str, fn(&mut One, Call<'_>) -> Result<(), Failure>);

/// A way to put the replica somewhere; the replica and session that is then called.
pub(super) type Position = (&'static str, fn(&mut One) -> (ReplicaId, SessionId));

pub(super) const CALLS: &[Called] = &[
    ("attach", |one, call| {
        let options = SessionOptions::unbounded(Kind::CatchUp);
        let attached = one.orchestrator.attach(call.replica, options, call.now);
        attached.map(drop)
    }),
    ("restore", |one, call| {
        one.orchestrator
            .restore(call.replica, false, None, call.now)
    }),
    ("connect", |one, call| one.orchestrator.connect(call)),
    ("plan", |one, call| {
        let planned = one.orchestrator.plan(call, &replica(50), &mut one.storage);
        planned.map(drop)
    }),
    ("plan_rebuild", |one, call| {
        let (facts, asked) = (replica(50), Asked::Any);
        let storage = &mut one.storage;
        let planned = one.orchestrator.plan_rebuild(call, &facts, asked, storage);
        planned.map(drop)
    }),
    ("begin_catch_up", |one, call| {
        let range = LsnRange::new(lsn(50), lsn(100));
        one.orchestrator.begin_catch_up(call, range)
    }),
    ("truncated", |one, call| {
        one.orchestrator.truncated(call, lsn(77))
    }),
    ("sent", |one, call| one.orchestrator.sent(call, lsn(101), 1)),
    ("progress", |one, call| {
        one.orchestrator.progress(call, lsn(101))
    }),
    ("check_budget", |one, call| {
        one.orchestrator.check_budget(call, Peer::Silent)
    }),
    ("complete", |one, call| {
        one.orchestrator.complete(call, &mut one.storage).map(drop)
    }),
    ("begin_transfer", |one, call| {
        one.orchestrator.begin_transfer(call, Install::Beside)
    }),
    ("chunks", |one, call| {
        one.orchestrator.chunks(call, Chunks::default())
    }),
    ("base_verified", |one, call| {
        one.orchestrator.base_verified(call, lsn(101), EQUAL)
    }),
    ("begin_tail", |one, call| one.orchestrator.begin_tail(call)),
    ("tail_progress", |one, call| {
        one.orchestrator.tail_progress(call, lsn(101))
    }),
    ("complete_rebuild", |one, call| {
        let storage = &mut one.storage;
        let completed = one.orchestrator.complete_rebuild(call, EQUAL, storage);
        completed.map(drop)
    }),
    ("ship", |one, call| {
        one.orchestrator.ship(call, lsn(101), lsn(100))
    }),
    ("acknowledge", |one, call| {
        one.orchestrator.acknowledge(call, lsn(101)).map(drop)
    }),
    ("stream_lost", |one, call| {
        one.orchestrator.stream_lost(call, StreamEnd::PinBroken)
    }),
    ("link_lost", |one, call| {
        one.orchestrator.link_lost(call, Link::Closed)
    }),
    ("invalidate", |one, call| {
        let reason = Invalidation::PinBroken;
        one.orchestrator.invalidate(call, reason, State::InSync)
    }),
];

/// What cannot refuse, and what a test of its own looks at: `assign` and `advance_epoch`.
const WITHOUT_RESULT: &[&str] = &[
    "new",
    "registry",
    "ledger",
    "log",
    "assign",
    "advance_epoch",
    "stop_all",
    "synced",
    "asked",
    "fetched",
    "healed",
    "cancel",
    "barrier_expired",
];

pub(super) const POSITIONS: &[Position] = &[
    ("unknown replica", |one| (id("nobody"), one.session)),
    ("session of another process", |one| {
        let (boot, counter) = (9, one.session.counter);
        (one.replica.clone(), SessionId { boot, counter })
    }),
    ("session that ended", |one| {
        one.orchestrator
            .link_lost(call(&one.replica, one.session), Link::Closed)
            .unwrap();
        (one.replica.clone(), one.session)
    }),
    ("session that was superseded", |one| {
        let rebuild = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
        one.orchestrator.assign(&rebuild, T0);
        (one.replica.clone(), one.session)
    }),
    ("session of an older epoch", |one| {
        one.orchestrator.advance_epoch(Epoch::new(2), T0);
        (one.replica.clone(), one.session)
    }),
    ("stopped", |one| {
        one.orchestrator.stop_all(T0);
        (one.replica.clone(), one.session)
    }),
    ("connecting", |one| (one.replica.clone(), one.session)),
    ("connecting, the log's pin is refused", |one| {
        one.storage.refuse = Some(PinPart::Log);
        (one.replica.clone(), one.session)
    }),
    ("connecting, the primary is damaged", |one| {
        one.storage.history.durable = lsn(80);
        one.storage.history.head = lsn(80);
        (one.replica.clone(), one.session)
    }),
    ("handshake", |one| {
        drop(one.plan(&replica(50)).unwrap());
        (one.replica.clone(), one.session)
    }),
    ("handshake, to be cut", |one| {
        drop(one.plan(&replica(105)).unwrap());
        (one.replica.clone(), one.session)
    }),
    ("catch-up", |one| {
        drop(one.plan(&replica(50)).unwrap());
        let range = LsnRange::new(lsn(50), lsn(100));
        one.orchestrator
            .begin_catch_up(call(&one.replica, one.session), range)
            .unwrap();
        (one.replica.clone(), one.session)
    }),
    ("stream", |one| {
        one.plan(&replica(100)).unwrap();
        (one.replica.clone(), one.session)
    }),
    ("rebuild, connecting", |one| {
        let rebuild = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
        one.session = one.orchestrator.assign(&rebuild, T0).superseded[0].2;
        one.orchestrator
            .connect(call(&one.replica, one.session))
            .unwrap();
        (one.replica.clone(), one.session)
    }),
    ("rebuild, the base's pin is refused", |one| {
        let (_, put) = POSITIONS[POSITIONS.len() - 3];
        one.storage.refuse = Some(PinPart::FullBase);
        put(one)
    }),
    ("rebuild, source selected", |one| {
        let (_, put) = POSITIONS[POSITIONS.len() - 3];
        let at = put(one);
        drop(one.plan_rebuild(50, Asked::Any).unwrap());
        at
    }),
];

/// Events of the orchestrator that say no. Its transitions have events of their own.
fn says_no(what: &What) -> bool {
    let name = what.name();
    let ends = [
        "-failed",
        "-refused",
        "-rejected",
        "-deferred",
        "-escalated",
    ];
    ends.iter().any(|end| name.ends_with(end))
}

#[test]
fn every_refusal_of_every_call_leaves_exactly_one_event() {
    let mut refused = 0;
    for (position, put) in POSITIONS {
        for (name, made) in CALLS {
            let mut one = one(Kind::CatchUp, history(100));
            let (replica, session) = put(&mut one);
            let before = one.orchestrator.log.last_seq();
            let status = one.orchestrator.registry.status();
            let result = made(&mut one, call(&replica, session));
            let fresh: Vec<_> = one.orchestrator.log.after(before).collect();
            let no: Vec<_> = fresh.iter().filter(|event| says_no(&event.what)).collect();
            let shown = || format!("{position}: {name}: {result:?}: {fresh:?}");
            assert_eq!(no.len(), usize::from(result.is_err()), "{}", shown());
            if let [no] = no.as_slice() {
                assert_eq!(no.replica.as_ref(), Some(&replica), "{}", shown());
                refused += 1;
            }
            // A call that changed nothing has nothing else to tell.
            if result.is_err() && one.orchestrator.registry.status() == status {
                assert_eq!(fresh.len(), 1, "{}", shown());
            }
        }
    }
    assert!(refused > POSITIONS.len() * CALLS.len() / 2, "{refused}");
}

#[test]
fn a_stale_call_changes_nothing_but_the_log() {
    for (position, put) in &POSITIONS[..6] {
        for (name, made) in CALLS {
            let current = ["attach", "restore"].contains(name);
            if current && *position != "unknown replica" {
                continue;
            }
            let mut one = one(Kind::CatchUp, history(100));
            let (replica, session) = put(&mut one);
            let before = one.orchestrator.log.last_seq();
            let status = one.orchestrator.registry.status();
            let result = made(&mut one, call(&replica, session));
            assert!(result.is_err(), "{position}: {name}");
            assert_eq!(one.orchestrator.log.last_seq(), before + 1);
            let now = one.orchestrator.registry.status();
            assert_eq!(now, status, "{position}: {name}");
            assert_eq!(one.held(), 0, "{position}: {name}");
        }
    }
}

#[test]
fn a_stale_epoch_changes_nothing_but_the_log() {
    let mut one = one(Kind::CatchUp, history(100));
    one.orchestrator.advance_epoch(Epoch::new(3), T0);
    let status = one.orchestrator.registry.status();
    let before = one.orchestrator.log.last_seq();
    assert_eq!(one.orchestrator.advance_epoch(Epoch::new(2), T0), 0);
    let stale = Assignment::of(listed(&["r2"]), Epoch::new(2));
    one.orchestrator.assign(&stale, T0);
    assert_eq!(one.orchestrator.registry.status(), status);
    let fresh = one.orchestrator.log.after(before);
    let names: Vec<_> = fresh.map(|event| event.what.name()).collect();
    assert_eq!(names, ["epoch-refused", "assignment-refused"]);
}

#[test]
fn every_public_call_is_walked_here() {
    let sources = [
        include_str!("../../orchestrator.rs"),
        include_str!("../../planner.rs"),
    ];
    let lines = sources.iter().flat_map(|source| source.lines());
    let public = lines.filter_map(|line| line.trim_start().strip_prefix("pub "));
    let names = public.filter_map(|line| line.trim_start_matches("const ").strip_prefix("fn "));
    let mut found = 0;
    for name in names {
        let end = name.find(['(', '<']).expect("a function has arguments");
        let name = &name[..end];
        let walked = CALLS.iter().any(|(called, _)| *called == name);
        assert!(walked || WITHOUT_RESULT.contains(&name), "{name} is not");
        found += 1;
    }
    assert_eq!(found, CALLS.len() + WITHOUT_RESULT.len());
}
