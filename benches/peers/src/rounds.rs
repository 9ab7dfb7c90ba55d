//! The driver: every measurement is a process of its own, and what is compared lies side by side.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::device::Device;
use crate::engines::{
    FLOOR_DSYNC, FLOOR_GROUP, FLOOR_OVER, FLOOR_SEQUENTIAL, Peer, SEAWALL, SEAWALL_IN_FLIGHT,
};
use crate::options::Options;
use crate::row::Row;
use crate::table;

/// Measures floor, Seawall and peers in turn, round after round, and prints a table for every
/// record size and number of threads.
///
/// # Errors
/// A directory or a JSON file that takes no bytes; floor or Seawall that fail.
pub(crate) fn run(options: &Options) -> io::Result<()> {
    std::fs::create_dir_all(&options.dir)?;
    let mut json = match &options.json {
        Some(path) => Some(File::create(path)?),
        None => None,
    };
    let mut out = io::stdout();
    let device = Device::below(&options.dir)?;
    table::preamble(&mut out, options, &device.describe(&options.dir))?;
    for &size in &options.sizes {
        for &threads in &options.threads {
            let shape = Shape { threads, size };
            let rows = shape.measure(options, &mut |row| match &mut json {
                Some(file) => writeln!(file, "{}", serde_json::to_string(row)?),
                None => Ok(()),
            })?;
            table::print(&mut out, shape, &rows)?;
        }
    }
    table::left_out(&mut out)
}

/// What all rows of one table have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) threads: usize,
    pub(crate) size: usize,
}

impl Shape {
    fn measure(
        self,
        options: &Options,
        keep: &mut dyn FnMut(&Row) -> io::Result<()>,
    ) -> io::Result<Vec<Row>> {
        let mut rows = Vec::new();
        let mut failed: Vec<&str> = Vec::new();
        for round in 0..options.rounds {
            let peers = turned(&options.engines, round);
            for (chunk, peers) in peers.chunks(options.chunk.max(1)).enumerate() {
                let names = peers.iter().map(|peer| peer.name);
                for name in self.own(chunk).into_iter().chain(names) {
                    if failed.contains(&name) {
                        continue;
                    }
                    match self.one(options, name) {
                        Ok(row) => {
                            let row = Row {
                                round,
                                chunk,
                                ..row
                            };
                            keep(&row)?;
                            rows.push(row);
                        }
                        Err(error) if self.own(chunk).contains(&name) => return Err(error),
                        Err(error) => {
                            eprintln!("seawall-peers: {name} is left out: {error}");
                            failed.push(name);
                        }
                    }
                }
            }
        }
        Ok(rows)
    }

    /// What stands before the peers of a chunk. Rows that no peer is compared with stand before
    /// the first chunk only.
    fn own(self, chunk: usize) -> Vec<&'static str> {
        match (self.threads, chunk) {
            (1, 0) => vec![
                FLOOR_OVER,
                FLOOR_SEQUENTIAL,
                SEAWALL_IN_FLIGHT,
                FLOOR_DSYNC,
                SEAWALL,
            ],
            (_, 0) => vec![FLOOR_GROUP, FLOOR_DSYNC, SEAWALL],
            _ => vec![FLOOR_DSYNC, SEAWALL],
        }
    }

    /// One measurement in a process of its own.
    fn one(self, options: &Options, engine: &str) -> io::Result<Row> {
        // Removed with whatever a child that died left behind.
        let scratch = TempDir::with_prefix_in("seawall-peers-run-", &options.dir)?;
        eprint!("{engine} x {} of {} B: ", self.threads, self.size);
        let output = Command::new(std::env::current_exe()?)
            .args(["one", "--engine", engine])
            .args(["--threads", &self.threads.to_string()])
            .args(["--size", &self.size.to_string()])
            .args(["--seconds", &options.time.as_secs_f64().to_string()])
            .args(["--warm-up", &options.warm_up.as_secs_f64().to_string()])
            .args(["--max-gib", &(options.bytes_max >> 30).to_string()])
            .args(["--backend", &options.backend])
            .args([Path::new("--dir"), scratch.path()])
            .env(crate::engines::QUIET, "1")
            .stderr(Stdio::inherit())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().last().unwrap_or_default();
        if !output.status.success() {
            return Err(io::Error::other(format!("{engine}: {}", output.status)));
        }
        let row: Row = serde_json::from_str(line)?;
        eprintln!("{:.0}/s", row.records_per_second);
        Ok(row)
    }
}

/// Every round starts with another peer, so that none always follows the same neighbour.
fn turned(peers: &[&'static Peer], round: usize) -> Vec<&'static Peer> {
    let mut peers = peers.to_vec();
    let by = round % peers.len().max(1);
    peers.rotate_left(by);
    peers
}

/// A ratio over the rounds: the median of the ratios of rows that stand side by side.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Ratio {
    /// `None` when the two never stand side by side.
    pub(crate) fn paired(
        rows: &[Row],
        of: &str,
        to: &str,
        value: impl Fn(&Row) -> f64,
    ) -> Option<Ratio> {
        let side_by_side = |row: &Row| {
            let mut others = rows.iter().filter(|other| other.engine == to);
            let other = others.find(|o| (o.round, o.chunk) == (row.round, row.chunk))?;
            Some(value(row) / value(other))
        };
        let of_rows = rows.iter().filter(|row| row.engine == of);
        Ratio::of(of_rows.filter_map(side_by_side).collect())
    }

    /// Median and range; `None` of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Ratio> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            0 => (values[middle - 1] + values[middle]) / 2.0,
            _ => values[middle],
        };
        Some(Ratio { median, min, max })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn row(engine: &str, round: usize, chunk: usize, rate: f64) -> Row {
        Row {
            engine: engine.into(),
            configuration: String::new(),
            threads: 1,
            size: 4096,
            seconds: 1.0,
            records: 1,
            records_per_second: rate,
            megabytes_per_second: rate,
            p50: 0.0,
            p99: 0.0,
            p999: 0.0,
            max: 0.0,
            cpu_seconds_per_gigabyte: 0.0,
            device: None,
            warm_up_bytes: 0,
            round,
            chunk,
        }
    }

    #[test]
    fn a_ratio_is_the_median_of_ratios_and_not_the_ratio_of_medians() {
        let rates = [(10.0, 1.0), (20.0, 10.0), (30.0, 100.0)];
        let mut rows = Vec::new();
        for (round, (ours, theirs)) in rates.into_iter().enumerate() {
            rows.push(row("ours", round, 0, ours));
            rows.push(row("theirs", round, 0, theirs));
        }
        let ratio = Ratio::paired(&rows, "ours", "theirs", |row| row.records_per_second);
        let expected = Ratio {
            median: 2.0,
            min: 0.3,
            max: 10.0,
        };
        assert_eq!(ratio, Some(expected));
    }

    #[test]
    fn rows_of_different_chunks_are_not_compared() {
        let rows = [row("ours", 0, 0, 10.0), row("theirs", 0, 1, 1.0)];
        let rate = |row: &Row| row.records_per_second;
        assert_eq!(Ratio::paired(&rows, "ours", "theirs", rate), None);
    }

    #[test]
    fn an_even_number_of_rounds_has_the_mean_of_the_middle_ones() {
        let ratio = Ratio::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!((ratio.median, ratio.min, ratio.max), (2.5, 1.0, 4.0));
    }

    #[test]
    fn every_round_starts_with_another_peer() {
        let peers: Vec<_> = crate::engines::fair().collect();
        let first = |round| turned(&peers, round)[0].name;
        assert_eq!(first(0), peers[0].name);
        assert_eq!(first(1), peers[1].name);
        assert_eq!(first(peers.len()), peers[0].name);
    }
}
