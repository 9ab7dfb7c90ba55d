//! The border to nbdkit: its plugin structure, written by hand, and the callbacks it calls.
//!
//! The layout is that of `struct nbdkit_plugin` of `nbdkit-plugin.h` under API version 2. nbdkit
//! copies as many bytes as `struct_size` says, so a newer nbdkit with more fields still fits.
#![expect(
    unsafe_code,
    reason = "the plugin interface is C: pointers come in, symbols and a table go out (D25)"
)]

mod callbacks;
mod nbdkit;
mod table;
