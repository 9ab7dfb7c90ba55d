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
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use super::{Completion, Disk, FileId, MappedFile, OpenMode, Operation, Output, Token};
use open::Open;
use system::bad_handle_code;

pub(super) mod open;
#[cfg(unix)]
#[path = "file/unix.rs"]
mod system;
#[cfg(windows)]
#[path = "file/windows.rs"]
mod system;

/// How often a lock that is held is asked for again: the kernel may keep the lock of a process
/// for a moment after SIGKILL (L-U7).
const LOCK_ATTEMPTS_MAX: u32 = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// An open file; `None` once its handle was closed. Operations hold the shared lock, `Close` the
/// exclusive one, so that a close finishes what is in flight.
type Handle = Arc<RwLock<Option<Arc<Open>>>>;

/// The portable backend.
#[derive(Debug, Default)]
pub struct FileDisk {
    next_id: AtomicU64,
    direct: bool,
    fallback: Option<String>,
    files: RwLock<HashMap<FileId, Handle>>,
    completions: Mutex<HashMap<Token, Completion>>,
}

impl FileDisk {
    /// A backend with no file open.
    #[must_use]
    pub fn new() -> Arc<FileDisk> {
        Arc::new(FileDisk::default())
    }

    /// A backend whose log writes go past the page cache, each durable by itself; `None` where the
    /// operating system has no such writes.
    #[must_use]
    pub fn direct() -> Option<Arc<FileDisk>> {
        let disk = FileDisk {
            direct: true,
            ..FileDisk::default()
        };
        cfg!(target_os = "linux").then(|| Arc::new(disk))
    }

    /// The best backend without a ring, which could not be had for this reason (L-U4).
    pub(super) fn in_place_of_ring(error: &io::Error) -> Arc<FileDisk> {
        Arc::new(FileDisk {
            direct: cfg!(target_os = "linux"),
            fallback: Some(format!("io_uring cannot be used: {error}")),
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

    /// Both descriptors of a file, which stay open while the answer lives.
    pub(super) fn shared(&self, id: FileId) -> io::Result<Arc<Open>> {
        let handle = self.handle(id)?;
        let file = handle.read().unwrap_or_else(PoisonError::into_inner);
        file.clone().ok_or_else(bad_handle)
    }

    /// Carries an operation out on the calling thread.
    pub(super) fn perform(&self, operation: Operation) -> Completion {
        match operation {
            Operation::Open { path, mode, direct } => {
                let direct = direct && (self.direct || mode == OpenMode::Read);
                let open = Open::new(&path, mode, direct)?;
                Ok(Output::File(self.keep_open(open)))
            }
            Operation::Close { file } => self.close(file).map(done),
            Operation::Read {
                file,
                offset,
                mut buffer,
            } => {
                let filled = self.with_open(file, |open| open.read(offset, &mut buffer))?;
                Ok(Output::Read { buffer, filled })
            }
            Operation::Write {
                file,
                offset,
                buffers,
                durable,
            } => self
                .with_open(file, |open| open.write(offset, buffers, durable))
                .map(done),
            Operation::Sync { file } => self.with_open(file, Open::sync).map(done),
            Operation::Length { file } => self.with_open(file, Open::length).map(Output::Length),
            Operation::SetLength { file, length } => {
                self.with_file(file, |file| file.set_len(length)).map(done)
            }
            Operation::WriteZeros {
                file,
                offset,
                length,
            } => self
                .with_open(file, |open| open.write_zeros(offset, length))
                .map(done),
            Operation::PunchHole {
                file,
                offset,
                length,
            } => self
                .with_open(file, |open| open.punch_hole(offset, length))
                .map(done),
            Operation::Copy {
                from,
                from_offset,
                file,
                offset,
                length,
            } => {
                let from = self.shared(from)?;
                let copy = |open: &Open| open.copy_from(offset, &from, from_offset, length);
                self.with_open(file, copy).map(done)
            }
            Operation::NextData { file, offset } => self
                .with_open(file, |open| open.next_data(offset))
                .map(Output::Data),
            Operation::Lock { file } => self.with_file(file, lock).map(done),
            Operation::List { path } => list(&path).map(Output::Names),
            Operation::MakeDir { path } => make_dir(&path).map(done),
            Operation::Rename { from, to } => fs::rename(from, to).map(done),
            Operation::Remove { path } => remove(&path).map(done),
            Operation::SyncDir { path } => system::sync_dir(&path).map(done),
        }
    }

    fn keep_open(&self, open: Open) -> FileId {
        let id = FileId(self.fresh_id());
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(id, Arc::new(RwLock::new(Some(Arc::new(open)))));
        id
    }

    fn close(&self, id: FileId) -> io::Result<()> {
        let removed = {
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            files.remove(&id)
        };
        let handle = removed.ok_or_else(bad_handle)?;
        let open = handle
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .ok_or_else(bad_handle)?;
        // A child between fork and exec holds a copy of the descriptor, and with it the lock.
        // Unlocking frees it for every copy. OK to ignore: without a lock there is nothing to free.
        let _ = open.file.unlock();
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

    fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    fn copies_share(&self, file: FileId) -> bool {
        self.with_file(file, |file| Ok(system::copies_share(file)))
            .unwrap_or(false)
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        self.with_file(file, |file| MappedFile::new(file, offset, length))
            .ok()
    }
}

/// The answer to a closed or unknown handle.
pub(super) fn bad_handle() -> io::Error {
    io::Error::from_raw_os_error(bad_handle_code())
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

fn lock(file: &File) -> io::Result<()> {
    let mut attempts = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if attempts < LOCK_ATTEMPTS_MAX => {
                attempts += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(error),
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

#[cfg(test)]
mod tests;
