//! Fixtures: scratch directories, data from seeds, the built programs, and nodes that die on drop.

mod command;
mod data;
mod node;
pub(crate) mod pki;
mod programs;
pub(crate) mod proxy;

pub(crate) use command::{Ended, run, seawall, wal_dump};
pub(crate) use data::{Random, assert_same_file, scratch, write_file};
pub(crate) use node::{Node, free_port};
pub(crate) use programs::{nbdkit_plugin, program};

/// How many seeds a randomised test runs: few in the gate, many at night.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("SEAWALL_SEEDS").ok();
    let count = wanted.map_or(4, |text| text.parse().expect("SEAWALL_SEEDS is a number"));
    0..count
}
