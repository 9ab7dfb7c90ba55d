//! A block volume over a write-ahead log: base image, checkpoint, pinned views.
mod base;
mod checkpoint;
mod edge;
mod error;
mod export;
mod image;
mod index;
mod install;
mod lost;
mod open;
mod preserve;
mod rangemap;
mod read;
mod repair;
mod scrub;
mod section;
mod sums;
mod verify;
mod volume;
mod write;

#[cfg(test)]
mod tests;

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use base::{BasePin, SnapshotPin, StateView, View};
pub use edge::Background;
pub use error::Error;
pub use export::{CHUNK_BYTES, Chunk, Chunks, chunk_count, chunk_digest};
pub use install::{Install, Manifest, sweep};
pub use open::{Access, CreateOptions};
pub use sums::{Digest, block_sum};
pub use verify::{DamageFound, Progress, VerifyReport};
pub use volume::{BaseState, Durability, Untrusted, Volume};

/// A length that a buffer has or gets, all of which are bounded.
fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("lengths of buffers fit into memory")
}

// A thread that panicked under one of our locks leaves nothing half-changed that another could
// trust wrongly: the log under it is the truth. So the locks go on.

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_lock<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write_lock<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
