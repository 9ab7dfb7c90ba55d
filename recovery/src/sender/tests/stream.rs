//! What a completed session becomes (D6).

use super::*;

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
    assert_eq!(bench.pins.after(), lsn(100), "the log after its end");

    let stream = bench.sender.view().stream.expect("a stream");
    assert_eq!((stream.shipped, stream.acknowledged), (lsn(100), lsn(100)));
    bench.sender.ship(id, lsn(120), lsn(120)).unwrap();
    assert_eq!(bench.pins.after(), lsn(100), "what is shipped may be lost");
    assert_eq!(bench.sender.acknowledge(id, lsn(120)), Ok(lsn(120)));
    assert_eq!(bench.sender.acknowledge(id, lsn(110)), Ok(lsn(120)));
    assert_eq!(bench.pins.after(), lsn(120));
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
