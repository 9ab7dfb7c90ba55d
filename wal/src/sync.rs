//! Locks, atomics and the gate that the commit path sleeps at.
//!
//! Everything of this crate that orders threads and is not a backend of the disk comes from here,
//! so that a test build with `--cfg shuttle` hands the order of every step to a scheduler that
//! explores interleavings.

#[cfg(not(all(test, shuttle)))]
mod types {
    pub(crate) use std::sync::atomic::AtomicU64;
    pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::thread::yield_now;
}
#[cfg(all(test, shuttle))]
mod types {
    pub(crate) use shuttle::sync::atomic::AtomicU64;
    pub(crate) use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use shuttle::thread::yield_now;
}

#[cfg(all(target_os = "linux", not(all(test, shuttle))))]
#[path = "sync/futex.rs"]
mod gate;
#[cfg(not(all(target_os = "linux", not(all(test, shuttle)))))]
#[path = "sync/portable.rs"]
mod gate;

pub(crate) use gate::Gate;
pub(crate) use types::{AtomicU64, Condvar, Mutex, MutexGuard, yield_now};

#[cfg(test)]
mod tests;
