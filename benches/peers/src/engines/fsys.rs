//! fsys: a journal in one file, group commit with `fdatasync`.

use std::io;
use std::time::Duration;

use fsys::{JournalHandle, JournalOptions};

use super::{Engine, Setup, failed};

/// Reserved ahead, as extents without a file size: its own call does no more.
const RESERVED_BYTES: u64 = 1 << 30;

struct Fsys {
    journal: JournalHandle,
    configuration: String,
}

fn open(
    setup: &Setup,
    options: JournalOptions,
    reserved: u64,
    what: &str,
) -> io::Result<Box<dyn Engine>> {
    let handle = fsys::builder().build().map_err(failed)?;
    let path = setup.dir.join("fsys.journal");
    let journal = handle.journal_with(path, options).map_err(failed)?;
    if reserved > 0 {
        journal.preallocate(0, reserved).map_err(failed)?;
    }
    let configuration = format!(
        "{what}, backend {:?}; one file that only grows",
        journal.backend_kind()
    );
    Ok(Box::new(Fsys {
        journal,
        configuration,
    }))
}

/// Without waiting for company: a group forms while a sync is under way.
pub(super) fn fair(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let options = JournalOptions::new().group_commit_window(None);
    let what = "buffered, group_commit_window None, preallocate 1 GiB";
    open(setup, options, RESERVED_BYTES, what)
}

/// The same past the page cache. A larger log buffer costs: each sync writes its filled part again.
pub(super) fn direct(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let buffer_kib = u32::try_from(setup.size * 4 / 1024).unwrap_or(u32::MAX);
    let buffer_kib = buffer_kib.max(64);
    let options = JournalOptions::new().direct(true);
    let options = options.log_buffer_kib(buffer_kib);
    let options = options.group_commit_window(None);
    let what =
        format!("direct, log_buffer_kib {buffer_kib}, group_commit_window None, preallocate 1 GiB");
    open(setup, options, RESERVED_BYTES, &what)
}

/// Buffered, and a leader waits for others before it syncs.
pub(super) fn default(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    let window = Duration::from_micros(500);
    let options = JournalOptions::new().group_commit_window(Some(window));
    open(
        setup,
        options,
        0,
        "defaults: buffered, group_commit_window 500 us",
    )
}

impl Engine for Fsys {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let lsn = self.journal.append(payload).map_err(failed)?;
        self.journal.sync_through(lsn).map_err(failed)
    }

    fn configuration(&self) -> String {
        self.configuration.clone()
    }
}
