//! Installing a base beside the old state (D12).

use super::*;
use crate::{
    CHUNK_BYTES, Chunk, Chunks, Install, Manifest, chunk_count, chunk_digest, read_chunk, sweep,
};

/// Four chunks and a short one.
pub(super) const WIDE: u64 = 4 * 256 + 8;

fn wide(role: Role) -> CreateOptions {
    CreateOptions {
        geometry: geometry(WIDE),
        ..options(role)
    }
}

/// A primary with data in chunks 0, 1 and 4, checkpointed in part.
pub(super) fn source(place: &Place) -> Arc<Volume> {
    place.create("primary", wide(Role::Primary));
    let volume = place.open("primary");
    for (lba, value) in [(0, 1), (256, 2), (300, 3), (4 * 256 + 7, 4)] {
        put(&volume, lba, value);
    }
    volume.checkpoint(Some(lsn(2))).unwrap();
    volume
}

/// A replica that already holds what the primary has in chunk 1.
pub(super) fn replica(place: &Place, primary: &Arc<Volume>) -> Arc<Volume> {
    place.create("volume", wide(Role::Replica));
    let replica = place.try_open("volume", Access::Replica).unwrap();
    let records = primary
        .log()
        .read(seawall_wal::LsnRange::new(Lsn::ZERO, lsn(3)));
    let records = records.unwrap().map(Result::unwrap).collect();
    replica.receive(records).unwrap().wait().unwrap();
    replica
}

pub(super) fn manifest(primary: &Volume, at: Lsn) -> Manifest {
    Manifest {
        volume: VolumeId([7; 16]),
        geometry: primary.geometry(),
        lsn: at,
        lineage: primary.log().lineage(),
        committed: at,
    }
}

/// Digest over all chunk digests, as the primary announces it.
pub(super) fn chunks_digest(view: &dyn View) -> Digest {
    let mut digests = Vec::new();
    for index in 0..chunk_count(view.size()) {
        let start = index * CHUNK_BYTES as u64;
        let length = (view.size() - start).min(CHUNK_BYTES as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        view.read(start, &mut bytes).unwrap();
        digests.extend(chunk_digest(&bytes, BlockSize::DEFAULT).to_bytes());
    }
    Digest::of(&digests)
}

/// Sends a view; gives the chunks that had to be sent.
pub(super) fn transfer(install: &mut Install, view: &dyn View, stop_after: usize) -> Vec<u64> {
    let mut sent = Vec::new();
    for chunk in Chunks::of(view).map(Result::unwrap) {
        match chunk {
            Chunk::Zero { first, count } => install.zero(first, count).unwrap(),
            Chunk::Data { index, digest } => {
                if install.keep_if_present(index, digest).unwrap() {
                    continue;
                }
                if sent.len() == stop_after {
                    break;
                }
                install
                    .put(index, &read_chunk(view, index).unwrap().0, digest)
                    .unwrap();
                sent.push(index);
            }
        }
    }
    sent
}

#[test]
fn a238_a_base_is_installed_beside_and_switched_to_at_once() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = source(&place);
    let old = replica(&place, &primary);
    let old_log = old.meta().get().log;
    for value in 5..=9 {
        put(&primary, 512, value);
    }
    let view = primary.pin_base(lsn(9), "r1").unwrap();
    let expected = contents(&view);
    let mut install = Install::begin(&old, manifest(&primary, lsn(9))).unwrap();
    // Chunks 0 and 1 match; 2 and 4 do not.
    assert_eq!(transfer(&mut install, &view, usize::MAX), [2, 4]);
    assert_eq!(get(&old, 256), 2);
    let state = view.digest().unwrap();
    let new = install.switch(chunks_digest(&view), state).unwrap();
    assert!(matches!(
        old.read(0, &mut [0; 1]),
        Err(Error::Log(seawall_wal::Error::Closed))
    ));
    assert_eq!(contents(&new.state_at(lsn(9), "test").unwrap()), expected);
    assert_eq!(new.digest(), (lsn(9), state));
    let frontiers = new.log().frontiers();
    assert_eq!(frontiers.tail, lsn(9));
    assert_eq!(frontiers.head, lsn(9));
    assert_ne!(new.meta().get().log, old_log);
    assert_eq!(damage_of(&new), []);
    drop(old);
    // The tail goes on in the new log.
    put(&primary, 3, 77);
    let records = primary
        .log()
        .read(seawall_wal::LsnRange::new(lsn(9), lsn(10)));
    let records = records.unwrap().map(Result::unwrap).collect();
    new.receive(records).unwrap().wait().unwrap();
    new.log().commit(lsn(10)).unwrap();
    new.checkpoint(None).unwrap();
    assert_eq!(get(&new, 3), 77);
    new.close().unwrap();
    drop(new);
    let again = place.try_open("volume", Access::Replica).unwrap();
    assert_eq!(
        again.digest_at(lsn(10)).unwrap(),
        primary.digest_at(lsn(10)).unwrap()
    );
    assert!(!sim.paths().contains(&"/volume/base/1".into()));
    assert_ne!(again.meta().get().log, old_log);
    let old_records = seawall_wal::LsnRange::new(Lsn::ZERO, lsn(3));
    let gone = again.log().read(old_records).map(drop);
    assert!(
        matches!(&gone, Err(seawall_wal::Error::Reclaimed { tail, .. }) if *tail == lsn(9)),
        "{gone:?}"
    );
}

#[test]
fn what_does_not_match_is_refused_and_the_old_state_stays() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = source(&place);
    let old = replica(&place, &primary);
    let view = primary.pin_base(lsn(4), "r1").unwrap();
    let other = Manifest {
        volume: VolumeId([9; 16]),
        ..manifest(&primary, lsn(4))
    };
    assert!(matches!(
        Install::begin(&old, other),
        Err(Error::Log(seawall_wal::Error::OtherVolume { .. }))
    ));
    let other = Manifest {
        geometry: geometry(WIDE + 1),
        ..manifest(&primary, lsn(4))
    };
    assert!(matches!(
        Install::begin(&old, other),
        Err(Error::InstallMismatch { what: "geometry" })
    ));
    let refused = |result: Result<(), Error>| match result {
        Err(Error::InstallMismatch { what }) => what,
        other => panic!("{other:?}"),
    };
    let begin = || Install::begin(&old, manifest(&primary, lsn(4))).unwrap();
    let mut install = begin();
    let bytes = vec![1; CHUNK_BYTES];
    assert_eq!(
        refused(install.put(0, &bytes, Digest(1))),
        "the digest of a chunk"
    );
    let digest = chunk_digest(&bytes, BlockSize::DEFAULT);
    assert_eq!(
        refused(install.put(4, &bytes, digest)),
        "the length of a chunk"
    );
    assert_eq!(refused(install.put(5, &bytes, digest)), "a chunk number");
    assert_eq!(
        refused(install.keep(0, digest)),
        "a chunk that was to be kept"
    );
    let (chunks, state) = (chunks_digest(&view), view.digest().unwrap());
    transfer(&mut install, &view, 0);
    assert_eq!(install.missing(), 1);
    let switch = |install: Install, chunks, state| install.switch(chunks, state).map(drop);
    assert_eq!(
        refused(switch(install, chunks, state)),
        "the number of chunks"
    );
    let mut install = begin();
    transfer(&mut install, &view, usize::MAX);
    assert_eq!(
        refused(switch(install, Digest(1), state)),
        "the digest of all chunks"
    );
    let mut install = begin();
    transfer(&mut install, &view, usize::MAX);
    assert_eq!(
        refused(switch(install, chunks, Digest(1))),
        "the digest of the state"
    );
    assert_eq!(get(&old, 300), 3);
    assert_eq!(old.log().frontiers().head, lsn(3));
    old.close().unwrap();
    drop(old);
    sweep(&place.disk, &place.dir("volume")).unwrap();
    assert!(!sim.paths().contains(&"/volume/base/2.new".into()));
    let old = place.try_open("volume", Access::Replica).unwrap();
    assert_eq!(get(&old, 300), 3);
}

#[test]
fn a238_an_interrupted_install_sends_no_chunk_twice() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = source(&place);
    for lba in [0, 256, 512, 768] {
        put(&primary, lba, 9);
    }
    let at = primary.log().frontiers().head;
    let view = primary.pin_base(at, "r1").unwrap();
    let old = replica(&place, &primary);
    let mut install = Install::begin(&old, manifest(&primary, at)).unwrap();
    assert_eq!(transfer(&mut install, &view, 3), [0, 1, 2]);
    drop((install, old));
    let killed = sim.crash_keep_all();
    let place = Place::simulated(&killed);
    let old = place.try_open("volume", Access::Replica).unwrap();
    assert_eq!(get(&old, 300), 3);
    let mut install = Install::begin(&old, manifest(&primary, at)).unwrap();
    assert_eq!(transfer(&mut install, &view, usize::MAX), [3, 4]);
    let state = view.digest().unwrap();
    let new = install.switch(chunks_digest(&view), state).unwrap();
    assert_eq!(
        contents(&new.state_at(at, "test").unwrap()),
        contents(&view)
    );
    assert_eq!(damage_of(&new), []);
}

#[test]
fn a_crash_at_any_moment_of_an_install_leaves_the_old_state_or_the_new() {
    let primary_disk = SimDisk::new(9);
    let primary = source(&Place::simulated(&primary_disk));
    put(&primary, 600, 5);
    let view = primary.pin_base(lsn(5), "r1").unwrap();
    let (chunks, state) = (chunks_digest(&view), view.digest().unwrap());
    let new_state = contents(&view);
    let run = |sim: &Arc<SimDisk>, from: u64, stop: Option<u64>| {
        let place = Place::simulated(sim);
        let old = replica(&place, &primary);
        if let Some(stop) = stop {
            sim.freeze_after_ops(from + stop);
        }
        let mut install = Install::begin(&old, manifest(&primary, lsn(5)))?;
        for chunk in Chunks::of(&view).map(Result::unwrap) {
            match chunk {
                Chunk::Zero { first, count } => install.zero(first, count)?,
                Chunk::Data { index, digest } => {
                    install.put(index, &read_chunk(&view, index)?.0, digest)?;
                }
            }
        }
        install.switch(chunks, state)
    };
    let whole = SimDisk::new(1);
    let before = {
        let sim = SimDisk::new(1);
        replica(&Place::simulated(&sim), &primary);
        sim.changes()
    };
    drop(run(&whole, 0, None).unwrap());
    let total = whole.changes() - before;
    assert!(total > 10, "{total} changes");
    let (mut olds, mut news) = (0, 0);
    for stop in 0..=total {
        let sim = SimDisk::new(1);
        let _ = run(&sim, before, Some(stop));
        for seed in 0..4 {
            let after = match seed {
                0 => sim.crash_lose_all(),
                1 => sim.crash_keep_all(),
                _ => sim.crash(seed),
            };
            let opened = Place::simulated(&after)
                .try_open("volume", Access::Replica)
                .unwrap_or_else(|error| panic!("stop {stop}, seed {seed}: {error}"));
            let head = opened.log().frontiers().head;
            let found = contents(&opened.state_at(head, "test").unwrap());
            if head == lsn(5) {
                assert_eq!(found, new_state);
                news += 1;
            } else {
                assert_eq!(
                    (head, found.as_slice()),
                    (lsn(3), &[(0, 1), (256, 2), (300, 3)][..])
                );
                olds += 1;
            }
            assert_eq!(damage_of(&opened), [], "stop {stop}, seed {seed}");
        }
    }
    assert!(olds > 0 && news > 0, "{olds} old, {news} new");
}
