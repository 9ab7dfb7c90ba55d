//! What the commands share: opening, sizes, progress.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use seawall_snapshot::{Access, Error as VolumeError, Volume};
use seawall_wal::disk::{self, Choice, Disk, File, FileDisk, OpenMode};
use seawall_wal::{
    Clock, Error as WalError, Meta, MetaContents, ReplayReport, ScanEnd, SystemClock,
};

use crate::error::Error;

/// Bytes moved by one read or write of a command.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;

/// Between two signs of life.
const TICK: Duration = Duration::from_millis(200);

/// How often a live volume is looked at again when a file vanished under the reader (D24).
const LOOKS_MAX: u32 = 10;

/// The backend of commands that look, or change little.
pub(crate) fn disk() -> Arc<dyn Disk> {
    FileDisk::new()
}

/// The backend of commands that take writes: the best that the machine has, and it knows why it is
/// not a better one.
pub(crate) fn serving_disk() -> Result<Arc<dyn Disk>, Error> {
    Ok(disk::open_backend(Choice::Auto)?)
}

/// The clocks of the machine.
pub(crate) fn clock() -> Arc<dyn Clock> {
    SystemClock::new()
}

/// Refuses a directory that is missing or holds no volume, before anything could be created in it.
pub(crate) fn check_volume(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
    let names = match disk::list(disk.as_ref(), dir) {
        Ok(names) => names,
        Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::NoDirectory { path: dir.into() });
        }
        Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            return Err(Error::BadPath {
                path: dir.into(),
                what: "is no directory",
                hint: "give the directory of a volume",
            });
        }
        Err(other) => return Err(other.into()),
    };
    match names.iter().any(|name| name == "meta") {
        true => Ok(()),
        false => Err(WalError::NotAVolume {
            path: dir.into(),
            why: "it has no file meta",
        }
        .into()),
    }
}

/// Refuses a directory whose parent is missing: nothing could be made in it.
pub(crate) fn check_parent(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
    let parent = parent_of(dir);
    match disk::list(disk.as_ref(), parent) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::BadPath {
            path: parent.into(),
            what: "is no directory that can be listed",
            hint: "make it first",
        }),
    }
}

/// The directory that holds `path`.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

/// What meta says, without opening the volume.
pub(crate) fn peek(disk: &Arc<dyn Disk>, dir: &Path) -> Result<MetaContents, Error> {
    check_volume(disk, dir)?;
    Ok(Meta::open(disk, dir, false)?.get())
}

/// Opens a file to take data from, and gives its size.
pub(crate) fn open_input(disk: &Arc<dyn Disk>, path: &Path) -> Result<(File, u64), Error> {
    let refuse = |what| Error::BadPath {
        path: path.into(),
        what,
        hint: "give a raw image file",
    };
    if disk::list(disk.as_ref(), path).is_ok() {
        return Err(refuse("is a directory"));
    }
    let file = File::open(disk, path, OpenMode::Read)?;
    match file.length()? {
        0 => Err(refuse("has no bytes, or is no regular file")),
        bytes => Ok((file, bytes)),
    }
}

/// Opens the volume in `dir`.
pub(crate) fn open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    access: Access,
) -> Result<(Arc<Volume>, ReplayReport), Error> {
    check_volume(disk, dir)?;
    let mut attempts = 1;
    loop {
        match Volume::open(disk, dir, &clock(), access) {
            Err(VolumeError::Log(error))
                if access == Access::ReadOnly && is_gone(&error) && attempts < LOOKS_MAX =>
            {
                attempts += 1;
            }
            other => return Ok(other?),
        }
    }
}

/// A file that was there a moment ago has been removed, by the owner of a live volume.
pub(crate) fn is_gone(error: &WalError) -> bool {
    matches!(error, WalError::Io { source, .. }
        if source.kind() == std::io::ErrorKind::NotFound)
}

/// Opens a volume to change it: damage below the frontier is an error that names the first place.
pub(crate) fn open_whole(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    access: Access,
) -> Result<Arc<Volume>, Error> {
    let (volume, report) = open(disk, dir, access)?;
    match damaged(dir, &report) {
        None => Ok(volume),
        Some(error) => Err(error),
    }
}

/// The first loss that replay reports, as an error (D14).
pub(crate) fn damaged(dir: &Path, report: &ReplayReport) -> Option<Error> {
    let ScanEnd::Damaged(losses) = &report.end else {
        return None;
    };
    let first = losses.places.first()?;
    Some(Error::Damaged {
        dir: dir.into(),
        at: Box::new(first.at.clone()),
        lsns: first.lsns,
        applied: losses.applied,
    })
}

/// Adds the directory to errors that do not name it.
pub(crate) fn at(dir: &Path, source: VolumeError) -> Error {
    let anonymous = match &source {
        VolumeError::OutOfRange { .. }
        | VolumeError::StateReclaimed { .. }
        | VolumeError::StateBeyondHead { .. }
        | VolumeError::InstallMismatch { .. } => true,
        VolumeError::Log(inner) => matches!(
            inner,
            WalError::Reclaimed { .. }
                | WalError::BeyondHead { .. }
                | WalError::Hole { .. }
                | WalError::Chain { .. }
                | WalError::Geometry { .. }
                | WalError::PinBroken { .. }
                | WalError::Closed
        ),
        _ => false,
    };
    match anonymous {
        true => Error::At {
            dir: dir.into(),
            source,
        },
        false => Error::Volume(source),
    }
}

/// A number of bytes: digits, then nothing or one of K, M, G, T (powers of 1024).
///
/// # Errors
/// A text for the person who typed it.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        _ => return Err(format!("{text} has no known unit; use K, M, G or T")),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text} is no size; write 4096, 64M or 10G"))?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is more than 2^64 bytes"))
}

/// A bar on standard error, if that is a terminal.
pub(crate) fn progress(bytes: u64, verb: &'static str) -> ProgressBar {
    let template = "{prefix} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    let bar = ProgressBar::new(bytes).with_style(style);
    bar.with_prefix(verb).with_finish(ProgressFinish::AndClear)
}

/// As [`progress`], of things that are counted.
pub(crate) fn counter(count: u64, verb: &'static str) -> ProgressBar {
    let template = "{prefix} {bar:30} {pos}/{len} {per_sec} {eta}";
    let style = ProgressStyle::with_template(template).expect("the template is constant");
    let bar = ProgressBar::new(count).with_style(style);
    bar.with_prefix(verb).with_finish(ProgressFinish::AndClear)
}

/// A sign of life on standard error, if that is a terminal, for work that does not tell how far it
/// is. It goes away when dropped.
pub(crate) fn spinner(verb: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {spinner} {elapsed}");
    let style = style.expect("the template is constant");
    let bar = ProgressBar::new_spinner().with_style(style);
    let bar = bar.with_prefix(verb).with_finish(ProgressFinish::AndClear);
    bar.tick();
    bar.enable_steady_tick(TICK);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("4096", 4096),
            ("4k", 4096),
            ("64M", 64 << 20),
            ("10G", 10 << 30),
            ("2TiB", 2 << 40),
            ("0", 0),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn a_size_without_number_or_with_unknown_unit_is_refused() {
        for text in ["", "G", "10X", "-1", "1.5G", "99999999999T"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_missing_directory_and_one_without_a_volume_are_told_apart() {
        let disk = disk();
        let dir = tempfile::tempdir().unwrap();
        let missing = check_volume(&disk, &dir.path().join("none"));
        assert!(matches!(missing, Err(Error::NoDirectory { .. })));
        let empty = check_volume(&disk, dir.path()).unwrap_err();
        assert!(empty.to_string().contains("is not a Seawall volume"));
        assert_eq!(crate::exit::Exit::of(&empty), crate::exit::Exit::Unusable);
    }
}
