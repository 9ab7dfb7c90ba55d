//! The rebuild machine (1.12): a full base, or a snapshot and its tail, step by step.
//!
//! It runs inside a session of kind rebuild and does not choose between the sources. Base progress
//! is measured in bytes and chunks; the LSN is only the gate to the tail. Both progresses are
//! capped by the frozen target (H25), and nothing completes before the base is verified, not even a
//! rebuild to the empty history (H06).

use std::fmt;

use seawall_wal::Lsn;

use crate::budget::Tracker;
use crate::failure::{DigestOf, Failure, Invalidation};
use crate::id::Tick;
use crate::outcome::Source;
use crate::session::{converged, forward};

/// Phase of a rebuild.
///
/// ```text
///  Init --select--> SourceSelect --begin transfer--> Transfer --begin tail--> Tail
///                                                        |   (snapshot + tail)  |
///                                                        | (full base)          |
///                                                        +------> Completed <---+
///  Init, SourceSelect, Transfer, Tail --abort--> Aborted
///  Transfer, Tail --a digest differs--> Aborted
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing chosen yet.
    Init,
    /// Source and frozen target are fixed.
    SourceSelect {
        /// The source; its target never moves.
        source: Source,
    },
    /// The base is on its way; the replica has a durable note of that.
    Transfer {
        /// The source.
        source: Source,
        /// How the replica installs.
        install: Install,
        /// LSN proven by the base so far: zero, or where it ends once it is complete.
        through: Lsn,
        /// Whether every chunk and the manifest have been checked.
        base_verified: bool,
    },
    /// The base is whole, the log after it is on its way.
    Tail {
        /// The source.
        source: Source,
        /// Last LSN applied and durable at the replica.
        applied: Lsn,
    },
    /// Switched to, and the state digest matches.
    Completed {
        /// The target.
        at: Lsn,
    },
    /// Given up.
    Aborted(Box<Invalidation>),
}

/// How the replica installs the base; either way a durable note says so before the first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Install {
    /// A new base beside the old one, switched to at the end (D12).
    Beside,
    /// Over the old state, under the "base incomplete" marker (P05). Only when asked for.
    InPlace,
}

/// Two digests that have to be equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// The primary's.
    pub expected: u128,
    /// The replica's.
    pub found: u128,
}

impl Compared {
    fn check(self, what: DigestOf) -> Result<(), Failure> {
        match self.expected == self.found {
            true => Ok(()),
            false => Err(Failure::DigestDiffers {
                what,
                expected: self.expected,
                found: self.found,
            }),
        }
    }
}

/// What happens to a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The source is chosen and its target frozen.
    SelectSource {
        /// The source.
        source: Source,
        /// Now: budgets run from here.
        now: Tick,
    },
    /// The replica has durably noted that an installation is under way.
    BeginTransfer {
        /// How it installs.
        install: Install,
        /// Now.
        now: Tick,
    },
    /// Chunks went to the replica, or matched and did not have to.
    Chunks {
        /// Chunks sent.
        sent: u64,
        /// Chunks whose re-read bytes at the replica matched.
        matched: u64,
        /// Bytes of the chunks sent.
        bytes: u64,
        /// Now.
        now: Tick,
    },
    /// The base proves the state through this LSN.
    TransferProgress {
        /// The LSN.
        through: Lsn,
    },
    /// The base is whole and every chunk's sum matches at the replica; the digests of the manifest
    /// are compared here.
    BaseVerified(Compared),
    /// The base is whole, the tail begins.
    BeginTail,
    /// The replica applied and synced the tail through this LSN.
    TailProgress {
        /// The LSN.
        through: Lsn,
        /// Now.
        now: Tick,
    },
    /// The replica switched to the new base; the digests of the whole state at the target are
    /// compared here (D18).
    Complete(Compared),
    /// Give up.
    Abort(Invalidation),
}

/// The name of an event, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RebuildStep {
    /// Source selection.
    SelectSource,
    /// Begin of the base transfer.
    BeginTransfer,
    /// A report of chunks.
    Chunks,
    /// Progress of the base.
    TransferProgress,
    /// Verification of the base.
    BaseVerified,
    /// Begin of the tail.
    BeginTail,
    /// Progress of the tail.
    TailProgress,
    /// Completion.
    Complete,
    /// Abort.
    Abort,
}

impl fmt::Display for RebuildStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RebuildStep::SelectSource => "source selection",
            RebuildStep::BeginTransfer => "begin of the transfer",
            RebuildStep::Chunks => "a report of chunks",
            RebuildStep::TransferProgress => "transfer progress",
            RebuildStep::BaseVerified => "verification of the base",
            RebuildStep::BeginTail => "begin of the tail",
            RebuildStep::TailProgress => "tail progress",
            RebuildStep::Complete => "completion",
            RebuildStep::Abort => "abort",
        })
    }
}

impl Event {
    /// Which step this is.
    #[must_use]
    pub const fn step(&self) -> RebuildStep {
        match self {
            Event::SelectSource { .. } => RebuildStep::SelectSource,
            Event::BeginTransfer { .. } => RebuildStep::BeginTransfer,
            Event::Chunks { .. } => RebuildStep::Chunks,
            Event::TransferProgress { .. } => RebuildStep::TransferProgress,
            Event::BaseVerified(_) => RebuildStep::BaseVerified,
            Event::BeginTail => RebuildStep::BeginTail,
            Event::TailProgress { .. } => RebuildStep::TailProgress,
            Event::Complete(_) => RebuildStep::Complete,
            Event::Abort(_) => RebuildStep::Abort,
        }
    }
}

/// One rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    phase: Phase,
    chunks: Chunks,
    tracker: Tracker,
}

/// What a base transfer moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Chunks {
    /// Chunks sent.
    pub sent: u64,
    /// Chunks that matched and were not sent.
    pub matched: u64,
    /// Bytes of the chunks sent.
    pub bytes: u64,
}

impl Rebuild {
    /// A rebuild that has not begun.
    #[must_use]
    pub const fn new() -> Rebuild {
        Rebuild {
            phase: Phase::Init,
            chunks: Chunks {
                sent: 0,
                matched: 0,
                bytes: 0,
            },
            tracker: Tracker::begin(Tick(0)),
        }
    }

    /// The phase.
    #[must_use]
    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// What the base transfer moved so far.
    #[must_use]
    pub const fn chunks(&self) -> Chunks {
        self.chunks
    }

    /// What was spent; `None` before the source is selected.
    #[must_use]
    pub const fn tracker(&self) -> Option<&Tracker> {
        match self.phase {
            Phase::Init => None,
            Phase::SourceSelect { .. }
            | Phase::Transfer { .. }
            | Phase::Tail { .. }
            | Phase::Completed { .. }
            | Phase::Aborted(_) => Some(&self.tracker),
        }
    }

    /// Takes one step.
    ///
    /// # Errors
    /// [`Failure::WrongRebuildPhase`] when the step does not belong to the phase, and the failure
    /// of the guard otherwise. Nothing has changed then, except after
    /// [`Failure::DigestDiffers`]: the rebuild is aborted.
    pub fn on(&mut self, event: Event) -> Result<(), Failure> {
        let step = event.step();
        let next = match (&self.phase, event) {
            (Phase::Init, Event::SelectSource { source, now }) => {
                self.tracker = Tracker::begin(now);
                Phase::SourceSelect { source }
            }
            (Phase::SourceSelect { source }, Event::BeginTransfer { install, now }) => {
                self.tracker.acknowledged(0, Some(now));
                Phase::Transfer {
                    source: *source,
                    install,
                    through: Lsn::ZERO,
                    base_verified: false,
                }
            }
            (
                Phase::Transfer { .. },
                Event::Chunks {
                    sent,
                    matched,
                    bytes,
                    now,
                },
            ) => {
                self.count(sent, matched, bytes, now);
                return Ok(());
            }
            (
                Phase::Transfer {
                    source,
                    install,
                    through: reached,
                    ..
                },
                Event::TransferProgress { through },
            ) => {
                forward(through, *reached, source.target)?;
                Phase::Transfer {
                    source: *source,
                    install: *install,
                    through,
                    base_verified: false,
                }
            }
            (
                Phase::Transfer {
                    source,
                    install,
                    through,
                    ..
                },
                Event::BaseVerified(manifest),
            ) => {
                converged(*through, source.snapshot().unwrap_or(source.target))?;
                match manifest.check(DigestOf::Manifest) {
                    Ok(()) => Phase::Transfer {
                        source: *source,
                        install: *install,
                        through: *through,
                        base_verified: true,
                    },
                    Err(differs) => return Err(self.abort(differs, DigestOf::Manifest)),
                }
            }
            (
                Phase::Transfer {
                    source,
                    through,
                    base_verified,
                    ..
                },
                Event::BeginTail,
            ) => {
                let Some(base) = source.snapshot() else {
                    return Err(self.wrong_phase(step));
                };
                converged(*through, base)?;
                verified(*base_verified)?;
                Phase::Tail {
                    source: *source,
                    applied: base,
                }
            }
            (Phase::Tail { source, applied }, Event::TailProgress { through, now }) => {
                forward(through, *applied, source.target)?;
                let records = through.get() - applied.get();
                self.tracker.acknowledged(records, Some(now));
                Phase::Tail {
                    source: *source,
                    applied: through,
                }
            }
            (
                Phase::Transfer {
                    source,
                    through,
                    base_verified,
                    ..
                },
                Event::Complete(state),
            ) => {
                if source.snapshot().is_some() {
                    return Err(self.wrong_phase(step));
                }
                converged(*through, source.target)?;
                verified(*base_verified)?;
                let at = source.target;
                match state.check(DigestOf::State) {
                    Ok(()) => Phase::Completed { at },
                    Err(differs) => return Err(self.abort(differs, DigestOf::State)),
                }
            }
            (Phase::Tail { source, applied }, Event::Complete(state)) => {
                converged(*applied, source.target)?;
                let at = source.target;
                match state.check(DigestOf::State) {
                    Ok(()) => Phase::Completed { at },
                    Err(differs) => return Err(self.abort(differs, DigestOf::State)),
                }
            }
            (
                Phase::Init
                | Phase::SourceSelect { .. }
                | Phase::Transfer { .. }
                | Phase::Tail { .. },
                Event::Abort(reason),
            ) => Phase::Aborted(Box::new(reason)),
            (
                Phase::Init
                | Phase::SourceSelect { .. }
                | Phase::Transfer { .. }
                | Phase::Tail { .. }
                | Phase::Completed { .. }
                | Phase::Aborted(_),
                Event::SelectSource { .. }
                | Event::BeginTransfer { .. }
                | Event::Chunks { .. }
                | Event::TransferProgress { .. }
                | Event::BaseVerified(_)
                | Event::BeginTail
                | Event::TailProgress { .. }
                | Event::Complete(_)
                | Event::Abort(_),
            ) => return Err(self.wrong_phase(step)),
        };
        self.phase = next;
        Ok(())
    }

    fn count(&mut self, sent: u64, matched: u64, bytes: u64, now: Tick) {
        self.chunks.sent = self.chunks.sent.saturating_add(sent);
        self.chunks.matched = self.chunks.matched.saturating_add(matched);
        self.chunks.bytes = self.chunks.bytes.saturating_add(bytes);
        self.tracker.sent(bytes);
        if sent > 0 || matched > 0 {
            self.tracker.acknowledged(0, Some(now));
        }
    }

    fn abort(&mut self, differs: Failure, what: DigestOf) -> Failure {
        self.phase = Phase::Aborted(Box::new(Invalidation::DigestDiffers(what)));
        differs
    }

    const fn wrong_phase(&self, step: RebuildStep) -> Failure {
        Failure::WrongRebuildPhase {
            step,
            phase: self.phase.name(),
        }
    }
}

impl Default for Rebuild {
    fn default() -> Rebuild {
        Rebuild::new()
    }
}

impl Phase {
    /// A stable name for status and scripts.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Phase::Init => "init",
            Phase::SourceSelect { .. } => "source-select",
            Phase::Transfer { .. } => "transfer",
            Phase::Tail { .. } => "tail",
            Phase::Completed { .. } => "completed",
            Phase::Aborted(_) => "aborted",
        }
    }

    /// The source, once it is selected and while the rebuild lives.
    #[must_use]
    pub const fn source(&self) -> Option<Source> {
        match self {
            Phase::SourceSelect { source }
            | Phase::Transfer { source, .. }
            | Phase::Tail { source, .. } => Some(*source),
            Phase::Init | Phase::Completed { .. } | Phase::Aborted(_) => None,
        }
    }
}

/// R10: nothing goes on from a base that was not checked as a whole.
fn verified(base_verified: bool) -> Result<(), Failure> {
    match base_verified {
        true => Ok(()),
        false => Err(Failure::BaseNotVerified),
    }
}

#[cfg(test)]
mod tests;
