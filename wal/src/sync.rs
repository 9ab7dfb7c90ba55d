//! Locks, channels, threads and the gate that the commit path sleeps at.
//!
//! Everything of this workspace that orders threads and is not a backend of the disk or a socket
//! comes from here. A product build has the types of the standard library. The feature `turns`,
//! which only the simulator asks for, has types that let the threads of a simulated cluster take
//! turns; a test build with `--cfg shuttle` hands the order of every step to a scheduler that
//! explores interleavings.

#[cfg(not(any(all(test, shuttle), feature = "turns")))]
mod types {
    pub use std::sync::mpsc;
    pub use std::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub use std::thread::yield_now;
}
#[cfg(all(feature = "turns", not(all(test, shuttle))))]
mod types {
    pub use super::turns::channel as mpsc;
    pub use super::turns::locks::{
        Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    };
    pub use super::turns::yield_now;
}
#[cfg(all(test, shuttle))]
mod types {
    pub use shuttle::sync::{Condvar, Mutex, MutexGuard};
    pub use shuttle::thread::yield_now;
}

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::atomic::AtomicU64;
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::atomic::AtomicU64;

#[cfg(all(target_os = "linux", not(any(all(test, shuttle), feature = "turns"))))]
#[path = "sync/futex.rs"]
mod gate;
#[cfg(not(all(target_os = "linux", not(any(all(test, shuttle), feature = "turns")))))]
#[path = "sync/portable.rs"]
mod gate;

mod threads;
#[cfg(feature = "turns")]
pub mod turns;

pub(crate) use gate::Gate;
pub use threads::{JoinHandle, beside, contain, spawn};
pub use types::*;

#[cfg(test)]
mod tests;
