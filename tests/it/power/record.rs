//! What a block device was told, in order, and what a power cut may leave of it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use crate::harness::Random;

/// What one piece of content covers.
const PIECE_BYTES: usize = 4096;
/// The unit that may tear (D19).
const SECTOR_BYTES: usize = 512;

/// The bytes of a device; what was never written is zero. A copy shares its pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Content(HashMap<u64, Arc<[u8; PIECE_BYTES]>>);

/// The parts of a range that lie in one piece each: its number, the part of it, the part of the
/// range.
fn parts(offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = usize::try_from(at % PIECE_BYTES as u64).unwrap();
        let count = (length - done).min(PIECE_BYTES - within);
        let part = (
            at / PIECE_BYTES as u64,
            within..within + count,
            done..done + count,
        );
        done += count;
        (count > 0).then_some(part)
    })
}

impl Content {
    pub(super) fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (piece, within, range) in parts(offset, length) {
            if let Some(piece) = self.0.get(&piece) {
                bytes[range].copy_from_slice(&piece[within]);
            }
        }
        bytes
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (piece, within, range) in parts(offset, bytes.len()) {
            let piece = self
                .0
                .entry(piece)
                .or_insert_with(|| Arc::new([0; PIECE_BYTES]));
            Arc::make_mut(piece)[within].copy_from_slice(&bytes[range]);
        }
    }

    fn zero(&mut self, range: Range<u64>) {
        let whole = range.start.div_ceil(PIECE_BYTES as u64)..range.end / PIECE_BYTES as u64;
        self.0.retain(|piece, _| !whole.contains(piece));
        let head = range.start..range.end.min(whole.start * PIECE_BYTES as u64);
        let tail = range.start.max(whole.end * PIECE_BYTES as u64)..range.end;
        for edge in [head, tail] {
            if edge.start < edge.end {
                let length = usize::try_from(edge.end - edge.start).unwrap();
                self.write(edge.start, &vec![0; length]);
            }
        }
    }

    fn take(&mut self, write: &Write) {
        match write {
            Write::Bytes(offset, bytes) => self.write(*offset, bytes),
            Write::Zeroes(range) => self.zero(range.clone()),
        }
    }

    /// The offsets at which something is, and what.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let offset = |piece: &u64| piece * PIECE_BYTES as u64;
        self.0
            .iter()
            .map(move |(piece, bytes)| (offset(piece), bytes.as_slice()))
    }
}

/// One change of the device.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Bytes(u64, Arc<[u8]>),
    Zeroes(Range<u64>),
}

/// What happened, in the order in which the device saw it.
#[derive(Clone, Debug)]
enum Event {
    /// A write arrived.
    Began(Write),
    /// The write of that event was acknowledged.
    Ended(usize),
    FlushBegan,
    /// The flush of that event was acknowledged: what ended before it began is on the medium.
    FlushEnded(usize),
    /// Something was said to the world outside: so many bytes now.
    Noted(usize),
}

/// How much of what was not flushed a cut takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tear {
    /// Writes are there or not, in pieces of 4 KiB.
    Piece,
    /// Writes are there or not, in sectors of 512 bytes.
    Sector,
}

/// A device from its content at the beginning to now.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    base: Content,
    now: Content,
    events: Vec<Event>,
    /// All that was noted, and how much of it before the first event.
    noted: Vec<u8>,
    noted_before: usize,
}

impl Record {
    pub(super) fn now(&self) -> &Content {
        &self.now
    }

    pub(super) fn length(&self) -> usize {
        self.events.len()
    }

    pub(super) fn flushes(&self) -> usize {
        let is_flush = |event: &&Event| matches!(event, Event::FlushEnded(_));
        self.events.iter().filter(is_flush).count()
    }

    /// Bytes noted before event `at`.
    pub(super) fn noted_before(&self, at: usize) -> &[u8] {
        let noted = self.events[..at]
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::Noted(length) => Some(*length),
                _ => None,
            });
        &self.noted[..noted.unwrap_or(self.noted_before)]
    }

    /// All bytes noted so far.
    pub(super) fn noted(&self) -> &[u8] {
        &self.noted
    }

    fn push(&mut self, event: Event) -> usize {
        self.events.push(event);
        self.events.len() - 1
    }

    pub(super) fn write_began(&mut self, write: Write) -> usize {
        self.now.take(&write);
        self.push(Event::Began(write))
    }

    pub(super) fn write_ended(&mut self, began: usize) {
        self.push(Event::Ended(began));
    }

    pub(super) fn flush_began(&mut self) -> usize {
        self.push(Event::FlushBegan)
    }

    pub(super) fn flush_ended(&mut self, began: usize) {
        self.push(Event::FlushEnded(began));
    }

    pub(super) fn note(&mut self, bytes: &[u8]) {
        self.noted.extend_from_slice(bytes);
        self.push(Event::Noted(self.noted.len()));
    }

    /// A device that begins with this content after this was noted.
    fn beginning(base: Content, noted: &[u8]) -> Record {
        Record {
            now: base.clone(),
            base,
            events: Vec::new(),
            noted: noted.into(),
            noted_before: noted.len(),
        }
    }

    /// The device after a cut before event `at`: everything that a flush covered, and of the later
    /// writes what chance leaves.
    pub(super) fn cut(&self, at: usize, tear: Tear, random: &mut Random) -> Record {
        let events = &self.events[..at];
        let covered = events.iter().filter_map(|event| match event {
            Event::FlushEnded(began) => Some(*began),
            _ => None,
        });
        let covered = covered.max().unwrap_or(0);
        let mut kept = vec![false; at];
        for event in &events[..covered] {
            if let Event::Ended(began) = event {
                kept[*began] = true;
            }
        }
        let mut content = self.base.clone();
        // Of eight: how likely a write is kept whole; and where the rest is torn.
        let (whole, torn) = (random.below(9), random.below(3) == 0);
        for (index, event) in events.iter().enumerate() {
            let Event::Began(write) = event else {
                continue;
            };
            if kept[index] || random.below(8) < whole {
                content.take(write);
            } else if torn {
                take_some(&mut content, write, tear, random);
            }
        }
        Record::beginning(content, self.noted_before(at))
    }

    /// The device after a cut before event `at` when it lied about its flushes: what came after
    /// event `kept` is lost, in spite of everything.
    pub(super) fn cut_of_a_liar(&self, kept: usize, at: usize) -> Record {
        let mut content = self.base.clone();
        for event in &self.events[..kept] {
            if let Event::Began(write) = event {
                content.take(write);
            }
        }
        Record::beginning(content, self.noted_before(at))
    }
}

fn take_some(content: &mut Content, write: &Write, tear: Tear, random: &mut Random) {
    let unit = match tear {
        Tear::Piece => PIECE_BYTES,
        Tear::Sector => SECTOR_BYTES,
    };
    // Zeroes come from discards, which promise nothing: one sort of loss is enough.
    let Write::Bytes(offset, bytes) = write else {
        return;
    };
    for (at, part) in (*offset..).step_by(unit).zip(bytes.chunks(unit)) {
        if random.below(2) == 0 {
            content.write(at, part);
        }
    }
}
