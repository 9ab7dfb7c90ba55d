//! The raw floor of a disk: no sum, no frame, no engine. It goes past the Disk seam on purpose.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use seawall_wal::disk::Buffer;

use crate::bench::rounds::{Round, round};
use crate::bench::{PAYLOAD_BYTES, incompressible};
use crate::error::Error;

/// The file that is overwritten.
const FILE_BYTES: u64 = 64 << 20;
/// Bytes of one write of the sequential floor, and how many are in flight.
const STREAM_BYTES: usize = 1 << 20;
const STREAM_DEPTH: u32 = 4;

/// A prepared file and how it is overwritten.
pub(super) struct Floor {
    file: OwnedFd,
    bytes: Buffer,
    /// 1 MiB writes with an fdatasync every 64 MiB, in place of 4 KiB writes that sync themselves.
    stream: bool,
}

impl Floor {
    pub(super) fn open(dir: &Path, stream: bool) -> Result<Floor, Error> {
        let path = dir.join("floor");
        prepare(&path)?;
        let sync = if stream {
            OFlags::empty()
        } else {
            OFlags::DSYNC
        };
        let direct = OFlags::WRONLY | OFlags::DIRECT | sync;
        let file = match rustix::fs::open(&path, direct, Mode::empty()) {
            Ok(file) => file,
            // A file system without O_DIRECT has no lower floor than this.
            Err(_) => rustix::fs::open(&path, OFlags::WRONLY | sync, Mode::empty())
                .map_err(std::io::Error::from)?,
        };
        let length = if stream { STREAM_BYTES } else { PAYLOAD_BYTES };
        Ok(Floor {
            file,
            bytes: Buffer::copy_of(&incompressible(length)),
            stream,
        })
    }

    pub(super) fn round(&self, callers: u32, time: Duration) -> Result<Round, Error> {
        let threads = if self.stream { STREAM_DEPTH } else { callers };
        let each = (self.bytes.len() / PAYLOAD_BYTES) as u64;
        let turn = round(threads, 1, time, |number| self.write(number), Ok)?;
        Ok(turn.with_records_each(each))
    }

    fn write(&self, number: u64) -> Result<(), Error> {
        let offset = number * self.bytes.len() as u64 % FILE_BYTES;
        write_all(&self.file, &self.bytes, offset)?;
        if self.stream && offset + self.bytes.len() as u64 == FILE_BYTES {
            rustix::fs::fdatasync(&self.file).map_err(std::io::Error::from)?;
        }
        Ok(())
    }
}

/// Fills the file with zeros and syncs it, so that overwriting changes no metadata.
fn prepare(path: &Path) -> Result<(), Error> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::open(path, flags, mode).map_err(std::io::Error::from)?;
    let zeros = vec![0; STREAM_BYTES];
    for offset in (0..FILE_BYTES).step_by(STREAM_BYTES) {
        write_all(&file, &zeros, offset)?;
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
