//! How fast recoveries may send: foreground latency decides, and a floor makes them end.
//!
//! The controller looks at windows of a tenth of a second. A window is slow when more than a tenth
//! of its foreground writes took longer than the target. A slow window halves the limit, or sets it
//! to half of what was just sent; a good one raises it by a quarter, and one without any
//! foreground write doubles it. A limit far above what is sent falls away. The limit never goes
//! below the floor. All recoveries of a volume share one limit. Times come from the caller.

use std::time::Duration;

/// Length of a window in nanoseconds.
const WINDOW_NS: u64 = 100_000_000;
/// More windows than this without a word are as good as none.
const WINDOWS_MAX: u64 = 64;
/// A limit so many times above what is sent limits nothing.
const SLACK: u64 = 16;

/// How recoveries give way to foreground writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleOptions {
    /// Recoveries slow down while more than a tenth of the durable writes and flushes take longer
    /// than this on our own disk. `None` lets recoveries run at full speed.
    pub target: Option<Duration>,
    /// Bytes a second that all recoveries of the volume keep together, however slow writes are; at
    /// least 1.
    pub floor_bytes_per_s: u64,
}

impl Default for ThrottleOptions {
    fn default() -> ThrottleOptions {
        ThrottleOptions {
            target: Some(Duration::from_millis(10)),
            floor_bytes_per_s: 16 << 20,
        }
    }
}

/// Why recoveries are as fast as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Nothing limits them.
    Free,
    /// Foreground writes are slower than the target.
    SlowForeground,
    /// Foreground writes are slower than the target, and recoveries are at their floor.
    Floor,
    /// Foreground writes are fast enough, and the limit rises.
    Rising,
}

impl Cause {
    /// The name that status uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Free => "free",
            Cause::SlowForeground => "slow foreground",
            Cause::Floor => "floor",
            Cause::Rising => "rising",
        }
    }
}

/// What happened in one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Window {
    writes: u64,
    slow: u64,
    slowest_ns: u64,
    sent: u64,
}

/// The controller of one volume.
#[derive(Clone, Debug)]
pub struct Throttle {
    options: ThrottleOptions,
    /// Bytes a second, if anything limits.
    limit: Option<u64>,
    cause: Cause,
    window: Window,
    window_start_ns: u64,
    /// Of the last window that had a foreground write.
    latency_ns: Option<u64>,
    /// When what was granted so far has been sent at the limit.
    free_at_ns: u64,
}

/// A detached copy of what the controller knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThrottleView {
    /// Bytes a second for all recoveries, if anything limits.
    pub limit_bytes_per_s: Option<u64>,
    /// Why.
    pub cause: Cause,
    /// Slowest foreground write of the last window that had one, in nanoseconds.
    pub latency_ns: Option<u64>,
    /// Options it works with.
    pub options: ThrottleOptions,
}

impl Throttle {
    /// Nothing limits yet.
    #[must_use]
    pub fn new(options: ThrottleOptions, now_ns: u64) -> Throttle {
        Throttle {
            options,
            limit: None,
            cause: Cause::Free,
            window: Window::default(),
            window_start_ns: now_ns,
            latency_ns: None,
            free_at_ns: now_ns,
        }
    }

    /// A foreground write took `latency_ns`.
    pub fn wrote(&mut self, latency_ns: u64, now_ns: u64) {
        self.advance(now_ns);
        let target = self.options.target.map_or(u64::MAX, nanoseconds);
        self.window.writes += 1;
        self.window.slow += u64::from(latency_ns > target);
        self.window.slowest_ns = self.window.slowest_ns.max(latency_ns);
    }

    /// A recovery is about to send `bytes`: how long it has to wait first, in nanoseconds.
    #[must_use]
    pub fn send(&mut self, bytes: u64, now_ns: u64) -> u64 {
        self.advance(now_ns);
        self.window.sent = self.window.sent.saturating_add(bytes);
        let Some(limit) = self.limit else {
            self.free_at_ns = now_ns;
            return 0;
        };
        let begin = self.free_at_ns.max(now_ns);
        let takes = u128::from(bytes) * 1_000_000_000 / u128::from(limit);
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        self.free_at_ns = begin.saturating_add(takes);
        begin - now_ns
    }

    /// Closes the windows that ended by `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        let passed = now_ns.saturating_sub(self.window_start_ns) / WINDOW_NS;
        for _ in 0..passed.min(WINDOWS_MAX) {
            let window = std::mem::take(&mut self.window);
            self.close(window);
        }
        self.window_start_ns += passed * WINDOW_NS;
    }

    fn close(&mut self, window: Window) {
        if window.writes > 0 {
            self.latency_ns = Some(window.slowest_ns);
        }
        let floor = self.options.floor_bytes_per_s.max(1);
        let sent = window.sent.saturating_mul(1_000_000_000 / WINDOW_NS);
        let slow = window.slow * 10 > window.writes;
        (self.limit, self.cause) = match (slow, self.limit) {
            // Nobody sends: the writes are slow for another reason.
            (true, None) if window.sent == 0 => (None, Cause::Free),
            (true, limit) => {
                let before = limit.map_or(sent, |limit| limit.min(sent.max(floor)));
                match before / 2 > floor {
                    true => (Some(before / 2), Cause::SlowForeground),
                    false => (Some(floor), Cause::Floor),
                }
            }
            (false, None) => (None, Cause::Free),
            (false, Some(limit)) => {
                let more = match window.writes {
                    0 => limit,
                    _ => limit / 4,
                };
                let raised = limit.saturating_add(more.max(1));
                match raised > sent.max(floor).saturating_mul(SLACK) {
                    true => (None, Cause::Free),
                    false => (Some(raised), Cause::Rising),
                }
            }
        };
    }

    /// A detached copy.
    #[must_use]
    pub fn view(&self) -> ThrottleView {
        ThrottleView {
            limit_bytes_per_s: self.limit,
            cause: self.cause,
            latency_ns: self.latency_ns,
            options: self.options,
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
