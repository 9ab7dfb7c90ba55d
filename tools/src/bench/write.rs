//! `seawall bench write`: durable writes through a volume, beside our own appends and raw writes.

use std::io::Write as Out;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use seawall_snapshot::Durability;
use seawall_wal::disk::{Disk, open_backend};
use serde_json::{Value, json};

use super::counting::{Counters, Counting};
use super::device::{Device, Traffic, processor_time, resident_bytes};
use super::engine::{Engine, Load};
use super::floor::Floor;
use super::places::Places;
use super::report::{self, rounded};
use super::subject::{BLOCK, Order, Sizes, Subject};
use super::turn::{Turn, Until};
use super::{Run, scratch};
use crate::common::parse_size;
use crate::error::Error;

/// Shares of a round that the volume takes, where floor and appends take one each: it has to write
/// several times the size of its log.
const SHARES: u32 = 4;
/// A write counts as delayed when it takes so many times the median of an append.
const DELAYED: f64 = 10.0;

/// Durable writes of one request each at random places of a volume, while it checkpoints and
/// reclaims. Three contenders in each round: raw O_DIRECT + O_DSYNC overwrites, appends to a log of
/// its own of records that are filled from the bytes of a request, and the volume, each with as
/// many callers. The time of the volume ends when its background has nothing left to do, so that no
/// turn leaves a debt to the next; rates without that time are reported beside.
#[derive(Debug, clap::Args)]
#[command(mut_arg("callers", |callers| callers.default_value("16")))]
#[command(mut_arg("seconds", |seconds| seconds.default_value("45")))]
#[command(mut_arg("turns", |turns| turns.default_value("3")))]
pub struct Write {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the volume
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub volume_size: u64,
    /// Bytes that are written again and again, spread over the volume; together with the log they
    /// decide how often a block is overwritten before it reaches the image
    #[arg(long, default_value = "48M", value_parser = parse_size)]
    pub working_set: u64,
    /// Retained log above which the background captures; what such a volume does otherwise
    #[arg(long, value_parser = parse_size)]
    pub log_size: Option<u64>,
    /// Write so many bytes of the volume, every block once, in place of the working set
    #[arg(long, conflicts_with = "working_set", value_parser = parse_size)]
    pub once: Option<u64>,
}

/// What all the turns of the volume took, beside time.
#[derive(Default)]
struct Spent {
    processor: Duration,
    written: Counters,
    traffic: Traffic,
    retained_most: u64,
}

/// One contest in one directory.
struct Contest<'a> {
    args: &'a Write,
    places: Places,
    counting: Arc<Counting>,
    device: Device,
    floor: Floor,
    engine: Engine,
    subject: Subject,
    /// Places written by a run that writes each once.
    done: AtomicU64,
}

/// The turns of each contender, in order of the rounds.
#[derive(Default)]
struct Yield {
    floors: Vec<Turn>,
    appends: Vec<Turn>,
    /// Until the last write was durable.
    writing: Vec<Turn>,
    /// Until the background was at rest.
    settled: Vec<Turn>,
    spent: Spent,
}

impl Write {
    fn sizes(&self) -> Sizes {
        Sizes {
            volume_bytes: self.volume_size,
            segment_bytes: self.run.segment_size,
            log_bytes: self.log_size,
        }
    }

    fn places(&self) -> Result<Places, Error> {
        check_request(self.run.size)?;
        let bytes = self.once.unwrap_or(self.working_set);
        Places::over(self.volume_size, bytes, self.run.size)
    }
}

/// Refuses requests that are not whole blocks, or that a record does not hold.
pub(super) fn check_request(bytes: usize) -> Result<(), Error> {
    let block = BLOCK.bytes_usize();
    match bytes.is_multiple_of(block) && (block..=1 << 20).contains(&bytes) {
        true => Ok(()),
        false => Err(Error::Usage(format!(
            "--size {bytes} is no multiple of {block} up to 1M"
        ))),
    }
}

/// Runs it.
///
/// # Errors
/// A backend that the machine lacks, a directory that takes no files, sizes that do not fit.
pub(super) fn measure(args: &Write) -> Result<Value, Error> {
    let places = args.places()?;
    let scratch = scratch(args.run.dir.as_deref())?;
    let contest = Contest::open(args, places, scratch.path())?;
    contest.engine.warm_up()?;
    if args.once.is_none() {
        contest.subject.fill(&places)?;
    }
    contest.subject.warm_up(&places)?;
    let mut yielded = Yield::default();
    for _ in 0..args.run.turns {
        contest.round(&mut yielded)?;
    }
    let result = contest.report(&yielded)?;
    contest.subject.volume().close()?;
    contest.engine.log().close()?;
    Ok(result)
}

impl Contest<'_> {
    fn open<'a>(args: &'a Write, places: Places, dir: &Path) -> Result<Contest<'a>, Error> {
        let counting = Counting::over(open_backend(args.run.backend.into())?, true);
        let disk: Arc<dyn Disk> = counting.clone();
        Ok(Contest {
            args,
            places,
            device: Device::below(dir),
            floor: Floor::durable(dir, args.run.size)?,
            engine: Engine::create(&disk, &dir.join("log"), args.run.shape()?)?,
            subject: Subject::create(&disk, &dir.join("volume"), args.sizes())?,
            counting,
            done: AtomicU64::new(0),
        })
    }

    fn round(&self, yielded: &mut Yield) -> Result<(), Error> {
        let run = &self.args.run;
        let time = run.turn_time(2 + SHARES, 0);
        yielded
            .floors
            .push(self.floor.turn(run.callers, Until::Elapsed(time))?);
        let load = Load::durable(run.callers).filled();
        let (appends, _) = self.engine.turn(load, Until::Elapsed(time))?;
        yielded.appends.push(appends);
        self.turn(time * SHARES, yielded)
    }

    /// One turn of the volume.
    fn turn(&self, time: Duration, yielded: &mut Yield) -> Result<(), Error> {
        let before = (processor_time(), self.counting.counters(), self.traffic());
        let (until, order) = match self.args.once {
            None => (Until::Elapsed(time), Order::Random),
            Some(_) => {
                let each = self.places.count / u64::from(self.args.run.turns);
                (Until::Done(each.max(1)), Order::Once(&self.done))
            }
        };
        let callers = self.args.run.callers;
        let turn = self
            .subject
            .writes(callers, until, &self.places, order, Durability::Durable)?;
        let spent = &mut yielded.spent;
        let retained = self.subject.volume().log().retained_bytes();
        spent.retained_most = spent.retained_most.max(retained);
        let rest = self.subject.settle()?;
        yielded.writing.push(turn.clone());
        yielded.settled.push(turn.lasting(rest));
        spent.processor += processor_time() - before.0;
        spent.written = spent.written.plus(self.counting.counters().since(before.1));
        spent.traffic = spent.traffic.plus(self.traffic().since(before.2));
        Ok(())
    }

    fn traffic(&self) -> Traffic {
        self.device.traffic().unwrap_or_default()
    }

    fn report(&self, yielded: &Yield) -> Result<Value, Error> {
        let bytes = self.args.run.size;
        let mut fields = report::rates(&Turn::all(&yielded.writing), bytes);
        report::join(&mut fields, self.conditions());
        report::join(&mut fields, against(yielded, bytes));
        report::join(&mut fields, self.cost(yielded));
        report::join(&mut fields, delays(yielded));
        Ok(Value::Object(fields))
    }

    fn conditions(&self) -> Value {
        let run = &self.args.run;
        json!({
            "work": "write",
            "order": if self.args.once.is_some() { "once" } else { "random" },
            "backend": self.counting.backend(),
            "device": self.device.name,
            "write_cache": self.device.write_cache(),
            "callers": run.callers,
            "in_flight": 1,
            "record_bytes": run.size,
            "segment_bytes": run.segment_size,
            "volume_bytes": self.args.volume_size,
            "working_set_bytes": self.places.count * run.size as u64,
            "log_bytes": self.subject.log_bytes(),
            "seconds": run.seconds,
            "turns": run.turns,
        })
    }

    /// What a byte costs, and how large the log was. What the kernel counts of the device includes
    /// the rest of the machine.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn cost(&self, yielded: &Yield) -> Value {
        let all = Turn::all(&yielded.writing);
        let accepted = all.records() * self.args.run.size as f64;
        let each = |bytes: u64| rounded(bytes as f64 / accepted);
        let spent = &yielded.spent;
        let written = spent.written;
        let log = written.bytes - written.image - written.sums - written.preserved;
        let log_bytes = self.subject.log_bytes().unwrap_or(u64::MAX) as f64;
        let device = self.device.traffic().map(|_| spent.traffic);
        json!({
            "overwrite_ratio": rounded(accepted / (written.image as f64).max(1.0)),
            "log_passes": rounded(accepted / log_bytes),
            "retained_bytes_most": spent.retained_most,
            "syncs_per_record": rounded(written.syncs as f64 / all.records()),
            "bytes_written_per_byte": each(written.bytes),
            "log_bytes_per_byte": each(log),
            "image_bytes_per_byte": each(written.image),
            "sum_bytes_per_byte": each(written.sums),
            "device_bytes_per_byte": device.map(|sum| each(sum.bytes)),
            "device_flushes_per_record":
                device.map(|sum| rounded(sum.flushes as f64 / all.records())),
            "cpu_s_per_gb": rounded(spent.processor.as_secs_f64() / (accepted / 1e9)),
            "resident_bytes": resident_bytes(),
        })
    }
}

/// The volume against raw writes and against appends, settled and while it was written to.
fn against(yielded: &Yield, bytes: usize) -> Value {
    let (floors, appends) = (&yielded.floors, &yielded.appends);
    let floor = Turn::all(floors);
    let append = Turn::all(appends);
    let settled = Turn::all(&yielded.settled).per_second();
    let mut fields = serde_json::Map::new();
    let mut put = |name: &str, ours: &[Turn], theirs: &[Turn]| {
        report::put_spread(&mut fields, name, report::ratio(ours, theirs));
    };
    put("ratio", &yielded.settled, floors);
    put("append_ratio", &yielded.settled, appends);
    put("writing_ratio", &yielded.writing, floors);
    put("writing_append_ratio", &yielded.writing, appends);
    report::join(
        &mut fields,
        json!({
            "settled_records_per_s": rounded(settled),
            "settled_mb_per_s": rounded(report::megabytes(settled, bytes)),
            "floor_per_s": rounded(floor.per_second()),
            "floor_p99_us": rounded(floor.microseconds(990)),
            "floor_p999_us": rounded(floor.microseconds(999)),
            "floor_drift": report::drift(floors),
            "append_per_s": rounded(append.per_second()),
            "append_p50_us": rounded(append.microseconds(500)),
            "append_p99_us": rounded(append.microseconds(990)),
            "append_p999_us": rounded(append.microseconds(999)),
        }),
    );
    Value::Object(fields)
}

/// How often and how long writers were delayed.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn delays(yielded: &Yield) -> Value {
    let all = Turn::all(&yielded.writing);
    let bound = DELAYED * Turn::all(&yielded.appends).microseconds(500);
    let (delayed, seconds) = all.slower_than(bound);
    let total = all.slower_than(0.0).1;
    json!({
        "delayed_above_us": rounded(bound),
        "delayed": delayed,
        "delayed_share": delayed as f64 / all.records(),
        "delayed_share_of_time": rounded(seconds / total),
        "delayed_mean_us": rounded(seconds * 1e6 / (delayed as f64).max(1.0)),
    })
}

pub(super) fn print(result: &Value, out: &mut dyn Out) -> Result<(), Error> {
    let lines = [
        "write of {record_bytes} bytes, {order}, durable; {backend} on {device}, {write_cache}",
        "volume of {volume_bytes} bytes, {working_set_bytes} of it written, captured when its log \
         retains {log_bytes}; it held {retained_bytes_most} at most",
        "{callers} callers: {records_per_s} records/s while they wrote, {settled_records_per_s} \
         ({settled_mb_per_s} MB/s) until all was captured",
        "p50 {p50_us} us, p99 {p99_us} us, p99.9 {p999_us} us, longest {max_us} us",
        "{delayed} writes took longer than {delayed_above_us} us, {delayed_mean_us} us in the mean \
         and {delayed_share_of_time} of all time",
        "each block was written {overwrite_ratio} times before it reached the image; the log was \
         filled {log_passes} times",
        "{syncs_per_record} syncs a record; bytes written per byte {bytes_written_per_byte}: log \
         {log_bytes_per_byte}, image {image_bytes_per_byte}, sums {sum_bytes_per_byte}",
        "device, with the rest of the machine: {device_flushes_per_record} flushes a record, \
         {device_bytes_per_byte} bytes per byte",
        "{cpu_s_per_gb} s of processor per GB, {resident_bytes} bytes resident without files",
        "own appends {append_per_s} records/s, p50 {append_p50_us} us, p99 {append_p99_us} us, \
         p99.9 {append_p999_us} us; ratio {append_ratio} ({append_ratio_min} to \
         {append_ratio_max}), while writing {writing_append_ratio}",
        "floor of the same disk {floor_per_s} records/s, p99 {floor_p99_us} us, p99.9 \
         {floor_p999_us} us, drifted by {floor_drift}; ratio {ratio} ({ratio_min} to {ratio_max}), \
         while writing {writing_ratio}",
    ];
    report::print(result, &lines, out)
}
