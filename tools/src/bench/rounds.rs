//! One turn of one contender: callers that keep a number of operations in flight for a while.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::edge;
use crate::error::Error;

/// What a turn yielded.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    elapsed: Duration,
    /// Time of every operation, ascending.
    nanoseconds: Vec<u64>,
    /// Records that one operation stands for.
    records_each: u64,
}

impl Round {
    pub(super) fn with_records_each(self, records_each: u64) -> Round {
        Round {
            records_each,
            ..self
        }
    }

    /// Records done.
    pub(super) fn count(&self) -> u64 {
        self.nanoseconds.len() as u64 * self.records_each
    }

    /// Records per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    pub(super) fn per_second(&self) -> f64 {
        self.count() as f64 / self.elapsed.as_secs_f64()
    }

    /// The `permille`-th latency in microseconds.
    pub(super) fn microseconds(&self, permille: usize) -> u64 {
        let last = self.nanoseconds.len().saturating_sub(1);
        let at = last * permille / 1000;
        self.nanoseconds.get(at).map_or(0, |ns| ns / 1000)
    }

    /// Several turns as one.
    pub(super) fn all(turns: &[Round]) -> Round {
        let mut nanoseconds: Vec<u64> = turns
            .iter()
            .flat_map(|turn| turn.nanoseconds.iter().copied())
            .collect();
        nanoseconds.sort_unstable();
        Round {
            elapsed: turns.iter().map(|turn| turn.elapsed).sum(),
            nanoseconds,
            records_each: turns.first().map_or(1, |turn| turn.records_each),
        }
    }
}

/// Lets `callers` threads work for `time`, each with `depth` operations in flight. `start` gets a
/// number that no other call of the turn gets.
pub(super) fn round<T>(
    callers: u32,
    depth: usize,
    time: Duration,
    start: impl Fn(u64) -> Result<T, Error> + Sync,
    finish: impl Fn(T) -> Result<(), Error> + Sync,
) -> Result<Round, Error> {
    let next = AtomicU64::new(0);
    let begun = edge::now();
    let caller = |_| {
        let mut flight: VecDeque<(Instant, T)> = VecDeque::with_capacity(depth);
        let mut times = Vec::new();
        while begun.elapsed() < time {
            // Relaxed: only uniqueness counts.
            let number = next.fetch_add(1, Ordering::Relaxed);
            flight.push_back((edge::now(), start(number)?));
            if flight.len() == depth {
                land(&mut flight, &mut times, &finish)?;
            }
        }
        while !flight.is_empty() {
            land(&mut flight, &mut times, &finish)?;
        }
        Ok(times)
    };
    let results: Vec<Result<Vec<u64>, Error>> = edge::fan_out(callers as usize, caller);
    let elapsed = begun.elapsed();
    let mut nanoseconds = Vec::new();
    for times in results {
        nanoseconds.extend(times?);
    }
    nanoseconds.sort_unstable();
    Ok(Round {
        elapsed,
        nanoseconds,
        records_each: 1,
    })
}

/// Finishes the oldest operation.
fn land<T>(
    flight: &mut VecDeque<(Instant, T)>,
    times: &mut Vec<u64>,
    finish: &impl Fn(T) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some((begun, operation)) = flight.pop_front() else {
        return Ok(());
    };
    finish(operation)?;
    times.push(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX));
    Ok(())
}
