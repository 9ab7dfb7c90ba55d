//! A volume: durable writes, checked reads from image and log, captures, opens.
//!
//! `cargo bench --bench volume`; `SEAWALL_BENCH_DIR` names a directory on the disk to measure.
//! Ratios come from `seawall bench write`, `image-read`, `checkpoint` and `open`, which let floor
//! and engine take turns; this shows how one change moved one figure.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use seawall_snapshot::{Access, Durability};
use seawall_tools::bench::{Order, Places, Shuffled, Sizes, Subject, Turn, Until, turn};
use seawall_wal::disk::{Choice, Disk, open_backend};
use tempfile::TempDir;

mod support;

use support::{Sum, introduce, quick, scratch};

const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;
/// Bytes of the volume, of which an eighth is newer in the log where something is read from it.
const VOLUME_BYTES: u64 = 256 * MIB;
const NEWER_BYTES: u64 = VOLUME_BYTES / 8;

/// An empty volume; `log_bytes` is the watermark of its background, 0 for none.
fn volume(volume_bytes: u64, log_bytes: u64) -> (TempDir, Arc<dyn Disk>, Sizes, Subject) {
    let dir = scratch();
    let disk = open_backend(Choice::Auto).expect("every machine has a backend");
    let sizes = Sizes {
        volume_bytes,
        segment_bytes: 16 * MIB,
        log_bytes: Some(log_bytes),
    };
    let subject = Subject::create(&disk, &dir.path().join("volume"), sizes);
    (
        dir,
        disk,
        sizes,
        subject.expect("an empty directory takes a volume"),
    )
}

fn places(volume_bytes: u64, bytes: u64) -> Places {
    Places::over(volume_bytes, bytes, BLOCK).expect("they fit")
}

/// Durable writes at random places while the background captures.
fn write(criterion: &mut Criterion) {
    introduce("volume");
    let mut group = criterion.benchmark_group("write");
    quick(&mut group);
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for working_set in [8 * MIB, VOLUME_BYTES] {
        let (_dir, _disk, _sizes, subject) = volume(VOLUME_BYTES, 64 * MIB);
        let places = places(VOLUME_BYTES, working_set);
        subject.fill(&places).expect("the volume writes");
        subject.warm_up(&places).expect("the volume writes");
        for callers in [1, 16] {
            let mut sum = Sum::default();
            let shape = format!("working-set={}MiB/callers={callers}", working_set / MIB);
            group.bench_function(BenchmarkId::new("durable", shape), |bencher| {
                bencher.iter_custom(|count| {
                    let (until, order) = (Until::Done(count), Order::Random);
                    let durable = Durability::Durable;
                    let turn = subject.writes(callers, until, &places, order, durable);
                    sum.add(turn.expect("the volume writes"))
                });
            });
            sum.report(|_| String::new());
        }
    }
    group.finish();
}

/// Checked reads of blocks whose newest version lies in the image, or in the log.
fn read(criterion: &mut Criterion) {
    let (_dir, _disk, _sizes, subject) = volume(VOLUME_BYTES, 0);
    let all = places(VOLUME_BYTES, VOLUME_BYTES);
    subject.fill(&all).expect("the volume writes");
    let older = all.count - NEWER_BYTES / BLOCK as u64;
    let (image, log) = (all.part(0..older), all.part(older..all.count));
    rewrite(&subject, &log);
    let mut group = criterion.benchmark_group("read");
    quick(&mut group);
    group.throughput(Throughput::Bytes(BLOCK as u64));
    for (source, places) in [("image", image), ("log", log)] {
        for callers in [1, 16] {
            let mut sum = Sum::default();
            let id = BenchmarkId::new(source, format!("callers={callers}"));
            group.bench_function(id, |bencher| {
                bencher.iter_custom(|count| sum.add(reads(&subject, &places, callers, count)));
            });
            sum.report(|_| String::new());
        }
    }
    group.finish();
}

/// Writes every place once into the log.
fn rewrite(subject: &Subject, places: &Places) {
    let done = AtomicU64::new(0);
    let (until, once) = (Until::Done(places.count), Order::Once(&done));
    let written = subject.writes(16, until, places, once, Durability::Volatile);
    written.expect("the volume writes");
    subject.volume().flush().expect("the volume syncs");
}

fn reads(subject: &Subject, places: &Places, callers: u32, count: u64) -> Turn {
    let done = turn(callers, 1, Until::Done(count), |index| {
        let shuffled = Shuffled::below(places.count, index as u64);
        let (mut next, mut bytes) = (0, vec![0; BLOCK]);
        move || {
            let offset = places.offset(shuffled.at(next));
            next += 1;
            Ok(subject.volume().read(offset, &mut bytes)?)
        }
    });
    done.expect("the volume is whole")
}

/// Captures of a log that touches each of its blocks once.
fn checkpoint(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("checkpoint");
    quick(&mut group);
    let (_dir, _disk, _sizes, subject) = volume(VOLUME_BYTES, 0);
    let all = places(VOLUME_BYTES, VOLUME_BYTES);
    subject.fill(&all).expect("the volume writes");
    let run = all.part(0..NEWER_BYTES / BLOCK as u64);
    let random = places(VOLUME_BYTES, NEWER_BYTES);
    group.throughput(Throughput::Bytes(NEWER_BYTES));
    for (name, places) in [("spread", random), ("run", run)] {
        let id = BenchmarkId::new(name, format!("touched={}MiB", NEWER_BYTES / MIB));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| capture(&subject, &places)).sum());
        });
    }
    group.finish();
}

fn capture(subject: &Subject, places: &Places) -> Duration {
    rewrite(subject, places);
    let captured = turn(1, 1, Until::Done(1), |_| {
        || Ok(subject.volume().checkpoint(None).map(drop)?)
    });
    let elapsed = captured.expect("the volume captures").elapsed();
    subject.drain().expect("the volume reclaims");
    elapsed
}

/// Opens with everything in the page cache: this measures the engine and not the disk.
fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    quick(&mut group);
    for volume_bytes in [1024 * MIB, MIB * MIB] {
        let (dir, disk, sizes, subject) = volume(volume_bytes, 0);
        rewrite(&subject, &places(volume_bytes, NEWER_BYTES));
        drop(subject);
        let dir = dir.path().join("volume");
        let id = BenchmarkId::new("after-crash", format!("volume={}MiB", volume_bytes / MIB));
        group.bench_function(id, |bencher| {
            bencher.iter(|| Subject::open(&disk, &dir, sizes, Access::Maintain).expect("it opens"));
        });
    }
    group.finish();
}

criterion_group!(benches, write, read, checkpoint, open);
criterion_main!(benches);
