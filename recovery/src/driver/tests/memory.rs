//! What recovery must not forget (D8): marks, lives of a replica's directory, the history of
//! recoveries; and that a base and its tail are pinned as one.

use super::*;
use crate::driver::storage::VolumeStorage;
use crate::id::ReplicaId;
use crate::plan::{Pin as _, PinPart, PinRefusal, PinRefused, Storage as _};
use crate::state::Entry;
use seawall_wal::LsnRange;

impl Served {
    fn is_marked(&self, id: &str) -> bool {
        let mut senders = self.primary.status().replicas.into_iter();
        senders.any(|sender| sender.id == id && sender.state == "needs_rebuild")
    }

    fn waits_for_a_rebuild(&self, id: &str) {
        let replica = ReplicaId::new(id);
        let marked = self.primary.shared().wait(PATIENCE, |core| {
            let sender = core.orchestrator.registry().sender(&replica).ok()?;
            sender.needs_rebuild().then_some(())
        });
        assert!(marked.is_some(), "{:#?}", self.primary.status());
        let in_sync = self
            .primary
            .wait_in_sync(id, Lsn::ZERO, Duration::from_millis(300));
        assert!(!in_sync && self.is_marked(id));
    }

    fn voided(&self) -> usize {
        let events = self.primary.events().into_iter();
        let voided = events.filter(|event| event.what.name() == "acknowledgements-voided");
        voided.count()
    }
}

fn by_hand(replica: &Replica) -> PrimaryOptions {
    PrimaryOptions {
        auto_rebuild: false,
        ..options(&[replica])
    }
}

// D8, H18: the replica is level, and is rebuilt all the same.
#[test]
fn a_remembered_mark_is_obeyed_though_a_catch_up_would_do() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    let lsn = served.fill(0..10, 1);
    served.in_sync("r1", lsn);
    served.stop();
    let mut log = StateLog::open(&lab.disk, &lab.dir("p")).unwrap();
    let mark = Entry::Mark {
        replica: "r1".into(),
        set: true,
        cause: "budget".into(),
    };
    log.append(mark).unwrap();
    drop(log);
    for _restart in 0..2 {
        let served = lab.serve("p", by_hand(&replica));
        served.waits_for_a_rebuild("r1");
        served.stop();
    }
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", lsn);
    assert_eq!(served.last("r1").outcome, "rebuild");
    served.stop();
    let log = StateLog::open(&lab.disk, &lab.dir("p")).unwrap();
    assert_eq!(log.remembered("r1").mark, None);
    replica.shutdown().unwrap();
}

// A231, D8: the other primary never heard of the mark, and its log reaches back far enough.
#[test]
fn a_mark_is_carried_by_the_replica_to_another_primary_and_over_its_own_restart() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let base = served.fill(0..50, 1);
    served.stop();
    lab.copy(&lab.dir("p"), &lab.dir("other"));
    let served = lab.serve("p", PrimaryOptions::default());
    served.primary.volume().advance_tail(base).unwrap();
    served.stop();
    let replica = lab.replica("r1");
    let served = lab.serve("p", by_hand(&replica));
    served.recovered("r1", "needs rebuild");
    let own = served
        .primary
        .shared()
        .wait(PATIENCE, |_| replica.status().needs_rebuild.then_some(()));
    assert!(own.is_some());
    served.stop();
    replica.shutdown().unwrap();

    let replica = lab.replica("r1");
    assert!(replica.status().needs_rebuild, "it is in its meta");
    lab.promote("other", 2);
    let log = StateLog::open(&lab.disk, &lab.dir("other")).unwrap();
    assert_eq!(log.remembered("r1").mark, None);
    drop(log);
    let served = lab.serve("other", by_hand(&replica));
    served.waits_for_a_rebuild("r1");
    served.stop();
    let served = lab.serve("other", options(&[&replica]));
    served.in_sync("r1", base);
    assert_eq!(served.last("r1").outcome, "rebuild");
    assert!(!replica.status().needs_rebuild);
    assert_equal(served.primary.volume(), &replica, base);
    served.stop();
    replica.shutdown().unwrap();
}

// A232, D8: the life that acknowledged is known over a restart of either side, and a new one is
// told from it.
#[test]
fn a_directory_started_anew_is_told_from_the_one_that_acknowledged() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let quorum = |replica: &Replica| PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..options(&[replica])
    };
    let served = lab.serve("p", quorum(&replica));
    let lsn = served.fill(0..20, 1);
    served.in_sync("r1", lsn);
    assert_eq!(served.voided(), 0, "the first life replaces none");
    served.stop();
    replica.shutdown().unwrap();
    let node = || {
        let log = StateLog::open(&lab.disk, &lab.dir("p")).unwrap();
        log.remembered("r1").node.expect("a life that was met")
    };
    let first = node();

    let replica = lab.replica("r1");
    let served = lab.serve("p", quorum(&replica));
    served.in_sync("r1", lsn);
    assert_eq!(served.voided(), 0, "a restart is no new life");
    served.stop();
    replica.shutdown().unwrap();
    assert_eq!(node(), first);

    let anew = Replica::serve(
        &lab.disk,
        &lab.clock,
        &lab.dir("r1-anew"),
        "r1",
        "127.0.0.1:0",
        ReplicaOptions::default(),
    )
    .unwrap();
    let served = lab.serve("p", quorum(&anew));
    served.in_sync("r1", lsn);
    assert_eq!(served.voided(), 1);
    assert_eq!(served.last("r1").after, 0, "nothing of the old life counts");
    assert_equal(served.primary.volume(), &anew, lsn);
    served.stop();
    anew.shutdown().unwrap();
    assert_ne!(node(), first);
}

// D8: an empty directory adopts once, and for good.
#[test]
fn an_adopted_volume_is_kept_over_a_restart() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    lab.create("q", 4 * MIB);
    let replica = lab.replica("r1");
    assert_eq!(replica.status().volume, None);
    let served = lab.serve("p", options(&[&replica]));
    let lsn = served.fill(0..10, 1);
    served.in_sync("r1", lsn);
    let volume = served.primary.status().volume;
    let adopted = served.primary.volume().meta().get().geometry;
    served.stop();
    replica.shutdown().unwrap();
    let replica = lab.replica("r1");
    assert_eq!(replica.status().volume, volume);
    let geometry = replica.volume().unwrap().meta().get().geometry;
    assert_eq!(geometry, adopted);
    let stranger = lab.serve("q", options(&[&replica]));
    let in_sync = stranger
        .primary
        .wait_in_sync("r1", Lsn::ZERO, Duration::from_millis(300));
    assert!(!in_sync, "another volume");
    stranger.stop();
    assert_eq!(replica.status().volume, volume);
    assert_eq!(replica.status().head, lsn.get());
    replica.shutdown().unwrap();
}

// D8, 1.18
#[test]
fn the_history_of_recoveries_survives_a_restart_with_its_proofs() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let lsn = served.fill(0..30, 1);
    served.stop();
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", lsn);
    let before = served.primary.recoveries();
    served.stop();
    assert!(!before.is_empty() && before.iter().all(|record| !record.proof.is_empty()));
    let served = lab.serve("p", PrimaryOptions::default());
    assert_eq!(served.primary.recoveries(), before);
    served.stop();
    replica.shutdown().unwrap();
}

// A236, D10: the pin of a full base keeps the log after its target, and the stream takes it over.
#[test]
fn the_log_after_a_full_base_stays_until_the_stream_has_moved_on() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let target = served.fill(0..700, 1);
    let volume = Arc::clone(served.primary.volume());
    let mut storage = VolumeStorage {
        volume: &volume,
        owner: "test",
    };
    let mut pin = storage.pin_full_base(target).unwrap();
    let end = served.fill(0..700, 2);
    let readable = || {
        volume.advance_tail(end).unwrap();
        let records = volume.log().read(LsnRange::new(target, end)).unwrap();
        records.filter(Result::is_ok).count() as u64
    };
    assert_eq!(readable(), end.get() - target.get());
    let mut block = [0; BLOCK_BYTES];
    pin.base().unwrap().read(5 * BLOCK, &mut block).unwrap();
    assert_eq!(block, [6; BLOCK_BYTES], "the state at the target");
    // The stream starts at the target, without the base.
    pin.move_up(target);
    assert_eq!(readable(), end.get() - target.get());
    pin.move_up(end);
    volume.advance_tail(end).unwrap();
    assert!(volume.log().read(LsnRange::new(target, end)).is_err());
    drop(pin);
    served.stop();
}

// A183, H11: base and tail as one, or neither.
#[test]
fn a_base_that_moved_leaves_neither_base_nor_tail_pinned() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let lsn = served.fill(0..20, 1);
    let volume = Arc::clone(served.primary.volume());
    volume.checkpoint(None).unwrap();
    let owner = "test";
    let mut storage = VolumeStorage {
        volume: &volume,
        owner,
    };
    let base = storage.history().checkpoint.unwrap().lsn;
    assert_eq!(base, lsn);
    let held = || {
        volume
            .pins()
            .iter()
            .filter(|pin| pin.owner == owner)
            .count()
    };
    let refused = storage.pin_snapshot_tail(base.before()).unwrap_err();
    let expected = PinRefused {
        part: PinPart::Snapshot,
        at: base.before(),
        why: PinRefusal::NoBase,
    };
    assert_eq!(refused, expected);
    assert_eq!(held(), 0);
    let pin = storage.pin_snapshot_tail(base).unwrap();
    assert!(held() > 0);
    drop(pin);
    assert_eq!(held(), 0);
    served.stop();
}
