//! Memory that O_DIRECT may write from and read into.
#![expect(unsafe_code, reason = "aligned allocation has no safe interface")]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes whose first one lies on a 4096-byte boundary. Its length can shrink and never grow.
pub struct Buffer {
    start: NonNull<u8>,
    length: usize,
    layout: Layout,
}

impl Buffer {
    /// Alignment of the first byte.
    pub const ALIGNMENT: usize = 4096;

    /// `length` zero bytes.
    ///
    /// # Panics
    /// When `length` rounds up past `isize::MAX`. Lengths from disk or peers are bounded before.
    #[must_use]
    pub fn zeroed(length: usize) -> Buffer {
        let layout = layout_of(length);
        let start = if layout.size() == PAGE_BYTES {
            let page = take_page();
            // SAFETY: a page has this size and belongs to nobody else.
            unsafe { page.as_ptr().write_bytes(0, PAGE_BYTES) };
            page
        } else {
            // SAFETY: the layout has a size of at least one byte.
            let start = unsafe { alloc_zeroed(layout) };
            NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
        };
        Buffer {
            start,
            length,
            layout,
        }
    }

    /// A copy of `bytes`.
    ///
    /// # Panics
    /// As [`Buffer::zeroed`].
    #[must_use]
    pub fn copy_of(bytes: &[u8]) -> Buffer {
        Buffer::concat_of(&[bytes])
    }

    /// A copy of all parts, one behind the other.
    ///
    /// # Panics
    /// As [`Buffer::zeroed`].
    #[must_use]
    pub fn concat_of(parts: &[&[u8]]) -> Buffer {
        let lengths = parts.iter().map(|part| part.len());
        let length = lengths.fold(0, usize::saturating_add);
        let layout = layout_of(length);
        let start = if layout.size() == PAGE_BYTES {
            take_page()
        } else {
            // SAFETY: the layout has a size of at least one byte.
            let start = unsafe { alloc(layout) };
            NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout))
        };
        let mut filled = 0;
        for part in parts {
            // SAFETY: the parts add up to `length`, which the allocation holds; it is new, so that
            // nothing overlaps it. After the last part every byte below `length` was written.
            unsafe {
                let to = start.as_ptr().add(filled);
                to.copy_from_nonoverlapping(part.as_ptr(), part.len());
            }
            filled += part.len();
        }
        Buffer {
            start,
            length,
            layout,
        }
    }

    /// Cuts the buffer to `length` bytes; a longer length changes nothing.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

/// A small buffer takes a whole page, which its alignment costs it in any case.
fn layout_of(length: usize) -> Layout {
    Layout::from_size_align(length.max(PAGE_BYTES), Buffer::ALIGNMENT)
        .expect("buffer lengths are bounded by the format")
}

/// The size of nearly every buffer of a server whose clients write single blocks.
const PAGE_BYTES: usize = 4096;
/// Pages that are asked for together. One by one each would cost two: the allocator keeps its books
/// in front of what it gives out, and that is a page to be aligned as well.
const SLAB_PAGES: usize = 64;

/// Memory of a page that no buffer has.
struct Page(NonNull<u8>);

// SAFETY: nobody else has a pointer to the page.
unsafe impl Send for Page {}

/// Pages between two buffers, as many as were in use at once. Aligned memory is expensive to get,
/// and most of it is given back by another thread than the one that asked for it.
static PAGES: Mutex<Vec<Page>> = Mutex::new(Vec::new());

fn pages() -> MutexGuard<'static, Vec<Page>> {
    // OK because the list is whole between any two of its calls.
    PAGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A page, whatever is in it.
fn take_page() -> NonNull<u8> {
    let mut pages = pages();
    if let Some(Page(start)) = pages.pop() {
        return start;
    }
    let slab = layout_of(SLAB_PAGES * PAGE_BYTES);
    // SAFETY: the layout has a size of at least one byte. Its bytes are given a value, so that a
    // page never shows memory that has none.
    let start = unsafe { alloc_zeroed(slab) };
    let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(slab));
    for number in 1..SLAB_PAGES {
        // SAFETY: the slab has so many pages.
        pages.push(Page(unsafe { start.add(number * PAGE_BYTES) }));
    }
    start
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the first `length` bytes from `start` are initialised and owned by `self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.layout.size() == PAGE_BYTES {
            pages().push(Page(self.start));
            return;
        }
        // SAFETY: `start` was allocated with this very layout and is freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

// SAFETY: the buffer owns its memory alone; shared access is read-only through `&self`.
unsafe impl Send for Buffer {}
// SAFETY: as for `Send`.
unsafe impl Sync for Buffer {}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.length)
    }
}
