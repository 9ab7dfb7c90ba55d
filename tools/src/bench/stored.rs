//! A log that was written once and is read again and again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::LogMode;
use seawall_wal::disk::{Choice, Disk, open_backend};

use super::counting::Counting;
use super::device::forget;
use super::engine::{Engine, Load, Shape};
use super::floor_read::ReadFloor;
use crate::error::Error;

/// See the module text.
#[derive(Debug)]
pub struct Stored {
    dir: PathBuf,
    shape: Shape,
    backend: Choice,
    files: Vec<(PathBuf, u64)>,
    /// Records in it.
    pub records: u64,
}

impl Stored {
    /// Writes a log of `bytes` of payload below `dir`, with the last segment half full, and ends
    /// it as a crash would: without a clean close.
    ///
    /// # Errors
    /// [`Error::Usage`] for a shape that no log takes; otherwise what the log says.
    pub fn build(
        dir: &Path,
        backend: Choice,
        shape: Shape,
        bytes: u64,
        load: Load,
    ) -> Result<Stored, Error> {
        let shape = Shape {
            retained_bytes: None,
            ..shape
        };
        let disk = open_backend(backend)?;
        let dir = dir.join("log");
        let engine = Engine::create(&disk, &dir, shape)?;
        engine.fill(bytes / shape.record_bytes as u64, load)?;
        engine.fill_to_half_a_segment(load)?;
        engine.log().stop();
        Ok(Stored {
            dir,
            shape,
            backend,
            files: engine.segment_files(),
            records: engine.retained().len(),
        })
    }

    /// Opens it; without `maps`, every read is positional.
    ///
    /// # Errors
    /// What the log says.
    pub fn open(&self, maps: bool, mode: LogMode) -> Result<(Arc<Counting>, Engine), Error> {
        let counting = Counting::over(open_backend(self.backend)?, maps);
        let disk: Arc<dyn Disk> = counting.clone();
        let engine = Engine::open(&disk, &self.dir, self.shape, mode)?;
        Ok((counting, engine))
    }

    /// Lets the page cache forget it. Nobody may have it open: what is mapped stays.
    ///
    /// # Errors
    /// A file of it cannot be opened.
    pub fn forget(&self) -> Result<(), Error> {
        self.files.iter().try_for_each(|(path, _)| forget(path))
    }

    /// The raw floors over its files.
    ///
    /// # Errors
    /// As [`ReadFloor::open`].
    pub fn floor(&self) -> Result<ReadFloor, Error> {
        ReadFloor::open(&self.files)
    }

    /// What is in it.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_log_opens_either_way_with_half_a_segment_to_scan() {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape {
            segment_bytes: 1 << 20,
            ..Shape::DEFAULT
        };
        let stored =
            Stored::build(dir.path(), Choice::Portable, shape, 5 << 20, Load::FILL).unwrap();
        assert!(
            stored.records >= (5 << 20) / 4096 + 128,
            "{}",
            stored.records
        );
        for maps in [true, false] {
            stored.forget().unwrap();
            let (_, engine) = stored.open(maps, LogMode::ReadOnly).unwrap();
            assert_eq!(engine.retained().len(), stored.records);
            assert_eq!(engine.replay(engine.retained()).unwrap(), stored.records);
        }
        let (_, last) = stored.files.last().unwrap();
        assert!((512 << 10..800 << 10).contains(last), "{last}");
        assert!(stored.floor().unwrap().bytes() >= stored.records * 4096);
    }
}
