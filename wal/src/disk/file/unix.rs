//! System calls of Unix, and what only Linux has.
#![expect(
    clippy::disallowed_types,
    reason = "this backend is where files are opened"
)]

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::open::Direct;
use crate::disk::OpenMode;

#[cfg(target_os = "linux")]
pub(super) use linux::{
    copies_share, copy_range, deallocate, forget_cached, open_direct, write_durable_at, zero_range,
};
#[cfg(not(target_os = "linux"))]
pub(super) use other::{
    copies_share, copy_range, deallocate, forget_cached, open_direct, write_durable_at, zero_range,
};

/// What the system says to a closed handle.
pub(super) fn bad_handle_code() -> i32 {
    Errno::BADF.raw_os_error()
}

pub(super) fn open(path: &Path, mode: OpenMode) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match mode {
        // Opening a FIFO would wait for a writer; on a regular file the flag means nothing.
        OpenMode::Read => drop(options.custom_flags(OFlags::NONBLOCK.bits().cast_signed())),
        OpenMode::ReadWrite => drop(options.write(true)),
        OpenMode::CreateNew => drop(options.write(true).create_new(true)),
        OpenMode::CreateOrOpen => drop(options.write(true).create(true)),
    }
    options.open(path)
}

pub(super) fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    file.read_at(bytes, offset)
}

#[cfg(not(target_vendor = "apple"))]
pub(super) fn write_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::pwritev(file, slices, offset)?)
}

/// Older systems have no vectored write at an offset; the rest follows.
#[cfg(target_vendor = "apple")]
pub(super) fn write_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    let first = slices.iter().find(|slice| !slice.is_empty());
    first.map_or(Ok(0), |slice| file.write_at(slice, offset))
}

/// Asks the file system; where it cannot tell, everything behind `offset` may hold data.
pub(super) fn next_data(file: &File, offset: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    let first = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(first) => first,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((offset, size))),
        Err(errno) => return Err(errno.into()),
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(first)) {
        // OK because a hole punched in between leaves nothing there: what follows may hold data.
        Ok(end) if end <= first => size,
        Ok(end) => end,
        Err(Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    Ok((end > first).then_some((first, end)))
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    File::from(directory).sync_all()
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{Direct, Errno, File, IoSlice, Mode, OFlags, OpenMode, io};
    use rustix::fs::{Advice, AtFlags, FallocateFlags, StatxFlags};
    use rustix::io::ReadWriteFlags;
    use std::os::fd::AsRawFd;

    /// Alignment that every file system takes, for kernels that cannot say (before 6.1).
    const ALIGNMENT: u64 = 4096;
    /// `FALLOC_FL_WRITE_ZEROES`, Linux 6.17.
    const WRITE_ZEROES: FallocateFlags = FallocateFlags::from_bits_retain(0x80);

    /// Durable when it returns. `Unsupported` where the kernel does not know the flag.
    pub(in super::super) fn write_durable_at(
        file: &File,
        slices: &[IoSlice<'_>],
        offset: u64,
    ) -> io::Result<usize> {
        match rustix::io::pwritev2(file, slices, offset, ReadWriteFlags::DSYNC) {
            Err(Errno::NOSYS | Errno::OPNOTSUPP) => Err(io::ErrorKind::Unsupported.into()),
            other => Ok(other?),
        }
    }

    /// Drops the clean pages of a file from the cache.
    pub(in super::super) fn forget_cached(file: &File) {
        // OK to ignore: it is what can be done where direct reads cannot, and no more than advice.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::DontNeed);
    }

    /// A second descriptor of an open file for direct writes, or for direct reads of one that is
    /// not written, where the file system has them. It is the same file whatever became of its
    /// name.
    pub(in super::super) fn open_direct(file: &File, mode: OpenMode) -> Option<Direct> {
        let access = match mode {
            OpenMode::Read => OFlags::RDONLY,
            _ => OFlags::WRONLY,
        };
        let flags = access | OFlags::DIRECT | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let (memory, offset) = alignment(file)?;
        // Readers of such a file get what they ask for and no more: what the system would read
        // ahead is space that is about to be written, and every write would have to drop it again.
        // OK to ignore: a hint that is not taken costs time only.
        let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
        Some(Direct {
            file: direct.into(),
            memory,
            offset,
        })
    }

    /// Alignment of memory and of offsets that direct transfers need; `None` where there are none.
    fn alignment(file: &File) -> Option<(u64, u64)> {
        let asked = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
        let told = asked.ok().filter(|told| {
            let mask = StatxFlags::from_bits_retain(told.stx_mask);
            mask.contains(StatxFlags::DIOALIGN)
        });
        let Some(told) = told else {
            return Some((ALIGNMENT, ALIGNMENT));
        };
        match (told.stx_dio_mem_align, told.stx_dio_offset_align) {
            (0, _) | (_, 0) => None,
            (memory, offset) => Some((memory.into(), offset.into())),
        }
    }

    /// Whether the file system gives copies by [`copy_range`] the space of what they are copied
    /// from: it is one of those that can.
    pub(in super::super) fn copies_share(file: &File) -> bool {
        const BTRFS: u32 = 0x9123_683e;
        const XFS: u32 = 0x5846_5342;
        const BCACHEFS: u32 = 0xca45_1a4e;
        let kind = rustix::fs::fstatfs(file).map(|found| found.f_type);
        let kind = kind.ok().and_then(|kind| u32::try_from(kind).ok());
        kind.is_some_and(|kind| [BTRFS, XFS, BCACHEFS].contains(&kind))
    }

    /// Copies a range, as a clone that shares its space where the file system has clones; gives the
    /// number of bytes done, which is less where the two files cannot be copied so.
    pub(in super::super) fn copy_range(
        from: &File,
        from_offset: u64,
        to: &File,
        offset: u64,
        length: u64,
    ) -> io::Result<u64> {
        let mut done = 0;
        while done < length {
            let left = usize::try_from(length - done).unwrap_or(usize::MAX);
            let (mut source, mut target) = (from_offset + done, offset + done);
            match rustix::fs::copy_file_range(from, Some(&mut source), to, Some(&mut target), left)
            {
                Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => break,
                Ok(count) => done += count as u64,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }

    /// Turns a range into written zeros without writing them; `false` where that cannot be done.
    pub(in super::super) fn zero_range(file: &File, offset: u64, length: u64) -> io::Result<bool> {
        allocate(file, WRITE_ZEROES, offset, length)
    }

    /// Frees the space of a range; `false` where that cannot be done.
    pub(in super::super) fn deallocate(file: &File, offset: u64, length: u64) -> io::Result<bool> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        allocate(file, flags, offset, length)
    }

    fn allocate(file: &File, flags: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
        loop {
            match rustix::fs::fallocate(file, flags, offset, length) {
                Ok(()) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use super::{Direct, File, IoSlice, OpenMode, io};

    pub(in super::super) fn write_durable_at(
        _: &File,
        _: &[IoSlice<'_>],
        _: u64,
    ) -> io::Result<usize> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(in super::super) fn forget_cached(_: &File) {}

    pub(in super::super) fn open_direct(_: &File, _: OpenMode) -> Option<Direct> {
        None
    }

    pub(in super::super) fn copies_share(_: &File) -> bool {
        false
    }

    pub(in super::super) fn copy_range(
        _: &File,
        _: u64,
        _: &File,
        _: u64,
        _: u64,
    ) -> io::Result<u64> {
        Ok(0)
    }

    pub(in super::super) fn zero_range(_: &File, _: u64, _: u64) -> io::Result<bool> {
        Ok(false)
    }

    pub(in super::super) fn deallocate(_: &File, _: u64, _: u64) -> io::Result<bool> {
        Ok(false)
    }
}
