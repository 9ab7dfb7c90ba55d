//! One open file: a descriptor for everything, and where it was asked for a second one for writes,
//! or for reads, past the page cache.
#![expect(
    clippy::disallowed_types,
    reason = "this backend is where files are opened"
)]

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use super::system;
use crate::disk::{Buffer, Bytes, OpenMode};

/// Buffers handed to the kernel by one vectored write; more go in further calls.
pub(super) const SLICES_MAX: usize = 128;

/// Zeros are written in pieces of this size: small enough that an append beside them waits for a
/// fraction of a millisecond.
pub(super) const ZEROS_BYTES: usize = 256 << 10;
static ZEROS: LazyLock<Bytes> = LazyLock::new(|| Arc::new(Buffer::zeroed(ZEROS_BYTES)));

/// A descriptor for writes or reads past the page cache, and what they need.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) file: File,
    /// Alignment of memory addresses.
    pub(super) memory: u64,
    /// Alignment of file offsets and of lengths.
    pub(super) offset: u64,
}

/// A file, and a second descriptor of it for direct writes, or for direct reads of one that is
/// never written.
#[derive(Debug)]
pub(in crate::disk) struct Open {
    pub(in crate::disk) file: File,
    direct: Option<Direct>,
    /// Reads are direct.
    reads: bool,
    /// The file system can turn a range into written zeros by itself, as far as we know.
    zeroes: AtomicBool,
}

/// The way a write takes.
#[derive(Debug)]
pub(in crate::disk) struct Way<'a> {
    pub(in crate::disk) file: &'a File,
    /// The bytes, copied to aligned memory if they have to be.
    pub(in crate::disk) buffers: Vec<Bytes>,
    pub(in crate::disk) direct: bool,
}

impl Direct {
    fn takes(&self, offset: u64, length: u64) -> bool {
        offset.is_multiple_of(self.offset) && length.is_multiple_of(self.offset)
    }

    fn takes_slice(&self, bytes: &Buffer) -> bool {
        let address = bytes.as_ptr().addr() as u64;
        address.is_multiple_of(self.memory) && (bytes.len() as u64).is_multiple_of(self.offset)
    }

    /// Reads straight into the buffer, or what is not aligned through memory that is.
    fn read(&self, offset: u64, buffer: &mut Buffer) -> io::Result<usize> {
        if self.takes(offset, 0) && self.takes_slice(buffer) {
            return read_all(&self.file, offset, buffer, self.offset);
        }
        let from = offset / self.offset * self.offset;
        let skipped = usize::try_from(offset - from).map_err(io::Error::other)?;
        let unit = usize::try_from(self.offset).map_err(io::Error::other)?;
        let mut aligned = Buffer::zeroed((skipped + buffer.len()).next_multiple_of(unit));
        let filled = read_all(&self.file, from, &mut aligned, self.offset)?.saturating_sub(skipped);
        let filled = filled.min(buffer.len());
        buffer[..filled].copy_from_slice(&aligned[skipped..][..filled]);
        Ok(filled)
    }
}

impl Open {
    pub(in crate::disk) fn new(path: &Path, mode: OpenMode, direct: bool) -> io::Result<Open> {
        let file = system::open(path, mode)?;
        let reads = direct && mode == OpenMode::Read;
        if reads {
            system::forget_cached(&file);
        }
        Ok(Open {
            direct: direct.then(|| system::open_direct(&file, mode)).flatten(),
            file,
            reads,
            zeroes: AtomicBool::new(true),
        })
    }

    /// Whether reads go past the page cache.
    #[cfg(target_os = "linux")]
    pub(in crate::disk) fn reads_directly(&self) -> bool {
        self.reads && self.direct.is_some()
    }

    /// Fills `buffer`, save what lies behind the end of the file; says how much it got.
    pub(super) fn read(&self, offset: u64, buffer: &mut Buffer) -> io::Result<usize> {
        if let Some(direct) = self.direct.as_ref().filter(|_| self.reads) {
            match direct.read(offset, buffer) {
                // The alignment was not what the file system said. What is cached was dropped.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                other => return other,
            }
        }
        read_all(&self.file, offset, buffer, 1)
    }

    /// Past the page cache if the place is aligned, through a copy if only the memory is not.
    pub(in crate::disk) fn way(&self, offset: u64, buffers: Vec<Bytes>) -> Way<'_> {
        let length = buffers.iter().map(|bytes| bytes.len() as u64).sum();
        let direct = self.direct.as_ref();
        let Some(direct) = direct.filter(|direct| length > 0 && direct.takes(offset, length))
        else {
            return Way {
                file: &self.file,
                buffers,
                direct: false,
            };
        };
        let fits = buffers.iter().all(|bytes| direct.takes_slice(bytes));
        Way {
            file: &direct.file,
            buffers: if fits {
                buffers
            } else {
                vec![joined(&buffers)]
            },
            direct: true,
        }
    }

    /// The descriptor of a way.
    #[cfg(target_os = "linux")]
    pub(in crate::disk) fn descriptor(&self, direct: bool) -> &File {
        match &self.direct {
            Some(way) if direct => &way.file,
            _ => &self.file,
        }
    }

    /// Writes every byte, or fails.
    pub(super) fn write(&self, offset: u64, buffers: Vec<Bytes>, durable: bool) -> io::Result<()> {
        let way = self.way(offset, buffers);
        match write(way.file, offset, &way.buffers, durable) {
            // The alignment was not what the file system said; whatever was written is the same.
            Err(error) if way.direct && error.kind() == ErrorKind::InvalidInput => {
                write(&self.file, offset, &way.buffers, durable)
            }
            other => other,
        }
    }

    pub(super) fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.checked_add(length).ok_or(ErrorKind::InvalidInput)?;
        // Relaxed: the flag only spares a call that is known to fail.
        if length > 0 && self.zeroes.load(Ordering::Relaxed) {
            if system::zero_range(&self.file, offset, length)? {
                return Ok(());
            }
            self.zeroes.store(false, Ordering::Relaxed);
        }
        self.write_zeros_piecewise(offset, end)
    }

    pub(super) fn write_zeros_piecewise(&self, mut offset: u64, end: u64) -> io::Result<()> {
        while offset < end {
            let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let zeros = match left >= ZEROS_BYTES {
                true => Arc::clone(&ZEROS),
                false => Arc::new(Buffer::zeroed(left)),
            };
            offset += zeros.len() as u64;
            self.write(offset - zeros.len() as u64, vec![zeros], false)?;
        }
        Ok(())
    }

    /// `fdatasync`; on Apple systems the standard library asks for F_FULLFSYNC, because `fsync`
    /// alone does not reach the medium there (L-O1).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    pub(super) fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub(super) fn punch_hole(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = offset.saturating_add(length).min(self.length()?);
        if offset >= end {
            return Ok(());
        }
        match system::deallocate(&self.file, offset, end - offset)? {
            true => Ok(()),
            false => self.write_zeros_piecewise(offset, end),
        }
    }

    /// The file system copies, as far as it can; the rest goes through memory.
    pub(super) fn copy_from(
        &self,
        offset: u64,
        from: &Open,
        from_offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let fits = |first: u64| {
            first
                .checked_add(length)
                .is_some_and(|end| i64::try_from(end).is_ok())
        };
        if !fits(offset) || !fits(from_offset) {
            return Err(ErrorKind::InvalidInput.into());
        }
        if from.length()? < from_offset + length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let done = system::copy_range(&from.file, from_offset, &self.file, offset, length)?;
        self.copy_piecewise(offset + done, from, from_offset + done, length - done)
    }

    pub(super) fn copy_piecewise(
        &self,
        offset: u64,
        from: &Open,
        from_offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let left = usize::try_from(length - done).unwrap_or(usize::MAX);
            let mut bytes = Buffer::zeroed(left.min(ZEROS_BYTES));
            if from.read(from_offset + done, &mut bytes)? < bytes.len() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let count = bytes.len() as u64;
            self.write(offset + done, vec![Arc::new(bytes)], false)?;
            done += count;
        }
        Ok(())
    }

    pub(super) fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.length()?;
        match offset < size {
            true => system::next_data(&self.file, offset, size),
            false => Ok(None),
        }
    }
}

/// Reads until the bytes are full or the file ends, which it does where a part of a unit is read.
fn read_all(file: &File, offset: u64, bytes: &mut [u8], unit: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match system::read_at(file, &mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => {
                filled += count;
                if !(count as u64).is_multiple_of(unit) {
                    break;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn joined(buffers: &[Bytes]) -> Bytes {
    let parts: Vec<&[u8]> = buffers.iter().map(|bytes| &bytes[..]).collect();
    Arc::new(Buffer::concat_of(&parts))
}

fn write(file: &File, offset: u64, buffers: &[Bytes], durable: bool) -> io::Result<()> {
    if !durable {
        return write_all_by(offset, buffers, |slices, offset| {
            system::write_at(file, slices, offset)
        });
    }
    let durably = write_all_by(offset, buffers, |slices, offset| {
        system::write_durable_at(file, slices, offset)
    });
    match durably {
        // The system has no such call; nothing was written.
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            write(file, offset, buffers, false)?;
            file.sync_data()
        }
        other => other,
    }
}

/// Writes every byte or fails: a short transfer is continued where it stopped (L-W6).
pub(super) fn write_all_by(
    mut offset: u64,
    buffers: &[Bytes],
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    for group in buffers.chunks(SLICES_MAX) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        for (slice, bytes) in slices.iter_mut().zip(group) {
            *slice = IoSlice::new(bytes);
        }
        let mut left = &mut slices[..group.len()];
        // Empty buffers in front would look like a write that takes nothing.
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match write(left, offset) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
