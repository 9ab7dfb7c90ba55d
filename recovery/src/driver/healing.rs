//! Records that a log lost below its durable frontier, given back by the other end (D14).
//!
//! Whoever lost them asks, range by range, when its log is ready to take them: a primary at rest
//! asks its replicas, a replica its primary, in the session that the primary opened.

use std::collections::VecDeque;
use std::sync::Arc;
use std::vec;

use seawall_snapshot::Volume;
use seawall_wal::{Fork, Lsn, LsnRange, Record, ReplayReport};

use super::assigning::draw_ids;
use super::attempt::{Attempt, hello_of};
use super::conversation::{Batch, SILENCE};
use super::primary::{Primary, PrimaryOptions, ReplicaAddress};
use super::storage::history_of;
use super::{ANSWER, ask, unexpected};
use crate::error::Error;
use crate::history::{ReplicaFacts, Standing};
use crate::id::SessionIds;
use crate::message::{Body, Fence, Message, Refusal};
use crate::session::Kind;
use crate::transport::{self, Link};

/// Where lost records come from.
pub(super) trait Source {
    /// Some records, the first of `rest` first.
    fn give(&mut self, rest: LsnRange) -> Result<Vec<Record>, Error>;
}

/// The records of some ranges, in order, as they arrive. Ends early at an error, which it keeps.
pub(super) struct Given<S> {
    rest: VecDeque<LsnRange>,
    source: S,
    batch: vec::IntoIter<Record>,
    count: u64,
    failed: Option<Error>,
}

impl<S: Source> Given<S> {
    pub(super) fn new(ranges: Vec<LsnRange>, source: S) -> Given<S> {
        Given {
            rest: ranges.into(),
            source,
            batch: Vec::new().into_iter(),
            count: 0,
            failed: None,
        }
    }

    /// What opened, with the number of records, or the error that cut the records off: the log only
    /// knows that one was missing.
    fn settle<R>(self, healed: Result<R, seawall_snapshot::Error>) -> Result<(R, u64), Error> {
        match (healed, self.failed) {
            (Ok(opened), _) => Ok((opened, self.count)),
            (Err(_), Some(failed)) => Err(failed),
            (Err(error), None) => Err(error.into()),
        }
    }

    fn refill(&mut self, rest: LsnRange) -> Result<(), Error> {
        let records = self.source.give(rest)?;
        if let Some(last) = records.last().map(Record::lsn) {
            self.rest.pop_front();
            if last < rest.through {
                self.rest.push_front(LsnRange::new(last, rest.through));
            }
        }
        self.batch = records.into_iter();
        Ok(())
    }
}

impl<S: Source> Iterator for Given<S> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.batch.next() {
                self.count += 1;
                return Some(record);
            }
            let rest = *self.rest.front().filter(|_| self.failed.is_none())?;
            if let Err(error) = self.refill(rest) {
                self.failed = Some(error);
            }
        }
    }
}

/// Fetches what the log of `volume` lost and gives the volume anew, with what the open found and
/// how many records came back. Whatever comes of it, `volume` is closed.
pub(super) fn heal(
    volume: &Volume,
    source: impl Source,
) -> Result<(Arc<Volume>, ReplayReport, u64), Error> {
    let mut given = Given::new(volume.log().lost(), source);
    let healed = volume.heal(&mut given);
    let ((volume, report), records) = given.settle(healed)?;
    Ok((volume, report, records))
}

/// A volume whose log is whole again.
#[derive(Debug)]
pub struct Healed {
    /// It, opened anew.
    pub volume: Arc<Volume>,
    /// What the open found.
    pub report: ReplayReport,
    /// Records that came back.
    pub records: u64,
}

impl Primary {
    /// Fetches the records that the log of a primary at rest lost (`Log::lost`) from its replicas,
    /// and puts them back as `Log::heal` says: what the log still knows of each proves it. Call it
    /// where an open reports damage, before [`Primary::start`]. The volume that was given is closed
    /// whatever comes of it; a damaged one that nobody could heal is as it was.
    ///
    /// # Errors
    /// [`Error::NotHealed`] with the records that no replica gives back; [`Error::Volume`] when
    /// what was given is not what was lost, or the log cannot be written anew.
    pub fn heal(volume: &Arc<Volume>, options: &PrimaryOptions) -> Result<Healed, Error> {
        let source = Replicas::of(volume, options)?;
        let (volume, report, records) = heal(volume, source)?;
        Ok(Healed {
            volume,
            report,
            records,
        })
    }
}

/// Replicas that are asked one after the other, each range in a session of its own: nobody has to
/// be kept alive while our log is written.
struct Replicas<'a> {
    volume: &'a Volume,
    options: &'a PrimaryOptions,
    replicas: Vec<ReplicaAddress>,
    ids: SessionIds,
    /// Whom to ask next.
    at: usize,
    asked: Option<(Link, Fence)>,
}

impl<'a> Replicas<'a> {
    fn of(volume: &'a Volume, options: &'a PrimaryOptions) -> Result<Replicas<'a>, Error> {
        let assigned = options.assigned(volume.meta().get().epoch).replicas;
        let replicas = assigned.into_iter().map(|(id, endpoint)| ReplicaAddress {
            id: id.to_string(),
            address: endpoint.data,
        });
        Ok(Replicas {
            volume,
            options,
            replicas: replicas.collect(),
            ids: draw_ids()?,
            at: 0,
            asked: None,
        })
    }

    /// Opens a session with a replica and asks for `range`.
    fn ask(&mut self, replica: &ReplicaAddress, range: LsnRange) -> Result<(Link, Fence), Error> {
        let link = transport::dial(&replica.address, &self.options.security, ANSWER)?;
        let meta = self.volume.meta().get();
        let fence = Fence {
            volume: Some(meta.volume),
            epoch: Some(meta.epoch),
            session: Some(self.ids.next_id()),
        };
        // What it counts as committed is told by a primary that serves.
        let standing = (Lsn::ZERO, Standing::Unconfirmed);
        let hello = Body::Hello(hello_of(self.volume, &replica.id, standing));
        match ask(&link, fence, hello)? {
            Body::HelloReply(_) => {}
            body => return Err(unexpected(&link, &body, "HelloReply")),
        }
        let body = Body::Fetch(range);
        link.send(&Message { fence, body })?;
        Ok((link, fence))
    }

    /// Ends the session under way.
    fn part(&mut self) {
        if let Some((link, fence)) = self.asked.take() {
            let body = Body::Bye;
            // OK because it only saves the replica a wait.
            drop(link.send(&Message { fence, body }));
            link.close();
        }
    }
}

impl Source for Replicas<'_> {
    fn give(&mut self, rest: LsnRange) -> Result<Vec<Record>, Error> {
        let mut causes = Vec::new();
        while causes.len() < self.replicas.len() {
            let replica = self.replicas[self.at].clone();
            let asked = match self.asked.take() {
                Some(asked) => Ok(asked),
                None => self.ask(&replica, rest),
            };
            let given = asked.and_then(|(link, fence)| {
                let records = hear_records(&link, fence, rest)?;
                self.asked = Some((link, fence));
                Ok(records)
            });
            match given {
                Ok(records) => {
                    if records.last().map(Record::lsn) == Some(rest.through) {
                        self.part();
                    }
                    return Ok(records);
                }
                Err(error) => {
                    causes.push(format!("{}: {error}", replica.id));
                    self.at = (self.at + 1) % self.replicas.len();
                }
            }
        }
        Err(Error::NotHealed {
            range: rest,
            causes: causes.join("; "),
        })
    }
}

/// The next records of a session, which are the first ones of `rest`.
fn hear_records(link: &Link, fence: Fence, rest: LsnRange) -> Result<Vec<Record>, Error> {
    loop {
        let Some(message) = link.receive(SILENCE)? else {
            return Err(Error::Silent {
                peer: link.peer().into(),
                silent: SILENCE,
            });
        };
        match message.body {
            Body::Refused(reason) => {
                let peer = link.peer().into();
                return Err(Error::Refused { peer, reason });
            }
            Body::Alive if message.fence == fence => {}
            Body::Records { records, .. } if message.fence == fence => {
                return check(link, rest, records);
            }
            body => return Err(unexpected(link, &body, "Records")),
        }
    }
}

/// Whether these records, which follow each other, are the first ones of `rest`.
pub(super) fn check(
    link: &Link,
    rest: LsnRange,
    records: Vec<Record>,
) -> Result<Vec<Record>, Error> {
    let ends = (records.first(), records.last());
    let (Some(first), Some(last)) = (ends.0.map(Record::lsn), ends.1.map(Record::lsn)) else {
        unreachable!("a message of records has at least one");
    };
    match first == rest.after.next() && last <= rest.through {
        true => Ok(records),
        false => Err(Error::Unexpected {
            peer: link.peer().into(),
            got: "other records",
            expected: "the records that were asked for",
        }),
    }
}

impl Attempt<'_> {
    /// Gives the replica back what its log lost, where we hold all of it in the same history, and
    /// gives what it holds then; nothing changes where that cannot help.
    pub(super) fn heal(
        &self,
        facts: ReplicaFacts,
        lost: &[LsnRange],
    ) -> Result<ReplicaFacts, Error> {
        if !self.can_heal(&facts, lost) {
            return Ok(facts);
        }
        let _sending = self.queue()?;
        self.talk.send(Body::Heal)?;
        let healed = self.give_back(lost);
        let last = match &healed {
            // The link may come back; what failed on either disk is no better the next time.
            Err(
                Error::Log(_)
                | Error::Volume(_)
                | Error::Unexpected { .. }
                | Error::Refused {
                    reason: Refusal::Failed { .. },
                    ..
                },
            ) => true,
            Err(_) | Ok(_) => false,
        };
        self.shared
            .set_extra(self.aim, |extra| extra.unhealed = last);
        let (facts, records) = healed?;
        let after = lost.first().map_or(Lsn::ZERO, |first| first.after);
        let range = LsnRange::new(after, lost.last().map_or(after, |last| last.through));
        self.shared.step(|core, now| {
            core.orchestrator.healed(self.call(now), range, records);
            Ok(())
        })?;
        Ok(facts)
    }

    fn can_heal(&self, facts: &ReplicaFacts, lost: &[LsnRange]) -> bool {
        let Some(last) = lost.last().filter(|_| self.kind == Kind::CatchUp) else {
            return false;
        };
        let unhealed = {
            let mut core = self.shared.core();
            let extra = core.kept(self.replica, self.aim.keeper);
            extra.is_none_or(|extra| extra.unhealed)
        };
        let history = history_of(&self.shared.volume);
        let same = match history.fork(facts) {
            Fork::At(fork) => fork >= last.through,
            Fork::NoCommon | Fork::OlderThanTable => false,
        };
        let held = |range: &LsnRange| {
            range.through <= history.durable && history.recoverable(*range).is_ok()
        };
        same && !unhealed && lost.iter().all(held)
    }

    /// Answers what the replica fetches of `lost`, until it says what it holds now.
    fn give_back(&self, lost: &[LsnRange]) -> Result<(ReplicaFacts, u64), Error> {
        let mut records = 0;
        loop {
            match self.due("HelloReply after Heal")? {
                Body::Fetch(range) if lost.contains(&range) => {
                    self.serve(range)?;
                    records += range.len();
                }
                Body::HelloReply(reply) => return Ok((self.take_reply(reply)?.0, records)),
                body => return Err(self.talk.unexpected(&body, "HelloReply after Heal")),
            }
        }
    }

    fn serve(&self, range: LsnRange) -> Result<(), Error> {
        let log = self.shared.volume.log();
        let committed = log.frontiers().committed;
        Batch::each(log, range, |batch| {
            self.pace(batch.bytes)?;
            let records = batch.records;
            self.talk.send(Body::Records { committed, records })
        })
    }
}
