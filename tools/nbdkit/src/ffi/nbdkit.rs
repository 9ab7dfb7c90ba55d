//! What nbdkit offers a plugin: messages, errno, the list of extents.

use std::ffi::{CString, c_char, c_int};

use crate::error::Error;
use crate::export::Extent;

/// `NBDKIT_THREAD_MODEL_PARALLEL`.
pub(super) const THREAD_MODEL_PARALLEL: c_int = 3;
/// `NBDKIT_FUA_NATIVE`.
pub(super) const FUA_NATIVE: c_int = 2;
/// `NBDKIT_CACHE_NONE`.
pub(super) const CACHE_NONE: c_int = 0;
/// `NBDKIT_FLAG_MAY_TRIM`.
pub(super) const FLAG_MAY_TRIM: u32 = 1 << 0;
/// `NBDKIT_FLAG_FUA`.
pub(super) const FLAG_FUA: u32 = 1 << 1;
/// `NBDKIT_FLAG_REQ_ONE`.
pub(super) const FLAG_REQ_ONE: u32 = 1 << 2;
/// `NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO`.
const EXTENT_HOLE_THAT_READS_ZERO: u32 = 1 << 0 | 1 << 1;
const EXTENT_DATA: u32 = 0;

/// `struct nbdkit_extents`: only ever behind a pointer of nbdkit's.
#[repr(C)]
pub(super) struct RawExtents {
    opaque: [u8; 0],
}

unsafe extern "C" {
    fn nbdkit_error(format: *const c_char, ...);
    safe fn nbdkit_set_error(errno: c_int);
    fn nbdkit_add_extent(list: *mut RawExtents, offset: u64, length: u64, kind: u32) -> c_int;
}

/// A C string of `text`, with what C cannot hold left out.
fn c_string(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|byte| *byte != 0).collect();
    CString::new(bytes).unwrap_or_default()
}

/// One line to the log of nbdkit, for a person.
pub(super) fn error(line: &str) {
    let line = c_string(line);
    // SAFETY: both are NUL-terminated and outlive the call, and "%s" takes exactly one string.
    unsafe { nbdkit_error(c"%s".as_ptr(), line.as_ptr()) }
}

/// Tells the log and the client of a failure.
pub(super) fn report(failure: &Error) {
    error(&failure.to_string());
    nbdkit_set_error(failure.errno().raw_os_error());
}

/// The list that an extents request fills, valid for that request.
pub(super) struct ExtentList<'a> {
    list: &'a mut RawExtents,
}

impl<'a> ExtentList<'a> {
    pub(super) fn new(list: &'a mut RawExtents) -> ExtentList<'a> {
        ExtentList { list }
    }

    pub(super) fn add(&mut self, extent: Extent) -> Result<(), Error> {
        let kind = match extent.data {
            true => EXTENT_DATA,
            false => EXTENT_HOLE_THAT_READS_ZERO,
        };
        // SAFETY: `list` is the exclusive reference that the request was given by nbdkit.
        match unsafe { nbdkit_add_extent(self.list, extent.offset, extent.length, kind) } {
            0 => Ok(()),
            _ => Err(Error::ExtentRefused),
        }
    }
}
