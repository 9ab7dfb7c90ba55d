//! A mistake of ours ends the session that met it, and nothing else (A188).

use std::sync::atomic::{AtomicI64, Ordering};

use super::*;

/// A clock that panics once: at look number `at`, counted from 1, of threads of this name.
#[derive(Debug)]
struct Panicky {
    clock: Arc<dyn Clock>,
    thread: &'static str,
    left: AtomicI64,
}

impl Panicky {
    fn new(thread: &'static str, at: i64) -> Arc<Panicky> {
        Arc::new(Panicky {
            clock: SystemClock::new(),
            thread,
            left: AtomicI64::new(at),
        })
    }

    fn look(&self) {
        if std::thread::current().name() == Some(self.thread) {
            let left = self.left.fetch_sub(1, Ordering::SeqCst);
            assert!(left != 1, "told to panic");
        }
    }

    fn has_panicked(&self) -> bool {
        self.left.load(Ordering::SeqCst) <= 0
    }
}

impl Clock for Panicky {
    fn monotonic_ns(&self) -> u64 {
        self.look();
        self.clock.monotonic_ns()
    }

    fn unix_ns(&self) -> u64 {
        self.look();
        self.clock.unix_ns()
    }
}

/// A replica has to be caught up while a thread of this name panics at this look at the clock;
/// whether it came to that.
fn survives(thread: &'static str, at: i64) -> bool {
    let lab = Lab::new();
    lab.create("p", MIB);
    let replica_clock: Arc<dyn Clock> = SystemClock::new();
    let served = lab.serve("p", PrimaryOptions::default());
    let end = served.fill(0..20, 1);
    served.stop();
    let panicky = Panicky::new(thread, at);
    let clock: Arc<dyn Clock> = panicky.clone();
    let on_replica = thread == "seawall-acker" || thread == "seawall-receiver";
    let (ours, theirs) = match on_replica {
        true => (replica_clock, clock),
        false => (clock, replica_clock),
    };
    let options_of_replica = ReplicaOptions::default();
    let listen = "127.0.0.1:0";
    let replica = Replica::serve(
        &lab.disk,
        &theirs,
        &lab.dir("r1"),
        "r1",
        listen,
        options_of_replica,
    );
    let replica = replica.unwrap();
    let (volume, _) = Volume::open(&lab.disk, &lab.dir("p"), &ours, Access::Primary).unwrap();
    let options = options(&[&replica]);
    let served = Served {
        primary: Primary::start(&lab.disk, &ours, volume, options).unwrap(),
    };
    served.in_sync("r1", end);
    let end = served.fill(0..3, 9);
    served.in_sync("r1", end);
    assert_equal(served.primary.volume(), &replica, end);
    let pins = served.primary.volume().pins();
    assert_eq!(pins.len(), 1, "{thread} at look {at}: {pins:?}");
    let panicked = panicky.has_panicked();
    served.stop();
    replica.shutdown().unwrap();
    panicked
}

/// As far as the looks go before everybody is level; later ones are of the stream.
fn at_every_look(thread: &'static str, looks: i64) {
    let met = (1..=looks).filter(|at| survives(thread, *at)).count();
    assert!(met >= 4, "{thread} panicked {met} times");
}

// A188
#[test]
fn a_panic_of_a_sender_ends_its_session_and_the_next_one_succeeds() {
    at_every_look("seawall-sender", 24);
}

#[test]
fn a_panic_of_a_listener_ends_its_session_and_the_next_one_succeeds() {
    at_every_look("listener", 8);
}

#[test]
fn a_panic_at_the_replica_ends_its_session_and_makes_room_for_the_next_one() {
    at_every_look("seawall-acker", 4);
}
