//! Walking through the records of a range in large steps: entries by the page, bytes by the window,
//! each record verified where it lies and copied for nobody who does not ask.

use std::sync::Arc;

use crate::disk::{Buffer, Bytes, File, MappedFile};
use crate::entries::Source;
use crate::frame::{self, FRAME_ALIGNMENT, FRAME_RECORDS_MAX, FrameKind};
use crate::index::{Entry, PAGE_ENTRIES, SealedIndex, entries_of};
use crate::log::{Ids, Log};
use crate::record::{Record, RecordHeader};
use crate::segment::{FIRST_FRAME_AT, Scanner, SegmentFile};
use crate::state::Found;
use crate::windows::SMALL_WINDOW_BYTES;
use crate::{Damage, Error, Lsn, LsnRange, RecordKind};

/// How a scan gets at the bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Mapped where it is sealed (D23), through the page cache otherwise.
    Cached,
    /// Past the page cache, a little at a time: what no one else is about to read. The read-ahead
    /// of a map asks the device for megabytes at once, and who writes to it waits for them.
    Medium,
}

/// How much of a segment is held at once.
#[derive(Clone, Copy, Debug)]
struct Width {
    /// Of a part that is mapped: each page costs, and each map costs once.
    mapped: usize,
    /// Of a part that is read: it should stay in the cache of a core until it was looked at.
    read: usize,
}

const PAYLOADS: Width = Width {
    mapped: 4 << 20,
    read: 1 << 20,
};

/// How much of a map is populated at once: a reader that asks for more makes those wait who write
/// to the same device.
const POPULATED: usize = 256 << 10;

/// Headers of the largest frame, when they are far from their payload.
const HEADERS: Width = Width {
    mapped: frame::payload_at(FRAME_RECORDS_MAX),
    read: frame::payload_at(FRAME_RECORDS_MAX),
};

/// Entries looked up at once.
pub(crate) const ENTRIES_MAX: u64 = 8 * PAGE_ENTRIES as u64;
/// Records copied from the queue at once.
const QUEUED_MAX: usize = 64;

/// What a window shows of its file.
#[derive(Debug)]
enum Held {
    Nothing,
    /// Read through the handle.
    Read(Buffer),
    /// Mapped, and populated up to `shown` (D23); unmapped with the window, so that a scan of a
    /// large log does not fill the memory of the process.
    Mapped {
        map: MappedFile,
        shown: usize,
    },
}

/// A part of a segment file that is held for reading. The segment is held with it: it is not reused
/// while somebody may look at it.
#[derive(Debug)]
struct Window {
    way: Way,
    width: Width,
    of: Option<Arc<SegmentFile>>,
    at: u64,
    held: Held,
    /// A handle past the page cache, and on which segment.
    medium: Option<(Arc<SegmentFile>, File)>,
}

impl Window {
    fn new(way: Way, width: Width) -> Window {
        Window {
            way,
            width,
            of: None,
            at: 0,
            held: Held::Nothing,
            medium: None,
        }
    }

    fn shown(&self) -> &[u8] {
        match &self.held {
            Held::Nothing => &[],
            Held::Read(buffer) => buffer,
            Held::Mapped { map, shown } => map.bytes(0..*shown).unwrap_or_default(),
        }
    }

    fn covers(&self, found: &Found, offset: u64, length: usize) -> bool {
        let ours = self.of.as_ref();
        ours.is_some_and(|of| Arc::ptr_eq(of, &found.file))
            && offset >= self.at
            && offset + length as u64 <= self.at + self.shown().len() as u64
    }

    /// Bytes of the file that [`Window::covers`] said are here.
    fn slice(&self, offset: u64, length: usize) -> &[u8] {
        let from = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        &self.shown()[from..from + length]
    }

    /// Bytes of the file, from here or from where the window is moved to.
    fn bytes(&mut self, found: &Found, offset: u64, length: usize) -> Result<&[u8], Damage> {
        if !self.covers(found, offset, length) {
            self.move_to(found, offset, length)?;
        }
        Ok(self.slice(offset, length))
    }

    /// Shows more of the file that is mapped.
    fn grow(&mut self, found: &Found, offset: u64, length: usize) -> bool {
        let ours = self.of.as_ref();
        if !ours.is_some_and(|of| Arc::ptr_eq(of, &found.file)) || offset < self.at {
            return false;
        }
        let from = usize::try_from(offset - self.at).unwrap_or(usize::MAX);
        self.held.show(from.saturating_add(length))
    }

    fn move_to(&mut self, found: &Found, offset: u64, length: usize) -> Result<(), Damage> {
        // Who waits for this core gets it now, and not at the end of a long slice of time.
        crate::sync::yield_now();
        if self.grow(found, offset, length) {
            return Ok(());
        }
        let at = offset / FRAME_ALIGNMENT as u64 * FRAME_ALIGNMENT as u64;
        let needed = usize::try_from(offset - at).unwrap_or(usize::MAX) + length;
        // Behind the last frame somebody may be writing.
        let left = usize::try_from(found.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let wide = |width: usize| width.min(left).max(needed);
        let held = std::mem::replace(&mut self.held, Held::Nothing);
        self.of = None;
        let wider = match self.way {
            Way::Cached => {
                let (mapped, read) = (wide(self.width.mapped), wide(self.width.read));
                Held::mapped(found, at, mapped, needed)
                    .or_else(|| Held::read(held, &*found.file.reader().ok()?, at, read))
            }
            Way::Medium => {
                // Frames are whole pages, so this does not reach behind the last one.
                let read = wide(self.width.read.min(SMALL_WINDOW_BYTES));
                let read = read.next_multiple_of(FRAME_ALIGNMENT);
                self.medium(found)
                    .and_then(|file| Held::read(held, file, at, read))
            }
        };
        // A bad sector costs what lies on it, not the window around it (L-E3).
        let narrow = || Held::read(Held::Nothing, &*found.file.reader().ok()?, at, needed);
        self.held = wider.or_else(narrow).ok_or(Damage::Unreadable)?;
        self.at = at;
        self.of = Some(Arc::clone(&found.file));
        Ok(())
    }

    /// A handle past the page cache, kept as long as the scan is in this segment.
    fn medium(&mut self, found: &Found) -> Option<&File> {
        let ours = |(of, _): &(Arc<SegmentFile>, File)| Arc::ptr_eq(of, &found.file);
        if !self.medium.as_ref().is_some_and(ours) {
            let opened = found.file.medium().ok()?;
            self.medium = Some((Arc::clone(&found.file), opened));
        }
        self.medium.as_ref().map(|(_, file)| file)
    }
}

impl Held {
    fn mapped(found: &Found, at: u64, length: usize, needed: usize) -> Option<Held> {
        let map = found
            .sealed
            .then(|| found.file.reader().ok()?.map(at, length))??;
        let mut held = Held::Mapped { map, shown: 0 };
        held.show(needed).then_some(held)
    }

    /// Populates at least the first `needed` bytes of a map; `false` when it cannot.
    fn show(&mut self, needed: usize) -> bool {
        let Held::Mapped { map, shown } = self else {
            return false;
        };
        let end = needed.max(*shown + POPULATED).min(map.len());
        if needed > map.len() || !map.populate(*shown..end) {
            return false;
        }
        *shown = end;
        true
    }

    /// Reads `length` bytes and no more, into the buffer of `used` if it has the size: what lies
    /// behind the last frame is stale as soon as the next one is written.
    fn read(used: Held, file: &File, at: u64, length: usize) -> Option<Held> {
        let buffer = match used {
            Held::Read(mut buffer) if buffer.len() >= length => {
                buffer.truncate(length);
                buffer
            }
            _ => Buffer::zeroed(length),
        };
        let read = file.read_into(at, buffer).ok()?;
        (read.len() >= length).then_some(Held::Read(read))
    }
}

/// Records that were looked up and not read yet.
#[derive(Debug)]
enum Batch {
    Stored {
        found: Found,
        entries: std::vec::IntoIter<Entry>,
    },
    Queued(std::vec::IntoIter<Record>),
}

/// The payload of a record that is being read.
#[derive(Clone, Copy, Debug)]
enum Payload<'a> {
    /// In the window.
    Shown(&'a [u8]),
    /// Of a record that waits to be written.
    Shared(&'a Bytes),
}

impl<'a> Payload<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Payload::Shown(bytes) => bytes,
            Payload::Shared(bytes) => bytes,
        }
    }

    fn to_shared(self) -> Bytes {
        match self {
            Payload::Shown(bytes) => Arc::new(Buffer::copy_of(bytes)),
            Payload::Shared(bytes) => Arc::clone(bytes),
        }
    }
}

/// Goes through a range once. Whoever has it holds a pin below the range.
#[derive(Debug)]
pub(crate) struct Scan {
    log: Arc<Log>,
    /// What is left.
    range: LsnRange,
    batch: Batch,
    headers: Window,
    payloads: Window,
}

impl Scan {
    pub(crate) fn new(log: &Arc<Log>, range: LsnRange, way: Way) -> Scan {
        Scan {
            log: Arc::clone(log),
            range,
            batch: Batch::Queued(Vec::new().into_iter()),
            headers: Window::new(way, HEADERS),
            payloads: Window::new(way, PAYLOADS),
        }
    }

    /// The next record, verified. After an error there is none.
    pub(crate) fn next(&mut self) -> Result<Option<Record>, Error> {
        let mut next = None;
        self.step(1, &mut |header, payload| {
            // A record that is handed out owns its bytes.
            next = Some(Record::checked(*header, payload.to_shared()));
            Ok::<(), Error>(())
        })?;
        Ok(next)
    }

    /// Shows every record that is left, verified. After an error there is none.
    pub(crate) fn run<E: From<Error>>(
        &mut self,
        mut each: impl FnMut(&RecordHeader, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while !self.range.is_empty() {
            self.step(usize::MAX, &mut |header, payload| {
                each(header, payload.bytes())
            })?;
        }
        Ok(())
    }

    /// Shows the next records, `most` at most and those of one batch at most.
    fn step<E: From<Error>>(
        &mut self,
        most: usize,
        each: &mut impl FnMut(&RecordHeader, Payload<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.range.is_empty() {
            return Ok(());
        }
        let LsnRange { after, through } = self.range;
        // What ends with an error goes on nowhere.
        self.range.after = through;
        if self.batch.is_empty() {
            self.batch = self.log.batch(LsnRange::new(after, through))?;
        }
        let mut last = after;
        match &mut self.batch {
            Batch::Queued(records) => {
                for record in records.take(most) {
                    each(record.header(), Payload::Shared(record.payload()))?;
                    last = record.lsn();
                }
            }
            Batch::Stored { found, entries } => {
                let ids = self.log.ids;
                for entry in entries.take(most) {
                    let (headers, payloads) = (&mut self.headers, &mut self.payloads);
                    let (header, payload) = read_entry(headers, payloads, found, &entry, &ids)
                        .map_err(|what| self.log.damaged(found, &entry, what))?;
                    each(&header, Payload::Shown(payload))?;
                    last = entry.lsn;
                }
            }
        }
        self.range.after = last;
        Ok(())
    }
}

impl Batch {
    fn is_empty(&self) -> bool {
        match self {
            Batch::Stored { entries, .. } => entries.as_slice().is_empty(),
            Batch::Queued(records) => records.as_slice().is_empty(),
        }
    }
}

/// Bytes of payload that an entry speaks of.
fn payload_bytes(entry: &Entry, ids: &Ids) -> Result<usize, Damage> {
    let length = match entry.kind {
        RecordKind::Write => entry.blocks as usize * ids.geometry.block_size.bytes_usize(),
        RecordKind::WriteZeroes | RecordKind::Trim => 0,
    };
    match length <= RecordHeader::PAYLOAD_BYTES_MAX {
        true => Ok(length),
        false => Err(Damage::Length {
            found: length as u64,
        }),
    }
}

/// The record of an entry, verified: its sum over header and payload, and that it is the one that
/// was asked for.
fn read_entry<'a>(
    headers: &mut Window,
    payloads: &'a mut Window,
    found: &Found,
    entry: &Entry,
    ids: &Ids,
) -> Result<(RecordHeader, &'a [u8]), Damage> {
    let at = entry.header_at.into();
    let header = match payloads.covers(found, at, RecordHeader::BYTES) {
        true => payloads.slice(at, RecordHeader::BYTES),
        false => headers.bytes(found, at, RecordHeader::BYTES)?,
    };
    let mut bytes = [0; RecordHeader::BYTES];
    bytes.copy_from_slice(header);
    let payload = match payload_bytes(entry, ids)? {
        0 => &[],
        length => payloads.bytes(found, entry.payload_at.into(), length)?,
    };
    let header = RecordHeader::decode_verified(&bytes, payload)?;
    check_identity(&header, entry, ids)?;
    Ok((header, payload))
}

/// Whether a record is the one that was asked for.
fn check_identity(header: &RecordHeader, entry: &Entry, ids: &Ids) -> Result<(), Damage> {
    match header.lsn == entry.lsn && header.volume == ids.volume {
        true => Ok(()),
        false => Err(Damage::Identity),
    }
}

impl Log {
    /// Looks up the first records of a range: as many as lie together.
    fn batch(&self, range: LsnRange) -> Result<Batch, Error> {
        let found = {
            let state = self.state();
            state.check_retained(range.after.next())?;
            let queued = state.queued(range, QUEUED_MAX);
            if !queued.is_empty() {
                return Ok(Batch::Queued(queued.into_iter()));
            }
            let through = range.after.checked_add(ENTRIES_MAX);
            let through = through.map_or(range.through, |end| end.min(range.through));
            state.find(LsnRange::new(range.after, through))?
        };
        let entries = self.load(&found)?;
        Ok(Batch::Stored {
            found,
            entries: entries.into_iter(),
        })
    }

    /// The entries of all that was found.
    pub(crate) fn load(&self, found: &Found) -> Result<Vec<Entry>, Error> {
        let index = match &found.source {
            Source::Memory(entries) => return Ok(entries.clone()),
            Source::Sealed(index) => index,
        };
        if let Some(entries) = index.entries(found.lsns) {
            return Ok(entries);
        }
        let mut entries = self.distrust(found, index)?;
        entries.retain(|entry| found.lsns.contains(entry.lsn));
        let here = entries.iter().map(|entry| entry.lsn);
        let missing = found
            .lsns
            .iter()
            .zip(here.map(Some).chain(std::iter::repeat(None)));
        match missing.into_iter().find(|(lsn, here)| Some(*lsn) != *here) {
            Some((lsn, _)) => {
                let path = found.file.path();
                Err(Error::corrupt(path, 0, Some(lsn), Damage::Missing))
            }
            None => Ok(entries),
        }
    }

    /// A page of a sealed index does not prove itself: the segment itself is read, and its records
    /// stay in memory until the background has written the index anew. What the segment no longer
    /// holds is known damage from here on (D15).
    fn distrust(&self, found: &Found, index: &Arc<SealedIndex>) -> Result<Vec<Entry>, Error> {
        tracing::warn!(
            index = %index.path().display(),
            "a sealed index is damaged; its segment is read in its place"
        );
        let entries = self.entries_in(&found.file)?;
        let mut state = self.state();
        let ours = |file: &Arc<SegmentFile>| Arc::ptr_eq(file, &found.file);
        let segment = state.segments.iter_mut().find(|one| ours(&one.file));
        let lost = segment.and_then(|segment| {
            let lost = segment.entries.replace(index, entries.clone())?;
            segment.indexed = false;
            Some(lost)
        });
        for run in lost.into_iter().flatten() {
            state.damage.insert(run, false);
        }
        self.signal_work(&state);
        Ok(entries)
    }

    /// What every sound frame of a sealed segment says about records, in order of LSN.
    fn entries_in(&self, file: &SegmentFile) -> Result<Vec<Entry>, Error> {
        let handle = file.reader()?;
        let mut scanner = Scanner::new(&handle, self.identity(file.generation))?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut at = FIRST_FRAME_AT;
        while at + FRAME_ALIGNMENT as u64 <= scanner.end() {
            let Ok(frame) = scanner.frame_at(at) else {
                at += FRAME_ALIGNMENT as u64;
                continue;
            };
            at += frame.header.frame_bytes as u64;
            match frame.header.kind {
                FrameKind::Records | FrameKind::Truncation => {
                    let keep = entries.partition_point(|entry| entry.lsn <= frame.header.after);
                    entries.truncate(keep);
                    entries.extend(entries_of(&frame));
                }
                FrameKind::Mark => {}
                FrameKind::Seal => break,
            }
        }
        Ok(entries)
    }

    /// One record that was found, verified: the bytes read, and where in them the payload begins.
    /// Read through the handle, and with its header when that is near.
    pub(crate) fn read_one(&self, lsn: Lsn) -> Result<(RecordHeader, Buffer, usize), Error> {
        let found = {
            let state = self.state();
            state.check_retained(lsn)?;
            state.find(LsnRange::new(lsn.before(), lsn))?
        };
        let entries = self.load(&found)?;
        let entry = entries.first().expect("one entry for each LSN found");
        self.read_found(&found, entry)
            .map_err(|what| self.damaged(&found, entry, what))
    }

    fn read_found(
        &self,
        found: &Found,
        entry: &Entry,
    ) -> Result<(RecordHeader, Buffer, usize), Damage> {
        let length = payload_bytes(entry, &self.ids)?;
        let read = |at: u32, length| {
            let bytes = found.file.reader();
            let bytes = bytes.and_then(|file| file.read_exact(at.into(), length));
            bytes.map_err(|_| Damage::Unreadable)
        };
        let gap = match length {
            0 => RecordHeader::BYTES,
            _ => (entry.payload_at.saturating_sub(entry.header_at)) as usize,
        };
        // Records far behind their header share a large frame; two reads are then cheaper than one.
        let (first, second) = match gap <= NEAR_BYTES {
            true => (read(entry.header_at, gap + length)?, None),
            false => {
                let header = read(entry.header_at, RecordHeader::BYTES)?;
                (header, Some(read(entry.payload_at, length)?))
            }
        };
        let bytes = first.first_chunk().ok_or(Damage::Length {
            found: first.len() as u64,
        })?;
        let payload = second.as_deref().unwrap_or(&first[gap.min(first.len())..]);
        let header = RecordHeader::decode_verified(bytes, payload)?;
        check_identity(&header, entry, &self.ids)?;
        Ok(match second {
            Some(payload) => (header, payload, 0),
            None => (header, first, gap),
        })
    }

    /// A record that could not be read whole joins the known damage (D15), unless its LSN was given
    /// to another record meanwhile.
    fn damaged(&self, found: &Found, entry: &Entry, what: Damage) -> Error {
        let at = entry.header_at.into();
        let error = Error::corrupt(found.file.path(), at, Some(entry.lsn), what);
        tracing::error!(%error, lsn = entry.lsn.get(), "a record in the log is damaged");
        let mut state = self.state();
        let alone = LsnRange::new(entry.lsn.before(), entry.lsn);
        let now = state.find(alone);
        if now.is_ok_and(|now| Arc::ptr_eq(&now.file, &found.file)) {
            state.damage.insert(alone, false);
        }
        error
    }
}

/// A header this close to its payload is read with it.
const NEAR_BYTES: usize = 16 << 10;
