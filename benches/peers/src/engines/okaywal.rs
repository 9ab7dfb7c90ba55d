//! okaywal: preallocated segments, one writer at a time, one `fdatasync` for a group.

use std::io;

use okaywal::{Configuration, LogVoid, WriteAheadLog};

use super::{Engine, SEGMENT_BYTES, Setup};

struct Okaywal {
    log: WriteAheadLog,
    configuration: &'static str,
}

/// Segments as large as ours. A segment is given up as soon as it is full, for there is nothing to
/// keep records for: `LogVoid` checkpoints at once.
pub(super) fn fair(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let size = setup.size as u64;
    let segment = u32::try_from(SEGMENT_BYTES).unwrap_or(u32::MAX);
    let configuration = Configuration::default_for(setup.dir.join("okaywal"))
        .preallocate_bytes(segment)
        // The last entries of a segment still fit into what is preallocated.
        .checkpoint_after_bytes(SEGMENT_BYTES - (4 << 20).max(2 * size))
        .buffer_bytes(64 << 10);
    Ok(Box::new(Okaywal {
        log: configuration.open(LogVoid)?,
        configuration: "preallocate_bytes 64 MiB, checkpoint_after_bytes 60 MiB, buffer_bytes \
                        64 KiB, LogVoid: a full segment is recycled at once, nothing is retained",
    }))
}

/// Segments of 1 MiB, checkpointed after 768 KiB.
pub(super) fn default(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let configuration = Configuration::default_for(setup.dir.join("okaywal"));
    Ok(Box::new(Okaywal {
        log: configuration.open(LogVoid)?,
        configuration: "defaults: segments of 1 MB, LogVoid, nothing is retained",
    }))
}

impl Engine for Okaywal {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let mut entry = self.log.begin_entry()?;
        entry.write_chunk(payload)?;
        entry.commit()?;
        Ok(())
    }

    fn configuration(&self) -> String {
        self.configuration.into()
    }
}
