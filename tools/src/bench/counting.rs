//! A backend that counts what reaches the device and passes everything on.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use seawall_wal::disk::{Completion, Disk, FileId, MappedFile, Operation, Output, Token};

/// What was submitted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Syncs of files and writes that are durable by themselves: each is a flush of the device.
    pub syncs: u64,
    /// Bytes of writes.
    pub bytes: u64,
    /// Of these, bytes of the blocks of an image.
    pub image: u64,
    /// Of these, bytes of the sums of an image.
    pub sums: u64,
    /// Of these, bytes of blocks kept for pinned views.
    pub preserved: u64,
}

impl Counters {
    /// What came to these since.
    #[must_use]
    pub fn since(self, before: Counters) -> Counters {
        Counters {
            syncs: self.syncs - before.syncs,
            bytes: self.bytes - before.bytes,
            image: self.image - before.image,
            sums: self.sums - before.sums,
            preserved: self.preserved - before.preserved,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, more: Counters) -> Counters {
        Counters {
            syncs: self.syncs + more.syncs,
            bytes: self.bytes + more.bytes,
            image: self.image + more.image,
            sums: self.sums + more.sums,
            preserved: self.preserved + more.preserved,
        }
    }
}

/// The files of a base whose bytes are told apart; those of the log and of meta are the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Image,
    Sums,
    Preserved,
}

impl Part {
    const COUNT: usize = 3;

    fn named(path: &Path) -> Option<Part> {
        match path.file_name()?.to_str()? {
            "image" => Some(Part::Image),
            "sums" => Some(Part::Sums),
            name if name.starts_with("preserved") => Some(Part::Preserved),
            _ => None,
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
    of_parts: [AtomicU64; Part::COUNT],
    /// Open files of a base.
    parts: RwLock<HashMap<FileId, Part>>,
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
            of_parts: Default::default(),
            parts: RwLock::default(),
        })
    }

    /// What was submitted so far.
    // Relaxed everywhere: the counters carry no other memory with them.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let part = |part: Part| self.of_parts[part as usize].load(Ordering::Relaxed);
        Counters {
            syncs: self.syncs.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            image: part(Part::Image),
            sums: part(Part::Sums),
            preserved: part(Part::Preserved),
        }
    }

    fn count(&self, operation: &Operation) {
        match operation {
            Operation::Sync { .. } => {
                self.syncs.fetch_add(1, Ordering::Relaxed);
            }
            Operation::Write {
                file,
                buffers,
                durable,
                ..
            } => {
                self.written(
                    *file,
                    buffers.iter().map(|buffer| buffer.len() as u64).sum(),
                );
                self.syncs.fetch_add(u64::from(*durable), Ordering::Relaxed);
            }
            Operation::WriteZeros { file, length, .. } => self.written(*file, *length),
            _ => {}
        }
    }

    fn written(&self, file: FileId, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = parts.get(&file) {
            self.of_parts[*part as usize].fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Remembers what a file is that was opened.
    fn opened(&self, part: Option<Part>, completion: &Completion) {
        if let (Some(part), Ok(Output::File(file))) = (part, completion) {
            // Ids are never used again, so nothing has to be forgotten.
            let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
            parts.insert(*file, part);
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
        // Files are opened by a call that waits.
        let part = match &operation {
            Operation::Open { path, .. } => Part::named(path),
            _ => None,
        };
        let completion = self.inner.run(operation);
        self.opened(part, &completion);
        completion
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

    fn copies_share(&self, file: FileId) -> bool {
        self.inner.copies_share(file)
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
            ..Counters::default()
        };
        assert_eq!(disk.counters().since(before), expected);
    }

    #[test]
    fn the_files_of_a_base_are_told_apart_by_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Counting::over(common::disk(), true);
        for (name, bytes) in [
            ("image", 512),
            ("sums", 16),
            ("preserved-1", 1024),
            ("meta", 1),
        ] {
            let file = file(&disk, &dir.path().join(name));
            file.write_bytes(0, Buffer::zeroed(bytes)).unwrap();
        }
        let expected = Counters {
            syncs: 0,
            bytes: 512 + 16 + 1024 + 1,
            image: 512,
            sums: 16,
            preserved: 1024,
        };
        assert_eq!(disk.counters(), expected);
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
