//! Installing over the old base, under the durable marker (P05, D12).

use super::install::{chunks_digest, manifest, replica, source, transfer};
use super::*;
use crate::section::{BaseFacts, Incomplete};
use crate::{Install, Untrusted};
use seawall_wal::{Epoch, LsnRange};

const SESSION: [u8; 16] = [5; 16];

fn marker(volume: &Volume) -> Option<Incomplete> {
    let meta = seawall_wal::Meta::open(&volume.disk, volume.dir(), false).unwrap();
    BaseFacts::of(&meta.get(), volume.dir()).unwrap().incomplete
}

fn assert_incomplete(volume: &Arc<Volume>) {
    let refused = |result: Result<(), Error>| {
        assert!(
            matches!(result, Err(Error::BaseIncomplete { .. })),
            "{result:?}"
        );
    };
    refused(volume.read(900 * BLOCK as u64, &mut [0; BLOCK]));
    refused(volume.next_data(900 * BLOCK as u64).map(drop));
    // The newest version of block 300 is in the log.
    refused(volume.read(300 * BLOCK as u64, &mut [0; BLOCK]));
    refused(volume.next_data(300 * BLOCK as u64).map(drop));
    refused(volume.checkpoint(None).map(drop));
    refused(volume.promote(Epoch::new(9)));
    refused(volume.receive(Vec::new()).map(drop));
    let pinned = volume.pin_snapshot("test").map(drop);
    assert!(
        matches!(
            pinned,
            Err(Error::BaseIncomplete { .. } | Error::IntentOpen { .. })
        ),
        "{pinned:?}"
    );
    let head = volume.log().frontiers().head;
    refused(volume.state_at(head, "test").map(drop));
    let base = volume.base_state();
    assert_eq!(base.untrusted, Some(Untrusted::Incomplete));
    let found = damage_of(volume);
    assert!(
        found.iter().any(|found| found.what.contains("incomplete")),
        "{found:?}"
    );
}

#[test]
fn a136_an_install_in_place_is_incomplete_from_its_first_byte_to_its_last_check() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = source(&place);
    let old = replica(&place, &primary);
    old.log().commit(lsn(3)).unwrap();
    old.checkpoint(None).unwrap();
    put(&primary, 512, 9);
    let view = primary.pin_base(lsn(5), "r1").unwrap();
    let (chunks, state) = (chunks_digest(&view), view.digest().unwrap());
    let shown = old.state_at(lsn(3), "reader").unwrap();
    let begin = |old: &Arc<Volume>| {
        Install::begin_in_place(old, manifest(&primary, lsn(5)), SESSION).unwrap()
    };
    let mut install = begin(&old);
    assert_eq!(
        marker(&old),
        Some(Incomplete {
            session: SESSION,
            base: lsn(5)
        })
    );
    assert!(matches!(
        shown.read(0, &mut [0; BLOCK]),
        Err(Error::Log(seawall_wal::Error::PinBroken { .. }))
    ));
    assert_incomplete(&old);
    // Chunks 0 and 1 match; 2 is sent, and then the node dies.
    assert_eq!(transfer(&mut install, &view, 1), [2]);
    drop((install, shown, old));
    let killed = sim.crash_keep_all();
    let place = Place::simulated(&killed);
    let old = place.try_open("volume", Access::Replica).unwrap();
    assert_incomplete(&old);
    let mut install = begin(&old);
    assert_eq!(transfer(&mut install, &view, usize::MAX), [4]);
    // What fails the last check stays incomplete.
    let bad = install.switch(chunks, Digest(1));
    assert!(matches!(bad, Err(Error::InstallMismatch { .. })));
    assert_incomplete(&old);
    let mut install = begin(&old);
    assert_eq!(transfer(&mut install, &view, usize::MAX), [0; 0]);
    let new = install.switch(chunks, state).unwrap();
    assert_eq!(marker(&new), None);
    assert_eq!(new.digest(), (lsn(5), state));
    assert_eq!(
        contents(&new.state_at(lsn(5), "test").unwrap()),
        contents(&view)
    );
    assert_eq!(damage_of(&new), []);
    put(&primary, 3, 77);
    let records = primary.log().read(LsnRange::new(lsn(5), lsn(6)));
    let records = records.unwrap().map(Result::unwrap).collect();
    new.receive(records).unwrap().wait().unwrap();
    assert_eq!(get(&new, 3), 77);
}

#[test]
fn an_install_beside_leads_out_of_an_incomplete_base() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = source(&place);
    let old = replica(&place, &primary);
    let view = primary.pin_base(lsn(4), "r1").unwrap();
    drop(Install::begin_in_place(&old, manifest(&primary, lsn(4)), SESSION).unwrap());
    let mut install = Install::begin(&old, manifest(&primary, lsn(4))).unwrap();
    transfer(&mut install, &view, usize::MAX);
    let new = install
        .switch(chunks_digest(&view), view.digest().unwrap())
        .unwrap();
    assert_eq!(marker(&new), None);
    assert_eq!(
        contents(&new.state_at(lsn(4), "test").unwrap()),
        contents(&view)
    );
}

#[test]
fn an_unfinished_checkpoint_is_left_alone_under_the_marker() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = source(&place);
    let old = replica(&place, &primary);
    old.log().commit(lsn(3)).unwrap();
    let full = seawall_wal::IoOp::Write;
    let fault = seawall_wal::disk::sim::Effect::FailErrno(28);
    sim.inject(seawall_wal::disk::sim::Fault::at(full, fault).on("image"));
    old.checkpoint(None).unwrap_err();
    assert_eq!(old.base_state().intent, Some(lsn(3)));
    let view = primary.pin_base(lsn(4), "r1").unwrap();
    let mut install = Install::begin_in_place(&old, manifest(&primary, lsn(4)), SESSION).unwrap();
    assert_incomplete(&old);
    transfer(&mut install, &view, usize::MAX);
    let (chunks, state) = (chunks_digest(&view), view.digest().unwrap());
    let new = install.switch(chunks, state).unwrap();
    assert_eq!(new.base_state().intent, None);
    assert_eq!(
        contents(&new.state_at(lsn(4), "test").unwrap()),
        contents(&view)
    );
}
