//! What a rebuild is made from (1.5): snapshot + tail where that is sound, a full base otherwise.

use std::fmt;

use seawall_wal::{Lsn, LsnRange};

use crate::history::{Gap, History, Standing, Trust};

/// What kind of rebuild is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Asked {
    /// Whatever is sound and smallest.
    #[default]
    Any,
    /// Full base, although snapshot + tail may be sound (`--rebuild full`, D11).
    FullBase,
}

/// Why the full base was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyFull {
    /// There is no base image to offer.
    NoBase,
    /// The base image is not trusted (D9).
    Untrusted {
        /// Its LSN.
        base: Lsn,
    },
    /// Nothing is committed, so no base can be at or below the target (H06).
    NothingCommitted {
        /// LSN of the base.
        base: Lsn,
    },
    /// The base lies above the target and would ship uncommitted writes (H07).
    AboveTarget {
        /// LSN of the base.
        base: Lsn,
        /// The target.
        target: Lsn,
    },
    /// The log between base and target cannot be served.
    TailUnusable {
        /// LSN of the base.
        base: Lsn,
        /// What is in the way.
        gap: Gap,
    },
    /// Snapshot + tail is sound, but full base was asked for (D11).
    Requested,
}

/// What a rebuild is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// The base image at exactly `base`, then the log `(base, target]`.
    SnapshotTail {
        /// LSN of the base image.
        base: Lsn,
    },
    /// The overlay of image and log at exactly the target (D10).
    FullBase {
        /// Why not snapshot + tail.
        why: WhyFull,
    },
}

/// The source of a rebuild and what it leads to. There is always a target (H06).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// What it is made from.
    pub kind: SourceKind,
    /// The LSN the replica ends at; [`Lsn::ZERO`] is the empty history.
    pub target: Lsn,
}

/// Chooses the source of a rebuild (1.5). The base offered is the primary's checkpoint.
#[must_use]
pub fn rebuild_source(history: &History, asked: Asked) -> Source {
    let target = rebuild_target(history);
    let kind = match (snapshot_tail(history, target), asked) {
        (Ok(base), Asked::Any) => SourceKind::SnapshotTail { base },
        (Ok(_), Asked::FullBase) => SourceKind::FullBase {
            why: WhyFull::Requested,
        },
        (Err(why), Asked::Any | Asked::FullBase) => SourceKind::FullBase { why },
    };
    Source { kind, target }
}

/// Committed; the head if nothing is committed. On an unconfirmed primary only what is known to be
/// committed, so that nothing unacknowledged enters a base (D1).
fn rebuild_target(history: &History) -> Lsn {
    match history.standing {
        Standing::Confirmed if history.committed.is_zero() => history.head,
        Standing::Confirmed | Standing::Unconfirmed => history.committed,
    }
}

fn snapshot_tail(history: &History, target: Lsn) -> Result<Lsn, WhyFull> {
    let checkpoint = history.checkpoint.ok_or(WhyFull::NoBase)?;
    let base = checkpoint.lsn;
    if checkpoint.trust == Trust::Untrusted {
        return Err(WhyFull::Untrusted { base });
    }
    if history.committed.is_zero() {
        return Err(WhyFull::NothingCommitted { base });
    }
    if base > target {
        return Err(WhyFull::AboveTarget { base, target });
    }
    match history.recoverable(LsnRange::new(base, target)) {
        Ok(()) => Ok(base),
        Err(gap) => Err(WhyFull::TailUnusable { base, gap }),
    }
}

impl Source {
    /// LSN of the base image that is sent; `None` for a full base.
    #[must_use]
    pub const fn snapshot(&self) -> Option<Lsn> {
        match self.kind {
            SourceKind::SnapshotTail { base } => Some(base),
            SourceKind::FullBase { .. } => None,
        }
    }

    /// A stable name for scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self.kind {
            SourceKind::SnapshotTail { .. } => "snapshot-tail",
            SourceKind::FullBase { .. } => "full-base",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target;
        match self.kind {
            SourceKind::SnapshotTail { base } => {
                write!(f, "base at {base} and the log ({base}, {target}]")
            }
            SourceKind::FullBase { why } => write!(f, "full base at {target}: {why}"),
        }
    }
}

impl fmt::Display for WhyFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WhyFull::NoBase => f.write_str("there is no base image"),
            WhyFull::Untrusted { base } => write!(f, "the base image at {base} is not trusted"),
            WhyFull::NothingCommitted { base } => {
                write!(
                    f,
                    "nothing is committed, the base image at {base} is above it"
                )
            }
            WhyFull::AboveTarget { base, target } => {
                write!(f, "the base image at {base} is above the target {target}")
            }
            WhyFull::TailUnusable { base, gap } => {
                write!(
                    f,
                    "the log after the base image at {base} is unusable: {gap}"
                )
            }
            WhyFull::Requested => f.write_str("requested"),
        }
    }
}
