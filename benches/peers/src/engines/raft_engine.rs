//! raft-engine: one shared append queue for many groups, group commit with `fdatasync`.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use protobuf::well_known_types::BytesValue;
use raft_engine::{Config, LogBatch, MessageExt, ReadableSize};

use super::{Engine, Marks, RETAINED_BYTES, SEGMENT_BYTES, Setup, failed};

type Log = raft_engine::Engine;

/// Entries are bytes whose first eight are the index.
struct Entry;

impl MessageExt for Entry {
    type Entry = BytesValue;

    fn index(entry: &BytesValue) -> u64 {
        let bytes = entry.get_value().first_chunk::<8>();
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

/// One raft group per thread: indexes are consecutive within a group.
struct Lane {
    batch: Mutex<LogBatch>,
    next: AtomicU64,
}

struct RaftEngine {
    log: Log,
    lanes: Vec<Lane>,
    marks: Marks<Vec<u64>>,
    configuration: &'static str,
}

fn open(
    setup: &Setup,
    change: impl FnOnce(&mut Config),
    configuration: &'static str,
) -> io::Result<Box<dyn Engine>> {
    let mut config = Config {
        dir: setup.dir.join("raft-engine").display().to_string(),
        batch_compression_threshold: ReadableSize(0),
        ..Config::default()
    };
    change(&mut config);
    let lane = |_| Lane {
        batch: Mutex::new(LogBatch::default()),
        next: AtomicU64::new(1),
    };
    Ok(Box::new(RaftEngine {
        log: Log::open(config).map_err(failed)?,
        lanes: (0..setup.lanes).map(lane).collect(),
        marks: Marks::new(),
        configuration,
    }))
}

/// Files as large as ours, prefilled, recycled after 256 MiB.
pub(super) fn fair(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let change = |config: &mut Config| {
        config.target_file_size = ReadableSize(SEGMENT_BYTES);
        config.purge_threshold = ReadableSize(RETAINED_BYTES);
        config.enable_log_recycle = true;
        config.prefill_for_recycle = true;
        config.prefill_limit = Some(ReadableSize(RETAINED_BYTES));
    };
    let configuration = "target_file_size 64 MiB, purge_threshold 256 MiB, enable_log_recycle, \
                         prefill_for_recycle, prefill_limit 256 MiB, batch_compression_threshold \
                         0; a group per thread, compact_to and purge_expired_files every 64 MiB";
    open(setup, change, configuration)
}

/// No prefill; purges after 10 GB, so every file is new here.
pub(super) fn default(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let configuration = "defaults (files of 128 MB, no prefill, purged after 10 GB) with \
                         batch_compression_threshold 0; a group per thread";
    open(setup, |_| (), configuration)
}

impl Engine for RaftEngine {
    fn append(&self, thread: usize, payload: &[u8]) -> io::Result<()> {
        let lane = &self.lanes[thread];
        let mut batch = lane.batch.lock().expect("no thread panics holding it");
        let index = lane.next.load(Ordering::Relaxed);
        let mut value = payload.to_vec();
        value[..8].copy_from_slice(&index.to_le_bytes());
        let mut entry = BytesValue::new();
        entry.set_value(value);
        let added = batch.add_entries::<Entry>(thread as u64 + 1, &[entry]);
        added.map_err(failed)?;
        self.log.write(&mut batch, true).map_err(failed)?;
        lane.next.store(index + 1, Ordering::Relaxed);
        Ok(())
    }

    fn retire(&self) -> io::Result<()> {
        let lanes = self.lanes.iter();
        let now = lanes
            .map(|lane| lane.next.load(Ordering::Relaxed))
            .collect();
        if let Some(keep_from) = self.marks.next(now) {
            for (region, index) in (1..).zip(keep_from) {
                self.log.compact_to(region, index);
            }
        }
        self.log.purge_expired_files().map(drop).map_err(failed)
    }

    fn configuration(&self) -> String {
        self.configuration.into()
    }
}
