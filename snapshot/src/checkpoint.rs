//! Checkpoint: committed records into the image, with a durable intent around it (D9).
//!
//! Order: log durable through the target; old content of pinned views kept; intent and committed
//! durable in meta; image and sums written and synced; checkpoint durable in meta. A crash at any
//! point finds either no intent and an untouched image, or the intent and a log that still holds
//! every record of it, from which the same blocks and sums are written again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use seawall_wal::disk::Buffer;
use seawall_wal::{Log, Lsn, LsnRange, Record};

use crate::error::Error;
use crate::image::{Image, RUN_BYTES};
use crate::index::{Content, Index, Version};
use crate::section::{BaseFacts, Intent};
use crate::sums::{Digest, SumCursor, SumWriter, block_sums};
use crate::volume::Volume;
use crate::{lock, to_usize};

/// Records kept at hand while their blocks are written: a large record that later ones cut to
/// pieces is read once (F12).
const RECORDS_CACHED: usize = 8;

/// Captures the base through `target`. The caller holds the capture lock.
pub(crate) fn run(volume: &Volume, target: Lsn) -> Result<Lsn, Error> {
    finish(volume)?;
    let facts = volume.facts();
    if target <= facts.checkpoint {
        return Ok(facts.checkpoint);
    }
    volume.log.sync_through(target)?;
    let touched = touched(&volume.log, facts.checkpoint, target)?;
    let rest = rest(&volume.image, facts.digest, &touched)?;
    keep_for_views(volume, &touched);
    let intent = Intent { target, rest };
    // S3: nothing is written to the image before this is durable.
    store(
        volume,
        BaseFacts {
            intent: Some(intent),
            ..facts
        },
    )?;
    complete(volume, intent, &touched)?;
    Ok(target)
}

/// Finishes a checkpoint that a crash or a failure left open. The caller holds the capture lock.
pub(crate) fn finish(volume: &Volume) -> Result<(), Error> {
    let facts = volume.facts();
    let Some(intent) = facts.intent else {
        return Ok(());
    };
    let touched = touched(&volume.log, facts.checkpoint, intent.target)?;
    keep_for_views(volume, &touched);
    complete(volume, intent, &touched)
}

/// The newest version at or below `target` of every block that `(checkpoint, target]` touches.
pub(crate) fn touched(log: &Log, checkpoint: Lsn, target: Lsn) -> Result<Index, Error> {
    let places = log.places(LsnRange::new(checkpoint, target))?;
    Ok(Index::of(&places))
}

/// The digest of the state without the touched blocks.
fn rest(image: &Image, digest: Digest, touched: &Index) -> Result<Digest, Error> {
    let mut rest = digest;
    let mut cursor = SumCursor::new(image.sums());
    for (range, _) in touched.iter() {
        cursor.visit(range, &mut |lba, sum| {
            rest = rest.without_block(lba, sum);
            Ok(())
        })?;
    }
    Ok(rest)
}

fn keep_for_views(volume: &Volume, touched: &Index) {
    for view in volume.live_views() {
        view.keep(touched);
    }
}

/// Makes `facts` durable together with committed, then true in memory.
fn store(volume: &Volume, facts: BaseFacts) -> Result<(), Error> {
    let committed = volume.log.frontiers().committed;
    volume.log.meta().update(|meta| {
        meta.committed = meta.committed.max(committed);
        facts.store(meta);
    })?;
    lock(&volume.base).facts = facts;
    Ok(())
}

fn complete(volume: &Volume, intent: Intent, touched: &Index) -> Result<(), Error> {
    volume.image_usable()?;
    // From here on a block that fails its sum may be one that we are writing: readers look again.
    // S5: none of its records is without its place then, so that readers know what is written.
    volume.newest.settle();
    volume.captures.fetch_add(1, Ordering::SeqCst);
    let digest = Writer::of(volume).write_all(touched, intent.rest)?;
    if let Err(error) = volume.image.sync() {
        // D21: what the image holds is unknown until a reopen finishes the intent.
        lock(&volume.base).failed = Some(Arc::new(error.clone()));
        return Err(error);
    }
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

/// Writes blocks and sums in LBA order, neighbours in one call.
struct Writer<'a> {
    image: &'a Image,
    sums: SumWriter<'a>,
    records: RecordCache<'a>,
    start: u64,
    run: Vec<u8>,
    digest: Digest,
}

impl<'a> Writer<'a> {
    fn of(volume: &'a Volume) -> Writer<'a> {
        Writer {
            image: &volume.image,
            sums: SumWriter::new(volume.image.sums()),
            records: RecordCache::of(&volume.log),
            start: 0,
            run: Vec::new(),
            digest: Digest::ZERO,
        }
    }

    /// Writes every touched block and gives the digest of the state that results.
    fn write_all(mut self, touched: &Index, rest: Digest) -> Result<Digest, Error> {
        self.digest = rest;
        for (range, version) in touched.iter() {
            match version.content {
                Content::Payload { first } => self.payload(range, version, first)?,
                Content::Zeros => {
                    self.flush()?;
                    self.image.zero(&range)?;
                    self.sums.zero(range)?;
                }
                Content::Hole => {
                    self.flush()?;
                    self.image.punch(&range)?;
                    self.sums.zero(range)?;
                }
            }
        }
        self.flush()?;
        self.sums.flush()?;
        Ok(self.digest)
    }

    fn payload(
        &mut self,
        range: std::ops::Range<u64>,
        version: Version,
        first: u64,
    ) -> Result<(), Error> {
        let shift = self.image.block_size().shift();
        let next = self.start + (self.run.len() >> shift) as u64;
        if next != range.start || self.run.len() >= RUN_BYTES {
            self.flush()?;
            self.start = range.start;
        }
        let record = self.records.get(version.lsn)?;
        let (from, to) = (range.start - first, range.end - first);
        let bytes = &record.payload()[to_usize(from << shift)..to_usize(to << shift)];
        self.run.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.run.is_empty() {
            return Ok(());
        }
        let sums = block_sums(&self.run, self.image.block_size());
        for (lba, sum) in (self.start..).zip(&sums) {
            self.digest = self.digest.with_block(lba, *sum);
        }
        self.image.write(self.start, Buffer::copy_of(&self.run))?;
        self.sums.put(self.start, &sums)?;
        self.run.clear();
        Ok(())
    }
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
