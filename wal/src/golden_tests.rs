//! Directories of version 1 that are kept under `tests/golden/v1`, each with what an open of it
//! must say. They are only added to: a log that was once written is readable for ever.
//!
//! `SEAWALL_GOLDEN=write` writes the directories that do not exist yet.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crash_tests::judge::Ticks;
use crate::disk::sim::SimDisk;
use crate::disk::{self, Buffer, Disk, File, FileDisk, OpenMode};
use crate::log::DIR_NAME;
use crate::tests::contents;
use crate::*;

const DIR: &str = "/volume";
const BLOCK: usize = 512;
const PAGE: u64 = 4096;
/// Bytes in one line of a dump.
const ROW: usize = 32;

/// A directory and how it came to be.
type Case = (&'static str, fn() -> Arc<SimDisk>);

const CASES: [Case; 5] = [
    ("closed", || small(true)),
    ("torn", || {
        let sim = small(false);
        // The last payload, of which the second sector did not reach the disk.
        let (path, at) = payload_of(&sim, 7);
        sim.overwrite(&path, at + 512, &[0; 512]).unwrap();
        sim
    }),
    ("recycled", recycled),
    ("damaged", || {
        let sim = small(true);
        let path = Path::new(DIR).join("wal/00000000.seg");
        // The payload of LSN 1, and the header of the frame that holds 3 to 5.
        sim.flip(&path, 2 * PAGE + 100, 0x20).unwrap();
        sim.flip(&path, 4 * PAGE + 20, 0x01).unwrap();
        sim
    }),
    ("meta-copy-lost", || {
        let sim = small(true);
        let path = Path::new(DIR).join("meta");
        sim.overwrite(&path, 0, &[0x5a; 64]).unwrap();
        sim
    }),
];

fn create() -> Arc<SimDisk> {
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR);
    for path in [dir, &dir.join(DIR_NAME)] {
        disk::make_dir(disk.as_ref(), path).unwrap();
    }
    let mut contents = contents();
    contents.geometry.block_size = BlockSize::from_bytes(BLOCK as u64).unwrap();
    Meta::create(&disk, dir, contents).unwrap();
    sim
}

fn open(disk: &Arc<dyn Disk>, dir: &Path, mode: LogMode) -> (Arc<Log>, ReplayReport) {
    let meta = Arc::new(Meta::open(disk, dir, mode == LogMode::Writable).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(Ticks::default());
    let checkpoint = meta.get().tail;
    Log::open(disk, dir, &meta, &clock, mode, checkpoint).unwrap()
}

fn begin(sim: &Arc<SimDisk>) -> Arc<Log> {
    let disk: Arc<dyn Disk> = sim.clone();
    let (log, _) = open(&disk, Path::new(DIR), LogMode::Writable);
    log.start_incarnation(Epoch::new(3)).unwrap();
    log
}

fn write(lba: u64, blocks: usize, fill: u8) -> Change {
    let size = BlockSize::from_bytes(BLOCK as u64).unwrap();
    Change::write(Lba(lba), size, Buffer::copy_of(&vec![fill; blocks * BLOCK]))
}

fn append(log: &Arc<Log>, changes: Vec<Change>) {
    log.append(changes).unwrap().wait().unwrap();
}

/// Every kind of record, a frame of several, two incarnations, a truncation.
fn small(closed: bool) -> Arc<SimDisk> {
    let sim = create();
    let log = begin(&sim);
    append(&log, vec![write(7, 1, 0x11)]);
    append(&log, vec![Change::trim(Lba(40), 8)]);
    let three = [
        write(8, 2, 0x22),
        Change::write_zeroes(Lba(100), 50, true),
        write(9, 1, 0x33),
    ];
    append(&log, three.into());
    append(&log, vec![write(1, 1, 0x44)]);
    log.commit(Lsn::new(4)).unwrap();
    log.truncate(Lsn::new(5)).unwrap();
    log.start_incarnation(Epoch::new(4)).unwrap();
    append(&log, vec![Change::write_zeroes(Lba(3), 2, false)]);
    append(&log, vec![write(20, 4, 0x55)]);
    match closed {
        true => log.close().unwrap(),
        false => log.stop(),
    }
    sim
}

/// Segments in their second life, over what the first one left, and spare ones.
fn recycled() -> Arc<SimDisk> {
    let sim = create();
    let log = begin(&sim);
    for round in 1..=4_u8 {
        for number in 1..=8_u8 {
            append(&log, vec![write(64, 500, round << 4 | number)]);
        }
        let all = log.frontiers().head;
        log.commit(all).unwrap();
        let kept = Lsn::new(all.get() - 2);
        log.set_checkpoint(kept);
        log.reclaim(kept).unwrap();
        while log.step().unwrap() {}
    }
    log.stop();
    sim
}

/// The file that holds the payload of a record, and where it begins.
fn payload_of(sim: &Arc<SimDisk>, lsn: u64) -> (PathBuf, u64) {
    let disk: Arc<dyn Disk> = sim.clone();
    let mut place = None;
    for path in sim
        .paths()
        .into_iter()
        .filter(|path| path.extension().is_some())
    {
        let mut each = |found: Inspected<'_>| {
            if let Inspected::Record {
                header,
                payload_offset,
                ..
            } = found
                && header.lsn.get() == lsn
            {
                place = Some((path.clone(), payload_offset));
            }
        };
        inspect_segment(&disk, &path, &mut each).unwrap();
    }
    place.expect("the record is there")
}

/// Names, sizes, and every row of bytes that are not all zero; "xN" says how often a row is there.
fn dump(sim: &SimDisk) -> String {
    let mut text = String::new();
    for path in sim.paths() {
        let bytes = sim.read_file(&path).unwrap();
        let name = path.strip_prefix(DIR).unwrap().display();
        writeln!(text, "file {name} {}", bytes.len()).unwrap();
        let mut rows = bytes.chunks(ROW).enumerate().peekable();
        while let Some((number, row)) = rows.next() {
            let mut times = 1;
            while rows.next_if(|(_, next)| *next == row).is_some() {
                times += 1;
            }
            if row.iter().all(|byte| *byte == 0) {
                continue;
            }
            let hex: String = row.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{:#x} {hex} x{times}", number * ROW).unwrap();
        }
    }
    text
}

fn restore(text: &str, disk: &Arc<dyn Disk>, dir: &Path) {
    for path in [dir, &dir.join(DIR_NAME)] {
        disk::make_dir(disk.as_ref(), path).unwrap();
    }
    let mut file: Option<File> = None;
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["file", name, length] = words[..] {
            let path = dir.join(name);
            let new = File::open(disk, &path, OpenMode::CreateNew).unwrap();
            new.set_length(length.parse().unwrap()).unwrap();
            file = Some(new);
            continue;
        }
        let [at, hex, times] = words[..] else {
            panic!("no line of a dump: {line}")
        };
        let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let row: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
        let times = times[1..].parse().unwrap();
        let at = u64::from_str_radix(&at[2..], 16).unwrap();
        let file = file.as_ref().expect("a file comes first");
        file.write_bytes(at, Buffer::copy_of(&row.repeat(times)))
            .unwrap();
    }
}

/// What an open says, in words that a change of the code must not change.
fn describe(disk: &Arc<dyn Disk>, dir: &Path) -> String {
    let (log, report) = open(disk, dir, LogMode::ReadOnly);
    let Frontiers {
        tail,
        committed,
        durable,
        head,
        ..
    } = log.frontiers();
    let mut text = format!("tail {tail} committed {committed} durable {durable} head {head}\n");
    let place = |at: &Corrupt| {
        let name = at.path.strip_prefix(dir).unwrap().display().to_string();
        format!("{name} offset {}", at.offset)
    };
    match &report.end {
        ScanEnd::Clean => writeln!(text, "end clean, closed {}", report.clean_close).unwrap(),
        ScanEnd::Torn { at, bytes } => {
            writeln!(text, "end torn at {}, {bytes} bytes", place(at)).unwrap();
        }
        ScanEnd::Damaged(loss) => {
            writeln!(text, "end damaged, applied {}", loss.applied).unwrap();
            for Loss {
                at,
                lsns,
                blocks,
                hole,
            } in &loss.places
            {
                let after = lsns.after;
                let (through, at) = (lsns.through, place(at));
                writeln!(
                    text,
                    "lost ({after},{through}] at {at}, blocks {blocks:?}, hole {hole}"
                )
                .unwrap();
            }
        }
    }
    for entry in log.lineage().entries() {
        let (epoch, incarnation, first) = (entry.epoch, entry.incarnation, entry.first);
        writeln!(
            text,
            "lineage epoch {epoch} incarnation {incarnation} from {first}"
        )
        .unwrap();
    }
    for lsn in tail.get() + 1..=head.get() {
        match log.read_record(Lsn::new(lsn)) {
            Ok(record) => {
                let header = record.header();
                writeln!(
                    text,
                    "record {lsn} {:?} no_hole {} lba {} blocks {} sum {:#010x}",
                    header.kind, header.no_hole, header.lba.0, header.blocks, header.sum
                )
                .unwrap();
            }
            Err(Error::Hole { .. }) => writeln!(text, "record {lsn} hole").unwrap(),
            Err(Error::Corrupt(_)) => writeln!(text, "record {lsn} corrupt").unwrap(),
            Err(error) => panic!("LSN {lsn}: {error}"),
        }
    }
    text
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v1")
}

fn load(path: &Path) -> String {
    let disk: Arc<dyn Disk> = FileDisk::new();
    let file = File::open(&disk, path, OpenMode::Read).unwrap();
    let length = usize::try_from(file.length().unwrap()).unwrap();
    String::from_utf8(file.read_exact(0, length).unwrap().to_vec()).unwrap()
}

fn save(path: &Path, text: &str) {
    let disk: Arc<dyn Disk> = FileDisk::new();
    let file = File::open(&disk, path, OpenMode::CreateNew).unwrap();
    file.write_bytes(0, Buffer::copy_of(text.as_bytes()))
        .unwrap();
}

#[test]
fn every_golden_directory_opens_as_it_did_when_it_was_written() {
    let files: Arc<dyn Disk> = FileDisk::new();
    let names = disk::list(files.as_ref(), &golden()).unwrap();
    let names = names.iter().filter_map(|name| name.strip_suffix(".dump"));
    let mut opened = 0;
    for name in names {
        let dumped = load(&golden().join(format!("{name}.dump")));
        let expected = load(&golden().join(format!("{name}.expected")));
        let sim: Arc<dyn Disk> = SimDisk::new(1);
        restore(&dumped, &sim, Path::new(DIR));
        assert_eq!(
            describe(&sim, Path::new(DIR)),
            expected,
            "{name}, simulated"
        );
        let temp = tempfile::tempdir().unwrap();
        restore(&dumped, &files, temp.path());
        assert_eq!(describe(&files, temp.path()), expected, "{name}, on files");
        // Nor does a writable open see less.
        let (log, report) = open(&files, temp.path(), LogMode::Writable);
        log.stop();
        drop(log);
        let torn = matches!(report.end, ScanEnd::Torn { .. });
        let again = describe(&files, temp.path());
        let records = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.starts_with("record"));
            lines.map(str::to_owned).collect()
        };
        assert_eq!(
            records(&again),
            records(&expected),
            "{name}, after a writable open"
        );
        assert_eq!(
            again.contains("end clean"),
            torn || expected.contains("end clean")
        );
        opened += 1;
    }
    assert!(opened >= CASES.len(), "{opened} directories");
}

/// A difference means that the log writes other bytes than before. When that is meant, and every
/// old directory still opens, the new bytes become a further case under a new name.
#[test]
fn the_generator_still_writes_the_golden_directories() {
    let files: Arc<dyn Disk> = FileDisk::new();
    let known = disk::list(files.as_ref(), &golden()).unwrap();
    let writes = std::env::var("SEAWALL_GOLDEN").is_ok_and(|word| word == "write");
    for (name, generate) in CASES {
        let sim = generate();
        let dumped = dump(&sim);
        assert!(dumped.len() < 32 << 10, "{name}: {} bytes", dumped.len());
        let path = golden().join(format!("{name}.dump"));
        if writes && !known.contains(&format!("{name}.dump")) {
            let disk: Arc<dyn Disk> = sim;
            let described = describe(&disk, Path::new(DIR));
            save(&path, &dumped);
            save(&path.with_extension("expected"), &described);
        }
        assert!(load(&path) == dumped, "{name} is written in another way");
    }
}
