//! A primary with its replicas.

use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use seawall_snapshot::{Durability, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::{Clock, Lsn};

use crate::driver::AckRule;
use crate::error::Error;
use crate::status::{RecoveryRecord, Status};

/// One replica and where it listens; `ID=ADDR` in text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaAddress {
    /// Its stable id, never derived from the address.
    pub id: String,
    /// `host:port`.
    pub address: String,
}

impl FromStr for ReplicaAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<ReplicaAddress, Error> {
        match text.split_once('=') {
            Some((id, address)) if !id.is_empty() && !address.is_empty() => Ok(ReplicaAddress {
                id: id.into(),
                address: address.into(),
            }),
            _ => Err(Error::Address {
                text: text.into(),
                expected: "a replica as ID=HOST:PORT",
            }),
        }
    }
}

/// How a primary treats its replicas.
#[derive(Clone, Debug)]
pub struct PrimaryOptions {
    /// The replicas; with the primary they are the members that the ack rule counts.
    pub replicas: Vec<ReplicaAddress>,
    /// When a write counts as committed.
    pub ack: AckRule,
    /// Rebuild every replica once with a full base, although less may do (reason `requested`, D11).
    pub rebuild_full: bool,
    /// Start a rebuild by itself when a replica needs one.
    pub auto_rebuild: bool,
    /// Where to answer status queries over TCP.
    pub listen: Option<String>,
    /// Allow addresses outside this machine without encryption.
    pub insecure: bool,
    /// How long flush, FUA and the first write after a reopen wait for the ack rule (D6).
    pub commit_timeout: Duration,
}

impl Default for PrimaryOptions {
    fn default() -> PrimaryOptions {
        PrimaryOptions {
            replicas: Vec::new(),
            ack: AckRule::BestEffort,
            rebuild_full: false,
            auto_rebuild: true,
            listen: None,
            insecure: false,
            commit_timeout: Duration::from_secs(30),
        }
    }
}

/// A volume that takes writes and keeps its replicas in step. Dropping it stops its threads.
#[derive(Debug)]
pub struct Primary {}

impl Primary {
    /// Starts serving `volume`, which was opened with `Access::Primary`. Also answers on its `ctl`
    /// socket.
    ///
    /// # Errors
    /// [`Error::Address`], [`Error::Insecure`], [`Error::Socket`], [`Error::StateLog`].
    pub fn start(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        volume: Arc<Volume>,
        options: PrimaryOptions,
    ) -> Result<Primary, Error> {
        let _ = (disk, clock, volume, options);
        todo!()
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        todo!()
    }

    /// Where it answers status queries, if it was asked to.
    #[must_use]
    pub fn listen_address(&self) -> Option<SocketAddr> {
        todo!()
    }

    /// Reads as [`Volume::read`].
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let _ = (offset, out);
        todo!()
    }

    /// Writes as [`Volume::write`]; `Durable` waits until the ack rule covers it.
    ///
    /// # Errors
    /// As [`Volume::write`]; [`Error::CommitTimeout`], [`Error::Unconfirmed`], [`Error::Deposed`].
    pub fn write(&self, offset: u64, bytes: &[u8], durability: Durability) -> Result<Lsn, Error> {
        let _ = (offset, bytes, durability);
        todo!()
    }

    /// Makes bytes read zero, as [`Volume::write_zeroes`].
    ///
    /// # Errors
    /// As [`Primary::write`].
    pub fn write_zeroes(
        &self,
        offset: u64,
        length: u64,
        no_hole: bool,
        durability: Durability,
    ) -> Result<Lsn, Error> {
        let _ = (offset, length, no_hole, durability);
        todo!()
    }

    /// Trims as [`Volume::trim`].
    ///
    /// # Errors
    /// As [`Primary::write`].
    pub fn trim(&self, offset: u64, length: u64, durability: Durability) -> Result<Lsn, Error> {
        let _ = (offset, length, durability);
        todo!()
    }

    /// Returns when everything acknowledged before the call is committed under the ack rule.
    ///
    /// # Errors
    /// As [`Primary::write`].
    pub fn flush(&self) -> Result<Lsn, Error> {
        todo!()
    }

    /// Waits until committed reaches `lsn`.
    ///
    /// # Errors
    /// [`Error::CommitTimeout`], [`Error::Deposed`].
    pub fn wait_committed(&self, lsn: Lsn, timeout: Duration) -> Result<Lsn, Error> {
        let _ = (lsn, timeout);
        todo!()
    }

    /// Waits until replica `id` is in sync and has acknowledged `lsn`; `false` when time ran out.
    #[must_use]
    pub fn wait_in_sync(&self, id: &str, lsn: Lsn, timeout: Duration) -> bool {
        let _ = (id, lsn, timeout);
        todo!()
    }

    /// Whether the ack rule has covered the head found at open (D1).
    #[must_use]
    pub fn confirmed(&self) -> bool {
        todo!()
    }

    /// One consistent reading of everything.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Every recovery that ended, oldest first, earlier runs included (D8).
    #[must_use]
    pub fn recoveries(&self) -> Vec<RecoveryRecord> {
        todo!()
    }

    /// Stops: streams end, threads are joined. The volume stays open.
    pub fn shutdown(self) {
        todo!()
    }
}
