//! Latencies in buckets of less than one percent: small, and cheap to add to.

use std::time::Duration;

/// Buckets per doubling, as a power of two.
const PRECISION: u32 = 7;
/// Longest time told apart, about 18 minutes, as a power of two of nanoseconds.
const LONGEST: u32 = 40;
const BUCKETS: usize = index_of(1 << LONGEST) + 1;

/// How often each time was seen.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

/// The bucket of a time: exact below `2^(PRECISION + 1)`, then `2^PRECISION` to a doubling.
#[expect(clippy::cast_possible_truncation, reason = "it is below BUCKETS")]
const fn index_of(nanoseconds: u64) -> usize {
    let shift = (u64::BITS - nanoseconds.leading_zeros()).saturating_sub(PRECISION + 1);
    ((shift as usize) << PRECISION) + (nanoseconds >> shift) as usize
}

/// The shortest time of a bucket.
const fn time_of(index: usize) -> u64 {
    let shift = (index >> PRECISION).saturating_sub(1);
    ((index - (shift << PRECISION)) as u64) << shift
}

impl Histogram {
    /// Adds one time.
    pub fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[index_of(nanoseconds.min(1 << LONGEST))] += 1;
        self.total += 1;
    }

    /// Adds all of another's.
    pub fn merge(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// How many times were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The time that `permille` of all do not exceed, in microseconds; 1000 asks for the longest.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time for people to read")]
    pub fn microseconds(&self, permille: u64) -> f64 {
        let wanted = (self.total * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        reached.map_or(0.0, |index| time_of(index) as f64 / 1000.0)
    }

    /// How many times are longer than so many microseconds, and how many seconds they add up to.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a time for people to read")]
    pub fn above(&self, microseconds: f64) -> (u64, f64) {
        let times = self.counts.iter().enumerate();
        let times = times.map(|(index, count)| (time_of(index) as f64 / 1000.0, *count));
        let longer = times.filter(|(time, _)| *time > microseconds);
        longer.fold((0, 0.0), |(number, seconds), (time, count)| {
            (number + count, seconds + time * count as f64 / 1e6)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_less_than_one_percent_wide_and_buckets_do_not_overlap() {
        for index in 1..BUCKETS {
            let (before, time) = (time_of(index - 1), time_of(index));
            assert!(before < time, "{index}");
            assert_eq!(index_of(time), index);
            assert_eq!(index_of(time - 1), index - 1);
            assert!(
                (time - before) * 100 <= time.max(100),
                "{index}: {before} {time}"
            );
        }
    }

    #[test]
    fn quantiles_count_every_merged_time() {
        let (mut slow, mut fast) = (Histogram::default(), Histogram::default());
        (0..10).for_each(|_| slow.add(Duration::from_micros(1000)));
        (0..990).for_each(|_| fast.add(Duration::from_nanos(200)));
        fast.merge(&slow);
        assert_eq!(fast.count(), 1000);
        assert!((fast.microseconds(500) - 0.2).abs() < 1e-9);
        assert!((fast.microseconds(990) - 0.2).abs() < 1e-9);
        let longest = fast.microseconds(1000);
        assert!((990.0..=1000.0).contains(&longest), "{longest}");
        assert!((fast.microseconds(991) - longest).abs() < 1e-9);
    }

    #[test]
    fn times_above_a_bound_are_counted_and_added_up() {
        let mut histogram = Histogram::default();
        (0..100).for_each(|_| histogram.add(Duration::from_micros(10)));
        (0..4).for_each(|_| histogram.add(Duration::from_millis(250)));
        let (number, seconds) = histogram.above(1000.0);
        assert_eq!(number, 4);
        assert!((0.99..=1.0).contains(&seconds), "{seconds}");
        assert_eq!(histogram.above(1e9).0, 0);
        assert_eq!(histogram.above(0.0).0, 104);
    }

    #[test]
    fn an_endless_time_lands_in_the_last_bucket() {
        let mut histogram = Histogram::default();
        histogram.add(Duration::MAX);
        assert!(histogram.microseconds(1000) > 1e9);
    }
}
