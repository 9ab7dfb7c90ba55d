//! A volume with replicas: a flush and a FUA write wait for the ack rule.

use std::sync::{Arc, PoisonError, RwLock};

use seawall_recovery::Primary;
use seawall_snapshot::{Durability, Volume};

use crate::engine::Engine;
use crate::error::Error;

/// A primary; it also answers `seawall status` (D24).
#[derive(Debug)]
pub struct Replicated {
    volume: Arc<Volume>,
    /// `None` once it was shut down. Requests hold the lock shared, so that closing waits for them.
    primary: RwLock<Option<Primary>>,
}

impl Replicated {
    /// Serves the volume of `primary`.
    #[must_use]
    pub fn new(primary: Primary) -> Replicated {
        Replicated {
            volume: Arc::clone(primary.volume()),
            primary: RwLock::new(Some(primary)),
        }
    }

    fn with<T>(
        &self,
        call: impl FnOnce(&Primary) -> Result<T, seawall_recovery::Error>,
    ) -> Result<T, Error> {
        let primary = self.primary.read().unwrap_or_else(PoisonError::into_inner);
        let primary = primary.as_ref().ok_or(Error::NotOpen)?;
        Ok(call(primary)?)
    }
}

impl Engine for Replicated {
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
        self.with(|primary| primary.read(offset, out))
    }

    fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<(), Error> {
        self.with(|primary| primary.write(offset, bytes, durability))
            .map(drop)
    }

    fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<(), Error> {
        self.with(|primary| primary.write_zeroes(offset, length, no_hole, durability))
            .map(drop)
    }

    fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<(), Error> {
        self.with(|primary| primary.trim(offset, length, durability))
            .map(drop)
    }

    fn flush(&self) -> Result<(), Error> {
        self.with(Primary::flush).map(drop)
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        Ok(self.volume.next_data(offset)?)
    }

    fn close(&self) -> Result<(), Error> {
        let primary = {
            let mut primary = self.primary.write().unwrap_or_else(PoisonError::into_inner);
            primary.take()
        };
        // Streams end first: a replica must not see the log stop under it.
        if let Some(primary) = primary {
            primary.shutdown();
        }
        Ok(self.volume.close()?)
    }
}
