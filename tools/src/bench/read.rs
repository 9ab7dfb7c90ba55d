//! `seawall bench read`: records and ranges at random places, mapped and read, beside raw reads.

use std::io::Write;

use seawall_wal::disk::Disk;
use seawall_wal::{LogMode, Lsn, LsnRange};
use serde_json::{Map, Value, json};

use super::device::Device;
use super::engine::{Engine, Load};
use super::floor_read::{ReadFloor, Scatter};
use super::report::{self, rounded};
use super::stored::Stored;
use super::turn::{Turn, Until, turn};
use super::{Run, scratch};
use crate::common::parse_size;
use crate::error::Error;

/// Payload bytes of one range that is read.
const RANGE_BYTES: usize = 1 << 20;
/// Turns of one round: two floors, and two ways into the log, each with two kinds of access on a
/// cold and on a warm cache.
const TURNS_OF_A_ROUND: u32 = 10;

/// Records read by LSN and ranges of 1 MiB, at random places. The floor is O_DIRECT reads of as
/// many bytes, at random places of the same files, at the same depth. The figures of the first
/// level are those of single records on a cold cache; `paths` has all of them.
#[derive(Debug, clap::Args)]
pub struct Read {
    /// How it is run
    #[command(flatten)]
    pub run: Run,
    /// Threads of each caller, since a read is a blocking call
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub in_flight: u32,
    /// Payload bytes of the log
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub log_size: u64,
}

/// What is read at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Record,
    Range,
}

/// One way to read, and the turns it had.
struct Contender {
    maps: bool,
    access: Access,
    cold: bool,
    turns: Vec<Turn>,
}

impl Contender {
    fn all() -> Vec<Contender> {
        let mut all = Vec::new();
        for maps in [true, false] {
            for (access, cold) in [
                (Access::Record, true),
                (Access::Range, true),
                (Access::Range, false),
                (Access::Record, false),
            ] {
                all.push(Contender {
                    maps,
                    access,
                    cold,
                    turns: Vec::new(),
                });
            }
        }
        all
    }

    fn named(&self) -> Value {
        json!({
            "path": if self.maps { "map" } else { "pread" },
            "access": match self.access {
                Access::Record => "record",
                Access::Range => "range",
            },
            "cache": if self.cold { "cold" } else { "warm" },
        })
    }
}

/// Runs it.
///
/// # Errors
/// As [`super::append::measure`].
pub(super) fn measure(args: &Read) -> Result<Value, Error> {
    let scratch = scratch(args.run.dir.as_deref())?;
    let (shape, backend) = (args.run.shape()?, args.run.backend.into());
    let stored = Stored::build(scratch.path(), backend, shape, args.log_size, Load::FILL)?;
    let floor = stored.floor()?;
    let mut contest = Contest {
        args,
        floor,
        stored,
        until: Until::Elapsed(args.run.turn_time(TURNS_OF_A_ROUND, 0)),
        floors: [Vec::new(), Vec::new()],
        contenders: Contender::all(),
    };
    for _ in 0..args.run.turns {
        contest.round()?;
    }
    contest.report(&Device::below(scratch.path()))
}

struct Contest<'a> {
    args: &'a Read,
    stored: Stored,
    floor: ReadFloor,
    until: Until,
    /// Of a record, and of a range.
    floors: [Vec<Turn>; 2],
    contenders: Vec<Contender>,
}

impl Contest<'_> {
    fn threads(&self) -> u32 {
        self.args.run.callers * self.args.in_flight
    }

    fn round(&mut self) -> Result<(), Error> {
        let threads = self.threads();
        for (floors, bytes) in self
            .floors
            .iter_mut()
            .zip([self.args.run.size, RANGE_BYTES])
        {
            floors.push(self.floor.random(threads, bytes, self.until)?);
        }
        let mut open: Option<Engine> = None;
        for contender in &mut self.contenders {
            // A cold reader opens the log anew, and a warm one goes on with what it has read.
            let engine = match open.take() {
                Some(engine) if !contender.cold => engine,
                other => {
                    drop(other);
                    self.stored.forget()?;
                    self.stored.open(contender.maps, LogMode::ReadOnly)?.1
                }
            };
            if !contender.cold {
                self.floor.warm()?;
            }
            let turn = read(&engine, contender.access, threads, self.until)?;
            contender.turns.push(turn);
            open = Some(engine);
        }
        Ok(())
    }

    fn report(&self, device: &Device) -> Result<Value, Error> {
        let paths: Vec<Map<String, Value>> = self
            .contenders
            .iter()
            .map(|contender| {
                let mut fields = self.figures(contender);
                report::join(&mut fields, contender.named());
                fields
            })
            .collect();
        let first = self.contenders.first();
        let mut fields = first.map_or_else(Map::new, |first| self.figures(first));
        let (counting, _) = self.stored.open(true, LogMode::ReadOnly)?;
        report::join(
            &mut fields,
            json!({
                "work": "read",
                "backend": counting.backend(),
                "backend_fallback": counting.fallback(),
                "device": device.name,
                "callers": self.args.run.callers,
                "in_flight": self.args.in_flight,
                "record_bytes": self.args.run.size,
                "log_bytes": self.floor.bytes(),
                "syncs_per_record": 0,
                "bytes_written_per_byte": 0,
                "range_floor_per_s": rounded(Turn::all(&self.floors[1]).per_second()),
                "floor_drift": report::drift(&self.floors[0]),
                "seconds": self.args.run.seconds,
                "turns": self.args.run.turns,
                "paths": paths,
            }),
        );
        Ok(Value::Object(fields))
    }

    fn figures(&self, contender: &Contender) -> Map<String, Value> {
        let floors = match contender.access {
            Access::Record => &self.floors[0],
            Access::Range => &self.floors[1],
        };
        let records = match contender.access {
            Access::Record => 1.0,
            Access::Range => f64::from(range_records(self.args.run.size)),
        };
        let all = Turn::all(&contender.turns).with_records_each(records);
        let mut fields = report::rates(&all, self.args.run.size);
        let floor = Turn::all(floors).with_records_each(records);
        fields.insert("floor_per_s".into(), json!(rounded(floor.per_second())));
        report::put_spread(
            &mut fields,
            "ratio",
            report::ratio(&contender.turns, floors),
        );
        fields
    }
}

/// Records of one range.
fn range_records(record_bytes: usize) -> u32 {
    u32::try_from((RANGE_BYTES / record_bytes).max(1)).unwrap_or(u32::MAX)
}

/// A turn of reads at random places; an operation is one record, or one range.
fn read(engine: &Engine, access: Access, threads: u32, until: Until) -> Result<Turn, Error> {
    let retained = engine.retained();
    let wanted = match access {
        Access::Record => 1,
        Access::Range => u64::from(range_records(engine.shape().record_bytes)),
    };
    let places = (retained.len() + 1).saturating_sub(wanted).max(1);
    turn(threads, 1, until, |index| {
        let mut scatter = Scatter::new(index);
        move || {
            let after = Lsn::new(retained.after.get() + scatter.below(places));
            let through = Lsn::new(after.get() + wanted).min(retained.through);
            match access {
                Access::Record => {
                    let record = engine.log().read_record(through)?;
                    std::hint::black_box(record.payload().first());
                }
                Access::Range => {
                    engine.replay(LsnRange::new(after, through))?;
                }
            }
            Ok(())
        }
    })
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "read of {record_bytes} bytes by LSN, cold, log of {log_bytes} bytes; {backend} on \
         {device}",
        "{backend_fallback}",
        "{callers} callers, {in_flight} in flight: {records_per_s} records/s, {mb_per_s} MB/s",
        "p50 {p50_us} us, p99 {p99_us} us, p99.9 {p999_us} us",
        "floor of the same disk {floor_per_s} records/s, {range_floor_per_s} ranges/s; it drifted \
         by {floor_drift}; ratio {ratio} ({ratio_min} to {ratio_max})",
    ];
    report::print(result, &lines, out)?;
    for path in result["paths"].as_array().into_iter().flatten() {
        let line = "{cache} {access} by {path}: {records_per_s} records/s, {mb_per_s} MB/s, p50 \
                    {p50_us} us, p99 {p99_us} us, ratio {ratio}";
        report::print(path, &[line], out)?;
    }
    Ok(())
}
