//! The io_uring backend, Linux only: reads, writes and syncs are in flight at once; everything else
//! is the portable backend's.
//!
//! One ring serves all threads. Whoever waits becomes the reaper unless somebody is it already;
//! the others sleep until the reaper has looked. A thread must not end before the operations it
//! submitted are complete: the kernel cancels what an ended thread left behind, and such an
//! operation completes with an error.
//!
//! Lock order: a handle before `state`; `submission` is taken with no other lock but a handle. The
//! completion queue is touched under `state` only, the submission queue under `submission` only.
#![expect(unsafe_code, reason = "the kernel reads and writes memory we name")]

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::mem;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use io_uring::{EnterFlags, IoUring, opcode, squeue, types};
use rustix::io::Errno;

use super::file::{FileDisk, Open, bad_handle};
use super::{Buffer, Bytes, Completion, Disk, FileId, MappedFile, Operation, Output, Token};

/// Operations the ring holds at once. Each has at most one entry in either queue, so neither ever
/// overflows (L-U5). What comes on top completes in `submit`, as on the portable backend.
const IN_FLIGHT_MAX: usize = 256;

/// Bytes of one read; the rest follows.
const READ_MAX: usize = 1 << 30;

/// Slices of one write; the rest follows.
const SLICES_MAX: usize = 1024;

/// Memory and place of one operation. It stays here until the kernel is done with it (L-U2).
#[derive(Debug)]
enum Work {
    Read {
        offset: u64,
        buffer: Buffer,
        filled: usize,
    },
    Write {
        offset: u64,
        /// Where the bytes of `slices` live.
        _buffers: Vec<Bytes>,
        slices: Vec<IoSlice<'static>>,
        /// First slice with bytes left.
        first: usize,
        durable: bool,
    },
    Sync,
}

/// What a completion of the kernel means for an operation.
#[derive(Debug)]
enum Next {
    Finished,
    /// A short transfer goes on where it stopped (L-W6).
    Again,
    Failed(io::Error),
}

#[derive(Debug)]
struct InFlight {
    file: FileId,
    work: Work,
}

#[derive(Debug, Default)]
struct State {
    in_flight: HashMap<Token, InFlight>,
    done: HashMap<Token, Completion>,
    /// Somebody waits in the kernel and will look at the completion queue.
    reaping: bool,
    /// The ring refused to work; what is in flight stays owned by it for ever.
    broken: Option<i32>,
}

/// The io_uring backend.
pub(super) struct RingDisk {
    files: Arc<FileDisk>,
    ring: IoUring,
    submission: Mutex<()>,
    state: Mutex<State>,
    reaped: Condvar,
}

impl fmt::Debug for RingDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingDisk({:?})", self.files)
    }
}

impl RingDisk {
    /// Sets a ring up, if the kernel has one and allows it (L-U4).
    ///
    /// # Errors
    /// What the kernel says; `Unsupported` when an operation we need is missing.
    pub(super) fn new() -> io::Result<Arc<RingDisk>> {
        let entries = u32::try_from(IN_FLIGHT_MAX).map_err(io::Error::other)?;
        let ring = IoUring::new(entries)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
        ];
        if !needed.iter().all(|code| probe.is_supported(*code)) {
            return Err(ErrorKind::Unsupported.into());
        }
        Ok(Arc::new(RingDisk {
            files: FileDisk::direct(),
            ring,
            submission: Mutex::new(()),
            state: Mutex::new(State::default()),
            reaped: Condvar::new(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands work to the kernel.
    fn start(&self, file: FileId, work: Work) -> io::Result<Token> {
        let token = Token(self.files.fresh_id());
        // The handle cannot close while the kernel has not taken its own reference to the file.
        self.files.with_open(file, |open| {
            let fd = work.descriptor(open);
            let flying = InFlight { file, work };
            self.state().in_flight.insert(token, flying);
            self.push_work(fd, token)
        })?;
        Ok(token)
    }

    /// Goes on with work that was done in part.
    fn resume(&self, file: FileId, token: Token) {
        let resumed = self
            .files
            .with_open(file, |open| self.push_work(open.file.as_raw_fd(), token));
        if let Err(error) = resumed {
            // The handle is gone, so that the kernel was not asked again; or the ring is broken.
            let mut state = self.state();
            if state.broken.is_none() {
                state.finish(token, |_| Err(error));
            }
        }
    }

    fn push_work(&self, fd: i32, token: Token) -> io::Result<()> {
        let mut state = self.state();
        let flying = state.in_flight.get_mut(&token).ok_or_else(bad_handle)?;
        let entry = flying.work.entry(fd, token);
        drop(state);
        self.push(&entry)
            .inspect_err(|error| self.state().fail(error))
    }

    /// Puts an entry into the submission queue and tells the kernel.
    fn push(&self, entry: &squeue::Entry) -> io::Result<()> {
        let _guard = self
            .submission
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        {
            // SAFETY: `submission` is held, so no other view of this queue exists.
            let mut queue = unsafe { self.ring.submission_shared() };
            // SAFETY: the memory the entry names is owned by `in_flight`, which keeps it until the
            // completion was seen; the descriptor is open, because its handle is held.
            if unsafe { queue.push(entry) }.is_err() {
                return Err(io::Error::other("the submission queue overflowed"));
            }
        }
        loop {
            match self.ring.submitter().submit() {
                Ok(0) => std::thread::yield_now(),
                Ok(_) => return Ok(()),
                Err(error) if is_passing(&error) => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reaps until `enough` holds, or the ring is broken.
    fn reap_until(&self, enough: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let mut state = self.state();
        while !enough(&state) && state.broken.is_none() {
            if state.reaping {
                state = self
                    .reaped
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.reaping = true;
            drop(state);
            let waited = self.wait_for_one();
            state = self.state();
            state.reaping = false;
            match waited {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => state.fail(&error),
            }
            state = self.drain(state);
            self.reaped.notify_all();
        }
        state
    }

    /// Sleeps until the completion queue holds something.
    fn wait_for_one(&self) -> io::Result<()> {
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: nothing is submitted, and no argument is passed that the kernel could follow.
        unsafe { self.ring.submitter().enter::<()>(0, 1, flags, None) }.map(drop)
    }

    /// Takes every completion that is there, and goes on with what was done in part.
    fn drain<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let mut unfinished = Vec::new();
        {
            // SAFETY: `state` is locked, so no other view of this queue exists.
            let queue = unsafe { self.ring.completion_shared() };
            for entry in queue {
                unfinished.extend(state.complete(Token(entry.user_data()), entry.result()));
            }
        }
        if unfinished.is_empty() {
            return state;
        }
        drop(state);
        for (file, token) in unfinished {
            self.resume(file, token);
        }
        self.state()
    }

    /// Lets the ring do the work, or carries it out here when the ring is full.
    fn submit_work(&self, operation: Operation) -> Token {
        let full = {
            let state = self.state();
            state.in_flight.len() >= IN_FLIGHT_MAX || state.broken.is_some()
        };
        if full {
            return self.files.submit(operation);
        }
        match Work::of(operation) {
            Ok((file, work)) => self
                .start(file, work)
                .unwrap_or_else(|error| self.files.keep(Err(error))),
            Err(operation) => self.files.submit(operation),
        }
    }

    fn finish_all_on(&self, file: FileId) {
        drop(self.reap_until(|state| state.in_flight.values().all(|flying| flying.file != file)));
    }
}

impl State {
    /// Notes what the kernel says; the operation comes back when there is more to do.
    fn complete(&mut self, token: Token, result: i32) -> Option<(FileId, Token)> {
        let flying = self.in_flight.get_mut(&token)?;
        match flying.work.advance(result) {
            Next::Again => return Some((flying.file, token)),
            Next::Finished => self.finish(token, Work::output),
            Next::Failed(error) => self.finish(token, |_| Err(error)),
        }
        None
    }

    fn finish(&mut self, token: Token, completion: impl FnOnce(Work) -> Completion) {
        if let Some(flying) = self.in_flight.remove(&token) {
            self.done.insert(token, completion(flying.work));
        }
    }

    fn fail(&mut self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        self.broken.get_or_insert(errno);
    }

    fn answer(&mut self, token: Token) -> Option<Completion> {
        if let Some(completion) = self.done.remove(&token) {
            return Some(completion);
        }
        match self.broken {
            Some(errno) if self.in_flight.contains_key(&token) => {
                Some(Err(io::Error::from_raw_os_error(errno)))
            }
            _ => None,
        }
    }
}

impl Work {
    /// What the ring does for an operation; the others come back.
    fn of(operation: Operation) -> Result<(FileId, Work), Operation> {
        match operation {
            Operation::Read {
                file,
                offset,
                buffer,
            } if !buffer.is_empty() => Ok((
                file,
                Work::Read {
                    offset,
                    buffer,
                    filled: 0,
                },
            )),
            Operation::Write {
                file,
                offset,
                buffers,
                durable,
            } if buffers.iter().any(|bytes| !bytes.is_empty()) => {
                Ok((file, Work::write(offset, buffers, durable)))
            }
            Operation::Sync { file } => Ok((file, Work::Sync)),
            other => Err(other),
        }
    }

    /// The descriptor that the work is done through; a rest of it goes through the page cache.
    fn descriptor(&self, open: &Open) -> i32 {
        match self {
            Work::Write {
                offset, _buffers, ..
            } => open.target(*offset, _buffers).as_raw_fd(),
            _ => open.file.as_raw_fd(),
        }
    }

    fn write(offset: u64, buffers: Vec<Bytes>, durable: bool) -> Work {
        let slices = buffers
            .iter()
            .filter(|bytes| !bytes.is_empty())
            .map(|bytes| {
                // SAFETY: the bytes live on the heap behind an `Arc` that is kept beside the slice
                // and dropped with it; nobody can write to them while it is shared.
                let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
                IoSlice::new(bytes)
            })
            .collect();
        Work::Write {
            offset,
            _buffers: buffers,
            slices,
            first: 0,
            durable,
        }
    }

    /// The entry for what is left to do.
    fn entry(&mut self, fd: i32, token: Token) -> squeue::Entry {
        let fd = types::Fd(fd);
        let entry = match self {
            Work::Read {
                offset,
                buffer,
                filled,
            } => {
                let left = &mut buffer[*filled..];
                let length = u32::try_from(left.len().min(READ_MAX)).unwrap_or(u32::MAX);
                opcode::Read::new(fd, left.as_mut_ptr(), length)
                    .offset(*offset + *filled as u64)
                    .build()
            }
            Work::Write {
                offset,
                slices,
                first,
                durable,
                ..
            } => {
                let left = &slices[*first..];
                let flags = if *durable { libc_dsync() } else { 0 };
                let count = u32::try_from(left.len().min(SLICES_MAX)).unwrap_or(u32::MAX);
                // An `IoSlice` is an `iovec` on Unix.
                opcode::Writev::new(fd, left.as_ptr().cast(), count)
                    .offset(*offset)
                    .rw_flags(flags)
                    .build()
            }
            Work::Sync => opcode::Fsync::new(fd)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        };
        entry.user_data(token.0)
    }

    /// Takes a result of the kernel in. Every completion is checked for its length (L-W6).
    fn advance(&mut self, result: i32) -> Next {
        if result < 0 {
            return match Errno::from_raw_os_error(-result) {
                Errno::INTR => Next::Again,
                errno => Next::Failed(errno.into()),
            };
        }
        let count = usize::try_from(result).unwrap_or(0);
        match self {
            Work::Sync => Next::Finished,
            Work::Read { buffer, filled, .. } => {
                *filled += count;
                if count == 0 || *filled == buffer.len() {
                    Next::Finished
                } else {
                    Next::Again
                }
            }
            Work::Write {
                offset,
                slices,
                first,
                ..
            } => {
                if count == 0 {
                    return Next::Failed(ErrorKind::WriteZero.into());
                }
                *offset += count as u64;
                let mut left = &mut slices[*first..];
                IoSlice::advance_slices(&mut left, count);
                let remaining = left.len();
                *first = slices.len() - remaining;
                if remaining == 0 {
                    Next::Finished
                } else {
                    Next::Again
                }
            }
        }
    }

    fn output(self) -> Completion {
        Ok(match self {
            Work::Read { buffer, filled, .. } => Output::Read { buffer, filled },
            Work::Write { .. } | Work::Sync => Output::Done,
        })
    }
}

/// The flag of a write that is durable by itself.
fn libc_dsync() -> i32 {
    rustix::io::ReadWriteFlags::DSYNC.bits().cast_signed()
}

/// Errors of the ring itself after which it goes on.
fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::INTR, Errno::AGAIN, Errno::BUSY].map(Errno::raw_os_error);
    error
        .raw_os_error()
        .is_some_and(|errno| passing.contains(&errno))
}

impl Disk for RingDisk {
    fn submit(&self, operation: Operation) -> Token {
        match operation {
            Operation::Read { .. } | Operation::Write { .. } | Operation::Sync { .. } => {
                self.submit_work(operation)
            }
            Operation::Close { file } => {
                self.finish_all_on(file);
                self.files.submit(operation)
            }
            other => self.files.submit(other),
        }
    }

    fn take(&self, token: Token) -> Option<Completion> {
        let mut state = self.state();
        if !state.reaping {
            state = self.drain(state);
        }
        if let Some(completion) = state.answer(token) {
            return Some(completion);
        }
        if state.in_flight.contains_key(&token) {
            return None;
        }
        self.files.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        let mut state = self.reap_until(|state| !state.in_flight.contains_key(&token));
        match state.answer(token) {
            Some(completion) => completion,
            None => self.files.wait(token),
        }
    }

    fn run(&self, operation: Operation) -> Completion {
        if let Operation::Close { file } = operation {
            self.finish_all_on(file);
        }
        self.files.run(operation)
    }

    fn durable_writes(&self) -> bool {
        true
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn backend(&self) -> &'static str {
        "uring"
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        self.files.map(file, offset, length)
    }
}

impl Drop for RingDisk {
    fn drop(&mut self) {
        let mut state = self.reap_until(|state| state.in_flight.is_empty());
        // Only a broken ring leaves something here. The kernel may still own that memory (L-U2).
        mem::forget(mem::take(&mut state.in_flight));
    }
}

#[cfg(test)]
mod tests;
