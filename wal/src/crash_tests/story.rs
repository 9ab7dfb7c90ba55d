//! Stories: what a log goes through between creation and the last crash, from a seed or from a
//! list.

use std::sync::{Arc, Mutex};

use super::judge::{create, open};
use super::model::{BLOCKS, Issued, Model, Random};
use crate::disk::Disk;
use crate::disk::sim::{SimDisk, Visitor, Watch};
use crate::*;

/// Sizes of segments, so that few records rotate and reuse (L-R6), or several frames are in flight.
const SEGMENT_BYTES: [u64; 3] = [32 << 10, 48 << 10, 128 << 10];
/// Blocks of a record that is handed to the disk at once.
const BURST_BLOCKS: u64 = 8;

/// One step of a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Appends so many records in one call, without waiting.
    Append(u64),
    /// Appends so many larger records, one by one: each goes on its way while others are.
    Burst(u64),
    /// Waits for the oldest ticket that nobody waited for, or for a later one.
    Wait(u64),
    /// Looks at every ticket, without waiting.
    Look,
    Sync,
    /// Hands what is queued to the disk, and does not sync it.
    Push,
    Mark,
    /// Commits everything durable but so many records.
    Commit(u64),
    /// The base captures everything committed but so many records.
    Checkpoint(u64),
    /// Reclaims through the checkpoint but so many records.
    Reclaim(u64),
    Step,
    /// Lets go of everything there is, and carries out what waits for that: segments are reused.
    Recycle,
    /// Removes the files kept for reuse, but one.
    Shrink,
    /// Truncates so many records, as far as the bounds allow, and starts an incarnation.
    Truncate(u64),
    /// Starts an incarnation, at an epoch so much higher.
    Incarnation(u64),
    /// Closes cleanly and opens again.
    Close,
    /// SIGKILL and open: everything written is there, as durable as it was.
    Kill,
    /// A power cut that keeps what the number draws, and open.
    Cut(u64),
}

/// An operation of a random story.
fn drawn(random: &mut Random) -> Op {
    match random.below(50) {
        0..=11 => Op::Append(random.between(1, 3)),
        12 => Op::Append(random.between(8, 40)),
        38..=41 => Op::Burst(random.between(2, 8)),
        13..=15 => Op::Wait(random.below(4)),
        16 => Op::Look,
        17..=19 => Op::Sync,
        20..=22 => Op::Push,
        23..=24 => Op::Mark,
        25..=26 => Op::Commit(random.below(3)),
        27..=28 => Op::Checkpoint(random.below(3)),
        29..=30 => Op::Reclaim(random.below(3)),
        31..=33 => Op::Step,
        42..=44 => Op::Recycle,
        45..=46 => Op::Shrink,
        34 => Op::Truncate(random.between(1, 6)),
        35 => Op::Incarnation(random.below(2)),
        36 => Op::Close,
        37 => Op::Kill,
        _ => Op::Cut(random.next()),
    }
}

/// A story from a seed: mostly appends, ended and begun again a few times.
pub(crate) fn random_story(seed: u64) -> Vec<Op> {
    let mut random = Random::new(seed);
    let length = random.between(10, 50);
    (0..length).map(|_| drawn(&mut random)).collect()
}

/// Every kind of operation at least once, with new contents behind a truncation, reuse behind a
/// reclaim, and a second life.
pub(crate) fn fixed_story() -> Vec<Op> {
    use Op::*;
    vec![
        Append(2),
        Sync,
        Burst(3),
        Append(3),
        Push,
        Append(1),
        Append(2),
        Sync,
        Append(3),
        Truncate(4),
        Append(4),
        Sync,
        Mark,
        Commit(1),
        Checkpoint(0),
        Reclaim(0),
        Step,
        Step,
        Step,
        Burst(8),
        Wait(2),
        Append(5),
        Look,
        Wait(0),
        Close,
        Burst(8),
        Push,
        Append(40),
        Wait(1),
        Commit(0),
        Checkpoint(2),
        Reclaim(1),
        Append(1),
        Cut(3),
        Append(2),
        Sync,
        Burst(4),
        Truncate(2),
        Burst(2),
        Mark,
        Append(1),
        Kill,
        Append(40),
        Recycle,
        Append(40),
        Recycle,
        Shrink,
        Burst(3),
        Sync,
    ]
}

/// A log in the middle of a story.
pub(crate) struct Teller {
    pub(crate) sim: Arc<SimDisk>,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) log: Option<Arc<Log>>,
    visitor: Visitor,
    random: Random,
    tickets: Vec<Ticket>,
    writer: (Epoch, Incarnation),
}

impl Teller {
    /// Creates the log on `sim` and opens it for the first time.
    pub(crate) fn begin(
        sim: Arc<SimDisk>,
        model: Arc<Mutex<Model>>,
        visitor: Visitor,
        seed: u64,
    ) -> Result<Teller, Error> {
        let mut teller = Teller {
            sim,
            model,
            log: None,
            visitor,
            random: Random::new(seed),
            tickets: Vec::new(),
            writer: (Epoch::new(1), Incarnation::default()),
        };
        let at = usize::try_from(seed / 2 % 3).unwrap();
        create(&teller.disk(), SEGMENT_BYTES[at])?;
        teller.model.lock().unwrap().created = true;
        teller.open()?;
        Ok(teller)
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Watch::over(&self.sim, Arc::clone(&self.visitor))
    }

    pub(crate) fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    pub(crate) fn log(&self) -> &Arc<Log> {
        self.log.as_ref().expect("the log is open")
    }

    fn open(&mut self) -> Result<(), Error> {
        let checkpoint = self.model().checkpoint;
        let (log, report) = open(&self.disk(), LogMode::Writable, checkpoint)?;
        let model = self.model().clone();
        super::judge::assert_kept(&log, &report, &model);
        assert_eq!(report.clean_close, model.closed, "the clean close");
        self.model().came_back(log.frontiers());
        self.log = Some(log);
        self.incarnation(0)
    }

    fn incarnation(&mut self, higher: u64) -> Result<(), Error> {
        let epoch = Epoch::new((self.writer.0.get() + higher).min(8));
        let entry = self.log().start_incarnation(epoch)?;
        self.writer = (entry.epoch, entry.incarnation);
        Ok(())
    }

    /// Forgets the log as a crash of the process would; nothing of it touches the disk any more.
    fn leave(&mut self) {
        self.tickets.clear();
        if let Some(log) = self.log.take() {
            log.stop();
        }
    }

    pub(crate) fn carry_out(&mut self, op: Op) -> Result<(), Error> {
        match op {
            Op::Append(count) => self.append(count, None)?,
            Op::Burst(count) => {
                for _ in 0..count {
                    self.append(1, Some(BURST_BLOCKS))?;
                }
            }
            Op::Wait(skipped) => self.wait(skipped)?,
            Op::Look => self.look()?,
            Op::Sync => {
                let durable = self.log().sync()?;
                let mut model = self.model();
                assert_eq!(
                    durable.get(),
                    model.issued(),
                    "a sync covers what came before"
                );
                model.acknowledge(durable);
            }
            Op::Push => self.log().admit(1 << 40)?,
            Op::Mark => {
                self.log().mark()?;
                let mut model = self.model();
                let all = Lsn::new(model.issued());
                model.acknowledge(all);
            }
            Op::Commit(behind) => self.commit(behind)?,
            Op::Checkpoint(behind) => self.checkpoint(behind),
            Op::Reclaim(behind) => self.reclaim(behind)?,
            Op::Step => drop(self.log().step()?),
            Op::Recycle => {
                self.commit(0)?;
                self.checkpoint(0);
                self.reclaim(0)?;
                while self.log().step()? {}
            }
            Op::Shrink => while self.log().remove_beyond(0)? {},
            Op::Truncate(count) => self.truncate(count)?,
            Op::Incarnation(higher) => self.incarnation(higher)?,
            Op::Close => {
                self.log().close()?;
                {
                    let mut model = self.model();
                    let all = Lsn::new(model.issued());
                    model.acknowledge(all);
                    model.closed = true;
                }
                self.leave();
                (self.visitor)(&self.sim);
                self.open()?;
            }
            Op::Kill => {
                let sim = self.sim.crash_keep_all();
                self.leave();
                self.sim = sim;
                self.open()?;
            }
            Op::Cut(choice) => {
                let sim = self.sim.crash(choice);
                self.leave();
                self.sim = sim;
                self.open()?;
            }
        }
        // What the log calls durable is a promise, whoever asked for it.
        let durable = self.log().frontiers().durable;
        self.model().acknowledge(durable);
        (self.visitor)(&self.sim);
        Ok(())
    }

    fn record(&mut self, blocks: Option<u64>) -> Issued {
        let kind = match self.random.below(6) {
            _ if blocks.is_some() => RecordKind::Write,
            0 => RecordKind::Trim,
            1 => RecordKind::WriteZeroes,
            _ => RecordKind::Write,
        };
        let blocks = match (kind, blocks.unwrap_or(self.random.below(6))) {
            (RecordKind::Write, BURST_BLOCKS) => BURST_BLOCKS,
            (RecordKind::Write, 0) => self.random.between(2, 16),
            (RecordKind::Write, _) => 1,
            _ => self.random.between(1, 100),
        };
        Issued {
            stamp: 0,
            kind,
            no_hole: kind == RecordKind::WriteZeroes && self.random.below(2) == 0,
            lba: self.random.below(BLOCKS - 100),
            blocks: u32::try_from(blocks).unwrap(),
            writer: self.writer,
        }
    }

    fn append(&mut self, count: u64, blocks: Option<u64>) -> Result<(), Error> {
        let records: Vec<Issued> = (0..count).map(|_| self.record(blocks)).collect();
        let (after, changes) = {
            let mut model = self.model();
            let after = model.issued();
            let records = records.into_iter();
            let changes = records.map(|record| model.issue(record).change());
            (after, changes.collect())
        };
        let ticket = self.log().append(changes)?;
        let range = LsnRange::new(Lsn::new(after), Lsn::new(after + count));
        assert_eq!(ticket.range(), range, "dense LSNs (L6)");
        self.tickets.push(ticket);
        Ok(())
    }

    fn wait(&mut self, skipped: u64) -> Result<(), Error> {
        let at = usize::try_from(skipped)
            .unwrap()
            .min(self.tickets.len().saturating_sub(1));
        if self.tickets.is_empty() {
            return Ok(());
        }
        let ticket = self.tickets.remove(at);
        let through = ticket.range().through;
        let durable = ticket.wait()?;
        assert!(durable >= through, "{durable} was given for {through}");
        self.model().acknowledge(durable);
        Ok(())
    }

    fn look(&mut self) -> Result<(), Error> {
        for ticket in std::mem::take(&mut self.tickets) {
            match ticket.check()? {
                Some(durable) => self.model().acknowledge(durable),
                None => self.tickets.push(ticket),
            }
        }
        Ok(())
    }

    fn commit(&mut self, behind: u64) -> Result<(), Error> {
        let durable = self.log().frontiers().durable.get();
        let target = durable.saturating_sub(behind);
        {
            let mut model = self.model();
            model.committed = model.committed.max(target);
        }
        self.log().commit(Lsn::new(target))
    }

    fn checkpoint(&mut self, behind: u64) {
        let frontiers = self.log().frontiers();
        let target = frontiers.committed.get().saturating_sub(behind);
        let target = target.max(frontiers.checkpoint.get());
        self.model().checkpoint = target;
        self.log().set_checkpoint(Lsn::new(target));
    }

    fn reclaim(&mut self, behind: u64) -> Result<(), Error> {
        let target = self
            .log()
            .frontiers()
            .checkpoint
            .get()
            .saturating_sub(behind);
        {
            let mut model = self.model();
            model.tail.1 = model.tail.1.max(target);
        }
        let tail = self.log().reclaim(Lsn::new(target))?.get();
        let mut model = self.model();
        assert_eq!(tail, model.tail.1, "no pin holds it back");
        model.tail.0 = tail;
        Ok(())
    }

    fn truncate(&mut self, count: u64) -> Result<(), Error> {
        let frontiers = self.log().frontiers();
        let after = {
            let mut model = self.model();
            let bound = frontiers.committed.get();
            let after = model.issued().saturating_sub(count).max(bound);
            model.begin_truncation(after);
            after
        };
        self.tickets.clear();
        self.log().truncate(Lsn::new(after))?;
        self.model().truncated();
        self.incarnation(0)
    }
}
