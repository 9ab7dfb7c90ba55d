//! Applying touched blocks to the image: payload out of the log in the order of the log, into the
//! image in the order of LBA, many writes in flight.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use seawall_wal::disk::{Buffer, Bytes};
use seawall_wal::{Log, Lsn, LsnRange};

use crate::error::Error;
use crate::fill::Fills;
use crate::image::{Image, RUN_BYTES};
use crate::index::{Content, Index};
use crate::pipe::WritePipe;
use crate::sums::{Digest, block_sums};
use crate::sumwalk::{SumCursor, SumWriter};
use crate::to_usize;
use crate::volume::Volume;

/// Payload gathered before it is sorted and written.
const BATCH_BYTES: usize = 8 << 20;
/// Records that nobody needs, and that are read nevertheless because others lie around them: what
/// the log shows at once.
const SKIPPED_MAX: u64 = 1024;

/// What a run of zeros takes, in writes of single blocks.
const FILL_COST: usize = 16;

/// Blocks that take the payload of one record.
#[derive(Clone, Copy, Debug)]
struct Piece {
    lsn: Lsn,
    /// First block of the record.
    first: u64,
    /// First block of the piece.
    lba: u64,
    blocks: u32,
    /// Number of its first block among all that take payload, in order of LBA.
    number: u32,
}

/// What a checkpoint does to the image, block by block.
#[derive(Debug)]
pub(crate) struct Plan {
    /// In LSN order.
    pieces: Vec<Piece>,
    /// Of the blocks that take payload: whether they have their place in the image, since they had
    /// a sum or lie in `fills`. Empty when that is not known.
    placed: Vec<bool>,
    /// Blocks of zeros that get their places, in order and apart from each other.
    fills: Vec<Range<u64>>,
    /// Their new sums.
    sums: Vec<Digest>,
    /// Blocks whose pages of sums are not on disk as they have to be.
    pub(crate) stale: Vec<u64>,
}

/// The payload blocks of a range of blocks, if it takes payload.
fn payload_blocks(range: &Range<u64>, content: Content) -> usize {
    match content {
        Content::Payload { .. } => to_usize(range.end - range.start),
        Content::Zeros | Content::Hole => 0,
    }
}

impl Plan {
    /// For an intent that is open already.
    pub(crate) fn of(touched: &Index) -> Plan {
        let mut pieces = Vec::new();
        let mut number = 0;
        for (range, version) in touched.iter() {
            let blocks = payload_blocks(&range, version.content);
            if let Content::Payload { first } = version.content {
                pieces.push(Piece {
                    lsn: version.lsn,
                    first,
                    lba: range.start,
                    blocks: u32::try_from(blocks).expect("a record has 32-bit counts"),
                    number: u32::try_from(number).expect("a checkpoint has bounded records"),
                });
            }
            number += blocks;
        }
        pieces.sort_unstable_by_key(|piece| piece.lsn);
        Plan {
            pieces,
            placed: Vec::new(),
            fills: Vec::new(),
            sums: vec![Digest::ZERO; number],
            stale: Vec::new(),
        }
    }

    /// For a new intent: with the digest of the state without the touched blocks.
    pub(crate) fn begin(
        image: &Image,
        digest: Digest,
        touched: &Index,
    ) -> Result<(Plan, Digest), Error> {
        let mut plan = Plan::of(touched);
        plan.placed = vec![false; plan.sums.len()];
        let mut rest = digest;
        let mut number = 0;
        let mut cursor = SumCursor::over(image.sums(), touched.iter().map(|(range, _)| range));
        let mut fills = Fills::below(image.blocks());
        for (range, version) in touched.iter() {
            let (start, blocks) = (range.start, payload_blocks(&range, version.content));
            cursor.visit(range.clone(), &mut |lba, sum| {
                rest = rest.without_block(lba, sum);
                if blocks > 0 {
                    plan.placed[number + to_usize(lba - start)] = true;
                }
                Ok(())
            })?;
            if blocks > 0 {
                fills.visit(&range, number, &mut cursor, &mut plan.placed)?;
            }
            number += blocks;
        }
        plan.fills = fills.finish(&mut cursor, &mut plan.placed)?;
        plan.stale = cursor.stale().to_vec();
        if cursor.is_doubtful() {
            tracing::warn!("the digest is taken over all sums: old ones cannot be told any more");
            rest = untouched_digest(image, touched)?;
        }
        Ok((plan, rest))
    }

    /// Writes every touched block and its sum, and gives the digest of the state that results from
    /// the rest of it.
    pub(crate) fn apply(
        mut self,
        volume: &Volume,
        touched: &Index,
        rest: Digest,
    ) -> Result<Digest, Error> {
        let image = &volume.image;
        let fills = std::mem::take(&mut self.fills);
        let pieces = std::mem::take(&mut self.pieces);
        let mut batch = Batch::of(volume, self);
        batch.fill(&fills)?;
        for (range, version) in touched.iter() {
            match version.content {
                Content::Payload { .. } => {}
                Content::Zeros => image.zero(&range)?,
                Content::Hole => image.punch(&range)?,
            }
        }
        let mut stored = Vec::new();
        for piece in pieces {
            match volume.newest.payload(piece.lsn, piece.first) {
                Some(payload) => batch.take(&piece, &payload)?,
                None => stored.push(piece),
            }
        }
        for cluster in stored.chunk_by(|a, b| b.lsn.get() - a.lsn.get() <= SKIPPED_MAX) {
            read(&volume.log, cluster, &mut batch)?;
        }
        batch.write()?;
        batch.pipe.finish()?;
        write_sums(image, touched, &batch.plan.sums, rest)
    }
}

/// The digest of the state without the touched blocks, from the sums of all others.
fn untouched_digest(image: &Image, touched: &Index) -> Result<Digest, Error> {
    let mut digest = Digest::ZERO;
    let mut cursor = SumCursor::new(image.sums());
    for (piece, version) in touched.pieces(0..image.blocks()) {
        if version.is_none() {
            cursor.visit(piece, &mut |lba, sum| {
                digest = digest.with_block(lba, sum);
                Ok(())
            })?;
        }
    }
    Ok(digest)
}

/// Takes the payload of every piece out of the log; each record is read once.
fn read(log: &Arc<Log>, cluster: &[Piece], batch: &mut Batch<'_>) -> Result<(), Error> {
    let mut left: VecDeque<Piece> = cluster.iter().copied().collect();
    if let [first, .., last] = cluster {
        let mut refused = None;
        let range = LsnRange::new(first.lsn.before(), last.lsn);
        let scanned = log.scan_quietly(range, |header, payload| {
            while let Some(piece) = left.front().filter(|piece| piece.lsn == header.lsn) {
                let taken = batch.take_copy(piece, payload);
                left.pop_front();
                taken.inspect_err(|error: &Error| refused = Some(error.clone()))?;
            }
            Ok::<(), Error>(())
        });
        match (refused, scanned) {
            (Some(error), _) => return Err(error),
            (None, Ok(())) => {}
            // Damage in a record that no block needs stops nothing.
            (None, Err(error)) => tracing::warn!(%error, "records are read one by one"),
        }
    }
    while let Some(lsn) = left.front().map(|piece| piece.lsn) {
        let record = log.read_record(lsn)?;
        while let Some(piece) = left.front().filter(|piece| piece.lsn == lsn) {
            batch.take(piece, record.payload())?;
            left.pop_front();
        }
    }
    Ok(())
}

/// Payload on its way to the image.
struct Batch<'a> {
    volume: &'a Volume,
    image: &'a Image,
    plan: Plan,
    pipe: WritePipe,
    /// First block, payload, and whether the blocks have their place.
    gathered: Vec<(u64, Bytes, bool)>,
    bytes: usize,
    /// Work done, and all of it, in blocks written.
    done: usize,
    total: usize,
}

impl<'a> Batch<'a> {
    fn of(volume: &'a Volume, plan: Plan) -> Batch<'a> {
        Batch {
            volume,
            image: &volume.image,
            pipe: volume.image.writes(),
            gathered: Vec::new(),
            bytes: 0,
            done: 0,
            total: plan.sums.len(),
            plan,
        }
    }

    /// Gives blocks of zeros their places, before anything else is written.
    fn fill(&mut self, fills: &[Range<u64>]) -> Result<(), Error> {
        match self.try_fill(fills) {
            // Space that others need more: what takes payload finds its place block by block.
            Err(Error::Log(error)) if error.is_out_of_space() => {
                tracing::debug!(%error, "blocks that were never written get no places ahead");
                fills.iter().try_for_each(|fill| self.image.punch(fill))
            }
            filled => filled,
        }
    }

    fn try_fill(&mut self, fills: &[Range<u64>]) -> Result<(), Error> {
        let image = self.image;
        let mut pipe = image.writes();
        let bytes = |fill: &Range<u64>| to_usize(image.offset(fill.end - fill.start));
        let runs: usize = fills
            .iter()
            .map(|fill| bytes(fill).div_ceil(RUN_BYTES))
            .sum();
        self.total += runs * FILL_COST;
        for (lba, zeros) in fills.iter().flat_map(|fill| image.zeros(fill)) {
            pipe.write(image.offset(lba), vec![zeros])?;
            self.advance(FILL_COST);
        }
        pipe.finish()
    }

    fn advance(&mut self, work: usize) {
        self.done += work;
        self.volume.edge.pace().advance(self.done, self.total);
    }

    /// Takes a piece out of the payload of its record.
    fn take(&mut self, piece: &Piece, payload: &Bytes) -> Result<(), Error> {
        let part = self.part(piece);
        match part == (0..payload.len()) {
            true => self.gather(piece, Bytes::clone(payload)),
            false => self.take_copy(piece, payload),
        }
    }

    /// As [`Batch::take`], of a payload that goes away.
    fn take_copy(&mut self, piece: &Piece, payload: &[u8]) -> Result<(), Error> {
        let part = Buffer::copy_of(&payload[self.part(piece)]);
        self.gather(piece, Arc::new(part))
    }

    /// Where a piece lies in the payload of its record.
    fn part(&self, piece: &Piece) -> Range<usize> {
        let shift = self.image.block_size().shift();
        let skipped = to_usize((piece.lba - piece.first) << shift);
        skipped..skipped + ((piece.blocks as usize) << shift)
    }

    fn gather(&mut self, piece: &Piece, payload: Bytes) -> Result<(), Error> {
        let block_size = self.image.block_size();
        let length = payload.len();
        let numbers = piece.number as usize..(piece.number + piece.blocks) as usize;
        let placed = self.plan.placed.get(numbers.clone());
        let placed = placed.is_none_or(|placed| placed.iter().all(|placed| *placed));
        self.plan.sums[numbers].copy_from_slice(&block_sums(&payload, block_size));
        self.gathered.push((piece.lba, payload, placed));
        self.bytes += length;
        match self.bytes >= BATCH_BYTES {
            true => self.write(),
            false => Ok(()),
        }
    }

    /// Writes what was gathered, neighbours in one call.
    fn write(&mut self) -> Result<(), Error> {
        let shift = self.image.block_size().shift();
        let mut gathered = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.bytes);
        gathered.sort_unstable_by_key(|(lba, ..)| *lba);
        let end = |(lba, payload, _): &(u64, Bytes, bool)| lba + (payload.len() >> shift) as u64;
        let mut filled = false;
        let run_blocks = (RUN_BYTES >> shift) as u64;
        let same_run = |a: &(u64, Bytes, bool), b: &(u64, Bytes, bool)| {
            end(a) == b.0 && a.2 == b.2 && a.0 / run_blocks == b.0 / run_blocks
        };
        for run in gathered.chunk_by(same_run) {
            let (lba, placed) = (run[0].0, run[0].2);
            let buffers = run
                .iter()
                .map(|(_, payload, _)| Arc::clone(payload))
                .collect();
            if placed {
                self.pipe.write(self.image.offset(lba), buffers)?;
            } else {
                self.image.fill(lba, buffers)?;
                filled = true;
            }
        }
        if filled {
            // What is written to holes waits in memory, which has to be bounded.
            self.volume.synced(self.image.sync_blocks())?;
        }
        self.advance(bytes >> shift);
        Ok(())
    }
}

/// Writes the sums of all touched blocks, page by page, and adds them to the digest.
fn write_sums(
    image: &Image,
    touched: &Index,
    sums: &[Digest],
    mut digest: Digest,
) -> Result<Digest, Error> {
    let mut writer = SumWriter::over(image.sums(), touched.iter().map(|(range, _)| range));
    let mut left = sums;
    for (range, version) in touched.iter() {
        let blocks = payload_blocks(&range, version.content);
        match version.content {
            Content::Payload { .. } => {}
            Content::Zeros => writer.zero(range.clone())?,
            Content::Hole => writer.punch(range.clone())?,
        }
        let (own, rest) = left.split_at(blocks);
        for (lba, sum) in (range.start..).zip(own) {
            digest = digest.with_block(lba, *sum);
        }
        writer.put(range.start, own)?;
        left = rest;
    }
    writer.flush()?;
    Ok(digest)
}
