//! What can happen in the model.

/// What can happen. The first part belongs to one replica, the last to the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// A session that may stall for one tick.
    Attach,
    AttachRebuild,
    Connect,
    /// Plans whatever the kind of the session is.
    Decide,
    /// The same, and every pin is refused.
    DecideUnpinned,
    /// The records that an unconfirmed primary finds above its head.
    Fetch,
    /// The attempt to reach the replica has failed.
    NotReached,
    Begin,
    /// The replica cuts, durably, and says so.
    Cut,
    /// One record goes out.
    Send,
    /// The replica syncs one record that was sent, and says so.
    Ack,
    Complete,
    CompleteUnpinned,
    Install,
    /// Over the old state, under the marker.
    InstallInPlace,
    Verify,
    VerifyDiffers,
    BeginTail,
    TailAck,
    /// The replica switches to its new base.
    Finish,
    FinishDiffers,
    /// The replica switches, and the link breaks before it can say so.
    FinishUnheard,
    LinkLost,
    Silence,
    CheckBudget,
    Cancel,
    DropPlan,
    Ship,
    StreamAck,
    StreamLost,
    /// The directory of the replica is emptied.
    Wipe,
    /// All that leads to in sync, in one step.
    Recover,
    /// The control plane moves it.
    Move,
    /// The control plane drops it, or takes it back.
    Reassign,
    /// A takeover by an assignment.
    Takeover,
    RaiseEpoch,
    AssignEpoch,
    Wait,
    Write,
    Reclaim,
    Damage,
    /// The primary dies and opens again.
    Restart,
}

use Act::*;

/// Events of different replicas among these do not depend on each other.
pub(super) const LOCAL: [Act; 30] = [
    Attach,
    AttachRebuild,
    Connect,
    Decide,
    DecideUnpinned,
    NotReached,
    Begin,
    Cut,
    Send,
    Ack,
    Complete,
    CompleteUnpinned,
    Install,
    InstallInPlace,
    Verify,
    VerifyDiffers,
    BeginTail,
    TailAck,
    Finish,
    FinishDiffers,
    FinishUnheard,
    LinkLost,
    Silence,
    CheckBudget,
    Cancel,
    DropPlan,
    Ship,
    StreamAck,
    StreamLost,
    Wipe,
];
const ASSIGNED: [Act; 4] = [Fetch, Move, Reassign, Takeover];
const GLOBAL: [Act; 7] = [
    RaiseEpoch,
    AssignEpoch,
    Wait,
    Write,
    Reclaim,
    Damage,
    Restart,
];

/// What leads on without a fault. A link that is gone is noticed: no fault either.
pub(super) const ORDERLY: [Act; 19] = [
    Attach,
    AttachRebuild,
    Connect,
    Decide,
    Fetch,
    Begin,
    Cut,
    Send,
    Ack,
    Complete,
    Install,
    Verify,
    BeginTail,
    TailAck,
    Finish,
    Ship,
    StreamAck,
    LinkLost,
    StreamLost,
];

/// Those of `faults_of_both`.
const FAULTS: [Act; 7] = [
    DecideUnpinned,
    CompleteUnpinned,
    VerifyDiffers,
    FinishUnheard,
    CheckBudget,
    Wipe,
    Move,
];

/// Something that happens to one of the replicas, or to the primary.
pub(super) type Event = (Act, usize);

fn of_replica(acts: &[Act], at: usize) -> impl Iterator<Item = Event> {
    acts.iter().map(move |act| (*act, at))
}

/// Everything, for both.
pub(super) fn events() -> Vec<Event> {
    let mut events = Vec::new();
    for at in 0..2 {
        events.extend(of_replica(&LOCAL, at));
        events.extend(of_replica(&ASSIGNED, at));
    }
    events.extend(of_replica(&GLOBAL, 0));
    events
}

/// Everything for the first replica. The second does what the first can notice: it is in sync,
/// acknowledges, keeps records pinned, and is lost again.
pub(super) fn with_neighbour() -> Vec<Event> {
    let mut events: Vec<Event> = of_replica(&LOCAL, 0).collect();
    events.extend(of_replica(&ASSIGNED, 0));
    events.extend(of_replica(&[Recover, Ship, StreamAck, StreamLost], 1));
    events.extend(of_replica(&GLOBAL, 0));
    events
}

/// Whole recoveries of both, step by step, and what ends them: links, epochs, restarts.
pub(super) fn recoveries_of_both() -> Vec<Event> {
    let mut events = Vec::new();
    for at in 0..2 {
        events.extend(of_replica(&ORDERLY, at));
        events.extend(of_replica(&[NotReached], at));
    }
    events.extend(of_replica(&[RaiseEpoch, Write, Reclaim, Restart], 0));
    events
}

/// The same with changed endpoints, refused pins, budgets that run out and directories that are
/// lost.
pub(super) fn faults_of_both() -> Vec<Event> {
    let mut events = recoveries_of_both();
    for at in 0..2 {
        events.extend(of_replica(&FAULTS, at));
    }
    events.push((Wait, 0));
    events
}

/// The log stands still and the primary stays up: small enough to be exhausted in the gate.
pub(super) fn still() -> Vec<Event> {
    let mut events = recoveries_of_both();
    events.retain(|(act, _)| !matches!(act, Write | Restart | NotReached));
    for at in 0..2 {
        events.extend(of_replica(&[DecideUnpinned, FinishUnheard], at));
    }
    events
}
