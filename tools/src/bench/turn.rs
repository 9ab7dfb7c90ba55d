//! One turn of one contender: callers that keep a number of operations in flight.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::bench::histogram::Histogram;
use crate::edge;
use crate::error::Error;

/// One caller of a contender, on a thread of its own. What it needs for each operation it should
/// hold alone: a counter that all callers share is measured along with the engine.
pub trait Caller {
    /// An operation on its way.
    type Flight;

    /// Begins an operation.
    ///
    /// # Errors
    /// Ends the turn.
    fn start(&mut self) -> Result<Self::Flight, Error>;

    /// Waits for its end.
    ///
    /// # Errors
    /// Ends the turn.
    fn finish(&mut self, flight: Self::Flight) -> Result<(), Error>;
}

/// A blocking call: it begins and ends in one.
impl<F: FnMut() -> Result<(), Error>> Caller for F {
    type Flight = ();

    fn start(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn finish(&mut self, (): ()) -> Result<(), Error> {
        self()
    }
}

/// How long a turn lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// No operation begins after this time.
    Elapsed(Duration),
    /// So many operations, shared out among the callers.
    Done(u64),
}

/// What a turn yielded.
#[derive(Clone, Debug)]
pub struct Turn {
    elapsed: Duration,
    latencies: Histogram,
    /// Records that one operation stands for.
    records_each: f64,
}

impl Turn {
    /// The same, with operations of so many records.
    #[must_use]
    pub fn with_records_each(self, records_each: f64) -> Turn {
        Turn {
            records_each,
            ..self
        }
    }

    /// From the first operation begun to the last one ended.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Records done.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a count for rates")]
    pub fn records(&self) -> f64 {
        self.latencies.count() as f64 * self.records_each
    }

    /// Records per second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.records() / self.elapsed.as_secs_f64()
    }

    /// The time that `permille` of the operations do not exceed, in microseconds.
    #[must_use]
    pub fn microseconds(&self, permille: u64) -> f64 {
        self.latencies.microseconds(permille)
    }

    /// The same, with more time until its end.
    #[must_use]
    pub fn lasting(self, more: Duration) -> Turn {
        Turn {
            elapsed: self.elapsed + more,
            ..self
        }
    }

    /// How many operations took longer than so many microseconds, and how many seconds together.
    #[must_use]
    pub fn slower_than(&self, microseconds: f64) -> (u64, f64) {
        self.latencies.above(microseconds)
    }

    /// Several turns as one.
    #[must_use]
    pub fn all(turns: &[Turn]) -> Turn {
        let mut latencies = Histogram::default();
        for turn in turns {
            latencies.merge(&turn.latencies);
        }
        Turn {
            elapsed: turns.iter().map(|turn| turn.elapsed).sum(),
            latencies,
            records_each: turns.first().map_or(1.0, |turn| turn.records_each),
        }
    }
}

/// What one caller did.
struct Shift {
    begun: Instant,
    ended: Instant,
    latencies: Histogram,
}

/// Lets `callers` threads work, each with `depth` operations in flight. `caller` makes one from its
/// index, on its own thread and before the clock starts.
///
/// # Errors
/// The first one that a caller met.
pub fn turn<C: Caller>(
    callers: u32,
    depth: u32,
    until: Until,
    caller: impl Fn(usize) -> C + Sync,
) -> Result<Turn, Error> {
    let callers = callers.max(1) as usize;
    let together = Barrier::new(callers);
    let shifts = edge::fan_out(callers, |index| {
        let mut caller = caller(index);
        together.wait();
        shift(
            &mut caller,
            depth.max(1) as usize,
            share(until, callers, index),
        )
    });
    Ok(sum(shifts.into_iter().collect::<Result<_, Error>>()?))
}

/// Lets `callers` threads work, each one operation every `interval`, until `over`. An operation is
/// timed from when it was due, so those that wait for a slow one before them are slow as well.
///
/// # Errors
/// The first one that a caller met.
pub(super) fn paced<C: FnMut() -> Result<(), Error>>(
    callers: u32,
    interval: Duration,
    over: impl Fn() -> bool + Sync,
    caller: impl Fn(usize) -> C + Sync,
) -> Result<Turn, Error> {
    let callers = callers.max(1);
    let together = Barrier::new(callers as usize);
    let shifts = edge::fan_out(callers as usize, |index| {
        let mut caller = caller(index);
        together.wait();
        let begun = edge::now();
        // Spread over the interval: they do not knock at the same moment.
        let part = u32::try_from(index).unwrap_or(0);
        let mut due = begun + interval * part / callers;
        let mut latencies = Histogram::default();
        while !over() {
            edge::pause(due.saturating_duration_since(edge::now()));
            caller()?;
            latencies.add(edge::now() - due);
            due += interval;
        }
        let ended = edge::now();
        Ok(Shift {
            begun,
            ended,
            latencies,
        })
    });
    Ok(sum(shifts.into_iter().collect::<Result<_, Error>>()?))
}

fn sum(shifts: Vec<Shift>) -> Turn {
    let mut latencies = Histogram::default();
    for shift in &shifts {
        latencies.merge(&shift.latencies);
    }
    let begun = shifts.iter().map(|shift| shift.begun).min();
    let ended = shifts.iter().map(|shift| shift.ended).max();
    let elapsed = begun.zip(ended).map(|(begun, ended)| ended - begun);
    Turn {
        elapsed: elapsed.unwrap_or_default(),
        latencies,
        records_each: 1.0,
    }
}

/// The part of one of the callers.
fn share(until: Until, callers: usize, index: usize) -> Until {
    match until {
        Until::Elapsed(time) => Until::Elapsed(time),
        Until::Done(count) => {
            let (callers, index) = (callers as u64, index as u64);
            Until::Done(count / callers + u64::from(index < count % callers))
        }
    }
}

/// The clock is read once for each operation: one begins at the moment the one before it ended.
fn shift<C: Caller>(caller: &mut C, depth: usize, until: Until) -> Result<Shift, Error> {
    let mut flights: VecDeque<(Instant, C::Flight)> = VecDeque::with_capacity(depth);
    let mut latencies = Histogram::default();
    let (begun, mut started) = (edge::now(), 0);
    let mut now = begun;
    loop {
        let over = match until {
            Until::Elapsed(time) => now - begun >= time,
            Until::Done(count) => started >= count,
        };
        if !over {
            flights.push_back((now, caller.start()?));
            started += 1;
            if flights.len() < depth {
                now = edge::now();
                continue;
            }
        }
        let Some((since, flight)) = flights.pop_front() else {
            break;
        };
        caller.finish(flight)?;
        now = edge::now();
        latencies.add(now - since);
    }
    Ok(Shift {
        begun,
        ended: now,
        latencies,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Counts what it has in flight and what it did.
    struct Probe<'a> {
        in_flight: u64,
        most: &'a AtomicU64,
        done: &'a AtomicU64,
    }

    impl Caller for Probe<'_> {
        type Flight = ();

        fn start(&mut self) -> Result<(), Error> {
            self.in_flight += 1;
            self.most.fetch_max(self.in_flight, Ordering::Relaxed);
            Ok(())
        }

        fn finish(&mut self, (): ()) -> Result<(), Error> {
            self.in_flight -= 1;
            self.done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn a_counted_turn_does_exactly_as_much_with_as_much_in_flight() {
        for (callers, depth, count) in [(1, 1, 1), (3, 4, 100), (4, 1, 3), (2, 8, 16)] {
            let (most, done) = (AtomicU64::new(0), AtomicU64::new(0));
            let turn = turn(callers, depth, Until::Done(count), |_| Probe {
                in_flight: 0,
                most: &most,
                done: &done,
            })
            .unwrap();
            assert_eq!(done.into_inner(), count);
            assert!((turn.records() - u32::try_from(count).map_or(0.0, f64::from)).abs() < 1e-9);
            let possible = u64::from(depth).min(count.div_ceil(u64::from(callers)));
            assert_eq!(most.into_inner(), possible, "{callers} {depth} {count}");
        }
    }

    #[test]
    fn the_first_error_of_a_caller_ends_the_turn() {
        let refuse = |_| || Err(Error::Usage("enough".into()));
        let error = turn(2, 1, Until::Done(10), refuse).unwrap_err();
        assert!(matches!(error, Error::Usage(text) if text == "enough"));
    }

    #[test]
    fn time_that_is_added_lowers_the_rate_and_leaves_the_latencies() {
        let one = turn(1, 1, Until::Done(5), |_| || Ok(())).unwrap();
        let longer = one.clone().lasting(Duration::from_secs(1));
        assert_eq!(longer.elapsed(), one.elapsed() + Duration::from_secs(1));
        assert!(longer.per_second() < 5.0);
        assert!((longer.microseconds(1000) - one.microseconds(1000)).abs() < 1e-9);
    }

    #[test]
    fn a_paced_turn_counts_the_time_that_an_operation_waited_for_the_one_before_it() {
        let (slow, interval) = (Duration::from_millis(20), Duration::from_millis(1));
        let done = AtomicU64::new(0);
        let over = || done.load(Ordering::Relaxed) >= 10;
        let turn = paced(1, interval, over, |_| {
            || {
                if done.fetch_add(1, Ordering::Relaxed) == 0 {
                    edge::pause(slow);
                }
                Ok(())
            }
        })
        .unwrap();
        assert!((turn.records() - 10.0).abs() < 1e-9);
        // Nine more were due while the first one took its time.
        assert!(turn.microseconds(500) > 5000.0, "{turn:?}");
    }

    #[test]
    fn turns_add_up() {
        let one = turn(1, 1, Until::Done(5), |_| || Ok(())).unwrap();
        let all = Turn::all(&[one.clone(), one.clone()]).with_records_each(2.0);
        assert!((all.records() - 20.0).abs() < 1e-9);
        assert_eq!(all.elapsed(), one.elapsed() * 2);
    }
}
