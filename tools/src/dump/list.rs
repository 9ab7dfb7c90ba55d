//! The records themselves, one a line.

use std::io::Write;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{Corrupt, Error as WalError, Inspected, RecordHeader, inspect_stale};
use serde_json::json;

use crate::dump::source::{Segment, Source, state_of, walk};
use crate::dump::{Args, damage_json};
use crate::error::Error;
use crate::paint::{self, Painted};
use crate::time;

/// The frame that the records behind it lie in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Frame {
    pub(super) sequence: u64,
    pub(super) generation: u64,
    pub(super) timestamp_ns: u64,
}

/// A record where it lies.
pub(super) struct Row<'a> {
    pub(super) header: &'a RecordHeader,
    pub(super) segment: &'a str,
    pub(super) offset: u64,
    pub(super) frame: Frame,
    pub(super) sum_ok: bool,
    pub(super) payload: &'a [u8],
    /// "live", "reclaimed", "truncated" or "stale".
    pub(super) state: &'static str,
}

/// Prints what a scan comes across, one line for a record.
pub(super) struct Printer<'a> {
    args: &'a Args,
    out: &'a mut dyn Write,
    frame: Frame,
    titled: bool,
}

impl<'a> Printer<'a> {
    pub(super) fn new(args: &'a Args, out: &'a mut dyn Write) -> Printer<'a> {
        Printer {
            args,
            out,
            frame: Frame::default(),
            titled: false,
        }
    }

    /// Prints one thing. `state` tells what counts of a record.
    pub(super) fn print(
        &mut self,
        segment: &str,
        found: &Inspected<'_>,
        state: &dyn Fn(Frame, &RecordHeader) -> &'static str,
    ) -> std::io::Result<()> {
        match *found {
            Inspected::Segment { generation, .. } if !self.args.json => {
                writeln!(self.out, "{segment} generation {generation}")
            }
            Inspected::Segment { .. } => Ok(()),
            Inspected::Frame {
                sequence,
                generation,
                timestamp_ns,
                truncated_after,
                ..
            } => {
                self.frame = Frame {
                    sequence,
                    generation,
                    timestamp_ns,
                };
                match truncated_after {
                    Some(after) if !self.args.json && self.args.wants_time(timestamp_ns) => {
                        writeln!(self.out, "frame {sequence} truncates after {after}")
                    }
                    _ => Ok(()),
                }
            }
            Inspected::Record {
                offset,
                header,
                sum_ok,
                payload,
                ..
            } if self.args.wants(header) && self.args.wants_time(self.frame.timestamp_ns) => self
                .row(&Row {
                    header,
                    segment,
                    offset,
                    frame: self.frame,
                    sum_ok,
                    payload,
                    state: state(self.frame, header),
                }),
            Inspected::Record { .. } => Ok(()),
            Inspected::Damage(at) if self.args.wants_damage(at) => self.bytes(at),
            Inspected::Damage(_) => Ok(()),
        }
    }

    fn row(&mut self, row: &Row<'_>) -> std::io::Result<()> {
        let hex = self.args.hex.map(|most| {
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            &row.payload[..row.payload.len().min(most)]
        });
        if self.args.json {
            let mut object = row.json();
            if let Some(hex) = hex {
                object["payload"] = to_hex(hex).into();
            }
            return writeln!(self.out, "{object}");
        }
        if !std::mem::replace(&mut self.titled, true) {
            let title = format!(
                "{:>10} {:>9} {:<12} {:>12} {:>7} {:>9}  {:<24} TIME",
                "LSN", "EPOCH", "KIND", "LBA", "BLOCKS", "FRAME", "PLACE"
            );
            writeln!(self.out, "{}", Painted(paint::TITLE, title))?;
        }
        row.print(self.out)?;
        hex.map_or(Ok(()), |bytes| dump_hex(bytes, row.payload.len(), self.out))
    }

    /// Bytes that are no frame: damage or a torn tail, which only `--verify` tells apart.
    fn bytes(&mut self, at: &Corrupt) -> std::io::Result<()> {
        match self.args.json {
            true => writeln!(self.out, "{}", damage_json(at, "unreadable")),
            false => writeln!(self.out, "{} {at}", Painted(paint::WARN, "no frame:")),
        }
    }

    /// Prints a line of its own.
    pub(super) fn say(
        &mut self,
        object: &serde_json::Value,
        text: &dyn std::fmt::Display,
    ) -> std::io::Result<()> {
        match self.args.json {
            true => writeln!(self.out, "{object}"),
            false => writeln!(self.out, "{text}"),
        }
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl Row<'_> {
    fn json(&self) -> serde_json::Value {
        let header = self.header;
        json!({
            "lsn": header.lsn.get(),
            "epoch": header.epoch.get(),
            "incarnation": header.incarnation.get(),
            "kind": header.kind.name(),
            "no_hole": header.no_hole,
            "lba": header.lba.0,
            "blocks": header.blocks,
            "bytes": header.payload_bytes(),
            "segment": self.segment,
            "offset": self.offset,
            "frame": self.frame.sequence,
            "generation": self.frame.generation,
            "timestamp_ns": self.frame.timestamp_ns,
            "sum_ok": self.sum_ok,
            "state": self.state,
        })
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let header = self.header;
        let verdict = if self.sum_ok { "" } else { "  BAD SUM" };
        let verdict = Painted(paint::BAD, verdict);
        let state = match self.state {
            "live" => String::new(),
            "stale" => format!("  stale, generation {}", self.frame.generation),
            other => format!("  {other}"),
        };
        let row = format!(
            "{:>10} {:>9} {:<12} {:>12} {:>7} {:>9}  {:<24} {}",
            header.lsn.get(),
            format!("{}.{}", header.epoch, header.incarnation),
            header.kind.name(),
            header.lba.0,
            header.blocks,
            self.frame.sequence,
            format!("{}:{}", self.segment, self.offset),
            time::show(self.frame.timestamp_ns),
        );
        let counts = self.state == "live";
        let row = Painted(if counts { paint::PLAIN } else { paint::FAINT }, row);
        writeln!(out, "{row}{verdict}{state}")
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sixteen bytes a line with their offset in the payload; what repeats is left out.
fn dump_hex(bytes: &[u8], whole: usize, out: &mut dyn Write) -> std::io::Result<()> {
    let mut last: Option<&[u8]> = None;
    let mut left_out = false;
    for (index, line) in bytes.chunks(16).enumerate() {
        if last == Some(line) {
            if !std::mem::replace(&mut left_out, true) {
                writeln!(out, "    *")?;
            }
            continue;
        }
        (last, left_out) = (Some(line), false);
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text = line.iter().map(|byte| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        });
        let text: String = text.collect();
        writeln!(
            out,
            "    {:06x}  {:<47}  |{text}|",
            index * 16,
            hex.join(" ")
        )?;
    }
    match bytes.len() < whole {
        true => writeln!(
            out,
            "    {:06x}  {} bytes more",
            bytes.len(),
            whole - bytes.len()
        ),
        false => writeln!(out, "    {whole:06x}"),
    }
}

/// Every record, in log order.
pub(super) fn list(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut printer = Printer::new(args, out);
    walk(disk, source, &mut |segment, found| {
        printer.print(&segment.name, &found, &|frame, header| {
            state_of(source, frame.sequence, header.lsn)
        })
    })
}

/// Records of earlier lives that nothing was written over yet, file by file.
pub(super) fn stale(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let mut printer = Printer::new(args, out);
    for segment in source.segments.iter().chain(&source.others) {
        stale_of(disk, segment, &mut printer)?;
    }
    Ok(())
}

fn stale_of(
    disk: &Arc<dyn Disk>,
    segment: &Segment,
    printer: &mut Printer<'_>,
) -> Result<(), Error> {
    if let Some(at) = &segment.headless {
        return Ok(printer.bytes(at)?);
    }
    let mut result = Ok(());
    let inspected = inspect_stale(disk, &segment.path, &mut |found| {
        if result.is_ok() {
            result = printer.print(&segment.name, &found, &|_, _| "stale");
        }
    });
    result?;
    match inspected {
        // A live owner removed the file, or made it into something else, since we looked.
        Err(error) if crate::common::is_gone(&error) => Ok(()),
        Err(WalError::Corrupt(at)) => Ok(printer.bytes(&at)?),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_of_a_payload_are_told_once() {
        let mut out = Vec::new();
        let mut bytes = vec![0; 64];
        bytes.extend_from_slice(b"seawall\x00");
        dump_hex(&bytes, 100, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert_eq!(lines[1], "    *");
        assert!(lines[2].starts_with("    000040  73 65 61") && lines[2].ends_with("|seawall.|"));
        assert!(lines[3].ends_with("28 bytes more"), "{text}");
    }
}
