//! Peers that are alive and do nothing, turns of recoveries, and what slows them.

use super::fencing::{Impostor, impostor_options};
use super::*;
use crate::throttle::ThrottleOptions;
use crate::transport::tcp::Socket;

fn listener() -> Socket {
    Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap()
}

/// Says that it is alive until the primary hangs up.
fn idle(impostor: &Impostor) {
    let alive = Message {
        fence: impostor.fence,
        body: Body::Alive,
    };
    while impostor.link.send(&alive).is_ok() {
        if impostor.link.receive(Duration::from_millis(20)).is_err() {
            return;
        }
    }
}

/// Waits until the last attempt with `id` ended, and gives the cause.
fn cause(served: &Served, id: &str) -> String {
    let found = served.primary.shared().wait(PATIENCE, |core| {
        core.extras[&crate::id::ReplicaId::new(id)].cause.clone()
    });
    found.unwrap_or_else(|| panic!("{:#?}", served.primary.status()))
}

fn pins_of(served: &Served, id: &str) -> Vec<String> {
    let pins = served.primary.volume().pins().into_iter();
    let owner = format!("of {id}");
    pins.map(|pin| pin.owner)
        .filter(|name| name.ends_with(&owner))
        .collect()
}

// L-S5: its pin would be held for as long as it says that it is alive.
#[test]
fn a_stream_whose_acknowledgements_stand_still_ends() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let listener = listener();
    let options = PrimaryOptions {
        stall_timeout: Duration::from_millis(300),
        ..impostor_options(&listener)
    };
    let served = lab.serve("p", options);
    let impostor = Impostor::meet(&listener, Lsn::ZERO, served.primary.volume());
    assert!(matches!(impostor.hear(), Some(Body::InSync { .. })));
    served.fill(0..8, 1);
    idle(&impostor);
    let cause = cause(&served, "r1");
    assert!(cause.contains("an acknowledgement has been due"), "{cause}");
    assert_eq!(pins_of(&served, "r1"), [""; 0]);
    assert!(!served.primary.status().replicas[0].needs_rebuild);
    served.stop();
}

#[test]
fn a_catch_up_that_is_never_acknowledged_ends_and_marks_nobody() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    served.fill(0..100, 1);
    served.stop();
    let listener = listener();
    let options = PrimaryOptions {
        stall_timeout: Duration::from_millis(300),
        ..impostor_options(&listener)
    };
    let served = lab.serve("p", options);
    idle(&Impostor::meet(
        &listener,
        Lsn::ZERO,
        served.primary.volume(),
    ));
    let record = served.recovered("r1", "catch-up");
    assert!(record.result.contains("has been due"), "{record:#?}");
    assert!(!served.primary.status().replicas[0].needs_rebuild);
    served.stop();
}

#[test]
fn a_recovery_that_waits_for_its_turn_keeps_what_it_needs_and_is_not_made_larger() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let end = served.fill(0..100, 1);
    served.stop();
    let (first, reserved) = (listener(), listener());
    let address = reserved.address().to_string();
    drop(reserved);
    let mut options = PrimaryOptions {
        recoveries_max: 1,
        ..impostor_options(&first)
    };
    options.replicas.push(ReplicaAddress {
        id: "r2".into(),
        address: address.clone(),
    });
    let served = lab.serve("p", options);
    let impostor = Impostor::meet(&first, Lsn::ZERO, served.primary.volume());
    assert!(matches!(impostor.hear(), Some(Body::Records { .. })));
    let second = lab.replica_at("r2", &address);
    let waits = served.primary.shared().wait(PATIENCE, |core| {
        (core.queue.len() == 1 && core.sending == 1).then_some(())
    });
    assert!(waits.is_some(), "{:#?}", served.primary.status());
    let replicas = served.primary.status().replicas;
    let phases = replicas.into_iter().map(|r| r.progress.unwrap().phase);
    assert_eq!(phases.collect::<Vec<_>>(), ["catch-up", "queued"]);
    assert_eq!(pins_of(&served, "r2").len(), 1, "what it needs is pinned");
    drop(impostor);
    drop(first);
    served.in_sync("r2", end);
    assert_eq!(served.last("r2").outcome, "catch-up");
    served.stop();
    second.shutdown().unwrap();
}

#[test]
fn what_slows_recoveries_is_shown_in_status() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let options = PrimaryOptions {
        throttle: ThrottleOptions {
            target: Some(Duration::ZERO),
            floor_bytes_per_s: 1 << 40,
        },
        ..PrimaryOptions::default()
    };
    let served = lab.serve("p", options);
    let shown = || served.primary.status().throttle.expect("a primary has one");
    assert_eq!(shown().cause, "free");
    let begun = lab.clock.monotonic_ns();
    while shown().cause != "floor" {
        let spent = lab.clock.monotonic_ns() - begun;
        assert!(u128::from(spent) < PATIENCE.as_nanos(), "{:?}", shown());
        let _ = served.primary.shared().turn(MIB);
        let durable = Durability::Durable;
        served.primary.write(0, &[1; 4096], durable).unwrap();
    }
    assert_eq!(shown().limit_bytes_per_s, Some(1 << 40));
    assert!(shown().latency_ms.is_some_and(|ms| ms > 0.0));
    served.stop();
}
