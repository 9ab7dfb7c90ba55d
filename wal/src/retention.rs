//! All pins of all crates, and the floor they put under reclaim (D20).

use std::sync::Arc;

use crate::Lsn;

/// What a pin holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinKind {
    /// Records after an LSN.
    Wal,
    /// The view of the image at one checkpoint.
    Snapshot,
    /// Image and records through a target.
    Base,
}

impl PinKind {
    /// Name as status prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PinKind::Wal => "wal",
            PinKind::Snapshot => "snapshot",
            PinKind::Base => "base",
        }
    }
}

/// One pin as status lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinInfo {
    /// Number of the pin, unique in this process.
    pub id: u64,
    /// Who holds it, for people: a session, a stream, a tool.
    pub owner: String,
    /// What it holds.
    pub kind: PinKind,
    /// The position it is about.
    pub lsn: Lsn,
    /// Monotonic nanoseconds since it was taken.
    pub age_ns: u64,
    /// Bytes of log or preserved blocks it keeps.
    pub bytes: u64,
}

/// Records after an LSN stay readable while this value lives. Dropping it releases them.
#[derive(Debug)]
pub struct WalPin {
    registry: Arc<Registry>,
    id: u64,
}

impl WalPin {
    /// Every record above this LSN that exists stays readable.
    #[must_use]
    pub fn after(&self) -> Lsn {
        let _ = (&self.registry, self.id);
        todo!()
    }

    /// Moves the pin up, never down: what a stream does with acknowledgements (D6).
    pub fn advance(&self, after: Lsn) {
        let _ = after;
        todo!()
    }
}

/// Every pin of one volume.
#[derive(Debug, Default)]
pub struct Registry {}
