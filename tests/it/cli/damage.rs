//! Damage as an operator meets it: a torn tail is cut, anything else is named and never read as
//! good.

use std::path::{Path, PathBuf};

use seawall::snapshot::{Durability, Volume};
use serde_json::Value;

use super::{arg, create, open};
use crate::harness::{Random, nbdkit_plugin, run, scratch, seawall, wal_dump, write_file};

const BLOCK: usize = 4096;
const RECORDS: u8 = 6;

/// Writes one record per frame: block n holds n + 1.
fn fill(volume: &Volume) {
    for n in 0..RECORDS {
        let offset = u64::from(n) * BLOCK as u64;
        volume
            .write(offset, &[n + 1; BLOCK], Durability::Durable)
            .unwrap();
    }
}

/// Records as `wal-dump --json` lists them.
fn records(volume: &str) -> Vec<Value> {
    let dumped = wal_dump(&[volume, "--json"]);
    dumped
        .json_lines()
        .into_iter()
        .filter(|line| line["lsn"].is_u64())
        .collect()
}

/// Where the segment file of a record lies.
fn file_of(volume: &str, record: &Value) -> PathBuf {
    let name = record["segment"].as_str().expect("a segment is named");
    let name = Path::new(name).file_name().unwrap();
    Path::new(volume).join("wal").join(name)
}

fn flip(file: &Path, at: usize) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// First byte of a record's payload in its file: each holds one block of one value.
fn payload_of(file: &Path, value: u8) -> usize {
    let bytes = std::fs::read(file).unwrap();
    let mut from_behind = (0..bytes.len()).step_by(512).rev();
    let found = from_behind.find(|at| bytes[*at..].starts_with(&[value; BLOCK]));
    found.expect("the payload is in the segment")
}

#[test]
fn a_trailing_half_frame_is_a_torn_tail_and_is_cut_at_the_next_open() {
    let dir = scratch();
    let (volume, torn) = (arg(dir.path(), "vol"), arg(dir.path(), "copy"));
    create(&volume, "1M");
    let live = open(&volume);
    fill(&live);
    run("cp", &["-r", &volume, &torn]).ok();
    live.close().unwrap();
    let last = records(&torn).pop().unwrap();
    let file = file_of(&torn, &last);
    let at = payload_of(&file, RECORDS);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[at + BLOCK / 2..at + BLOCK].fill(0);
    std::fs::write(&file, bytes).unwrap();

    let verified = seawall(&["verify", &torn]).ok();
    assert!(verified.stdout.contains("torn"), "{verified:#?}");
    assert_eq!(
        std::fs::read(&file).unwrap()[at],
        RECORDS,
        "verify wrote to what it inspects"
    );
    seawall(&["checkpoint", &torn]).ok();
    assert_eq!(records(&torn).len(), usize::from(RECORDS) - 1);
    let status = seawall(&["status", &torn, "--json"]).ok().json();
    assert_eq!(status["head"], u64::from(RECORDS) - 1);
    let verified = seawall(&["verify", &torn]).ok();
    assert!(
        !verified.stdout.contains("torn"),
        "still torn after the cut: {verified:#?}"
    );
}

#[test]
fn one_flipped_bit_is_named_by_file_offset_and_lsn_and_never_read_as_good() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "1M");
    let live = open(&volume);
    fill(&live);
    live.close().unwrap();
    drop(live);
    seawall(&["verify", &volume]).ok();
    for record in records(&volume) {
        let lsn = record["lsn"].as_u64().unwrap();
        let file = file_of(&volume, &record);
        let at = payload_of(&file, u8::try_from(lsn).unwrap()) + 1000;
        flip(&file, at);
        is_named(&volume, &file, lsn);
        is_not_read(&volume, &dir.path().join("out.img"));
        flip(&file, at);
        seawall(&["verify", &volume]).ok();
    }
}

/// `verify` and `wal-dump --verify` exit 1 and say where.
fn is_named(volume: &str, file: &Path, lsn: u64) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let found = seawall(&["verify", volume, "--json"]);
    assert_eq!(found.code, Some(1), "LSN {lsn}: {found:#?}");
    let report = found.json();
    assert_eq!(report["ok"], false);
    let damage = report["damage"].as_array().unwrap();
    let here = |d: &&Value| {
        d["lsn"] == lsn && d["offset"].is_u64() && d["file"].as_str().unwrap().ends_with(name)
    };
    assert!(
        damage.iter().any(|d| here(&d)),
        "LSN {lsn} in {name} is not named: {report:#}"
    );
    let text = seawall(&["verify", volume]);
    assert_eq!(text.code, Some(1));
    let said = text.stdout + &text.stderr;
    assert!(
        said.contains(name) && said.contains("offset") && said.contains("LSN"),
        "{said}"
    );
    let dumped = wal_dump(&[volume, "--verify"]);
    assert_eq!(dumped.code, Some(1), "{dumped:#?}");
}

/// Neither export nor a block client gets a whole image out of it.
fn is_not_read(volume: &str, image: &Path) {
    let image = image.to_str().unwrap();
    let exported = seawall(&["export", volume, image]);
    assert_eq!(exported.code, Some(3), "{exported:#?}");
    assert_eq!(exported.stderr.lines().count(), 1, "{exported:#?}");
    let plugin = nbdkit_plugin();
    let (served, copy) = (format!("dir={volume}"), format!("nbdcopy \"$uri\" {image}"));
    let args = ["-U", "-", plugin.to_str().unwrap(), &served, "--run", &copy];
    assert_ne!(
        run("nbdkit", &args).code,
        Some(0),
        "nbdkit served a damaged volume as good"
    );
}

/// A volume whose log fills several segments, cleanly closed.
fn long_log(dir: &Path) -> String {
    let (volume, image) = (arg(dir, "vol"), arg(dir, "in.img"));
    create(&volume, "4M");
    write_file(image.as_ref(), &Random::new(4).bytes(3 << 20));
    seawall(&["import", &volume, &image]).ok();
    seawall(&["checkpoint", &volume]).ok();
    volume
}

/// The segment file of the record in the middle of the log.
fn middle_segment(volume: &str) -> PathBuf {
    let records = records(volume);
    file_of(volume, &records[records.len() / 2])
}

/// `verify` exits 1 and names `file`.
fn is_accused(volume: &str, file: &Path) {
    let found = seawall(&["verify", volume, "--json"]);
    assert_eq!(found.code, Some(1), "{found:#?}");
    let report = found.json();
    let named = |d: &Value| d["file"] == file.to_str().unwrap();
    let damage = report["damage"].as_array().unwrap();
    assert!(damage.iter().any(named), "{}: {report:#}", file.display());
}

#[test]
fn a_sealed_segment_that_lost_its_frames_is_damage_although_its_index_is_whole() {
    let dir = scratch();
    let volume = long_log(dir.path());
    let file = middle_segment(&volume);
    let sound = std::fs::read(&file).unwrap();
    for keep in [4096, 5000] {
        std::fs::write(&file, &sound[..keep]).unwrap();
        is_accused(&volume, &file);
        let mut zeroed = sound.clone();
        zeroed[keep.next_multiple_of(4096)..].fill(0);
        std::fs::write(&file, zeroed).unwrap();
        is_accused(&volume, &file);
    }
    std::fs::write(&file, sound).unwrap();
    seawall(&["verify", &volume]).ok();
}

#[test]
fn the_first_segment_is_missed() {
    let dir = scratch();
    let volume = long_log(dir.path());
    std::fs::remove_file(file_of(&volume, &records(&volume)[0])).unwrap();
    assert_eq!(seawall(&["verify", &volume]).code, Some(1));
    let dumped = wal_dump(&[&volume, "--verify"]);
    assert_eq!(dumped.code, Some(1), "{dumped:#?}");
    assert!(dumped.stdout.contains("LSN 1:"), "{dumped:#?}");
}

#[test]
fn a_segment_under_a_second_name_is_told_by_the_log_and_by_its_dump() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "1M");
    let live = open(&volume);
    fill(&live);
    live.close().unwrap();
    drop(live);
    let wal = Path::new(&volume).join("wal");
    std::fs::copy(wal.join("00000000.seg"), wal.join("00000007.seg")).unwrap();
    for dumped in [
        wal_dump(&[&volume, "--verify"]),
        seawall(&["verify", &volume]),
    ] {
        assert_eq!(dumped.code, Some(1), "{dumped:#?}");
        assert!(dumped.stdout.contains(".seg"), "{dumped:#?}");
    }
    std::fs::remove_file(wal.join("00000007.seg")).unwrap();
    assert_eq!(wal_dump(&[&volume, "--verify"]).code, Some(0));
}

#[test]
fn damaged_copies_of_meta_are_told_by_a_dump_that_reads_the_segments_all_the_same() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "1M");
    let live = open(&volume);
    fill(&live);
    live.close().unwrap();
    drop(live);
    let meta = Path::new(&volume).join("meta");
    for copies in 1..=2 {
        flip(&meta, (copies - 1) * (64 << 10) + 100);
        let dumped = wal_dump(&[&volume, "--verify"]);
        assert_eq!(dumped.code, Some(1), "{copies}: {dumped:#?}");
        assert!(dumped.stdout.contains("meta"), "{copies}: {dumped:#?}");
        assert_eq!(records(&volume).len(), usize::from(RECORDS));
    }
}

#[test]
fn a_file_of_the_base_that_is_gone_or_too_short_is_damage() {
    let dir = scratch();
    let volume = long_log(dir.path());
    for name in ["image", "sums"] {
        let file = Path::new(&volume).join("base/1").join(name);
        let sound = std::fs::read(&file).unwrap();
        std::fs::write(&file, &sound[..sound.len() / 2]).unwrap();
        is_accused(&volume, &file);
        std::fs::remove_file(&file).unwrap();
        is_accused(&volume, &file);
        std::fs::write(&file, sound).unwrap();
    }
    seawall(&["verify", &volume]).ok();
}

#[test]
fn a_fifo_in_the_place_of_a_segment_keeps_nobody_waiting() {
    let dir = scratch();
    let volume = long_log(dir.path());
    let file = middle_segment(&volume);
    std::fs::remove_file(&file).unwrap();
    run("mkfifo", &[&file]).ok();
    let within = |program: &str, arguments: &[&str]| {
        let program = crate::harness::program(program);
        let mut call = vec!["10", program.to_str().unwrap()];
        call.extend(arguments);
        run("timeout", &call).code
    };
    assert_eq!(within("seawall", &["verify", &volume]), Some(1));
    assert_ne!(within("wal-dump", &[&volume, "--verify"]), Some(124));
}
