//! One export: the requests of NBD as calls on an engine, and its extents.

use rustix::io::Errno;
use seawall_snapshot::Durability;

use crate::engine::Engine;
use crate::error::Error;

/// Extents given for one request; the client asks again behind the last one.
const EXTENTS_MAX: usize = 4096;

/// Sizes a client should keep to, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSizes {
    /// Smallest request.
    pub minimum: u32,
    /// Requests of this size and alignment need no read-modify-write.
    pub preferred: u32,
    /// Largest payload of one request.
    pub maximum: u32,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub offset: u64,
    /// Number of bytes, never 0.
    pub length: u64,
    /// Whether it may hold data; otherwise it is a hole and reads zero.
    pub data: bool,
}

/// What a zero request asks for besides its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZeroOptions {
    /// Whether the space may be given back.
    pub may_trim: bool,
    /// When to answer.
    pub durability: Durability,
}

/// An open volume as every connection sees it (N3).
#[derive(Debug)]
pub struct Export {
    engine: Box<dyn Engine>,
}

impl Export {
    /// Serves `engine`.
    #[must_use]
    pub fn new(engine: Box<dyn Engine>) -> Export {
        Export { engine }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.engine.size()
    }

    /// Whether it takes writes. A poisoned log is not read-only: its writes fail, so that clients
    /// hear of it.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        match self.engine.check_writable() {
            Err(error) => error.errno() != Errno::ROFS,
            Ok(()) => true,
        }
    }

    /// Any byte range is served; whole blocks are served without a read before the write.
    #[must_use]
    pub fn block_sizes(&self) -> BlockSizes {
        let preferred = u32::try_from(self.engine.block_bytes()).unwrap_or(4096);
        BlockSizes {
            minimum: 1,
            preferred,
            maximum: 32 << 20,
        }
    }

    /// Reads.
    ///
    /// # Errors
    /// As the engine.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.engine.read(offset, out)
    }

    /// Writes.
    ///
    /// # Errors
    /// As the engine.
    pub fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<(), Error> {
        self.engine.write(offset, bytes, durability)
    }

    /// Makes a range read zero. Costs no payload, so it is always fast.
    ///
    /// # Errors
    /// As the engine.
    pub fn zero(&self, offset: u64, length: u64, options: ZeroOptions) -> Result<(), Error> {
        let no_hole = !options.may_trim;
        self.engine
            .write_zeroes(offset, length, no_hole, options.durability)
    }

    /// Gives space back.
    ///
    /// # Errors
    /// As the engine.
    pub fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<(), Error> {
        self.engine.trim(offset, length, durability)
    }

    /// Makes everything answered before the call durable, on whichever connection (N3).
    ///
    /// # Errors
    /// As the engine.
    pub fn flush(&self) -> Result<(), Error> {
        self.engine.flush()
    }

    /// The extents from `offset` on, in order and without gaps, at least one and at most through
    /// `offset + length`; only the first with `one`.
    ///
    /// # Errors
    /// As the engine, or as `each`.
    pub fn extents(
        &self,
        offset: u64,
        length: u64,
        one: bool,
        mut each: impl FnMut(Extent) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let end = offset.saturating_add(length).min(self.size());
        let limit = if one { 1 } else { EXTENTS_MAX };
        let mut next = offset;
        for _ in 0..limit {
            if next >= end {
                break;
            }
            let extent = extent_at(next, end, self.engine.next_data(next)?);
            each(extent)?;
            next += extent.length;
        }
        Ok(())
    }

    /// Drains and closes the volume in order.
    ///
    /// # Errors
    /// As the engine.
    pub fn close(&self) -> Result<(), Error> {
        self.engine.close()
    }
}

/// The extent that begins at `next`, given the data range the engine found at or behind it.
fn extent_at(next: u64, end: u64, found: Option<(u64, u64)>) -> Extent {
    let (data, until) = match found {
        Some((first, _)) if first > next => (false, first),
        Some((_, second)) if second > next => (true, second),
        // An answer that makes no progress is not trusted: what follows may be data (N4).
        Some(_) => (true, end),
        None => (false, end),
    };
    Extent {
        offset: next,
        length: until.min(end) - next,
        data,
    }
}

#[cfg(test)]
mod tests;
