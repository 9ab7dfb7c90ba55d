//! Reading and proving ranges of records, each verified when it is read.

use std::sync::Arc;

use crate::disk::Buffer;
use crate::index::Entry;
use crate::log::Log;
use crate::record::{Record, RecordHeader};
use crate::report::{Gap, RecordPlace};
use crate::retention::WalPin;
use crate::segment::SegmentFile;
use crate::{Damage, Error, Lsn, LsnRange};

impl Log {
    /// The index entries of a range without payload, in order.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn places(&self, range: LsnRange) -> Result<Vec<RecordPlace>, Error> {
        let state = self.state();
        state
            .check_range(range)
            .map_err(|gap| self.gap_error(gap, range))?;
        let mut places = Vec::with_capacity(usize::try_from(range.len()).unwrap_or(0));
        let first = state
            .segments
            .partition_point(|segment| segment.through <= range.after);
        for segment in &state.segments[first..] {
            let from = segment
                .entries
                .partition_point(|entry| entry.lsn <= range.after);
            let to = segment
                .entries
                .partition_point(|entry| entry.lsn <= range.through);
            places.extend(
                segment.entries[from.min(to)..to]
                    .iter()
                    .map(|entry| RecordPlace {
                        lsn: entry.lsn,
                        kind: entry.kind,
                        no_hole: entry.no_hole,
                        lba: entry.lba,
                        blocks: entry.blocks,
                    }),
            );
        }
        let written = range.after.max(state.written);
        if written < range.through {
            let queued = state.pending.range(written.next()..=range.through);
            places.extend(queued.map(|(_, record)| RecordPlace {
                lsn: record.lsn(),
                kind: record.header().kind,
                no_hole: record.header().no_hole,
                lba: record.header().lba,
                blocks: record.header().blocks,
            }));
        }
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
            log: Arc::clone(self),
            range,
            _pin: pin,
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
        if let Some(record) = self.state().pending.get(&lsn) {
            return Ok(record.clone());
        }
        let (header, bytes, payload_at) = self.read_stored(lsn)?;
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
        let pending = self.state().pending.get(&lsn).cloned();
        if let Some(record) = pending {
            return copy(record.payload());
        }
        let (_, bytes, payload_at) = self.read_stored(lsn)?;
        copy(&bytes[payload_at..])
    }

    /// Header and payload of a record on disk, verified: the bytes read, and where in them the
    /// payload begins. What fails joins the known damage (D15).
    fn read_stored(&self, lsn: Lsn) -> Result<(RecordHeader, Buffer, usize), Error> {
        let (file, entry, sealed) = {
            let state = self.state();
            if lsn < state.first_retained() {
                let tail = state.first_retained().before();
                return Err(Error::Reclaimed {
                    after: lsn.before(),
                    tail,
                });
            }
            if lsn > state.frontiers.head {
                return Err(Error::BeyondHead {
                    through: lsn,
                    head: state.frontiers.head,
                });
            }
            let Some((segment, entry)) = state.find(lsn) else {
                return Err(Error::Hole { lsn });
            };
            (Arc::clone(&segment.file), entry, segment.sealed)
        };
        let found = self.read_entry(&file, entry, sealed);
        if let Err(error) = &found {
            tracing::error!(%error, lsn = lsn.get(), "a record in the log is damaged");
            self.state().damage.insert(lsn, false);
        }
        found
    }

    fn read_entry(
        &self,
        file: &SegmentFile,
        entry: Entry,
        sealed: bool,
    ) -> Result<(RecordHeader, Buffer, usize), Error> {
        let block = self.ids.geometry.block_size.bytes_usize();
        let payload = match entry.kind {
            crate::RecordKind::Write => entry.blocks as usize * block,
            _ => 0,
        };
        let gap = match payload {
            0 => RecordHeader::BYTES,
            _ => (entry.payload_at.saturating_sub(entry.header_at)) as usize,
        };
        let at = u64::from(entry.header_at);
        let corrupt = |what| Error::corrupt(file.path(), at, Some(entry.lsn), what);
        // Records far behind their header share a large frame; two reads are then cheaper than one.
        let (header, bytes, payload_at) = if gap <= 16 << 10 {
            let bytes = file
                .read(at, gap + payload, sealed)
                .map_err(|_| corrupt(Damage::Unreadable))?;
            (RecordHeader::decode(&bytes).map_err(corrupt)?, bytes, gap)
        } else {
            let header = file
                .read(at, RecordHeader::BYTES, sealed)
                .map_err(|_| corrupt(Damage::Unreadable))?;
            let bytes = file
                .read(entry.payload_at.into(), payload, sealed)
                .map_err(|_| corrupt(Damage::Unreadable))?;
            (RecordHeader::decode(&header).map_err(corrupt)?, bytes, 0)
        };
        let payload_at = if payload == 0 {
            bytes.len()
        } else {
            payload_at
        };
        header.verify(&bytes[payload_at..]).map_err(corrupt)?;
        if header.lsn != entry.lsn || header.volume != self.ids.volume {
            return Err(corrupt(Damage::Identity));
        }
        Ok((header, bytes, payload_at))
    }

    /// Proves from the indexes and the known damage that every record of the range is there (D15).
    ///
    /// # Errors
    /// The first gap.
    pub fn prove(&self, range: LsnRange) -> Result<(), Gap> {
        self.state().check_range(range)
    }

    /// Proves it by reading every byte. What it finds joins the known damage.
    ///
    /// # Errors
    /// [`Error`] variants of [`Log::read`].
    pub fn prove_full(self: &Arc<Self>, range: LsnRange) -> Result<(), Error> {
        self.read(range)?.try_for_each(|record| record.map(drop))
    }

    /// Damage known so far, by LSN; `true` where the record is absent (a hole).
    #[must_use]
    pub fn known_damage(&self) -> Vec<(Lsn, bool)> {
        self.state()
            .damage
            .iter()
            .map(|(lsn, hole)| (*lsn, *hole))
            .collect()
    }
}

/// Iterator over a range of records; see [`Log::read`].
#[derive(Debug)]
pub struct RecordReader {
    log: Arc<Log>,
    range: LsnRange,
    _pin: WalPin,
}

impl Iterator for RecordReader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        self.range.after = self.range.after.next();
        let record = self.log.read_record(self.range.after);
        if record.is_err() {
            self.range.after = self.range.through;
        }
        Some(record)
    }
}
