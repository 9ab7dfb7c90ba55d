//! `wal-dump --salvage OUT`: every intact record to a log directory of its own, and an account of
//! what is missing. The input is only read.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::disk::{Buffer, Disk};
use seawall_wal::{
    Epoch, Geometry, Incarnation, Inspected, Lineage, Log, LogMode, Loss, Lsn, LsnRange, Meta,
    MetaContents, Record, RecordHeader, Role, Salvage, ScanEnd,
};
use serde_json::json;

use crate::common;
use crate::dump::Args;
use crate::dump::source::{Segment, Source, state_of, walk_watched};
use crate::error::Error;

/// LSNs that no intact record was found for.
#[derive(Debug)]
struct Missing {
    lsns: LsnRange,
    /// Some frontier says that they were durable once.
    was_durable: bool,
    /// The blocks they touched, as far as a header or an index tells.
    blocks: Vec<(u64, u32)>,
    /// Those blocks are all.
    all_known: bool,
}

/// What was found while records were copied.
#[derive(Debug, Default)]
struct Account {
    records: u64,
    bytes: u64,
    first: Option<Lsn>,
    last: Lsn,
    gaps: Vec<LsnRange>,
    /// Headers of records whose payload is damaged.
    broken: Vec<RecordHeader>,
    /// Dropped by a truncation, or by the lineage.
    dropped: u64,
}

/// Salvages one source; `true` when something is missing.
pub(super) fn salvage(
    disk: &Arc<dyn Disk>,
    source: &Source,
    to: &Path,
    args: &Args,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    refuse_inside(source, to)?;
    let contents = contents(source)?;
    let floor = contents.tail.max(contents.origin);
    let durable = frontier(disk, source)?.max(floor);
    let losses = losses(disk, source);
    let lineage = contents.lineage.clone();
    let mut writer = Salvage::create(disk, to, &common::clock(), contents, durable)?;
    let mut account = Account {
        last: floor,
        ..Account::default()
    };
    copy(disk, source, &lineage, &mut writer, &mut account)?;
    writer.finish()?;
    if account.last < durable {
        account.gaps.push(LsnRange::new(account.last, durable));
    }
    let missing = account.missing(durable, &losses);
    report(&account, &missing, durable, to, args, out)?;
    Ok(!missing.is_empty())
}

/// OUT must not lie in what is inspected.
fn refuse_inside(source: &Source, to: &Path) -> Result<(), Error> {
    let identity = |path: &Path| rustix::fs::stat(path).ok().map(|s| (s.st_dev, s.st_ino));
    let inputs: Vec<PathBuf> = match &source.dir {
        Some(dir) => vec![dir.clone()],
        None => Vec::new(),
    };
    let inputs: Vec<_> = inputs.iter().filter_map(|dir| identity(dir)).collect();
    let to_absolute = std::path::absolute(to)?;
    let inside = |dir: &Path| identity(dir).is_some_and(|found| inputs.contains(&found));
    match to_absolute.ancestors().any(inside) {
        false => Ok(()),
        true => Err(Error::BadPath {
            path: to.into(),
            what: "lies in the directory that is inspected",
            hint: "salvage to a new directory elsewhere",
        }),
    }
}

/// What meta says, or as much of it as the records tell.
fn contents(source: &Source) -> Result<MetaContents, Error> {
    if let Some(meta) = &source.meta {
        return Ok(meta.clone());
    }
    let nothing = || Error::BadPath {
        path: source
            .dir
            .clone()
            .unwrap_or_else(|| source.segments[0].path.clone()),
        what: "has neither meta nor a record that can be read",
        hint: "nothing can be salvaged from it",
    };
    let with_records = || {
        source
            .segments
            .iter()
            .filter(|segment| segment.lsns.is_some())
    };
    let newest = with_records().max_by_key(|segment| segment.generation);
    let newest = newest.ok_or_else(nothing)?;
    let (volume, log) = newest.volume.zip(newest.log).ok_or_else(nothing)?;
    let ours = || with_records().filter(|segment| segment.log == Some(log));
    let first = ours()
        .filter_map(|segment| segment.lsns)
        .map(|(first, _)| first);
    let first = first.min().ok_or_else(nothing)?;
    let shapes = || ours().filter_map(|segment| segment.shape);
    let (block_size, _) = shapes().next().ok_or_else(nothing)?;
    let blocks = shapes().map(|(_, end)| end).max().unwrap_or(1);
    let lineage = lineage_of(ours());
    let last = lineage.last();
    let epoch = last.map_or(Epoch::new(1), |entry| entry.epoch);
    let incarnation = last.map_or(1, |entry| entry.incarnation.get() + 1);
    let generation = source
        .segments
        .iter()
        .filter_map(|segment| segment.generation)
        .max();
    Ok(MetaContents {
        volume,
        log,
        geometry: Geometry {
            block_size,
            blocks,
            segment_bytes: newest.size.clamp(1 << 20, 1 << 30) / 4096 * 4096,
        },
        // Nobody may append to a copy whose place in the cluster is not known.
        role: Role::Replica,
        epoch,
        lineage,
        committed: Lsn::ZERO,
        tail: Lsn::ZERO,
        origin: first.before(),
        first_generation: None,
        generation_next: generation.map_or(1, |last| last.saturating_add(1)),
        incarnation_next: Incarnation::new(incarnation),
        clean_close: None,
        sections: std::collections::BTreeMap::new(),
    })
}

/// The lineage that records in log order tell: a higher entry replaces what lies behind its first.
fn lineage_of<'a>(segments: impl Iterator<Item = &'a Segment>) -> Lineage {
    let entries = segments.flat_map(|segment| &segment.lineage);
    entries.fold(Lineage::default(), |lineage, entry| {
        let last = lineage.last();
        let newer = last
            .is_none_or(|last| (last.epoch, last.incarnation) < (entry.epoch, entry.incarnation));
        if newer { lineage.with(*entry) } else { lineage }
    })
}

/// The highest frontier that meta or a frame recorded.
fn frontier(disk: &Arc<dyn Disk>, source: &Source) -> Result<Lsn, Error> {
    let meta = source.meta.as_ref();
    let known = meta.map_or(Lsn::ZERO, |meta| {
        let closed = meta.clean_close.map_or(Lsn::ZERO, |close| close.head);
        meta.committed.max(closed)
    });
    let mut frontier = Lsn::ZERO;
    walk_watched(disk, source, "look", &mut |_, found| {
        if let Inspected::Frame {
            frontier: recorded,
            truncated_after,
            ..
        } = found
        {
            frontier = truncated_after.unwrap_or_else(|| frontier.max(recorded));
        }
        Ok(())
    })?;
    Ok(frontier.max(known))
}

/// What replay says is lost, with the blocks that a sealed index still knows (D14).
fn losses(disk: &Arc<dyn Disk>, source: &Source) -> Vec<Loss> {
    let Some((dir, meta)) = source.dir.as_ref().zip(source.meta.as_ref()) else {
        return Vec::new();
    };
    let checkpoint = seawall_snapshot::checkpoint_of(meta).unwrap_or(meta.tail);
    // OK because this only adds what is known: what cannot be opened is salvaged all the same.
    let opened = Meta::open(disk, dir, false).and_then(|meta| {
        let mode = LogMode::ReadOnly;
        Log::open(
            disk,
            dir,
            &Arc::new(meta),
            &common::clock(),
            mode,
            checkpoint,
        )
    });
    match opened.map(|(_, report)| report.end) {
        Ok(ScanEnd::Damaged(losses)) => losses.places,
        _ => Vec::new(),
    }
}

fn copy(
    disk: &Arc<dyn Disk>,
    source: &Source,
    lineage: &Lineage,
    writer: &mut Salvage,
    account: &mut Account,
) -> Result<(), Error> {
    let floor = account.last;
    let mut sequence_now = 0;
    let mut failed = None;
    let log = source.meta.as_ref().map(|meta| meta.log);
    let newest = source
        .segments
        .iter()
        .filter(|segment| segment.lsns.is_some());
    let newest = newest.max_by_key(|segment| segment.generation);
    let log = log.or_else(|| newest.and_then(|segment| segment.log));
    walk_watched(disk, source, "salvage", &mut |segment, found| {
        match found {
            Inspected::Frame { sequence, .. } => sequence_now = sequence,
            Inspected::Record {
                header,
                sum_ok,
                payload,
                ..
            } if segment.log == log && header.lsn > floor && failed.is_none() => {
                let entry = lineage.entry_at(header.lsn);
                let ours = entry.is_none_or(|entry| {
                    (entry.epoch, entry.incarnation) == (header.epoch, header.incarnation)
                });
                let cut = state_of(source, sequence_now, header.lsn) == "truncated";
                if cut || !ours {
                    account.dropped += 1;
                } else if !sum_ok {
                    account.broken.push(*header);
                } else if header.lsn > account.last {
                    match Record::verified(*header, Arc::new(Buffer::copy_of(payload))) {
                        Ok(record) => failed = account.take(record, writer).err(),
                        Err(_) => account.broken.push(*header),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    failed.map_or(Ok(()), |error| Err(error.into()))
}

impl Account {
    fn take(&mut self, record: Record, writer: &mut Salvage) -> Result<(), seawall_wal::Error> {
        let lsn = record.lsn();
        if self.last < lsn.before() {
            self.gaps.push(LsnRange::new(self.last, lsn.before()));
        }
        self.records += 1;
        self.bytes += record.payload().len() as u64;
        self.first.get_or_insert(lsn);
        self.last = lsn;
        writer.push(record)
    }

    /// The gaps, parted where the frontier lies, with the blocks that are known.
    fn missing(&self, durable: Lsn, losses: &[Loss]) -> Vec<Missing> {
        let mut missing = Vec::new();
        for gap in &self.gaps {
            let edge = durable.max(gap.after).min(gap.through);
            for (lsns, was_durable) in [
                (LsnRange::new(gap.after, edge), true),
                (LsnRange::new(edge, gap.through), false),
            ] {
                if !lsns.is_empty() {
                    missing.push(self.missing_in(lsns, was_durable, losses));
                }
            }
        }
        missing
    }

    fn missing_in(&self, lsns: LsnRange, was_durable: bool, losses: &[Loss]) -> Missing {
        let mut known = 0;
        let mut blocks: Vec<(u64, u32)> = Vec::new();
        let broken = self
            .broken
            .iter()
            .filter(|header| lsns.contains(header.lsn));
        for header in broken {
            known += 1;
            blocks.push((header.lba.0, header.blocks));
        }
        let inside =
            |loss: &&Loss| lsns.after <= loss.lsns.after && loss.lsns.through <= lsns.through;
        for loss in losses.iter().filter(inside) {
            let Some(found) = &loss.blocks else { continue };
            let told = |header: &RecordHeader| loss.lsns.contains(header.lsn);
            if !self.broken.iter().any(told) {
                known += loss.lsns.len();
                blocks.extend(found.iter().map(|(lba, count)| (lba.0, *count)));
            }
        }
        blocks.sort_unstable();
        blocks.dedup();
        Missing {
            lsns,
            was_durable,
            blocks,
            all_known: known >= lsns.len(),
        }
    }
}

fn report(
    account: &Account,
    missing: &[Missing],
    durable: Lsn,
    to: &Path,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    for gap in missing {
        match args.json {
            true => writeln!(out, "{}", gap.json())?,
            false => writeln!(out, "{}", gap.text())?,
        }
    }
    if args.json {
        let object = json!({
            "out": to,
            "records": account.records,
            "bytes": account.bytes,
            "first": account.first.map(Lsn::get),
            "last": account.last.get(),
            "durable": durable.get(),
            "dropped": account.dropped,
            "missing": missing.iter().map(|gap| gap.lsns.len()).sum::<u64>(),
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    let range = match account.first {
        Some(first) => format!("LSN {first} to {}", account.last),
        None => "none".to_owned(),
    };
    writeln!(
        out,
        "{} intact records ({range}), {} bytes of payload, in {}; {} dropped by truncations left out",
        account.records,
        account.bytes,
        to.display(),
        account.dropped,
    )?;
    if missing.is_empty() {
        writeln!(out, "nothing is missing")?;
    }
    Ok(())
}

impl Missing {
    fn json(&self) -> serde_json::Value {
        let blocks = self.blocks.iter();
        let blocks = blocks.map(|(lba, blocks)| json!({"lba": lba, "blocks": blocks}));
        json!({
            "kind": "missing",
            "after": self.lsns.after.get(),
            "through": self.lsns.through.get(),
            "was_durable": self.was_durable,
            "blocks": blocks.collect::<Vec<_>>(),
            "all_blocks_known": self.all_known,
        })
    }

    fn text(&self) -> String {
        let what = match self.was_durable {
            true => "were durable",
            false => "were written and never known to be durable",
        };
        let blocks = self.blocks.iter();
        let mut blocks: Vec<String> = blocks
            .map(|(lba, count)| format!("{lba}..{}", lba + u64::from(*count)))
            .collect();
        if !self.all_known {
            blocks.push("others that nothing tells".into());
        }
        format!(
            "missing LSNs {}, which {what}; blocks {}",
            self.lsns,
            blocks.join(", ")
        )
    }
}
