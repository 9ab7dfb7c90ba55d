//! `seawall bench replay`: a scan of the whole log beside raw scans of its files, and how long it
//! takes to open.

use std::io::Write;
use std::time::Duration;

use seawall_wal::disk::Disk;
use seawall_wal::{Epoch, LogMode};
use serde_json::{Value, json};

use super::device::{Device, resident_bytes};
use super::engine::{Engine, Load};
use super::floor_read::ReadFloor;
use super::paired::Spread;
use super::report::{self, rounded};
use super::stored::Stored;
use super::turn::{Turn, Until, turn};
use super::{Run, scratch};
use crate::common::parse_size;
use crate::edge;
use crate::error::Error;

/// A replay of everything retained, each record verified. The floor on a warm cache is a read with
/// a CRC-32 of the same bytes, on a cold one O_DIRECT reads of 1 MiB at depth 4. The figures of the
/// first level are those of the warm cache; an operation is one pass.
#[derive(Debug, clap::Args)]
pub struct Replay {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Appends in flight when the log is written: they decide how many records share a frame
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub in_flight: u32,
    /// Payload bytes of the log
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub log_size: u64,
}

/// What the rounds yielded.
#[derive(Default)]
struct Yield {
    scans: Vec<Turn>,
    warm: Vec<Turn>,
    streams: Vec<Turn>,
    cold: Vec<Turn>,
    after_crash: Vec<Opened>,
    after_close: Vec<Opened>,
}

/// What it took to open the log, with nothing of it in the page cache.
#[derive(Clone, Copy)]
struct Opened {
    open: Duration,
    /// From the beginning to the first durable append.
    first_append: Duration,
}

/// Runs it.
///
/// # Errors
/// As [`super::append::measure`].
pub(super) fn measure(args: &Replay) -> Result<Value, Error> {
    let scratch = scratch(args.run.dir.as_deref())?;
    let load = Load {
        in_flight: args.in_flight,
        ..Load::FILL
    };
    let (shape, backend) = (args.run.shape()?, args.run.backend.into());
    let stored = Stored::build(scratch.path(), backend, shape, args.log_size, load)?;
    let floor = stored.floor()?;
    let mut yielded = Yield::default();
    for _ in 0..args.run.turns {
        round(args, &stored, &floor, &mut yielded)?;
    }
    for _ in 0..args.run.turns {
        yielded.after_crash.push(open(&stored, false)?);
    }
    open(&stored, true)?;
    for _ in 0..args.run.turns {
        yielded.after_close.push(open(&stored, true)?);
    }
    report(
        args,
        &stored,
        &floor,
        &yielded,
        &Device::below(scratch.path()),
    )
}

#[expect(clippy::cast_precision_loss, reason = "counts for rates")]
fn round(
    args: &Replay,
    stored: &Stored,
    floor: &ReadFloor,
    yielded: &mut Yield,
) -> Result<(), Error> {
    let callers = args.run.callers;
    let until = Until::Elapsed(args.run.turn_time(4, 0));
    let records = stored.records as f64;
    stored.forget()?;
    let stream = floor.stream()?;
    let pieces = stream.records();
    yielded
        .streams
        .push(stream.with_records_each(records / pieces));
    let (_, engine) = stored.open(true, LogMode::ReadOnly)?;
    // The open reads what no index speaks for.
    stored.forget()?;
    // Once only: the second pass would find everything in the page cache.
    let cold = pass(&engine, callers, Until::Done(callers.into()))?;
    yielded.cold.push(cold.with_records_each(records));
    floor.warm()?;
    let scan = floor.scan(callers, until)?;
    yielded.scans.push(scan.with_records_each(records));
    let warm = pass(&engine, callers, until)?;
    yielded.warm.push(warm.with_records_each(records));
    Ok(())
}

fn pass(engine: &Engine, callers: u32, until: Until) -> Result<Turn, Error> {
    turn(callers, 1, until, |_| {
        || Ok(engine.replay(engine.retained()).map(drop)?)
    })
}

/// Opens the log for appends, appends once, and ends it: with a clean close or as a crash would.
fn open(stored: &Stored, close: bool) -> Result<Opened, Error> {
    stored.forget()?;
    let begun = edge::now();
    let (_, engine) = stored.open(true, LogMode::Writable)?;
    let open = begun.elapsed();
    engine.log().start_incarnation(Epoch::new(1))?;
    engine.fill(1, Load::durable(1))?;
    let first_append = begun.elapsed();
    match close {
        true => engine.log().close()?,
        false => engine.log().stop(),
    }
    Ok(Opened { open, first_append })
}

fn report(
    args: &Replay,
    stored: &Stored,
    floor: &ReadFloor,
    yielded: &Yield,
    device: &Device,
) -> Result<Value, Error> {
    let before = resident_bytes();
    let (counting, engine) = stored.open(true, LogMode::ReadOnly)?;
    let bytes = args.run.size;
    let mut fields = report::rates(&Turn::all(&yielded.warm), bytes);
    report::put_spread(
        &mut fields,
        "ratio",
        report::ratio(&yielded.warm, &yielded.scans),
    );
    report::put_spread(
        &mut fields,
        "cold_ratio",
        report::ratio(&yielded.cold, &yielded.streams),
    );
    let cold = Turn::all(&yielded.cold);
    let milliseconds = |opened: &[Opened], which: fn(&Opened) -> Duration| {
        let each = opened
            .iter()
            .map(|opened| which(opened).as_secs_f64() * 1e3);
        rounded(Spread::of(each).median)
    };
    report::join(
        &mut fields,
        json!({
            "work": "replay",
            "backend": counting.backend(),
            "backend_fallback": counting.fallback(),
            "device": device.name,
            "callers": args.run.callers,
            "in_flight": args.in_flight,
            "record_bytes": bytes,
            "segment_bytes": args.run.segment_size,
            "records": engine.retained().len(),
            "log_bytes": floor.bytes(),
            "syncs_per_record": 0,
            "bytes_written_per_byte": 0,
            "floor_per_s": rounded(Turn::all(&yielded.scans).per_second()),
            "floor_drift": report::drift(&yielded.scans),
            "cold_records_per_s": rounded(cold.per_second()),
            "cold_mb_per_s": rounded(report::megabytes(cold.per_second(), bytes)),
            "cold_floor_per_s": rounded(Turn::all(&yielded.streams).per_second()),
            "open_after_crash_ms": milliseconds(&yielded.after_crash, |opened| opened.open),
            "open_after_close_ms": milliseconds(&yielded.after_close, |opened| opened.open),
            "first_append_after_crash_ms":
                milliseconds(&yielded.after_crash, |opened| opened.first_append),
            "resident_bytes": resident_bytes(),
            "resident_bytes_before_open": before,
            "seconds": args.run.seconds,
            "turns": args.run.turns,
        }),
    );
    Ok(Value::Object(fields))
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "replay of {records} records of {record_bytes} bytes, log of {log_bytes} bytes; {backend} \
         on {device}",
        "{backend_fallback}",
        "warm: {records_per_s} records/s, {mb_per_s} MB/s; read and CRC-32 of the same bytes \
         {floor_per_s} records/s, drifted by {floor_drift}; ratio {ratio} ({ratio_min} to \
         {ratio_max})",
        "cold: {cold_records_per_s} records/s, {cold_mb_per_s} MB/s; direct reads of the same \
         bytes {cold_floor_per_s} records/s; ratio {cold_ratio} ({cold_ratio_min} to \
         {cold_ratio_max})",
        "open, nothing cached: {open_after_crash_ms} ms after a crash \
         ({first_append_after_crash_ms} ms to the first durable append), {open_after_close_ms} ms \
         after a clean close",
        "memory of this process without file pages: {resident_bytes} bytes with the log open, \
         {resident_bytes_before_open} before",
    ];
    report::print(result, &lines, out)
}
