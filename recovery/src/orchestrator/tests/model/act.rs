//! What can happen in the model.

/// What can happen. The first half belongs to one replica, the second half to the primary.
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
}

use Act::*;

pub(super) const LOCAL: [Act; 28] = [
    Attach,
    AttachRebuild,
    Connect,
    Decide,
    DecideUnpinned,
    Begin,
    Cut,
    Send,
    Ack,
    Complete,
    CompleteUnpinned,
    Install,
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
const ASSIGNED: [Act; 3] = [Move, Reassign, Takeover];
const GLOBAL: [Act; 6] = [RaiseEpoch, AssignEpoch, Wait, Write, Reclaim, Damage];

/// Something that happens to one of the replicas, or to the primary.
pub(super) type Event = (Act, usize);

pub(super) fn events() -> Vec<Event> {
    let both = LOCAL.into_iter().chain(ASSIGNED);
    let both = both.flat_map(|act| [(act, 0), (act, 1)]);
    both.chain(GLOBAL.map(|act| (act, 0))).collect()
}
