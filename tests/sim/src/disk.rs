//! The disk and the clock of one node: I/O takes time, and may get stuck for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use seawall_wal::Clock;
use seawall_wal::disk::sim::SimDisk;
use seawall_wal::disk::{Completion, Disk, Operation, Token};
use seawall_wal::sync::turns;

/// Nanoseconds of a fast operation, at most.
const FAST_NS: u64 = 60_000;

/// A simulated disk whose operations take a time drawn from the seed of the world.
#[derive(Debug)]
pub struct TimedDisk {
    sim: Arc<SimDisk>,
    slow_ns: AtomicU64,
    stuck_until_ns: AtomicU64,
}

impl TimedDisk {
    /// A disk over `sim`.
    #[must_use]
    pub fn over(sim: Arc<SimDisk>) -> Arc<TimedDisk> {
        Arc::new(TimedDisk {
            sim,
            slow_ns: AtomicU64::new(FAST_NS),
            stuck_until_ns: AtomicU64::new(0),
        })
    }

    /// What is below, for faults and crashes.
    #[must_use]
    pub fn sim(&self) -> &Arc<SimDisk> {
        &self.sim
    }

    /// Every operation takes up to so long from now on.
    pub fn slow(&self, most: Duration) {
        let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        self.slow_ns.store(most, Ordering::Relaxed);
    }

    /// No operation ends before `time` has gone by.
    pub fn stick(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let until = turns::now_ns().saturating_add(time);
        self.stuck_until_ns.store(until, Ordering::Relaxed);
    }

    /// It is as fast as in the beginning.
    pub fn heal(&self) {
        self.slow_ns.store(FAST_NS, Ordering::Relaxed);
        self.stuck_until_ns.store(0, Ordering::Relaxed);
        self.sim.clear_faults();
        self.sim.set_capacity(None);
    }

    fn take_time(&self) {
        let most = self.slow_ns.load(Ordering::Relaxed).max(1);
        let time = turns::draw().unwrap_or_default() % most;
        turns::sleep(Duration::from_nanos(time));
        loop {
            let until = self.stuck_until_ns.load(Ordering::Relaxed);
            let left = until.saturating_sub(turns::now_ns());
            if left == 0 || self.sim.is_frozen() {
                return;
            }
            turns::sleep(Duration::from_nanos(left.min(100_000_000)));
        }
    }
}

impl Disk for TimedDisk {
    fn submit(&self, operation: Operation) -> Token {
        self.sim.submit(operation)
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.sim.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.take_time();
        self.sim.wait(token)
    }

    fn durable_writes(&self) -> bool {
        self.sim.durable_writes()
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn backend(&self) -> &'static str {
        self.sim.backend()
    }
}

/// The clock of one node. Its wall clock may jump; the other one never does.
#[derive(Debug, Default)]
pub struct WorldClock {
    skew_ns: AtomicI64,
}

impl WorldClock {
    /// The wall clock is off by this much from now on.
    pub fn jump(&self, skew: i64) {
        self.skew_ns.store(skew, Ordering::Relaxed);
    }
}

impl Clock for WorldClock {
    fn unix_ns(&self) -> u64 {
        let wall = 1_700_000_000_000_000_000_u64.saturating_add(turns::now_ns());
        wall.saturating_add_signed(self.skew_ns.load(Ordering::Relaxed))
    }

    fn monotonic_ns(&self) -> u64 {
        turns::now_ns()
    }
}
