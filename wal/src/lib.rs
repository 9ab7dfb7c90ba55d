//! A durable log on one machine.
mod block;
mod clock;
mod commit;
#[cfg(test)]
mod crash_tests;
pub mod disk;
mod edge;
mod error;
mod frame;
mod index;
mod inspect;
mod lineage;
mod log;
mod lsn;
mod meta;
mod record;
mod replay;
mod report;
mod retention;
mod segment;
#[cfg(test)]
mod tests;
mod walk;

pub use block::{BlockSize, Lba, LogId, NodeIncarnation, VolumeId};
pub use clock::Clock;
pub use edge::SystemClock;
pub use error::{Corrupt, Damage, Error, IoOp};
pub use inspect::{Inspected, inspect_segment};
pub use lineage::{Fork, Lineage, LineageEntry};
pub use log::{Log, LogMode, RecordReader, Ticket};
pub use lsn::{Epoch, Incarnation, Lsn, LsnRange};
pub use meta::{CleanClose, Geometry, Meta, MetaContents, Role, Section, SectionId};
pub use record::{Change, Record, RecordHeader, RecordKind};
pub use report::{
    Frontiers, Gap, Loss, LossReport, RecordPlace, ReplayReport, ScanEnd, SegmentInfo, SegmentState,
};
pub use retention::{PinInfo, PinKind, WalPin};
