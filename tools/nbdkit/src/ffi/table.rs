//! `struct nbdkit_plugin` and the symbol by which nbdkit asks for it.

use std::ffi::{c_char, c_int, c_void};
use std::mem::offset_of;

use super::callbacks as on;
use super::nbdkit::{RawExtents, THREAD_MODEL_PARALLEL};

/// A callback that the plugin does not have.
type Absent = Option<unsafe extern "C" fn()>;
type OnHandle = Option<unsafe extern "C" fn(*mut c_void) -> c_int>;
type OnRange = Option<unsafe extern "C" fn(*mut c_void, u32, u64, u32) -> c_int>;

/// `struct nbdkit_plugin`, API version 2, field for field.
#[repr(C)]
pub(super) struct Plugin {
    struct_size: u64,
    api_version: c_int,
    thread_model_max: c_int,
    name: *const c_char,
    longname: *const c_char,
    version: *const c_char,
    description: *const c_char,
    load: Absent,
    unload: Option<extern "C" fn()>,
    config: Option<unsafe extern "C" fn(*const c_char, *const c_char) -> c_int>,
    config_complete: Option<extern "C" fn() -> c_int>,
    config_help: *const c_char,
    open: Option<extern "C" fn(c_int) -> *mut c_void>,
    close: Option<unsafe extern "C" fn(*mut c_void)>,
    get_size: Option<unsafe extern "C" fn(*mut c_void) -> i64>,
    can_write: OnHandle,
    can_flush: OnHandle,
    is_rotational: OnHandle,
    can_trim: OnHandle,
    version_1: [Absent; 5],
    errno_is_preserved: c_int,
    dump_plugin: Absent,
    can_zero: OnHandle,
    can_fua: OnHandle,
    pread: Option<unsafe extern "C" fn(*mut c_void, *mut c_void, u32, u64, u32) -> c_int>,
    pwrite: Option<unsafe extern "C" fn(*mut c_void, *const c_void, u32, u64, u32) -> c_int>,
    flush: Option<unsafe extern "C" fn(*mut c_void, u32) -> c_int>,
    trim: OnRange,
    zero: OnRange,
    magic_config_key: *const c_char,
    can_multi_conn: OnHandle,
    can_extents: OnHandle,
    extents: Option<unsafe extern "C" fn(*mut c_void, u32, u64, u32, *mut RawExtents) -> c_int>,
    can_cache: OnHandle,
    cache: OnRange,
    thread_model: Option<extern "C" fn() -> c_int>,
    can_fast_zero: OnHandle,
    preconnect: Absent,
    get_ready: Option<extern "C" fn() -> c_int>,
    after_fork: Option<extern "C" fn() -> c_int>,
    list_exports: Absent,
    default_export: Absent,
    export_description: Absent,
    cleanup: Option<extern "C" fn()>,
    block_size: Option<unsafe extern "C" fn(*mut c_void, *mut u32, *mut u32, *mut u32) -> c_int>,
}

// What a C compiler says of the header of nbdkit 1.32 on a 64-bit machine.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(offset_of!(Plugin, name) == 16);
    assert!(offset_of!(Plugin, config) == 64);
    assert!(offset_of!(Plugin, get_size) == 104);
    assert!(offset_of!(Plugin, version_1) == 144);
    assert!(offset_of!(Plugin, errno_is_preserved) == 184);
    assert!(offset_of!(Plugin, can_zero) == 200);
    assert!(offset_of!(Plugin, pread) == 216);
    assert!(offset_of!(Plugin, zero) == 248);
    assert!(offset_of!(Plugin, can_multi_conn) == 264);
    assert!(offset_of!(Plugin, extents) == 280);
    assert!(offset_of!(Plugin, thread_model) == 304);
    assert!(offset_of!(Plugin, get_ready) == 328);
    assert!(offset_of!(Plugin, cleanup) == 368);
    assert!(offset_of!(Plugin, block_size) == 376);
    assert!(size_of::<Plugin>() == 384);
};

// SAFETY: the pointers in it are to constants of this library, which nobody writes.
unsafe impl Sync for Plugin {}

const HELP: &std::ffi::CStr = c"\
dir=DIR                (required) The volume directory; created when size is given.
size=SIZE              Size of a new volume, such as 10G.
block-size=SIZE        Block size of a new volume: 512 to 64k, default 4k.
segment-size=SIZE      Size of a log file of a new volume: 1M to 1G, default 64M.
replica=ID=HOST:PORT   A replica to keep in step; may be repeated.
ack=RULE               What a flush waits for: best-effort (default), quorum or all.
tls-cert=FILE          Certificate (PEM); replicas are reached over TLS and have to show theirs.
tls-key=FILE           Its private key.
tls-ca=FILE            The authority that certificates of replicas are checked against.
insecure-plaintext=true  Serve replicas on other machines without TLS.";

static PLUGIN: Plugin = Plugin {
    struct_size: size_of::<Plugin>() as u64,
    api_version: 2,
    thread_model_max: THREAD_MODEL_PARALLEL,
    name: c"seawall".as_ptr(),
    longname: c"Seawall volume".as_ptr(),
    version: concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast(),
    description: c"A volume over a write-ahead log, with replicas that catch up".as_ptr(),
    load: None,
    unload: Some(on::unload),
    config: Some(on::config),
    config_complete: Some(on::config_complete),
    config_help: HELP.as_ptr(),
    open: Some(on::open),
    close: Some(on::close),
    get_size: Some(on::get_size),
    can_write: Some(on::can_write),
    can_flush: Some(on::yes),
    is_rotational: Some(on::no),
    can_trim: Some(on::yes),
    version_1: [None; 5],
    errno_is_preserved: 0,
    dump_plugin: None,
    can_zero: Some(on::yes),
    can_fua: Some(on::can_fua),
    pread: Some(on::pread),
    pwrite: Some(on::pwrite),
    flush: Some(on::flush),
    trim: Some(on::trim),
    zero: Some(on::zero),
    magic_config_key: c"dir".as_ptr(),
    can_multi_conn: Some(on::yes),
    can_extents: Some(on::yes),
    extents: Some(on::extents),
    can_cache: Some(on::can_cache),
    cache: None,
    thread_model: Some(on::thread_model),
    can_fast_zero: Some(on::yes),
    preconnect: None,
    get_ready: Some(on::get_ready),
    after_fork: Some(on::after_fork),
    list_exports: None,
    default_export: None,
    export_description: None,
    cleanup: Some(on::cleanup),
    block_size: Some(on::block_size),
};

/// The one symbol nbdkit looks up. It copies the structure and writes nothing to it.
// SAFETY: no other symbol of this name exists in the library, and the signature is nbdkit's.
#[unsafe(no_mangle)]
pub(super) extern "C" fn plugin_init() -> *const c_void {
    let plugin: *const Plugin = &raw const PLUGIN;
    plugin.cast()
}
