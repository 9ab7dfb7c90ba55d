//! Sending a base: chunk by chunk, only what does not match yet, then the tail (D10 to D12).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use seawall_snapshot::{
    CHUNK_BYTES, Chunk, Chunks, Digest, View, chunk_count, chunk_range, read_chunk,
    zero_chunk_digest,
};
use seawall_wal::{Lsn, LsnRange};
use xxhash_rust::xxh3::Xxh3;

use super::attempt::{Attempt, LOOK, TargetView};
use super::ship::Lane;
use super::storage::{VolumePin, VolumeStorage};
use super::tally::Tally;
use crate::error::Error;
use crate::message::{BaseBegin, BaseSource, Body};
use crate::outcome::{Source, SourceKind};
use crate::plan::Plan;
use crate::progress::Phase;
use crate::rebuild::{self, Compared, Install};

/// How long a checkpoint that is under way may keep a rebuild waiting for a trusted base.
const CHECKPOINT_PATIENCE: Duration = Duration::from_secs(10);
/// Chunks in one offer, and offers under way. A chunk is read only when it is wanted, and one at a
/// time.
const OFFER_CHUNKS: usize = 32;
const OFFERS_MAX: usize = 4;

/// Chunks that are offered and may be wanted, with their digests.
type Offer = Vec<(u64, Digest)>;

/// The base on its way: what is offered, and the digests of all chunks.
struct Transfer<'a, 'b> {
    attempt: &'a Attempt<'b>,
    tally: &'a mut Tally,
    compare: bool,
    view: &'a dyn View,
    gathered: Offer,
    under_way: VecDeque<Offer>,
    /// In order of the chunks, as they were last seen.
    digests: Vec<Digest>,
    done: u64,
}

impl Attempt<'_> {
    /// Before a rebuild is planned. A base with an open intent is not trusted; one that closes in a
    /// moment is worth waiting for. A full base is the image overlaid with the log: what is
    /// captured first is read in large runs, and not record by record.
    pub(super) fn settle_base(&self) {
        let volume = &self.shared.volume;
        let mut left = CHECKPOINT_PATIENCE;
        while volume.base_state().intent.is_some() && !left.is_zero() {
            self.shared.pause(LOOK);
            left = left.saturating_sub(LOOK);
        }
        let full = (self.shared.core()).is_full_asked(self.replica, self.aim.keeper);
        if full && let Err(error) = volume.checkpoint(None) {
            tracing::debug!(%error, "a full base is sent with an older image");
        }
    }

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
            .set_extra(self.aim, |extra| extra.full_asked = false);
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
        let (compare, install) = match self.due("BaseReady")? {
            Body::BaseReady { compare, in_place } => match in_place {
                true => (compare, Install::InPlace),
                false => (compare, Install::Beside),
            },
            body => return Err(self.talk.unexpected(&body, "BaseReady")),
        };
        self.shared.step(|core, now| {
            let orchestrator = &mut core.orchestrator;
            orchestrator.begin_transfer(self.call(now), install)
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
            view: &**view,
            gathered: Vec::new(),
            under_way: VecDeque::new(),
            digests: Vec::new(),
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
        Ok((transfer.all_chunks(), view.digest()?))
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
            Chunk::Data { index, digest } => {
                self.digests.push(digest);
                self.gathered.push((index, digest));
                match self.gathered.len() < OFFER_CHUNKS {
                    true => Ok(()),
                    false => self.offer(),
                }
            }
        }
    }

    fn zeros(&mut self, first: u64, count: u64) -> Result<(), Error> {
        let (size, block_size) = (self.view.size(), self.view.block_size());
        let bytes = |index| {
            let range = chunk_range(index, size);
            range.end - range.start
        };
        let whole = zero_chunk_digest(bytes(first), block_size);
        // All but the last chunk of a volume are as long as the first of these.
        self.digests.extend((1..count).map(|_| whole));
        let last = zero_chunk_digest(bytes(first + count - 1), block_size);
        self.digests.push(last);
        self.tally.record.zero_chunks += count;
        self.attempt.talk.send(Body::ZeroChunks { first, count })?;
        self.progress(count, rebuild::Chunks::default())
    }

    /// XXH3-128 over the digests of all chunks in order.
    fn all_chunks(&self) -> Digest {
        let mut sums = Xxh3::new();
        for digest in &self.digests {
            sums.update(&digest.to_bytes());
        }
        Digest(sums.digest128())
    }

    /// Offers what was gathered; the oldest offer is settled first when too many are under way.
    fn offer(&mut self) -> Result<(), Error> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        let chunks = std::mem::take(&mut self.gathered);
        if !self.compare {
            return self.send(&chunks);
        }
        self.attempt.talk.send(Body::Offer(chunks.clone()))?;
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
        let (send, matched): (Offer, Offer) = chunks
            .into_iter()
            .partition(|(index, _)| wanted.contains(index));
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
        self.send(&send)
    }

    /// Reads and sends chunks. What was read and checked block by block decides on their digests.
    fn send(&mut self, chunks: &[(u64, Digest)]) -> Result<(), Error> {
        for &(index, offered) in chunks {
            let range = chunk_range(index, self.view.size());
            self.attempt.pace(range.end - range.start)?;
            let (data, digest) = read_chunk(self.view, index)?;
            if digest != offered {
                tracing::warn!(index, "the sums of a chunk are not those of its blocks");
                let place = usize::try_from(index).ok();
                let place = place.and_then(|place| self.digests.get_mut(place));
                *place.expect("a chunk was taken before it is sent") = digest;
            }
            let bytes = data.len() as u64;
            self.attempt.talk.send(Body::Chunk {
                index,
                digest,
                bytes: data,
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
        let progress = Some((self.done, chunk_count(self.view.size())));
        let attempt = self.attempt;
        let (done, sent) = (self.done * CHUNK_BYTES as u64, moved.bytes);
        let skipped = self.tally.record.chunks_matched + self.tally.record.zero_chunks;
        attempt.note(|progress, now| {
            progress.sent(sent, now);
            progress.reached(done, skipped * CHUNK_BYTES as u64, now);
        });
        let shared = attempt.shared;
        shared.set_extra(attempt.aim, |extra| extra.chunks = progress);
        shared.step(|core, now| core.orchestrator.chunks(attempt.call(now), moved))?;
        match attempt.shared.stopping() {
            true => Err(Error::ShutDown),
            false => Ok(()),
        }
    }
}
