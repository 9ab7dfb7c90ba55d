//! What the export needs of the thing that stores the blocks.

use std::fmt;

use seawall_snapshot::{Durability, Volume};

use crate::error::Error;

mod alone;
mod replicated;

pub use alone::Alone;
pub use replicated::Replicated;

/// Stores the blocks of one export. Every call may run on many threads at once.
pub trait Engine: Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// Size in bytes of the writes that need no read before them.
    fn block_bytes(&self) -> u64;

    /// Why it takes no writes, if it takes none.
    ///
    /// # Errors
    /// The reason.
    fn check_writable(&self) -> Result<(), Error>;

    /// Reads the newest acknowledged bytes.
    ///
    /// # Errors
    /// As `Volume::read`.
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error>;

    /// Writes bytes of any alignment.
    ///
    /// # Errors
    /// As `Volume::write`.
    fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<(), Error>;

    /// Makes bytes read zero; `no_hole` keeps their space.
    ///
    /// # Errors
    /// As `Volume::write_zeroes`.
    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<(), Error>;

    /// Gives the space of whole blocks back; they read zero.
    ///
    /// # Errors
    /// As `Volume::trim`.
    fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<(), Error>;

    /// Makes everything acknowledged before the call durable under the ack rule.
    ///
    /// # Errors
    /// As `Volume::flush`.
    fn flush(&self) -> Result<(), Error>;

    /// First byte range `[first, second)` at or behind `offset` that may be data.
    ///
    /// # Errors
    /// As `Volume::next_data`.
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error>;

    /// Drains, leaves the clean mark and stops every thread. Later calls fail.
    ///
    /// # Errors
    /// As `Volume::close`.
    fn close(&self) -> Result<(), Error>;
}

fn block_bytes(volume: &Volume) -> u64 {
    volume.meta().get().geometry.block_size.bytes()
}
