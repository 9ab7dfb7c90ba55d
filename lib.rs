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

#![forbid(unsafe_code)]

pub use seawall_recovery as recovery;
pub use seawall_snapshot as snapshot;
pub use seawall_wal as wal;
