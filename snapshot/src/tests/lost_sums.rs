//! Sectors of sums that became zeros, which is what one looks like that was never written: nothing
//! is read wrong, no view shows zeros, and the digest is right once what was named is overwritten.

use super::scrub::with_sum_25_flipped;
use super::*;
use seawall_wal::IoOp;
use seawall_wal::disk::sim::{Effect, Fault};

const IMAGE: &str = "/volume/base/1/image";
const SUMS: &str = "/volume/base/1/sums";
const WIDE: u64 = 600;

/// Blocks with a sum in five sectors of three pages, and zeros that keep their space.
const BLOCKS_HELD: [u64; 8] = [0, 3, 30, 31, 247, 248, 300, 599];

fn wide(sim: &Arc<SimDisk>) -> Arc<Volume> {
    Place::simulated(sim).primary_of(WIDE)
}

/// Every block held has its number plus 1 as its value, in the image and no longer in the log.
fn captured(sim: &Arc<SimDisk>) -> (Arc<Volume>, Vec<(u64, u8)>) {
    let volume = wide(sim);
    let zeros = 4 * BLOCK as u64;
    volume
        .write_zeroes(100 * BLOCK as u64, zeros, true, Durability::Durable)
        .unwrap();
    let mut state = Vec::new();
    for lba in BLOCKS_HELD {
        let value = u8::try_from(lba % 200 + 1).unwrap();
        state.push((lba, value));
        put(&volume, lba, value);
    }
    volume.advance_tail(lsn(9)).unwrap();
    (volume, state)
}

/// The blocks that answer are as they should be; gives those that do not.
fn refused(state: &[(u64, u8)], read: impl Fn(u64, &mut [u8]) -> Result<(), Error>) -> Vec<u64> {
    let mut refused = Vec::new();
    for lba in 0..WIDE {
        let mut out = [0xee; BLOCK];
        match read(lba * BLOCK as u64, &mut out) {
            Ok(()) => {
                let held = state.iter().find(|(held, _)| *held == lba);
                let value = held.map_or(0, |(_, value)| *value);
                assert_eq!(uniform(&out), value, "block {lba}");
            }
            Err(Error::ImageDamaged { lba: named, .. }) => {
                assert_eq!(named.0, lba);
                refused.push(lba);
            }
            Err(error) => panic!("block {lba}: {error}"),
        }
    }
    refused
}

fn set(state: &mut Vec<(u64, u8)>, lba: u64, value: u8) {
    state.retain(|(held, _)| *held != lba);
    state.push((lba, value));
}

/// What of the file of sums is lost: `(first byte, bytes)`.
fn losses(sim: &Arc<SimDisk>) -> Vec<(u64, usize)> {
    let size = sim.read_file(SUMS.as_ref()).unwrap().len();
    let sectors = (0..size / 512).map(|sector| (sector as u64 * 512, 512));
    let pages = (0..size / 4096).map(|page| (page as u64 * 4096, 4096));
    sectors.chain(pages).chain([(0, size)]).collect()
}

fn lose(sim: &Arc<SimDisk>, (at, bytes): (u64, usize)) {
    sim.overwrite(SUMS.as_ref(), at, &vec![0; bytes]).unwrap();
}

#[test]
fn a_sector_of_sums_lost_to_zeros_leaves_no_wrong_digest_and_no_wrong_view() {
    let whole = SimDisk::new(1);
    drop(captured(&whole));
    let mut named = 0;
    for loss in losses(&whole) {
        for overwritten in [BLOCKS_HELD[0], 1, 31, 250, 301] {
            let sim = SimDisk::new(1);
            let (volume, before) = captured(&sim);
            drop(volume);
            lose(&sim, loss);
            let story = format!("{loss:?}, then {overwritten} is overwritten");
            let volume = reopen(&sim);
            let view = volume.state_at(lsn(9), "test").unwrap();
            let lost = refused(&before, |at, out| volume.read(at, out));
            assert_eq!(damage_of(&volume).is_empty(), lost.is_empty(), "{story}");
            match view.digest() {
                Ok(digest) => assert_eq!(digest, digest_of(&before), "{story}"),
                Err(error) => panic!("it has nothing to take out: {error}"),
            }
            // A capture beside it, or over it, under the view.
            put(&volume, overwritten, 99);
            let at = volume.log().frontiers().head;
            match volume.digest_at(at) {
                Ok(digest) => {
                    let mut after = before.clone();
                    set(&mut after, overwritten, 99);
                    assert_eq!(digest, digest_of(&after), "{story}");
                }
                Err(Error::ImageDamaged { lba, .. }) => assert!(lost.contains(&lba.0), "{story}"),
                Err(error) => panic!("{story}: {error}"),
            }
            volume.advance_tail(at).unwrap();
            let mut state = before.clone();
            set(&mut state, overwritten, 99);
            assert_eq!(
                refused(&before, |at, out| view.read(at, out)),
                lost,
                "{story}"
            );
            drop(view);
            let still = refused(&state, |at, out| volume.read(at, out));
            let left: Vec<_> = lost
                .iter()
                .copied()
                .filter(|lba| *lba != overwritten)
                .collect();
            assert_eq!(still, left, "{story}");
            assert_eq!(damage_of(&volume).is_empty(), left.is_empty(), "{story}");
            drop(volume);
            let volume = reopen(&sim.crash_lose_all());
            for lba in &left {
                put(&volume, *lba, 77);
                set(&mut state, *lba, 77);
                volume.advance_tail(volume.log().frontiers().head).unwrap();
            }
            assert_eq!(volume.digest().1, digest_of(&state), "{story}");
            assert_eq!(damage_of(&volume), [], "{story}");
            assert_eq!(refused(&state, |at, out| volume.read(at, out)), [0; 0]);
            named += lost.len();
        }
    }
    assert!(named > 0, "some loss mattered");
}

#[test]
fn a_sector_of_sums_lost_while_an_intent_stands_is_not_sealed_by_its_end() {
    let whole = SimDisk::new(1);
    drop(captured(&whole));
    for loss in losses(&whole) {
        let sim = SimDisk::new(1);
        let (volume, mut state) = captured(&sim);
        for lba in [1, 3, 250] {
            put(&volume, lba, 99);
            set(&mut state, lba, 99);
        }
        sim.inject(Fault::at(IoOp::Write, Effect::FailErrno(28)).on(SUMS));
        volume.checkpoint(None).unwrap_err();
        drop(volume);
        lose(&sim, loss);
        let story = format!("{loss:?}");
        // Not even an inspection takes what the capture has written so far for damage.
        let inspected = Place::simulated(&sim).try_open("volume", Access::ReadOnly);
        let due = damage_of(&inspected.unwrap());
        let volume = reopen(&sim);
        let lost = refused(&state, |at, out| volume.read(at, out));
        assert_eq!(due.is_empty(), lost.is_empty(), "{story}: {due:?}");
        for lba in lost {
            put(&volume, lba, 77);
            set(&mut state, lba, 77);
        }
        volume.advance_tail(volume.log().frontiers().head).unwrap();
        assert_eq!(volume.digest().1, digest_of(&state), "{story}");
        assert_eq!(damage_of(&volume), [], "{story}");
    }
}

#[test]
fn a_repair_does_not_seal_the_rest_of_a_lost_sector() {
    let sim = SimDisk::new(1);
    let (volume, mut state) = captured(&sim);
    // Block 3 is still in the log, its neighbours 0 and 30 are not.
    put(&volume, 3, 99);
    set(&mut state, 3, 99);
    volume.checkpoint(None).unwrap();
    lose(&sim, (0, 512));
    drop(volume);
    let volume = reopen(&sim);
    while !volume.scrub(1).unwrap() {}
    assert_eq!(refused(&state, |at, out| volume.read(at, out)), [0, 30]);
    let status = volume.scrub_status();
    assert_eq!((status.repaired, status.damaged), (1, 2));
    for lba in [0, 30] {
        put(&volume, lba, 77);
        set(&mut state, lba, 77);
        volume.advance_tail(volume.log().frontiers().head).unwrap();
    }
    assert_eq!(volume.digest().1, digest_of(&state));
    assert_eq!(damage_of(&volume), []);
}

/// Sum 25 is damaged, and its block cannot be read for a while: what mends the sum outlives a
/// capture of other blocks of the sector.
#[test]
fn what_mends_a_sum_outlives_a_capture_during_which_its_block_cannot_be_read() {
    let sim = with_sum_25_flipped();
    let bad = 25 * BLOCK as u64;
    sim.set_unreadable(IMAGE.as_ref(), bad..bad + 512).unwrap();
    let volume = reopen(&sim);
    for lba in [3, 29] {
        put(&volume, lba, 99);
        let last = volume.checkpoint(None).unwrap();
        volume.advance_tail(last).unwrap();
    }
    volume.read(bad, &mut [0; BLOCK]).unwrap_err();
    drop(volume);
    let again = sim.crash_keep_all();
    again.set_readable(IMAGE.as_ref()).unwrap();
    let volume = reopen(&again);
    assert_eq!((get(&volume, 25), get(&volume, 29)), (26, 99));
    while !volume.scrub(1).unwrap() {}
    assert_eq!(damage_of(&volume), []);
}
