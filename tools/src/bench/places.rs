//! Where the requests to a volume go, in an order that no disk foresees.

use std::ops::Range;

use crate::error::Error;

/// Rounds of the network behind [`Shuffled`]; four suffice for numbers that look unordered.
const ROUNDS: u64 = 4;

/// The numbers below a bound, each once, shuffled.
#[derive(Clone, Copy, Debug)]
pub struct Shuffled {
    bound: u64,
    half_bits: u32,
    key: u64,
}

impl Shuffled {
    /// The numbers below `bound`, which is not 0; another key is another order.
    #[must_use]
    pub fn below(bound: u64, key: u64) -> Shuffled {
        let bits = u64::BITS - (bound - 1).leading_zeros();
        Shuffled {
            bound,
            half_bits: bits.div_ceil(2).max(1),
            key,
        }
    }

    /// The number at `index`; behind the last one it begins anew.
    #[must_use]
    pub fn at(&self, index: u64) -> u64 {
        // The network permutes a power of four; what it puts above the bound goes through again,
        // and comes back below the bound because it began there.
        let mut number = self.permuted(index % self.bound);
        while number >= self.bound {
            number = self.permuted(number);
        }
        number
    }

    fn permuted(&self, number: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (number >> self.half_bits, number & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mixed(right, self.key ^ round) & mask));
        }
        left << self.half_bits | right
    }
}

fn mixed(number: u64, key: u64) -> u64 {
    let product = (number ^ key.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let product = (product ^ (product >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    product ^ (product >> 32)
}

/// Places of one size, evenly spread over a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// How many.
    pub count: u64,
    /// Bytes of one.
    pub bytes: usize,
    /// Byte offset of the first.
    start: u64,
    /// Bytes from the beginning of one to the beginning of the next.
    distance: u64,
}

impl Places {
    /// Places of `bytes` that come to `working_set` together, over `volume_bytes`.
    ///
    /// # Errors
    /// [`Error::Usage`] when none fits, or more than fit.
    pub fn over(volume_bytes: u64, working_set: u64, bytes: usize) -> Result<Places, Error> {
        let each = bytes as u64;
        let count = working_set / each;
        if count == 0 || count * each > volume_bytes {
            return Err(Error::Usage(format!(
                "{working_set} bytes of requests do not fit a volume of {volume_bytes}; name from \
                 {bytes} to {volume_bytes} bytes"
            )));
        }
        Ok(Places {
            count,
            bytes,
            start: 0,
            distance: volume_bytes / count / each * each,
        })
    }

    /// Byte offset of one, counted from 0.
    #[must_use]
    pub fn offset(&self, number: u64) -> u64 {
        self.start + number * self.distance
    }

    /// Some of them.
    #[must_use]
    pub fn part(&self, numbers: Range<u64>) -> Places {
        Places {
            count: numbers.end - numbers.start,
            start: self.offset(numbers.start),
            ..*self
        }
    }

    /// Whether the next one begins where one ends.
    #[must_use]
    pub fn is_dense(&self) -> bool {
        self.distance == self.bytes as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_below_the_bound_comes_once_and_not_in_order() {
        for bound in [1, 2, 3, 4, 5, 100, 1000, 4096, 5000] {
            let shuffled = Shuffled::below(bound, 7);
            let mut numbers: Vec<u64> = (0..bound).map(|index| shuffled.at(index)).collect();
            assert_eq!(shuffled.at(bound), numbers[0]);
            let rising = numbers.windows(2).filter(|two| two[1] == two[0] + 1);
            assert!(
                rising.count() as u64 <= bound / 20 + 2,
                "{bound} is in order"
            );
            numbers.sort_unstable();
            assert_eq!(numbers, (0..bound).collect::<Vec<u64>>());
        }
    }

    #[test]
    fn another_key_is_another_order() {
        let (one, other) = (Shuffled::below(1000, 1), Shuffled::below(1000, 2));
        let same = (0..1000).filter(|index| one.at(*index) == other.at(*index));
        assert!(same.count() < 50);
    }

    #[test]
    fn places_are_spread_over_the_whole_volume_and_do_not_overlap() {
        for (volume, working_set, count, distance) in [
            (1 << 20, 1 << 20, 256, 4096),
            (1 << 20, 1 << 18, 64, 16384),
            (1 << 40, 1 << 20, 256, 1 << 32),
            (10 << 12, 3 << 12, 3, 3 << 12),
        ] {
            let places = Places::over(volume, working_set, 4096).unwrap();
            assert_eq!((places.count, places.offset(1)), (count, distance));
            assert!(places.offset(count - 1) + 4096 <= volume);
            assert_eq!(places.is_dense(), distance == 4096);
            let part = places.part(2..count);
            assert_eq!((part.count, part.offset(0)), (count - 2, 2 * distance));
            assert_eq!(part.offset(part.count - 1), places.offset(count - 1));
        }
        for working_set in [0, 4095, (1 << 20) + 4096] {
            let refused = Places::over(1 << 20, working_set, 4096);
            assert!(matches!(refused, Err(Error::Usage(_))), "{working_set}");
        }
    }
}
