//! Writes: bytes of any alignment become records of whole blocks, each atomic.

use std::ops::Range;

use seawall_wal::disk::{Buffer, Bytes};
use seawall_wal::{Change, Lba, Lsn, Ready, RecordHeader, RecordPlace, Ticket};

use crate::error::Error;
use crate::to_usize;
use crate::volume::{Durability, Volume};

/// Zeros of any alignment up to here are one write, so that they are atomic; longer ones keep their
/// middle free of payload.
const RAGGED_ZEROS_MAX: u64 = 64 << 10;

/// Cuts `length` bytes from `offset` on at multiples of `record_bytes`.
pub(crate) fn split(
    offset: u64,
    length: u64,
    record_bytes: u64,
) -> impl Iterator<Item = Range<u64>> {
    let end = offset + length;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at;
        at = ((start / record_bytes + 1) * record_bytes).min(end);
        (start < end).then_some(start..at)
    })
}

/// The whole blocks inside `[offset, offset + length)` as a byte range, and what is left of it in
/// front and behind.
pub(crate) fn whole_blocks(offset: u64, length: u64, block_bytes: u64) -> [Range<u64>; 3] {
    let end = offset + length;
    let first = offset.next_multiple_of(block_bytes).min(end);
    let last = (end / block_bytes * block_bytes).max(first);
    [offset..first, first..last, last..end]
}

impl Volume {
    /// Largest payload of one record in this volume.
    fn record_bytes(&self) -> u64 {
        let most = self.log.payload_bytes_max() as u64;
        most / self.geometry.block_size.bytes() * self.geometry.block_size.bytes()
    }

    pub(crate) fn write_bytes(&self, offset: u64, bytes: &[u8]) -> Result<Option<Ticket>, Error> {
        let mut last = None;
        for piece in split(offset, bytes.len() as u64, self.record_bytes()) {
            let part = to_usize(piece.start - offset)..to_usize(piece.end - offset);
            last = Some(self.write_piece(piece.start, &bytes[part])?);
        }
        Ok(last)
    }

    /// One record. Parts of blocks are completed from their newest version, while no other write
    /// can come in between.
    fn write_piece(&self, offset: u64, bytes: &[u8]) -> Result<Ticket, Error> {
        let block_size = self.geometry.block_size;
        let size = block_size.bytes();
        let end = offset + bytes.len() as u64;
        let lba = offset / size;
        let blocks = end.div_ceil(size) - lba;
        if offset.is_multiple_of(size) && end.is_multiple_of(size) {
            return self.append(Change::write(Lba(lba), block_size, Buffer::copy_of(bytes)));
        }
        self.edge.admit(blocks * size);
        self.log.admit(blocks * size)?;
        let _alone = self.newest.alone(&(lba..lba + blocks));
        let mut payload = Buffer::zeroed(to_usize(blocks * size));
        let last = payload.len() - block_size.bytes_usize();
        self.read_newest(lba, &mut payload[..block_size.bytes_usize()])?;
        if blocks > 1 {
            self.read_newest(lba + blocks - 1, &mut payload[last..])?;
        }
        let skip = to_usize(offset - lba * size);
        payload[skip..skip + bytes.len()].copy_from_slice(bytes);
        let (place, payload, mut ready) =
            self.ready(Change::write(Lba(lba), block_size, payload))?;
        loop {
            if let Some(ticket) = self.append_ready(place, &payload, &mut ready)? {
                return Ok(ticket);
            }
            self.log.admit(ready.bytes())?;
        }
    }

    pub(crate) fn zero_bytes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
    ) -> Result<Option<Ticket>, Error> {
        let size = self.geometry.block_size.bytes();
        let [front, middle, back] = whole_blocks(offset, length, size);
        let ragged = !front.is_empty() || !back.is_empty();
        if ragged && length <= RAGGED_ZEROS_MAX {
            return self.write_bytes(offset, &vec![0; to_usize(length)]);
        }
        let zeros = vec![0; to_usize(size)];
        let mut last = None;
        for part in [&front, &back] {
            if !part.is_empty() {
                let zeros = &zeros[..to_usize(part.end - part.start)];
                last = Some(self.write_piece(part.start, zeros)?);
            }
        }
        let middle = self.append_ranges(&middle, |lba, blocks| {
            Change::write_zeroes(lba, blocks, no_hole)
        })?;
        Ok(middle.or(last))
    }

    pub(crate) fn trim_bytes(&self, offset: u64, length: u64) -> Result<Option<Ticket>, Error> {
        let [_, middle, _] = whole_blocks(offset, length, self.geometry.block_size.bytes());
        self.append_ranges(&middle, Change::trim)
    }

    /// Records without payload for a byte range of whole blocks: few, whatever its length.
    fn append_ranges(
        &self,
        bytes: &Range<u64>,
        change: impl Fn(Lba, u32) -> Change,
    ) -> Result<Option<Ticket>, Error> {
        let size = self.geometry.block_size.bytes();
        let (mut lba, end) = (bytes.start / size, bytes.end / size);
        let mut last = None;
        while lba < end {
            let blocks = u32::try_from(end - lba).unwrap_or(u32::MAX);
            last = Some(self.append(change(Lba(lba), blocks))?);
            lba += u64::from(blocks);
        }
        Ok(last)
    }

    /// Appends a record of whole blocks, which waits for captures and for the log where it has to.
    fn append(&self, change: Change) -> Result<Ticket, Error> {
        let blocks = change.lba.0..change.lba.0 + u64::from(change.blocks);
        let (place, payload, mut ready) = self.ready(change)?;
        self.edge.admit(ready.bytes());
        loop {
            let shared = self.newest.share(&blocks);
            if let Some(ticket) = self.append_ready(place, &payload, &mut ready)? {
                return Ok(ticket);
            }
            // Nobody waits for the disk with the gate in hand.
            drop(shared);
            self.log.admit(ready.bytes())?;
        }
    }

    fn ready(&self, change: Change) -> Result<(RecordPlace, Bytes, Ready), Error> {
        let payload = Bytes::clone(&change.payload);
        let place = RecordPlace {
            lsn: Lsn::ZERO,
            kind: change.kind,
            no_hole: change.no_hole,
            lba: change.lba,
            blocks: change.blocks,
        };
        Ok((place, payload, self.log.ready(vec![change])?))
    }

    /// Assigns the LSN and gives the record its place. The caller holds the gate of its blocks, so
    /// that nobody who has to see it looks in between (F6, P10). `None` when the log has to be
    /// waited for first.
    fn append_ready(
        &self,
        mut place: RecordPlace,
        payload: &Bytes,
        ready: &mut Ready,
    ) -> Result<Option<Ticket>, Error> {
        let Some(ticket) = self.log.append_ready(ready)? else {
            return Ok(None);
        };
        place.lsn = ticket.range().through;
        self.newest.note_with(&place, payload);
        self.edge.appended(payload.len() + RecordHeader::BYTES);
        Ok(Some(ticket))
    }

    /// The LSN of the last record of a call, durable if asked for.
    pub(crate) fn settle(
        &self,
        last: Option<Ticket>,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        let lsn = match &last {
            Some(ticket) => ticket.range().through,
            None => self.log.frontiers().head,
        };
        if durability == Durability::Durable {
            let durable = match last {
                Some(ticket) => ticket.wait()?,
                None => self.log.sync()?,
            };
            self.commit_if_alone(durable, lsn)?;
        }
        Ok(lsn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_cut_at_multiples_and_cover_everything() {
        let pieces: Vec<_> = split(100, 250, 128).collect();
        assert_eq!(pieces, [100..128, 128..256, 256..350]);
        assert_eq!(split(128, 0, 128).count(), 0);
        assert_eq!(split(128, 128, 128).last(), Some(128..256));
    }

    #[test]
    fn whole_blocks_leave_the_ends_alone() {
        assert_eq!(whole_blocks(0, 8192, 4096), [0..0, 0..8192, 8192..8192]);
        assert_eq!(whole_blocks(100, 200, 4096), [100..300, 300..300, 300..300]);
        assert_eq!(
            whole_blocks(100, 8192, 4096),
            [100..4096, 4096..8192, 8192..8292]
        );
        assert_eq!(
            whole_blocks(4000, 200, 4096),
            [4000..4096, 4096..4096, 4096..4200]
        );
    }
}
