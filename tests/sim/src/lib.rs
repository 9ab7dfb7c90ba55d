//! A cluster in one process: the real code of log, volume and recovery for one primary and several
//! replicas, over simulated disks, a simulated network and a simulated clock, from one seed.
//!
//! ```
//! let report = seawall_sim::run(7, &seawall_sim::Mix::quiet());
//! assert_eq!(report.violation, None, "{}", report.story());
//! ```
//!
//! A run has two phases. In the first everything may happen that the [`Mix`] allows; every read and
//! every acknowledgement is held against the [`history`]. In the second all is healed, and the
//! cluster must become whole within a bounded time, with nothing left over. A run repeats bit for
//! bit: equal seeds have equal traces.

pub mod clients;
pub mod cluster;
pub mod disk;
pub mod history;
pub mod marks;
mod mix;
pub mod operator;
mod story;
pub mod trouble;

pub use mix::Mix;
pub use story::{Report, run, scene};
