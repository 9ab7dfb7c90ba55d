//! Why a command could not do its work, as facts. Text is rendered here and nowhere deeper.

use std::path::PathBuf;

use seawall_recovery as recovery;
use seawall_snapshot as snapshot;
use seawall_wal::{Corrupt, Epoch, Lsn, LsnRange};

/// Errors of the commands.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The volume refused or failed.
    #[error(transparent)]
    Volume(#[from] snapshot::Error),
    /// The volume refused or failed, and its own message does not name the directory.
    #[error("{}: {source}", dir.display())]
    At {
        /// The volume directory.
        dir: PathBuf,
        /// What it said.
        source: snapshot::Error,
    },
    /// The directory does not exist.
    #[error("{} does not exist; make a volume with seawall create", path.display())]
    NoDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A volume in use that was captured or reclaimed under each look at it.
    #[error(
        "{} is in use and changed during each of {looks} looks at it; stop its process first, or export a replica of it that is at rest",
        dir.display()
    )]
    Moving {
        /// The volume directory.
        dir: PathBuf,
        /// How often it was looked at.
        looks: u32,
    },
    /// A replica that is not the one it was named as.
    #[error(
        "replica {replica} cannot follow: {cause}; name its own primary's directory, or give it an empty one"
    )]
    Misassigned {
        /// Its id.
        replica: String,
        /// What it answered.
        cause: String,
    },
    /// A size that is no multiple of the block size.
    #[error("--size {bytes} is no multiple of the block size {block}; the next one is {}", bytes.checked_next_multiple_of(*block).unwrap_or(bytes - bytes % block))]
    SizeNotMultiple {
        /// The size asked for.
        bytes: u64,
        /// The block size.
        block: u64,
    },
    /// A volume of no bytes.
    #[error("--size 0 makes no volume; give a size such as 10G")]
    SizeZero,
    /// The image does not fit into the volume.
    #[error("{} has {bytes} bytes and the volume {} only {size}; create a larger volume", file.display(), dir.display())]
    InputTooLarge {
        /// The image.
        file: PathBuf,
        /// Its size.
        bytes: u64,
        /// The volume directory.
        dir: PathBuf,
        /// Its size.
        size: u64,
    },
    /// The log is damaged at or below its durable frontier (D14).
    #[error("{}: the log is damaged at {at}; LSNs {lsns} are lost, LSN {applied} is the last good one; run seawall verify, then recover from a replica or seawall export --at {applied}", dir.display())]
    Damaged {
        /// The volume directory.
        dir: PathBuf,
        /// The first damaged place.
        at: Box<Corrupt>,
        /// What it took.
        lsns: LsnRange,
        /// Last LSN before it.
        applied: Lsn,
    },
    /// The file of `--control` is no assignment.
    #[error("{}: {source}", path.display())]
    Control {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: recovery::control::BadFile,
    },
    /// The file of `--control` says nothing about this volume on this server.
    #[error(
        "{} has no entry with volume {volume} and primary {server:?} in a role that is known; add one, or correct --server",
        path.display()
    )]
    Unassigned {
        /// The file.
        path: PathBuf,
        /// This server.
        server: String,
        /// The volume.
        volume: seawall_wal::VolumeId,
    },
    /// Serving or receiving a replica failed.
    #[error(transparent)]
    Recovery(recovery::Error),
    /// The epoch of a promotion is over already.
    #[error("{}: epoch {asked} is not above its epoch {ours}; use --epoch {} or more", dir.display(), ours.next())]
    EpochTooLow {
        /// The volume directory.
        dir: PathBuf,
        /// What was asked for.
        asked: Epoch,
        /// What it has promised.
        ours: Epoch,
    },
    /// Too few members promised the new epoch (D5).
    #[error(
        "only {promised} of {members} members promised the epoch ({cause}); start more of them and promote with the next epoch"
    )]
    NoMajority {
        /// Members that promised, this one included.
        promised: usize,
        /// All members.
        members: usize,
        /// The last failure.
        cause: recovery::Error,
    },
    /// This replica was to be rebuilt, so its log may end before what was acknowledged (D5).
    #[error(
        "{dir} waits for a rebuild and may lack acknowledged records; promote another member, or this one without --peer if no other is left"
    )]
    MarkedForRebuild {
        /// The volume directory.
        dir: PathBuf,
    },
    /// A peer holds a newer history and has to be promoted in place of this one (D5).
    #[error(
        "{peer} holds a newer history, durable through LSN {theirs} where this one has {ours}; promote {peer} with the next epoch"
    )]
    Outranked {
        /// The peer.
        peer: String,
        /// Its durable LSN.
        theirs: Lsn,
        /// Ours.
        ours: Lsn,
    },
    /// A peer that may not be promoted holds what the ack rule may have counted (D5).
    #[error(
        "{peer} waits for a rebuild and holds a newer history, durable through LSN {theirs} where this one has {ours}: what was acknowledged may be there alone; bring the old primary back, or promote {peer} without --peer, or leave {peer} out to give that up"
    )]
    MarkedHoldsMore {
        /// The peer.
        peer: String,
        /// Its durable LSN.
        theirs: Lsn,
        /// Ours.
        ours: Lsn,
    },
    /// A path that cannot be what the command needs.
    #[error("{} {what}; {hint}", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// What to do.
        hint: &'static str,
    },
    /// An argument that contradicts another or cannot be carried out.
    #[error("{0}")]
    Usage(String),
    /// A process of the demo failed.
    #[error("node {name}: {what}; run the demo with --dir and look at it with seawall status")]
    Node {
        /// Which one.
        name: String,
        /// What it said.
        what: String,
    },
    /// SIGINT or SIGTERM ended the command.
    #[error("told to stop; run it again")]
    Interrupted,
    /// Standard output or a file beside the engine failed.
    #[error("cannot write the output: {0}; the volume is as it was")]
    Output(#[from] std::io::Error),
}

impl From<seawall_wal::Error> for Error {
    fn from(source: seawall_wal::Error) -> Error {
        Error::Volume(snapshot::Error::Log(source))
    }
}

impl From<recovery::Error> for Error {
    fn from(source: recovery::Error) -> Error {
        match source {
            recovery::Error::Volume(source) => Error::Volume(source),
            recovery::Error::Log(source) => source.into(),
            other => Error::Recovery(other),
        }
    }
}

impl Error {
    /// The reader of our output has gone: not worth a word.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Output(source) if source.kind() == std::io::ErrorKind::BrokenPipe)
    }
}
