//! Intact records of a damaged log, written to a log directory of their own.
//!
//! The damaged log is not touched. What is missing stays missing: the new log has a gap there, with
//! the same verdict as the old one. A gap at or below the durable frontier makes it open read-only
//! with the exact loss (D14), so that a peer's records can heal it; one above is a torn tail (L2).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{self, Disk};
use crate::handles::Handles;
use crate::log::DIR_NAME;
use crate::record::Record;
use crate::rewrite::{Rewrite, Target};
use crate::{Clock, Error, IoOp, LogId, Lsn, Meta, MetaContents};

/// A log directory under way. It passes for none before [`Salvage::finish`] wrote its meta.
pub struct Salvage {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    contents: MetaContents,
    durable: Lsn,
    rewrite: Rewrite<'static>,
    /// Records are missing above the durable frontier, and there are some behind them.
    torn: bool,
    /// Last LSN that nobody expects.
    floor: Lsn,
}

impl Salvage {
    /// Makes `dir`, whose parent must exist. `contents` is what the meta of the damaged volume
    /// says, or as much of it as is known; it gets a log id of its own. `durable` is the highest
    /// frontier that the damaged log recorded.
    ///
    /// # Errors
    /// [`Error::Io`]: of kind `AlreadyExists` when `dir` holds anything.
    pub fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        clock: &Arc<dyn Clock>,
        contents: MetaContents,
        durable: Lsn,
    ) -> Result<Salvage, Error> {
        disk::make_dir(disk.as_ref(), dir)?;
        if !disk::list(disk.as_ref(), dir)?.is_empty() {
            let kind = std::io::ErrorKind::AlreadyExists;
            return Err(Error::io(IoOp::MakeDir, dir, None, kind.into()));
        }
        let wal = dir.join(DIR_NAME);
        disk::make_dir(disk.as_ref(), &wal)?;
        let floor = contents.tail.max(contents.origin);
        let durable = durable.max(floor);
        let (mut slot, mut generation) = (0, contents.generation_next);
        let take = move || {
            let taken = (slot, generation);
            slot += 1;
            generation += 1;
            Ok(taken)
        };
        let target = Target {
            handles: Handles::new(disk),
            clock: Arc::clone(clock),
            dir: wal,
            volume: contents.volume,
            log: LogId::random()?,
            segment_bytes: contents.geometry.segment_bytes,
            committed: contents.committed,
            frontier_max: durable,
            take: Box::new(take),
        };
        Ok(Salvage {
            disk: Arc::clone(disk),
            dir: dir.into(),
            contents: MetaContents {
                log: target.log,
                clean_close: None,
                ..contents
            },
            durable,
            rewrite: Rewrite::new(target, floor),
            torn: false,
            floor,
        })
    }

    /// Last LSN that was added.
    #[must_use]
    pub fn head(&self) -> Lsn {
        self.rewrite.head()
    }

    /// Adds a record, above all that were added before. One that is not is passed over.
    ///
    /// # Errors
    /// [`Error::Io`]; what was written so far is no volume then.
    pub fn push(&mut self, record: Record) -> Result<(), Error> {
        let (head, before) = (self.head(), record.lsn().before());
        if before < head {
            return Ok(());
        }
        if head < before {
            self.rewrite.skip(before)?;
            self.torn |= self.durable < before;
        }
        self.rewrite.push(record)
    }

    /// Makes it durable and then a log directory, by its meta. Gives its last LSN.
    ///
    /// # Errors
    /// [`Error::Io`]; what was written so far is no volume then.
    pub fn finish(mut self) -> Result<Lsn, Error> {
        let head = self.head();
        if head < self.durable {
            self.rewrite.skip(self.durable)?;
        }
        // A mark behind records that may never have been durable would claim that they were.
        if !self.torn && self.durable.max(head) > self.floor {
            self.rewrite.mark()?;
        }
        if let Some(next) = self.rewrite.generation_next() {
            self.contents.generation_next = next;
        }
        self.contents.first_generation = self.rewrite.sync()?;
        Meta::create(&self.disk, &self.dir, self.contents)?;
        if let Some(parent) = self.dir.parent() {
            let parent = match parent.as_os_str().is_empty() {
                true => Path::new("."),
                false => parent,
            };
            disk::sync_dir(self.disk.as_ref(), parent)?;
        }
        Ok(head)
    }
}
