//! A backend that counts what reaches the device and passes everything on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::disk::{Completion, Disk, FileId, MappedFile, Operation, Token};

/// What was submitted so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    /// Syncs of files.
    pub(super) syncs: u64,
    /// Bytes of writes.
    pub(super) bytes: u64,
}

impl Counters {
    pub(super) fn since(self, before: Counters) -> Counters {
        Counters {
            syncs: self.syncs - before.syncs,
            bytes: self.bytes - before.bytes,
        }
    }
}

#[derive(Debug)]
pub(super) struct Counting {
    inner: Arc<dyn Disk>,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl Counting {
    pub(super) fn over(inner: Arc<dyn Disk>) -> Arc<Counting> {
        Arc::new(Counting {
            inner,
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    fn count(&self, operation: &Operation) {
        match operation {
            Operation::Sync { .. } => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Operation::Write {
                buffers, durable, ..
            } => {
                let bytes = buffers.iter().map(|buffer| buffer.len() as u64).sum();
                self.bytes.fetch_add(bytes, Ordering::Relaxed);
                self.syncs.fetch_add(u64::from(*durable), Ordering::Relaxed);
            }
            _ => {}
        }
    }

    // Relaxed everywhere: the counters carry no other memory with them.
    pub(super) fn counters(&self) -> Counters {
        Counters {
            syncs: self.syncs.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Disk for Counting {
    fn submit(&self, operation: Operation) -> Token {
        self.count(&operation);
        self.inner.submit(operation)
    }

    fn run(&self, operation: Operation) -> Completion {
        self.count(&operation);
        self.inner.run(operation)
    }

    fn durable_writes(&self) -> bool {
        self.inner.durable_writes()
    }

    fn overlaps(&self) -> bool {
        self.inner.overlaps()
    }

    fn take(&self, token: Token) -> Option<Completion> {
        self.inner.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.inner.wait(token)
    }

    fn backend(&self) -> &'static str {
        self.inner.backend()
    }

    fn is_stepped(&self) -> bool {
        self.inner.is_stepped()
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        self.inner.map(file, offset, length)
    }
}
