//! Copies a raw image into a volume: holes and zeros as zeros, which cost nothing where there is no
//! data to replace.

use seawall_recovery::Primary;
use seawall_snapshot::{Durability, Volume};
use seawall_wal::disk::File;

use crate::common::PIECE_BYTES;
use crate::error::Error;
use crate::runs::{Run, runs};

/// What takes the bytes: a volume alone, or a primary with replicas.
pub(crate) trait Target {
    /// The volume behind it.
    fn volume(&self) -> &Volume;
    /// Writes without waiting for durability.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error>;
    /// Makes bytes read zero, likewise.
    fn zero(&self, offset: u64, length: u64) -> Result<(), Error>;
}

impl Target for Volume {
    fn volume(&self) -> &Volume {
        self
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        Volume::write(self, offset, bytes, Durability::Volatile)?;
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.write_zeroes(offset, length, false, Durability::Volatile)?;
        Ok(())
    }
}

impl Target for Primary {
    fn volume(&self) -> &Volume {
        Primary::volume(self)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        Primary::write(self, offset, bytes, Durability::Volatile)?;
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), Error> {
        self.write_zeroes(offset, length, false, Durability::Volatile)?;
        Ok(())
    }
}

/// Copies `length` bytes of `image` from `from` on to byte `at` of the target.
pub(crate) fn range(
    image: &File,
    from: u64,
    length: u64,
    target: &dyn Target,
    at: u64,
) -> Result<(), Error> {
    let end = from + length;
    let place = |position: u64| at + (position - from);
    let mut position = from;
    while position < end {
        let (first, last) = image.next_data(position)?.unwrap_or((end, end));
        let (first, last) = (first.clamp(position, end), last.clamp(position, end));
        clear(target, place(position), place(first))?;
        position = first;
        while position < last {
            let stop = (position + 1).next_multiple_of(PIECE_BYTES).min(last);
            let piece = usize::try_from(stop - position).expect("a piece is at most 1 MiB");
            let bytes = image.read_exact(position, piece)?;
            write_runs(target, place(position), &bytes)?;
            position = stop;
        }
    }
    Ok(())
}

/// Writes `bytes` at `offset`, runs of zeros as zeros.
fn write_runs(target: &dyn Target, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    for run in runs(
        bytes,
        target
            .volume()
            .meta()
            .get()
            .geometry
            .block_size
            .bytes_usize(),
    ) {
        match run {
            Run::Zeros(range) => {
                let start = offset + range.start as u64;
                clear(target, start, start + range.len() as u64)?;
            }
            Run::Data(range) => target.write(offset + range.start as u64, &bytes[range])?,
        }
    }
    Ok(())
}

/// Makes `[start, end)` read zero; costs nothing where there is no data.
fn clear(target: &dyn Target, start: u64, end: u64) -> Result<(), Error> {
    let mut at = start;
    while at < end {
        let Some((first, last)) = target.volume().next_data(at)? else {
            return Ok(());
        };
        let (first, last) = (first.clamp(at, end), last.clamp(at, end));
        if first < last {
            target.zero(first, last - first)?;
        }
        at = last.max(first);
    }
    Ok(())
}
