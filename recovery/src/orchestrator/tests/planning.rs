//! Plans and their pins (1.20).

use super::*;
use crate::outcome::Verdict;

// A173
#[test]
fn a_catch_up_plan_holds_one_log_pin_and_its_proof() {
    let mut one = one(Kind::CatchUp, history(100).tail(30));
    let plan = one.plan(&replica(70)).unwrap();
    let range = LsnRange::new(lsn(70), lsn(100));
    let truncate_to = None;
    assert_eq!(plan.work, Work::CatchUp { range, truncate_to });
    assert_eq!(plan.proof.recoverable(), Recoverable::Yes);
    assert_eq!(plan.with_pin(|pin| pin.after), Some(lsn(70)));
    assert_eq!(one.held(), 1);
    assert!(plan.release());
    assert_eq!(one.held(), 0);
    // A184
    assert!(!plan.release());
    drop(plan);
    assert_eq!(one.storage.count.dropped(), 1);
    assert!(one.has("plan-catchup"));
}

// A176, A177
#[test]
fn a_refused_log_pin_ends_the_session_and_disconnects() {
    let mut one = one(Kind::CatchUp, history(100));
    one.storage = TestStorage::refusing(history(100), PinPart::Log);
    let refused = PinRefused {
        part: PinPart::Log,
        at: lsn(70),
        why: PinRefusal::Policy,
    };
    let failure = one.plan(&replica(70)).unwrap_err();
    assert_eq!(failure, Failure::PinRefused(refused));
    assert!(one.has("wal-pin-failed"));
    assert!(one.session_is_over());
    assert_eq!(one.state(), State::Disconnected);
    assert_eq!(one.held(), 0);
}

// A178, A180, A183, A187
#[test]
fn a_refused_rebuild_pin_ends_the_session_and_leaves_the_mark() {
    for (base, part, event, given) in [
        (Some(50), PinPart::Snapshot, "snapshot-pin-failed", 0),
        (Some(50), PinPart::Log, "snapshot-pin-failed", 1),
        (None, PinPart::FullBase, "full-base-pin-failed", 0),
    ] {
        let history = match base {
            Some(base) => history(100).base(base),
            None => history(100),
        };
        let mut one = one(Kind::Rebuild, history.clone());
        one.storage = TestStorage::refusing(history, part);
        let failure = one.plan_rebuild(10, Asked::Any).unwrap_err();
        let Failure::PinRefused(refused) = failure else {
            panic!("a refused pin: {failure}");
        };
        assert_eq!(refused.part, part);
        assert!(one.has(event), "{event}");
        assert!(one.session_is_over());
        assert_eq!(one.state(), State::NeedsRebuild);
        assert_eq!(one.held(), 0, "no part is held when another fails");
        let dropped = one.storage.count.dropped();
        assert_eq!(dropped, given, "parts that were held before {part:?}");
    }
}

// A179
#[test]
fn a_full_base_plan_holds_one_pin() {
    let mut one = one(Kind::Rebuild, history(100));
    let plan = one.plan_rebuild(10, Asked::Any).unwrap();
    assert_eq!(plan.with_pin(|pin| pin.after), Some(lsn(100)));
    assert_eq!(one.held(), 1);
    plan.release();
    assert_eq!(one.held(), 0);
}

// A181, A185
#[test]
fn a_truncate_only_plan_holds_no_pin_and_completes() {
    let mut one = one(Kind::CatchUp, history(100));
    let plan = one.plan(&replica(105)).unwrap();
    assert_eq!(plan.work, Work::TruncateOnly { to: lsn(100) });
    assert_eq!(one.held(), 0);
    let at = call(&one.replica, one.session);
    // A115
    assert_eq!(
        one.orchestrator.complete(at, &mut one.storage),
        Err(Failure::TruncationOutstanding { required: lsn(100) })
    );
    assert!(one.has("completion-rejected"));
    // A114
    one.orchestrator.truncated(at, lsn(100)).unwrap();
    one.orchestrator.complete(at, &mut one.storage).unwrap();
    assert_eq!(one.state(), State::InSync);
    assert!(one.has("truncation-recorded"));
    assert!(one.has("plan-truncate-only"));
}

// A117: refused as unsafe, and escalated.
#[test]
fn a_truncation_that_is_unsafe_escalates_to_needs_rebuild() {
    let reached = |facts: &mut ReplicaFacts| facts.checkpoint = Some(lsn(103));
    let open = |facts: &mut ReplicaFacts| facts.intent = Some(lsn(103));
    for cannot_drop in [reached, open] as [fn(&mut ReplicaFacts); 2] {
        let mut one = one(Kind::CatchUp, history(100));
        let mut facts = replica(105);
        cannot_drop(&mut facts);
        let plan = one.plan(&facts).unwrap();
        assert_eq!(plan.work, Work::NeedsRebuild);
        assert_eq!(plan.proof.reason.name(), "unsafe-truncation");
        assert_eq!(one.state(), State::NeedsRebuild);
        assert!(one.session_is_over() && one.has("escalated"));
        let at = call(&one.replica, one.session);
        let refused = one.orchestrator.truncated(at, lsn(100));
        assert!(matches!(refused, Err(Failure::NoSession { .. })));
    }
}

// A182
#[test]
fn a_rebuild_plan_carries_the_proof_even_of_a_replica_that_could_catch_up() {
    let mut one = one(Kind::Rebuild, history(100).tail(50).base(40));
    let plan = one.plan_rebuild(60, Asked::Any).unwrap();
    assert_eq!(plan.proof.recoverable(), Recoverable::Yes);
    let Work::Rebuild { source } = plan.work else {
        panic!("a rebuild: {:?}", plan.work);
    };
    assert_eq!(source.name(), "full-base");
}

// A186
#[test]
fn a_rebuild_is_not_planned_for_a_stranger_without_a_session_or_in_another_kind() {
    let mut one = one(Kind::CatchUp, history(100));
    let (step, kind) = (Step::Rebuild, Kind::CatchUp);
    assert_eq!(
        one.plan_rebuild(10, Asked::Any).unwrap_err(),
        Failure::WrongKind { step, kind }
    );
    assert!(one.has("rebuild-source-failed"));
    let at = call(&one.replica, one.session);
    one.orchestrator.link_lost(at, Link::Closed).unwrap();
    let replica_id = one.replica.clone();
    assert_eq!(
        one.plan_rebuild(10, Asked::Any).unwrap_err(),
        Failure::NoSession {
            replica: replica_id
        }
    );
    one.replica = id("r9");
    let replica_id = one.replica.clone();
    assert_eq!(
        one.plan_rebuild(10, Asked::Any).unwrap_err(),
        Failure::UnknownReplica {
            replica: replica_id
        }
    );
    assert_eq!(one.held(), 0);
}

// A190
#[test]
fn a_plan_keeps_its_source_whatever_storage_does_afterwards() {
    let mut one = one(Kind::Rebuild, history(100).base(50));
    let plan = one.plan_rebuild(10, Asked::Any).unwrap();
    let planned = plan.work;
    one.storage.history = history(200).tail(150).base(150);
    assert_eq!(plan.work, planned);
    let sender = one.orchestrator.registry.sender(&one.replica).unwrap();
    let session = sender.view().session.expect("the session");
    let Phase::Rebuilding { machine, .. } = session.phase() else {
        panic!("rebuilding: {session:?}");
    };
    let Work::Rebuild { source } = planned else {
        panic!("a rebuild: {planned:?}");
    };
    assert_eq!(machine.phase().source(), Some(source));
    assert_eq!(
        (source.snapshot(), source.target),
        (Some(lsn(50)), lsn(100))
    );
    // What is carried out is what was planned: 50 from the base, then the tail through 100.
    let at = call(&one.replica, one.session);
    let o = &mut one.orchestrator;
    o.begin_transfer(at, Install::Beside).unwrap();
    let elsewhere = o.base_verified(at, lsn(150), EQUAL).unwrap_err();
    assert!(matches!(elsewhere, Failure::BeyondTarget { .. }));
    o.base_verified(at, lsn(50), EQUAL).unwrap();
    o.begin_tail(at).unwrap();
    let beyond = o.tail_progress(at, lsn(200)).unwrap_err();
    assert!(matches!(beyond, Failure::BeyondTarget { .. }));
    o.tail_progress(at, lsn(100)).unwrap();
    let reached = o.complete_rebuild(at, EQUAL, &mut one.storage);
    assert_eq!(reached, Ok(lsn(100)));
}

// A194: the tail passes the start between reading the history and taking the pin.
#[test]
fn a_tail_that_moves_under_the_planner_is_decided_again() {
    let mut one = one(Kind::CatchUp, history(100).tail(30));
    one.storage.moves = vec![history(100).tail(80)];
    let plan = one.plan(&replica(70)).unwrap();
    assert_eq!(plan.work, Work::NeedsRebuild);
    assert!(
        matches!(plan.proof.reason, Reason::BeyondRetention { tail, .. } if tail == lsn(80)),
        "{:?}",
        plan.proof
    );
    assert_eq!(one.held(), 0);
}

#[test]
fn committed_may_rise_under_the_planner_and_the_plan_aims_at_the_newest() {
    let mut one = one(Kind::CatchUp, history(100));
    one.storage.moves = vec![history(120)];
    let plan = one.plan(&replica(70)).unwrap();
    let range = LsnRange::new(lsn(70), lsn(120));
    let truncate_to = None;
    assert_eq!(plan.work, Work::CatchUp { range, truncate_to });
}

#[test]
fn a_history_that_never_stands_still_gives_no_plan_and_no_pin() {
    let mut one = one(Kind::Rebuild, history(100).base(1));
    // Newest last: the base moves on before every pin, and the log with it.
    let moving = |n: u64| history(100).tail(n).base(n);
    one.storage.moves = (2..40).rev().map(moving).collect();
    let failure = one.plan_rebuild(0, Asked::Any).unwrap_err();
    assert!(matches!(failure, Failure::HistoryMoved { .. }), "{failure}");
    assert_eq!(one.held(), 0);
    one.storage.moves.clear();
    one.plan_rebuild(0, Asked::Any)
        .expect("the session goes on and may be planned again");
}

// A195
#[test]
fn a_plan_that_is_dropped_gives_its_pin_back() {
    let mut one = one(Kind::CatchUp, history(100));
    drop(one.plan(&replica(70)).unwrap());
    assert_eq!(one.held(), 0);
    assert_eq!(one.storage.count.dropped(), 1);
}

// A196
#[test]
fn an_invalidated_session_takes_the_pin_from_its_plan() {
    let mut one = one(Kind::CatchUp, history(100));
    let plan = one.plan(&replica(70)).unwrap();
    let at = call(&one.replica, one.session);
    one.orchestrator.link_lost(at, Link::Silence).unwrap();
    assert!(!plan.is_pinned());
    assert_eq!(plan.with_pin(|pin| pin.after), None);
    assert_eq!(one.held(), 0);
}

// A237
#[test]
fn a_full_base_that_was_asked_for_says_so() {
    for (asked, expected) in [(Asked::FullBase, None), (Asked::Any, Some(lsn(50)))] {
        let mut one = one(Kind::Rebuild, history(100).base(50));
        let plan = one.plan_rebuild(10, asked).unwrap();
        let Work::Rebuild { source } = plan.work else {
            panic!("a rebuild: {:?}", plan.work);
        };
        assert_eq!(source.snapshot(), expected);
        if expected.is_none() {
            let why = WhyFull::Requested;
            assert_eq!(source.kind, SourceKind::FullBase { why });
            assert!(one.has("plan-rebuild-full-base"));
        }
    }
}

// D1: it may be neither cut nor rebuilt before we are confirmed, and we may need it for that.
#[test]
fn a_replica_to_rebuild_that_has_to_wait_acknowledges_what_it_shares() {
    let cases = [
        (false, false, Standing::Confirmed),
        (true, false, Standing::Confirmed),
        (true, true, Standing::Unconfirmed),
    ];
    for (marked, knows, standing) in cases {
        let r1 = id("r1");
        let mut orchestrator = reopened(&["r1"], 100);
        orchestrator.restore(&r1, marked, None, T0).unwrap();
        let mut storage = TestStorage::new(history(100).committed(90));
        let session = orchestrator.connected(&r1, Kind::Rebuild);
        let mut ahead = replica(101).with_lineage(&[(1, 1, 1), (1, 3, 101)]);
        ahead.needs_rebuild = knows;
        let asked = Asked::FullBase;
        let failure = orchestrator
            .plan_rebuild(call(&r1, session), &ahead, asked, &mut storage)
            .unwrap_err();
        let Failure::NotYet(decision) = failure else {
            panic!("{failure}");
        };
        assert_eq!(decision.verdict, Verdict::NotYet { fetch: None });
        assert_eq!(orchestrator.ledger.standing(), standing, "marked: {marked}");
    }
}
