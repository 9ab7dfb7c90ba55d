use super::*;
use crate::failure::{Cancelled, Disposition};
use crate::id::SessionIds;
use crate::outcome::{Source, SourceKind, WhyFull};
use crate::testing::lsn;

mod matrix;

fn session(kind: Kind, budget: Budget) -> Session {
    let id = SessionIds::new(1).next_id();
    let options = SessionOptions { kind, budget };
    Session::new(id, ReplicaId::new("r1"), Epoch::new(1), options)
}

fn catch_up() -> Session {
    session(Kind::CatchUp, Budget::UNBOUNDED)
}

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(lsn(after), lsn(through))
}

fn handshake(after: u64, through: u64) -> Event {
    Event::Handshake {
        range: range(after, through),
        truncate_to: None,
    }
}

const BEGIN: Event = Event::BeginCatchUp { now: Tick(0) };

fn sent(through: u64) -> Event {
    Event::Sent {
        through: lsn(through),
        bytes: 4096,
    }
}

fn progress(through: u64) -> Event {
    Event::Progress {
        through: lsn(through),
        at: Some(Tick(1)),
    }
}

fn invalidate() -> Event {
    Event::Invalidate(Invalidation::EndpointChanged)
}

/// A session after these events, all of which succeed.
fn after(mut session: Session, events: impl IntoIterator<Item = Event>) -> Session {
    for event in events {
        session.on(event).unwrap();
    }
    session
}

/// A catch-up over (after, through] that has begun and sent everything.
fn running(after_lsn: u64, through: u64) -> Session {
    let events = [
        Event::Connect,
        handshake(after_lsn, through),
        BEGIN,
        sent(through),
    ];
    after(catch_up(), events)
}

#[track_caller]
fn refused(session: &Session, event: Event) -> Failure {
    let mut copy = session.clone();
    let failure = copy.on(event).unwrap_err();
    assert_eq!(&copy, session, "a refused step changes nothing");
    failure
}

fn wrong_phase(step: Step, phase: &'static str) -> Failure {
    Failure::WrongPhase { step, phase }
}

// A069
#[test]
fn a_session_goes_from_init_to_completed() {
    let mut session = catch_up();
    let mut phases = vec![session.phase().name()];
    for event in [
        Event::Connect,
        handshake(50, 100),
        BEGIN,
        sent(100),
        progress(100),
        Event::Complete,
    ] {
        session.on(event).unwrap();
        phases.push(session.phase().name());
    }
    phases.dedup();
    assert_eq!(
        phases,
        ["init", "connecting", "handshake", "catchup", "completed"]
    );
    assert_eq!(*session.phase(), Phase::Completed { at: lsn(100) });
}

// A070, A071
#[test]
fn no_phase_is_skipped() {
    let init = catch_up();
    assert_eq!(
        refused(&init, BEGIN),
        wrong_phase(Step::BeginCatchUp, "init")
    );
    assert_eq!(
        refused(&init, Event::Complete),
        wrong_phase(Step::Complete, "init")
    );
    assert_eq!(
        refused(&init, handshake(0, 10)),
        wrong_phase(Step::Handshake, "init")
    );
    assert_eq!(
        refused(&init, progress(5)),
        wrong_phase(Step::Progress, "init")
    );
    let connecting = after(catch_up(), [Event::Connect]);
    assert_eq!(
        refused(&connecting, BEGIN),
        wrong_phase(Step::BeginCatchUp, "connecting")
    );
}

// A072
#[test]
fn an_invalidated_session_keeps_its_first_reason_and_goes_nowhere() {
    let over = after(running(50, 100), [invalidate()]);
    let again = after(
        over.clone(),
        [Event::Invalidate(Invalidation::SenderStopped)],
    );
    assert_eq!(again, over);
    let reason = Box::new(Invalidation::EndpointChanged);
    assert_eq!(*over.phase(), Phase::Invalidated(reason));
    for event in [
        Event::Connect,
        handshake(0, 1),
        BEGIN,
        progress(60),
        Event::Complete,
    ] {
        let step = event.step();
        assert_eq!(refused(&over, event), wrong_phase(step, "invalidated"));
    }
}

// A073
#[test]
fn a_range_that_ends_before_it_begins_is_refused() {
    let connecting = after(catch_up(), [Event::Connect]);
    let range = range(20, 5);
    assert_eq!(
        refused(&connecting, handshake(20, 5)),
        Failure::ReversedRange { range }
    );
}

// A075
#[test]
fn progress_only_goes_forward() {
    let session = after(running(0, 100), [progress(50)]);
    for lsn_ in [30, 50] {
        let (lsn, reached) = (lsn(lsn_), lsn(50));
        assert_eq!(
            refused(&session, progress(lsn_)),
            Failure::NoProgress { lsn, reached }
        );
    }
    after(session, [progress(60)]);
}

// A076, A077
#[test]
fn completion_needs_the_target() {
    let target = lsn(10);
    let session = after(running(0, 10), [progress(9)]);
    let reached = lsn(9);
    assert_eq!(
        refused(&session, Event::Complete),
        Failure::NotConverged { reached, target }
    );
    after(session, [progress(10), Event::Complete]);

    let gap = after(catch_up(), [Event::Connect, handshake(5, 20)]);
    assert_eq!(
        refused(&gap, Event::Complete),
        Failure::NotConverged {
            reached: lsn(5),
            target: lsn(20),
        }
    );
    let half = after(running(0, 100), [progress(50)]);
    assert_eq!(
        refused(&half, Event::Complete),
        Failure::NotConverged {
            reached: lsn(50),
            target: lsn(100),
        }
    );
}

// A078
#[test]
fn an_empty_range_completes_from_the_handshake() {
    let session = after(
        catch_up(),
        [Event::Connect, handshake(10, 10), Event::Complete],
    );
    assert_eq!(*session.phase(), Phase::Completed { at: lsn(10) });
}

// A084
#[test]
fn a_completed_session_accepts_nothing_more() {
    let session = after(running(0, 10), [progress(10), Event::Complete]);
    assert_eq!(
        refused(&session, progress(10)),
        wrong_phase(Step::Progress, "completed")
    );
    assert_eq!(
        refused(&session, invalidate()),
        wrong_phase(Step::Invalidate, "completed")
    );
}

// A093, A094
#[test]
fn the_target_is_frozen_with_or_without_a_budget() {
    let limited = Budget {
        records_max: Some(1000),
        ..Budget::UNBOUNDED
    };
    for budget in [Budget::UNBOUNDED, limited] {
        let events = [Event::Connect, handshake(50, 100), BEGIN];
        let begun = after(session(Kind::CatchUp, budget), events);
        let (lsn_101, target) = (lsn(101), lsn(100));
        assert!(
            matches!(begun.phase(), Phase::CatchUp { range, .. } if range.through == target),
            "{begun:?}"
        );
        let beyond = Failure::BeyondTarget {
            lsn: lsn_101,
            target,
        };
        assert_eq!(refused(&begun, sent(101)), beyond);
        let begun = after(begun, [sent(100), progress(80), progress(100)]);
        assert_eq!(refused(&begun, progress(101)), beyond);
        let Phase::CatchUp { range, .. } = begun.phase() else {
            panic!("still catching up: {begun:?}");
        };
        assert_eq!(range.through, target);
    }
}

fn violation(session: &Session, now: u64) -> Option<Violation> {
    session.check_budget(Tick(now), Peer::Answers)
}

fn limited(budget: Budget, after_lsn: u64, through: u64, begin: u64) -> Session {
    let now = Tick(begin);
    let events = [
        Event::Connect,
        handshake(after_lsn, through),
        Event::BeginCatchUp { now },
        sent(through),
    ];
    after(session(Kind::CatchUp, budget), events)
}

// A095, A096, A097
#[test]
fn records_are_counted_from_where_the_replica_already_is() {
    for (max, after_lsn, through, spent, exceeded) in [
        (50, 70, 100, 30, false),
        (20, 70, 100, 30, true),
        (20, 0, 20, 20, false),
        (20, 0, 21, 21, true),
    ] {
        let budget = Budget {
            records_max: Some(max),
            ..Budget::UNBOUNDED
        };
        let session = after(limited(budget, after_lsn, 100, 0), [progress(through)]);
        let expected = exceeded.then_some(Violation::Records { spent, max });
        assert_eq!(violation(&session, 1), expected);
        let Phase::CatchUp { tracker, .. } = session.phase() else {
            panic!("still catching up: {session:?}");
        };
        assert_eq!(tracker.records(), spent);
    }
}

#[test]
fn bytes_are_counted_as_they_are_sent() {
    let budget = Budget {
        bytes_max: Some(4096),
        ..Budget::UNBOUNDED
    };
    let events = [Event::Connect, handshake(0, 100), BEGIN, sent(1)];
    let one = after(session(Kind::CatchUp, budget), events);
    assert_eq!(violation(&one, 1), None);
    let two = after(one, [sent(2)]);
    let (spent, max) = (8192, 4096);
    assert_eq!(violation(&two, 1), Some(Violation::Bytes { spent, max }));
}

// A101
#[test]
fn a_stall_is_measured_from_the_last_progress() {
    let budget = Budget {
        stall_ticks_max: Some(5),
        ..Budget::UNBOUNDED
    };
    let at = Some(Tick(12));
    let through = lsn(20);
    let session = after(
        limited(budget, 0, 100, 10),
        [Event::Progress { through, at }],
    );
    assert_eq!(violation(&session, 17), None);
    let stalled = Violation::Stalled { spent: 6, max: 5 };
    assert_eq!(violation(&session, 18), Some(stalled));
    assert_eq!(session.check_budget(Tick(1000), Peer::Silent), None);
}

// A104
#[test]
fn progress_without_a_tick_is_refused_under_a_stall_budget() {
    let budget = Budget {
        stall_ticks_max: Some(5),
        ..Budget::UNBOUNDED
    };
    let session = limited(budget, 0, 100, 0);
    let through = lsn(10);
    assert_eq!(
        refused(&session, Event::Progress { through, at: None }),
        Failure::TickMissing { lsn: through }
    );
    after(session, [progress(10)]);
    let unlimited = running(0, 100);
    after(unlimited, [Event::Progress { through, at: None }]);
}

// A109
#[test]
fn what_was_never_sent_is_never_progress() {
    let session = after(
        catch_up(),
        [Event::Connect, handshake(0, 100), BEGIN, sent(10)],
    );
    let (lsn, sent) = (lsn(11), lsn(10));
    assert_eq!(
        refused(&session, progress(11)),
        Failure::BeyondSent { lsn, sent }
    );
    let session = after(session, [progress(10)]);
    assert_eq!(
        refused(&session, Event::Complete),
        Failure::NotConverged {
            reached: sent,
            target: crate::testing::lsn(100),
        }
    );
}

fn must_cut(to: u64, through: u64) -> Session {
    let cut = Event::Handshake {
        range: range(to, through),
        truncate_to: Some(lsn(to)),
    };
    after(catch_up(), [Event::Connect, cut])
}

fn truncated(to: u64) -> Event {
    Event::Truncated { lsn: lsn(to) }
}

// A110, A111
#[test]
fn completion_waits_for_a_truncation_to_exactly_the_required_lsn() {
    let session = must_cut(100, 100);
    let required = lsn(100);
    assert_eq!(
        refused(&session, Event::Complete),
        Failure::TruncationOutstanding { required }
    );
    assert_eq!(
        refused(&session, truncated(99)),
        Failure::TruncationElsewhere {
            lsn: lsn(99),
            required,
        }
    );
    let session = after(session, [truncated(100), Event::Complete]);
    assert_eq!(*session.phase(), Phase::Completed { at: required });
}

// A112
#[test]
fn a_truncation_that_nobody_asked_for_is_refused() {
    let decided = after(catch_up(), [Event::Connect, handshake(80, 100)]);
    for session in [decided, running(80, 100)] {
        for at in [80, 100] {
            let lsn = lsn(at);
            assert_eq!(
                refused(&session, truncated(at)),
                Failure::TruncationNotRequired { lsn }
            );
        }
    }
}

// A116
#[test]
fn a_truncation_to_before_lsn_1_completes() {
    let session = must_cut(0, 0);
    let required = Lsn::ZERO;
    assert_eq!(
        refused(&session, Event::Complete),
        Failure::TruncationOutstanding { required }
    );
    let session = after(session, [truncated(0), Event::Complete]);
    assert_eq!(*session.phase(), Phase::Completed { at: Lsn::ZERO });
}

// H21: the divergent LSNs are still occupied.
#[test]
fn nothing_is_sent_or_counted_before_the_replica_has_cut() {
    let session = after(must_cut(90, 100), [BEGIN]);
    let required = lsn(90);
    for event in [sent(95), progress(95), Event::Complete] {
        assert_eq!(
            refused(&session, event),
            Failure::TruncationOutstanding { required }
        );
    }
    after(
        session,
        [truncated(90), sent(100), progress(100), Event::Complete],
    );
}

fn rebuilding() -> Session {
    let session = session(Kind::Rebuild, Budget::UNBOUNDED);
    after(session, [Event::Connect, handshake(0, 100)])
}

fn select_source() -> Event {
    let source = Source {
        kind: SourceKind::FullBase {
            why: WhyFull::NoBase,
        },
        target: lsn(100),
    };
    Event::Rebuild(rebuild::Event::SelectSource {
        source,
        now: Tick(0),
    })
}

// A124
#[test]
fn a_rebuild_session_refuses_every_call_of_catch_up() {
    let kind = Kind::Rebuild;
    for event in [BEGIN, sent(1), progress(1), truncated(1), Event::Complete] {
        let step = event.step();
        assert_eq!(
            refused(&rebuilding(), event),
            Failure::WrongKind { step, kind }
        );
    }
}

// A125
#[test]
fn a_catch_up_session_refuses_source_selection() {
    for kind in [Kind::Bootstrap, Kind::CatchUp, Kind::Reassign] {
        let events = [Event::Connect, handshake(0, 100)];
        let session = after(session(kind, Budget::UNBOUNDED), events);
        let step = Step::Rebuild;
        assert_eq!(
            refused(&session, select_source()),
            Failure::WrongKind { step, kind }
        );
    }
}

// A126
#[test]
fn source_selection_before_connect_and_handshake_is_refused() {
    let session = session(Kind::Rebuild, Budget::UNBOUNDED);
    assert_eq!(
        refused(&session, select_source()),
        wrong_phase(Step::Rebuild, "init")
    );
    let connecting = after(session, [Event::Connect]);
    assert_eq!(
        refused(&connecting, select_source()),
        wrong_phase(Step::Rebuild, "connecting")
    );
}

// A170
#[test]
fn a_copy_shows_the_source_and_stays_in_phase_handshake() {
    let select = |kind| {
        let (target, now) = (lsn(100), Tick(0));
        let source = Source { kind, target };
        Event::Rebuild(rebuild::Event::SelectSource { source, now })
    };
    let (base, why) = (lsn(50), WhyFull::NoBase);
    for (kind, name) in [
        (SourceKind::SnapshotTail { base }, "snapshot-tail"),
        (SourceKind::FullBase { why }, "full-base"),
    ] {
        let session = after(rebuilding(), [select(kind)]);
        assert_eq!(session.phase().name(), "handshake");
        let Phase::Rebuilding { machine, .. } = session.phase() else {
            panic!("rebuilding: {session:?}");
        };
        assert_eq!(machine.phase().name(), "source-select");
        let source = machine.phase().source().expect("a source");
        assert_eq!((source.name(), source.target), (name, lsn(100)));
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let session = catch_up();
    assert_eq!(refused(&session, BEGIN).disposition(), Disposition::Retry);
    let cancelled = Invalidation::ExecutorCancelled(Cancelled::ByRequest);
    assert_eq!(cancelled.to_string(), "executor-cancelled: by-request");
}

/// Every phase of a session that is no rebuild, and every event.
#[test]
fn the_verdict_of_every_pair_of_phase_and_event_is_as_written_down() {
    let phases = [
        catch_up(),
        after(catch_up(), [Event::Connect]),
        after(catch_up(), [Event::Connect, handshake(50, 100)]),
        running(50, 100),
        after(running(50, 100), [progress(100), Event::Complete]),
        after(catch_up(), [invalidate()]),
        rebuilding(),
    ];
    let events = || {
        [
            Event::Connect,
            handshake(50, 100),
            BEGIN,
            sent(100),
            progress(100),
            truncated(50),
            Event::Complete,
            select_source(),
            invalidate(),
        ]
    };
    let mut table = String::new();
    for session in &phases {
        for event in events() {
            let mut copy = session.clone();
            let kind = match session.kind() {
                Kind::Rebuild => "rebuild ",
                Kind::Bootstrap | Kind::CatchUp | Kind::Reassign => "",
            };
            let (phase, step) = (session.phase().name(), event.step());
            let verdict = match copy.on(event) {
                Ok(()) => format!("-> {}", copy.phase().name()),
                Err(Failure::WrongPhase { .. }) => "refused".to_owned(),
                Err(Failure::WrongKind { .. }) => "refused by kind".to_owned(),
                Err(failure) => format!("refused: {failure}"),
            };
            table.push_str(&format!("{kind}{phase} | {step} | {verdict}\n"));
        }
    }
    assert_eq!(table, include_str!("verdicts.txt"));
}
