//! `seawall bench checkpoint`: captures of random and of sequential blocks beside raw batches.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use seawall_snapshot::{Durability, block_sum};
use seawall_wal::disk::{Disk, open_backend};
use serde_json::{Map, Value, json};

use super::counting::{Counters, Counting};
use super::device::Device;
use super::floor::BatchFloor;
use super::paired::Spread;
use super::places::{Places, Shuffled};
use super::report::{self, rounded};
use super::subject::{BLOCK, Order, Sizes, Subject};
use super::turn::{Turn, Until, turn};
use super::{Run, incompressible, scratch, to_usize};
use crate::common::parse_size;
use crate::edge;
use crate::error::Error;

/// Rounds that are made even when the time is over.
const ROUNDS_LEAST: u32 = 3;
/// Writes that the floor has in flight: single blocks, or pieces of a run.
const FLOOR_DEPTH: u32 = 16;
const PIECE_BYTES: usize = 1 << 20;
/// Bytes that are summed at once to learn what a sum costs.
const SUMMED_BYTES: usize = 1 << 20;

/// Captures of a log that touches each of its blocks once, of an image that holds data already:
/// blocks at random places, and one run. The floor is O_DIRECT writes of the same places in their
/// order, 16 in flight (of the run 1 MiB each), and one fdatasync. An operation is one capture, and
/// its records are blocks; the figures of the first level are those of random places. Rounds end
/// with the time, but there are three at least.
#[derive(Debug, clap::Args)]
#[command(mut_arg("callers", |callers| callers.default_value("16")))]
#[command(mut_arg("seconds", |seconds| seconds.default_value("30")))]
pub struct Checkpoint {
    /// How it is run; callers write the log
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the volume
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub volume_size: u64,
    /// Bytes that one capture touches
    #[arg(long, default_value = "128M", value_parser = parse_size)]
    pub touched: u64,
}

/// What the captures of one kind of set yielded.
#[derive(Default)]
struct Yield {
    floors: Vec<Turn>,
    captures: Vec<Turn>,
    written: Counters,
    /// Time of the digest of head, with all that the capture would touch above the checkpoint.
    digests: Vec<f64>,
}

/// One contest in one directory.
struct Contest<'a> {
    args: &'a Checkpoint,
    counting: Arc<Counting>,
    floor: BatchFloor,
    subject: Subject,
    places: Places,
    touched: u64,
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`].
pub(super) fn measure(args: &Checkpoint) -> Result<Value, Error> {
    let scratch = scratch(args.run.dir.as_deref())?;
    let contest = Contest::open(args, scratch.path())?;
    contest.subject.fill(&contest.places)?;
    let (mut random, mut run) = (Yield::default(), Yield::default());
    let (begun, time) = (edge::now(), Duration::from_secs(args.run.seconds));
    for round in 0..args.run.turns {
        contest.random(u64::from(round), &mut random)?;
        contest.run(u64::from(round), &mut run)?;
        if begun.elapsed() >= time && round + 1 >= ROUNDS_LEAST {
            break;
        }
    }
    let result = contest.report(&random, &run, &Device::below(scratch.path()))?;
    contest.subject.volume().close()?;
    Ok(result)
}

impl Contest<'_> {
    fn open<'a>(args: &'a Checkpoint, dir: &Path) -> Result<Contest<'a>, Error> {
        if args.run.size != BLOCK.bytes_usize() {
            let block = BLOCK.bytes();
            let size = args.run.size;
            return Err(Error::Usage(format!(
                "--size {size} is no block; a capture is measured in blocks of {block}"
            )));
        }
        let sizes = Sizes {
            volume_bytes: args.volume_size,
            segment_bytes: args.run.segment_size,
            log_bytes: Some(0),
        };
        let places = Places::over(args.volume_size, args.volume_size, args.run.size)?;
        let touched = args.touched / args.run.size as u64;
        if touched == 0 || touched > places.count {
            return Err(Error::Usage(format!(
                "--touched {} is no part of a volume of {} bytes",
                args.touched, args.volume_size
            )));
        }
        let counting = Counting::over(open_backend(args.run.backend.into())?, true);
        let disk: Arc<dyn Disk> = counting.clone();
        Ok(Contest {
            args,
            floor: BatchFloor::over(dir, args.volume_size)?,
            subject: Subject::create(&disk, &dir.join("volume"), sizes)?,
            counting,
            places,
            touched,
        })
    }

    fn random(&self, round: u64, yielded: &mut Yield) -> Result<(), Error> {
        let first = round * self.touched;
        // The order in which the volume is written to.
        let shuffled = Shuffled::below(self.places.count, self.args.volume_size);
        let numbers = (first..first + self.touched).map(|index| shuffled.at(index));
        let mut offsets: Vec<u64> = numbers.map(|number| self.places.offset(number)).collect();
        offsets.sort_unstable();
        let floor = self.floor.batch(FLOOR_DEPTH, &offsets, self.places.bytes)?;
        yielded.floors.push(self.in_blocks(floor));
        let done = AtomicU64::new(first);
        self.capture(&self.places, Order::Once(&done), yielded)
    }

    fn run(&self, round: u64, yielded: &mut Yield) -> Result<(), Error> {
        let starts = self.places.count / self.touched;
        let first = round % starts * self.touched;
        let places = self.places.part(first..first + self.touched);
        let piece = PIECE_BYTES.min(to_usize(self.touched * places.bytes as u64));
        let end = places.offset(self.touched);
        let offsets: Vec<u64> = (places.offset(0)..end).step_by(piece).collect();
        let offsets: Vec<u64> = offsets
            .iter()
            .map(|at| *at.min(&(end - piece as u64)))
            .collect();
        let floor = self.floor.batch(FLOOR_DEPTH, &offsets, piece)?;
        yielded.floors.push(self.in_blocks(floor));
        self.capture(&places, Order::Rising(&AtomicU64::new(0)), yielded)
    }

    #[expect(clippy::cast_precision_loss, reason = "a count for rates")]
    fn in_blocks(&self, turn: Turn) -> Turn {
        turn.with_records_each(self.touched as f64)
    }

    /// Writes the log, then captures all of it.
    fn capture(&self, places: &Places, order: Order<'_>, yielded: &mut Yield) -> Result<(), Error> {
        let (callers, until) = (self.args.run.callers, Until::Done(self.touched));
        self.subject
            .writes(callers, until, places, order, Durability::Volatile)?;
        let volume = self.subject.volume();
        let durable = volume.flush()?;
        let begun = edge::now();
        volume.digest_at(durable)?;
        yielded.digests.push(begun.elapsed().as_secs_f64() * 1e3);
        let before = self.counting.counters();
        let capture = turn(1, 1, Until::Done(1), |_| {
            || Ok(volume.checkpoint(None).map(drop)?)
        })?;
        yielded.captures.push(self.in_blocks(capture));
        yielded.written = yielded.written.plus(self.counting.counters().since(before));
        self.subject.drain()
    }

    fn report(&self, random: &Yield, run: &Yield, device: &Device) -> Result<Value, Error> {
        let mut fields = self.figures(random);
        for (name, value) in self.figures(run) {
            fields.insert(format!("sequential_{name}"), value);
        }
        let sums = sums(self.args.run.turn_time(10, 0))?;
        let capture = Turn::all(&random.captures);
        // Of a processor, while the capture runs.
        let share = capture.per_second() / sums.per_second();
        report::join(
            &mut fields,
            json!({
                "work": "checkpoint",
                "backend": self.counting.backend(),
                "device": device.name,
                "callers": self.args.run.callers,
                "in_flight": 1,
                "record_bytes": self.args.run.size,
                "segment_bytes": self.args.run.segment_size,
                "volume_bytes": self.args.volume_size,
                "touched_bytes": self.args.touched,
                "block_sums_per_s": rounded(sums.per_second()),
                "block_sum_share": rounded(share),
                "rounds": random.captures.len(),
                "seconds": self.args.run.seconds,
                "turns": self.args.run.turns,
            }),
        );
        Ok(Value::Object(fields))
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn figures(&self, yielded: &Yield) -> Map<String, Value> {
        let all = Turn::all(&yielded.captures);
        let mut fields = report::rates(&all, self.args.run.size);
        let captured = all.records() * self.args.run.size as f64;
        let floor = Turn::all(&yielded.floors);
        let ratio = report::ratio(&yielded.captures, &yielded.floors);
        report::put_spread(&mut fields, "ratio", ratio);
        let written = yielded.written;
        report::join(
            &mut fields,
            json!({
                "floor_per_s": rounded(floor.per_second()),
                "floor_drift": report::drift(&yielded.floors),
                "digest_of_head_ms": rounded(Spread::of(yielded.digests.iter().copied()).median),
                "syncs_per_record": rounded(written.syncs as f64 / all.records()),
                "bytes_written_per_byte": rounded(written.bytes as f64 / captured),
                "sum_bytes_per_byte": rounded(written.sums as f64 / captured),
            }),
        );
        fields
    }
}

/// What it costs to sum blocks that lie in memory, on one processor.
fn sums(time: Duration) -> Result<Turn, Error> {
    let bytes = incompressible(SUMMED_BYTES);
    let blocks = || bytes.chunks(BLOCK.bytes_usize());
    let turn = turn(1, 1, Until::Elapsed(time), |_| {
        || {
            for block in blocks() {
                std::hint::black_box(block_sum(block));
            }
            Ok(())
        }
    })?;
    let each = u32::try_from(blocks().len()).unwrap_or(u32::MAX);
    Ok(turn.with_records_each(f64::from(each)))
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "capture of {touched_bytes} bytes into a volume of {volume_bytes}; {backend} on {device}",
        "random blocks: {records_per_s} blocks/s, {mb_per_s} MB/s, {p50_us} us a capture; \
         {bytes_written_per_byte} bytes written per byte, {sum_bytes_per_byte} of them sums",
        "floor of the same places {floor_per_s} blocks/s, drifted by {floor_drift}; ratio {ratio} \
         ({ratio_min} to {ratio_max})",
        "one run: {sequential_records_per_s} blocks/s, {sequential_mb_per_s} MB/s, \
         {sequential_bytes_written_per_byte} bytes written per byte",
        "floor of the same run {sequential_floor_per_s} blocks/s; ratio {sequential_ratio} \
         ({sequential_ratio_min} to {sequential_ratio_max})",
        "digest of head with all of it above the checkpoint: random {digest_of_head_ms} ms, one \
         run {sequential_digest_of_head_ms} ms",
        "a processor sums {block_sums_per_s} blocks/s: {block_sum_share} of one during a capture \
         of random blocks",
    ];
    report::print(result, &lines, out)
}
