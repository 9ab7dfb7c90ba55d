//! A block volume over a write-ahead log: base image, checkpoint, pinned views.
mod base;
mod error;
mod install;
mod sums;
mod volume;

pub use base::{BasePin, SnapshotPin, StateView, View};
pub use error::Error;
pub use install::{CHUNK_BYTES, Install, Manifest, chunk_digest, sweep};
pub use sums::Digest;
pub use volume::{
    Access, BaseState, CreateOptions, DamageFound, Durability, Progress, Untrusted, VerifyReport,
    Volume,
};
