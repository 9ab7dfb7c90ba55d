//! Reads a log while its owner appends to it, from the files alone.
//!
//! A frame is handed over when its records are durable: when a frame behind it recorded a frontier
//! at or above them, or when the caller knows one. An idle owner writes a mark that does (D13).

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Disk, File, OpenMode};
use crate::frame::{FRAME_ALIGNMENT, FrameHeader, FrameKind};
use crate::inspect::{Inspected, identify, report_frame};
use crate::segment::{FIRST_FRAME_AT, Scanner, SegmentHeader, slot_of};
use crate::{Corrupt, Damage, Error, LogId, Lsn, LsnRange, Meta};

/// What [`Follower::poll`] came across.
#[derive(Debug)]
pub enum Followed<'a> {
    /// A frame, a record, or damage, in the file of that path.
    Found(&'a Path, Inspected<'a>),
    /// The owner reused segments that were not read yet. These LSNs were not seen.
    Recycled(LsnRange),
    /// The volume has another log now, by an install or a heal; it is followed from its beginning.
    Replaced,
}

/// Takes what is found.
type EachFollowed<'a> = &'a mut dyn FnMut(Followed<'_>);

/// Where the next frame is due.
#[derive(Debug)]
struct Place {
    file: File,
    identity: SegmentHeader,
    offset: u64,
    /// Sequence that is due, unless any will do.
    sequence: Option<u64>,
    /// Looked behind this place for frames already.
    looked: bool,
}

/// A frame that was read and is not known to be durable.
#[derive(Debug)]
struct Waiting {
    path: PathBuf,
    identity: SegmentHeader,
    header: FrameHeader,
}

/// Follows the log in one directory. It holds at most one file open and writes nothing.
#[derive(Debug)]
pub struct Follower {
    disk: Arc<dyn Disk>,
    /// Directory of the volume, for its meta; the log may lie there alone.
    volume: PathBuf,
    dir: PathBuf,
    log: Option<LogId>,
    place: Option<Place>,
    waiting: VecDeque<Waiting>,
    /// Last LSN that was read.
    head: Lsn,
    /// Last LSN that was handed over, or that nobody expects.
    told: Option<Lsn>,
    /// Highest frontier known.
    frontier: Lsn,
    /// Highest generation of a segment that was followed.
    generation: u64,
    /// Polls since the last new frame.
    stalls: u32,
    /// A process says what is durable.
    owned: bool,
}

/// Polls without a new frame before the directory is listed again.
const STALLS_MAX: u32 = 10;

impl Follower {
    /// Follows the log whose segments lie in `dir`, of the volume in `volume`.
    #[must_use]
    pub fn new(disk: &Arc<dyn Disk>, volume: &Path, dir: &Path) -> Follower {
        Follower {
            disk: Arc::clone(disk),
            volume: volume.into(),
            dir: dir.into(),
            log: None,
            place: None,
            waiting: VecDeque::new(),
            head: Lsn::ZERO,
            told: None,
            frontier: Lsn::ZERO,
            generation: 0,
            stalls: 0,
            owned: false,
        }
    }

    /// Last LSN that was handed over; 0 before the first.
    #[must_use]
    pub fn told(&self) -> Lsn {
        self.told.unwrap_or(Lsn::ZERO)
    }

    /// Hands over what became durable since the last call, in log order. `durable` is what the
    /// owner says is durable, `None` when nobody says: then damage is looked for wherever the log
    /// stands still, at the cost of reading the rest of a segment.
    ///
    /// # Errors
    /// [`Error::Io`] but for files that are gone: those were recycled.
    pub fn poll(&mut self, durable: Option<Lsn>, each: EachFollowed<'_>) -> Result<(), Error> {
        self.owned = durable.is_some();
        self.frontier = self.frontier.max(durable.unwrap_or(Lsn::ZERO));
        loop {
            self.look_at_meta(each);
            if self.place.is_none() && !self.find_first(each)? {
                break;
            }
            let read = self.read_on(each)?;
            self.hand_over(each)?;
            self.stalls = if read { 0 } else { self.stalls + 1 };
            if read || !self.resync(each)? {
                break;
            }
        }
        Ok(())
    }

    /// Notices an install or a heal: what lies here under the old log id counts for nothing.
    fn look_at_meta(&mut self, each: EachFollowed<'_>) {
        if !self.stalls.is_multiple_of(STALLS_MAX) {
            return;
        }
        // OK because a log without its meta is followed by its segments.
        let Ok(meta) = Meta::open(&self.disk, &self.volume, false) else {
            return;
        };
        let log = meta.get().log;
        if self.log.is_some_and(|ours| ours != log) {
            each(Followed::Replaced);
            self.forget();
            (self.head, self.told, self.frontier) = (Lsn::ZERO, None, Lsn::ZERO);
            self.generation = 0;
        }
        self.log = Some(log);
    }

    fn forget(&mut self) {
        self.place = None;
        self.waiting.clear();
    }

    /// Lives of this log in the directory, oldest first, each with its path.
    fn lives(&self) -> Result<Vec<(SegmentHeader, PathBuf)>, Error> {
        let mut lives = Vec::new();
        for name in disk::list(self.disk.as_ref(), &self.dir)? {
            if slot_of(&name).is_none() {
                continue;
            }
            let path = self.dir.join(name);
            let Some(file) = present(File::open(&self.disk, &path, OpenMode::Read))? else {
                continue;
            };
            if let Ok((identity, _)) = identify(&file)
                && self.log.is_none_or(|log| log == identity.log)
            {
                lives.push((identity, path));
            }
        }
        lives.sort_by_key(|(identity, _)| identity.generation);
        Ok(lives)
    }

    /// Takes the oldest life that was not followed yet and holds a frame. Lives before the oldest
    /// retained one were reclaimed.
    fn find_first(&mut self, each: EachFollowed<'_>) -> Result<bool, Error> {
        let meta = Meta::open(&self.disk, &self.volume, false).ok();
        let first = meta.and_then(|meta| meta.get().first_generation);
        for (identity, path) in self.lives()? {
            let retained = first.is_none_or(|first| identity.generation >= first);
            if !retained || identity.generation <= self.generation {
                continue;
            }
            let Some(file) = present(File::open(&self.disk, &path, OpenMode::Read))? else {
                continue;
            };
            let Ok(frame) = Scanner::new(&file, identity)?.frame_at(FIRST_FRAME_AT) else {
                continue;
            };
            self.jump_to(frame.header.after, each);
            self.enter(file, identity, FIRST_FRAME_AT);
            return Ok(true);
        }
        Ok(false)
    }

    /// Goes on behind `after`, wherever it was before; says what was not seen.
    fn jump_to(&mut self, after: Lsn, each: EachFollowed<'_>) {
        if let Some(told) = self.told
            && told < after
        {
            each(Followed::Recycled(LsnRange::new(told, after)));
        }
        self.waiting.clear();
        self.head = after;
        self.told = Some(after);
    }

    fn enter(&mut self, file: File, identity: SegmentHeader, offset: u64) {
        self.log = Some(identity.log);
        self.generation = identity.generation;
        self.place = Some(Place {
            file,
            identity,
            offset,
            sequence: None,
            looked: false,
        });
    }

    /// Reads frames as long as they follow each other. `true` when there was one.
    fn read_on(&mut self, each: EachFollowed<'_>) -> Result<bool, Error> {
        let mut read = false;
        while let Some(place) = &mut self.place {
            if !still_lives(&place.file, &place.identity) {
                // Reused under us; whatever waits was durable, and is gone with it.
                self.forget();
                return Ok(true);
            }
            let mut scanner = Scanner::new(&place.file, place.identity)?.in_small_reads();
            let mut seal = None;
            while let Ok(frame) = scanner.frame_at(place.offset) {
                let header = frame.header;
                let due = place.sequence.is_none_or(|due| due == header.sequence);
                // A payload may still be on its way, unless it was durable already.
                let landed = frame.is_whole() || header.last() <= self.frontier;
                if !due || !landed {
                    break;
                }
                read = true;
                place.looked = false;
                place.offset += header.frame_bytes as u64;
                place.sequence = Some(header.sequence + 1);
                self.waiting.push_back(Waiting {
                    path: place.file.path().into(),
                    identity: place.identity,
                    header,
                });
                self.head = header.last();
                self.frontier = frontier_behind(self.frontier, &header);
                if header.kind == FrameKind::Seal {
                    seal = Some(header.next_generation);
                    break;
                }
            }
            drop(scanner);
            let Some(next) = seal else {
                break;
            };
            self.hand_over(each)?;
            self.next_segment(next)?;
        }
        Ok(read)
    }

    /// A seal leads to the segment it names. Where that is gone, it was recycled meanwhile.
    fn next_segment(&mut self, generation: u64) -> Result<(), Error> {
        let sequence = self.place.take().and_then(|place| place.sequence);
        let mut lives = self.lives()?.into_iter();
        let next = lives.rfind(|(identity, _)| identity.generation == generation);
        if let Some((identity, path)) = next
            && let Some(file) = present(File::open(&self.disk, &path, OpenMode::Read))?
        {
            self.enter(file, identity, FIRST_FRAME_AT);
            if let Some(place) = &mut self.place {
                place.sequence = sequence;
            }
        }
        Ok(())
    }

    /// Hands over the frames whose records are durable.
    fn hand_over(&mut self, each: EachFollowed<'_>) -> Result<(), Error> {
        while let Some(first) = self.waiting.front() {
            if first.header.last() > self.frontier && first.header.record_count > 0 {
                // A truncation behind it may have dropped it before it was durable.
                let cut = |other: &Waiting| {
                    other.header.kind == FrameKind::Truncation
                        && other.header.after < first.header.last()
                };
                if !self.waiting.iter().any(cut) {
                    return Ok(());
                }
            }
            let Some(Waiting {
                path,
                identity,
                header,
            }) = self.waiting.pop_front()
            else {
                return Ok(());
            };
            if self.hand_over_one(&path, identity, &header, each)? {
                self.told = Some(header.last());
            }
        }
        Ok(())
    }

    /// `false` when the frame is gone: then the file was reused, which the next look tells.
    fn hand_over_one(
        &self,
        path: &Path,
        identity: SegmentHeader,
        header: &FrameHeader,
        each: EachFollowed<'_>,
    ) -> Result<bool, Error> {
        let held = self.place.as_ref().map(|place| &place.file);
        let opened;
        let file = match held.filter(|file| file.path() == path) {
            Some(file) => file,
            None => match present(File::open(&self.disk, path, OpenMode::Read))? {
                Some(file) => {
                    opened = file;
                    &opened
                }
                None => return Ok(false),
            },
        };
        let mut scanner = Scanner::new(file, identity)?.in_small_reads();
        let Ok(frame) = scanner.frame_at(header.offset) else {
            return Ok(false);
        };
        if let Some(told) = self.told.filter(|told| *told < header.after) {
            each(Followed::Recycled(LsnRange::new(told, header.after)));
        }
        report_frame(&mut scanner, &frame, None, &mut |found| {
            each(Followed::Found(path, found));
        });
        Ok(true)
    }

    /// Where the log stands still: looks whether it went on behind this place, which is damage
    /// then. `true` when there is something to read on.
    fn resync(&mut self, each: EachFollowed<'_>) -> Result<bool, Error> {
        let listed = self.stalls.is_multiple_of(STALLS_MAX);
        let behind = self.frontier > self.head && self.stalls > 1;
        let Some(place) = &mut self.place else {
            return Ok(false);
        };
        let look = behind || (!self.owned && !place.looked);
        place.looked |= look;
        if look && self.resync_within(each)? {
            return Ok(true);
        }
        Ok((look || listed) && self.resync_behind(each)?)
    }

    /// Looks for a frame that proves the missing one durable, in the same segment (D13).
    fn resync_within(&mut self, each: EachFollowed<'_>) -> Result<bool, Error> {
        let Some(place) = &self.place else {
            return Ok(false);
        };
        let mut scanner = Scanner::new(&place.file, place.identity)?;
        let mut at = place.offset + FRAME_ALIGNMENT as u64;
        while at + FRAME_ALIGNMENT as u64 <= scanner.end() {
            if let Ok(frame) = scanner.frame_at(at)
                && place.sequence.is_none_or(|due| due < frame.header.sequence)
                && frontier_behind(self.frontier, &frame.header) > self.head
            {
                drop(scanner);
                return self.skip(frame.header.after, each, |follower| {
                    if let Some(place) = &mut follower.place {
                        (place.offset, place.sequence, place.looked) = (at, None, false);
                    }
                });
            }
            at += FRAME_ALIGNMENT as u64;
        }
        Ok(false)
    }

    /// Looks for a frame in a later life: there is none before the whole of this one is durable.
    fn resync_behind(&mut self, each: EachFollowed<'_>) -> Result<bool, Error> {
        for (identity, path) in self.lives()? {
            if identity.generation <= self.generation {
                continue;
            }
            let Some(file) = present(File::open(&self.disk, &path, OpenMode::Read))? else {
                continue;
            };
            let first = Scanner::new(&file, identity)?.frame_at(FIRST_FRAME_AT);
            if let Ok(frame) = first {
                return self.skip(frame.header.after, each, |follower| {
                    follower.enter(file, identity, FIRST_FRAME_AT);
                });
            }
        }
        Ok(false)
    }

    /// Whether the frame that was due has come since we looked, or its file was reused.
    fn landed_meanwhile(&self) -> Result<bool, Error> {
        let Some(place) = &self.place else {
            return Ok(false);
        };
        let mut scanner = Scanner::new(&place.file, place.identity)?.in_small_reads();
        Ok(scanner.frame_at(place.offset).is_ok() || !still_lives(&place.file, &place.identity))
    }

    /// Tells the damage at this place and goes on behind it, unless it was none.
    fn skip(
        &mut self,
        after: Lsn,
        each: EachFollowed<'_>,
        go_on: impl FnOnce(&mut Follower),
    ) -> Result<bool, Error> {
        if self.landed_meanwhile()? {
            return Ok(true);
        }
        // What lies before a durable frame is durable.
        self.frontier = self.frontier.max(self.head);
        self.hand_over(each)?;
        if let Some(place) = &self.place {
            let path = place.file.path();
            let at = Corrupt {
                path: path.into(),
                offset: place.offset,
                lsn: Some(self.head.next()),
                what: Damage::Missing,
            };
            each(Followed::Found(path, Inspected::Damage(&at)));
        }
        self.head = after;
        self.told = Some(after);
        go_on(self);
        Ok(true)
    }
}

/// The highest frontier that is known behind a frame. A truncation lowers what was known.
fn frontier_behind(known: Lsn, header: &FrameHeader) -> Lsn {
    match header.kind {
        FrameKind::Truncation => header.after,
        FrameKind::Mark => known.max(header.after).max(header.frontier),
        FrameKind::Records | FrameKind::Seal => known.max(header.frontier),
    }
}

/// Whether the file is still in that life.
fn still_lives(file: &File, identity: &SegmentHeader) -> bool {
    let named = identify(file).map(|(now, _)| (now.log, now.generation));
    named.is_ok_and(|named| named == (identity.log, identity.generation))
}

/// `None` for a file that is gone: its owner removed it.
fn present(opened: Result<File, Error>) -> Result<Option<File>, Error> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(other) => Err(other),
    }
}
