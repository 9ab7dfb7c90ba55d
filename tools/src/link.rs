//! How a command reaches its peers, as it is typed.

use std::path::PathBuf;
use std::sync::Arc;

use seawall_recovery::{Security, TlsFiles};
use seawall_wal::disk::Disk;

use crate::error::Error;

/// TLS with a certificate of our own, or nothing at all where the network is trusted.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// PEM file of this node's certificate; peers are reached over TLS and have to show theirs
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "tls_ca")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its private key
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authority that certificates of peers are checked against
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_ca: Option<PathBuf>,
    /// Allow addresses outside this machine without TLS: whoever is on the network reads and
    /// changes everything
    #[arg(long, conflicts_with = "tls_cert")]
    pub insecure_plaintext: bool,
}

impl Args {
    /// What was asked for, its files read.
    pub(crate) fn security(&self, disk: &Arc<dyn Disk>) -> Result<Security, Error> {
        match (&self.tls_cert, &self.tls_key, &self.tls_ca) {
            (Some(certificate), Some(key), Some(authority)) => {
                let files = TlsFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    authority: authority.clone(),
                };
                Ok(Security::tls(disk, &files)?)
            }
            _ if self.insecure_plaintext => Ok(Security::InsecurePlaintext),
            _ => Ok(Security::Loopback),
        }
    }
}
