//! The only thread of the crate and the only clock: steps background work when the disk is not
//! stepped by its user (D22).
#![expect(
    clippy::disallowed_methods,
    reason = "this edge is where time and threads come from"
)]

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use crate::background::Effort;
use crate::clock::Clock;
use crate::log::Log;
use crate::sync;

/// The clocks of the operating system.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// The clocks of the operating system.
    #[must_use]
    #[expect(
        clippy::new_ret_no_self,
        reason = "every user wants it as a shared trait object"
    )]
    pub fn new() -> Arc<dyn Clock> {
        Arc::new(SystemClock {
            origin: Instant::now(),
        })
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Clock for SystemClock {
    fn unix_ns(&self) -> u64 {
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, nanoseconds)
    }

    fn monotonic_ns(&self) -> u64 {
        nanoseconds(self.origin.elapsed())
    }
}

/// A log that was not appended to for this long gets a mark frame (D13).
const IDLE: Duration = Duration::from_millis(200);

/// Starts the thread that seals, prepares, reclaims and marks. It ends with the log.
pub(crate) fn spawn(log: &Arc<Log>) -> std::io::Result<()> {
    let weak = Arc::downgrade(log);
    sync::spawn("seawall-wal", move || run(&weak)).map(drop)
}

fn run(weak: &Weak<Log>) {
    let mut frames = 0;
    let mut effort = Effort::Everything;
    let mut failing = false;
    while let Some(log) = weak.upgrade() {
        if log.is_stopped() {
            return;
        }
        let stepped = match log.step_with(effort) {
            Ok(stepped) => {
                failing = false;
                stepped
            }
            Err(error) => {
                // WARN and go on: appends meet the same error, and reads do not need this.
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "background work of the log failed; it is tried again");
                }
                false
            }
        };
        let waited = stepped || log.wait_for_work(IDLE);
        let idle = frames == std::mem::replace(&mut frames, log.stats().frames);
        effort = match waited && idle {
            true => Effort::Everything,
            false => Effort::Needed,
        };
        if effort == Effort::Everything
            && !stepped
            && log.check_writable().is_ok()
            && let Err(error) = log.mark()
        {
            tracing::warn!(%error, "cannot mark the idle log");
        }
    }
}

/// Starts the thread that waits for the disk on behalf of awaited tickets. It ends with the log.
pub(crate) fn attend(log: &Arc<Log>) -> std::io::Result<()> {
    let weak = Arc::downgrade(log);
    let run = move || {
        while let Some(log) = weak.upgrade() {
            while log.attend_once() {}
            if !log.wait_for_call(IDLE) {
                return;
            }
        }
    };
    sync::spawn("seawall-await", run).map(drop)
}
