//! Brings the replicas of a Seawall volume level with their primary, with proof.
//!
//! Responsible for: deciding what a replica needs from two histories, carrying it out, shipping
//! live, counting acknowledgements. Not responsible for: encoding log bytes (it forwards records),
//! storing images, deciding when to promote.
//!
//! ```text
//!   facts of both sides            decisions, no I/O            effects
//!  +--------------------+   +---------------------------+   +--------------------+
//!  | history            |-->| outcome: outcome + proof  |   | driver: threads,   |
//!  |   of the primary   |   |   |                       |   |   time             |
//!  |   of the replica   |   | plan <- planner (pins)    |<->| transport: sockets |
//!  +--------------------+   |   |                       |   | message: codec     |
//!                           | orchestrator              |   | state: what must   |
//!                           |   registry                |   |   not be forgotten |
//!                           |     sender: one session   |   +--------------------+
//!                           |       or one stream       |
//!                           |         session, rebuild, |
//!                           |         budget | stream   |
//!                           |   ack ledger, event log   |
//!                           +---------------------------+
//! ```
//!
//! The deciding half is a function of its inputs: ticks, facts and pins come from the caller.
//!
//! Invariants, cited in code by number:
//!
//! - R1 Outcome and proof come from one function over facts read from storage; they never disagree.
//! - R2 Nothing that decides reads a clock, a socket or a file.
//! - R3 The target of a session is frozen. Progress is what the replica acknowledged as durable,
//!   and only of what was sent.
//! - R4 A sender owns at most one session or stream, every call names it by id, and a completed
//!   session becomes a stream with the same id in the same step.
//! - R5 A pin is released exactly once, by whoever ends its plan, session or stream.
//! - R6 The needs-rebuild mark is cleared by a completed rebuild or a reset of the replica's
//!   identity and by nothing else; silence never sets it.
//! - R7 Committed never falls, includes our own sync, and counts assigned replicas only: their live
//!   streams, and matching handshakes while the primary is unconfirmed.
//! - R8 An epoch only rises, and what belongs to an older one ends in the same step.
//! - R9 A plan is decided from what is seen under its pin.
//! - R10 After a rebuild nobody is in sync before the base was verified and the state digests at
//!   the target were equal.
#![forbid(unsafe_code)]

pub mod ack;
pub mod budget;
pub mod control;
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
pub mod progress;
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
pub mod throttle;
mod transport;

pub use driver::{
    AckRule, CtlServer, Healed, Primary, PrimaryOptions, PromiseReport, Replica, ReplicaAddress,
    ReplicaOptions, check_address, history_of, promise_epoch, query_ctl, query_status, serve_ctl,
};
pub use error::Error;
pub use message::{Invalid, Refusal};
pub use status::{
    DecisionRecord, FindStatus, PinStatus, ProgressStatus, RecoveryRecord, ReplicaStatus,
    ScrubStatus, SegmentStatus, Status, ThrottleStatus,
};
#[cfg(feature = "turns")]
pub use transport::simulated;
pub use transport::tls::{Identity, Security, TlsFiles};

/// The replication protocol: messages, state diagrams, failure table.
#[doc = include_str!("../PROTOCOL.md")]
pub mod protocol {}
