//! Reads of the newest version, wherever it lies: memory, log or image.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::image::RUN_BYTES;
use crate::index::{Content, Version};
use crate::newest::Piece;
use crate::repair;
use crate::volume::Volume;
use crate::write::whole_blocks;
use crate::{lock, to_usize};

/// Lookups after which a read gives up: each retry means that the volume moved on meanwhile.
const ATTEMPTS_MAX: u32 = 1000;

/// What one lookup saw.
struct Lookup {
    pieces: Vec<Piece>,
    captures: u64,
}

impl Volume {
    /// Reads bytes of any alignment.
    pub(crate) fn read_any(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let size = self.geometry.block_size.bytes();
        let [front, middle, back] = whole_blocks(offset, out.len() as u64, size);
        for part in [front, back] {
            if !part.is_empty() {
                let mut blocks =
                    vec![0; to_usize(part.end.next_multiple_of(size) - part.start / size * size)];
                self.read_newest(part.start / size, &mut blocks)?;
                let skip = to_usize(part.start % size);
                let at = to_usize(part.start - offset);
                let length = to_usize(part.end - part.start);
                out[at..at + length].copy_from_slice(&blocks[skip..skip + length]);
            }
        }
        let inner = to_usize(middle.start - offset)..to_usize(middle.end - offset);
        self.read_newest(middle.start / size, &mut out[inner])
    }

    /// Reads whole blocks from `lba` on.
    pub(crate) fn read_newest(&self, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        let shift = self.geometry.block_size.shift();
        let mut at = lba;
        for run in out.chunks_mut(RUN_BYTES) {
            let count = (run.len() >> shift) as u64;
            self.read_run(at..at + count, run)?;
            at += count;
        }
        Ok(())
    }

    fn read_run(&self, range: Range<u64>, out: &mut [u8]) -> Result<(), Error> {
        for _ in 1..ATTEMPTS_MAX {
            match self.try_read(&range, out) {
                // F13: reclaimed between lookup and read, so the image has it by now.
                Ok(false) | Err(Error::Log(seawall_wal::Error::Reclaimed { .. })) => {}
                other => return other.map(drop),
            }
        }
        self.try_read(&range, out).map(drop)
    }

    fn lookup(&self, range: &Range<u64>) -> Result<Lookup, Error> {
        self.lost.check(range)?;
        // Before the index is looked at: a checkpoint that begins later counts as one meanwhile.
        let captures = self.captures.load(Ordering::SeqCst);
        Ok(Lookup {
            pieces: self.newest.pieces(range),
            captures,
        })
    }

    /// `false` when a checkpoint rewrote what was read meanwhile.
    fn try_read(&self, range: &Range<u64>, out: &mut [u8]) -> Result<bool, Error> {
        let lookup = self.lookup(range)?;
        let size = self.geometry.block_size.bytes_usize();
        for (piece, version) in lookup.pieces {
            let first = to_usize(piece.start - range.start) * size;
            let part = &mut out[first..first + to_usize(piece.end - piece.start) * size];
            match version {
                Some(version) => self.read_version(&version, piece.start, part)?,
                None => {
                    if !self.read_image(piece.start, lookup.captures, part)? {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn read_version(&self, version: &Version, lba: u64, out: &mut [u8]) -> Result<(), Error> {
        if let Content::Payload { first } = version.content
            && let Some(payload) = self.newest.payload(version.lsn, first)
        {
            let skipped = to_usize((lba - first) << self.geometry.block_size.shift());
            out.copy_from_slice(&payload[skipped..skipped + out.len()]);
            return Ok(());
        }
        version.read(&self.log, lba, out)
    }

    fn read_image(&self, lba: u64, captures: u64, out: &mut [u8]) -> Result<bool, Error> {
        let bad = self.image.read(lba, out)?;
        // Looked at afterwards: the marker is there before the first byte of another base (D12).
        self.check_complete()?;
        if bad.is_empty() {
            return Ok(true);
        }
        if self.captures.load(Ordering::SeqCst) != captures {
            return Ok(false);
        }
        let checkpoint = self.facts().checkpoint;
        let filled = repair::fill(&self.image, &self.log, checkpoint, (lba, out), &bad);
        if filled.is_err() && self.captures.load(Ordering::SeqCst) != captures {
            return Ok(false);
        }
        lock(&self.base).damaged |= filled.is_err();
        filled.map(|()| true)
    }

    /// First byte range at or behind `offset` whose newest version may be data.
    pub(crate) fn newest_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        let size = self.geometry.block_size.bytes();
        let mut lba = offset / size;
        let end = self.geometry.blocks;
        while lba < end {
            let (lost_end, lost) = self.lost.piece(lba, end);
            if lost {
                // A client that skips holes must not take a lost block for one (D14).
                return Ok(Some(((lba * size).max(offset), lost_end * size)));
            }
            let (piece, version) = self.newest.piece(lba, lost_end);
            let data = match version.map(|version| version.content) {
                Some(Content::Payload { .. }) => Some(piece.clone()),
                Some(Content::Zeros | Content::Hole) => None,
                None => {
                    let data = self.image.next_data(lba)?;
                    self.check_complete()?;
                    data.filter(|data| data.start < piece.end)
                        .map(|data| data.start..data.end.min(piece.end))
                }
            };
            if let Some(data) = data {
                return Ok(Some(((data.start * size).max(offset), data.end * size)));
            }
            lba = piece.end;
        }
        Ok(None)
    }

    /// Refuses what an install in place has left half done.
    pub(crate) fn check_complete(&self) -> Result<(), Error> {
        match self.facts().incomplete {
            None => Ok(()),
            Some(_) => Err(self.incomplete()),
        }
    }

    pub(crate) fn incomplete(&self) -> Error {
        Error::BaseIncomplete {
            path: self.dir.clone(),
        }
    }
}
