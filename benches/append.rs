//! Durable appends beside the raw floor of the same disk.
//!
//! `cargo bench --bench append`; `SEAWALL_BENCH_DIR` names a directory on the disk to measure. The
//! id of a bench is `BACKEND/size=BYTES/callers=N/in-flight=N`; words behind `--` pick some. Ratios
//! come from `seawall bench append`, which lets floor and engine take turns.

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawall_tools::bench::{Counters, Counting, Engine, Floor, Load, Shape, Turn, Until};
use seawall_wal::disk::{Choice, Disk, open_backend};

mod support;

use support::{Sum, introduce, quick, scratch};

/// Backends that are measured where the machine has them.
const BACKENDS: [Choice; 3] = [Choice::Uring, Choice::Direct, Choice::Portable];
/// Callers, and appends that each has in flight, at 4 KiB.
const DEPTHS: [(u32, u32); 6] = [(1, 1), (4, 1), (16, 1), (64, 1), (1, 32), (1, 256)];
/// Bytes of a record, and how each other size is run.
const SIZES: [usize; 4] = [512, 4096, 64 << 10, 1 << 20];
const DEPTHS_OF_OTHER_SIZES: [(u32, u32); 2] = [(1, 1), (1, 32)];

fn depths(size: usize) -> &'static [(u32, u32)] {
    match size {
        4096 => &DEPTHS,
        _ => &DEPTHS_OF_OTHER_SIZES,
    }
}

fn id(contender: &str, size: usize, callers: u32, in_flight: u32) -> BenchmarkId {
    let shape = format!("size={size}/callers={callers}/in-flight={in_flight}");
    BenchmarkId::new(contender, shape)
}

/// Raw durable writes, one for each record, as many in flight.
fn floor(criterion: &mut Criterion) {
    introduce("append");
    let dir = scratch();
    let mut group = criterion.benchmark_group("append");
    quick(&mut group);
    for size in SIZES {
        let floor = Floor::durable(dir.path(), size).expect("the bench directory takes files");
        group.throughput(Throughput::Bytes(size as u64));
        // A thread for each write in flight: as many as a machine takes.
        for (callers, in_flight) in depths(size).iter().filter(|depth| depth.1 <= 32) {
            let mut sum = Sum::default();
            let id = id("floor", size, *callers, *in_flight);
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| {
                    let turn = floor.turn(callers * in_flight, Until::Done(count));
                    sum.add(turn.expect("the disk writes"))
                });
            });
            sum.report(|_| String::new());
        }
    }
    group.finish();
}

/// A log whose segments rotate and recycle.
fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    quick(&mut group);
    for backend in BACKENDS {
        let Ok(disk) = open_backend(backend) else {
            println!("no {backend:?} on this machine");
            continue;
        };
        for size in SIZES {
            let counting = Counting::over(Arc::clone(&disk), true);
            let mut log: Option<(tempfile::TempDir, Engine)> = None;
            group.throughput(Throughput::Bytes(size as u64));
            for (callers, in_flight) in depths(size) {
                let load = Load {
                    in_flight: *in_flight,
                    ..Load::durable(*callers)
                };
                let (mut sum, mut before) = (Sum::default(), None);
                let id = id(disk.backend(), size, *callers, *in_flight);
                group.bench_function(id, |bencher| {
                    // Made by the first bench that was picked.
                    let (_, engine) = log.get_or_insert_with(|| warm_log(&counting, size));
                    before.get_or_insert_with(|| counting.counters());
                    bencher.iter_custom(|count| {
                        let turn = engine.turn(load, Until::Done(count));
                        sum.add(turn.expect("the log appends").0)
                    });
                });
                let written = before.map(|before| counting.counters().since(before));
                sum.report(|turn| cost(turn, written.unwrap_or_default(), size));
            }
        }
    }
    group.finish();
}

/// Syncs of a record, and bytes written for a byte of it.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn cost(turn: &Turn, written: Counters, record_bytes: usize) -> String {
    format!(
        ", {:.3} syncs a record, {:.3} bytes written per byte",
        written.syncs as f64 / turn.records(),
        written.bytes as f64 / (turn.records() * record_bytes as f64)
    )
}

fn warm_log(counting: &Arc<Counting>, record_bytes: usize) -> (tempfile::TempDir, Engine) {
    let dir = scratch();
    let disk: Arc<dyn Disk> = counting.clone();
    let shape = Shape {
        record_bytes,
        segment_bytes: 16 << 20,
        retained_bytes: Some(64 << 20),
    };
    let engine = Engine::create(&disk, &dir.path().join("log"), shape);
    let engine = engine.expect("an empty directory takes a log");
    engine.warm_up().expect("the log appends");
    (dir, engine)
}

criterion_group!(benches, floor, engine);
criterion_main!(benches);
