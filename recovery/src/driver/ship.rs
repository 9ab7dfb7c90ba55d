//! Sending the log: a catch-up to its frozen target, the tail of a rebuild, the live stream.

use std::time::Duration;

use seawall_wal::{Lsn, LsnRange, Record};

use super::attempt::{Attempt, LOOK};
use super::conversation::Batch;
use super::mending::{self, Mender};
use super::storage::VolumeStorage;
use super::tally::Tally;
use crate::error::Error;
use crate::id::Tick;
use crate::message::Body;
use crate::progress::Phase;

/// How a range of the log is sent, and who hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// The range of a catch-up session.
    CatchUp,
    /// The tail of a rebuild.
    Tail,
}

/// What a replica that was sent records owes.
const ACK: &str = "an acknowledgement";

/// Ticks between two looks at a stream that is busy.
const LOOK_TICKS: u64 = 100;

/// How far a replica came, and when.
#[derive(Clone, Copy, Debug)]
struct Reached {
    /// Where it was when this began.
    from: Lsn,
    lsn: Lsn,
    at: Tick,
    looked: Tick,
}

impl Attempt<'_> {
    pub(super) fn truncate(&self, to: Lsn) -> Result<(), Error> {
        self.talk.send(Body::Truncate { to })?;
        let done = match self.due("Truncated")? {
            Body::Truncated { to } => to,
            body => return Err(self.talk.unexpected(&body, "Truncated")),
        };
        self.shared
            .step(|core, now| core.orchestrator.truncated(self.call(now), done))
    }

    /// Brings the replica to the frozen target from the log.
    pub(super) fn catch_up(
        &self,
        range: LsnRange,
        truncate_to: Option<Lsn>,
        tally: &mut Tally,
    ) -> Result<Lsn, Error> {
        self.shared
            .step(|core, now| core.orchestrator.begin_catch_up(self.call(now), range))?;
        if let Some(to) = truncate_to {
            self.truncate(to)?;
        }
        self.send_range(range, Lane::CatchUp, tally)?;
        self.complete()
    }

    /// The session becomes a stream in one step (D6); the replica is told.
    pub(super) fn complete(&self) -> Result<Lsn, Error> {
        let owner = format!("stream {} of {}", self.session, self.replica);
        let mut storage = VolumeStorage {
            volume: &self.shared.volume,
            owner: &owner,
        };
        self.shared
            .step(|core, now| core.orchestrator.complete(self.call(now), &mut storage))
    }

    /// Sends `range` and waits until the replica holds all of it durably. Acknowledgements that
    /// come meanwhile are progress; a budget is checked before more is sent (H23).
    pub(super) fn send_range(
        &self,
        range: LsnRange,
        lane: Lane,
        tally: &mut Tally,
    ) -> Result<(), Error> {
        let mut reached = self.reached(range.after);
        let phase = match lane {
            Lane::CatchUp => Phase::CatchUp,
            Lane::Tail => Phase::Tail,
        };
        self.begin_phase(phase, range.len());
        if !range.is_empty() {
            Batch::each(self.shared.volume.log(), range, |batch| {
                self.pace(batch.bytes)?;
                // Who waits for its turn owes nothing meanwhile.
                reached.at = self.shared.now();
                self.send_batch(batch, lane, tally)?;
                self.take_progress(&mut reached, lane, Duration::ZERO)
            })?;
        }
        while reached.lsn < range.through {
            self.take_progress(&mut reached, lane, LOOK)?;
        }
        tally.record.records = range.len();
        Ok(())
    }

    fn send_batch(&self, batch: Batch, lane: Lane, tally: &mut Tally) -> Result<(), Error> {
        let through = batch.last().expect("a batch that is sent holds a record");
        tally.record.bytes += batch.bytes;
        let bytes = batch.bytes;
        self.note(|progress, now| progress.sent(bytes, now));
        let committed = self.shared.step(|core, now| {
            let call = self.call(now);
            if lane == Lane::CatchUp {
                core.orchestrator.sent(call, through, bytes)?;
            }
            Ok(core.orchestrator.ledger().committed())
        })?;
        self.talk.send(Body::Records {
            committed,
            records: batch.records,
        })
    }

    fn take_progress(
        &self,
        reached: &mut Reached,
        lane: Lane,
        patience: Duration,
    ) -> Result<(), Error> {
        let mut patience = patience;
        while let Some(body) = self.talk.receive(&self.inbox, patience)? {
            let Body::Ack { durable } = body else {
                return Err(self.talk.unexpected(&body, "Ack"));
            };
            if durable > reached.lsn {
                self.shared.step(|core, now| {
                    let call = self.call(now);
                    match lane {
                        Lane::CatchUp => core.orchestrator.progress(call, durable),
                        Lane::Tail => core.orchestrator.tail_progress(call, durable),
                    }
                })?;
                let now = self.shared.now();
                (reached.lsn, reached.at) = (durable, now);
                let done = LsnRange::new(reached.from, durable).len();
                self.note(|progress, now| progress.reached(done, 0, now));
            }
            patience = Duration::ZERO;
        }
        self.check_stall(ACK, reached.at, self.shared.stall_ticks())?;
        self.check_budget()
    }

    /// Ships what becomes durable here, until the primary stops or the connection ends (D3, D6).
    pub(super) fn stream(&self, at: Lsn) -> Result<(), Error> {
        self.talk.send(Body::InSync { lsn: at })?;
        self.shared.set_extra(self.aim, |extra| {
            extra.cause = None;
            extra.misassigned = false;
            extra.chunks = None;
            extra.progress = None;
            extra.live = Some(self.session);
        });
        let log = self.shared.volume.log();
        let (mut shipped, mut told) = (at, Lsn::ZERO);
        let mut reached = self.reached(at);
        let mut mender = Mender::default();
        loop {
            let stopping = self.shared.stopping();
            let patience = u64::try_from(LOOK.as_nanos()).expect("a short time");
            let durable = log.wait_durable_beyond(shipped, patience);
            let committed = self.shared.synced()?;
            if durable > shipped {
                self.ship(LsnRange::new(shipped, durable), committed)?;
                (shipped, told) = (durable, committed);
            }
            if committed > told {
                self.talk.send(Body::Commit { committed })?;
                told = committed;
            }
            self.hear_stream()?;
            let now = self.shared.clock.monotonic_ns();
            for question in mender.questions(&self.shared.volume, now) {
                self.talk.send(question)?;
            }
            self.check_stream(&mut reached, shipped)?;
            if stopping {
                return self.talk.send(Body::Bye);
            }
        }
    }

    fn reached(&self, lsn: Lsn) -> Reached {
        let at = self.shared.now();
        let looked = at;
        Reached {
            from: lsn,
            lsn,
            at,
            looked,
        }
    }

    /// A stream whose acknowledgements stand still while something was shipped is no stream.
    fn check_stream(&self, reached: &mut Reached, shipped: Lsn) -> Result<(), Error> {
        if self.shared.now().since(reached.looked) < LOOK_TICKS {
            return Ok(());
        }
        reached.looked = self.shared.now();
        let acknowledged = {
            let core = self.shared.core();
            let sender = core.orchestrator.registry().sender(self.replica)?;
            sender.view().stream.map(|stream| stream.acknowledged)
        };
        let lsn = acknowledged.unwrap_or(reached.lsn);
        if lsn > reached.lsn || lsn >= shipped {
            (reached.lsn, reached.at) = (lsn, self.shared.now());
        }
        self.check_stall(ACK, reached.at, self.shared.stall_ticks())
    }

    fn ship(&self, range: LsnRange, committed: Lsn) -> Result<(), Error> {
        Batch::each(self.shared.volume.log(), range, |batch| {
            self.ship_records(batch.records, range.through, committed)
        })
    }

    fn ship_records(
        &self,
        records: Vec<Record>,
        own_durable: Lsn,
        committed: Lsn,
    ) -> Result<(), Error> {
        let last = records.last().map(Record::lsn);
        let through = last.expect("a batch that is sent holds a record");
        self.shared.step(|core, now| {
            let call = self.call(now);
            core.orchestrator.ship(call, through, own_durable)
        })?;
        self.talk.send(Body::Records { committed, records })
    }

    /// What the listener could not count: an acknowledgement that came before the stream began, or
    /// one that breaks its rules; and blocks that one end lost.
    fn hear_stream(&self) -> Result<(), Error> {
        let now = Duration::ZERO;
        while let Some(body) = self.talk.receive(&self.inbox, now)? {
            let volume = &self.shared.volume;
            let durable = match body {
                Body::Ack { durable } => durable,
                Body::BlockQuery { lba } => {
                    self.talk.send(mending::answer(volume, lba))?;
                    continue;
                }
                Body::Block { lba, bytes } => {
                    mending::take(volume, lba, &bytes);
                    continue;
                }
                body => return Err(self.talk.unexpected(&body, "Ack")),
            };
            self.shared.step(|core, now| {
                let acknowledged = core.orchestrator.acknowledge(self.call(now), durable);
                acknowledged.map(drop)
            })?;
        }
        Ok(())
    }
}
