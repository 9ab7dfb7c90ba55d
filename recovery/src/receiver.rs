//! The replica's half of a session: applies what an authorised primary sends, and answers.
//!
//! The peer is not trusted: records are checked by the log, chunks and digests by the install, and
//! nothing is applied that the session's phase does not allow. The caller checks the fence in the
//! critical section around every call (D5).

use std::sync::Arc;

use seawall_snapshot::{Error as VolumeError, Install, Manifest, Volume, chunk_count};
use seawall_wal::{Lineage, Lsn, LsnRange, Record, Ticket};

use crate::driver::mending;
use crate::error::Error;
use crate::id::SessionId;
use crate::message::{BaseBegin, Body, Hello, HelloReply, RANGES_MAX, Refusal};
use crate::state::NodeState;

/// What the replica is doing for its primary, as status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Facts are exchanged.
    Connected,
    /// Records of a session arrive.
    CatchingUp,
    /// A base arrives.
    Rebuilding,
    /// The session has become a stream (D6).
    InSync,
}

impl Stage {
    /// The name that status uses.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Stage::Connected => "connected",
            Stage::CatchingUp => "catching_up",
            Stage::Rebuilding => "rebuilding",
            Stage::InSync => "in_sync",
        }
    }
}

/// What a message led to.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Nothing to say.
    Quiet,
    /// An answer.
    Answer(Body),
    /// Records were queued: an acknowledgement is due once the ticket says durable.
    Queued(Ticket),
    /// A new base was switched to: this is the volume from now on.
    Switched(Arc<Volume>, Body),
    /// These records are asked for (D1, D14).
    Serve(LsnRange),
    /// The primary gives back what the log lost (D14).
    Heal,
}

/// How a session at the replica takes a base.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taking {
    /// Session that brings it.
    pub(crate) session: SessionId,
    /// There is something to compare chunks with, and comparing has not failed before.
    pub(crate) compare: bool,
    /// Over the old base, as the operator asked (D12).
    pub(crate) in_place: bool,
}

/// One session at the replica.
#[derive(Debug)]
pub(crate) struct Receiver {
    volume: Arc<Volume>,
    taking: Taking,
    stage: Stage,
    install: Option<Install>,
    /// What the primary says is committed; ours is at most our durable.
    told: Lsn,
}

impl Receiver {
    pub(crate) fn new(volume: Arc<Volume>, taking: Taking) -> Receiver {
        Receiver {
            volume,
            taking,
            stage: Stage::Connected,
            install: None,
            told: Lsn::ZERO,
        }
    }

    pub(crate) const fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) const fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// The volume was opened anew with what its log had lost.
    pub(crate) fn healed(&mut self, volume: Arc<Volume>) {
        self.volume = volume;
    }

    /// Takes one message.
    ///
    /// # Errors
    /// What the volume refuses; [`Error::Unexpected`] for a message that this phase does not allow.
    pub(crate) fn on(&mut self, body: Body) -> Result<Effect, Error> {
        match body {
            Body::Records { committed, records } => self.records(committed, records),
            Body::Commit { committed } => {
                self.told = self.told.max(committed);
                self.commit()?;
                Ok(Effect::Quiet)
            }
            Body::InSync { .. } => {
                self.stage = Stage::InSync;
                Ok(Effect::Quiet)
            }
            Body::Mark { needs_rebuild } => {
                let state = NodeState::read_or_draw(self.volume.meta())?;
                if state.needs_rebuild != needs_rebuild {
                    let state = NodeState {
                        needs_rebuild,
                        ..state
                    };
                    state.write(self.volume.meta())?;
                }
                Ok(Effect::Answer(Body::Marked))
            }
            Body::Truncate { to } => {
                self.expect_first("Truncate")?;
                self.stage = Stage::CatchingUp;
                self.volume.truncate(to)?;
                Ok(Effect::Answer(Body::Truncated { to }))
            }
            Body::Fetch(range) => {
                self.expect_first("Fetch")?;
                Ok(Effect::Serve(range))
            }
            Body::Heal => {
                self.expect_first("Heal")?;
                Ok(Effect::Heal)
            }
            Body::BlockQuery { lba } => {
                self.expect_stream("BlockQuery")?;
                Ok(Effect::Answer(mending::answer(&self.volume, lba)))
            }
            Body::Block { lba, bytes } => {
                self.expect_stream("Block")?;
                mending::take(&self.volume, lba, &bytes);
                Ok(Effect::Quiet)
            }
            Body::BaseBegin(begin) => self.begin(begin),
            Body::Offer(chunks) => {
                let install = self.install("BaseBegin before Offer")?;
                let mut wanted = Vec::new();
                for (index, digest) in chunks {
                    if !install.keep_if_present(index, digest)? {
                        wanted.push(index);
                    }
                }
                Ok(Effect::Answer(Body::Want(wanted)))
            }
            Body::Chunk {
                index,
                digest,
                bytes,
            } => {
                let install = self.install("BaseBegin before Chunk")?;
                install.put(index, &bytes, digest)?;
                Ok(Effect::Quiet)
            }
            Body::ZeroChunks { first, count } => {
                let chunks = chunk_count(self.volume.size());
                if first.checked_add(count).is_none_or(|end| end > chunks) {
                    return Err(unexpected("ZeroChunks", "chunks inside the volume"));
                }
                self.install("BaseBegin before ZeroChunks")?
                    .zero(first, count)?;
                Ok(Effect::Quiet)
            }
            Body::BaseEnd { chunks, state } => {
                let install = self.install.take();
                let install =
                    install.ok_or_else(|| unexpected("BaseEnd", "BaseBegin before BaseEnd"))?;
                self.volume = install.switch(chunks, state)?;
                let lsn = self.volume.log().frontiers().head;
                let answer = Body::BaseInstalled { lsn, chunks };
                Ok(Effect::Switched(Arc::clone(&self.volume), answer))
            }
            Body::DigestQuery { lsn } => {
                let state = self.volume.digest_at(lsn)?;
                Ok(Effect::Answer(Body::DigestReply { lsn, state }))
            }
            Body::Hello(_)
            | Body::HelloReply(_)
            | Body::Refused(_)
            | Body::Marked
            | Body::Truncated { .. }
            | Body::Ack { .. }
            | Body::Alive
            | Body::BaseReady { .. }
            | Body::Want(_)
            | Body::BaseInstalled { .. }
            | Body::DigestReply { .. }
            | Body::PromiseEpoch
            | Body::Promised(_)
            | Body::StatusQuery
            | Body::StatusReply { .. }
            | Body::Bye => Err(unexpected(body.name(), "a message of a primary's session")),
        }
    }

    /// Raises our committed as far as our own durable allows: the chain binds our own log.
    pub(crate) fn commit(&self) -> Result<(), Error> {
        let log = self.volume.log();
        log.commit(self.told.min(log.frontiers().durable))?;
        Ok(())
    }

    fn records(&mut self, committed: Lsn, records: Vec<Record>) -> Result<Effect, Error> {
        if self.install.is_some() {
            return Err(unexpected("Records", "chunks of the base"));
        }
        if self.stage == Stage::Connected {
            self.stage = Stage::CatchingUp;
        }
        self.told = self.told.max(committed);
        Ok(Effect::Queued(self.volume.receive(records)?))
    }

    /// What may only come before anything was applied.
    fn expect_first(&self, got: &'static str) -> Result<(), Error> {
        match self.stage {
            Stage::Connected => Ok(()),
            Stage::CatchingUp | Stage::Rebuilding | Stage::InSync => {
                Err(unexpected(got, "it before any record or chunk"))
            }
        }
    }

    fn expect_stream(&self, got: &'static str) -> Result<(), Error> {
        match self.stage {
            Stage::InSync => Ok(()),
            Stage::Connected | Stage::CatchingUp | Stage::Rebuilding => {
                Err(unexpected(got, "it in a stream"))
            }
        }
    }

    fn begin(&mut self, begin: BaseBegin) -> Result<Effect, Error> {
        self.expect_first("BaseBegin")?;
        self.stage = Stage::Rebuilding;
        self.install = None;
        let manifest = Manifest {
            volume: self.volume.meta().get().volume,
            geometry: begin.geometry,
            lsn: begin.lsn,
            lineage: begin.lineage,
            committed: begin.committed,
        };
        let Taking {
            session,
            compare,
            in_place,
        } = self.taking;
        self.install = Some(match in_place {
            true => Install::begin_in_place(&self.volume, manifest, session.to_bytes())?,
            false => Install::begin(&self.volume, manifest)?,
        });
        Ok(Effect::Answer(Body::BaseReady { compare, in_place }))
    }

    fn install(&mut self, expected: &'static str) -> Result<&mut Install, Error> {
        let install = self.install.as_mut();
        install.ok_or_else(|| unexpected("a part of a base", expected))
    }
}

fn unexpected(got: &'static str, expected: &'static str) -> Error {
    Error::Unexpected {
        peer: "the primary".into(),
        got,
        expected,
    }
}

/// Whether a session of the primary that says `hello` may go on with `volume`.
pub(crate) fn check_shape(volume: &Volume, hello: &Hello) -> Result<(), Refusal> {
    let ours = volume.meta().get().geometry;
    // The size of a segment is each node's own business.
    let same = (ours.block_size, ours.blocks) == (hello.geometry.block_size, hello.geometry.blocks);
    match same {
        true => Ok(()),
        false => Err(Refusal::OtherGeometry),
    }
}

/// What the replica holds. Everything queued is synced first, so that durable is all there is.
pub(crate) fn report(volume: &Volume, id: &str, fresh: bool) -> Result<HelloReply, Error> {
    let log = volume.log();
    let writable = log.check_writable().is_ok();
    if writable {
        log.sync()?;
    }
    let node = NodeState::read_or_draw(volume.meta())?;
    let meta = volume.meta().get();
    let frontiers = log.frontiers();
    let lost = log.lost();
    let base = volume.base_state();
    let reply = HelloReply {
        replica: id.into(),
        node: node.node,
        volume: (!fresh).then_some(meta.volume),
        durable: frontiers.durable,
        checkpoint: Some(base.checkpoint),
        intent: base.intent,
        committed: frontiers.committed,
        incomplete_base: None,
        // A log that is damaged below its frontier takes no records: without those that it lost
        // only a base helps (D14).
        needs_rebuild: node.needs_rebuild || !writable,
        promised: meta.epoch,
        lost: match node.needs_rebuild || lost.len() > RANGES_MAX {
            true => Vec::new(),
            false => lost,
        },
        lineage: log.lineage().through(frontiers.head),
    };
    Ok(match volume.incomplete_base() {
        None => reply,
        // Its log stands on an image that is gone: it counts for nothing.
        Some((session, base)) => HelloReply {
            durable: Lsn::ZERO,
            checkpoint: None,
            intent: None,
            committed: Lsn::ZERO,
            incomplete_base: Some((SessionId::from_bytes(session), base)),
            needs_rebuild: true,
            lost: Vec::new(),
            lineage: Lineage::default(),
            ..reply
        },
    })
}

/// The refusal that tells a peer why a call failed here.
pub(crate) fn refusal(error: &Error) -> Refusal {
    match error {
        Error::Refused { reason, .. } => reason.clone(),
        Error::Volume(VolumeError::WrongRole { .. }) => Refusal::WrongRole,
        error => Refusal::Failed {
            text: error.to_string(),
        },
    }
}
