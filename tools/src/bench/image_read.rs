//! `seawall bench image-read`: checked reads of a volume beside raw reads of its image.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use seawall_snapshot::{Access, Durability};
use seawall_wal::disk::{Disk, open_backend};
use serde_json::{Map, Value, json};

use super::device::{Device, forget};
use super::floor_read::ReadFloor;
use super::places::{Places, Shuffled};
use super::report::{self, rounded};
use super::subject::{Order, Sizes, Subject, image_files};
use super::turn::{Turn, Until, turn};
use super::write::check_request;
use super::{Run, scratch};
use crate::common::parse_size;
use crate::error::Error;

/// Threads that write what is read later, and that bring it into the page cache.
const WRITERS: u32 = 16;
const READERS: u32 = 16;

/// Reads of one request each at random places: of blocks that lie in the image, in the log, and in
/// either by turns. The floor is O_DIRECT reads of the same places of the image, at the same depth.
/// Everything is read by one thread and by as many as there are callers. "cold" has nothing in the
/// page cache and the volume just opened, "sums" has the sums of the image cached and no block,
/// "warm" has everything cached. The figures of the first level are those of the image with its
/// sums cached, for all callers; `paths` has all of them.
#[derive(Debug, clap::Args)]
#[command(mut_arg("callers", |callers| callers.default_value("16")))]
#[command(mut_arg("seconds", |seconds| seconds.default_value("30")))]
pub struct ImageRead {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the image that hold data
    #[arg(long, default_value = "2G", value_parser = parse_size)]
    pub image_size: u64,
    /// Bytes of the volume over which they are spread, if it is to be larger
    #[arg(long, value_parser = parse_size)]
    pub volume_size: Option<u64>,
    /// Bytes of these that are newer in the log
    #[arg(long, default_value = "256M", value_parser = parse_size)]
    pub log_size: u64,
}

/// Where the newest version of what is read lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Image,
    Log,
    Mixed,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Image => "image",
            Source::Log => "log",
            Source::Mixed => "mixed",
        }
    }
}

/// What is in the page cache when a turn begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    Cold,
    Sums,
    Warm,
}

impl Cache {
    fn name(self) -> &'static str {
        match self {
            Cache::Cold => "cold",
            Cache::Sums => "sums",
            Cache::Warm => "warm",
        }
    }
}

/// One way to read, and the turns it had.
struct Contender {
    source: Source,
    cache: Cache,
    depth: u32,
    turns: Vec<Turn>,
}

impl Contender {
    /// The main one first, and what is warm behind all that is not.
    fn all(depths: &[u32]) -> Vec<Contender> {
        let ways = [
            (Source::Image, Cache::Sums),
            (Source::Image, Cache::Cold),
            (Source::Log, Cache::Cold),
            (Source::Mixed, Cache::Cold),
            (Source::Image, Cache::Warm),
            (Source::Log, Cache::Warm),
            (Source::Mixed, Cache::Warm),
        ];
        let ways = ways
            .iter()
            .flat_map(|way| depths.iter().rev().map(move |depth| (way, depth)));
        ways.map(|((source, cache), depth)| Contender {
            source: *source,
            cache: *cache,
            depth: *depth,
            turns: Vec::new(),
        })
        .collect()
    }
}

/// One contest in one directory.
struct Contest<'a> {
    args: &'a ImageRead,
    disk: Arc<dyn Disk>,
    dir: &'a Path,
    sizes: Sizes,
    /// Places whose newest version lies in the image.
    image: Places,
    /// Places whose newest version lies in the log.
    log: Places,
    /// Files that hold records.
    log_files: Vec<PathBuf>,
    floor: ReadFloor,
    depths: Vec<u32>,
    until: Until,
    /// The turns of the floor at each depth.
    floors: Vec<Vec<Turn>>,
    contenders: Vec<Contender>,
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`].
pub(super) fn measure(args: &ImageRead) -> Result<Value, Error> {
    let scratch = scratch(args.run.dir.as_deref())?;
    let dir = scratch.path().join("volume");
    let mut contest = Contest::build(args, &dir)?;
    for _ in 0..args.run.turns {
        contest.round()?;
    }
    contest.report(&Device::below(scratch.path()))
}

impl Contest<'_> {
    fn build<'a>(args: &'a ImageRead, dir: &'a Path) -> Result<Contest<'a>, Error> {
        check_request(args.run.size)?;
        let sizes = Sizes {
            volume_bytes: args.volume_size.unwrap_or(args.image_size),
            segment_bytes: args.run.segment_size,
            log_bytes: Some(0),
        };
        let places = Places::over(sizes.volume_bytes, args.image_size, args.run.size)?;
        let newer = args.log_size / args.run.size as u64;
        if newer == 0 || newer >= places.count {
            return Err(Error::Usage(format!(
                "--log-size {} is no part of an image of {} bytes; give both reads something",
                args.log_size, args.image_size
            )));
        }
        let older = places.count - newer;
        let (image, log) = (places.part(0..older), places.part(older..places.count));
        let disk = open_backend(args.run.backend.into())?;
        let log_files = write(&disk, dir, sizes, &places, &log)?;
        let mut depths = vec![1, args.run.callers];
        depths.dedup();
        let contenders = Contender::all(&depths);
        let turns = u32::try_from(contenders.len() + depths.len()).unwrap_or(u32::MAX);
        let [blocks, _] = image_files(dir);
        Ok(Contest {
            floor: ReadFloor::open(&[(blocks, sizes.volume_bytes)])?,
            until: Until::Elapsed(args.run.turn_time(turns, 0)),
            floors: vec![Vec::new(); depths.len()],
            args,
            disk,
            dir,
            sizes,
            image,
            log,
            log_files,
            depths,
            contenders,
        })
    }

    fn round(&mut self) -> Result<(), Error> {
        for (depth, turns) in self.depths.iter().zip(&mut self.floors) {
            let round = turns.len();
            let offsets = |index| walk(&self.image, index, *depth, round);
            turns.push(
                self.floor
                    .at(*depth, self.args.run.size, self.until, offsets)?,
            );
        }
        let mut warm: Option<Subject> = None;
        for place in 0..self.contenders.len() {
            let contender = &self.contenders[place];
            let subject = match (contender.cache, warm.take()) {
                (Cache::Warm, Some(subject)) => subject,
                (cache, other) => {
                    // Nobody may have the files open: what is mapped stays in the cache.
                    drop(other);
                    self.open(cache)?
                }
            };
            let turn = self.turn(&subject, contender)?;
            self.contenders[place].turns.push(turn);
            warm = Some(subject);
        }
        Ok(())
    }

    /// Opens the volume with so much of it in the page cache.
    fn open(&self, cache: Cache) -> Result<Subject, Error> {
        let [blocks, sums] = image_files(self.dir);
        let all = self.log_files.iter().chain([&blocks, &sums]);
        match cache {
            Cache::Cold => all.into_iter().try_for_each(|path| forget(path))?,
            Cache::Sums => {
                self.warm()?;
                forget(&blocks)?;
            }
            Cache::Warm => self.warm()?,
        }
        self.reopen()
    }

    fn reopen(&self) -> Result<Subject, Error> {
        Subject::open(&self.disk, self.dir, self.sizes, Access::Maintain)
    }

    /// Reads every place once.
    fn warm(&self) -> Result<(), Error> {
        let subject = self.reopen()?;
        for places in [&self.image, &self.log] {
            turn(READERS, 1, Until::Done(places.count), |index| {
                let mut next = walk(places, index, READERS, 0);
                let mut bytes = vec![0; places.bytes];
                let subject = &subject;
                move || Ok(subject.volume().read(next(), &mut bytes)?)
            })?;
        }
        Ok(())
    }

    fn turn(&self, subject: &Subject, contender: &Contender) -> Result<Turn, Error> {
        let (depth, round) = (contender.depth, contender.turns.len());
        turn(depth, 1, self.until, |index| {
            let mut image = walk(&self.image, index, depth, round);
            let mut log = walk(&self.log, index, depth, round);
            let mut bytes = vec![0; self.args.run.size];
            let mut from_log = index % 2 == 0;
            move || {
                from_log = !from_log;
                let offset = match contender.source {
                    Source::Image => image(),
                    Source::Log => log(),
                    Source::Mixed if from_log => log(),
                    Source::Mixed => image(),
                };
                Ok(subject.volume().read(offset, &mut bytes)?)
            }
        })
    }

    fn report(&self, device: &Device) -> Result<Value, Error> {
        let paths: Vec<Map<String, Value>> = self
            .contenders
            .iter()
            .map(|contender| {
                let mut fields = self.figures(contender);
                let named = json!({
                    "source": contender.source.name(),
                    "cache": contender.cache.name(),
                    "callers": contender.depth,
                });
                report::join(&mut fields, named);
                fields
            })
            .collect();
        let mut fields = paths.first().cloned().unwrap_or_default();
        let floors = self.floors.last();
        report::join(
            &mut fields,
            json!({
                "work": "image-read",
                "backend": self.disk.backend(),
                "device": device.name,
                "in_flight": 1,
                "record_bytes": self.args.run.size,
                "volume_bytes": self.sizes.volume_bytes,
                "image_bytes": self.args.image_size,
                "log_bytes": self.args.log_size,
                "syncs_per_record": 0,
                "bytes_written_per_byte": 0,
                "floor_drift": floors.map(|floors| report::drift(floors)),
                "seconds": self.args.run.seconds,
                "turns": self.args.run.turns,
                "paths": paths,
            }),
        );
        Ok(Value::Object(fields))
    }

    fn figures(&self, contender: &Contender) -> Map<String, Value> {
        let floors = self
            .depths
            .iter()
            .position(|depth| *depth == contender.depth);
        let floors = floors.map_or(&[][..], |place| &self.floors[place]);
        let mut fields = report::rates(&Turn::all(&contender.turns), self.args.run.size);
        let floor = Turn::all(floors);
        fields.insert("floor_per_s".into(), json!(rounded(floor.per_second())));
        fields.insert(
            "floor_p99_us".into(),
            json!(rounded(floor.microseconds(990))),
        );
        report::put_spread(
            &mut fields,
            "ratio",
            report::ratio(&contender.turns, floors),
        );
        fields
    }
}

/// Where requests `index`, `index + callers` and so on of a shuffled walk go: no place comes twice
/// before all were there.
fn walk(places: &Places, index: usize, callers: u32, round: usize) -> impl FnMut() -> u64 {
    let (places, shuffled) = (*places, Shuffled::below(places.count, round as u64));
    let mut next = index as u64;
    move || {
        let number = shuffled.at(next);
        next += u64::from(callers);
        places.offset(number)
    }
}

/// Fills the image, writes a part of it anew into the log, and closes the volume. Gives the files
/// that hold records.
fn write(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    sizes: Sizes,
    places: &Places,
    newer: &Places,
) -> Result<Vec<PathBuf>, Error> {
    let subject = Subject::create(disk, dir, sizes)?;
    subject.fill(places)?;
    let done = AtomicU64::new(0);
    let (until, once) = (Until::Done(newer.count), Order::Once(&done));
    subject.writes(WRITERS, until, newer, once, Durability::Volatile)?;
    subject.volume().close()?;
    Ok(subject.log_files())
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "checked read of {record_bytes} bytes at random places, image of {image_bytes} bytes in a \
         volume of {volume_bytes}, {log_bytes} of it newer in the log; {backend} on {device}",
        "image, its sums cached, {callers} callers: {records_per_s} records/s, {mb_per_s} MB/s; \
         p50 {p50_us} us, p99 {p99_us} us, p99.9 {p999_us} us",
        "floor of the same image {floor_per_s} records/s, drifted by {floor_drift}; ratio {ratio} \
         ({ratio_min} to {ratio_max})",
    ];
    report::print(result, &lines, out)?;
    for path in result["paths"].as_array().into_iter().flatten() {
        let line = "{source}, {cache}, {callers} callers: {records_per_s} records/s, p50 {p50_us} \
                    us, p99 {p99_us} us; ratio {ratio} ({ratio_min} to {ratio_max})";
        report::print(path, &[line], out)?;
    }
    Ok(())
}
