//! Every I/O operation of a story fails in turn, with EIO, short, for want of space, and as a sync
//! that loses what it covers: no wrong byte, no hang, the story goes on or a reopen makes it go on,
//! and what was acknowledged is there. `SEAWALL_STRIDE` says every which operation is tried.

use seawall_wal::IoOp;
use seawall_wal::disk::sim::{Effect, Fault};

use super::model::number;
use super::oracle::Change;
use super::story::{Op, Shape, Teller};
use super::*;

const SHAPE: Shape = Shape {
    block: 512,
    blocks: 40,
};
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn story() -> Vec<Op> {
    let write = |lba, blocks, fill| SHAPE.write(lba, blocks, fill);
    let trim = |lba, blocks| SHAPE.trim(lba, blocks, Durability::Durable);
    vec![
        write(0, 6, 1),
        write(33, 2, 2),
        Op::Flush,
        Op::Checkpoint(0),
        Op::PinSnapshot,
        write(2, 2, 3),
        trim(33, 1),
        Op::Change(Change::Write(700, vec![4; 900]), Durability::Durable),
        Op::PinBase(0),
        Op::Checkpoint(0),
        Op::ReadPin(0),
        Op::Read(0, 5000),
        write(8, 3, 5),
        Op::AdvanceTail(0),
        Op::Flush,
        Op::AdvanceTail(0),
        Op::PinState(0),
        write(0, 1, 6),
        Op::Flush,
        Op::Checkpoint(0),
        Op::ReadPin(1),
        Op::DropPin(0),
        Op::Look(1),
        Op::ReadPin(1),
        Op::DropPin(0),
        Op::DropPin(0),
        Op::AdvanceTail(0),
        Op::Close,
        write(1, 2, 7),
        Op::Checkpoint(0),
        Op::Flush,
        Op::Look(0),
        Op::AdvanceTail(0),
    ]
}

/// What became of a story under a fault.
#[derive(Debug, Default)]
struct Outcome {
    errors: u64,
    reopened: u64,
}

fn asks_for_a_reopen(error: &Error) -> bool {
    use seawall_wal::Error::{Corrupt, Poisoned};
    // D15: a record that could not be read counts as damaged until an open has read it.
    matches!(
        error,
        Error::ImageStopped { .. } | Error::Log(Poisoned { .. } | Corrupt(_))
    )
}

/// Opens again until it works; a fault that is met once can fail one open.
fn reopen(teller: &mut Teller, cut: bool, story: &str) {
    teller.leave();
    if cut {
        teller.sim = teller.sim.crash_lose_all();
    }
    if teller.open().is_err() {
        let opened = teller.open();
        assert!(opened.is_ok(), "{story}: {opened:?}");
    }
}

/// Goes on after every error, as a server would: with the same volume while it takes writes and
/// captures, with a reopened one after that.
fn tell(sim: Arc<SimDisk>, cut: bool, name: &str, trouble: impl Fn(&SimDisk)) -> (Teller, Outcome) {
    let mut teller = Teller::alone(sim, SHAPE).unwrap();
    trouble(&teller.sim);
    let mut outcome = Outcome::default();
    for op in story() {
        let Err(error) = teller.carry_out(&op) else {
            continue;
        };
        outcome.errors += 1;
        let story = format!("{name}, {op:?}: {error}");
        let dead = teller
            .volume
            .as_ref()
            .is_none_or(|volume| volume.is_closed() || volume.log().check_writable().is_err());
        if dead || asks_for_a_reopen(&error) {
            reopen(&mut teller, cut, &story);
            outcome.reopened += 1;
        }
    }
    (teller, outcome)
}

/// The trouble is over: everything works again, at the latest after a reopen, and all is there.
fn ends_well(mut teller: Teller, cut: bool, name: &str) {
    teller.sim.clear_faults();
    teller.sim.set_capacity(None);
    while teller.pins() > 0 {
        teller.drop_pin(0);
    }
    let last = [
        Op::Change(
            Change::Write(3 * SHAPE.block, vec![8; 512]),
            Durability::Durable,
        ),
        Op::Checkpoint(0),
        Op::AdvanceTail(0),
    ];
    for op in &last {
        if let Err(error) = teller.carry_out(op) {
            let story = format!("{name}, at the end, {op:?}: {error}");
            assert!(asks_for_a_reopen(&error), "a retry works (D21): {story}");
            reopen(&mut teller, cut, &story);
            let told = teller.carry_out(op);
            assert!(told.is_ok(), "{story}: {told:?}");
        }
    }
    teller.agree().unwrap_or_else(|e| panic!("{name}: {e}"));
    reopen(&mut teller, true, name);
    teller.agree().unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// Meets operation after operation with `effect`.
fn every_operation(name: &str, gate: u64, effect: Effect, op: Option<IoOp>) {
    let stride = number("SEAWALL_STRIDE").unwrap_or(gate);
    let (mut at, mut errors, mut reopened) = (number("SEAWALL_AT").unwrap_or(0), 0, 0);
    loop {
        let story = format!("{name}, operation {at}");
        println!("{story} (SEAWALL_AT={at} begins here)");
        let fault = match op {
            Some(op) => Fault::at(op, effect),
            None => Fault::at_any(effect),
        };
        let met = std::cell::Cell::new(false);
        let sim = match at % 2 {
            0 => SimDisk::new(at),
            _ => SimDisk::with_syncs(at),
        };
        // A lost sync shows in a power cut only; the others also when nothing is cut.
        let cut = matches!(effect, Effect::LoseUnsynced) || at % 3 == 0;
        let (teller, outcome) = tell(sim.clone(), cut, &story, |sim| {
            sim.inject(fault.clone().after(at));
        });
        met.set(sim.faults_left() == 0);
        errors += outcome.errors;
        reopened += outcome.reopened;
        ends_well(teller, cut, &story);
        if !met.get() {
            break;
        }
        at += stride;
    }
    println!("{name}: {at} operations, every {stride}.: {errors} errors, {reopened} reopens");
    assert!(errors > 0 && reopened > 0, "{name} hit nothing");
}

#[test]
fn an_operation_that_fails_with_eio_costs_no_acknowledged_byte() {
    every_operation("EIO", 5, Effect::FailErrno(EIO), None);
}

#[test]
fn a_write_that_stops_half_way_costs_no_acknowledged_byte() {
    every_operation("short write", 3, Effect::ShortWrite(700), Some(IoOp::Write));
}

#[test]
fn an_operation_that_finds_no_space_costs_no_acknowledged_byte() {
    every_operation("ENOSPC", 5, Effect::FailErrno(ENOSPC), None);
}

#[test]
fn a_sync_that_fails_once_is_never_taken_for_done() {
    every_operation("lost sync", 2, Effect::LoseUnsynced, Some(IoOp::Sync));
}

/// The disk is full from some moment on, and space comes back: no fault, just a limit (A249).
#[test]
fn a_full_disk_stops_nothing_for_good() {
    let (mut full, mut enough) = (0, false);
    let stride = number("SEAWALL_STRIDE").unwrap_or(3) << 15;
    for capacity in (0..).step_by(usize::try_from(stride).unwrap()) {
        let name = format!("{capacity} bytes");
        let (teller, outcome) = tell(SimDisk::new(capacity), false, &name, |sim| {
            sim.set_capacity(Some(capacity));
        });
        full += u64::from(outcome.errors > 0);
        enough = outcome.errors == 0;
        ends_well(teller, false, &name);
        if enough {
            break;
        }
    }
    println!("{full} sizes of a disk were too small");
    assert!(full > 2 && enough);
}

/// The tail had moved in memory before meta failed, so asking again said yes (D17).
#[test]
fn a_tail_that_meta_failed_to_take_is_not_acknowledged_by_asking_again() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    put(&volume, 1, 1);
    volume.checkpoint(None).unwrap();
    sim.inject(Fault::at(IoOp::Write, Effect::FailErrno(EIO)).on("/meta"));
    let first = volume.advance_tail(lsn(1));
    assert!(
        matches!(first, Err(Error::Log(seawall_wal::Error::Io { .. }))),
        "{first:?}"
    );
    let again = volume.advance_tail(lsn(1));
    assert!(
        matches!(again, Err(Error::Log(seawall_wal::Error::Poisoned { .. }))),
        "{again:?}"
    );
}

/// The log lost a record below the cut, and knows it.
#[test]
fn a_truncation_that_cannot_say_what_it_keeps_cuts_nothing() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let primary = place.primary();
    for value in 1..=5 {
        put(&primary, value.into(), value);
    }
    put(&primary, 1, 6);
    place.create("replica", options(Role::Replica));
    let replica = place.try_open("replica", Access::Replica).unwrap();
    let range = seawall_wal::LsnRange::new(Lsn::ZERO, lsn(6));
    let records = primary.log().read(range).unwrap().map(Result::unwrap);
    replica.receive(records.collect()).unwrap().wait().unwrap();
    primary.close().unwrap();
    drop(primary);
    for path in sim
        .paths()
        .into_iter()
        .filter(|path| path.starts_with("/replica/wal"))
    {
        let bytes = sim.read_file(&path).unwrap();
        if let Some(at) = bytes.windows(BLOCK).position(|part| part == [3; BLOCK]) {
            sim.flip(&path, at as u64, 1).unwrap();
        }
    }
    replica.log().read_record(lsn(3)).unwrap_err();
    let refused = replica.truncate(lsn(5));
    assert!(
        matches!(&refused, Err(Error::Log(seawall_wal::Error::Corrupt(corrupt)))
            if corrupt.lsn == Some(lsn(3))),
        "{refused:?}"
    );
    assert_eq!(replica.log().frontiers().head, lsn(6));
    assert_eq!((get(&replica, 1), get(&replica, 2)), (6, 2));
    // Below the damage there is nothing that it cannot say.
    replica.truncate(lsn(2)).unwrap();
    let values: Vec<_> = (1..6).map(|lba| get(&replica, lba)).collect();
    assert_eq!(values, [1, 2, 0, 0, 0]);
}

#[test]
fn what_a_failed_truncation_cut_is_not_read() {
    for op in [IoOp::Write, IoOp::Sync] {
        for part in ["meta", ".seg"] {
            for nth in 0..4 {
                let sim = SimDisk::new(1);
                let place = Place::simulated(&sim);
                let primary = place.primary();
                for value in 1..=3 {
                    put(&primary, 1, value);
                }
                place.create("replica", options(Role::Replica));
                let replica = place.try_open("replica", Access::Replica).unwrap();
                let range = seawall_wal::LsnRange::new(Lsn::ZERO, lsn(3));
                let records = primary
                    .log()
                    .read(range)
                    .unwrap()
                    .map(Result::unwrap)
                    .collect();
                replica.receive(records).unwrap().wait().unwrap();
                sim.inject(Fault::at(op, Effect::FailErrno(5)).on(part).after(nth));
                let truncated = replica.truncate(lsn(2));
                sim.clear_faults();
                let mut out = [0; BLOCK];
                let read = replica.read(BLOCK as u64, &mut out);
                let head = replica.log().frontiers().head;
                assert!(truncated.is_err() || head == lsn(2));
                if head == lsn(2) && read.is_ok() {
                    assert_eq!(out[0], 2, "{op:?} {part} {nth}");
                }
            }
        }
    }
}
