//! The portable reference backend: positional I/O that completes in `submit`.
//!
//! Several operations are in flight when several threads submit. No lock of this module is held
//! across I/O, save the handle's own shared lock, which lets `Close` finish what is in flight.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this backend is where files are opened and where a lock edge may wait (L-U7)"
)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, SeekFrom};
use rustix::io::Errno;

use super::{
    Buffer, Bytes, Completion, Disk, FileId, MappedFile, OpenMode, Operation, Output, Token,
};

/// How often a lock that is held is asked for again: the kernel may keep the lock of a process
/// for a moment after SIGKILL (L-U7).
const LOCK_ATTEMPTS_MAX: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Buffers handed to the kernel by one vectored write; more go in further calls.
const SLICES_MAX: usize = 128;

/// Zeros for file systems that cannot punch holes.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open file; `None` once its handle was closed. Operations hold the shared lock, `Close` the
/// exclusive one, so that a close finishes what is in flight.
type Handle = Arc<RwLock<Option<Open>>>;

/// A file, and a second descriptor of it for direct writes.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) file: File,
    pub(super) direct: Option<File>,
}

impl Open {
    /// Where a write goes: past the page cache if everything about it is aligned.
    pub(super) fn target(&self, offset: u64, buffers: &[Bytes]) -> &File {
        let aligned = |bytes: &Bytes| {
            bytes.as_ptr().addr().is_multiple_of(SECTOR) && bytes.len().is_multiple_of(SECTOR)
        };
        match &self.direct {
            Some(direct) if offset.is_multiple_of(SECTOR as u64) && buffers.iter().all(aligned) => {
                direct
            }
            _ => &self.file,
        }
    }
}

/// Alignment that direct writes need.
const SECTOR: usize = 4096;

/// The portable backend.
#[derive(Debug, Default)]
pub struct FileDisk {
    next_id: AtomicU64,
    direct: bool,
    files: RwLock<HashMap<FileId, Handle>>,
    completions: Mutex<HashMap<Token, Completion>>,
}

impl FileDisk {
    /// A backend with no file open.
    #[must_use]
    pub fn new() -> Arc<FileDisk> {
        Arc::new(FileDisk::default())
    }

    /// A backend whose log writes go past the page cache, each durable by itself.
    #[must_use]
    pub fn direct() -> Arc<FileDisk> {
        Arc::new(FileDisk {
            direct: cfg!(target_os = "linux"),
            ..FileDisk::default()
        })
    }

    pub(super) fn fresh_id(&self) -> u64 {
        // OK because only uniqueness counts; ids publish no other memory.
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    fn handle(&self, id: FileId) -> io::Result<Handle> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        files.get(&id).cloned().ok_or_else(bad_handle)
    }

    /// Runs `work` on the open file behind a handle; a close waits until it is done.
    pub(super) fn with_file<T>(
        &self,
        id: FileId,
        work: impl FnOnce(&File) -> io::Result<T>,
    ) -> io::Result<T> {
        self.with_open(id, |open| work(&open.file))
    }

    /// As `with_file`, with both descriptors.
    pub(super) fn with_open<T>(
        &self,
        id: FileId,
        work: impl FnOnce(&Open) -> io::Result<T>,
    ) -> io::Result<T> {
        let handle = self.handle(id)?;
        let file = handle.read().unwrap_or_else(PoisonError::into_inner);
        work(file.as_ref().ok_or_else(bad_handle)?)
    }

    /// Carries an operation out on the calling thread.
    pub(super) fn perform(&self, operation: Operation) -> Completion {
        match operation {
            Operation::Open { path, mode, direct } => {
                self.open(&path, mode, direct).map(Output::File)
            }
            Operation::Close { file } => self.close(file).map(done),
            Operation::Read {
                file,
                offset,
                buffer,
            } => self.with_file(file, |file| read(file, offset, buffer)),
            Operation::Write {
                file,
                offset,
                buffers,
                durable,
            } => self
                .with_open(file, |open| write_all(open, offset, &buffers, durable))
                .map(done),
            Operation::Sync { file } => self.with_file(file, sync_data).map(done),
            Operation::Length { file } => self.with_file(file, length).map(Output::Length),
            Operation::SetLength { file, length } => {
                self.with_file(file, |file| file.set_len(length)).map(done)
            }
            Operation::PunchHole {
                file,
                offset,
                length,
            } => self
                .with_file(file, |file| punch_hole(file, offset, length))
                .map(done),
            Operation::NextData { file, offset } => self
                .with_file(file, |file| next_data(file, offset))
                .map(Output::Data),
            Operation::Lock { file } => self.with_file(file, lock).map(done),
            Operation::List { path } => list(&path).map(Output::Names),
            Operation::MakeDir { path } => make_dir(&path).map(done),
            Operation::Rename { from, to } => fs::rename(from, to).map(done),
            Operation::Remove { path } => remove(&path).map(done),
            Operation::SyncDir { path } => sync_dir(&path).map(done),
        }
    }

    fn open(&self, path: &Path, mode: OpenMode, direct: bool) -> io::Result<FileId> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            // Opening a FIFO would wait for a writer; on a regular file the flag means nothing.
            OpenMode::Read => drop(options.custom_flags(OFlags::NONBLOCK.bits().cast_signed())),
            OpenMode::ReadWrite => drop(options.write(true)),
            OpenMode::CreateNew => drop(options.write(true).create_new(true)),
            OpenMode::CreateOrOpen => drop(options.write(true).create(true)),
        }
        let file = options.open(path)?;
        let direct = (direct && self.direct).then(|| open_direct(path)).flatten();
        let open = Open { file, direct };
        let id = FileId(self.fresh_id());
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(id, Arc::new(RwLock::new(Some(open))));
        Ok(id)
    }

    fn close(&self, id: FileId) -> io::Result<()> {
        let removed = {
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            files.remove(&id)
        };
        let handle = removed.ok_or_else(bad_handle)?;
        let file = handle
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(bad_handle)?;
        // A child between fork and exec holds a copy of the descriptor, and with it the lock.
        // Unlocking frees it for every copy. OK to ignore: without a lock there is nothing to free.
        let _ = rustix::fs::flock(&file.file, FlockOperation::Unlock);
        Ok(())
    }

    /// Keeps a completion until its token is used.
    pub(super) fn keep(&self, completion: Completion) -> Token {
        let token = Token(self.fresh_id());
        self.completions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(token, completion);
        token
    }
}

impl Disk for FileDisk {
    fn submit(&self, operation: Operation) -> Token {
        self.keep(self.perform(operation))
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.completions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.take(token).unwrap_or_else(|| Err(used_token()))
    }

    fn run(&self, operation: Operation) -> Completion {
        self.perform(operation)
    }

    fn durable_writes(&self) -> bool {
        self.direct
    }

    fn backend(&self) -> &'static str {
        match self.direct {
            true => "direct",
            false => "portable",
        }
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        self.with_file(file, |file| MappedFile::new(file, offset, length))
            .ok()
    }
}

/// The answer to a closed or unknown handle.
pub(super) fn bad_handle() -> io::Error {
    Errno::BADF.into()
}

/// The answer to a token that was never given or was used before.
pub(super) fn used_token() -> io::Error {
    io::Error::new(
        ErrorKind::InvalidInput,
        "the token was used before or is of another disk",
    )
}

fn done((): ()) -> Output {
    Output::Done
}

fn read(file: &File, offset: u64, mut buffer: Buffer) -> Completion {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Output::Read { buffer, filled })
}

fn write_all(open: &Open, offset: u64, buffers: &[Bytes], durable: bool) -> io::Result<()> {
    let file = open.target(offset, buffers);
    if durable {
        return write_durable(file, offset, buffers);
    }
    write_all_by(offset, buffers, |slices, offset| {
        rustix::io::pwritev(file, slices, offset)
    })
}

#[cfg(target_os = "linux")]
fn write_durable(file: &File, offset: u64, buffers: &[Bytes]) -> io::Result<()> {
    use rustix::io::ReadWriteFlags;
    write_all_by(offset, buffers, |slices, offset| {
        rustix::io::pwritev2(file, slices, offset, ReadWriteFlags::DSYNC)
    })
}

#[cfg(not(target_os = "linux"))]
fn write_durable(file: &File, offset: u64, buffers: &[Bytes]) -> io::Result<()> {
    write_all_by(offset, buffers, |slices, offset| {
        rustix::io::pwritev(file, slices, offset)
    })?;
    sync_data(file)
}

/// A descriptor for direct writes, where the file system has them.
#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    let mut options = OpenOptions::new();
    options.write(true);
    options.custom_flags(OFlags::DIRECT.bits().cast_signed());
    options.open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

/// Writes every byte or fails: a short transfer is continued where it stopped (L-W6).
fn write_all_by(
    mut offset: u64,
    buffers: &[Bytes],
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> rustix::io::Result<usize>,
) -> io::Result<()> {
    for group in buffers.chunks(SLICES_MAX) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        for (slice, bytes) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(bytes);
        }
        let mut left = &mut slices[..group.len()];
        // Empty buffers in front would look like a write that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match write(left, offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// `fdatasync`; on Apple systems the standard library asks for F_FULLFSYNC, because `fsync` alone
/// does not reach the medium there (L-O1).
fn sync_data(file: &File) -> io::Result<()> {
    file.sync_data()
}

fn length(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.len())
}

fn punch_hole(file: &File, offset: u64, length_asked: u64) -> io::Result<()> {
    let end = offset.saturating_add(length_asked).min(length(file)?);
    if offset >= end {
        return Ok(());
    }
    match deallocate(file, offset, end - offset) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(file, offset, end),
        other => other.map_err(io::Error::from),
    }
}

#[cfg(target_os = "linux")]
fn deallocate(file: &File, offset: u64, length: u64) -> rustix::io::Result<()> {
    use rustix::fs::FallocateFlags;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    loop {
        match rustix::fs::fallocate(file, flags, offset, length) {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn deallocate(_: &File, _: u64, _: u64) -> rustix::io::Result<()> {
    Err(Errno::OPNOTSUPP)
}

fn write_zeros(file: &File, mut offset: u64, end: u64) -> io::Result<()> {
    while offset < end {
        let count = usize::try_from(end - offset).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
        file.write_all_at(&ZEROS[..count], offset)?;
        offset += count as u64;
    }
    Ok(())
}

/// Asks the file system; where it cannot tell, everything behind `offset` may hold data.
fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let size = length(file)?;
    if offset >= size {
        return Ok(None);
    }
    let first = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(first) => first,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((offset, size))),
        Err(errno) => return Err(errno.into()),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(first)) {
        // OK because a hole punched in between leaves nothing there: what follows may hold data.
        Ok(end) if end <= first => size,
        Ok(end) => end,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok((end > first).then_some((first, end)))
}

fn lock(file: &File) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if attempts < LOCK_ATTEMPTS_MAX => {
                attempts += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        // OK because a foreign name only has to be seen, not to be opened: ours are ASCII.
        names.push(name.to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = fs::symlink_metadata(path).and_then(|found| {
        if found.is_dir() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        }
    });
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    use rustix::fs::Mode;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    File::from(directory).sync_all()
}

#[cfg(test)]
mod tests;
