//! `wal-dump --stats`: totals in place of records.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{Inspected, Lsn, RecordHeader, RecordKind};
use serde_json::json;

use crate::dump::Args;
use crate::dump::heat::{Heat, Touched};
use crate::dump::source::{Source, walk_watched};
use crate::error::Error;
use crate::time;

/// Places that are told to be the hottest.
const HOTTEST: usize = 8;

/// Records of one kind.
#[derive(Debug, Default)]
struct Kind {
    records: u64,
    blocks: u64,
    bytes: u64,
}

/// Totals of one source.
#[derive(Debug, Default)]
struct Totals {
    records: u64,
    bytes: u64,
    kinds: BTreeMap<&'static str, Kind>,
    /// Records by payload: of at most that many bytes, a power of two.
    sizes: BTreeMap<u64, u64>,
    heat: Heat,
    /// Blocks that writes touched, each counted once, and as often as they were written.
    touched: Touched,
    written: u64,
    /// Of the frame that is read.
    timestamp_ns: u64,
    times: Option<(u64, u64)>,
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
                timestamp_ns,
                ..
            } => {
                self.timestamp_ns = *timestamp_ns;
                self.frames += 1;
                self.frame_bytes += bytes;
                self.marks += u64::from(*kind == "mark");
                self.frontier = self.frontier.max(*frontier);
            }
            Inspected::Record { header, sum_ok, .. }
                if args.wants(header) && args.wants_time(self.timestamp_ns) =>
            {
                self.add_record(header, *sum_ok);
            }
            Inspected::Record { .. } => {}
            Inspected::Damage(_) => self.unreadable += 1,
        }
    }

    fn add_record(&mut self, header: &RecordHeader, sum_ok: bool) {
        self.records += 1;
        self.bytes += header.payload_bytes() as u64;
        let kind = self.kinds.entry(header.kind.name()).or_default();
        kind.records += 1;
        kind.blocks += u64::from(header.blocks);
        kind.bytes += header.payload_bytes() as u64;
        if header.kind == RecordKind::Write {
            let size = header.payload_bytes() as u64;
            *self.sizes.entry(size.next_power_of_two()).or_default() += 1;
            self.touched.add(header.lba.0, header.blocks);
            self.written += u64::from(header.blocks);
        }
        self.heat.add(header);
        let now = self.timestamp_ns;
        let (first, last) = self.times.unwrap_or((now, now));
        self.times = Some((first.min(now), last.max(now)));
        let entry = (header.epoch.get(), header.incarnation.get());
        *self.epochs.entry(entry).or_default() += 1;
        self.first.get_or_insert(header.lsn);
        self.last = Some(header.lsn);
        self.bad_sums += u64::from(!sum_ok);
    }

    /// Bytes of frames for each byte of payload.
    fn amplification(&self) -> Option<f64> {
        ratio(self.frame_bytes, self.bytes)
    }

    /// How often a block that was written was written, on average.
    fn rewrites(&self) -> Option<f64> {
        ratio(self.written, self.touched.blocks())
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

pub(super) fn stats(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut totals = Totals::default();
    walk_watched(disk, source, "count", &mut |_, found| {
        totals.add(&found, args);
        Ok(())
    })?;
    if let Some(meta) = &source.meta {
        totals.heat.coarsen(meta.geometry.blocks, 1024);
    }
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
    let kinds: serde_json::Map<_, _> = totals
        .kinds
        .iter()
        .map(|(name, kind)| ((*name).to_owned(), json!(kind.records)))
        .collect();
    let by_kind = totals.kinds.iter().map(|(name, kind)| {
        json!({"kind": name, "records": kind.records, "blocks": kind.blocks, "bytes": kind.bytes})
    });
    let sizes = totals.sizes.iter();
    let sizes = sizes.map(|(size, records)| json!({"at_most": size, "records": records}));
    let cell = totals.heat.cell_blocks();
    let hottest = totals.heat.hottest(HOTTEST).into_iter().map(|(lba, heat)| {
        json!({"lba": lba, "blocks": cell, "records": heat.records, "written": heat.written})
    });
    let object = json!({
        "segments": source.segments.len(),
        "records": totals.records,
        "bytes": totals.bytes,
        "kinds": kinds,
        "by_kind": by_kind.collect::<Vec<_>>(),
        "sizes": sizes.collect::<Vec<_>>(),
        "write_amplification": totals.amplification(),
        "blocks_written": totals.written,
        "blocks_touched": totals.touched.blocks(),
        "rewrite_ratio": totals.rewrites(),
        "hottest": hottest.collect::<Vec<_>>(),
        "since_ns": totals.times.map(|(first, _)| first),
        "until_ns": totals.times.map(|(_, last)| last),
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
    if let Some((first, last)) = totals.times {
        writeln!(
            out,
            "written from {} to {}",
            time::show(first),
            time::show(last)
        )?;
    }
    let shown = |ratio: Option<f64>| ratio.map_or("none".to_owned(), |it| format!("{it:.2}"));
    writeln!(
        out,
        "write amplification {}: bytes of frames for a byte of payload",
        shown(totals.amplification())
    )?;
    writeln!(
        out,
        "rewrite ratio {}: {} blocks written to {} different ones",
        shown(totals.rewrites()),
        totals.written,
        totals.touched.blocks()
    )?;
    writeln!(
        out,
        "{:<14} {:>12} {:>14} {:>16}",
        "KIND", "RECORDS", "BLOCKS", "BYTES"
    )?;
    for (name, kind) in &totals.kinds {
        let Kind {
            records,
            blocks,
            bytes,
        } = kind;
        writeln!(out, "{name:<14} {records:>12} {blocks:>14} {bytes:>16}")?;
    }
    writeln!(out, "{:<14} {:>12}", "PAYLOAD UP TO", "RECORDS")?;
    for (size, count) in &totals.sizes {
        writeln!(out, "{size:<14} {count:>12}")?;
    }
    writeln!(out, "{:<14} {:>12}", "EPOCH", "RECORDS")?;
    for ((epoch, incarnation), count) in &totals.epochs {
        writeln!(out, "{:<14} {count:>12}", format!("{epoch}.{incarnation}"))?;
    }
    writeln!(
        out,
        "{:<24} {:>12} {:>14}",
        "HOTTEST BLOCKS", "RECORDS", "WRITTEN"
    )?;
    let cell = totals.heat.cell_blocks();
    for (lba, heat) in totals.heat.hottest(HOTTEST) {
        let range = format!("{lba}..{}", lba + cell);
        writeln!(out, "{range:<24} {:>12} {:>14}", heat.records, heat.written)?;
    }
    Ok(())
}
