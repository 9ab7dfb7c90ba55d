//! Every path of recovery between real volumes over loopback.

use std::path::{Path, PathBuf};

use seawall_snapshot::{Access, CreateOptions, Durability, Volume};
use seawall_wal::disk::{Buffer, Disk, File, FileDisk, OpenMode, list, make_dir, remove};
use seawall_wal::{BlockSize, Clock, Geometry, Role, SystemClock};
use tempfile::TempDir;

use super::*;
use crate::status::RecoveryRecord;

const PATIENCE: Duration = Duration::from_secs(30);
const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// Two places, a disk and a clock.
struct Lab {
    root: TempDir,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
}

/// A primary with what it serves.
struct Served {
    primary: Primary,
}

impl Lab {
    fn new() -> Lab {
        Lab {
            root: tempfile::tempdir().unwrap(),
            disk: FileDisk::new(),
            clock: SystemClock::new(),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn create(&self, name: &str, size: u64) {
        let options = CreateOptions {
            volume: None,
            geometry: Geometry {
                block_size: BlockSize::DEFAULT,
                blocks: size / BLOCK,
                segment_bytes: MIB,
            },
            role: Role::Primary,
        };
        Volume::create(&self.disk, &self.dir(name), options).unwrap();
    }

    fn open(&self, name: &str, access: Access) -> Arc<Volume> {
        let opened = Volume::open(&self.disk, &self.dir(name), &self.clock, access);
        opened.unwrap().0
    }

    fn serve(&self, name: &str, options: PrimaryOptions) -> Served {
        let volume = self.open(name, Access::Primary);
        let primary = Primary::start(&self.disk, &self.clock, volume, options).unwrap();
        Served { primary }
    }

    fn replica(&self, id: &str) -> Replica {
        self.replica_at(id, "127.0.0.1:0")
    }

    fn replica_at(&self, id: &str, listen: &str) -> Replica {
        let options = ReplicaOptions::default();
        Replica::serve(&self.disk, &self.clock, &self.dir(id), id, listen, options).unwrap()
    }

    fn promote(&self, name: &str, epoch: u64) {
        let volume = self.open(name, Access::Maintain);
        volume.promote(Epoch::new(epoch)).unwrap();
        volume.close().unwrap();
    }

    /// Copies a volume as a crash would leave it: no lock, no socket.
    fn copy(&self, from: &Path, to: &Path) {
        make_dir(self.disk.as_ref(), to).unwrap();
        for name in list(self.disk.as_ref(), from).unwrap() {
            let (source, target) = (from.join(&name), to.join(&name));
            if name == "lock" || name == "ctl" {
                continue;
            }
            if list(self.disk.as_ref(), &source).is_ok() {
                self.copy(&source, &target);
                continue;
            }
            let source = File::open(&self.disk, &source, OpenMode::Read).unwrap();
            let length = source.length().unwrap();
            let bytes = source
                .read_exact(0, usize::try_from(length).unwrap())
                .unwrap();
            let target = File::open(&self.disk, &target, OpenMode::CreateNew).unwrap();
            target.write_bytes(0, Buffer::copy_of(&bytes)).unwrap();
            target.sync().unwrap();
        }
    }
}

fn options(replicas: &[&Replica]) -> PrimaryOptions {
    let replicas = replicas.iter().map(|replica| ReplicaAddress {
        id: replica.status().id.unwrap(),
        address: replica.address().to_string(),
    });
    PrimaryOptions {
        replicas: replicas.collect(),
        ..PrimaryOptions::default()
    }
}

impl Served {
    fn fill(&self, blocks: std::ops::Range<u64>, byte: u8) -> Lsn {
        for block in blocks {
            let bytes = [byte.wrapping_add(block.to_le_bytes()[0]); BLOCK as usize];
            self.primary
                .write(block * BLOCK, &bytes, Durability::Volatile)
                .unwrap();
        }
        self.primary.flush().unwrap()
    }

    fn in_sync(&self, id: &str, lsn: Lsn) {
        let reached = self.primary.wait_in_sync(id, lsn, PATIENCE);
        assert!(reached, "{:#?}", self.primary.status());
    }

    fn last(&self, id: &str) -> RecoveryRecord {
        let all = self.primary.recoveries();
        let of = all.into_iter().rfind(|record| record.replica == id);
        of.expect("a recovery of this replica")
    }

    /// Waits until a recovery of `id` ended with this outcome.
    fn recovered(&self, id: &str, outcome: &str) -> RecoveryRecord {
        let found = self.primary.shared().wait(PATIENCE, |core| {
            let records = core.state.recoveries().iter();
            let mut records = records.rev();
            records
                .find(|record| record.replica == id && record.outcome == outcome)
                .cloned()
        });
        found.unwrap_or_else(|| panic!("no {outcome}: {:#?}", self.primary.status()))
    }

    fn stop(self) {
        let volume = Arc::clone(self.primary.volume());
        self.primary.shutdown();
        assert!(volume.pins().is_empty(), "{:?}", volume.pins());
        volume.close().unwrap();
    }
}

/// Same state at `lsn`, by digest and byte by byte.
fn assert_equal(primary: &Volume, replica: &Replica, lsn: Lsn) {
    let replica = replica.volume().unwrap();
    let mut ours = vec![0; usize::try_from(primary.size()).unwrap()];
    let mut theirs = ours.clone();
    primary.read(0, &mut ours).unwrap();
    replica.read(0, &mut theirs).unwrap();
    assert!(ours == theirs, "the copies differ");
    assert_eq!(replica.log().frontiers().head, lsn);
}

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

#[test]
fn a_replica_that_was_away_catches_up_under_live_writes() {
    let lab = Lab::new();
    lab.create("p", 8 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", Lsn::ZERO);
    replica.shutdown().unwrap();
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
    let record = served.recovered("r1", "catch-up");
    assert_eq!((record.after, record.result.as_str()), (0, "in sync"));
    // The frozen target lies between what was missed and the end (A101).
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
    let promised = promise_epoch(&r2.address().to_string(), Epoch::new(2), false).unwrap();
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

// D1, D13
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

// D6
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

#[test]
fn a_replica_of_another_volume_is_refused_and_unchanged() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    lab.create("other", 4 * MIB);
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    let lsn = served.fill(0..10, 1);
    served.in_sync("r1", lsn);
    let before = replica.status().volume;
    served.stop();
    let served = lab.serve("other", options(&[&replica]));
    let cause = served.primary.shared().wait(PATIENCE, |core| {
        let mut extras = core.extras.values();
        extras.find_map(|extra| extra.cause.clone())
    });
    assert!(cause.unwrap().contains("belongs to volume"));
    assert_eq!(replica.status().volume, before);
    assert_eq!(replica.status().durable, lsn.get());
    served.stop();
    replica.shutdown().unwrap();
}

// D5
#[test]
fn a_promised_epoch_ends_the_stream_and_deposes_the_old_primary() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..options(&[&replica])
    };
    let served = lab.serve("p", quorum);
    let lsn = served.fill(0..10, 1);
    served.in_sync("r1", lsn);
    let report = promise_epoch(&address, Epoch::new(9), false).unwrap();
    assert_eq!((report.epoch, report.durable), (Epoch::new(9), lsn));
    assert!(matches!(
        promise_epoch(&address, Epoch::new(8), false),
        Err(Error::Refused { reason: crate::message::Refusal::EpochTooOld { promised }, .. })
            if promised == Epoch::new(9)
    ));
    let written = served.primary.write(0, &[1; 4096], Durability::Durable);
    assert!(
        matches!(&written, Err(Error::Deposed { promised, .. }) if *promised == Epoch::new(9)),
        "{written:?}"
    );
    assert_eq!(replica.status().durable, lsn.get());
    assert_eq!(replica.status().epoch, 9);
    served.stop();
    replica.shutdown().unwrap();
    // Persisted: a restart still refuses.
    let replica = lab.replica_at("r1", &address);
    assert_eq!(replica.status().epoch, 9);
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
        query_status(&address, false).unwrap(),
        query_ctl(&lab.dir("p")).unwrap().unwrap(),
        query_status(&replica.address().to_string(), false).unwrap(),
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
        promise_epoch(&address, Epoch::new(5), false),
        Err(Error::Refused { .. })
    ));
    served.stop();
    replica.shutdown().unwrap();
    assert_eq!(query_ctl(&lab.dir("p")).unwrap(), None);
}
