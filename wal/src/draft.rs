//! Drafting: how queued records become a frame with a place, a number and a link. Only memory here.

use std::sync::Arc;

use crate::Lsn;
use crate::disk::{Buffer, Bytes};
use crate::flight::{Flight, Phase};
use crate::frame::{self, FRAME_ALIGNMENT, FRAME_BYTES_MAX, FRAME_RECORDS_MAX};
use crate::frame::{FrameHeader, FrameKind};
use crate::index::Entry;
use crate::log::Ids;
use crate::record::{Record, RecordHeader};
use crate::segment::{FIRST_FRAME_AT, SegmentFile};
use crate::state::State;
use crate::walk::Link;

/// A frame with its place, ready to be written.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) offset: u64,
    pub(crate) buffers: Vec<Bytes>,
    /// Names its flight.
    pub(crate) sequence: u64,
}

/// A frame without records: a mark, a seal or a truncation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) kind: FrameKind,
    pub(crate) after: Lsn,
    /// Of a seal: the generation that follows.
    pub(crate) next_generation: u64,
}

/// What the front of the queue allows.
#[derive(Debug)]
pub(crate) enum Drafted {
    Frame(Frame),
    /// Nothing is queued.
    Nothing,
    /// The first record does not fit the active segment: rotate.
    Full,
}

impl Ids {
    /// Bytes of frames that a segment holds, its seal left out.
    pub(crate) fn capacity(&self) -> usize {
        let bytes = self.geometry.segment_bytes - FIRST_FRAME_AT - FRAME_ALIGNMENT as u64;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

impl State {
    /// Bytes left in the active segment, its seal left out. None once it is sealed.
    pub(crate) fn room(&self, ids: &Ids) -> usize {
        if self.segments.last().is_none_or(|active| active.sealed) {
            return 0;
        }
        let used = usize::try_from(self.next_offset - FIRST_FRAME_AT).unwrap_or(usize::MAX);
        ids.capacity().saturating_sub(used)
    }

    /// Last LSN that has a place.
    pub(crate) fn drafted_through(&self) -> Lsn {
        Lsn::new(self.written.get() + self.drafted as u64)
    }

    /// Queued records without a place.
    pub(crate) fn queue_length(&self) -> usize {
        self.pending.len() - self.drafted
    }

    /// Gives the next records through `goal`, at most `records_max` of them, a place in one frame.
    pub(crate) fn draft(
        &mut self,
        ids: &Ids,
        now_ns: u64,
        goal: Lsn,
        records_max: usize,
        phase: Phase,
    ) -> Drafted {
        let most = FRAME_BYTES_MAX.min(self.room(ids));
        let (mut count, mut payload) = (0, 0);
        for record in self.pending.range(self.drafted..) {
            let bytes = frame::frame_bytes(count + 1, payload + record.payload().len());
            if record.lsn() > goal || count == records_max.min(FRAME_RECORDS_MAX) || bytes > most {
                break;
            }
            count += 1;
            payload += record.payload().len();
        }
        if count == 0 {
            let waiting = self.pending.get(self.drafted);
            return match waiting.is_some_and(|record| record.lsn() <= goal) {
                true => Drafted::Full,
                false => Drafted::Nothing,
            };
        }
        let event = Event {
            kind: FrameKind::Records,
            after: self.drafted_through(),
            next_generation: 0,
        };
        Drafted::Frame(self.draft_frame(ids, now_ns, event, count, phase))
    }

    /// Gives a frame of the next `count` records a place and a number, and lists its flight. What
    /// sleeps for the queue sleeps for this flight from here on.
    pub(crate) fn draft_frame(
        &mut self,
        ids: &Ids,
        now_ns: u64,
        event: Event,
        count: usize,
        phase: Phase,
    ) -> Frame {
        let records: Vec<Record> = (self.pending.range(self.drafted..).take(count))
            .cloned()
            .collect();
        let payload = records.iter().map(|record| record.payload().len()).sum();
        let (link, frontiers, offset) = (self.link, self.frontiers, self.next_offset);
        let file = Arc::clone(&self.active().file);
        let header = FrameHeader {
            kind: event.kind,
            record_count: count,
            frame_bytes: frame::frame_bytes(count, payload),
            log: ids.log,
            generation: file.generation,
            sequence: link.sequence,
            previous: link.previous,
            offset,
            frontier: frontiers.durable,
            committed: frontiers.committed,
            timestamp_ns: now_ns,
            after: event.after,
            next_generation: event.next_generation,
        };
        let (buffers, digest) = encode(&header, &records);
        self.link = Link {
            sequence: header.sequence + 1,
            previous: digest,
        };
        self.next_offset += header.frame_bytes as u64;
        self.drafted += count;
        for record in &records {
            self.queued_cost -= record.frame_cost();
            self.queued_bytes -= record.bytes() as u64;
        }
        self.stats.frames += 1;
        self.stats.frame_bytes += header.frame_bytes as u64;
        let entries = entries(&header, &records);
        let gate = std::mem::take(&mut self.queue_gate);
        let sleepers = std::mem::take(&mut self.queue_sleepers);
        let flight = Flight {
            header,
            entries,
            file: Arc::clone(&file),
            gate,
            sleepers,
            phase,
        };
        self.flights.push_back(flight);
        Frame {
            file,
            offset,
            buffers,
            sequence: header.sequence,
        }
    }
}

impl Record {
    /// Bytes that it takes in a log at most: in a frame of its own.
    pub(crate) fn frame_cost(&self) -> u64 {
        frame::frame_bytes(1, self.payload().len()) as u64
    }
}

/// The bytes of a frame, the payloads as they are, and the digest that the next frame links to.
pub(crate) fn encode(header: &FrameHeader, records: &[Record]) -> (Vec<Bytes>, u128) {
    let headers: Vec<_> = (records.iter())
        .map(|record| record.header().encode())
        .collect();
    let (page, digest) = header.encode(&headers);
    let mut used = page.len();
    let mut buffers = Vec::with_capacity(records.len() + 2);
    buffers.push(Arc::new(page));
    for record in records.iter().filter(|record| !record.payload().is_empty()) {
        used += record.payload().len();
        buffers.push(Arc::clone(record.payload()));
    }
    if used < header.frame_bytes {
        buffers.push(Arc::new(Buffer::zeroed(header.frame_bytes - used)));
    }
    (buffers, digest)
}

/// Where the records of a frame lie.
fn entries(header: &FrameHeader, records: &[Record]) -> Vec<Entry> {
    let small = |at: u64| u32::try_from(at).expect("segments are at most 1 GiB");
    let mut payload_at = header.offset + frame::payload_at(records.len()) as u64;
    let entry = |(index, record): (usize, &Record)| {
        let at = payload_at;
        payload_at += record.payload().len() as u64;
        Entry {
            lsn: record.lsn(),
            lba: record.header().lba,
            blocks: record.header().blocks,
            header_at: small(header.offset + frame::headers_bytes(index) as u64),
            payload_at: small(at),
            kind: record.header().kind,
            no_hole: record.header().no_hole,
        }
    };
    records.iter().enumerate().map(entry).collect()
}

const _: () = assert!(RecordHeader::BYTES * FRAME_RECORDS_MAX < FRAME_BYTES_MAX);
