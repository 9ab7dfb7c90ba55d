//! A volume without replicas: committed follows its own durable frontier (D1).

use std::sync::{Arc, Mutex, PoisonError};

use seawall_recovery::{CtlServer, Status, serve_ctl};
use seawall_snapshot::{Durability, Volume};

use crate::engine::Engine;
use crate::error::Error;

/// A volume, and the socket that answers `seawall status` while it is open (D24).
#[derive(Debug)]
pub struct Alone {
    volume: Arc<Volume>,
    ctl: Mutex<Option<CtlServer>>,
}

impl Alone {
    /// Serves `volume`, which was opened with `Access::Primary`.
    ///
    /// # Errors
    /// As `Volume::commit_best_effort` and `serve_ctl`.
    pub fn start(volume: Arc<Volume>) -> Result<Alone, Error> {
        volume.commit_best_effort()?;
        let seen = Arc::clone(&volume);
        let answer = move || {
            let mut status = Status::of_volume(&seen);
            status.live = true;
            // D1: alone, our own durable end is committed at once.
            status.confirmed = true;
            status.to_json()
        };
        let ctl = serve_ctl(volume.dir(), Arc::new(answer))?;
        let ctl = Mutex::new(Some(ctl));
        Ok(Alone { volume, ctl })
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
        // First of all: no status of a volume that is being closed.
        *self.ctl.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(self.volume.close()?)
    }
}
