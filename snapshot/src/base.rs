//! Views: the image at a checkpoint, or the image overlaid with the log through a target (D10).

use seawall_wal::Lsn;

use crate::error::Error;
use crate::sums::Digest;

/// The exact state at one LSN, readable while this value lives.
#[derive(Debug)]
pub struct StateView {}

/// A pinned view of the image at checkpoint `lsn()`, with the log after it.
#[derive(Debug)]
pub struct SnapshotPin {}

/// A pinned view of the whole state at `lsn()`, with the log after its checkpoint.
#[derive(Debug)]
pub struct BasePin {}

/// Reading one pinned state. The three views share it.
pub trait View: Send + Sync + std::fmt::Debug {
    /// The LSN whose state this is.
    fn lsn(&self) -> Lsn;

    /// Size of the volume in bytes.
    fn size(&self) -> u64;

    /// Reads `out.len()` bytes at byte `offset`, both multiples of the block size; every block is
    /// verified.
    ///
    /// # Errors
    /// [`Error::ImageDamaged`], [`Error::Log`], [`Error::OutOfRange`].
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error>;

    /// First byte range `[first, second)` at or behind `offset` that may hold data; the rest reads
    /// zero.
    ///
    /// # Errors
    /// [`Error::Log`].
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error>;

    /// Digest of the whole state (D18).
    ///
    /// # Errors
    /// As [`View::read`].
    fn digest(&self) -> Result<Digest, Error>;
}

impl View for StateView {
    fn lsn(&self) -> Lsn {
        todo!()
    }
    fn size(&self) -> u64 {
        todo!()
    }
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), Error> {
        todo!()
    }
    fn next_data(&self, _: u64) -> Result<Option<(u64, u64)>, Error> {
        todo!()
    }
    fn digest(&self) -> Result<Digest, Error> {
        todo!()
    }
}
