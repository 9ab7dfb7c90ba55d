//! See `seawall_wal::fuzzing::index`.
#![no_main]

seawall_fuzz::target!(index);
