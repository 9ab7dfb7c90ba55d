//! Everything that lies in a segment file, for tools that look at one file alone.

use std::path::Path;
use std::sync::Arc;

use crate::disk::{Disk, File, OpenMode};
use crate::frame::{self, FRAME_ALIGNMENT, FrameHeader, FrameKind};
use crate::record::RecordHeader;
use crate::segment::{FIRST_FRAME_AT, FoundFrame, FoundRecord, Scanner, SegmentHeader, layout};
use crate::{Corrupt, Damage, Error, LogId, Lsn, VolumeId};

/// One thing that [`inspect_segment`] came across, in file order.
#[derive(Debug)]
pub enum Inspected<'a> {
    /// The segment's identity.
    Segment {
        /// Volume it belongs to.
        volume: VolumeId,
        /// Log it belongs to.
        log: LogId,
        /// Generation of its present life.
        generation: u64,
        /// Size that the file was prepared with.
        segment_bytes: u64,
    },
    /// A frame whose own sum holds.
    Frame {
        /// Byte offset in the file.
        offset: u64,
        /// Generation of the segment's life that it was written in.
        generation: u64,
        /// "records", "mark", "truncation", "seal".
        kind: &'static str,
        /// Frame sequence.
        sequence: u64,
        /// Frontier it recorded.
        frontier: Lsn,
        /// Committed it recorded.
        committed: Lsn,
        /// Unix nanoseconds given by the writer.
        timestamp_ns: u64,
        /// Bytes of the frame.
        bytes: u64,
        /// Truncation only: what was kept.
        truncated_after: Option<Lsn>,
    },
    /// A record of the frame before.
    Record {
        /// Byte offset of its header.
        offset: u64,
        /// Byte offset of its payload.
        payload_offset: u64,
        /// Its header.
        header: &'a RecordHeader,
        /// Whether its sum holds.
        sum_ok: bool,
        /// Its payload bytes as found; empty when they cannot be read.
        payload: &'a [u8],
    },
    /// Bytes that should be sound and are not.
    Damage(&'a Corrupt),
}

impl<'a> Inspected<'a> {
    fn of_frame(header: &FrameHeader) -> Inspected<'a> {
        Inspected::Frame {
            offset: header.offset,
            generation: header.generation,
            kind: header.kind.name(),
            sequence: header.sequence,
            frontier: header.frontier,
            committed: header.committed,
            timestamp_ns: header.timestamp_ns,
            bytes: header.frame_bytes as u64,
            truncated_after: (header.kind == FrameKind::Truncation).then_some(header.after),
        }
    }

    fn of_record(record: &'a FoundRecord, payload: &'a [u8]) -> Inspected<'a> {
        Inspected::Record {
            offset: record.header_at,
            payload_offset: record.payload_at,
            header: &record.header,
            sum_ok: record.state.is_ok(),
            payload,
        }
    }
}

/// Reads a segment file front to back and hands over what it finds. It resynchronises at every
/// 4 KiB behind damage; space that this life of the segment never wrote to is passed over.
///
/// # Errors
/// [`Error::Io`]; [`Error::Corrupt`] when neither the header nor the first frame says whose segment
/// it is.
pub fn inspect_segment(
    disk: &Arc<dyn Disk>,
    path: &Path,
    each: &mut dyn FnMut(Inspected<'_>),
) -> Result<(), Error> {
    let file = File::open(disk, path, OpenMode::Read)?;
    let (identity, header_damage) = identify(&file)?;
    let SegmentHeader {
        volume,
        log,
        generation,
        segment_bytes,
    } = identity;
    each(Inspected::Segment {
        volume,
        log,
        generation,
        segment_bytes,
    });
    if let Some(what) = header_damage {
        each(Inspected::Damage(&Corrupt {
            path: path.into(),
            offset: 0,
            lsn: None,
            what,
        }));
    }
    let mut scanner = Scanner::new(&file, identity)?;
    let mut at = FIRST_FRAME_AT;
    let mut expected: Option<u64> = None;
    let mut damage: Option<Corrupt> = None;
    while at + FRAME_ALIGNMENT as u64 <= scanner.end() {
        match scanner.frame_at(at) {
            Ok(found) => {
                if let Some(corrupt) = damage.take() {
                    each(Inspected::Damage(&corrupt));
                }
                report_frame(&mut scanner, &found, expected, each);
                expected = Some(found.header.sequence + 1);
                at += found.header.frame_bytes as u64;
                if found.header.kind == FrameKind::Seal {
                    return Ok(());
                }
            }
            Err(what) => {
                let begun = scanner.looks_begun(at);
                let corrupt = Corrupt {
                    path: path.into(),
                    offset: at,
                    lsn: None,
                    what,
                };
                match &damage {
                    None => damage = Some(corrupt),
                    Some(first) if begun && !scanner.looks_begun(first.offset) => {
                        damage = Some(corrupt);
                    }
                    Some(_) => {}
                }
                at += FRAME_ALIGNMENT as u64;
            }
        }
    }
    // Behind the last frame only what this life began to write is damage.
    if let Some(corrupt) = damage.filter(|corrupt| scanner.looks_begun(corrupt.offset)) {
        each(Inspected::Damage(&corrupt));
    }
    Ok(())
}

/// Reads a segment file front to back for frames of earlier lives that nothing was written over
/// yet, and hands them over in file order. No reader of the log ever takes one for a record. A
/// record whose payload was overwritten since has `sum_ok` false.
///
/// # Errors
/// As [`inspect_segment`].
pub fn inspect_stale(
    disk: &Arc<dyn Disk>,
    path: &Path,
    each: &mut dyn FnMut(Inspected<'_>),
) -> Result<(), Error> {
    let file = File::open(disk, path, OpenMode::Read)?;
    let (identity, _) = identify(&file)?;
    let mut scanner = Scanner::new(&file, identity)?;
    let mut at = FIRST_FRAME_AT;
    while at + FRAME_ALIGNMENT as u64 <= scanner.end() {
        // What the present life holds is passed over as a whole: a payload may look like a frame.
        if let Ok(found) = scanner.frame_at(at) {
            at += found.header.frame_bytes as u64;
        } else if let Ok(found) = scanner.stale_at(at) {
            each(Inspected::of_frame(&found.header));
            for record in &found.records {
                let payload = scanner.payload(record).unwrap_or_default();
                each(Inspected::of_record(record, payload));
            }
            // Behind a broken record another life may begin.
            at += match found.is_whole() {
                true => found.header.frame_bytes as u64,
                false => FRAME_ALIGNMENT as u64,
            };
        } else {
            at += FRAME_ALIGNMENT as u64;
        }
    }
    Ok(())
}

/// Whose segment it is, by its header or else by its first frame, and damage of the header page.
pub(crate) fn identify(file: &File) -> Result<(SegmentHeader, Option<Damage>), Error> {
    let page = file.read(0, FRAME_ALIGNMENT)?;
    let what = match SegmentHeader::decode(&page) {
        Ok(identity) => {
            let clean = page[layout::BYTES..].iter().all(|byte| *byte == 0);
            let padding = Damage::Field {
                field: "padding",
                found: 1,
            };
            return Ok((identity, (!clean).then_some(padding)));
        }
        Err(what) => what,
    };
    let first = file.read(FIRST_FRAME_AT, frame::payload_at(frame::FRAME_RECORDS_MAX))?;
    match FrameHeader::decode(&first) {
        Ok((header, records, _)) => {
            let volume = records
                .first()
                .map_or(VolumeId([0; 16]), |record| record.volume);
            let segment_bytes = file.length()?;
            let identity = SegmentHeader {
                volume,
                log: header.log,
                generation: header.generation,
                segment_bytes,
            };
            Ok((identity, Some(what)))
        }
        Err(_) => Err(Error::corrupt(file.path(), 0, None, what)),
    }
}

/// Hands over a frame and its records. `expected` is the sequence that was due.
pub(crate) fn report_frame(
    scanner: &mut Scanner<'_>,
    found: &FoundFrame,
    expected: Option<u64>,
    each: &mut dyn FnMut(Inspected<'_>),
) {
    let header = &found.header;
    let path = scanner.path();
    let at = |offset, lsn, what| Corrupt {
        path: path.clone(),
        offset,
        lsn,
        what,
    };
    if let Some(expected) = expected.filter(|expected| *expected != header.sequence) {
        let what = Damage::Link {
            expected,
            found: header.sequence,
        };
        each(Inspected::Damage(&at(header.offset, None, what)));
    }
    each(Inspected::of_frame(header));
    if !found.soiled.is_empty() {
        let what = Damage::Field {
            field: "padding",
            found: 1,
        };
        let first = found.records.first().map(|record| record.header.lsn);
        each(Inspected::Damage(&at(header.offset, first, what)));
    }
    for record in &found.records {
        if let Err(what) = record.state {
            each(Inspected::Damage(&at(
                record.payload_at,
                Some(record.header.lsn),
                what,
            )));
        }
        let payload = scanner.payload(record).unwrap_or_default();
        each(Inspected::of_record(record, payload));
    }
}
