//! See `seawall_wal::fuzzing::meta`.
#![no_main]

seawall_fuzz::target!(meta);
