//! Tables for people, made of the rows and of nothing else.

use std::io::{self, Write};
use std::process::Command;

use crate::engines::{FLOOR_DSYNC, FLOOR_SEQUENTIAL, PEERS, SEAWALL, SEAWALL_IN_FLIGHT};
use crate::options::Options;
use crate::rounds::{Ratio, Shape};
use crate::row::{DeviceUse, Row};

/// Flushes per record, against those of the floor, below which a lone caller's acknowledgement
/// cannot have waited for the device.
const HONEST: f64 = 0.9;

/// Logs that never wait for the device, and so stand in no table of durable appends.
const LEFT_OUT: [(&str, &str); 5] = [
    (
        "commitlog 0.2.0",
        "flushes the log from user space only, msync for its index, no fsync of data",
    ),
    ("simple_wal 0.3.0", "its flush is one of user space"),
    (
        "mrecordlog 0.4.0",
        "its sync policy flushes the writer only; no fsync in the crate",
    ),
    (
        "sled 0.34.7",
        "on Linux its log is written with sync_file_range, which flushes no device cache",
    ),
    (
        "surrealkv Eventual, walrus-rust timed or NoFsync, fjall Buffer",
        "the same packages without a sync per record",
    ),
];

/// What a report starts with: machine, build, and what was asked for.
pub(crate) fn preamble(out: &mut dyn Write, options: &Options, device: &str) -> io::Result<()> {
    let profile = match cfg!(debug_assertions) {
        true => "debug: NOT TO BE QUOTED",
        false => "release",
    };
    let rustc = Command::new("rustc").arg("--version").output();
    let rustc = rustc.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    writeln!(out, "# Durable appends, acknowledged one by one\n")?;
    write!(out, "{device}")?;
    writeln!(out, "- build: {profile}, {}", rustc.unwrap_or_default())?;
    writeln!(
        out,
        "- run: {} rounds of {:.1} s after a warm-up of at most {:.1} s, {} peers a chunk",
        options.rounds,
        options.time.as_secs_f64(),
        options.warm_up.as_secs_f64(),
        options.chunk.min(options.engines.len()),
    )
}

/// One table: median of every column over the rounds, ratios paired.
pub(crate) fn print(out: &mut dyn Write, shape: Shape, rows: &[Row]) -> io::Result<()> {
    writeln!(
        out,
        "\n## {} threads, records of {} bytes\n\n\
         | engine | records/s (min to max) | MB/s | p50 us | p99 | p99.9 | max | flushes/record \
         | bytes/byte | CPU s/GB | to floor | Seawall to it |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|",
        shape.threads, shape.size
    )?;
    for engine in engines(rows) {
        writeln!(out, "{}", line(rows, engine))?;
    }
    writeln!(out)?;
    if let Some(drift) = drift(rows) {
        writeln!(out, "The floor drifted {drift} over the rounds.")?;
    }
    let sequential = Ratio::paired(rows, SEAWALL_IN_FLIGHT, FLOOR_SEQUENTIAL, megabytes);
    if let Some(ratio) = sequential {
        let text = range(Some(ratio));
        writeln!(out, "One caller, 256 in flight, to F-seq in bytes: {text}.")?;
    }
    for engine in engines(rows) {
        if acknowledges_early(rows, engine) {
            writeln!(
                out,
                "{engine} flushes the device less than once per record of a lone caller: NOT \
                 DURABLE, its row is not to be compared."
            )?;
        }
    }
    writeln!(out)?;
    for engine in engines(rows) {
        let row = rows.iter().find(|row| row.engine == engine);
        let what = row.map_or("", |row| row.configuration.as_str());
        writeln!(out, "- {engine}: {what}")?;
    }
    Ok(())
}

/// Every peer and configuration.
pub(crate) fn catalogue(out: &mut dyn Write) -> io::Result<()> {
    for peer in PEERS {
        let row = match peer.fair {
            true => "fair",
            false => "other",
        };
        let (name, package) = (peer.name, peer.package);
        writeln!(
            out,
            "{name:20} {row:6} {package} {} ({})",
            peer.version, peer.label
        )?;
    }
    left_out(out)
}

/// What is in no table, and why.
pub(crate) fn left_out(out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\nLeft out, for an append is not durable when it returns:\n"
    )?;
    for (what, why) in LEFT_OUT {
        writeln!(out, "- {what}: {why}")?;
    }
    Ok(())
}

/// Names in the order in which they first ran.
fn engines(rows: &[Row]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.engine.as_str()) {
            names.push(&row.engine);
        }
    }
    names
}

fn rate(row: &Row) -> f64 {
    row.records_per_second
}

fn megabytes(row: &Row) -> f64 {
    row.megabytes_per_second
}

/// Median and range of a column of one engine.
fn column(rows: &[Row], engine: &str, value: impl Fn(&Row) -> Option<f64>) -> Option<Ratio> {
    let own = rows.iter().filter(|row| row.engine == engine);
    Ratio::of(own.filter_map(value).collect())
}

fn line(rows: &[Row], engine: &str) -> String {
    let plain = |value: fn(&Row) -> f64| column(rows, engine, |row| Some(value(row)));
    let device =
        |value: fn(&DeviceUse) -> f64| column(rows, engine, |row| row.device.as_ref().map(value));
    let paired = |of, to| (!pipelined(engine)).then(|| Ratio::paired(rows, of, to, rate))?;
    let whole = |ratio: Option<Ratio>| digits(ratio, 0);
    let rates = plain(rate).map_or(String::new(), |r| {
        format!("{:.0} ({:.0} to {:.0})", r.median, r.min, r.max)
    });
    let cells = [
        engine.to_owned(),
        rates,
        digits(plain(megabytes), 1),
        whole(plain(|row| row.p50)),
        whole(plain(|row| row.p99)),
        whole(plain(|row| row.p999)),
        whole(plain(|row| row.max)),
        digits(device(|device| device.flushes_per_record), 3),
        digits(device(|device| device.bytes_per_byte), 2),
        digits(plain(|row| row.cpu_seconds_per_gigabyte), 2),
        range(paired(engine, FLOOR_DSYNC)),
        range(paired(SEAWALL, engine)),
    ];
    format!("| {} |", cells.join(" | "))
}

/// Rows of another shape than one append at a time and thread: they are compared with each other.
fn pipelined(engine: &str) -> bool {
    [SEAWALL_IN_FLIGHT, FLOOR_SEQUENTIAL].contains(&engine)
}

fn digits(ratio: Option<Ratio>, digits: usize) -> String {
    ratio.map_or("-".into(), |ratio| format!("{:.digits$}", ratio.median))
}

fn range(ratio: Option<Ratio>) -> String {
    ratio.map_or("-".into(), |ratio| {
        format!("{:.2} ({:.2} to {:.2})", ratio.median, ratio.min, ratio.max)
    })
}

/// How far apart the slowest and the fastest round of the floor are, against their median.
fn drift(rows: &[Row]) -> Option<String> {
    let floor = column(rows, FLOOR_DSYNC, |row| Some(rate(row)))?;
    let percent = (floor.max - floor.min) / floor.median * 100.0;
    Some(format!("{percent:.0} %"))
}

/// Whether a lone caller got its acknowledgement without a flush, where the floor's writes needed
/// one each. Of several callers nothing can be said: they share flushes.
fn acknowledges_early(rows: &[Row], engine: &str) -> bool {
    let flushes = |engine| {
        let own = |row: &Row| {
            let device = row.device.as_ref()?;
            (row.threads == 1).then_some(device.flushes_per_record)
        };
        column(rows, engine, own).map(|flushes| flushes.median)
    };
    match (flushes(FLOOR_DSYNC), flushes(engine)) {
        (Some(floor), Some(own)) => !pipelined(engine) && floor >= HONEST && own < HONEST * floor,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rounds::tests::row;

    fn flushing(engine: &str, threads: usize, flushes_per_record: f64) -> Row {
        Row {
            threads,
            device: Some(DeviceUse {
                flushes: 1,
                writes: 1,
                sectors: 8,
                flushes_per_record,
                bytes_per_byte: 1.0,
            }),
            ..row(engine, 0, 0, 100.0)
        }
    }

    #[test]
    fn a_lone_caller_without_flushes_is_called_not_durable() {
        let rows = [flushing(FLOOR_DSYNC, 1, 1.0), flushing("x", 1, 0.1)];
        assert!(acknowledges_early(&rows, "x"));
        assert!(!acknowledges_early(&rows, FLOOR_DSYNC));
        let mut out = Vec::new();
        let shape = Shape {
            threads: 1,
            size: 4096,
        };
        print(&mut out, shape, &rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("x flushes the device less"), "{text}");
    }

    #[test]
    fn group_commit_and_devices_that_need_no_flush_are_not_accused() {
        let group = [flushing(FLOOR_DSYNC, 16, 1.0), flushing("x", 16, 0.1)];
        assert!(!acknowledges_early(&group, "x"));
        let no_cache = [flushing(FLOOR_DSYNC, 1, 0.0), flushing("x", 1, 0.0)];
        assert!(!acknowledges_early(&no_cache, "x"));
    }

    #[test]
    fn a_line_has_as_many_cells_as_the_head() {
        let rows = [row(FLOOR_DSYNC, 0, 0, 100.0), row(SEAWALL, 0, 0, 90.0)];
        let line = line(&rows, SEAWALL);
        assert_eq!(line.matches('|').count(), 13);
        assert!(line.contains("0.90 (0.90 to 0.90)"), "{line}");
    }

    #[test]
    fn drift_is_the_range_of_the_floor() {
        let rates = [90.0, 100.0, 120.0];
        let rows: Vec<_> = (0..)
            .zip(rates)
            .map(|(n, r)| row(FLOOR_DSYNC, n, 0, r))
            .collect();
        assert_eq!(drift(&rows).unwrap(), "30 %");
    }
}
