//! What is measured: one file per engine behind one small trait.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

mod fjall;
mod floor;
mod fsys;
mod okaywal;
mod raft_engine;
mod seawall;
mod surrealkv;
mod wal_db;
mod walrus;

pub(crate) use walrus::QUIET;

/// Bytes of a segment, wherever it can be set.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;
/// Bytes of payload that an engine keeps, wherever it can be told.
pub(crate) const RETAINED_BYTES: u64 = 256 << 20;
/// Segments of payload that an engine keeps.
const RETAINED_SEGMENTS: usize = (RETAINED_BYTES / SEGMENT_BYTES) as usize;

/// A log under measurement.
pub(crate) trait Engine: Send + Sync {
    /// Appends one record; returns when it is durable. `thread` is below the number of lanes, and
    /// no two callers use the same at a time.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    fn append(&self, thread: usize, payload: &[u8]) -> io::Result<()>;

    /// Called by one thread each time another segment of payload went in: gives up what is older
    /// than the retained bytes.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    fn retire(&self) -> io::Result<()> {
        Ok(())
    }

    /// Waits for appends that are in flight.
    ///
    /// # Errors
    /// Whatever the engine fails with.
    fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    /// Every option set, and the backend in use.
    fn configuration(&self) -> String;
}

/// What an engine is opened with.
#[derive(Debug)]
pub(crate) struct Setup {
    /// An empty directory on the disk to measure.
    pub(crate) dir: PathBuf,
    /// Threads that will append, at most.
    pub(crate) lanes: usize,
    /// Bytes of one record.
    pub(crate) size: usize,
    /// Backend of Seawall's disk.
    pub(crate) backend: String,
}

/// Another log, or another configuration of it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// What it is.
    pub(crate) label: &'static str,
    /// Whether this is the best fair configuration, or one of two that may be, and not the default
    /// or another shape.
    pub(crate) fair: bool,
    open: fn(&Setup) -> io::Result<Box<dyn Engine>>,
}

/// Every peer. The rows of a package stand together, its best fair configuration first.
pub(crate) const PEERS: &[Peer] = &[
    peer(
        "raft-engine",
        "raft-engine",
        "0.4.2",
        "log",
        raft_engine::fair,
    ),
    default(
        "raft-engine-default",
        "raft-engine",
        "0.4.2",
        "log",
        raft_engine::default,
    ),
    peer("okaywal", "okaywal", "0.3.1", "log", okaywal::fair),
    default(
        "okaywal-default",
        "okaywal",
        "0.3.1",
        "log",
        okaywal::default,
    ),
    peer("wal-db", "wal-db", "1.1.0", "log", wal_db::fair),
    peer(
        "walrus",
        "walrus-rust",
        "0.2.0",
        "topic log, one topic",
        walrus::one_topic,
    ),
    default(
        "walrus-topics",
        "walrus-rust",
        "0.2.0",
        "a topic per thread",
        walrus::topics,
    ),
    peer("fsys", "fsys", "1.1.3", "journal, one file", fsys::fair),
    peer(
        "fsys-direct",
        "fsys",
        "1.1.3",
        "journal, one file",
        fsys::direct,
    ),
    default(
        "fsys-default",
        "fsys",
        "1.1.3",
        "journal, one file",
        fsys::default,
    ),
    peer(
        "surrealkv",
        "surrealkv",
        "1.2.0",
        "embedded engine",
        surrealkv::fair,
    ),
    default(
        "surrealkv-default",
        "surrealkv",
        "1.2.0",
        "embedded engine",
        surrealkv::default,
    ),
    peer("fjall", "fjall", "3.1.13", "embedded engine", fjall::fair),
    default(
        "fjall-default",
        "fjall",
        "3.1.13",
        "embedded engine",
        fjall::default,
    ),
];

type Open = fn(&Setup) -> io::Result<Box<dyn Engine>>;

const fn peer(
    name: &'static str,
    package: &'static str,
    version: &'static str,
    label: &'static str,
    open: Open,
) -> Peer {
    Peer {
        name,
        package,
        version,
        label,
        fair: true,
        open,
    }
}

const fn default(
    name: &'static str,
    package: &'static str,
    version: &'static str,
    label: &'static str,
    open: Open,
) -> Peer {
    Peer {
        fair: false,
        ..peer(name, package, version, label, open)
    }
}

/// The best fair configuration of every peer.
pub(crate) fn fair() -> impl Iterator<Item = &'static Peer> {
    PEERS.iter().filter(|peer| peer.fair)
}

pub(crate) const SEAWALL: &str = "seawall";
/// Seawall with one caller that keeps many appends in flight.
pub(crate) const SEAWALL_IN_FLIGHT: &str = "seawall-256-in-flight";
pub(crate) const FLOOR_DSYNC: &str = "floor-dsync";
pub(crate) const FLOOR_OVER: &str = "floor-over";
pub(crate) const FLOOR_GROUP: &str = "floor-group";
pub(crate) const FLOOR_SEQUENTIAL: &str = "floor-seq";

/// Opens an engine by name.
///
/// # Errors
/// A name that is not known; whatever the engine fails with.
pub(crate) fn open(name: &str, setup: &Setup) -> io::Result<Box<dyn Engine>> {
    match name {
        SEAWALL => return seawall::one_at_a_time(setup),
        SEAWALL_IN_FLIGHT => return seawall::in_flight(setup),
        FLOOR_DSYNC => return floor::dsync(setup),
        FLOOR_OVER => return floor::over(setup),
        FLOOR_GROUP => return floor::group(setup),
        FLOOR_SEQUENTIAL => return floor::sequential(setup),
        _ => {}
    }
    let peer = PEERS.iter().find(|peer| peer.name == name);
    let peer = peer.ok_or_else(|| crate::options::invalid(format!("no engine {name}")))?;
    (peer.open)(setup)
}

/// Whether a name is that of a floor.
pub(crate) fn is_floor(name: &str) -> bool {
    [FLOOR_DSYNC, FLOOR_OVER, FLOOR_GROUP, FLOOR_SEQUENTIAL].contains(&name)
}

/// The threads and record size that an engine runs with when it has a shape of its own.
pub(crate) fn shape(name: &str, threads: usize, size: usize) -> (usize, usize) {
    match name {
        FLOOR_SEQUENTIAL => (floor::SEQUENTIAL_DEPTH, floor::SEQUENTIAL_BYTES),
        FLOOR_OVER | SEAWALL_IN_FLIGHT => (1, size),
        _ => (threads, size),
    }
}

/// A failure of an engine, as the trait wants it.
fn failed(error: impl Display) -> io::Error {
    io::Error::other(error.to_string())
}

/// Remembers the positions of the last segments of payload: what falls out may be given up.
#[derive(Debug)]
struct Marks<T> {
    marks: Mutex<VecDeque<T>>,
}

impl<T> Marks<T> {
    fn new() -> Marks<T> {
        Marks {
            marks: Mutex::new(VecDeque::new()),
        }
    }

    /// Takes the position of now, once a segment; gives the one below which nothing is retained.
    fn next(&self, now: T) -> Option<T> {
        let mut marks = self.marks.lock().expect("no thread panics holding it");
        marks.push_back(now);
        (marks.len() > RETAINED_SEGMENTS)
            .then(|| marks.pop_front())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_after_the_retained_segments() {
        let marks = Marks::new();
        let given: Vec<_> = (0..6).map(|segment| marks.next(segment)).collect();
        assert_eq!(given, [None, None, None, None, Some(0), Some(1)]);
    }

    #[test]
    fn every_peer_is_at_the_version_of_the_manifest() {
        let manifest = include_str!("../Cargo.toml");
        for peer in PEERS {
            let named = manifest.lines().any(|line| {
                let package = line
                    .split_once(" = ")
                    .is_some_and(|(n, _)| n == peer.package);
                package && line.contains(&format!("\"={}\"", peer.version))
            });
            assert!(
                named,
                "{} {} is not in the manifest",
                peer.package, peer.version
            );
        }
    }

    #[test]
    fn every_name_is_used_once_and_every_package_has_a_fair_row() {
        for peer in PEERS {
            let same = PEERS.iter().filter(|other| other.name == peer.name);
            assert_eq!(same.count(), 1, "{}", peer.name);
            let rows = fair().filter(|other| other.package == peer.package);
            assert!(rows.count() > 0, "{}", peer.package);
        }
    }
}
