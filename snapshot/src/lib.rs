//! A block volume over a write-ahead log: base image, checkpoint, pinned views.
//!
//! Responsible for: [`Volume`], which is log plus image; the image of all blocks at one LSN with a
//! sum for each; checkpoints; the exact state at an LSN; pinned views and their digests; installing
//! a base that another node sends; verification of everything on disk.
//!
//! Not responsible for: shipping anything, choosing a rebuild, who is primary, what is committed.
//! It touches files only through the seam of crate `seawall-wal`, meta included, and reads no
//! clock. Its only thread captures and reclaims when the log grows past a watermark, and scrubs; a
//! simulator steps that work instead (D22).
//!
//! ```text
//!   write, write_zeroes, trim        read                      state_at, pin_snapshot, pin_base
//!            |                         |                                   |
//!  +---------v-------------------------v-----------------------------------v-------------------+
//!  | Volume                                                                                    |
//!  |   index: newest record of every block above the checkpoint      overlay: the same, frozen |
//!  |            |  hit                          | miss                      | hit    | miss    |
//!  +------------v-------------------------------v---------------------------v--------v---------+
//!  |           log                            image + sums  <--- views --- preserved blocks    |
//!  |            |                                ^    ^                                        |
//!  |            +--- checkpoint: intent, write, sync, meta    +--- install: beside, one switch  |
//!  +--------------------------------------------------------------------------------------------+
//! ```
//!
//! # Invariants
//!
//! - S1 The image with its sums holds the state at exactly the checkpoint, unless an intent or the
//!   incomplete marker stands. No block above committed ever reaches it.
//! - S2 A block is served from the image only if it fits its sum. What fits nothing is repaired
//!   from the log or refused by name, never returned.
//! - S3 Before the first byte of a checkpoint reaches the image, meta durably holds committed at or
//!   above its target, the target, and the digest of everything it does not touch (D9).
//! - S4 The log is reclaimed only up to the checkpoint that meta durably holds, so every record of
//!   an open intent is there, and finishing it writes the same bytes whatever a crash left (D20).
//! - S5 The index follows LSN order: an entry gives way only to a record of a higher LSN, and an
//!   append is not over before its record has its place. A checkpoint begins to write once every
//!   record through its target has its place, and an entry leaves the index only after the image
//!   that replaces it is durable.
//! - S6 A view never changes: a checkpoint shows every view the old content of what it is about to
//!   overwrite before it overwrites any of it. A reader that found nothing kept reads the image and
//!   looks again; nobody holds a lock across I/O. A view that cannot be kept, or that is over a
//!   limit, is broken and says so; it stops no checkpoint (D10).
//! - S7 Pins are taken under the lock that checkpoints, reclaims and truncations hold: base and log
//!   are pinned as one, against a floor that does not move meanwhile.
//! - S8 The digest in meta is that of the bytes: it changes by the sums of the blocks written and
//!   by nothing else, and `verify` recomputes it. A sum that is not vouched for, by its block or by
//!   the sum over it and its neighbours, never enters it.
//! - S9 An install touches neither the old base nor the old log. One change of meta makes the new
//!   base the one in use, and only that makes the old one garbage (D12). Only where it is asked for
//!   does it write over the old base, and then meta says durably before the first byte and until
//!   that change that the base is incomplete.
//! - S10 Where damage in the log may hide a newer version of a block, the block is refused (D14).
//!
//! # Example
//!
//! ```
//! use seawall_snapshot::{Access, CreateOptions, Durability, View, Volume};
//! use seawall_wal::disk::{self, Choice};
//! use seawall_wal::{BlockSize, Geometry, Role, SystemClock};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let dir = temp.path().join("volume");
//! let (disk, clock) = (disk::open_backend(Choice::Auto)?, SystemClock::new());
//! let (block_size, blocks, segment_bytes) = (BlockSize::DEFAULT, 1 << 18, 1 << 20);
//! let geometry = Geometry { block_size, blocks, segment_bytes };
//! Volume::create(&disk, &dir, CreateOptions { volume: None, geometry, role: Role::Primary })?;
//!
//! let (volume, _replay) = Volume::open(&disk, &dir, &clock, Access::Primary)?;
//! volume.commit_best_effort()?; // no replicas: durable here is committed
//! let first = volume.write(4096, b"kept", Durability::Durable)?;
//! let second = volume.write(4096, b"lost", Durability::Volatile)?;
//!
//! let mut bytes = [0; 4];
//! volume.read(4096, &mut bytes)?;
//! assert_eq!(&bytes, b"lost"); // the newest version, durable or not
//!
//! let then = volume.state_at(first, "example")?;
//! let mut block = [0; 4096];
//! then.read(4096, &mut block)?;
//! assert_eq!(&block[..4], b"kept");
//! drop(then);
//!
//! volume.flush()?;
//! volume.advance_tail(second)?; // into the image, then out of the log
//! assert_eq!(volume.digest().0, second);
//! volume.close()?;
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod apply;
mod base;
mod checkpoint;
mod edge;
mod error;
mod export;
mod fill;
#[doc = include_str!("../FORMAT.md")]
pub mod format {}
#[cfg(test)]
mod format_tests;
mod image;
mod index;
mod install;
mod lost;
mod mend;
mod newest;
mod open;
mod pace;
mod pipe;
mod preserve;
mod rangemap;
mod read;
mod recent;
mod repair;
mod scrub;
mod section;
mod sumcache;
mod sumpage;
mod sums;
mod sumwalk;
mod verify;
mod volume;
mod write;

#[cfg(test)]
mod tests;

use std::sync::PoisonError;

use seawall_wal::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use base::{BasePin, SnapshotPin, StateView, View};
pub use edge::Background;
pub use error::Error;
pub use export::{
    CHUNK_BYTES, Chunk, Chunks, chunk_count, chunk_digest, chunk_range, read_chunk,
    zero_chunk_digest,
};
pub use install::{Install, Manifest, sweep};
pub use open::{Access, CreateOptions};
pub use scrub::{ScrubFind, ScrubStatus};
pub use section::checkpoint_of;
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
