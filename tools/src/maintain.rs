//! `seawall checkpoint` and `seawall reclaim`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_snapshot::Access;
use seawall_wal::Lsn;
use seawall_wal::disk::Disk;

use crate::common;
use crate::error::Error;
use crate::exit::Exit;

/// Captures the base image through committed.
#[derive(Debug, clap::Args)]
pub struct CheckpointArgs {
    /// Directory of the volume
    pub dir: PathBuf,
}

/// Captures the base through an LSN, then reclaims the log through it as far as pins allow.
#[derive(Debug, clap::Args)]
pub struct ReclaimArgs {
    /// Directory of the volume
    pub dir: PathBuf,
    /// Last LSN to reclaim
    #[arg(long, value_name = "LSN")]
    pub through: u64,
}

/// Runs `seawall checkpoint`.
///
/// # Errors
/// What the volume says; a full disk fails this call only (D21).
pub fn checkpoint(args: &CheckpointArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let volume = common::open_whole(&common::disk(), &args.dir, Access::Maintain)?;
    let busy = common::spinner("checkpoint");
    let checkpoint = volume
        .checkpoint(None)
        .map_err(|source| common::at(&args.dir, source))?;
    let frontiers = volume.log().frontiers();
    volume.close()?;
    drop(busy);
    writeln!(
        out,
        "checkpoint {checkpoint} of {}; committed {}, head {}",
        args.dir.display(),
        frontiers.committed,
        frontiers.head
    )?;
    Ok(Exit::Fine)
}

/// Refuses an LSN beyond committed while the volume is as it was found.
fn check_committed(disk: &Arc<dyn Disk>, dir: &Path, through: Lsn) -> Result<(), Error> {
    // What meta holds is a lower bound (D1).
    if through <= common::peek(disk, dir)?.committed {
        return Ok(());
    }
    let (volume, _) = common::open(disk, dir, Access::ReadOnly)?;
    let committed = volume.log().frontiers().committed;
    match through <= committed {
        true => Ok(()),
        false => {
            let beyond = seawall_wal::Error::Chain {
                action: "reclaim through",
                lsn: through,
                bound_name: "committed",
                bound: committed,
            };
            Err(common::at(dir, beyond.into()))
        }
    }
}

/// Runs `seawall reclaim`.
///
/// # Errors
/// [`seawall_wal::Error::Chain`] beyond committed; otherwise what the volume says.
pub fn reclaim(args: &ReclaimArgs, out: &mut dyn Write) -> Result<Exit, Error> {
    let (disk, through) = (common::disk(), Lsn::new(args.through));
    check_committed(&disk, &args.dir, through)?;
    let volume = common::open_whole(&disk, &args.dir, Access::Maintain)?;
    let busy = common::spinner("reclaim");
    let tail = volume
        .advance_tail(through)
        .map_err(|source| common::at(&args.dir, source))?;
    let first = volume.log().first_retained();
    volume.close()?;
    drop(busy);
    writeln!(
        out,
        "tail {tail} of {}; first retained LSN {first}",
        args.dir.display()
    )?;
    Ok(Exit::Fine)
}
