//! A durable log of block changes on one machine, and every touch of a file.
//!
//! Responsible for: the seam to files ([`disk`]), the bytes of the log ([`mod@format`]), `meta`,
//! group commit, replay after a crash, range reads with proof, truncation at the head, reclaim at
//! the tail, and the registry of all pins.
//!
//! Not responsible for: peers, sockets, what an image is, when to checkpoint, what the ack rule of
//! a cluster is, who is primary. It reads no clock but the one it is given, and its only thread,
//! which prepares, seals, reclaims and marks, lies in one file and is replaced by stepping (D22).
//!
//! ```text
//!  append, append_received          read, read_blocks, places, prove       reclaim, truncate, pin
//!           |                                     |                                  |
//!  +--------v-------------------------------------v----------------------------------v---------+
//!  | log: one lock, never held across I/O        frontiers, active index, known damage          |
//!  |   commit: whoever waits writes: queue -> draft -> flights -> frontier -> callers wake      |
//!  |   walk + replay: facts from disk -> one of five rows     retention: pins -> reclaim floor  |
//!  +-----------------+--------------------+--------------------+------------------+-------------+
//!            record  |  frame             |  segment           |  index           |  meta
//!         one change |  binds records     |  one file, many    |  copy of the     |  two copies of
//!         and its    |  to one place in   |  lives, each with  |  headers of a    |  what must not
//!         sum        |  one log           |  its generation    |  sealed segment  |  be forgotten
//!  +-----------------+--------------------+--------------------+------------------+-------------+
//!  | disk: submit(operation) -> token, completions: portable | io_uring | simulated             |
//!  +--------------------------------------------------------------------------------------------+
//! ```
//!
//! # Invariants
//!
//! - W1 `tail <= checkpoint <= committed <= durable <= head`, asserted whenever one of them moves.
//! - W2 Durable never covers a record that is not on stable storage: it moves over the gap-free
//!   prefix of frames that are durable by themselves, or whose write was complete before a sync was
//!   submitted, and nobody is told before (L5).
//! - W3 The first failed write or sync of the log is final: every later append, sync and close gets
//!   its cause, and so does every wait for an LSN that is not durable; nothing is retried. What was
//!   durable before stays so: it is readable, and who waits for it is told (L3).
//! - W4 LSNs are dense. A record gets its LSN and its place in the queue under one lock, and a
//!   frame its place, number and link under the same one, whoever writes it and however it lands,
//!   and no (epoch, incarnation, LSN) names two contents: a truncation ends the incarnation that
//!   wrote (L6, D2).
//! - W5 An open syncs files, then directories, then reads (L4): meta, and behind a crash every
//!   segment without an index, past the page cache, which shows what a failed sync lost. What a
//!   reader was shown once does not vanish with the next power cut.
//! - W6 Damage above every recorded frontier is a torn tail: cut, and gone from the medium before
//!   the next append. Damage at or below one is never cut: the log opens read-only and says what
//!   is lost (L2, D14).
//! - W7 A frame counts only in its chain: log, generation, place, sequence and digest of the frame
//!   before (L1). A frame outside the chain is evidence about frontiers, never about records that
//!   were cut or truncated (D13).
//! - W8 Generations rise along the chain of segments and none is used twice; a segment is prepared
//!   and durable before a seal names it, and sealed and durable before a frame goes to the next.
//! - W9 A sealed index is written from read-back after the seal is durable; it never knows more
//!   than its segment, and without it nothing is lost but time (D15). An open proves its header, a
//!   lookup the pages it needs.
//! - W10 meta is durable before space is reused: a segment becomes free only behind meta's
//!   `first_generation`, and only when no reader holds it.
//! - W11 A range read gives every record of `(after, through]`, each verified, or a typed error
//!   (L7). What it gives stays readable while the reader lives: it holds a pin, and a pin is
//!   checked against the tail in the critical section that takes it.
//! - W12 Bytes from disk never panic: lengths are bounded before anything is allocated, and what
//!   contradicts the format is a [`Damage`].
//!
//! # Memory
//!
//! A sealed segment takes some hundred bytes of memory, however many records it holds: its entries
//! stay in its index on disk. Open are the segments that take frames or are prepared to, two
//! descriptors each, and 32 files that were lately read, however long the log is. A segment without
//! a usable index keeps 32 bytes a record until the background has written one, and so does the
//! active segment: 512 KiB for 64 MiB of 4 KiB records, 4 MiB for 64 MiB of 512-byte ones, 64 MiB
//! for 1 GiB of those; a log of trims alone takes half of its size. While an index is written, its
//! entries are there twice. A reader holds two windows of a segment, 4 MiB and 68 KiB at most, and
//! about a thousand entries.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use seawall_wal::disk::{self, Buffer, Choice};
//! use seawall_wal::{
//!     BlockSize, Change, Epoch, Geometry, Lba, Log, LogId, LogMode, Lsn, LsnRange, Meta,
//!     MetaContents, Role, SystemClock, VolumeId,
//! };
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let temp = tempfile::tempdir()?;
//! # let dir = temp.path().join("volume");
//! let disk = disk::open_backend(Choice::Auto)?;
//! disk::make_dir(disk.as_ref(), &dir)?;
//! disk::make_dir(disk.as_ref(), &dir.join("wal"))?;
//! disk::sync_dir(disk.as_ref(), &dir)?;
//! let geometry = Geometry {
//!     block_size: BlockSize::DEFAULT,
//!     blocks: 1 << 20,
//!     segment_bytes: 1 << 20,
//! };
//! let new = MetaContents::of_new(VolumeId([7; 16]), LogId([8; 16]), geometry, Role::Primary);
//! let meta = Arc::new(Meta::create(&disk, &dir, new)?);
//! let clock = SystemClock::new();
//! let (log, _replay) = Log::open(&disk, &dir, &meta, &clock, LogMode::Writable, Lsn::ZERO)?;
//! log.start_incarnation(Epoch::new(1))?;
//!
//! let block = Buffer::copy_of(&[42; 4096]);
//! let ticket = log.append(vec![Change::write(Lba(3), BlockSize::DEFAULT, block)])?;
//! assert_eq!(ticket.wait()?, Lsn::new(1)); // durable
//!
//! let all = LsnRange::new(Lsn::ZERO, log.frontiers().head);
//! for record in log.read(all)? {
//!     assert_eq!(record?.payload()[..], [42; 4096]);
//! }
//! log.close()?;
//! # Ok(())
//! # }
//! ```
#[cfg(test)]
mod acceptance_tests;
mod append;
mod background;
mod block;
mod bounds;
mod clock;
mod commit;
#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod damage_tests;
pub mod disk;
mod disown;
mod draft;
mod edge;
mod entries;
mod error;
#[cfg(test)]
mod flight_tests;
#[doc = include_str!("../FORMAT.md")]
pub mod format {}
#[cfg(test)]
mod fault_tests;
mod files;
mod flight;
#[cfg(test)]
mod flip_tests;
mod follow;
#[cfg(test)]
mod format_tests;
mod frame;
#[cfg(all(feature = "sim", any(test, fuzzing)))]
#[cfg_attr(fuzzing, doc(hidden))]
pub mod fuzzing;
#[cfg(test)]
mod golden_tests;
mod handles;
mod heal;
#[cfg(test)]
mod heal_tests;
mod index;
mod inspect;
#[cfg(all(test, shuttle))]
mod interleavings;
mod known;
mod lineage;
mod log;
mod loss;
mod lsn;
mod meta;
mod opening;
#[cfg(test)]
mod outcome_tests;
mod pins;
#[cfg(test)]
mod pins_tests;
mod prepare;
mod read;
#[cfg(test)]
mod read_tests;
mod record;
#[cfg(test)]
mod reopen_tests;
mod replay;
mod report;
mod retention;
mod rewrite;
mod salvage;
mod scan;
mod segment;
mod slots;
mod state;
#[doc(hidden)]
pub mod sync;
#[cfg(test)]
mod tests;
mod ticket;
mod walk;
mod windows;

pub use append::Ready;
pub use block::{BlockSize, Lba, LogId, NodeIncarnation, VolumeId};
pub use clock::Clock;
pub use edge::SystemClock;
pub use error::{Corrupt, Damage, Error, IoOp, Misfit};
pub use follow::{Followed, Follower};
pub use inspect::{Inspected, inspect_segment, inspect_stale};
pub use lineage::{Fork, Lineage, LineageEntry};
pub use log::{Log, LogMode};
pub use lsn::{Epoch, Incarnation, Lsn, LsnRange};
pub use meta::{CleanClose, Geometry, Meta, MetaContents, Role, Section, SectionId};
pub use read::RecordReader;
pub use record::{Change, Record, RecordHeader, RecordKind};
pub use report::{
    Frontiers, Gap, Loss, LossReport, RecordPlace, ReplayReport, ScanEnd, SegmentInfo,
    SegmentState, Stats,
};
pub use retention::{
    PinBreak, PinBudget, PinHolder, PinInfo, PinKind, PinLimits, PinRequest, WalPin,
};
pub use salvage::Salvage;
pub use ticket::Ticket;
