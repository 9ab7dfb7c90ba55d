//! The only seam to files: operations are submitted and complete, in any order (D22).
//!
//! Contract of a backend. It MUST hold for every implementation; one suite checks it.
//!
//! - `submit` never blocks on another operation's completion, save that `Close` may finish what is
//!   in flight on its handle, and returns a token that is used once.
//! - Every operation completes exactly once; `take` gives its completion away once.
//! - Operations in flight complete in any order. Order comes only from waiting for one completion
//!   before the next submission.
//! - A buffer belongs to the backend from `submit` until its completion, which hands it back.
//! - `Write` completes with `Done` only when every byte was taken by the operating system; a short
//!   transfer is an error (L-W6). Its bytes are durable only after a `Sync` of that file that was
//!   submitted after the write completed.
//! - `Read` may be short only at the end of the file, and says how much it got.
//! - A created, renamed or removed name is durable only after a `SyncDir` of its directory.
//! - Nothing is retried. A failed `Sync` means that the bytes are lost (L3).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, IoOp};

mod buffer;
#[cfg(test)]
mod contract;
mod file;
mod map;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(feature = "sim")]
pub mod sim;

pub use buffer::Buffer;
pub use file::FileDisk;

/// Bytes that are written by one `pwrite`-sized operation: shared, so that the caller keeps them.
pub type Bytes = Arc<Buffer>;

/// Names one open file of one [`Disk`]. Never reused by that disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u64);

/// Names one submitted operation of one [`Disk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token(pub u64);

/// How `Open` treats a name that does or does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Existing file, never written through this handle.
    Read,
    /// Existing file.
    ReadWrite,
    /// New file; an existing one is an error.
    CreateNew,
    /// New or existing file.
    CreateOrOpen,
}

/// One operation on the medium.
#[derive(Debug)]
pub enum Operation {
    /// Opens a file: [`Output::File`].
    Open {
        /// Its path.
        path: PathBuf,
        /// How an existing or missing name is treated.
        mode: OpenMode,
        /// Aligned writes go past the page cache where the file system can. Reads do not.
        direct: bool,
    },
    /// Closes a handle: [`Output::Done`]. Operations in flight on it are finished first.
    Close {
        /// The handle.
        file: FileId,
    },
    /// Reads at an offset into `buffer`, as many bytes as it is long: [`Output::Read`].
    Read {
        /// The handle.
        file: FileId,
        /// Byte offset in the file.
        offset: u64,
        /// Where the bytes go.
        buffer: Buffer,
    },
    /// Writes the buffers one behind the other at an offset: [`Output::Done`].
    Write {
        /// The handle.
        file: FileId,
        /// Byte offset in the file.
        offset: u64,
        /// The bytes.
        buffers: Vec<Bytes>,
        /// Completes only once exactly these bytes are durable, as if a `Sync` of nothing else had
        /// followed.
        durable: bool,
    },
    /// Makes every completed write of the file durable, its size included: [`Output::Done`].
    Sync {
        /// The handle.
        file: FileId,
    },
    /// Current size of the file: [`Output::Length`].
    Length {
        /// The handle.
        file: FileId,
    },
    /// Sets the size of the file, with a hole where it grows: [`Output::Done`].
    SetLength {
        /// The handle.
        file: FileId,
        /// New size in bytes.
        length: u64,
    },
    /// Makes a byte range read zero, with a hole where the file system can, and leaves the size as
    /// it is: [`Output::Done`].
    PunchHole {
        /// The handle.
        file: FileId,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// First byte range at or behind `offset` that may hold data: [`Output::Data`]. A backend that
    /// cannot tell answers with everything behind `offset`.
    NextData {
        /// The handle.
        file: FileId,
        /// Where to look from.
        offset: u64,
    },
    /// Takes the exclusive advisory lock of the file, or fails with `WouldBlock` when another
    /// handle holds it, after a second at most: a killed holder is given that long to go (L-U7).
    /// [`Output::Done`]. The lock lasts until the handle is closed.
    Lock {
        /// The handle.
        file: FileId,
    },
    /// Names in a directory, sorted: [`Output::Names`].
    List {
        /// The directory.
        path: PathBuf,
    },
    /// Creates a directory; an existing one is fine: [`Output::Done`].
    MakeDir {
        /// The directory.
        path: PathBuf,
    },
    /// Renames a file or directory over `to`, atomically: [`Output::Done`].
    Rename {
        /// Old name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// Removes a file, or a directory with all it holds; a missing name is fine: [`Output::Done`].
    Remove {
        /// The name.
        path: PathBuf,
    },
    /// Makes the names in a directory durable: [`Output::Done`].
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
}

/// What a successful operation yields.
#[derive(Debug)]
pub enum Output {
    /// Nothing but success.
    Done,
    /// An open file.
    File(FileId),
    /// The buffer with `filled` bytes from the file; the rest of it is unspecified.
    Read {
        /// The buffer that was submitted.
        buffer: Buffer,
        /// Bytes read; less than asked only at the end of the file.
        filled: usize,
    },
    /// A size in bytes.
    Length(u64),
    /// A byte range `[first, second)` that may hold data, or `None` when only holes follow.
    Data(Option<(u64, u64)>),
    /// Sorted names.
    Names(Vec<String>),
}

/// Result of one operation.
pub type Completion = Result<Output, std::io::Error>;

/// A backend. See the module text for what it MUST do.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Hands an operation over.
    fn submit(&self, operation: Operation) -> Token;

    /// The completion of `token` if it is there, or `None` while it is in flight.
    fn take(&self, token: Token) -> Option<Completion>;

    /// Waits for the completion of `token`. A simulated disk steps until it is there.
    fn wait(&self, token: Token) -> Completion;

    /// Submits and waits; a backend may carry the operation out on the calling thread.
    fn run(&self, operation: Operation) -> Completion {
        self.wait(self.submit(operation))
    }

    /// Whether a write that is durable by itself is the better way here, many in flight at once, in
    /// place of writes followed by a `Sync`.
    fn durable_writes(&self) -> bool {
        false
    }

    /// Whether `submit` of a write returns before the write is carried out.
    fn overlaps(&self) -> bool {
        false
    }

    /// Which backend this is, as status reports it: "portable", "uring", "simulated".
    fn backend(&self) -> &'static str;

    /// Whether this disk is stepped by its user: then no edge may start a thread, and background
    /// work runs only when somebody calls `step` (D22).
    fn is_stepped(&self) -> bool {
        false
    }

    /// A read-only view of `length` bytes at `offset` of a file that nobody writes any more, where
    /// the backend can map files (D23).
    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        let _ = (file, offset, length);
        None
    }
}

pub use map::MappedFile;

/// Which backend to use on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring where the kernel has and allows it, else direct writes on Linux, else portable.
    #[default]
    Auto,
    /// io_uring, or an error where the kernel has none or forbids it (L-U4).
    Uring,
    /// Positional writes past the page cache, durable one by one. Linux only.
    Direct,
    /// Positional reads and writes through the page cache, and syncs.
    Portable,
}

/// Opens a backend; [`Disk::backend`] reports which one it is.
///
/// # Errors
/// [`Error::Backend`] when io_uring is forced on a system that has none or forbids it.
pub fn open_backend(choice: Choice) -> Result<Arc<dyn Disk>, Error> {
    match choice {
        Choice::Auto => Ok(open_ring().unwrap_or_else(|error| {
            tracing::info!(%error, "no io_uring here");
            FileDisk::direct()
        })),
        Choice::Direct => Ok(FileDisk::direct()),
        Choice::Portable => Ok(FileDisk::new()),
        Choice::Uring => match open_ring() {
            Ok(disk) => Ok(disk),
            Err(source) => Err(Error::Backend {
                backend: "io_uring",
                source: Arc::new(source),
            }),
        },
    }
}

#[cfg(target_os = "linux")]
fn open_ring() -> std::io::Result<Arc<dyn Disk>> {
    Ok(ring::RingDisk::new()?)
}

#[cfg(not(target_os = "linux"))]
fn open_ring() -> std::io::Result<Arc<dyn Disk>> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// An open file with its path, for blocking edges and for errors that name the place.
///
/// Every call is a submit plus a wait. Dropping it closes the handle.
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

    /// Opens `path` so that aligned writes go past the page cache where the file system can.
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
        let token = self.disk.submit(Operation::Close { file: self.id });
        // OK because durability comes from `sync` alone: a failed close loses nothing we promised.
        drop(self.disk.wait(token));
    }
}

/// 16 bytes from the operating system's random source, for ids.
pub(crate) fn random_16() -> Result<[u8; 16], Error> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                return Err(Error::io(
                    IoOp::Random,
                    Path::new("/dev/urandom"),
                    None,
                    errno.into(),
                ));
            }
        }
    }
    Ok(bytes)
}
