//! Pins whose owner panics or forgets them: none outlives its owner, and what it kept comes
//! back at once, without a write (P09).

use seawall_wal::{PinBreak, PinBudget, PinLimits, WalPin};

use super::*;
use crate::{BasePin, SnapshotPin, StateView};

/// One pin of each kind.
#[derive(Debug)]
#[expect(dead_code, reason = "they are held, not looked at")]
enum Any {
    Log(WalPin),
    Snapshot(SnapshotPin),
    Base(BasePin),
    State(StateView),
    /// What a stream takes over from a base (D6).
    Taken(WalPin),
}

/// Writes `value` to 300 blocks' worth of log, so that every round fills a segment, and captures.
fn round(volume: &Volume, value: u8) -> Lsn {
    for n in 0..300 {
        put(volume, n % BLOCKS, value);
    }
    volume.checkpoint(None).unwrap()
}

/// A pin of each kind, each on a state of its own, and the last LSN.
fn one_of_each(volume: &Arc<Volume>) -> (Vec<Any>, Lsn) {
    let mut pins = Vec::new();
    for kind in 0..5 {
        let at = round(volume, kind + 1);
        let base = || volume.pin_base(at, "test").unwrap();
        pins.push(match kind {
            0 => Any::Log(volume.log().pin(at, "test").unwrap()),
            1 => Any::Snapshot(volume.pin_snapshot("test").unwrap()),
            2 => Any::Base(base()),
            3 => Any::State(volume.state_at(at, "test").unwrap()),
            _ => Any::Taken(base().wal_pin("test").unwrap()),
        });
    }
    (pins, round(volume, 9))
}

/// The floor of the pins that are left, each of which is on the checkpoint at which it was taken.
fn floor(volume: &Volume, end: Lsn) -> Lsn {
    let held = volume.pins().into_iter().map(|pin| pin.lsn);
    held.min().unwrap_or(end).min(end)
}

/// The log is reclaimed as far as the pins that are left allow, by the background alone.
fn comes_back(volume: &Volume, end: Lsn) {
    let head = volume.log().frontiers().head;
    while volume.log().step().unwrap() {}
    assert_eq!(volume.log().frontiers().tail, floor(volume, end));
    assert_eq!(volume.log().frontiers().head, head, "nobody wrote");
}

/// Nothing is held, and nothing is kept for anybody.
fn all_is_back(sim: &SimDisk, volume: &Volume, end: Lsn) {
    assert_eq!(volume.pins(), []);
    assert_eq!(volume.preserved_bytes(), 0);
    super::promises::assert_nothing_preserved(sim);
    comes_back(volume, end);
    assert_eq!(volume.log().frontiers().tail, end);
}

/// A thread that panics while it holds pins of every kind.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "this test is about threads, so it starts some"
)]
fn a_thread_that_panics_leaves_no_pin_and_nothing_kept() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    let (pins, end) = one_of_each(&volume);
    assert!(volume.advance_tail(end).unwrap() < end);
    assert!(volume.preserved_bytes() > 0);
    let owner = std::thread::spawn(move || {
        let _held = pins;
        panic!("the owner is gone");
    });
    assert!(owner.join().is_err());
    all_is_back(&sim, &volume, end);
}

/// What is forgotten cannot be dropped: its budget ends it.
#[test]
fn a_forgotten_pin_is_ended_by_its_budget_without_a_write() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    round(&volume, 1);
    // The clock of these tests ticks 1000 ns with every look at it.
    let budget = PinBudget {
        bytes: None,
        time_ns: Some(50_000),
    };
    std::mem::forget(volume.pin_snapshot_within("lost", budget).unwrap());
    let end = round(&volume, 2);
    volume.advance_tail(end).unwrap();
    let looks = (0..1000).find(|_| volume.log().enforce_pins() > 0 || lost(&volume).is_some());
    assert!(looks.is_some(), "{:?}", volume.pins());
    assert!(matches!(lost(&volume), Some(PinBreak::Time { .. })));
    is_given_up(&sim, &volume, end);
}

/// One without a budget is ended by the limit on all pins, and at the latest by the next open.
#[test]
fn a_forgotten_pin_without_a_budget_is_ended_by_the_limits_and_by_an_open() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    round(&volume, 1);
    std::mem::forget(volume.pin_snapshot("lost").unwrap());
    let end = round(&volume, 2);
    assert!(volume.advance_tail(end).unwrap() < end);
    volume.log().set_pin_limits(PinLimits {
        log_bytes: Some(1 << 20),
        preserved_bytes: None,
    });
    assert!(lost(&volume).is_some(), "{:?}", volume.pins());
    is_given_up(&sim, &volume, end);

    std::mem::forget(volume.pin_snapshot("lost too").unwrap());
    round(&volume, 3);
    assert!(volume.preserved_bytes() > 0);
    volume.close().unwrap();
    // The pin still has the volume, closed as it is.
    let again = Place::simulated(&sim).open("volume");
    all_is_back(&sim, &again, again.log().frontiers().tail);
    let end = again.log().frontiers().head;
    assert_eq!(again.advance_tail(end).unwrap(), end);
}

/// Why the pin that nobody has any more was broken.
fn lost(volume: &Volume) -> Option<PinBreak> {
    let pins = volume.pins();
    pins.iter().find(|pin| pin.owner == "lost")?.broken
}

/// A broken pin is listed until its owner lets it go, and keeps nothing.
fn is_given_up(sim: &SimDisk, volume: &Volume, end: Lsn) {
    assert_eq!(volume.preserved_bytes(), 0);
    super::promises::assert_nothing_preserved(sim);
    while volume.log().step().unwrap() {}
    assert_eq!(volume.log().frontiers().tail, end);
}
