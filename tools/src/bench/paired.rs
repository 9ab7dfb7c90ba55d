//! Figures of several turns as one: the median, with both ends.

/// Median, least and most of some figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Half of them are not above it.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// Of these figures; all zero when there are none.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Spread::default();
        };
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => f64::midpoint(sorted[middle - 1], sorted[middle]),
            _ => sorted[middle],
        };
        Spread {
            median,
            min: *min,
            max: *max,
        }
    }

    /// Of the ratios within each pair: both of one round, so that what slows the whole machine
    /// down slows both.
    #[must_use]
    pub fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Spread {
        Spread::of(pairs.into_iter().map(|(ours, theirs)| ours / theirs))
    }

    /// How far the figures lie apart, as a part of the median.
    #[must_use]
    pub fn drift(&self) -> f64 {
        (self.max - self.min) / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn the_median_ignores_the_outliers() {
        let spread = Spread::of([9.0, 1.0, 2.0, 2.0, 0.1]);
        assert!(same(spread.median, 2.0) && same(spread.min, 0.1) && same(spread.max, 9.0));
        assert!(same(Spread::of([4.0, 1.0]).median, 2.5));
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn a_ratio_is_taken_within_each_pair_and_not_between_the_medians() {
        let spread = Spread::of_ratios([(1.0, 2.0), (100.0, 50.0), (3.0, 4.0)]);
        assert!(same(spread.median, 0.75) && same(spread.min, 0.5) && same(spread.max, 2.0));
    }

    #[test]
    fn drift_is_the_width_over_the_median() {
        assert!(same(Spread::of([90.0, 100.0, 110.0]).drift(), 0.2));
    }
}
