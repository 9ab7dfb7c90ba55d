//! Durable 4 KiB appends by 1 and 16 callers, beside the raw floor of the same disk.
//!
//! `cargo bench --bench append`; `SEAWALL_BENCH_DIR` names a directory on the disk to measure.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a bench measures time and the raw disk"
)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

mod support;

use support::{Engine, Floor, Run, run};

fn report(name: &str, callers: usize, last: &Run) {
    println!(
        "{name}/callers={callers}: {:.0}/s, p50 {} us, p99 {} us, p99.9 {} us",
        last.per_second(),
        last.microseconds(500),
        last.microseconds(990),
        last.microseconds(999),
    );
}

fn append(criterion: &mut Criterion) {
    let dir = support::scratch();
    println!(
        "device {}, backend {}",
        support::device(dir.path()),
        Engine::backend()
    );
    let floor = Floor::open(dir.path());
    let engine = Engine::open(dir.path());
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    for callers in [1, 16] {
        let mut measure = |name: &str, work: &(dyn Fn(u64) + Sync)| {
            let mut last = None;
            let id = BenchmarkId::new(name, format!("callers={callers}"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| {
                    let run = run(callers, |number, _| number >= count, work);
                    let elapsed = run.elapsed;
                    last = Some(run);
                    elapsed
                });
            });
            if let Some(last) = &last {
                report(name, callers, last);
            }
        };
        measure("floor", &|number| floor.append(number));
        measure("seawall", &|number| engine.append(number));
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
