//! Replication between processes and over bad links.

mod control;
mod healing;
mod kill;
mod link;
mod site;
mod tls;
