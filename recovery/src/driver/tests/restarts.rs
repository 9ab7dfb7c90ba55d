//! What a restart may and may not change, who waits for whom, and what status says.

use super::super::queries::CONNECTIONS_MAX;
use super::super::{ANSWER, ask};
use super::*;
use crate::message::{Body, Fence};
use crate::transport::{self, Link};

// A219, D1, D13
#[test]
fn records_that_the_primary_lost_are_fetched_before_anything_new() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..options(&[&replica])
    };
    let served = lab.serve("p", quorum.clone());
    let early = served.fill(0..20, 1);
    served.in_sync("r1", early);
    lab.copy(&lab.dir("p"), &lab.dir("crashed"));
    let acknowledged = served.fill(0..30, 2);
    served.stop();
    let served = lab.serve("crashed", quorum);
    // The first write waits until what was acknowledged is back.
    let next = served
        .primary
        .write(0, &[3; 4096], Durability::Durable)
        .unwrap();
    assert_eq!(next, acknowledged.next());
    assert!(served.primary.confirmed());
    let mut block = [0; 4096];
    served.primary.read(29 * BLOCK, &mut block).unwrap();
    assert_eq!(block, [31; 4096]);
    served.in_sync("r1", next);
    assert_equal(served.primary.volume(), &replica, next);
    let fetched = served.primary.events();
    assert!(
        fetched
            .iter()
            .any(|event| event.what.name() == "records-fetched")
    );
    let lineage = served.primary.volume().log().lineage();
    assert_eq!(lineage.last().unwrap().first, next);
    served.stop();
    replica.shutdown().unwrap();
}

// A229, D6
#[test]
fn a_quorum_flush_waits_for_the_replica_and_a_late_acknowledgement_counts() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: Duration::from_millis(50),
        ..options(&[&replica])
    };
    replica.shutdown().unwrap();
    let served = lab.serve("p", quorum);
    let lsn = served
        .primary
        .write(0, &[1; 4096], Durability::Volatile)
        .unwrap();
    assert!(matches!(
        served.primary.flush(),
        Err(Error::CommitTimeout { lsn: waited, committed, .. })
            if waited == lsn && committed.is_zero()
    ));
    let replica = lab.replica_at("r1", &address);
    assert_eq!(served.primary.wait_committed(lsn, PATIENCE).unwrap(), lsn);
    served.stop();
    replica.shutdown().unwrap();
}

// D1: an acknowledged record is kept, whoever answers first.
#[test]
fn what_only_one_of_two_replicas_holds_is_fetched_although_the_other_makes_a_quorum() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (behind, ahead) = (lab.replica("r1"), lab.replica("r2"));
    let address = behind.address().to_string();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..options(&[&behind, &ahead])
    };
    let served = lab.serve("p", quorum.clone());
    let early = served.fill(0..20, 1);
    served.in_sync("r1", early);
    served.in_sync("r2", early);
    behind.shutdown().unwrap();
    lab.copy(&lab.dir("p"), &lab.dir("crashed"));
    let acknowledged = served.fill(0..30, 2);
    served.stop();
    let behind = lab.replica_at("r1", &address);
    let served = lab.serve("crashed", quorum);
    let next = served
        .primary
        .write(0, &[3; 4096], Durability::Durable)
        .unwrap();
    assert_eq!(next, acknowledged.next());
    for replica in [&behind, &ahead] {
        served.in_sync(&replica.status().id.unwrap(), next);
        assert_equal(served.primary.volume(), replica, next);
    }
    served.stop();
    behind.shutdown().unwrap();
    ahead.shutdown().unwrap();
}

// D1
#[test]
fn a_reopened_primary_takes_no_writes_before_the_ack_rule_covers_its_log() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        ..options(&[&replica])
    };
    let served = lab.serve("p", quorum.clone());
    let lsn = served.fill(0..10, 1);
    served.stop();
    replica.shutdown().unwrap();
    let impatient = PrimaryOptions {
        commit_timeout: Duration::from_millis(50),
        ..quorum
    };
    let served = lab.serve("p", impatient);
    assert!(matches!(
        served.primary.write(0, &[1; 4096], Durability::Volatile),
        Err(Error::Unconfirmed { durable, .. }) if durable == lsn
    ));
    let replica = lab.replica_at("r1", &address);
    served.in_sync("r1", lsn);
    assert!(served.primary.confirmed());
    served.fill(0..10, 2);
    served.stop();
    replica.shutdown().unwrap();
}

// D8
#[test]
fn a_mark_survives_a_restart_and_only_a_rebuild_clears_it() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let base = served.fill(0..50, 1);
    served.primary.volume().advance_tail(base).unwrap();
    served.stop();
    let replica = lab.replica("r1");
    let by_hand = PrimaryOptions {
        auto_rebuild: false,
        ..options(&[&replica])
    };
    let served = lab.serve("p", by_hand);
    served.recovered("r1", "needs rebuild");
    let marked = served
        .primary
        .shared()
        .wait(PATIENCE, |_| replica.status().needs_rebuild.then_some(()));
    assert!(marked.is_some(), "the replica has its own copy of the mark");
    let status = served.primary.status();
    assert_eq!(status.replicas[0].state, "needs_rebuild");
    served.stop();
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", base);
    assert_eq!(served.last("r1").outcome, "rebuild");
    assert!(!replica.status().needs_rebuild);
    served.stop();
    replica.shutdown().unwrap();
}

// D8: a kill inside its first handshake does not make a replica's directory useless.
#[test]
fn a_replica_whose_creation_was_cut_off_starts_over_and_nothing_else_is_cleared() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let home = lab.dir("r1");
    make_dir(lab.disk.as_ref(), &home).unwrap();
    make_dir(lab.disk.as_ref(), &home.join("base")).unwrap();
    let serve = || {
        let options = ReplicaOptions::default();
        Replica::serve(&lab.disk, &lab.clock, &home, "r1", "127.0.0.1:0", options)
    };
    assert!(serve().is_err(), "nobody says what this base is");
    drop(File::open(&lab.disk, &home.join("creating"), OpenMode::CreateNew).unwrap());
    drop(File::open(&lab.disk, &home.join("notes"), OpenMode::CreateNew).unwrap());
    assert!(serve().is_err(), "somebody's file is not ours to clear");
    remove(lab.disk.as_ref(), &home.join("notes")).unwrap();
    let replica = serve().unwrap();
    let served = lab.serve("p", options(&[&replica]));
    let lsn = served.fill(0..10, 1);
    served.in_sync("r1", lsn);
    assert_equal(served.primary.volume(), &replica, lsn);
    served.stop();
    replica.shutdown().unwrap();
    let names = list(lab.disk.as_ref(), &home).unwrap();
    assert!(!names.iter().any(|name| name == "creating"), "{names:?}");
}

impl Lab {
    /// A primary without replicas that answers questions, and where.
    fn listening(&self) -> (Served, String) {
        self.create("p", 4 * MIB);
        let listening = PrimaryOptions {
            listen: Some("127.0.0.1:0".into()),
            ..options(&[])
        };
        let served = self.serve("p", listening);
        let address = served.primary.listen_address().unwrap().to_string();
        (served, address)
    }
}

/// Connections that say nothing yet.
fn silent(address: &str, count: usize) -> Vec<Link> {
    let connect = |_| transport::dial(address, &Security::Loopback, ANSWER).unwrap();
    (0..count).map(connect).collect()
}

#[test]
fn a_peer_that_connects_and_says_nothing_keeps_no_other_from_being_answered() {
    let lab = Lab::new();
    let (served, address) = lab.listening();
    let silent = silent(&address, CONNECTIONS_MAX - 1);
    query_status(&address, &Security::Loopback).unwrap();
    // They were waited for all the while; what one of them asks late is answered.
    let late = ask(&silent[0], Fence::default(), Body::StatusQuery).unwrap();
    assert!(matches!(late, Body::StatusReply { .. }), "{late:?}");
    // Nobody is waited for when the primary stops.
    served.stop();
    for link in &silent[1..] {
        let ended = link.receive(ANSWER);
        assert!(matches!(ended, Err(Error::Closed { .. })), "{ended:?}");
    }
}

#[test]
fn connections_above_the_limit_are_closed_at_once() {
    let lab = Lab::new();
    let (served, address) = lab.listening();
    let silent_ones = silent(&address, CONNECTIONS_MAX);
    let ended = silent(&address, 1)[0].receive(ANSWER);
    assert!(matches!(ended, Err(Error::Closed { .. })), "{ended:?}");
    let first = ask(&silent_ones[0], Fence::default(), Body::StatusQuery).unwrap();
    assert!(matches!(first, Body::StatusReply { .. }), "{first:?}");
    served.stop();
}

// D24
#[test]
fn status_is_asked_over_tcp_and_through_the_ctl_socket() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let listening = PrimaryOptions {
        listen: Some("127.0.0.1:0".into()),
        ..options(&[&replica])
    };
    let served = lab.serve("p", listening);
    let lsn = served.fill(0..10, 1);
    served.in_sync("r1", lsn);
    let address = served.primary.listen_address().unwrap().to_string();
    let texts = [
        query_status(&address, &Security::Loopback).unwrap(),
        query_ctl(&lab.dir("p")).unwrap().unwrap(),
        query_status(&replica.address().to_string(), &Security::Loopback).unwrap(),
        query_ctl(&lab.dir("r1")).unwrap().unwrap(),
    ];
    let role = ["primary", "primary", "replica", "replica"];
    for (text, role) in texts.iter().zip(role) {
        let status: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(status["role"], role);
        assert_eq!(status["durable"], lsn.get());
        assert_eq!(status["live"], true);
    }
    let status: serde_json::Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!(status["replicas"][0]["state"], "in_sync");
    assert_eq!(status["replicas"][0]["lsn"], lsn.get());
    assert!(matches!(
        promise_epoch(&address, Epoch::new(5), &Security::Loopback),
        Err(Error::Refused { .. })
    ));
    served.stop();
    replica.shutdown().unwrap();
    assert_eq!(query_ctl(&lab.dir("p")).unwrap(), None);
}

// L-S1, L-B3: whatever moment a replica goes and comes back at, it ends level.
#[test]
fn a_flapping_replica_ends_level_while_a_quorum_goes_on() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (steady, flapping) = (lab.replica("steady"), lab.replica("flapping"));
    let address = flapping.address().to_string();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..options(&[&steady, &flapping])
    };
    let served = lab.serve("p", quorum);
    let mut flapping = Some(flapping);
    let mut end = Lsn::ZERO;
    for round in 0..12_u8 {
        beside(
            "flap",
            || {
                flapping.take().unwrap().shutdown().unwrap();
                flapping = Some(lab.replica_at("flapping", &address));
            },
            || end = served.fill(0..60, round),
        );
        if round % 4 == 3 {
            // Now and then it misses more than the log keeps.
            served.primary.volume().advance_tail(end).unwrap();
        }
    }
    let flapping = flapping.unwrap();
    for replica in [&steady, &flapping] {
        served.in_sync(&replica.status().id.unwrap(), end);
        assert_equal(served.primary.volume(), replica, end);
        let digest = replica.volume().unwrap().digest_at(end).unwrap();
        let ours = served.primary.volume().digest_at(end).unwrap();
        assert_eq!(digest, ours);
    }
    served.stop();
    steady.shutdown().unwrap();
    flapping.shutdown().unwrap();
}
