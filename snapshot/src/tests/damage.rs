//! Damaged images and logs: found, named, and never read as good.

use super::*;
use crate::Untrusted;

const IMAGE: &str = "/volume/base/1/image";
const SUMS: &str = "/volume/base/1/sums";

/// Block 3 at LSN 1 and block 4 at LSN 2, both in the image.
fn captured(sim: &Arc<SimDisk>) -> Arc<Volume> {
    let volume = Place::simulated(sim).primary();
    put(&volume, 3, 30);
    put(&volume, 4, 40);
    volume.checkpoint(None).unwrap();
    volume
}

fn read(volume: &Volume, lba: u64) -> Result<(), Error> {
    volume.read(lba * BLOCK as u64, &mut [0; BLOCK])
}

#[test]
fn a_damaged_block_is_repaired_from_the_log_while_it_holds_the_version() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    sim.flip(IMAGE.as_ref(), 3 * BLOCK as u64 + 5, 1).unwrap();
    assert_eq!(get(&volume, 3), 30);
    assert_eq!(volume.base_state().untrusted, None);
    let found = damage_of(&volume);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, Path::new(IMAGE));
    assert_eq!(found[0].offset, 3 * BLOCK as u64);
    assert_eq!(found[0].blocks, Some((3, 1)));
    assert_eq!(found[0].lsn, Some(lsn(1)));
    volume.advance_tail(lsn(1)).unwrap();
    volume.write(0, &[1], Durability::Durable).unwrap();
    let found = damage_of(&volume);
    let range = seawall_wal::LsnRange::new(Lsn::ZERO, lsn(1));
    assert_eq!((found[0].lsn, found[0].lsns), (None, Some(range)));
}

#[test]
fn a_damaged_block_that_nothing_repairs_is_refused_by_name() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    volume.advance_tail(lsn(2)).unwrap();
    sim.flip(IMAGE.as_ref(), 3 * BLOCK as u64, 0x80).unwrap();
    assert!(matches!(
        read(&volume, 3),
        Err(Error::ImageDamaged { lba, .. }) if lba.0 == 3
    ));
    assert_eq!(get(&volume, 4), 40);
    assert_eq!(volume.base_state().untrusted, Some(Untrusted::BlockDamaged));
    let view = volume.state_at(lsn(2), "test").unwrap();
    let mut out = [0; BLOCK];
    assert!(matches!(
        view.read(3 * BLOCK as u64, &mut out),
        Err(Error::ImageDamaged { lba, .. }) if lba.0 == 3
    ));
    // A new version heals it.
    put(&volume, 3, 31);
    assert_eq!(get(&volume, 3), 31);
    volume.checkpoint(None).unwrap();
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_lost_sum_is_mended_and_a_lost_page_of_sums_is_found() {
    for (at, damage) in [
        (4 * 16, &[0xff_u8; 16][..]),
        (64, &[0; 16]),
        (0, &[0; 4096]),
    ] {
        let sim = SimDisk::new(1);
        let volume = captured(&sim);
        volume.advance_tail(lsn(2)).unwrap();
        sim.overwrite(SUMS.as_ref(), at, damage).unwrap();
        match damage.len() {
            16 => assert_eq!(get(&volume, 4), 40),
            _ => assert!(matches!(
                read(&volume, 4),
                Err(Error::ImageDamaged { lba, .. }) if lba.0 == 4
            )),
        }
        let found = damage_of(&volume);
        let names = |(lba, count)| (lba..lba + count).contains(&4);
        assert!(found.iter().any(|found| found.blocks.is_some_and(names)));
    }
}

#[test]
fn a_block_and_its_sum_that_both_went_back_in_time_are_found_by_the_digest() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    volume.advance_tail(lsn(2)).unwrap();
    let old = |path: &str, at: usize, bytes: usize| {
        sim.read_file(path.as_ref()).unwrap()[at..at + bytes].to_vec()
    };
    let block = old(IMAGE, 4 * BLOCK, BLOCK);
    let sector = old(SUMS, 0, 512);
    put(&volume, 4, 41);
    volume.advance_tail(lsn(3)).unwrap();
    sim.overwrite(IMAGE.as_ref(), 4 * BLOCK as u64, &block)
        .unwrap();
    sim.overwrite(SUMS.as_ref(), 0, &sector).unwrap();
    let found = damage_of(&volume);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].file, Path::new(SUMS));
}

/// A sum that failed together with its block cannot be told, so the digest is taken over all
/// others.
#[test]
fn the_digest_is_right_again_once_a_block_and_its_sum_that_both_failed_are_overwritten() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    volume.advance_tail(lsn(2)).unwrap();
    sim.flip(IMAGE.as_ref(), 4 * BLOCK as u64, 1).unwrap();
    sim.flip(SUMS.as_ref(), 4 * 16, 1).unwrap();
    assert!(read(&volume, 4).is_err());
    // Its sector is written for another block meanwhile, and does not pass for whole then.
    put(&volume, 3, 31);
    volume.advance_tail(lsn(3)).unwrap();
    assert!(read(&volume, 4).is_err());
    assert!(!damage_of(&volume).is_empty());
    put(&volume, 4, 41);
    volume.advance_tail(lsn(4)).unwrap();
    assert_eq!(damage_of(&volume), []);
    assert_eq!(volume.digest().1, digest_of(&[(3, 31), (4, 41)]));
}

#[test]
fn any_flipped_bit_of_image_or_sums_is_named_with_its_block() {
    let sim = SimDisk::new(1);
    let volume = captured(&sim);
    for (path, block, bytes) in [(IMAGE, BLOCK as u64, BLOCK as u64), (SUMS, 16, 16)] {
        for bit in (0..bytes * 8).step_by(if bytes == 16 { 1 } else { 61 }) {
            for lba in [3, 4] {
                let (at, mask) = (lba * block + bit / 8, 1 << (bit % 8));
                sim.flip(path.as_ref(), at, mask).unwrap();
                let found = damage_of(&volume);
                let places: Vec<_> = found
                    .iter()
                    .map(|found| (found.blocks, found.lsn))
                    .collect();
                match path == IMAGE {
                    true => {
                        assert_eq!(places, [(Some((lba, 1)), Some(lsn(lba - 2)))], "bit {bit}");
                    }
                    false => {
                        assert_eq!(places, [(Some((0, 31)), None)], "bit {bit}");
                        assert_eq!(found[0].offset, lba * 16, "bit {bit}");
                    }
                }
                assert_eq!(u64::from(get(&volume, lba)), lba * 10);
                sim.flip(path.as_ref(), at, mask).unwrap();
            }
        }
    }
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a_sector_that_cannot_be_read_costs_its_block_and_no_other() {
    for (path, sector, lost) in [(IMAGE, 4 * BLOCK as u64 + 512, 4..5), (SUMS, 0, 0..31)] {
        let sim = SimDisk::new(1);
        let volume = captured(&sim);
        sim.set_unreadable(path.as_ref(), sector..sector + 512)
            .unwrap();
        // The log still has it.
        assert_eq!((get(&volume, 3), get(&volume, 4)), (30, 40));
        let named: Vec<_> = damage_of(&volume)
            .iter()
            .map(|found| found.blocks)
            .collect();
        assert!(named.contains(&Some((4, 1))), "{named:?}");
        volume.advance_tail(lsn(2)).unwrap();
        volume.write(0, &[1; BLOCK], Durability::Durable).unwrap();
        assert!(matches!(
            read(&volume, 4),
            Err(Error::ImageDamaged { lba, .. }) if lba.0 == 4
        ));
        assert_eq!(read(&volume, 3).is_ok(), !lost.contains(&3));
        assert_eq!(get(&volume, 40), 0);
        let named: Vec<_> = damage_of(&volume)
            .iter()
            .map(|found| found.blocks)
            .collect();
        let all: Vec<_> = lost.map(|lba| Some((lba, 1))).collect();
        assert_eq!(named, all);
    }
}

/// Blocks 0..50 at LSN 1..50, closed cleanly, then one bit of the payload of record 40 flipped.
fn damaged_log() -> (Arc<SimDisk>, PathBuf, u64) {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    for value in 1..=50u8 {
        put(&volume, u64::from(value), value);
    }
    volume.close().unwrap();
    for path in sim.paths().into_iter().filter(|path| wal(path)) {
        let Ok(bytes) = sim.read_file(&path) else {
            continue;
        };
        let payload = bytes.windows(BLOCK).position(|bytes| bytes == [40; BLOCK]);
        if let Some(at) = payload {
            let at = at as u64;
            sim.flip(&path, at + 17, 4).unwrap();
            return (sim, path, at);
        }
    }
    panic!("record 40 lies in no segment");
}

#[test]
fn a241_above_damage_nothing_is_served_and_nothing_is_written() {
    let (sim, path, offset) = damaged_log();
    let place = Place::simulated(&sim);
    let volume = place.try_open("volume", Access::Primary).unwrap();
    assert_eq!(volume.log().applied(), lsn(39));
    assert_eq!(volume.log().frontiers().durable, lsn(50));
    for above in 41..=50u8 {
        let kept = volume.log().read_record(lsn(above.into())).unwrap();
        assert_eq!(uniform(kept.payload()), above);
    }
    assert!(matches!(
        volume.write(0, &[1; BLOCK], Durability::Volatile),
        Err(Error::Log(seawall_wal::Error::ReadOnly { .. }))
    ));
    assert_eq!(get(&volume, 39), 39);
    assert_eq!(get(&volume, 60), 0);
    // The newest version of 40 is damaged, and that of 41 is not applied.
    for lba in [40, 41, 50] {
        assert!(matches!(
            read(&volume, lba),
            Err(Error::NotApplied { lba: first, .. }) if first.0 == lba
        ));
    }
    assert_eq!(state(&volume, 39).len(), 39);
    assert!(matches!(
        volume.state_at(lsn(40), "test"),
        Err(Error::Log(seawall_wal::Error::Corrupt(corrupt))) if corrupt.path == path
    ));
    let found = damage_of(&volume);
    let at_40 = |found: &&crate::DamageFound| found.lsn == Some(lsn(40));
    let found = found.iter().find(at_40).expect("LSN 40 is named");
    assert_eq!((&found.file, found.offset), (&path, offset));
    assert_eq!(found.blocks, Some((40, 1)));
}

#[test]
fn a241_inspection_says_the_same_and_changes_nothing() {
    let (sim, path, offset) = damaged_log();
    let changes = sim.changes();
    let place = Place::simulated(&sim);
    let volume = place.try_open("volume", Access::ReadOnly).unwrap();
    let found = damage_of(&volume);
    assert!(
        found.iter().any(|found| found.file == path
            && found.offset == offset
            && found.lsn == Some(lsn(40))),
        "{found:?}"
    );
    volume.close().unwrap();
    assert_eq!(sim.changes(), changes);
}

#[test]
fn a_torn_tail_is_no_damage() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    put(&volume, 1, 1);
    for value in 2..=9 {
        let bytes = vec![value; 3 * BLOCK];
        volume.write(0, &bytes, Durability::Volatile).unwrap();
    }
    let handle = volume.log().clone();
    let _ = handle.sync();
    for seed in 0..10 {
        let after = sim.crash(seed);
        let inspected = Place::simulated(&after)
            .try_open("volume", Access::ReadOnly)
            .unwrap();
        assert_eq!(damage_of(&inspected), [], "seed {seed}");
    }
}
