//! What one session may spend. Limits are given at its creation and never change; a limit that is
//! absent does not limit, and 0 is a limit like any other.

use std::fmt;

use crate::id::Tick;

/// Limits of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Budget {
    /// Ticks from begin to end.
    pub duration_ticks_max: Option<u64>,
    /// Records acknowledged.
    pub records_max: Option<u64>,
    /// Payload bytes sent.
    pub bytes_max: Option<u64>,
    /// Ticks without progress while the peer answers (D7).
    pub stall_ticks_max: Option<u64>,
}

/// What a session has spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracker {
    start: Tick,
    records: u64,
    bytes: u64,
    last_progress: Tick,
}

/// Whether the peer answered the last probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// It did: a lack of progress is its own.
    Answers,
    /// It did not: the link is lost, and nothing is held against the replica (D7).
    Silent,
}

/// The limit that was exceeded. Comparisons are strict: spending exactly the limit is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// Too long.
    Duration {
        /// Ticks since the start.
        spent: u64,
        /// The limit.
        max: u64,
    },
    /// Too many records.
    Records {
        /// Records acknowledged.
        spent: u64,
        /// The limit.
        max: u64,
    },
    /// Too many bytes.
    Bytes {
        /// Bytes sent.
        spent: u64,
        /// The limit.
        max: u64,
    },
    /// No progress for too long.
    Stalled {
        /// Ticks since the last progress.
        spent: u64,
        /// The limit.
        max: u64,
    },
}

impl Budget {
    /// No limits.
    pub const UNBOUNDED: Budget = Budget {
        duration_ticks_max: None,
        records_max: None,
        bytes_max: None,
        stall_ticks_max: None,
    };

    /// The first violation, in the order duration, records, bytes, stall. Stall counts only while
    /// the peer answers (D7).
    #[must_use]
    pub fn check(&self, spent: &Tracker, now: Tick, peer: Peer) -> Option<Violation> {
        let duration = now.since(spent.start);
        let stall = match peer {
            Peer::Answers => now.since(spent.last_progress),
            Peer::Silent => 0,
        };
        over(duration, self.duration_ticks_max)
            .map(|(spent, max)| Violation::Duration { spent, max })
            .or_else(|| {
                over(spent.records, self.records_max)
                    .map(|(spent, max)| Violation::Records { spent, max })
            })
            .or_else(|| {
                over(spent.bytes, self.bytes_max)
                    .map(|(spent, max)| Violation::Bytes { spent, max })
            })
            .or_else(|| {
                over(stall, self.stall_ticks_max)
                    .map(|(spent, max)| Violation::Stalled { spent, max })
            })
    }
}

fn over(spent: u64, max: Option<u64>) -> Option<(u64, u64)> {
    max.filter(|max| spent > *max).map(|max| (spent, max))
}

impl Tracker {
    /// Nothing spent yet. The start counts as progress, so that a stall is seen from the first tick
    /// on, tick 0 included (H23).
    #[must_use]
    pub const fn begin(now: Tick) -> Tracker {
        Tracker {
            start: now,
            records: 0,
            bytes: 0,
            last_progress: now,
        }
    }

    /// `records` more were acknowledged; the tick is known when a stall budget is set.
    pub fn acknowledged(&mut self, records: u64, at: Option<Tick>) {
        self.records = self.records.saturating_add(records);
        if let Some(at) = at {
            self.last_progress = self.last_progress.max(at);
        }
    }

    /// `bytes` more were sent.
    pub fn sent(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Records acknowledged so far.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Bytes sent so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Tick at which it began.
    #[must_use]
    pub const fn start(&self) -> Tick {
        self.start
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Violation::Duration { spent, max } => write!(f, "took {spent} ticks of {max}"),
            Violation::Records { spent, max } => write!(f, "{spent} records of {max}"),
            Violation::Bytes { spent, max } => write!(f, "{spent} bytes of {max}"),
            Violation::Stalled { spent, max } => {
                write!(f, "no progress for {spent} ticks of {max}")
            }
        }
    }
}

#[cfg(test)]
mod matrix;
#[cfg(test)]
mod tests {
    use super::*;

    fn check(budget: Budget, spent: Tracker, now: u64) -> Option<Violation> {
        budget.check(&spent, Tick(now), Peer::Answers)
    }

    // A099
    #[test]
    fn duration_is_exceeded_one_tick_after_the_limit() {
        let budget = Budget {
            duration_ticks_max: Some(10),
            ..Budget::UNBOUNDED
        };
        let spent = Tracker::begin(Tick(0));
        assert_eq!(check(budget, spent, 5), None);
        assert_eq!(check(budget, spent, 10), None);
        let over = Violation::Duration { spent: 11, max: 10 };
        assert_eq!(check(budget, spent, 11), Some(over));
    }

    // A100
    #[test]
    fn records_are_exceeded_one_record_after_the_limit() {
        let budget = Budget {
            records_max: Some(100),
            ..Budget::UNBOUNDED
        };
        for (records, expected) in [
            (50, None),
            (100, None),
            (
                101,
                Some(Violation::Records {
                    spent: 101,
                    max: 100,
                }),
            ),
        ] {
            let mut spent = Tracker::begin(Tick(0));
            spent.acknowledged(records, None);
            assert_eq!(check(budget, spent, 0), expected);
        }
    }

    // A102
    #[test]
    fn a_stall_is_seen_one_tick_after_the_deadline() {
        let budget = Budget {
            stall_ticks_max: Some(5),
            ..Budget::UNBOUNDED
        };
        let spent = Tracker::begin(Tick(10));
        assert_eq!(check(budget, spent, 14), None);
        assert_eq!(check(budget, spent, 15), None);
        let stalled = Violation::Stalled { spent: 6, max: 5 };
        assert_eq!(check(budget, spent, 16), Some(stalled));
    }

    // A103
    #[test]
    fn without_limits_nothing_is_exceeded() {
        let mut spent = Tracker::begin(Tick(0));
        spent.acknowledged(u64::MAX, None);
        spent.sent(u64::MAX);
        assert_eq!(check(Budget::UNBOUNDED, spent, 999_999), None);
    }

    // A105
    #[test]
    fn the_first_violation_in_the_fixed_order_is_reported() {
        let mut budget = Budget {
            duration_ticks_max: Some(0),
            records_max: Some(0),
            bytes_max: Some(0),
            stall_ticks_max: Some(0),
        };
        let mut spent = Tracker::begin(Tick(0));
        spent.acknowledged(1, None);
        spent.sent(1);
        let (one, none) = (1, 0);
        let duration = Violation::Duration {
            spent: one,
            max: none,
        };
        assert_eq!(check(budget, spent, 1), Some(duration));
        budget.duration_ticks_max = None;
        let records = Violation::Records {
            spent: one,
            max: none,
        };
        assert_eq!(check(budget, spent, 1), Some(records));
        budget.records_max = None;
        let bytes = Violation::Bytes {
            spent: one,
            max: none,
        };
        assert_eq!(check(budget, spent, 1), Some(bytes));
        budget.bytes_max = None;
        let stalled = Violation::Stalled {
            spent: one,
            max: none,
        };
        assert_eq!(check(budget, spent, 1), Some(stalled));
    }

    // A108
    #[test]
    fn a_clock_that_moves_backwards_never_violates() {
        let budget = Budget {
            duration_ticks_max: Some(0),
            stall_ticks_max: Some(0),
            ..Budget::UNBOUNDED
        };
        assert_eq!(check(budget, Tracker::begin(Tick(100)), 3), None);
    }

    // A108: progress at a tick before the start would make the old time look like a stall.
    #[test]
    fn a_clock_that_was_back_for_a_while_is_no_stall() {
        let budget = Budget {
            duration_ticks_max: Some(5),
            stall_ticks_max: Some(5),
            ..Budget::UNBOUNDED
        };
        let mut spent = Tracker::begin(Tick(100));
        spent.acknowledged(1, Some(Tick(3)));
        for now in [3, 50, 101, 105] {
            assert_eq!(check(budget, spent, now), None, "at {now}");
        }
        spent.acknowledged(1, Some(Tick(104)));
        let budget = Budget {
            duration_ticks_max: None,
            ..budget
        };
        assert_eq!(check(budget, spent, 109), None);
        let stalled = Violation::Stalled { spent: 6, max: 5 };
        assert_eq!(check(budget, spent, 110), Some(stalled));
    }

    // A108
    #[test]
    fn a_stall_is_seen_although_the_first_tick_is_0() {
        let budget = Budget {
            stall_ticks_max: Some(5),
            ..Budget::UNBOUNDED
        };
        let stalled = Violation::Stalled { spent: 6, max: 5 };
        assert_eq!(check(budget, Tracker::begin(Tick(0)), 6), Some(stalled));
    }

    // A230
    #[test]
    fn a_silent_peer_does_not_stall() {
        let budget = Budget {
            stall_ticks_max: Some(5),
            ..Budget::UNBOUNDED
        };
        let spent = Tracker::begin(Tick(0));
        assert_eq!(budget.check(&spent, Tick(1000), Peer::Silent), None);
    }
}
