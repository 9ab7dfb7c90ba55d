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
    truncations: u64,
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
        match self.try_read(&range, out)? {
            true => Ok(()),
            // What was read is not known to be one state.
            false => Err(Error::Overtaken {
                path: self.dir.clone(),
            }),
        }
    }

    fn lookup(&self, range: &Range<u64>) -> Result<Lookup, Error> {
        self.lost.check(range)?;
        // Before the index is looked at: a checkpoint that begins later counts as one meanwhile.
        let captures = self.captures.load(Ordering::SeqCst);
        let truncations = self.truncations.load(Ordering::SeqCst);
        Ok(Lookup {
            pieces: self.newest.pieces(range),
            captures,
            truncations,
        })
    }

    /// `false` when a checkpoint rewrote what was read meanwhile, or a truncation cut it.
    fn try_read(&self, range: &Range<u64>, out: &mut [u8]) -> Result<bool, Error> {
        let lookup = self.lookup(range)?;
        self.read_looked_up(lookup, range, out)
    }

    fn read_looked_up(
        &self,
        lookup: Lookup,
        range: &Range<u64>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
        let truncations = lookup.truncations;
        let read = self.read_pieces(lookup, range, out);
        // Looked at afterwards: the marker is there before the first byte of another base, and a
        // volume without a base serves nothing, not even what its log has (D12).
        self.check_complete()?;
        // D4: an LSN that was cut may name a record about other blocks by now.
        match self.truncations.load(Ordering::SeqCst) == truncations {
            true => read,
            false => Ok(false),
        }
    }

    fn read_pieces(
        &self,
        lookup: Lookup,
        range: &Range<u64>,
        out: &mut [u8],
    ) -> Result<bool, Error> {
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
            // It is shorter only where the LSN was cut and given to another record.
            if let Some(part) = payload.get(skipped..skipped + out.len()) {
                out.copy_from_slice(part);
                return Ok(());
            }
        }
        version.read(&self.log, lba, out)
    }

    fn read_image(&self, lba: u64, captures: u64, out: &mut [u8]) -> Result<bool, Error> {
        let bad = self.image.read(lba, out)?;
        if bad.is_empty() {
            return Ok(true);
        }
        // Neither is another base damage of this one.
        self.check_complete()?;
        if self.captures.load(Ordering::SeqCst) != captures {
            return Ok(false);
        }
        let checkpoint = self.facts().checkpoint;
        let filled = repair::fill(&self.image, &self.log, checkpoint, (lba, out), &bad);
        if filled.is_err() && self.captures.load(Ordering::SeqCst) != captures {
            return Ok(false);
        }
        if let Err(Error::ImageDamaged { lba, .. }) = &filled {
            lock(&self.base).damaged.insert(lba.0);
        }
        filled.map(|()| true)
    }

    /// First byte range at or behind `offset` whose newest version may be data.
    pub(crate) fn newest_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        let size = self.geometry.block_size.bytes();
        let mut lba = offset / size;
        let end = self.geometry.blocks;
        self.check_complete()?;
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use seawall_wal::disk::Disk;
    use seawall_wal::disk::sim::SimDisk;
    use seawall_wal::{BlockSize, Geometry, Lsn, LsnRange, Record, Role, SystemClock};

    use super::*;
    use crate::{Access, CreateOptions, Durability};

    const BLOCK: usize = 4096;

    fn volume(disk: &Arc<dyn Disk>, name: &str, role: Role, access: Access) -> Arc<Volume> {
        let options = CreateOptions {
            volume: Some(seawall_wal::VolumeId([7; 16])),
            geometry: Geometry {
                block_size: BlockSize::DEFAULT,
                blocks: 64,
                segment_bytes: 1 << 20,
            },
            role,
        };
        Volume::create(disk, Path::new(name), options).unwrap();
        let clock: Arc<dyn seawall_wal::Clock> = SystemClock::new();
        Volume::open(disk, Path::new(name), &clock, access)
            .unwrap()
            .0
    }

    fn records(of: &Volume, after: u64, through: u64) -> Vec<Record> {
        let range = LsnRange::new(Lsn::new(after), Lsn::new(through));
        of.log.read(range).unwrap().map(Result::unwrap).collect()
    }

    /// LSN 2 is given to another record between the lookup of a read and its payload.
    fn reused(old: (u64, usize), new: (u64, usize)) -> (Result<bool, Error>, Vec<u8>) {
        let disk: Arc<dyn Disk> = SimDisk::new(1);
        let first = volume(&disk, "/first", Role::Primary, Access::Primary);
        let second = volume(&disk, "/second", Role::Primary, Access::Primary);
        let replica = volume(&disk, "/replica", Role::Replica, Access::Replica);
        let put = |volume: &Volume, (lba, count): (u64, usize), value: u8| {
            let bytes = vec![value; count * BLOCK];
            volume
                .write(lba * BLOCK as u64, &bytes, Durability::Durable)
                .unwrap();
        };
        for primary in [&first, &second] {
            put(primary, (0, 64), 1);
        }
        put(&first, old, 2);
        put(&second, new, 3);
        replica
            .receive(records(&first, 0, 2))
            .unwrap()
            .wait()
            .unwrap();
        let range = old.0..old.0 + old.1 as u64;
        let mut out = vec![0xee; old.1 * BLOCK];
        let lookup = replica.lookup(&range).unwrap();
        replica.truncate(Lsn::new(1)).unwrap();
        replica
            .receive(records(&second, 1, 2))
            .unwrap()
            .wait()
            .unwrap();
        let done = replica.read_looked_up(lookup, &range, &mut out);
        (done, out)
    }

    #[test]
    fn a_read_during_a_truncation_never_shows_the_payload_of_another_block() {
        // Only block 40 has value 3 afterwards; blocks 8 to 11 hold 1.
        let (done, out) = reused((8, 2), (40, 2));
        assert!(
            !matches!(done, Ok(true)) || out[0] != 3,
            "bytes of another block"
        );
    }

    #[test]
    fn a_read_during_a_truncation_never_panics() {
        let (done, _) = reused((8, 4), (8, 1));
        assert!(!matches!(done, Ok(true)));
    }
}
