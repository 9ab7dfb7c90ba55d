//! Copies for the model checker.

use super::*;
use crate::plan::Held;
use crate::testing::PinCount;
use std::sync::Arc;

impl Registry<TestPin> {
    /// A copy whose pins are its own, and the slots that its sessions share with their plans.
    pub(crate) fn forked(
        &self,
        count: &Arc<PinCount>,
    ) -> (Registry<TestPin>, Vec<(SessionId, Held<TestPin>)>) {
        let mut slots = Vec::new();
        let senders = self.senders.iter().map(|(id, sender)| {
            let (sender, slot) = sender.forked(count);
            slots.extend(sender.session_id().zip(slot));
            (id.clone(), sender)
        });
        let registry = Registry {
            senders: senders.collect(),
            epoch: self.epoch,
            version: self.version,
            ids: self.ids.clone(),
            last_words: self.last_words.clone(),
        };
        (registry, slots)
    }

    /// The newest assignment that was applied in this epoch.
    pub(crate) const fn known_version(&self) -> Option<u64> {
        self.version
    }
}
