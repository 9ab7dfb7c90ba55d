use super::*;
use crate::budget::{Budget, Violation};
use crate::failure::DigestOf;
use crate::plan::PinRefusal;
use crate::testing::{NODE, PinCount, TestPin, TestStorage, endpoint, history, lsn, pins, replica};
use std::sync::Arc;

const EPOCH: Epoch = Epoch::new(1);
const NOW: Tick = Tick(0);
const EQUAL: Compared = Compared {
    expected: 7,
    found: 7,
};

/// A sender with its id source and its pins.
struct Bench {
    sender: Sender<TestPin>,
    ids: SessionIds,
    pins: Arc<PinCount>,
}

fn bench() -> Bench {
    let id = ReplicaId::new("r1");
    Bench {
        sender: Sender::new(id, endpoint("10.0.0.1"), EPOCH),
        ids: SessionIds::new(1),
        pins: pins(),
    }
}

impl Bench {
    fn attach(&mut self, kind: Kind) -> SessionId {
        let options = SessionOptions::unbounded(kind);
        self.attach_with(options).unwrap()
    }

    fn attach_with(&mut self, options: SessionOptions) -> Result<SessionId, Failure> {
        let epoch = self.sender.epoch();
        self.sender.attach(epoch, options, &mut self.ids)
    }

    /// A session that has decided about a replica with this durable, against a log of 100.
    fn handshaken(&mut self, durable: u64) -> SessionId {
        let id = self.attach(Kind::CatchUp);
        self.sender.connect(id).unwrap();
        self.sender
            .handshake(id, &replica(durable), &history(100))
            .unwrap();
        id
    }

    fn catching_up(&mut self, durable: u64) -> SessionId {
        let id = self.handshaken(durable);
        self.sender.begin_catch_up(id, NOW).unwrap();
        self.sender.sent(id, lsn(100), 4096).unwrap();
        id
    }

    fn complete(&mut self, id: SessionId) -> Result<Lsn, Failure> {
        let pins = Arc::clone(&self.pins);
        self.sender
            .complete(id, |after| Ok(TestPin::new(&pins, after)))
    }

    fn in_sync(&mut self) -> SessionId {
        let id = self.handshaken(100);
        self.complete(id).unwrap();
        id
    }

    /// A rebuild session that has decided and selected this source.
    fn rebuilding(&mut self, history: &History) -> SessionId {
        let id = self.attach(Kind::Rebuild);
        self.sender.connect(id).unwrap();
        self.sender.handshake(id, &replica(10), history).unwrap();
        let source = outcome::rebuild_source(history, Asked::Any);
        self.sender.select_source(id, source, NOW).unwrap();
        id
    }

    fn transferred(&mut self, id: SessionId, through: u64) {
        self.sender
            .begin_transfer(id, Install::Beside, NOW)
            .unwrap();
        self.sender.transfer_progress(id, lsn(through)).unwrap();
        self.sender.base_verified(id, EQUAL).unwrap();
    }

    fn complete_rebuild(&mut self, id: SessionId) -> Result<Lsn, Failure> {
        let pins = Arc::clone(&self.pins);
        self.sender
            .complete_rebuild(id, EQUAL, |after| Ok(TestPin::new(&pins, after)))
    }

    fn marked() -> Bench {
        let mut bench = bench();
        let id = bench.attach(Kind::CatchUp);
        bench.sender.connect(id).unwrap();
        let history = history(100).tail(60);
        bench.sender.handshake(id, &replica(30), &history).unwrap();
        assert_eq!(bench.sender.state(), State::NeedsRebuild);
        bench
    }
}

// A065
#[test]
fn a_new_sender_is_disconnected_and_has_no_session() {
    let view = bench().sender.view();
    assert_eq!(view.state, State::Disconnected);
    assert_eq!((view.session, view.stream), (None, None));
}

// A066, A074
#[test]
fn the_state_follows_the_session() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    assert_eq!(bench.sender.state(), State::Disconnected);
    bench.sender.connect(id).unwrap();
    assert_eq!(bench.sender.state(), State::Connecting);
    bench
        .sender
        .handshake(id, &replica(70), &history(100))
        .unwrap();
    assert_eq!(bench.sender.state(), State::Connecting);
    bench.sender.begin_catch_up(id, NOW).unwrap();
    assert_eq!(bench.sender.state(), State::CatchingUp);
    bench.sender.sent(id, lsn(100), 4096).unwrap();
    bench.sender.progress(id, lsn(85), None).unwrap();
    bench.sender.progress(id, lsn(100), None).unwrap();
    assert_eq!(bench.complete(id), Ok(lsn(100)));
    assert_eq!(bench.sender.state(), State::InSync);
    assert_eq!(bench.sender.session_id(), None);
}

// A067, A068
#[test]
fn attach_needs_the_senders_epoch_and_no_active_session() {
    let mut bench = bench();
    let options = SessionOptions::unbounded(Kind::CatchUp);
    for given in [Epoch::new(0), Epoch::new(2)] {
        let refused = bench.sender.attach(given, options, &mut bench.ids);
        let replica = ReplicaId::new("r1");
        let current = EPOCH;
        assert_eq!(
            refused,
            Err(Failure::WrongEpoch {
                replica,
                given,
                current,
            })
        );
    }
    let current = bench.attach(Kind::CatchUp);
    let replica = ReplicaId::new("r1");
    assert_eq!(
        bench.attach_with(options),
        Err(Failure::SessionActive { replica, current })
    );
}

// A079, A080, A127
#[test]
fn a_stale_session_id_is_refused_by_every_call_and_hurts_nobody() {
    let mut bench = bench();
    let given = bench.attach(Kind::CatchUp);
    bench.sender.advance_epoch(Epoch::new(2));
    let current = bench.attach(Kind::Rebuild);
    let stale = Failure::OtherSession {
        replica: ReplicaId::new("r1"),
        given,
        current,
    };
    let before = bench.sender.view();
    let pins = pins();
    let sender = &mut bench.sender;
    let pin = |after| Ok(TestPin::new(&pins, after));
    let source = outcome::rebuild_source(&history(100), Asked::Any);
    let moved = rebuild::Chunks::default();
    for result in [
        sender.connect(given),
        sender
            .handshake(given, &replica(70), &history(100))
            .map(drop),
        sender.begin_catch_up(given, NOW),
        sender.sent(given, lsn(1), 1),
        sender.progress(given, lsn(1), None),
        sender.truncated(given, lsn(1)),
        sender.complete(given, pin).map(drop),
        sender.select_source(given, source, NOW),
        sender.begin_transfer(given, Install::Beside, NOW),
        sender.chunks(given, moved, NOW),
        sender.transfer_progress(given, lsn(1)),
        sender.base_verified(given, EQUAL),
        sender.begin_tail(given),
        sender.tail_progress(given, lsn(1), NOW),
        sender.complete_rebuild(given, EQUAL, pin).map(drop),
        sender.check_budget(given, NOW, Peer::Answers),
        // A088
        sender.invalidate(given, Invalidation::PinBroken, State::Disconnected),
        sender.link_lost(given, Link::Closed),
    ] {
        assert_eq!(result, Err(stale.clone()));
    }
    assert_eq!(bench.sender.view(), before);
}

// A092
#[test]
fn a_session_id_of_before_a_restart_is_refused_after_it() {
    let before = bench().attach(Kind::CatchUp);
    let mut restarted = bench();
    restarted.ids = SessionIds::new(2);
    let current = restarted.attach(Kind::CatchUp);
    assert_eq!(before.counter, current.counter);
    let replica = ReplicaId::new("r1");
    assert_eq!(
        restarted.sender.connect(before),
        Err(Failure::OtherSession {
            replica,
            given: before,
            current,
        })
    );
}

// A081
#[test]
fn supersede_ends_the_old_session_and_starts_one_at_the_senders_epoch() {
    let mut bench = bench();
    let old = bench.attach(Kind::CatchUp);
    let options = SessionOptions::unbounded(Kind::Rebuild);
    let reason = Invalidation::AssignmentIntent;
    let new = bench
        .sender
        .supersede(old, options, reason.clone(), &mut bench.ids)
        .unwrap();
    assert_ne!(old, new);
    let session = bench.sender.view().session.expect("the new session");
    assert_eq!((session.id(), session.epoch()), (new, EPOCH));
    let note = Note::SessionInvalidated { id: old, reason };
    assert_eq!(bench.sender.drain_notes(), [note]);
}

// A082
#[test]
fn a_stopped_sender_refuses_everything_and_stop_is_idempotent() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    bench.sender.stop();
    bench.sender.stop();
    let reason = Invalidation::SenderStopped;
    let note = Note::SessionInvalidated { id, reason };
    assert_eq!(bench.sender.drain_notes(), [note]);
    let replica = ReplicaId::new("r1");
    let stopped = Failure::Stopped { replica };
    let options = SessionOptions::unbounded(Kind::CatchUp);
    assert_eq!(bench.attach_with(options), Err(stopped.clone()));
    assert_eq!(bench.sender.connect(id), Err(stopped));
    assert_eq!(bench.sender.advance_epoch(Epoch::new(9)), None);
    assert_eq!(bench.sender.epoch(), EPOCH);
}

// A083
#[test]
fn an_invalidation_sets_its_target_state_and_never_in_sync() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    let reason = || Invalidation::PinBroken;
    assert_eq!(
        bench.sender.invalidate(id, reason(), State::InSync),
        Err(Failure::InvalidTargetState)
    );
    assert_eq!(bench.sender.session_id(), Some(id));
    bench
        .sender
        .invalidate(id, reason(), State::NeedsRebuild)
        .unwrap();
    assert_eq!(bench.sender.state(), State::NeedsRebuild);
    assert!(bench.sender.needs_rebuild());
}

// A085
#[test]
fn five_recoveries_run_through_the_same_sender() {
    let mut bench = bench();
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(bench.in_sync());
        assert_eq!(bench.sender.state(), State::InSync);
    }
    seen.dedup();
    assert_eq!(seen.len(), 5, "every cycle has a session of its own");
    assert_eq!(bench.pins.held(), 1, "only the last stream holds a pin");
}

// A086, A087
#[test]
fn a_copy_of_a_session_is_detached() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    let mut copy = bench.sender.view().session.expect("a session");
    copy.on(session::Event::Invalidate(Invalidation::PinBroken))
        .unwrap();
    assert!(!copy.is_active());
    bench.sender.connect(id).unwrap();
}

// A089, H17
#[test]
fn a_replica_that_is_being_recovered_is_not_in_sync() {
    let mut bench = bench();
    let stream = bench.in_sync();
    bench.sender.drain_notes();
    bench.attach(Kind::CatchUp);
    assert_eq!(bench.sender.state(), State::Disconnected);
    let cause = StreamEnd::SessionAttached;
    let ended = Note::StreamEnded { id: stream, cause };
    assert_eq!(bench.sender.drain_notes(), [ended]);
    assert_eq!(bench.pins.held(), 0);
}

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
    let id = bench.rebuilding(&history(100).base(30));
    bench.transferred(id, 30);
    bench.sender.begin_tail(id).unwrap();
    bench.sender.tail_progress(id, lsn(100), NOW).unwrap();
    assert_eq!(bench.complete_rebuild(id), Ok(lsn(100)));
    assert_eq!(bench.sender.state(), State::InSync);
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

// A107
#[test]
fn a_replica_at_70_of_100_ends_in_sync() {
    let mut bench = bench();
    let id = bench.catching_up(70);
    bench.sender.progress(id, lsn(85), None).unwrap();
    bench.sender.progress(id, lsn(100), None).unwrap();
    bench.complete(id).unwrap();
    assert_eq!(bench.sender.state(), State::InSync);
}

// A113, A169
#[test]
fn a_replica_ahead_has_to_cut_before_it_is_in_sync() {
    let mut bench = bench();
    let id = bench.handshaken(105);
    let session = bench.sender.view().session.expect("a session");
    let required = lsn(100);
    let truncation = session::Truncation::Required(required);
    let range = LsnRange::new(required, required);
    assert_eq!(
        *session.phase(),
        session::Phase::Handshake { range, truncation }
    );
    assert_eq!(
        bench.complete(id),
        Err(Failure::TruncationOutstanding { required })
    );
    bench.sender.truncated(id, required).unwrap();
    bench.complete(id).unwrap();
    assert_eq!(bench.sender.state(), State::InSync);
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

// A157
#[test]
fn an_epoch_rise_ends_the_session_and_fences_its_calls() {
    let mut bench = bench();
    let id = bench.catching_up(0);
    bench.sender.progress(id, lsn(50), None).unwrap();
    let (old, new) = (EPOCH, Epoch::new(2));
    assert_eq!(bench.sender.advance_epoch(new), Some(id));
    assert_eq!(bench.sender.state(), State::Disconnected);
    let reason = Invalidation::EpochAdvanced { old, new };
    let note = Note::SessionInvalidated { id, reason };
    assert_eq!(bench.sender.drain_notes(), [note]);
    let replica_id = ReplicaId::new("r1");
    assert_eq!(
        bench.sender.progress(id, lsn(60), None),
        Err(Failure::NoSession {
            replica: replica_id
        })
    );
    let options = SessionOptions::unbounded(Kind::CatchUp);
    let stale = bench.sender.attach(old, options, &mut bench.ids);
    assert_eq!(
        stale,
        Err(Failure::WrongEpoch {
            replica: ReplicaId::new("r1"),
            given: old,
            current: new,
        })
    );
    bench
        .sender
        .attach(new, options, &mut bench.ids)
        .expect("the new epoch");
}

// A145, A146
#[test]
fn any_part_of_the_endpoint_counts_and_an_equal_one_does_not() {
    let original = endpoint("10.0.0.1");
    let control = Endpoint {
        control: "10.9.9.9".to_owned(),
        ..original.clone()
    };
    let version = Endpoint {
        version: 2,
        ..original.clone()
    };
    for (moved, survives) in [(control, false), (version, false), (original, true)] {
        let mut bench = bench();
        let id = bench.catching_up(0);
        bench.sender.change_endpoint(moved.clone());
        let session = survives.then_some(id);
        assert_eq!(bench.sender.session_id(), session, "{moved:?}");
        let state = match survives {
            true => State::CatchingUp,
            false => State::Disconnected,
        };
        assert_eq!(bench.sender.state(), state);
    }
}

// H15: one transition, one cause, and the epoch wins.
#[test]
fn a_failover_with_a_new_address_is_blamed_on_the_epoch() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    let (old, new) = (EPOCH, Epoch::new(2));
    bench.sender.reassign(endpoint("10.0.0.2"), new);
    let reason = Invalidation::EpochAdvanced { old, new };
    let note = Note::SessionInvalidated { id, reason };
    assert_eq!(bench.sender.drain_notes(), [note]);
    assert_eq!(bench.sender.endpoint().data, "10.0.0.2");
}

// A227
#[test]
fn a_completed_session_is_a_stream_with_the_same_id_and_the_pin_of_its_plan() {
    let mut bench = bench();
    let id = bench.catching_up(90);
    let held = Held::new(TestPin::new(&bench.pins, lsn(90)));
    bench.sender.hold(id, held.clone()).unwrap();
    bench.sender.progress(id, lsn(100), None).unwrap();
    let no_pin = |_| -> Result<TestPin, PinRefused> { panic!("the plan has one") };
    bench.sender.complete(id, no_pin).unwrap();
    assert_eq!(bench.sender.stream_id(), Some(id));
    assert!(!held.is_held(), "the stream took it over");
    assert_eq!(bench.pins.held(), 1);

    let stream = bench.sender.view().stream.expect("a stream");
    assert_eq!((stream.shipped, stream.acknowledged), (lsn(100), lsn(100)));
    bench.sender.ship(id, lsn(120), lsn(120)).unwrap();
    assert_eq!(bench.sender.acknowledge(id, lsn(120)), Ok(lsn(120)));
    assert_eq!(bench.sender.acknowledge(id, lsn(110)), Ok(lsn(120)));
    assert_eq!(bench.sender.state(), State::InSync);
}

// A225, H24
#[test]
fn a_stream_ships_what_is_durable_here_and_counts_what_was_shipped() {
    let mut bench = bench();
    let id = bench.in_sync();
    let (durable, beyond) = (lsn(107), lsn(110));
    assert_eq!(
        bench.sender.ship(id, beyond, durable),
        Err(Failure::BeyondDurable {
            lsn: beyond,
            durable,
        })
    );
    bench.sender.ship(id, durable, durable).unwrap();
    assert_eq!(
        bench.sender.acknowledge(id, beyond),
        Err(Failure::BeyondSent {
            lsn: beyond,
            sent: durable,
        })
    );
}

// A228
#[test]
fn a_lost_stream_disconnects_and_gives_its_pin_back() {
    let mut bench = bench();
    let id = bench.in_sync();
    bench.sender.drain_notes();
    let cause = StreamEnd::LinkLost(Link::Closed);
    bench.sender.stream_lost(id, cause).unwrap();
    assert_eq!(bench.sender.state(), State::Disconnected);
    assert_eq!(bench.pins.held(), 0);
    let ended = Note::StreamEnded { id, cause };
    assert_eq!(bench.sender.drain_notes(), [ended]);
    let replica_id = ReplicaId::new("r1");
    assert_eq!(
        bench.sender.acknowledge(id, lsn(100)),
        Err(Failure::NoStream {
            replica: replica_id
        })
    );
}

// 1.9: a live stream refuses the calls of catch-up.
#[test]
fn a_stream_refuses_the_calls_of_its_session() {
    let mut bench = bench();
    let id = bench.in_sync();
    let refused = Failure::SessionIsStream {
        replica: ReplicaId::new("r1"),
        session: id,
    };
    let progress = bench.sender.progress(id, lsn(101), None);
    assert_eq!(progress, Err(refused.clone()));
    let truncated = bench.sender.truncated(id, lsn(100));
    assert_eq!(truncated, Err(refused.clone()));
    assert_eq!(bench.complete(id), Err(refused));
}

// A196
#[test]
fn the_pin_of_a_plan_goes_with_its_session() {
    let mut bench = bench();
    let id = bench.handshaken(70);
    let held = Held::new(TestPin::new(&bench.pins, lsn(70)));
    bench.sender.hold(id, held.clone()).unwrap();
    bench.sender.change_endpoint(endpoint("10.0.0.2"));
    assert!(!held.is_held());
    assert_eq!(bench.pins.held(), 0);
}

// D6: a stream whose log cannot be pinned does not start.
#[test]
fn a_refused_pin_at_the_start_of_the_stream_ends_the_session() {
    let mut bench = bench();
    let id = bench.handshaken(100);
    let refused = PinRefused {
        part: PinPart::Log,
        at: lsn(100),
        why: PinRefusal::Policy,
    };
    assert_eq!(
        bench.sender.complete(id, |_| Err(refused)),
        Err(Failure::PinRefused(refused))
    );
    assert_eq!(bench.sender.state(), State::Disconnected);
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

// D1: the session connects on, and the same handshake is repeated after the fetch.
#[test]
fn a_deferred_handshake_is_repeated_in_the_same_session() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    bench.sender.connect(id).unwrap();
    let reopened = history(105).committed(90).unconfirmed();
    let failure = bench
        .sender
        .handshake(id, &replica(107), &reopened)
        .unwrap_err();
    let Failure::NotYet(decision) = failure else {
        panic!("deferred: {failure}");
    };
    let fetch = Some(LsnRange::new(lsn(105), lsn(107)));
    assert_eq!(decision.verdict, Verdict::NotYet { fetch });
    let fetched = history(107).committed(90).unconfirmed();
    bench
        .sender
        .handshake(id, &replica(107), &fetched)
        .expect("zero gap at 107");
    bench.complete(id).unwrap();
    assert_eq!(bench.sender.state(), State::InSync);
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

#[test]
fn the_test_storage_answers_like_storage() {
    use crate::plan::Storage;
    let mut storage = TestStorage::new(history(100).tail(30));
    let first_retained = lsn(31);
    assert_eq!(
        storage.pin_log(lsn(29)).unwrap_err().why,
        PinRefusal::Reclaimed { first_retained }
    );
    storage.pin_log(lsn(30)).expect("A193: at the tail");
}
