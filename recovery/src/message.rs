//! Message codec (PROTOCOL.md). A record travels unchanged. Input is untrusted: no bytes panic, and
//! every length is bounded before anything is allocated.

mod body;
mod bytes;

use std::fmt;

use byteorder::{ByteOrder, LittleEndian};
use seawall_snapshot::{CHUNK_BYTES, Digest};
use seawall_wal::{
    Damage, Epoch, Geometry, Lineage, LineageEntry, Lsn, LsnRange, NodeIncarnation, Record,
    RecordHeader, VolumeId,
};

pub(crate) use bytes::RANGES_MAX;

use crate::id::SessionId;

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

/// What binds a message to its place: checked on both ends before any effect (L-S2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Fence {
    pub(crate) volume: Option<VolumeId>,
    pub(crate) epoch: Option<Epoch>,
    pub(crate) session: Option<SessionId>,
}

/// One message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) fence: Fence,
    pub(crate) body: Body,
}

/// The primary's half of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) replica: String,
    pub(crate) geometry: Geometry,
    pub(crate) committed: Lsn,
    pub(crate) confirmed: bool,
    pub(crate) first_retained: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) head: Lsn,
    pub(crate) lineage: Lineage,
}

/// The replica's half of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HelloReply {
    pub(crate) replica: String,
    pub(crate) node: NodeIncarnation,
    pub(crate) volume: Option<VolumeId>,
    pub(crate) durable: Lsn,
    pub(crate) checkpoint: Option<Lsn>,
    pub(crate) intent: Option<Lsn>,
    pub(crate) committed: Lsn,
    pub(crate) incomplete_base: Option<(SessionId, Lsn)>,
    pub(crate) needs_rebuild: bool,
    pub(crate) promised: Epoch,
    pub(crate) lost: Vec<LsnRange>,
    pub(crate) lineage: Lineage,
}

/// Where the bytes of a rebuild come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BaseSource {
    SnapshotTail,
    Full,
}

/// A rebuild begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BaseBegin {
    pub(crate) source: BaseSource,
    pub(crate) geometry: Geometry,
    pub(crate) lsn: Lsn,
    pub(crate) target: Lsn,
    pub(crate) committed: Lsn,
    pub(crate) lineage: Lineage,
}

/// Report of a member that has persisted a new epoch (D5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Promised {
    pub(crate) replica: String,
    pub(crate) volume: Option<VolumeId>,
    pub(crate) last_entry: Option<LineageEntry>,
    pub(crate) durable: Lsn,
    pub(crate) committed: Lsn,
    pub(crate) needs_rebuild: bool,
}

/// What a message says. PROTOCOL.md describes each field.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    Hello(Hello),
    HelloReply(HelloReply),
    Refused(Refusal),
    Mark {
        needs_rebuild: bool,
    },
    Marked,
    Truncate {
        to: Lsn,
    },
    Truncated {
        to: Lsn,
    },
    Fetch(LsnRange),
    Heal,
    BlockQuery {
        lba: u64,
    },
    Block {
        lba: u64,
        bytes: Vec<u8>,
    },
    Records {
        committed: Lsn,
        records: Vec<Record>,
    },
    Ack {
        durable: Lsn,
    },
    Commit {
        committed: Lsn,
    },
    Alive,
    BaseBegin(BaseBegin),
    BaseReady {
        compare: bool,
        in_place: bool,
    },
    Offer(Vec<(u64, Digest)>),
    Want(Vec<u64>),
    Chunk {
        index: u64,
        digest: Digest,
        bytes: Vec<u8>,
    },
    ZeroChunks {
        first: u64,
        count: u64,
    },
    BaseEnd {
        chunks: Digest,
        state: Digest,
    },
    BaseInstalled {
        lsn: Lsn,
        chunks: Digest,
    },
    DigestQuery {
        lsn: Lsn,
    },
    DigestReply {
        lsn: Lsn,
        state: Digest,
    },
    InSync {
        lsn: Lsn,
    },
    PromiseEpoch,
    Promised(Promised),
    StatusQuery,
    StatusReply {
        json: String,
    },
    Bye,
}

impl Body {
    /// Code and name, as PROTOCOL.md lists them.
    pub(crate) const fn kind(&self) -> (u8, &'static str) {
        match self {
            Body::Hello(_) => (1, "Hello"),
            Body::HelloReply(_) => (2, "HelloReply"),
            Body::Refused(_) => (3, "Refused"),
            Body::Mark { .. } => (4, "Mark"),
            Body::Marked => (5, "Marked"),
            Body::Truncate { .. } => (6, "Truncate"),
            Body::Truncated { .. } => (7, "Truncated"),
            Body::Fetch(_) => (8, "Fetch"),
            Body::Records { .. } => (9, "Records"),
            Body::Ack { .. } => (10, "Ack"),
            Body::Commit { .. } => (11, "Commit"),
            Body::Alive => (12, "Alive"),
            Body::BaseBegin(_) => (13, "BaseBegin"),
            Body::BaseReady { .. } => (14, "BaseReady"),
            Body::Offer(_) => (15, "Offer"),
            Body::Want(_) => (16, "Want"),
            Body::Chunk { .. } => (17, "Chunk"),
            Body::ZeroChunks { .. } => (18, "ZeroChunks"),
            Body::BaseEnd { .. } => (19, "BaseEnd"),
            Body::BaseInstalled { .. } => (20, "BaseInstalled"),
            Body::DigestQuery { .. } => (21, "DigestQuery"),
            Body::DigestReply { .. } => (22, "DigestReply"),
            Body::InSync { .. } => (23, "InSync"),
            Body::PromiseEpoch => (24, "PromiseEpoch"),
            Body::Promised(_) => (25, "Promised"),
            Body::StatusQuery => (26, "StatusQuery"),
            Body::StatusReply { .. } => (27, "StatusReply"),
            Body::Bye => (28, "Bye"),
            Body::Heal => (29, "Heal"),
            Body::BlockQuery { .. } => (30, "BlockQuery"),
            Body::Block { .. } => (31, "Block"),
        }
    }

    pub(crate) const fn name(&self) -> &'static str {
        self.kind().1
    }
}

/// A header whose own sum holds and whose length is within the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    kind: u8,
    fence: Fence,
    body_bytes: u32,
    body_sum: u32,
}

impl Header {
    pub(crate) const BYTES: usize = 64;
    /// Longest body: a batch of records or a chunk of 1 MiB with room for its fields.
    pub(crate) const BODY_BYTES_MAX: u32 = 2 << 20;
    pub(crate) const MAGIC: [u8; 4] = *b"SWLM";
    pub(crate) const VERSION: u16 = 1;

    const VERSION_AT: usize = 4;
    const TYPE_AT: usize = 6;
    const FLAGS_AT: usize = 7;
    const VOLUME_AT: usize = 8;
    const EPOCH_AT: usize = 24;
    const SESSION_AT: usize = 32;
    const BODY_BYTES_AT: usize = 48;
    const BODY_SUM_AT: usize = 52;
    const RESERVED_AT: usize = 56;
    const SUM_AT: usize = 60;

    const HAS_VOLUME: u8 = 1;
    const HAS_EPOCH: u8 = 2;
    const HAS_SESSION: u8 = 4;

    /// Length of the body that follows.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body_bytes as usize
    }

    fn encode(&self) -> [u8; Header::BYTES] {
        let mut out = [0; Header::BYTES];
        out[..4].copy_from_slice(&Header::MAGIC);
        LittleEndian::write_u16(&mut out[Self::VERSION_AT..], Header::VERSION);
        out[Self::TYPE_AT] = self.kind;
        if let Some(volume) = self.fence.volume {
            out[Self::FLAGS_AT] |= Self::HAS_VOLUME;
            out[Self::VOLUME_AT..Self::EPOCH_AT].copy_from_slice(&volume.0);
        }
        if let Some(epoch) = self.fence.epoch {
            out[Self::FLAGS_AT] |= Self::HAS_EPOCH;
            LittleEndian::write_u64(&mut out[Self::EPOCH_AT..], epoch.get());
        }
        if let Some(session) = self.fence.session {
            out[Self::FLAGS_AT] |= Self::HAS_SESSION;
            LittleEndian::write_u64(&mut out[Self::SESSION_AT..], session.boot);
            LittleEndian::write_u64(&mut out[Self::SESSION_AT + 8..], session.counter);
        }
        LittleEndian::write_u32(&mut out[Self::BODY_BYTES_AT..], self.body_bytes);
        LittleEndian::write_u32(&mut out[Self::BODY_SUM_AT..], self.body_sum);
        let sum = crc32fast::hash(&out[..Self::SUM_AT]);
        LittleEndian::write_u32(&mut out[Self::SUM_AT..], sum);
        out
    }

    /// Takes a header apart. Nothing is allocated for what it announces.
    pub(crate) fn decode(bytes: &[u8; Header::BYTES]) -> Result<Header, Invalid> {
        if bytes[..4] != Header::MAGIC {
            return Err(Invalid::Magic);
        }
        let version = LittleEndian::read_u16(&bytes[Self::VERSION_AT..]);
        if version != Header::VERSION {
            return Err(Invalid::Version { found: version });
        }
        if LittleEndian::read_u32(&bytes[Self::SUM_AT..]) != crc32fast::hash(&bytes[..Self::SUM_AT])
        {
            return Err(Invalid::Checksum { part: "header" });
        }
        let header = Header {
            kind: bytes[Self::TYPE_AT],
            fence: Header::decode_fence(bytes)?,
            body_bytes: LittleEndian::read_u32(&bytes[Self::BODY_BYTES_AT..]),
            body_sum: LittleEndian::read_u32(&bytes[Self::BODY_SUM_AT..]),
        };
        if header.body_bytes > Header::BODY_BYTES_MAX {
            return Err(Invalid::BodyTooLong {
                bytes: header.body_bytes,
            });
        }
        // A field without its flag, and the reserved bytes, are zero: one message, one encoding.
        match header.encode() == *bytes {
            true => Ok(header),
            false => Err(Invalid::Field { field: "reserved" }),
        }
    }

    fn decode_fence(bytes: &[u8; Header::BYTES]) -> Result<Fence, Invalid> {
        let flags = bytes[Self::FLAGS_AT];
        if flags & !(Self::HAS_VOLUME | Self::HAS_EPOCH | Self::HAS_SESSION) != 0 {
            return Err(Invalid::Field { field: "flags" });
        }
        let mut volume = [0; 16];
        volume.copy_from_slice(&bytes[Self::VOLUME_AT..Self::EPOCH_AT]);
        let read = |at: usize| LittleEndian::read_u64(&bytes[at..]);
        let session = SessionId {
            boot: read(Self::SESSION_AT),
            counter: read(Self::SESSION_AT + 8),
        };
        Ok(Fence {
            volume: (flags & Self::HAS_VOLUME != 0).then_some(VolumeId(volume)),
            epoch: (flags & Self::HAS_EPOCH != 0).then_some(Epoch::new(read(Self::EPOCH_AT))),
            session: (flags & Self::HAS_SESSION != 0).then_some(session),
        })
    }
}

const _: () = assert!(Header::SUM_AT + 4 == Header::BYTES);
const _: () = assert!(Header::RESERVED_AT + 4 == Header::SUM_AT);
const _: () = assert!(
    RecordHeader::BYTES + RecordHeader::PAYLOAD_BYTES_MAX + 12 <= Header::BODY_BYTES_MAX as usize
);
const _: () = assert!(CHUNK_BYTES + 24 <= Header::BODY_BYTES_MAX as usize);

impl Message {
    /// The bytes that travel.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![0; Header::BYTES];
        self.body.encode(&mut out);
        let body = &out[Header::BYTES..];
        let header = Header {
            kind: self.body.kind().0,
            fence: self.fence,
            body_bytes: u32::try_from(body.len()).expect("every body is within its limit"),
            body_sum: crc32fast::hash(body),
        };
        assert!(
            header.body_bytes <= Header::BODY_BYTES_MAX,
            "every body is within its limit"
        );
        out[..Header::BYTES].copy_from_slice(&header.encode());
        out
    }

    /// A message from a header and the body that followed it.
    pub(crate) fn decode(header: &Header, body: &[u8]) -> Result<Message, Invalid> {
        if body.len() != header.body_bytes() {
            return Err(Invalid::Length);
        }
        if crc32fast::hash(body) != header.body_sum {
            return Err(Invalid::Checksum { part: "body" });
        }
        Ok(Message {
            fence: header.fence,
            body: Body::decode(header.kind, body)?,
        })
    }
}

#[cfg(test)]
mod tests;
