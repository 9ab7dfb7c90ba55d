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

/// Says that this machine cannot run a test: past the capture of output, and into the file that the
/// gate counts.
#[cfg(target_os = "linux")]
pub(crate) fn not_run_here(what: &str) {
    use std::io::Write as _;
    let mut stderr = std::io::stderr();
    writeln!(stderr, "NOT RUN HERE: {what}").unwrap();
    if let Some(path) = std::env::var_os("SEAWALL_NOT_RUN") {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(path);
        writeln!(file.unwrap(), "{what}").unwrap();
    }
}
