//! Runs seeds, one after the other or side by side, and tells the story of every one that fails.
#![expect(
    clippy::disallowed_methods,
    reason = "how long it took is told to people, and runs side by side are worlds apart"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use seawall_sim::{Mix, Report, marks, run};

/// Runs a cluster in one process: every fault, a seed for each run.
#[derive(Debug, Parser)]
struct Args {
    /// First seed
    seed: u64,
    /// How many seeds, one after the other
    #[arg(default_value_t = 1)]
    count: u64,
    /// Runs side by side
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Ends with the first seed that fails
    #[arg(long)]
    first: bool,
    /// Nothing goes wrong
    #[arg(long)]
    quiet: bool,
    /// Runs each seed twice and compares the traces
    #[arg(long)]
    twice: bool,
    /// Tells the story of every run
    #[arg(long)]
    story: bool,
}

#[derive(Debug, Default)]
struct Sum {
    runs: u64,
    counts: [u64; 3],
    promotions: u64,
    seconds: u64,
    turns: u64,
    marks: BTreeMap<String, u64>,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        for (sum, count) in self.counts.iter_mut().zip(report.counts) {
            *sum += count;
        }
        self.promotions += report.promotions;
        self.seconds += report.seconds;
        self.turns += report.turns;
        for (mark, count) in &report.marks {
            *self.marks.entry(mark.clone()).or_default() += count;
        }
        if report.violation.is_some() {
            self.failed.push(report.seed);
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let next = AtomicU64::new(args.seed);
    let end = end_of(&args);
    let sum = Mutex::new(Sum::default());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    one(&args, seed, &next, &sum);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    println!(
        "{} runs, {} failed {:?}; {} writes acknowledged, {} committed, {} cells read; {} promotions; \
         {} s of the world, {} turns; {:.0} seeds/h",
        sum.runs,
        sum.failed.len(),
        sum.failed,
        sum.counts[0],
        sum.counts[1],
        sum.counts[2],
        sum.promotions,
        sum.seconds,
        sum.turns,
        sum.runs as f64 / hours
    );
    for (mark, count) in &sum.marks {
        println!("{count:>9} {mark}");
    }
    let never = marks::all().into_iter();
    let never: Vec<&str> = never
        .filter(|name| !sum.marks.contains_key(*name))
        .collect();
    println!("never met: {}", never.join(", "));
    match sum.failed.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn end_of(args: &Args) -> u64 {
    args.seed.saturating_add(args.count)
}

fn one(args: &Args, seed: u64, next: &AtomicU64, sum: &Mutex<Sum>) {
    let mix = match args.quiet {
        true => Mix::quiet(),
        false => Mix::swarm(seed),
    };
    let mut report = run(seed, &mix);
    if args.twice {
        let again = run(seed, &mix);
        if again.trace != report.trace {
            let text = format!(
                "another trace the second time: {} turns, {}",
                report.turns, again.turns
            );
            report.violation.get_or_insert(text);
        }
    }
    let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
    sum.add(&report);
    if args.first && report.violation.is_some() {
        next.store(end_of(args), Ordering::Relaxed);
    }
    if args.story || report.violation.is_some() {
        println!("{}{mix:?}", report.story());
    }
}
