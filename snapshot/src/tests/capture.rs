//! Checkpoints that fail, crash or are overtaken.

use super::*;
use crate::{BaseState, Untrusted};
use seawall_wal::IoOp;
use seawall_wal::disk::sim::{Effect, Fault};

/// Blocks 0..10 at LSN 1..50, captured; then 51..100 over blocks 0..20 in the log.
fn half_captured(sim: &Arc<SimDisk>) -> Arc<Volume> {
    let volume = Place::simulated(sim).primary();
    for value in 1..=100u8 {
        let spread = if value <= 50 { 10 } else { 20 };
        put(&volume, u64::from(value % spread), value);
        if value == 50 {
            volume.checkpoint(None).unwrap();
        }
    }
    volume
}

fn fails(sim: &SimDisk, op: IoOp, part: &str, effect: Effect) {
    sim.inject(Fault::at(op, effect).on(part));
}

/// What a volume with an intent to 100, or just past it, says of 60.
fn exact_or_refused(volume: &Arc<Volume>, at_60: &[(u64, u8)]) {
    match volume.state_at(lsn(60), "test") {
        Ok(view) => assert_eq!(contents(&view), at_60),
        Err(Error::IntentOpen { target }) => assert_eq!(target, lsn(100)),
        Err(Error::StateReclaimed { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a233_an_intent_left_by_a_crash_is_finished_before_anything_but_head_is_served() {
    for tail in [0, 50] {
        let sim = SimDisk::new(1);
        let volume = half_captured(&sim);
        let (newest, at_60) = (state(&volume, 100), state(&volume, 60));
        volume.advance_tail(lsn(tail)).unwrap();
        // Some blocks are in the image, one in part; the process dies here.
        let short = Effect::ShortWrite(7 * BLOCK + 512);
        sim.inject(Fault::at(IoOp::Write, short).on("/image"));
        let Err(Error::Log(seawall_wal::Error::Io { .. })) = volume.checkpoint(None) else {
            panic!("the write was to fail");
        };
        assert_eq!(
            volume.base_state(),
            BaseState {
                checkpoint: lsn(50),
                untrusted: Some(Untrusted::IntentOpen),
                intent: Some(lsn(100)),
            }
        );
        for seed in 0..8 {
            let after = sim.crash(seed);
            let inspected = Place::simulated(&after).try_open("volume", Access::ReadOnly);
            let inspected = inspected.unwrap();
            assert_eq!(inspected.base_state().intent, Some(lsn(100)));
            exact_or_refused(&inspected, &at_60);
            assert_eq!(state(&inspected, 100), newest);
            assert_eq!(inspected.digest_at(lsn(100)).unwrap(), digest_of(&newest));
            assert_eq!(damage_of(&inspected), []);
            drop(inspected);
            let opened = reopen(&after);
            assert_eq!(
                opened.base_state(),
                BaseState {
                    checkpoint: lsn(100),
                    untrusted: None,
                    intent: None,
                }
            );
            assert_eq!(opened.digest(), (lsn(100), digest_of(&newest)));
            assert_eq!(contents(&opened.pin_snapshot("test").unwrap()), newest);
            exact_or_refused(&opened, &at_60);
            let truncated = opened.truncate(lsn(70));
            assert!(
                matches!(
                    &truncated,
                    Err(Error::Log(seawall_wal::Error::Chain { bound, .. })) if *bound == lsn(100)
                ),
                "{truncated:?}"
            );
            assert_eq!(state(&opened, 100), newest);
            assert_eq!(damage_of(&opened), []);
        }
    }
}

#[test]
fn a233_below_an_open_intent_states_are_exact_or_refused_and_truncation_is_refused() {
    let sim = SimDisk::new(1);
    let volume = half_captured(&sim);
    let (at_50, at_100) = (state(&volume, 50), state(&volume, 100));
    volume.advance_tail(lsn(50)).unwrap();
    let old = volume.pin_snapshot("before").unwrap();
    let eio = Effect::FailErrno(5);
    sim.inject(Fault::at(IoOp::Write, eio).on("/image").for_ever());
    assert!(volume.checkpoint(None).is_err());
    assert!(matches!(
        volume.state_at(lsn(60), "test"),
        Err(Error::IntentOpen { target }) if target == lsn(100)
    ));
    assert!(matches!(
        volume.pin_snapshot("after"),
        Err(Error::IntentOpen { target }) if target == lsn(100)
    ));
    // Served from preserved blocks, from the overlay, and from the log.
    assert_eq!(contents(&old), at_50);
    assert_eq!(state(&volume, 100), at_100);
    assert_eq!(volume.digest_at(lsn(100)).unwrap(), digest_of(&at_100));
    assert_eq!(get(&volume, 19), 99);
    assert!(matches!(
        volume.truncate(lsn(70)),
        Err(Error::Log(seawall_wal::Error::Chain { bound, .. })) if bound == lsn(100)
    ));
    // The next checkpoint finishes it first.
    sim.clear_faults();
    put(&volume, 30, 1);
    assert_eq!(volume.checkpoint(None).unwrap(), lsn(101));
    assert_eq!(damage_of(&volume), []);
    assert_eq!(contents(&old), at_50);
}

#[test]
fn a248_the_log_reclaims_nothing_that_the_image_lacks() {
    let volume = half_captured(&SimDisk::new(1));
    assert!(matches!(
        volume.log().reclaim(lsn(80)),
        Err(seawall_wal::Error::Chain { bound_name: "checkpoint", bound, .. }) if bound == lsn(50)
    ));
    assert_eq!(volume.advance_tail(lsn(80)).unwrap(), lsn(80));
    assert_eq!(volume.base_state().checkpoint, lsn(80));
}

#[test]
fn a249_a_full_disk_under_the_image_fails_that_checkpoint_and_nothing_else() {
    let sim = SimDisk::new(1);
    let volume = half_captured(&sim);
    let full = Effect::Fail(std::io::ErrorKind::StorageFull);
    sim.inject(Fault::at(IoOp::Write, full).on("/image").for_ever());
    for value in 101..=110 {
        assert!(matches!(
            volume.checkpoint(None),
            Err(Error::Log(error)) if error.is_out_of_space()
        ));
        put(&volume, 1, value);
        assert_eq!(get(&volume, 1), value);
    }
    sim.clear_faults();
    assert_eq!(volume.checkpoint(None).unwrap(), lsn(110));
    assert_eq!(volume.digest().1, digest_of(&state(&volume, 110)));
    assert_eq!(damage_of(&volume), []);
}

/// ENOSPC in the image leaves the log above its watermark, and it comes down when there is space.
#[test]
fn a249_writes_go_on_past_the_watermark_while_no_checkpoint_finds_space() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    place.create("volume", options(Role::Primary));
    let soft = 4 << 20;
    let background = crate::Background {
        retained_bytes_soft: Some(soft),
        ..crate::Background::OFF
    };
    let dir = place.dir("volume");
    let opened = Volume::open_with(&place.disk, &dir, &place.clock, Access::Primary, background);
    let (volume, _) = opened.unwrap();
    volume.commit_best_effort().unwrap();
    let full = Effect::Fail(std::io::ErrorKind::StorageFull);
    sim.inject(Fault::at(IoOp::Write, full).on("/image").for_ever());
    let mut refused = 0;
    while volume.log().retained_bytes() <= 3 * soft {
        volume
            .write(0, &[3; 40 * BLOCK], Durability::Durable)
            .unwrap();
        match volume.step() {
            Ok(_) => assert!(volume.log().retained_bytes() <= soft),
            Err(Error::Log(error)) if error.is_out_of_space() => refused += 1,
            Err(error) => panic!("{error}"),
        }
        volume.log().step().unwrap();
    }
    assert!(refused > 0);
    sim.clear_faults();
    volume.step().unwrap();
    assert!(volume.log().retained_bytes() <= soft);
    assert_eq!(volume.base_state().checkpoint, volume.flush().unwrap());
    assert_eq!(get(&volume, 39), 3);
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_failed_sync_of_the_image_is_final_until_a_reopen() {
    let sim = SimDisk::new(1);
    let volume = half_captured(&sim);
    fails(&sim, IoOp::Sync, "/image", Effect::LoseUnsynced);
    assert!(matches!(
        volume.checkpoint(None),
        Err(Error::Log(seawall_wal::Error::Io { op: IoOp::Sync, .. }))
    ));
    // L3: the kernel would call the next sync a success.
    assert!(matches!(
        volume.checkpoint(None),
        Err(Error::ImageStopped { .. })
    ));
    assert_eq!(put(&volume, 5, 5), lsn(101));
    assert_eq!(get(&volume, 5), 5);
    let newest = state(&volume, 101);
    for after in [sim.crash_keep_all(), sim.crash_lose_all()] {
        let opened = reopen(&after);
        assert_eq!(opened.base_state().checkpoint, lsn(100));
        let after = after.crash_lose_all();
        let opened = {
            drop(opened);
            reopen(&after)
        };
        assert_eq!(state(&opened, 101), newest);
        assert_eq!(damage_of(&opened), []);
    }
}

#[test]
fn a_failed_meta_update_leaves_what_can_be_opened() {
    for skip in 0..4 {
        let sim = SimDisk::new(1);
        let volume = half_captured(&sim);
        let newest = state(&volume, 100);
        let eio = Effect::FailErrno(5);
        sim.inject(Fault::at(IoOp::Sync, eio).on("/meta").after(skip));
        assert!(volume.checkpoint(None).is_err(), "sync {skip}");
        for seed in 0..4 {
            let opened = reopen(&sim.crash(seed));
            assert_eq!(state(&opened, 100), newest);
            assert_eq!(damage_of(&opened), []);
        }
    }
}

#[test]
fn a_trim_of_a_terabyte_is_captured_without_walking_it() {
    let place = Place::on_files();
    let mut options = options(Role::Primary);
    options.geometry = geometry(1 << 28);
    place.create("volume", options);
    let volume = place.open("volume");
    put(&volume, 1, 1);
    put(&volume, (1 << 28) - 1, 2);
    volume.checkpoint(None).unwrap();
    volume.trim(0, 1 << 40, Durability::Durable).unwrap();
    put(&volume, 1 << 20, 3);
    volume.checkpoint(None).unwrap();
    assert_eq!(volume.digest().1, digest_of(&[(1 << 20, 3)]));
    assert_eq!(get(&volume, 1), 0);
    assert_eq!(get(&volume, 1 << 20), 3);
    assert_eq!(damage_of(&volume), []);
    let zeros = volume.write_zeroes(0, 1 << 40, false, Durability::Durable);
    assert_eq!(zeros.unwrap(), lsn(5));
    volume.checkpoint(None).unwrap();
    assert_eq!(volume.digest().1, Digest::ZERO);
}

#[test]
fn a_large_record_cut_to_pieces_is_captured_whole() {
    let place = Place::simulated(&SimDisk::new(1));
    let mut options = options(Role::Primary);
    options.geometry = geometry(1024);
    place.create("volume", options);
    let volume = place.open("volume");
    let bytes = vec![9; 3 << 20];
    let last = volume.write(100, &bytes, Durability::Durable).unwrap();
    for lba in (2..768).step_by(16) {
        put(&volume, lba, 200);
    }
    volume.checkpoint(None).unwrap();
    assert!(last >= lsn(3), "split into records: {last}");
    let mut out = vec![0; 3 << 20];
    volume.read(100, &mut out).unwrap();
    for (at, byte) in (100..).zip(&out) {
        let lba = at / BLOCK;
        let expected = if lba >= 2 && lba % 16 == 2 { 200 } else { 9 };
        assert_eq!(*byte, expected, "at {at}");
    }
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn background_work_brings_the_log_below_its_watermark() {
    let place = Place::simulated(&SimDisk::new(1));
    place.create("volume", options(Role::Primary));
    let background = crate::Background {
        retained_bytes_soft: Some(4 << 20),
        ..crate::Background::OFF
    };
    let (volume, _) = Volume::open_with(
        &place.disk,
        &place.dir("volume"),
        &place.clock,
        Access::Primary,
        background,
    )
    .unwrap();
    volume.commit_best_effort().unwrap();
    let bytes = vec![3; 40 * BLOCK];
    for round in 0..60 {
        volume.write(0, &bytes, Durability::Durable).unwrap();
        // D22: a stepped disk has no thread; the test is the edge.
        volume.step().unwrap();
        volume.log().step().unwrap();
        let retained = volume.log().retained_bytes();
        assert!(retained <= 6 << 20, "round {round}: {retained} bytes");
    }
    assert!(volume.log().frontiers().tail > Lsn::ZERO);
    assert_eq!(get(&volume, 39), 3);
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_replica_sees_every_record_it_took_even_when_a_later_one_is_refused() {
    let place = Place::simulated(&SimDisk::new(1));
    let primary = place.primary();
    for value in 1..=4 {
        put(&primary, 1, value);
    }
    place.create("replica", options(Role::Replica));
    let replica = place.try_open("replica", Access::Replica).unwrap();
    let range = seawall_wal::LsnRange::new(Lsn::ZERO, lsn(4));
    let mut records: Vec<_> = primary
        .log()
        .read(range)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    records.remove(2);
    assert!(matches!(
        replica.receive(records),
        Err(Error::Log(seawall_wal::Error::NotNext { found, .. })) if found == lsn(4)
    ));
    assert_eq!(replica.log().frontiers().head, lsn(2));
    assert_eq!(get(&replica, 1), 2);
    replica.truncate(lsn(1)).unwrap();
    assert_eq!(get(&replica, 1), 1);
}

#[test]
fn damage_in_a_record_that_no_block_needs_stops_no_capture() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    for (lba, value) in [(1, 11), (2, 12), (1, 13), (3, 14)] {
        put(&volume, lba, value);
    }
    repair::damage_the_record(&sim, 11);
    assert_eq!(volume.checkpoint(None).unwrap(), lsn(4));
    assert_eq!([1, 2, 3].map(|lba| get(&volume, lba)), [13, 12, 14]);
    assert_eq!(volume.digest().1, digest_of(&[(1, 13), (2, 12), (3, 14)]));
}

#[test]
fn what_was_written_lately_is_read_and_captured_without_reading_the_log() {
    let sim = SimDisk::new(1);
    let volume = half_captured(&sim);
    sim.inject(Fault::at(IoOp::Read, Effect::FailErrno(5)).on(".seg"));
    let mut newest = vec![0; BLOCK];
    volume.read(0, &mut newest).unwrap();
    assert_eq!(newest, vec![100; BLOCK]);
    volume.checkpoint(None).unwrap();
    assert_eq!(sim.faults_left(), 1, "a segment was read");
    sim.clear_faults();
    // A new process has nothing at hand: the same state comes out of log and image.
    volume.log().sync().unwrap();
    let before = state(&volume, 100);
    drop(volume);
    let opened = reopen(&sim.crash(1));
    assert_eq!(state(&opened, 100), before);
    assert_eq!(opened.digest(), (lsn(100), digest_of(&before)));
    assert_eq!(damage_of(&opened), []);
}
