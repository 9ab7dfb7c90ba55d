//! Writes the records of a log anew, into segments of a log id that meta does not name yet.

use crate::disk;
use crate::draft::encode;
use crate::frame::{self, FRAME_ALIGNMENT, FRAME_BYTES_MAX, FRAME_RECORDS_MAX};
use crate::frame::{FrameHeader, FrameKind};
use crate::log::Log;
use crate::record::Record;
use crate::segment::{FIRST_FRAME_AT, SegmentFile, SegmentHeader};
use crate::walk::Link;
use crate::{Error, LogId, Lsn};

/// A log under way. Nobody sees it before meta names its id and first generation.
#[derive(Debug)]
pub(crate) struct Rewrite<'a> {
    log: &'a Log,
    id: LogId,
    active: Option<SegmentFile>,
    first_generation: Option<u64>,
    /// Where the next frame goes in the active segment.
    at: u64,
    link: Link,
    /// Last LSN in a frame.
    head: Lsn,
    waiting: Vec<Record>,
    waiting_bytes: usize,
}

impl<'a> Rewrite<'a> {
    /// Of the records above `after`.
    pub(crate) fn new(log: &'a Log, id: LogId, after: Lsn) -> Rewrite<'a> {
        Rewrite {
            log,
            id,
            active: None,
            first_generation: None,
            at: 0,
            link: Link::FIRST,
            head: after,
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// Adds the next record.
    pub(crate) fn push(&mut self, record: Record) -> Result<(), Error> {
        let payload = self.waiting_bytes + record.payload().len();
        let full = frame::frame_bytes(self.waiting.len() + 1, payload) > self.frame_bytes_max()
            || self.waiting.len() == FRAME_RECORDS_MAX;
        if full {
            self.flush()?;
        }
        self.waiting_bytes += record.payload().len();
        self.waiting.push(record);
        Ok(())
    }

    fn frame_bytes_max(&self) -> usize {
        FRAME_BYTES_MAX.min(self.capacity() / 2)
    }

    /// Bytes of frames in a segment, its seal left out.
    fn capacity(&self) -> usize {
        let bytes = self.log.ids.geometry.segment_bytes - FIRST_FRAME_AT - FRAME_ALIGNMENT as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Ends it with a mark, everything durable. Gives the generation of its first segment, if it
    /// has a record.
    pub(crate) fn finish(mut self) -> Result<Option<u64>, Error> {
        self.flush()?;
        if self.active.is_some() {
            self.make_room(FRAME_ALIGNMENT)?;
            self.write(FrameKind::Mark, 0, &[])?;
        }
        if let Some(active) = &self.active {
            active.writer().sync()?;
        }
        disk::sync_dir(self.log.disk.as_ref(), &self.log.dir)?;
        Ok(self.first_generation)
    }

    fn flush(&mut self) -> Result<(), Error> {
        let records = std::mem::take(&mut self.waiting);
        if records.is_empty() {
            return Ok(());
        }
        self.make_room(frame::frame_bytes(records.len(), self.waiting_bytes))?;
        self.waiting_bytes = 0;
        self.write(FrameKind::Records, 0, &records)
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), Error> {
        let end = FIRST_FRAME_AT + self.capacity() as u64;
        if self.active.is_some() && self.at + bytes as u64 <= end {
            return Ok(());
        }
        let next = self.prepare()?;
        if self.active.is_some() {
            self.write(FrameKind::Seal, next.generation, &[])?;
        }
        if let Some(sealed) = self.active.take() {
            sealed.writer().sync()?;
        }
        self.first_generation.get_or_insert(next.generation);
        self.active = Some(next);
        self.at = FIRST_FRAME_AT;
        Ok(())
    }

    /// A segment in a slot that had no file: whatever lies in the others may be evidence (L-T9).
    fn prepare(&self) -> Result<SegmentFile, Error> {
        let log = self.log;
        let slot = log.state().slots.take_fresh();
        let mut generation = 0;
        log.meta.update(|meta| {
            generation = meta.generation_next;
            meta.generation_next += 1;
        })?;
        let header = SegmentHeader {
            volume: log.ids.volume,
            log: self.id,
            generation,
            segment_bytes: log.ids.geometry.segment_bytes,
        };
        SegmentFile::prepare(&log.handles, &log.dir, slot, header)
    }

    fn write(
        &mut self,
        kind: FrameKind,
        next_generation: u64,
        records: &[Record],
    ) -> Result<(), Error> {
        let active = self.active.as_ref().expect("room was made in a segment");
        let payload = records.iter().map(|record| record.payload().len()).sum();
        let header = FrameHeader {
            kind,
            record_count: records.len(),
            frame_bytes: frame::frame_bytes(records.len(), payload),
            log: self.id,
            generation: active.generation,
            sequence: self.link.sequence,
            previous: self.link.previous,
            offset: self.at,
            // Nobody reads it before all of it is durable.
            frontier: self.head,
            committed: self.log.frontiers().committed.min(self.head),
            timestamp_ns: self.log.clock.unix_ns(),
            after: self.head,
            next_generation,
        };
        let (buffers, digest) = encode(&header, records);
        active.writer().write(self.at, buffers)?;
        self.link = Link {
            sequence: header.sequence + 1,
            previous: digest,
        };
        self.at += header.frame_bytes as u64;
        self.head = header.last();
        Ok(())
    }
}
