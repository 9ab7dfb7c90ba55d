//! Brings replicas of a Seawall volume level with their primary, with proof.
#![forbid(unsafe_code)]

pub mod ack;
pub mod budget;
mod driver;
mod error;
pub mod event;
pub mod failure;
pub mod history;
pub mod id;
mod message;
pub mod orchestrator;
pub mod outcome;
pub mod plan;
mod planner;
pub mod promotion;
pub mod rebuild;
mod receiver;
pub mod registry;
pub mod sender;
pub mod session;
mod state;
mod status;
pub mod stream;
#[cfg(test)]
mod testing;
mod transport;

pub use driver::{
    AckRule, CtlServer, Primary, PrimaryOptions, PromiseReport, Replica, ReplicaAddress,
    ReplicaOptions, promise_epoch, query_ctl, query_status, serve_ctl,
};
pub use error::Error;
pub use message::{Invalid, Refusal};
pub use status::{PinStatus, RecoveryRecord, ReplicaStatus, SegmentStatus, Status};
