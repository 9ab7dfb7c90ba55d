//! Peers that lie, mix up, or say nothing.

use super::*;
use seawall_wal::Meta;

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
    let report = promise_epoch(&address, Epoch::new(9), &Security::Loopback).unwrap();
    assert_eq!((report.epoch, report.durable), (Epoch::new(9), lsn));
    assert!(matches!(
        promise_epoch(&address, Epoch::new(8), &Security::Loopback),
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

// A247, D5
#[test]
fn an_old_primary_that_returns_is_refused_and_cut_to_the_fork() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let address = r2.address().to_string();
    let quorum = |replicas: &[&Replica]| PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: PATIENCE,
        ..options(replicas)
    };
    let served = lab.serve("p", quorum(&[&r1, &r2]));
    let acknowledged = served.fill(0..20, 1);
    served.in_sync("r1", acknowledged);
    served.in_sync("r2", acknowledged);
    r1.shutdown().unwrap();
    r2.shutdown().unwrap();
    // Nobody hears of these two.
    let mut lost = Lsn::ZERO;
    for block in [3, 4] {
        let written = served
            .primary
            .write(block * BLOCK, &[9; BLOCK_BYTES], Durability::Volatile);
        lost = written.unwrap();
    }
    served.primary.volume().flush().unwrap();
    assert_eq!(lost, acknowledged.next().next());

    let r2 = lab.replica("r2");
    promise_epoch(
        &r2.address().to_string(),
        Epoch::new(2),
        &Security::Loopback,
    )
    .unwrap();
    r2.shutdown().unwrap();
    lab.promote("r1", 2);
    let r2 = lab.replica_at("r2", &address);
    let deposed = served.primary.shared().wait(PATIENCE, |core| core.deposed);
    assert_eq!(deposed, Some(Epoch::new(2)), "its streams are refused");
    let refused = served.primary.write(0, &[8; 4096], Durability::Volatile);
    assert!(matches!(refused, Err(Error::Deposed { .. })), "{refused:?}");
    assert_eq!(r2.status().durable, acknowledged.get());
    assert_eq!(served.primary.status().committed, acknowledged.get());
    served.stop();

    let (home, as_replica) = (lab.dir("p"), ReplicaOptions::default());
    let serve = |options| Replica::serve(&lab.disk, &lab.clock, &home, "p", "127.0.0.1:0", options);
    assert!(serve(as_replica.clone()).is_err(), "a primary's directory");
    let meta = Meta::open(&lab.disk, &home, true).unwrap();
    meta.update(|contents| contents.role = Role::Replica)
        .unwrap();
    drop(meta);
    let old = serve(as_replica.clone()).unwrap();
    assert_eq!(old.status().durable, lost.get());
    let (members, at) = (quorum(&[&r2, &old]), old.address().to_string());
    old.shutdown().unwrap();
    // The new primary goes on without it: here the histories part.
    let served = lab.serve("r1", members);
    let forked = served.fill(30..35, 3);
    let old = Replica::serve(&lab.disk, &lab.clock, &home, "p", &at, as_replica).unwrap();
    served.in_sync("p", forked);
    let record = served.last("p");
    assert_eq!(record.truncated_to, Some(acknowledged.get()), "{record:#?}");
    for block in 0..20_u8 {
        let mut bytes = [0; BLOCK_BYTES];
        let offset = u64::from(block) * BLOCK;
        served.primary.read(offset, &mut bytes).unwrap();
        assert_eq!(bytes, [block + 1; BLOCK_BYTES], "acknowledged");
    }
    let end = served.fill(10..30, 4);
    for replica in [&r2, &old] {
        served.in_sync(&replica.status().id.unwrap(), end);
        assert_equal(served.primary.volume(), replica, end);
    }
    served.stop();
    r2.shutdown().unwrap();
    old.shutdown().unwrap();
}

// D5: two candidates that were given one epoch do not both get a majority for it.
#[test]
fn an_epoch_is_promised_once_and_never_while_a_primary_serves_in_it() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", Lsn::ZERO);
    let refused = |epoch| match promise_epoch(&address, Epoch::new(epoch), &Security::Loopback) {
        Err(Error::Refused {
            reason: crate::message::Refusal::EpochTooOld { promised },
            ..
        }) => promised.get(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(1), 1);
    promise_epoch(&address, Epoch::new(2), &Security::Loopback).unwrap();
    assert_eq!(refused(2), 2);
    served.stop();
    replica.shutdown().unwrap();
}

// D5: a promise that a restart forgets would count for a majority and fence nobody.
#[test]
fn an_empty_directory_promises_nothing() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let replica = lab.replica("r1");
    let address = replica.address().to_string();
    let promised = promise_epoch(&address, Epoch::new(9), &Security::Loopback);
    assert!(
        matches!(
            promised,
            Err(Error::Refused {
                reason: crate::message::Refusal::Failed { .. },
                ..
            })
        ),
        "{promised:?}"
    );
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", Lsn::ZERO);
    promise_epoch(&address, Epoch::new(9), &Security::Loopback).unwrap();
    served.stop();
    replica.shutdown().unwrap();
}

/// A replica of nothing, as far as a test speaks for it.
pub(super) struct Impostor {
    pub(super) link: Link,
    pub(super) fence: Fence,
}

impl Impostor {
    pub(super) fn meet(
        listener: &crate::transport::tcp::Socket,
        durable: Lsn,
        like: &Volume,
    ) -> Impostor {
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
            lost: Vec::new(),
            lineage: like.log().lineage().through(durable),
        }));
        impostor
    }

    pub(super) fn say(&self, body: Body) {
        let fence = self.fence;
        self.link.send(&Message { fence, body }).unwrap();
    }

    /// The next message that is not about liveness; `None` when the primary hung up.
    pub(super) fn hear(&self) -> Option<Body> {
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
                Body::BaseBegin(_) => self.say(Body::BaseReady {
                    compare: false,
                    in_place: false,
                }),
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

pub(super) fn impostor_options(listener: &crate::transport::tcp::Socket) -> PrimaryOptions {
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
    let listener = crate::transport::tcp::Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
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
    let listener = crate::transport::tcp::Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
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

// D1: the one that has not answered yet may hold acknowledged records that we lost.
#[test]
fn a_reopened_primary_waits_for_the_answer_of_every_replica() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let level = lab.replica("r2");
    let listener = crate::transport::tcp::Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    let mut quorum = PrimaryOptions {
        ack: AckRule::Quorum,
        commit_timeout: Duration::from_millis(200),
        ..options(&[&level])
    };
    quorum.replicas.extend(impostor_options(&listener).replicas);
    let served = lab.serve("p", quorum);
    served.in_sync("r2", Lsn::ZERO);
    let early = served.primary.write(0, &[1; 4096], Durability::Volatile);
    assert!(matches!(early, Err(Error::Unconfirmed { .. })), "{early:?}");
    let late = Impostor::meet(&listener, Lsn::ZERO, served.primary.volume());
    assert!(matches!(late.hear(), Some(Body::InSync { .. })));
    assert!(served.primary.confirmed());
    served.stop();
    level.shutdown().unwrap();
}

// L-S2: the fence is checked before any effect.
#[test]
fn a_message_of_another_session_has_no_effect() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let listener = crate::transport::tcp::Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
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
        || talk.listen(&inbox, Some, || false),
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

fn hello(replica: &Replica, epoch: u64, counter: u64, like: &Volume) -> Impostor {
    let link = tcp::dial(
        &replica.address().to_string(),
        &Security::Loopback,
        PATIENCE,
    )
    .unwrap();
    let impostor = Impostor {
        link,
        fence: Fence {
            volume: Some(like.meta().get().volume),
            epoch: Some(Epoch::new(epoch)),
            session: Some(crate::id::SessionId { boot: 1, counter }),
        },
    };
    impostor.say(Body::Hello(crate::message::Hello {
        replica: "r1".into(),
        geometry: like.meta().get().geometry,
        committed: Lsn::ZERO,
        confirmed: true,
        first_retained: Lsn::new(1),
        durable: Lsn::ZERO,
        head: Lsn::ZERO,
        lineage: seawall_wal::Lineage::default(),
    }));
    impostor
}

// D5, L-S2
#[test]
fn a_newer_session_displaces_the_older_and_an_older_epoch_is_refused() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let volume = lab.open("p", Access::Primary);
    let replica = lab.replica("r1");
    let first = hello(&replica, 5, 1, &volume);
    assert!(matches!(first.hear(), Some(Body::HelloReply(reply)) if reply.volume.is_none()));
    let second = hello(&replica, 5, 2, &volume);
    assert!(matches!(second.hear(), Some(Body::HelloReply(reply)) if reply.volume.is_some()));
    assert!(first.hear().is_none(), "the displaced session is closed");
    let stale = hello(&replica, 4, 3, &volume);
    let promised = Epoch::new(5);
    assert!(matches!(
        stale.hear(),
        Some(Body::Refused(crate::message::Refusal::EpochTooOld { promised: found }))
            if found == promised
    ));
    // The refused one displaced nobody.
    second.say(Body::DigestQuery { lsn: Lsn::ZERO });
    assert!(matches!(second.hear(), Some(Body::DigestReply { .. })));
    replica.shutdown().unwrap();
}

// 1.11: truncation comes before anything was applied, or not at all.
#[test]
fn a_truncation_after_records_is_refused() {
    let lab = Lab::new();
    lab.create("p", 4 * MIB);
    let volume = lab.open("p", Access::Primary);
    volume
        .write(0, &[1; BLOCK_BYTES], Durability::Durable)
        .unwrap();
    let replica = lab.replica("r1");
    let primary = hello(&replica, 5, 1, &volume);
    assert!(matches!(primary.hear(), Some(Body::HelloReply(_))));
    let records = vec![volume.log().read_record(Lsn::new(1)).unwrap()];
    primary.say(Body::Records {
        committed: Lsn::ZERO,
        records,
    });
    assert!(matches!(primary.hear(), Some(Body::Ack { durable }) if durable == Lsn::new(1)));
    primary.say(Body::Truncate { to: Lsn::ZERO });
    assert!(matches!(primary.hear(), Some(Body::Refused(_))));
    assert_eq!(replica.status().durable, 1);
    replica.shutdown().unwrap();
}
