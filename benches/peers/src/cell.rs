//! One engine, one number of threads, one size: open, settle, warm up, measure.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use crate::device::{Counters, Device, settle};
use crate::engines::{self, Engine, RETAINED_BYTES, SEGMENT_BYTES, Setup};
use crate::load::{self, Load, Until};
use crate::options::{Options, invalid};
use crate::row::{DeviceUse, Row};

/// A warm-up goes through what is retained and four segments more, so that segments rotate and the
/// first ones are given up before the clock starts.
const WARM_UP_BYTES: u64 = RETAINED_BYTES + 4 * SEGMENT_BYTES;
/// A warm-up has at least so many threads: it is not measured, and one thread would take long.
const WARM_UP_THREADS: usize = 64;
/// A floor has nothing to reach: it goes round in a file that is prepared.
const WARM_UP_FLOOR: Duration = Duration::from_millis(200);

/// Processor time of this process so far.
fn cpu() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = Duration::from_secs(now.tv_sec.unsigned_abs());
    seconds + Duration::from_nanos(now.tv_nsec.unsigned_abs())
}

/// Whether any thread panicked: an engine whose background work died may still append.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Measures what `--engine`, `--threads` and `--size` name.
///
/// # Errors
/// An engine that is not known, does not open, fails, or panics in a thread of its own.
pub(crate) fn measure(options: &Options) -> io::Result<Row> {
    let (Some(&threads), Some(&size)) = (options.threads.first(), options.sizes.first()) else {
        return Err(invalid("one wants a number of threads and a size".into()));
    };
    if size < 8 {
        return Err(invalid("a record has at least 8 bytes".into()));
    }
    watch_panics();
    std::fs::create_dir_all(&options.dir)?;
    let parent = options.dir.canonicalize()?;
    let scratch = TempDir::with_prefix_in("seawall-peers-", parent)?;
    let setup = Setup {
        dir: scratch.path().to_owned(),
        lanes: threads.max(WARM_UP_THREADS),
        size,
        backend: options.backend.clone(),
    };
    let engine = engines::open(&options.engine, &setup)?;
    if !settle() {
        eprintln!("seawall-peers: others keep the page cache dirty");
    }
    let warm_up_bytes = warm_up(engine.as_ref(), options, &setup)?;
    let device = Device::below(scratch.path())?;
    let shape = engines::shape(&options.engine, threads, size);
    let row = Row {
        engine: options.engine.clone(),
        configuration: engine.configuration(),
        warm_up_bytes,
        ..timed(engine.as_ref(), options, shape, &device)?
    };
    // The directory is thrown away and the process ends: nothing is closed in order.
    std::mem::forget(engine);
    remove(&scratch);
    match PANICKED.load(Ordering::Relaxed) {
        true => Err(io::Error::other("a thread of the engine panicked")),
        false => Ok(row),
    }
}

/// Appends until segments rotate and are given up; tells how many bytes that took.
fn warm_up(engine: &dyn Engine, options: &Options, setup: &Setup) -> io::Result<u64> {
    let until = Until {
        time: match engines::is_floor(&options.engine) {
            true => WARM_UP_FLOOR,
            false => options.warm_up,
        },
        bytes: WARM_UP_BYTES,
    };
    let (threads, size) = engines::shape(&options.engine, setup.lanes, setup.size);
    let load = load::run(engine, threads, size, until)?;
    Ok((load.nanoseconds.len() * size) as u64)
}

/// The measurement itself.
fn timed(
    engine: &dyn Engine,
    options: &Options,
    (threads, size): (usize, usize),
    device: &Device,
) -> io::Result<Row> {
    let until = Until {
        time: options.time,
        bytes: options.bytes_max,
    };
    let (counted, used) = (device.counters(), cpu());
    let load = load::run(engine, threads, size, until)?;
    let (used, counters) = (cpu() - used, device.counters());
    let counters = counters.zip(counted).map(|(now, was)| now.since(was));
    Ok(row(&load, threads, size, used, counters))
}

/// Names a panic in one line, and remembers it.
fn watch_panics() {
    std::panic::set_hook(Box::new(|what| {
        PANICKED.store(true, Ordering::Relaxed);
        eprintln!("seawall-peers: {what}");
    }));
}

/// Removes what the engine wrote, which may still work in the background and make more.
fn remove(scratch: &TempDir) {
    for _ in 0..100 {
        if std::fs::remove_dir_all(scratch.path()).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    eprintln!("seawall-peers: {} stays behind", scratch.path().display());
}

#[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
fn row(
    load: &Load,
    threads: usize,
    size: usize,
    used: Duration,
    counters: Option<Counters>,
) -> Row {
    let records = load.nanoseconds.len() as u64;
    let (count, seconds) = (records as f64, load.elapsed.as_secs_f64());
    let bytes = count * size as f64;
    Row {
        engine: String::new(),
        configuration: String::new(),
        threads,
        size,
        seconds,
        records,
        records_per_second: count / seconds,
        megabytes_per_second: bytes / seconds / 1e6,
        p50: load.microseconds(500),
        p99: load.microseconds(990),
        p999: load.microseconds(999),
        max: load.microseconds(1000),
        cpu_seconds_per_gigabyte: used.as_secs_f64() / bytes * 1e9,
        device: counters.map(|counters| DeviceUse {
            flushes: counters.flushes,
            writes: counters.writes,
            sectors: counters.sectors,
            flushes_per_record: counters.flushes as f64 / count,
            bytes_per_byte: counters.sectors as f64 * 512.0 / bytes,
        }),
        warm_up_bytes: 0,
        round: 0,
        chunk: 0,
    }
}
