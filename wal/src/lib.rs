//! A durable log on one machine.
mod block;
pub mod disk;
mod error;
mod lineage;
mod lsn;

pub use block::{BlockSize, Lba, LogId, NodeIncarnation, VolumeId};
pub use error::{Corrupt, Damage, Error, IoOp};
pub use lineage::{Fork, Lineage, LineageEntry};
pub use lsn::{Epoch, Incarnation, Lsn, LsnRange};
