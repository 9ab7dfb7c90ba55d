//! The crash matrix of the log: one story, crashed at every change of the medium, with any subset
//! of what was not synced lost or torn (DESIGN section 7).

use std::path::Path;
use std::sync::Arc;

use crate::disk::sim::SimDisk;
use crate::disk::{self, Buffer, Disk};
use crate::log::DIR_NAME;
use crate::tests::contents;
use crate::*;

const DIR: &str = "/volume";

/// What a story promised so far: the stamp of every record, and how far it was acknowledged.
#[derive(Clone, Default)]
struct Promise {
    stamps: Vec<u8>,
    durable: usize,
    tail: u64,
    /// Creation was acknowledged.
    created: bool,
    /// Stamp of the last record issued: contents differ even where an LSN is used again.
    issued: u8,
}

fn create(disk: &Arc<dyn Disk>) -> Result<(), Error> {
    let dir = Path::new(DIR);
    disk::make_dir(disk.as_ref(), dir)?;
    disk::make_dir(disk.as_ref(), &dir.join(DIR_NAME))?;
    disk::sync_dir(disk.as_ref(), dir)?;
    disk::sync_dir(disk.as_ref(), Path::new("/"))?;
    let mut contents = contents();
    // Small segments, so that a short story rotates and reuses them (L-R6).
    contents.geometry.segment_bytes = 48 << 10;
    Meta::create(disk, dir, contents).map(drop)
}

fn open(sim: &Arc<SimDisk>, checkpoint: u64) -> Result<(Arc<Log>, ReplayReport), Error> {
    let disk: Arc<dyn Disk> = Arc::clone(sim) as Arc<dyn Disk>;
    let meta = Arc::new(Meta::open(&disk, Path::new(DIR), true)?);
    let clock = SystemClock::new();
    let checkpoint = Lsn::new(checkpoint);
    let (log, report) = Log::open(
        &disk,
        Path::new(DIR),
        &meta,
        &clock,
        LogMode::Writable,
        checkpoint,
    )?;
    log.start_incarnation(Epoch::new(1))?;
    Ok((log, report))
}

fn append(log: &Arc<Log>, promise: &mut Promise, count: usize) -> Result<(), Error> {
    for _ in 0..count {
        promise.issued = promise.issued % 250 + 1;
        let stamp = promise.issued;
        let lba = Lba(promise.stamps.len() as u64 % 64);
        let payload = Buffer::copy_of(&[stamp; 4096]);
        drop(log.append(vec![Change::write(lba, BlockSize::DEFAULT, payload)])?);
        promise.stamps.push(stamp);
    }
    Ok(())
}

fn sync(log: &Arc<Log>, promise: &mut Promise) -> Result<(), Error> {
    log.sync()?;
    promise.durable = promise.stamps.len();
    Ok(())
}

fn truncate(log: &Arc<Log>, promise: &mut Promise, after: usize) -> Result<(), Error> {
    promise.durable = promise.durable.min(after);
    log.truncate(Lsn::new(after as u64))?;
    promise.stamps.truncate(after);
    promise.durable = after;
    Ok(())
}

/// Appends, syncs, rotations, a truncation with new contents behind it, reclaim and reuse, a clean
/// close and a reopen.
fn story(sim: &Arc<SimDisk>, promise: &mut Promise) -> Result<(), Error> {
    create(&(Arc::clone(sim) as Arc<dyn Disk>))?;
    promise.created = true;
    let (log, _) = open(sim, 0)?;
    append(&log, promise, 2)?;
    sync(&log, promise)?;
    append(&log, promise, 6)?;
    sync(&log, promise)?;
    append(&log, promise, 3)?;
    truncate(&log, promise, 7)?;
    // Another content under an LSN that was used: a new incarnation names it (D2).
    log.start_incarnation(Epoch::new(1))?;
    append(&log, promise, 4)?;
    sync(&log, promise)?;
    log.mark()?;
    log.commit(Lsn::new(9))?;
    log.set_checkpoint(Lsn::new(9));
    promise.tail = 9;
    log.reclaim(Lsn::new(9))?;
    while log.step()? {}
    append(&log, promise, 5)?;
    sync(&log, promise)?;
    log.close()?;
    drop(log);
    let (log, _) = open(sim, 9)?;
    append(&log, promise, 3)?;
    sync(&log, promise)?;
    append(&log, promise, 1)?;
    log.mark()?;
    promise.durable = promise.stamps.len();
    Ok(())
}

fn read_all(log: &Arc<Log>) -> (u64, Vec<u8>) {
    let first = log.first_retained();
    let range = LsnRange::new(first.before(), log.frontiers().head);
    let stamps = log.read(range).unwrap().map(|record| {
        let record = record.unwrap();
        let stamp = record.payload()[0];
        assert!(
            record.payload().iter().all(|byte| *byte == stamp),
            "a torn record"
        );
        stamp
    });
    (first.before().get(), stamps.collect())
}

/// Reopens what the crash left, checks the promise, and returns the head that came back.
fn check(sim: &Arc<SimDisk>, promise: &Promise) -> Option<usize> {
    let (log, report) = match open(sim, promise.tail) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(!promise.created, "cannot be opened: {error}");
            return None;
        }
    };
    assert!(
        !matches!(report.end, ScanEnd::Damaged(_)),
        "a legal crash taken for damage: {report:?}"
    );
    let (before, stamps) = read_all(&log);
    let before = usize::try_from(before).unwrap();
    assert!(
        before as u64 <= promise.tail,
        "records above the tail are gone"
    );
    let head = before + stamps.len();
    assert!(
        head >= promise.durable,
        "{head} came back, {} was promised",
        promise.durable
    );
    assert!(
        head <= promise.stamps.len(),
        "{head} came back, {} issued",
        promise.stamps.len()
    );
    assert_eq!(stamps, promise.stamps[before..head], "contents");
    log.stop();
    Some(head)
}

fn survives(crashed: &Arc<SimDisk>, promise: &Promise) {
    let Some(head) = check(crashed, promise) else {
        return;
    };
    // L-W2: a second crash, right behind the open, takes nothing away.
    let mut after = promise.clone();
    after.durable = head;
    after.stamps.truncate(head);
    let again = crashed.crash_lose_all();
    assert_eq!(
        check(&again, &after),
        Some(head),
        "the second open knows less"
    );
    // A240: what was cut never comes back, whatever is appended behind it.
    let (log, _) = open(&again, promise.tail).unwrap();
    let payload = Buffer::copy_of(&[251; 4096]);
    let change = Change::write(Lba(0), BlockSize::DEFAULT, payload);
    log.append(vec![change]).unwrap().wait().unwrap();
    log.stop();
    drop(log);
    after.stamps.push(251);
    after.durable = after.stamps.len();
    assert_eq!(check(&again.crash_lose_all(), &after), Some(head + 1));
}

fn seeds() -> u64 {
    std::env::var("SEAWALL_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(4)
}

#[test]
fn every_crash_of_append_rotate_truncate_and_reclaim_is_survived() {
    let sim = SimDisk::new(7);
    let mut promise = Promise::default();
    story(&sim, &mut promise).unwrap();
    let changes = sim.changes();
    assert!(changes > 60, "the story has many boundaries, not {changes}");
    for boundary in 0..=changes {
        let sim = SimDisk::new(7);
        sim.freeze_after_ops(boundary);
        let mut promise = Promise::default();
        let done = story(&sim, &mut promise);
        assert!(
            done.is_ok() || sim.is_frozen(),
            "only the freeze may fail it: {done:?}"
        );
        survives(&sim.crash_keep_all(), &promise);
        survives(&sim.crash_lose_all(), &promise);
        for choice in 0..seeds() {
            println!("boundary {boundary} of {changes}, choice {choice}");
            survives(&sim.crash(boundary * 1000 + choice), &promise);
        }
    }
}

/// A crash in the middle of the open that repairs a crash, at every change it makes.
fn survives_twice(crashed: &Arc<SimDisk>, promise: &Promise, seed: u64) {
    let whole = crashed.crash(seed);
    drop(open(&whole, promise.tail));
    let changes = whole.changes();
    for boundary in 0..changes {
        let again = crashed.crash(seed);
        again.freeze_after_ops(boundary);
        drop(open(&again, promise.tail));
        check(&again.crash(boundary), promise);
        check(&again.crash_keep_all(), promise);
    }
}

#[test]
fn a_crash_in_the_middle_of_the_open_that_repairs_a_crash_is_survived() {
    let sim = SimDisk::new(7);
    story(&sim, &mut Promise::default()).unwrap();
    let changes = sim.changes();
    for boundary in 0..=changes {
        let sim = SimDisk::new(7);
        sim.freeze_after_ops(boundary);
        let mut promise = Promise::default();
        drop(story(&sim, &mut promise));
        for choice in 0..seeds() {
            println!("boundary {boundary} of {changes}, choice {choice}");
            survives_twice(&sim, &promise, boundary * 1000 + choice);
        }
    }
}

#[test]
fn a_failed_write_or_sync_poisons_the_log_and_loses_nothing_that_was_promised() {
    // L3, L-W1: the sync fails once and then would succeed; no acknowledgement follows.
    use crate::disk::sim::{Effect, Fault};
    let mut poisoned = 0;
    for op in [IoOp::Sync, IoOp::Write] {
        for skipped in 0..40 {
            let sim = SimDisk::new(3);
            let mut promise = Promise::default();
            create(&(Arc::clone(&sim) as Arc<dyn Disk>)).unwrap();
            promise.created = true;
            let (log, _) = open(&sim, 0).unwrap();
            let effect = match op {
                IoOp::Sync => Effect::LoseUnsynced,
                _ => Effect::ShortWrite(700),
            };
            sim.inject(Fault::at(op, effect).on(".seg").after(skipped));
            let failed = (0..20).find_map(|_| {
                append(&log, &mut promise, 1)
                    .and_then(|()| sync(&log, &mut promise))
                    .err()
            });
            if failed.is_some() {
                poisoned += 1;
                let next = promise.stamps.len() as u64 + 1;
                for _ in 0..3 {
                    assert!(matches!(
                        log.sync_through(Lsn::new(next)),
                        Err(Error::Poisoned { .. })
                    ));
                    let refused = append(&log, &mut promise, 1);
                    assert!(
                        matches!(refused, Err(Error::Poisoned { .. })),
                        "{refused:?}"
                    );
                }
                assert_eq!(log.frontiers().durable.get(), promise.durable as u64);
            }
            log.stop();
            drop(log);
            sim.clear_faults();
            check(&sim.crash_lose_all(), &promise);
        }
    }
    assert!(poisoned > 20, "the faults were met, {poisoned} times");
}

#[test]
fn a_full_disk_fails_appends_cleanly_and_they_work_again_without_a_reopen() {
    // L8: met at preparation, before an LSN is given out.
    let sim = SimDisk::new(5);
    let mut promise = Promise::default();
    create(&(Arc::clone(&sim) as Arc<dyn Disk>)).unwrap();
    promise.created = true;
    let (log, _) = open(&sim, 0).unwrap();
    sim.set_capacity(Some(400 << 10));
    let mut full = None;
    while full.is_none() && promise.stamps.len() < 200 {
        full = append(&log, &mut promise, 1).err();
        if full.is_none() {
            sync(&log, &mut promise).unwrap();
        }
    }
    let full = full.expect("the disk fills");
    assert!(full.is_out_of_space(), "{full}");
    let again = append(&log, &mut promise, 1).unwrap_err();
    assert!(again.is_out_of_space(), "{again}");
    sim.set_capacity(None);
    sync(&log, &mut promise).unwrap();
    append(&log, &mut promise, 20).unwrap();
    sync(&log, &mut promise).unwrap();
    log.stop();
    drop(log);
    assert_eq!(
        check(&sim.crash_lose_all(), &promise),
        Some(promise.stamps.len())
    );
}
