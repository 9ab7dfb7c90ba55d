//! The `key=value` parameters of the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_recovery::{AckRule, ReplicaAddress, Security, TlsFiles};
use seawall_wal::disk::Disk;

use crate::error::Error;

/// What the command line asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    dir: Option<PathBuf>,
    /// Size in bytes, if given.
    pub size: Option<u64>,
    /// Block size in bytes, if given.
    pub block_size: Option<u64>,
    /// Segment size in bytes, if given.
    pub segment_size: Option<u64>,
    /// Replicas, in the order given.
    pub replicas: Vec<ReplicaAddress>,
    ack: Option<AckRule>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    insecure: Option<bool>,
}

impl Config {
    /// Nothing given yet.
    #[must_use]
    pub const fn new() -> Config {
        Config {
            dir: None,
            size: None,
            block_size: None,
            segment_size: None,
            replicas: Vec::new(),
            ack: None,
            tls_cert: None,
            tls_key: None,
            tls_ca: None,
            insecure: None,
        }
    }

    /// Takes one parameter.
    ///
    /// # Errors
    /// [`Error::UnknownKey`], [`Error::Repeated`], [`Error::BadValue`],
    /// [`Error::DuplicateReplica`].
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        match key {
            "dir" => once("dir", &mut self.dir, absolute(value)?),
            "size" => once("size", &mut self.size, bytes("size", value)?),
            "block-size" => once(
                "block-size",
                &mut self.block_size,
                bytes("block-size", value)?,
            ),
            "segment-size" => {
                let size = bytes("segment-size", value)?;
                once("segment-size", &mut self.segment_size, size)
            }
            "ack" => once("ack", &mut self.ack, ack_rule(value)?),
            "replica" => self.add_replica(replica(value)?),
            "tls-cert" => once("tls-cert", &mut self.tls_cert, absolute(value)?),
            "tls-key" => once("tls-key", &mut self.tls_key, absolute(value)?),
            "tls-ca" => once("tls-ca", &mut self.tls_ca, absolute(value)?),
            "insecure-plaintext" => once(
                "insecure-plaintext",
                &mut self.insecure,
                yes_or_no("insecure-plaintext", value)?,
            ),
            _ => Err(Error::UnknownKey {
                key: key.to_owned(),
            }),
        }
    }

    fn add_replica(&mut self, replica: ReplicaAddress) -> Result<(), Error> {
        if self.replicas.iter().any(|known| known.id == replica.id) {
            return Err(Error::DuplicateReplica { id: replica.id });
        }
        self.replicas.push(replica);
        Ok(())
    }

    /// Checks what only the whole can tell.
    ///
    /// # Errors
    /// [`Error::MissingDir`], [`Error::AckWithoutReplica`].
    pub fn complete(&self) -> Result<(), Error> {
        self.dir()?;
        match (self.ack(), self.replicas.is_empty()) {
            (AckRule::Quorum | AckRule::All, true) => Err(Error::AckWithoutReplica),
            (AckRule::Quorum | AckRule::All, false) | (AckRule::BestEffort, _) => Ok(()),
        }
    }

    /// The volume directory, absolute: nbdkit changes to `/` when it forks.
    ///
    /// # Errors
    /// [`Error::MissingDir`].
    pub fn dir(&self) -> Result<&Path, Error> {
        self.dir.as_deref().ok_or(Error::MissingDir)
    }

    /// The ack rule; best effort unless another is given.
    #[must_use]
    pub fn ack(&self) -> AckRule {
        self.ack.unwrap_or_default()
    }

    /// How replicas are reached; reads the files of TLS.
    ///
    /// # Errors
    /// [`Error::PartialTls`], [`Error::Recovery`] for a file that cannot be used.
    pub fn security(&self, disk: &Arc<dyn Disk>) -> Result<Security, Error> {
        let tls = (&self.tls_cert, &self.tls_key, &self.tls_ca);
        match (tls, self.insecure.unwrap_or(false)) {
            ((Some(certificate), Some(key), Some(authority)), false) => {
                let files = TlsFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    authority: authority.clone(),
                };
                Ok(Security::tls(disk, &files)?)
            }
            ((None, None, None), false) => Ok(Security::Loopback),
            ((None, None, None), true) => Ok(Security::InsecurePlaintext),
            _ => Err(Error::PartialTls),
        }
    }
}

fn bad(key: &'static str, value: &str, expected: &'static str) -> Error {
    Error::BadValue {
        key,
        value: value.to_owned(),
        expected,
    }
}

fn ack_rule(value: &str) -> Result<AckRule, Error> {
    match value {
        "best-effort" => Ok(AckRule::BestEffort),
        "quorum" => Ok(AckRule::Quorum),
        "all" => Ok(AckRule::All),
        _ => Err(bad("ack", value, "best-effort, quorum or all")),
    }
}

fn replica(value: &str) -> Result<ReplicaAddress, Error> {
    let expected = "replica=ID=HOST:PORT";
    let replica: ReplicaAddress = value.parse().map_err(|_| bad("replica", value, expected))?;
    match replica.address.contains(':') {
        true => Ok(replica),
        false => Err(bad("replica", value, expected)),
    }
}

fn yes_or_no(key: &'static str, value: &str) -> Result<bool, Error> {
    match value {
        "true" | "yes" | "1" => Ok(true),
        "false" | "no" | "0" => Ok(false),
        _ => Err(bad(key, value, "true or false")),
    }
}

fn once<T>(key: &'static str, slot: &mut Option<T>, value: T) -> Result<(), Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::Repeated { key }),
    }
}

fn absolute(value: &str) -> Result<PathBuf, Error> {
    // Fails for an empty path, or when the current directory is gone.
    std::path::absolute(value).map_err(|_| bad("dir", value, "dir=DIR with an existing parent"))
}

/// Parses a number of bytes: digits and an optional k, M, G, T or P (powers of 1024).
fn bytes(key: &'static str, value: &str) -> Result<u64, Error> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &value[digits.len()..] {
        "" | "b" | "B" => Some(1_u64),
        "k" | "K" => Some(1 << 10),
        "m" | "M" => Some(1 << 20),
        "g" | "G" => Some(1 << 30),
        "t" | "T" => Some(1 << 40),
        "p" | "P" => Some(1 << 50),
        _ => None,
    };
    let number: Option<u64> = digits.parse().ok();
    number
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| bad(key, value, "a number of bytes such as 4096, 64M or 10G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, Error> {
        let mut config = Config::new();
        pairs
            .iter()
            .try_for_each(|(key, value)| config.set(key, value))?;
        config.complete().map(|()| config)
    }

    #[test]
    fn every_parameter_of_the_contract_is_understood() {
        let config = parse(&[
            ("dir", "/srv/v"),
            ("size", "10G"),
            ("block-size", "512"),
            ("segment-size", "64M"),
            ("replica", "a=127.0.0.1:7001"),
            ("replica", "b=[::1]:7002"),
            ("ack", "quorum"),
        ])
        .unwrap();
        assert_eq!(config.dir().unwrap(), Path::new("/srv/v"));
        assert_eq!(config.size, Some(10 << 30));
        assert_eq!(config.block_size, Some(512));
        assert_eq!(config.segment_size, Some(64 << 20));
        assert_eq!(config.ack(), AckRule::Quorum);
        let ids: Vec<_> = config.replicas.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, ["a", "b"]);
        assert_eq!(config.replicas[1].address, "[::1]:7002");
    }

    #[test]
    fn a_part_of_a_tls_identity_is_refused() {
        let disk: Arc<dyn Disk> = seawall_wal::disk::FileDisk::new();
        for pairs in [
            vec![("tls-cert", "c.pem")],
            vec![("tls-cert", "c.pem"), ("tls-key", "k.pem")],
            vec![("tls-ca", "a.pem"), ("insecure-plaintext", "true")],
        ] {
            let pairs: Vec<_> = [("dir", "v")].into_iter().chain(pairs).collect();
            let security = parse(&pairs).unwrap().security(&disk);
            assert!(matches!(security, Err(Error::PartialTls)), "{pairs:?}");
        }
        let trusted = parse(&[("dir", "v"), ("insecure-plaintext", "yes")]).unwrap();
        assert!(matches!(
            trusted.security(&disk),
            Ok(Security::InsecurePlaintext)
        ));
    }

    #[test]
    fn a_relative_directory_survives_the_change_to_the_root() {
        let config = parse(&[("dir", "v")]).unwrap();
        assert!(config.dir().unwrap().is_absolute());
        assert_eq!(config.ack(), AckRule::BestEffort);
    }

    #[test]
    fn sizes_take_suffixes_and_refuse_what_does_not_fit() {
        for (text, expected) in [("1", 1), ("3k", 3072), ("2M", 2 << 20), ("1T", 1 << 40)] {
            assert_eq!(bytes("size", text).unwrap(), expected);
        }
        for text in [
            "",
            "0",
            "G",
            "10X",
            "10GG",
            "-1",
            "1.5G",
            "99999999P",
            "1 G",
        ] {
            assert!(
                matches!(bytes("size", text), Err(Error::BadValue { key: "size", value, .. })
                    if value == text),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_use_is_refused_before_anything_is_touched() {
        assert!(matches!(parse(&[]), Err(Error::MissingDir)));
        assert!(matches!(
            parse(&[("dir", "v"), ("colour", "red")]),
            Err(Error::UnknownKey { key }) if key == "colour"
        ));
        assert!(matches!(
            parse(&[("dir", "v"), ("dir", "w")]),
            Err(Error::Repeated { key: "dir" })
        ));
        assert!(matches!(
            parse(&[("dir", "v"), ("ack", "all")]),
            Err(Error::AckWithoutReplica)
        ));
        assert!(matches!(
            parse(&[("dir", "v"), ("ack", "most")]),
            Err(Error::BadValue { key: "ack", .. })
        ));
        for value in ["a", "=h:1", "a=", "a=host"] {
            assert!(matches!(
                parse(&[("dir", "v"), ("replica", value)]),
                Err(Error::BadValue { key: "replica", .. })
            ));
        }
        assert!(matches!(
            parse(&[("dir", "v"), ("replica", "a=h:1"), ("replica", "a=h:2")]),
            Err(Error::DuplicateReplica { id }) if id == "a"
        ));
    }
}
