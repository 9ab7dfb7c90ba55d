//! Every I/O operation of a story fails in turn, in every way an operation can fail: no later
//! acknowledgement, everybody who waits is told, nobody hangs, and a reopen tells the truth (L3).
#![expect(
    clippy::disallowed_methods,
    reason = "callers wait in threads of their own, under a watchdog"
)]

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use crate::crash_tests::judge::{assert_contents, assert_kept, create, open, plain};
use crate::crash_tests::model::{Issued, Model};
use crate::crash_tests::story::{Op, Teller, fixed_story};
use crate::crash_tests::stride;
use crate::disk::sim::{Effect, Fault, SECTOR, SimDisk};
use crate::*;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// How long anything here may take before it counts as a hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Aborts the process when it is not dropped in time: a hang is a failure with a place.
struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn over(what: &str) -> Watchdog {
        let (alive, dead): (_, Receiver<()>) = channel();
        let what = what.to_owned();
        std::thread::spawn(move || {
            if dead.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                println!("somebody hangs: {what}");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// Appends of one caller: enough to meet every fault that is set for them.
const TURNS: u64 = 60;

fn nobody() -> crate::disk::sim::Visitor {
    Arc::new(|_| {})
}

fn disk(with_syncs: bool) -> Arc<SimDisk> {
    match with_syncs {
        true => SimDisk::with_syncs(11),
        false => SimDisk::new(11),
    }
}

/// What a story came to under a fault.
struct Told {
    sim: Arc<SimDisk>,
    model: Model,
    /// Whether an operation failed, and whether the log takes no more since.
    failed: bool,
    poisoned: bool,
}

/// Tells the fixed story until an operation fails; from then on nothing may be acknowledged, unless
/// the failure was a full disk that was met before anything was written.
fn tell(with_syncs: bool, fault: Option<Fault>) -> Told {
    let model = Arc::new(Mutex::new(Model::default()));
    let sim = disk(with_syncs);
    if let Some(fault) = fault {
        sim.inject(fault);
    }
    let begun = Teller::begin(Arc::clone(&sim), Arc::clone(&model), nobody(), 3);
    let Ok(mut teller) = begun else {
        let model = model.lock().unwrap().clone();
        return Told {
            sim,
            model,
            failed: true,
            poisoned: false,
        };
    };
    // The faults of a disk do not outlive a crash of the story, so it has none here.
    let ops = fixed_story().into_iter();
    let ops = ops.filter(|op| !matches!(op, Op::Kill | Op::Cut(_)));
    let mut failed = None;
    for op in ops {
        if let Err(error) = teller.carry_out(op) {
            failed = Some(error);
            break;
        }
    }
    let sim = Arc::clone(&teller.sim);
    let mut poisoned = false;
    if failed.is_some() && teller.log.is_some() {
        poisoned = refuses_more(&mut teller);
    }
    if let Some(log) = teller.log.take() {
        log.stop();
    }
    drop(teller);
    let model = model.lock().unwrap().clone();
    Told {
        sim,
        model,
        failed: failed.is_some(),
        poisoned,
    }
}

/// After a failed operation: durable stays where it was, whatever is tried; or everything works
/// again. Gives whether the log is poisoned.
fn refuses_more(teller: &mut Teller) -> bool {
    let durable = teller.log().frontiers().durable;
    let poisoned = matches!(teller.log().check_writable(), Err(Error::Poisoned { .. }));
    if !poisoned {
        return false;
    }
    for op in [Op::Append(1), Op::Burst(1), Op::Wait(0), Op::Mark] {
        // OK because what is asked of a poisoned log is in the model only as issued.
        drop(teller.carry_out(op));
        assert_eq!(
            teller.log().frontiers().durable,
            durable,
            "{op:?} was acknowledged"
        );
    }
    let log = Arc::clone(teller.log());
    let issued = teller.model().issued();
    for lsn in durable.get() + 1..=issued {
        let waited = log.sync_through(Lsn::new(lsn));
        assert!(
            waited.is_err(),
            "LSN {lsn} was acknowledged after the failure"
        );
    }
    if log.frontiers().head > durable {
        assert!(matches!(log.sync(), Err(Error::Poisoned { .. })));
    }
    assert!(matches!(log.mark(), Err(Error::Poisoned { .. })), "L3");
    assert!(matches!(log.close(), Err(Error::Poisoned { .. })), "L3");
    assert_eq!(log.frontiers().durable, durable);
    true
}

/// The disk after the machine, or only the process, went down: everything acknowledged is there.
fn tells_the_truth(told: &Told, choice: u64) {
    told.sim.clear_faults();
    told.sim.set_capacity(None);
    let crashes = [
        told.sim.crash_lose_all(),
        told.sim.crash_keep_all(),
        told.sim.crash(choice),
    ];
    for sim in crashes {
        let checkpoint = told.model.checkpoint;
        match open(&plain(&sim), LogMode::Writable, checkpoint) {
            Ok((log, report)) => {
                assert_kept(&log, &report, &told.model);
                log.stop();
            }
            Err(error) => assert!(!told.model.created, "cannot be opened: {error}"),
        }
    }
}

fn effects(op: IoOp) -> Vec<Effect> {
    let mut effects = vec![Effect::FailErrno(EIO), Effect::FailErrno(ENOSPC)];
    match op {
        IoOp::Write => effects.extend([0, 700, 4096, 9000].map(Effect::ShortWrite)),
        IoOp::Sync => effects.push(Effect::LoseUnsynced),
        _ => {}
    }
    effects
}

const OPS: [IoOp; 9] = [
    IoOp::Open,
    IoOp::Read,
    IoOp::Write,
    IoOp::Sync,
    IoOp::Length,
    IoOp::List,
    IoOp::MakeDir,
    IoOp::Remove,
    IoOp::SyncDir,
];

#[test]
fn a_failure_of_any_operation_ends_acknowledgements_and_a_reopen_tells_the_truth() {
    // L3, L-W1, L-W4, L-W6: each operation of the story fails once and would then succeed.
    let mut faults = 0;
    let mut poisoned = 0;
    for with_syncs in [false, true] {
        for op in OPS {
            for effect in effects(op) {
                let stride = stride(19);
                let mut index = faults % stride;
                loop {
                    let what = format!("{op:?} {index} meets {effect:?}, syncs {with_syncs}");
                    println!("{what}");
                    let _watchdog = Watchdog::over(&what);
                    let told = tell(with_syncs, Some(Fault::at(op, effect).after(index)));
                    if told.sim.faults_left() > 0 {
                        break;
                    }
                    faults += 1;
                    poisoned += u64::from(told.poisoned);
                    let must_fail = matches!(op, IoOp::Write | IoOp::Sync | IoOp::SyncDir);
                    let full = effect == Effect::FailErrno(ENOSPC);
                    assert!(told.failed || full || !must_fail, "{what} went unnoticed");
                    tells_the_truth(&told, index);
                    index += stride;
                }
            }
        }
    }
    println!("{faults} faults met, {poisoned} of them poisoned the log");
    assert!(faults > 60, "{faults} faults were met");
    assert!(poisoned > 20, "{poisoned} faults poisoned the log");
}

fn small(stamp: u64, writer: (Epoch, Incarnation)) -> Issued {
    Issued {
        stamp,
        kind: RecordKind::Write,
        no_hole: false,
        lba: stamp % 100,
        blocks: 8,
        writer,
    }
}

/// Callers that append and wait until they are refused; gives the last LSN that each was told is
/// durable. Each has to be refused, unless the disk was only `full` for one of them.
fn callers(log: &Arc<Log>, count: u64, full: bool) -> Vec<Lsn> {
    let writer = (Epoch::new(1), Incarnation::default());
    let start = Arc::new(Barrier::new(usize::try_from(count).unwrap()));
    let call = |number| {
        let (log, start) = (Arc::clone(log), Arc::clone(&start));
        std::thread::spawn(move || {
            start.wait();
            let mut told = Lsn::ZERO;
            for turn in 0..TURNS {
                let change = small(number * TURNS + turn, writer).change();
                let ticket = match log.append(vec![change]) {
                    Ok(ticket) => ticket,
                    Err(_) => return told,
                };
                match ticket.wait() {
                    Ok(durable) => told = told.max(durable),
                    Err(_) => return told,
                }
            }
            assert!(full, "caller {number} was never told");
            told
        })
    };
    let threads: Vec<_> = (0..count).map(call).collect();
    let joined = threads.into_iter().map(|thread| thread.join().unwrap());
    joined.collect()
}

#[test]
fn every_waiter_is_told_when_the_write_or_sync_for_all_of_them_fails() {
    // L-W3, L3: many callers share frames and syncs; one fails once and the next would succeed.
    let mut told_something = 0;
    for (with_syncs, op) in [
        (false, IoOp::Write),
        (true, IoOp::Write),
        (true, IoOp::Sync),
    ] {
        let step = usize::try_from(stride(5)).unwrap();
        for skipped in (0..24).step_by(step) {
            for effect in effects(op) {
                let what = format!("{op:?} {skipped} meets {effect:?}, syncs {with_syncs}");
                let _watchdog = Watchdog::over(&what);
                let full = effect == Effect::FailErrno(ENOSPC);
                let sim = disk(with_syncs);
                create(&plain(&sim), 128 << 10).unwrap();
                let (log, _) = open(&plain(&sim), LogMode::Writable, 0).unwrap();
                log.start_incarnation(Epoch::new(1)).unwrap();
                sim.inject(Fault::at(op, effect).on(".seg").after(skipped));
                let told = callers(&log, 6, full).into_iter().max().unwrap();
                told_something += u64::from(told > Lsn::ZERO);
                let refused = log.append(vec![
                    small(1, (Epoch::new(1), Incarnation::default())).change(),
                ]);
                match refused {
                    Err(Error::Poisoned { .. }) => {}
                    // A full disk that was met while a segment was prepared takes nothing along.
                    Ok(ticket) if full => drop(ticket.wait().unwrap()),
                    other => panic!("{what}: {other:?}"),
                }
                assert!(log.frontiers().durable >= told);
                log.stop();
                drop(log);
                sim.clear_faults();
                let sim = sim.crash_lose_all();
                let (log, report) = open(&plain(&sim), LogMode::Writable, 0).unwrap();
                assert!(
                    !matches!(report.end, ScanEnd::Damaged(_)),
                    "{what}: {report:?}"
                );
                let head = log.frontiers().head;
                assert!(
                    head >= told,
                    "{what}: {told} was acknowledged, {head} came back"
                );
                log.prove_full(LsnRange::new(Lsn::ZERO, head)).unwrap();
            }
        }
    }
    assert!(
        told_something > 15,
        "the faults come after some acknowledgements"
    );
}

#[test]
fn a_full_disk_fails_appends_cleanly_and_they_work_again_without_a_reopen() {
    // L8: met at preparation, before an LSN is given out.
    for with_syncs in [false, true] {
        let sim = disk(with_syncs);
        create(&plain(&sim), 48 << 10).unwrap();
        let (log, _) = open(&plain(&sim), LogMode::Writable, 0).unwrap();
        let entry = log.start_incarnation(Epoch::new(1)).unwrap();
        let writer = (entry.epoch, entry.incarnation);
        sim.set_capacity(Some(400 << 10));
        let mut model = Model::default();
        let mut append = |log: &Arc<Log>| {
            let change = model.clone().issue(small(0, writer)).change();
            let ticket = log.append(vec![change])?;
            model.issue(small(0, writer));
            model.acknowledge(ticket.wait()?);
            Ok(model.clone())
        };
        let full = (0..200).find_map(|_| append(&log).err());
        let full: Error = full.expect("the disk fills");
        assert!(full.is_out_of_space(), "{full}");
        let again = append(&log).unwrap_err();
        assert!(again.is_out_of_space(), "{again}");
        sim.set_capacity(None);
        for _ in 0..20 {
            append(&log).unwrap();
        }
        let model = append(&log).unwrap();
        log.stop();
        drop(log);
        let sim = sim.crash_lose_all();
        let (log, _) = open(&plain(&sim), LogMode::Writable, 0).unwrap();
        assert_contents(&log, &model, 0, model.issued());
    }
}

/// A log of several segments; `closed` cleanly, or as the last acknowledgement left it.
fn finished(closed: bool) -> (Arc<SimDisk>, Model) {
    let sim = SimDisk::new(1);
    let mut model = Model::default();
    create(&plain(&sim), 48 << 10).unwrap();
    let (log, _) = open(&plain(&sim), LogMode::Writable, 0).unwrap();
    let entry = log.start_incarnation(Epoch::new(1)).unwrap();
    for _ in 0..9 {
        let record = model.issue(small(0, (entry.epoch, entry.incarnation)));
        let ticket = log.append(vec![record.change()]).unwrap();
        model.acknowledge(ticket.wait().unwrap());
    }
    while log.step().unwrap() {}
    match closed {
        true => log.close().unwrap(),
        false => log.stop(),
    }
    drop(log);
    (sim.crash_lose_all(), model)
}

/// What an open under a read error may say: that it cannot read, or damage, or everything.
fn is_honest(sim: &Arc<SimDisk>, model: &Model, mode: LogMode, what: &str) {
    let (log, report) = match open(&plain(sim), mode, 0) {
        Ok(opened) => opened,
        Err(_) => return,
    };
    if !matches!(report.end, ScanEnd::Damaged(_)) {
        let head = log.frontiers().head.get();
        assert_eq!(head, model.issued(), "{what}: {report:?}");
        let range = LsnRange::new(Lsn::ZERO, log.frontiers().head);
        if log.prove_full(range).is_ok() {
            assert_contents(&log, model, 0, head);
        }
    }
    log.stop();
}

/// Every sector that the log may read, in turn.
fn sectors(sim: &SimDisk) -> Vec<(std::path::PathBuf, u64)> {
    let files = sim.paths().into_iter();
    let each = files.flat_map(|path| {
        let length = sim.read_file(&path).unwrap().len() as u64;
        (0..length.div_ceil(SECTOR)).map(move |sector| (path.clone(), sector * SECTOR))
    });
    each.collect()
}

#[test]
fn an_unreadable_sector_is_never_taken_for_the_end_of_the_log() {
    // L-T5, L-T10: an open that meets it may refuse, or report damage, but not come back with less.
    for closed in [true, false] {
        let (sim, model) = finished(closed);
        let step = usize::try_from(stride(7)).unwrap();
        for (path, at) in sectors(&sim).into_iter().step_by(step) {
            for mode in [LogMode::ReadOnly, LogMode::Writable] {
                let what = format!("{} at {at}, {mode:?}, closed {closed}", path.display());
                let bad = sim.crash_lose_all();
                bad.set_unreadable(&path, at..at + SECTOR).unwrap();
                is_honest(&bad, &model, mode, &what);
            }
        }
    }
}

#[test]
fn a_read_that_fails_once_at_open_costs_no_acknowledged_record() {
    // L-T5: with and without a clean close; the open may refuse, and the next one has everything.
    for closed in [true, false] {
        let (sim, model) = finished(closed);
        for index in 0.. {
            let what = format!("read {index} fails, closed {closed}");
            println!("{what}");
            let bad = sim.crash_lose_all();
            bad.inject(Fault::at(IoOp::Read, Effect::FailErrno(EIO)).after(index));
            is_honest(&bad, &model, LogMode::Writable, &what);
            if bad.faults_left() > 0 {
                break;
            }
            let after = bad.crash_lose_all();
            let (log, report) = open(&plain(&after), LogMode::Writable, 0).unwrap();
            assert!(
                !matches!(report.end, ScanEnd::Damaged(_)),
                "{what}: {report:?}"
            );
            assert_contents(&log, &model, 0, model.issued());
            log.stop();
        }
    }
}
