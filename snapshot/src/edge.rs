//! The only thread of the crate: checkpoint and reclaim when the log has grown past a watermark
//! (D22).

use std::sync::{Arc, Weak};
use std::time::Duration;

use seawall_wal::sync::{self, Condvar, JoinHandle, Mutex};
use seawall_wal::{Geometry, Lsn, SegmentInfo};

use crate::error::Error;
use crate::lock;
use crate::pace::Pace;
use crate::volume::Volume;

/// Watermarks of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Background {
    /// Retained log above which the image is captured through committed and old segments are
    /// reclaimed; `None` leaves both to the caller. Where so much log again waits for a capture,
    /// writers are slowed to its pace.
    pub retained_bytes_soft: Option<u64>,
    /// Bytes of the image that are scrubbed each second; `None` leaves it to the caller.
    pub scrub_bytes_per_s: Option<u64>,
}

impl Background {
    /// No background work.
    pub const OFF: Background = Background {
        retained_bytes_soft: None,
        scrub_bytes_per_s: None,
    };
}

/// One read a second: a terabyte of data takes twelve days.
const SCRUB_BYTES_PER_S: u64 = 1 << 20;
const SECOND_NS: u64 = 1_000_000_000;

/// Log that a large volume may retain.
const RETAINED_BYTES_MOST: u64 = 512 << 20;
/// Segments that the log of a small volume may retain.
const RETAINED_SEGMENTS_LEAST: u64 = 4;

impl Background {
    /// As much log as the volume is large, but at least four segments and, where these are less, at
    /// most 512 MiB.
    #[must_use]
    pub fn of(geometry: &Geometry) -> Background {
        let least = RETAINED_SEGMENTS_LEAST * geometry.segment_bytes;
        let soft = geometry.bytes().min(RETAINED_BYTES_MOST).max(least);
        Background {
            retained_bytes_soft: Some(soft),
            scrub_bytes_per_s: Some(SCRUB_BYTES_PER_S),
        }
    }
}

/// How long a failed attempt waits for space or for the ack rule before it is tried again (D21).
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Signal {
    due: bool,
    stopped: bool,
}

/// Handle on the thread.
#[derive(Debug)]
pub(crate) struct Edge {
    background: Background,
    pace: Pace,
    signal: Arc<(Mutex<Signal>, Condvar)>,
    thread: Mutex<Option<JoinHandle>>,
}

impl Edge {
    pub(crate) fn new(background: Background) -> Edge {
        Edge {
            background,
            pace: Pace::default(),
            signal: Arc::default(),
            thread: Mutex::default(),
        }
    }

    pub(crate) fn background(&self) -> Background {
        self.background
    }

    /// Starts the thread, unless there is nothing for it to do.
    pub(crate) fn start(volume: &Arc<Volume>) {
        let edge = &volume.edge;
        // OK because too much only makes the first capture early.
        edge.pace.appended(volume.log.retained_bytes());
        if let Some(soft) = edge.background.retained_bytes_soft {
            // What a capture frees is what the log grows by until the next one.
            volume.log.keep_spare(soft);
        }
        if edge.background == Background::OFF {
            return;
        }
        if volume.disk.is_stepped() {
            // D22: the simulator runs everything on one thread and steps this by itself.
            return;
        }
        let signal = Arc::clone(&edge.signal);
        let weak = Arc::downgrade(volume);
        match sync::spawn("seawall-capture", move || run(&signal, &weak)) {
            Ok(thread) => *lock(&edge.thread) = Some(thread),
            Err(error) => tracing::error!(%error, "no thread for checkpoints: the log will grow"),
        }
    }

    /// Told of every append; wakes the thread now and then.
    pub(crate) fn appended(&self, bytes: usize) {
        let Some(soft) = self.background.retained_bytes_soft else {
            return;
        };
        let bytes = bytes as u64;
        // The count only decides when to look; what is found there decides what to do.
        let before = self.pace.appended(bytes);
        let step = (soft / 8).max(1);
        if before / step != (before + bytes) / step {
            self.wake();
        }
    }

    /// Before an append of so many bytes: lets the capture that is under way get ahead when it is
    /// far behind. The caller holds no lock.
    pub(crate) fn admit(&self, bytes: u64) {
        if let Some(soft) = self.background.retained_bytes_soft {
            self.pace.admit(bytes, soft);
        }
    }

    /// The account of how far captures are behind.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    fn wake(&self) {
        lock(&self.signal.0).due = true;
        self.signal.1.notify_one();
    }

    /// Ends the thread and waits for what it has in hand.
    pub(crate) fn stop(&self) {
        lock(&self.signal.0).stopped = true;
        self.signal.1.notify_one();
        let thread = lock(&self.thread).take();
        // The last holder of the volume may be the thread itself; it then ends by itself.
        if let Some(thread) = thread
            && !thread.is_current()
            && thread.join().is_err()
        {
            tracing::error!("the checkpoint thread panicked");
        }
    }
}

fn run(signal: &(Mutex<Signal>, Condvar), volume: &Weak<Volume>) {
    let (mut again, mut scrubbed_ns) = (true, 0);
    while wait(signal, again) {
        let Some(volume) = volume.upgrade() else {
            return;
        };
        let scrubs = volume.edge.background.scrub_bytes_per_s;
        scrubbed_ns = scrubs.map_or(0, |bytes| scrub(&volume, bytes, scrubbed_ns));
        again = match step(&volume) {
            Ok(behind) => behind,
            Err(error) => {
                tracing::warn!(%error, "a background checkpoint failed and will be tried again");
                true
            }
        };
        again |= scrubs.is_some();
    }
}

/// Scrubs when a second has gone by since `last_ns`; gives when that was last.
fn scrub(volume: &Volume, bytes: u64, last_ns: u64) -> u64 {
    let now_ns = volume.clock.monotonic_ns();
    if now_ns.saturating_sub(last_ns) < SECOND_NS {
        return last_ns;
    }
    if let Err(error) = volume.scrub(bytes) {
        tracing::warn!(%error, "the scrub will try again");
    }
    now_ns
}

/// Waits for work; `false` to end. With `again` it looks once more after a while.
fn wait(signal: &(Mutex<Signal>, Condvar), again: bool) -> bool {
    let mut state = lock(&signal.0);
    while !state.due && !state.stopped {
        if again {
            let result = signal.1.wait_timeout(state, RETRY);
            state = result.unwrap_or_else(std::sync::PoisonError::into_inner).0;
            break;
        }
        let result = signal.1.wait(state);
        state = result.unwrap_or_else(std::sync::PoisonError::into_inner);
    }
    state.due = false;
    !state.stopped
}

/// Brings the retained log below the watermark; `true` when something still holds it above.
pub(crate) fn step(volume: &Volume) -> Result<bool, Error> {
    let Some(soft) = volume.edge.background.retained_bytes_soft else {
        return Ok(false);
    };
    volume.commit_durable_if_alone()?;
    if volume.log.retained_bytes() <= soft {
        return Ok(false);
    }
    let before = volume.base_state().checkpoint;
    let through = volume.checkpoint(None)?;
    if through > before && volume.edge.pace.behind() > soft {
        volume.edge.wake();
    }
    // Half of the watermark stays for replicas that come back after a short absence.
    if let Some(target) = reclaim_target(&volume.log.segments(), soft / 2) {
        volume.advance_tail(target.min(through))?;
    }
    Ok(volume.log.retained_bytes() > soft)
}

/// The last LSN of the newest segment that need not stay for the newest `keep` bytes.
fn reclaim_target(segments: &[SegmentInfo], keep: u64) -> Option<Lsn> {
    let mut kept = 0;
    for segment in segments.iter().rev() {
        let Some((_, last)) = segment.lsns else {
            continue;
        };
        if kept >= keep {
            return Some(last);
        }
        kept += segment.bytes;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use seawall_wal::SegmentState;

    #[test]
    fn reclaim_keeps_the_newest_bytes() {
        let segment = |first, last, bytes| SegmentInfo {
            name: String::new(),
            generation: 1,
            state: SegmentState::Sealed,
            lsns: Some((Lsn::new(first), Lsn::new(last))),
            bytes,
        };
        let free = SegmentInfo {
            lsns: None,
            state: SegmentState::Free,
            ..segment(1, 1, 0)
        };
        let log = [
            segment(1, 10, 60),
            segment(11, 20, 60),
            segment(21, 25, 30),
            free,
        ];
        assert_eq!(reclaim_target(&log, 30), Some(Lsn::new(20)));
        assert_eq!(reclaim_target(&log, 31), Some(Lsn::new(10)));
        assert_eq!(reclaim_target(&log, 100), None);
        assert_eq!(reclaim_target(&[], 0), None);
    }
}
