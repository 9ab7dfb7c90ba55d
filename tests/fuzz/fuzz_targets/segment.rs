//! See `seawall_wal::fuzzing::segment`.
#![no_main]

seawall_fuzz::target!(segment);
