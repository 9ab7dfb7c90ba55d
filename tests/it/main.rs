//! Every integration test of the workspace, in one binary.
//!
//! `harness` holds fixtures, `tidy` the rules of the repository, `power` cuts power on real file
//! systems; the other modules are named after the crate whose claims they test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "fixtures stand outside the engine: they make files, start programs and keep time"
)]

mod cli;
mod demo;
#[cfg(target_os = "linux")]
mod documents;
mod harness;
mod nbd;
#[cfg(target_os = "linux")]
mod power;
mod recovery;
mod snapshot;
mod tidy;
mod torture;
