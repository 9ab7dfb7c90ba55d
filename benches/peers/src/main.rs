//! Other logs under the same durability: every append returns only when its bytes are synced.
//!
//! `cargo run --release -p seawall-peers -- [SECONDS] [ROUNDS]`. Each round measures the raw floor,
//! Seawall and the peer one after the other; a ratio is the median over the rounds of the ratios
//! within each round. `SEAWALL_BENCH_DIR` names a directory on the disk to measure.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measurement reads clocks and the raw disk"
)]

use std::path::Path;
use std::time::Duration;

use okaywal::{Configuration, LogVoid, WriteAheadLog};

#[path = "../../support/mod.rs"]
mod support;

use support::{Engine, Floor, payload, run};

/// okaywal 0.3.1: its default, or segments as large as ours.
fn okaywal(dir: &Path, large_segments: bool) -> WriteAheadLog {
    let name = if large_segments {
        "okaywal-64m"
    } else {
        "okaywal-default"
    };
    let mut configuration = Configuration::default_for(dir.join(name));
    if large_segments {
        configuration = configuration
            .preallocate_bytes(u32::try_from(support::SEGMENT_BYTES).unwrap_or(u32::MAX))
            .checkpoint_after_bytes(support::SEGMENT_BYTES - (4 << 20))
            .buffer_bytes(64 << 10);
    }
    configuration
        .open(LogVoid)
        .expect("okaywal opens an empty directory")
}

fn okaywal_append(log: &WriteAheadLog, payload: &[u8]) {
    let mut entry = log.begin_entry().expect("okaywal begins an entry");
    entry.write_chunk(payload).expect("okaywal writes a chunk");
    entry.commit().expect("okaywal commits");
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn argument(position: usize, default: u64) -> u64 {
    let given = std::env::args().nth(position);
    given.map_or(default, |text| {
        text.parse().expect("SECONDS and ROUNDS are numbers")
    })
}

fn main() {
    let time = Duration::from_secs(argument(1, 5));
    let rounds = argument(2, 3).max(1);
    let dir = support::scratch();
    println!(
        "device {}, backend {}",
        support::device(dir.path()),
        Engine::backend()
    );
    let floor = Floor::open(dir.path());
    let engine = Engine::open(dir.path());
    let bytes = payload();
    let plain = okaywal(dir.path(), false);
    let large = okaywal(dir.path(), true);
    let rows: [(&str, &(dyn Fn(u64) + Sync)); 4] = [
        ("floor", &|number| floor.append(number)),
        ("seawall", &|number| engine.append(number)),
        ("okaywal 64 MiB", &|_| okaywal_append(&large, &bytes)),
        ("okaywal default", &|_| okaywal_append(&plain, &bytes)),
    ];
    for callers in [1, 16] {
        let mut rates = vec![Vec::new(); rows.len()];
        for round in 0..rounds {
            for ((name, append), rates) in rows.iter().zip(&mut rates) {
                let run = run(callers, |_, elapsed| elapsed >= time, append);
                rates.push(run.per_second());
                println!(
                    "callers={callers} round={round} {name:16} {:8.0}/s  p50 {:6} us  p99 {:6} us",
                    run.per_second(),
                    run.microseconds(500),
                    run.microseconds(990),
                );
            }
        }
        for (other, (name, _)) in rows.iter().enumerate().filter(|(row, _)| *row != 1) {
            let pairs = rates[1].iter().zip(&rates[other]);
            let ratio = median(pairs.map(|(ours, theirs)| ours / theirs).collect());
            println!("callers={callers} seawall / {name}: {ratio:.2}");
        }
    }
}
