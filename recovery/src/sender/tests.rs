use super::*;
use crate::budget::Peer;
use crate::failure::Link;
use crate::history::{History, ReplicaFacts};
use crate::id::Tick;
use crate::outcome::{self, Asked, Verdict};
use crate::plan::PinRefusal;
use crate::rebuild::{self, Compared, Install};
use crate::testing::{NODE, PinCount, TestPin, TestStorage, endpoint, history, lsn, pins, replica};
use seawall_wal::{LsnRange, NodeIncarnation};
use std::sync::Arc;

mod fork;
mod mark;
mod matrix;
mod stream;

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
    let options = SessionOptions::unbounded(Kind::Rebuild);
    let refused = PinRefused {
        part: PinPart::Log,
        at: lsn(1),
        why: PinRefusal::Policy,
    };
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
        sender.pin_refused(given, refused),
        sender.hold(given, Held::new(TestPin::new(&pins, lsn(1)))),
        sender
            .supersede(given, options, Invalidation::PinBroken, &mut bench.ids)
            .map(drop),
    ] {
        assert_eq!(result, Err(stale.clone()));
    }
    assert_eq!(bench.sender.view(), before);
    assert_eq!(pins.held(), 0, "nor is a pin kept that came with one");
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
    seen.sort_unstable();
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
    // A111
    let lsn = lsn(99);
    assert_eq!(
        bench.sender.truncated(id, lsn),
        Err(Failure::TruncationElsewhere { lsn, required })
    );
    assert_eq!(
        bench.complete(id),
        Err(Failure::TruncationOutstanding { required })
    );
    bench.sender.truncated(id, required).unwrap();
    bench.complete(id).unwrap();
    assert_eq!(bench.sender.state(), State::InSync);
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

// A056: the signatures leave no room for an absent history.
#[test]
fn neither_call_that_reads_a_history_can_go_without_one() {
    type Handshake = fn(
        &mut Sender<TestPin>,
        SessionId,
        &ReplicaFacts,
        &History,
    ) -> Result<outcome::Decision, Failure>;
    let handshake: Handshake = Sender::handshake;
    let source: fn(&History, Asked) -> outcome::Source = outcome::rebuild_source;
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    bench.sender.connect(id).unwrap();
    handshake(&mut bench.sender, id, &replica(70), &history(100)).unwrap();
    assert_eq!(source(&history(100), Asked::Any).target, lsn(100));
}

// A091
#[test]
fn nobody_is_in_sync_without_a_handshake_on_a_history() {
    let mut bench = bench();
    let id = bench.attach(Kind::CatchUp);
    for phase in ["init", "connecting"] {
        let refused = |step| Failure::WrongPhase { step, phase };
        assert_eq!(bench.complete(id), Err(refused(session::Step::Complete)));
        assert_eq!(
            bench.sender.begin_catch_up(id, NOW),
            Err(refused(session::Step::BeginCatchUp))
        );
        assert_ne!(bench.sender.state(), State::InSync);
        assert_eq!(bench.pins.held(), 0);
        if phase == "init" {
            bench.sender.connect(id).unwrap();
        }
    }
    let evidence = replica(100);
    bench
        .sender
        .handshake(id, &evidence, &history(100))
        .unwrap();
    assert_eq!(bench.complete(id), Ok(lsn(100)));
    assert_eq!(bench.sender.state(), State::InSync);
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
