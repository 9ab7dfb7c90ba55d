//! Slots of segment files: which have a file, and which of those may be prepared anew.

use std::collections::BTreeSet;

/// Slots that belong to no retained segment, with the highest slot number in use.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Files that may be prepared for a new life.
    pub(crate) spare: Vec<u32>,
    /// Files of later lives than the oldest retained one and outside the chain. They may hold
    /// frames that were cut, and are prepared anew before anything is appended behind a cut (D16).
    pub(crate) later: Vec<u32>,
    /// Every slot that has a file.
    pub(crate) used: BTreeSet<u32>,
}

impl Slots {
    /// A spare slot, or else the lowest one without a file.
    pub(crate) fn take(&mut self) -> u32 {
        let spare = self.spare.pop();
        spare.unwrap_or_else(|| self.take_fresh())
    }

    /// The lowest slot without a file.
    pub(crate) fn take_fresh(&mut self) -> u32 {
        let dense = (0..)
            .zip(&self.used)
            .take_while(|(slot, used)| slot == *used);
        let slot = u32::try_from(dense.count());
        let slot = slot.expect("a directory holds fewer files than there are slots");
        self.used.insert(slot);
        slot
    }

    /// A spare slot whose file is about to be removed.
    pub(crate) fn give_up(&mut self) -> Option<u32> {
        let slot = self.spare.pop()?;
        self.used.remove(&slot);
        Some(slot)
    }
}
