//! `wal-dump`: what is in a log, record by record. It reads through `inspect_segment` alone, works
//! on a live volume, a damaged one and a lone segment file, and never writes.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::disk::{self, Disk};
use seawall_wal::{
    Corrupt, Error as WalError, Inspected, LogId, Lsn, Meta, MetaContents, RecordHeader,
    inspect_segment,
};
use serde_json::json;

use crate::common;
use crate::error::Error;
use crate::exit::Exit;
use crate::verdict::{Judge, Known};

/// Readings of a directory that must all find a damage before it counts.
const READINGS: usize = 3;

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

/// One segment file and what orders it.
#[derive(Debug)]
struct Segment {
    path: PathBuf,
    name: String,
    log: Option<LogId>,
    generation: Option<u64>,
    first_sequence: Option<u64>,
    truncations: Vec<(u64, Lsn)>,
    /// Its first and last readable record.
    lsns: Option<(Lsn, Lsn)>,
    /// Neither its header nor its first frame says whose it is.
    headless: Option<Corrupt>,
}

/// Segment files that belong together, in log order, with what meta says about them.
#[derive(Debug)]
struct Source {
    /// The directory they were found in.
    dir: Option<PathBuf>,
    meta: Option<MetaContents>,
    segments: Vec<Segment>,
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

/// Finds the segment files behind `path`.
fn gather(disk: &Arc<dyn Disk>, path: &Path) -> Result<Source, Error> {
    let names = match disk::list(disk.as_ref(), path) {
        Ok(names) => names,
        Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            return lone(survey(disk, path)?);
        }
        Err(other) => return Err(other.into()),
    };
    let (dir, wal) = match names.iter().any(|name| name == "wal") {
        true => (Some(path), path.join("wal")),
        false => (None, path.to_path_buf()),
    };
    let meta_dir = dir.or_else(|| path.parent());
    // OK because a dump also serves where meta is damaged or absent; then less is known.
    let meta = meta_dir.and_then(|dir| Some(Meta::open(disk, dir, false).ok()?.get()));
    let mut segments = Vec::new();
    for name in disk::list(disk.as_ref(), &wal)? {
        if name.ends_with(".seg") {
            match survey(disk, &wal.join(name)) {
                Err(error) if is_gone(&error) => {}
                segment => segments.push(segment?),
            }
        }
    }
    if segments.is_empty() {
        return Err(Error::BadPath {
            path: path.into(),
            what: "holds no segment file",
            hint: "give a volume directory, its wal directory or a .seg file",
        });
    }
    put_in_order(&mut segments, meta.as_ref());
    Ok(Source {
        dir: Some(path.into()),
        meta,
        segments,
    })
}

/// A file on its own, if it was ever a segment.
fn lone(segment: Segment) -> Result<Source, Error> {
    use seawall_wal::Damage::{BadMagic, Length};
    match &segment.headless {
        Some(at) if matches!(at.what, BadMagic | Length { .. }) => Err(Error::BadPath {
            path: segment.path,
            what: "is no segment file",
            hint: "give a volume directory, its wal directory or a .seg file",
        }),
        _ => Ok(Source {
            dir: None,
            meta: None,
            segments: vec![segment],
        }),
    }
}

/// Log order is the order of frames, then of generations. Files of another log are left out.
fn put_in_order(segments: &mut Vec<Segment>, meta: Option<&MetaContents>) {
    if let Some(meta) = meta {
        segments.retain(|segment| segment.log.is_none_or(|log| log == meta.log));
    }
    segments.sort_by_key(|segment| {
        let last = u64::MAX;
        (
            segment.first_sequence.unwrap_or(last),
            segment.generation.unwrap_or(last),
            segment.name.clone(),
        )
    });
}

/// Reads a file once for what orders it.
fn survey(disk: &Arc<dyn Disk>, path: &Path) -> Result<Segment, Error> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut segment = Segment {
        path: path.into(),
        name: name.to_string_lossy().into_owned(),
        log: None,
        generation: None,
        first_sequence: None,
        truncations: Vec::new(),
        lsns: None,
        headless: None,
    };
    let result = inspect_segment(disk, path, &mut |found| match found {
        Inspected::Segment {
            log, generation, ..
        } => {
            segment.log = Some(log);
            segment.generation = Some(generation);
        }
        Inspected::Frame {
            sequence,
            truncated_after,
            ..
        } => {
            segment.first_sequence.get_or_insert(sequence);
            let cut = truncated_after.map(|after| (sequence, after));
            segment.truncations.extend(cut);
        }
        Inspected::Record { header, .. } => {
            let first = segment.lsns.map_or(header.lsn, |(first, _)| first);
            segment.lsns = Some((first, header.lsn));
        }
        Inspected::Damage(_) => {}
    });
    match result {
        Err(WalError::Corrupt(at)) => segment.headless = Some(at),
        other => other?,
    }
    Ok(segment)
}

/// A live owner removed the file meanwhile: what it held was reclaimed.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Volume(seawall_snapshot::Error::Log(source)) if common::is_gone(source))
}

/// Takes what is found in a segment.
type Each<'a> = &'a mut dyn FnMut(&Segment, Inspected<'_>) -> std::io::Result<()>;

/// Calls `each` for every thing in every segment, in log order.
fn walk(disk: &Arc<dyn Disk>, source: &Source, each: Each<'_>) -> Result<(), Error> {
    for segment in &source.segments {
        match walk_segment(disk, segment, each) {
            Err(error) if is_gone(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

fn walk_segment(disk: &Arc<dyn Disk>, segment: &Segment, each: Each<'_>) -> Result<(), Error> {
    if let Some(at) = &segment.headless {
        each(segment, Inspected::Damage(at))?;
        return Ok(());
    }
    let (mut result, mut reused) = (Ok(()), false);
    inspect_segment(disk, &segment.path, &mut |found| {
        if let Inspected::Segment { generation, .. } = found {
            // A live owner took the file for a new life since we looked.
            reused = segment.generation != Some(generation);
        }
        if result.is_ok() && !reused {
            result = each(segment, found);
        }
    })?;
    Ok(result?)
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

fn state_of(source: &Source, sequence: u64, lsn: Lsn) -> &'static str {
    let truncated = source
        .segments
        .iter()
        .flat_map(|segment| &segment.truncations)
        .any(|(at, after)| sequence < *at && *after < lsn);
    let reclaimed = source.meta.as_ref().is_some_and(|meta| lsn <= meta.tail);
    match (truncated, reclaimed) {
        (true, _) => "truncated",
        (false, true) => "reclaimed",
        (false, false) => "live",
    }
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

/// What meta knows, with the tail moved down to the segment that holds it: that one is kept whole.
fn known(source: &Source) -> Known {
    let Some(meta) = &source.meta else {
        return Known::default();
    };
    let known = Known::from_meta(meta);
    let kept = source
        .segments
        .iter()
        .filter_map(|segment| segment.lsns)
        .find(|(_, last)| *last > known.tail);
    Known {
        tail: kept.map_or(known.tail, |(first, _)| known.tail.min(first.before())),
        ..known
    }
}

fn judge(disk: &Arc<dyn Disk>, source: &Source) -> Result<(Vec<Corrupt>, Vec<Corrupt>), Error> {
    let known = known(source);
    let mut judge = Judge::new(known);
    let mut in_header = true;
    walk(disk, source, &mut |segment, found| {
        match found {
            _ if segment.lsns.is_some_and(|(_, last)| last <= known.tail) => {}
            Inspected::Segment { .. } => in_header = true,
            Inspected::Frame {
                offset,
                sequence,
                frontier,
                truncated_after,
                ..
            } => {
                in_header = false;
                judge.frame(&segment.path, offset, sequence, frontier);
                if let Some(after) = truncated_after {
                    judge.truncated(after);
                }
            }
            Inspected::Record { offset, header, .. } => {
                judge.record(&segment.path, offset, header.lsn);
            }
            Inspected::Damage(at) if segment.first_sequence.is_none() => judge.headless(at),
            Inspected::Damage(at) if in_header && at.offset == 0 => judge.header(at),
            Inspected::Damage(at) => judge.damage(at),
        }
        Ok(())
    })?;
    Ok(judge.verdict())
}

/// Prints damage; true when there is any.
fn verify(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let (mut damage, torn) = judge(disk, source)?;
    // A live owner may have changed what we read: damage is what every reading finds (D24).
    for _ in 1..READINGS {
        let Some(path) = source.dir.as_ref().filter(|_| !damage.is_empty()) else {
            break;
        };
        let (again, _) = judge(disk, &gather(disk, path)?)?;
        damage.retain(|at| again.contains(at));
    }
    for (places, kind) in [(&damage, "damage"), (&torn, "torn")] {
        for at in places {
            match args.json {
                true => writeln!(out, "{}", damage_json(at, kind))?,
                false => writeln!(out, "{kind}: {at}")?,
            }
        }
    }
    if !args.json {
        let segments = source.segments.len();
        match damage.len() {
            0 => writeln!(out, "{segments} segments, no damage")?,
            count => writeln!(
                out,
                "{segments} segments, {count} damaged places; recover from a replica"
            )?,
        }
    }
    Ok(!damage.is_empty())
}

/// Totals of one source.
#[derive(Debug, Default)]
struct Totals {
    records: u64,
    bytes: u64,
    kinds: BTreeMap<&'static str, u64>,
    epochs: BTreeMap<(u64, u64), u64>,
    frames: u64,
    frame_bytes: u64,
    marks: u64,
    first: Option<Lsn>,
    last: Option<Lsn>,
    bad_sums: u64,
    unreadable: u64,
    frontier: Lsn,
}

impl Totals {
    fn add(&mut self, found: &Inspected<'_>, args: &Args) {
        match found {
            Inspected::Segment { .. } => {}
            Inspected::Frame {
                kind,
                bytes,
                frontier,
                ..
            } => {
                self.frames += 1;
                self.frame_bytes += bytes;
                self.marks += u64::from(*kind == "mark");
                self.frontier = self.frontier.max(*frontier);
            }
            Inspected::Record { header, sum_ok, .. } if args.wants(header) => {
                self.add_record(header, *sum_ok);
            }
            Inspected::Record { .. } => {}
            Inspected::Damage(_) => self.unreadable += 1,
        }
    }

    fn add_record(&mut self, header: &RecordHeader, sum_ok: bool) {
        self.records += 1;
        self.bytes += header.payload_bytes() as u64;
        *self.kinds.entry(header.kind.name()).or_default() += 1;
        let entry = (header.epoch.get(), header.incarnation.get());
        *self.epochs.entry(entry).or_default() += 1;
        self.first.get_or_insert(header.lsn);
        self.last = Some(header.lsn);
        self.bad_sums += u64::from(!sum_ok);
    }
}

fn stats(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut totals = Totals::default();
    walk(disk, source, &mut |_, found| {
        totals.add(&found, args);
        Ok(())
    })?;
    match args.json {
        true => print_totals_json(source, &totals, out),
        false => print_totals(source, &totals, out),
    }
}

fn print_totals_json(source: &Source, totals: &Totals, out: &mut dyn Write) -> Result<(), Error> {
    let epochs: Vec<_> = totals
        .epochs
        .iter()
        .map(|((epoch, incarnation), records)| {
            json!({"epoch": epoch, "incarnation": incarnation, "records": records})
        })
        .collect();
    let object = json!({
        "segments": source.segments.len(),
        "records": totals.records,
        "bytes": totals.bytes,
        "kinds": totals.kinds,
        "epochs": epochs,
        "frames": totals.frames,
        "frame_bytes": totals.frame_bytes,
        "marks": totals.marks,
        "first": totals.first.map(Lsn::get),
        "last": totals.last.map(Lsn::get),
        "frontier": totals.frontier.get(),
        "bad_sums": totals.bad_sums,
        "unreadable": totals.unreadable,
    });
    writeln!(out, "{object}")?;
    Ok(())
}

fn print_totals(source: &Source, totals: &Totals, out: &mut dyn Write) -> Result<(), Error> {
    let position = |lsn: Option<Lsn>| lsn.map_or("none".to_owned(), |lsn| lsn.to_string());
    writeln!(
        out,
        "{} segments, {} frames of {} bytes, {} marks, recorded frontier {}",
        source.segments.len(),
        totals.frames,
        totals.frame_bytes,
        totals.marks,
        totals.frontier
    )?;
    writeln!(
        out,
        "{} records from LSN {} to {}, {} bytes of payload, {} bad sums, {} unreadable places",
        totals.records,
        position(totals.first),
        position(totals.last),
        totals.bytes,
        totals.bad_sums,
        totals.unreadable
    )?;
    for (kind, count) in &totals.kinds {
        writeln!(out, "{kind}: {count}")?;
    }
    for ((epoch, incarnation), count) in &totals.epochs {
        writeln!(out, "epoch {epoch} incarnation {incarnation}: {count}")?;
    }
    Ok(())
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
