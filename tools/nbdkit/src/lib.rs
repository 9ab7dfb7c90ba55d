//! The nbdkit plugin: serves one Seawall volume over NBD (D25).
//!
//! Responsible for: turning nbdkit's callbacks into calls on a volume, honestly advertised.
//! Not responsible for: the NBD protocol, TLS, connections; nbdkit does those.
//!
//! ```text
//!   nbdkit --callbacks--> ffi --> export --> engine: Volume alone, or Volume behind the ack rule
//!                          |
//!                          +--> config (key=value) --> startup: check before the fork, open after
//! ```
//!
//! - N1 No panic crosses into C: every callback answers EIO instead.
//! - N2 nbdkit forks between `get_ready` and `after_fork`: what is opened before is closed before.
//! - N3 All connections share one engine, so a flush on one covers the writes of all.
//! - N4 A range is called a hole only when the engine says that it holds no data.

pub mod config;
pub mod engine;
pub mod error;
pub mod export;
// The symbols it calls live in nbdkit itself, so a unit test binary cannot link it; `it` runs it.
#[cfg(not(test))]
mod ffi;
pub mod journal;
pub mod startup;
