//! Which version of a damaged block is taken from the log, and which is not.

use super::*;
use crate::index::Content;
use crate::repair::Versions;

/// Numbers drawn from a seed.
struct Draw(u64);

impl Draw {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Overwrites, trims and zeroes parts of the volume; gives the LSN that last touched each block,
/// after each LSN.
fn history(volume: &Volume, seed: u64) -> Vec<[u64; 16]> {
    let mut draw = Draw(seed);
    let mut states = vec![[0; 16]];
    for number in 1..=60u64 {
        let (lba, count) = (draw.below(12), draw.below(4) + 1);
        let (at, length) = (lba * BLOCK as u64, count * BLOCK as u64);
        let value = u8::try_from(number).unwrap();
        match draw.below(4) {
            0 => volume.trim(at, length, Durability::Volatile),
            1 => volume.write_zeroes(at, length, true, Durability::Volatile),
            _ => {
                let bytes = vec![value; usize::try_from(length).unwrap()];
                volume.write(at, &bytes, Durability::Volatile)
            }
        }
        .unwrap();
        let mut state = *states.last().unwrap();
        state[usize::try_from(lba).unwrap()..][..usize::try_from(count).unwrap()].fill(number);
        states.push(state);
    }
    volume.flush().unwrap();
    states
}

#[test]
fn the_newest_version_at_or_below_the_checkpoint_is_taken_or_none() {
    for seed in 1..=20 {
        let sim = SimDisk::new(seed);
        let place = Place::simulated(&sim);
        place.create("volume", options(Role::Primary));
        let volume = place.open("volume");
        let states = history(&volume, seed * 7919);
        let tail = Draw(seed).below(40);
        volume.advance_tail(lsn(tail)).unwrap();
        let floor = volume.log().first_retained().before().get();
        let all: Vec<u64> = (0..16).collect();
        for at in floor.max(1)..=60 {
            let versions = Versions::find(volume.log(), lsn(at), &all);
            for (lba, touched) in (0..).zip(states[usize::try_from(at).unwrap()]) {
                let found = versions.found.piece(lba, lba + 1).1;
                let expected = (touched > floor).then_some(lsn(touched));
                let story = format!("seed {seed}, block {lba} at {at}");
                assert_eq!(found.map(|found| found.lsn), expected, "{story}");
                let lsns = versions.lsns(lba);
                assert!(touched == 0 || lsns.contains(lsn(touched)), "{story}");
                let mut out = [0xee; BLOCK];
                assert_eq!(
                    versions.read(volume.log(), lba, &mut out),
                    expected.is_some()
                );
                match found.map(|found| found.content) {
                    None => assert_eq!(uniform(&out), 0xee, "{story}"),
                    Some(Content::Payload { .. }) => {
                        assert_eq!(u64::from(uniform(&out)), touched, "{story}");
                    }
                    Some(Content::Zeros | Content::Hole) => assert_eq!(uniform(&out), 0, "{story}"),
                }
            }
        }
    }
}

#[test]
fn no_older_version_passes_for_one_that_the_log_lost() {
    // Block 3 at LSN 1 and, in the image, at LSN 2; the record with LSN 2 is damaged.
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    put(&volume, 3, 31);
    put(&volume, 3, 32);
    put(&volume, 4, 40);
    volume.checkpoint(None).unwrap();
    damage_the_record(&sim, 32);
    sim.flip("/volume/base/1/image".as_ref(), 3 * BLOCK as u64, 1)
        .unwrap();
    let mut out = [0; BLOCK];
    for _ in 0..2 {
        // The first read finds the damage in the log; the second knows it beforehand.
        assert!(matches!(
            volume.read(3 * BLOCK as u64, &mut out),
            Err(Error::ImageDamaged { lba, .. }) if lba.0 == 3
        ));
    }
    let versions = Versions::find(volume.log(), lsn(3), &[3, 4]);
    assert!(versions.lsns(3).contains(lsn(2)));
    assert!(versions.read(volume.log(), 4, &mut out), "it lies above");
    assert_eq!(uniform(&out), 40);
}

/// Flips a bit in the payload of the record that writes `value`.
pub(super) fn damage_the_record(sim: &Arc<SimDisk>, value: u8) {
    for path in sim.paths().into_iter().filter(|path| wal(path)) {
        let bytes = sim.read_file(&path).unwrap();
        if let Some(at) = bytes.windows(BLOCK).position(|part| part == [value; BLOCK]) {
            return sim.flip(&path, at as u64 + 9, 4).unwrap();
        }
    }
    panic!("no record writes {value}");
}

#[test]
fn a_block_is_looked_for_from_the_newest_record_down() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    for _ in 0..9000 {
        volume.trim(0, BLOCK as u64, Durability::Volatile).unwrap();
    }
    let last = put(&volume, 3, 30);
    let versions = Versions::find(volume.log(), last, &[3]);
    assert_eq!(versions.lsns(3).through, last);
    assert_eq!(versions.older, lsn(9001 - 4096), "one window was enough");
    let none = Versions::find(volume.log(), last, &[5]);
    assert_eq!(
        none.lsns(5),
        seawall_wal::LsnRange::new(Lsn::ZERO, Lsn::ZERO)
    );
}
