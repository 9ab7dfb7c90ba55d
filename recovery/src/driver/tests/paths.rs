//! Every outcome, and every source of a rebuild.

use super::*;

#[test]
fn an_empty_replica_adopts_the_volume_and_is_in_sync_without_a_gap() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    assert_eq!(replica.status().volume, None);
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", Lsn::ZERO);
    assert_eq!(served.last("r1").outcome, "zero gap");
    let lsn = served.fill(0..50, 1);
    served.in_sync("r1", lsn);
    assert_equal(served.primary.volume(), &replica, lsn);
    let theirs = replica.status();
    assert_eq!(theirs.volume, served.primary.status().volume);
    assert_eq!(theirs.link.as_deref(), Some("in_sync"));
    served.stop();
    replica.shutdown().unwrap();
}

// A227, A107
#[test]
fn a_replica_that_was_away_catches_up_under_live_writes() {
    let lab = Lab::new();
    lab.create("p", 8 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", Lsn::ZERO);
    replica.shutdown().unwrap();
    // However fast the writes are, what the replica missed is still retained when it is back.
    let kept = served
        .primary
        .volume()
        .log()
        .pin(Lsn::ZERO, "test")
        .unwrap();
    let away = served.fill(0..300, 1);
    let (replica, end) = {
        let mut replica = None;
        let mut end = Lsn::ZERO;
        beside(
            "restart",
            || replica = Some(lab.replica_at("r1", &address)),
            || end = served.fill(0..2000, 7),
        );
        (replica.unwrap(), end)
    };
    served.in_sync("r1", end);
    drop(kept);
    let record = served.recovered("r1", "catch-up");
    assert_eq!((record.after, record.result.as_str()), (0, "in sync"));
    // The frozen target lies between what was missed and the end (1.10).
    assert!(record.through >= away.get() && record.through <= end.get());
    assert_eq!(record.records, record.through);
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
}

#[test]
fn a_replica_beyond_retention_is_rebuilt_from_snapshot_and_tail() {
    let lab = Lab::new();
    lab.create("p", 16 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let base = served.fill(0..1000, 1);
    served.primary.volume().advance_tail(base).unwrap();
    let end = served.fill(500..700, 9);
    served.stop();
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", end);
    let record = served.last("r1");
    assert_eq!(record.source, "snapshot + tail");
    assert_eq!((record.after, record.through), (base.get(), end.get()));
    assert_eq!(record.records, 200);
    assert!(record.zero_chunks > 0 && record.chunks_sent > 0);
    let digest = replica.volume().unwrap().digest_at(end).unwrap();
    assert_eq!(record.digest, Some(digest.to_string()));
    assert_eq!(
        served.recovered("r1", "needs rebuild").result,
        "needs rebuild"
    );
    let more = served.fill(0..10, 3);
    served.in_sync("r1", more);
    assert_equal(served.primary.volume(), &replica, more);
    assert!(!replica.status().needs_rebuild);
    served.stop();
    replica.shutdown().unwrap();
}

#[test]
fn a_full_base_that_was_asked_for_sends_only_chunks_that_differ() {
    let lab = Lab::new();
    lab.create("p", 16 * MIB);
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    let end = served.fill(0..3000, 1);
    served.in_sync("r1", end);
    let address = replica.address().to_string();
    served.stop();
    replica.shutdown().unwrap();
    // The replica is wiped: everything has to be sent again.
    remove(lab.disk.as_ref(), &lab.dir("r1")).unwrap();
    let replica = lab.replica_at("r1", &address);
    let full = PrimaryOptions {
        rebuild_full: true,
        ..options(&[&replica])
    };
    let served = lab.serve("p", full.clone());
    served.in_sync("r1", end);
    let first = served.last("r1");
    assert_eq!(
        (first.outcome.as_str(), first.source.as_str()),
        ("rebuild", "full base")
    );
    assert_eq!((first.chunks_sent, first.chunks_matched), (12, 0));
    assert!(first.proof.contains("requested"), "{}", first.proof);
    let end = served.fill(10..12, 77);
    served.in_sync("r1", end);
    served.stop();
    // One chunk changes while the replica is away.
    replica.shutdown().unwrap();
    let served = lab.serve("p", PrimaryOptions::default());
    let end = served.fill(600..601, 5);
    served.stop();
    let replica = lab.replica_at("r1", &address);
    let served = lab.serve("p", full);
    served.in_sync("r1", end);
    let second = served.last("r1");
    assert_eq!(second.source, "full base");
    assert_eq!((second.chunks_sent, second.chunks_matched), (1, 11));
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
}

// D12, L-B6
#[test]
fn a_rebuild_after_a_kill_sends_only_what_the_first_did_not() {
    let lab = Lab::new();
    lab.create("p", 64 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let full = PrimaryOptions {
        rebuild_full: true,
        ..options(&[&replica])
    };
    let served = lab.serve("p", PrimaryOptions::default());
    let end = served.fill(0..16_000, 1);
    served.stop();
    let served = lab.serve("p", full);
    let begun = served.primary.shared().wait(PATIENCE, |core| {
        let mut extras = core.extras.values();
        extras
            .any(|extra| extra.chunks.is_some_and(|(done, _)| done > 20))
            .then_some(())
    });
    assert!(begun.is_some(), "the rebuild begins");
    replica.shutdown().unwrap();
    let replica = lab.replica_at("r1", &address);
    served.in_sync("r1", end);
    let records = served.primary.recoveries();
    let last = records.last().unwrap();
    if records.len() > 1 {
        assert_ne!(records[0].result, "in sync");
        assert!(last.chunks_matched > 0, "{records:#?}");
    }
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
}

// D5, 1.11
#[test]
fn an_ahead_replica_is_truncated_after_a_promotion() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let all = PrimaryOptions {
        ack: AckRule::All,
        commit_timeout: PATIENCE,
        ..options(&[&r1, &r2])
    };
    let served = lab.serve("p", all);
    let common = served.fill(0..20, 1);
    served.in_sync("r1", common);
    served.in_sync("r2", common);
    r1.shutdown().unwrap();
    // Shipped to r2 only, so never acknowledged.
    let ahead = served
        .primary
        .write(0, &[9; 8192], Durability::Volatile)
        .unwrap();
    served.primary.volume().flush().unwrap();
    served.in_sync("r2", ahead);
    served.stop();
    let promised = promise_epoch(
        &r2.address().to_string(),
        Epoch::new(2),
        &Security::Loopback,
    )
    .unwrap();
    assert_eq!((promised.id.as_str(), promised.durable), ("r2", ahead));
    lab.promote("r1", 2);
    let served = lab.serve("r1", options(&[&r2]));
    served.in_sync("r2", common);
    let record = served.last("r2");
    assert_eq!(record.outcome, "truncate");
    assert_eq!(record.truncated_to, Some(common.get()));
    let end = served.fill(30..40, 4);
    served.in_sync("r2", end);
    assert_equal(served.primary.volume(), &r2, end);
    served.stop();
    r2.shutdown().unwrap();
}

// A242, D15, L7
#[test]
fn a_record_that_cannot_be_read_ends_the_session_and_is_decided_again() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    served.fill(0..900, 1);
    served.primary.volume().checkpoint(None).unwrap();
    let end = served.fill(0..20, 2);
    damage(&lab, served.primary.volume(), Lsn::new(30));
    served.primary.shutdown();
    let replica = lab.replica("r1");
    let served = Served {
        primary: {
            let volume = lab.open("p", Access::Primary);
            let options = options(&[&replica]);
            Primary::start(&lab.disk, &lab.clock, volume, options).unwrap()
        },
    };
    served.in_sync("r1", end);
    assert_eq!(served.last("r1").source, "snapshot + tail");
    let ended = served.primary.recoveries();
    assert_eq!(ended[0].outcome, "catch-up");
    assert!(ended[0].result.contains("LSN 30"), "{ended:#?}");
    assert_eq!(ended[1].proof, "record 30 is corrupt on the primary");
    assert_equal(served.primary.volume(), &replica, end);
    replica.shutdown().unwrap();
}
