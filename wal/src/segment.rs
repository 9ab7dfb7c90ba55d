//! One log file: its name and header, preparing it, and reading what lies in it frame by frame.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use byteorder::{ByteOrder, LittleEndian};

use crate::disk::{Buffer, Disk, File, OpenMode};
use crate::frame::{self, FRAME_ALIGNMENT, FrameHeader};
use crate::handles::{Handles, Key};
use crate::record::RecordHeader;
use crate::sync::{Mutex, MutexGuard};
use crate::windows::Windows;
use crate::{Damage, Error, LogId, VolumeId};

/// First byte behind the segment header.
pub(crate) const FIRST_FRAME_AT: u64 = 4096;
const MAGIC: u64 = u64::from_le_bytes(*b"SEAWSEG1");
const VERSION: u16 = 1;

pub(crate) mod layout {
    pub(crate) const MAGIC_AT: usize = 0;
    pub(crate) const VERSION_AT: usize = 8;
    pub(crate) const RESERVED_AT: usize = 10;
    pub(crate) const SUM_AT: usize = 12;
    pub(crate) const VOLUME_AT: usize = 16;
    pub(crate) const LOG_AT: usize = 32;
    pub(crate) const GENERATION_AT: usize = 48;
    pub(crate) const SEGMENT_BYTES_AT: usize = 56;
    pub(crate) const BYTES: usize = 64;
}

/// Header of a segment, prepared ahead: it names no LSN and no link (D16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) volume: VolumeId,
    pub(crate) log: LogId,
    pub(crate) generation: u64,
    pub(crate) segment_bytes: u64,
}

impl SegmentHeader {
    /// The header page, 4096 bytes.
    pub(crate) fn encode(&self) -> Buffer {
        use layout::{
            BYTES, GENERATION_AT, LOG_AT, MAGIC_AT, SEGMENT_BYTES_AT, SUM_AT, VERSION_AT, VOLUME_AT,
        };
        let mut page = Buffer::zeroed(FRAME_ALIGNMENT);
        LittleEndian::write_u64(&mut page[MAGIC_AT..], MAGIC);
        LittleEndian::write_u16(&mut page[VERSION_AT..], VERSION);
        page[VOLUME_AT..LOG_AT].copy_from_slice(&self.volume.0);
        page[LOG_AT..GENERATION_AT].copy_from_slice(&self.log.0);
        LittleEndian::write_u64(&mut page[GENERATION_AT..], self.generation);
        LittleEndian::write_u64(&mut page[SEGMENT_BYTES_AT..], self.segment_bytes);
        let sum = crc32fast::hash(&page[..BYTES]);
        LittleEndian::write_u32(&mut page[SUM_AT..], sum);
        page
    }

    /// # Errors
    /// The first contradiction found.
    pub(crate) fn decode(page: &[u8]) -> Result<SegmentHeader, Damage> {
        use layout::{
            BYTES, GENERATION_AT, LOG_AT, MAGIC_AT, RESERVED_AT, SEGMENT_BYTES_AT, SUM_AT,
            VERSION_AT, VOLUME_AT,
        };
        let Some(bytes) = page.first_chunk::<BYTES>() else {
            return Err(Damage::Length {
                found: page.len() as u64,
            });
        };
        if LittleEndian::read_u64(&bytes[MAGIC_AT..]) != MAGIC {
            return Err(Damage::BadMagic);
        }
        let version = LittleEndian::read_u16(&bytes[VERSION_AT..]);
        if version != VERSION {
            return Err(Damage::UnknownVersion { found: version });
        }
        let expected = LittleEndian::read_u32(&bytes[SUM_AT..]);
        let mut zeroed = *bytes;
        LittleEndian::write_u32(&mut zeroed[SUM_AT..], 0);
        let found = crc32fast::hash(&zeroed);
        if expected != found {
            return Err(Damage::Checksum { expected, found });
        }
        let reserved = LittleEndian::read_u16(&bytes[RESERVED_AT..]);
        if reserved != 0 {
            return Err(Damage::Field {
                field: "reserved",
                found: reserved.into(),
            });
        }
        let (mut volume, mut log) = (VolumeId([0; 16]), LogId([0; 16]));
        volume.0.copy_from_slice(&bytes[VOLUME_AT..LOG_AT]);
        log.0.copy_from_slice(&bytes[LOG_AT..GENERATION_AT]);
        Ok(SegmentHeader {
            volume,
            log,
            generation: LittleEndian::read_u64(&bytes[GENERATION_AT..]),
            segment_bytes: LittleEndian::read_u64(&bytes[SEGMENT_BYTES_AT..]),
        })
    }
}

/// Name of the segment in slot `slot`: the name is a slot and says nothing about order (D16).
pub(crate) fn file_name(slot: u32) -> String {
    format!("{slot:08}.seg")
}

/// Slot of a name under the strict grammar, or `None` (L-R5).
pub(crate) fn slot_of(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    let strict = digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if strict { digits.parse().ok() } else { None }
}

/// A segment file in one of its lives. Readers share it; it is reused only when nobody does. It is
/// held open while frames go to it, and opened to be read otherwise.
#[derive(Debug)]
pub(crate) struct SegmentFile {
    pub(crate) slot: u32,
    pub(crate) generation: u64,
    path: PathBuf,
    writer: Mutex<Option<Arc<File>>>,
    handles: Arc<Handles>,
}

impl SegmentFile {
    /// One that nobody writes.
    pub(crate) fn at_rest(
        handles: &Arc<Handles>,
        dir: &Path,
        slot: u32,
        generation: u64,
    ) -> SegmentFile {
        SegmentFile {
            slot,
            generation,
            path: dir.join(file_name(slot)),
            writer: Mutex::new(None),
            handles: Arc::clone(handles),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn handles(&self) -> &Arc<Handles> {
        &self.handles
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        // OK because it is replaced as a whole.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it for frames.
    pub(crate) fn hold(&self) -> Result<(), Error> {
        let file = File::open_direct(self.handles.disk(), &self.path, OpenMode::ReadWrite)?;
        *self.held() = Some(Arc::new(file));
        Ok(())
    }

    /// No more frames go to it.
    pub(crate) fn rest(&self) {
        let held = self.held().take();
        drop(held);
    }

    /// The handle of a segment that takes frames.
    pub(crate) fn writer(&self) -> Arc<File> {
        let held = self.held().clone();
        held.expect("a segment that takes frames is held open")
    }

    /// A handle for reading, which stays open while the answer lives.
    pub(crate) fn reader(&self) -> Result<Arc<File>, Error> {
        let held = self.held().clone();
        match held {
            Some(file) => Ok(file),
            None => self
                .handles
                .reader(Key::Segment(self.generation), &self.path),
        }
    }

    /// A handle that reads past the page cache where the system has a way, opened for its caller.
    pub(crate) fn medium(&self) -> Result<File, Error> {
        File::open_direct(self.handles.disk(), &self.path, OpenMode::Read)
    }

    /// Opens the file of a slot; a new one is filled with written zeros, so that no append changes
    /// its size or its extents (L-W9). Nothing here makes the name durable.
    pub(crate) fn provide(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        slot: u32,
        segment_bytes: u64,
    ) -> Result<File, Error> {
        let file = File::open_direct(disk, &dir.join(file_name(slot)), OpenMode::CreateOrOpen)?;
        let whole_pages =
            file.length()?.min(segment_bytes) / FRAME_ALIGNMENT as u64 * FRAME_ALIGNMENT as u64;
        file.write_zeros(whole_pages, segment_bytes - whole_pages)?;
        Ok(file)
    }

    /// Starts a life: writes the header with its generation and makes it durable, before the first
    /// frame (D16, L-R1).
    pub(crate) fn prepare(
        handles: &Arc<Handles>,
        dir: &Path,
        slot: u32,
        header: SegmentHeader,
    ) -> Result<SegmentFile, Error> {
        let file = SegmentFile::provide(handles.disk(), dir, slot, header.segment_bytes)?;
        file.write_bytes(0, header.encode())?;
        file.sync()?;
        let segment = SegmentFile::at_rest(handles, dir, slot, header.generation);
        *segment.held() = Some(Arc::new(file));
        Ok(segment)
    }
}

impl Drop for SegmentFile {
    fn drop(&mut self) {
        self.handles.forget(self.generation);
    }
}

/// A record of a frame as it lies in the file.
#[derive(Debug)]
pub(crate) struct FoundRecord {
    pub(crate) header: RecordHeader,
    pub(crate) header_at: u64,
    pub(crate) payload_at: u64,
    /// Whether the payload was readable and the sum holds.
    pub(crate) state: Result<(), Damage>,
}

/// A frame whose own sum holds, for this log and generation, at the place it names.
#[derive(Debug)]
pub(crate) struct FoundFrame {
    pub(crate) header: FrameHeader,
    pub(crate) digest: u128,
    pub(crate) records: Vec<FoundRecord>,
    /// Where padding is not zero: behind the headers, behind the payload.
    pub(crate) soiled: Vec<Range<u64>>,
}

impl FoundFrame {
    /// Whether every record in it is whole.
    pub(crate) fn is_whole(&self) -> bool {
        self.records.iter().all(|record| record.state.is_ok())
    }
}

/// Reads a segment file front to back, with bounded memory.
#[derive(Debug)]
pub(crate) struct Scanner<'a> {
    identity: SegmentHeader,
    windows: Windows<'a>,
}

impl<'a> Scanner<'a> {
    /// Scans `file` as the life that `identity` names.
    ///
    /// # Errors
    /// [`Error::Io`] when not even the size can be read.
    pub(crate) fn new(file: &'a File, identity: SegmentHeader) -> Result<Scanner<'a>, Error> {
        let end = file.length()?.min(identity.segment_bytes);
        Ok(Scanner {
            identity,
            windows: Windows::new(file, end),
        })
    }

    /// Lets writes pass between its reads.
    pub(crate) fn in_small_reads(mut self) -> Scanner<'a> {
        self.windows.set_small();
        self
    }

    /// First offset behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.windows.end()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.windows.file().path().into()
    }

    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], Damage> {
        self.windows.bytes(offset, length)
    }

    /// The frame at `offset`, valid in itself: sum, log, generation and place (L1). Whether it
    /// follows the frame before it is for the caller to see.
    ///
    /// # Errors
    /// What is there instead.
    pub(crate) fn frame_at(&mut self, offset: u64) -> Result<FoundFrame, Damage> {
        self.frame_of(offset, true)
    }

    /// The frame at `offset` of an earlier life of this file, sound in itself.
    ///
    /// # Errors
    /// What is there instead.
    pub(crate) fn stale_at(&mut self, offset: u64) -> Result<FoundFrame, Damage> {
        self.frame_of(offset, false)
    }

    /// A frame of the present life, or of an earlier one: of this log, or with records of this
    /// volume.
    fn frame_of(&mut self, offset: u64, present: bool) -> Result<FoundFrame, Damage> {
        self.windows.pass(offset);
        let used = FrameHeader::peek(self.bytes(offset, frame::layout::BYTES)?)?;
        let (header, records, digest) = FrameHeader::decode(self.bytes(offset, used)?)?;
        let identity = &self.identity;
        let of_log = header.log == identity.log;
        let ours = match present {
            true => of_log && header.generation == identity.generation,
            false => (of_log || !records.is_empty()) && header.generation < identity.generation,
        };
        let foreign = |record: &RecordHeader| record.volume != identity.volume;
        if !ours || header.offset != offset || records.iter().any(foreign) {
            return Err(Damage::Identity);
        }
        let mut payload_at = offset + frame::payload_at(records.len()) as u64;
        let behind_headers = offset + used as u64..payload_at;
        let mut found = Vec::with_capacity(records.len());
        for (index, header) in records.into_iter().enumerate() {
            let header_at = offset + frame::headers_bytes(index) as u64;
            let length = header.payload_bytes();
            let state = self
                .bytes(payload_at, length)
                .and_then(|payload| header.verify(payload));
            found.push(FoundRecord {
                header,
                header_at,
                payload_at,
                state,
            });
            payload_at += length as u64;
        }
        let behind_payload = payload_at..offset + header.frame_bytes as u64;
        let mut soiled = Vec::new();
        for padding in [behind_headers, behind_payload] {
            if !self.is_zero(&padding) {
                soiled.push(padding);
            }
        }
        Ok(FoundFrame {
            header,
            digest,
            records: found,
            soiled,
        })
    }

    fn is_zero(&mut self, padding: &Range<u64>) -> bool {
        let length = usize::try_from(padding.end - padding.start);
        let length = length.expect("padding is below 4096 bytes");
        self.bytes(padding.start, length)
            .is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 0))
    }

    /// Whether the bytes at `offset` look like the beginning of a frame of this very life, sound or
    /// not: what tells a torn frame from space that was never written to.
    pub(crate) fn looks_begun(&mut self, offset: u64) -> bool {
        let identity = self.identity;
        let Ok(bytes) = self.bytes(offset, frame::layout::BYTES) else {
            return true;
        };
        let log = &bytes[frame::layout::LOG_AT..frame::layout::GENERATION_AT];
        let generation = LittleEndian::read_u64(&bytes[frame::layout::GENERATION_AT..]);
        log == identity.log.0 && generation == identity.generation
    }

    /// Payload of a record that was found, for tools that print it.
    pub(crate) fn payload(&mut self, record: &FoundRecord) -> Option<&[u8]> {
        self.bytes(record.payload_at, record.header.payload_bytes())
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_a_strict_grammar() {
        assert_eq!(slot_of("00000012.seg"), Some(12));
        for name in [
            "12.seg",
            "0000001x.seg",
            "00000012.seg.bak",
            "+0000012.seg",
            "meta",
        ] {
            assert_eq!(slot_of(name), None, "{name}");
        }
    }

    #[test]
    fn every_single_bit_flip_of_the_header_is_refused() {
        let header = SegmentHeader {
            volume: VolumeId([1; 16]),
            log: LogId([2; 16]),
            generation: 3,
            segment_bytes: 1 << 20,
        };
        let page = header.encode();
        assert_eq!(SegmentHeader::decode(&page), Ok(header));
        for at in 0..layout::BYTES {
            for bit in 0..8 {
                let mut bytes = page.to_vec();
                bytes[at] ^= 1 << bit;
                assert!(
                    SegmentHeader::decode(&bytes).is_err(),
                    "bit {bit} of byte {at}"
                );
            }
        }
    }
}
