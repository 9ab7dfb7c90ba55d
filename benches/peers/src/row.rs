//! One measurement, as it is printed and read back.

use serde::{Deserialize, Serialize};

/// What one process measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    pub(crate) engine: String,
    /// Every option that differs from the engine's default, and the backend at run time.
    pub(crate) configuration: String,
    pub(crate) threads: usize,
    /// Bytes of one record.
    pub(crate) size: usize,
    pub(crate) seconds: f64,
    pub(crate) records: u64,
    pub(crate) records_per_second: f64,
    pub(crate) megabytes_per_second: f64,
    /// Latency of one append in microseconds.
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
    /// Processor time of the whole process, user and system, per 10^9 bytes of payload.
    pub(crate) cpu_seconds_per_gigabyte: f64,
    /// What the block device below the directory did meanwhile, for whomever.
    pub(crate) device: Option<DeviceUse>,
    /// Bytes of payload that the warm-up went through before.
    pub(crate) warm_up_bytes: u64,
    /// Which round of the run this is, and which group of peers within it.
    #[serde(default)]
    pub(crate) round: usize,
    #[serde(default)]
    pub(crate) chunk: usize,
}

/// Device counters per record and byte.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct DeviceUse {
    pub(crate) flushes: u64,
    pub(crate) writes: u64,
    pub(crate) sectors: u64,
    pub(crate) flushes_per_record: f64,
    /// Bytes written to the device per byte of payload.
    pub(crate) bytes_per_byte: f64,
}
