//! Read-only views of sealed segments (D23).
#![expect(unsafe_code, reason = "a memory map has no safe constructor")]
#![expect(
    clippy::disallowed_types,
    reason = "a map is made of the backend's own open file"
)]

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::Mmap;

/// A read-only view of a part of a file that nobody writes or shortens any more.
///
/// Touching a page that cannot be read would kill the process. So a reader calls
/// [`MappedFile::populate`] on a range first, takes [`MappedFile::bytes`] of that range only when
/// it answered `true`, reads through the handle otherwise, and verifies the checksum either way.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
}

impl MappedFile {
    /// Maps `[offset, offset + length)`.
    ///
    /// # Errors
    /// `InvalidInput` when the file is shorter or `length` is zero; else what the system says.
    pub(super) fn new(file: &File, offset: u64, length: usize) -> io::Result<MappedFile> {
        let end = offset.checked_add(length as u64);
        let size = file.metadata()?.len();
        if length == 0 || end.is_none_or(|end| end > size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the caller of `Disk::map` vouches that nobody writes the file any more: it is
        // sealed, and a pin keeps it from being recycled or shortened while this value lives.
        let map = unsafe {
            memmap2::MmapOptions::new()
                .offset(offset)
                .len(length)
                .map(file)?
        };
        Ok(MappedFile { map })
    }

    /// Length of the view in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a view of zero bytes is refused"
    )]
    #[must_use]
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Brings the pages of a range into memory. `false` when one cannot be read, when the range
    /// is outside the view, or where the system has no way to ask: read it through the handle.
    #[must_use]
    pub fn populate(&self, range: Range<usize>) -> bool {
        self.bytes(range.clone()).is_some() && self.populate_inside(range)
    }

    #[cfg(target_os = "linux")]
    fn populate_inside(&self, range: Range<usize>) -> bool {
        range.is_empty()
            || self
                .map
                .advise_range(memmap2::Advice::PopulateRead, range.start, range.len())
                .is_ok()
    }

    #[cfg(not(target_os = "linux"))]
    fn populate_inside(&self, range: Range<usize>) -> bool {
        range.is_empty()
    }

    /// The bytes of a range that was populated; `None` outside the view.
    #[must_use]
    pub fn bytes(&self, range: Range<usize>) -> Option<&[u8]> {
        self.map.get(range)
    }
}
