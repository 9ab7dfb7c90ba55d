//! Pins of a whole log: what they hold, how they end, and what comes back when they do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::sim::SimDisk;
use crate::tests::{Fixture, append};
use crate::*;

fn lsn(number: u64) -> Lsn {
    Lsn::new(number)
}

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(lsn(after), lsn(through))
}

/// A log of 1000 records of 4 KiB in segments of 1 MiB, all of them committed and in the base.
fn filled() -> (Arc<SimDisk>, Arc<Log>) {
    let sim = SimDisk::new(1);
    let (log, _) = Fixture::on(sim.clone()).open();
    append(&log, 1000);
    log.commit(lsn(1000)).unwrap();
    log.set_checkpoint(lsn(1000));
    (sim, log)
}

fn limit_log(log: &Log, bytes: u64) {
    log.set_pin_limits(PinLimits {
        log_bytes: Some(bytes),
        ..PinLimits::NONE
    });
}

fn wal(after: u64, budget: PinBudget) -> PinRequest<'static> {
    PinRequest {
        kind: PinKind::Wal,
        lsn: lsn(after),
        after: lsn(after),
        owner: "test",
        budget,
    }
}

#[test]
fn a_victim_of_the_limit_is_told_and_its_log_is_gone_in_the_same_call() {
    let (_, log) = filled();
    let victim = log.pin(lsn(0), "slow").unwrap();
    let spared = log.pin(lsn(700), "quick").unwrap();
    let mut reader = log.read(range(0, 1000)).unwrap();
    limit_log(&log, 1 << 20);
    // Nobody wants to reclaim yet: what is there would be there without pins.
    assert_eq!(log.pins().iter().map(|pin| pin.bytes).sum::<u64>(), 0);
    victim.check().unwrap();
    assert_eq!(log.reclaim(lsn(900)).unwrap(), lsn(700));
    let why = |error: Error| match error {
        Error::PinBroken { after, why } => (after, why),
        other => panic!("{other}"),
    };
    let (after, cause) = why(victim.check().unwrap_err());
    assert_eq!(after, lsn(0));
    assert!(
        matches!(cause, PinBreak::LogLimit { kept, limit } if limit == 1 << 20 && kept > limit),
        "{cause:?}"
    );
    spared.check().unwrap();
    // What the reader has in memory may still come; then it ends with the cause.
    let ended = reader.find_map(Result::err).expect("it was cut off");
    assert_eq!(why(ended).1, cause);
    let broken = |pin: &PinInfo| pin.broken.is_some() && pin.bytes == 0;
    assert_eq!(log.pins().iter().filter(|pin| broken(pin)).count(), 2);
    drop((victim, reader));
    assert_eq!(log.pins().len(), 1);
}

#[test]
fn a_pin_over_its_budget_of_bytes_is_broken_and_one_within_it_is_not() {
    let (_, log) = filled();
    let small = PinBudget {
        bytes: Some(1 << 20),
        time_ns: None,
    };
    let (over, within) = (wal(100, small), wal(900, small));
    let (over, within) = (log.pin_as(over).unwrap(), log.pin_as(within).unwrap());
    assert_eq!(log.reclaim(lsn(1000)).unwrap(), lsn(900));
    within.check().unwrap();
    assert!(matches!(
        over.check(),
        Err(Error::PinBroken { why: PinBreak::Bytes { budget, .. }, .. }) if budget == 1 << 20
    ));
}

/// A clock that stands until it is moved.
#[derive(Debug, Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn unix_ns(&self) -> u64 {
        self.monotonic_ns()
    }

    fn monotonic_ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[test]
fn a_pin_that_stands_still_beyond_its_time_is_broken_by_the_background() {
    let fixture = Fixture::on(SimDisk::new(1));
    let hand = Arc::new(Hand::default());
    let clock: Arc<dyn Clock> = hand.clone();
    let meta = Arc::new(Meta::open(&fixture.disk, &fixture.dir, true).unwrap());
    let mode = LogMode::Writable;
    let opened = Log::open(&fixture.disk, &fixture.dir, &meta, &clock, mode, Lsn::ZERO);
    let (log, _) = opened.unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    append(&log, 10);
    let minute = PinBudget {
        bytes: None,
        time_ns: Some(60_000_000_000),
    };
    let pin = log.pin_as(wal(0, minute)).unwrap();
    let wait = |seconds: u64| {
        hand.0.fetch_add(seconds * 1_000_000_000, Ordering::Relaxed);
        while log.step().unwrap() {}
    };
    wait(60);
    pin.check().unwrap();
    pin.advance(lsn(1));
    wait(60);
    pin.check().unwrap();
    assert_eq!(log.pins()[0].time_left_ns, Some(0));
    wait(1);
    let broken = pin.check().unwrap_err();
    assert_eq!(
        broken.to_string(),
        "the pin after LSN 1 was broken: it did not move for 61 s and its budget is 60 s"
    );
}

#[test]
fn a_full_disk_takes_the_oldest_log_from_pins_before_appends_fail() {
    let (sim, log) = filled();
    let pin = log.pin(lsn(0), "slow").unwrap();
    assert_eq!(log.reclaim(lsn(1000)).unwrap(), lsn(0));
    // Room for eight segments, of which what is there takes most.
    sim.set_capacity(Some(8 << 20));
    append(&log, 2000);
    assert!(matches!(
        pin.check(),
        Err(Error::PinBroken {
            why: PinBreak::NoSpace,
            ..
        })
    ));
    assert_eq!(log.frontiers().tail, lsn(1000));
    // Without a pin to break, the append says what is the matter.
    let full = (0..5000).find_map(|_| log.append(vec![crate::tests::change(1)]).err());
    assert!(full.is_some_and(|error| error.is_out_of_space()));
}

#[test]
fn pins_end_with_their_owners_in_any_order_and_the_tail_follows() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let (_, log) = filled();
        let at = [200, 400, 600];
        let mut pins: Vec<_> = (at.iter().map(|after| log.pin(lsn(*after), "test").ok())).collect();
        log.reclaim(lsn(900)).unwrap();
        for (done, index) in order.into_iter().enumerate() {
            pins[index] = None;
            while log.step().unwrap() {}
            let left = pins.iter().flatten().map(WalPin::after).min();
            assert_eq!(log.frontiers().tail, left.unwrap_or(lsn(900)), "{order:?}");
            assert_eq!(log.pins().len(), 2 - done);
        }
    }
}

#[test]
fn a_panic_of_its_owner_releases_a_pin() {
    let (_, log) = filled();
    let owner = std::panic::AssertUnwindSafe(|| {
        let _pin = log.pin(lsn(100), "doomed").unwrap();
        log.reclaim(lsn(900)).unwrap();
        panic!("the owner is gone");
    });
    assert!(std::panic::catch_unwind(owner).is_err());
    assert_eq!(log.pins(), []);
    // A197: nobody writes, and the space is free all the same.
    while log.step().unwrap() {}
    assert_eq!(log.frontiers().tail, lsn(900));
}
