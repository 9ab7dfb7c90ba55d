//! `seawall create`: an empty volume.

use std::io::Write;
use std::path::{Path, PathBuf};

use seawall_snapshot::{CreateOptions, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::{BlockSize, Error as WalError, Geometry, Role};
use std::sync::Arc;

use crate::common::{self, parse_size};
use crate::error::Error;
use crate::exit::Exit;

/// Makes an empty volume in a new directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to make; its parent must exist
    pub dir: PathBuf,
    /// Size of the volume, a multiple of the block size (10G, 512M, 4096)
    #[arg(long, value_parser = parse_size)]
    pub size: u64,
    /// Size of a block: a power of two from 512 to 64K
    #[arg(long, value_parser = parse_size, default_value = "4096")]
    pub block_size: u64,
    /// Size of a log segment: 1M to 1G
    #[arg(long, value_parser = parse_size, default_value = "64M")]
    pub segment_size: u64,
}

/// Runs the command.
///
/// # Errors
/// [`Error::SizeNotMultiple`], [`Error::SizeZero`], [`Error::BadPath`], and what the volume says.
/// Nothing is left behind by a refusal.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::disk();
    let geometry = geometry(args)?;
    check_place(&disk, &args.dir)?;
    let options = CreateOptions {
        volume: None,
        geometry,
        role: Role::Primary,
    };
    Volume::create(&disk, &args.dir, options)?;
    let volume = common::peek(&disk, &args.dir)?.volume;
    writeln!(
        out,
        "created volume {volume} of {} bytes in {}",
        geometry.bytes(),
        args.dir.display()
    )?;
    Ok(Exit::Fine)
}

fn geometry(args: &Args) -> Result<Geometry, Error> {
    let block_size = BlockSize::from_bytes(args.block_size)?;
    if args.size == 0 {
        return Err(Error::SizeZero);
    }
    if !args.size.is_multiple_of(block_size.bytes()) {
        return Err(Error::SizeNotMultiple {
            bytes: args.size,
            block: block_size.bytes(),
        });
    }
    let in_range = (1 << 20..=1 << 30).contains(&args.segment_size);
    if !in_range || !args.segment_size.is_multiple_of(4096) {
        return Err(WalError::Geometry {
            what: "--segment-size must be a multiple of 4096 from 1M to 1G",
            value: args.segment_size,
        }
        .into());
    }
    Ok(Geometry {
        block_size,
        blocks: args.size / block_size.bytes(),
        segment_bytes: args.segment_size,
    })
}

/// The parent is there, and the directory is one that a creation takes.
fn check_place(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
    common::check_parent(disk, dir)?;
    match Volume::is_vacant(disk, dir)? {
        true => Ok(()),
        false => Err(Error::BadPath {
            path: dir.into(),
            what: "exists and is not empty",
            hint: "choose a new directory",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(size: u64, segment_size: u64) -> Args {
        Args {
            dir: "unused".into(),
            size,
            block_size: 4096,
            segment_size,
        }
    }

    #[test]
    fn a_size_that_is_no_multiple_of_the_block_is_refused_with_the_next_one() {
        let error = geometry(&args(10_000, 64 << 20)).unwrap_err();
        assert_eq!(Exit::of(&error), Exit::Unusable);
        assert!(error.to_string().contains("12288"));
    }

    #[test]
    fn segment_sizes_are_bounded() {
        assert!(matches!(geometry(&args(8192, 1000)), Err(Error::Volume(_))));
        assert_eq!(geometry(&args(8192, 1 << 20)).unwrap().blocks, 2);
    }
}
