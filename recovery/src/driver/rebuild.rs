//! Sending a base: chunk by chunk, only what does not match yet, then the tail (D10 to D12).

use std::collections::VecDeque;
use std::sync::Arc;

use seawall_snapshot::{CHUNK_BYTES, Chunk, Chunks, Digest, View, chunk_count, chunk_digest};
use seawall_wal::{Lsn, LsnRange};
use xxhash_rust::xxh3::Xxh3;

use super::attempt::{Attempt, TargetView};
use super::ship::Lane;
use super::storage::{VolumePin, VolumeStorage};
use super::tally::Tally;
use crate::error::Error;
use crate::message::{BaseBegin, BaseSource, Body};
use crate::outcome::{Source, SourceKind};
use crate::plan::Plan;
use crate::progress::Phase;
use crate::rebuild::{self, Compared, Install};

/// Chunks in one offer, and offers under way: at most 32 MiB of chunks in memory.
const OFFER_CHUNKS: usize = 8;
const OFFERS_MAX: usize = 4;

/// A chunk that is offered and may be wanted.
struct Offered {
    index: u64,
    digest: Digest,
    bytes: Vec<u8>,
}

/// The base on its way: what is offered, and the sum over all chunks.
struct Transfer<'a, 'b> {
    attempt: &'a Attempt<'b>,
    tally: &'a mut Tally,
    compare: bool,
    size: u64,
    gathered: Vec<Offered>,
    under_way: VecDeque<Vec<Offered>>,
    sums: Xxh3,
    done: u64,
}

impl Attempt<'_> {
    /// Carries a rebuild out; the replica holds everything through the target when it returns.
    pub(super) fn rebuild(
        &self,
        plan: &Plan<VolumePin>,
        source: Source,
        target: Option<TargetView>,
        tally: &mut Tally,
    ) -> Result<Lsn, Error> {
        let view = plan.with_pin(VolumePin::base).flatten();
        let view = view.ok_or(seawall_wal::Error::PinBroken {
            after: source.target,
            why: seawall_wal::PinBreak::Ended,
        })?;
        let target = target.transpose()?;
        self.mark_replica(true)?;
        let compare = self.begin_base(&*view, source)?;
        let (chunks, state) = self.send_base(&view, compare, tally)?;
        self.finish_base(view.lsn(), chunks, state)?;
        if let SourceKind::SnapshotTail { base } = source.kind {
            self.shared
                .step(|core, now| core.orchestrator.begin_tail(self.call(now)))?;
            self.send_range(LsnRange::new(base, source.target), Lane::Tail, tally)?;
        }
        drop(view);
        let expected = match target {
            Some(target) => target.digest()?,
            None => state,
        };
        tally.record.digest = Some(expected.to_string());
        let at = self.agree(source.target, expected)?;
        self.mark_replica(false)?;
        self.shared
            .set_extra(self.replica, |extra| extra.full_asked = false);
        Ok(at)
    }

    fn begin_base(&self, view: &dyn View, source: Source) -> Result<bool, Error> {
        let volume = &self.shared.volume;
        let committed = volume.log().frontiers().committed;
        self.talk.send(Body::BaseBegin(BaseBegin {
            source: match source.kind {
                SourceKind::SnapshotTail { .. } => BaseSource::SnapshotTail,
                SourceKind::FullBase { .. } => BaseSource::Full,
            },
            geometry: volume.meta().get().geometry,
            lsn: view.lsn(),
            target: source.target,
            committed: committed.max(view.lsn()),
            lineage: volume.log().lineage().through(view.lsn()),
        }))?;
        let compare = match self.due("BaseReady")? {
            Body::BaseReady { compare } => compare,
            body => return Err(self.talk.unexpected(&body, "BaseReady")),
        };
        self.shared.step(|core, now| {
            let orchestrator = &mut core.orchestrator;
            orchestrator.begin_transfer(self.call(now), Install::Beside)
        })?;
        Ok(compare)
    }

    fn send_base(
        &self,
        view: &Arc<dyn View>,
        compare: bool,
        tally: &mut Tally,
    ) -> Result<(Digest, Digest), Error> {
        let mut transfer = Transfer {
            attempt: self,
            tally,
            compare,
            size: view.size(),
            gathered: Vec::new(),
            under_way: VecDeque::new(),
            sums: Xxh3::new(),
            done: 0,
        };
        self.begin_phase(Phase::Base, view.size());
        for chunk in Chunks::of(&**view) {
            transfer.take(chunk?)?;
        }
        transfer.offer()?;
        while !transfer.under_way.is_empty() {
            transfer.settle_oldest()?;
        }
        let chunks = Digest(transfer.sums.digest128());
        Ok((chunks, view.digest()?))
    }

    fn finish_base(&self, lsn: Lsn, chunks: Digest, state: Digest) -> Result<(), Error> {
        self.talk.send(Body::BaseEnd { chunks, state })?;
        let (installed, found) = match self.due("BaseInstalled")? {
            Body::BaseInstalled { lsn, chunks } => (lsn, chunks),
            body => return Err(self.talk.unexpected(&body, "BaseInstalled")),
        };
        if installed != lsn {
            return Err(Error::Unexpected {
                peer: self.talk.peer(),
                got: "a base at another LSN",
                expected: "the base that was sent",
            });
        }
        let manifest = Compared {
            expected: chunks.0,
            found: found.0,
        };
        self.shared.step(|core, now| {
            let orchestrator = &mut core.orchestrator;
            orchestrator.base_verified(self.call(now), lsn, manifest)
        })
    }

    /// Both sides compute the digest of the whole state at the target; only equal ones complete
    /// the rebuild (L-B4).
    fn agree(&self, target: Lsn, expected: Digest) -> Result<Lsn, Error> {
        self.talk.send(Body::DigestQuery { lsn: target })?;
        let found = match self.due("DigestReply")? {
            Body::DigestReply { lsn, state } if lsn == target => state,
            body => return Err(self.talk.unexpected(&body, "DigestReply at the target")),
        };
        let state = Compared {
            expected: expected.0,
            found: found.0,
        };
        let owner = format!("stream {} of {}", self.session, self.replica);
        let mut storage = VolumeStorage {
            volume: &self.shared.volume,
            owner: &owner,
        };
        self.shared.step(|core, now| {
            let orchestrator = &mut core.orchestrator;
            orchestrator.complete_rebuild(self.call(now), state, &mut storage)
        })
    }
}

impl Transfer<'_, '_> {
    fn take(&mut self, chunk: Chunk) -> Result<(), Error> {
        match chunk {
            Chunk::Zero { first, count } => self.zeros(first, count),
            Chunk::Data {
                index,
                bytes,
                digest,
            } => {
                self.attempt.pace(bytes.len() as u64)?;
                self.sums.update(&digest.0.to_le_bytes());
                let offered = Offered {
                    index,
                    digest,
                    bytes,
                };
                if !self.compare {
                    return self.send(vec![offered]);
                }
                self.gathered.push(offered);
                match self.gathered.len() < OFFER_CHUNKS {
                    true => Ok(()),
                    false => self.offer(),
                }
            }
        }
    }

    fn zeros(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let whole = chunk_digest(&vec![0; CHUNK_BYTES]);
        for index in first..first + count {
            let start = index * CHUNK_BYTES as u64;
            let length = (self.size - start).min(CHUNK_BYTES as u64);
            let digest = match usize::try_from(length) {
                Ok(CHUNK_BYTES) => whole,
                Ok(length) => chunk_digest(&vec![0; length]),
                Err(_) => unreachable!("a chunk is at most 1 MiB"),
            };
            self.sums.update(&digest.0.to_le_bytes());
        }
        self.tally.record.zero_chunks += count;
        self.attempt.talk.send(Body::ZeroChunks { first, count })?;
        self.progress(count, rebuild::Chunks::default())
    }

    /// Offers what was gathered; the oldest offer is settled first when too many are under way.
    fn offer(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunks = std::mem::take(&mut self.gathered);
        let digests = chunks.iter().map(|chunk| (chunk.index, chunk.digest));
        self.attempt.talk.send(Body::Offer(digests.collect()))?;
        self.under_way.push_back(chunks);
        match self.under_way.len() < OFFERS_MAX {
            true => Ok(()),
            false => self.settle_oldest(),
        }
    }

    /// Takes the answer to the oldest offer and sends what it wants.
    fn settle_oldest(&mut self) -> Result<(), Error> {
        let Some(chunks) = self.under_way.pop_front() else {
            return Ok(());
        };
        let wanted = match self.attempt.due("Want")? {
            Body::Want(wanted) => wanted,
            body => return Err(self.attempt.talk.unexpected(&body, "Want")),
        };
        let (send, matched): (Vec<_>, Vec<_>) = chunks
            .into_iter()
            .partition(|chunk| wanted.contains(&chunk.index));
        if send.len() != wanted.len() {
            return Err(Error::Unexpected {
                peer: self.attempt.talk.peer(),
                got: "a wish for chunks that were not offered",
                expected: "Want",
            });
        }
        let matched = matched.len() as u64;
        self.tally.record.chunks_matched += matched;
        let moved = rebuild::Chunks {
            matched,
            ..rebuild::Chunks::default()
        };
        self.progress(matched, moved)?;
        self.send(send)
    }

    fn send(&mut self, chunks: Vec<Offered>) -> Result<(), Error> {
        for chunk in chunks {
            let bytes = chunk.bytes.len() as u64;
            self.attempt.talk.send(Body::Chunk {
                index: chunk.index,
                digest: chunk.digest,
                bytes: chunk.bytes,
            })?;
            self.tally.record.chunks_sent += 1;
            self.tally.record.bytes += bytes;
            let moved = rebuild::Chunks {
                sent: 1,
                matched: 0,
                bytes,
            };
            self.progress(1, moved)?;
        }
        Ok(())
    }

    fn progress(&mut self, chunks: u64, moved: rebuild::Chunks) -> Result<(), Error> {
        self.done += chunks;
        let progress = Some((self.done, chunk_count(self.size)));
        let attempt = self.attempt;
        let (done, sent) = (self.done * CHUNK_BYTES as u64, moved.bytes);
        let skipped = self.tally.record.chunks_matched + self.tally.record.zero_chunks;
        attempt.note(|progress, now| {
            progress.sent(sent, now);
            progress.reached(done, skipped * CHUNK_BYTES as u64, now);
        });
        attempt.shared.step(|core, now| {
            let call = attempt.call(now);
            core.extras
                .entry(attempt.replica.clone())
                .or_default()
                .chunks = progress;
            core.orchestrator.chunks(call, moved)
        })?;
        match attempt.shared.stopping() {
            true => Err(Error::ShutDown),
            false => Ok(()),
        }
    }
}
