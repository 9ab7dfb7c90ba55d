//! The commands together, on real volumes in a temporary directory.

use std::path::{Path, PathBuf};

use seawall_snapshot::Access;
use seawall_wal::disk::{Buffer, File, OpenMode};
use seawall_wal::{Inspected, Lsn, inspect_segment};
use serde_json::Value;

use crate::error::Error;
use crate::exit::Exit;
use crate::{common, create, dump, export, import, maintain, promote, verify};

const MIB: u64 = 1 << 20;

struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    /// A volume of 8 MiB in segments of 1 MiB.
    fn new() -> Bench {
        let bench = Bench {
            dir: tempfile::tempdir().unwrap(),
        };
        let args = create::Args {
            dir: bench.volume(),
            size: 8 * MIB,
            block_size: 4096,
            segment_size: MIB,
        };
        assert_eq!(create::run(&args, &mut Vec::new()).unwrap(), Exit::Fine);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn volume(&self) -> PathBuf {
        self.path("volume")
    }

    /// An image with these pieces of one byte value each; the rest is a hole.
    fn image(&self, name: &str, length: u64, pieces: &[(u64, usize, u8)]) -> PathBuf {
        let path = self.path(name);
        let file = File::open(&common::disk(), &path, OpenMode::CreateNew).unwrap();
        file.set_length(length).unwrap();
        for (offset, bytes, value) in pieces {
            let bytes = Buffer::copy_of(&vec![*value; *bytes]);
            file.write_bytes(*offset, bytes).unwrap();
        }
        path
    }

    fn import(&self, file: &Path) -> Result<Exit, Error> {
        let args = import::Args {
            dir: self.volume(),
            file: file.into(),
            acks: Some(self.path("acks")),
        };
        import::run(&args, &mut Vec::new())
    }

    fn export(&self, name: &str, at: Option<u64>) -> Result<Vec<u8>, Error> {
        let file = self.path(name);
        let args = export::Args {
            dir: self.volume(),
            file: file.clone(),
            at,
        };
        export::run(&args, &mut Vec::new())?;
        Ok(read(&file))
    }

    fn verify(&self) -> (Exit, Value) {
        let args = verify::Args {
            dir: self.volume(),
            json: true,
        };
        let mut out = Vec::new();
        let exit = verify::run(&args, &mut out).unwrap();
        (exit, serde_json::from_slice(&out).unwrap())
    }

    fn dump(&self, words: &[&str]) -> (Exit, Vec<Value>) {
        let volume = self.volume();
        let mut line = vec!["wal-dump", volume.to_str().unwrap(), "--json"];
        line.extend(words);
        let args = <dump::Args as clap::Parser>::parse_from(line);
        let mut out = Vec::new();
        let exit = dump::run(&args, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows = text.lines().map(|line| serde_json::from_str(line).unwrap());
        (exit, rows.collect())
    }
}

fn read(path: &Path) -> Vec<u8> {
    let file = File::open(&common::disk(), path, OpenMode::Read).unwrap();
    let length = usize::try_from(file.length().unwrap()).unwrap();
    file.read(0, length).unwrap().to_vec()
}

fn flip(path: &Path, offset: u64) {
    let file = File::open(&common::disk(), path, OpenMode::ReadWrite).unwrap();
    let mut byte = file.read_exact(offset, 1).unwrap();
    byte[0] ^= 4;
    file.write_bytes(offset, byte).unwrap();
}

#[test]
fn a_second_create_clears_what_the_first_left_unfinished_and_nothing_else() {
    let disk = common::disk();
    let dir = tempfile::tempdir().unwrap();
    let args = create::Args {
        dir: dir.path().join("volume"),
        size: 8 * MIB,
        block_size: 4096,
        segment_size: MIB,
    };
    let create = || create::run(&args, &mut Vec::new());
    for name in ["", "creating", "base", "meta"] {
        seawall_wal::disk::make_dir(disk.as_ref(), &args.dir).unwrap();
        let path = args.dir.join(name);
        match name {
            "" => {}
            "base" => seawall_wal::disk::make_dir(disk.as_ref(), &path).unwrap(),
            _ => drop(File::open(&disk, &path, OpenMode::CreateNew).unwrap()),
        }
    }
    assert_eq!(create().unwrap(), Exit::Fine);
    assert_eq!(Exit::of(&create().unwrap_err()), Exit::Unusable);
}

#[test]
fn an_image_comes_back_byte_for_byte_and_its_flushes_are_recorded() {
    let bench = Bench::new();
    let pieces = [(4096, 100_000, 7), (5 * MIB + 17, 4000, 9)];
    let image = bench.image("in.img", 8 * MIB, &pieces);
    assert_eq!(bench.import(&image).unwrap(), Exit::Fine);
    assert!(bench.export("out.img", None).unwrap() == read(&image));
    assert_eq!(
        read(&bench.path("acks")),
        format!("{}\n", 8 * MIB).as_bytes()
    );
    assert_eq!(bench.verify().0, Exit::Fine);
}

#[test]
fn holes_of_a_second_image_clear_what_the_first_one_wrote() {
    let bench = Bench::new();
    let first = bench.image("first.img", 8 * MIB, &[(0, 3 << 20, 1)]);
    let second = bench.image("second.img", 2 * MIB, &[(8192, 4096, 2)]);
    bench.import(&first).unwrap();
    bench.import(&second).unwrap();
    let out = bench.export("out.img", None).unwrap();
    let (replaced, rest) = out.split_at(2 << 20);
    assert!(replaced == read(&second));
    assert!(
        rest == &read(&first)[2 << 20..],
        "what lies behind the image stays"
    );
}

#[test]
fn an_image_of_holes_costs_an_empty_volume_nothing() {
    let bench = Bench::new();
    let image = bench.image("in.img", 8 * MIB, &[]);
    bench.import(&image).unwrap();
    assert_eq!(bench.dump(&[]).1, Vec::<Value>::new());
}

#[test]
fn an_image_that_does_not_fit_changes_nothing() {
    let bench = Bench::new();
    let image = bench.image("in.img", 8 * MIB + 1, &[(0, 4096, 1)]);
    let before = read(&bench.volume().join("meta"));
    let error = bench.import(&image).unwrap_err();
    assert!(matches!(error, Error::InputTooLarge { bytes, size, .. } if bytes == size + 1));
    assert_eq!(Exit::of(&error), Exit::Unusable);
    assert!(read(&bench.volume().join("meta")) == before);
}

#[test]
fn a_state_is_exported_exactly_or_refused_and_the_file_is_left_alone() {
    let bench = Bench::new();
    let first = bench.image("first.img", MIB, &[(0, 65536, 1)]);
    bench.import(&first).unwrap();
    let second = bench.image("second.img", MIB, &[(0, 65536, 2)]);
    bench.import(&second).unwrap();
    let then = bench.export("out.img", Some(1)).unwrap();
    assert!(then[..1 << 20] == read(&first));
    let beyond = bench.export("out.img", Some(3)).unwrap_err();
    assert_eq!(Exit::of(&beyond), Exit::Unusable);
    let reclaim = maintain::ReclaimArgs {
        dir: bench.volume(),
        through: 2,
    };
    maintain::reclaim(&reclaim, &mut Vec::new()).unwrap();
    let gone = bench.export("out.img", Some(1)).unwrap_err();
    assert_eq!(Exit::of(&gone), Exit::Unusable);
    assert!(read(&bench.path("out.img")) == then);
    let now = bench.export("now.img", None).unwrap();
    assert!(now[..1 << 20] == read(&second));
}

#[test]
fn an_export_changes_nothing_and_needs_no_lock() {
    let bench = Bench::new();
    let image = bench.image("in.img", MIB, &[(0, 65536, 1)]);
    bench.import(&image).unwrap();
    let disk = common::disk();
    let (owner, _) = common::open(&disk, &bench.volume(), Access::Maintain).unwrap();
    let before = read(&bench.volume().join("meta"));
    let out = bench.export("out.img", None).unwrap();
    assert!(out[..1 << 20] == read(&image));
    assert!(read(&bench.volume().join("meta")) == before);
    owner.close().unwrap();
}

#[test]
fn a_wrong_lsn_or_epoch_is_refused_before_anything_is_opened_for_writing() {
    let bench = Bench::new();
    let image = bench.image("in.img", MIB, &[(0, 65536, 1)]);
    bench.import(&image).unwrap();
    // Whoever opened it for writing would be refused the lock first.
    let disk = common::disk();
    let (owner, _) = common::open(&disk, &bench.volume(), Access::Maintain).unwrap();
    let reclaim = maintain::ReclaimArgs {
        dir: bench.volume(),
        through: 99,
    };
    let refused = maintain::reclaim(&reclaim, &mut Vec::new()).unwrap_err();
    assert!(refused.to_string().contains("committed"), "{refused}");
    assert_eq!(Exit::of(&refused), Exit::Unusable);
    let promote = promote::Args {
        dir: bench.volume(),
        epoch: 1,
        peers: Vec::new(),
        link: crate::link::Args::default(),
    };
    let refused = promote::run(&promote, &mut Vec::new()).unwrap_err();
    assert!(matches!(refused, Error::EpochTooLow { .. }), "{refused}");
    owner.close().unwrap();
}

#[test]
fn a_record_is_listed_with_every_field_of_the_contract_and_filtered_by_each() {
    let bench = Bench::new();
    let image = bench.image("in.img", 4 * MIB, &[(0, 4096, 1), (2 * MIB, 8192, 2)]);
    bench.import(&image).unwrap();
    let (exit, rows) = bench.dump(&[]);
    assert_eq!((exit, rows.len()), (Exit::Fine, 2));
    let fields = [
        "lsn", "epoch", "kind", "lba", "blocks", "bytes", "segment", "offset", "frame", "sum_ok",
    ];
    for field in fields {
        assert!(!rows[1][field].is_null(), "{field} is missing: {}", rows[1]);
    }
    assert_eq!(rows[1]["lsn"], 2);
    assert_eq!(rows[1]["lba"], 512);
    assert_eq!(rows[1]["bytes"], 8192);
    let only = |words: &[&str]| -> Vec<u64> {
        let rows = bench.dump(words).1;
        rows.iter().filter_map(|row| row["lsn"].as_u64()).collect()
    };
    assert_eq!(only(&["--from", "2"]), [2]);
    assert_eq!(only(&["--to", "1"]), [1]);
    assert_eq!(only(&["--lba", "513..600"]), [2]);
    assert_eq!(only(&["--lba", "1..512"]), [0; 0]);
    assert_eq!(only(&["--kind", "trim"]), [0; 0]);
}

#[test]
fn a_flipped_bit_in_a_record_is_named_by_both_tools_and_never_exported() {
    let bench = Bench::new();
    let image = bench.image("in.img", 4 * MIB, &[(0, 4096, 1), (2 * MIB, 8192, 2)]);
    bench.import(&image).unwrap();
    let record = &bench.dump(&["--to", "1"]).1[0];
    let segment = record["segment"].as_str().unwrap();
    let path = bench.volume().join("wal").join(segment);
    flip(&path, record["offset"].as_u64().unwrap() + 9);
    let (exit, report) = bench.verify();
    assert_eq!((exit, &report["ok"]), (Exit::Found, &Value::Bool(false)));
    let file = report["damage"][0]["file"].as_str().unwrap();
    assert!(file.ends_with(segment), "{file}");
    assert_eq!(report["damage"][0]["lsn"], 1);
    let (exit, damage) = bench.dump(&["--verify"]);
    assert_eq!((exit, damage.len()), (Exit::Found, 1), "{damage:?}");
    assert_eq!(damage[0]["lsn"], 1);
    let error = bench.export("out.img", None).unwrap_err();
    assert!(
        matches!(error, Error::Damaged { applied, .. } if applied.is_zero()),
        "{error}"
    );
    assert!(matches!(bench.import(&image), Err(Error::Damaged { .. })));
}

#[test]
fn a_segment_under_a_second_name_is_damage_for_both_tools() {
    let bench = Bench::new();
    bench
        .import(&bench.image("in.img", MIB, &[(0, 4096, 1)]))
        .unwrap();
    let row = &bench.dump(&[]).1[0];
    let wal = bench.volume().join("wal");
    let bytes = read(&wal.join(row["segment"].as_str().unwrap()));
    let disk = common::disk();
    let twin = wal.join("00000077.seg");
    let file = File::open(&disk, &twin, OpenMode::CreateNew).unwrap();
    file.write_bytes(0, Buffer::copy_of(&bytes)).unwrap();
    let (exit, damage) = bench.dump(&["--verify"]);
    assert_eq!((exit, damage.len()), (Exit::Found, 1), "{damage:?}");
    assert_eq!(damage[0]["segment"], "00000077.seg");
    let (exit, report) = bench.verify();
    assert_eq!((exit, &report["ok"]), (Exit::Found, &Value::Bool(false)));
}

#[test]
fn two_bad_copies_of_meta_are_damage_for_both_tools() {
    let bench = Bench::new();
    bench
        .import(&bench.image("in.img", MIB, &[(0, 4096, 1)]))
        .unwrap();
    let meta = bench.volume().join("meta");
    let half = read(&meta).len() as u64 / 2;
    flip(&meta, 20);
    flip(&meta, half + 20);
    let (exit, damage) = bench.dump(&["--verify"]);
    assert_eq!((exit, damage.len()), (Exit::Found, 1), "{damage:?}");
    assert_eq!(damage[0]["file"], meta.to_str().unwrap());
    let (exit, report) = bench.verify();
    assert_eq!((exit, &report["ok"]), (Exit::Found, &Value::Bool(false)));
    assert_eq!(report["damage"][0]["file"], meta.to_str().unwrap());
}

#[test]
fn a_half_frame_behind_the_end_is_a_torn_tail_that_the_next_open_cuts() {
    let bench = Bench::new();
    for (name, value) in [("first.img", 1), ("second.img", 2)] {
        let image = bench.image(name, MIB, &[(0, 8192, value)]);
        bench.import(&image).unwrap();
    }
    let torn = tear_the_last_record(&bench);
    let (exit, report) = bench.verify();
    let whole = (Exit::Fine, &Value::Bool(true));
    assert_eq!((exit, &report["ok"]), whole, "{report}");
    let offset = report["torn"]["offset"].as_u64();
    assert!(
        offset.is_some_and(|offset| torn.contains(&offset)),
        "{report}"
    );
    assert_eq!(report["head"], 1, "{report}");
    assert_eq!(bench.dump(&["--verify"]).0, Exit::Fine);
    let again = bench.image("again.img", MIB, &[(0, 4096, 3)]);
    bench.import(&again).unwrap();
    let (exit, report) = bench.verify();
    assert_eq!(
        (exit, &report["torn"]),
        (Exit::Fine, &Value::Null),
        "{report}"
    );
    assert_eq!(bench.dump(&["--verify"]), (Exit::Fine, vec![]));
}

/// Leaves the volume as a crash in the middle of the second import would: nothing records that its
/// record was durable, and only the first block of its payload was written. Gives the bytes of the
/// frame that were.
fn tear_the_last_record(bench: &Bench) -> std::ops::Range<u64> {
    let disk = common::disk();
    let meta = seawall_wal::Meta::open(&disk, &bench.volume(), true).unwrap();
    meta.update(|contents| {
        contents.clean_close = None;
        contents.committed = Lsn::new(1);
    })
    .unwrap();
    let last = bench.dump(&["--from", "2"]).1.pop().unwrap();
    let name = last["segment"].as_str().unwrap();
    let path = bench.volume().join("wal").join(name);
    let (mut frame, mut half) = (0, 0);
    inspect_segment(&disk, &path, &mut |found| match found {
        Inspected::Frame { offset, .. } if half == 0 => frame = offset,
        Inspected::Record {
            payload_offset,
            header,
            ..
        } if header.lsn == Lsn::new(2) => {
            half = payload_offset + 4096;
        }
        _ => {}
    })
    .unwrap();
    let file = File::open(&disk, &path, OpenMode::ReadWrite).unwrap();
    let rest = usize::try_from(file.length().unwrap() - half).unwrap();
    file.write_bytes(half, Buffer::zeroed(rest)).unwrap();
    frame..half
}
