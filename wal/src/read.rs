//! Reading and proving ranges of records, each verified when it is read.

use std::sync::Arc;

use crate::disk::Buffer;
use crate::index::Entry;
use crate::log::Log;
use crate::record::{Record, RecordHeader};
use crate::report::{Gap, RecordPlace};
use crate::retention::WalPin;
use crate::scan::{Scan, Way};
use crate::{Damage, Error, Lsn, LsnRange};

impl Log {
    /// The index entries of a range without payload, in order.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn places(&self, range: LsnRange) -> Result<Vec<RecordPlace>, Error> {
        let (found, queued) = {
            let state = self.state();
            state
                .check_range(range)
                .map_err(|gap| self.gap_error(gap, range))?;
            let mut found = Vec::new();
            let mut left = range;
            let stored = range.through.min(state.written);
            while left.after < stored {
                let part = state.find(LsnRange::new(left.after, stored))?;
                left.after = part.lsns.through;
                found.push(part);
            }
            (found, state.queued(left, usize::MAX))
        };
        let mut places = Vec::with_capacity(usize::try_from(range.len()).unwrap_or(0));
        for part in found {
            places.extend(self.load(&part)?.iter().map(RecordPlace::from));
        }
        places.extend(queued.iter().map(RecordPlace::from));
        Ok(places)
    }

    /// Every record of the range in order, each verified when it is read. All or nothing: what
    /// cannot be complete is refused before the first record (L7). The range stays readable while
    /// the reader lives.
    ///
    /// # Errors
    /// [`Error::Reclaimed`], [`Error::BeyondHead`], [`Error::Hole`], [`Error::Corrupt`].
    pub fn read(self: &Arc<Self>, range: LsnRange) -> Result<RecordReader, Error> {
        let pin = self.pin(range.after, "reader")?;
        self.prove(range)
            .map_err(|gap| self.gap_error(gap, range))?;
        Ok(RecordReader {
            scan: Scan::new(self, range, Way::Cached),
            pin,
        })
    }

    pub(crate) fn gap_error(&self, gap: Gap, range: LsnRange) -> Error {
        match gap {
            Gap::Reclaimed { tail } => Error::reclaimed(range, tail),
            Gap::BeyondHead { head } => Error::BeyondHead {
                through: range.through,
                head,
            },
            Gap::Hole { lsn } => Error::Hole { lsn },
            Gap::Corrupt { lsn } => Error::corrupt(&self.dir, 0, Some(lsn), Damage::Missing),
        }
    }

    /// One record, verified. A record that was damaged is read again: the answer is what is on disk
    /// now.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_record(&self, lsn: Lsn) -> Result<Record, Error> {
        if let Some(record) = self.queued_record(lsn) {
            return Ok(record);
        }
        let (header, bytes, payload_at) = self.read_one(lsn)?;
        let payload = Arc::new(Buffer::copy_of(&bytes[payload_at..]));
        Ok(Record::checked(header, payload))
    }

    /// Copies blocks out of the payload of write record `lsn`: `out.len()` bytes from block
    /// `first` of the record on. The whole record is verified.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_blocks(&self, lsn: Lsn, first: u32, out: &mut [u8]) -> Result<(), Error> {
        let from = first as usize * self.ids.geometry.block_size.bytes_usize();
        let outside = Error::Geometry {
            what: "blocks outside the record",
            value: first.into(),
        };
        let copy = |payload: &[u8]| {
            let part = payload.get(from..from + out.len()).ok_or(outside)?;
            out.copy_from_slice(part);
            Ok(())
        };
        if let Some(record) = self.queued_record(lsn) {
            return copy(record.payload());
        }
        let (_, bytes, payload_at) = self.read_one(lsn)?;
        copy(&bytes[payload_at..])
    }

    fn queued_record(&self, lsn: Lsn) -> Option<Record> {
        let one = LsnRange::new(lsn.before(), lsn);
        self.state().queued(one, 1).pop()
    }

    /// Shows every record of the range to `each`, in order: header and payload, verified where they
    /// lie and copied nowhere. The fastest way through a log: a sealed segment is gone through in
    /// windows of 4 MiB, so memory stays small however long the range is. What cannot be complete
    /// is refused before the first record (L7), and the range stays readable meanwhile.
    ///
    /// # Errors
    /// As [`Log::read`], and what `each` answers: the first error ends it.
    pub fn scan<E: From<Error>>(
        self: &Arc<Self>,
        range: LsnRange,
        each: impl FnMut(&RecordHeader, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.scan_in(range, Way::Cached, each)
    }

    /// As [`Log::scan`], past the page cache and with small reads, one at a time: slower by itself,
    /// and hardly felt by those who append meanwhile.
    ///
    /// # Errors
    /// As [`Log::scan`].
    pub fn scan_quietly<E: From<Error>>(
        self: &Arc<Self>,
        range: LsnRange,
        each: impl FnMut(&RecordHeader, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.scan_in(range, Way::Medium, each)
    }

    fn scan_in<E: From<Error>>(
        self: &Arc<Self>,
        range: LsnRange,
        way: Way,
        each: impl FnMut(&RecordHeader, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let pin = self.pin(range.after, "scan")?;
        self.prove(range)
            .map_err(|gap| self.gap_error(gap, range))?;
        pin.explain(Scan::new(self, range, way).run(each))
    }

    /// Proves from the sealed indexes and the known damage that every record of the range is there
    /// (D15). Reads nothing: the headers of the indexes were proven when the log was opened. Its
    /// cost grows with the number of segments in the range and of known damaged places, not with
    /// the number of records or bytes.
    ///
    /// # Errors
    /// The first gap.
    pub fn prove(&self, range: LsnRange) -> Result<(), Gap> {
        self.state().check_range(range)
    }

    /// Proves it by reading every byte of every record, at the speed of [`Log::scan`]. What it
    /// finds joins the known damage. The headers of the frames around the records are the business
    /// of [`inspect_segment`](crate::inspect_segment): a record is found without them.
    ///
    /// # Errors
    /// [`Error`] variants of [`Log::read`].
    pub fn prove_full(self: &Arc<Self>, range: LsnRange) -> Result<(), Error> {
        self.scan(range, |_, _| Ok(()))
    }

    /// Damage known so far, in runs; `true` where the records are absent (a hole).
    #[must_use]
    pub fn known_damage(&self) -> Vec<(LsnRange, bool)> {
        self.state().damage.runs().collect()
    }
}

/// Iterator over a range of records; see [`Log::read`].
#[derive(Debug)]
pub struct RecordReader {
    scan: Scan,
    pin: WalPin,
}

impl Iterator for RecordReader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pin.explain(self.scan.next()).transpose()
    }
}

impl From<&Entry> for RecordPlace {
    fn from(entry: &Entry) -> RecordPlace {
        RecordPlace {
            lsn: entry.lsn,
            kind: entry.kind,
            no_hole: entry.no_hole,
            lba: entry.lba,
            blocks: entry.blocks,
        }
    }
}

impl From<&Record> for RecordPlace {
    fn from(record: &Record) -> RecordPlace {
        let header = record.header();
        RecordPlace {
            lsn: header.lsn,
            kind: header.kind,
            no_hole: header.no_hole,
            lba: header.lba,
            blocks: header.blocks,
        }
    }
}
