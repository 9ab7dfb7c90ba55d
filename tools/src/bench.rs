//! `seawall bench`: the engine beside the raw floor of the same disk, in one run.
//!
//! Floor and engine take turns; a ratio is the median of the ratios within each round, so that what
//! slows the whole machine down slows both. The parts are public for the criterion benches and for
//! the comparison with other logs.

mod append;
mod catch_up;
mod checkpoint;
mod counting;
mod decide;
pub mod device;
mod engine;
mod floor;
mod floor_read;
mod floor_tcp;
mod foreground;
mod histogram;
mod image_read;
mod level;
mod nbd;
mod open;
mod paired;
mod pinned;
mod places;
mod read;
mod rebuild;
mod replay;
mod report;
mod stored;
mod subject;
#[cfg(test)]
mod tests;
mod turn;
mod write;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use seawall_wal::disk::Choice;
use tempfile::TempDir;

use crate::common::parse_size;
use crate::error::Error;
use crate::exit::Exit;

pub use append::Append;
pub use catch_up::CatchUp;
pub use checkpoint::Checkpoint;
pub use counting::{Counters, Counting};
pub use decide::Decide;
pub use engine::{Engine, Load, Shape};
pub use floor::{BatchFloor, Floor};
pub use floor_read::ReadFloor;
pub use histogram::Histogram;
pub use image_read::ImageRead;
pub use nbd::Nbd;
pub use open::Open;
pub use paired::Spread;
pub use pinned::Pinned;
pub use places::{Places, Shuffled};
pub use read::Read;
pub use rebuild::Rebuild;
pub use replay::Replay;
pub use stored::Stored;
pub use subject::{Order, Sizes, Subject};
pub use turn::{Caller, Turn, Until, turn};
pub use write::Write as VolumeWrite;

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
    /// Durable appends
    Append(Append),
    /// Reads of records by LSN, and of ranges
    Read(Read),
    /// Replay of the whole log, and how long it takes to open
    Replay(Replay),
    /// Durable random writes through a volume, with checkpoints running
    Write(VolumeWrite),
    /// Checked reads of a volume, from its image and from its log
    ImageRead(ImageRead),
    /// Captures of the log into the image
    Checkpoint(Checkpoint),
    /// The tail of a log to a replica, over loopback
    CatchUp(CatchUp),
    /// Decisions about a replica, and the same proven from every byte
    Decide(Decide),
    /// The full base to a replica, over loopback
    Rebuild(Rebuild),
    /// How long volumes of several sizes take to open
    Open(Open),
    /// Writes beside a pinned base, idle and streamed
    Pinned(Pinned),
    /// Writes of fio through nbdkit, to a volume and to a file
    Nbd(Nbd),
}

/// What every work has.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Directory on the disk to measure; otherwise the temporary directory
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Threads that work
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub callers: u32,
    /// How long to measure, floor and engine together; preparations not counted
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Floor and engine take turns so many times
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub turns: u32,
    /// Backend of the Disk seam
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
    /// Payload bytes of one record: a multiple of 512, up to 1M
    #[arg(long, default_value = "4K", value_parser = parse_length)]
    pub size: usize,
    /// Bytes of a segment: 1M to 1G
    #[arg(long, default_value = "64M", value_parser = parse_size)]
    pub segment_size: u64,
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
    /// Positional writes past the page cache, durable one by one
    Direct,
    /// Positional reads and writes through the page cache, and syncs
    Portable,
}

impl From<Backend> for Choice {
    fn from(backend: Backend) -> Choice {
        match backend {
            Backend::Auto => Choice::Auto,
            Backend::Uring => Choice::Uring,
            Backend::Direct => Choice::Direct,
            Backend::Portable => Choice::Portable,
        }
    }
}

impl Run {
    fn shape(&self) -> Result<Shape, Error> {
        let shape = Shape {
            record_bytes: self.size,
            segment_bytes: self.segment_size,
            ..Shape::DEFAULT
        };
        shape.check()?;
        Ok(shape)
    }

    /// The time of one turn when `contenders` take part in each round, and `extra` turns beside.
    fn turn_time(&self, contenders: u32, extra: u32) -> Duration {
        Duration::from_secs(self.seconds) / (self.turns * contenders + extra)
    }
}

/// A length that a buffer has or gets.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn parse_length(text: &str) -> Result<usize, String> {
    usize::try_from(parse_size(text)?).map_err(|_| format!("{text} does not fit into memory"))
}

/// Runs the command.
///
/// # Errors
/// A backend that the machine lacks, a directory that takes no files, sizes that no log takes.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let (result, json) = match &args.work {
        Work::Append(args) => (append::measure(args)?, args.run.json),
        Work::Read(args) => (read::measure(args)?, args.run.json),
        Work::Replay(args) => (replay::measure(args)?, args.run.json),
        Work::Write(args) => (write::measure(args)?, args.run.json),
        Work::ImageRead(args) => (image_read::measure(args)?, args.run.json),
        Work::Checkpoint(args) => (checkpoint::measure(args)?, args.run.json),
        Work::CatchUp(args) => (catch_up::measure(args)?, args.run.json),
        Work::Decide(args) => (decide::measure(args)?, args.run.json),
        Work::Rebuild(args) => (rebuild::measure(args)?, args.run.json),
        Work::Open(args) => (open::measure(args)?, args.run.json),
        Work::Pinned(args) => (pinned::measure(args)?, args.run.json),
        Work::Nbd(args) => (nbd::measure(args)?, args.run.json),
    };
    match &args.work {
        _ if json => writeln!(out, "{result}")?,
        Work::Append(_) => append::print(&result, out)?,
        Work::Read(_) => read::print(&result, out)?,
        Work::Replay(_) => replay::print(&result, out)?,
        Work::Write(_) => write::print(&result, out)?,
        Work::ImageRead(_) => image_read::print(&result, out)?,
        Work::Checkpoint(_) => checkpoint::print(&result, out)?,
        Work::CatchUp(_) => catch_up::print(&result, out)?,
        Work::Decide(_) => decide::print(&result, out)?,
        Work::Rebuild(_) => rebuild::print(&result, out)?,
        Work::Open(_) => open::print(&result, out)?,
        Work::Pinned(_) => pinned::print(&result, out)?,
        Work::Nbd(_) => nbd::print(&result, out)?,
    }
    Ok(Exit::Fine)
}

/// A directory on the disk to measure, removed with the value.
///
/// # Errors
/// [`Error::BadPath`] where it cannot be made.
pub fn scratch(parent: Option<&Path>) -> Result<TempDir, Error> {
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let made = tempfile::Builder::new()
        .prefix("seawall-bench-")
        .tempdir_in(&parent);
    made.map_err(|_| Error::BadPath {
        path: parent,
        what: "takes no directory",
        hint: "name a directory on the disk to measure with --dir",
    })
}

/// Bytes that no compressor shrinks.
#[must_use]
pub fn incompressible(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(length).collect()
}
