//! What the simulated disk promises to tests, and what it may do to an engine.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::{Effect, Fault, SECTOR, SimDisk};
use crate::disk::{self, Buffer, Disk, File, OpenMode, Operation, Output};
use crate::error::{Error, IoOp};

const SEEDS: u64 = 400;

fn dynamic(sim: &Arc<SimDisk>) -> Arc<dyn Disk> {
    Arc::clone(sim) as Arc<dyn Disk>
}

fn open(sim: &Arc<SimDisk>, path: &str, mode: OpenMode) -> File {
    File::open(&dynamic(sim), Path::new(path), mode).unwrap()
}

/// A file with a durable name.
fn create(sim: &Arc<SimDisk>, path: &str) -> File {
    let file = open(sim, path, OpenMode::CreateNew);
    sync_dir(sim, Path::new(path).parent().unwrap().to_str().unwrap());
    file
}

fn sync_dir(sim: &Arc<SimDisk>, path: &str) {
    disk::sync_dir(sim.as_ref(), Path::new(path)).unwrap();
}

fn rename(sim: &Arc<SimDisk>, from: &str, to: &str) {
    disk::rename(sim.as_ref(), Path::new(from), Path::new(to)).unwrap();
}

fn remove(sim: &Arc<SimDisk>, path: &str) {
    disk::remove(sim.as_ref(), Path::new(path)).unwrap();
}

fn make_dir(sim: &Arc<SimDisk>, path: &str) {
    disk::make_dir(sim.as_ref(), Path::new(path)).unwrap();
}

fn write(file: &File, offset: u64, content: &[u8]) {
    file.write_bytes(offset, Buffer::copy_of(content)).unwrap();
}

fn read(sim: &SimDisk, path: &str) -> Vec<u8> {
    sim.read_file(Path::new(path)).unwrap()
}

fn names(sim: &SimDisk) -> Vec<String> {
    let paths = sim.paths().into_iter();
    paths
        .map(|path| path.to_str().unwrap().to_owned())
        .collect()
}

/// What `look` sees after each of many power cuts.
fn outcomes<T: Ord>(sim: &SimDisk, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(|seed| look(&sim.crash(seed))).collect()
}

fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    match result {
        Err(Error::Io { source, .. }) => source.kind(),
        other => panic!("expected an I/O error, got {other:?}"),
    }
}

#[test]
fn synced_bytes_survive_every_power_cut() {
    let sim = SimDisk::new(1);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 2_000]);
    write(&file, 700, &[2; 700]);
    file.sync().unwrap();
    let mut expected = vec![1; 2_000];
    expected[700..1_400].fill(2);
    write(&file, 4_096, &[3; 512]);
    for seed in 0..SEEDS {
        let after = read(&sim.crash(seed), "/a");
        assert_eq!(after[..2_000], expected, "seed {seed}");
    }
    assert_eq!(read(&sim.crash_lose_all(), "/a"), expected);
}

#[test]
fn an_unsynced_write_may_be_lost_kept_or_torn() {
    let sim = SimDisk::new(2);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 1_024]);
    file.sync().unwrap();
    write(&file, 0, &[2; 1_024]);
    let seen = outcomes(&sim, |after| {
        let bytes = read(after, "/a");
        assert_eq!(bytes.len(), 1_024);
        for sector in bytes.chunks(512) {
            assert!(
                sector.iter().all(|byte| *byte == sector[0]),
                "a torn sector"
            );
        }
        (bytes[0], bytes[512])
    });
    assert_eq!(seen, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
}

#[test]
fn a_sector_may_be_any_of_its_versions_since_the_sync() {
    let sim = SimDisk::new(3);
    let file = create(&sim, "/a");
    for version in 0..4 {
        write(&file, 0, &[version; 512]);
        if version == 0 {
            file.sync().unwrap();
        }
    }
    let seen = outcomes(&sim, |after| read(after, "/a")[0]);
    assert_eq!(seen, BTreeSet::from([0, 1, 2, 3]));
}

#[test]
fn an_unsynced_size_may_be_any_on_the_way() {
    let sim = SimDisk::new(4);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 100]);
    file.sync().unwrap();
    write(&file, 100, &[1; 1_500]);
    file.set_length(300).unwrap();
    let seen = outcomes(&sim, |after| read(after, "/a").len());
    assert_eq!(seen, BTreeSet::from([100, 300, 512, 1_024, 1_536, 1_600]));
}

#[test]
fn a_sync_covers_only_what_completed_before_it_was_submitted() {
    for seed in 0..SEEDS {
        let sim = SimDisk::new(seed);
        let file = create(&sim, "/a");
        write(&file, 0, &[9; 512]);
        file.sync().unwrap();
        let first = sim.submit(Operation::Write {
            file: file.id(),
            offset: 0,
            buffers: vec![Arc::new(Buffer::copy_of(&[1; 512]))],
            durable: false,
        });
        let sync = sim.submit(Operation::Sync { file: file.id() });
        assert!(matches!(sim.wait(first), Ok(Output::Done)));
        assert!(matches!(sim.wait(sync), Ok(Output::Done)));
        assert_eq!(read(&sim.crash_lose_all(), "/a"), [9; 512], "L-W5");
        file.sync().unwrap();
        assert_eq!(read(&sim.crash_lose_all(), "/a"), [1; 512]);
    }
}

#[test]
fn operations_in_flight_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..SEEDS {
        let sim = SimDisk::new(seed);
        let file = create(&sim, "/a");
        let tokens: Vec<_> = [1, 2, 3]
            .map(|byte| {
                sim.submit(Operation::Write {
                    file: file.id(),
                    offset: 0,
                    buffers: vec![Arc::new(Buffer::copy_of(&[byte; 8]))],
                    durable: false,
                })
            })
            .into();
        assert_eq!(sim.in_flight(), 3);
        let mut order = Vec::new();
        for _ in 0..3 {
            // An unknown token makes one step and takes nothing.
            assert!(sim.take(disk::Token(u64::MAX)).is_none());
            order.push(read(&sim, "/a")[0]);
        }
        for token in tokens {
            assert!(matches!(sim.take(token), Some(Ok(Output::Done))));
        }
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6, "{orders:?}");
}

#[test]
fn the_same_seeds_give_the_same_run() {
    let run = |seed: u64| {
        let sim = SimDisk::new(seed);
        let file = create(&sim, "/a");
        for round in 0..20u8 {
            sim.submit(Operation::Write {
                file: file.id(),
                offset: u64::from(round % 5) * 300,
                buffers: vec![Arc::new(Buffer::copy_of(&[round; 600]))],
                durable: false,
            });
        }
        file.sync().unwrap();
        let cut = sim.crash(seed + 1);
        (read(&sim, "/a"), names(&cut), read(&cut, "/a"))
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1), run(2));
}

#[test]
fn an_unsynced_name_may_vanish_though_its_bytes_are_durable() {
    let sim = SimDisk::new(5);
    let file = open(&sim, "/a", OpenMode::CreateNew);
    write(&file, 0, b"bytes");
    file.sync().unwrap();
    let seen = outcomes(&sim, names);
    assert_eq!(seen, BTreeSet::from([vec![], vec!["/a".to_owned()]]));
    let kept = (0..SEEDS).map(|seed| sim.crash(seed));
    for after in kept.filter(|after| !after.paths().is_empty()) {
        assert_eq!(read(&after, "/a"), b"bytes");
    }
    sync_dir(&sim, "/");
    assert_eq!(outcomes(&sim, names).len(), 1);
}

#[test]
fn a_durable_name_may_have_lost_its_bytes() {
    let sim = SimDisk::new(6);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 512]);
    let seen = outcomes(&sim, |after| read(after, "/a"));
    assert_eq!(seen, BTreeSet::from([vec![], vec![0; 512], vec![1; 512]]));
}

#[test]
fn a_new_directory_vanishes_with_its_synced_content_until_its_parent_is_synced() {
    let sim = SimDisk::new(7);
    make_dir(&sim, "/d");
    let file = create(&sim, "/d/a");
    write(&file, 0, b"x");
    file.sync().unwrap();
    assert!(sim.crash_lose_all().paths().is_empty(), "L-W8");
    sync_dir(&sim, "/");
    assert_eq!(read(&sim.crash_lose_all(), "/d/a"), b"x");
}

#[test]
fn an_unsynced_rename_is_there_wholly_or_not_at_all() {
    let sim = SimDisk::new(8);
    for (path, byte) in [("/new", 2), ("/old", 1)] {
        let file = create(&sim, path);
        write(&file, 0, &[byte]);
        file.sync().unwrap();
    }
    rename(&sim, "/new", "/old");
    let seen = outcomes(&sim, |after| (names(after), read(after, "/old")[0]));
    let before = (vec!["/new".to_owned(), "/old".to_owned()], 1);
    let after = (vec!["/old".to_owned()], 2);
    assert_eq!(seen, BTreeSet::from([before, after.clone()]));
    sync_dir(&sim, "/");
    assert_eq!(
        outcomes(&sim, |after| (names(after), read(after, "/old")[0])),
        BTreeSet::from([after])
    );
}

#[test]
fn a_rename_between_directories_needs_both_synced() {
    let sim = SimDisk::new(9);
    make_dir(&sim, "/from");
    make_dir(&sim, "/to");
    sync_dir(&sim, "/");
    drop(create(&sim, "/from/a"));
    rename(&sim, "/from/a", "/to/a");
    sync_dir(&sim, "/to");
    assert_eq!(names(&sim.crash_lose_all()), ["/from/a"]);
    let seen = outcomes(&sim, |after| names(after).concat());
    let both = ["/from/a", "/to/a"].map(str::to_owned);
    assert_eq!(seen, BTreeSet::from(both));
    sync_dir(&sim, "/from");
    assert_eq!(names(&sim.crash_lose_all()), ["/to/a"]);
}

#[test]
fn a_durable_rename_makes_the_renames_before_it_durable() {
    let sim = SimDisk::new(25);
    for directory in ["/first", "/second", "/third"] {
        make_dir(&sim, directory);
    }
    sync_dir(&sim, "/");
    drop(create(&sim, "/first/a"));
    rename(&sim, "/first/a", "/second/a");
    rename(&sim, "/second/a", "/third/a");
    rename(&sim, "/third/a", "/third/b");
    sync_dir(&sim, "/third");
    assert_eq!(names(&sim.crash_lose_all()), ["/third/b"]);
}

#[test]
fn independent_names_survive_in_any_combination_and_one_name_in_order() {
    let sim = SimDisk::new(10);
    drop(create(&sim, "/a"));
    drop(open(&sim, "/b", OpenMode::CreateNew));
    remove(&sim, "/a");
    let seen = outcomes(&sim, |after| names(after).concat());
    let any = ["", "/a", "/b", "/a/b"].map(str::to_owned);
    assert_eq!(seen, BTreeSet::from(any));
}

#[test]
fn changes_of_one_name_survive_in_their_order() {
    let sim = SimDisk::new(22);
    for version in 1..=3 {
        let file = open(&sim, "/new", OpenMode::CreateNew);
        write(&file, 0, &[version]);
        file.sync().unwrap();
        rename(&sim, "/new", "/meta");
        if version == 1 {
            sync_dir(&sim, "/");
        }
    }
    let seen = outcomes(&sim, |after| {
        let content = |path| after.read_file(Path::new(path)).map_or(0, |bytes| bytes[0]);
        (content("/meta"), content("/new"))
    });
    let legal = BTreeSet::from([(1, 0), (1, 2), (2, 0), (2, 3), (3, 0)]);
    assert_eq!(seen, legal);
}

#[test]
fn a_file_does_not_vanish_with_the_new_directory_it_was_moved_to() {
    let sim = SimDisk::new(23);
    drop(create(&sim, "/a"));
    make_dir(&sim, "/d");
    rename(&sim, "/a", "/d/a");
    let seen = outcomes(&sim, |after| names(after).concat());
    assert_eq!(seen, BTreeSet::from(["/a", "/d/a"].map(str::to_owned)));
}

#[test]
fn what_a_power_cut_left_without_a_path_takes_no_space() {
    let sim = SimDisk::with_capacity(24, SECTOR);
    make_dir(&sim, "/d");
    let file = create(&sim, "/d/a");
    write(&file, 0, &[1; 512]);
    file.sync().unwrap();
    let after = sim.crash_lose_all();
    write(&create(&after, "/b"), 0, &[2; 512]);
    let outside = create(&sim, "/b").write_bytes(0, Buffer::copy_of(&[2; 512]));
    assert_eq!(kind(outside), ErrorKind::StorageFull);
}

#[test]
fn removing_a_directory_may_stop_half_way() {
    let sim = SimDisk::new(11);
    make_dir(&sim, "/d");
    sync_dir(&sim, "/");
    drop(create(&sim, "/d/a"));
    drop(create(&sim, "/d/b"));
    remove(&sim, "/d");
    assert!(sim.paths().is_empty());
    let seen = outcomes(&sim, |after| names(after).concat());
    let any = ["", "/d/a", "/d/b", "/d/a/d/b"].map(str::to_owned);
    assert_eq!(seen, BTreeSet::from(any));
    sync_dir(&sim, "/");
    assert!(sim.crash_lose_all().paths().is_empty());
}

#[test]
fn operations_in_flight_at_the_cut_took_place_or_not_or_in_part() {
    let sim = SimDisk::new(12);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 1_024]);
    file.sync().unwrap();
    sim.submit(Operation::Write {
        file: file.id(),
        offset: 0,
        buffers: vec![Arc::new(Buffer::copy_of(&[2; 1_024]))],
        durable: false,
    });
    let seen = outcomes(&sim, |after| {
        let bytes = read(after, "/a");
        (bytes[0], bytes[512])
    });
    assert_eq!(seen, BTreeSet::from([(1, 1), (1, 2), (2, 1), (2, 2)]));
    assert_eq!(read(&sim.crash_lose_all(), "/a"), [1; 1_024]);
}

#[test]
fn a_killed_process_loses_nothing_but_the_next_power_cut_does() {
    let sim = SimDisk::new(13);
    let file = create(&sim, "/a");
    write(&file, 0, b"unsynced");
    file.lock().unwrap();
    let killed = sim.crash_keep_all();
    assert_eq!(read(&killed, "/a"), b"unsynced");
    let again = open(&killed, "/a", OpenMode::ReadWrite);
    again.lock().unwrap();
    assert_eq!(read(&killed.crash_lose_all(), "/a"), b"");
    again.sync().unwrap();
    assert_eq!(read(&killed.crash_lose_all(), "/a"), b"unsynced");
    assert_ne!(again.id(), file.id(), "an id of before the crash came back");
}

#[test]
fn a_frozen_disk_performs_the_syncs_before_the_boundary_and_nothing_else() {
    let work = |sim: &Arc<SimDisk>| -> Result<(), Error> {
        let disk = dynamic(sim);
        let file = File::open(&disk, Path::new("/a"), OpenMode::CreateNew)?;
        disk::sync_dir(sim.as_ref(), Path::new("/"))?;
        for byte in 1..=3 {
            file.write_bytes(0, Buffer::copy_of(&[byte; 512]))?;
            file.sync()?;
        }
        Ok(())
    };
    let first = SimDisk::new(14);
    work(&first).unwrap();
    assert_eq!(first.syncs(), 4);
    for boundary in 0..=4u64 {
        let sim = SimDisk::new(14);
        sim.freeze_after(boundary);
        assert_eq!(work(&sim).is_ok(), boundary == 4);
        assert_eq!(sim.is_frozen(), boundary < 4);
        assert_eq!(sim.syncs(), boundary);
        let after = sim.crash_lose_all();
        match boundary {
            0 => assert!(after.paths().is_empty()),
            1 => assert_eq!(read(&after, "/a"), b""),
            more => assert_eq!(u64::from(read(&after, "/a")[0]), more - 1),
        }
        if sim.is_frozen() {
            let disk = dynamic(&sim);
            let late = File::open(&disk, Path::new("/late"), OpenMode::CreateNew);
            assert_eq!(kind(late), ErrorKind::Other);
            assert_eq!(
                kind(disk::list(disk.as_ref(), Path::new("/"))),
                ErrorKind::Other
            );
        }
    }
}

#[test]
fn a_disk_frozen_at_a_change_may_have_torn_that_change() {
    let sim = SimDisk::new(15);
    sim.freeze_after_ops(3);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 1_024]);
    assert_eq!(sim.changes(), 3);
    let second = file.write_bytes(0, Buffer::copy_of(&[2; 1_024]));
    assert_eq!(kind(second), ErrorKind::Other);
    assert_eq!(kind(file.sync()), ErrorKind::Other);
    assert_eq!(sim.changes(), 3);
    let seen = outcomes(&sim, |after| {
        let bytes = read(after, "/a");
        (bytes.first().copied(), bytes.get(512).copied())
    });
    assert!(seen.contains(&(Some(2), Some(1))), "{seen:?}");
    assert!(seen.contains(&(Some(1), Some(2))), "{seen:?}");
    assert!(seen.contains(&(None, None)), "{seen:?}");
}

#[test]
fn a_fault_meets_the_operation_it_names() {
    let sim = SimDisk::new(16);
    let log = create(&sim, "/log");
    let other = create(&sim, "/other");
    let enospc = 28;
    let fault = Fault::at(IoOp::Write, Effect::FailErrno(enospc))
        .on("log")
        .after(1);
    sim.inject(fault);
    write(&other, 0, b"1");
    write(&log, 0, b"1");
    write(&other, 0, b"2");
    let refused = log.write_bytes(0, Buffer::copy_of(b"2"));
    assert_eq!(kind(refused), ErrorKind::StorageFull);
    assert_eq!(read(&sim, "/log"), b"1");
    write(&log, 0, b"3");
    sim.inject(Fault::at(IoOp::Read, Effect::Fail(ErrorKind::TimedOut)).for_ever());
    for _ in 0..3 {
        assert_eq!(kind(log.read(0, 1)), ErrorKind::TimedOut);
    }
    sim.clear_faults();
    assert_eq!(*log.read(0, 1).unwrap(), *b"3");
    sim.inject(Fault::at_any(Effect::Fail(ErrorKind::Other)).on("/new"));
    let moved = disk::rename(sim.as_ref(), Path::new("/log"), Path::new("/new"));
    assert_eq!(kind(moved), ErrorKind::Other);
    rename(&sim, "/log", "/new");
}

#[test]
fn a_short_write_takes_a_prefix_and_fails() {
    for limit in [0, 1, 511, 512, 513, 1_023] {
        let sim = SimDisk::new(17);
        let file = create(&sim, "/a");
        sim.inject(Fault::at(IoOp::Write, Effect::ShortWrite(limit)));
        let refused = file.write_bytes(0, Buffer::copy_of(&[1; 1_024]));
        assert_eq!(kind(refused), ErrorKind::WriteZero);
        assert_eq!(read(&sim, "/a"), vec![1; limit]);
    }
}

#[test]
fn a_failed_sync_that_lost_bytes_is_not_healed_by_the_next_one() {
    let sim = SimDisk::new(18);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 512]);
    file.sync().unwrap();
    write(&file, 0, &[2; 512]);
    sim.inject(Fault::at(IoOp::Sync, Effect::LoseUnsynced));
    assert!(matches!(
        file.sync(),
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(5)
    ));
    file.sync().unwrap();
    assert_eq!(*file.read(0, 512).unwrap(), [2; 512]);
    let disk: Arc<dyn Disk> = sim.clone();
    let medium = File::open_direct(&disk, Path::new("/a"), OpenMode::Read).unwrap();
    assert_eq!(*medium.read(0, 512).unwrap(), [1; 512]);
    for seed in 0..20 {
        assert_eq!(read(&sim.crash(seed), "/a"), [1; 512], "L-W1");
    }
}

#[test]
fn space_is_shared_runs_out_in_mid_write_and_comes_back() {
    let sim = SimDisk::with_capacity(19, 4 * SECTOR);
    let first = create(&sim, "/first");
    write(&first, 0, &[1; 1_024]);
    let second = create(&sim, "/second");
    second.set_length(1 << 20).unwrap();
    let refused = second.write_bytes(0, Buffer::copy_of(&[2; 2_048]));
    assert_eq!(kind(refused), ErrorKind::StorageFull);
    assert_eq!(
        read(&sim, "/second")[..1_025],
        [&[2; 1_024][..], &[0]].concat()
    );
    // Overwriting takes no space.
    write(&first, 0, &[3; 1_024]);
    first.punch_hole(0, 512).unwrap();
    write(&second, 1_024, &[4; 512]);
    remove(&sim, "/first");
    let full = second.write_bytes(2_048, Buffer::copy_of(&[5; 512]));
    assert_eq!(
        kind(full),
        ErrorKind::StorageFull,
        "an open file keeps its space"
    );
    drop(first);
    write(&second, 2_048, &[5; 512]);
}

#[test]
fn rotten_bytes_are_read_live_and_after_a_power_cut() {
    let sim = SimDisk::new(20);
    let file = create(&sim, "/a");
    write(&file, 0, &[0xF0; 1_000]);
    file.sync().unwrap();
    let path = Path::new("/a");
    sim.flip(path, 600, 0x01).unwrap();
    sim.overwrite(path, 998, b"xy").unwrap();
    let mut expected = vec![0xF0; 1_000];
    expected[600] = 0xF1;
    expected[998..].copy_from_slice(b"xy");
    assert_eq!(*file.read(0, 1_000).unwrap(), expected);
    assert_eq!(read(&sim.crash_lose_all(), "/a"), expected);
    let behind = sim.flip(path, 1_000, 1).expect_err("behind the end");
    assert_eq!(behind.kind(), ErrorKind::InvalidInput);
}

#[test]
fn an_unreadable_range_fails_only_the_reads_that_meet_it() {
    let sim = SimDisk::new(21);
    let file = create(&sim, "/a");
    write(&file, 0, &[1; 2_048]);
    file.sync().unwrap();
    sim.set_unreadable(Path::new("/a"), 512..1_024).unwrap();
    assert_eq!(file.read(0, 512).unwrap().len(), 512);
    assert_eq!(file.read(1_024, 1_024).unwrap().len(), 1_024);
    for (offset, length) in [(0, 513), (1_023, 1), (600, 10)] {
        assert!(matches!(
            file.read(offset, length),
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(5)
        ));
    }
    let after = sim.crash(1);
    let again = open(&after, "/a", OpenMode::Read);
    assert!(
        again
            .read(512, 1)
            .is_err_and(|error| matches!(error, Error::Io { .. }))
    );
}
