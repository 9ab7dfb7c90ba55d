//! `seawall bench catch-up`: the tail of a log to a replica that lacks all of it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use seawall_snapshot::Durability;
use seawall_wal::disk::{Disk, open_backend};
use serde_json::{Map, Value, json};

use super::device::Device;
use super::engine::{Engine, Load};
use super::floor_tcp;
use super::level;
use super::paired::Spread;
use super::places::Places;
use super::report::{self, rounded};
use super::subject::{BLOCK, Order, Sizes, Subject};
use super::turn::Until;
use super::{Run, scratch, to_usize};
use crate::common::parse_size;
use crate::error::Error;

/// Threads that write the log.
const WRITERS: u32 = 16;
/// Bytes of a volume, unless the log is larger.
const VOLUME_BYTES: u64 = 1 << 30;
/// A file system in memory, for a replica whose disk costs nothing.
const MEMORY: &str = "/dev/shm";

/// A new replica takes the whole log of a primary, over loopback: from the start of the primary
/// until the replica is in sync, so with the decision and the last acknowledgement. In each round
/// one replica is on the disk and one in memory, where there is a file system in memory. The floors
/// of the same bytes are one TCP connection whose receiver throws them away, and appends to a new
/// log on the same disk, 256 in flight. The figures of the first level are those of the disk.
/// `--seconds` and `--callers` mean nothing here.
#[derive(Debug, clap::Args)]
pub struct CatchUp {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Payload bytes of the log
    #[arg(long, default_value = "256M", value_parser = parse_size)]
    pub log_size: u64,
}

/// Seconds of each contender, round by round.
#[derive(Default)]
struct Yield {
    disk: Vec<f64>,
    memory: Vec<f64>,
    tcp: Vec<f64>,
    appends: Vec<f64>,
}

struct Contest<'a> {
    args: &'a CatchUp,
    disk: Arc<dyn Disk>,
    dir: &'a Path,
    subject: Subject,
    records: u64,
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`], and what either end of the link says.
pub(super) fn measure(args: &CatchUp) -> Result<Value, Error> {
    super::write::check_request(args.run.size)?;
    let scratch = scratch(args.run.dir.as_deref())?;
    let memory = Path::new(MEMORY);
    let memory = memory.is_dir().then(|| super::scratch(Some(memory)));
    let memory = memory.and_then(Result::ok);
    let disk = open_backend(args.run.backend.into())?;
    let sizes = Sizes {
        // A replica captures when its log is as long as a volume this large lets it be.
        volume_bytes: VOLUME_BYTES.max(args.log_size.next_multiple_of(BLOCK.bytes())),
        segment_bytes: args.run.segment_size,
        // Nothing is captured here, so that the log holds all of it.
        log_bytes: Some(0),
    };
    let places = Places::over(sizes.volume_bytes, args.log_size, args.run.size)?;
    let contest = Contest {
        args,
        subject: Subject::create(&disk, &scratch.path().join("primary"), sizes)?,
        disk,
        dir: scratch.path(),
        records: places.count,
    };
    let until = Until::Done(places.count);
    let done = std::sync::atomic::AtomicU64::new(0);
    let (once, volatile) = (Order::Once(&done), Durability::Volatile);
    contest
        .subject
        .writes(WRITERS, until, &places, once, volatile)?;
    contest.subject.volume().flush()?;
    let mut yielded = Yield::default();
    for _ in 0..args.run.turns {
        contest.round(memory.as_ref().map(tempfile::TempDir::path), &mut yielded)?;
    }
    let result = contest.report(&yielded, &Device::below(scratch.path()));
    contest.subject.volume().close()?;
    Ok(result)
}

impl Contest<'_> {
    fn round(&self, memory: Option<&Path>, yielded: &mut Yield) -> Result<(), Error> {
        let bytes = self.records * self.args.run.size as u64;
        yielded.tcp.push(floor_tcp::stream(bytes)?.as_secs_f64());
        if let Some(memory) = memory {
            // A file system in memory takes no direct writes.
            let disk = open_backend(super::Backend::Portable.into())?;
            let time = self.replica(&disk, memory)?;
            yielded.memory.push(time.as_secs_f64());
        }
        yielded.appends.push(self.appends()?.as_secs_f64());
        let time = self.replica(&self.disk, self.dir)?;
        yielded.disk.push(time.as_secs_f64());
        Ok(())
    }

    /// A new replica below `parent`, which goes away afterwards.
    fn replica(&self, disk: &Arc<dyn Disk>, parent: &Path) -> Result<Duration, Error> {
        let place = scratch(Some(parent))?;
        let dir = place.path().join("replica");
        let level = level::bring(self.subject.volume(), (disk, &dir), false)?;
        let taken = level.record.records;
        match taken == self.records {
            true => Ok(level.elapsed),
            false => Err(Error::Usage(format!(
                "the replica took {taken} of {} records; this is no catch-up",
                self.records
            ))),
        }
    }

    /// The same records into a new log.
    fn appends(&self) -> Result<Duration, Error> {
        let place = scratch(Some(self.dir))?;
        let shape = self.args.run.shape()?;
        let engine = Engine::create(&self.disk, &place.path().join("log"), shape)?;
        let (turn, _) = engine.turn(Load::FILL.filled(), Until::Done(self.records))?;
        engine.log().close()?;
        Ok(turn.elapsed())
    }

    #[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
    fn report(&self, yielded: &Yield, device: &Device) -> Value {
        let run = &self.args.run;
        let bytes = self.records * run.size as u64;
        let rate = |seconds: &[f64]| match seconds.is_empty() {
            true => Value::Null,
            false => {
                let median = Spread::of(seconds.iter().copied()).median;
                json!(rounded(report::megabytes(1.0 / median, to_usize(bytes))))
            }
        };
        let median = Spread::of(yielded.disk.iter().copied()).median;
        let mut fields = Map::new();
        report::join(
            &mut fields,
            json!({
                "work": "catch-up",
                "backend": self.disk.backend(),
                "device": device.name,
                "record_bytes": run.size,
                "records": self.records,
                "log_bytes": bytes,
                "segment_bytes": run.segment_size,
                "records_per_s": rounded(self.records as f64 / median),
                "mb_per_s": rate(&yielded.disk),
                "append_mb_per_s": rate(&yielded.appends),
                "memory_mb_per_s": rate(&yielded.memory),
                "tcp_mb_per_s": rate(&yielded.tcp),
                "turns": run.turns,
            }),
        );
        // Of times: the floor's over ours is our rate over the floor's.
        let of = |floor: &[f64], ours: &[f64]| {
            Spread::of_ratios(floor.iter().copied().zip(ours.iter().copied()))
        };
        report::put_spread(&mut fields, "ratio", of(&yielded.appends, &yielded.disk));
        if !yielded.memory.is_empty() {
            let ratio = of(&yielded.tcp, &yielded.memory);
            report::put_spread(&mut fields, "memory_ratio", ratio);
        }
        Value::Object(fields)
    }
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "catch-up of {records} records of {record_bytes} bytes over loopback; {backend} on {device}",
        "replica on the disk: {records_per_s} records/s, {mb_per_s} MB/s",
        "appends to a new log on the same disk {append_mb_per_s} MB/s; ratio {ratio} ({ratio_min} \
         to {ratio_max})",
        "replica in memory: {memory_mb_per_s} MB/s",
        "one TCP connection, thrown away {tcp_mb_per_s} MB/s; ratio of the replica in memory \
         {memory_ratio} ({memory_ratio_min} to {memory_ratio_max})",
    ];
    report::print(result, &lines, out)
}
