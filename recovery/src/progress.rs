//! How far a recovery is, how fast, and for how long still: numbers that only rise, and a time
//! left that only falls. Times come from the caller.

/// A rate is of at least this long.
const RATE_NS: u64 = 1_000_000_000;

/// What a recovery is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It waits until fewer recoveries run; what it needs is pinned.
    Queued,
    /// Records of a catch-up are sent.
    CatchUp,
    /// The base of a rebuild is sent.
    Base,
    /// The records after the base are sent.
    Tail,
}

impl Phase {
    /// The name that status uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Queued => "queued",
            Phase::CatchUp => "catch-up",
            Phase::Base => "base",
            Phase::Tail => "tail",
        }
    }
}

/// Progress of one phase of one recovery. Work is bytes of the image in a base, and records in a
/// catch-up or a tail, whose bytes nobody knows before they are read.
#[derive(Clone, Debug)]
pub struct Progress {
    phase: Phase,
    total: u64,
    done: u64,
    skipped: u64,
    sent_bytes: u64,
    started_ns: u64,
    /// Where the last rate was measured from: when, and bytes sent then.
    mark: (u64, u64),
    rate: Option<u64>,
    eta_ns: Option<u64>,
}

/// A detached copy of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressView {
    /// What it is doing.
    pub phase: Phase,
    /// Work of this phase: bytes in a base, records otherwise.
    pub total: u64,
    /// Work that is done, what was skipped included; never above the total, never falling.
    pub done: u64,
    /// Work that needed no sending: chunks that match or are zero.
    pub skipped: u64,
    /// Bytes sent in this phase.
    pub sent_bytes: u64,
    /// Bytes sent in a second, of late; unknown at first.
    pub bytes_per_s: Option<u64>,
    /// Nanoseconds that the rest of this phase takes at its mean speed so far; unknown at first.
    /// Never more than it was before, so it stands still while the phase does.
    pub eta_ns: Option<u64>,
}

impl Progress {
    /// A phase with so much work begins.
    #[must_use]
    pub const fn begin(phase: Phase, total: u64, now_ns: u64) -> Progress {
        Progress {
            phase,
            total,
            done: 0,
            skipped: 0,
            sent_bytes: 0,
            started_ns: now_ns,
            mark: (now_ns, 0),
            rate: None,
            eta_ns: None,
        }
    }

    /// `bytes` were sent.
    pub fn sent(&mut self, bytes: u64, now_ns: u64) {
        self.sent_bytes = self.sent_bytes.saturating_add(bytes);
        let spent = now_ns.saturating_sub(self.mark.0);
        if spent >= RATE_NS {
            self.rate = Some(per_second(self.sent_bytes - self.mark.1, spent));
            self.mark = (now_ns, self.sent_bytes);
        }
    }

    /// So much work is done in all, and so much of it was skipped. Less than before changes
    /// nothing.
    pub fn reached(&mut self, done: u64, skipped: u64, now_ns: u64) {
        self.done = self.done.max(done.min(self.total));
        self.skipped = self.skipped.max(skipped.min(self.done));
        let spent = now_ns.saturating_sub(self.started_ns);
        if self.done == 0 || spent == 0 {
            return;
        }
        let left = u128::from(self.total - self.done);
        let eta = left * u128::from(spent) / u128::from(self.done);
        let eta = u64::try_from(eta).unwrap_or(u64::MAX);
        self.eta_ns = Some(self.eta_ns.map_or(eta, |before| before.min(eta)));
    }

    /// A detached copy.
    #[must_use]
    pub const fn view(&self) -> ProgressView {
        ProgressView {
            phase: self.phase,
            total: self.total,
            done: self.done,
            skipped: self.skipped,
            sent_bytes: self.sent_bytes,
            bytes_per_s: self.rate,
            eta_ns: self.eta_ns,
        }
    }
}

fn per_second(bytes: u64, spent_ns: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(spent_ns);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn rate_and_time_left_are_unknown_until_something_is_done() {
        let mut progress = Progress::begin(Phase::Base, 100, 5);
        progress.reached(0, 0, 6);
        progress.sent(1, 6);
        assert_eq!(progress.view().eta_ns, None);
        assert_eq!(progress.view().bytes_per_s, None);
        progress.sent(9, 5 + 2 * SECOND);
        progress.reached(20, 5, 5 + 2 * SECOND);
        let view = progress.view();
        assert_eq!(view.bytes_per_s, Some(5));
        assert_eq!(view.eta_ns, Some(8 * SECOND));
        assert_eq!((view.done, view.skipped), (20, 5));
    }

    #[test]
    fn a_phase_that_stands_still_does_not_take_longer_than_it_said() {
        let mut progress = Progress::begin(Phase::Tail, 10, 0);
        progress.reached(5, 0, SECOND);
        progress.reached(6, 0, 100 * SECOND);
        assert_eq!(progress.view().eta_ns, Some(SECOND));
        progress.reached(10, 0, 101 * SECOND);
        assert_eq!(progress.view().eta_ns, Some(0));
    }

    proptest! {
        #[test]
        fn nothing_runs_backwards_or_over_its_end(
            total in 0_u64..1000,
            steps in prop::collection::vec((0_u64..2000, 0_u64..2000, 0_u64..3 * SECOND), 1..50),
        ) {
            let mut progress = Progress::begin(Phase::Base, total, 0);
            let mut before = progress.view();
            for (done, skipped, now) in steps {
                progress.sent(done, now);
                progress.reached(done, skipped, now);
                let view = progress.view();
                prop_assert!(view.done >= before.done && view.done <= total);
                prop_assert!(view.skipped >= before.skipped && view.skipped <= view.done);
                prop_assert!(view.sent_bytes >= before.sent_bytes);
                if let Some(eta) = before.eta_ns {
                    prop_assert!(view.eta_ns.is_some_and(|later| later <= eta));
                }
                before = view;
            }
        }
    }
}
