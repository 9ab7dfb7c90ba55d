//! Group commit: tickets in all their forms, frames that land in any order, and who is told what.
#![expect(
    clippy::disallowed_methods,
    reason = "tests call the log from several threads"
)]

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::commit::{PENDING_BYTES_MAX, write_of};
use crate::disk::sim::{Effect, Fault, SimDisk};
use crate::disk::{Buffer, Choice, open_backend};
use crate::draft::{Drafted, Frame};
use crate::flight::Phase;
use crate::tests::{Fixture, change};
use crate::*;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

fn simulated() -> (Arc<SimDisk>, Arc<Log>) {
    let sim = SimDisk::new(11);
    let fixture = Fixture::on(sim.clone());
    (sim, fixture.open().0)
}

/// Gives everything queued a place in a frame that is not written yet.
fn draft(log: &Log) -> Frame {
    let mut state = log.state();
    let goal = state.frontiers.head;
    match state.draft(&log.ids, 0, goal, usize::MAX, Phase::Claimed) {
        Drafted::Frame(frame) => frame,
        other => panic!("a record is queued: {other:?}"),
    }
}

#[test]
fn a_ticket_is_waited_for_looked_at_or_awaited_on_every_backend() {
    for choice in [Choice::Auto, Choice::Direct, Choice::Portable] {
        let fixture = Fixture::on_files_with(open_backend(choice).unwrap());
        let (log, _) = fixture.open();
        let waited = log.append(vec![change(1)]).unwrap();
        assert_eq!(waited.wait().unwrap(), Lsn::new(1));
        let awaited = log.append(vec![change(2)]).unwrap();
        assert_eq!(block_on(awaited).unwrap(), Lsn::new(2));
        let looked = log.append(vec![change(3)]).unwrap();
        assert_eq!(looked.check().unwrap(), None);
        assert_eq!(log.sync().unwrap(), Lsn::new(3));
        assert_eq!(looked.check().unwrap(), Some(Lsn::new(3)));
        log.close().unwrap();
    }
}

#[test]
fn one_thread_keeps_hundreds_of_appends_in_flight_on_every_backend() {
    for choice in [Choice::Auto, Choice::Direct, Choice::Portable] {
        let fixture = Fixture::on_files_with(open_backend(choice).unwrap());
        let (log, _) = fixture.open();
        let mut flying = VecDeque::new();
        for lsn in 1..=1500 {
            flying.push_back(log.append(vec![change(lsn)]).unwrap());
            if flying.len() == 400 {
                let oldest: Ticket = flying.pop_front().unwrap();
                let through = oldest.range().through;
                assert!(oldest.wait().unwrap() >= through);
            }
        }
        for ticket in flying {
            ticket.wait().unwrap();
        }
        log.stop();
        drop(log);
        let (log, report) = fixture.open();
        assert_eq!((report.end, report.records), (ScanEnd::Clean, 1500));
        assert_eq!(log.frontiers().durable, Lsn::new(1500));
    }
}

#[test]
fn the_frontier_waits_for_the_frame_in_front_however_they_land() {
    // L-W5: the second frame is on disk before the first.
    let (_, log) = simulated();
    let first = log.append(vec![change(1)]).unwrap();
    let one = draft(&log);
    let second = log.append(vec![change(2)]).unwrap();
    let two = draft(&log);
    let sequence = two.sequence;
    let done = log.disk.run(write_of(two, true));
    log.land(sequence, done);
    assert_eq!(log.frontiers().durable, Lsn::ZERO);
    assert_eq!(second.check().unwrap(), None);
    let sequence = one.sequence;
    let done = log.disk.run(write_of(one, true));
    log.land(sequence, done);
    assert_eq!(log.frontiers().durable, Lsn::new(2));
    assert_eq!(first.check().unwrap(), Some(Lsn::new(2)));
}

#[test]
fn what_lands_behind_a_failed_frame_is_never_acknowledged() {
    // L3: the first frame fails, the second is whole on disk.
    let (sim, log) = simulated();
    let first = log.append(vec![change(1)]).unwrap();
    let one = draft(&log);
    let second = log.append(vec![change(2)]).unwrap();
    let two = draft(&log);
    sim.inject(Fault::at(IoOp::Write, Effect::ShortWrite(512)).on(".seg"));
    for frame in [one, two] {
        let sequence = frame.sequence;
        let done = log.disk.run(write_of(frame, true));
        log.land(sequence, done);
    }
    assert_eq!(log.frontiers().durable, Lsn::ZERO);
    for ticket in [first, second] {
        assert!(matches!(ticket.wait(), Err(Error::Poisoned { .. })));
    }
}

#[test]
fn a_failed_write_is_told_to_those_who_await() {
    let (sim, log) = simulated();
    let mut ticket = pin!(log.append(vec![change(1)]).unwrap());
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    assert!(ticket.as_mut().poll(&mut context).is_pending());
    sim.inject(Fault::at(IoOp::Write, Effect::ShortWrite(512)).on(".seg"));
    // A stepped disk has no thread of its own: its user drives it (D22).
    while log.step().unwrap_or(false) {}
    let told = ticket.as_mut().poll(&mut context);
    assert!(
        matches!(told, Poll::Ready(Err(Error::Poisoned { .. }))),
        "{told:?}"
    );
}

#[test]
fn what_is_pending_stays_bounded_though_nobody_waits() {
    // 64 MiB of volatile appends; the bound is back pressure and not a refusal.
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    for round in 0..256 {
        let lba = Lba(round % 8);
        let payload = Buffer::copy_of(&[3; 256 << 10]);
        drop(log.append(vec![Change::write(lba, BlockSize::DEFAULT, payload)]));
        let pending = log.state().pending_bytes;
        assert!(pending <= PENDING_BYTES_MAX, "{pending} in round {round}");
    }
    assert_eq!(log.sync().unwrap(), Lsn::new(256));
}

#[test]
fn who_waits_for_a_record_that_a_truncation_drops_is_told() {
    let (_, log) = simulated();
    log.append(vec![change(1)]).unwrap().wait().unwrap();
    let ticket = log.append(vec![change(2)]).unwrap();
    log.sync().unwrap();
    log.truncate(Lsn::new(1)).unwrap();
    let told = ticket.wait();
    assert!(matches!(told, Err(Error::BeyondHead { .. })), "{told:?}");
}

#[test]
fn a_log_that_stops_tells_everybody_who_waits() {
    let fixture = Fixture::on_files();
    let (log, _) = fixture.open();
    let leader = log.lead_alone().unwrap();
    let told = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| log.append(vec![change(1)]).unwrap().wait());
        while log.state().queue_sleepers == 0 {
            std::thread::yield_now();
        }
        let stopping = scope.spawn(|| log.stop());
        let told = waiting.join().unwrap();
        drop(leader);
        stopping.join().unwrap();
        told
    });
    assert!(matches!(told, Err(Error::Closed)), "{told:?}");
}
