//! What survives a reopen, a failure, damage and a rewrite.

use seawall_wal::IoOp;
use seawall_wal::disk::FileDisk;
use seawall_wal::disk::sim::{Effect, Fault, SimDisk};

use super::*;

fn disk() -> Arc<dyn Disk> {
    FileDisk::new()
}

fn mark(replica: &str, set: bool) -> Entry {
    Entry::Mark {
        replica: replica.into(),
        set,
        cause: "outcome".into(),
    }
}

fn recovery(n: u64) -> Entry {
    Entry::Recovery(Box::new(RecoveryRecord {
        replica: "r1".into(),
        through: n,
        proof: "x".repeat(2000),
        ..RecoveryRecord::default()
    }))
}

fn decision(replica: &str, outcome: &str, session: &str) -> Entry {
    Entry::Decision {
        replica: replica.into(),
        made: DecisionRecord {
            session: session.into(),
            unix_ns: 5,
            outcome: outcome.into(),
            proof: "51 to 100".into(),
        },
    }
}

// D8: a crash in the middle of a recovery leaves no record of it, but the decision.
#[test]
fn the_last_decision_survives_a_reopen_and_a_rewrite_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = StateLog::open(&disk(), dir.path()).unwrap();
    log.append(decision("r1", "catch-up", "1")).unwrap();
    log.append(decision("r1", "needs rebuild", "2")).unwrap();
    log.append(decision("r2", "catch-up", "3")).unwrap();
    for rewrite in [false, true] {
        drop(log);
        log = StateLog::open(&disk(), dir.path()).unwrap();
        if rewrite {
            log.rewrite().unwrap();
        }
        let last = log.remembered("r1").decision.unwrap();
        assert_eq!((&*last.outcome, &*last.session), ("needs rebuild", "2"));
        assert!(log.repeats(&decision("r1", "needs rebuild", "9")));
        assert!(!log.repeats(&decision("r1", "catch-up", "1")));
        assert!(!log.repeats(&decision("r3", "catch-up", "1")));
    }
}

fn raw(dir: &Path) -> File {
    let path = dir.join(FOLDER).join(NAME);
    File::open(&disk(), &path, OpenMode::ReadWrite).unwrap()
}

// D21, L3
#[test]
fn appends_work_again_after_the_disk_was_full() {
    let (sim, dir) = (SimDisk::new(1), Path::new("/"));
    let of = |sim: &Arc<SimDisk>| -> Arc<dyn Disk> { sim.clone() };
    let mut log = StateLog::open(&of(&sim), dir).unwrap();
    log.append(mark("r1", true)).unwrap();
    sim.set_capacity(Some(0));
    let long = |replica: &str| Entry::Mark {
        replica: replica.into(),
        set: true,
        cause: "longer than what is allocated".repeat(400),
    };
    assert!(log.append(long("r2")).is_err());
    assert!(log.append(long("r3")).is_err());
    sim.set_capacity(None);
    log.append(mark("r4", true)).unwrap();
    drop(log);
    let log = StateLog::open(&of(&sim.crash_lose_all()), dir).unwrap();
    let marked = |replica: &str| log.remembered(replica).mark.is_some();
    let marks = ["r1", "r2", "r3", "r4"].map(marked);
    assert_eq!(marks, [true, false, false, true]);
}

// L-W1, L-W2: the process is killed after a failed sync, later the power goes.
#[test]
fn an_entry_whose_sync_failed_leaves_no_hole_behind_those_that_follow() {
    let (sim, dir) = (SimDisk::new(1), Path::new("/"));
    let of = |sim: &Arc<SimDisk>| -> Arc<dyn Disk> { sim.clone() };
    let mut log = StateLog::open(&of(&sim), dir).unwrap();
    log.append(mark("r1", true)).unwrap();
    sim.inject(Fault::at(IoOp::Sync, Effect::LoseUnsynced).on(NAME));
    assert!(log.append(mark("r2", true)).is_err());
    drop(log);
    let killed = sim.crash_keep_all();
    let mut log = StateLog::open(&of(&killed), dir).unwrap();
    log.append(mark("r3", true)).unwrap();
    drop(log);
    let log = StateLog::open(&of(&killed.crash_lose_all()), dir).unwrap();
    assert!(log.remembered("r1").mark.is_some());
    assert!(log.remembered("r3").mark.is_some());
}

// D8, A131
#[test]
fn marks_and_epochs_survive_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = StateLog::open(&disk(), dir.path()).unwrap();
    let node = NodeIncarnation([0xab; 16]);
    log.append(mark("r1", true)).unwrap();
    log.append(mark("r2", true)).unwrap();
    log.append(mark("r2", false)).unwrap();
    log.append(Entry::Sender {
        replica: "r1".into(),
        epoch: 7,
        node: Some(node.to_string()),
    })
    .unwrap();
    log.append(recovery(9)).unwrap();
    drop(log);
    let log = StateLog::open(&disk(), dir.path()).unwrap();
    let remembered = Remembered {
        mark: Some("outcome".into()),
        epoch: Some(7),
        node: Some(node),
        decision: None,
    };
    assert_eq!(log.remembered("r1"), remembered);
    assert_eq!(log.remembered("r2"), Remembered::default());
    assert_eq!(log.recoveries()[0].through, 9);
}

#[test]
fn a_torn_last_entry_is_cut_and_appended_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = StateLog::open(&disk(), dir.path()).unwrap();
    log.append(mark("r1", true)).unwrap();
    let whole = log.end;
    log.append(mark("r1", false)).unwrap();
    let end = log.end;
    drop(log);
    for length in whole..end {
        raw(dir.path()).set_length(length).unwrap();
        let mut log = StateLog::open(&disk(), dir.path()).unwrap();
        assert_eq!((log.end, log.sequence), (whole, 1));
        assert!(log.remembered("r1").mark.is_some());
        log.append(mark("r1", false)).unwrap();
        assert_eq!(log.end, end);
    }
}

#[test]
fn damage_before_a_valid_entry_is_reported_and_never_cut() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = StateLog::open(&disk(), dir.path()).unwrap();
    log.append(mark("r1", true)).unwrap();
    let first = usize::try_from(log.end).unwrap();
    log.append(mark("r2", true)).unwrap();
    let length = log.end;
    drop(log);
    for byte in 0..first {
        let file = raw(dir.path());
        let mut bytes = file.read_exact(byte as u64, 1).unwrap();
        bytes[0] ^= 0x10;
        file.write_bytes(byte as u64, Buffer::copy_of(&bytes))
            .unwrap();
        assert!(matches!(
            StateLog::open(&disk(), dir.path()),
            Err(Error::StateLog { offset: 0, .. })
        ));
        assert_eq!(file.length().unwrap(), length);
        bytes[0] ^= 0x10;
        file.write_bytes(byte as u64, bytes).unwrap();
    }
}

#[test]
fn a_flipped_bit_is_reported_or_costs_the_last_entry_and_teaches_nothing_else() {
    let (sim, dir) = (SimDisk::new(1), Path::new("/"));
    let path = dir.join(FOLDER).join(NAME);
    let of = |sim: &Arc<SimDisk>| -> Arc<dyn Disk> { sim.clone() };
    let mut log = StateLog::open(&of(&sim), dir).unwrap();
    log.append(mark("r1", true)).unwrap();
    log.append(mark("r2", true)).unwrap();
    let last = log.end;
    let before = log.replicas.clone();
    log.append(mark("r1", false)).unwrap();
    let end = log.end;
    drop(log);
    for bit in 0..end * 8 {
        let cut = sim.crash_keep_all();
        cut.flip(&path, bit / 8, 1 << (bit % 8)).unwrap();
        match StateLog::open(&of(&cut), dir) {
            // Behind the last valid entry a flip looks like a torn one.
            Ok(log) => assert_eq!((log.end, &log.replicas), (last, &before), "bit {bit}"),
            Err(Error::StateLog { offset, .. }) => {
                assert!(offset <= bit / 8 && bit / 8 < last, "bit {bit} at {offset}");
            }
            Err(error) => panic!("bit {bit}: {error}"),
        }
    }
}

#[test]
fn a_long_log_is_rewritten_and_teaches_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = StateLog::open(&disk(), dir.path()).unwrap();
    log.append(mark("r1", true)).unwrap();
    let (epoch, version) = (3, 7);
    log.append(Entry::Assigned { epoch, version }).unwrap();
    for n in 0..400 {
        log.append(recovery(n)).unwrap();
    }
    let (before, sequence) = (log.end, log.sequence);
    drop(log);
    let mut log = StateLog::open(&disk(), dir.path()).unwrap();
    assert!(log.end < before);
    assert!(log.sequence > sequence, "a rewrite goes on counting");
    log.append(mark("r2", true)).unwrap();
    drop(log);
    let log = StateLog::open(&disk(), dir.path()).unwrap();
    assert!(log.remembered("r1").mark.is_some());
    assert!(log.remembered("r2").mark.is_some());
    assert_eq!((log.version(3), log.version(4)), (Some(7), None));
    assert_eq!(log.recoveries().len(), HISTORY_MAX);
    assert_eq!(log.recoveries()[HISTORY_MAX - 1].through, 399);
}
