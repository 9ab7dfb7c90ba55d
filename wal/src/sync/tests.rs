//! The gate under real threads: a wake-up that is lost hangs the test.
#![cfg(not(all(test, shuttle)))]
#![expect(
    clippy::disallowed_methods,
    reason = "a gate is for several threads, and each of these ends inside its test"
)]

use std::sync::atomic::{AtomicU32, Ordering};

use super::Gate;

#[path = "portable.rs"]
mod portable;

trait Gated: Default + Sync {
    fn value(&self) -> u32;
    fn wait(&self, seen: u32);
    fn open_all(&self);
    fn open_one(&self);
}

macro_rules! gated {
    ($($gate:ty),*) => {$(
        impl Gated for $gate {
            fn value(&self) -> u32 {
                <$gate>::value(self)
            }
            fn wait(&self, seen: u32) {
                <$gate>::wait(self, seen);
            }
            fn open_all(&self) {
                <$gate>::open_all(self);
            }
            fn open_one(&self) {
                <$gate>::open_one(self);
            }
        }
    )*};
}
gated!(Gate, portable::Gate);

/// An opening before the wait is enough: the value that was taken is old.
fn opened_before<G: Gated>() {
    let gate = G::default();
    for open in [G::open_all, G::open_one] {
        let seen = gate.value();
        open(&gate);
        gate.wait(seen);
        assert_eq!(gate.value(), seen.wrapping_add(1));
    }
}

#[test]
fn an_opening_between_the_look_and_the_sleep_is_not_missed() {
    opened_before::<Gate>();
    opened_before::<portable::Gate>();
}

/// Everybody sleeps at every round, and the last one to arrive opens the next.
fn rounds<G: Gated>() {
    const THREADS: u32 = 4;
    const ROUNDS: u32 = 2000;
    let (gate, arrived) = (G::default(), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let seen = gate.value();
                    if (arrived.fetch_add(1, Ordering::SeqCst) + 1).is_multiple_of(THREADS) {
                        gate.open_all();
                    } else {
                        gate.wait(seen);
                    }
                }
            });
        }
    });
    assert_eq!(arrived.load(Ordering::SeqCst), THREADS * ROUNDS);
    assert_eq!(gate.value(), ROUNDS);
}

#[test]
fn opening_for_all_wakes_every_sleeper() {
    rounds::<Gate>();
    rounds::<portable::Gate>();
}

/// Two threads hand the turn to each other; each is the only sleeper when the other opens.
fn turns<G: Gated>() {
    const TURNS: u32 = 5000;
    let gate = G::default();
    std::thread::scope(|scope| {
        for me in 0..2 {
            let gate = &gate;
            scope.spawn(move || {
                loop {
                    let turn = gate.value();
                    match turn {
                        TURNS.. => return,
                        _ if turn % 2 == me => gate.open_one(),
                        _ => gate.wait(turn),
                    }
                }
            });
        }
    });
    assert_eq!(gate.value(), TURNS);
}

#[test]
fn opening_for_one_wakes_the_only_sleeper() {
    turns::<Gate>();
    turns::<portable::Gate>();
}
