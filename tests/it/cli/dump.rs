//! `wal-dump` on logs that are whole, damaged, reused, and written to at this moment.

mod follow;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall::snapshot::{Access, Background, Durability, Volume};
use seawall::wal::disk::{Disk, FileDisk};
use seawall::wal::{Log, LogMode, Lsn, Meta, ScanEnd, SystemClock};
use serde_json::Value;

use super::{arg, create};
use crate::harness::{Ended, program, run, scratch, seawall, wal_dump, write_file};

const BLOCK: usize = 4096;

/// A volume that captures and reclaims only when it is told to.
fn open(volume: &str) -> Arc<Volume> {
    let disk: Arc<dyn Disk> = FileDisk::new();
    let (clock, access) = (SystemClock::new(), Access::Primary);
    let off = Background::OFF;
    let opened = Volume::open_with(&disk, volume.as_ref(), &clock, access, off);
    opened.unwrap().0
}

/// One record for each of `values`: block n holds its value.
fn write(volume: &Volume, values: std::ops::Range<u8>) {
    for value in values {
        let offset = u64::from(value) * BLOCK as u64;
        let bytes = [value; BLOCK];
        volume.write(offset, &bytes, Durability::Durable).unwrap();
    }
}

/// Blocks of one of [`fill`]'s records.
const LARGE: usize = 16;

/// As many records of 64 KiB as fill a segment.
fn fill(volume: &Volume) {
    for n in 0..16_u8 {
        let offset = u64::from(n) * (LARGE * BLOCK) as u64;
        let bytes = [n + 1; LARGE * BLOCK];
        volume.write(offset, &bytes, Durability::Durable).unwrap();
    }
}

/// A closed volume of 1 MiB segments with a record for each of `values`.
fn volume_of(dir: &Path, values: std::ops::Range<u8>) -> String {
    let volume = arg(dir, "vol");
    create(&volume, "2M");
    let live = open(&volume);
    write(&live, values);
    live.close().unwrap();
    volume
}

fn flip(file: &Path, at: u64) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

/// The records of a dump.
fn records(dumped: Ended) -> Vec<Value> {
    let lines = dumped.ok().json_lines().into_iter();
    lines.filter(|line| line["kind"] != "unreadable").collect()
}

fn lsns(records: &[Value]) -> Vec<u64> {
    let numbers = records.iter().filter_map(|record| record["lsn"].as_u64());
    numbers.collect()
}

/// File and offset of the record header of `lsn`.
fn place_of(volume: &str, lsn: u64) -> (PathBuf, u64) {
    let lsn = lsn.to_string();
    let found = records(wal_dump(&[volume, "--json", "--from", &lsn, "--to", &lsn]));
    let name = found[0]["segment"].as_str().unwrap();
    let file = Path::new(volume).join("wal").join(name);
    (file, found[0]["offset"].as_u64().unwrap())
}

/// Every file below `dir` with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => {
                let bytes = std::fs::read(&path).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    found
}

/// Opens a salvaged log as the library does; its end and its head.
fn reopened(out: &str) -> (ScanEnd, Lsn) {
    let disk: Arc<dyn Disk> = FileDisk::new();
    let meta = Arc::new(Meta::open(&disk, out.as_ref(), false).unwrap());
    let (clock, mode) = (SystemClock::new(), LogMode::ReadOnly);
    let opened = Log::open(&disk, out.as_ref(), &meta, &clock, mode, Lsn::ZERO);
    let (log, report) = opened.unwrap();
    (report.end, log.frontiers().head)
}

#[test]
fn records_are_filtered_by_epoch_and_by_the_time_of_their_frame() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..4);
    seawall(&["promote", &volume, "--epoch", "7"]).ok();
    let live = open(&volume);
    write(&live, 4..6);
    live.close().unwrap();
    drop(live);
    let of = |words: &[&str]| {
        let mut call = vec![volume.as_str(), "--json"];
        call.extend(words);
        lsns(&records(wal_dump(&call)))
    };
    assert_eq!(of(&["--epoch", "7"]), [4, 5]);
    assert_eq!(of(&["--epoch", "1"]), [1, 2, 3]);
    let all = records(wal_dump(&[&volume, "--json"]));
    let third = all[2]["timestamp_ns"].as_u64().unwrap();
    let seconds = format!("{}.{:09}", third / 1_000_000_000 + 3600, 0);
    assert_eq!(of(&["--since", &seconds]), [0; 0]);
    assert_eq!(of(&["--until", &seconds]), [1, 2, 3, 4, 5]);
    assert_eq!(of(&["--since", "1970-01-02T00:00:00Z"]), [1, 2, 3, 4, 5]);
    wal_dump(&[&volume, "--since", "noon"]).refused(2, "noon");
}

#[test]
fn a_payload_is_shown_in_hexadecimal_when_asked_for() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 7..9);
    let plain = wal_dump(&[volume.as_str(), "--json"]).ok().json_lines();
    assert!(plain[0]["payload"].is_null());
    let shown = wal_dump(&[volume.as_str(), "--json", "--hex=4"]).ok();
    assert_eq!(shown.json_lines()[0]["payload"], "07070707");
    let text = wal_dump(&[volume.as_str(), "--hex"]).ok().stdout;
    assert!(text.contains("08 08 08 08"), "{text}");
    assert!(text.contains("3840 bytes more"), "{text}");
}

#[test]
fn statistics_count_rewrites_and_name_the_hottest_blocks() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "8M");
    let live = open(&volume);
    for _ in 0..6 {
        live.write(4 << 20, &[1; BLOCK], Durability::Durable)
            .unwrap();
    }
    write(&live, 1..3);
    live.trim(0, 8 * BLOCK as u64, Durability::Durable).unwrap();
    live.close().unwrap();
    let stats = wal_dump(&[volume.as_str(), "--json", "--stats"])
        .ok()
        .json();
    assert_eq!(stats["blocks_written"], 8);
    assert_eq!(stats["blocks_touched"], 3);
    assert_eq!(stats["kinds"]["trim"], 1);
    assert_eq!(stats["sizes"][0]["at_most"], 4096);
    let hottest = &stats["hottest"][0];
    assert_eq!(
        (&hottest["lba"], &hottest["records"]),
        (&1024.into(), &6.into())
    );
    // Each record of one block has a frame of two pages.
    assert!(
        stats["write_amplification"].as_f64().unwrap() >= 2.0,
        "{stats}"
    );
    let text = wal_dump(&[volume.as_str(), "--stats"]).ok().stdout;
    assert!(text.contains("rewrite ratio 2.67"), "{text}");
}

#[test]
fn the_map_tells_what_keeps_each_segment() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "2M");
    let live = open(&volume);
    (0..3).for_each(|_| fill(&live));
    live.commit_best_effort().unwrap();
    live.checkpoint(None).unwrap();
    live.close().unwrap();
    drop(live);
    let map = |words: &[&str]| {
        let mut call = vec![volume.as_str(), "--json", "--map"];
        call.extend(words);
        wal_dump(&call).ok().json_lines()
    };
    let states = |lines: &[Value]| -> Vec<String> {
        let named = lines.iter().filter(|line| line["segment"].is_string());
        named
            .map(|line| line["state"].as_str().unwrap().into())
            .collect()
    };
    let lines = map(&[]);
    let found = states(&lines);
    assert!(found.contains(&"reclaimable".into()), "{found:?}");
    assert_eq!(found.iter().filter(|state| *state == "active").count(), 1);
    let picture = lines.last().unwrap();
    let touched = picture["cells"].as_array().unwrap();
    assert_eq!(
        touched
            .iter()
            .map(|cell| cell["written"].as_u64().unwrap())
            .sum::<u64>(),
        3 * 16 * LARGE as u64
    );
    let only = map(&["--lba", "5..6"]);
    let touched = only.last().unwrap()["cells"].as_array().unwrap();
    assert_eq!(
        touched.len(),
        LARGE,
        "the records that touch block 5 are all of one place"
    );

    seawall(&["reclaim", &volume, "--through", "40"]).ok();
    let found = states(&map(&[]));
    assert!(found.contains(&"free".into()), "{found:?}");

    let (file, at) = place_of(&volume, 44);
    flip(&file, at + 60);
    let lines = map(&[]);
    let damaged = lines
        .iter()
        .find(|line| line["state"] == "damaged")
        .unwrap();
    assert!(file.ends_with(damaged["segment"].as_str().unwrap()));
    let text = wal_dump(&[volume.as_str(), "--map"]).ok().stdout;
    assert!(
        text.contains("1 damaged") && text.contains("where the writes went"),
        "{text}"
    );
}

#[test]
fn the_map_of_a_served_volume_names_who_pins_a_segment() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "2M");
    let live = open(&volume);
    (0..2).for_each(|_| fill(&live));
    let answer = {
        let live = Arc::clone(&live);
        move || seawall::recovery::Status::of_volume(&live).to_json()
    };
    let ctl = seawall::recovery::serve_ctl(live.dir(), Arc::new(answer)).unwrap();
    live.commit_best_effort().unwrap();
    live.checkpoint(None).unwrap();
    let pin = live.log().pin(Lsn::new(1), "backup of tuesday").unwrap();
    let text = wal_dump(&[volume.as_str(), "--map"]).ok().stdout;
    assert!(text.contains("pinned by backup of tuesday"), "{text}");
    drop(pin);
    let text = wal_dump(&[volume.as_str(), "--map"]).ok().stdout;
    assert!(
        !text.contains("pinned by") && text.contains("reclaimable"),
        "{text}"
    );
    drop(ctl);
    live.close().unwrap();
}

#[test]
fn stale_records_are_listed_with_the_generation_they_were_written_in() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "2M");
    let live = open(&volume);
    for _ in 0..4 {
        fill(&live);
        live.commit_best_effort().unwrap();
        let head = live.checkpoint(None).unwrap();
        live.advance_tail(head).unwrap();
    }
    live.close().unwrap();
    drop(live);
    let present = records(wal_dump(&[volume.as_str(), "--json"]));
    let stale = records(wal_dump(&[volume.as_str(), "--json", "--stale"]));
    assert!(!stale.is_empty());
    let newest = present
        .iter()
        .map(|record| record["generation"].as_u64())
        .max()
        .unwrap();
    for record in &stale {
        assert_eq!(record["state"], "stale");
        assert!(record["generation"].as_u64() < newest, "{record}");
        let same = |other: &&Value| {
            other["segment"] == record["segment"] && other["offset"] == record["offset"]
        };
        assert!(
            !present.iter().any(|other| same(&other)),
            "{record} is no stale one"
        );
    }
}

#[test]
fn a_sound_log_is_salvaged_whole_and_its_copy_opens_as_a_volume() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..40);
    let out = arg(dir.path(), "out");
    let before = contents(volume.as_ref());
    let told = wal_dump(&[volume.as_str(), "--json", "--salvage", &out])
        .ok()
        .json();
    assert_eq!(
        (&told["records"], &told["missing"]),
        (&39.into(), &0.into())
    );
    assert_eq!(contents(volume.as_ref()), before, "the input was changed");
    let copied = records(wal_dump(&[out.as_str(), "--json", "--hex=8"]));
    let original = records(wal_dump(&[volume.as_str(), "--json", "--hex=8"]));
    for (copy, record) in copied.iter().zip(&original) {
        for field in ["lsn", "epoch", "incarnation", "lba", "kind", "payload"] {
            assert_eq!(copy[field], record[field]);
        }
    }
    assert_eq!(copied.len(), original.len());
    assert_eq!(reopened(&out), (ScanEnd::Clean, Lsn::new(39)));
    assert_eq!(wal_dump(&[out.as_str(), "--verify"]).code, Some(0));
    run("cp", &["-r", &arg(volume.as_ref(), "base"), &out]).ok();
    let (ours, theirs) = (arg(dir.path(), "a.img"), arg(dir.path(), "b.img"));
    seawall(&["export", &volume, &ours]).ok();
    seawall(&["export", &out, &theirs]).ok();
    crate::harness::assert_same_file(ours.as_ref(), theirs.as_ref());
}

#[test]
fn a_salvage_keeps_what_lies_behind_damage_and_names_what_is_missing() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..40);
    // One payload, whose header tells the blocks, and one frame with its headers.
    let (file, at) = place_of(&volume, 10);
    flip(&file, at + 4000);
    let (file, at) = place_of(&volume, 20);
    flip(&file, at - 100);
    let before = contents(volume.as_ref());
    let out = arg(dir.path(), "out");
    let told = wal_dump(&[volume.as_str(), "--json", "--salvage", &out]);
    assert_eq!(told.code, Some(1), "{told:#?}");
    assert_eq!(contents(volume.as_ref()), before, "the input was changed");
    let lines = told.json_lines();
    let gaps: Vec<_> = lines
        .iter()
        .filter(|line| line["kind"] == "missing")
        .collect();
    assert_eq!(gaps.len(), 2, "{lines:#?}");
    assert_eq!(
        (&gaps[0]["after"], &gaps[0]["through"]),
        (&9.into(), &10.into())
    );
    assert_eq!(gaps[0]["blocks"][0]["lba"], 10);
    assert_eq!(gaps[0]["all_blocks_known"], true);
    assert_eq!(
        (&gaps[1]["after"], &gaps[1]["through"]),
        (&19.into(), &20.into())
    );
    assert_eq!(
        (&gaps[1]["was_durable"], &gaps[1]["all_blocks_known"]),
        (&true.into(), &false.into())
    );
    assert_eq!(lines.last().unwrap()["records"], 37);
    let copied = lsns(&records(wal_dump(&[out.as_str(), "--json"])));
    let expected: Vec<u64> = (1..40).filter(|lsn| ![10, 20].contains(lsn)).collect();
    assert_eq!(copied, expected);
    // The library opens it, for reading, and tells the same loss.
    let (ScanEnd::Damaged(loss), _) = reopened(&out) else {
        panic!("a log with gaps passed for a whole one");
    };
    assert_eq!((loss.applied, loss.durable), (Lsn::new(9), Lsn::new(39)));
    let lost: Vec<_> = loss
        .places
        .iter()
        .map(|place| place.lsns.through.get())
        .collect();
    assert_eq!(lost, [10, 20]);
    assert_eq!(wal_dump(&[out.as_str(), "--verify"]).code, Some(1));
}

#[test]
fn what_a_log_lacks_at_its_end_is_missing_from_its_salvage_too() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..10);
    let (file, at) = place_of(&volume, 8);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[usize::try_from(at).unwrap() - 128..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    let out = arg(dir.path(), "out");
    let told = wal_dump(&[volume.as_str(), "--salvage", &out]);
    assert_eq!(told.code, Some(1), "{told:#?}");
    assert!(
        told.stdout
            .contains("missing LSNs (7, 9], which were durable"),
        "{told:#?}"
    );
    let (ScanEnd::Damaged(loss), _) = reopened(&out) else {
        panic!("a log that ends too early passed for a whole one");
    };
    assert_eq!((loss.applied, loss.durable), (Lsn::new(7), Lsn::new(9)));
}

#[test]
fn a_lone_segment_file_is_listed_drawn_and_salvaged() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "2M");
    let live = open(&volume);
    (0..2).for_each(|_| fill(&live));
    live.close().unwrap();
    drop(live);
    let (file, _) = place_of(&volume, 30);
    let lone = arg(dir.path(), "lone.seg");
    run("cp", &[file.to_str().unwrap(), &lone]).ok();
    let found = lsns(&records(wal_dump(&[lone.as_str(), "--json"])));
    assert!(found.contains(&30) && !found.contains(&1));
    wal_dump(&[lone.as_str(), "--map"]).ok();
    wal_dump(&[lone.as_str(), "--stats"]).ok();
    wal_dump(&[lone.as_str(), "--stale"]).ok();
    let out = arg(dir.path(), "out");
    wal_dump(&[lone.as_str(), "--salvage", &out]).ok();
    assert_eq!(lsns(&records(wal_dump(&[out.as_str(), "--json"]))), found);
    assert_eq!(reopened(&out).0, ScanEnd::Clean);
}

#[test]
fn no_mode_panics_on_damaged_input() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..20);
    let (file, at) = place_of(&volume, 9);
    let sound = std::fs::read(&file).unwrap();
    let at = usize::try_from(at).unwrap();
    let garbage = crate::harness::Random::new(11).bytes(sound.len());
    let cut = |length: usize| sound[..length].to_vec();
    let filled = |range: std::ops::Range<usize>, with: u8| {
        let mut bytes = sound.clone();
        bytes[range].fill(with);
        bytes
    };
    let inputs = [
        Vec::new(),
        cut(100),
        cut(4096),
        cut(at + 10),
        garbage,
        filled(0..4096, 0xff),
        filled(at - 128..at + 64, 0xff),
        filled(0..sound.len(), 0),
        filled(4096..12288, 0x5a),
    ];
    for (number, bytes) in inputs.iter().enumerate() {
        write_file(&file, bytes);
        for mode in [
            "--json",
            "--stats",
            "--verify",
            "--map",
            "--stale",
            "--salvage",
        ] {
            for path in [volume.as_str(), file.to_str().unwrap()] {
                let out = arg(dir.path(), "out");
                let mut call = vec![path, mode];
                if mode == "--salvage" {
                    call.push(&out);
                }
                let ended = wal_dump(&call);
                assert!(
                    matches!(ended.code, Some(0..=2)) && !ended.stderr.contains("panicked"),
                    "input {number}: {ended:#?}"
                );
                drop(std::fs::remove_dir_all(&out));
            }
        }
    }
}

#[test]
fn wrong_use_of_the_dump_is_one_line_and_makes_nothing() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..4);
    let (empty, out) = (arg(dir.path(), "empty"), arg(dir.path(), "out"));
    std::fs::create_dir(&empty).unwrap();
    let inside = arg(volume.as_ref(), "out");
    for (call, fact) in [
        (vec![volume.as_str(), "--map", "--stats"], "--stats"),
        (vec![empty.as_str(), "--map"], &*empty),
        (vec![empty.as_str(), "--follow"], &*empty),
        (vec![empty.as_str(), "--salvage", &out], &*empty),
        (vec![volume.as_str(), volume.as_str(), "--follow"], "second"),
        (vec![volume.as_str(), "--salvage", &inside], &*inside),
        (vec![volume.as_str(), "--salvage", &volume], &*volume),
        (vec![volume.as_str(), "--epoch", "many"], "many"),
        (vec![volume.as_str(), "--hex=much"], "much"),
    ] {
        wal_dump(&call).refused(2, fact);
        assert!(
            !Path::new(&out).exists() && !Path::new(&inside).exists(),
            "{call:?}"
        );
    }
    let lone = place_of(&volume, 1).0;
    let lone = lone.to_str().unwrap();
    wal_dump(&[lone, "--follow"]).refused(2, lone);
    write_file(&Path::new(&empty).join("other"), b"x");
    wal_dump(&[volume.as_str(), "--salvage", &empty]).refused(2, &empty);
}

#[test]
fn colours_are_for_terminals_and_not_for_those_who_refuse_them() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..4);
    let (file, at) = place_of(&volume, 2);
    flip(&file, at + 4000);
    let piped = wal_dump(&[volume.as_str()]).ok().stdout;
    assert!(
        piped.contains("BAD SUM") && !piped.contains('\x1b'),
        "{piped:?}"
    );
    let on_terminal = |environment: &str, words: &str| {
        let dump = program("wal-dump");
        let call = format!(
            "{environment} {} {volume} {words} 2>/dev/null",
            dump.display()
        );
        let shown = run("script", &["-qec", &call, "/dev/null"]).stdout;
        assert!(
            shown.contains("lsn") || shown.contains("BAD SUM"),
            "{shown:?}"
        );
        shown.contains('\x1b')
    };
    assert!(on_terminal("env -u NO_COLOR TERM=xterm", ""));
    assert!(!on_terminal("env NO_COLOR=1 TERM=xterm", ""));
    assert!(!on_terminal("env -u NO_COLOR TERM=xterm", "--json"));
}

#[test]
fn progress_is_for_terminals_alone() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..4);
    let (out, image) = (arg(dir.path(), "out"), arg(dir.path(), "image"));
    let start_over = || {
        drop(std::fs::remove_dir_all(&out));
        drop(std::fs::remove_file(&image));
    };
    for (binary, words) in [
        ("wal-dump", vec![volume.as_str(), "--stats"]),
        ("wal-dump", vec![volume.as_str(), "--map"]),
        ("wal-dump", vec![volume.as_str(), "--verify"]),
        ("wal-dump", vec![volume.as_str(), "--salvage", &out]),
        ("seawall", vec!["verify", &volume]),
        ("seawall", vec!["checkpoint", &volume]),
        ("seawall", vec!["reclaim", &volume, "--through", "0"]),
        ("seawall", vec!["export", &volume, &image]),
    ] {
        start_over();
        let program = program(binary);
        assert_eq!(run(&program, &words).ok().stderr, "", "{words:?}");
        start_over();
        let call = words.join(" ");
        let call = format!("TERM=xterm {} {call} >/dev/null", program.display());
        let shown = run("script", &["-qec", &call, "/dev/null"]).ok().stdout;
        assert!(shown.contains('\x1b'), "{words:?} shows nothing: {shown:?}");
    }
}
