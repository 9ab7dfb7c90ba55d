//! wal-db: segments that grow and are removed, one `fdatasync` for a group.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use wal_db::{Lsn, SegmentedStore, Wal};

use super::{Engine, Marks, SEGMENT_BYTES, Setup, failed};

struct WalDb {
    log: Wal<SegmentedStore>,
    marks: Marks<Lsn>,
    /// Where the last record known to a caller of `retire` began.
    last: AtomicU64,
}

/// Segments as large as ours. It has no preallocation and no recycling to turn on.
pub(super) fn fair(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    Ok(Box::new(WalDb {
        log: Wal::open_segmented(setup.dir.join("wal-db"), SEGMENT_BYTES).map_err(failed)?,
        marks: Marks::new(),
        last: AtomicU64::new(0),
    }))
}

impl Engine for WalDb {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let lsn = self.log.append_and_sync(payload).map_err(failed)?;
        self.last.fetch_max(lsn.get(), Ordering::Relaxed);
        Ok(())
    }

    fn retire(&self) -> io::Result<()> {
        let last = self.last.load(Ordering::Relaxed);
        let Some(keep_from) = self.marks.next(Lsn::new(last)) else {
            return Ok(());
        };
        let done = self.log.truncate_before(keep_from);
        done.map(drop).map_err(failed)
    }

    fn configuration(&self) -> String {
        "open_segmented with 64 MiB, append_and_sync, truncate_before every 64 MiB; it neither \
         preallocates nor recycles: every segment grows from empty and is removed"
            .into()
    }
}
