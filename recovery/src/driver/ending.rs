//! How a session or stream ended, as the deciding half is told.

use seawall_snapshot::Error as VolumeError;
use seawall_wal::Error as LogError;

use super::core::Shared;
use crate::error::Error;
use crate::failure::{Cancelled, Invalidation, Link as LinkEnd, StreamEnd};
use crate::id::{ReplicaId, SessionId};
use crate::message::Refusal;
use crate::orchestrator::Call;
use crate::sender::State;

/// Tells the deciding half that a session or stream ended without success.
pub(super) fn conclude(shared: &Shared, replica: &ReplicaId, session: SessionId, error: &Error) {
    let done = shared.step(|core, now| {
        if let Error::Refused {
            reason: Refusal::EpochTooOld { promised },
            ..
        } = error
        {
            core.deposed = core.deposed.max(Some(*promised));
        }
        let call = Call {
            now,
            replica,
            session,
        };
        let Ok(sender) = core.orchestrator.registry().sender(replica) else {
            // It was removed, and its session or stream ended then.
            return Ok(());
        };
        if sender.stream_id() == Some(session) {
            return core.orchestrator.stream_lost(call, stream_end(error));
        }
        if sender.session_id() != Some(session) {
            return Ok(());
        }
        let reason = invalidation(error, shared.stopping());
        core.orchestrator
            .invalidate(call, reason, State::Disconnected)
    });
    if let Err(error) = done {
        tracing::error!(%replica, %error, "the end of a session could not be remembered");
    }
}

/// As [`conclude`], for whatever session or stream there is: nobody is left who knows of it.
pub(super) fn conclude_current(shared: &Shared, replica: &ReplicaId, error: &Error) {
    let current = {
        let core = shared.core();
        let sender = core.orchestrator.registry().sender(replica);
        sender
            .ok()
            .and_then(|sender| sender.session_id().or(sender.stream_id()))
    };
    if let Some(session) = current {
        conclude(shared, replica, session, error);
    }
}

fn link_end(error: &Error) -> LinkEnd {
    match error {
        Error::Silent { .. } | Error::Stalled { .. } => LinkEnd::Silence,
        _ => LinkEnd::Closed,
    }
}

/// What the log said, directly or through a view. While a session or stream has its pin, nothing
/// of what it reads is reclaimed: where it is, the pin was broken.
fn log_error(error: &Error) -> Option<&LogError> {
    match error {
        Error::Log(error) | Error::Volume(VolumeError::Log(error)) => Some(error),
        _ => None,
    }
}

fn stream_end(error: &Error) -> StreamEnd {
    match log_error(error) {
        Some(LogError::Hole { lsn }) => StreamEnd::ReadFailed { lsn: *lsn },
        Some(LogError::Corrupt(corrupt)) => StreamEnd::ReadFailed {
            lsn: corrupt.lsn.unwrap_or_default(),
        },
        Some(LogError::PinBroken { .. } | LogError::Reclaimed { .. }) => StreamEnd::PinBroken,
        _ => StreamEnd::LinkLost(link_end(error)),
    }
}

fn invalidation(error: &Error, stopping: bool) -> Invalidation {
    match error {
        _ if stopping => Invalidation::ExecutorCancelled(Cancelled::Closing),
        Error::Silent { .. }
        | Error::Stalled { .. }
        | Error::Closed { .. }
        | Error::Socket { .. }
        | Error::Tls { .. } => Invalidation::LinkLost(link_end(error)),
        error => match log_error(error) {
            Some(LogError::Hole { lsn }) => Invalidation::ReadFailed { lsn: *lsn },
            Some(LogError::Corrupt(corrupt)) => Invalidation::ReadFailed {
                lsn: corrupt.lsn.unwrap_or_default(),
            },
            Some(LogError::PinBroken { .. } | LogError::Reclaimed { .. }) => {
                Invalidation::PinBroken
            }
            _ => Invalidation::ExecutorCancelled(Cancelled::StepFailed),
        },
    }
}
