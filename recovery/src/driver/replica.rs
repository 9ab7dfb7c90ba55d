//! A replica daemon: accepts its primary, receives, acknowledges.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use seawall_snapshot::Volume;
use seawall_wal::Clock;
use seawall_wal::disk::Disk;

use crate::error::Error;
use crate::status::Status;

/// How a replica listens.
#[derive(Clone, Debug, Default)]
pub struct ReplicaOptions {
    /// Allow an address outside this machine without encryption.
    pub insecure: bool,
}

/// A replica of one volume. Dropping it stops its threads and closes the volume.
#[derive(Debug)]
pub struct Replica {}

impl Replica {
    /// Serves the directory `dir` under the name `id`. An absent or empty directory waits for its
    /// first primary and adopts volume id and geometry from it (D8). Also answers on the `ctl`
    /// socket.
    ///
    /// # Errors
    /// [`Error::Volume`] when the directory holds something else, belongs to a primary or is in use;
    /// [`Error::Address`], [`Error::Insecure`], [`Error::Socket`].
    pub fn serve(
        disk: &Arc<dyn Disk>,
        clock: &Arc<dyn Clock>,
        dir: &Path,
        id: &str,
        listen: &str,
        options: ReplicaOptions,
    ) -> Result<Replica, Error> {
        let _ = (disk, clock, dir, id, listen, options);
        todo!()
    }

    /// Where it listens; the port is real when `listen` asked for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        todo!()
    }

    /// The volume, once there is one. An installed base replaces it.
    #[must_use]
    pub fn volume(&self) -> Option<Arc<Volume>> {
        todo!()
    }

    /// One reading of everything.
    #[must_use]
    pub fn status(&self) -> Status {
        todo!()
    }

    /// Blocks until [`Replica::shutdown`] is called from elsewhere or the replica fails for good.
    ///
    /// # Errors
    /// What stopped it.
    pub fn join(&self) -> Result<(), Error> {
        todo!()
    }

    /// Ends the session, closes the volume, joins the threads.
    ///
    /// # Errors
    /// [`Error::Volume`] when the volume cannot be closed cleanly.
    pub fn shutdown(self) -> Result<(), Error> {
        todo!()
    }
}
