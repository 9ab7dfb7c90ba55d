//! Positions of records and the numbers that fence them.
//!
//! A position is the last LSN included; ranges are open on the left. None of these is a byte
//! position: that is an offset.

use std::fmt;

/// Number of a record. LSNs are dense from 1; [`Lsn::ZERO`] means "before LSN 1" and nothing else
/// (D19).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(u64);

impl Lsn {
    /// The position before LSN 1.
    pub const ZERO: Lsn = Lsn(0);

    /// A position by number; 0 is [`Lsn::ZERO`].
    #[must_use]
    pub const fn new(number: u64) -> Lsn {
        Lsn(number)
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The LSN after this position.
    ///
    /// # Panics
    /// At `u64::MAX`, which no log reaches.
    #[must_use]
    pub const fn next(self) -> Lsn {
        assert!(self.0 < u64::MAX, "LSN space is exhausted");
        Lsn(self.0 + 1)
    }

    /// The position before this LSN; [`Lsn::ZERO`] stays what it is.
    #[must_use]
    pub const fn before(self) -> Lsn {
        Lsn(self.0.saturating_sub(1))
    }

    /// The position `count` records further, or `None` past the end of the number space.
    #[must_use]
    pub fn checked_add(self, count: u64) -> Option<Lsn> {
        self.0.checked_add(count).map(Lsn)
    }

    /// Whether this is the position before LSN 1.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The records `(after, through]`: `after` is what the reader already has, `through` is included.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LsnRange {
    /// Exclusive lower bound: the last LSN the reader already has.
    pub after: Lsn,
    /// Inclusive upper bound.
    pub through: Lsn,
}

impl LsnRange {
    /// The range `(after, through]`.
    #[must_use]
    pub const fn new(after: Lsn, through: Lsn) -> LsnRange {
        LsnRange { after, through }
    }

    /// Number of LSNs in the range; 0 when `through <= after`.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.through.0.saturating_sub(self.after.0)
    }

    /// Whether the range holds no LSN.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether `lsn` lies in `(after, through]`.
    #[must_use]
    pub fn contains(self, lsn: Lsn) -> bool {
        self.after < lsn && lsn <= self.through
    }

    /// Every LSN of the range in order.
    pub fn iter(self) -> impl Iterator<Item = Lsn> {
        (self.after.0..self.through.0.max(self.after.0)).map(|n| Lsn(n + 1))
    }
}

impl fmt::Display for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}]", self.after, self.through)
    }
}

impl fmt::Debug for LsnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Fencing number of primaryship. Only grows, and is durable before it is used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(u64);

/// Number of a writable open of a primary within a volume (D2), durable before its first append.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Incarnation(u64);

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// By number.
            #[must_use]
            pub const fn new(number: u64) -> $name {
                $name(number)
            }

            /// The number.
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The number after this one.
            ///
            /// # Panics
            /// At `u64::MAX`.
            #[must_use]
            pub const fn next(self) -> $name {
                assert!(self.0 < u64::MAX, "counter space is exhausted");
                $name(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

counter!(Epoch);
counter!(Incarnation);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_open_on_the_left() {
        let range = LsnRange::new(Lsn::new(5), Lsn::new(8));
        assert_eq!(range.len(), 3);
        assert_eq!(range.iter().map(Lsn::get).collect::<Vec<_>>(), [6, 7, 8]);
        assert!(!range.contains(Lsn::new(5)));
        assert!(range.contains(Lsn::new(8)));
    }

    #[test]
    fn a_reversed_range_is_empty() {
        let range = LsnRange::new(Lsn::new(60), Lsn::new(40));
        assert!(range.is_empty());
        assert_eq!(range.iter().count(), 0);
    }
}
