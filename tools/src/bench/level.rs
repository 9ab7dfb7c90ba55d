//! A replica that is brought level with its primary: both in this process, over loopback.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use seawall_recovery::throttle::ThrottleOptions;
use seawall_recovery::{
    Primary, PrimaryOptions, RecoveryRecord, Replica, ReplicaAddress, ReplicaOptions,
};
use seawall_snapshot::Volume;
use seawall_wal::disk::Disk;

use crate::common;
use crate::edge;
use crate::error::Error;

/// Name of the only replica.
const ID: &str = "r1";
/// How often the primary is asked whether the replica is in sync.
const LOOK: Duration = Duration::from_micros(500);
/// After so long it will not be any more.
const PATIENCE: Duration = Duration::from_secs(1800);

/// How a replica became level.
#[derive(Debug)]
pub(super) struct Level {
    /// From the start of the primary until the replica was in sync.
    pub(super) elapsed: Duration,
    /// What the primary wrote down about it.
    pub(super) record: RecoveryRecord,
}

/// Starts a replica in `dir` and a primary of `volume`, and waits until they are level. `rebuild`
/// asks for the full base although less would do. Nothing slows the recovery down.
///
/// # Errors
/// What either end says; [`Error::Misassigned`] when they do not become level.
pub(super) fn bring(
    volume: &Arc<Volume>,
    place: (&Arc<dyn Disk>, &Path),
    rebuild: bool,
) -> Result<Level, Error> {
    let unthrottled = ThrottleOptions {
        target: None,
        ..ThrottleOptions::default()
    };
    let options = PrimaryOptions {
        rebuild_full: rebuild,
        throttle: unthrottled,
        ..PrimaryOptions::default()
    };
    let (level, ()) = bring_beside(volume, place, options, |_, _| Ok(()))?;
    Ok(level)
}

/// As [`bring`], with other options, and with `work` beside it until it is told that it is over.
///
/// # Errors
/// As [`bring`], and those of `work`.
pub(super) fn bring_beside<W: Send>(
    volume: &Arc<Volume>,
    (disk, dir): (&Arc<dyn Disk>, &Path),
    options: PrimaryOptions,
    work: impl FnOnce(&Primary, &AtomicBool) -> Result<W, Error> + Send,
) -> Result<(Level, W), Error> {
    let clock = common::clock();
    let replica = ReplicaOptions::default();
    let replica = Replica::serve(disk, &clock, dir, ID, "127.0.0.1:0", replica)?;
    let options = PrimaryOptions {
        replicas: vec![ReplicaAddress {
            id: ID.into(),
            address: replica.address().to_string(),
        }],
        ..options
    };
    let begun = edge::now();
    let primary = Primary::start(volume.log().disk(), &clock, Arc::clone(volume), options)?;
    let over = AtomicBool::new(false);
    let (worked, level) = edge::beside(
        || work(&primary, &over),
        || {
            let level = wait(&primary, begun);
            over.store(true, Ordering::Release);
            level
        },
    );
    primary.shutdown();
    replica.shutdown()?;
    Ok((level?, worked?))
}

fn wait(primary: &Primary, begun: Instant) -> Result<Level, Error> {
    let mut in_sync = None;
    loop {
        let status = primary.status();
        let elapsed = begun.elapsed();
        let replica = status.replicas.iter().find(|replica| replica.id == ID);
        if let Some(replica) = replica.filter(|replica| replica.state == "in_sync") {
            let elapsed = *in_sync.get_or_insert(elapsed);
            let ours = |record: &RecoveryRecord| Some(&record.session) == replica.session.as_ref();
            // It is written down when everybody was told.
            if let Some(record) = status.recoveries.into_iter().find(ours) {
                return Ok(Level { elapsed, record });
            }
        } else if elapsed > PATIENCE || replica.is_some_and(|replica| replica.misassigned) {
            let cause = replica.and_then(|replica| replica.cause.clone());
            return Err(Error::Misassigned {
                replica: ID.into(),
                cause: cause.unwrap_or_else(|| "it is not in sync after half an hour".into()),
            });
        }
        edge::pause(LOOK);
    }
}
