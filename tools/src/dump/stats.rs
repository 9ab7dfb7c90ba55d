//! `wal-dump --stats`: totals in place of records.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{Inspected, Lsn, RecordHeader};
use serde_json::json;

use crate::dump::Args;
use crate::dump::source::{Source, walk};
use crate::error::Error;

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

pub(super) fn stats(
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
