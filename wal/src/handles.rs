//! Handles of segment files and their indexes. Few are open at once, however many segments there
//! are: those that are written, and those that were lately read.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::Error;
use crate::disk::{Disk, File, OpenMode};
use crate::sync::{Mutex, MutexGuard};

/// Handles that stay open behind their last use.
pub(crate) const KEPT_MAX: usize = 32;

/// A file in one life of its slot. The name alone would find the file of an earlier life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The segment of a generation.
    Segment(u64),
    /// Its index.
    Index(u64),
}

/// Handles for reading, opened when they are needed.
#[derive(Debug)]
pub(crate) struct Handles {
    disk: Arc<dyn Disk>,
    /// The one used last is the last one.
    kept: Mutex<Vec<(Key, Arc<File>)>>,
}

impl Handles {
    pub(crate) fn new(disk: &Arc<dyn Disk>) -> Arc<Handles> {
        Arc::new(Handles {
            disk: Arc::clone(disk),
            kept: Mutex::new(Vec::with_capacity(KEPT_MAX + 1)),
        })
    }

    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Key, Arc<File>)>> {
        // OK because the list is whole between any two of its calls.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A handle that only reads. Files are opened and closed outside the lock.
    pub(crate) fn reader(&self, key: Key, path: &Path) -> Result<Arc<File>, Error> {
        {
            let mut kept = self.kept();
            if let Some(at) = kept.iter().rposition(|(other, _)| *other == key) {
                kept[at..].rotate_left(1);
                let (_, file) = kept.last().expect("one was found");
                return Ok(Arc::clone(file));
            }
        }
        let file = Arc::new(File::open(&self.disk, path, OpenMode::Read)?);
        let mut kept = self.kept();
        kept.push((key, Arc::clone(&file)));
        let oldest = (kept.len() > KEPT_MAX).then(|| kept.remove(0));
        drop(kept);
        drop(oldest);
        Ok(file)
    }

    /// Closes what is open of a life that is over: its slot may get another file.
    pub(crate) fn forget(&self, generation: u64) {
        let over = [Key::Segment(generation), Key::Index(generation)];
        let mut kept = self.kept();
        let (gone, left): (Vec<_>, Vec<_>) =
            kept.drain(..).partition(|(key, _)| over.contains(key));
        *kept = left;
        drop(kept);
        drop(gone);
    }
}

#[cfg(test)]
mod tests;
