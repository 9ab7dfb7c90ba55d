//! Time as the engine sees it: given from outside, never read inside.

use std::fmt;

/// Source of time. The system clock lives at the edge; simulators drive their own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Nanoseconds since the Unix epoch, for timestamps that people read.
    fn unix_ns(&self) -> u64;
    /// Nanoseconds on a clock that never runs backwards, for ages and budgets.
    fn monotonic_ns(&self) -> u64;
}
