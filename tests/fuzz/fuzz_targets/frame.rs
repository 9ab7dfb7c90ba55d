//! See `seawall_wal::fuzzing::frame`.
#![no_main]

seawall_fuzz::target!(frame);
