//! Blocking calls over the seam: an open file with its path, and what is done to names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Buffer, Bytes, Disk, FileId, MappedFile, OpenMode, Operation, Output};
use crate::error::{Error, IoOp};

/// An open file with its path, for blocking edges and for errors that name the place.
///
/// Every call waits for its end. Dropping it closes the handle.
#[derive(Debug)]
pub struct File {
    disk: Arc<dyn Disk>,
    id: FileId,
    path: PathBuf,
}

fn unexpected(output: &Output) -> std::io::Error {
    std::io::Error::other(format!("backend answered with {output:?}"))
}

fn run(
    disk: &dyn Disk,
    op: IoOp,
    path: &Path,
    offset: Option<u64>,
    operation: Operation,
) -> Result<Output, Error> {
    disk.run(operation)
        .map_err(|source| Error::io(op, path, offset, source))
}

/// Names in `path`, sorted.
///
/// # Errors
/// [`Error::Io`] when the directory cannot be read.
pub fn list(disk: &dyn Disk, path: &Path) -> Result<Vec<String>, Error> {
    match run(
        disk,
        IoOp::List,
        path,
        None,
        Operation::List { path: path.into() },
    )? {
        Output::Names(names) => Ok(names),
        other => Err(Error::io(IoOp::List, path, None, unexpected(&other))),
    }
}

/// Creates the directory `path`; an existing one is fine. Its name is durable after [`sync_dir`]
/// of the parent.
///
/// # Errors
/// [`Error::Io`].
pub fn make_dir(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    run(
        disk,
        IoOp::MakeDir,
        path,
        None,
        Operation::MakeDir { path: path.into() },
    )
    .map(drop)
}

/// Makes the names in `path` durable.
///
/// # Errors
/// [`Error::Io`].
pub fn sync_dir(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    run(
        disk,
        IoOp::SyncDir,
        path,
        None,
        Operation::SyncDir { path: path.into() },
    )
    .map(drop)
}

/// Removes a file or a directory with all it holds; a missing name is fine.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(disk: &dyn Disk, path: &Path) -> Result<(), Error> {
    run(
        disk,
        IoOp::Remove,
        path,
        None,
        Operation::Remove { path: path.into() },
    )
    .map(drop)
}

/// Renames `from` over `to`. Durable after [`sync_dir`].
///
/// # Errors
/// [`Error::Io`].
pub fn rename(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), Error> {
    let operation = Operation::Rename {
        from: from.into(),
        to: to.into(),
    };
    run(disk, IoOp::Rename, from, None, operation).map(drop)
}

impl File {
    /// Opens `path`.
    ///
    /// # Errors
    /// [`Error::Io`] with the reason of the operating system.
    pub fn open(disk: &Arc<dyn Disk>, path: &Path, mode: OpenMode) -> Result<File, Error> {
        File::open_with(disk, path, mode, false)
    }

    /// Opens `path` so that aligned writes, or with [`OpenMode::Read`] all reads, go past the page
    /// cache where the file system can.
    ///
    /// # Errors
    /// As [`File::open`].
    pub fn open_direct(disk: &Arc<dyn Disk>, path: &Path, mode: OpenMode) -> Result<File, Error> {
        File::open_with(disk, path, mode, true)
    }

    fn open_with(
        disk: &Arc<dyn Disk>,
        path: &Path,
        mode: OpenMode,
        direct: bool,
    ) -> Result<File, Error> {
        let operation = Operation::Open {
            path: path.into(),
            mode,
            direct,
        };
        match run(disk.as_ref(), IoOp::Open, path, None, operation)? {
            Output::File(id) => Ok(File {
                disk: Arc::clone(disk),
                id,
                path: path.into(),
            }),
            other => Err(Error::io(IoOp::Open, path, None, unexpected(&other))),
        }
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The handle, for operations submitted without waiting.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// The disk it lives on.
    #[must_use]
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn run(&self, op: IoOp, offset: Option<u64>, operation: Operation) -> Result<Output, Error> {
        run(self.disk.as_ref(), op, &self.path, offset, operation)
    }

    /// Reads up to `length` bytes at `offset`; shorter only at the end of the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(&self, offset: u64, length: usize) -> Result<Buffer, Error> {
        self.read_into(offset, Buffer::zeroed(length))
    }

    /// Reads into `buffer`, which is cut to what the file gave.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read_into(&self, offset: u64, buffer: Buffer) -> Result<Buffer, Error> {
        let operation = Operation::Read {
            file: self.id,
            offset,
            buffer,
        };
        match self.run(IoOp::Read, Some(offset), operation)? {
            Output::Read { mut buffer, filled } => {
                buffer.truncate(filled);
                Ok(buffer)
            }
            other => Err(Error::io(
                IoOp::Read,
                &self.path,
                Some(offset),
                unexpected(&other),
            )),
        }
    }

    /// Reads exactly `length` bytes at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`], of kind `UnexpectedEof` when the file is too short.
    pub fn read_exact(&self, offset: u64, length: usize) -> Result<Buffer, Error> {
        let buffer = self.read(offset, length)?;
        if buffer.len() < length {
            let source = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(Error::io(IoOp::Read, &self.path, Some(offset), source));
        }
        Ok(buffer)
    }

    /// Writes the buffers one behind the other at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`]; what reached the file is then unknown.
    pub fn write(&self, offset: u64, buffers: Vec<Bytes>) -> Result<(), Error> {
        let operation = Operation::Write {
            file: self.id,
            offset,
            buffers,
            durable: false,
        };
        self.run(IoOp::Write, Some(offset), operation).map(drop)
    }

    /// Writes one buffer at `offset`.
    ///
    /// # Errors
    /// As [`File::write`].
    pub fn write_bytes(&self, offset: u64, bytes: Buffer) -> Result<(), Error> {
        self.write(offset, vec![Arc::new(bytes)])
    }

    /// Writes the buffers one behind the other at `offset`; when it returns, exactly these bytes
    /// are durable.
    ///
    /// # Errors
    /// [`Error::Io`]; the bytes must then be taken as lost (L3).
    pub fn write_durable(&self, offset: u64, buffers: Vec<Bytes>) -> Result<(), Error> {
        let operation = Operation::Write {
            file: self.id,
            offset,
            buffers,
            durable: true,
        };
        self.run(IoOp::Write, Some(offset), operation).map(drop)
    }

    /// Makes `length` bytes at `offset` read zero and be written space; durable after a sync.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write_zeros(&self, offset: u64, length: u64) -> Result<(), Error> {
        let operation = Operation::WriteZeros {
            file: self.id,
            offset,
            length,
        };
        self.run(IoOp::Write, Some(offset), operation).map(drop)
    }

    /// Makes every completed write durable.
    ///
    /// # Errors
    /// [`Error::Io`]; the bytes must then be taken as lost (L3).
    pub fn sync(&self) -> Result<(), Error> {
        self.run(IoOp::Sync, None, Operation::Sync { file: self.id })
            .map(drop)
    }

    /// Makes every completed write of several files durable, with the syncs in flight together.
    ///
    /// # Errors
    /// As [`File::sync`], of the first file whose sync failed; every sync has ended by then.
    pub(crate) fn sync_all<'a>(files: impl Iterator<Item = &'a File>) -> Result<(), Error> {
        let under_way: Vec<_> = files
            .map(|file| (file, file.disk.submit(Operation::Sync { file: file.id })))
            .collect();
        let mut first = Ok(());
        for (file, token) in under_way {
            let synced = file.disk.wait(token).map(drop);
            let synced = synced.map_err(|source| Error::io(IoOp::Sync, &file.path, None, source));
            first = first.and(synced);
        }
        first
    }

    /// Size in bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn length(&self) -> Result<u64, Error> {
        match self.run(IoOp::Length, None, Operation::Length { file: self.id })? {
            Output::Length(length) => Ok(length),
            other => Err(Error::io(
                IoOp::Length,
                &self.path,
                None,
                unexpected(&other),
            )),
        }
    }

    /// Sets the size, with a hole where it grows.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn set_length(&self, length: u64) -> Result<(), Error> {
        let operation = Operation::SetLength {
            file: self.id,
            length,
        };
        self.run(IoOp::SetLength, Some(length), operation).map(drop)
    }

    /// Makes `length` bytes at `offset` read zero.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn punch_hole(&self, offset: u64, length: u64) -> Result<(), Error> {
        let operation = Operation::PunchHole {
            file: self.id,
            offset,
            length,
        };
        self.run(IoOp::PunchHole, Some(offset), operation).map(drop)
    }

    /// Makes `length` bytes at `offset` those that `from` has at `from_offset`, and shares their
    /// space where the file system can; durable after a sync. Both files are of the same disk.
    ///
    /// # Errors
    /// [`Error::Io`], of kind `UnexpectedEof` when `from` is too short.
    pub fn copy_from(
        &self,
        offset: u64,
        from: &File,
        from_offset: u64,
        length: u64,
    ) -> Result<(), Error> {
        let operation = Operation::Copy {
            from: from.id,
            from_offset,
            file: self.id,
            offset,
            length,
        };
        self.run(IoOp::Copy, Some(offset), operation).map(drop)
    }

    /// Whether [`File::copy_from`] of this file or onto it is expected to share space.
    #[must_use]
    pub fn copies_share(&self) -> bool {
        self.disk.copies_share(self.id)
    }

    /// First byte range `[first, second)` at or behind `offset` that may hold data.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        let operation = Operation::NextData {
            file: self.id,
            offset,
        };
        match self.run(IoOp::NextData, Some(offset), operation)? {
            Output::Data(range) => Ok(range),
            other => Err(Error::io(
                IoOp::NextData,
                &self.path,
                Some(offset),
                unexpected(&other),
            )),
        }
    }

    /// Takes the exclusive advisory lock, held until this value is dropped.
    ///
    /// # Errors
    /// [`Error::Io`] of kind `WouldBlock` when another handle holds it.
    pub fn lock(&self) -> Result<(), Error> {
        self.run(IoOp::Lock, None, Operation::Lock { file: self.id })
            .map(drop)
    }

    /// A read-only view of `length` bytes at `offset`, where the backend can map files (D23).
    #[must_use]
    pub fn map(&self, offset: u64, length: usize) -> Option<MappedFile> {
        self.disk.map(self.id, offset, length)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // OK because durability comes from `sync` alone: a failed close loses nothing we promised.
        drop(self.disk.run(Operation::Close { file: self.id }));
    }
}
