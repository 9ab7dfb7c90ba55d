//! `wal-dump`: what is in a log, record by record. It reads through `inspect_segment` alone, works
//! on a live volume, a damaged one and a lone segment file, and never writes.

mod check;
mod source;
mod stats;
mod verdict;

use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{Corrupt, Inspected, Lsn, RecordHeader};
use serde_json::json;

use crate::common;
use crate::error::Error;
use crate::exit::Exit;

use check::verify;
use source::{Source, gather, state_of, walk};
use stats::stats;

/// Lists the records of a log: of a volume directory, its wal directory, or lone segment files.
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
    /// Print totals in place of records
    #[arg(long)]
    pub stats: bool,
    /// Print damage in place of records; exit code 1 when there is any
    #[arg(long, conflicts_with = "stats")]
    pub verify: bool,
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
    let mut sources = Vec::new();
    for path in &args.paths {
        sources.push(gather(&disk, path)?);
    }
    let mut exit = Exit::Fine;
    for source in &sources {
        match (args.verify, args.stats) {
            (true, _) => {
                if verify(&disk, source, args, out)? {
                    exit = Exit::Found;
                }
            }
            (false, true) => stats(&disk, source, args, out)?,
            (false, false) => list(&disk, source, args, out)?,
        }
    }
    Ok(exit)
}

/// A record where it lies.
struct Row<'a> {
    header: &'a RecordHeader,
    segment: &'a str,
    offset: u64,
    frame: u64,
    sum_ok: bool,
    /// "live", "reclaimed" or "truncated".
    state: &'static str,
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
    }

    fn wants_damage(&self, at: &Corrupt) -> bool {
        let filtered = self.lba.is_some() || self.kind.is_some();
        !filtered && at.lsn.is_none_or(|lsn| self.wants_lsn(lsn))
    }
}

fn list(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut frame = 0;
    walk(disk, source, &mut |segment, found| match found {
        Inspected::Segment { generation, .. } if !args.json => {
            writeln!(out, "{} generation {generation}", segment.name)
        }
        Inspected::Segment { .. } => Ok(()),
        Inspected::Frame {
            sequence,
            truncated_after,
            ..
        } => {
            frame = sequence;
            match truncated_after {
                Some(after) if !args.json => writeln!(out, "frame {frame} truncates after {after}"),
                _ => Ok(()),
            }
        }
        Inspected::Record {
            offset,
            header,
            sum_ok,
            ..
        } if args.wants(header) => {
            let row = Row {
                header,
                segment: &segment.name,
                offset,
                frame,
                sum_ok,
                state: state_of(source, frame, header.lsn),
            };
            print_row(&row, args.json, out)
        }
        Inspected::Record { .. } => Ok(()),
        Inspected::Damage(at) if args.wants_damage(at) => print_bytes(at, args.json, out),
        Inspected::Damage(_) => Ok(()),
    })
}

fn print_row(row: &Row<'_>, as_json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    let header = row.header;
    if as_json {
        let object = json!({
            "lsn": header.lsn.get(),
            "epoch": header.epoch.get(),
            "incarnation": header.incarnation.get(),
            "kind": header.kind.name(),
            "no_hole": header.no_hole,
            "lba": header.lba.0,
            "blocks": header.blocks,
            "bytes": header.payload_bytes(),
            "segment": row.segment,
            "offset": row.offset,
            "frame": row.frame,
            "sum_ok": row.sum_ok,
            "state": row.state,
        });
        return writeln!(out, "{object}");
    }
    let verdict = if row.sum_ok { "ok" } else { "BAD SUM" };
    let state = if row.state == "live" { "" } else { row.state };
    writeln!(
        out,
        "lsn {:<10} epoch {}.{:<4} {:<12} lba {:<12} blocks {:<6} {}:{:<10} frame {:<8} {verdict} {state}",
        header.lsn.get(),
        header.epoch,
        header.incarnation,
        header.kind.name(),
        header.lba.0,
        header.blocks,
        row.segment,
        row.offset,
        row.frame,
    )
}

/// Bytes that are no frame: damage or a torn tail, which only `--verify` tells apart.
fn print_bytes(at: &Corrupt, as_json: bool, out: &mut dyn Write) -> std::io::Result<()> {
    match as_json {
        true => writeln!(out, "{}", damage_json(at, "unreadable")),
        false => writeln!(out, "no frame: {at}"),
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
