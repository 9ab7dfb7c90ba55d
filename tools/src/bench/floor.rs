//! The raw floor of a disk for appends: no sum, no frame, no engine. It goes past the Disk seam on
//! purpose.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use seawall_wal::disk::Buffer;

use crate::bench::turn::{Turn, Until, turn};
use crate::bench::{incompressible, to_usize};
use crate::error::Error;

/// The file that is overwritten, and how often the sequential floor syncs.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of one write of the sequential floor, and how many are in flight.
const STREAM_BYTES: usize = 1 << 20;
const STREAM_DEPTH: u32 = 4;
/// What a direct write has to be a multiple of, on any device.
const DIRECT_BYTES: usize = 4096;

/// A written file, and how it is overwritten.
#[derive(Debug)]
pub struct Floor {
    file: OwnedFd,
    bytes: Buffer,
    stream: bool,
    /// Bytes of a record: whatever the floor writes, it is told in records.
    record_bytes: usize,
    /// Writes of this floor so far; each goes to the place behind the one before it.
    writes: AtomicU64,
}

impl Floor {
    /// Overwrites that hold one record each, with `O_DIRECT` and `O_DSYNC`, at consecutive places.
    ///
    /// # Errors
    /// The directory takes no files.
    pub fn durable(dir: &Path, record_bytes: usize) -> Result<Floor, Error> {
        let length = record_bytes.next_multiple_of(DIRECT_BYTES);
        Floor::open(dir, "floor-durable", length, record_bytes, false)
    }

    /// 1 MiB overwrites with `O_DIRECT`, 4 in flight, and an fdatasync every 64 MiB.
    ///
    /// # Errors
    /// The directory takes no files.
    pub fn stream(dir: &Path, record_bytes: usize) -> Result<Floor, Error> {
        Floor::open(dir, "floor-stream", STREAM_BYTES, record_bytes, true)
    }

    fn open(
        dir: &Path,
        name: &str,
        length: usize,
        record_bytes: usize,
        stream: bool,
    ) -> Result<Floor, Error> {
        let path = dir.join(name);
        prepare(&path, FILE_BYTES)?;
        let sync = match stream {
            true => OFlags::empty(),
            false => OFlags::DSYNC,
        };
        let file = open_direct(&path, sync)?;
        Ok(Floor {
            file,
            bytes: Buffer::copy_of(&incompressible(length)),
            stream,
            record_bytes,
            writes: AtomicU64::new(0),
        })
    }

    /// Writes of as many callers; the sequential floor has its own depth.
    ///
    /// # Errors
    /// The first failed write.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of two sizes")]
    pub fn turn(&self, callers: u32, until: Until) -> Result<Turn, Error> {
        let (threads, each) = match self.stream {
            true => (
                STREAM_DEPTH,
                self.bytes.len() as f64 / self.record_bytes as f64,
            ),
            false => (callers, 1.0),
        };
        let turn = turn(threads, 1, until, |_| || self.write())?;
        Ok(turn.with_records_each(each))
    }

    /// One write.
    ///
    /// # Errors
    /// It failed or was short.
    pub fn write(&self) -> Result<(), Error> {
        // Relaxed: only uniqueness counts. All callers share it, because places are consecutive.
        let number = self.writes.fetch_add(1, Ordering::Relaxed);
        let length = self.bytes.len() as u64;
        let places = FILE_BYTES / length;
        let place = number % places;
        write_all(&self.file, &self.bytes, place * length)?;
        if self.stream && place + 1 == places {
            rustix::fs::fdatasync(&self.file).map_err(std::io::Error::from)?;
        }
        Ok(())
    }
}

/// Direct overwrites of one file that a single sync makes durable: what a checkpoint cannot beat.
#[derive(Debug)]
pub struct BatchFloor {
    file: OwnedFd,
}

impl BatchFloor {
    /// A written file of so many bytes.
    ///
    /// # Errors
    /// The directory takes no files.
    pub fn over(dir: &Path, bytes: u64) -> Result<BatchFloor, Error> {
        let path = dir.join("floor-batch");
        prepare(&path, bytes)?;
        let file = open_direct(&path, OFlags::empty())?;
        Ok(BatchFloor { file })
    }

    /// Writes of `length` bytes at these offsets, so many at once, and one fdatasync: together one
    /// operation.
    ///
    /// # Errors
    /// The first failed write.
    pub fn batch(&self, depth: u32, offsets: &[u64], length: usize) -> Result<Turn, Error> {
        let bytes = Buffer::copy_of(&incompressible(length));
        turn(1, 1, Until::Done(1), |_| {
            || {
                let next = AtomicU64::new(0);
                let write = || {
                    // Relaxed: only uniqueness counts.
                    let number = to_usize(next.fetch_add(1, Ordering::Relaxed));
                    write_all(&self.file, &bytes, offsets[number])
                };
                turn(depth, 1, Until::Done(offsets.len() as u64), |_| write)?;
                rustix::fs::fdatasync(&self.file).map_err(std::io::Error::from)?;
                Ok(())
            }
        })
    }
}

/// Opens for writes past the page cache; a file system without them has no lower floor than writes
/// through it.
fn open_direct(path: &Path, flags: OFlags) -> Result<OwnedFd, Error> {
    let flags = OFlags::WRONLY | flags;
    let direct = rustix::fs::open(path, flags | OFlags::DIRECT, Mode::empty());
    let file = direct.or_else(|_| rustix::fs::open(path, flags, Mode::empty()));
    Ok(file.map_err(std::io::Error::from)?)
}

/// Fills the file with zeros and syncs it, so that overwriting changes no metadata.
pub(super) fn prepare(path: &Path, bytes: u64) -> Result<(), Error> {
    fill(path, bytes, &vec![0; STREAM_BYTES])
}

/// Fills the file with a piece, again and again, and syncs it.
pub(super) fn fill(path: &Path, bytes: u64, piece: &[u8]) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(path, flags, mode).map_err(std::io::Error::from)?;
    for offset in (0..bytes).step_by(piece.len()) {
        let length = to_usize(bytes - offset).min(piece.len());
        write_all(&file, &piece[..length], offset)?;
    }
    rustix::fs::fsync(&file).map_err(std::io::Error::from)?;
    Ok(())
}

fn write_all(file: &OwnedFd, bytes: &[u8], offset: u64) -> Result<(), Error> {
    let written = rustix::io::pwrite(file, bytes, offset).map_err(std::io::Error::from)?;
    match written == bytes.len() {
        true => Ok(()),
        false => Err(std::io::Error::from(std::io::ErrorKind::WriteZero).into()),
    }
}

#[cfg(test)]
mod tests {
    use seawall_wal::disk::{File, OpenMode};

    use super::*;
    use crate::common;

    #[test]
    fn the_sequential_floor_is_told_in_records() {
        let dir = tempfile::tempdir().unwrap();
        let stream = Floor::stream(dir.path(), 4096).unwrap();
        let turn = stream.turn(1, Until::Done(3)).unwrap();
        assert!((turn.records() - 768.0).abs() < 1e-9);
        assert_eq!(stream.writes.into_inner(), 3);
    }

    #[test]
    fn a_batch_is_one_operation_that_writes_every_place() {
        let dir = tempfile::tempdir().unwrap();
        let floor = BatchFloor::over(dir.path(), 100 << 10).unwrap();
        let turn = floor.batch(4, &[0, 8192, 96 << 10], 4096).unwrap();
        assert!((turn.records() - 1.0).abs() < 1e-9);
        let path = dir.path().join("floor-batch");
        let file = File::open(&common::disk(), &path, OpenMode::Read).unwrap();
        let bytes = file.read(0, 200 << 10).unwrap();
        let written = bytes.chunks(4096).map(|page| page != [0; 4096]);
        let written: Vec<usize> = (0..)
            .zip(written)
            .filter(|two| two.1)
            .map(|two| two.0)
            .collect();
        assert_eq!(written, [0, 2, 24]);
        assert_eq!(bytes.len(), 100 << 10);
    }

    #[test]
    fn a_record_smaller_than_a_direct_write_takes_one_write() {
        let dir = tempfile::tempdir().unwrap();
        let durable = Floor::durable(dir.path(), 512).unwrap();
        let turn = durable.turn(2, Until::Done(5)).unwrap();
        assert!((turn.records() - 5.0).abs() < 1e-9);
        assert_eq!(durable.bytes.len(), 4096);
    }
}
