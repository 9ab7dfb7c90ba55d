//! Threads that append in a closed loop, and what that took.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::engines::{Engine, SEGMENT_BYTES};

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until {
    pub(crate) time: Duration,
    pub(crate) bytes: u64,
}

/// What a load took.
pub(crate) struct Load {
    pub(crate) elapsed: Duration,
    /// Nanoseconds of every append, ascending.
    pub(crate) nanoseconds: Vec<u64>,
}

impl Load {
    /// The `permille`-th latency in microseconds; 1000 is the maximum.
    #[expect(clippy::cast_precision_loss, reason = "a latency for people to read")]
    pub(crate) fn microseconds(&self, permille: usize) -> f64 {
        let last = self.nanoseconds.len().saturating_sub(1);
        let at = self.nanoseconds.get(last * permille / 1000);
        at.map_or(0.0, |ns| *ns as f64 / 1000.0)
    }
}

/// Bytes that no compressor shrinks; every seed gives others.
pub(crate) fn payload(size: usize, seed: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ (seed << 1 | 1);
    let word = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    word.flatten().take(size).collect()
}

/// What all threads of a load share.
struct Shared<'a> {
    engine: &'a dyn Engine,
    size: usize,
    until: Until,
    start: Instant,
    bytes: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<io::Error>>,
}

impl Shared<'_> {
    fn fail(&self, error: io::Error) {
        self.stop.store(true, Ordering::Relaxed);
        let mut failure = self.failure.lock().expect("no thread panics holding it");
        failure.get_or_insert(error);
    }

    /// Appends until it is over; tells `retire` once per segment of payload.
    fn caller(&self, thread: usize, retire: &Sender<()>) -> Vec<u64> {
        let mut payload = payload(self.size, thread as u64);
        let mut times = Vec::new();
        let mut before = Instant::now();
        while before - self.start < self.until.time && !self.stop.load(Ordering::Relaxed) {
            payload[..8].copy_from_slice(&(times.len() as u64).to_le_bytes());
            if let Err(error) = self.engine.append(thread, &payload) {
                self.fail(error);
                break;
            }
            let after = Instant::now();
            times.push(u64::try_from((after - before).as_nanos()).unwrap_or(u64::MAX));
            before = after;
            let was = self.bytes.fetch_add(self.size as u64, Ordering::Relaxed);
            let is = was + self.size as u64;
            if was / SEGMENT_BYTES != is / SEGMENT_BYTES && retire.send(()).is_err() {
                break;
            }
            if is >= self.until.bytes {
                break;
            }
        }
        times
    }
}

/// Lets `threads` append records of `size` bytes until it is over. One more thread gives old
/// records up, as a checkpoint would.
///
/// # Errors
/// What the engine failed with first.
pub(crate) fn run(
    engine: &dyn Engine,
    threads: usize,
    size: usize,
    until: Until,
) -> io::Result<Load> {
    let shared = Shared {
        engine,
        size,
        until,
        start: Instant::now(),
        bytes: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        failure: Mutex::new(None),
    };
    let (retire, retired) = channel();
    let (mut nanoseconds, elapsed) = std::thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(move || {
            while retired.recv().is_ok() {
                if let Err(error) = engine.retire() {
                    return shared.fail(error);
                }
            }
        });
        let callers: Vec<_> = (0..threads)
            .map(|thread| {
                let retire = retire.clone();
                scope.spawn(move || shared.caller(thread, &retire))
            })
            .collect();
        drop(retire);
        let joined = callers.into_iter().map(|caller| caller.join());
        let times = joined.flat_map(|times| times.expect("a caller panicked"));
        let times: Vec<u64> = times.collect();
        let finished = engine.finish();
        let elapsed = shared.start.elapsed();
        if let Err(error) = finished {
            shared.fail(error);
        }
        (times, elapsed)
    });
    let failure = shared.failure.into_inner();
    if let Some(error) = failure.expect("no thread panics holding it") {
        return Err(error);
    }
    nanoseconds.sort_unstable();
    Ok(Load {
        elapsed,
        nanoseconds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_ascending_times() {
        let nanoseconds = (1..=1000).map(|n| n * 1000).collect();
        let load = Load {
            elapsed: Duration::ZERO,
            nanoseconds,
        };
        let at = |permille| load.microseconds(permille);
        assert_eq!((at(500), at(990), at(1000)), (500.0, 990.0, 1000.0));
    }

    /// Fails at its third append.
    struct Fails(AtomicU64);

    impl Engine for Fails {
        fn append(&self, _: usize, _: &[u8]) -> io::Result<()> {
            match self.0.fetch_add(1, Ordering::Relaxed) {
                2 => Err(io::Error::other("third")),
                _ => Ok(()),
            }
        }

        fn configuration(&self) -> String {
            String::new()
        }
    }

    #[test]
    fn a_failed_append_fails_the_load() {
        let until = Until {
            time: Duration::MAX,
            bytes: u64::MAX,
        };
        let engine = Fails(AtomicU64::new(0));
        let error = run(&engine, 4, 512, until).err().unwrap();
        assert_eq!(error.to_string(), "third");
    }

    #[test]
    fn a_load_ends_after_its_bytes() {
        let until = Until {
            time: Duration::MAX,
            bytes: 512 * 100,
        };
        let engine = Fails(AtomicU64::new(3));
        let load = run(&engine, 1, 512, until).unwrap();
        assert_eq!(load.nanoseconds.len(), 100);
    }

    #[test]
    fn threads_write_different_bytes() {
        assert_ne!(payload(512, 0), payload(512, 1));
        assert_eq!(payload(512, 3), payload(512, 3));
    }
}
