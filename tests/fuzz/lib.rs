//! What every target shares: an allocator with a limit that grows with the input.

use std::alloc::System;
use std::sync::Once;

pub use cap::Cap;

/// Memory that a run needs besides its input: a simulated disk, two copies of meta, a window.
const BYTES_BASE: usize = 16 << 20;
/// Memory for each byte of input: a decoded record is larger than its header, a page of patches may
/// be laid out over whole files.
const BYTES_PER_BYTE: usize = 64;

/// Runs `check` over an input; an allocation out of proportion to it ends the process.
pub fn bounded(allocator: &'static Cap<System>, input: &[u8], check: fn(&[u8])) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // OK because the run is over, and its report takes memory.
            allocator.set_limit(usize::MAX).ok();
            report(info);
        }));
    });
    let limit = allocator.allocated() + BYTES_BASE + BYTES_PER_BYTE * input.len();
    if allocator.set_limit(limit).is_ok() {
        check(input);
    }
    // OK because no limit is below what is allocated.
    allocator.set_limit(usize::MAX).ok();
}

/// The body of a target that checks one function of `seawall_wal::fuzzing`.
#[macro_export]
macro_rules! target {
    ($check:ident) => {
        #[global_allocator]
        static ALLOCATOR: $crate::Cap<std::alloc::System> =
            $crate::Cap::new(std::alloc::System, usize::MAX);

        libfuzzer_sys::fuzz_target!(|data: &[u8]| {
            $crate::bounded(&ALLOCATOR, data, seawall_wal::fuzzing::$check);
        });
    };
}
