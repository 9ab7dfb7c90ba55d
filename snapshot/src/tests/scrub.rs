//! The scrub: what it finds, what it writes again, and what a crash of that leaves.

use super::*;
use crate::{ScrubFind, Untrusted};
use seawall_wal::disk::sim::{Effect, Fault};
use seawall_wal::{IoOp, LsnRange};

const IMAGE: &str = "/volume/base/1/image";
const SUMS: &str = "/volume/base/1/sums";

/// Block n holds 10 n, for 1 to 5, at LSN n, all in the image; 6 lies in the log only.
fn captured(sim: &Arc<SimDisk>) -> Arc<Volume> {
    let volume = Place::simulated(sim).primary();
    for lba in 1..=5u8 {
        put(&volume, lba.into(), lba * 10);
    }
    volume.checkpoint(None).unwrap();
    put(&volume, 6, 60);
    volume
}

const STATE: [(u64, u8); 6] = [(1, 10), (2, 20), (3, 30), (4, 40), (5, 50), (6, 60)];

/// A bit of block 3, a bit of the sum of block 4, and a sector of block 5.
fn rot(sim: &Arc<SimDisk>) {
    let byte = |lba: u64| lba * BLOCK as u64;
    sim.flip(IMAGE.as_ref(), byte(3) + 5, 1).unwrap();
    sim.flip(SUMS.as_ref(), 4 * 16 + 2, 0x80).unwrap();
    sim.overwrite(IMAGE.as_ref(), byte(5) + 512, &[0; 512])
        .unwrap();
}

/// Scrubs once through the image.
fn scrub(volume: &Volume) -> Result<(), Error> {
    while !volume.scrub(1)? {}
    Ok(())
}

fn assert_healed(volume: &Arc<Volume>, story: &str) {
    assert_eq!(damage_of(volume), [], "{story}");
    assert_eq!(state(volume, 6), STATE, "{story}");
    assert_eq!(
        volume.digest_at(lsn(6)).unwrap(),
        digest_of(&STATE),
        "{story}"
    );
    assert_eq!(volume.base_state().untrusted, None, "{story}");
}

#[test]
fn damage_that_the_log_holds_is_written_again_durably() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    rot(&sim);
    assert_eq!(damage_of(&volume).len(), 3);
    scrub(&volume).unwrap();
    let status = volume.scrub_status();
    let find = |lba| ScrubFind {
        lba,
        lsns: LsnRange::new(lsn(lba - 1), lsn(lba)),
        repaired: true,
    };
    assert_eq!(status.finds, [find(3), find(4), find(5)]);
    assert_eq!((status.repaired, status.damaged), (3, 0));
    assert_eq!((status.passes, status.position), (1, 0));
    let after = reopen(&sim.crash_lose_all());
    assert_healed(&after, "after a power cut");
    after.advance_tail(lsn(6)).unwrap();
    assert_healed(&after, "without the log");
    scrub(&after).unwrap();
    assert_eq!(after.scrub_status().finds, []);
}

#[test]
fn damage_that_the_log_lacks_is_named_and_makes_the_base_untrusted() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    volume.advance_tail(lsn(6)).unwrap();
    put(&volume, 7, 70);
    rot(&sim);
    scrub(&volume).unwrap();
    scrub(&volume).unwrap();
    let status = volume.scrub_status();
    let find = |lba, repaired| ScrubFind {
        lba,
        lsns: LsnRange::new(Lsn::ZERO, lsn(6)),
        repaired,
    };
    // The sum of block 4 is known from its neighbours and from the block.
    let expected = [find(4, true), find(3, false), find(5, false)];
    assert_eq!(status.finds, expected);
    assert_eq!((status.repaired, status.damaged, status.passes), (1, 4, 2));
    assert_eq!(volume.base_state().untrusted, Some(Untrusted::BlockDamaged));
    // A new version is written over it, and the next pass finds nothing more.
    for lba in 3..=5 {
        put(&volume, lba, 99);
    }
    volume.checkpoint(None).unwrap();
    scrub(&volume).unwrap();
    assert_eq!(volume.scrub_status().damaged, 4);
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_damaged_sum_costs_no_block_and_is_written_again_durably() {
    // A sum, the sum of the sector, and a sum behind the last block of the sector's page.
    for at in [4 * 16 + 2, 496, 31 * 16 + 15] {
        let sim = SimDisk::new(1);
        let volume = captured(&sim);
        volume.advance_tail(lsn(6)).unwrap();
        sim.flip(SUMS.as_ref(), at, 0x80).unwrap();
        let found = damage_of(&volume);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].file, Path::new(SUMS), "{found:?}");
        scrub(&volume).unwrap();
        let status = volume.scrub_status();
        assert_eq!((status.repaired, status.damaged), (1, 0), "{at}");
        drop(volume);
        let volume = reopen(&sim.crash_lose_all());
        assert_healed(&volume, "after a power cut");
    }
}

#[test]
fn a_step_looks_at_no_more_than_its_budget() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let wide = CreateOptions {
        geometry: geometry(2048),
        ..options(Role::Primary)
    };
    place.create("volume", wide);
    let volume = place.open("volume");
    for lba in (0..2048).step_by(128) {
        put(&volume, lba, 1);
    }
    volume.checkpoint(None).unwrap();
    let mut positions = Vec::new();
    while !volume.scrub(2 << 20).unwrap() {
        positions.push(volume.scrub_status().position);
    }
    assert_eq!(positions, [512, 1024, 1536, 2048]);
    assert_eq!(volume.scrub_status().blocks, 2048);
}

#[test]
fn a_scrub_goes_on_where_another_process_was() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let step = (1 << 30) / BLOCK as u64;
    let wide = CreateOptions {
        geometry: geometry(3 * step),
        ..options(Role::Primary)
    };
    place.create("volume", wide);
    let volume = place.open("volume");
    let held = [5, step - 1, step + 5, 2 * step + 5];
    for lba in held {
        put(&volume, lba, 1);
    }
    volume.checkpoint(None).unwrap();
    assert!(!volume.scrub(1).unwrap());
    drop(volume);
    // What it saw is little.
    let sim = sim.crash_lose_all();
    let volume = reopen(&sim);
    assert_eq!(volume.scrub_status().position, 0);
    for _ in 0..2 {
        assert!(!volume.scrub(1).unwrap());
    }
    let position = volume.scrub_status().position;
    assert_eq!(position, step);
    // A capture does not forget it.
    put(&volume, 6, 1);
    volume.checkpoint(None).unwrap();
    drop(volume);
    let sim = sim.crash_lose_all();
    let volume = reopen(&sim);
    assert_eq!(volume.scrub_status().position, position);
    while !volume.scrub(1).unwrap() {}
    let seen = volume.scrub_status().blocks;
    assert!((512..768).contains(&seen), "two runs were left: {seen}");
    drop(volume);
    let volume = reopen(&sim.crash_lose_all());
    assert_eq!(volume.scrub_status().position, 0, "the pass has ended");
}

#[test]
fn an_unfinished_checkpoint_is_finished_and_no_find() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    put(&volume, 3, 31);
    put(&volume, 9, 90);
    // Its first block reaches the image, its sum does not.
    sim.inject(Fault::at(IoOp::Write, Effect::FailErrno(28)).on(SUMS));
    volume.checkpoint(None).unwrap_err();
    assert!(volume.base_state().intent.is_some());
    scrub(&volume).unwrap();
    assert_eq!(volume.scrub_status().finds, []);
    assert_eq!(volume.base_state().intent, None);
    assert_eq!(damage_of(&volume), []);
    assert_eq!((get(&volume, 3), get(&volume, 9)), (31, 90));
}

#[test]
fn no_crash_of_a_repair_loses_a_block() {
    let whole = SimDisk::new(1);
    let volume = captured(&whole);
    rot(&whole);
    let before = whole.changes();
    scrub(&volume).unwrap();
    let total = whole.changes() - before;
    assert!(total > 6, "{total} changes");
    for stop in 0..=total {
        let sim = SimDisk::new(1);
        let volume = captured(&sim);
        rot(&sim);
        sim.freeze_after_ops(before + stop);
        let _ = scrub(&volume);
        let cuts = [sim.crash_lose_all(), sim.crash_keep_all()];
        for (cut, after) in cuts
            .into_iter()
            .chain((0..4).map(|seed| sim.crash(seed)))
            .enumerate()
        {
            let story = format!("stop {stop}, cut {cut}");
            let volume = reopen(&after);
            // Before anything else is done: whatever is damaged is read from the log.
            assert_eq!(state(&volume, 6), STATE, "{story}");
            scrub(&volume).unwrap();
            assert_healed(&volume, &story);
            volume.advance_tail(lsn(6)).unwrap();
            drop(volume);
            assert_healed(&reopen(&after.crash_lose_all()), &story);
        }
    }
}

#[test]
fn a_failed_operation_of_a_repair_keeps_the_log_until_it_is_done() {
    for fault in [
        Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("image"),
        Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("sums"),
        Fault::at(IoOp::Write, Effect::FailErrno(28)).on("image"),
        Fault::at(IoOp::Write, Effect::FailErrno(5)).on("sums"),
    ] {
        let sim = SimDisk::new(1);
        let volume = captured(&sim);
        rot(&sim);
        let stops = format!("{fault:?}").contains("LoseUnsynced");
        sim.inject(fault.clone());
        scrub(&volume).unwrap_err();
        let story = format!("{fault:?}");
        if stops {
            // What was written may be nowhere: nothing goes away that it could be taken from.
            assert!(
                matches!(volume.advance_tail(lsn(6)), Err(Error::ImageStopped { .. })),
                "{story}"
            );
            assert_eq!(volume.log().frontiers().tail, Lsn::ZERO, "{story}");
        }
        assert_eq!(state(&volume, 6), STATE, "{story}");
        volume.close().unwrap();
        drop(volume);
        // A reopen in another process, over the same page cache.
        let killed = sim.crash_keep_all();
        let volume = reopen(&killed);
        volume.advance_tail(lsn(6)).unwrap();
        drop(volume);
        let volume = reopen(&killed.crash_lose_all());
        assert_healed(&volume, &story);
    }
}

#[test]
fn bits_that_the_medium_lost_are_found_behind_the_page_cache() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    put(&volume, 3, 30);
    volume.checkpoint(None).unwrap();
    volume.close().unwrap();
    drop(volume);
    let volume = reopen(&sim);
    // Reads show what a failed sync lost; only the medium knows.
    let file = seawall_wal::disk::File::open(
        &Place::simulated(&sim).disk,
        IMAGE.as_ref(),
        seawall_wal::disk::OpenMode::ReadWrite,
    )
    .unwrap();
    sim.overwrite(IMAGE.as_ref(), 3 * BLOCK as u64, &[7; 512])
        .unwrap();
    let good = seawall_wal::disk::Buffer::copy_of(&[30; 512]);
    file.write_bytes(3 * BLOCK as u64, good).unwrap();
    sim.inject(Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("image"));
    file.sync().unwrap_err();
    assert_eq!(get(&volume, 3), 30);
    scrub(&volume).unwrap();
    assert_eq!(volume.scrub_status().repaired, 1);
    drop(volume);
    assert_eq!(get(&reopen(&sim.crash_lose_all()), 3), 30);
}

/// A closed volume of 30 captured blocks, the sum of block 25 damaged.
pub(super) fn with_sum_25_flipped() -> Arc<SimDisk> {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    for lba in 0..30u8 {
        put(&volume, lba.into(), lba + 1);
    }
    volume.advance_tail(lsn(30)).unwrap();
    drop(volume);
    sim.flip(SUMS.as_ref(), 25 * 16 + 2, 0x80).unwrap();
    sim
}

#[test]
fn a_checkpoint_beside_a_damaged_sum_costs_no_block_either() {
    for changed in [1, 7, 8, 9, 20] {
        let sim = with_sum_25_flipped();
        let volume = reopen(&sim);
        for lba in 0..changed {
            put(&volume, lba, 99);
        }
        let last = volume.checkpoint(None).unwrap();
        volume.advance_tail(last).unwrap();
        let mut out = [0; BLOCK];
        let read = volume.read(25 * BLOCK as u64, &mut out);
        assert!(read.is_ok(), "{changed} blocks changed: {read:?}");
        assert_eq!(uniform(&out), 26);
        assert_eq!(volume.base_state().untrusted, None);
    }
}

/// A scrubbed volume without a log below 7, whose blocks 3 and 5 are damaged.
fn lacking(sim: &Arc<SimDisk>) -> Arc<Volume> {
    let volume = captured(sim);
    volume.advance_tail(lsn(6)).unwrap();
    put(&volume, 7, 70);
    rot(sim);
    scrub(&volume).unwrap();
    assert_eq!(volume.damaged_blocks(None, 9), [3, 5]);
    volume
}

#[test]
fn a_damaged_block_that_a_peer_gives_back_is_durable_and_the_base_trusted_again() {
    let sim = SimDisk::new(1);
    let volume = lacking(&sim);
    assert_eq!(volume.damaged_blocks(Some(3), 9), [5]);
    assert!(volume.mend(3, &[30; BLOCK]).unwrap());
    assert_eq!(volume.damaged_blocks(None, 9), [5]);
    assert_eq!(volume.base_state().untrusted, Some(Untrusted::BlockDamaged));
    assert!(volume.mend(5, &[50; BLOCK]).unwrap());
    assert_eq!(volume.base_state().untrusted, None);
    // Once more changes nothing.
    assert!(volume.mend(5, &[99; BLOCK]).unwrap());
    let volume = reopen(&sim.crash_lose_all());
    assert_eq!(damage_of(&volume), []);
    let mut expected = STATE.to_vec();
    expected.push((7, 70));
    assert_eq!(state(&volume, 7), expected);
}

#[test]
fn a_block_is_not_mended_with_anything_but_what_was_lost() {
    let sim = SimDisk::new(1);
    let volume = lacking(&sim);
    assert!(!volume.mend(3, &[31; BLOCK]).unwrap());
    assert!(!volume.mend(3, &[30; BLOCK - 1]).unwrap());
    assert!(!volume.mend(3, &[]).unwrap());
    assert!(!volume.mend(u64::MAX, &[30; BLOCK]).unwrap());
    assert_eq!(volume.damaged_blocks(None, 9), [3, 5]);
    // The only proof is gone with it: block and sum.
    sim.flip(SUMS.as_ref(), 3 * 16 + 2, 0x80).unwrap();
    assert!(!volume.mend(3, &[30; BLOCK]).unwrap());
    assert!(volume.read(3 * BLOCK as u64, &mut [0; BLOCK]).is_err());
}

#[test]
fn a_mend_that_is_torn_leaves_the_block_damaged_or_whole_and_nothing_else_touched() {
    let sim = SimDisk::new(1);
    let volume = lacking(&sim);
    drop(volume);
    let before = sim.crash_lose_all();
    for sectors in 0..8 {
        let sim = before.crash_lose_all();
        let volume = reopen(&sim);
        let torn = Effect::ShortWrite(512 * sectors);
        sim.inject(Fault::at(IoOp::Write, torn).on("image"));
        volume.mend(3, &[30; BLOCK]).unwrap_err();
        drop(volume);
        let after = reopen(&sim.crash_lose_all());
        let read = |lba: u64| {
            let mut block = [0; BLOCK];
            let read = after.read(lba * BLOCK as u64, &mut block);
            read.map(|()| block)
        };
        match read(3) {
            Ok(block) => assert_eq!(block, [30; BLOCK]),
            Err(Error::ImageDamaged { lba, .. }) => assert_eq!(lba.0, 3),
            Err(error) => panic!("{error}"),
        }
        // Whatever is left, a second try succeeds, and nothing else was touched.
        assert!(after.mend(3, &[30; BLOCK]).unwrap());
        for (lba, byte) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
            assert_eq!(read(lba).unwrap(), [byte; BLOCK]);
        }
    }
}
