//! FORMAT.md is the only statement of the layout: every row of its tables against the constants of
//! the code, and against the bytes that the code writes.

use std::collections::BTreeMap;

use byteorder::{ByteOrder, LittleEndian};

use crate::index::{self, Entry, Scanned, Summary};
use crate::*;

const FORMAT: &str = include_str!("../FORMAT.md");

/// A row of a field table.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    offset: usize,
    bytes: usize,
    field: String,
}

/// The rows of the table under a heading, and the size that the section states.
fn table(heading: &str) -> (Vec<Row>, usize) {
    let start = format!("\n### {heading}\n");
    let section = FORMAT.split_once(&start).expect("a section of this name").1;
    let section = section.split("\n#").next().expect("the section's text");
    let size = section
        .lines()
        .find_map(|line| line.strip_prefix("Size: ")?.strip_suffix(" bytes."));
    let rows = section.lines().filter_map(|line| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let offset = cells.get(1)?.parse().ok()?;
        let bytes = cells.get(2)?.parse().expect("a size");
        let field = cells.get(3)?.to_string();
        Some(Row {
            offset,
            bytes,
            field,
        })
    });
    let size = size.expect("a size").parse().expect("a number");
    (rows.collect(), size)
}

/// The layout constants of a source file: of `mod name` in it, or of the whole file.
fn constants(source: &str, module: Option<&str>) -> BTreeMap<String, usize> {
    let text = match module {
        Some(name) => {
            let start = format!("pub(crate) mod {name} {{\n");
            let inside = source.split_once(&start).expect("the module").1;
            inside.split("\n}").next().expect("the module's text")
        }
        None => source,
    };
    text.lines()
        .filter_map(|line| {
            let line = line.trim().strip_prefix("pub(crate) const ")?;
            let (name, rest) = line.split_once(": usize = ")?;
            let value = rest.strip_suffix(';')?.parse().ok()?;
            Some((name.to_lowercase(), value))
        })
        .collect()
}

/// Rows lie one behind the other from 0 to the stated size.
fn assert_dense(heading: &str) -> Vec<Row> {
    let (rows, size) = table(heading);
    let mut at = 0;
    for row in &rows {
        assert_eq!(row.offset, at, "{heading}: `{}` leaves a gap", row.field);
        at += row.bytes;
    }
    assert_eq!(at, size, "{heading}: the size stated");
    rows
}

fn assert_matches_code(heading: &str, source: &str, module: Option<&str>, size: usize) {
    let rows = assert_dense(heading);
    let documented: BTreeMap<_, _> = rows
        .iter()
        .map(|row| (format!("{}_at", row.field), row.offset))
        .collect();
    let mut coded = constants(source, module);
    coded.retain(|name, at| name.ends_with("_at") && *at < size);
    assert!(coded.len() > 2, "{heading}: the constants were found");
    assert_eq!(documented, coded, "{heading}: rows against constants");
    assert_eq!(table(heading).1, size, "{heading}: size against the code");
}

#[test]
fn every_header_constant_has_its_row_and_every_row_its_constant() {
    let record = include_str!("record.rs");
    let record = record.split("pub struct Record {").next().unwrap();
    assert_matches_code("Record header", record, None, RecordHeader::BYTES);
    let frame = include_str!("frame.rs");
    let bytes = crate::frame::layout::BYTES;
    assert_matches_code("Frame header", frame, Some("layout"), bytes);
    let segment = include_str!("segment.rs");
    let bytes = crate::segment::layout::BYTES;
    assert_matches_code("Segment header", segment, Some("layout"), bytes);
    let index = include_str!("index.rs");
    let bytes = index::layout::BYTES;
    assert_matches_code("Index header", index, Some("layout"), bytes);
    let bytes = index::page::ENTRIES_AT;
    assert_matches_code("Index page header", index, Some("page"), bytes);
    let meta = include_str!("meta.rs");
    let bytes = crate::meta::header::BYTES;
    assert_matches_code("Meta copy header", meta, Some("header"), bytes);
}

/// Compares a table with bytes that the code wrote: the number in each row, and zero in reserved
/// ones.
fn assert_written(heading: &str, bytes: &[u8], expected: &[(&str, u64)]) {
    let rows = assert_dense(heading);
    let mut fields = Vec::new();
    for row in &rows {
        let part = &bytes[row.offset..row.offset + row.bytes];
        let found = match row.bytes {
            16 => u64::from(part[0]),
            _ => LittleEndian::read_uint(part, row.bytes),
        };
        fields.push((row.field.as_str(), found));
    }
    assert_eq!(fields, expected, "{heading}");
}

#[test]
fn an_index_entry_is_written_as_its_table_says() {
    let entry = Entry {
        lsn: Lsn::new(11),
        lba: Lba(12),
        blocks: 13,
        header_at: 14,
        payload_at: 15,
        kind: RecordKind::WriteZeroes,
        no_hole: true,
    };
    let summary = Summary {
        first_sequence: 1,
        first_previous: 0,
        last_sequence: 2,
        last_digest: 0,
        next_generation: Some(2),
        frontier: Lsn::ZERO,
        committed: Lsn::ZERO,
        after: Lsn::new(10),
        through: Lsn::new(11),
        end: 16,
        truncated_after: None,
    };
    let scanned = Scanned {
        summary,
        entries: vec![entry],
    };
    let bytes = index::encode(LogId([1; 16]), 1, &scanned);
    assert_eq!(table("Index entry").1, index::page::ENTRY_BYTES);
    let expected = [
        ("lsn", 11),
        ("lba", 12),
        ("blocks", 13),
        ("header_at", 14),
        ("payload_at", 15),
        ("kind", 2),
        ("no_hole", 1),
        ("reserved", 0),
    ];
    let page = &bytes[index::page::BYTES..];
    assert_written("Index entry", &page[index::page::ENTRIES_AT..], &expected);
}

#[test]
fn a_meta_body_is_written_as_its_tables_say() {
    let entry = LineageEntry {
        epoch: Epoch::new(21),
        incarnation: Incarnation::new(22),
        first: Lsn::new(23),
    };
    let section = Section {
        version: 31,
        bytes: vec![7; 5],
    };
    let contents = MetaContents {
        volume: VolumeId([1; 16]),
        log: LogId([2; 16]),
        geometry: Geometry {
            block_size: BlockSize::DEFAULT,
            blocks: 5,
            segment_bytes: 6,
        },
        role: Role::Replica,
        epoch: Epoch::new(7),
        lineage: Lineage::default().with(entry),
        committed: Lsn::new(8),
        tail: Lsn::new(9),
        origin: Lsn::new(10),
        first_generation: Some(11),
        generation_next: 12,
        incarnation_next: Incarnation::new(13),
        clean_close: Some(CleanClose {
            sequence: 14,
            head: Lsn::new(15),
        }),
        sections: [(SectionId::Snapshot, section)].into(),
    };
    let bytes = contents.encode();
    let expected = [
        ("volume", 1),
        ("log", 2),
        ("block_shift", 12),
        ("role", 2),
        ("flags", 3),
        ("reserved", 0),
        ("lineage_count", 1),
        ("blocks", 5),
        ("segment_bytes", 6),
        ("epoch", 7),
        ("committed", 8),
        ("tail", 9),
        ("origin", 10),
        ("first_generation", 11),
        ("generation_next", 12),
        ("incarnation_next", 13),
        ("clean_sequence", 14),
        ("clean_head", 15),
    ];
    assert_written("Meta body", &bytes, &expected);
    let lineage = table("Meta body").1;
    let expected = [("epoch", 21), ("incarnation", 22), ("first", 23)];
    assert_written("Lineage entry", &bytes[lineage..], &expected);
    let sections = lineage + table("Lineage entry").1;
    let expected = [("code", 1), ("version", 31), ("length", 5)];
    assert_written("Section header", &bytes[sections..], &expected);
    let header = table("Section header").1;
    let expected = [("code", 2), ("version", 0), ("length", 0)];
    let second = sections + header + 5;
    assert_written("Section header", &bytes[second..], &expected);
    assert_eq!(bytes.len(), second + header);
}
