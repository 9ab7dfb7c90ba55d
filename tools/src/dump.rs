//! `wal-dump`: what is in a log, record by record. It reads through `inspect_segment` alone, works
//! on a live volume, a damaged one and a lone segment file, and never writes.

mod check;
mod follow;
mod heat;
mod list;
mod map;
mod salvage;
mod source;
mod stats;
mod verdict;

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;

use seawall_wal::{Corrupt, Lsn, RecordHeader};
use serde_json::json;

use crate::common;
use crate::error::Error;
use crate::exit::Exit;
use crate::time;

use source::gather;

/// Lists the records of a log: of a volume directory, its wal directory, or lone segment files.
///
/// Never writes to what it inspects, and works on a live volume and on a damaged one.
#[derive(Debug, clap::Parser)]
#[command(name = "wal-dump", version)]
pub struct Args {
    /// Volume directory, wal directory or segment file
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// First LSN to list
    #[arg(long, value_name = "LSN")]
    pub from: Option<u64>,
    /// Last LSN to list
    #[arg(long, value_name = "LSN")]
    pub to: Option<u64>,
    /// List only records that touch blocks A to B - 1
    #[arg(long, value_name = "A..B", value_parser = parse_blocks)]
    pub lba: Option<Range<u64>>,
    /// List only records of this kind: write, write-zeroes or trim
    #[arg(long, value_parser = ["write", "write-zeroes", "trim"])]
    pub kind: Option<String>,
    /// List only records of this epoch
    #[arg(long, value_name = "EPOCH")]
    pub epoch: Option<u64>,
    /// List only records of frames written at or after TIME: 2026-01-31T12:00:00Z, or seconds
    /// since 1970
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub since: Option<u64>,
    /// List only records of frames written before TIME
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub until: Option<u64>,
    /// Show the payload of each record in hexadecimal, at most BYTES of it
    #[arg(
        long,
        value_name = "BYTES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "256",
        value_parser = common::parse_size
    )]
    pub hex: Option<u64>,
    /// Print totals in place of records: kinds, sizes, write amplification, the hottest blocks
    #[arg(long, group = "mode")]
    pub stats: bool,
    /// Print damage in place of records; exit code 1 when there is any
    #[arg(long, group = "mode")]
    pub verify: bool,
    /// Draw the segments, with what keeps each, and where in the volume the records went
    #[arg(long, group = "mode")]
    pub map: bool,
    /// List what is there, then records as they become durable, until SIGINT
    #[arg(long, group = "mode")]
    pub follow: bool,
    /// Copy every intact record to a new log directory, and say what is missing; exit code 1 when
    /// something is
    ///
    /// With a copy of the volume's base directory beside them, its meta and wal open as a volume.
    #[arg(long, group = "mode", value_name = "OUT")]
    pub salvage: Option<PathBuf>,
    /// List records of earlier lives of the segments that nothing was written over yet
    #[arg(long, group = "mode")]
    pub stale: bool,
}

fn parse_blocks(text: &str) -> Result<Range<u64>, String> {
    let bad = || format!("{text} is no range of blocks; write 100..200");
    let (first, last) = text.split_once("..").ok_or_else(bad)?;
    let range = first.parse().map_err(|_| bad())?..last.parse().map_err(|_| bad())?;
    match range.is_empty() {
        true => Err(format!("{text} holds no block; write the lower one first")),
        false => Ok(range),
    }
}

/// Runs the command.
///
/// # Errors
/// A path that cannot be read, or holds no segment. Damage is no error.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::disk();
    let alone = args.follow || args.salvage.is_some();
    if let [_, second, ..] = args.paths.as_slice()
        && alone
    {
        let second = second.display();
        return Err(Error::Usage(format!(
            "--follow and --salvage take one PATH, and {second} is a second one; run it for each"
        )));
    }
    if args.follow {
        follow::follow(&disk, &args.paths[0], args, out)?;
        return Ok(Exit::Fine);
    }
    let mut sources = Vec::new();
    for path in &args.paths {
        sources.push(gather(&disk, path)?);
    }
    let mut found = false;
    for source in &sources {
        if args.verify {
            found |= check::verify(&disk, source, args, out)?;
        } else if let Some(to) = &args.salvage {
            found |= salvage::salvage(&disk, source, to, args, out)?;
        } else if args.stats {
            stats::stats(&disk, source, args, out)?;
        } else if args.map {
            map::map(&disk, source, args, out)?;
        } else if args.stale {
            list::stale(&disk, source, args, out)?;
        } else {
            list::list(&disk, source, args, out)?;
        }
    }
    Ok(if found { Exit::Found } else { Exit::Fine })
}

impl Args {
    fn wants_lsn(&self, lsn: Lsn) -> bool {
        self.from.is_none_or(|from| lsn.get() >= from) && self.to.is_none_or(|to| lsn.get() <= to)
    }

    fn wants(&self, header: &RecordHeader) -> bool {
        let end = header.lba.0 + u64::from(header.blocks);
        let touches = |range: &Range<u64>| header.lba.0 < range.end && range.start < end;
        let kind = |kind: &String| header.kind.name() == kind;
        self.wants_lsn(header.lsn)
            && self.lba.as_ref().is_none_or(touches)
            && self.kind.as_ref().is_none_or(kind)
            && self.epoch.is_none_or(|epoch| header.epoch.get() == epoch)
    }

    fn wants_time(&self, written_ns: u64) -> bool {
        self.since.is_none_or(|since| since <= written_ns)
            && self.until.is_none_or(|until| written_ns < until)
    }

    fn wants_damage(&self, at: &Corrupt) -> bool {
        let filtered = self.lba.is_some()
            || self.kind.is_some()
            || self.epoch.is_some()
            || self.since.is_some()
            || self.until.is_some();
        !filtered && at.lsn.is_none_or(|lsn| self.wants_lsn(lsn))
    }
}

fn damage_json(at: &Corrupt, kind: &str) -> serde_json::Value {
    let segment = at.path.file_name().map(|name| name.to_string_lossy());
    json!({
        "kind": kind,
        "lsn": at.lsn.map(Lsn::get),
        "file": at.path,
        "segment": segment,
        "offset": at.offset,
        "sum_ok": false,
        "what": at.what.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_blocks_needs_both_ends_in_order() {
        assert_eq!(parse_blocks("3..7"), Ok(3..7));
        for text in ["3", "7..3", "3..3", "a..b", "3.."] {
            assert!(parse_blocks(text).unwrap_err().contains(text), "{text}");
        }
    }
}
