//! Creating and opening: who may, and what wrong use leaves behind.

use super::*;
use seawall_wal::disk::sim::{Effect, Fault};
use seawall_wal::disk::{File, OpenMode, list, make_dir, remove};
use seawall_wal::{Epoch, IoOp};

fn try_create(place: &Place, name: &str, options: CreateOptions) -> Result<(), Error> {
    Volume::create(&place.disk, &place.dir(name), options)
}

#[test]
fn a_volume_is_created_in_a_new_or_empty_directory_only() {
    let place = Place::on_files();
    make_dir(place.disk.as_ref(), &place.dir("empty")).unwrap();
    try_create(&place, "empty", options(Role::Primary)).unwrap();
    drop(place.open("empty"));
    assert!(matches!(
        try_create(&place, "empty", options(Role::Primary)),
        Err(Error::Log(seawall_wal::Error::Io { op: IoOp::MakeDir, source, .. }))
            if source.kind() == std::io::ErrorKind::DirectoryNotEmpty
    ));
    assert!(matches!(
        try_create(&place, "no/parent", options(Role::Primary)),
        Err(Error::Log(seawall_wal::Error::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound
    ));
}

#[test]
fn impossible_shapes_are_refused_before_anything_is_made() {
    let place = Place::on_files();
    let with = |change: &dyn Fn(&mut Geometry)| {
        let mut options = options(Role::Primary);
        change(&mut options.geometry);
        options
    };
    for options in [
        with(&|geometry| geometry.blocks = 0),
        with(&|geometry| geometry.blocks = 1 << 60),
        with(&|geometry| geometry.segment_bytes = 1 << 19),
        with(&|geometry| geometry.segment_bytes = (1 << 20) + 512),
        with(&|geometry| geometry.segment_bytes = 1 << 31),
    ] {
        assert!(matches!(
            try_create(&place, "volume", options),
            Err(Error::Log(seawall_wal::Error::Geometry { .. }))
        ));
    }
    let names = list(place.disk.as_ref(), &place.root).unwrap();
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn what_a_failed_creation_leaves_is_no_volume() {
    let whole = SimDisk::new(1);
    Place::simulated(&whole).create("volume", options(Role::Primary));
    for boundary in 0..whole.changes() {
        let sim = SimDisk::new(1);
        sim.freeze_after_ops(boundary);
        let place = Place::simulated(&sim);
        assert!(try_create(&place, "volume", options(Role::Primary)).is_err());
        for seed in 0..6 {
            let after = sim.crash(seed);
            let place = Place::simulated(&after);
            match place.try_open("volume", Access::Primary) {
                Ok(volume) => assert_eq!(volume.log().frontiers().head, Lsn::ZERO),
                Err(Error::Log(
                    seawall_wal::Error::NotAVolume { .. } | seawall_wal::Error::Corrupt(_),
                )) => {}
                Err(other) => panic!("boundary {boundary}, seed {seed}: {other}"),
            }
        }
    }
}

#[test]
fn a_creation_that_finds_no_space_cleans_up() {
    for there in [false, true] {
        let sim = SimDisk::with_capacity(1, 64 << 10);
        let place = Place::simulated(&sim);
        if there {
            make_dir(place.disk.as_ref(), &place.dir("volume")).unwrap();
        }
        assert!(matches!(
            try_create(&place, "volume", options(Role::Primary)),
            Err(Error::Log(error)) if error.is_out_of_space()
        ));
        let names = list(place.disk.as_ref(), &place.root).unwrap();
        assert_eq!(names.len(), usize::from(there), "{names:?}");
        assert!(sim.paths().is_empty(), "{:?}", sim.paths());
        sim.set_capacity(None);
        try_create(&place, "volume", options(Role::Primary)).unwrap();
        drop(place.open("volume"));
    }
}

#[test]
fn a_creation_succeeds_after_any_that_was_cut_off_or_failed() {
    let whole = SimDisk::new(1);
    Place::simulated(&whole).create("volume", options(Role::Primary));
    let create = |sim: &Arc<SimDisk>| {
        let place = Place::simulated(sim);
        try_create(&place, "volume", options(Role::Primary))
    };
    for boundary in 0..whole.changes() {
        let sim = SimDisk::new(1);
        sim.freeze_after_ops(boundary);
        create(&sim).unwrap_err();
        let cuts = [sim.crash_lose_all(), sim.crash_keep_all()];
        for after in cuts.into_iter().chain((0..4).map(|seed| sim.crash(seed))) {
            let place = Place::simulated(&after);
            // All but the removal of the marker may have been done: then it is a volume.
            if place.try_open("volume", Access::Primary).is_err() {
                try_create(&place, "volume", options(Role::Primary))
                    .unwrap_or_else(|error| panic!("boundary {boundary}: {error}"));
            }
            drop(place.open("volume"));
        }
        let sim = SimDisk::new(1);
        sim.inject(Fault::at_any(Effect::FailErrno(5)).after(boundary));
        if create(&sim).is_err() {
            create(&sim).unwrap_or_else(|error| panic!("fault {boundary}: {error}"));
        }
        drop(Place::simulated(&sim).open("volume"));
    }
}

#[test]
fn a_missing_or_foreign_directory_is_not_a_volume_and_stays_as_it_is() {
    let place = Place::on_files();
    make_dir(place.disk.as_ref(), &place.dir("photos")).unwrap();
    File::open(&place.disk, &place.dir("photos/cat"), OpenMode::CreateNew).unwrap();
    for name in ["missing", "photos"] {
        for access in [Access::Primary, Access::ReadOnly] {
            assert!(matches!(
                place.try_open(name, access),
                Err(Error::Log(seawall_wal::Error::NotAVolume { path, .. }))
                    if path == place.dir(name)
            ));
        }
    }
    assert_eq!(list(place.disk.as_ref(), &place.root).unwrap(), ["photos"]);
    let inside = list(place.disk.as_ref(), &place.dir("photos")).unwrap();
    assert_eq!(inside, ["cat"]);
}

#[test]
fn a_volume_has_one_user_at_a_time_and_any_number_of_inspectors() {
    let place = Place::on_files();
    let volume = place.primary();
    put(&volume, 1, 1);
    assert!(matches!(
        place.try_open("volume", Access::Maintain),
        Err(Error::Log(seawall_wal::Error::Locked { path })) if path == place.dir("volume")
    ));
    let inspected = place.try_open("volume", Access::ReadOnly).unwrap();
    assert_eq!(get(&inspected, 1), 1);
    volume.close().unwrap();
    assert!(matches!(
        volume.write(0, &[0; BLOCK], Durability::Volatile),
        Err(Error::Log(seawall_wal::Error::Closed))
    ));
    drop(place.try_open("volume", Access::Maintain).unwrap());
}

#[test]
fn roles_are_kept_apart_until_a_promotion() {
    let place = Place::simulated(&SimDisk::new(1));
    place.create("primary", options(Role::Primary));
    place.create("replica", options(Role::Replica));
    assert!(matches!(
        place.try_open("replica", Access::Primary),
        Err(Error::WrongRole {
            role: "replica",
            ..
        })
    ));
    assert!(matches!(
        place.try_open("primary", Access::Replica),
        Err(Error::WrongRole {
            role: "primary",
            ..
        })
    ));
    let replica = place.try_open("replica", Access::Replica).unwrap();
    assert!(matches!(
        replica.write(0, &[0; BLOCK], Durability::Volatile),
        Err(Error::WrongRole {
            role: "replica",
            ..
        })
    ));
    replica.promote(Epoch::new(3)).unwrap();
    assert!(matches!(
        replica.promote(Epoch::new(3)),
        Err(Error::EpochNotAbove { offered, ours, .. })
            if offered == Epoch::new(3) && ours == Epoch::new(3)
    ));
    replica.close().unwrap();
    let promoted = place.open("replica");
    put(&promoted, 1, 1);
    assert_eq!(
        promoted.log().lineage().last().unwrap().epoch,
        Epoch::new(3)
    );
}

#[test]
fn a_copied_directory_of_a_primary_without_a_lock_file_is_demoted() {
    let place = Place::simulated(&SimDisk::new(1));
    let volume = place.primary();
    let dir = place.dir("volume");
    let locked = Volume::demote(&place.disk, &dir);
    assert!(matches!(
        locked,
        Err(Error::Log(seawall_wal::Error::Locked { .. }))
    ));
    volume.close().unwrap();
    remove(place.disk.as_ref(), &dir.join("lock")).unwrap();
    Volume::demote(&place.disk, &dir).unwrap();
    assert!(place.try_open("volume", Access::Primary).is_err());
    place.try_open("volume", Access::Replica).unwrap();
    let nothing = place.dir("nothing");
    make_dir(place.disk.as_ref(), &nothing).unwrap();
    assert!(matches!(
        Volume::demote(&place.disk, &nothing),
        Err(Error::Log(seawall_wal::Error::NotAVolume { .. }))
    ));
    let left = list(place.disk.as_ref(), &nothing).unwrap();
    assert!(left.is_empty(), "a refused demotion left {left:?}");
}

#[test]
fn maintenance_captures_and_reclaims_without_writing_a_record() {
    let place = Place::simulated(&SimDisk::new(1));
    let volume = place.primary();
    for value in 1..=9 {
        put(&volume, 1, value);
    }
    volume.close().unwrap();
    let volume = place.try_open("volume", Access::Maintain).unwrap();
    assert!(matches!(
        volume.write(0, &[0; BLOCK], Durability::Volatile),
        Err(Error::Log(seawall_wal::Error::ReadOnly { .. }))
    ));
    volume.commit_best_effort().unwrap();
    assert_eq!(volume.advance_tail(lsn(8)).unwrap(), lsn(8));
    volume.close().unwrap();
    let volume = place.try_open("volume", Access::ReadOnly).unwrap();
    assert_eq!(volume.log().frontiers().head, lsn(9));
    assert!(matches!(
        volume.checkpoint(None),
        Err(Error::Log(seawall_wal::Error::ReadOnly { .. }))
    ));
    assert_eq!(get(&volume, 1), 9);
}

#[test]
fn ranges_outside_the_volume_are_refused() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    let size = volume.size();
    let outside = |result: Result<Lsn, Error>| {
        assert!(matches!(result, Err(Error::OutOfRange { size: s, .. }) if s == size));
    };
    outside(volume.write(size - 1, &[0; 2], Durability::Volatile));
    outside(volume.trim(u64::MAX, 2, Durability::Volatile));
    outside(volume.write_zeroes(size, 1, false, Durability::Volatile));
    assert!(matches!(
        volume.read(size, &mut [0; 1]),
        Err(Error::OutOfRange { .. })
    ));
    // The empty range at the end is inside.
    volume.write(size, &[], Durability::Durable).unwrap();
    volume.read(size, &mut []).unwrap();
    assert_eq!(volume.log().frontiers().head, Lsn::ZERO);
}

#[test]
fn committed_follows_durable_only_for_a_volume_that_is_alone() {
    let place = Place::simulated(&SimDisk::new(1));
    place.create("volume", options(Role::Primary));
    let volume = place.try_open("volume", Access::Primary).unwrap();
    put(&volume, 1, 1);
    assert_eq!(volume.log().frontiers().committed, Lsn::ZERO);
    assert_eq!(volume.checkpoint(None).unwrap(), Lsn::ZERO);
    assert_eq!(volume.commit_best_effort().unwrap(), lsn(1));
    put(&volume, 1, 2);
    assert_eq!(volume.log().frontiers().committed, lsn(2));
    volume.commit_by_acks();
    put(&volume, 1, 3);
    assert_eq!(volume.log().frontiers().committed, lsn(2));
}
