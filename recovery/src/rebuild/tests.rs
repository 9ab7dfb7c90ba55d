use super::*;
use crate::outcome::{Asked, SourceKind, WhyFull, rebuild_source};
use crate::testing::{history, lsn};

mod matrix;

fn snapshot_tail(base: u64, target: u64) -> Source {
    Source {
        kind: SourceKind::SnapshotTail { base: lsn(base) },
        target: lsn(target),
    }
}

fn full_base(target: u64) -> Source {
    Source {
        kind: SourceKind::FullBase {
            why: WhyFull::NoBase,
        },
        target: lsn(target),
    }
}

fn select(source: Source) -> Event {
    let now = Tick(0);
    Event::SelectSource { source, now }
}

const BEGIN: Event = Event::BeginTransfer {
    install: Install::Beside,
    now: Tick(1),
};

fn transferred(through: u64) -> Event {
    let through = lsn(through);
    Event::TransferProgress { through }
}

fn tail(through: u64) -> Event {
    Event::TailProgress {
        through: lsn(through),
        now: Tick(2),
    }
}

const EQUAL: Compared = Compared {
    expected: 7,
    found: 7,
};
const DIFFERENT: Compared = Compared {
    expected: 7,
    found: 8,
};
const VERIFIED: Event = Event::BaseVerified(EQUAL);
const COMPLETE: Event = Event::Complete(EQUAL);

fn after(source: Source, events: impl IntoIterator<Item = Event>) -> Rebuild {
    let mut rebuild = Rebuild::new();
    for event in [select(source), BEGIN].into_iter().chain(events) {
        rebuild.on(event).unwrap();
    }
    rebuild
}

#[track_caller]
fn refused(rebuild: &Rebuild, event: Event) -> Failure {
    let mut copy = rebuild.clone();
    let failure = copy.on(event).unwrap_err();
    assert_eq!(&copy, rebuild, "a refused step changes nothing");
    failure
}

fn wrong_phase(step: RebuildStep, phase: &'static str) -> Failure {
    Failure::WrongRebuildPhase { step, phase }
}

fn not_converged(reached: u64, target: u64) -> Failure {
    Failure::NotConverged {
        reached: lsn(reached),
        target: lsn(target),
    }
}

// A118
#[test]
fn snapshot_and_tail_complete_at_the_target() {
    let rebuild = after(
        snapshot_tail(50, 100),
        [
            transferred(50),
            VERIFIED,
            Event::BeginTail,
            tail(75),
            tail(100),
            COMPLETE,
        ],
    );
    assert_eq!(*rebuild.phase(), Phase::Completed { at: lsn(100) });
}

// A062
#[test]
fn the_source_decides_whether_a_tail_follows_the_base() {
    let source = rebuild_source(&history(100).base(50), Asked::Any);
    assert_eq!(source, snapshot_tail(50, 100));
    let whole = [transferred(50), VERIFIED, Event::BeginTail];
    let rebuild = after(source, whole);
    let applied = lsn(50);
    assert_eq!(*rebuild.phase(), Phase::Tail { source, applied });
    assert_eq!(
        refused(&rebuild, tail(50)),
        Failure::NoProgress {
            lsn: lsn(50),
            reached: lsn(50),
        }
    );
    after(
        source,
        [
            transferred(50),
            VERIFIED,
            Event::BeginTail,
            tail(51),
            tail(100),
            COMPLETE,
        ],
    );
    for without in [history(100), history(100).base(50).untrusted()] {
        let source = rebuild_source(&without, Asked::Any);
        assert_eq!((source.snapshot(), source.target), (None, lsn(100)));
        let rebuild = after(source, [transferred(100), VERIFIED]);
        assert_eq!(
            refused(&rebuild, Event::BeginTail),
            wrong_phase(RebuildStep::BeginTail, "transfer")
        );
    }
}

// A119
#[test]
fn the_tail_waits_for_the_whole_base() {
    let rebuild = after(snapshot_tail(50, 100), [transferred(30)]);
    assert_eq!(refused(&rebuild, Event::BeginTail), not_converged(30, 50));
    assert_eq!(refused(&rebuild, VERIFIED), not_converged(30, 50));
    let whole = after(snapshot_tail(50, 100), [transferred(50)]);
    assert_eq!(refused(&whole, Event::BeginTail), Failure::BaseNotVerified);
    after(
        snapshot_tail(50, 100),
        [transferred(50), VERIFIED, Event::BeginTail],
    );
}

// A120
#[test]
fn a_full_base_has_no_tail_and_completes_at_the_target() {
    let half = after(full_base(100), [transferred(50)]);
    assert_eq!(
        refused(&half, Event::BeginTail),
        wrong_phase(RebuildStep::BeginTail, "transfer")
    );
    assert_eq!(refused(&half, COMPLETE), not_converged(50, 100));
    let almost = after(full_base(100), [transferred(99)]);
    assert_eq!(refused(&almost, COMPLETE), not_converged(99, 100));
    let rebuild = after(full_base(100), [transferred(100), VERIFIED, COMPLETE]);
    assert_eq!(*rebuild.phase(), Phase::Completed { at: lsn(100) });
}

// A121
#[test]
fn no_phase_is_skipped() {
    let init = Rebuild::new();
    assert_eq!(
        refused(&init, BEGIN),
        wrong_phase(RebuildStep::BeginTransfer, "init")
    );
    assert_eq!(
        refused(&init, transferred(1)),
        wrong_phase(RebuildStep::TransferProgress, "init")
    );
    let mut selected = Rebuild::new();
    selected.on(select(snapshot_tail(50, 100))).unwrap();
    assert_eq!(
        refused(&selected, Event::BeginTail),
        wrong_phase(RebuildStep::BeginTail, "source-select")
    );
    let tail_at_99 = after(
        snapshot_tail(50, 100),
        [transferred(50), VERIFIED, Event::BeginTail, tail(99)],
    );
    assert_eq!(refused(&tail_at_99, COMPLETE), not_converged(99, 100));
    let base_only = after(snapshot_tail(50, 100), [transferred(50), VERIFIED]);
    assert_eq!(
        refused(&base_only, COMPLETE),
        wrong_phase(RebuildStep::Complete, "transfer")
    );
}

// A122
#[test]
fn base_progress_only_goes_forward() {
    let rebuild = after(full_base(100), [transferred(50)]);
    let (lsn_30, reached) = (lsn(30), lsn(50));
    assert_eq!(
        refused(&rebuild, transferred(30)),
        Failure::NoProgress {
            lsn: lsn_30,
            reached,
        }
    );
}

// A123
#[test]
fn an_aborted_rebuild_keeps_its_reason_and_completes_no_more() {
    let reason = Invalidation::SenderStopped;
    let aborted = after(
        full_base(100),
        [transferred(100), VERIFIED, Event::Abort(reason.clone())],
    );
    assert_eq!(*aborted.phase(), Phase::Aborted(Box::new(reason)));
    assert_eq!(
        refused(&aborted, COMPLETE),
        wrong_phase(RebuildStep::Complete, "aborted")
    );
}

// A132
#[test]
fn both_progresses_are_capped_by_the_frozen_target() {
    let target = lsn(100);
    let in_tail = after(
        snapshot_tail(50, 100),
        [transferred(50), VERIFIED, Event::BeginTail],
    );
    let lsn = lsn(500);
    let beyond = Failure::BeyondTarget { lsn, target };
    assert_eq!(refused(&in_tail, tail(500)), beyond);
    let in_transfer = after(full_base(100), []);
    assert_eq!(refused(&in_transfer, transferred(500)), beyond);
}

// A133
#[test]
fn a_snapshot_at_the_target_needs_no_dummy_record() {
    let rebuild = after(
        snapshot_tail(100, 100),
        [transferred(100), VERIFIED, Event::BeginTail, COMPLETE],
    );
    assert_eq!(*rebuild.phase(), Phase::Completed { at: lsn(100) });
}

// A134
#[test]
fn a_rebuild_to_the_empty_history_still_needs_a_verified_manifest() {
    let rebuild = after(full_base(0), []);
    assert_eq!(refused(&rebuild, COMPLETE), Failure::BaseNotVerified);
    let rebuild = after(full_base(0), [VERIFIED, COMPLETE]);
    assert_eq!(*rebuild.phase(), Phase::Completed { at: lsn(0) });
}

// A135
#[test]
fn a_digest_that_differs_aborts() {
    for (event, what) in [
        (Event::BaseVerified(DIFFERENT), DigestOf::Manifest),
        (Event::Complete(DIFFERENT), DigestOf::State),
    ] {
        let mut rebuild = after(full_base(100), [transferred(100), VERIFIED]);
        let Compared { expected, found } = DIFFERENT;
        assert_eq!(
            rebuild.on(event).unwrap_err(),
            Failure::DigestDiffers {
                what,
                expected,
                found,
            }
        );
        let reason = Box::new(Invalidation::DigestDiffers(what));
        assert_eq!(*rebuild.phase(), Phase::Aborted(reason));
    }
}

#[test]
fn chunks_are_counted_apart_from_the_lsn() {
    let chunks = |sent, matched, bytes| Event::Chunks {
        sent,
        matched,
        bytes,
        now: Tick(3),
    };
    let rebuild = after(full_base(100), [chunks(2, 0, 8), chunks(1, 5, 4)]);
    let expected = Chunks {
        sent: 3,
        matched: 5,
        bytes: 12,
    };
    assert_eq!(rebuild.chunks(), expected);
    assert_eq!(rebuild.tracker().map(Tracker::bytes), Some(12));
    assert_eq!(refused(&rebuild, COMPLETE), not_converged(0, 100));
}

/// Every phase and every event.
#[test]
fn the_verdict_of_every_pair_of_phase_and_event_is_as_written_down() {
    let mut selected = Rebuild::new();
    selected.on(select(full_base(100))).unwrap();
    let abort = || Event::Abort(Invalidation::SenderStopped);
    let phases = [
        ("init", Rebuild::new()),
        ("source-select", selected),
        ("transfer, begun", after(snapshot_tail(50, 100), [])),
        (
            "transfer, base whole",
            after(snapshot_tail(50, 100), [transferred(50), VERIFIED]),
        ),
        (
            "transfer, full base whole",
            after(full_base(100), [transferred(100), VERIFIED]),
        ),
        (
            "tail, begun",
            after(
                snapshot_tail(50, 100),
                [transferred(50), VERIFIED, Event::BeginTail],
            ),
        ),
        (
            "tail, applied",
            after(
                snapshot_tail(50, 100),
                [transferred(50), VERIFIED, Event::BeginTail, tail(100)],
            ),
        ),
        (
            "completed",
            after(full_base(100), [transferred(100), VERIFIED, COMPLETE]),
        ),
        ("aborted", after(full_base(100), [abort()])),
    ];
    let chunks = Event::Chunks {
        sent: 1,
        matched: 0,
        bytes: 4,
        now: Tick(3),
    };
    let events = [
        select(full_base(100)),
        BEGIN,
        chunks,
        transferred(70),
        VERIFIED,
        Event::BeginTail,
        tail(70),
        COMPLETE,
        abort(),
    ];
    let mut table = String::new();
    for (name, rebuild) in &phases {
        for event in &events {
            let mut copy = rebuild.clone();
            let step = event.step();
            let verdict = match copy.on(event.clone()) {
                Ok(()) => format!("-> {}", copy.phase().name()),
                Err(Failure::WrongRebuildPhase { .. }) => "refused".to_owned(),
                Err(failure) => format!("refused: {failure}"),
            };
            table.push_str(&format!("{name} | {step} | {verdict}\n"));
        }
    }
    assert_eq!(table, include_str!("verdicts.txt"));
}
