//! Replication between processes and over bad links.

mod link;
mod tls;
