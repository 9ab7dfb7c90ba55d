//! See `seawall_wal::fuzzing::directory`.
#![no_main]

seawall_fuzz::target!(directory);
