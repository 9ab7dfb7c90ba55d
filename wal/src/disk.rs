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
//!   submitted after the write completed, unless it was submitted `durable`: then they, and no
//!   others, are durable when it completes. A failed durable write means what a failed `Sync`
//!   means.
//! - Reads see every completed write, by whatever way its bytes went, and so does a view of `map`.
//!   Of bytes that a failed sync lost, the page cache may go on to show a clean copy, and one
//!   kind of handle MUST NOT show it where the system has a way past its cache: one opened `Read`
//!   and `direct`. What is to be believed after a crash is read through such a handle, after a
//!   sync (L4). Linux reads with O_DIRECT; where a file system has none, the clean pages are
//!   dropped when the handle is opened, save those that another process maps. On other systems,
//!   and in a file system that lives in memory, the cache is all there is to read.
//! - `Read` may be short only at the end of the file, and says how much it got.
//! - A created, renamed or removed name is durable only after a `SyncDir` of its directory.
//! - Nothing is retried. A failed `Sync` means that the bytes are lost (L3).

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::Error;

mod blocking;
mod buffer;
#[cfg(test)]
mod contract;
mod file;
mod map;
mod random;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(all(unix, feature = "sim"))]
pub mod sim;

pub use blocking::{File, list, make_dir, remove, rename, sync_dir};
pub use buffer::Buffer;
pub use file::FileDisk;
pub use map::MappedFile;
pub(crate) use random::random_16;

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
        /// Past the page cache where the file system can: aligned writes, or with
        /// [`OpenMode::Read`] all reads. Reads of a handle that writes are not.
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
    /// Makes a byte range read zero and be written space: no later write into it changes the size
    /// or the extents of the file (L-W9). Grows the file where the range ends behind it. Durable
    /// like any other write, by a later `Sync`: [`Output::Done`].
    WriteZeros {
        /// The handle.
        file: FileId,
        /// First byte.
        offset: u64,
        /// Number of bytes.
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
    /// Makes a byte range of `file` hold what the range of `from` holds, and share its space where
    /// the file system can. Grows the file where the range ends behind it; holes may become written
    /// zeros. Fails with `UnexpectedEof` where `from` ends first. The ranges MUST NOT overlap.
    /// Durable like any other write, by a later `Sync` of `file`: [`Output::Done`].
    Copy {
        /// The handle that is read.
        from: FileId,
        /// First byte in it.
        from_offset: u64,
        /// The handle that is written.
        file: FileId,
        /// First byte in it.
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

    /// Which backend this is, as status reports it: "uring", "direct", "portable", "simulated".
    fn backend(&self) -> &'static str;

    /// Why this backend was taken and not the better one that was asked for first, if so (L-U4).
    fn fallback(&self) -> Option<&str> {
        None
    }

    /// Whether this disk is stepped by its user: then no edge may start a thread, and background
    /// work runs only when somebody calls `step` (D22).
    fn is_stepped(&self) -> bool {
        false
    }

    /// Whether an [`Operation::Copy`] between files where `file` lies is expected to share their
    /// space. Otherwise it costs a read and a write, and whoever has the bytes at hand does better
    /// to write them.
    fn copies_share(&self, file: FileId) -> bool {
        let _ = file;
        true
    }

    /// A read-only view of `length` bytes at `offset` of a file that nobody writes any more, where
    /// the backend can map files (D23).
    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        let _ = (file, offset, length);
        None
    }
}

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

/// Opens a backend; [`Disk::backend`] reports which one it is, and [`Disk::fallback`] why it is not
/// the better one.
///
/// # Errors
/// [`Error::Backend`] when a backend is forced on a system that has none or forbids it.
pub fn open_backend(choice: Choice) -> Result<Arc<dyn Disk>, Error> {
    let refused = |backend, source| Error::Backend {
        backend,
        source: Arc::new(source),
    };
    match choice {
        Choice::Auto => Ok(open_ring().unwrap_or_else(|error| {
            tracing::info!(%error, "no io_uring here");
            FileDisk::in_place_of_ring(&error)
        })),
        Choice::Uring => open_ring().map_err(|source| refused("io_uring", source)),
        Choice::Direct => match FileDisk::direct() {
            Some(disk) => Ok(disk),
            None => Err(refused("direct", std::io::ErrorKind::Unsupported.into())),
        },
        Choice::Portable => Ok(FileDisk::new()),
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
