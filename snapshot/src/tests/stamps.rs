//! Threads that write overlapping stamps, of whole blocks and of parts, while others read, capture
//! and reclaim: every read is explained by the order of the LSNs.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests are about threads, so they start some"
)]

use std::collections::HashMap;
use std::ops::Range;

use seawall_wal::disk::sim::Rng;

use super::model::stories;
use super::*;

/// Bytes that one stamp fills: a block has several, so that parts of blocks are written.
const CELL: usize = 512;
const CELLS: u64 = 6 * (BLOCK / CELL) as u64;

/// A write: between two ticks it happened, at this LSN.
#[derive(Debug)]
struct Written {
    stamp: u64,
    cells: Range<u64>,
    lsn: Lsn,
    invoked: u64,
    returned: u64,
}

/// One cell of a read: the stamp that it had, 0 before the first.
#[derive(Debug)]
struct Seen {
    cell: u64,
    stamp: u64,
    invoked: u64,
    returned: u64,
}

/// A tick for every beginning and every end.
#[derive(Debug, Default)]
struct Moments(AtomicU64);

impl Moments {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

fn cells(random: &mut Rng) -> Range<u64> {
    let first = random.below(CELLS);
    first..(first + 1 + random.below(12)).min(CELLS)
}

fn write(volume: &Volume, moments: &Moments, random: &mut Rng, stamp: u64) -> Written {
    let cells = cells(random);
    let count = usize::try_from(cells.end - cells.start).unwrap();
    let bytes = stamp.to_le_bytes().repeat(count * CELL / 8);
    let durability = match random.below(12) {
        0 => Durability::Durable,
        _ => Durability::Volatile,
    };
    let invoked = moments.next();
    let lsn = volume.write(cells.start * CELL as u64, &bytes, durability);
    Written {
        stamp,
        cells,
        lsn: lsn.unwrap(),
        invoked,
        returned: moments.next(),
    }
}

/// The stamps in some bytes; a cell has one.
fn stamps(bytes: &[u8]) -> Vec<u64> {
    let stamp = |cell: &[u8]| {
        let mut words = cell.chunks(8);
        let first = words.next().unwrap();
        assert!(words.all(|word| word == first), "a cell of two writes");
        u64::from_le_bytes(first.try_into().unwrap())
    };
    bytes.chunks(CELL).map(stamp).collect()
}

fn read(volume: &Volume, moments: &Moments, random: &mut Rng) -> Vec<Seen> {
    let cells = cells(random);
    let mut bytes = vec![0; usize::try_from(cells.end - cells.start).unwrap() * CELL];
    let invoked = moments.next();
    volume.read(cells.start * CELL as u64, &mut bytes).unwrap();
    let returned = moments.next();
    let seen = cells.zip(stamps(&bytes)).map(|(cell, stamp)| Seen {
        cell,
        stamp,
        invoked,
        returned,
    });
    seen.collect()
}

/// Captures, reclaims, and looks at a state between the base and committed.
fn maintain(volume: &Arc<Volume>, random: &mut Rng) -> (Lsn, Vec<u64>) {
    volume.flush().unwrap();
    let from = volume.checkpoint(None).unwrap().get();
    if random.below(2) == 0 {
        volume.advance_tail(lsn(from)).unwrap();
    }
    let durable = volume.flush().unwrap().get();
    let view = volume.state_at(lsn(from + random.below(durable - from + 1)), "stamps");
    let view = view.unwrap();
    let mut bytes = vec![0; usize::try_from(CELLS).unwrap() * CELL];
    view.read(0, &mut bytes).unwrap();
    (view.lsn(), stamps(&bytes))
}

/// The stamp of every cell after every LSN, from the writes alone.
fn state(written: &[Written], at: Lsn) -> Vec<u64> {
    let mut state = vec![0; usize::try_from(CELLS).unwrap()];
    for write in written.iter().filter(|write| write.lsn <= at) {
        for cell in write.cells.clone() {
            state[usize::try_from(cell).unwrap()] = write.stamp;
        }
    }
    state
}

/// A read saw a write that had begun, no older one than any that had ended before it began, and
/// none older than what a read before it saw.
fn explain(written: &[Written], mut seen: Vec<Seen>) {
    let by_stamp: HashMap<u64, &Written> = written.iter().map(|w| (w.stamp, w)).collect();
    seen.sort_by_key(|seen| seen.returned);
    let mut earlier: HashMap<u64, Vec<(u64, Lsn)>> = HashMap::new();
    for seen in seen {
        let saw = match seen.stamp {
            0 => Lsn::ZERO,
            stamp => {
                let write = by_stamp.get(&stamp).expect("a stamp that somebody wrote");
                assert!(write.cells.contains(&seen.cell), "{seen:?} of {write:?}");
                assert!(write.invoked < seen.returned, "{seen:?} of {write:?}");
                write.lsn
            }
        };
        let newer = written.iter().find(|write| {
            write.cells.contains(&seen.cell) && write.returned < seen.invoked && write.lsn > saw
        });
        assert!(newer.is_none(), "{seen:?} misses {newer:?}");
        let before = earlier.entry(seen.cell).or_default();
        let back = before
            .iter()
            .find(|(returned, lsn)| *returned < seen.invoked && *lsn > saw);
        assert!(back.is_none(), "{seen:?} goes back behind {back:?}");
        before.push((seen.returned, saw));
    }
}

fn race(place: &Place, seed: u64) {
    let volume = place.primary();
    let moments = Moments::default();
    let (mut written, mut seen, mut states) = (Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let (volume, moments) = (&volume, &moments);
        let writers = [1, 2, 3].map(|writer| {
            scope.spawn(move || {
                let mut random = Rng::new(seed << 8 | writer);
                let stamps = (0..100).map(|number| writer << 32 | number);
                let written = stamps.map(|stamp| write(volume, moments, &mut random, stamp));
                written.collect::<Vec<_>>()
            })
        });
        let readers = [4, 5].map(|reader| {
            scope.spawn(move || {
                let mut random = Rng::new(seed << 8 | reader);
                let seen = (0..150).flat_map(|_| read(volume, moments, &mut random));
                seen.collect::<Vec<_>>()
            })
        });
        let maintenance = scope.spawn(move || {
            let mut random = Rng::new(seed << 8);
            let states = (0..15).map(|_| maintain(volume, &mut random));
            states.collect::<Vec<_>>()
        });
        written.extend(
            writers
                .into_iter()
                .flat_map(|writer| writer.join().unwrap()),
        );
        seen.extend(
            readers
                .into_iter()
                .flat_map(|reader| reader.join().unwrap()),
        );
        states.extend(maintenance.join().unwrap());
    });
    written.sort_by_key(|write| write.lsn);
    let lsns: Vec<u64> = written.iter().map(|write| write.lsn.get()).collect();
    assert_eq!(
        lsns,
        (1..=300).collect::<Vec<u64>>(),
        "a write is one record"
    );
    for (at, found) in states {
        assert_eq!(found, state(&written, at), "the state at {at}");
    }
    explain(&written, seen);
    let mut bytes = vec![0; usize::try_from(CELLS).unwrap() * CELL];
    volume.read(0, &mut bytes).unwrap();
    assert_eq!(stamps(&bytes), state(&written, lsn(300)));
    assert_eq!(damage_of(&volume), []);
    volume.close().unwrap();
}

#[test]
fn every_read_of_racing_threads_is_explained_by_the_order_of_the_lsns() {
    for seed in stories().step_by(2) {
        println!("seed {seed}");
        match seed % 4 {
            0 => race(&Place::on_files(), seed),
            _ => race(&Place::simulated(&SimDisk::new(seed)), seed),
        }
    }
}
