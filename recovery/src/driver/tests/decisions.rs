//! What the decisions about histories promise, between real volumes: a lower bound of committed
//! after a kill, forks, records that were never committed, and what a stream is sent (D1 to D6).

use std::sync::{Condvar, Mutex};

use seawall_wal::LsnRange;

use super::fencing::{Impostor, impostor_options};
use super::*;
use crate::message::Body;
use crate::transport::tcp::Socket;

fn under(ack: AckRule, replicas: &[&Replica]) -> PrimaryOptions {
    PrimaryOptions {
        ack,
        commit_timeout: PATIENCE,
        ..options(replicas)
    }
}

/// Writes that wait for nobody, durable here; gives the last.
fn write_alone(served: &Served, blocks: std::ops::Range<u64>, byte: u8) -> Lsn {
    for block in blocks {
        let bytes = [byte.wrapping_add(block.to_le_bytes()[0]); BLOCK_BYTES];
        served
            .primary
            .write(block * BLOCK, &bytes, Durability::Volatile)
            .unwrap();
    }
    served.primary.volume().flush().unwrap()
}

fn block(volume: &Volume, at: u64) -> u8 {
    let mut bytes = [0; BLOCK_BYTES];
    volume.read(at * BLOCK, &mut bytes).unwrap();
    bytes[0]
}

// A218, D1
#[test]
fn a_killed_primary_commits_with_the_first_handshake_and_nobody_is_cut_or_rebuilt() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let address = r1.address().to_string();
    let served = lab.serve("p", under(AckRule::Quorum, &[&r1, &r2]));
    let end = served.fill(0..105, 1);
    served.in_sync("r1", end);
    // Killed: what meta and the last frame know of committed is older.
    lab.copy(&lab.dir("p"), &lab.dir("killed"));
    let members = under(AckRule::Quorum, &[&r1, &r2]);
    served.stop();
    r1.shutdown().unwrap();
    r2.shutdown().unwrap();
    let served = lab.serve("killed", members);
    assert!(!served.primary.confirmed());
    let before = served.primary.status();
    assert!(before.committed < end.get(), "{}", before.committed);
    assert_eq!(before.durable, end.get());
    let r1 = lab.replica_at("r1", &address);
    assert_eq!(served.primary.wait_committed(end, PATIENCE).unwrap(), end);
    served.in_sync("r1", end);
    assert!(served.primary.confirmed());
    let record = served.last("r1");
    assert_eq!(
        (record.outcome.as_str(), record.truncated_to),
        ("zero gap", None)
    );
    assert_eq!(r1.status().durable, end.get());
    assert!(!r1.status().needs_rebuild);
    served.stop();
    r1.shutdown().unwrap();
}

// A221, D2
#[test]
fn a_lost_lsn_that_was_written_anew_is_a_fork_and_never_zero_gap() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let served = lab.serve("p", options(&[&replica]));
    let common = served.fill(0..100, 1);
    served.in_sync("r1", common);
    lab.copy(&lab.dir("p"), &lab.dir("lost"));
    let old = served.fill(7..8, 200);
    served.in_sync("r1", old);
    let away = options(&[&replica]);
    served.stop();
    replica.shutdown().unwrap();

    // Without 101, reopened while the replica is away.
    let served = lab.serve("lost", away);
    let new = served.fill(7..8, 50);
    assert_eq!((common, new), (Lsn::new(100), old));
    let replica = lab.replica_at("r1", &address);
    assert_eq!(replica.status().durable, new.get(), "equal numbers");
    // It is level by its number alone; the end of its recovery says more.
    let record = served.recovered("r1", "truncate");
    assert_eq!(
        (record.truncated_to, record.after, record.through),
        (Some(100), 100, 101),
        "{record:#?}"
    );
    served.in_sync("r1", new);
    assert_equal(served.primary.volume(), &replica, new);
    assert_eq!(block(&replica.volume().unwrap(), 7), 57);
    served.stop();
    replica.shutdown().unwrap();
}

// A116
#[test]
fn a_replica_whose_records_were_never_committed_is_cut_to_before_lsn_1() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    lab.copy(&lab.dir("p"), &lab.dir("empty"));
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let members = under(AckRule::All, &[&r1, &r2]);
    let alone = options(&[&r1]);
    r2.shutdown().unwrap();
    let served = lab.serve("p", members);
    served.in_sync("r1", Lsn::ZERO);
    let end = write_alone(&served, 0..5, 1);
    served.in_sync("r1", end);
    assert_eq!(served.primary.status().committed, 0);
    served.stop();
    assert_eq!(r1.status().durable, 5);

    let served = lab.serve("empty", alone);
    let record = served.recovered("r1", "truncate");
    assert_eq!(
        (record.truncated_to, record.result.as_str()),
        (Some(0), "in sync"),
        "{record:#?}"
    );
    served.in_sync("r1", Lsn::ZERO);
    assert_eq!((r1.status().head, r1.status().durable), (0, 0));
    // LSN 1 is written again, and is another record.
    let end = served.fill(2..9, 60);
    served.in_sync("r1", end);
    assert_equal(served.primary.volume(), &r1, end);
    assert_eq!(block(&r1.volume().unwrap(), 0), 0);
    served.stop();
    r1.shutdown().unwrap();
}

// A246, D5
#[test]
fn a_promoted_replica_keeps_what_it_inherited_and_commits_it_by_the_rule() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let address = r2.address().to_string();
    let peer = under(AckRule::Quorum, &[&r2]);
    let served = lab.serve("p", under(AckRule::All, &[&r1, &r2]));
    let known = served.fill(0..90, 1);
    served.in_sync("r1", known);
    served.in_sync("r2", known);
    r2.shutdown().unwrap();
    let end = write_alone(&served, 0..15, 100);
    served.in_sync("r1", end);
    assert_eq!((known.get(), end.get()), (90, 105));
    assert_eq!(served.primary.status().committed, 90);
    served.stop();
    assert_eq!(r1.status().committed, 90);
    r1.shutdown().unwrap();

    lab.promote("r1", 2);
    let served = lab.serve("r1", peer);
    let status = served.primary.status();
    assert_eq!((status.durable, status.committed), (105, 90));
    assert!(!served.primary.confirmed());
    let log = served.primary.volume().log();
    let inherited = log.read(LsnRange::new(known, end)).unwrap();
    let payloads: Vec<u8> = inherited
        .map(|record| record.unwrap().payload()[0])
        .collect();
    assert_eq!(payloads, (100..115).collect::<Vec<u8>>());

    let r2 = lab.replica_at("r2", &address);
    assert_eq!(served.primary.wait_committed(end, PATIENCE).unwrap(), end);
    served.in_sync("r2", end);
    assert!(served.primary.confirmed());
    assert_equal(served.primary.volume(), &r2, end);
    // Its own records are under an entry that begins behind what it inherited.
    let next = served.fill(0..1, 9);
    let entry = served.primary.volume().log().lineage().last().unwrap();
    assert_eq!((entry.epoch, entry.first), (Epoch::new(2), next));
    assert_eq!(next, end.next());
    served.stop();
    r2.shutdown().unwrap();
}

/// Holds back every write and sync while it is shut.
#[derive(Debug, Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }

    fn pass(&self, operation: &Operation) {
        if matches!(operation, Operation::Write { .. } | Operation::Sync { .. }) {
            let shut = self.shut.lock().unwrap();
            drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
        }
    }
}

/// The last LSN of the next records that come within `patience`.
fn shipped(impostor: &Impostor, patience: Duration) -> Option<Lsn> {
    loop {
        match impostor.link.receive(patience).unwrap()?.body {
            Body::Records { records, .. } => return records.last().map(|record| record.lsn()),
            Body::Alive | Body::Commit { .. } => {}
            other => panic!("{} is not due", other.name()),
        }
    }
}

// A225, D3
#[test]
fn a_stream_is_sent_nothing_that_is_not_durable_here() {
    let gate = Arc::new(Gate::default());
    let passed = Arc::clone(&gate);
    let lab = Lab {
        disk: Arc::new(Watched {
            disk: FileDisk::new(),
            before: move |operation: &Operation| passed.pass(operation),
        }),
        ..Lab::new()
    };
    lab.create("p", 4 * MIB);
    let listener = Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    let served = lab.serve("p", impostor_options(&listener));
    let impostor = Impostor::meet(&listener, Lsn::ZERO, served.primary.volume());
    assert!(matches!(impostor.hear(), Some(Body::InSync { .. })));
    let durable = write_alone(&served, 0..7, 1);
    let mut last = Lsn::ZERO;
    while last < durable {
        last = shipped(&impostor, PATIENCE).expect("what is durable is shipped");
    }
    gate.set(true);
    let flush = || assert_eq!(write_alone(&served, 7..10, 1), Lsn::new(10));
    beside("writer", flush, || {
        let log = served.primary.volume().log();
        while log.frontiers().head < Lsn::new(10) {
            seawall_wal::sync::yield_now();
        }
        let early = shipped(&impostor, Duration::from_millis(300));
        let frontiers = log.frontiers();
        gate.set(false);
        assert_eq!(early, None);
        assert_eq!((last, frontiers.durable), (durable, Lsn::new(7)));
    });
    while last < Lsn::new(10) {
        last = shipped(&impostor, PATIENCE).expect("what became durable is shipped");
    }
    served.stop();
}

// A236, D10
#[test]
fn the_log_after_the_target_of_a_full_base_stays_until_its_stream_has_started() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let served = lab.serve("p", PrimaryOptions::default());
    let target = served.fill(0..100, 1);
    served.stop();
    let listener = Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    let full = PrimaryOptions {
        rebuild_full: true,
        ..impostor_options(&listener)
    };
    let served = lab.serve("p", full);
    let volume = served.primary.volume();
    let digest = volume.digest_at(target).unwrap();
    let impostor = Impostor::meet(&listener, Lsn::ZERO, volume);
    let mut end = target;
    let stays = |end| {
        assert!(volume.advance_tail(end).unwrap() <= target);
        let after = volume.log().read(LsnRange::new(target, end)).unwrap();
        assert_eq!(after.map(Result::unwrap).count(), 80);
    };
    loop {
        match impostor.hear().expect("the rebuild goes on") {
            Body::Mark { .. } => impostor.say(Body::Marked),
            Body::BaseBegin(_) => {
                let checkpoint = volume.base_state().checkpoint;
                assert_eq!(checkpoint, target, "captured before it is pinned");
                end = served.fill(0..80, 2);
                stays(end);
                impostor.say(Body::BaseReady {
                    compare: false,
                    in_place: false,
                });
            }
            Body::Chunk { .. } | Body::ZeroChunks { .. } => {}
            Body::BaseEnd { chunks, .. } => {
                stays(end);
                let lsn = target;
                impostor.say(Body::BaseInstalled { lsn, chunks });
            }
            Body::DigestQuery { lsn } => {
                assert_eq!(lsn, target);
                stays(end);
                impostor.say(Body::DigestReply { lsn, state: digest });
            }
            Body::InSync { lsn } => break assert_eq!(lsn, target),
            other => panic!("{} is not due", other.name()),
        }
    }
    assert_eq!(end, Lsn::new(180));
    // The stream holds what it was not acknowledged, and no more.
    stays(end);
    let mut last = target;
    while last < end {
        let next = shipped(&impostor, PATIENCE).expect("the log after the target");
        assert!(next > last);
        last = next;
    }
    impostor.say(Body::Ack { durable: end });
    served.in_sync("r1", end);
    assert_eq!(volume.advance_tail(end).unwrap(), end);
    served.stop();
}
