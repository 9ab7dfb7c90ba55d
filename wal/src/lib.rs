//! A durable log on one machine.
mod block;
mod clock;
pub mod disk;
mod error;
mod frame;
mod lineage;
mod log;
mod lsn;
mod meta;
mod record;
mod retention;
mod segment;

pub use block::{BlockSize, Lba, LogId, NodeIncarnation, VolumeId};
pub use clock::{Clock, SystemClock};
pub use error::{Corrupt, Damage, Error, IoOp};
pub use lineage::{Fork, Lineage, LineageEntry};
pub use log::{
    Frontiers, Gap, Inspected, Log, LogMode, Loss, LossReport, RecordPlace, RecordReader,
    ReplayReport, ScanEnd, SegmentInfo, SegmentState, Ticket, inspect_segment,
};
pub use lsn::{Epoch, Incarnation, Lsn, LsnRange};
pub use meta::{CleanClose, Geometry, Meta, MetaContents, Role, Section, SectionId};
pub use record::{Change, Record, RecordHeader, RecordKind};
pub use retention::{PinInfo, PinKind, WalPin};
