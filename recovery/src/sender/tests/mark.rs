//! The needs-rebuild mark: what sets it, what clears it, and rebuilds.

use super::*;
use crate::budget::{Budget, Violation};
use crate::failure::DigestOf;
use crate::history::DamageKind;

// A090, A131
#[test]
fn only_a_rebuild_leads_out_of_needs_rebuild() {
    let mut bench = Bench::marked();
    let replica_id = ReplicaId::new("r1");
    let marked = Failure::NeedsRebuild {
        replica: replica_id,
    };
    for kind in [Kind::CatchUp, Kind::Bootstrap, Kind::Reassign] {
        let options = SessionOptions::unbounded(kind);
        assert_eq!(bench.attach_with(options), Err(marked.clone()));
    }
    let endpoint = bench.sender.endpoint().clone();
    bench.sender.reassign(endpoint, EPOCH);
    assert_eq!(bench.sender.state(), State::NeedsRebuild);
    bench.sender.advance_epoch(Epoch::new(2));
    assert_eq!(bench.sender.state(), State::NeedsRebuild);

    let id = bench.rebuilding(&history(100));
    assert_eq!(bench.sender.state(), State::Rebuilding);
    bench.transferred(id, 100);
    bench.complete_rebuild(id).unwrap();
    assert_eq!(bench.sender.state(), State::InSync);
    assert!(!bench.sender.needs_rebuild());
}

// R6: "disconnected" reads "needs_rebuild" while the mark is set.
#[test]
fn a_lost_link_during_a_rebuild_leaves_the_mark() {
    let mut bench = bench();
    let id = bench.rebuilding(&history(100));
    bench
        .sender
        .begin_transfer(id, Install::Beside, NOW)
        .unwrap();
    let mark = Note::Marked(MarkCause::TransferBegan);
    assert_eq!(bench.sender.drain_notes(), [mark]);
    bench.sender.link_lost(id, Link::Closed).unwrap();
    assert_eq!(bench.sender.state(), State::NeedsRebuild);
}

// A231
#[test]
fn a_mark_survives_a_restart_of_the_primary_and_another_primary() {
    let mut restarted = bench();
    restarted.sender.restore(true, Some(NODE));
    assert_eq!(restarted.sender.state(), State::NeedsRebuild);
    let options = SessionOptions::unbounded(Kind::CatchUp);
    let replica_id = ReplicaId::new("r1");
    let marked = Err(Failure::NeedsRebuild {
        replica: replica_id,
    });
    assert_eq!(restarted.attach_with(options), marked.clone());

    // Another primary knows nothing; the replica says so itself.
    let mut other = bench();
    let id = other.attach(Kind::CatchUp);
    other.sender.connect(id).unwrap();
    let facts = ReplicaFacts {
        needs_rebuild: true,
        ..replica(100)
    };
    let answer = other.sender.handshake(id, &facts, &history(100));
    assert_eq!(answer.map(drop), marked.map(drop));
    assert_eq!(other.sender.state(), State::NeedsRebuild);
    assert!(other.sender.needs_rebuild());
}

// A232
#[test]
fn a_wiped_replica_starts_anew_and_its_acknowledgements_are_void() {
    let mut bench = Bench::marked();
    bench.sender.drain_notes();
    let node = NodeIncarnation([8; 16]);
    let id = bench.attach(Kind::Rebuild);
    bench.sender.connect(id).unwrap();
    let empty = ReplicaFacts::empty(node);
    bench.sender.handshake(id, &empty, &history(100)).unwrap();
    assert_eq!(
        bench.sender.drain_notes(),
        [Note::AcknowledgementsVoided { node }, Note::MarkCleared]
    );
}

// D8: a new life that does not start from nothing clears no mark.
#[test]
fn a_new_incarnation_with_records_clears_no_mark() {
    let mut bench = Bench::marked();
    let id = bench.attach(Kind::Rebuild);
    bench.sender.connect(id).unwrap();
    let node = NodeIncarnation([8; 16]);
    let facts = ReplicaFacts {
        node,
        ..replica(10)
    };
    bench.sender.handshake(id, &facts, &history(100)).unwrap();
    assert!(bench.sender.needs_rebuild());
}

fn budgeted(budget: Budget, durable: u64, begin: u64) -> (Bench, SessionId) {
    let mut bench = bench();
    let kind = Kind::CatchUp;
    let id = bench.attach_with(SessionOptions { kind, budget }).unwrap();
    bench.sender.connect(id).unwrap();
    bench
        .sender
        .handshake(id, &replica(durable), &history(100))
        .unwrap();
    bench.sender.begin_catch_up(id, Tick(begin)).unwrap();
    bench.sender.sent(id, lsn(100), 4096).unwrap();
    (bench, id)
}

// A098
#[test]
fn a_spent_duration_escalates_to_needs_rebuild() {
    let budget = Budget {
        duration_ticks_max: Some(10),
        ..Budget::UNBOUNDED
    };
    let (mut bench, id) = budgeted(budget, 0, 0);
    let violation = Violation::Duration { spent: 15, max: 10 };
    assert_eq!(
        bench.sender.check_budget(id, Tick(15), Peer::Answers),
        Err(Failure::Budget(violation))
    );
    assert_eq!(bench.sender.state(), State::NeedsRebuild);
    assert_eq!(bench.sender.session_id(), None);
    let reason = Invalidation::Budget(violation);
    assert_eq!(
        bench.sender.drain_notes(),
        [
            Note::Marked(MarkCause::Budget),
            Note::SessionInvalidated { id, reason },
        ]
    );
}

// A103
#[test]
fn without_a_budget_catch_up_goes_on() {
    let mut bench = bench();
    let id = bench.catching_up(0);
    let now = Tick(999_999);
    assert_eq!(bench.sender.check_budget(id, now, Peer::Answers), Ok(()));
    assert_eq!(bench.sender.state(), State::CatchingUp);
}

// A106
#[test]
fn a_replica_that_spent_its_budget_is_rebuilt() {
    let budget = Budget {
        records_max: Some(20),
        ..Budget::UNBOUNDED
    };
    let (mut bench, id) = budgeted(budget, 50, 0);
    bench.sender.progress(id, lsn(71), None).unwrap();
    let violation = Violation::Records { spent: 21, max: 20 };
    assert_eq!(
        bench.sender.check_budget(id, NOW, Peer::Answers),
        Err(Failure::Budget(violation))
    );
    assert_eq!(bench.sender.state(), State::NeedsRebuild);
    assert_eq!(bench.sender.session_id(), None);
    let id = bench.rebuilding(&history(100).base(30));
    bench.transferred(id, 30);
    bench.sender.begin_tail(id).unwrap();
    bench.sender.tail_progress(id, lsn(100), NOW).unwrap();
    assert_eq!(bench.complete_rebuild(id), Ok(lsn(100)));
    assert_eq!(bench.sender.state(), State::InSync);
    assert!(!bench.sender.needs_rebuild(), "only that clears the mark");
}

// A230, D7
#[test]
fn silence_disconnects_and_never_asks_for_a_rebuild() {
    let budget = Budget {
        stall_ticks_max: Some(5),
        duration_ticks_max: Some(10),
        ..Budget::UNBOUNDED
    };
    let (mut bench, id) = budgeted(budget, 70, 0);
    let replica_id = ReplicaId::new("r1");
    assert_eq!(
        bench.sender.check_budget(id, Tick(1000), Peer::Silent),
        Err(Failure::LinkLost {
            replica: replica_id
        })
    );
    assert_eq!(bench.sender.state(), State::Disconnected);
    assert!(!bench.sender.needs_rebuild());
    let again = bench.catching_up(85);
    let session = bench.sender.view().session.expect("a new catch-up");
    assert_eq!(session.id(), again);
    let session::Phase::CatchUp { range, .. } = session.phase() else {
        panic!("catching up: {session:?}");
    };
    assert_eq!(*range, LsnRange::new(lsn(85), lsn(100)));
}

// A128, A129, A130
#[test]
fn both_sources_end_in_sync() {
    for (tail, base) in [(30, Some(50)), (80, None)] {
        let mut bench = bench();
        let history = history(100).tail(tail).base(50);
        let id = bench.rebuilding(&history);
        assert_eq!(bench.sender.state(), State::Rebuilding);
        assert_eq!(
            outcome::rebuild_source(&history, Asked::Any).snapshot(),
            base.map(lsn)
        );
        bench.transferred(id, base.unwrap_or(100));
        if base.is_some() {
            bench.sender.begin_tail(id).unwrap();
            bench.sender.tail_progress(id, lsn(100), NOW).unwrap();
        }
        assert_eq!(bench.complete_rebuild(id), Ok(lsn(100)));
        assert_eq!(bench.sender.state(), State::InSync);
        assert_eq!(bench.sender.session_id(), None);
    }
}

// 1.12: a digest that differs aborts the rebuild, and the mark stays.
#[test]
fn a_different_state_digest_ends_the_rebuild_and_leaves_the_mark() {
    let mut bench = bench();
    let id = bench.rebuilding(&history(100));
    bench.transferred(id, 100);
    let differs = Compared {
        expected: 1,
        found: 2,
    };
    let pins = pins();
    let result = bench
        .sender
        .complete_rebuild(id, differs, |after| Ok(TestPin::new(&pins, after)));
    assert_eq!(
        result,
        Err(Failure::DigestDiffers {
            what: DigestOf::State,
            expected: 1,
            found: 2,
        })
    );
    assert_eq!(bench.sender.state(), State::NeedsRebuild);
    assert_eq!(bench.sender.session_id(), None);
}

// A047, 1.20: a refused handshake ends the session without a mark.
#[test]
fn a_refusal_disconnects_and_marks_nothing() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    bench.sender.connect(id).unwrap();
    let history = history(80).committed(100);
    let failure = bench
        .sender
        .handshake(id, &replica(0), &history)
        .unwrap_err();
    let Failure::HandshakeRefused(proof) = failure else {
        panic!("refused: {failure}");
    };
    assert_eq!(proof.reason.name(), "integrity");
    assert_eq!(bench.sender.state(), State::Disconnected);
    assert!(!bench.sender.needs_rebuild());
}

// D15
#[test]
fn damage_in_the_primarys_own_log_is_reported() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    bench.sender.connect(id).unwrap();
    let kind = DamageKind::Corrupt;
    let damaged = crate::history::Damaged::at(lsn(90), kind);
    let history = History {
        damage: vec![damaged],
        ..history(100)
    };
    bench
        .sender
        .handshake(id, &replica(80), &history)
        .expect("the outcome needs rebuild");
    let notes = bench.sender.drain_notes();
    let lsn = lsn(90);
    assert_eq!(notes[0], Note::DamageFound { lsn, kind });
    assert_eq!(notes[1], Note::Marked(MarkCause::Outcome));
}
