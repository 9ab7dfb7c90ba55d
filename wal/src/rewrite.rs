//! Writes the records of a log anew, into segments of a log id that meta does not name yet.

use std::path::PathBuf;
use std::sync::Arc;

use crate::disk;
use crate::draft::encode;
use crate::frame::{self, FRAME_ALIGNMENT, FRAME_BYTES_MAX, FRAME_RECORDS_MAX};
use crate::frame::{FrameHeader, FrameKind};
use crate::handles::Handles;
use crate::record::Record;
use crate::segment::{FIRST_FRAME_AT, SegmentFile, SegmentHeader};
use crate::walk::Link;
use crate::{Clock, Error, LogId, Lsn, VolumeId};

/// Where a log is written to, and what its frames say.
pub(crate) struct Target<'a> {
    pub(crate) handles: Arc<Handles>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Directory of the segments.
    pub(crate) dir: PathBuf,
    pub(crate) volume: VolumeId,
    pub(crate) log: LogId,
    pub(crate) segment_bytes: u64,
    /// Lower bound of committed.
    pub(crate) committed: Lsn,
    /// The highest frontier that a frame may record.
    pub(crate) frontier_max: Lsn,
    /// Gives a slot without a file, and an unused generation.
    pub(crate) take: Box<dyn FnMut() -> Result<(u32, u64), Error> + 'a>,
}

/// A log under way. Nobody sees it before meta names its id and first generation.
pub(crate) struct Rewrite<'a> {
    target: Target<'a>,
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
    pub(crate) fn new(target: Target<'a>, after: Lsn) -> Rewrite<'a> {
        Rewrite {
            target,
            active: None,
            first_generation: None,
            at: 0,
            link: Link::FIRST,
            head: after,
            waiting: Vec::new(),
            waiting_bytes: 0,
        }
    }

    /// Last LSN that was added.
    pub(crate) fn head(&self) -> Lsn {
        self.waiting.last().map_or(self.head, Record::lsn)
    }

    /// The generation behind the last segment, if there is one.
    pub(crate) fn generation_next(&self) -> Option<u64> {
        self.active.as_ref().map(|active| active.generation + 1)
    }

    /// Leaves records out: what follows is evidence, and readers find a gap through `through`.
    pub(crate) fn skip(&mut self, through: Lsn) -> Result<(), Error> {
        self.flush()?;
        if self.active.is_some() {
            self.link = Link {
                sequence: self.link.sequence + 1,
                previous: 0,
            };
        }
        self.head = through;
        Ok(())
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
        let bytes = self.target.segment_bytes - FIRST_FRAME_AT - FRAME_ALIGNMENT as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Ends it with a mark, everything durable. Gives the generation of its first segment, if it
    /// has a record.
    pub(crate) fn finish(mut self) -> Result<Option<u64>, Error> {
        self.flush()?;
        if self.active.is_some() {
            self.mark()?;
        }
        self.sync()
    }

    /// Adds a mark: everything through the head is, or was, durable.
    pub(crate) fn mark(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.make_room(FRAME_ALIGNMENT)?;
        self.write(FrameKind::Mark, 0, &[])
    }

    /// Makes everything durable. Gives the generation of its first segment, if it has one.
    pub(crate) fn sync(mut self) -> Result<Option<u64>, Error> {
        self.flush()?;
        if let Some(active) = &self.active {
            active.writer().sync()?;
        }
        disk::sync_dir(self.target.handles.disk().as_ref(), &self.target.dir)?;
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
    fn prepare(&mut self) -> Result<SegmentFile, Error> {
        let (slot, generation) = (self.target.take)()?;
        let target = &self.target;
        let header = SegmentHeader {
            volume: target.volume,
            log: target.log,
            generation,
            segment_bytes: target.segment_bytes,
        };
        SegmentFile::prepare(&target.handles, &target.dir, slot, header)
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
            log: self.target.log,
            generation: active.generation,
            sequence: self.link.sequence,
            previous: self.link.previous,
            offset: self.at,
            frontier: self.head.min(self.target.frontier_max),
            committed: self.target.committed.min(self.head),
            timestamp_ns: self.target.clock.unix_ns(),
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
