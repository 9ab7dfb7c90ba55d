//! Installs that are cut off or fail at every operation, beside the old base and in place.

use super::install::{chunks_digest, manifest, replica, source, transfer};
use super::*;
use crate::section::BaseFacts;
use crate::{Chunk, Chunks, Install, read_chunk};
use seawall_wal::IoOp;
use seawall_wal::disk::sim::{Effect, Fault};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Beside,
    InPlace,
}

/// What a primary sends: its state at LSN 5.
struct Sent {
    primary: Arc<Volume>,
    view: crate::BasePin,
    chunks: Digest,
    state: Digest,
}

const AT: u64 = 5;

fn sent() -> Sent {
    let primary = source(&Place::simulated(&SimDisk::new(9)));
    put(&primary, 600, 5);
    let view = primary.pin_base(lsn(AT), "r1").unwrap();
    Sent {
        chunks: chunks_digest(&view),
        state: view.digest().unwrap(),
        primary,
        view,
    }
}

/// What the replica had before.
const OLD: [(u64, u8); 3] = [(0, 1), (256, 2), (300, 3)];

/// A replica whose old state lies in part in its image and in part in its log.
fn old_replica(sim: &Arc<SimDisk>, sent: &Sent) -> Arc<Volume> {
    let old = replica(&Place::simulated(sim), &sent.primary);
    old.log().commit(lsn(2)).unwrap();
    old.checkpoint(None).unwrap();
    old
}

/// Sends what is not there yet; notes each chunk that was sent and taken.
fn install(
    old: &Arc<Volume>,
    sent: &Sent,
    how: How,
    taken: &mut Vec<u64>,
) -> Result<Arc<Volume>, Error> {
    let manifest = manifest(&sent.primary, lsn(AT));
    let mut install = match how {
        How::Beside => Install::begin(old, manifest)?,
        How::InPlace => Install::begin_in_place(old, manifest, [5; 16])?,
    };
    for chunk in Chunks::of(&sent.view).map(Result::unwrap) {
        match chunk {
            Chunk::Zero { first, count } => install.zero(first, count)?,
            Chunk::Data { index, digest } => {
                if !install.keep_if_present(index, digest)? {
                    install.put(index, &read_chunk(&sent.view, index)?.0, digest)?;
                    taken.push(index);
                }
            }
        }
    }
    install.switch(sent.chunks, sent.state)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Old,
    New,
    Incomplete,
}

/// Opens what is left: the old state, the new one, or a volume that says that it is neither.
fn look(sim: &Arc<SimDisk>, sent: &Sent, story: &str) -> (Arc<Volume>, Found) {
    let opened = Place::simulated(sim).try_open("volume", Access::Replica);
    let volume = opened.unwrap_or_else(|error| panic!("{story}: {error}"));
    let meta = volume.meta().get();
    if BaseFacts::of(&meta, volume.dir())
        .unwrap()
        .incomplete
        .is_some()
    {
        assert!(
            matches!(
                volume.read(900 * BLOCK as u64, &mut [0; BLOCK]),
                Err(Error::BaseIncomplete { .. })
            ),
            "{story}"
        );
        return (volume, Found::Incomplete);
    }
    let head = volume.log().frontiers().head;
    let state = contents(&volume.state_at(head, "test").unwrap());
    if head == lsn(AT) {
        assert_eq!(damage_of(&volume), [], "{story}");
        assert_eq!(state, contents(&sent.view), "{story}");
        assert_eq!(volume.digest().1, sent.state, "{story}");
        return (volume, Found::New);
    }
    assert_eq!((head, state.as_slice()), (lsn(3), &OLD[..]), "{story}");
    (volume, Found::Old)
}

/// Whatever was left, another install leads to the new state. Gives what had to be sent.
fn finish(sim: &Arc<SimDisk>, sent: &Sent, how: How, story: &str) -> Vec<u64> {
    let (volume, found) = look(sim, sent, story);
    let mut taken = Vec::new();
    if found != Found::New {
        drop(
            install(&volume, sent, how, &mut taken)
                .unwrap_or_else(|error| panic!("{story}: {error}")),
        );
    }
    drop(volume);
    let (_, found) = look(&sim.crash_lose_all(), sent, story);
    assert_eq!(found, Found::New, "{story}");
    taken
}

fn no_crash_mixes(how: How) {
    let sent = sent();
    let whole = SimDisk::new(1);
    let old = old_replica(&whole, &sent);
    let before = whole.changes();
    let mut all = Vec::new();
    drop(install(&old, &sent, how, &mut all).unwrap());
    let total = whole.changes() - before;
    assert!(total > 10, "{total} changes");
    // In place the log counts for nothing, and the newest block of chunk 1 lies there.
    let due: &[u64] = if how == How::Beside {
        &[2, 4]
    } else {
        &[1, 2, 4]
    };
    assert_eq!(all, due);
    let (mut seen, mut left) = (Vec::new(), due.len());
    for stop in 0..=total {
        let sim = SimDisk::new(1);
        let old = old_replica(&sim, &sent);
        sim.freeze_after_ops(before + stop);
        let mut taken = Vec::new();
        let _ = install(&old, &sent, how, &mut taken);
        let cuts = [sim.crash_lose_all(), sim.crash_keep_all(), sim.crash(stop)];
        for (cut, after) in cuts.into_iter().enumerate() {
            let story = format!("{how:?}, stop {stop}, cut {cut}");
            let (volume, found) = look(&after, &sent, &story);
            drop(volume);
            match (how, &found) {
                (How::Beside, Found::Incomplete) => panic!("{story}: {found:?}"),
                // A kill loses nothing that was finished: the later it comes, the less is to be
                // sent again, and in the end nothing.
                (_, Found::Old | Found::Incomplete) if cut == 1 => {
                    let again = finish(&after, &sent, how, &story);
                    let again = again.iter().filter(|index| due.contains(index)).count();
                    assert!(again <= left, "{story}: {again} of {taken:?}");
                    left = again;
                }
                _ => drop(finish(&after, &sent, how, &story)),
            }
            if !seen.contains(&found) {
                seen.push(found);
            }
        }
    }
    assert_eq!(seen.len(), if how == How::Beside { 2 } else { 3 });
    assert_eq!(left, 0);
}

#[test]
fn a136_a238_no_crash_of_an_install_beside_touches_the_old_state() {
    no_crash_mixes(How::Beside);
}

#[test]
fn a136_a238_no_crash_of_an_install_in_place_reports_the_old_state_over_new_bytes() {
    no_crash_mixes(How::InPlace);
}

fn no_failure_mixes(how: How) {
    let sent = sent();
    let faults = [
        Fault::at_any(Effect::FailErrno(5)).on("/base"),
        Fault::at_any(Effect::FailErrno(28)).on("/base"),
        Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("/base"),
        Fault::at_any(Effect::FailErrno(5)).on("/meta"),
    ];
    for fault in faults {
        for skipped in 0.. {
            let sim = SimDisk::new(1);
            let old = old_replica(&sim, &sent);
            sim.inject(fault.clone().after(skipped));
            let result = install(&old, &sent, how, &mut Vec::new()).map(drop);
            let met = sim.faults_left() == 0;
            sim.clear_faults();
            let story = format!("{how:?}, {fault:?} after {skipped}: {result:?}");
            if result.is_err() && how == How::Beside && !old.is_closed() {
                // The old state goes on, and so does an attempt in the same process.
                let state = old.state_at(lsn(3), "test").unwrap();
                assert_eq!(contents(&state), OLD, "{story}");
                drop(state);
            }
            drop(old);
            let left = match skipped % 2 {
                0 => sim.crash_keep_all(),
                _ => sim.crash_lose_all(),
            };
            finish(&left, &sent, how, &story);
            if !met {
                result.unwrap_or_else(|error| panic!("{story}: {error}"));
                break;
            }
        }
    }
}

#[test]
fn a_failed_operation_of_an_install_beside_leaves_the_old_state_or_the_new() {
    no_failure_mixes(How::Beside);
}

#[test]
fn a_failed_operation_of_an_install_in_place_never_passes_for_a_whole_base() {
    no_failure_mixes(How::InPlace);
}

#[test]
fn a_chunk_that_a_failed_sync_lost_is_not_taken_for_present() {
    let sent = sent();
    let sim = SimDisk::new(1);
    let old = old_replica(&sim, &sent);
    let lost = Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("2.new/image");
    sim.inject(lost.after(0));
    install(&old, &sent, How::Beside, &mut Vec::new()).unwrap_err();
    assert_eq!(sim.faults_left(), 0);
    let mut taken = Vec::new();
    drop(install(&old, &sent, How::Beside, &mut taken).unwrap());
    assert_eq!(
        taken,
        [2, 4],
        "reads may still show them, the medium has none"
    );
    let (_, found) = look(&sim.crash_lose_all(), &sent, "after a power cut");
    assert_eq!(found, Found::New);
}

#[test]
fn a_kept_chunk_is_copied_by_the_file_system_or_written_where_that_fails() {
    let sent = sent();
    for fails in [false, true] {
        let sim = SimDisk::new(1);
        let old = old_replica(&sim, &sent);
        let watched = Fault::at(IoOp::Copy, Effect::FailErrno(95)).on("2.new/image");
        sim.inject(if fails { watched.for_ever() } else { watched });
        drop(install(&old, &sent, How::Beside, &mut Vec::new()).unwrap());
        assert_eq!(sim.faults_left(), usize::from(fails));
        drop(old);
        let (_, found) = look(&sim, &sent, "kept");
        assert_eq!(found, Found::New);
    }
}

#[test]
fn holes_of_a_kept_chunk_stay_holes() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let sent = sent();
    let old = old_replica(&sim, &sent);
    let mut install = Install::begin(&old, manifest(&sent.primary, lsn(AT))).unwrap();
    transfer(&mut install, &sent.view, usize::MAX);
    let new = install.switch(sent.chunks, sent.state).unwrap();
    let mut at = 0;
    let mut data = Vec::new();
    while let Some(range) = new.image.next_data(at).unwrap() {
        at = range.end;
        data.push(range);
    }
    drop(place);
    assert_eq!(data, [0..1, 256..257, 300..301, 600..601, 1031..1032]);
}
