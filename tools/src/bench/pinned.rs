//! `seawall bench pinned`: what a pinned base costs those who write meanwhile.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_snapshot::{Chunk, Chunks, Durability, Error as VolumeError, View, read_chunk};
use seawall_wal::Error as WalError;
use seawall_wal::disk::{Disk, open_backend};
use serde_json::{Map, Value, json};

use super::counting::Counting;
use super::device::Device;
use super::paired::Spread;
use super::places::Places;
use super::report::{self, rounded};
use super::subject::{Order, Sizes, Subject};
use super::turn::{Turn, Until};
use super::write::check_request;
use super::{Run, scratch};
use crate::common::parse_size;
use crate::edge;
use crate::error::Error;

/// Durable writes at random places of a volume whose image is full, three times in each round:
/// without a pin, with a pinned base that nobody reads, and with one that a thread streams in
/// chunks, again and again, as fast as it goes. The time of a turn ends when its background has
/// nothing left to do; `writing_ratio` is without that time. The figures of the first level are
/// those with the idle base, and its floor is the volume without a pin.
#[derive(Debug, clap::Args)]
#[command(mut_arg("callers", |callers| callers.default_value("16")))]
#[command(mut_arg("seconds", |seconds| seconds.default_value("40")))]
pub struct Pinned {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the volume
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub volume_size: u64,
    /// Bytes that are written again and again, spread over the volume
    #[arg(long, default_value = "256M", value_parser = parse_size)]
    pub working_set: u64,
    /// Retained log above which the background captures; what such a volume does otherwise
    #[arg(long, value_parser = parse_size)]
    pub log_size: Option<u64>,
}

/// What lies on the base of a volume while it is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Burden {
    None,
    Idle,
    Streamed,
}

/// The turns of one burden.
#[derive(Default)]
struct Yield {
    /// Until the last write was durable.
    writing: Vec<Turn>,
    /// Until the background was at rest.
    settled: Vec<Turn>,
    /// Bytes kept for the pin.
    preserved: u64,
    /// What was read from the pin.
    streamed: Streamed,
}

/// What a reader took from a pinned base.
#[derive(Clone, Copy, Debug, Default)]
struct Streamed {
    bytes: u64,
    time: Duration,
    /// Pins that gave way.
    broken: u64,
}

struct Contest<'a> {
    args: &'a Pinned,
    counting: Arc<Counting>,
    places: Places,
    subject: Subject,
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`].
pub(super) fn measure(args: &Pinned) -> Result<Value, Error> {
    let scratch = scratch(args.run.dir.as_deref())?;
    let contest = Contest::open(args, scratch.path())?;
    contest.subject.warm_up(&contest.places)?;
    let burdens = [Burden::None, Burden::Idle, Burden::Streamed];
    let mut yielded = burdens.map(|_| Yield::default());
    for _ in 0..args.run.turns {
        for (burden, yielded) in burdens.iter().zip(&mut yielded) {
            contest.turn(*burden, yielded)?;
        }
    }
    let result = contest.report(&yielded, &Device::below(scratch.path()));
    contest.subject.volume().close()?;
    Ok(result)
}

impl Contest<'_> {
    fn open<'a>(args: &'a Pinned, dir: &Path) -> Result<Contest<'a>, Error> {
        check_request(args.run.size)?;
        let sizes = Sizes {
            volume_bytes: args.volume_size,
            segment_bytes: args.run.segment_size,
            log_bytes: args.log_size,
        };
        let places = Places::over(args.volume_size, args.working_set, args.run.size)?;
        let counting = Counting::over(open_backend(args.run.backend.into())?, true);
        let disk: Arc<dyn Disk> = counting.clone();
        let subject = Subject::create(&disk, &dir.join("volume"), sizes)?;
        subject.fill(&Places::over(
            args.volume_size,
            args.volume_size,
            args.run.size,
        )?)?;
        Ok(Contest {
            args,
            counting,
            places,
            subject,
        })
    }

    fn turn(&self, burden: Burden, yielded: &mut Yield) -> Result<(), Error> {
        let volume = self.subject.volume();
        let pin = match burden {
            Burden::None => None,
            Burden::Idle | Burden::Streamed => {
                Some(volume.pin_base(volume.log().frontiers().durable, "bench")?)
            }
        };
        let over = &AtomicBool::new(false);
        let stream = || match (&pin, burden) {
            (Some(pin), Burden::Streamed) => stream(pin, over),
            _ => Ok(Streamed::default()),
        };
        let before = self.counting.counters();
        let (streamed, turn) = edge::beside(stream, || {
            let turn = self.writes();
            over.store(true, Ordering::Release);
            turn
        });
        let turn = turn?;
        let rest = self.subject.settle()?;
        yielded.preserved += self.counting.counters().since(before).preserved;
        yielded.streamed.add(streamed?);
        drop(pin);
        // What a pin has held back is no debt of the next turn.
        self.subject.settle()?;
        yielded.writing.push(turn.clone());
        yielded.settled.push(turn.lasting(rest));
        Ok(())
    }

    fn writes(&self) -> Result<Turn, Error> {
        let run = &self.args.run;
        let until = Until::Elapsed(run.turn_time(3, 0));
        let (places, durable) = (&self.places, Durability::Durable);
        self.subject
            .writes(run.callers, until, places, Order::Random, durable)
    }

    fn report(&self, yielded: &[Yield; 3], device: &Device) -> Value {
        let [free, idle, streamed] = yielded;
        let mut fields = self.figures(idle, free);
        for (name, value) in self.figures(streamed, free) {
            fields.insert(format!("streamed_{name}"), value);
        }
        for (name, value) in report::rates(&Turn::all(&free.writing), self.args.run.size) {
            fields.insert(format!("unpinned_{name}"), value);
        }
        let stream = &streamed.streamed;
        report::join(
            &mut fields,
            json!({
                "work": "pinned",
                "backend": self.counting.backend(),
                "device": device.name,
                "callers": self.args.run.callers,
                "in_flight": 1,
                "record_bytes": self.args.run.size,
                "segment_bytes": self.args.run.segment_size,
                "volume_bytes": self.args.volume_size,
                "working_set_bytes": self.places.count * self.args.run.size as u64,
                "log_bytes": self.subject.log_bytes(),
                "floor_per_s": rounded(Turn::all(&free.settled).per_second()),
                "floor_drift": report::drift(&free.settled),
                "stream_mb_per_s": rounded(stream.megabytes_per_second()),
                "streams_broken": stream.broken,
                "seconds": self.args.run.seconds,
                "turns": self.args.run.turns,
            }),
        );
        Value::Object(fields)
    }

    /// A burden against none.
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn figures(&self, burdened: &Yield, free: &Yield) -> Map<String, Value> {
        let all = Turn::all(&burdened.writing);
        let mut fields = report::rates(&all, self.args.run.size);
        let mut put = |name: &str, ratios| report::put_spread(&mut fields, name, ratios);
        put("ratio", report::ratio(&burdened.settled, &free.settled));
        put(
            "writing_ratio",
            report::ratio(&burdened.writing, &free.writing),
        );
        put("p99_ratio", latencies(burdened, free, 990));
        put("p999_ratio", latencies(burdened, free, 999));
        let accepted = all.records() * self.args.run.size as f64;
        let preserved = burdened.preserved as f64 / accepted;
        fields.insert("preserved_bytes_per_byte".into(), json!(rounded(preserved)));
        fields
    }
}

/// How the latencies that `permille` do not exceed compare, round by round.
fn latencies(ours: &Yield, theirs: &Yield, permille: u64) -> Spread {
    let each = |turns: &[Turn]| -> Vec<f64> {
        turns
            .iter()
            .map(|turn| turn.microseconds(permille))
            .collect()
    };
    Spread::of_ratios(each(&ours.writing).into_iter().zip(each(&theirs.writing)))
}

impl Streamed {
    fn add(&mut self, more: Streamed) {
        self.bytes += more.bytes;
        self.time += more.time;
        self.broken += more.broken;
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    fn megabytes_per_second(&self) -> f64 {
        match self.time.is_zero() {
            true => 0.0,
            false => self.bytes as f64 / 1e6 / self.time.as_secs_f64(),
        }
    }
}

/// Reads a base in chunks, from its first to its last and over again, until told that it is over.
fn stream(pin: &dyn View, over: &AtomicBool) -> Result<Streamed, Error> {
    let begun = edge::now();
    let mut streamed = Streamed::default();
    'passes: loop {
        for chunk in Chunks::of(pin) {
            let read = chunk.and_then(|chunk| match chunk {
                Chunk::Data { index, .. } => read_chunk(pin, index).map(Some),
                Chunk::Zero { .. } => Ok(None),
            });
            match read {
                Ok(Some((bytes, digest))) => {
                    std::hint::black_box(digest);
                    streamed.bytes += bytes.len() as u64;
                }
                Ok(None) => {}
                // Under pressure a pin gives way and says so: that is a result.
                Err(VolumeError::Log(WalError::PinBroken { .. })) => {
                    streamed.broken = 1;
                    break 'passes;
                }
                Err(error) => return Err(error.into()),
            }
            if over.load(Ordering::Acquire) {
                break 'passes;
            }
        }
    }
    streamed.time = begun.elapsed();
    Ok(streamed)
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "write of {record_bytes} bytes, durable, {callers} callers, volume of {volume_bytes} \
         bytes, {working_set_bytes} of it written; {backend} on {device}",
        "no pin: {unpinned_records_per_s} records/s while they wrote, {floor_per_s} until all was \
         captured, drifted by {floor_drift}; p50 {unpinned_p50_us} us, p99 {unpinned_p99_us} us, \
         p99.9 {unpinned_p999_us} us",
        "idle base: {records_per_s} records/s, p50 {p50_us} us, p99 {p99_us} us, p99.9 {p999_us} \
         us; {preserved_bytes_per_byte} bytes kept per byte",
        "ratio {ratio} ({ratio_min} to {ratio_max}), while writing {writing_ratio} \
         ({writing_ratio_min} to {writing_ratio_max}); of the p99 {p99_ratio} ({p99_ratio_min} to \
         {p99_ratio_max})",
        "streamed base, {stream_mb_per_s} MB/s, {streams_broken} gave way: \
         {streamed_records_per_s} records/s, p50 {streamed_p50_us} us, p99 {streamed_p99_us} us, \
         p99.9 {streamed_p999_us} us",
        "ratio {streamed_ratio} ({streamed_ratio_min} to {streamed_ratio_max}), while writing \
         {streamed_writing_ratio} ({streamed_writing_ratio_min} to {streamed_writing_ratio_max}); \
         of the p99 {streamed_p99_ratio} ({streamed_p99_ratio_min} to {streamed_p99_ratio_max})",
    ];
    report::print(result, &lines, out)
}
