//! `seawall bench append`: durable appends beside raw durable writes.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::Stats;
use seawall_wal::disk::{Disk, open_backend};
use serde_json::{Value, json};

use super::counting::{Counters, Counting};
use super::device::{Device, Traffic, processor_time};
use super::engine::{Engine, Load, Shape};
use super::floor::Floor;
use super::paired::Spread;
use super::report::{self, rounded};
use super::turn::{Turn, Until};
use super::{Run, scratch};
use crate::common::parse_size;
use crate::error::Error;

/// Durable appends. The floor is as many O_DIRECT + O_DSYNC overwrites of one record in flight;
/// with more than one append in flight for each caller, or volatile ones, it is 1 MiB O_DIRECT
/// writes at depth 4 with an fdatasync every 64 MiB.
#[derive(Debug, clap::Args)]
pub struct Append {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Appends that each caller has in flight
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub in_flight: u32,
    /// Payload bytes that stay readable; the log recycles its files behind them
    #[arg(long, default_value = "256M", value_parser = parse_size)]
    pub retained: u64,
    /// Append so many without waiting, then sync once: together one operation
    #[arg(long, conflicts_with = "in_flight")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub volatile: Option<u32>,
    /// A thread replays what is retained meanwhile, over and over
    #[arg(long)]
    pub reader: bool,
}

/// What all the turns of the engine took, beside time.
#[derive(Default)]
struct Spent {
    read: u64,
    processor: Duration,
    traffic: Option<Traffic>,
}

/// One contest in one directory.
struct Contest<'a> {
    args: &'a Append,
    counting: Arc<Counting>,
    device: Device,
    engine: Engine,
    floor: Floor,
}

impl Append {
    fn load(&self) -> Load {
        Load {
            callers: self.run.callers,
            in_flight: self.in_flight,
            volatile: self.volatile,
            reader: self.reader,
            filled: false,
        }
    }

    fn shape(&self) -> Result<Shape, Error> {
        Ok(Shape {
            retained_bytes: Some(self.retained),
            ..self.run.shape()?
        })
    }
}

/// Runs it.
///
/// # Errors
/// A backend that the machine lacks, a directory that takes no files, a shape that no log takes.
pub(super) fn measure(args: &Append) -> Result<Value, Error> {
    args.shape()?.check()?;
    let scratch = scratch(args.run.dir.as_deref())?;
    let contest = Contest::open(args, scratch.path())?;
    // One turn for the cold log, then floor and engine in turns.
    let time = args.run.turn_time(2, 1);
    let before = contest.counting.counters();
    let (cold, _) = contest.engine.turn(args.load(), until(time))?;
    let cold_written = contest.counting.counters().since(before);
    contest.engine.warm_up()?;
    let (before, stats) = (contest.counting.counters(), contest.engine.log().stats());
    let (mut floors, mut engines, mut spent) = (Vec::new(), Vec::new(), Spent::default());
    for _ in 0..args.run.turns {
        floors.push(contest.floor.turn(args.run.callers, until(time))?);
        engines.push(contest.turn(time, &mut spent)?);
    }
    let written = contest.counting.counters().since(before);
    let rotated = since(contest.engine.log().stats(), stats);
    contest.engine.log().close()?;
    let mut fields = report::rates(&Turn::all(&engines), args.run.size);
    report::join(&mut fields, contest.conditions());
    report::join(&mut fields, cost(args, &engines, written, &spent));
    report::join(&mut fields, rotated);
    report::join(&mut fields, against(&floors, &engines));
    report::join(&mut fields, cold_start(args, &cold, cold_written));
    Ok(Value::Object(fields))
}

fn until(time: Duration) -> Until {
    Until::Elapsed(time)
}

impl Contest<'_> {
    fn open<'a>(args: &'a Append, dir: &Path) -> Result<Contest<'a>, Error> {
        let counting = Counting::over(open_backend(args.run.backend.into())?, true);
        let disk: Arc<dyn Disk> = counting.clone();
        let bytes = args.run.size;
        let floor = match args.in_flight > 1 || args.volatile.is_some() {
            true => Floor::stream(dir, bytes)?,
            false => Floor::durable(dir, bytes)?,
        };
        Ok(Contest {
            args,
            counting,
            device: Device::below(dir),
            engine: Engine::create(&disk, &dir.join("log"), args.shape()?)?,
            floor,
        })
    }

    fn turn(&self, time: Duration, spent: &mut Spent) -> Result<Turn, Error> {
        let (processor, traffic) = (processor_time(), self.device.traffic());
        let (turn, read) = self.engine.turn(self.args.load(), until(time))?;
        spent.processor += processor_time() - processor;
        spent.read += read;
        if let Some((before, after)) = traffic.zip(self.device.traffic()) {
            let sum = spent.traffic.unwrap_or_default();
            spent.traffic = Some(sum.plus(after.since(before)));
        }
        Ok(turn)
    }

    fn conditions(&self) -> Value {
        json!({
            "work": "append",
            "backend": self.counting.backend(),
            "backend_fallback": self.counting.fallback(),
            "device": self.device.name,
            "write_cache": self.device.write_cache(),
            "callers": self.args.run.callers,
            "in_flight": self.args.in_flight,
            "volatile": self.args.volatile,
            "record_bytes": self.args.run.size,
            "segment_bytes": self.args.run.segment_size,
            "retained_bytes": self.args.retained,
            "seconds": self.args.run.seconds,
            "turns": self.args.run.turns,
        })
    }
}

/// What a record and a byte of payload cost. What the kernel counts of the device includes the rest
/// of the machine.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn cost(args: &Append, engines: &[Turn], written: Counters, spent: &Spent) -> Value {
    let all = Turn::all(engines);
    let bytes = args.run.size;
    let accepted = all.records() * bytes as f64;
    let seconds = all.elapsed().as_secs_f64();
    let reader = args
        .reader
        .then(|| rounded(report::megabytes(spent.read as f64, bytes) / seconds));
    let device = spent.traffic;
    json!({
        "syncs_per_record": rounded(written.syncs as f64 / all.records()),
        "bytes_written_per_byte": rounded(written.bytes as f64 / accepted),
        "device_flushes_per_record": device.map(|sum| rounded(sum.flushes as f64 / all.records())),
        "device_bytes_per_byte": device.map(|sum| rounded(sum.bytes as f64 / accepted)),
        "cpu_s_per_gb": rounded(spent.processor.as_secs_f64() / (accepted / 1e9)),
        "reader_mb_per_s": reader,
    })
}

fn against(floors: &[Turn], engines: &[Turn]) -> Value {
    let floor = Turn::all(floors);
    let p999 = |turn: &Turn| turn.microseconds(999);
    let p999_ratios = Spread::of_ratios(engines.iter().map(p999).zip(floors.iter().map(p999)));
    let mut fields = serde_json::Map::new();
    report::put_spread(&mut fields, "ratio", report::ratio(engines, floors));
    report::put_spread(&mut fields, "p999_ratio", p999_ratios);
    report::join(
        &mut fields,
        json!({
            "floor_per_s": rounded(floor.per_second()),
            "floor_p50_us": rounded(floor.microseconds(500)),
            "floor_p99_us": rounded(floor.microseconds(990)),
            "floor_p999_us": rounded(floor.microseconds(999)),
            "floor_drift": report::drift(floors),
        }),
    );
    Value::Object(fields)
}

/// What the log says of itself, over the turns of both.
fn since(now: Stats, before: Stats) -> Value {
    json!({
        "frames": now.frames - before.frames,
        "rotations": now.rotations - before.rotations,
        "prepared": now.prepared - before.prepared,
        "dry_pool": now.dry_pool - before.dry_pool,
    })
}

/// The first turn, on a log whose files were never written before.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn cold_start(args: &Append, cold: &Turn, written: Counters) -> Value {
    let accepted = cold.records() * args.run.size as f64;
    json!({
        "cold_records_per_s": rounded(cold.per_second()),
        "cold_p999_us": rounded(cold.microseconds(999)),
        "cold_bytes_written_per_byte": rounded(written.bytes as f64 / accepted),
    })
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "append of {record_bytes} bytes, durable; {backend} on {device}, {write_cache}",
        "{backend_fallback}",
        "{callers} callers, {in_flight} in flight: {records_per_s} records/s, {mb_per_s} MB/s",
        "each operation is {volatile} volatile appends and one sync",
        "p50 {p50_us} us, p99 {p99_us} us, p99.9 {p999_us} us, longest {max_us} us",
        "{syncs_per_record} syncs a record, {bytes_written_per_byte} bytes written per byte, \
         {cpu_s_per_gb} s of processor per GB",
        "device, with the rest of the machine: {device_flushes_per_record} flushes a record, \
         {device_bytes_per_byte} bytes per byte",
        "{frames} frames, {rotations} segments sealed, {prepared} prepared, {dry_pool} times none \
         was ready",
        "a reader replayed {reader_mb_per_s} MB/s meanwhile",
        "while its files were new: {cold_records_per_s} records/s, \
         {cold_bytes_written_per_byte} bytes written per byte",
        "floor of the same disk {floor_per_s} records/s, p50 {floor_p50_us} us, p99.9 \
         {floor_p999_us} us; it drifted by {floor_drift}",
        "ratio {ratio} ({ratio_min} to {ratio_max}); of the p99.9 {p999_ratio} \
         ({p999_ratio_min} to {p999_ratio_max})",
    ];
    report::print(result, &lines, out)
}
