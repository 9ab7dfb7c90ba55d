//! A volume with replicas: a flush and a FUA write wait for the ack rule.

use std::sync::Arc;

use seawall_recovery::Primary;
use seawall_snapshot::Durability;

use crate::engine::Engine;
use crate::error::Error;

/// A primary; it also answers `seawall status` (D24).
#[derive(Debug)]
pub struct Replicated {
    primary: Primary,
}

impl Replicated {
    /// Serves the volume of `primary`.
    #[must_use]
    pub fn new(primary: Primary) -> Replicated {
        Replicated { primary }
    }
}

impl Engine for Replicated {
    fn size(&self) -> u64 {
        self.primary.volume().size()
    }

    fn block_bytes(&self) -> u64 {
        super::block_bytes(self.primary.volume())
    }

    fn check_writable(&self) -> Result<(), Error> {
        Ok(self.primary.volume().log().check_writable()?)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        Ok(self.primary.read(offset, out)?)
    }

    fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<(), Error> {
        self.primary.write(offset, bytes, durability)?;
        Ok(())
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<(), Error> {
        self.primary
            .write_zeroes(offset, length, no_hole, durability)?;
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<(), Error> {
        self.primary.trim(offset, length, durability)?;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.primary.flush()?;
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        Ok(self.primary.volume().next_data(offset)?)
    }

    fn close(self: Box<Self>) -> Result<(), Error> {
        let volume = Arc::clone(self.primary.volume());
        // Streams end first: a replica must not see the log stop under it.
        self.primary.shutdown();
        Ok(volume.close()?)
    }
}
