//! Over a link that delays, loses, changes and repeats bytes, and one that only looks alive: at
//! the end every copy is equal and no pin is left.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use seawall_recovery::{AckRule, Primary, PrimaryOptions, Replica, ReplicaAddress, ReplicaOptions};
use seawall_snapshot::{Access, CreateOptions, Durability, Volume};
use seawall_wal::disk::{Disk, FileDisk};
use seawall_wal::{BlockSize, Clock, Geometry, Lsn, Role, SystemClock};
use tempfile::TempDir;

use crate::harness::proxy::{Fault, Proxy};
use crate::harness::{Random, scratch, seeds};

const PATIENCE: Duration = Duration::from_secs(60);
const BLOCK: u64 = 4096;
const BLOCKS: u64 = 1024;

/// A primary, a replica, and a proxy between them.
struct Pair {
    dir: TempDir,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    replica: Replica,
    proxy: Proxy,
    primary: Primary,
    random: Random,
}

impl Pair {
    fn new(seed: u64, options: PrimaryOptions) -> Pair {
        println!("seed {seed}");
        let (dir, disk) = (scratch(), FileDisk::new() as Arc<dyn Disk>);
        let clock: Arc<dyn Clock> = SystemClock::new();
        let path = |name: &str| -> PathBuf { dir.path().join(name) };
        let created = CreateOptions {
            volume: None,
            geometry: Geometry {
                block_size: BlockSize::DEFAULT,
                blocks: BLOCKS,
                segment_bytes: 1 << 20,
            },
            role: Role::Primary,
        };
        Volume::create(&disk, &path("p"), created).unwrap();
        let (volume, _) = Volume::open(&disk, &path("p"), &clock, Access::Primary).unwrap();
        let usual = ReplicaOptions::default();
        let replica =
            Replica::serve(&disk, &clock, &path("r"), "r1", "127.0.0.1:0", usual).unwrap();
        let proxy = Proxy::before(replica.address());
        let options = PrimaryOptions {
            replicas: vec![ReplicaAddress {
                id: "r1".into(),
                address: proxy.address(),
            }],
            ack: AckRule::BestEffort,
            ..options
        };
        let primary = Primary::start(&disk, &clock, volume, options).unwrap();
        Pair {
            dir,
            disk,
            clock,
            replica,
            proxy,
            primary,
            random: Random::new(seed),
        }
    }

    /// Writes `count` pieces of up to 64 KiB each, and gives the head.
    fn write(&mut self, count: u64) -> Lsn {
        for _ in 0..count {
            let blocks = 1 + self.random.below(16);
            let at = self.random.below(BLOCKS - blocks) * BLOCK;
            let length = usize::try_from(blocks * BLOCK).unwrap();
            let bytes = self.random.bytes(length);
            let volatile = Durability::Volatile;
            self.primary.write(at, &bytes, volatile).unwrap();
        }
        self.primary.flush().unwrap()
    }

    #[track_caller]
    fn in_sync(&self, head: Lsn) {
        let reached = self.primary.wait_in_sync("r1", head, PATIENCE);
        assert!(
            reached,
            "never in sync: {}",
            self.primary.status().to_json()
        );
    }

    /// Waits until the primary shows the replica in `state`, and gives the cause.
    #[track_caller]
    fn becomes(&self, state: &str) -> String {
        let start = self.clock.monotonic_ns();
        while self.clock.monotonic_ns() - start < 60_000_000_000 {
            let replica = self.primary.status().replicas.remove(0);
            if replica.state == state {
                return replica.cause.unwrap_or_default();
            }
            // A look takes the primary's lock; nobody says when its status changed.
            let (_never, silence) = std::sync::mpsc::channel::<()>();
            let _ = silence.recv_timeout(Duration::from_millis(20));
        }
        panic!("never {state}: {}", self.primary.status().to_json());
    }

    /// Who holds a pin for the replica.
    fn pins(&self) -> Vec<String> {
        let pins = self.primary.volume().pins().into_iter();
        pins.map(|pin| pin.owner)
            .filter(|owner| owner.ends_with("of r1"))
            .collect()
    }

    /// Ends both sides; everything is equal then, and nothing is pinned.
    #[track_caller]
    fn finish(self) {
        let volume = Arc::clone(self.primary.volume());
        self.primary.shutdown();
        self.replica.shutdown().unwrap();
        let copy = self.dir.path().join("r");
        let (copy, _) = Volume::open(&self.disk, &copy, &self.clock, Access::ReadOnly).unwrap();
        assert_eq!(
            copy.log().frontiers().durable,
            volume.log().frontiers().durable
        );
        let size = usize::try_from(BLOCKS * BLOCK).unwrap();
        let (mut ours, mut theirs) = (vec![0; size], vec![1; size]);
        volume.read(0, &mut ours).unwrap();
        copy.read(0, &mut theirs).unwrap();
        assert!(ours == theirs, "the copies differ");
        volume.close().unwrap();
        assert!(volume.pins().is_empty(), "pins left: {:?}", volume.pins());
    }
}

/// One seed of four: each takes a second or more.
fn few() -> std::ops::Range<u64> {
    0..seeds().end.div_ceil(4)
}

/// A lost piece may leave both ends waiting for each other.
fn options() -> PrimaryOptions {
    PrimaryOptions {
        stall_timeout: Duration::from_secs(3),
        ..PrimaryOptions::default()
    }
}

fn strike(pair: &Pair, fault: Fault) {
    match fault {
        Fault::Corrupt | Fault::Drop | Fault::Replay => assert!(pair.proxy.strikes()),
        _ => pair.proxy.set(Fault::None),
    }
}

/// A fault in the middle of a stream, and what follows once the link is well.
fn stream_through(fault: Fault) {
    for seed in few() {
        let mut pair = Pair::new(seed, options());
        let head = pair.write(8);
        pair.in_sync(head);
        pair.proxy.set(fault);
        pair.write(40);
        strike(&pair, fault);
        let head = pair.write(8);
        pair.in_sync(head);
        pair.finish();
    }
}

/// A fault while a replica that was away catches up.
fn catch_up_through(fault: Fault) {
    for seed in few() {
        let mut pair = Pair::new(seed, options());
        let head = pair.write(4);
        pair.in_sync(head);
        pair.proxy.set(Fault::Cut);
        pair.write(100);
        pair.proxy.set(Fault::None);
        let some = pair.random.below(3 << 20);
        assert!(pair.proxy.forwards(some));
        pair.proxy.set(fault);
        pair.write(10);
        strike(&pair, fault);
        let head = pair.write(4);
        pair.in_sync(head);
        pair.finish();
    }
}

#[test]
fn late_bytes_lose_nothing() {
    stream_through(Fault::Delay(Duration::from_millis(2)));
    catch_up_through(Fault::Delay(Duration::from_millis(2)));
}

#[test]
fn a_link_that_is_cut_loses_nothing() {
    stream_through(Fault::Cut);
    catch_up_through(Fault::Cut);
}

#[test]
fn a_changed_bit_is_noticed_and_loses_nothing() {
    stream_through(Fault::Corrupt);
    catch_up_through(Fault::Corrupt);
}

#[test]
fn a_lost_piece_is_noticed_and_loses_nothing() {
    stream_through(Fault::Drop);
    catch_up_through(Fault::Drop);
}

#[test]
fn a_repeated_piece_is_noticed_and_loses_nothing() {
    stream_through(Fault::Replay);
    catch_up_through(Fault::Replay);
}

#[test]
fn a_half_open_link_ends_the_stream_and_releases_its_pin() {
    let mut pair = Pair::new(1, PrimaryOptions::default());
    let head = pair.write(8);
    pair.in_sync(head);
    pair.proxy.set(Fault::HalfOpen);
    pair.write(8);
    let cause = pair.becomes("disconnected");
    assert!(cause.contains("was silent for"), "{cause}");
    assert_eq!(pair.pins(), [""; 0]);
    let status = pair.primary.status();
    assert!(!status.replicas[0].needs_rebuild, "silence marks nobody");
    pair.proxy.set(Fault::None);
    pair.proxy.cut();
    let head = pair.write(1);
    pair.in_sync(head);
    pair.finish();
}

#[test]
fn a_replica_that_hears_and_does_not_answer_is_let_go() {
    let mut pair = Pair::new(2, PrimaryOptions::default());
    let head = pair.write(8);
    pair.in_sync(head);
    pair.proxy.set(Fault::Deaf);
    pair.write(8);
    let cause = pair.becomes("disconnected");
    assert!(cause.contains("was silent for"), "{cause}");
    assert_eq!(pair.pins(), [""; 0]);
    pair.proxy.set(Fault::None);
    pair.proxy.cut();
    let head = pair.write(1);
    pair.in_sync(head);
    assert!(pair.proxy.connections() >= 2);
    pair.finish();
}
