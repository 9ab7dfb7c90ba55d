//! The nbdkit plugin as a client meets it: real nbdkit, real clients, LESSONS section 6.
//!
//! nbdkit itself is tested by smoke only. A SIGKILL proves that nothing acknowledged waited in the
//! memory of the process; what a power cut leaves is proven on the simulated disk.

mod client;
mod clients;
mod daemon;
mod damage;
mod extents;
mod flags;
mod kill;
mod replicas;
mod server;
mod space;
mod stop;
mod wrong_use;
