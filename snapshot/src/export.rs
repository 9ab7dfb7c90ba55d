//! A pinned state as ordered chunks: what a rebuild sends and an install takes.

use std::ops::Range;

use crate::base::View;
use crate::error::Error;
use crate::sums::{Digest, is_zero};
use crate::to_usize;

/// Bytes of a chunk: 1 MiB.
pub const CHUNK_BYTES: usize = 1 << 20;

/// XXH3-128 of the bytes of a chunk. A chunk of zeros has the digest of its zero bytes.
#[must_use]
pub fn chunk_digest(bytes: &[u8]) -> Digest {
    Digest::of(bytes)
}

/// Number of chunks in `size` bytes; the last one may be short.
#[must_use]
pub const fn chunk_count(size: u64) -> u64 {
    size.div_ceil(CHUNK_BYTES as u64)
}

/// The bytes of chunk `index` in a volume of `size` bytes.
pub(crate) fn chunk_range(index: u64, size: u64) -> Range<u64> {
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
        /// Its number.
        index: u64,
        /// Its bytes; the last chunk of a volume may be short.
        bytes: Vec<u8>,
        /// Their digest.
        digest: Digest,
    },
}

/// Every chunk of a state in order. Holes cost nothing but one step.
#[derive(Debug)]
pub struct Chunks<'a> {
    view: &'a dyn View,
    next: u64,
    pending: Option<Chunk>,
}

impl<'a> Chunks<'a> {
    /// From the first chunk on.
    #[must_use]
    pub fn of(view: &'a dyn View) -> Chunks<'a> {
        Chunks {
            view,
            next: 0,
            pending: None,
        }
    }

    fn step(&mut self) -> Result<Option<Chunk>, Error> {
        let size = self.view.size();
        let (start, count) = (self.next, chunk_count(size));
        while self.next < count {
            let offset = self.next * CHUNK_BYTES as u64;
            match self.view.next_data(offset)? {
                None => self.next = count,
                Some((first, _)) => self.next = self.next.max(first / CHUNK_BYTES as u64),
            }
            if self.next == count {
                break;
            }
            let index = self.next;
            self.next += 1;
            let range = chunk_range(index, size);
            let mut bytes = vec![0; to_usize(range.end - range.start)];
            self.view.read(range.start, &mut bytes)?;
            if is_zero(&bytes) {
                continue;
            }
            let digest = chunk_digest(&bytes);
            let data = Chunk::Data {
                index,
                bytes,
                digest,
            };
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
