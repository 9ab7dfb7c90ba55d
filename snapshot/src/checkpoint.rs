//! Checkpoint: committed records into the image, with a durable intent around it (D9).
//!
//! Order: log durable through the target; old content of pinned views kept; intent and committed
//! durable in meta; image and sums written and synced; checkpoint durable in meta. A crash at any
//! point finds either no intent and an untouched image, or the intent and a log that still holds
//! every record of it, from which the same blocks and sums are written again.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::Ordering;

use seawall_wal::{Log, Lsn, LsnRange, Record};

use crate::apply::Plan;
use crate::error::Error;
use crate::index::Index;
use crate::lock;
use crate::section::{BaseFacts, Intent};
use crate::sums::Digest;
use crate::volume::Volume;

/// Records kept at hand while their blocks are written: a large record that later ones cut to
/// pieces is read once (F12).
const RECORDS_CACHED: usize = 8;

/// Records captured at once, 1 GiB of log in blocks of 4 KiB: a longer way is taken in steps, so
/// that memory stays bounded.
const RECORDS_MAX: u64 = 1 << 18;

/// Captures the base through `target`. The caller holds the capture lock.
pub(crate) fn run(volume: &Volume, target: Lsn) -> Result<Lsn, Error> {
    finish(volume)?;
    loop {
        let checkpoint = volume.facts().checkpoint;
        if target <= checkpoint {
            return Ok(checkpoint);
        }
        let most = checkpoint.checked_add(RECORDS_MAX);
        begin(volume, most.map_or(target, |most| most.min(target)))?;
    }
}

fn begin(volume: &Volume, target: Lsn) -> Result<(), Error> {
    let facts = volume.facts();
    volume.log.sync_through(target)?;
    let touched = touched(&volume.log, facts.checkpoint, target)?;
    let (plan, rest) = Plan::begin(&volume.image, facts.digest, &touched)?;
    // As long as the blocks vouch for them: once others of their sector are written, too many sums
    // differ from their blocks for the damaged one to be told.
    refresh_sums(volume, &plan.stale, &Index::default())?;
    volume.preserved.keep(&touched);
    let intent = Intent { target, rest };
    // S3: nothing is written to the image before this is durable.
    store(
        volume,
        BaseFacts {
            intent: Some(intent),
            ..facts
        },
    )?;
    complete(volume, intent, &touched, plan)
}

/// Makes durable what the sums of these blocks have to be, as long as the blocks vouch for them:
/// those of `changes` are being written. The caller holds the capture lock.
pub(crate) fn refresh_sums(volume: &Volume, lbas: &[u64], changes: &Index) -> Result<(), Error> {
    if lbas.is_empty() {
        return Ok(());
    }
    volume.image_usable()?;
    let sums = volume.image.sums();
    let changes = |lba| changes.piece(lba, lba + 1).1.is_some();
    match sums.refresh(lbas, changes)? {
        true => volume.synced(sums.sync()),
        false => Ok(()),
    }
}

/// As [`refresh_sums`], for the pages that are about to get some of the sums of these blocks.
fn refresh_around(volume: &Volume, blocks: &Index, changes: &Index) -> Result<(), Error> {
    let ends = |range: Range<u64>| [range.start, range.end - 1];
    let lbas: Vec<u64> = blocks.iter().flat_map(|(range, _)| ends(range)).collect();
    refresh_sums(volume, &lbas, changes)
}

/// Finishes a checkpoint that a crash or a failure left open. The caller holds the capture lock.
pub(crate) fn finish(volume: &Volume) -> Result<(), Error> {
    let facts = volume.facts();
    if facts.intent.is_none() && facts.repair.is_none() {
        return Ok(());
    }
    volume.check_complete()?;
    finish_repair(volume)?;
    let Some(intent) = facts.intent else {
        return Ok(());
    };
    let touched = touched(&volume.log, facts.checkpoint, intent.target)?;
    refresh_around(volume, &touched, &touched)?;
    volume.preserved.keep(&touched);
    complete(volume, intent, &touched, Plan::of(&touched))
}

/// Writes blocks again as they are at the checkpoint, from the log. The caller holds the capture
/// lock, and no intent is open. `after` lies below all their versions.
pub(crate) fn repair(volume: &Volume, blocks: &Index, after: Lsn) -> Result<(), Error> {
    volume.image_usable()?;
    let facts = BaseFacts {
        repair: Some(after),
        ..volume.facts()
    };
    store(volume, facts)?;
    refresh_around(volume, blocks, &Index::default())?;
    rewrite(volume, blocks)
}

/// A repair that was cut off may have lost any of its bytes: everything it can have touched is
/// written again.
fn finish_repair(volume: &Volume) -> Result<(), Error> {
    let facts = volume.facts();
    let Some(after) = facts.repair else {
        return Ok(());
    };
    match touched(&volume.log, after, facts.checkpoint) {
        Ok(blocks) => {
            refresh_around(volume, &blocks, &blocks)?;
            rewrite(volume, &blocks)
        }
        Err(error) => {
            // What is bad fails its sum and is named; the log is no help against it any more.
            tracing::warn!(%error, "a repair of the image stays unfinished");
            rewrite(volume, &Index::default())
        }
    }
}

fn rewrite(volume: &Volume, blocks: &Index) -> Result<(), Error> {
    volume.image_usable()?;
    volume.captures.fetch_add(1, Ordering::SeqCst);
    // The digest is that of the blocks as they should be, and stays.
    write(volume, Plan::of(blocks), blocks, Digest::ZERO)?;
    let facts = BaseFacts {
        repair: None,
        ..volume.facts()
    };
    store(volume, facts)
}

/// Blocks and sums into the image, durably; gives the digest that results from the rest of it.
fn write(volume: &Volume, plan: Plan, touched: &Index, rest: Digest) -> Result<Digest, Error> {
    let digest = plan.apply(volume, touched, rest)?;
    volume.synced(volume.image.sync())?;
    Ok(digest)
}

/// The newest version at or below `target` of every block that `(checkpoint, target]` touches.
pub(crate) fn touched(log: &Log, checkpoint: Lsn, target: Lsn) -> Result<Index, Error> {
    let places = log.places(LsnRange::new(checkpoint, target))?;
    Ok(Index::of(&places))
}

/// Makes `facts` durable together with committed, then true in memory. The caller holds the capture
/// lock.
pub(crate) fn store(volume: &Volume, facts: BaseFacts) -> Result<(), Error> {
    let committed = volume.log.frontiers().committed;
    volume.log.meta().update(|meta| {
        meta.committed = meta.committed.max(committed);
        facts.store(meta);
    })?;
    lock(&volume.base).facts = facts;
    Ok(())
}

fn complete(volume: &Volume, intent: Intent, touched: &Index, plan: Plan) -> Result<(), Error> {
    volume.image_usable()?;
    // From here on a block that fails its sum may be one that we are writing: readers look again.
    // S5: none of its records is without its place then, so that readers know what is written.
    volume.newest.settle();
    volume.captures.fetch_add(1, Ordering::SeqCst);
    let digest = write(volume, plan, touched, intent.rest)?;
    let facts = BaseFacts {
        checkpoint: intent.target,
        digest,
        intent: None,
        ..volume.facts()
    };
    store(volume, facts)?;
    volume.log.set_checkpoint(intent.target);
    volume.newest.forget(intent.target);
    Ok(())
}

/// The last few records read, newest first.
pub(crate) struct RecordCache<'a> {
    log: &'a Log,
    records: VecDeque<Record>,
}

impl<'a> RecordCache<'a> {
    pub(crate) fn of(log: &'a Log) -> RecordCache<'a> {
        RecordCache {
            log,
            records: VecDeque::new(),
        }
    }

    pub(crate) fn get(&mut self, lsn: Lsn) -> Result<Record, Error> {
        if let Some(record) = self.records.iter().find(|record| record.lsn() == lsn) {
            return Ok(record.clone());
        }
        let record = self.log.read_record(lsn)?;
        self.records.truncate(RECORDS_CACHED - 1);
        self.records.push_front(record.clone());
        Ok(record)
    }
}
