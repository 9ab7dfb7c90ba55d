//! A volume without replicas: committed follows its own durable frontier (D1).

use std::sync::Arc;

use seawall_snapshot::{Durability, Volume};

use crate::engine::Engine;
use crate::error::Error;

/// A volume that nobody else keeps a copy of.
#[derive(Debug)]
pub struct Alone {
    volume: Arc<Volume>,
}

impl Alone {
    /// Serves `volume`, which was opened with `Access::Primary`.
    ///
    /// # Errors
    /// As `Volume::commit_best_effort`.
    pub fn start(volume: Arc<Volume>) -> Result<Alone, Error> {
        volume.commit_best_effort()?;
        Ok(Alone { volume })
    }
}

impl Engine for Alone {
    fn size(&self) -> u64 {
        self.volume.size()
    }

    fn block_bytes(&self) -> u64 {
        super::block_bytes(&self.volume)
    }

    fn check_writable(&self) -> Result<(), Error> {
        Ok(self.volume.log().check_writable()?)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        Ok(self.volume.read(offset, out)?)
    }

    fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<(), Error> {
        self.volume.write(offset, bytes, durability)?;
        Ok(())
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<(), Error> {
        self.volume
            .write_zeroes(offset, length, no_hole, durability)?;
        Ok(())
    }

    fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<(), Error> {
        self.volume.trim(offset, length, durability)?;
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.volume.flush()?;
        Ok(())
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        Ok(self.volume.next_data(offset)?)
    }

    fn close(&self) -> Result<(), Error> {
        Ok(self.volume.close()?)
    }
}
