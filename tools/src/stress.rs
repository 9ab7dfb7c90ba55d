//! `seawall stress`: stamped writes with a record of every acknowledgement, and the check that each
//! was kept.
//!
//! Several callers write blocks of their own. Before a block is written the record says `sent`,
//! and once the write is durable it says `kept`; each line is on its way to the record before the
//! caller goes on. So after a kill at any moment, or a power cut when the record lies on another
//! machine, every block must hold a stamp that was sent, and none older than the last one that was
//! kept. Meanwhile the base is captured and the log reclaimed, so that segments are reused.

mod record;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall_snapshot::{Access, Durability, Volume};
use seawall_wal::disk::{Disk, open_backend};

use crate::bench::Backend;
use crate::common;
use crate::edge;
use crate::error::Error;
use crate::exit::Exit;
use record::{Record, Writer};

/// Blocks that the callers write, at most: few, so that each is written many times.
const BLOCKS_MAX: u64 = 2048;
/// Writes of one caller before one of them captures the base and reclaims the log.
const CAPTURE_EVERY: u64 = 256;
/// Violations that are named.
const NAMED_MAX: usize = 10;

/// Writes stamped blocks and records every acknowledgement, or checks that each was kept.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume; its first blocks are overwritten
    pub dir: PathBuf,
    /// What to draw from: which blocks, which of them alone, where a flush comes
    #[arg(long, required_unless_present = "check")]
    pub seed: Option<u64>,
    /// How long to write
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=9_999_999))]
    pub seconds: u64,
    /// Threads that write
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub callers: u32,
    /// File that takes the record, and is continued when it exists; for power cuts, on another
    /// machine
    #[arg(long)]
    pub acks: Option<PathBuf>,
    /// Compare the volume with the record in place of writing
    #[arg(long, requires = "acks", conflicts_with = "seed")]
    pub check: bool,
    /// Backend of the Disk seam
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    pub backend: Backend,
}

/// Runs the command.
///
/// # Errors
/// What the volume says. A promise that was not kept is [`Exit::Found`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = open_backend(args.backend.into())?;
    match args.check {
        true => check(args, &disk, out),
        false => write(args, &disk, out),
    }
}

/// The content of a block under a stamp: no two blocks and no two stamps share a sector.
fn stamped(block: u64, stamp: u64, bytes: usize) -> Vec<u8> {
    let words = [block.to_le_bytes(), stamp.to_le_bytes()].concat();
    words.repeat(bytes / words.len())
}

fn write(args: &Args, disk: &Arc<dyn Disk>, out: &mut dyn Write) -> Result<Exit, Error> {
    let volume = common::open_whole(disk, &args.dir, Access::Primary)?;
    volume.commit_best_effort()?;
    let record = args.acks.as_deref().map(Record::read).transpose()?;
    let record = record.unwrap_or_default();
    let writer = args.acks.as_deref().map(Writer::append_to).transpose()?;
    let geometry = volume.geometry();
    let blocks = geometry.blocks.min(BLOCKS_MAX);
    let callers = u64::from(args.callers).min(blocks);
    let stop = AtomicBool::new(false);
    let load = Load {
        volume: &volume,
        writer: writer.as_ref(),
        blocks,
        callers,
        bytes: geometry.block_size.bytes_usize(),
        first_stamp: record.last_stamp() + 1,
        seed: args.seed.unwrap_or_default(),
        until: edge::now() + Duration::from_secs(args.seconds),
        stop: &stop,
    };
    let threads = usize::try_from(callers).unwrap_or(1);
    let written = edge::fan_out(threads, |caller| {
        let written = load.call(caller as u64);
        if written.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        written
    });
    let mut sum = 0;
    for count in written {
        sum += count?;
    }
    volume.close()?;
    writeln!(out, "{sum} writes acknowledged in {}", args.dir.display())?;
    Ok(Exit::Fine)
}

/// What every caller of one run shares.
struct Load<'a> {
    volume: &'a Volume,
    writer: Option<&'a Writer>,
    blocks: u64,
    callers: u64,
    bytes: usize,
    first_stamp: u64,
    seed: u64,
    until: Instant,
    stop: &'a AtomicBool,
}

impl Load<'_> {
    fn note(&self, word: &str, block: u64, stamp: u64) -> Result<(), Error> {
        self.writer
            .map_or(Ok(()), |writer| writer.note(word, block, stamp))
    }

    /// Writes blocks `caller`, `caller + callers`, ... until the time is up; gives how many writes
    /// were acknowledged.
    fn call(&self, caller: u64) -> Result<u64, Error> {
        let mut draw = Draw(self.seed ^ caller << 48);
        let own = (self.blocks - caller).div_ceil(self.callers);
        let (mut stamp, mut turns) = (self.first_stamp, 0);
        while edge::now() < self.until && !self.stop.load(Ordering::Relaxed) {
            let count = if draw.below(2) == 0 {
                1
            } else {
                draw.below(8) + 1
            };
            let mut sent = Vec::new();
            for _ in 0..count {
                let block = caller + draw.below(own) * self.callers;
                let durability = match count {
                    1 => Durability::Durable,
                    _ => Durability::Volatile,
                };
                self.note("sent", block, stamp)?;
                let bytes = stamped(block, stamp, self.bytes);
                self.volume
                    .write(block * self.bytes as u64, &bytes, durability)?;
                sent.push((block, stamp));
                stamp += 1;
            }
            if count > 1 {
                self.volume.flush()?;
            }
            for (block, stamp) in sent {
                self.note("kept", block, stamp)?;
            }
            turns += count;
            if caller == 0 && turns / CAPTURE_EVERY != (turns - count) / CAPTURE_EVERY {
                let captured = self.volume.checkpoint(None)?;
                self.volume.advance_tail(captured)?;
            }
        }
        Ok(turns)
    }
}

/// SplitMix64.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Opens the volume as after any crash, and compares every block with the record. What it shows is
/// a promise from now on.
fn check(args: &Args, disk: &Arc<dyn Disk>, out: &mut dyn Write) -> Result<Exit, Error> {
    let Some(path) = args.acks.as_deref() else {
        return Err(Error::Usage("--check needs --acks FILE".into()));
    };
    let record = Record::read(path)?;
    let volume = common::open_whole(disk, &args.dir, Access::Primary)?;
    let damage = volume.verify(&mut |_, _| {})?.damage;
    let size = volume.geometry().block_size.bytes_usize();
    let writer = Writer::append_to(path)?;
    let mut broken = Vec::new();
    for (block, promise) in record.promises() {
        let mut bytes = vec![0; size];
        volume.read(block * size as u64, &mut bytes)?;
        match promise.judge(block, &bytes) {
            Ok(stamp) if stamp > promise.kept => writer.note("kept", block, stamp)?,
            Ok(_) => {}
            Err(what) => broken.push(format!("block {block}: {what}")),
        }
    }
    volume.close()?;
    for line in broken.iter().take(NAMED_MAX) {
        writeln!(out, "{line}")?;
    }
    for found in damage.iter().take(NAMED_MAX) {
        writeln!(
            out,
            "{}:{}: {}",
            found.file.display(),
            found.offset,
            found.what
        )?;
    }
    let (kept, blocks) = (record.kept(), record.promises().count());
    writeln!(
        out,
        "{kept} acknowledged writes to {blocks} blocks of {}: {} broken, {} places damaged",
        args.dir.display(),
        broken.len(),
        damage.len()
    )?;
    match broken.is_empty() && damage.is_empty() {
        true => Ok(Exit::Fine),
        false => Ok(Exit::Found),
    }
}
