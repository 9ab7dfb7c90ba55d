//! What every bench needs beside `seawall_tools::bench`: short groups, and figures that criterion
//! does not print.

use std::path::PathBuf;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, SamplingMode};
use seawall_tools::bench::{Turn, device::Device};
use tempfile::TempDir;

/// Keeps a bench near one second: there are many, and a disk needs no more to show what it does.
/// `--measurement-time` and `--sample-size` ask for more.
pub(crate) fn quick(group: &mut BenchmarkGroup<'_, WallTime>) {
    group
        .sample_size(10)
        .sampling_mode(SamplingMode::Flat)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
}

/// A directory on the disk to measure: below `SEAWALL_BENCH_DIR`, or the temporary directory.
pub(crate) fn scratch() -> TempDir {
    let parent = std::env::var_os("SEAWALL_BENCH_DIR").map(PathBuf::from);
    seawall_tools::bench::scratch(parent.as_deref()).expect("the bench directory takes files")
}

/// Says what the figures belong to.
pub(crate) fn introduce(bench: &str) {
    let device = Device::below(scratch().path());
    let cache = device.write_cache().unwrap_or_else(|| "unknown".into());
    println!("{bench} on {}, write cache: {cache}", device.name);
}

/// The turns of one bench, its warm-up included.
#[derive(Default)]
pub(crate) struct Sum {
    turns: Vec<Turn>,
}

impl Sum {
    /// Adds a turn and gives its time, as criterion wants it.
    pub(crate) fn add(&mut self, turn: Turn) -> Duration {
        let elapsed = turn.elapsed();
        self.turns.push(turn);
        elapsed
    }

    /// Prints rate and latencies, and what else there is to say of all turns; nothing when the
    /// bench was not picked.
    pub(crate) fn report(&self, more: impl FnOnce(&Turn) -> String) {
        if self.turns.is_empty() {
            return;
        }
        let all = Turn::all(&self.turns);
        println!(
            "    {:.0}/s, p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us{}",
            all.per_second(),
            all.microseconds(500),
            all.microseconds(990),
            all.microseconds(999),
            more(&all),
        );
    }
}
