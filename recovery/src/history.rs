//! Facts about one node: what its log and its base hold. No judgement lives here.
//!
//! A position is an [`Lsn`], and [`Lsn::ZERO`] means "before LSN 1"; everything else that may be
//! absent is an `Option` (section 0.2). The facts need not satisfy the chain: the pure functions
//! classify whatever they are given, they do not assert.

use std::fmt;

use seawall_wal::{Fork, Lineage, Lsn, LsnRange, NodeIncarnation, VolumeId};

use crate::id::SessionId;

/// What is wrong with a stretch of the log (D14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DamageKind {
    /// The LSNs are absent between intact neighbours.
    Hole,
    /// The records are present, but a sum fails.
    Corrupt,
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DamageKind::Hole => "hole",
            DamageKind::Corrupt => "corrupt",
        })
    }
}

/// A stretch of the log that is known to be unreadable (D15).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The LSNs concerned.
    pub range: LsnRange,
    /// What is wrong with them.
    pub kind: DamageKind,
}

impl Damaged {
    /// Damage of one record.
    #[must_use]
    pub fn at(lsn: Lsn, kind: DamageKind) -> Damaged {
        let range = LsnRange::new(lsn.before(), lsn);
        Damaged { range, kind }
    }

    /// The first damaged LSN inside `range`, if there is one.
    #[must_use]
    pub fn first_in(&self, range: LsnRange) -> Option<Lsn> {
        let after = self.range.after.max(range.after);
        let through = self.range.through.min(range.through);
        (after < through).then(|| after.next())
    }
}

/// Whether a base image may be used as a source (D9).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// No intent is open, the base is complete, and no block failed its sum beyond repair.
    Trusted,
    /// One of these does not hold.
    Untrusted,
}

/// A base image: the last LSN wholly contained in it, and whether it is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The LSN; [`Lsn::ZERO`] is the empty base, which differs from having no base.
    pub lsn: Lsn,
    /// Trusted or not.
    pub trust: Trust,
}

/// Whether the ack rule has covered the durable head since the primary was opened (D1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Standing {
    /// `committed` is what the ack rule has acknowledged.
    Confirmed,
    /// The primary reopened, and `committed` is a lower bound.
    Unconfirmed,
}

/// The retained history of a primary, read from its storage and never claimed by a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The volume.
    pub volume: VolumeId,
    /// Last LSN written.
    pub head: Lsn,
    /// Last LSN synced.
    pub durable: Lsn,
    /// Last LSN acknowledged under the ack rule; a lower bound while unconfirmed (D1).
    pub committed: Lsn,
    /// Whether `committed` is exact.
    pub standing: Standing,
    /// Last LSN reclaimed.
    pub tail: Lsn,
    /// The first LSN that can be read, or the next to be written: max(tail + 1, first on disk).
    pub first_retained: Lsn,
    /// The base image, if there is one.
    pub checkpoint: Option<Checkpoint>,
    /// Who wrote which part.
    pub lineage: Lineage,
    /// Known damage, in order of LSN (D15).
    pub damage: Vec<Damaged>,
    /// Whether the control data (meta) could be read.
    pub control_readable: bool,
}

/// Why a range cannot be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// Its first record is reclaimed.
    Reclaimed {
        /// The first LSN that is needed.
        first_needed: Lsn,
        /// The first LSN that is there.
        first_retained: Lsn,
    },
    /// It reaches beyond the head.
    BeyondHead {
        /// The head.
        head: Lsn,
    },
    /// A record in it is missing or damaged.
    Damaged {
        /// The first one.
        lsn: Lsn,
        /// What is wrong with it.
        kind: DamageKind,
    },
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::Reclaimed {
                first_needed,
                first_retained,
            } => write!(
                f,
                "LSN {first_needed} is reclaimed, the log begins at {first_retained}"
            ),
            Gap::BeyondHead { head } => write!(f, "it reaches beyond the head {head}"),
            Gap::Damaged {
                lsn,
                kind: DamageKind::Hole,
            } => write!(f, "LSN {lsn} is missing"),
            Gap::Damaged {
                lsn,
                kind: DamageKind::Corrupt,
            } => write!(f, "LSN {lsn} is corrupt"),
        }
    }
}

impl History {
    /// The first known damage in `range`.
    #[must_use]
    pub fn damage_in(&self, range: LsnRange) -> Option<(Lsn, DamageKind)> {
        self.damage
            .iter()
            .filter_map(|damaged| damaged.first_in(range).map(|lsn| (lsn, damaged.kind)))
            .min_by_key(|(lsn, _)| *lsn)
    }

    /// Whether every record of `range` can be read: retained, written, and not known to be damaged,
    /// asked in this order (1.1). An empty range is checked against the first two.
    ///
    /// # Errors
    /// The first [`Gap`].
    pub fn recoverable(&self, range: LsnRange) -> Result<(), Gap> {
        let first_needed = range.after.next();
        if first_needed < self.first_retained {
            return Err(Gap::Reclaimed {
                first_needed,
                first_retained: self.first_retained,
            });
        }
        if range.through > self.head {
            return Err(Gap::BeyondHead { head: self.head });
        }
        match self.damage_in(range) {
            Some((lsn, kind)) => Err(Gap::Damaged { lsn, kind }),
            None => Ok(()),
        }
    }

    /// What recovery aims at: committed, or our own durable while committed is only a lower bound.
    #[must_use]
    pub fn aim(&self) -> Lsn {
        match self.standing {
            Standing::Confirmed => self.committed,
            Standing::Unconfirmed => self.durable,
        }
    }

    /// Where our history parts from the replica's.
    #[must_use]
    pub fn fork(&self, replica: &ReplicaFacts) -> Fork {
        self.lineage
            .fork_point(self.head, &replica.lineage, replica.durable)
    }

    /// The primary's half of the handshake.
    #[must_use]
    pub fn reply(&self, replica: &ReplicaFacts) -> HandshakeReply {
        HandshakeReply {
            volume: self.volume,
            replica_durable: replica.durable,
            committed: self.committed,
            standing: self.standing,
            first_retained: self.first_retained,
            durable: self.durable,
            head: self.head,
            lineage: self.lineage.clone(),
        }
    }
}

/// A rebuild that was interrupted in place: its marker says so, and nothing else on the replica
/// counts (P05).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IncompleteBase {
    /// The session that was installing.
    pub session: SessionId,
    /// The LSN of the base it was installing.
    pub base: Lsn,
}

/// What a replica says about itself at the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFacts {
    /// Its volume; `None` on an empty directory (D8).
    pub volume: Option<VolumeId>,
    /// Which life of its directory this is (D8).
    pub node: NodeIncarnation,
    /// Last LSN synced on the replica.
    pub durable: Lsn,
    /// Its lineage.
    pub lineage: Lineage,
    /// The LSN of its base image, if it has one.
    pub checkpoint: Option<Lsn>,
    /// Target of an open checkpoint intent (D9).
    pub intent: Option<Lsn>,
    /// Its own lower bound of what is committed.
    pub committed: Lsn,
    /// The marker of a rebuild that was interrupted in place.
    pub incomplete_base: Option<IncompleteBase>,
    /// The replica's durable copy of the needs-rebuild mark (D8).
    pub needs_rebuild: bool,
}

impl ReplicaFacts {
    /// A replica on an empty directory: it adopts volume and geometry from the first primary.
    #[must_use]
    pub fn empty(node: NodeIncarnation) -> ReplicaFacts {
        ReplicaFacts {
            volume: None,
            node,
            durable: Lsn::ZERO,
            lineage: Lineage::default(),
            checkpoint: None,
            intent: None,
            committed: Lsn::ZERO,
            incomplete_base: None,
            needs_rebuild: false,
        }
    }

    /// Whether the replica belongs to `volume`. One that holds records but names no volume
    /// belongs to none.
    #[must_use]
    pub fn belongs_to(&self, volume: VolumeId) -> bool {
        match self.volume {
            Some(own) => own == volume,
            None => self.durable.is_zero(),
        }
    }

    /// The highest LSN that the replica cannot give up any more: in its base, below an open
    /// intent, or counted as committed there (A034, A117).
    #[must_use]
    pub fn undroppable(&self) -> Lsn {
        let base = self.checkpoint.unwrap_or(Lsn::ZERO);
        let intent = self.intent.unwrap_or(Lsn::ZERO);
        self.committed.max(base).max(intent)
    }
}

/// What the primary answers to a handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandshakeReply {
    /// The volume; an empty replica adopts it.
    pub volume: VolumeId,
    /// What the replica said it holds.
    pub replica_durable: Lsn,
    /// Committed; a lower bound while unconfirmed.
    pub committed: Lsn,
    /// Whether `committed` is exact (D1).
    pub standing: Standing,
    /// The first LSN that can be read on the primary.
    pub first_retained: Lsn,
    /// Last LSN synced on the primary.
    pub durable: Lsn,
    /// Last LSN written on the primary.
    pub head: Lsn,
    /// The primary's lineage.
    pub lineage: Lineage,
}
