//! Every way out between any two steps of every plan (1.20, A188): whatever ends a session, and
//! wherever, nothing is held afterwards, each pin was given up once, one event tells the end, and
//! no later step of the same session has an effect.

use super::*;
use crate::rebuild::Chunks;

/// One call of an executor.
type Step = (&'static str, fn(&mut One, Call<'_>) -> Result<(), Failure>);

/// What can happen to a session while its plan is carried out. `ends` is what it makes of the
/// plan and the orchestrator.
type End = (&'static str, fn(&mut One, Plan<TestPin>));

/// A plan, how it is made, and its steps in order.
struct Script {
    name: &'static str,
    plan: fn() -> (One, Plan<TestPin>),
    steps: Vec<Step>,
}

fn at(one: &One) -> (ReplicaId, SessionId) {
    (one.replica.clone(), one.session)
}

fn complete(one: &mut One, call: Call<'_>) -> Result<(), Failure> {
    let done = one.orchestrator.complete(call, &mut one.storage);
    done.map(drop)
}

fn complete_rebuild(one: &mut One, call: Call<'_>) -> Result<(), Failure> {
    let storage = &mut one.storage;
    let done = one.orchestrator.complete_rebuild(call, EQUAL, storage);
    done.map(drop)
}

fn catch_up() -> (One, Plan<TestPin>) {
    let mut one = one(Kind::CatchUp, history(100).tail(30));
    let plan = one.plan(&replica(50)).unwrap();
    assert!(matches!(
        plan.work,
        Work::CatchUp {
            truncate_to: None,
            ..
        }
    ));
    (one, plan)
}

fn forked() -> (One, Plan<TestPin>) {
    let ours = history(100).with_lineage(&[(1, 1, 1), (2, 2, 61)]);
    let mut one = one(Kind::CatchUp, ours);
    let plan = one.plan(&replica(80)).unwrap();
    let truncated = Work::CatchUp {
        range: seawall_wal::LsnRange::new(lsn(60), lsn(100)),
        truncate_to: Some(lsn(60)),
    };
    assert_eq!(plan.work, truncated);
    (one, plan)
}

fn ahead() -> (One, Plan<TestPin>) {
    let mut one = one(Kind::CatchUp, history(100));
    let plan = one.plan(&replica(105)).unwrap();
    assert_eq!(plan.work, Work::TruncateOnly { to: lsn(100) });
    (one, plan)
}

fn snapshot_tail() -> (One, Plan<TestPin>) {
    let mut one = one(Kind::Rebuild, history(100).tail(30).base(60));
    let plan = one.plan_rebuild(10, Asked::Any).unwrap();
    let Work::Rebuild { source } = plan.work else {
        panic!("{:?}", plan.work);
    };
    assert_eq!(source.snapshot(), Some(lsn(60)));
    (one, plan)
}

fn full_base() -> (One, Plan<TestPin>) {
    let mut one = one(Kind::Rebuild, history(100).tail(30).base(60));
    let plan = one.plan_rebuild(10, Asked::FullBase).unwrap();
    (one, plan)
}

const BEGIN: Step = ("begin", |one, call| {
    let range = seawall_wal::LsnRange::new(lsn(50), lsn(100));
    one.orchestrator.begin_catch_up(call, range)
});
const BUDGET: Step = ("budget", |one, call| {
    one.orchestrator.check_budget(call, Peer::Answers)
});
const SENT: Step = ("sent 100", |one, call| {
    one.orchestrator.sent(call, lsn(100), 4096)
});
const ACKNOWLEDGED: Step = ("acknowledged 100", |one, call| {
    one.orchestrator.progress(call, lsn(100))
});
const COMPLETE: Step = ("complete", complete);
const TRANSFER: Step = ("transfer", |one, call| {
    one.orchestrator.begin_transfer(call, Install::Beside)
});
const CHUNKS: Step = ("chunks", |one, call| {
    let moved = Chunks {
        sent: 3,
        matched: 1,
        bytes: 3 << 20,
    };
    one.orchestrator.chunks(call, moved)
});

fn scripts() -> Vec<Script> {
    vec![
        Script {
            name: "catch-up",
            plan: catch_up,
            steps: vec![
                BEGIN,
                ("sent 75", |one, call| {
                    one.orchestrator.sent(call, lsn(75), 4096)
                }),
                BUDGET,
                ("acknowledged 75", |one, call| {
                    one.orchestrator.progress(call, lsn(75))
                }),
                SENT,
                ACKNOWLEDGED,
                COMPLETE,
            ],
        },
        Script {
            name: "truncation and catch-up",
            plan: forked,
            steps: vec![
                ("begin", |one, call| {
                    let range = seawall_wal::LsnRange::new(lsn(60), lsn(100));
                    one.orchestrator.begin_catch_up(call, range)
                }),
                ("truncated", |one, call| {
                    one.orchestrator.truncated(call, lsn(60))
                }),
                SENT,
                ACKNOWLEDGED,
                COMPLETE,
            ],
        },
        Script {
            name: "truncation",
            plan: ahead,
            steps: vec![
                ("truncated", |one, call| {
                    one.orchestrator.truncated(call, lsn(100))
                }),
                COMPLETE,
            ],
        },
        Script {
            name: "snapshot and tail",
            plan: snapshot_tail,
            steps: vec![
                TRANSFER,
                CHUNKS,
                ("base verified", |one, call| {
                    one.orchestrator.base_verified(call, lsn(60), EQUAL)
                }),
                ("begin tail", |one, call| one.orchestrator.begin_tail(call)),
                ("tail 80", |one, call| {
                    one.orchestrator.tail_progress(call, lsn(80))
                }),
                BUDGET,
                ("tail 100", |one, call| {
                    one.orchestrator.tail_progress(call, lsn(100))
                }),
                ("complete", complete_rebuild),
            ],
        },
        Script {
            name: "full base",
            plan: full_base,
            steps: vec![
                TRANSFER,
                CHUNKS,
                BUDGET,
                ("base verified", |one, call| {
                    one.orchestrator.base_verified(call, lsn(100), EQUAL)
                }),
                ("complete", complete_rebuild),
            ],
        },
    ]
}

const ENDS: &[End] = &[
    ("an epoch rises", |one, plan| {
        one.orchestrator.advance_epoch(Epoch::new(2), T0);
        drop(plan);
    }),
    ("the replica is removed", |one, plan| {
        one.orchestrator.assign(&assignment(&[]), T0);
        drop(plan);
    }),
    ("the replica moves", |one, plan| {
        let mut moved = assignment(&["r1"]);
        moved.replicas[0].1.version += 1;
        one.orchestrator.assign(&moved, T0);
        drop(plan);
    }),
    ("another session is asked for", |one, plan| {
        let rebuild = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
        one.orchestrator.assign(&rebuild, T0);
        drop(plan);
    }),
    ("everything stops", |one, plan| {
        one.orchestrator.stop_all(T0);
        drop(plan);
    }),
    ("the link breaks", |one, plan| {
        let (replica, session) = at(one);
        let cause = StreamEnd::LinkLost(Link::Closed);
        let call = call(&replica, session);
        let streams = one.state() == State::InSync;
        match streams {
            true => one.orchestrator.stream_lost(call, cause).unwrap(),
            false => one.orchestrator.link_lost(call, Link::Closed).unwrap(),
        }
        drop(plan);
    }),
    ("a step fails and the plan goes first", |one, plan| {
        drop(plan);
        fail(one);
    }),
    ("a step fails and the plan goes last", |one, plan| {
        fail(one);
        drop(plan);
    }),
    ("the plan is cancelled", |one, plan| {
        let streams = one.state() == State::InSync;
        one.orchestrator.cancel(plan, Cancelled::ByRequest, T0);
        if streams {
            // What became a stream is no plan's any more (A191).
            fail(one);
        }
    }),
    ("the executor panics", |one, plan| {
        let panic = std::panic::AssertUnwindSafe(|| {
            let _plan = plan;
            std::panic::resume_unwind(Box::new("a step panicked"));
        });
        std::panic::catch_unwind(panic).unwrap_err();
        fail(one);
    }),
];

/// As the driver concludes what ended with an error of its own.
fn fail(one: &mut One) {
    let (replica, session) = at(one);
    let call = call(&replica, session);
    if one.state() == State::InSync {
        let cause = StreamEnd::PinBroken;
        return one.orchestrator.stream_lost(call, cause).unwrap();
    }
    let reason = Invalidation::ExecutorCancelled(Cancelled::StepFailed);
    let state = State::Disconnected;
    one.orchestrator.invalidate(call, reason, state).unwrap();
}

/// Events that say that session or stream `session` is over.
fn farewells(one: &One) -> Vec<&'static str> {
    let events = one.orchestrator.log.all();
    let of = events.filter(|event| match event.what {
        What::SessionInvalidated(_) | What::StreamEnded(_) => event.session == Some(one.session),
        _ => false,
    });
    of.map(|event| event.what.name()).collect()
}

// A158, A168, A184, A186, A188
#[test]
fn whatever_ends_a_session_between_two_steps_leaves_nothing_held_and_one_event() {
    for script in scripts() {
        for done in 0..=script.steps.len() {
            for (name, end) in ENDS {
                let story = format!("{}, after {done} steps: {name}", script.name);
                ends(&script, done, *end, &story);
            }
        }
    }
}

fn ends(script: &Script, done: usize, end: fn(&mut One, Plan<TestPin>), story: &str) {
    let (mut one, plan) = (script.plan)();
    let (replica, session) = at(&one);
    for (step, take) in &script.steps[..done] {
        let taken = take(&mut one, call(&replica, session));
        assert_eq!(taken, Ok(()), "{story}: {step}");
    }
    assert_eq!(farewells(&one), [""; 0], "{story}");
    end(&mut one, plan);
    assert_eq!(one.held(), 0, "{story}: a pin is held");
    assert_eq!(farewells(&one).len(), 1, "{story}: {:?}", farewells(&one));
    let sender = one.orchestrator.registry.sender(&replica);
    if let Ok(sender) = sender {
        assert_ne!(sender.session_id(), Some(session), "{story}");
        assert_eq!(sender.stream_id(), None, "{story}");
    }
    let view = |one: &One| {
        let sender = one.orchestrator.registry.sender(&replica);
        sender.ok().map(crate::sender::Sender::view)
    };
    let (before, committed) = (view(&one), one.orchestrator.ledger.committed());
    for (step, take) in &script.steps {
        let refused = take(&mut one, call(&replica, session));
        assert!(refused.is_err(), "{story}: {step} had an effect afterwards");
    }
    assert_eq!(view(&one), before, "{story}: a late step changed something");
    assert_eq!(one.orchestrator.ledger.committed(), committed, "{story}");
    assert_eq!(one.held(), 0, "{story}: a late step took a pin");
    assert_eq!(farewells(&one).len(), 1, "{story}: told twice");
}

// A176, A188
#[test]
fn a_pin_that_is_refused_at_the_end_leaves_the_session_to_be_ended_once() {
    for script in scripts() {
        let (mut one, plan) = (script.plan)();
        let (replica, session) = at(&one);
        let last = script.steps.len() - 1;
        for (step, take) in &script.steps[..last] {
            let taken = take(&mut one, call(&replica, session));
            assert_eq!(taken, Ok(()), "{}: {step}", script.name);
        }
        one.storage.refuse = Some(PinPart::Log);
        let (_, complete) = script.steps[last];
        let completed = complete(&mut one, call(&replica, session));
        if completed.is_err() {
            assert_ne!(one.state(), State::InSync, "{}", script.name);
            if !one.session_is_over() {
                fail(&mut one);
            }
            assert_eq!(farewells(&one).len(), 1, "{}", script.name);
        } else {
            // Its own pin became the stream's: nothing new was asked for.
            assert_eq!(one.held(), 1, "{}", script.name);
            fail(&mut one);
        }
        drop(plan);
        assert_eq!(one.held(), 0, "{}", script.name);
    }
}
