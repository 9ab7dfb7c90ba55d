//! What an operator runs: `seawall` and `wal-dump`.
//!
//! Responsible for: arguments, output for people and scripts, exit codes ([`exit`]), the demo.
//! Not responsible for: a second decoder; everything is read through the crates or not at all.
//!
//! The binaries only parse arguments. Each command is a module with its arguments and a function
//! `run`, so that tests can call it.

#![forbid(unsafe_code)]

pub mod bench;
mod commands;
mod common;
pub mod control;
mod copy;
pub mod create;
pub mod demo;
pub mod docs;
pub mod dump;
mod edge;
mod error;
pub mod exit;
pub mod export;
pub mod import;
pub mod link;
pub mod main_of;
pub mod maintain;
mod metrics;
mod paint;
pub mod primary;
pub mod promote;
pub mod replica;
mod runs;
pub mod status;
pub mod stress;
#[cfg(test)]
mod tests;
mod time;
pub mod verify;

pub use common::parse_size;
pub use error::Error;
