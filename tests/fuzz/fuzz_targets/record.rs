//! See `seawall_wal::fuzzing::record`.
#![no_main]

seawall_fuzz::target!(record);
