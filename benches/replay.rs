//! Reading a log: a scan of all of it, the seek of one record, a range mapped and read.
//!
//! `cargo bench --bench replay`; `SEAWALL_BENCH_DIR` names a directory on the disk to measure, and
//! `SEAWALL_BENCH_LARGE` the megabytes of the large log (1024). Everything lies in the page cache:
//! this measures the engine and not the disk, see `seawall bench read` and `replay` for that.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawall_tools::bench::{Engine, Load, Shape, Stored, Turn, Until, turn};
use seawall_wal::disk::Choice;
use seawall_wal::{LogMode, Lsn, LsnRange};

mod support;

use support::{Sum, introduce, quick, scratch};

const MIB: u64 = 1 << 20;
/// Payload of the small log: four segments.
const SMALL_BYTES: u64 = 64 * MIB;

fn large_bytes() -> u64 {
    let megabytes = std::env::var("SEAWALL_BENCH_LARGE").ok();
    let megabytes = megabytes.map(|text| text.parse::<u64>().expect("a number of megabytes"));
    megabytes.unwrap_or(1024) * MIB
}

/// A log of so much payload, all of it in the page cache, and the directory that holds it.
fn stored(bytes: u64, record_bytes: usize) -> (tempfile::TempDir, Stored) {
    let dir = scratch();
    let shape = Shape {
        record_bytes,
        segment_bytes: 16 * MIB,
        retained_bytes: None,
    };
    let stored = Stored::build(dir.path(), Choice::Auto, shape, bytes, Load::FILL);
    let stored = stored.expect("an empty directory takes a log");
    let floor = stored.floor().expect("the log has bytes");
    floor.warm().expect("the disk reads");
    (dir, stored)
}

fn open(stored: &Stored, maps: bool) -> Engine {
    let opened = stored.open(maps, LogMode::ReadOnly);
    opened.expect("a log that was just written opens").1
}

/// All of a log, each record verified, beside a read and a CRC-32 of the same bytes.
fn scan(criterion: &mut Criterion) {
    introduce("replay");
    let mut group = criterion.benchmark_group("scan");
    quick(&mut group);
    for size in [512, 4096, 64 << 10] {
        let (_dir, stored) = stored(SMALL_BYTES, size);
        let floor = stored.floor().expect("the log has bytes");
        group.throughput(Throughput::Bytes(floor.bytes()));
        let shape = format!("size={size}");
        group.bench_function(BenchmarkId::new("floor", &shape), |bencher| {
            bencher.iter_custom(|count| {
                let turn = floor.scan(1, Until::Done(count));
                turn.expect("the disk reads").elapsed()
            });
        });
        for (name, maps) in [("map", true), ("pread", false)] {
            let engine = open(&stored, maps);
            group.bench_function(BenchmarkId::new(name, &shape), |bencher| {
                bencher.iter(|| engine.replay(engine.retained()).expect("the log is whole"));
            });
        }
    }
    group.finish();
}

/// Numbers that no cache foresees, below `bound`.
fn scatter(bound: u64) -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    }
}

/// Operations on `records` records each, at random places of a log.
fn at_random(engine: &Engine, records: u64, count: u64) -> Turn {
    let retained = engine.retained();
    let bound = retained.len() - records + 1;
    let done = turn(1, 1, Until::Done(count), |_| {
        let mut next = scatter(bound);
        move || {
            let after = Lsn::new(retained.after.get() + next());
            match records {
                1 => drop(engine.log().read_record(after.next())?),
                _ => drop(engine.replay(LsnRange::new(after, Lsn::new(after.get() + records)))?),
            }
            Ok(())
        }
    });
    done.expect("the log is whole")
}

fn bench_at_random(
    group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>,
    id: BenchmarkId,
    engine: &Engine,
    records: u64,
) {
    let mut sum = Sum::default();
    group.bench_function(id, |bencher| {
        bencher.iter_custom(|count| -> Duration { sum.add(at_random(engine, records, count)) });
    });
    sum.report(|_| String::new());
}

/// One record by its LSN: it should cost the same in a small log and in a large one.
fn seek(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seek");
    quick(&mut group);
    group.throughput(Throughput::Elements(1));
    for bytes in [SMALL_BYTES, large_bytes()] {
        let (_dir, stored) = stored(bytes, 4096);
        for (name, maps) in [("map", true), ("pread", false)] {
            let id = BenchmarkId::new(name, format!("log={}MiB", bytes / MIB));
            bench_at_random(&mut group, id, &open(&stored, maps), 1);
        }
    }
    group.finish();
}

/// A range of records, from a map and by positional reads.
fn range(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("range");
    quick(&mut group);
    let (_dir, stored) = stored(SMALL_BYTES, 4096);
    for records in [16, 256, 4096] {
        group.throughput(Throughput::Bytes(records * 4096));
        for (name, maps) in [("map", true), ("pread", false)] {
            let id = BenchmarkId::new(name, format!("records={records}"));
            bench_at_random(&mut group, id, &open(&stored, maps), records);
        }
    }
    group.finish();
}

criterion_group!(benches, scan, seek, range);
criterion_main!(benches);
