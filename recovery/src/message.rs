//! Message codec (PROTOCOL.md). A record travels unchanged. Input is untrusted: no bytes panic, and
//! every length is bounded before anything is allocated.

use std::fmt;

use seawall_wal::{Damage, Epoch, VolumeId};

/// Why bytes from a peer are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// The first bytes are not ours.
    Magic,
    /// The protocol version is not known to this build.
    Version {
        /// The version found.
        found: u16,
    },
    /// A sum does not match.
    Checksum {
        /// "header" or "body".
        part: &'static str,
    },
    /// The body is longer than the limit.
    BodyTooLong {
        /// Its announced length.
        bytes: u32,
    },
    /// The message type is not known.
    Type {
        /// The code found.
        found: u8,
    },
    /// A field has a value that the protocol does not define.
    Field {
        /// Its name in PROTOCOL.md.
        field: &'static str,
    },
    /// The body ends before its last field, or goes on behind it.
    Length,
    /// A record in it is damaged.
    Record(Damage),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Invalid::Magic => write!(f, "the magic number is not ours"),
            Invalid::Version { found } => write!(f, "protocol version {found} is not known here"),
            Invalid::Checksum { part } => write!(f, "the sum of the {part} does not match"),
            Invalid::BodyTooLong { bytes } => {
                write!(f, "a body of {bytes} bytes is over the limit")
            }
            Invalid::Type { found } => write!(f, "message type {found} is not known"),
            Invalid::Field { field } => write!(f, "field {field} has a value nobody defined"),
            Invalid::Length => write!(f, "the body is shorter or longer than its fields"),
            Invalid::Record(damage) => write!(f, "a record is damaged: {damage}"),
        }
    }
}

/// Why a peer refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has promised a newer epoch (D5).
    EpochTooOld {
        /// That epoch.
        promised: Epoch,
    },
    /// It belongs to another volume.
    OtherVolume {
        /// Its volume.
        volume: VolumeId,
    },
    /// It has another id than the one it was called by.
    OtherId {
        /// Its id.
        id: String,
    },
    /// Its volume has another shape.
    OtherGeometry,
    /// It is not what the message takes it for.
    WrongRole,
    /// The message belongs to a session that is not the current one.
    NoSession,
    /// A newer session has taken this one's place.
    Displaced,
    /// It cannot read or write its storage, or cannot go on.
    Failed {
        /// For people, at most 512 bytes.
        text: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::EpochTooOld { promised } => write!(f, "it has promised epoch {promised}"),
            Refusal::OtherVolume { volume } => write!(f, "it belongs to volume {volume}"),
            Refusal::OtherId { id } => write!(f, "its id is {id}"),
            Refusal::OtherGeometry => write!(f, "its volume has another size or block size"),
            Refusal::WrongRole => write!(f, "it is not a replica"),
            Refusal::NoSession => write!(f, "the session is not its current one"),
            Refusal::Displaced => write!(f, "a newer session has taken over"),
            Refusal::Failed { text } => f.write_str(text),
        }
    }
}
