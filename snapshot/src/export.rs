//! A pinned state as ordered chunks: what a rebuild sends and an install takes.

use std::ops::Range;

use seawall_wal::BlockSize;

use crate::base::View;
use crate::error::Error;
use crate::sums::{Digest, block_sums};
use crate::to_usize;

/// Bytes of a chunk: 1 MiB.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Digest of the bytes of a chunk: XXH3-128 over the sums of its blocks in order. So both ends
/// compare chunks by the sums that they keep, and nobody reads what does not differ (D12, D18).
#[must_use]
pub fn chunk_digest(bytes: &[u8], block_size: BlockSize) -> Digest {
    digest_of_sums(&block_sums(bytes, block_size))
}

/// Digest of a chunk of `bytes` bytes that are all zero.
#[must_use]
pub fn zero_chunk_digest(bytes: u64, block_size: BlockSize) -> Digest {
    digest_of_sums(&vec![Digest::ZERO; to_usize(bytes >> block_size.shift())])
}

pub(crate) fn digest_of_sums(sums: &[Digest]) -> Digest {
    let mut bytes = Vec::with_capacity(sums.len() * Digest::BYTES);
    for sum in sums {
        bytes.extend(sum.to_bytes());
    }
    Digest::of(&bytes)
}

/// Number of chunks in `size` bytes; the last one may be short.
#[must_use]
pub const fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES as u64)
}

/// The bytes of chunk `index` in a volume of `size` bytes.
#[must_use]
pub fn chunk_range(index: u64, size: u64) -> Range<u64> {
    let start = index.saturating_mul(CHUNK_BYTES as u64).min(size);
    start..start.saturating_add(CHUNK_BYTES as u64).min(size)
}

/// One step through a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Chunks `[first, first + count)` are zero.
    Zero {
        /// First of them.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A chunk that is not zero.
    Data {
        /// Its number; the last chunk of a volume may be short.
        index: u64,
        /// Digest of its bytes, from their sums alone.
        digest: Digest,
    },
}

/// Reads chunk `index` of a state, every block verified; with the digest of what was read.
///
/// # Errors
/// As [`View::read`].
pub fn read_chunk(view: &dyn View, index: u64) -> Result<(Vec<u8>, Digest), Error> {
    let range = chunk_range(index, view.size());
    let mut bytes = vec![0; to_usize(range.end - range.start)];
    view.read(range.start, &mut bytes)?;
    let digest = chunk_digest(&bytes, view.block_size());
    Ok((bytes, digest))
}

/// Every chunk of a state in order. Holes cost nothing but one step, and no block of the image is
/// read.
#[derive(Debug)]
pub struct Chunks<'a> {
    view: &'a dyn View,
    next: u64,
    /// Up to this byte everything behind the last hole may hold data.
    data_end: u64,
    pending: Option<Chunk>,
}

impl<'a> Chunks<'a> {
    /// From the first chunk on.
    #[must_use]
    pub fn of(view: &'a dyn View) -> Chunks<'a> {
        Chunks::from(view, 0)
    }

    /// From chunk `first` on, as [`Chunks::of`] goes on from there.
    #[must_use]
    pub fn from(view: &'a dyn View, first: u64) -> Chunks<'a> {
        Chunks {
            view,
            next: first,
            data_end: 0,
            pending: None,
        }
    }

    fn step(&mut self) -> Result<Option<Chunk>, Error> {
        let size = self.view.size();
        let (start, count) = (self.next, chunk_count(size));
        while self.next < count {
            let offset = self.next * CHUNK_BYTES as u64;
            // Asked once for each run of data: over many small records it costs a look at each.
            if offset >= self.data_end {
                let Some((first, end)) = self.view.next_data(offset)? else {
                    self.next = count;
                    break;
                };
                self.next = self.next.max(first / CHUNK_BYTES as u64);
                self.data_end = end;
            }
            let index = self.next;
            self.next += 1;
            let range = chunk_range(index, size);
            let sums = self.view.sums(range)?;
            if sums.iter().all(|sum| *sum == Digest::ZERO) {
                continue;
            }
            let digest = digest_of_sums(&sums);
            let data = Chunk::Data { index, digest };
            if index == start {
                return Ok(Some(data));
            }
            self.pending = Some(data);
            return Ok(Some(Chunk::Zero {
                first: start,
                count: index - start,
            }));
        }
        Ok((start < count).then_some(Chunk::Zero {
            first: start,
            count: count - start,
        }))
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.pending.take() {
            Some(chunk) => Some(Ok(chunk)),
            None => self.step().transpose(),
        }
    }
}
