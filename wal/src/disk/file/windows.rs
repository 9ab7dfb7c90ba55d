//! System calls of Windows.
#![expect(
    clippy::disallowed_types,
    reason = "this backend is where files are opened"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::windows::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::open::Direct;
use crate::disk::OpenMode;

/// `ERROR_INVALID_HANDLE`.
const INVALID_HANDLE: i32 = 6;
/// `FILE_FLAG_BACKUP_SEMANTICS`, without which a directory cannot be opened.
const BACKUP_SEMANTICS: u32 = 0x0200_0000;

/// What the system says to a closed handle.
pub(super) fn bad_handle_code() -> i32 {
    INVALID_HANDLE
}

pub(super) fn open(path: &Path, mode: OpenMode) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match mode {
        OpenMode::Read => {}
        OpenMode::ReadWrite => drop(options.write(true)),
        OpenMode::CreateNew => drop(options.write(true).create_new(true)),
        OpenMode::CreateOrOpen => drop(options.write(true).create(true)),
    }
    options.open(path)
}

/// Zero bytes behind the end of the file.
pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.seek_read(bytes, offset)
}

/// One slice; the rest follows.
pub(super) fn write_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let first = slices.iter().find(|slice| !slice.is_empty());
    first.map_or(Ok(0), |slice| file.seek_write(slice, offset))
}

/// Not known here: a write and a flush take its place.
pub(super) fn write_durable_at(_: &File, _: &[IoSlice<'_>], _: u64) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Not known here.
pub(super) fn forget_cached(_: &File) {}

pub(super) fn open_direct(_: &File, _: OpenMode) -> Option<Direct> {
    None
}

pub(super) fn copies_share(_: &File) -> bool {
    false
}

pub(super) fn copy_range(_: &File, _: u64, _: &File, _: u64, _: u64) -> io::Result<u64> {
    Ok(0)
}

pub(super) fn zero_range(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn deallocate(_: &File, _: u64, _: u64) -> io::Result<bool> {
    Ok(false)
}

/// Everything may hold data.
pub(super) fn next_data(_: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    Ok(Some((offset, size)))
}

/// `FlushFileBuffers` of the directory, which needs a handle that may write.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options.custom_flags(BACKUP_SEMANTICS);
    let directory = options.open(path)?;
    match directory.metadata()?.is_dir() {
        true => directory.sync_all(),
        false => Err(io::ErrorKind::NotADirectory.into()),
    }
}
