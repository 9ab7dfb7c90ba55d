//! `seawall import`: a raw image through the engine.
//!
//! The bytes of the image replace those of the volume from 0 on; what lies behind the end of a
//! smaller image is left as it is. Holes and zeros of the image become holes, and cost nothing
//! where the volume holds none. Everything before a flush survives a kill at any moment after it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use indicatif::ProgressBar;
use seawall_snapshot::{Access, Volume};
use seawall_wal::disk::{Buffer, File, OpenMode};

use crate::common;
use crate::copy;
use crate::edge;
use crate::error::Error;
use crate::exit::Exit;

/// Bytes between two flushes.
const WINDOW_BYTES: u64 = 16 << 20;

/// Writes a raw image through the engine: sparse-aware, flushed every 16 MiB.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume
    pub dir: PathBuf,
    /// The raw image; it may be smaller than the volume, the rest stays as it is
    pub file: PathBuf,
    /// Appends the number of bytes that are durable after each flush, one line each
    #[arg(long, hide = true)]
    pub acks: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// [`Error::InputTooLarge`] before anything is written; otherwise what the volume says.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::serving_disk()?;
    let (image, bytes) = common::open_input(&disk, &args.file)?;
    let size = common::peek(&disk, &args.dir)?.geometry.bytes();
    if bytes > size {
        return Err(Error::InputTooLarge {
            file: args.file.clone(),
            bytes,
            dir: args.dir.clone(),
            size,
        });
    }
    let mut acks = args.acks.as_deref().map(Acks::open).transpose()?;
    let volume = common::open_whole(&disk, &args.dir, Access::Primary)?;
    let bar = common::progress(bytes, "import");
    copy_all(&image, bytes, &volume, acks.as_mut(), &bar)?;
    bar.finish_and_clear();
    let head = volume.log().frontiers().durable;
    volume.close()?;
    writeln!(
        out,
        "imported {bytes} bytes of {} into {}, durable through LSN {head}",
        args.file.display(),
        args.dir.display()
    )?;
    Ok(Exit::Fine)
}

/// Writes here, flushes on a second thread, so that neither waits for the other.
fn copy_all(
    image: &File,
    bytes: u64,
    volume: &Volume,
    acks: Option<&mut Acks>,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let (ends, flushes) = sync_channel(1);
    let (flushed, copied) = edge::beside(
        move || flush_each(flushes, volume, acks),
        || copy_windows(image, bytes, volume, ends, bar),
    );
    // OK because a failed flush also ends the copying: its error is the cause.
    flushed?;
    copied
}

/// Copies window after window and hands each end to the flusher.
fn copy_windows(
    image: &File,
    bytes: u64,
    volume: &Volume,
    ends: SyncSender<u64>,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let mut start = 0;
    while start < bytes {
        let end = (start + WINDOW_BYTES).min(bytes);
        copy::range(image, start, end - start, volume, start)?;
        bar.set_position(end);
        if ends.send(end).is_err() {
            break;
        }
        start = end;
    }
    Ok(())
}

/// Flushes for every end that arrives and records it.
fn flush_each(
    ends: Receiver<u64>,
    volume: &Volume,
    mut acks: Option<&mut Acks>,
) -> Result<(), Error> {
    for end in ends {
        let durable = volume.flush()?;
        volume.log().commit(durable)?;
        if let Some(acks) = acks.as_deref_mut() {
            acks.append(end)?;
        }
    }
    Ok(())
}

/// A file that takes one line for each flush.
struct Acks {
    file: File,
    at: u64,
}

impl Acks {
    fn open(path: &Path) -> Result<Acks, Error> {
        let file = File::open(&common::disk(), path, OpenMode::CreateOrOpen)?;
        let at = file.length()?;
        Ok(Acks { file, at })
    }

    fn append(&mut self, bytes: u64) -> Result<(), Error> {
        let line = format!("{bytes}\n");
        self.file
            .write_bytes(self.at, Buffer::copy_of(line.as_bytes()))?;
        self.at += line.len() as u64;
        Ok(())
    }
}
