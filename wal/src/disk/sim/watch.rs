//! A simulated disk that lets somebody look whenever an operation was submitted or carried out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::SimDisk;
use crate::disk::{Completion, Disk, OpenMode, Operation, Token};

/// Who looks at the disk.
pub type Visitor = Arc<dyn Fn(&Arc<SimDisk>) + Send + Sync>;

/// Carries out one operation at a time, so that every moment between two of them can be cut.
pub struct Watch {
    sim: Arc<SimDisk>,
    visitor: Visitor,
    /// Changes carried out when the visitor was last there.
    seen: AtomicU64,
}

/// Whether an operation in flight may leave a mark on the medium.
fn may_change(operation: &Operation) -> bool {
    match operation {
        Operation::Open { mode, .. } => {
            matches!(mode, OpenMode::CreateNew | OpenMode::CreateOrOpen)
        }
        Operation::Write { .. }
        | Operation::WriteZeros { .. }
        | Operation::SetLength { .. }
        | Operation::PunchHole { .. }
        | Operation::Copy { .. }
        | Operation::MakeDir { .. }
        | Operation::Rename { .. }
        | Operation::Remove { .. } => true,
        Operation::Close { .. }
        | Operation::Read { .. }
        | Operation::Sync { .. }
        | Operation::Length { .. }
        | Operation::NextData { .. }
        | Operation::Lock { .. }
        | Operation::List { .. }
        | Operation::SyncDir { .. } => false,
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({:?})", self.sim)
    }
}

impl Watch {
    /// A disk that calls `visitor` at every moment of `sim` that a power cut could hit.
    #[must_use]
    pub fn over(sim: &Arc<SimDisk>, visitor: Visitor) -> Arc<dyn Disk> {
        Arc::new(Watch {
            sim: Arc::clone(sim),
            visitor,
            seen: AtomicU64::new(u64::MAX),
        })
    }

    fn visit(&self) {
        self.seen.store(self.sim.changes(), Ordering::Relaxed);
        // A failed test closes its files on the way out: nobody looks then.
        if !std::thread::panicking() {
            (self.visitor)(&self.sim);
        }
    }
}

impl Disk for Watch {
    fn submit(&self, operation: Operation) -> Token {
        let changes = may_change(&operation);
        let token = self.sim.submit(operation);
        if changes {
            self.visit();
        }
        token
    }

    fn take(&self, token: Token) -> Option<Completion> {
        let completion = self.sim.take(token);
        if self.seen.load(Ordering::Relaxed) != self.sim.changes() {
            self.visit();
        }
        completion
    }

    fn wait(&self, token: Token) -> Completion {
        loop {
            if let Some(completion) = self.take(token) {
                return completion;
            }
            if self.sim.in_flight() == 0 {
                return self.sim.wait(token);
            }
        }
    }

    fn durable_writes(&self) -> bool {
        self.sim.durable_writes()
    }

    fn overlaps(&self) -> bool {
        self.sim.overlaps()
    }

    fn backend(&self) -> &'static str {
        self.sim.backend()
    }

    fn is_stepped(&self) -> bool {
        true
    }
}
