//! Brings replicas of a Seawall volume level with their primary, with proof.
#![forbid(unsafe_code)]

mod driver;
mod error;
mod message;
mod status;

pub use driver::{
    AckRule, CtlServer, Primary, PrimaryOptions, PromiseReport, Replica, ReplicaAddress,
    ReplicaOptions, promise_epoch, query_ctl, query_status, serve_ctl,
};
pub use error::Error;
pub use message::{Invalid, Refusal};
pub use status::{PinStatus, RecoveryRecord, ReplicaStatus, SegmentStatus, Status};
