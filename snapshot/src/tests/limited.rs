//! A disk that takes only so many operations at a time: who goes round in circles fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::disk::{Completion, Disk, Operation, Token};

/// No step of a story needs more.
const OPERATIONS_MAX: u64 = 50_000;

#[derive(Debug)]
pub(super) struct Limited {
    inner: Arc<dyn Disk>,
    left: AtomicU64,
}

impl Limited {
    pub(super) fn over(inner: Arc<dyn Disk>) -> Arc<Limited> {
        let left = AtomicU64::new(OPERATIONS_MAX);
        Arc::new(Limited { inner, left })
    }

    /// The next step begins.
    pub(super) fn refill(&self) {
        self.left.store(OPERATIONS_MAX, Ordering::Relaxed);
    }
}

impl Disk for Limited {
    fn submit(&self, operation: Operation) -> Token {
        let left = self.left.load(Ordering::Relaxed).checked_sub(1);
        let left = left.expect("a step of a story comes to an end");
        self.left.store(left, Ordering::Relaxed);
        self.inner.submit(operation)
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.inner.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.inner.wait(token)
    }

    fn durable_writes(&self) -> bool {
        self.inner.durable_writes()
    }

    fn overlaps(&self) -> bool {
        self.inner.overlaps()
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    fn is_stepped(&self) -> bool {
        true
    }
}
