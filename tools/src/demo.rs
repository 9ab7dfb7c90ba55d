//! `seawall demo`: the whole story in one run.
//!
//! A primary and two replicas run as processes of this very program on loopback. Real data is
//! written while everything that can happen to a replica happens to one of them. At the end every
//! copy is compared byte by byte and by digest. Nothing but cargo is needed.

mod compare;
mod node;
mod pack;
mod story;
mod timeline;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use seawall_wal::disk::{self, Disk};

use crate::common;
use crate::edge;
use crate::error::Error;
use crate::exit::Exit;

pub use compare::{Comparison, Copy};
pub use timeline::Step;

/// Runs the whole story: replication, loss, every kind of recovery, and the proof that all copies
/// are equal.
#[derive(Debug, Default, clap::Args)]
pub struct Args {
    /// A file to store; otherwise the files of this repository are packed into one
    #[arg(long)]
    pub input: Option<PathBuf>,
    /// Directory for the copies, new or empty; it stays. Otherwise a temporary one is used
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Print one JSON object at the end
    #[arg(long)]
    pub json: bool,
    /// Change one byte of the copy with this name before the last comparison
    #[arg(long, hide = true, value_name = "ID")]
    pub tamper: Option<String>,
}

/// What the story works with.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Where the copies live.
    root: PathBuf,
    /// The data to store.
    input: PathBuf,
    /// Its size.
    bytes: u64,
    /// Set by SIGINT and SIGTERM; every wait ends then.
    stop: Arc<AtomicBool>,
    /// Removes `root` when dropped, unless it was asked for.
    _temporary: Option<tempfile::TempDir>,
}

impl Stage {
    /// The directory of copy `id`.
    fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }
}

/// Runs the command.
///
/// # Errors
/// A node that fails, a recovery that does not end in time, an unusable `--input` or `--dir`.
/// Copies that differ are [`Exit::Found`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let stage = set_up(args)?;
    let mut timeline = timeline::Timeline::new(args.json);
    timeline.open(&stage, out)?;
    let lsn = story::play(&stage, &mut timeline, out)?;
    if let Some(id) = &args.tamper {
        compare::tamper(&stage.dir(id))?;
    }
    let started = edge::now();
    let comparison = compare::compare(&stage, lsn)?;
    timeline.add(comparison.step(started.elapsed()), out)?;
    timeline.close(&comparison, out)?;
    Ok(match comparison.equal {
        true => Exit::Fine,
        false => Exit::Found,
    })
}

fn set_up(args: &Args) -> Result<Stage, Error> {
    let disk = common::disk();
    if let Some(input) = &args.input {
        check_input(&disk, input)?;
    }
    let temporary = match args.dir {
        None => Some(tempfile::Builder::new().prefix("seawall-demo-").tempdir()?),
        Some(_) => None,
    };
    let root = match (&temporary, &args.dir) {
        (Some(temporary), _) => temporary.path().to_path_buf(),
        (None, Some(dir)) => fresh(dir)?,
        (None, None) => unreachable!("one of the two was just made"),
    };
    let input = match &args.input {
        Some(input) => input.clone(),
        None => {
            let packed = root.join("input.img");
            pack::pack(&disk, &packed)?;
            packed
        }
    };
    let bytes = check_input(&disk, &input)?;
    Ok(Stage {
        root,
        input,
        bytes,
        stop: edge::stop_flag()?,
        _temporary: temporary,
    })
}

/// The size of a file that is large enough.
fn check_input(disk: &Arc<dyn Disk>, path: &Path) -> Result<u64, Error> {
    match common::open_input(disk, path)?.1 {
        bytes if bytes < story::INPUT_BYTES_MIN => Err(Error::BadPath {
            path: path.into(),
            what: "is smaller than 1 MiB",
            hint: "give a larger file to store",
        }),
        bytes => Ok(bytes),
    }
}

/// The directory for `--dir`, made if it is missing, refused if it holds anything.
fn fresh(dir: &Path) -> Result<PathBuf, Error> {
    let disk = common::disk();
    match disk::list(disk.as_ref(), dir) {
        Ok(names) if names.is_empty() => Ok(dir.into()),
        Ok(_) => Err(Error::BadPath {
            path: dir.into(),
            what: "is not empty",
            hint: "give a new directory",
        }),
        Err(_) => {
            disk::make_dir(disk.as_ref(), dir)?;
            Ok(dir.into())
        }
    }
}
