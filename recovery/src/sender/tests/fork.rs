//! Copies for the model checker: a state of the machines is copied once per event that may follow.

use super::*;
use crate::plan::Held;

pub(crate) fn forked_pin(held: &Held<TestPin>, count: &Arc<PinCount>) -> Option<Held<TestPin>> {
    let after = held.with(|pin| pin.after)?;
    Some(Held::new(TestPin::new(count, after)))
}

impl Sender<TestPin> {
    /// A copy whose pins are its own, and the slot that its session shares with its plan.
    pub(crate) fn forked(&self, count: &Arc<PinCount>) -> (Sender<TestPin>, Option<Held<TestPin>>) {
        let mut slot = None;
        let work = match &self.work {
            Work::Idle => Work::Idle,
            Work::Session { session, held } => {
                slot = held.as_ref().and_then(|held| forked_pin(held, count));
                Work::Session {
                    session: session.clone(),
                    held: slot.clone(),
                }
            }
            Work::Stream(stream) => Work::Stream(Box::new(stream.forked(count))),
        };
        let sender = Sender {
            replica: self.replica.clone(),
            endpoint: self.endpoint.clone(),
            epoch: self.epoch,
            state: self.state,
            marked: self.marked,
            stopped: self.stopped,
            node: self.node,
            work,
            notes: self.notes.clone(),
        };
        (sender, slot)
    }

    /// Which life of the replica's directory spoke last.
    pub(crate) const fn known_node(&self) -> Option<NodeIncarnation> {
        self.node
    }
}
