//! Bodies of messages, field by field as PROTOCOL.md lists them.

use seawall_snapshot::CHUNK_BYTES;
use seawall_wal::disk::Buffer;
use seawall_wal::{Epoch, LsnRange, NodeIncarnation, Record, RecordHeader, VolumeId};

use super::bytes::{Reader, Writer, decode_entry, encode_entry, is_sane};
use super::{BaseBegin, BaseSource, Body, Hello, HelloReply, Invalid, Promised, Refusal};
use crate::id::SessionId;

/// Largest block of a volume.
const BLOCK_BYTES_MAX: usize = 1 << 16;
/// Most chunks in one offer.
pub(crate) const OFFER_CHUNKS_MAX: usize = 1024;

impl Body {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut w = Writer(out);
        match self {
            Body::Hello(hello) => hello.encode(&mut w),
            Body::HelloReply(reply) => reply.encode(&mut w),
            Body::Refused(refusal) => refusal.encode(&mut w),
            Body::Mark { needs_rebuild } => w.bool(*needs_rebuild),
            Body::Truncate { to } | Body::Truncated { to } => w.lsn(*to),
            Body::Fetch(range) => {
                w.lsn(range.after);
                w.lsn(range.through);
            }
            Body::Records { committed, records } => {
                w.lsn(*committed);
                encode_records(&mut w, records);
            }
            Body::Ack { durable: lsn }
            | Body::Commit { committed: lsn }
            | Body::DigestQuery { lsn }
            | Body::InSync { lsn } => w.lsn(*lsn),
            Body::BaseBegin(begin) => begin.encode(&mut w),
            Body::BaseReady { compare, in_place } => {
                w.bool(*compare);
                w.bool(*in_place);
            }
            Body::BlockQuery { lba } => w.u64(*lba),
            Body::Block { lba, bytes } => {
                w.u64(*lba);
                w.bytes(bytes);
            }
            Body::Offer(chunks) => {
                w.u32(count(chunks.len()));
                for (index, digest) in chunks {
                    w.u64(*index);
                    w.digest(*digest);
                }
            }
            Body::Want(chunks) => {
                w.u32(count(chunks.len()));
                chunks.iter().for_each(|index| w.u64(*index));
            }
            Body::Chunk {
                index,
                digest,
                bytes,
            } => {
                w.u64(*index);
                w.digest(*digest);
                w.bytes(bytes);
            }
            Body::ZeroChunks { first, count } => {
                w.u64(*first);
                w.u64(*count);
            }
            Body::BaseEnd { chunks, state } => {
                w.digest(*chunks);
                w.digest(*state);
            }
            Body::DigestReply { lsn, state: digest }
            | Body::BaseInstalled {
                lsn,
                chunks: digest,
            } => {
                w.lsn(*lsn);
                w.digest(*digest);
            }
            Body::Promised(report) => report.encode(&mut w),
            Body::StatusReply { json } => w.bytes(json.as_bytes()),
            Body::Marked
            | Body::Heal
            | Body::Alive
            | Body::PromiseEpoch
            | Body::StatusQuery
            | Body::Bye => {}
        }
    }

    pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Body, Invalid> {
        let mut r = Reader(body);
        let body = match kind {
            1 => Body::Hello(Hello::decode(&mut r)?),
            2 => Body::HelloReply(HelloReply::decode(&mut r)?),
            3 => Body::Refused(Refusal::decode(&mut r)?),
            4 => Body::Mark {
                needs_rebuild: r.bool("needs_rebuild")?,
            },
            5 => Body::Marked,
            6 => Body::Truncate { to: r.lsn("to")? },
            7 => Body::Truncated { to: r.lsn("to")? },
            8 => Body::Fetch(LsnRange::new(r.lsn("after")?, r.lsn("through")?)),
            9 => Body::Records {
                committed: r.lsn("committed")?,
                records: decode_records(&mut r)?,
            },
            10 => Body::Ack {
                durable: r.lsn("durable")?,
            },
            11 => Body::Commit {
                committed: r.lsn("committed")?,
            },
            12 => Body::Alive,
            13 => Body::BaseBegin(BaseBegin::decode(&mut r)?),
            14 => Body::BaseReady {
                compare: r.bool("compare")?,
                in_place: r.bool("in_place")?,
            },
            15 => Body::Offer(decode_list(&mut r, |r| Ok((r.u64()?, r.digest()?)))?),
            16 => Body::Want(decode_list(&mut r, |r| r.u64())?),
            17 => decode_chunk(&mut r)?,
            18 => Body::ZeroChunks {
                first: r.u64()?,
                count: r.u64()?,
            },
            19 => Body::BaseEnd {
                chunks: r.digest()?,
                state: r.digest()?,
            },
            20 => Body::BaseInstalled {
                lsn: r.lsn("lsn")?,
                chunks: r.digest()?,
            },
            21 => Body::DigestQuery { lsn: r.lsn("lsn")? },
            22 => Body::DigestReply {
                lsn: r.lsn("lsn")?,
                state: r.digest()?,
            },
            23 => Body::InSync { lsn: r.lsn("lsn")? },
            24 => Body::PromiseEpoch,
            25 => Body::Promised(Promised::decode(&mut r)?),
            26 => Body::StatusQuery,
            27 => Body::StatusReply {
                json: String::from_utf8(r.rest().to_vec())
                    .map_err(|_| Invalid::Field { field: "json" })?,
            },
            28 => Body::Bye,
            29 => Body::Heal,
            30 => Body::BlockQuery { lba: r.u64()? },
            31 => decode_block(&mut r)?,
            found => return Err(Invalid::Type { found }),
        };
        r.end()?;
        Ok(body)
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).expect("lists in messages are short")
}

fn decode_list<T>(
    r: &mut Reader<'_>,
    mut item: impl FnMut(&mut Reader<'_>) -> Result<T, Invalid>,
) -> Result<Vec<T>, Invalid> {
    let count = r.u32()? as usize;
    if count > OFFER_CHUNKS_MAX {
        return Err(Invalid::Field { field: "count" });
    }
    (0..count).map(|_| item(r)).collect()
}

fn decode_block(r: &mut Reader<'_>) -> Result<Body, Invalid> {
    let (lba, bytes) = (r.u64()?, r.rest().to_vec());
    match bytes.len() <= BLOCK_BYTES_MAX {
        true => Ok(Body::Block { lba, bytes }),
        false => Err(Invalid::Field { field: "bytes" }),
    }
}

fn decode_chunk(r: &mut Reader<'_>) -> Result<Body, Invalid> {
    let (index, digest, bytes) = (r.u64()?, r.digest()?, r.rest().to_vec());
    match bytes.len() <= CHUNK_BYTES && !bytes.is_empty() {
        true => Ok(Body::Chunk {
            index,
            digest,
            bytes,
        }),
        false => Err(Invalid::Field { field: "bytes" }),
    }
}

fn encode_records(w: &mut Writer<'_>, records: &[Record]) {
    w.u32(count(records.len()));
    for record in records {
        w.bytes(&record.header().encode());
        w.bytes(record.payload());
    }
}

/// Every record is verified against its own sum, and follows the one before it.
fn decode_records(r: &mut Reader<'_>) -> Result<Vec<Record>, Invalid> {
    let count = r.u32()? as usize;
    if count == 0 || count > r.0.len() / RecordHeader::BYTES {
        return Err(Invalid::Field { field: "count" });
    }
    let mut records: Vec<Record> = Vec::with_capacity(count);
    for _ in 0..count {
        let header = RecordHeader::decode(r.take(RecordHeader::BYTES)?).map_err(Invalid::Record)?;
        if !is_sane(header.incarnation) {
            let field = "incarnation";
            return Err(Invalid::Field { field });
        }
        let payload = Buffer::copy_of(r.take(header.payload_bytes())?);
        if records
            .last()
            .is_some_and(|last| last.lsn().next() != header.lsn)
        {
            return Err(Invalid::Field { field: "records" });
        }
        records.push(Record::verified(header, payload.into()).map_err(Invalid::Record)?);
    }
    Ok(records)
}

impl Hello {
    fn encode(&self, w: &mut Writer<'_>) {
        w.text(&self.replica);
        w.geometry(&self.geometry);
        w.lsn(self.committed);
        w.bool(self.confirmed);
        w.lsn(self.first_retained);
        w.lsn(self.durable);
        w.lsn(self.head);
        w.lineage(&self.lineage);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Hello, Invalid> {
        Ok(Hello {
            replica: r.text("replica")?,
            geometry: r.geometry()?,
            committed: r.lsn("committed")?,
            confirmed: r.bool("confirmed")?,
            first_retained: r.lsn("first_retained")?,
            durable: r.lsn("durable")?,
            head: r.lsn("head")?,
            lineage: r.lineage()?,
        })
    }
}

impl HelloReply {
    fn encode(&self, w: &mut Writer<'_>) {
        w.text(&self.replica);
        w.bytes(&self.node.0);
        w.optional(self.volume.map(|volume| volume.0));
        w.lsn(self.durable);
        w.optional_lsn(self.checkpoint);
        w.optional_lsn(self.intent);
        w.lsn(self.committed);
        w.optional(self.incomplete_base.map(encode_incomplete));
        w.bool(self.needs_rebuild);
        w.u64(self.promised.get());
        w.ranges(&self.lost);
        w.lineage(&self.lineage);
    }

    fn decode(r: &mut Reader<'_>) -> Result<HelloReply, Invalid> {
        Ok(HelloReply {
            replica: r.text("replica")?,
            node: NodeIncarnation(r.array()?),
            volume: r.optional("volume")?.map(VolumeId),
            durable: r.lsn("durable")?,
            checkpoint: r.optional_lsn("checkpoint")?,
            intent: r.optional_lsn("intent")?,
            committed: r.lsn("committed")?,
            incomplete_base: decode_incomplete(r)?,
            needs_rebuild: r.bool("needs_rebuild")?,
            promised: Epoch::new(r.u64()?),
            lost: r.ranges("lost")?,
            lineage: r.lineage()?,
        })
    }
}

fn encode_incomplete((session, base): (SessionId, seawall_wal::Lsn)) -> [u8; 24] {
    let mut out = [0; 24];
    out[..8].copy_from_slice(&session.boot.to_le_bytes());
    out[8..16].copy_from_slice(&session.counter.to_le_bytes());
    out[16..].copy_from_slice(&base.get().to_le_bytes());
    out
}

fn decode_incomplete(r: &mut Reader<'_>) -> Result<Option<(SessionId, seawall_wal::Lsn)>, Invalid> {
    let Some(bytes) = r.optional::<24>("incomplete_base")? else {
        return Ok(None);
    };
    let mut r = Reader(&bytes);
    let session = SessionId {
        boot: r.u64()?,
        counter: r.u64()?,
    };
    Ok(Some((session, r.lsn("incomplete_base")?)))
}

impl Refusal {
    const fn code(&self) -> u8 {
        match self {
            Refusal::EpochTooOld { .. } => 1,
            Refusal::OtherVolume { .. } => 2,
            Refusal::OtherId { .. } => 3,
            Refusal::OtherGeometry => 4,
            Refusal::WrongRole => 5,
            Refusal::NoSession => 6,
            Refusal::Displaced => 7,
            Refusal::Failed { .. } => 8,
        }
    }

    fn encode(&self, w: &mut Writer<'_>) {
        w.u8(self.code());
        w.optional(match self {
            Refusal::EpochTooOld { promised } => Some(promised.get().to_le_bytes()),
            _ => None,
        });
        w.optional(match self {
            Refusal::OtherVolume { volume } => Some(volume.0),
            _ => None,
        });
        w.text(match self {
            Refusal::OtherId { id: text } | Refusal::Failed { text } => text,
            _ => "",
        });
    }

    fn decode(r: &mut Reader<'_>) -> Result<Refusal, Invalid> {
        let code = r.u8()?;
        let promised = r.optional::<8>("promised")?;
        let volume = r.optional::<16>("volume")?;
        let text = r.text("text")?;
        let refusal = match (code, promised, volume) {
            (1, Some(epoch), None) => Refusal::EpochTooOld {
                promised: Epoch::new(u64::from_le_bytes(epoch)),
            },
            (2, None, Some(volume)) => Refusal::OtherVolume {
                volume: VolumeId(volume),
            },
            (3, None, None) => return Ok(Refusal::OtherId { id: text }),
            (4, None, None) => Refusal::OtherGeometry,
            (5, None, None) => Refusal::WrongRole,
            (6, None, None) => Refusal::NoSession,
            (7, None, None) => Refusal::Displaced,
            (8, None, None) => return Ok(Refusal::Failed { text }),
            _ => return Err(Invalid::Field { field: "reason" }),
        };
        match text.is_empty() {
            true => Ok(refusal),
            false => Err(Invalid::Field { field: "text" }),
        }
    }
}

impl BaseBegin {
    fn encode(&self, w: &mut Writer<'_>) {
        w.u8(match self.source {
            BaseSource::SnapshotTail => 1,
            BaseSource::Full => 2,
        });
        w.geometry(&self.geometry);
        w.lsn(self.lsn);
        w.lsn(self.target);
        w.lsn(self.committed);
        w.lineage(&self.lineage);
    }

    fn decode(r: &mut Reader<'_>) -> Result<BaseBegin, Invalid> {
        let source = match r.u8()? {
            1 => BaseSource::SnapshotTail,
            2 => BaseSource::Full,
            _ => return Err(Invalid::Field { field: "source" }),
        };
        Ok(BaseBegin {
            source,
            geometry: r.geometry()?,
            lsn: r.lsn("lsn")?,
            target: r.lsn("target")?,
            committed: r.lsn("committed")?,
            lineage: r.lineage()?,
        })
    }
}

impl Promised {
    fn encode(&self, w: &mut Writer<'_>) {
        w.text(&self.replica);
        w.optional(self.volume.map(|volume| volume.0));
        w.optional(self.last_entry.map(encode_entry));
        w.lsn(self.durable);
        w.lsn(self.committed);
        w.bool(self.needs_rebuild);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Promised, Invalid> {
        Ok(Promised {
            replica: r.text("replica")?,
            volume: r.optional("volume")?.map(VolumeId),
            last_entry: r.optional("last_entry")?.map(decode_entry),
            durable: r.lsn("durable")?,
            committed: r.lsn("committed")?,
            needs_rebuild: r.bool("needs_rebuild")?,
        })
    }
}
