//! The io_uring backend, Linux only: reads, writes and syncs that are submitted are in flight at
//! once. Everything else, and whatever a caller would only wait for, is the portable backend's,
//! with direct writes.
//!
//! One ring serves all threads. Whoever waits becomes the reaper unless somebody is it already; the
//! others sleep, each for its own operation, and the reaper wakes those whose operations landed and
//! hands its place over when it leaves.
//!
//! The kernel finishes an operation on behalf of the thread that submitted it. A thread that ends
//! leaves direct writes in flight unharmed, and the kernel cancels what it had not begun: buffered
//! reads and writes, which begin again here, and syncs, which fail. So a thread waits for its own
//! syncs before it ends. `IORING_SETUP_COOP_TASKRUN` is not used, because a submitter that computes
//! would then keep completions from the thread that waits for them.
//!
//! Lock order: `table`, and `submission` with no other lock. The completion queue is touched under
//! `table` only, the submission queue under `submission` only.
#![expect(unsafe_code, reason = "the kernel reads and writes memory we name")]

use std::fmt;
use std::io::{self, ErrorKind};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use io_uring::{EnterFlags, IoUring, opcode, squeue};
use rustix::io::Errno;

use super::file::FileDisk;
use super::{Completion, Disk, FileId, MappedFile, Operation, Token};
use table::{IN_FLIGHT_MAX, Table, is_of_ring, slot_of};
use work::Work;

mod table;
mod work;

/// The io_uring backend.
pub(super) struct RingDisk {
    files: Arc<FileDisk>,
    ring: IoUring,
    submission: Mutex<()>,
    table: Mutex<Table>,
    /// Where waiters of each slot sleep.
    landed: Vec<Condvar>,
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
        let files = FileDisk::direct().ok_or(ErrorKind::Unsupported)?;
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
            files,
            ring,
            submission: Mutex::new(()),
            table: Mutex::new(Table::new()),
            landed: (0..IN_FLIGHT_MAX).map(|_| Condvar::new()).collect(),
        }))
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the ring do the work, or carries it out here when the ring is full.
    fn submit_work(&self, file: FileId, operation: Operation) -> Token {
        let open = match self.files.shared(file) {
            Ok(open) => open,
            Err(error) => return self.files.keep(Err(error)),
        };
        let started = self.table().start(file, open, operation);
        match started {
            Ok((token, entry)) => {
                self.push(&entry);
                token
            }
            Err(operation) => self.files.submit(operation),
        }
    }

    /// Tells the kernel. A ring that refuses fails everything in flight, this operation included.
    fn push(&self, entry: &squeue::Entry) {
        if let Err(error) = self.try_push(entry) {
            let mut table = self.table();
            table.fail(&error);
            self.wake_all(&table);
        }
    }

    fn try_push(&self, entry: &squeue::Entry) -> io::Result<()> {
        let _guard = self
            .submission
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        {
            // SAFETY: `submission` is held, so no other view of this queue exists.
            let mut queue = unsafe { self.ring.submission_shared() };
            // SAFETY: the memory and the descriptor that the entry names are owned by the table,
            // which keeps them until the completion was seen.
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

    /// Waits until an operation is not in flight any more, or the ring is broken.
    fn wait_for<'a>(
        &'a self,
        token: Token,
        mut table: MutexGuard<'a, Table>,
    ) -> MutexGuard<'a, Table> {
        while table.is_flying(token) && table.broken.is_none() {
            if !table.reaping {
                table = self.reap(table);
                continue;
            }
            table.fall_asleep(token);
            table = self.landed[slot_of(token)]
                .wait(table)
                .unwrap_or_else(PoisonError::into_inner);
            table.wake_up(token);
        }
        if !table.reaping
            && let Some(slot) = table.slept_for(false).next()
        {
            self.landed[slot].notify_one();
        }
        table
    }

    /// Sleeps in the kernel until something is complete, and takes it in.
    fn reap<'a>(&'a self, mut table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        table.reaping = true;
        drop(table);
        let waited = self.wait_for_one();
        let mut table = self.table();
        table.reaping = false;
        match waited {
            Err(error) if !is_passing(&error) => {
                table.fail(&error);
                self.wake_all(&table);
            }
            _ => {}
        }
        self.drain(table)
    }

    /// Sleeps until the completion queue holds something.
    fn wait_for_one(&self) -> io::Result<()> {
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: nothing is submitted, and no argument is passed that the kernel could follow.
        unsafe { self.ring.submitter().enter::<()>(0, 1, flags, None) }.map(drop)
    }

    /// Takes every completion that is there, and goes on with what was done in part.
    fn drain<'a>(&'a self, mut table: MutexGuard<'a, Table>) -> MutexGuard<'a, Table> {
        let mut unfinished = Vec::new();
        {
            // SAFETY: `table` is locked, so no other view of this queue exists.
            let queue = unsafe { self.ring.completion_shared() };
            for entry in queue {
                unfinished.extend(table.complete(Token(entry.user_data()), entry.result()));
            }
        }
        for slot in table.slept_for(true) {
            self.landed[slot].notify_all();
        }
        if unfinished.is_empty() {
            return table;
        }
        drop(table);
        for entry in unfinished {
            self.push(&entry);
        }
        self.table()
    }

    fn wake_all(&self, table: &Table) {
        for slot in table.slept_for(true).chain(table.slept_for(false)) {
            self.landed[slot].notify_all();
        }
    }

    /// Waits for everything in flight, on one handle or at all.
    fn finish_all(&self, on: Option<FileId>) {
        let mut table = self.table();
        while table.broken.is_none()
            && let Some(token) = table.any_flying(on)
        {
            table = self.wait_for(token, table);
        }
    }
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
        if let Operation::Close { file } = operation {
            self.finish_all(Some(file));
        }
        match Work::handle_of(&operation) {
            Some(file) => self.submit_work(file, operation),
            None => self.files.submit(operation),
        }
    }

    fn take(&self, token: Token) -> Option<Completion> {
        if !is_of_ring(token) {
            return self.files.take(token);
        }
        let mut table = self.table();
        if !table.reaping {
            table = self.drain(table);
        }
        table.answer(token)
    }

    fn wait(&self, token: Token) -> Completion {
        if !is_of_ring(token) {
            return self.files.wait(token);
        }
        let mut table = self.wait_for(token, self.table());
        let answer = table.answer(token);
        answer.unwrap_or_else(|| Err(ErrorKind::Other.into()))
    }

    fn run(&self, operation: Operation) -> Completion {
        if let Operation::Close { file } = operation {
            self.finish_all(Some(file));
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

    fn copies_share(&self, file: FileId) -> bool {
        self.files.copies_share(file)
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        self.files.map(file, offset, length)
    }
}

impl Drop for RingDisk {
    fn drop(&mut self) {
        self.finish_all(None);
        let table = self.table.get_mut().unwrap_or_else(PoisonError::into_inner);
        if table.any_flying(None).is_some() {
            // Only a broken ring leaves something here. The kernel may own that memory (L-U2).
            mem::forget(mem::replace(table, Table::new()));
        }
    }
}

#[cfg(test)]
mod tests;
