//! Every path of recovery between real volumes over loopback.

use std::path::{Path, PathBuf};

use seawall_snapshot::{Access, CreateOptions, Durability, Volume};
use seawall_wal::disk::{Buffer, Disk, File, FileDisk, OpenMode, list, make_dir, remove};
use seawall_wal::{BlockSize, Clock, Geometry, Role, SystemClock};
use tempfile::TempDir;

use super::*;
use crate::state::StateLog;
use crate::status::RecoveryRecord;

const PATIENCE: Duration = Duration::from_secs(30);
const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
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
            let bytes = [byte.wrapping_add(block.to_le_bytes()[0]); BLOCK_BYTES];
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

/// Flips one bit of the record `lsn` in the log of `volume`.
fn damage(lab: &Lab, volume: &Volume, lsn: Lsn) {
    let payload = volume.log().read_record(lsn).unwrap();
    let wal = volume.dir().join("wal");
    for name in list(lab.disk.as_ref(), &wal).unwrap() {
        let file = File::open(&lab.disk, &wal.join(name), OpenMode::ReadWrite).unwrap();
        let length = usize::try_from(file.length().unwrap()).unwrap();
        let bytes = file.read_exact(0, length).unwrap();
        let header = payload.header().encode();
        if let Some(at) = bytes.windows(64).position(|window| window == header) {
            let mut flipped = [bytes[at + 48]];
            flipped[0] ^= 1;
            file.write_bytes(at as u64 + 48, Buffer::copy_of(&flipped))
                .unwrap();
            file.sync().unwrap();
            return;
        }
    }
    panic!("record {lsn} is not on disk");
}

// D15, L7
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
    assert!(ended[1].proof.contains("corrupt"), "{ended:#?}");
    assert_equal(served.primary.volume(), &replica, end);
    replica.shutdown().unwrap();
}

/// A replica of nothing, as far as a test speaks for it.
struct Impostor {
    link: Link,
    fence: Fence,
}

impl Impostor {
    fn meet(listener: &crate::transport::tcp::Listener, durable: Lsn, like: &Volume) -> Impostor {
        let link = listener.accept().unwrap().unwrap();
        let hello = link.receive(PATIENCE).unwrap().unwrap();
        let impostor = Impostor {
            link,
            fence: hello.fence,
        };
        impostor.say(Body::HelloReply(crate::message::HelloReply {
            replica: "r1".into(),
            node: seawall_wal::NodeIncarnation([1; 16]),
            volume: hello.fence.volume,
            durable,
            checkpoint: Some(Lsn::ZERO),
            intent: None,
            committed: Lsn::ZERO,
            incomplete_base: None,
            needs_rebuild: false,
            promised: Epoch::default(),
            lineage: like.log().lineage().through(durable),
        }));
        impostor
    }

    fn say(&self, body: Body) {
        let fence = self.fence;
        self.link.send(&Message { fence, body }).unwrap();
    }

    /// The next message that is not about liveness; `None` when the primary hung up.
    fn hear(&self) -> Option<Body> {
        loop {
            match self.link.receive(PATIENCE) {
                Ok(Some(Message {
                    body: Body::Alive, ..
                })) => {}
                Ok(message) => return Some(message.expect("the primary speaks in time").body),
                Err(_) => return None,
            }
        }
    }

    /// Goes along with a rebuild, and claims this digest at the end.
    fn install(&self, digest: seawall_snapshot::Digest) {
        while let Some(body) = self.hear() {
            match body {
                Body::Mark { .. } => self.say(Body::Marked),
                Body::BaseBegin(_) => self.say(Body::BaseReady { compare: false }),
                Body::BaseEnd { chunks, .. } => {
                    let lsn = Lsn::new(100);
                    self.say(Body::BaseInstalled { lsn, chunks });
                }
                Body::DigestQuery { lsn } => self.say(Body::DigestReply { lsn, state: digest }),
                Body::Chunk { .. } | Body::ZeroChunks { .. } => {}
                other => panic!("{} is not due", other.name()),
            }
        }
    }
}

fn impostor_options(listener: &crate::transport::tcp::Listener) -> PrimaryOptions {
    PrimaryOptions {
        replicas: vec![ReplicaAddress {
            id: "r1".into(),
            address: listener.address().to_string(),
        }],
        ..PrimaryOptions::default()
    }
}

// L-B4, A136: the base arrived whole, and still the states differ.
#[test]
fn a_replica_whose_state_digest_differs_is_never_in_sync() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    served.fill(0..100, 1);
    served.stop();
    let listener = crate::transport::tcp::Listener::bind("127.0.0.1:0", false).unwrap();
    let full = PrimaryOptions {
        rebuild_full: true,
        ..impostor_options(&listener)
    };
    let served = lab.serve("p", full);
    let volume = served.primary.volume();
    Impostor::meet(&listener, Lsn::ZERO, volume).install(seawall_snapshot::Digest(7));
    let record = served.recovered("r1", "rebuild");
    assert!(record.result.contains("state digest"), "{record:#?}");
    assert!(served.primary.status().replicas[0].needs_rebuild);
    assert!(!served.primary.wait_in_sync("r1", Lsn::ZERO, Duration::ZERO));
    served.stop();
    // The mark was durable before the first byte was sent (D8).
    let state = StateLog::open(&lab.disk, &lab.dir("p")).unwrap();
    assert_eq!(
        state.remembered("r1").mark.as_deref(),
        Some("transfer-began")
    );
}

// H24, A109
#[test]
fn an_acknowledgement_of_what_was_never_shipped_ends_the_stream() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let listener = crate::transport::tcp::Listener::bind("127.0.0.1:0", false).unwrap();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..impostor_options(&listener)
    };
    let served = lab.serve("p", quorum);
    let impostor = Impostor::meet(&listener, Lsn::ZERO, served.primary.volume());
    assert!(matches!(impostor.hear(), Some(Body::InSync { lsn }) if lsn.is_zero()));
    impostor.say(Body::Ack {
        durable: Lsn::new(5),
    });
    assert!(impostor.hear().is_none(), "the primary hangs up");
    let committed = served.primary.status().committed;
    assert_eq!(committed, 0);
    served.stop();
}

// L-S2: the fence is checked before any effect.
#[test]
fn a_message_of_another_session_has_no_effect() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let listener = crate::transport::tcp::Listener::bind("127.0.0.1:0", false).unwrap();
    let quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        ..impostor_options(&listener)
    };
    let served = lab.serve("p", quorum);
    let mut impostor = Impostor::meet(&listener, Lsn::ZERO, served.primary.volume());
    assert!(matches!(impostor.hear(), Some(Body::InSync { .. })));
    let lsn = served
        .primary
        .write(0, &[1; BLOCK_BYTES], Durability::Volatile)
        .unwrap();
    served.primary.volume().flush().unwrap();
    assert!(matches!(impostor.hear(), Some(Body::Records { .. })));
    let session = impostor.fence.session.as_mut().unwrap();
    session.counter += 1;
    impostor.say(Body::Ack { durable: lsn });
    assert!(impostor.hear().is_none(), "the primary hangs up");
    assert_eq!(served.primary.status().committed, 0);
    served.stop();
}

/// A clock that stands still until it is moved.
#[derive(Debug, Default)]
struct HandClock(std::sync::atomic::AtomicU64);

impl Clock for HandClock {
    fn unix_ns(&self) -> u64 {
        0
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
}

// D7, L-S5
#[test]
fn silence_ends_a_connection_and_nothing_else() {
    use super::conversation::{Conversation, SILENCE};
    let (primary, replica) = crate::transport::memory::pair();
    let hand = Arc::new(HandClock::default());
    let clock: Arc<dyn Clock> = Arc::clone(&hand) as Arc<dyn Clock>;
    let talk = Conversation::new(primary, Fence::default(), &clock);
    let (inbox, speaker) = std::sync::mpsc::sync_channel(1);
    beside(
        "listener",
        || talk.listen(&inbox, Some),
        || {
            let body = Body::Ack { durable: Lsn::ZERO };
            let fence = Fence::default();
            replica.send(&Message { fence, body }).unwrap();
            assert!(
                speaker.recv_timeout(PATIENCE).is_ok(),
                "a live peer is heard"
            );
            let past = u64::try_from(SILENCE.as_nanos()).unwrap();
            hand.0.store(past, std::sync::atomic::Ordering::Release);
        },
    );
    assert!(matches!(talk.cause(), Some(Error::Silent { silent, .. }) if silent >= SILENCE));
    // The listener has said that we are alive before it gave up.
    let alive = replica.receive(PATIENCE).unwrap().unwrap();
    assert!(matches!(alive.body, Body::Alive));
}
