//! `wal-dump --map`: the segments, what keeps each, and where in the volume the writes went.

use std::io::Write;
use std::sync::Arc;

use seawall_recovery as recovery;
use seawall_snapshot::checkpoint_of;
use seawall_wal::disk::Disk;
use seawall_wal::{Corrupt, Inspected, Lsn};
use serde_json::{Value, json};

use crate::dump::Args;
use crate::dump::check::judge;
use crate::dump::heat::Heat;
use crate::dump::source::{Segment, Source, walk_watched};
use crate::error::Error;
use crate::paint::{self, Painted};

/// Cells of the picture of the volume, and those of one line of it.
const CELLS: u64 = 1024;
const LINE: u64 = 64;
/// From one record in a cell to the most.
const SHADES: &[u8] = b".:-=+*#%@";

/// A pin, as the process that holds the volume tells it.
#[derive(Debug)]
struct Pin {
    owner: String,
    lsn: u64,
}

/// What is known beside the segments.
#[derive(Debug, Default)]
struct Facts {
    live: bool,
    tail: u64,
    checkpoint: u64,
    committed: u64,
    /// Known to a live owner only.
    durable: Option<u64>,
    head: Option<u64>,
    pins: Vec<Pin>,
}

impl Facts {
    /// From the owner where there is one, otherwise from meta.
    fn of(source: &Source) -> Facts {
        let mut facts = Facts::default();
        if let Some(meta) = &source.meta {
            facts.tail = meta.tail.get();
            facts.committed = meta.committed.get();
            facts.checkpoint = checkpoint_of(meta).map_or(0, Lsn::get);
        }
        // OK because a volume whose owner does not answer is mapped from its files.
        let told = source.dir.as_ref().map(|dir| recovery::query_ctl(dir));
        if let Some(Ok(Some(text))) = told
            && let Ok(status) = serde_json::from_str::<Value>(&text)
        {
            facts.take(&status);
        }
        facts
    }

    fn take(&mut self, status: &Value) {
        let position = |name: &str| status[name].as_u64();
        self.live = true;
        self.tail = position("tail").unwrap_or(self.tail);
        self.checkpoint = position("checkpoint").unwrap_or(self.checkpoint);
        self.committed = position("committed").unwrap_or(self.committed);
        (self.durable, self.head) = (position("durable"), position("head"));
        let pins = status["pins"].as_array().into_iter().flatten();
        let holds = pins.filter(|pin| pin["broken"].is_null());
        self.pins = holds
            .filter_map(|pin| {
                Some(Pin {
                    owner: pin["owner"].as_str()?.to_owned(),
                    lsn: pin["lsn"].as_u64()?,
                })
            })
            .collect();
    }

    /// Who holds records at or below `last`.
    fn holders(&self, last: Lsn) -> Vec<&str> {
        let pins = self.pins.iter().filter(|pin| pin.lsn < last.get());
        pins.map(|pin| pin.owner.as_str()).collect()
    }
}

/// One line of the picture.
#[derive(Debug)]
struct Line<'a> {
    segment: &'a Segment,
    state: &'static str,
    pins: Vec<&'a str>,
    damage: Vec<&'a Corrupt>,
}

/// Where the segments of one source stand.
struct Lines<'a> {
    source: &'a Source,
    facts: &'a Facts,
    damage: &'a [Corrupt],
}

impl<'a> Lines<'a> {
    fn all(&self) -> Vec<Line<'a>> {
        let ours = self.source.segments.iter();
        let active = ours.clone().rev().find(|one| one.first_sequence.is_some());
        let active = active.and_then(|segment| segment.generation);
        let others = self.source.others.iter();
        let mut lines: Vec<_> = ours
            .map(|segment| self.line(segment, segment.generation == active))
            .collect();
        lines.extend(others.map(|segment| Line {
            segment,
            state: "free",
            pins: Vec::new(),
            damage: Vec::new(),
        }));
        lines
    }

    fn line(&self, segment: &'a Segment, active: bool) -> Line<'a> {
        let here = |at: &&Corrupt| at.path == segment.path;
        let damage: Vec<_> = self.damage.iter().filter(here).collect();
        let first = self
            .source
            .meta
            .as_ref()
            .and_then(|meta| meta.first_generation);
        let retired = segment
            .generation
            .zip(first)
            .is_some_and(|(own, first)| own < first);
        let mut pins = Vec::new();
        let state = match segment.lsns {
            _ if !damage.is_empty() => "damaged",
            _ if segment.headless.is_some() || segment.first_sequence.is_none() || retired => {
                "free"
            }
            _ if active => "active",
            Some((_, last)) if last.get() <= self.facts.checkpoint => {
                pins = self.facts.holders(last);
                if pins.is_empty() {
                    "reclaimable"
                } else {
                    "pinned"
                }
            }
            Some(_) | None => "live",
        };
        Line {
            segment,
            state,
            pins,
            damage,
        }
    }
}

/// Prints the picture.
pub(super) fn map(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let facts = Facts::of(source);
    let (mut damage, _) = judge(disk, source)?;
    damage.extend(source.odd.iter().cloned());
    let mut heat = Heat::default();
    let mut timestamp = 0;
    walk_watched(disk, source, "map", &mut |_, found| {
        match found {
            Inspected::Frame { timestamp_ns, .. } => timestamp = timestamp_ns,
            Inspected::Record { header, .. }
                if args.wants(header) && args.wants_time(timestamp) =>
            {
                heat.add(header);
            }
            _ => {}
        }
        Ok(())
    })?;
    let blocks = blocks_of(source, &heat);
    heat.coarsen(blocks, CELLS);
    let lines = Lines {
        source,
        facts: &facts,
        damage: &damage,
    };
    let lines = lines.all();
    match args.json {
        true => print_json(&lines, &facts, &heat, blocks, out),
        false => {
            print_segments(&lines, &facts, out)?;
            print_volume(&heat, blocks, out)
        }
    }
}

/// Blocks of the volume, or as many as the records reach.
fn blocks_of(source: &Source, heat: &Heat) -> u64 {
    let known = source.meta.as_ref().map(|meta| meta.geometry.blocks);
    let last = heat.cells().last();
    known.unwrap_or_else(|| last.map_or(0, |(first, _)| first + heat.cell_blocks()))
}

fn print_json(
    lines: &[Line<'_>],
    facts: &Facts,
    heat: &Heat,
    blocks: u64,
    out: &mut dyn Write,
) -> Result<(), Error> {
    for line in lines {
        let segment = line.segment;
        let lsns = segment.lsns;
        let damage = line.damage.iter().map(|at| at.to_string());
        let object = json!({
            "segment": segment.name,
            "generation": segment.generation,
            "state": line.state,
            "first": lsns.map(|(first, _)| first.get()),
            "last": lsns.map(|(_, last)| last.get()),
            "bytes": segment.end,
            "size": segment.size,
            "pins": line.pins,
            "damage": damage.collect::<Vec<_>>(),
        });
        writeln!(out, "{object}")?;
    }
    let cells = heat.cells().map(|(lba, cell)| {
        json!({
            "lba": lba,
            "records": cell.records,
            "written": cell.written,
            "cleared": cell.cleared,
        })
    });
    let object = json!({
        "live": facts.live,
        "tail": facts.tail,
        "checkpoint": facts.checkpoint,
        "committed": facts.committed,
        "durable": facts.durable,
        "head": facts.head,
        "blocks": blocks,
        "cell_blocks": heat.cell_blocks(),
        "cells": cells.collect::<Vec<_>>(),
    });
    writeln!(out, "{object}")?;
    Ok(())
}

fn print_segments(lines: &[Line<'_>], facts: &Facts, out: &mut dyn Write) -> Result<(), Error> {
    let count = |state: &str| lines.iter().filter(|line| line.state == state).count();
    let known = |position: Option<u64>| position.map_or("?".to_owned(), |lsn| lsn.to_string());
    writeln!(
        out,
        "{} segments: {} active, {} live, {} reclaimable, {} pinned, {} free, {} damaged",
        lines.len(),
        count("active"),
        count("live"),
        count("reclaimable"),
        count("pinned"),
        count("free"),
        count("damaged"),
    )?;
    writeln!(
        out,
        "tail {}  checkpoint {}  committed {}  durable {}  head {}{}",
        facts.tail,
        facts.checkpoint,
        facts.committed,
        known(facts.durable),
        known(facts.head),
        if facts.live { "" } else { "  (at rest)" },
    )?;
    let title = format!(
        "{:<14} {:>10} {:>10} {:>10}  {:<22} STATE",
        "SEGMENT", "GENERATION", "FIRST", "LAST", "FILLED"
    );
    writeln!(out, "{}", Painted(paint::TITLE, title))?;
    for line in lines {
        let segment = line.segment;
        let number = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
        let lsns = segment.lsns;
        writeln!(
            out,
            "{:<14} {:>10} {:>10} {:>10}  {} {}{}",
            segment.name,
            number(segment.generation),
            number(lsns.map(|(first, _)| first.get())),
            number(lsns.map(|(_, last)| last.get())),
            bar(segment.end, segment.size),
            Painted(style_of(line.state), line.state),
            remark(line),
        )?;
    }
    Ok(())
}

fn style_of(state: &str) -> anstyle::Style {
    match state {
        "damaged" => paint::BAD,
        "pinned" => paint::WARN,
        "active" => paint::GOOD,
        "free" => paint::FAINT,
        _ => paint::PLAIN,
    }
}

fn remark(line: &Line<'_>) -> String {
    match (line.damage.first(), line.pins.as_slice()) {
        (Some(first), _) => format!(": {first}"),
        (None, []) => String::new(),
        (None, pins) => format!(" by {}", pins.join(", ")),
    }
}

/// Twenty cells that are filled as the file is.
fn bar(end: u64, size: u64) -> String {
    let filled = match size {
        0 => 0,
        _ => (end.min(size) * 20).div_ceil(size),
    };
    let filled = usize::try_from(filled).unwrap_or(20);
    format!("[{:<20}]", "#".repeat(filled))
}

fn print_volume(heat: &Heat, blocks: u64, out: &mut dyn Write) -> Result<(), Error> {
    let most = heat.cells().map(|(_, cell)| cell.records).max();
    let Some(most) = most else {
        return Ok(writeln!(out, "no record in the log")?);
    };
    let cell = heat.cell_blocks();
    writeln!(
        out,
        "where the writes went, {cell} blocks a cell: '{}' one record to '{}' {most}",
        char::from(SHADES[0]),
        char::from(SHADES[SHADES.len() - 1]),
    )?;
    let width = blocks.to_string().len();
    let mut cells = heat.cells().peekable();
    let mut quiet = 0;
    for line in 0..blocks.div_ceil(cell * LINE).max(1) {
        let from = line * LINE * cell;
        let mut shown = vec![b' '; usize::try_from(LINE).expect("a line is short")];
        let mut touched = false;
        while let Some((first, heat)) = cells.next_if(|(first, _)| *first < from + LINE * cell) {
            let at = usize::try_from((first - from) / cell).expect("a line is short");
            shown[at] = shade(heat.records, most);
            touched = true;
        }
        if !touched {
            quiet += 1;
            continue;
        }
        if std::mem::take(&mut quiet) > 0 {
            writeln!(out, "{:>width$}", "...")?;
        }
        let shown = String::from_utf8_lossy(&shown);
        writeln!(out, "{from:>width$} |{shown}|")?;
    }
    Ok(())
}

/// On a scale of logarithms, so that one hot cell does not hide all others.
fn shade(records: u64, most: u64) -> u8 {
    let steps = SHADES.len() as u64 - 1;
    let step = match most.ilog2() {
        0 => 0,
        scale => u64::from(records.max(1).ilog2()) * steps / u64::from(scale),
    };
    SHADES[usize::try_from(step.min(steps)).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_its_file() {
        assert_eq!(bar(0, 100), format!("[{}]", " ".repeat(20)));
        assert_eq!(bar(1, 100), format!("[#{}]", " ".repeat(19)));
        assert_eq!(bar(100, 100), format!("[{}]", "#".repeat(20)));
        assert_eq!(bar(9, 0), format!("[{}]", " ".repeat(20)));
    }

    #[test]
    fn one_record_is_the_lightest_shade_and_the_most_the_darkest() {
        assert_eq!(shade(1, 1), b'.');
        assert_eq!((shade(1, 1000), shade(1000, 1000)), (b'.', b'@'));
        assert!(SHADES.contains(&shade(30, 1000)));
    }
}
