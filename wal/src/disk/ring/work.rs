//! One operation of the ring: its memory, its entry, and what the kernel's answer means.

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{opcode, squeue, types};
use rustix::io::{Errno, ReadWriteFlags};

use crate::disk::file::open::Open;
use crate::disk::{Buffer, Bytes, Completion, FileId, Operation, Output};

#[cfg(test)]
#[path = "work_tests.rs"]
mod tests;

/// Bytes of one read; the rest follows.
const READ_MAX: usize = 1 << 30;

/// Slices of one write; the rest follows.
const SLICES_MAX: usize = 1024;

/// Memory and place of one operation. It stays where it is until the kernel is done (L-U2).
#[derive(Debug)]
pub(super) enum Work {
    Read {
        offset: u64,
        buffer: Buffer,
        filled: usize,
    },
    Write(Write),
    Sync,
}

#[derive(Debug)]
pub(super) struct Write {
    pub(super) offset: u64,
    pub(super) slices: Vec<IoSlice<'static>>,
    /// First slice with bytes left.
    pub(super) first: usize,
    durable: bool,
    /// Past the page cache.
    pub(super) direct: bool,
    /// Where the bytes of `slices` live.
    _buffers: Vec<Bytes>,
}

/// What an answer of the kernel means for an operation.
#[derive(Debug)]
pub(super) enum Next {
    Finished,
    /// There is more to do: a short transfer goes on where it stopped (L-W6), and what the kernel
    /// never began begins again.
    Again,
    Failed(io::Error),
}

impl Write {
    pub(super) fn new(open: &Open, offset: u64, buffers: Vec<Bytes>, durable: bool) -> Write {
        let way = open.way(offset, buffers);
        let filled = way.buffers.iter().filter(|bytes| !bytes.is_empty());
        let slices = filled.map(|bytes| {
            // SAFETY: the bytes live on the heap behind an `Arc` that is kept beside the slice and
            // dropped with it; nobody can write to them while it is shared.
            let bytes = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
            IoSlice::new(bytes)
        });
        Write {
            offset,
            slices: slices.collect(),
            first: 0,
            durable,
            direct: way.direct,
            _buffers: way.buffers,
        }
    }

    fn entry(&self, fd: RawFd) -> squeue::Entry {
        let left = &self.slices[self.first..];
        let count = u32::try_from(left.len().min(SLICES_MAX)).unwrap_or(u32::MAX);
        let flags = match self.durable {
            true => ReadWriteFlags::DSYNC.bits().cast_signed(),
            false => 0,
        };
        // An `IoSlice` is an `iovec` on Unix.
        opcode::Writev::new(types::Fd(fd), left.as_ptr().cast(), count)
            .offset(self.offset)
            .rw_flags(flags)
            .build()
    }

    fn advance(&mut self, count: usize) -> Next {
        if count == 0 {
            return Next::Failed(ErrorKind::WriteZero.into());
        }
        self.offset += count as u64;
        let mut left = &mut self.slices[self.first..];
        IoSlice::advance_slices(&mut left, count);
        let remaining = left.len();
        self.first = self.slices.len() - remaining;
        // What is left need not be aligned any more.
        self.direct = false;
        match remaining {
            0 => Next::Finished,
            _ => Next::Again,
        }
    }

    fn refused(&mut self, errno: Errno) -> Next {
        match errno {
            // The alignment was not what the file system said.
            Errno::INVAL if self.direct => {
                self.direct = false;
                Next::Again
            }
            Errno::CANCELED => Next::Again,
            errno => Next::Failed(errno.into()),
        }
    }
}

impl Work {
    /// The handle of an operation that a ring carries out; `None` for every other.
    pub(super) fn handle_of(operation: &Operation) -> Option<FileId> {
        match operation {
            Operation::Read { file, buffer, .. } if !buffer.is_empty() => Some(*file),
            Operation::Write { file, buffers, .. } => {
                let some = buffers.iter().any(|bytes| !bytes.is_empty());
                some.then_some(*file)
            }
            Operation::Sync { file } => Some(*file),
            _ => None,
        }
    }

    /// An operation that has a `handle_of`; the others come back, and so do reads past the page
    /// cache, which nobody needs more than one of at a time.
    pub(super) fn of(operation: Operation, open: &Open) -> Result<Work, Operation> {
        Ok(match operation {
            Operation::Read { .. } if open.reads_directly() => return Err(operation),
            Operation::Read { offset, buffer, .. } => Work::Read {
                offset,
                buffer,
                filled: 0,
            },
            Operation::Write {
                offset,
                buffers,
                durable,
                ..
            } => Work::Write(Write::new(open, offset, buffers, durable)),
            Operation::Sync { .. } => Work::Sync,
            other => return Err(other),
        })
    }

    /// The entry for what is left to do.
    pub(super) fn entry(&mut self, open: &Open) -> squeue::Entry {
        match self {
            Work::Read {
                offset,
                buffer,
                filled,
            } => {
                let left = &mut buffer[*filled..];
                let length = u32::try_from(left.len().min(READ_MAX)).unwrap_or(u32::MAX);
                let fd = types::Fd(open.file.as_raw_fd());
                opcode::Read::new(fd, left.as_mut_ptr(), length)
                    .offset(*offset + *filled as u64)
                    .build()
            }
            Work::Write(write) => write.entry(open.descriptor(write.direct).as_raw_fd()),
            Work::Sync => opcode::Fsync::new(types::Fd(open.file.as_raw_fd()))
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
        }
    }

    /// Takes a result of the kernel in. Every completion is checked for its length (L-W6).
    pub(super) fn advance(&mut self, result: i32) -> Next {
        if result < 0 {
            return self.refused(Errno::from_raw_os_error(-result));
        }
        let count = usize::try_from(result).unwrap_or(0);
        match self {
            Work::Sync => Next::Finished,
            Work::Read { buffer, filled, .. } => {
                *filled += count;
                match count == 0 || *filled == buffer.len() {
                    true => Next::Finished,
                    false => Next::Again,
                }
            }
            Work::Write(write) => write.advance(count),
        }
    }

    /// A thread that ends cancels what it submitted and the kernel did not begin. Reads and writes
    /// name their bytes and their place, so that they may begin again; a sync may not: from here it
    /// cannot be told from one that failed (L3).
    fn refused(&mut self, errno: Errno) -> Next {
        match (self, errno) {
            (_, Errno::INTR) | (Work::Read { .. }, Errno::CANCELED) => Next::Again,
            (Work::Write(write), errno) => write.refused(errno),
            (_, errno) => Next::Failed(errno.into()),
        }
    }

    pub(super) fn output(self) -> Completion {
        Ok(match self {
            Work::Read { buffer, filled, .. } => Output::Read { buffer, filled },
            Work::Write(_) | Work::Sync => Output::Done,
        })
    }
}
