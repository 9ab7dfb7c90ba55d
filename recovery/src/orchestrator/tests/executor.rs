//! A small executor that carries a catch-up plan out in steps, as the driver does, with no socket:
//! step i runs at tick i + 1. Every way out of it leaves no pin behind (A188).

use super::*;
use crate::budget::Violation;

/// Carries out a catch-up in `steps` equal steps.
pub(super) fn run(one: &mut One, plan: Plan<TestPin>, steps: u64) -> Result<Lsn, Failure> {
    run_with(one, plan, steps, |_, _| Ok(()))
}

/// The same, with something that happens after each step.
fn run_with(
    one: &mut One,
    plan: Plan<TestPin>,
    steps: u64,
    mut hook: impl FnMut(&mut Orchestrator<TestPin>, u64) -> Result<(), Failure>,
) -> Result<Lsn, Failure> {
    let result = steps_of(one, &plan, steps, &mut hook);
    if result.is_err() {
        let why = Cancelled::StepFailed;
        one.orchestrator.cancel(plan, why, Tick(steps + 1));
    }
    result
}

fn steps_of(
    one: &mut One,
    plan: &Plan<TestPin>,
    steps: u64,
    hook: &mut impl FnMut(&mut Orchestrator<TestPin>, u64) -> Result<(), Failure>,
) -> Result<Lsn, Failure> {
    let Work::CatchUp { range, truncate_to } = plan.work else {
        panic!("a catch-up: {:?}", plan.work);
    };
    let (replica, session) = (plan.replica.clone(), plan.session);
    let at = |tick| Call {
        now: Tick(tick),
        ..call(&replica, session)
    };
    one.orchestrator.begin_catch_up(at(0), range)?;
    if let Some(to) = truncate_to {
        one.orchestrator.truncated(at(0), to)?;
    }
    for step in 0..steps {
        let tick = step + 1;
        let through = range.after.get() + range.len() * (step + 1) / steps;
        one.orchestrator.sent(at(tick), lsn(through), 4096)?;
        one.orchestrator.progress(at(tick), lsn(through))?;
        hook(&mut one.orchestrator, step)?;
        one.orchestrator.check_budget(at(tick), Peer::Answers)?;
    }
    one.orchestrator.complete(at(steps), &mut one.storage)
}

fn planned(budget: Budget) -> (One, Plan<TestPin>) {
    let replica_id = id("r1");
    let mut orchestrator = orchestrator(&["r1"]);
    let kind = Kind::CatchUp;
    let options = SessionOptions { kind, budget };
    let session = orchestrator.connected_with(&replica_id, options);
    let mut one = One {
        orchestrator,
        storage: TestStorage::new(history(100)),
        replica: replica_id,
        session,
    };
    let plan = one.plan(&replica(50)).unwrap();
    assert_eq!(one.held(), 1);
    (one, plan)
}

// A168, A188
#[test]
fn a_catch_up_that_succeeds_hands_its_pin_to_the_stream() {
    let (mut one, plan) = planned(Budget::UNBOUNDED);
    assert_eq!(run(&mut one, plan, 5), Ok(lsn(100)));
    assert_eq!(one.state(), State::InSync);
    assert_eq!(one.held(), 1, "that of the stream");
    let at = call(&one.replica, one.session);
    let cause = StreamEnd::LinkLost(Link::Closed);
    one.orchestrator.stream_lost(at, cause).unwrap();
    assert_eq!(one.held(), 0);
    assert_eq!(one.storage.count.dropped(), 1, "it was one and the same");
    assert_eq!(
        one.orchestrator.names_of(&one.replica),
        [
            "sender-added",
            "session-created",
            "connected",
            "handshake",
            "plan-catchup",
            "catchup-started",
            "completed",
            "stream-started",
            "stream-ended",
        ]
    );
}

// A188
#[test]
fn a_failure_at_any_step_leaves_no_pin() {
    for failing in 0..5 {
        let (mut one, plan) = planned(Budget::UNBOUNDED);
        let result = run_with(&mut one, plan, 5, |_, step| match step == failing {
            true => Err(Failure::BaseNotVerified),
            false => Ok(()),
        });
        assert_eq!(result, Err(Failure::BaseNotVerified));
        assert_eq!(one.held(), 0);
        assert!(one.session_is_over());
        assert!(one.has("plan-cancelled"));
    }
}

// A167, A188
#[test]
fn a_spent_budget_leaves_no_pin_and_marks_the_replica() {
    let budget = Budget {
        duration_ticks_max: Some(5),
        ..Budget::UNBOUNDED
    };
    let (mut one, plan) = planned(budget);
    let violation = Violation::Duration { spent: 6, max: 5 };
    assert_eq!(run(&mut one, plan, 10), Err(Failure::Budget(violation)));
    assert_eq!(one.held(), 0);
    assert_eq!(one.state(), State::NeedsRebuild);
    assert!(one.has("budget-escalated"));
}

// A158, A188, A189
#[test]
fn an_epoch_rise_after_step_2_stops_at_step_3() {
    let (mut one, plan) = planned(Budget::UNBOUNDED);
    let mut last = None;
    let result = run_with(&mut one, plan, 5, |orchestrator, step| {
        last = Some(step);
        if step == 2 {
            orchestrator.advance_epoch(Epoch::new(2), Tick(3));
        }
        Ok(())
    });
    let replica_id = one.replica.clone();
    assert_eq!(
        result,
        Err(Failure::NoSession {
            replica: replica_id
        })
    );
    assert_eq!(last, Some(2), "no step after the rise");
    assert_eq!(one.held(), 0);
    let mut events = one.orchestrator.log.of(&one.replica);
    let invalidated = events.find(|event| event.what.name() == "session-invalidated");
    let (old, new) = (EPOCH, Epoch::new(2));
    let reason = Invalidation::EpochBump { old, new };
    assert_eq!(
        invalidated.map(|event| &event.what),
        Some(&What::SessionInvalidated(reason))
    );
}

// A191
#[test]
fn a_cancelled_plan_ends_only_its_own_session() {
    let (mut one, plan) = planned(Budget::UNBOUNDED);
    let rebuild = assignment(&["r1"]).recovering(id("r1"), Kind::Rebuild);
    let (_, _, newer) = one.orchestrator.assign(&rebuild, T0).superseded[0].clone();
    assert_eq!(one.held(), 0, "the pin went with the session");
    one.orchestrator.cancel(plan, Cancelled::ByRequest, T0);
    let sender = one.orchestrator.registry.sender(&one.replica).unwrap();
    assert_eq!(sender.session_id(), Some(newer));
    let last = one.orchestrator.log.of(&one.replica).last().unwrap();
    let reason = Invalidation::ExecutorCancelled(Cancelled::ByRequest);
    assert_eq!(last.what, What::PlanCancelled(reason));
}
