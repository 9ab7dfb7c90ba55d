//! What the disk gives without a checksum and without framing.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use rustix::fs::OFlags;
use seawall_wal::disk::Buffer;

use super::{Engine, SEGMENT_BYTES, Setup};
use crate::load::payload;

/// Threads of the sequential floor, each with one write in flight.
pub(super) const SEQUENTIAL_DEPTH: usize = 4;
/// Bytes of one write of the sequential floor.
pub(super) const SEQUENTIAL_BYTES: usize = 1 << 20;
/// Bytes of the file that the sequential floor goes round in.
const SEQUENTIAL_FILE_BYTES: u64 = 512 << 20;

/// Writes a file full of zeros, synced, and opens it with `flags`.
fn prepared(path: &Path, length: u64, flags: OFlags) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let plain = options.open(path)?;
    let zeros = vec![0; 1 << 20];
    for offset in (0..length).step_by(zeros.len()) {
        plain.write_all_at(&zeros, offset)?;
    }
    plain.sync_all()?;
    options.custom_flags(flags.bits().cast_signed()).open(path)
}

/// Overwrites of consecutive places of a file.
struct Overwrites {
    file: File,
    file_bytes: u64,
    next: AtomicU64,
}

impl Overwrites {
    fn new(setup: &Setup, file_bytes: u64, flags: OFlags) -> io::Result<Overwrites> {
        Ok(Overwrites {
            file: prepared(&setup.dir.join("floor"), file_bytes, flags)?,
            file_bytes,
            next: AtomicU64::new(0),
        })
    }

    /// Where the next write of `length` bytes goes.
    fn place(&self, length: usize) -> u64 {
        let length = length as u64;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        number % (self.file_bytes / length) * length
    }
}

/// `O_DIRECT` and `O_DSYNC` overwrites, one in flight per thread.
struct Dsync {
    overwrites: Overwrites,
    block: Buffer,
}

pub(super) fn dsync(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let flags = OFlags::DIRECT | OFlags::DSYNC;
    Ok(Box::new(Dsync {
        overwrites: Overwrites::new(setup, SEGMENT_BYTES, flags)?,
        block: Buffer::copy_of(&payload(setup.size, 0)),
    }))
}

impl Engine for Dsync {
    fn append(&self, _: usize, _: &[u8]) -> io::Result<()> {
        let place = self.overwrites.place(self.block.len());
        self.overwrites.file.write_all_at(&self.block, place)
    }

    fn configuration(&self) -> String {
        "O_DIRECT and O_DSYNC overwrites of a file of 64 MiB, one in flight per thread".into()
    }
}

/// Overwrites through the page cache, an `fdatasync` each.
struct Over(Overwrites);

pub(super) fn over(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let overwrites = Overwrites::new(setup, SEGMENT_BYTES, OFlags::empty())?;
    Ok(Box::new(Over(overwrites)))
}

impl Engine for Over {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let place = self.0.place(payload.len());
        self.0.file.write_all_at(payload, place)?;
        self.0.file.sync_data()
    }

    fn configuration(&self) -> String {
        "one thread, pwrite and fdatasync each, overwrites of a file of 64 MiB".into()
    }
}

/// Threads push to one queue; a leader writes it with one `pwritev` and one `fdatasync`.
struct Group {
    file: File,
    state: Mutex<Queue>,
    written: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Vec<u8>>,
    offset: u64,
    /// Groups that were taken out of the queue.
    taken: u64,
    /// Groups that are durable.
    durable: u64,
    leading: bool,
    /// A group failed; nothing is durable any more.
    broken: bool,
}

pub(super) fn group(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let path = setup.dir.join("floor");
    Ok(Box::new(Group {
        file: prepared(&path, SEGMENT_BYTES, OFlags::empty())?,
        state: Mutex::new(Queue::default()),
        written: Condvar::new(),
    }))
}

impl Group {
    fn write(&self, group: &[Vec<u8>], mut offset: u64) -> io::Result<()> {
        // The kernel takes so many buffers at once.
        for part in group.chunks(1024) {
            let slices: Vec<_> = part.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let length: usize = part.iter().map(Vec::len).sum();
            let written = rustix::io::pwritev(&self.file, &slices, offset)?;
            if written != length {
                return Err(io::ErrorKind::WriteZero.into());
            }
            offset += length as u64;
        }
        self.file.sync_data()
    }
}

impl Engine for Group {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().expect("no thread panics holding it");
        state.waiting.push(payload.to_vec());
        let mine = state.taken + 1;
        while state.durable < mine && !state.broken {
            if state.leading {
                let woken = self.written.wait(state);
                state = woken.expect("no thread panics holding it");
                continue;
            }
            state.leading = true;
            state.taken += 1;
            let group = std::mem::take(&mut state.waiting);
            let length: usize = group.iter().map(Vec::len).sum();
            let wraps = state.offset + length as u64 > SEGMENT_BYTES;
            let offset = if wraps { 0 } else { state.offset };
            state.offset = offset + length as u64;
            drop(state);
            let outcome = self.write(&group, offset);
            state = self.state.lock().expect("no thread panics holding it");
            state.leading = false;
            state.durable += 1;
            state.broken |= outcome.is_err();
            self.written.notify_all();
            outcome?;
        }
        match state.broken {
            true => Err(io::Error::other("a group failed")),
            false => Ok(()),
        }
    }

    fn configuration(&self) -> String {
        "one queue, one pwritev and one fdatasync per group, overwrites of a file of 64 MiB".into()
    }
}

/// `O_DIRECT` writes of 1 MiB at depth 4, an `fdatasync` every 64 MiB.
struct Sequential {
    overwrites: Overwrites,
    block: Buffer,
    written: AtomicU64,
}

pub(super) fn sequential(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    Ok(Box::new(Sequential {
        overwrites: Overwrites::new(setup, SEQUENTIAL_FILE_BYTES, OFlags::DIRECT)?,
        block: Buffer::copy_of(&payload(SEQUENTIAL_BYTES, 0)),
        written: AtomicU64::new(0),
    }))
}

impl Engine for Sequential {
    fn append(&self, _: usize, _: &[u8]) -> io::Result<()> {
        let place = self.overwrites.place(SEQUENTIAL_BYTES);
        self.overwrites.file.write_all_at(&self.block, place)?;
        let added = SEQUENTIAL_BYTES as u64;
        let written = self.written.fetch_add(added, Ordering::Relaxed) + added;
        match written % SEGMENT_BYTES {
            0 => self.overwrites.file.sync_data(),
            _ => Ok(()),
        }
    }

    fn configuration(&self) -> String {
        "O_DIRECT writes of 1 MiB by 4 threads, an fdatasync every 64 MiB, in a file of 512 MiB"
            .into()
    }
}
