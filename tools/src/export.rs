//! `seawall export`: the state at an LSN as a sparse raw image.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_snapshot::{Access, View, Volume};
use seawall_wal::disk::{self, Buffer, Disk, File, OpenMode};
use seawall_wal::{Lsn, ReplayReport};

use crate::common::{self, PIECE_BYTES};
use crate::error::Error;
use crate::exit::Exit;
use crate::runs::{Run, runs};

/// Looks at a volume that changes under our eyes, at most.
const LOOKS_MAX: u32 = 5;

/// Writes the state at the head, or at an LSN, as a sparse raw image.
///
/// Only reads the volume: it may be in use, damaged, or on a medium that cannot be written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume
    pub dir: PathBuf,
    /// The raw image to write; it appears only when it is whole
    pub file: PathBuf,
    /// Export the exact state at this LSN
    #[arg(long)]
    pub at: Option<u64>,
}

/// Runs the command.
///
/// # Errors
/// A state that cannot be given exactly is refused: it was reclaimed, lies beyond the head, or a
/// record below it is damaged. `FILE` is then as it was.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::disk();
    if disk::list(disk.as_ref(), &args.file).is_ok() {
        return Err(Error::BadPath {
            path: args.file.clone(),
            what: "is a directory",
            hint: "give the name of the image to write",
        });
    }
    let (lsn, data) = look(&disk, args)?;
    writeln!(
        out,
        "exported the state at LSN {lsn} of {} to {}, {data} bytes of data",
        args.dir.display(),
        args.file.display()
    )?;
    Ok(Exit::Fine)
}

/// Exports what is there now. A volume in use may change meanwhile: then what was read is not one
/// state, and it is looked at again (D24).
fn look(disk: &Arc<dyn Disk>, args: &Args) -> Result<(Lsn, u64), Error> {
    for _ in 0..LOOKS_MAX {
        let (volume, report) = common::open(disk, &args.dir, Access::ReadOnly)?;
        let seen = volume.meta().get();
        let result = export(disk, args, &volume, &report);
        let moved = || !common::peek(disk, &args.dir).is_ok_and(|now| now == seen);
        match &result {
            Err(error) if may_come_from_a_move(error) && moved() => {}
            _ => return result,
        }
    }
    Err(Error::Moving {
        dir: args.dir.clone(),
        looks: LOOKS_MAX,
    })
}

/// What a reader meets whose blocks or segments the owner of the volume uses for something else.
fn may_come_from_a_move(error: &Error) -> bool {
    use seawall_snapshot::Error as V;
    use seawall_wal::Error as W;
    let (Error::Volume(error) | Error::At { source: error, .. }) = error else {
        return false;
    };
    match error {
        V::Overtaken { .. } | V::ImageDamaged { .. } => true,
        V::Log(W::Hole { .. } | W::Corrupt(_) | W::Reclaimed { .. }) => true,
        V::Log(error) => common::is_gone(error),
        _ => false,
    }
}

fn export(
    disk: &Arc<dyn Disk>,
    args: &Args,
    volume: &Arc<Volume>,
    report: &ReplayReport,
) -> Result<(Lsn, u64), Error> {
    let lsn = target(args, volume, report)?;
    let view = volume
        .state_at(lsn, "export")
        .map_err(|source| common::at(&args.dir, source))?;
    let data = write_image(disk, &view, &args.file)?;
    Ok((lsn, data))
}

/// The LSN to export. With damage below the frontier only a state before it may be asked for.
fn target(args: &Args, volume: &Volume, report: &ReplayReport) -> Result<Lsn, Error> {
    let asked = args.at.map(Lsn::new);
    let before_damage = asked.is_some_and(|lsn| lsn <= volume.log().applied());
    if !before_damage && let Some(error) = common::damaged(&args.dir, report) {
        return Err(error);
    }
    Ok(asked.unwrap_or_else(|| volume.log().frontiers().head))
}

/// Writes `view` beside `path`, syncs it, then gives it the name. Returns the bytes of data.
fn write_image(disk: &Arc<dyn Disk>, view: &dyn View, path: &Path) -> Result<u64, Error> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written = write_part(disk, view, &part).and_then(|data| {
        disk::rename(disk.as_ref(), &part, path)?;
        Ok(data)
    });
    if written.is_err() {
        // OK because the first error is the one to report; the name says what the file is.
        drop(disk::remove(disk.as_ref(), &part));
    }
    let data = written?;
    disk::sync_dir(disk.as_ref(), common::parent_of(path))?;
    Ok(data)
}

fn write_part(disk: &Arc<dyn Disk>, view: &dyn View, part: &Path) -> Result<u64, Error> {
    let file = File::open(disk, part, OpenMode::CreateOrOpen)?;
    file.set_length(0)?;
    file.set_length(view.size())?;
    let bar = common::progress(view.size(), "export");
    let mut data = 0;
    for_each_piece(view, &mut |offset, bytes| {
        bar.set_position(offset);
        data += write_data(&file, offset, bytes)?;
        Ok(())
    })?;
    file.sync()?;
    bar.finish_and_clear();
    Ok(data)
}

/// Takes one piece of a state: its byte offset and its bytes.
type EachPiece<'a> = &'a mut dyn FnMut(u64, &[u8]) -> Result<(), Error>;

/// Calls `each` with every piece of the state that may hold data, in order.
pub(crate) fn for_each_piece(view: &dyn View, each: EachPiece<'_>) -> Result<(), Error> {
    let mut at = 0;
    while let Some((first, last)) = view.next_data(at)? {
        at = first;
        while at < last {
            let end = (at + 1).next_multiple_of(PIECE_BYTES).min(last);
            let length = usize::try_from(end - at).expect("a piece is at most 1 MiB");
            let mut bytes = vec![0; length];
            view.read(at, &mut bytes)?;
            each(at, &bytes)?;
            at = end;
        }
    }
    Ok(())
}

/// Writes the runs that are not zero.
fn write_data(file: &File, offset: u64, bytes: &[u8]) -> Result<u64, Error> {
    let mut data = 0;
    for run in runs(bytes, 4096) {
        if let Run::Data(range) = run {
            data += range.len() as u64;
            let at = offset + range.start as u64;
            file.write_bytes(at, Buffer::copy_of(&bytes[range]))?;
        }
    }
    Ok(data)
}
