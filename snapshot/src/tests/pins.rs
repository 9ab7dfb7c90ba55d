//! Pins under pressure, in any order, and beside running checkpoints.

use super::*;
use crate::{Chunk, Chunks};
use seawall_wal::disk::sim::{Effect, Fault};
use seawall_wal::{IoOp, PinBreak, PinBudget, PinInfo, PinLimits};

fn scratch_files(sim: &SimDisk) -> usize {
    let paths = sim.paths();
    let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
    names.filter(|name| name.starts_with("preserved-")).count()
}

fn why<T: std::fmt::Debug>(result: Result<T, Error>) -> PinBreak {
    match result {
        Err(Error::Log(seawall_wal::Error::PinBroken { why, .. })) => why,
        other => panic!("{other:?}"),
    }
}

fn read_one(view: &dyn View, lba: u64) -> Result<u8, Error> {
    let mut out = [0xee; BLOCK];
    view.read(lba * BLOCK as u64, &mut out)?;
    Ok(uniform(&out))
}

/// Writes `value` to blocks 0 to 15 and captures it.
fn round(volume: &Volume, value: u8) -> Lsn {
    for lba in 0..16 {
        put(volume, lba, value);
    }
    volume.checkpoint(None).unwrap()
}

fn all(value: u8) -> Vec<(u64, u8)> {
    (0..16).map(|lba| (lba, value)).collect()
}

#[test]
fn what_several_views_need_is_preserved_once_and_goes_with_the_last_of_them() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    let layer = 16 * BLOCK as u64;
    round(&volume, 1);
    let first = volume.pin_snapshot("first").unwrap();
    let same = volume.pin_base(first.lsn(), "same").unwrap();
    round(&volume, 2);
    // Two pins of one checkpoint, one copy.
    assert_eq!(volume.preserved_bytes(), layer);
    let second = volume.pin_snapshot("second").unwrap();
    // The first view has its blocks already: what is overwritten now is kept for the second alone.
    round(&volume, 3);
    assert_eq!(volume.preserved_bytes(), 2 * layer);
    round(&volume, 4);
    assert_eq!(volume.preserved_bytes(), 2 * layer, "nobody needs round 3");
    assert_eq!(contents(&first), all(1));
    assert_eq!(contents(&same), all(1));
    assert_eq!(contents(&second), all(2));
    let bytes = |owner: &str| {
        let pins = volume.pins();
        pins.iter().find(|pin| pin.owner == owner).unwrap().bytes
    };
    assert_eq!((bytes("first"), bytes("same")), (layer, layer));
    drop(first);
    assert_eq!(volume.preserved_bytes(), 2 * layer);
    drop(same);
    assert_eq!(volume.preserved_bytes(), layer);
    assert_eq!(contents(&second), all(2));
    assert_eq!(scratch_files(&sim), 1);
    drop(second);
    assert_eq!((volume.preserved_bytes(), scratch_files(&sim)), (0, 0));
}

#[test]
fn views_of_three_checkpoints_stay_exact_whichever_goes_first() {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let sim = SimDisk::new(1);
        let volume = Place::simulated(&sim).primary();
        let mut views = Vec::new();
        for value in 1..=3u8 {
            round(&volume, value);
            // A part of the blocks differs from view to view.
            put(&volume, u64::from(value), 100);
            volume.checkpoint(None).unwrap();
            let pin = volume.pin_snapshot("test").unwrap();
            let seen = contents(&pin);
            views.push(Some((pin, seen)));
        }
        round(&volume, 9);
        volume.trim(0, volume.size(), Durability::Durable).unwrap();
        let through = volume.checkpoint(None).unwrap();
        for index in order {
            for (pin, seen) in views.iter().flatten() {
                assert_eq!(&contents(pin), seen);
                assert_eq!(pin.digest().unwrap(), digest_of(seen));
            }
            views[index] = None;
        }
        assert_eq!(volume.pins(), []);
        assert_eq!((volume.preserved_bytes(), scratch_files(&sim)), (0, 0));
        assert_eq!(volume.advance_tail(through).unwrap(), through);
    }
}

#[test]
fn over_the_limit_on_preserved_blocks_the_oldest_view_is_broken_and_told() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    let limit = 24 * BLOCK as u64;
    volume.log().set_pin_limits(PinLimits {
        preserved_bytes: Some(limit),
        ..PinLimits::NONE
    });
    round(&volume, 1);
    let old = volume.pin_snapshot("old").unwrap();
    round(&volume, 2);
    let young = volume.pin_snapshot("young").unwrap();
    assert_eq!(read_one(&old, 3).unwrap(), 1);
    round(&volume, 3);
    let cause = why(read_one(&old, 3));
    let over = |needed, of| of == limit && needed > of;
    assert!(
        matches!(cause, PinBreak::PreservedLimit { needed, limit } if over(needed, limit)),
        "{cause:?}"
    );
    assert_eq!(why(old.digest()), cause);
    assert_eq!(why(old.next_data(0)), cause);
    assert_eq!(why(old.wal_pin("stream")), cause);
    assert_eq!(contents(&young), all(2));
    assert!(volume.preserved_bytes() <= limit);
    let listed = |owner: &str| -> PinInfo {
        let pins = volume.pins();
        pins.into_iter().find(|pin| pin.owner == owner).unwrap()
    };
    assert_eq!(
        (listed("old").broken, listed("old").bytes),
        (Some(cause), 0)
    );
    assert_eq!(listed("young").broken, None);
    // Its log is free too, while its holder still has it.
    let tail = volume.advance_tail(lsn(48)).unwrap();
    assert_eq!(tail, young.lsn());
}

#[test]
fn a_pin_over_its_budget_gives_its_preserved_blocks_back_before_it_is_dropped() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    round(&volume, 1);
    let budget = PinBudget {
        bytes: Some(8 * BLOCK as u64),
        time_ns: None,
    };
    let small = volume.pin_snapshot_within("small", budget).unwrap();
    let base = volume.pin_base_within(small.lsn(), "base", budget).unwrap();
    for lba in 0..8 {
        put(&volume, lba, 2);
    }
    volume.checkpoint(None).unwrap();
    assert_eq!(contents(&small), all(1));
    put(&volume, 8, 2);
    volume.checkpoint(None).unwrap();
    let over = PinBreak::Bytes {
        kept: 9 * BLOCK as u64,
        budget: 8 * BLOCK as u64,
    };
    assert_eq!(why(read_one(&small, 0)), over);
    assert_eq!(why(read_one(&base, 0)), over);
    assert_eq!((volume.preserved_bytes(), scratch_files(&sim)), (0, 0));
    let chunks = Chunks::of(&small).find_map(|chunk| chunk.err());
    assert_eq!(why(Err::<Chunk, _>(chunks.unwrap())), over);
}

#[test]
fn one_pin_of_a_shared_view_is_broken_and_the_other_reads_on() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    round(&volume, 1);
    let none = PinBudget {
        bytes: Some(0),
        time_ns: None,
    };
    let poor = volume.pin_snapshot_within("poor", none).unwrap();
    let rich = volume.pin_snapshot("rich").unwrap();
    round(&volume, 2);
    why(read_one(&poor, 0));
    assert_eq!(contents(&rich), all(1));
    round(&volume, 3);
    assert_eq!(contents(&rich), all(1));
}

#[test]
fn a_full_disk_breaks_the_oldest_view_and_keeps_the_younger() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    round(&volume, 1);
    let old = volume.pin_snapshot("old").unwrap();
    round(&volume, 2);
    let young = volume.pin_snapshot("young").unwrap();
    let full = Effect::Fail(std::io::ErrorKind::StorageFull);
    sim.inject(Fault::at(IoOp::Write, full).on("preserved-"));
    let checkpoint = round(&volume, 3);
    assert_eq!(volume.base_state().checkpoint, checkpoint);
    assert_eq!(why(read_one(&old, 0)), PinBreak::NoSpace);
    assert_eq!(contents(&young), all(2));
}

#[test]
fn a_panic_of_its_owner_releases_a_view_with_all_it_kept() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    round(&volume, 1);
    let owner = std::panic::AssertUnwindSafe(|| {
        let _pin = volume.pin_snapshot("doomed").unwrap();
        round(&volume, 2);
        assert_eq!(scratch_files(&sim), 1);
        panic!("the owner is gone");
    });
    assert!(std::panic::catch_unwind(owner).is_err());
    assert_eq!(volume.pins(), []);
    assert_eq!((volume.preserved_bytes(), scratch_files(&sim)), (0, 0));
}

#[test]
fn a_refused_pin_leaves_nothing_behind() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    round(&volume, 1);
    volume.advance_tail(lsn(16)).unwrap();
    assert!(matches!(
        volume.pin_base(lsn(9), "late"),
        Err(Error::StateReclaimed { lsn: asked, base }) if (asked, base) == (lsn(9), lsn(16))
    ));
    assert!(matches!(
        volume.pin_base(lsn(17), "early"),
        Err(Error::Log(seawall_wal::Error::BeyondHead { .. }))
    ));
    assert_eq!(volume.pins(), []);
}

/// Many threads read views of several checkpoints while others are overwritten and captured.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "this test is about threads, so it starts some"
)]
fn views_stay_exact_while_checkpoints_run_beside_their_readers() {
    let place = Place::on_files();
    let volume = place.primary();
    let over = std::sync::atomic::AtomicBool::new(false);
    let pinned: Vec<_> = (1..=3)
        .map(|value| {
            round(&volume, value);
            (value, volume.pin_snapshot("reader").unwrap())
        })
        .collect();
    std::thread::scope(|scope| {
        for (value, pin) in &pinned {
            let over = &over;
            scope.spawn(move || {
                let mut last = false;
                while !last {
                    last = over.load(Ordering::Acquire);
                    assert_eq!(contents(pin), all(*value));
                    assert_eq!(pin.digest().unwrap(), digest_of(&all(*value)));
                }
            });
        }
        for value in 4..40 {
            let through = round(&volume, value);
            volume.advance_tail(through).unwrap();
        }
        over.store(true, Ordering::Release);
    });
    drop(pinned);
    assert_eq!(volume.preserved_bytes(), 0);
    assert_eq!(damage_of(&volume), []);
}
