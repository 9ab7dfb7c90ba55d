//! A backend that counts what reaches the device and passes everything on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seawall_wal::disk::{Completion, Disk, FileId, MappedFile, Operation, Token};

/// What was submitted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Syncs of files and writes that are durable by themselves: each is a flush of the device.
    pub syncs: u64,
    /// Bytes of writes.
    pub bytes: u64,
}

impl Counters {
    /// What came to these since.
    #[must_use]
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            syncs: self.syncs - before.syncs,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// See the module text.
#[derive(Debug)]
pub struct Counting {
    inner: Arc<dyn Disk>,
    maps: bool,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

impl Counting {
    /// Counts what `inner` gets. Without `maps`, files are read and never mapped.
    #[must_use]
    pub fn over(inner: Arc<dyn Disk>, maps: bool) -> Arc<Counting> {
        Arc::new(Counting {
            inner,
            maps,
            syncs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// What was submitted so far.
    // Relaxed everywhere: the counters carry no other memory with them.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            syncs: self.syncs.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
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
            Operation::WriteZeros { length, .. } => {
                self.bytes.fetch_add(*length, Ordering::Relaxed);
            }
            _ => {}
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

    fn fallback(&self) -> Option<&str> {
        self.inner.fallback()
    }

    fn is_stepped(&self) -> bool {
        self.inner.is_stepped()
    }

    fn map(&self, file: FileId, offset: u64, length: usize) -> Option<MappedFile> {
        match self.maps {
            true => self.inner.map(file, offset, length),
            false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use seawall_wal::disk::{Buffer, File, OpenMode};

    use super::*;
    use crate::common;

    fn file(disk: &Arc<Counting>, path: &Path) -> File {
        let disk: Arc<dyn Disk> = disk.clone();
        File::open(&disk, path, OpenMode::CreateOrOpen).unwrap()
    }

    #[test]
    fn writes_count_by_their_bytes_and_what_makes_durable_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Counting::over(common::disk(), true);
        let file = file(&disk, &dir.path().join("file"));
        file.write_bytes(0, Buffer::zeroed(4096)).unwrap();
        let before = disk.counters();
        let two = vec![Arc::new(Buffer::zeroed(100)), Arc::new(Buffer::zeroed(28))];
        file.write(0, two).unwrap();
        file.sync().unwrap();
        file.read(0, 4096).unwrap();
        let durable = |durable| Operation::Write {
            file: file.id(),
            offset: 0,
            buffers: vec![Arc::new(Buffer::zeroed(512))],
            durable,
        };
        disk.run(durable(true)).unwrap();
        disk.run(durable(false)).unwrap();
        disk.wait(disk.submit(durable(true))).unwrap();
        let expected = Counters {
            syncs: 3,
            bytes: 128 + 3 * 512,
        };
        assert_eq!(disk.counters().since(before), expected);
    }

    #[test]
    fn without_maps_no_file_is_mapped() {
        let dir = tempfile::tempdir().unwrap();
        for maps in [true, false] {
            let disk = Counting::over(common::disk(), maps);
            let file = file(&disk, &dir.path().join("file"));
            file.write_bytes(0, Buffer::zeroed(4096)).unwrap();
            assert_eq!(file.map(0, 4096).is_some(), maps);
        }
    }
}
