//! `seawall bench rebuild`: the full base to a new replica, and to one that has most of it.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::{Primary, PrimaryOptions};
use seawall_snapshot::Durability;
use seawall_wal::disk::{Disk, File, OpenMode, open_backend};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::device::{Device, forget};
use super::floor::fill;
use super::foreground::Foreground;
use super::level::{self, Level};
use super::nbd::{failed, missing};
use super::paired::Spread;
use super::places::Places;
use super::report::{self, rounded};
use super::subject::{BLOCK, Order, Sizes, Subject};
use super::turn::{Turn, Until};
use super::{Run, incompressible, scratch, to_usize};
use crate::common::{self, parse_size};
use crate::edge;
use crate::error::Error;

/// Bytes of a chunk, the unit of comparison (snapshot/FORMAT.md).
const CHUNK_BYTES: u64 = 1 << 20;
/// Of so many chunks one is changed before the second rebuild.
const CHANGED: u64 = 100;
/// How long the writes beside a rebuild are timed without it.
const ALONE: Duration = Duration::from_secs(3);

/// A replica is rebuilt with the full base over loopback, although less would do: from the start of
/// the primary until the replica is in sync, so with the installed base durable and its digest
/// compared. In each round a new replica gets all of it, then one chunk of a hundred is changed and
/// the same replica is rebuilt again. Beside that, durable writes at a quarter of what the primary
/// takes are timed alone, and while another new replica is rebuilt as a server does it, giving way
/// to them: their p99 and the rate that the rebuild keeps are one figure. The floor is `nbdcopy
/// --flush` of a file as large and as full between two file servers of nbdkit, read with nothing in
/// the page cache; without these programs there is none, and the report says so. `--seconds` and
/// `--callers` mean nothing here.
#[derive(Debug, clap::Args)]
pub struct Rebuild {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the volume
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub volume_size: u64,
    /// Bytes of the volume that hold data, from its beginning; otherwise all
    #[arg(long, value_parser = parse_size)]
    pub data: Option<u64>,
}

/// What each contender took, round by round.
#[derive(Default)]
struct Yield {
    /// Seconds.
    copies: Vec<f64>,
    full: Vec<Level>,
    again: Vec<Level>,
    beside: Vec<Beside>,
}

/// A rebuild beside durable writes at a steady rate.
struct Beside {
    per_second: f64,
    /// Without it.
    alone: Turn,
    during: Turn,
    level: Level,
}

struct Contest<'a> {
    args: &'a Rebuild,
    disk: Arc<dyn Disk>,
    dir: &'a Path,
    subject: Subject,
    data: u64,
    /// The file that nbdcopy copies, if it can.
    source: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`], what either end of the link says, and a copy that fails.
pub(super) fn measure(args: &Rebuild) -> Result<Value, Error> {
    let data = args.data.unwrap_or(args.volume_size).min(args.volume_size);
    if args.volume_size < CHUNK_BYTES || !args.volume_size.is_multiple_of(BLOCK.bytes()) {
        let size = args.volume_size;
        return Err(Error::Usage(format!(
            "--volume-size {size} is no multiple of {} from 1M on",
            BLOCK.bytes()
        )));
    }
    let scratch = scratch(args.run.dir.as_deref())?;
    let disk = open_backend(args.run.backend.into())?;
    let sizes = Sizes {
        volume_bytes: args.volume_size,
        segment_bytes: args.run.segment_size,
        log_bytes: Some(0),
    };
    let lacking = missing(["nbdkit", "nbdcopy"]);
    let source = match &lacking {
        Some(_) => None,
        None => Some(source(scratch.path(), args.volume_size, data)?),
    };
    let contest = Contest {
        args,
        subject: Subject::create(&disk, &scratch.path().join("primary"), sizes)?,
        disk,
        dir: scratch.path(),
        data,
        source,
    };
    let piece = to_usize(CHUNK_BYTES.min(data));
    contest.subject.fill(&Places::over(data, data, piece)?)?;
    let mut yielded = Yield::default();
    for round in 0..args.run.turns {
        contest.round(u64::from(round), &mut yielded)?;
    }
    let device = Device::below(scratch.path());
    let result = contest.report(&yielded, lacking.as_deref(), &device);
    contest.subject.volume().close()?;
    Ok(result)
}

/// A file with as much data as the volume.
fn source(dir: &Path, bytes: u64, data: u64) -> Result<PathBuf, Error> {
    let path = dir.join("source");
    fill(&path, data, &incompressible(to_usize(CHUNK_BYTES)))?;
    lengthen(&path, bytes)?;
    Ok(path)
}

/// Gives a file its size, with a hole where it grows.
fn lengthen(path: &Path, bytes: u64) -> Result<(), Error> {
    let file = File::open(&common::disk(), path, OpenMode::CreateOrOpen)?;
    Ok(file.set_length(bytes)?)
}

impl Contest<'_> {
    fn round(&self, round: u64, yielded: &mut Yield) -> Result<(), Error> {
        if let Some(source) = &self.source {
            yielded.copies.push(self.copy(source)?);
        }
        let place = scratch(Some(self.dir))?;
        yielded.full.push(self.rebuild(&place)?);
        self.change(round)?;
        yielded.again.push(self.rebuild(&place)?);
        drop(place);
        yielded.beside.push(self.rebuild_beside_writes()?);
        Ok(())
    }

    /// Writes alone, then with a new replica to be brought level meanwhile.
    fn rebuild_beside_writes(&self) -> Result<Beside, Error> {
        let place = scratch(Some(self.dir))?;
        let volume = self.subject.volume();
        let primary = Primary::start(
            volume.log().disk(),
            &common::clock(),
            Arc::clone(volume),
            PrimaryOptions::default(),
        )?;
        let writes = Foreground::at_quarter_load(&primary, self.data)?;
        let over = AtomicBool::new(false);
        let rest = || {
            edge::pause(ALONE);
            over.store(true, Ordering::Release);
        };
        let ((), alone) = edge::beside(rest, || writes.run(&primary, &over));
        primary.shutdown();
        let options = PrimaryOptions {
            rebuild_full: true,
            ..PrimaryOptions::default()
        };
        let at = (&self.disk, &*place.path().join("replica"));
        let during = |primary: &Primary, over: &AtomicBool| writes.run(primary, over);
        let (level, during) = level::bring_beside(volume, at, options, during)?;
        volume.commit_best_effort()?;
        self.subject.drain()?;
        Ok(Beside {
            per_second: writes.per_second(),
            alone: alone?,
            during,
            level,
        })
    }

    fn rebuild(&self, place: &TempDir) -> Result<Level, Error> {
        let dir = place.path().join("replica");
        let level = level::bring(self.subject.volume(), (&self.disk, &dir), true)?;
        match level.record.source.as_str() {
            "full base" => Ok(level),
            other => Err(Error::Usage(format!(
                "the replica took {other}, and no full base"
            ))),
        }
    }

    /// One block in each of some chunks, captured.
    fn change(&self, round: u64) -> Result<(), Error> {
        let chunks = self.data.div_ceil(CHUNK_BYTES);
        let count = (chunks / CHANGED).max(1);
        let places = Places::over(self.data, count * BLOCK.bytes(), BLOCK.bytes_usize())?;
        let done = std::sync::atomic::AtomicU64::new(round * places.count);
        let (until, rising) = (Until::Done(places.count), Order::Rising(&done));
        self.subject
            .writes(1, until, &places, rising, Durability::Volatile)?;
        // The primary that decided what is committed has ended.
        self.subject.volume().commit_best_effort()?;
        self.subject.drain()
    }

    /// `nbdcopy` of the file to a new one; seconds.
    fn copy(&self, source: &Path) -> Result<f64, Error> {
        forget(source)?;
        let place = scratch(Some(self.dir))?;
        let target = place.path().join("target");
        lengthen(&target, self.args.volume_size)?;
        let server = |file: &Path| -> Vec<std::ffi::OsString> {
            let words = ["[", "nbdkit", "--exit-with-parent", "file"];
            let mut words: Vec<_> = words.iter().map(|word| OsStr::new(word).into()).collect();
            words.push(file.into());
            words.push("]".into());
            words
        };
        let mut nbdcopy = Command::new("nbdcopy");
        nbdcopy.arg("--flush").arg("--");
        nbdcopy.args(server(source)).args(server(&target));
        let begun = edge::now();
        let output = nbdcopy.stdin(Stdio::null()).output()?;
        let elapsed = begun.elapsed();
        match output.status.success() {
            true => Ok(elapsed.as_secs_f64()),
            false => Err(failed("nbdcopy", &output)),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "rates for people to read")]
    fn report(&self, yielded: &Yield, lacking: Option<&str>, device: &Device) -> Value {
        let seconds = |levels: &[Level]| -> Vec<f64> {
            let seconds = levels.iter().map(|level| level.elapsed.as_secs_f64());
            seconds.collect()
        };
        let moved = |levels: &[Level]| {
            let bytes = levels.iter().map(|level| level.record.bytes as f64);
            Spread::of(bytes).median
        };
        let median = |seconds: &[f64]| Spread::of(seconds.iter().copied()).median;
        let (full, again) = (seconds(&yielded.full), seconds(&yielded.again));
        let rate = |seconds: f64| rounded(report::megabytes(1.0 / seconds, to_usize(self.data)));
        let mut fields = Map::new();
        report::join(
            &mut fields,
            json!({
                "work": "rebuild",
                "backend": self.disk.backend(),
                "device": device.name,
                "volume_bytes": self.args.volume_size,
                "data_bytes": self.data,
                "segment_bytes": self.args.run.segment_size,
                "seconds_full": rounded(median(&full)),
                "mb_per_s": rate(median(&full)),
                "moved_bytes": moved(&yielded.full),
                "seconds_again": rounded(median(&again)),
                "again_moved_bytes": moved(&yielded.again),
                "again_share": rounded(moved(&yielded.again) / self.data as f64),
                "floor_lacking": lacking,
                "turns": self.args.run.turns,
            }),
        );
        let beside = &yielded.beside;
        let p99 = |turn: &Turn| turn.microseconds(990);
        let each =
            |figure: &dyn Fn(&Beside) -> f64| -> Vec<f64> { beside.iter().map(figure).collect() };
        let seconds_beside = each(&|one| one.level.elapsed.as_secs_f64());
        report::join(
            &mut fields,
            json!({
                "foreground_per_s": rounded(median(&each(&|one| one.per_second))),
                "foreground_alone_p99_us": rounded(median(&each(&|one| p99(&one.alone)))),
                "foreground_p99_us": rounded(median(&each(&|one| p99(&one.during)))),
                "beside_mb_per_s": rate(median(&seconds_beside)),
            }),
        );
        let ratios = beside.iter().map(|one| (p99(&one.during), p99(&one.alone)));
        report::put_spread(
            &mut fields,
            "foreground_p99_ratio",
            Spread::of_ratios(ratios),
        );
        let kept = full.iter().copied().zip(seconds_beside);
        report::put_spread(&mut fields, "beside_share", Spread::of_ratios(kept));
        if !yielded.copies.is_empty() {
            let copy = median(&yielded.copies);
            fields.insert("floor_seconds".into(), json!(rounded(copy)));
            fields.insert("floor_mb_per_s".into(), json!(rate(copy)));
            let pairs = yielded.copies.iter().copied().zip(full);
            report::put_spread(&mut fields, "ratio", Spread::of_ratios(pairs));
        }
        Value::Object(fields)
    }
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "rebuild of a volume of {volume_bytes} bytes, {data_bytes} of it data, over loopback; \
         {backend} on {device}",
        "new replica: {seconds_full} s, {mb_per_s} MB/s, {moved_bytes} bytes sent",
        "the same with one chunk of a hundred changed: {seconds_again} s, {again_moved_bytes} \
         bytes sent, {again_share} of the data",
        "beside {foreground_per_s} durable writes a second: {beside_mb_per_s} MB/s, {beside_share} \
         ({beside_share_min} to {beside_share_max}) of the rate without them",
        "their p99: {foreground_alone_p99_us} us alone, {foreground_p99_us} us meanwhile; ratio \
         {foreground_p99_ratio} ({foreground_p99_ratio_min} to {foreground_p99_ratio_max})",
        "nbdcopy between two file servers {floor_seconds} s, {floor_mb_per_s} MB/s; ratio {ratio} \
         ({ratio_min} to {ratio_max})",
        "no floor: {floor_lacking}",
    ];
    report::print(result, &lines, out)
}
