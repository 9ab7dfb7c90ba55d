//! What a sender shows: its state, a detached copy of what it knows, and what happened to it.

use std::fmt;

use seawall_wal::{Epoch, Lsn, NodeIncarnation};

use crate::failure::{Invalidation, StreamEnd};
use crate::history::DamageKind;
use crate::id::{ReplicaId, SessionId};
use crate::session::Session;
use crate::stream::StreamView;

/// How a replica is reached. Two endpoints differ if any of the three differs (1.6).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address of the data path.
    pub data: String,
    /// Address of the control path.
    pub control: String,
    /// Counted up when the control plane moves the replica.
    pub version: u64,
}

/// State of a replica as the primary sees it.
///
/// ```text
///  disconnected --connect--> connecting --begin--> catching_up --complete--> in_sync
///       |                       |  |                                          ^  ^
///       |                       |  +--complete (nothing to send)--------------+  |
///       |                       +--needs rebuild--> needs_rebuild                |
///       |                                                 |                      |
///       +--connect (rebuild)--> rebuilding <--connect-----+                      |
///                                   +----------------complete--------------------+
///
///  every state --session or stream ends--> disconnected; needs_rebuild while marked
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// No link.
    Disconnected,
    /// A session exchanges facts.
    Connecting,
    /// A session sends the tail of the log.
    CatchingUp,
    /// A session rebuilds it.
    Rebuilding,
    /// A stream lives (D6).
    InSync,
    /// Reserved for the server that links Seawall; nothing here sets it.
    Degraded,
    /// Marked: only a rebuild leads on.
    NeedsRebuild,
}

impl State {
    /// The name that status and scripts use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            State::Disconnected => "disconnected",
            State::Connecting => "connecting",
            State::CatchingUp => "catching_up",
            State::Rebuilding => "rebuilding",
            State::InSync => "in_sync",
            State::Degraded => "degraded",
            State::NeedsRebuild => "needs_rebuild",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What set the needs-rebuild mark. Silence or link loss alone never does (D7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MarkCause {
    /// The outcome was needs rebuild.
    Outcome,
    /// A budget was exceeded.
    Budget,
    /// A pin for a rebuild was refused.
    RebuildPinRefused,
    /// A session was invalidated to `needs_rebuild`.
    Invalidated,
    /// A base transfer began.
    TransferBegan,
    /// The replica said so itself (D8).
    ReplicaSaysSo,
}

impl MarkCause {
    /// A stable name for the state log and scripts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            MarkCause::Outcome => "outcome",
            MarkCause::Budget => "budget",
            MarkCause::RebuildPinRefused => "rebuild-pin-refused",
            MarkCause::Invalidated => "invalidated",
            MarkCause::TransferBegan => "transfer-began",
            MarkCause::ReplicaSaysSo => "replica-says-so",
        }
    }
}

/// Something that happened to a sender and that others have to know: the event log, the ack
/// ledger, the durable state in `recovery/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// A session ended without success.
    SessionInvalidated {
        /// The session.
        id: SessionId,
        /// Why.
        reason: Invalidation,
    },
    /// A session completed and its stream lives.
    StreamStarted {
        /// The id of both.
        id: SessionId,
        /// What the replica holds.
        at: Lsn,
    },
    /// A stream ended: it counts for the ack rule no more.
    StreamEnded {
        /// The stream.
        id: SessionId,
        /// Why.
        cause: StreamEnd,
    },
    /// The needs-rebuild mark was set; it has to be durable before anything follows from it.
    Marked(MarkCause),
    /// The needs-rebuild mark was set, because the state log remembers it: it is durable already.
    MarkRestored,
    /// The needs-rebuild mark was cleared.
    MarkCleared,
    /// The replica has another node incarnation: what it acknowledged before is void (D8).
    AcknowledgementsVoided {
        /// The new one.
        node: NodeIncarnation,
    },
    /// A decision found damage in the primary's own log (D14).
    DamageFound {
        /// The record.
        lsn: Lsn,
        /// What is wrong with it.
        kind: DamageKind,
    },
}

/// A detached, consistent copy of what a sender knows (1.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SenderView {
    /// The replica.
    pub replica: ReplicaId,
    /// How it is reached.
    pub endpoint: Endpoint,
    /// The epoch of the sender.
    pub epoch: Epoch,
    /// Its state.
    pub state: State,
    /// Whether it is stopped for good.
    pub stopped: bool,
    /// Whether it is marked needs-rebuild.
    pub needs_rebuild: bool,
    /// The active session.
    pub session: Option<Session>,
    /// The live stream.
    pub stream: Option<StreamView>,
}
