//! What a segment holds, without payload: the sealed index, written from read-back (D15). Its
//! header is proven when the log is opened, its pages of entries each time they are read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::disk::{self, Buffer, Disk, File, OpenMode};
use crate::frame::FrameKind;
use crate::handles::{Handles, Key};
use crate::segment::{self, FIRST_FRAME_AT, FoundFrame, SegmentFile};
use crate::{Damage, Error, Lba, LogId, Lsn, LsnRange, RecordKind};

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
}

/// The pages behind the header.
pub(crate) mod page {
    pub(crate) const SUM_AT: usize = 0;
    pub(crate) const GENERATION_AT: usize = 16;
    pub(crate) const FIRST_AT: usize = 24;
    pub(crate) const ENTRIES_AT: usize = 32;
    pub(crate) const ENTRY_BYTES: usize = 32;
    pub(crate) const BYTES: usize = 4096;
}

const _: () = assert!(layout::BYTES <= page::BYTES);

/// Entries in a page that is full.
pub(crate) const PAGE_ENTRIES: usize = (page::BYTES - page::ENTRIES_AT) / page::ENTRY_BYTES;

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

/// What the frames of one segment add up to, in order, without the records one by one.
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
}

impl Summary {
    /// What of the log before the segment is left once all of it was applied: its records follow.
    pub(crate) fn left_of(&self, head: Lsn) -> Lsn {
        self.truncated_after.map_or(head, |lowest| lowest.min(head))
    }
}

/// A segment that was read frame by frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    pub(crate) summary: Summary,
    /// The records, truncations applied.
    pub(crate) entries: Vec<Entry>,
}

fn small(offset: u64) -> u32 {
    u32::try_from(offset).expect("segments are at most 1 GiB")
}

impl Scanned {
    /// Of a segment whose first frame is `frame`.
    pub(crate) fn begin(frame: &FoundFrame) -> Scanned {
        let summary = Summary {
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
        };
        Scanned {
            summary,
            entries: Vec::new(),
        }
    }

    /// Adds the next frame.
    pub(crate) fn push(&mut self, frame: &FoundFrame) {
        let header = &frame.header;
        let summary = &mut self.summary;
        summary.last_sequence = header.sequence;
        summary.last_digest = frame.digest;
        summary.end = header.offset + header.frame_bytes as u64;
        summary.frontier = summary.frontier.max(header.frontier);
        summary.committed = summary.committed.max(header.committed);
        match header.kind {
            FrameKind::Records => {
                self.entries.extend(entries_of(frame));
                summary.through = header.last();
            }
            FrameKind::Mark => summary.frontier = summary.frontier.max(header.after),
            FrameKind::Truncation => {
                self.entries.retain(|entry| entry.lsn <= header.after);
                summary.frontier = summary.frontier.min(header.after);
                summary.through = header.after;
                let lowest = summary
                    .truncated_after
                    .map_or(header.after, |low| low.min(header.after));
                summary.truncated_after = Some(lowest);
            }
            FrameKind::Seal => summary.next_generation = Some(header.next_generation),
        }
    }
}

/// The records of a frame as the index keeps them.
pub(crate) fn entries_of(frame: &FoundFrame) -> impl Iterator<Item = Entry> {
    frame.records.iter().map(|record| Entry {
        lsn: record.header.lsn,
        lba: record.header.lba,
        blocks: record.header.blocks,
        header_at: small(record.header_at),
        payload_at: small(record.payload_at),
        kind: record.header.kind,
        no_hole: record.header.no_hole,
    })
}

/// Slot of the name of an index, or `None` (L-R5).
pub(crate) fn slot_of(name: &str) -> Option<u32> {
    let segment = name.strip_suffix(".idx")?;
    segment::slot_of(&format!("{segment}.seg"))
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
    scanned: &Scanned,
) -> Result<SealedIndex, Error> {
    let path = path_of(segment.path());
    let bytes = encode(log, segment.generation, scanned);
    let file = File::open(disk, &path, OpenMode::CreateOrOpen)?;
    file.set_length(bytes.len() as u64)?;
    file.write_bytes(0, bytes)?;
    file.sync()?;
    let dir = path.parent().expect("a segment lies in a directory");
    disk::sync_dir(disk.as_ref(), dir)?;
    let count = scanned.entries.len() as u64;
    let lsns = run_of(scanned.summary.through, count).expect("an LSN is at least 1");
    Ok(SealedIndex::new(segment, lsns))
}

/// The header of the sealed index of a segment, and the way to its entries. `None` when it is
/// missing, damaged or of another life: then the segment itself is read. Costs the same for every
/// index: the entries are proven when they are read.
pub(crate) fn open(segment: &SegmentFile, log: LogId) -> Option<(Summary, SealedIndex)> {
    let path = path_of(segment.path());
    let file = File::open(segment.handles().disk(), &path, OpenMode::Read).ok()?;
    let header = file.read_exact(0, page::BYTES).ok()?;
    let (summary, count) = decode(&header, log, segment.generation).ok()?;
    let lsns = run_of(summary.through, count)?;
    (file.length().ok()? == file_bytes(count)).then_some(())?;
    Some((summary, SealedIndex::new(segment, lsns)))
}

/// The LSNs of `count` records through `through`; the records that a segment keeps are dense.
fn run_of(through: Lsn, count: u64) -> Option<LsnRange> {
    let after = through.get().checked_sub(count)?;
    Some(LsnRange::new(Lsn::new(after), through))
}

/// Size of an index of so many entries.
fn file_bytes(count: u64) -> u64 {
    (1 + count.div_ceil(PAGE_ENTRIES as u64)) * page::BYTES as u64
}

/// The sealed index of one life of a segment. It stays what it is while somebody holds the segment:
/// a slot that is held is not reused.
#[derive(Debug)]
pub(crate) struct SealedIndex {
    handles: Arc<Handles>,
    path: PathBuf,
    generation: u64,
    lsns: LsnRange,
}

impl SealedIndex {
    fn new(segment: &SegmentFile, lsns: LsnRange) -> SealedIndex {
        SealedIndex {
            handles: Arc::clone(segment.handles()),
            path: path_of(segment.path()),
            generation: segment.generation,
            lsns,
        }
    }

    /// The LSNs it has entries of, without a gap.
    pub(crate) fn lsns(&self) -> LsnRange {
        self.lsns
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The entries of a range, one for each LSN; `None` when a page of them does not prove itself.
    /// One read, of the pages that hold the range.
    pub(crate) fn entries(&self, range: LsnRange) -> Option<Vec<Entry>> {
        if range.is_empty() {
            return Some(Vec::new());
        }
        if range.after < self.lsns.after || range.through > self.lsns.through {
            return None;
        }
        let place = |lsn: Lsn| usize::try_from(lsn.get() - self.lsns.after.get()).ok();
        let (from, to) = (place(range.after)?, place(range.through)?);
        let (first, behind) = (from / PAGE_ENTRIES, to.div_ceil(PAGE_ENTRIES));
        let file = (self.handles).reader(Key::Index(self.generation), &self.path);
        let at = (1 + first) as u64 * page::BYTES as u64;
        let pages = file
            .ok()?
            .read_exact(at, (behind - first) * page::BYTES)
            .ok()?;
        let mut entries = Vec::with_capacity(to - from);
        for (number, bytes) in (first..).zip(pages.chunks_exact(page::BYTES)) {
            let begins = number * PAGE_ENTRIES;
            let lsn = Lsn::new(self.lsns.after.get() + begins as u64 + 1);
            check_page(bytes, self.generation, lsn).ok()?;
            let wanted = from.max(begins)..to.min(begins + PAGE_ENTRIES);
            for slot in wanted {
                let entry = decode_entry(&bytes[page::ENTRIES_AT..], slot - begins).ok()?;
                let expected = self.lsns.after.get() + slot as u64 + 1;
                (entry.lsn.get() == expected).then_some(())?;
                entries.push(entry);
            }
        }
        Some(entries)
    }
}

/// XXH3-128 of a page whose sum field of 16 bytes lies at `sum_at`, with that field zero.
fn page_sum(bytes: &[u8], sum_at: usize) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(&bytes[..sum_at]);
    hasher.update(&[0; 16]);
    hasher.update(&bytes[sum_at + 16..]);
    hasher.digest128()
}

pub(crate) fn encode(log: LogId, generation: u64, scanned: &Scanned) -> Buffer {
    use layout as at;
    let Scanned { summary, entries } = scanned;
    let count = small(entries.len() as u64);
    let length = usize::try_from(file_bytes(count.into())).expect("an index fits in memory");
    let mut out = Buffer::zeroed(length);
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
    LittleEndian::write_u32(&mut out[at::ENTRY_COUNT_AT..], count);
    let (header, pages) = out.split_at_mut(page::BYTES);
    let sum = xxh3_128(header);
    LittleEndian::write_u128(&mut header[at::SUM_AT..], sum);
    let pages = pages.chunks_exact_mut(page::BYTES);
    for (page, entries) in pages.zip(entries.chunks(PAGE_ENTRIES)) {
        encode_page(page, generation, entries);
    }
    out
}

/// Fills a page of zeros.
fn encode_page(bytes: &mut [u8], generation: u64, entries: &[Entry]) {
    LittleEndian::write_u64(&mut bytes[page::GENERATION_AT..], generation);
    LittleEndian::write_u64(&mut bytes[page::FIRST_AT..], entries[0].lsn.get());
    let slots = bytes[page::ENTRIES_AT..].chunks_exact_mut(page::ENTRY_BYTES);
    for (slot, entry) in slots.zip(entries) {
        LittleEndian::write_u64(&mut slot[0..], entry.lsn.get());
        LittleEndian::write_u64(&mut slot[8..], entry.lba.0);
        LittleEndian::write_u32(&mut slot[16..], entry.blocks);
        LittleEndian::write_u32(&mut slot[20..], entry.header_at);
        LittleEndian::write_u32(&mut slot[24..], entry.payload_at);
        slot[28] = entry.kind.code();
        slot[29] = u8::from(entry.no_hole);
    }
    let sum = xxh3_128(bytes);
    LittleEndian::write_u128(&mut bytes[page::SUM_AT..], sum);
}

/// The summary in a header page and the number of entries behind it.
fn decode(bytes: &[u8], log: LogId, generation: u64) -> Result<(Summary, u64), Damage> {
    use layout as at;
    if bytes.len() != page::BYTES {
        return Err(Damage::Length {
            found: bytes.len() as u64,
        });
    }
    let number = |at: usize| LittleEndian::read_u64(&bytes[at..]);
    if number(at::MAGIC_AT) != MAGIC {
        return Err(Damage::BadMagic);
    }
    check_sum(bytes, at::SUM_AT)?;
    if bytes[at::LOG_AT..at::GENERATION_AT] != log.0 || number(at::GENERATION_AT) != generation {
        return Err(Damage::Identity);
    }
    for (field, at) in [
        ("last_sequence", at::LAST_SEQUENCE_AT),
        ("through", at::THROUGH_AT),
    ] {
        let found = number(at);
        if found == u64::MAX {
            return Err(Damage::Field { field, found });
        }
    }
    let truncated = LittleEndian::read_u32(&bytes[at::TRUNCATED_AT..]) == 1;
    let summary = Summary {
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
    };
    let count = LittleEndian::read_u32(&bytes[at::ENTRY_COUNT_AT..]);
    Ok((summary, count.into()))
}

fn check_sum(bytes: &[u8], sum_at: usize) -> Result<(), Damage> {
    match page_sum(bytes, sum_at) == LittleEndian::read_u128(&bytes[sum_at..]) {
        true => Ok(()),
        false => Err(Damage::Checksum {
            expected: 0,
            found: 0,
        }),
    }
}

/// Whether a page is the one of this life that begins with `first`.
fn check_page(bytes: &[u8], generation: u64, first: Lsn) -> Result<(), Damage> {
    check_sum(bytes, page::SUM_AT)?;
    let ours = LittleEndian::read_u64(&bytes[page::GENERATION_AT..]) == generation
        && LittleEndian::read_u64(&bytes[page::FIRST_AT..]) == first.get();
    match ours {
        true => Ok(()),
        false => Err(Damage::Identity),
    }
}

fn decode_entry(entries: &[u8], slot: usize) -> Result<Entry, Damage> {
    let bytes = &entries[slot * page::ENTRY_BYTES..][..page::ENTRY_BYTES];
    let kind = RecordKind::from_code(bytes[28]).ok_or(Damage::Field {
        field: "kind",
        found: bytes[28].into(),
    })?;
    Ok(Entry {
        lsn: Lsn::new(LittleEndian::read_u64(bytes)),
        lba: Lba(LittleEndian::read_u64(&bytes[8..])),
        blocks: LittleEndian::read_u32(&bytes[16..]),
        header_at: LittleEndian::read_u32(&bytes[20..]),
        payload_at: LittleEndian::read_u32(&bytes[24..]),
        kind,
        no_hole: bytes[29] == 1,
    })
}

#[cfg(test)]
mod tests;
