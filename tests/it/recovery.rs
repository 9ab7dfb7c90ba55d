//! Replication between processes and over bad links.

mod control;
mod link;
mod tls;
