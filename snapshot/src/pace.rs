//! Admission delay: how far captures are behind, and how long an append waits for them.
//!
//! There is no clock: a writer waits for progress of the capture that is under way, counted in
//! bytes of log. Up to the soft mark nobody waits. From there on each byte appended waits for as
//! many captured bytes as `over / (soft - over)`, where `over` is what waits beyond the mark:
//! little at first, one for one in the middle, and at twice the mark until the capture has ended.
//! So the log comes to rest between the two marks and nobody stalls for a whole capture.
//!
//! Nobody waits while no capture is under way: one that fails, for want of space for instance, or
//! that has nothing it may capture, stops no writer (D21). The log then grows until its own disk is
//! full and says so.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::sync::{Condvar, Mutex};

use crate::lock;

/// Bytes of log appended and captured since the volume was opened.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    appended: AtomicU64,
    /// Never above what was appended; a capture that is under way counts by its parts.
    captured: AtomicU64,
    turns: Mutex<Turns>,
    progress: Condvar,
}

#[derive(Debug, Default)]
struct Turns {
    /// What the capture that is under way began with, and what it leads to.
    capture: Option<(u64, u64)>,
    /// What the last writer waits for.
    due: u64,
    /// Writers that had to wait.
    waited: u64,
}

/// A capture under way; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Capture<'a> {
    pace: &'a Pace,
}

/// Captured bytes for which an append of `bytes` waits when so much waits for a capture.
fn owed(bytes: u64, behind: u64, soft: u64) -> u64 {
    let over = behind.saturating_sub(soft);
    let left = soft.saturating_sub(over);
    match left {
        0 if over > 0 => u64::MAX,
        0 => 0,
        _ => u64::try_from(u128::from(bytes) * u128::from(over) / u128::from(left))
            .unwrap_or(u64::MAX),
    }
}

impl Pace {
    /// Counts an append; gives what was appended before it.
    pub(crate) fn appended(&self, bytes: u64) -> u64 {
        self.appended.fetch_add(bytes, Ordering::Relaxed)
    }

    /// Bytes that wait for a capture.
    pub(crate) fn behind(&self) -> u64 {
        let captured = self.captured.load(Ordering::Relaxed);
        let appended = self.appended.load(Ordering::Relaxed);
        appended.saturating_sub(captured)
    }

    /// Waits until an append of so many bytes is in order.
    pub(crate) fn admit(&self, bytes: u64, soft: u64) {
        let owed = owed(bytes, self.behind(), soft);
        if owed == 0 {
            return;
        }
        let mut turns = lock(&self.turns);
        let captured = self.captured.load(Ordering::Relaxed);
        // One behind the other: many writers together do not get ahead of a capture either.
        let due = turns.due.max(captured).saturating_add(owed);
        if let Some((_, through)) = turns.capture {
            turns.due = due.min(through);
            turns.waited += 1;
        }
        while turns.capture.is_some() && self.captured.load(Ordering::Relaxed) < due {
            let woken = self.progress.wait(turns);
            turns = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writers that had to wait.
    #[cfg(test)]
    pub(crate) fn waited(&self) -> u64 {
        lock(&self.turns).waited
    }

    /// A capture of everything appended so far begins; there is one at a time.
    pub(crate) fn begin(&self) -> Capture<'_> {
        let mut turns = lock(&self.turns);
        let from = self.captured.load(Ordering::Relaxed);
        turns.capture = Some((from, self.appended.load(Ordering::Relaxed)));
        Capture { pace: self }
    }

    /// Whatever capture is under way has done so many of `total` parts of its work.
    pub(crate) fn advance(&self, done: usize, total: usize) {
        let turns = lock(&self.turns);
        let Some((from, through)) = turns.capture else {
            return;
        };
        let (done, total) = (done.min(total) as u128, total.max(1) as u128);
        let part = u128::from(through - from) * done / total;
        let captured = from + u64::try_from(part).unwrap_or(0);
        self.captured.fetch_max(captured, Ordering::Relaxed);
        self.progress.notify_all();
    }
}

impl Capture<'_> {
    /// Everything it was to capture is in the image.
    pub(crate) fn succeed(self) {
        self.pace.advance(1, 1);
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        let mut turns = lock(&self.pace.turns);
        if let Some((from, through)) = turns.capture.take()
            && self.pace.captured.load(Ordering::Relaxed) < through
        {
            // What a failed capture did has to be done again.
            self.pace.captured.store(from, Ordering::Relaxed);
        }
        turns.due = 0;
        self.pace.progress.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFT: u64 = 1000;

    #[test]
    fn a_delay_grows_from_nothing_at_the_soft_mark_without_bound_towards_twice_the_mark() {
        let found = [0, 1000, 1100, 1500, 1900, 1999].map(|behind| owed(900, behind, SOFT));
        assert_eq!(found, [0, 0, 100, 900, 8100, 899_100]);
        assert_eq!(
            [2000, 5000].map(|behind| owed(1, behind, SOFT)),
            [u64::MAX; 2]
        );
        assert_eq!(owed(1, 0, 0), 0);
    }

    #[test]
    fn nobody_waits_below_the_mark_or_while_nothing_is_captured() {
        let pace = Pace::default();
        pace.appended(5000);
        pace.admit(100, SOFT);
        let capture = pace.begin();
        pace.advance(9, 10);
        assert_eq!(pace.behind(), 500);
        pace.admit(100, SOFT);
        drop(capture);
        assert_eq!(pace.behind(), 5000, "what failed is to be done again");
        pace.begin().succeed();
        assert_eq!((pace.behind(), pace.waited()), (0, 0));
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "somebody has to wait")]
    fn a_writer_goes_on_when_its_share_is_captured_or_the_capture_has_ended() {
        let pace = Pace::default();
        pace.appended(1500);
        let capture = pace.begin();
        std::thread::scope(|scope| {
            let wait_for = |writers| {
                while pace.waited() < writers {
                    std::thread::yield_now();
                }
            };
            let first = scope.spawn(|| pace.admit(150, SOFT));
            wait_for(1);
            pace.advance(1, 10);
            first.join().unwrap();
            pace.appended(500);
            let second = scope.spawn(|| pace.admit(u64::MAX / 2, SOFT));
            wait_for(2);
            pace.advance(2, 10);
            assert!(
                !second.is_finished(),
                "it owes more than the capture has left"
            );
            capture.succeed();
            second.join().unwrap();
        });
        assert_eq!(pace.behind(), 500);
    }
}
