use std::path::Path;

use super::*;
use crate::disk::sim::SimDisk;

const LOG: LogId = LogId([3; 16]);

fn entry(lsn: u64) -> Entry {
    Entry {
        lsn: Lsn::new(lsn),
        lba: Lba(lsn * 8),
        blocks: 8,
        header_at: 4224,
        payload_at: 8192,
        kind: RecordKind::WriteZeroes,
        no_hole: true,
    }
}

/// A segment with the records `first..first + count`.
fn scanned(first: u64, count: u64) -> Scanned {
    let summary = Summary {
        first_sequence: 4,
        first_previous: 5,
        last_sequence: 6,
        last_digest: 7,
        next_generation: Some(8),
        frontier: Lsn::new(9),
        committed: Lsn::new(8),
        after: Lsn::new(first - 1),
        through: Lsn::new(first + count - 1),
        end: 20480,
        truncated_after: Some(Lsn::ZERO),
    };
    let entries = (first..first + count).map(entry).collect();
    Scanned { summary, entries }
}

fn segment(disk: &Arc<dyn Disk>, generation: u64) -> SegmentFile {
    SegmentFile::at_rest(&Handles::new(disk), Path::new("/"), 0, generation)
}

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(Lsn::new(after), Lsn::new(through))
}

#[test]
fn an_index_round_trips_and_every_flip_of_its_header_is_refused() {
    let scanned = scanned(8, 2);
    let bytes = encode(LOG, 2, &scanned);
    let header = &bytes[..page::BYTES];
    assert_eq!(decode(header, LOG, 2), Ok((scanned.summary, 2)));
    assert_eq!(decode(header, LOG, 3), Err(Damage::Identity));
    for at in 0..header.len() {
        let mut flipped = header.to_vec();
        flipped[at] ^= 4;
        assert!(decode(&flipped, LOG, 2).is_err(), "byte {at}");
    }
}

#[test]
fn every_part_of_a_range_comes_from_the_pages_that_hold_it() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    let file = segment(&disk, 2);
    let count = 3 * PAGE_ENTRIES as u64 + 5;
    let written = write(&disk, &file, LOG, &scanned(10, count)).unwrap();
    let (_, opened) = open(&file, LOG).unwrap();
    assert_eq!(opened.lsns(), range(9, 9 + count));
    let page = PAGE_ENTRIES as u64;
    let edges = [9, 10, 9 + page, 10 + page, 9 + 2 * page, 9 + count];
    for index in [&written, &opened] {
        for after in edges {
            for through in edges.into_iter().filter(|through| *through >= after) {
                let found = index.entries(range(after, through)).unwrap();
                let expected: Vec<_> = (after + 1..=through).map(entry).collect();
                assert_eq!(found, expected, "({after}, {through}]");
            }
        }
        assert_eq!(index.entries(range(8, 10)), None);
        assert_eq!(index.entries(range(9 + count, 10 + count)), None);
    }
}

#[test]
fn every_flip_of_a_page_is_refused_and_costs_that_page_only() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    let file = segment(&disk, 2);
    let page = PAGE_ENTRIES as u64;
    let index = write(&disk, &file, LOG, &scanned(1, 2 * page)).unwrap();
    let path = Path::new("/00000000.idx");
    for at in (page::BYTES..2 * page::BYTES).step_by(37) {
        sim.flip(path, at as u64, 16).unwrap();
        assert_eq!(index.entries(range(0, page)), None, "byte {at}");
        assert_eq!(index.entries(range(3, page + 1)), None, "byte {at}");
        let second = index.entries(range(page, page + 1));
        assert_eq!(second, Some(vec![entry(page + 1)]), "byte {at}");
        sim.flip(path, at as u64, 16).unwrap();
    }
    // A page of another life, and one in the place of another.
    let other = encode(LOG, 3, &scanned(1, 2 * page));
    let at = page::BYTES as u64;
    sim.overwrite(path, at, &other[page::BYTES..2 * page::BYTES])
        .unwrap();
    assert_eq!(index.entries(range(0, 1)), None);
    let ours = encode(LOG, 2, &scanned(1, 2 * page));
    sim.overwrite(path, at, &ours[2 * page::BYTES..]).unwrap();
    assert_eq!(index.entries(range(0, 1)), None);
    sim.overwrite(path, at, &ours[page::BYTES..2 * page::BYTES])
        .unwrap();
    assert_eq!(index.entries(range(0, 1)), Some(vec![entry(1)]));
}

#[test]
fn an_index_that_is_cut_short_is_not_opened() {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    let file = segment(&disk, 2);
    drop(write(&disk, &file, LOG, &scanned(1, 200)).unwrap());
    assert!(open(&file, LOG).is_some());
    let path = Path::new("/00000000.idx");
    let whole = File::open(&disk, path, OpenMode::ReadWrite).unwrap();
    whole.set_length(2 * page::BYTES as u64).unwrap();
    assert!(open(&file, LOG).is_none());
}
