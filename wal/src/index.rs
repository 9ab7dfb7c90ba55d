//! What a segment holds, without payload: the sealed index, written from read-back (D15).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian, ReadBytesExt, WriteBytesExt};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::{self, Buffer, Disk, File, OpenMode};
use crate::frame::FrameKind;
use crate::segment::{FIRST_FRAME_AT, FoundFrame, SegmentFile};
use crate::{Damage, Error, Lba, LogId, Lsn, RecordKind};

const MAGIC: u64 = u64::from_le_bytes(*b"SEAWIDX1");

pub(crate) mod layout {
    pub(crate) const MAGIC_AT: usize = 0;
    pub(crate) const SUM_AT: usize = 8;
    pub(crate) const LOG_AT: usize = 24;
    pub(crate) const GENERATION_AT: usize = 40;
    pub(crate) const FIRST_SEQUENCE_AT: usize = 48;
    pub(crate) const FIRST_PREVIOUS_AT: usize = 56;
    pub(crate) const LAST_SEQUENCE_AT: usize = 72;
    pub(crate) const LAST_DIGEST_AT: usize = 80;
    pub(crate) const NEXT_GENERATION_AT: usize = 96;
    pub(crate) const FRONTIER_AT: usize = 104;
    pub(crate) const COMMITTED_AT: usize = 112;
    pub(crate) const AFTER_AT: usize = 120;
    pub(crate) const THROUGH_AT: usize = 128;
    pub(crate) const END_AT: usize = 136;
    pub(crate) const TRUNCATED_AFTER_AT: usize = 144;
    pub(crate) const TRUNCATED_AT: usize = 152;
    pub(crate) const ENTRY_COUNT_AT: usize = 156;
    pub(crate) const BYTES: usize = 160;
    pub(crate) const ENTRY_BYTES: usize = 32;
}

/// Where one record lies and which blocks it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) lsn: Lsn,
    pub(crate) lba: Lba,
    pub(crate) blocks: u32,
    pub(crate) header_at: u32,
    pub(crate) payload_at: u32,
    pub(crate) kind: RecordKind,
    pub(crate) no_hole: bool,
}

/// What the frames of one segment add up to, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Sequence of the first frame.
    pub(crate) first_sequence: u64,
    /// Digest that the first frame links to.
    pub(crate) first_previous: u128,
    /// Sequence of the last frame.
    pub(crate) last_sequence: u64,
    /// Digest of the last frame.
    pub(crate) last_digest: u128,
    /// Named by the seal, if the segment has one.
    pub(crate) next_generation: Option<u64>,
    /// Highest frontier recorded, truncations applied.
    pub(crate) frontier: Lsn,
    /// Highest committed recorded.
    pub(crate) committed: Lsn,
    /// Head before the first frame; what it kept, if that is a truncation.
    pub(crate) after: Lsn,
    /// Head behind the last frame.
    pub(crate) through: Lsn,
    /// Offset behind the last frame.
    pub(crate) end: u64,
    /// Lowest LSN that a truncation in it kept: records above it in earlier segments are dropped.
    pub(crate) truncated_after: Option<Lsn>,
    /// The records, truncations applied.
    pub(crate) entries: Vec<Entry>,
}

fn small(offset: u64) -> u32 {
    u32::try_from(offset).expect("segments are at most 1 GiB")
}

impl Summary {
    /// Of a segment whose first frame is `frame`.
    pub(crate) fn begin(frame: &FoundFrame) -> Summary {
        Summary {
            first_sequence: frame.header.sequence,
            first_previous: frame.header.previous,
            last_sequence: frame.header.sequence,
            last_digest: frame.digest,
            next_generation: None,
            frontier: Lsn::ZERO,
            committed: Lsn::ZERO,
            after: frame.header.after,
            through: frame.header.after,
            end: FIRST_FRAME_AT,
            truncated_after: None,
            entries: Vec::new(),
        }
    }

    /// Adds the next frame.
    pub(crate) fn push(&mut self, frame: &FoundFrame) {
        let header = &frame.header;
        self.last_sequence = header.sequence;
        self.last_digest = frame.digest;
        self.end = header.offset + header.frame_bytes as u64;
        self.frontier = self.frontier.max(header.frontier);
        self.committed = self.committed.max(header.committed);
        match header.kind {
            FrameKind::Records => {
                self.entries
                    .extend(frame.records.iter().map(|record| Entry {
                        lsn: record.header.lsn,
                        lba: record.header.lba,
                        blocks: record.header.blocks,
                        header_at: small(record.header_at),
                        payload_at: small(record.payload_at),
                        kind: record.header.kind,
                        no_hole: record.header.no_hole,
                    }));
                self.through = header.last();
            }
            FrameKind::Mark => self.frontier = self.frontier.max(header.after),
            FrameKind::Truncation => {
                self.entries.retain(|entry| entry.lsn <= header.after);
                self.frontier = self.frontier.min(header.after);
                self.through = header.after;
                let lowest = self
                    .truncated_after
                    .map_or(header.after, |low| low.min(header.after));
                self.truncated_after = Some(lowest);
            }
            FrameKind::Seal => self.next_generation = Some(header.next_generation),
        }
    }
}

/// Path of the index beside the segment file.
pub(crate) fn path_of(segment: &Path) -> PathBuf {
    segment.with_extension("idx")
}

/// Writes the sealed index of a segment, durable with its name.
pub(crate) fn write(
    disk: &Arc<dyn Disk>,
    segment: &SegmentFile,
    log: LogId,
    summary: &Summary,
) -> Result<(), Error> {
    let path = path_of(segment.path());
    let bytes = encode(log, segment.generation, summary);
    let file = File::open(disk, &path, OpenMode::CreateOrOpen)?;
    file.set_length(bytes.len() as u64)?;
    file.write_bytes(0, Buffer::copy_of(&bytes))?;
    file.sync()?;
    let dir = path.parent().expect("a segment lies in a directory");
    disk::sync_dir(disk.as_ref(), dir)
}

/// The sealed index of a segment, or `None` when it is missing, damaged or of another life: then
/// the segment itself is read.
pub(crate) fn read(disk: &Arc<dyn Disk>, segment: &SegmentFile, log: LogId) -> Option<Summary> {
    let file = File::open(disk, &path_of(segment.path()), OpenMode::Read).ok()?;
    let length = usize::try_from(file.length().ok()?).ok()?;
    // The entries of one segment cannot outnumber its record headers.
    let most = usize::try_from(segment.file.length().ok()? / 2).ok()? + layout::BYTES;
    let bytes = file.read_exact(0, length.min(most)).ok()?;
    decode(&bytes, log, segment.generation).ok()
}

pub(crate) fn encode(log: LogId, generation: u64, summary: &Summary) -> Vec<u8> {
    use layout as at;
    let mut out = vec![0; at::BYTES];
    LittleEndian::write_u64(&mut out[at::MAGIC_AT..], MAGIC);
    out[at::LOG_AT..at::GENERATION_AT].copy_from_slice(&log.0);
    LittleEndian::write_u64(&mut out[at::GENERATION_AT..], generation);
    LittleEndian::write_u64(&mut out[at::FIRST_SEQUENCE_AT..], summary.first_sequence);
    LittleEndian::write_u128(&mut out[at::FIRST_PREVIOUS_AT..], summary.first_previous);
    LittleEndian::write_u64(&mut out[at::LAST_SEQUENCE_AT..], summary.last_sequence);
    LittleEndian::write_u128(&mut out[at::LAST_DIGEST_AT..], summary.last_digest);
    let next = summary
        .next_generation
        .expect("only a sealed segment has an index");
    LittleEndian::write_u64(&mut out[at::NEXT_GENERATION_AT..], next);
    LittleEndian::write_u64(&mut out[at::FRONTIER_AT..], summary.frontier.get());
    LittleEndian::write_u64(&mut out[at::COMMITTED_AT..], summary.committed.get());
    LittleEndian::write_u64(&mut out[at::AFTER_AT..], summary.after.get());
    LittleEndian::write_u64(&mut out[at::THROUGH_AT..], summary.through.get());
    LittleEndian::write_u64(&mut out[at::END_AT..], summary.end);
    let truncated = summary.truncated_after;
    LittleEndian::write_u64(
        &mut out[at::TRUNCATED_AFTER_AT..],
        truncated.unwrap_or(Lsn::ZERO).get(),
    );
    LittleEndian::write_u32(&mut out[at::TRUNCATED_AT..], u32::from(truncated.is_some()));
    LittleEndian::write_u32(
        &mut out[at::ENTRY_COUNT_AT..],
        small(summary.entries.len() as u64),
    );
    const GROWS: &str = "a vector takes every byte";
    for entry in &summary.entries {
        out.write_u64::<LittleEndian>(entry.lsn.get()).expect(GROWS);
        out.write_u64::<LittleEndian>(entry.lba.0).expect(GROWS);
        out.write_u32::<LittleEndian>(entry.blocks).expect(GROWS);
        out.write_u32::<LittleEndian>(entry.header_at).expect(GROWS);
        out.write_u32::<LittleEndian>(entry.payload_at)
            .expect(GROWS);
        out.extend_from_slice(&[entry.kind.code(), u8::from(entry.no_hole), 0, 0]);
    }
    let sum = xxh3_128(&out);
    LittleEndian::write_u128(&mut out[at::SUM_AT..], sum);
    out
}

fn decode(bytes: &[u8], log: LogId, generation: u64) -> Result<Summary, Damage> {
    use layout as at;
    let length = bytes.len() as u64;
    if bytes.len() < at::BYTES {
        return Err(Damage::Length { found: length });
    }
    let number = |at: usize| LittleEndian::read_u64(&bytes[at..]);
    if number(at::MAGIC_AT) != MAGIC {
        return Err(Damage::BadMagic);
    }
    let count = LittleEndian::read_u32(&bytes[at::ENTRY_COUNT_AT..]) as usize;
    if count
        .checked_mul(at::ENTRY_BYTES)
        .map(|entries| entries + at::BYTES)
        != Some(bytes.len())
    {
        return Err(Damage::Length { found: length });
    }
    let mut zeroed = bytes.to_vec();
    zeroed[at::SUM_AT..at::LOG_AT].fill(0);
    if xxh3_128(&zeroed) != LittleEndian::read_u128(&bytes[at::SUM_AT..]) {
        return Err(Damage::Checksum {
            expected: 0,
            found: 0,
        });
    }
    if bytes[at::LOG_AT..at::GENERATION_AT] != log.0 || number(at::GENERATION_AT) != generation {
        return Err(Damage::Identity);
    }
    let truncated = LittleEndian::read_u32(&bytes[at::TRUNCATED_AT..]) == 1;
    let entries = bytes[at::BYTES..]
        .chunks_exact(at::ENTRY_BYTES)
        .map(decode_entry);
    Ok(Summary {
        first_sequence: number(at::FIRST_SEQUENCE_AT),
        first_previous: LittleEndian::read_u128(&bytes[at::FIRST_PREVIOUS_AT..]),
        last_sequence: number(at::LAST_SEQUENCE_AT),
        last_digest: LittleEndian::read_u128(&bytes[at::LAST_DIGEST_AT..]),
        next_generation: Some(number(at::NEXT_GENERATION_AT)),
        frontier: Lsn::new(number(at::FRONTIER_AT)),
        committed: Lsn::new(number(at::COMMITTED_AT)),
        after: Lsn::new(number(at::AFTER_AT)),
        through: Lsn::new(number(at::THROUGH_AT)),
        end: number(at::END_AT),
        truncated_after: truncated.then(|| Lsn::new(number(at::TRUNCATED_AFTER_AT))),
        entries: entries.collect::<Result<_, _>>()?,
    })
}

fn decode_entry(mut bytes: &[u8]) -> Result<Entry, Damage> {
    let short = |_| Damage::Length { found: 0 };
    let input = &mut bytes;
    let lsn = Lsn::new(input.read_u64::<LittleEndian>().map_err(short)?);
    let lba = Lba(input.read_u64::<LittleEndian>().map_err(short)?);
    let blocks = input.read_u32::<LittleEndian>().map_err(short)?;
    let header_at = input.read_u32::<LittleEndian>().map_err(short)?;
    let payload_at = input.read_u32::<LittleEndian>().map_err(short)?;
    let code = input.read_u8().map_err(short)?;
    let no_hole = input.read_u8().map_err(short)? == 1;
    let kind = RecordKind::from_code(code).ok_or(Damage::Field {
        field: "kind",
        found: code.into(),
    })?;
    Ok(Entry {
        lsn,
        lba,
        blocks,
        header_at,
        payload_at,
        kind,
        no_hole,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_round_trips_and_every_flip_is_refused() {
        let entry = |lsn| Entry {
            lsn: Lsn::new(lsn),
            lba: Lba(lsn * 8),
            blocks: 8,
            header_at: 4224,
            payload_at: 8192,
            kind: RecordKind::WriteZeroes,
            no_hole: true,
        };
        let summary = Summary {
            first_sequence: 4,
            first_previous: 5,
            last_sequence: 6,
            last_digest: 7,
            next_generation: Some(8),
            frontier: Lsn::new(9),
            committed: Lsn::new(8),
            after: Lsn::new(7),
            through: Lsn::new(9),
            end: 20480,
            truncated_after: Some(Lsn::ZERO),
            entries: vec![entry(8), entry(9)],
        };
        let log = LogId([3; 16]);
        let bytes = encode(log, 2, &summary);
        assert_eq!(decode(&bytes, log, 2), Ok(summary));
        assert_eq!(decode(&bytes, log, 3), Err(Damage::Identity));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 4;
            assert!(decode(&flipped, log, 2).is_err(), "byte {at}");
        }
    }
}
