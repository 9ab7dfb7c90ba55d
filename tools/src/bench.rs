//! `seawall bench`: the engine beside the raw floor of the same disk, in one run.

mod counting;
mod floor;
mod rounds;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use seawall_snapshot::{Access, CreateOptions, Volume};
use seawall_wal::disk::{Buffer, Choice, Disk, File, OpenMode, open_backend};
use seawall_wal::{BlockSize, Change, Geometry, Lba, Log, Lsn, Role, Ticket};
use serde_json::{Value, json};

use crate::common;
use crate::error::Error;
use crate::exit::Exit;

use counting::{Counters, Counting};
use floor::Floor;
use rounds::{Round, round};

/// Bytes of one append: one block.
const PAYLOAD_BYTES: usize = 4096;
/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 64 << 20;
/// Size of the volume that is written to, in blocks: 4 GiB.
const BLOCKS: u64 = 1 << 20;
/// Records that stay readable: 256 MiB of payload.
const RETAINED: u64 = 65_536;
/// The tail moves once in so many records.
const RECLAIM_EVERY: u64 = 16_384;
/// Floor and engine take turns so many times; the ratio is the median of the turns' ratios.
const TURNS: u32 = 5;

/// Measures the engine and the raw floor of the same disk, in one run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is measured
    #[command(subcommand)]
    pub work: Work,
}

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Work {
    /// Durable 4 KiB appends
    Append(Append),
}

/// Durable 4 KiB appends. The floor is O_DIRECT + O_DSYNC overwrites of 4 KiB by as many threads;
/// with more than one in flight, 1 MiB O_DIRECT writes at depth 4 with an fdatasync every 64 MiB.
#[derive(Debug, clap::Args)]
pub struct Append {
    /// Directory on the disk to measure; otherwise the temporary directory
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Threads that append
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub callers: u32,
    /// Appends that each of them has in flight
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub in_flight: u32,
    /// How long to measure, floor and engine together
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// Backend of the Disk seam
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Backend, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// What the machine does best
    Auto,
    /// io_uring
    Uring,
    /// Positional reads and writes
    Portable,
}

impl From<Backend> for Choice {
    fn from(backend: Backend) -> Choice {
        match backend {
            Backend::Auto => Choice::Auto,
            Backend::Uring => Choice::Uring,
            Backend::Portable => Choice::Portable,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// A backend that the machine lacks, a directory that takes no files.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let Work::Append(append) = &args.work;
    let result = measure(append)?;
    match append.json {
        true => writeln!(out, "{result}")?,
        false => print(&result, out)?,
    }
    Ok(Exit::Fine)
}

fn measure(args: &Append) -> Result<Value, Error> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("seawall-bench-");
    let scratch = match &args.dir {
        Some(dir) => builder.tempdir_in(dir)?,
        None => builder.tempdir()?,
    };
    let counting = Counting::over(open_backend(args.backend.into())?);
    let disk: Arc<dyn Disk> = counting.clone();
    let engine = Engine::open(&disk, scratch.path())?;
    let floor = Floor::open(scratch.path(), args.in_flight > 1)?;
    let time = Duration::from_secs(args.seconds) / (TURNS * 2 + 1);
    // The first turn warms up: it fills the pool of segments and is not counted.
    engine.round(args, time)?;
    let before = counting.counters();
    let (mut floors, mut engines) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        floors.push(floor.round(args.callers, time)?);
        engines.push(engine.round(args, time)?);
    }
    let written = counting.counters().since(before);
    engine.volume.close()?;
    Ok(report(
        args,
        &disk,
        &device(&disk, scratch.path()),
        &floors,
        &engines,
        written,
    ))
}

/// A log whose segments rotate and recycle.
struct Engine {
    volume: Arc<Volume>,
    payload: Vec<u8>,
}

impl Engine {
    fn open(disk: &Arc<dyn Disk>, dir: &std::path::Path) -> Result<Engine, Error> {
        let dir = dir.join("volume");
        let geometry = Geometry {
            block_size: BlockSize::DEFAULT,
            blocks: BLOCKS,
            segment_bytes: SEGMENT_BYTES,
        };
        let options = CreateOptions {
            volume: None,
            geometry,
            role: Role::Primary,
        };
        Volume::create(disk, &dir, options)?;
        let (volume, _) = Volume::open(disk, &dir, &common::clock(), Access::Primary)?;
        Ok(Engine {
            volume,
            payload: incompressible(PAYLOAD_BYTES),
        })
    }

    fn round(&self, args: &Append, time: Duration) -> Result<Round, Error> {
        let depth = args.in_flight as usize;
        round(
            args.callers,
            depth,
            time,
            |number| self.start(number),
            |ticket| self.finish(ticket),
        )
    }

    fn start(&self, number: u64) -> Result<Ticket, Error> {
        let lba = Lba(number.wrapping_mul(2_654_435_761) % BLOCKS);
        let change = Change::write(lba, BlockSize::DEFAULT, Buffer::copy_of(&self.payload));
        self.volume.log().admit(PAYLOAD_BYTES as u64)?;
        Ok(self.volume.log().append(vec![change])?)
    }

    fn finish(&self, ticket: Ticket) -> Result<(), Error> {
        let last = ticket.range().through;
        ticket.wait()?;
        match last.get().is_multiple_of(RECLAIM_EVERY) {
            true => reclaim(self.volume.log(), last),
            false => Ok(()),
        }
    }
}

/// Moves the tail as a checkpoint would, without an image: this measures the log alone.
fn reclaim(log: &Log, durable: Lsn) -> Result<(), Error> {
    let through = Lsn::new(durable.get().saturating_sub(RETAINED));
    log.commit(through)?;
    log.set_checkpoint(through);
    log.reclaim(through)?;
    Ok(())
}

/// Bytes that no compressor shrinks.
pub(crate) fn incompressible(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}

/// Device and file system below `path`, as the kernel names them.
fn device(disk: &Arc<dyn Disk>, path: &std::path::Path) -> String {
    let mounts = File::open(disk, "/proc/self/mounts".as_ref(), OpenMode::Read)
        .and_then(|file| file.read(0, 1 << 20))
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let below = fields.filter(|mount| mount.len() > 3 && path.starts_with(mount[1]));
    let nearest = below.max_by_key(|mount| mount[1].len());
    nearest.map_or("unknown".into(), |mount| {
        format!("{} ({})", mount[0], mount[2])
    })
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn report(
    args: &Append,
    disk: &Arc<dyn Disk>,
    device: &str,
    floors: &[Round],
    engines: &[Round],
    written: Counters,
) -> Value {
    let all = Round::all(engines);
    let records = all.count() as f64;
    let accepted = records * PAYLOAD_BYTES as f64;
    let ratios = floors
        .iter()
        .zip(engines)
        .map(|(floor, engine)| engine.per_second() / floor.per_second());
    json!({
        "work": "append",
        "backend": disk.backend(),
        "device": device,
        "callers": args.callers,
        "in_flight": args.in_flight,
        "records_per_s": rounded(all.per_second()),
        "mb_per_s": rounded(all.per_second() * PAYLOAD_BYTES as f64 / 1e6),
        "p50_us": all.microseconds(500),
        "p99_us": all.microseconds(990),
        "p999_us": all.microseconds(999),
        "syncs_per_record": rounded(written.syncs as f64 / records),
        "bytes_written_per_byte": rounded(written.bytes as f64 / accepted),
        "floor_per_s": rounded(Round::all(floors).per_second()),
        "floor_p999_us": Round::all(floors).microseconds(999),
        "ratio": rounded(median(ratios.collect())),
        "seconds": args.seconds,
    })
}

/// Three digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let get = |name: &str| result[name].to_string().replace('"', "");
    writeln!(
        out,
        "append, 4 KiB, durable; {} on {}",
        get("backend"),
        get("device")
    )?;
    writeln!(
        out,
        "{} callers, {} in flight: {} records/s, {} MB/s",
        get("callers"),
        get("in_flight"),
        get("records_per_s"),
        get("mb_per_s")
    )?;
    writeln!(
        out,
        "p50 {} us, p99 {} us, p99.9 {} us; {} syncs a record, {} bytes written per byte",
        get("p50_us"),
        get("p99_us"),
        get("p999_us"),
        get("syncs_per_record"),
        get("bytes_written_per_byte")
    )?;
    writeln!(
        out,
        "floor of the same disk {} records/s, p99.9 {} us; ratio {}",
        get("floor_per_s"),
        get("floor_p999_us"),
        get("ratio")
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_the_outliers() {
        assert!((median(vec![9.0, 1.0, 2.0, 2.0, 0.1]) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn a_short_run_reports_every_field_of_the_contract() {
        let args = Append {
            dir: None,
            callers: 2,
            in_flight: 4,
            seconds: 1,
            backend: Backend::Portable,
            json: true,
        };
        let result = measure(&args).unwrap();
        for field in [
            "records_per_s",
            "mb_per_s",
            "p50_us",
            "floor_per_s",
            "ratio",
        ] {
            assert!(
                result[field].as_f64().is_some_and(|value| value > 0.0),
                "{field}: {result}"
            );
        }
        assert_eq!(result["backend"], "portable");
        assert!(
            result["bytes_written_per_byte"]
                .as_f64()
                .is_some_and(|value| value >= 1.0)
        );
    }
}
