//! The callbacks. Each turns raw arguments into safe ones, once, and panics stay inside (N1).
//!
//! A handle is an `Arc<Export>` that `open` gave away and `close` takes back; nbdkit passes it to
//! nothing between the two but callbacks of that connection.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use seawall_snapshot::Durability;

use super::nbdkit::{self, ExtentList, RawExtents};
use crate::config::Config;
use crate::error::Error;
use crate::export::{Export, ZeroOptions};
use crate::journal::Journal;
use crate::startup;

static CONFIG: Mutex<Config> = Mutex::new(Config::new());
static EXPORT: Mutex<Option<Arc<Export>>> = Mutex::new(None);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // OK because each holder replaces or reads the value in one step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `work`; a failure or a panic is reported and becomes `failed`.
fn guard<T>(callback: &'static str, failed: T, work: impl FnOnce() -> Result<T, Error>) -> T {
    // OK because what a panic may leave half done sits behind locks of the engine, which poisons
    // itself.
    let result =
        catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(Error::Panicked { callback }));
    result.unwrap_or_else(|failure| {
        nbdkit::report(&failure);
        failed
    })
}

fn done(result: Result<(), Error>) -> Result<c_int, Error> {
    result.map(|()| 0)
}

fn durability(flags: u32) -> Durability {
    match flags & nbdkit::FLAG_FUA {
        0 => Durability::Volatile,
        _ => Durability::Durable,
    }
}

/// The export behind a handle.
///
/// # Safety
/// `handle` is from [`open`] and not yet closed.
unsafe fn export<'a>(handle: *mut c_void) -> &'a Export {
    // SAFETY: by contract it points into an `Arc<Export>` that `close` has not taken back, and
    // nbdkit closes a handle only after every callback on it returned.
    unsafe { &*handle.cast::<Export>() }
}

pub(super) unsafe extern "C" fn config(key: *const c_char, value: *const c_char) -> c_int {
    // SAFETY: nbdkit passes two NUL-terminated strings that outlive the call.
    let (key, value) = unsafe { (CStr::from_ptr(key), CStr::from_ptr(value)) };
    guard("config", -1, || {
        let (key, value) = (key.to_string_lossy(), value.to_string_lossy());
        done(lock(&CONFIG).set(&key, &value))
    })
}

pub(super) extern "C" fn config_complete() -> c_int {
    guard("config_complete", -1, || done(lock(&CONFIG).complete()))
}

pub(super) extern "C" fn thread_model() -> c_int {
    nbdkit::THREAD_MODEL_PARALLEL
}

pub(super) extern "C" fn get_ready() -> c_int {
    guard("get_ready", -1, || done(startup::check(&lock(&CONFIG))))
}

pub(super) extern "C" fn after_fork() -> c_int {
    guard("after_fork", -1, || {
        // Fails only when this process has a journal already, which then serves as well.
        let _ = tracing::subscriber::set_global_default(Journal::new(nbdkit::error));
        let opened = startup::open(&lock(&CONFIG))?;
        if let Some(line) = &opened.warning {
            nbdkit::error(line);
        }
        *lock(&EXPORT) = Some(Arc::new(opened.export));
        Ok(0)
    })
}

/// Every thread of a connection has ended by now, so nothing is in flight. A connection that lived
/// until the server stopped is never closed by nbdkit: its handle still holds the export.
pub(super) extern "C" fn cleanup() {
    guard("cleanup", (), close_export);
}

/// Closes what `cleanup` did not reach.
pub(super) extern "C" fn unload() {
    guard("unload", (), close_export);
}

fn close_export() -> Result<(), Error> {
    let export = lock(&EXPORT).take();
    export.map_or(Ok(()), |export| export.close())
}

pub(super) extern "C" fn open(_readonly: c_int) -> *mut c_void {
    guard("open", std::ptr::null_mut(), || {
        let export = lock(&EXPORT).clone().ok_or(Error::NotOpen)?;
        Ok(Arc::into_raw(export).cast_mut().cast())
    })
}

pub(super) unsafe extern "C" fn close(handle: *mut c_void) {
    // SAFETY: `open` made it from an `Arc<Export>`, and nbdkit closes a handle once.
    let export = unsafe { Arc::from_raw(handle.cast_const().cast::<Export>()) };
    guard("close", (), || {
        drop(export);
        Ok(())
    });
}

pub(super) unsafe extern "C" fn get_size(handle: *mut c_void) -> i64 {
    // SAFETY: nbdkit passes the handle of an open connection.
    let export = unsafe { export(handle) };
    guard("get_size", -1, || {
        i64::try_from(export.size()).map_err(|_| Error::NotOpen)
    })
}

pub(super) unsafe extern "C" fn can_write(handle: *mut c_void) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection.
    let export = unsafe { export(handle) };
    guard("can_write", -1, || Ok(c_int::from(export.is_writable())))
}

pub(super) extern "C" fn yes(_handle: *mut c_void) -> c_int {
    1
}

pub(super) extern "C" fn no(_handle: *mut c_void) -> c_int {
    0
}

pub(super) extern "C" fn can_fua(_handle: *mut c_void) -> c_int {
    nbdkit::FUA_NATIVE
}

pub(super) extern "C" fn can_cache(_handle: *mut c_void) -> c_int {
    nbdkit::CACHE_NONE
}

pub(super) unsafe extern "C" fn block_size(
    handle: *mut c_void,
    minimum: *mut u32,
    preferred: *mut u32,
    maximum: *mut u32,
) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection.
    let export = unsafe { export(handle) };
    guard("block_size", -1, || {
        let sizes = export.block_sizes();
        // SAFETY: nbdkit passes three places of its own to write to.
        unsafe {
            minimum.write(sizes.minimum);
            preferred.write(sizes.preferred);
            maximum.write(sizes.maximum);
        }
        Ok(0)
    })
}

pub(super) unsafe extern "C" fn pread(
    handle: *mut c_void,
    buffer: *mut c_void,
    count: u32,
    offset: u64,
    _flags: u32,
) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection, and a buffer of `count` bytes that
    // it initialised and that nobody else touches during the call.
    let (export, out) = unsafe {
        let out = std::slice::from_raw_parts_mut(buffer.cast::<u8>(), count as usize);
        (export(handle), out)
    };
    guard("pread", -1, || done(export.read(offset, out)))
}

pub(super) unsafe extern "C" fn pwrite(
    handle: *mut c_void,
    buffer: *const c_void,
    count: u32,
    offset: u64,
    flags: u32,
) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection, and a buffer of `count` bytes that
    // nobody writes during the call.
    let (export, bytes) = unsafe {
        let bytes = std::slice::from_raw_parts(buffer.cast::<u8>(), count as usize);
        (export(handle), bytes)
    };
    guard("pwrite", -1, || {
        done(export.write(offset, bytes, durability(flags)))
    })
}

pub(super) unsafe extern "C" fn flush(handle: *mut c_void, _flags: u32) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection.
    let export = unsafe { export(handle) };
    guard("flush", -1, || done(export.flush()))
}

pub(super) unsafe extern "C" fn trim(
    handle: *mut c_void,
    count: u32,
    offset: u64,
    flags: u32,
) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection.
    let export = unsafe { export(handle) };
    guard("trim", -1, || {
        done(export.trim(offset, u64::from(count), durability(flags)))
    })
}

pub(super) unsafe extern "C" fn zero(
    handle: *mut c_void,
    count: u32,
    offset: u64,
    flags: u32,
) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection.
    let export = unsafe { export(handle) };
    guard("zero", -1, || {
        // A fast zero needs no case of its own: every zero is metadata only.
        let options = ZeroOptions {
            may_trim: flags & nbdkit::FLAG_MAY_TRIM != 0,
            durability: durability(flags),
        };
        done(export.zero(offset, u64::from(count), options))
    })
}

pub(super) unsafe extern "C" fn extents(
    handle: *mut c_void,
    count: u32,
    offset: u64,
    flags: u32,
    list: *mut RawExtents,
) -> c_int {
    // SAFETY: nbdkit passes the handle of an open connection, and a list that belongs to this
    // request alone.
    let (export, list) = unsafe { (export(handle), &mut *list) };
    guard("extents", -1, || {
        let mut list = ExtentList::new(list);
        let one = flags & nbdkit::FLAG_REQ_ONE != 0;
        done(export.extents(offset, u64::from(count), one, |extent| list.add(extent)))
    })
}
