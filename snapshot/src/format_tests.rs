//! FORMAT.md is the only statement of the layout: its tables against the constants of the code and
//! against the bytes that the code writes.

use seawall_wal::Lsn;
use xxhash_rust::xxh3::xxh3_128;

use crate::section::{self, BaseFacts, Incomplete, Intent};
use crate::sumpage::{CHECK_AT, PAGE_BYTES, Page, SECTOR_SUMS, sum_at};
use crate::{CHUNK_BYTES, Digest, block_sum, to_usize};

const FORMAT: &str = include_str!("../FORMAT.md");

/// The rows (offset, bytes, field) of the table under a heading. They lie one behind the other from
/// 0 to the size that the section states.
fn table(heading: &str) -> Vec<(usize, usize, String)> {
    let start = format!("\n### {heading}\n");
    let text = FORMAT.split_once(&start).expect("a section of this name").1;
    let text = text.split("\n#").next().expect("the section's text");
    let size = text
        .lines()
        .find_map(|line| line.strip_prefix("Size: ")?.strip_suffix(" bytes."))
        .expect("a size");
    let rows: Vec<_> = text
        .lines()
        .filter_map(|line| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let offset = cells.get(1)?.parse().ok()?;
            let bytes = cells.get(2)?.parse().expect("a size");
            Some((offset, bytes, cells.get(3)?.to_string()))
        })
        .collect();
    let end = rows.iter().fold(0, |at, (offset, bytes, field)| {
        assert_eq!(*offset, at, "{heading}: `{field}` leaves a gap");
        at + bytes
    });
    assert_eq!(end.to_string(), size, "{heading}: the size stated");
    rows
}

#[test]
fn the_section_lies_where_its_table_says() {
    let offsets = [
        ("flags", section::FLAGS_AT),
        ("reserved", section::RESERVED_AT),
        ("base", section::BASE_AT),
        ("checkpoint", section::CHECKPOINT_AT),
        ("digest", section::DIGEST_AT),
        ("intent_target", section::INTENT_TARGET_AT),
        ("intent_rest", section::INTENT_REST_AT),
        ("incomplete_session", section::INCOMPLETE_SESSION_AT),
        ("incomplete_base", section::INCOMPLETE_BASE_AT),
        ("repair_after", section::REPAIR_AFTER_AT),
        ("scrubbed", section::SCRUBBED_AT),
    ];
    let rows = table("Section of meta");
    let documented: Vec<_> = rows
        .iter()
        .map(|(offset, _, field)| (field.as_str(), *offset))
        .collect();
    assert_eq!(documented, offsets);
    let facts = BaseFacts {
        base: 0x0102,
        checkpoint: Lsn::new(0x0304),
        digest: Digest(0x0506),
        intent: Some(Intent {
            target: Lsn::new(0x0708),
            rest: Digest(0x090a),
        }),
        incomplete: Some(Incomplete {
            session: [0x0b; 16],
            base: Lsn::new(0x0c0d),
        }),
        repair: Some(Lsn::new(0x0e0f)),
        scrubbed: 0x1011,
    };
    let section = facts.encode();
    assert_eq!(section.version, 1);
    let low = |field: &str| {
        let (offset, bytes, _) = rows.iter().find(|row| row.2 == field).expect("a row");
        let bytes = &section.bytes[*offset..offset + bytes];
        (bytes[0], bytes[1])
    };
    assert_eq!(low("flags"), (7, 0));
    assert_eq!(low("base"), (0x02, 0x01));
    assert_eq!(low("checkpoint"), (0x04, 0x03));
    assert_eq!(low("digest"), (0x06, 0x05));
    assert_eq!(low("intent_target"), (0x08, 0x07));
    assert_eq!(low("intent_rest"), (0x0a, 0x09));
    assert_eq!(low("incomplete_session"), (0x0b, 0x0b));
    assert_eq!(low("incomplete_base"), (0x0d, 0x0c));
    assert_eq!(low("repair_after"), (0x0f, 0x0e));
    assert_eq!(low("scrubbed"), (0x11, 0x10));
}

#[test]
fn sums_and_digests_are_what_the_document_says() {
    assert_eq!(table("Sum")[0].1, Digest::BYTES);
    let sector = table("Sector of sums");
    assert_eq!(sector[0].1, to_usize(SECTOR_SUMS) * Digest::BYTES);
    assert_eq!((sector[1].0, sector[1].1), (CHECK_AT, Digest::BYTES));
    assert_eq!(sum_at(31 * 8 + 5), 4096 + 80);
    let check_of = |sum: Digest| {
        let mut page = Page::default();
        page.sums = vec![sum; 248];
        let mut bytes = [0; PAGE_BYTES];
        page.encode(2, &mut bytes);
        let (sums, check) = bytes[512..1024].split_at(CHECK_AT);
        assert_eq!(Digest::from_bytes(&sums[16..]), sum);
        Digest::from_bytes(check)
    };
    let own = Digest(xxh3_128(&17_u64.to_le_bytes()));
    assert_eq!(check_of(Digest::ZERO), own);
    let blocks = 17 * 31..18 * 31;
    let all = blocks.fold(own, |check, lba| check.with_block(lba, Digest(7)));
    assert_eq!(check_of(Digest(7)), all);
    let block = [7; 4096];
    let sum = Digest(xxh3_128(&block));
    assert_eq!(block_sum(&block), sum);
    assert_eq!(block_sum(&[0; 4096]), Digest::ZERO);
    let rows = table("Digest input");
    let mut input = [0; 24];
    input[rows[0].0..][..8].copy_from_slice(&5_u64.to_le_bytes());
    input[rows[1].0..][..16].copy_from_slice(&sum.to_bytes());
    let state = Digest::ZERO.with_block(5, sum);
    assert_eq!(state, Digest(xxh3_128(&input)));
    assert_eq!(state.without_block(5, sum), Digest::ZERO);
    assert_eq!(state.with_block(6, Digest::ZERO), state);
    assert!(FORMAT.contains(&format!("[n * {CHUNK_BYTES}, (n + 1) * {CHUNK_BYTES})")));
}

/// A base of version 1 keeps its sums for ever: these values come from the first build.
#[test]
fn sums_never_change() {
    assert_eq!(
        block_sum(&[1; 4096]).to_string(),
        "786d3dc79e646a5540d4d8a9314dfcd8"
    );
}
