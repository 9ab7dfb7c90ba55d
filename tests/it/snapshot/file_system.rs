//! A real file system is written piece by piece by several threads, then another version of it over
//! the first, while the volume is captured, reclaimed, pinned and read at old LSNs (D9, D10).
//!
//! `SEAWALL_SEEDS` says how many times (one for six), `SEAWALL_TREE` from which tree,
//! `SEAWALL_ROUNDS` how often one version is written over the other.

use std::path::Path;
use std::sync::{Arc, Mutex};

use seawall::snapshot::{CHUNK_BYTES, Chunk, Chunks, Durability, Error, View, Volume, read_chunk};
use seawall::wal::Lsn;

use super::record::{Record, Write, assert_replay};
use crate::cli::{arg, create, file_system, image_of, open, rounds};
use crate::harness::{Random, assert_same_file, run, scratch, seawall, write_file};

/// Seconds go by for each, so that not every seed of the gate has its turn.
const SEEDS_EACH: u64 = 6;
/// Unit of the writes: less than a block, so that neighbours complete each other's blocks.
const SECTOR: usize = 512;
const PIECE_SECTORS_MAX: u64 = 128;
const WRITERS: u64 = 3;
const HELD_MAX: usize = 4;
/// Writes between two steps of the thread that captures and reclaims.
const STEP_WRITES: u64 = 25;

fn number(bytes: usize) -> u64 {
    bytes as u64
}

fn size_of(at: u64) -> usize {
    usize::try_from(at).unwrap()
}

fn noise(random: &mut Random) -> Vec<u8> {
    let length = size_of(random.below(300_000));
    random.bytes(length)
}

/// Two versions of one file system: files come, go and change between them.
fn versions(dir: &Path, megabytes: u32, random: &mut Random) -> [Arc<Vec<u8>>; 2] {
    let first = file_system(dir, megabytes);
    let tree = std::env::var("SEAWALL_TREE").unwrap_or_else(|_| arg(dir, "tree"));
    let second = arg(dir, "second");
    run("cp", &["-r", &tree, &second]).ok();
    for n in 0..20 {
        let path = Path::new(&second).join(format!("noise-{n}"));
        match n % 3 {
            0 => drop(std::fs::remove_file(path)),
            _ => write_file(&path, &noise(random)),
        }
    }
    let second = image_of(&second, &dir.join("second.img"), megabytes);
    [first, second].map(|image| Arc::new(std::fs::read(image).unwrap()))
}

/// What a round has to write: the pieces in which `new` differs from `old`, cut at random and in
/// random order. No piece crosses a multiple of `record`, so each is one record.
fn pieces(old: &[u8], new: &Arc<Vec<u8>>, record: usize, random: &mut Random) -> Vec<Write> {
    let (mut at, mut pieces) = (0, Vec::new());
    while at < new.len() {
        let length = SECTOR * size_of(1 + random.below(PIECE_SECTORS_MAX));
        let border = (at / record + 1) * record;
        let range = at..(at + length).min(border).min(new.len());
        at = range.end;
        if old[range.clone()] == new[range.clone()] {
            continue;
        }
        let zero = new[range.clone()].iter().all(|byte| *byte == 0);
        pieces.push(Write {
            range,
            bytes: (!zero).then(|| Arc::clone(new)),
        });
    }
    for n in (1..pieces.len()).rev() {
        pieces.swap(n, size_of(random.below(number(n) + 1)));
    }
    pieces
}

/// Carries out one write; each is one record.
fn write(volume: &Volume, write: &Write, random: &mut Random) -> Lsn {
    let durability = match random.below(24) {
        0 => Durability::Durable,
        _ => Durability::Volatile,
    };
    let offset = number(write.range.start);
    let length = number(write.range.len());
    let block = volume.geometry().block_size.bytes();
    let whole = offset.is_multiple_of(block) && length.is_multiple_of(block);
    let written = match &write.bytes {
        Some(bytes) => volume.write(offset, &bytes[write.range.clone()], durability),
        None if whole && random.below(2) == 0 => volume.trim(offset, length, durability),
        None => volume.write_zeroes(offset, length, random.below(2) == 0, durability),
    };
    written.unwrap()
}

/// Writes the pieces that nobody has taken yet.
fn write_all(volume: &Volume, todo: &Mutex<Vec<Write>>, record: &Record, mut random: Random) {
    loop {
        let Some(next) = todo.lock().unwrap().pop() else {
            return;
        };
        let lsn = write(volume, &next, &mut random);
        record.add(lsn, next);
    }
}

/// Captures and reclaims beside the writers.
fn maintain(volume: &Volume, record: &Record, mut random: Random) {
    let mut seen = 0;
    while !record.is_over() {
        seen = record.wait_for(seen + STEP_WRITES);
        if random.below(3) > 0 {
            volume.flush().unwrap();
        }
        match random.below(3) {
            0 => drop(volume.checkpoint(None).unwrap()),
            _ => {
                let frontiers = volume.log().frontiers();
                let (from, to) = (frontiers.tail.get(), frontiers.committed.get());
                let through = Lsn::new(from + random.below(to - from + 1));
                let tail = volume.advance_tail(through).unwrap();
                assert!(
                    tail <= through,
                    "asked for {through}, the tail is at {tail}"
                );
            }
        }
    }
}

/// Says that no more writes come, whatever becomes of the writers.
struct Finish<'a>(&'a Record);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.finish();
    }
}

/// A view that is held for a while.
type Held = (Lsn, &'static str, Box<dyn View>);

/// Takes a view of some state that the record knows, or that it will know soon.
fn take(volume: &Arc<Volume>, record: &Record, random: &mut Random) -> Option<Held> {
    let (base, head) = (volume.base_state().checkpoint.get(), record.through());
    let lsn = Lsn::new(base.min(head) + random.below(head.saturating_sub(base) + 1));
    let taken: Result<Held, Error> = match random.below(3) {
        0 => (volume.state_at(lsn, "test")).map(|view| (lsn, "state", Box::new(view) as _)),
        1 => volume.pin_snapshot("test").map(|view| {
            let lsn = view.lsn();
            (lsn, "snapshot", Box::new(view) as _)
        }),
        // A base is sent as it is durable.
        _ => {
            volume.flush().unwrap();
            let taken = volume.pin_base(lsn, "test");
            taken.map(|view| (lsn, "base", Box::new(view) as _))
        }
    };
    match taken {
        Ok(held) => Some(held),
        // A capture went by since the base was looked up.
        Err(Error::StateReclaimed { lsn: asked, base }) => {
            assert!(asked == lsn && base > lsn, "{asked} refused, base {base}");
            None
        }
        Err(error) => panic!("LSN {lsn}: {error}"),
    }
}

/// The whole of a view, as an export gives it.
fn exported(view: &dyn View) -> Vec<u8> {
    let mut bytes = vec![0; size_of(view.size())];
    for chunk in Chunks::of(view) {
        if let Chunk::Data { index, digest } = chunk.unwrap() {
            let at = size_of(index) * CHUNK_BYTES;
            let (data, found) = read_chunk(view, index).unwrap();
            assert_eq!(found, digest, "chunk {index} is not what its sums say");
            bytes[at..at + data.len()].copy_from_slice(&data);
        }
    }
    bytes
}

fn check((lsn, what, view): Held, record: &Record) {
    assert_replay(record, lsn, &exported(view.as_ref()), what);
}

/// Holds views of old states while the base moves on, and compares each before it lets it go.
/// Gives how many were compared.
fn observe(volume: &Arc<Volume>, record: &Record, mut random: Random) -> u64 {
    let (mut held, mut compared) = (Vec::new(), 0);
    let mut last = false;
    while !last {
        last = record.is_over();
        held.extend(take(volume, record, &mut random));
        if held.len() > HELD_MAX {
            let one = size_of(random.below(number(held.len())));
            check(held.swap_remove(one), record);
            compared += 1;
        }
    }
    compared += number(held.len());
    held.into_iter().for_each(|one| check(one, record));
    compared
}

#[test]
fn every_old_state_of_a_file_system_under_work_is_the_replay_of_what_was_acknowledged() {
    for seed in 0..rounds("SEAWALL_SEEDS", 1).div_ceil(SEEDS_EACH) {
        println!("seed {seed}");
        write_one_over_the_other(seed);
    }
}

fn write_one_over_the_other(seed: u64) {
    let dir = scratch();
    let mut random = Random::new(seed);
    let megabytes = match std::env::var_os("SEAWALL_TREE") {
        Some(_) => 512,
        None => 20,
    };
    let versions = versions(dir.path(), megabytes, &mut random);
    let (name, copy) = (arg(dir.path(), "vol"), arg(dir.path(), "copy.img"));
    create(&name, &format!("{megabytes}M"));
    let volume = open(&name);
    volume.commit_best_effort().unwrap();
    let block = volume.geometry().block_size.bytes_usize();
    let one_record = volume.log().payload_bytes_max() / block * block;

    let record = Record::new(versions[0].len());
    let rounds = size_of(2 * rounds("SEAWALL_ROUNDS", 1));
    let mut old = Arc::new(vec![0; versions[0].len()]);
    let compared = std::thread::scope(|scope| {
        let mut fork = || Random::new(random.next());
        let (maintainer, observer) = (fork(), fork());
        let (volume, record) = (&volume, &record);
        let maintainer = scope.spawn(move || maintain(volume, record, maintainer));
        let observer = scope.spawn(move || observe(volume, record, observer));
        // Also when a writer fails: the others have to end then.
        let over = Finish(record);
        for round in 0..rounds {
            let new = &versions[round % 2];
            let todo = Mutex::new(pieces(&old, new, one_record, &mut fork()));
            std::thread::scope(|writers| {
                for _ in 0..WRITERS {
                    let (todo, random) = (&todo, fork());
                    writers.spawn(move || write_all(volume, todo, record, random));
                }
            });
            old = Arc::clone(new);
        }
        drop(over);
        maintainer.join().unwrap();
        observer.join().unwrap()
    });
    println!(
        "seed {seed}: {compared} states, {} writes",
        record.through()
    );
    assert!(compared > 3, "only {compared} states were compared");

    assert_eq!((volume.pins(), volume.preserved_bytes()), (Vec::new(), 0));
    let head = volume.flush().unwrap();
    assert_eq!(head.get(), record.through(), "every write has one LSN");
    assert_eq!(volume.advance_tail(head).unwrap(), head);
    let newest = volume.state_at(head, "test").unwrap();
    assert_replay(&record, head, &exported(&newest), "head");
    drop(newest);
    volume.close().unwrap();
    drop(volume);
    seawall(&["export", &name, &copy]).ok();
    assert_same_file(&dir.path().join("second.img"), copy.as_ref());
    run("e2fsck", &["-fn", &copy]).ok();
    seawall(&["verify", &name]).ok();
}
