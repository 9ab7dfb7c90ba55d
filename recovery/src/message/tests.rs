//! Round trips, every bit flip, every cut, and PROTOCOL.md against the code.

use std::collections::BTreeMap;
use std::sync::Arc;

use seawall_wal::disk::Buffer;
use seawall_wal::{BlockSize, Incarnation, Lba, RecordKind};

use super::*;

const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

fn lineage() -> Lineage {
    let entry = |epoch, incarnation, first| LineageEntry {
        epoch: Epoch::new(epoch),
        incarnation: Incarnation::new(incarnation),
        first: Lsn::new(first),
    };
    Lineage::from_entries(vec![entry(1, 1, 1), entry(2, 3, 91)]).unwrap()
}

fn geometry() -> Geometry {
    Geometry {
        block_size: BlockSize::DEFAULT,
        blocks: 1 << 18,
        segment_bytes: 64 << 20,
    }
}

fn record(lsn: u64) -> Record {
    let header = RecordHeader {
        kind: RecordKind::Write,
        no_hole: false,
        block_size: BlockSize::from_shift(9).unwrap(),
        volume: VolumeId([3; 16]),
        epoch: Epoch::new(2),
        incarnation: Incarnation::new(3),
        lsn: Lsn::new(lsn),
        lba: Lba(7),
        blocks: 1,
        sum: 0,
    };
    Record::seal(header, Buffer::copy_of(&[0xa5; 512]).into())
}

fn lost(after: u64, through: u64) -> LsnRange {
    LsnRange::new(Lsn::new(after), Lsn::new(through))
}

/// One of every message, optional fields present and absent.
fn samples() -> Vec<Body> {
    let lsn = Lsn::new(90);
    let session = SessionId {
        boot: 4,
        counter: 5,
    };
    let reply = HelloReply {
        replica: "r1".into(),
        node: NodeIncarnation([9; 16]),
        volume: Some(VolumeId([3; 16])),
        durable: lsn,
        checkpoint: Some(Lsn::ZERO),
        intent: None,
        committed: lsn,
        incomplete_base: Some((session, lsn)),
        needs_rebuild: true,
        promised: Epoch::new(2),
        lost: vec![lost(4, 7), lost(8, 90)],
        lineage: lineage(),
    };
    let empty = HelloReply {
        volume: None,
        checkpoint: None,
        intent: Some(lsn),
        incomplete_base: None,
        lost: Vec::new(),
        lineage: Lineage::default(),
        ..reply.clone()
    };
    let promised = Promised {
        replica: "r1".into(),
        volume: Some(VolumeId([3; 16])),
        last_entry: lineage().last(),
        durable: lsn,
        committed: lsn,
        needs_rebuild: false,
    };
    let refusals = [
        Refusal::EpochTooOld {
            promised: Epoch::new(8),
        },
        Refusal::OtherVolume {
            volume: VolumeId([1; 16]),
        },
        Refusal::OtherId { id: "r2".into() },
        Refusal::OtherGeometry,
        Refusal::WrongRole,
        Refusal::NoSession,
        Refusal::Displaced,
        Refusal::Failed {
            text: "disk full".into(),
        },
    ];
    let mut all = vec![
        Body::Hello(Hello {
            replica: "r1".into(),
            geometry: geometry(),
            committed: lsn,
            confirmed: true,
            first_retained: Lsn::new(1),
            durable: lsn,
            head: lsn,
            lineage: lineage(),
        }),
        Body::HelloReply(reply),
        Body::HelloReply(empty),
        Body::Mark {
            needs_rebuild: true,
        },
        Body::Marked,
        Body::Truncate { to: Lsn::ZERO },
        Body::Truncated { to: lsn },
        Body::Fetch(LsnRange::new(Lsn::new(1), lsn)),
        Body::Records {
            committed: lsn,
            records: vec![record(91), record(92)],
        },
        Body::Ack { durable: lsn },
        Body::Commit { committed: lsn },
        Body::Alive,
        Body::BaseBegin(BaseBegin {
            source: BaseSource::Full,
            geometry: geometry(),
            lsn,
            target: lsn,
            committed: lsn,
            lineage: lineage(),
        }),
        Body::BaseReady {
            compare: true,
            in_place: false,
        },
        Body::Offer(vec![(0, Digest(1)), (3, Digest(2))]),
        Body::Want(vec![3]),
        Body::Chunk {
            index: 3,
            digest: Digest(2),
            bytes: vec![1, 2, 3],
        },
        Body::ZeroChunks { first: 4, count: 9 },
        Body::BaseEnd {
            chunks: Digest(5),
            state: Digest(6),
        },
        Body::BaseInstalled {
            lsn,
            chunks: Digest(5),
        },
        Body::DigestQuery { lsn },
        Body::DigestReply {
            lsn,
            state: Digest(6),
        },
        Body::InSync { lsn },
        Body::PromiseEpoch,
        Body::Promised(Promised {
            last_entry: None,
            volume: None,
            ..promised.clone()
        }),
        Body::Promised(promised),
        Body::StatusQuery,
        Body::StatusReply { json: "{}".into() },
        Body::Bye,
        Body::Heal,
        Body::BlockQuery { lba: 8 },
        Body::Block {
            lba: 8,
            bytes: vec![1, 2],
        },
    ];
    all.extend(refusals.map(Body::Refused));
    all
}

fn fence() -> Fence {
    Fence {
        volume: Some(VolumeId([3; 16])),
        epoch: Some(Epoch::new(2)),
        session: Some(SessionId {
            boot: 7,
            counter: 8,
        }),
    }
}

fn parse(bytes: &[u8]) -> Result<Message, Invalid> {
    let header = Header::decode(bytes.first_chunk().ok_or(Invalid::Length)?)?;
    Message::decode(&header, &bytes[Header::BYTES..])
}

#[test]
fn every_message_comes_back_as_it_was_sent() {
    for body in samples() {
        for fence in [fence(), Fence::default()] {
            let sent = Message {
                fence,
                body: body.clone(),
            };
            let bytes = sent.encode();
            let got = parse(&bytes).unwrap();
            assert_eq!(got.fence, fence);
            assert_eq!(format!("{:?}", got.body), format!("{body:?}"));
            assert_eq!(got.encode(), bytes, "one message, one encoding");
        }
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    for body in samples() {
        let bytes = Message {
            fence: fence(),
            body,
        }
        .encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&flipped).is_err(), "bit {bit} of {bytes:?}");
        }
    }
}

/// A peer can compute sums: a body that is cut, or goes on, is refused by its fields.
#[test]
fn every_cut_of_a_body_is_refused_even_with_right_sums() {
    for body in samples() {
        let mut whole = Vec::new();
        body.encode(&mut whole);
        let open_ended = matches!(
            body,
            Body::StatusReply { .. } | Body::Chunk { .. } | Body::Block { .. }
        );
        let kind = body.kind().0;
        for end in 0..whole.len() {
            let cut = Body::decode(kind, &whole[..end]);
            assert!(cut.is_err() || open_ended, "{body:?} cut at {end}");
        }
        whole.push(0);
        let longer = Body::decode(kind, &whole);
        assert!(longer.is_err() || open_ended, "{body:?} with a byte more");
    }
}

#[test]
fn a_body_over_the_limit_is_refused_before_it_is_read() {
    let header = Header {
        kind: 12,
        fence: fence(),
        body_bytes: Header::BODY_BYTES_MAX + 1,
        body_sum: 0,
    };
    assert_eq!(
        Header::decode(&header.encode()),
        Err(Invalid::BodyTooLong {
            bytes: Header::BODY_BYTES_MAX + 1
        })
    );
}

#[test]
fn counts_are_bounded_before_anything_is_allocated() {
    let mut records = 0_u64.to_le_bytes().to_vec();
    records.extend_from_slice(&u32::MAX.to_le_bytes());
    let count = Invalid::Field { field: "count" };
    assert_eq!(Body::decode(9, &records).unwrap_err(), count);
    let offer = u32::MAX.to_le_bytes();
    assert_eq!(Body::decode(15, &offer).unwrap_err(), count);
    assert_eq!(Body::decode(16, &offer).unwrap_err(), count);
}

#[test]
fn records_that_do_not_follow_each_other_are_refused() {
    let body = Body::Records {
        committed: Lsn::ZERO,
        records: vec![record(91), record(93)],
    };
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    assert_eq!(
        Body::decode(9, &bytes).unwrap_err(),
        Invalid::Field { field: "records" }
    );
}

#[test]
fn ranges_that_are_empty_or_out_of_order_or_too_many_are_refused() {
    let field = "lost";
    let refused = Err(Invalid::Field { field });
    let parsed = |ranges: &[LsnRange]| {
        let mut bytes = Vec::new();
        bytes::Writer(&mut bytes).ranges(ranges);
        bytes::Reader(&bytes).ranges(field)
    };
    let sane = vec![lost(4, 7), lost(8, 9)];
    assert_eq!(parsed(&sane), Ok(sane));
    assert_eq!(parsed(&[lost(4, 4)]), refused);
    assert_eq!(parsed(&[lost(4, 7), lost(7, 9)]), refused);
    assert_eq!(parsed(&[lost(8, 9), lost(4, 7)]), refused);
    let mut many = 65_u16.to_le_bytes().to_vec();
    many.resize(2 + 65 * 16, 0);
    assert_eq!(bytes::Reader(&many).ranges(field), refused);
}

// The log counts on from the incarnations it receives, and stops the process at the last number.
#[test]
fn an_incarnation_that_nobody_counts_to_is_refused() {
    let with = |number| {
        let incarnation = Incarnation::new(number);
        let header = *record(5).header();
        let payload = Arc::clone(record(5).payload());
        let header = RecordHeader {
            incarnation,
            ..header
        };
        let records = Body::Records {
            committed: Lsn::ZERO,
            records: vec![Record::seal(header, payload)],
        };
        let fence = fence();
        let body = records;
        parse(&Message { fence, body }.encode())
    };
    assert!(with(u64::MAX / 2).is_ok());
    for number in [u64::MAX / 2 + 1, u64::MAX] {
        let field = "incarnation";
        assert_eq!(with(number).unwrap_err(), Invalid::Field { field });
    }
    let entry = LineageEntry {
        epoch: Epoch::new(1),
        incarnation: Incarnation::new(u64::MAX),
        first: Lsn::new(1),
    };
    let lineage = Lineage::from_entries(vec![entry]).unwrap();
    let mut bytes = Vec::new();
    bytes::Writer(&mut bytes).lineage(&lineage);
    let field = "lineage";
    assert_eq!(
        bytes::Reader(&bytes).lineage().unwrap_err(),
        Invalid::Field { field }
    );
}

#[test]
fn a_field_without_its_flag_is_refused() {
    let mut header = Header {
        kind: 12,
        fence: fence(),
        body_bytes: 0,
        body_sum: 0,
    }
    .encode();
    header[Header::FLAGS_AT] &= !Header::HAS_EPOCH;
    let sum = crc32fast::hash(&header[..Header::SUM_AT]);
    LittleEndian::write_u32(&mut header[Header::SUM_AT..], sum);
    assert_eq!(
        Header::decode(&header),
        Err(Invalid::Field { field: "reserved" })
    );
}

#[test]
fn long_text_is_cut_at_a_character() {
    let text = "\u{e9}".repeat(400);
    let mut out = Vec::new();
    Body::Refused(Refusal::Failed { text }).encode(&mut out);
    let Ok(Body::Refused(Refusal::Failed { text })) = Body::decode(3, &out) else {
        panic!("a refusal comes back");
    };
    assert_eq!(text.chars().count(), 256);
}

/// Rows of the tables under the heading `title`, without head and rule.
fn table(title: &str) -> Vec<Vec<&'static str>> {
    let section = PROTOCOL.split_once(&format!("{title}\n")).unwrap().1;
    let section = section.split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|'));
    rows.skip(2)
        .map(|row| row.trim_matches('|').split('|').map(str::trim).collect())
        .collect()
}

#[test]
fn the_header_table_matches_the_code() {
    let offsets: BTreeMap<_, _> = table("### Header")
        .iter()
        .map(|row| (row[2], (row[0].parse().unwrap(), row[1].parse().unwrap())))
        .collect();
    let expected: BTreeMap<&str, (usize, usize)> = [
        ("magic", (0, Header::MAGIC.len())),
        ("version", (Header::VERSION_AT, 2)),
        ("type", (Header::TYPE_AT, 1)),
        ("flags", (Header::FLAGS_AT, 1)),
        ("volume", (Header::VOLUME_AT, 16)),
        ("epoch", (Header::EPOCH_AT, 8)),
        ("session", (Header::SESSION_AT, 16)),
        ("body_bytes", (Header::BODY_BYTES_AT, 4)),
        ("body_sum", (Header::BODY_SUM_AT, 4)),
        ("reserved", (Header::RESERVED_AT, 4)),
        ("header_sum", (Header::SUM_AT, 4)),
    ]
    .into();
    assert_eq!(offsets, expected);
    assert!(PROTOCOL.contains(&format!("at most {}", Header::BODY_BYTES_MAX)));
}

#[test]
fn the_message_table_lists_every_code_and_name() {
    let listed: BTreeMap<u8, &str> = table("## Bodies")
        .iter()
        .map(|row| (row[0].parse().unwrap(), row[1]))
        .collect();
    let sampled: BTreeMap<u8, &str> = samples().iter().map(Body::kind).collect();
    assert_eq!(listed, sampled);
}

/// Size of a field of fixed size; `None` for text, lists and the rest of a body.
fn fixed_size(size: &str) -> Option<usize> {
    match size.strip_prefix("optional ") {
        Some(size) => fixed_size(size).map(|size| size + 1),
        None if size == "bool" => Some(1),
        None => size.parse().ok(),
    }
}

#[test]
fn every_body_table_adds_up_to_the_encoded_length() {
    for body in samples() {
        let name = body.name();
        let sizes: Vec<_> = table(&format!("### {name}"))
            .iter()
            .map(|row| fixed_size(row[0]))
            .collect();
        let mut bytes = Vec::new();
        body.encode(&mut bytes);
        let fixed: usize = sizes.iter().flatten().sum();
        match sizes.iter().all(Option::is_some) {
            true => assert_eq!(fixed, bytes.len(), "{name}"),
            false => assert!(fixed < bytes.len(), "{name}"),
        }
    }
}

proptest::proptest! {
    // A peer that computes the sums right still cannot make us panic, nor allocate what it says.
    #[test]
    fn no_bytes_panic(kind in 0_u8..40, bytes in proptest::collection::vec(0_u8.., 0..300)) {
        if let Ok(body) = Body::decode(kind, &bytes) {
            let mut again = Vec::new();
            body.encode(&mut again);
            proptest::prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_changed_byte_of_a_body_is_refused_or_read_as_what_it_says(
        which in 0_usize..100,
        at in 0_usize..2000,
        byte in 0_u8..,
    ) {
        let samples = samples();
        let body = &samples[which % samples.len()];
        let mut bytes = Vec::new();
        body.encode(&mut bytes);
        if let Some(place) = bytes.get_mut(at) {
            *place = byte;
        }
        if let Ok(body) = Body::decode(body.kind().0, &bytes) {
            let mut again = Vec::new();
            body.encode(&mut again);
            proptest::prop_assert_eq!(again, bytes);
        }
    }
}
