//! Seawall: a write-ahead-log engine with integrated replica recovery for block storage servers.
//!
//! Responsible for: being the one crate that a block server links. Not responsible for: any logic
//! or type; those live in the crates it re-exports.
//!
//! ```text
//!     block server
//!         |  write / read / flush / trim
//!         v
//!     recovery   brings replicas level with the primary, with proof; ships what is new
//!     snapshot   Volume = log + base image: read at head or at an LSN, checkpoint, pinned views
//!     wal        a durable log on one machine, and every touch of a file
//! ```
//!
//! Start at [`snapshot`] to serve blocks from one machine, and at [`recovery`] to add replicas.
//! Below both lies [`wal`], whose `disk` module is the only seam to files.
//!
//! Words that recur: a *record* is one write, write-zeroes or trim and has an LSN; a position is
//! the last LSN included, a range `(after, through]` is open on the left; and on every node
//! `tail <= checkpoint <= committed <= durable <= head` holds.
//!
//! A volume on one machine, written, lost from memory, and found again:
//!
//! ```
//! use std::sync::Arc;
//!
//! use seawall::snapshot::{Access, CreateOptions, Durability, Volume};
//! use seawall::wal::disk::{Disk, FileDisk};
//! use seawall::wal::{BlockSize, Geometry, Role, SystemClock};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let home = tempfile::tempdir()?;
//! let dir = home.path().join("volume");
//! let disk: Arc<dyn Disk> = FileDisk::new();
//! let clock = SystemClock::new();
//! let geometry = Geometry {
//!     block_size: BlockSize::DEFAULT,
//!     blocks: 4096,
//!     segment_bytes: 1 << 20,
//! };
//! let options = CreateOptions { volume: None, geometry, role: Role::Primary };
//! Volume::create(&disk, &dir, options)?;
//!
//! let (volume, _) = Volume::open(&disk, &dir, &clock, Access::Primary)?;
//! volume.write(8192, b"kept once the call returns", Durability::Durable)?;
//! volume.write(0, b"kept once flushed", Durability::Volatile)?;
//! let durable = volume.flush()?;
//! assert_eq!(volume.log().frontiers().durable, durable);
//! drop(volume);
//!
//! let (volume, replay) = Volume::open(&disk, &dir, &clock, Access::Primary)?;
//! assert_eq!(replay.records, 2);
//! let mut bytes = [0; 17];
//! volume.read(0, &mut bytes)?;
//! assert_eq!(&bytes, b"kept once flushed");
//! volume.close()?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

#[doc = include_str!("GUIDE.md")]
pub mod guide {}

pub use seawall_recovery as recovery;
pub use seawall_snapshot as snapshot;
pub use seawall_wal as wal;
