//! Frame envelope: what binds records to this place in this log; marks, truncations and seals,
//! which carry no LSN of their own (D4, D13).

use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::Buffer;
use crate::record::RecordHeader;
use crate::{Damage, LogId, Lsn};

/// Frames begin and end on multiples of this; the scan resynchronises at each (D13).
pub(crate) const FRAME_ALIGNMENT: usize = 4096;
/// Most records in one frame.
pub(crate) const FRAME_RECORDS_MAX: usize = 1024;
/// Largest frame, headers and padding included.
pub(crate) const FRAME_BYTES_MAX: usize = 4 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"SWFR");
const VERSION: u16 = 1;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FrameKind {
    /// Holds records.
    Records,
    /// Says that everything through the head is durable (D13).
    Mark,
    /// Drops every record above `after` (D4).
    Truncation,
    /// Ends the segment; the log goes on in the segment of `next_generation`.
    Seal,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            FrameKind::Records => 1,
            FrameKind::Mark => 2,
            FrameKind::Truncation => 3,
            FrameKind::Seal => 4,
        }
    }

    const fn from_code(code: u8) -> Option<FrameKind> {
        match code {
            1 => Some(FrameKind::Records),
            2 => Some(FrameKind::Mark),
            3 => Some(FrameKind::Truncation),
            4 => Some(FrameKind::Seal),
            _ => None,
        }
    }

    /// Name as the tools print it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            FrameKind::Records => "records",
            FrameKind::Mark => "mark",
            FrameKind::Truncation => "truncation",
            FrameKind::Seal => "seal",
        }
    }
}

/// Header of a frame, 128 bytes. See FORMAT.md, "Frame header".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// What it is.
    pub(crate) kind: FrameKind,
    /// Records in it.
    pub(crate) record_count: usize,
    /// Size on disk, a multiple of [`FRAME_ALIGNMENT`].
    pub(crate) frame_bytes: usize,
    /// Log it belongs to.
    pub(crate) log: LogId,
    /// Generation of the segment it was written to.
    pub(crate) generation: u64,
    /// Its number in the log, dense from 1.
    pub(crate) sequence: u64,
    /// Digest of the frame before it; 0 for the first.
    pub(crate) previous: u128,
    /// Its own byte offset in the segment file.
    pub(crate) offset: u64,
    /// Durable LSN when it was written (L5).
    pub(crate) frontier: Lsn,
    /// Committed LSN when it was written, a lower bound (D1).
    pub(crate) committed: Lsn,
    /// Unix nanoseconds given by the caller.
    pub(crate) timestamp_ns: u64,
    /// LSN before its first record; of a truncation the LSN that is kept; otherwise the head.
    pub(crate) after: Lsn,
    /// Of a seal: generation of the segment that follows. Otherwise 0.
    pub(crate) next_generation: u64,
}

pub(crate) mod layout {
    pub(crate) const MAGIC_AT: usize = 0;
    pub(crate) const SUM_AT: usize = 4;
    pub(crate) const VERSION_AT: usize = 8;
    pub(crate) const KIND_AT: usize = 10;
    pub(crate) const RESERVED_AT: usize = 11;
    pub(crate) const RECORD_COUNT_AT: usize = 12;
    pub(crate) const FRAME_BYTES_AT: usize = 16;
    pub(crate) const RESERVED_2_AT: usize = 20;
    pub(crate) const LOG_AT: usize = 24;
    pub(crate) const GENERATION_AT: usize = 40;
    pub(crate) const SEQUENCE_AT: usize = 48;
    pub(crate) const PREVIOUS_AT: usize = 56;
    pub(crate) const OFFSET_AT: usize = 72;
    pub(crate) const FRONTIER_AT: usize = 80;
    pub(crate) const COMMITTED_AT: usize = 88;
    pub(crate) const TIMESTAMP_AT: usize = 96;
    pub(crate) const AFTER_AT: usize = 104;
    pub(crate) const NEXT_GENERATION_AT: usize = 112;
    pub(crate) const RESERVED_3_AT: usize = 120;
    pub(crate) const BYTES: usize = 128;
}

use layout::{
    AFTER_AT, BYTES, COMMITTED_AT, FRAME_BYTES_AT, FRONTIER_AT, GENERATION_AT, KIND_AT, LOG_AT,
    MAGIC_AT, NEXT_GENERATION_AT, OFFSET_AT, PREVIOUS_AT, RECORD_COUNT_AT, RESERVED_2_AT,
    RESERVED_3_AT, RESERVED_AT, SEQUENCE_AT, SUM_AT, TIMESTAMP_AT, VERSION_AT,
};

/// Bytes of the frame header and `records` record headers, without padding.
pub(crate) const fn headers_bytes(records: usize) -> usize {
    BYTES + records * RecordHeader::BYTES
}

/// Where the payload of a frame with `records` records begins, from the start of the frame.
pub(crate) const fn payload_at(records: usize) -> usize {
    headers_bytes(records).next_multiple_of(FRAME_ALIGNMENT)
}

/// Size on disk of a frame with `records` records and `payload` bytes of payload.
pub(crate) const fn frame_bytes(records: usize, payload: usize) -> usize {
    (payload_at(records) + payload).next_multiple_of(FRAME_ALIGNMENT)
}

impl FrameHeader {
    /// The header page: frame header, record headers, zero padding; and the digest that the next
    /// frame links to.
    pub(crate) fn encode(&self, records: &[[u8; RecordHeader::BYTES]]) -> (Buffer, u128) {
        debug_assert_eq!(records.len(), self.record_count, "one header a record");
        let mut page = Buffer::zeroed(payload_at(records.len()));
        let number = |value: usize| u32::try_from(value).expect("frames are at most 4 MiB");
        LittleEndian::write_u32(&mut page[MAGIC_AT..], MAGIC);
        LittleEndian::write_u16(&mut page[VERSION_AT..], VERSION);
        page[KIND_AT] = self.kind.code();
        LittleEndian::write_u32(&mut page[RECORD_COUNT_AT..], number(self.record_count));
        LittleEndian::write_u32(&mut page[FRAME_BYTES_AT..], number(self.frame_bytes));
        page[LOG_AT..GENERATION_AT].copy_from_slice(&self.log.0);
        LittleEndian::write_u64(&mut page[GENERATION_AT..], self.generation);
        LittleEndian::write_u64(&mut page[SEQUENCE_AT..], self.sequence);
        LittleEndian::write_u128(&mut page[PREVIOUS_AT..], self.previous);
        LittleEndian::write_u64(&mut page[OFFSET_AT..], self.offset);
        LittleEndian::write_u64(&mut page[FRONTIER_AT..], self.frontier.get());
        LittleEndian::write_u64(&mut page[COMMITTED_AT..], self.committed.get());
        LittleEndian::write_u64(&mut page[TIMESTAMP_AT..], self.timestamp_ns);
        LittleEndian::write_u64(&mut page[AFTER_AT..], self.after.get());
        LittleEndian::write_u64(&mut page[NEXT_GENERATION_AT..], self.next_generation);
        for (slot, record) in page[BYTES..]
            .chunks_exact_mut(RecordHeader::BYTES)
            .zip(records)
        {
            slot.copy_from_slice(record);
        }
        let used = headers_bytes(records.len());
        let sum = crc32fast::hash(&page[..used]);
        LittleEndian::write_u32(&mut page[SUM_AT..], sum);
        let digest = xxh3_128(&page[..used]);
        (page, digest)
    }

    /// Bytes of frame header and record headers that [`FrameHeader::decode`] needs, from the first
    /// [`layout::BYTES`] bytes, bounded before anybody allocates.
    ///
    /// # Errors
    /// [`Damage::BadMagic`], [`Damage::UnknownVersion`] or [`Damage::Length`].
    pub(crate) fn peek(bytes: &[u8]) -> Result<usize, Damage> {
        let Some(bytes) = bytes.first_chunk::<BYTES>() else {
            return Err(Damage::Length {
                found: bytes.len() as u64,
            });
        };
        if LittleEndian::read_u32(&bytes[MAGIC_AT..]) != MAGIC {
            return Err(Damage::BadMagic);
        }
        let version = LittleEndian::read_u16(&bytes[VERSION_AT..]);
        if version != VERSION {
            return Err(Damage::UnknownVersion { found: version });
        }
        let records = LittleEndian::read_u32(&bytes[RECORD_COUNT_AT..]) as usize;
        if records > FRAME_RECORDS_MAX {
            return Err(Damage::Length {
                found: records as u64,
            });
        }
        Ok(headers_bytes(records))
    }

    /// Decodes frame header and record headers whose own sum holds, and gives the digest that the
    /// next frame links to. Payload is not looked at.
    ///
    /// # Errors
    /// The first contradiction found.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(FrameHeader, Vec<RecordHeader>, u128), Damage> {
        let used = FrameHeader::peek(bytes)?;
        let Some(bytes) = bytes.get(..used) else {
            return Err(Damage::Length {
                found: bytes.len() as u64,
            });
        };
        let expected = LittleEndian::read_u32(&bytes[SUM_AT..]);
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&bytes[..SUM_AT]);
        hasher.update(&[0; 4]);
        hasher.update(&bytes[SUM_AT + 4..]);
        let found = hasher.finalize();
        if expected != found {
            return Err(Damage::Checksum { expected, found });
        }
        let header = FrameHeader::fields(bytes)?;
        let records = bytes[BYTES..]
            .chunks_exact(RecordHeader::BYTES)
            .map(RecordHeader::decode);
        let records = records.collect::<Result<Vec<_>, _>>()?;
        header.check(&records)?;
        Ok((header, records, xxh3_128(bytes)))
    }

    fn fields(bytes: &[u8]) -> Result<FrameHeader, Damage> {
        let number = |at: usize| LittleEndian::read_u64(&bytes[at..]);
        let kind = FrameKind::from_code(bytes[KIND_AT]).ok_or(Damage::Field {
            field: "kind",
            found: bytes[KIND_AT].into(),
        })?;
        let reserved = u64::from(bytes[RESERVED_AT])
            | u64::from(LittleEndian::read_u32(&bytes[RESERVED_2_AT..]))
            | number(RESERVED_3_AT);
        if reserved != 0 {
            return Err(Damage::Field {
                field: "reserved",
                found: reserved,
            });
        }
        let mut log = LogId([0; 16]);
        log.0.copy_from_slice(&bytes[LOG_AT..GENERATION_AT]);
        Ok(FrameHeader {
            kind,
            record_count: LittleEndian::read_u32(&bytes[RECORD_COUNT_AT..]) as usize,
            frame_bytes: LittleEndian::read_u32(&bytes[FRAME_BYTES_AT..]) as usize,
            log,
            generation: number(GENERATION_AT),
            sequence: number(SEQUENCE_AT),
            previous: LittleEndian::read_u128(&bytes[PREVIOUS_AT..]),
            offset: number(OFFSET_AT),
            frontier: Lsn::new(number(FRONTIER_AT)),
            committed: Lsn::new(number(COMMITTED_AT)),
            timestamp_ns: number(TIMESTAMP_AT),
            after: Lsn::new(number(AFTER_AT)),
            next_generation: number(NEXT_GENERATION_AT),
        })
    }

    /// Lengths and LSNs inside the frame agree with each other.
    fn check(&self, records: &[RecordHeader]) -> Result<(), Damage> {
        let last = self.after.get().saturating_add(records.len() as u64);
        // Nothing could be counted behind any of them.
        let counters = [
            ("sequence", self.sequence),
            ("after", self.after.get()),
            ("last", last),
            ("frontier", self.frontier.get()),
            ("committed", self.committed.get()),
            ("next_generation", self.next_generation),
        ];
        if let Some((field, found)) = counters.into_iter().find(|(_, n)| *n == u64::MAX) {
            return Err(Damage::Field { field, found });
        }
        let payload = records.iter().map(RecordHeader::payload_bytes).sum();
        let only_records = (self.kind == FrameKind::Records) != records.is_empty();
        if !only_records || self.frame_bytes != frame_bytes(records.len(), payload) {
            return Err(Damage::Length {
                found: self.frame_bytes as u64,
            });
        }
        let mut expected = self.after;
        for record in records {
            expected = expected
                .checked_add(1)
                .ok_or(Damage::Length { found: u64::MAX })?;
            if record.lsn != expected {
                return Err(Damage::LsnGap {
                    expected,
                    found: record.lsn,
                });
            }
        }
        Ok(())
    }

    /// Last LSN of the frame, or its `after` when it has no records.
    pub(crate) fn last(&self) -> Lsn {
        Lsn::new(self.after.get() + self.record_count as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Change, Record};
    use crate::{BlockSize, Epoch, Incarnation, Lba, RecordKind, VolumeId};

    fn record(lsn: u64) -> Record {
        let change = Change::write(Lba(lsn), BlockSize::DEFAULT, Buffer::copy_of(&[3; 4096]));
        let header = RecordHeader {
            kind: RecordKind::Write,
            no_hole: false,
            block_size: BlockSize::DEFAULT,
            volume: VolumeId([1; 16]),
            epoch: Epoch::new(1),
            incarnation: Incarnation::new(1),
            lsn: Lsn::new(lsn),
            lba: change.lba,
            blocks: change.blocks,
            sum: 0,
        };
        Record::seal(header, change.payload)
    }

    fn sample() -> (FrameHeader, Vec<[u8; RecordHeader::BYTES]>) {
        let records: Vec<_> = [6, 7].map(|lsn| record(lsn).header().encode()).to_vec();
        let header = FrameHeader {
            kind: FrameKind::Records,
            record_count: 2,
            frame_bytes: frame_bytes(2, 8192),
            log: LogId([2; 16]),
            generation: 3,
            sequence: 9,
            previous: 77,
            offset: 4096,
            frontier: Lsn::new(5),
            committed: Lsn::new(4),
            timestamp_ns: 11,
            after: Lsn::new(5),
            next_generation: 0,
        };
        (header, records)
    }

    #[test]
    fn a_frame_round_trips() {
        let (header, records) = sample();
        let (page, digest) = header.encode(&records);
        let (decoded, headers, found) = FrameHeader::decode(&page).expect("a whole frame");
        assert_eq!((decoded, found), (header, digest));
        assert_eq!(
            headers.iter().map(|h| h.lsn.get()).collect::<Vec<_>>(),
            [6, 7]
        );
        assert_eq!(decoded.last(), Lsn::new(7));
    }

    #[test]
    fn every_single_bit_flip_of_the_headers_is_refused() {
        let (header, records) = sample();
        let (page, _) = header.encode(&records);
        for at in 0..headers_bytes(2) {
            for bit in 0..8 {
                let mut bytes = page.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(
                    FrameHeader::decode(&bytes).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }

    #[test]
    fn every_single_bit_flip_of_a_record_is_refused() {
        let record = record(6);
        let mut bytes = record.header().encode().to_vec();
        bytes.extend_from_slice(record.payload());
        for at in 0..bytes.len() {
            for bit in [0, 7] {
                bytes[at] ^= 1 << bit;
                let refused = match RecordHeader::decode(&bytes) {
                    Err(_) => true,
                    Ok(header) => header.verify(&bytes[RecordHeader::BYTES..]).is_err(),
                };
                assert!(refused, "bit {bit} of byte {at}");
                bytes[at] ^= 1 << bit;
            }
        }
    }
}
