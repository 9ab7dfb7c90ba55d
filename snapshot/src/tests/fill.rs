//! Blocks that were never written, and get their places because others near them are written.

use std::ops::Range;

use seawall_wal::IoOp;
use seawall_wal::disk::sim::{Effect, Fault};

use super::*;

const WIDE: u64 = 200;
const ENOSPC: i32 = 28;

fn wide(sim: &Arc<SimDisk>) -> Arc<Volume> {
    Place::simulated(sim).primary_of(WIDE)
}

/// The blocks of the image that have their places.
fn placed(volume: &Volume) -> Vec<Range<u64>> {
    let (mut placed, mut at) = (Vec::new(), 0);
    while let Some(range) = volume.image.next_data(at).unwrap() {
        at = range.end;
        placed.push(range);
    }
    placed
}

fn write(volume: &Volume, blocks: &[u64]) -> Vec<(u64, u8)> {
    let value = |lba: u64| u8::try_from(lba + 1).unwrap();
    for lba in blocks {
        put(volume, *lba, value(*lba));
    }
    let mut state: Vec<_> = blocks.iter().map(|lba| (*lba, value(*lba))).collect();
    state.sort_unstable();
    state
}

#[test]
fn where_an_eighth_of_a_sector_of_sums_is_written_all_of_it_gets_places() {
    let sim = SimDisk::new(1);
    let volume = wide(&sim);
    // Four of the blocks 31..62, three of 93..124, and three of 186..200, which is all there is.
    let state = write(&volume, &[60, 33, 31, 45, 93, 123, 100, 199, 190, 186]);
    volume.checkpoint(None).unwrap();
    let expected = [31..62, 93..94, 100..101, 123..124, 186..200];
    assert_eq!(placed(&volume), expected);
    assert_eq!(contents(&volume.pin_snapshot("test").unwrap()), state);
    assert_eq!(volume.digest().1, digest_of(&state));
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_sector_of_sums_with_a_block_in_the_image_is_never_filled() {
    let sim = SimDisk::new(1);
    let volume = wide(&sim);
    let first = write(&volume, &[40]);
    volume.checkpoint(None).unwrap();
    let mut state = write(&volume, &[31, 33, 35, 37, 61]);
    volume.checkpoint(None).unwrap();
    state.extend(first);
    state.sort_unstable();
    let blocks: Vec<_> = state.iter().map(|(lba, _)| *lba..lba + 1).collect();
    assert_eq!(placed(&volume), blocks);
    assert_eq!(contents(&volume.pin_snapshot("test").unwrap()), state);
}

#[test]
fn without_space_for_the_blocks_around_them_blocks_are_captured_alone() {
    let sim = SimDisk::new(1);
    let volume = wide(&sim);
    let state = write(&volume, &[0, 2, 4, 6, 62, 64, 66, 68]);
    // The second of the two fills.
    let full = Fault::at(IoOp::Write, Effect::FailErrno(ENOSPC)).on("/image");
    sim.inject(full.after(1));
    volume.checkpoint(None).unwrap();
    assert_eq!(sim.faults_left(), 0);
    let blocks: Vec<_> = state.iter().map(|(lba, _)| *lba..lba + 1).collect();
    assert_eq!(placed(&volume), blocks);
    assert_eq!(contents(&volume.pin_snapshot("test").unwrap()), state);
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_fill_that_a_crash_cuts_off_changes_no_block() {
    for seed in 0..32 {
        let sim = SimDisk::new(seed);
        let volume = wide(&sim);
        let mut state = write(&volume, &[64, 70]);
        volume.checkpoint(None).unwrap();
        state.extend(write(&volume, &[0, 2, 4, 6, 93, 95, 97, 99]));
        state.sort_unstable();
        // The second fill never ends.
        let dead = Fault::at(IoOp::Write, Effect::ShortWrite(512 * 7)).on("/image");
        sim.inject(dead.after(1));
        volume.checkpoint(None).unwrap_err();
        let opened = reopen(&sim.crash(seed));
        assert_eq!(contents(&opened.pin_snapshot("test").unwrap()), state);
        assert_eq!(opened.digest().1, digest_of(&state));
        assert_eq!(damage_of(&opened), []);
    }
}
