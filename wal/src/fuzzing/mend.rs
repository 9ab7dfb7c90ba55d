//! Makes sums and links of mutated bytes right, and lays a volume out from one input.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use byteorder::{ByteOrder, LittleEndian};
use xxhash_rust::xxh3::xxh3_128;

use super::{DIR, SEGMENT_BYTES, segment_path};
use crate::frame::{FRAME_ALIGNMENT, FrameHeader, headers_bytes, layout as frame_at, payload_at};
use crate::index::{layout as index_at, page, path_of};
use crate::meta::{COPY_BYTES, header as meta_at};
use crate::record::RecordHeader;
use crate::segment::layout as segment_at;

/// What is made right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mode {
    pub(super) sums: bool,
    /// Offset, sequence and digest of every frame continue the one before.
    pub(super) links: bool,
}

/// The mode in the first byte, and the rest.
pub(super) fn split(data: &[u8]) -> Option<(Mode, &[u8])> {
    let (mode, bytes) = data.split_first()?;
    let mode = Mode {
        sums: mode & 1 != 0,
        links: mode & 2 != 0,
    };
    Some((mode, bytes))
}

/// A record with its payload behind its header.
pub(super) fn record(bytes: &mut [u8]) {
    let Ok(header) = RecordHeader::decode(bytes) else {
        return;
    };
    let at = RecordHeader::BYTES;
    if let Some(payload) = bytes.get(at..at + header.payload_bytes()) {
        let sum = header.compute_sum(payload);
        LittleEndian::write_u32(&mut bytes[RecordHeader::SUM_AT..], sum);
    }
}

/// The header page of a frame; gives the bytes of its headers.
pub(super) fn frame(bytes: &mut [u8]) -> Option<usize> {
    let used = FrameHeader::peek(bytes).ok()?;
    let headers = bytes.get_mut(..used)?;
    LittleEndian::write_u32(&mut headers[frame_at::SUM_AT..], 0);
    let sum = crc32fast::hash(headers);
    LittleEndian::write_u32(&mut headers[frame_at::SUM_AT..], sum);
    Some(used)
}

/// The header of a segment and every frame in it.
pub(super) fn segment(bytes: &mut [u8], links: bool) {
    if let Some(header) = bytes.get_mut(..segment_at::BYTES) {
        LittleEndian::write_u32(&mut header[segment_at::SUM_AT..], 0);
        let sum = crc32fast::hash(header);
        LittleEndian::write_u32(&mut header[segment_at::SUM_AT..], sum);
    }
    let mut at = FRAME_ALIGNMENT;
    let mut before: Option<(u64, u128)> = None;
    while let Some(rest) = bytes.get_mut(at..) {
        let Ok(used) = FrameHeader::peek(rest) else {
            at += FRAME_ALIGNMENT;
            continue;
        };
        if used > rest.len() {
            return;
        }
        if links {
            link(rest, at, before);
        }
        records(rest, used);
        frame(rest);
        let sequence = LittleEndian::read_u64(&rest[frame_at::SEQUENCE_AT..]);
        before = Some((sequence, xxh3_128(&rest[..used])));
        let length = LittleEndian::read_u32(&rest[frame_at::FRAME_BYTES_AT..]) as usize;
        at += length
            .next_multiple_of(FRAME_ALIGNMENT)
            .max(FRAME_ALIGNMENT);
    }
}

fn link(frame: &mut [u8], at: usize, before: Option<(u64, u128)>) {
    LittleEndian::write_u64(&mut frame[frame_at::OFFSET_AT..], at as u64);
    if let Some((sequence, digest)) = before {
        LittleEndian::write_u64(
            &mut frame[frame_at::SEQUENCE_AT..],
            sequence.wrapping_add(1),
        );
        LittleEndian::write_u128(&mut frame[frame_at::PREVIOUS_AT..], digest);
    }
}

/// Sums of the records of a frame, as far as their payloads are there.
fn records(frame: &mut [u8], used: usize) {
    let count = (used - headers_bytes(0)) / RecordHeader::BYTES;
    let mut payload = payload_at(count);
    for index in 0..count {
        let at = headers_bytes(index);
        let Ok(header) = RecordHeader::decode(&frame[at..]) else {
            return;
        };
        let Some(bytes) = frame.get(payload..payload + header.payload_bytes()) else {
            return;
        };
        let sum = header.compute_sum(bytes);
        LittleEndian::write_u32(&mut frame[at + RecordHeader::SUM_AT..], sum);
        payload += header.payload_bytes();
    }
}

/// Both copies of meta around a body.
pub(super) fn meta(body: &[u8]) -> Vec<u8> {
    let body = &body[..body.len().min(COPY_BYTES - meta_at::BYTES)];
    let mut both = Vec::with_capacity(2 * COPY_BYTES);
    for place in 0..2 {
        let mut copy = vec![0; COPY_BYTES];
        copy[meta_at::MAGIC_AT..meta_at::VERSION_AT].copy_from_slice(b"SEAWMETA");
        LittleEndian::write_u16(&mut copy[meta_at::VERSION_AT..], 1);
        copy[meta_at::PLACE_AT] = place;
        let length = u32::try_from(body.len()).expect("below 64 KiB");
        LittleEndian::write_u32(&mut copy[meta_at::LENGTH_AT..], length);
        LittleEndian::write_u64(&mut copy[meta_at::COUNTER_AT..], 1);
        copy[meta_at::BYTES..meta_at::BYTES + body.len()].copy_from_slice(body);
        let sum = xxh3_128(&copy);
        LittleEndian::write_u128(&mut copy[meta_at::SUM_AT..], sum);
        both.extend(copy);
    }
    both
}

/// Every page of a sealed index.
pub(super) fn index(bytes: &mut [u8]) {
    for (number, bytes) in bytes.chunks_exact_mut(page::BYTES).enumerate() {
        let sum_at = match number {
            0 => index_at::SUM_AT,
            _ => page::SUM_AT,
        };
        bytes[sum_at..sum_at + 16].fill(0);
        let sum = xxh3_128(bytes);
        LittleEndian::write_u128(&mut bytes[sum_at..], sum);
    }
}

/// A file of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// Its body alone.
    Meta,
    Segment(u32),
    Index(u32),
}

impl Name {
    pub(super) const SLOTS: u8 = 4;

    pub(super) fn code(self) -> u8 {
        let slot = |slot: u32| u8::try_from(slot).expect("few slots");
        match self {
            Name::Meta => 0,
            Name::Segment(number) => 1 + slot(number),
            Name::Index(number) => 1 + Name::SLOTS + slot(number),
        }
    }

    fn from_code(code: u8) -> Option<Name> {
        match code {
            0 => Some(Name::Meta),
            1..=4 => Some(Name::Segment(u32::from(code - 1))),
            5..=8 => Some(Name::Index(u32::from(code - 1 - Name::SLOTS))),
            _ => None,
        }
    }

    pub(super) fn path(self) -> PathBuf {
        match self {
            Name::Meta => Path::new(DIR).join("meta"),
            Name::Segment(slot) => segment_path(slot),
            Name::Index(slot) => path_of(&segment_path(slot)),
        }
    }
}

/// Offsets in an input count in these.
pub(super) const UNIT: usize = 64;

/// Files made of patches over zeros: file, offset in units, length, bytes. Segments have their full
/// size, an index is whole pages, a body ends with its last patch.
pub(super) fn files(mut bytes: &[u8]) -> BTreeMap<Name, Vec<u8>> {
    let mut files: BTreeMap<Name, Vec<u8>> = BTreeMap::new();
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let at = usize::from(LittleEndian::read_u16(&head[1..])) * UNIT;
        let length = usize::from(LittleEndian::read_u16(&head[3..])).min(rest.len());
        let (patch, rest) = rest.split_at(length);
        bytes = rest;
        let size = usize::try_from(SEGMENT_BYTES).unwrap_or(usize::MAX);
        let Some(name) = Name::from_code(head[0]) else {
            continue;
        };
        let end = at + patch.len();
        if end > size {
            continue;
        }
        let full = match name {
            Name::Meta => end,
            Name::Segment(_) => size,
            Name::Index(_) => end.next_multiple_of(page::BYTES),
        };
        let file = files.entry(name).or_default();
        let longer = file.len().max(full);
        file.resize(longer, 0);
        file[at..end].copy_from_slice(patch);
    }
    files
}

/// The patches of one file: its runs of units that are not zero.
pub(super) fn patches(name: Name, bytes: &[u8], out: &mut Vec<u8>) {
    let units: Vec<&[u8]> = bytes.chunks(UNIT).collect();
    let is_zero = |unit: &&[u8]| unit.iter().all(|byte| *byte == 0);
    let mut at = 0;
    while at < units.len() {
        let run = units[at..].iter().take_while(|unit| !is_zero(unit)).count();
        if run > 0 {
            let patch = &bytes[at * UNIT..bytes.len().min((at + run) * UNIT)];
            let number = |value: usize| u16::try_from(value).expect("files are below 64 KiB");
            let mut head = [name.code(), 0, 0, 0, 0];
            LittleEndian::write_u16(&mut head[1..], number(at));
            LittleEndian::write_u16(&mut head[3..], number(patch.len()));
            out.extend(head);
            out.extend(patch);
        }
        at += run.max(1);
    }
}
