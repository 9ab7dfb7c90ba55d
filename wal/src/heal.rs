//! The door through which a replica's intact records come back into a log that lost some (D14).
//!
//! Nothing is repaired in place. The whole retained log is written anew under a new log id, from
//! the records that are intact here and the ones that are given, and one change of meta switches to
//! it (as an install does, D12). Before that the damaged log is as it was; behind it nothing of the
//! old one counts. Whatever the damage is, frame headers and whole segments included, the way is
//! the same, and a crash leaves one log or the other. Files with damage are copied aside first
//! (L-T9).

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::path::PathBuf;
use std::sync::Arc;

use crate::disk::{self, Buffer, File, OpenMode};
use crate::error::Misfit;
use crate::log::{Log, LogMode};
use crate::record::Record;
use crate::report::RecordPlace;
use crate::rewrite::{Rewrite, Target};
use crate::segment::{FIRST_FRAME_AT, SegmentHeader, file_name};
use crate::{Error, LogId, Lsn, LsnRange};

const COPY_BYTES: usize = 1 << 20;

impl Log {
    /// The ranges of LSNs that [`Log::heal`] wants, in order: known to be lost, above the tail and
    /// at or below durable.
    #[must_use]
    pub fn lost(&self) -> Vec<LsnRange> {
        let state = self.state();
        let mut lost: Vec<LsnRange> = Vec::new();
        let wanted = LsnRange::new(state.frontiers.tail, state.frontiers.durable);
        for (run, _) in state.damage.runs() {
            let after = run.after.max(wanted.after);
            let through = run.through.min(wanted.through);
            match lost.last_mut() {
                _ if after >= through => {}
                Some(last) if last.through == after => last.through = through,
                _ => lost.push(LsnRange::new(after, through)),
            }
        }
        lost
    }

    /// Puts lost records back: every record of every range of [`Log::lost`], in order, as a peer
    /// of the same history holds them. Durable stays what it is. What was damaged is copied aside
    /// first, as `NAME.lost` beside the segments.
    ///
    /// The log stops, whatever comes of it: reopen it. It takes space for the retained log once
    /// more, and reads and writes all of it.
    ///
    /// # Errors
    /// [`Error::Misfit`] or [`Error::OtherVolume`] for a record that is not the lost one,
    /// [`Error::ReadOnly`] when the log was opened for inspection, what reading an intact record
    /// answers when it turns out to be lost as well, and [`Error::Io`]. The damaged log is then as
    /// it was.
    pub fn heal(self: &Arc<Self>, records: impl IntoIterator<Item = Record>) -> Result<(), Error> {
        if self.mode == LogMode::ReadOnly {
            return Err(Error::ReadOnly {
                path: self.dir.clone(),
                why: "it was opened for inspection",
            });
        }
        if self.check_writable().is_ok() {
            self.sync()?;
        }
        self.stop();
        self.state().check_poison()?;
        let lost = self.lost();
        self.copy_evidence(&lost)?;
        let id = LogId::random()?;
        let frontiers = self.frontiers();
        let first = self.first_retained().before();
        let mut rewrite = Rewrite::new(self.target(id), first);
        let mut given = records.into_iter().peekable();
        let mut after = first;
        for range in lost {
            self.copy_intact(LsnRange::new(after, range.after), &mut rewrite)?;
            self.take_given(range, &mut given, &mut rewrite)?;
            after = range.through;
        }
        // What nobody proved durable is kept as far as it is whole: it may have been acknowledged.
        let rest = LsnRange::new(frontiers.durable, frontiers.head);
        let broken = self.state().first_damage(rest).map(|(lsn, _)| lsn.before());
        let head = broken.unwrap_or(frontiers.head);
        self.copy_intact(LsnRange::new(after, head), &mut rewrite)?;
        if let Some(more) = given.next() {
            return Err(misfit(more.lsn(), Misfit::NotLost));
        }
        let first_generation = rewrite.finish()?;
        self.meta.update(|meta| {
            meta.log = id;
            meta.origin = first;
            meta.first_generation = first_generation;
            meta.clean_close = None;
        })
    }

    /// Where the log is written anew, under the log id `id`.
    fn target(&self, id: LogId) -> Target<'_> {
        let take = || {
            let slot = self.state().slots.take_fresh();
            let mut generation = 0;
            self.meta.update(|meta| {
                generation = meta.generation_next;
                meta.generation_next += 1;
            })?;
            Ok((slot, generation))
        };
        let frontiers = self.frontiers();
        Target {
            handles: Arc::clone(&self.handles),
            clock: Arc::clone(&self.clock),
            dir: self.dir.clone(),
            volume: self.ids.volume,
            log: id,
            segment_bytes: self.ids.geometry.segment_bytes,
            committed: frontiers.committed,
            // Nobody reads it before all of it is durable.
            frontier_max: frontiers.head,
            take: Box::new(take),
        }
    }

    fn copy_intact(
        self: &Arc<Self>,
        range: LsnRange,
        rewrite: &mut Rewrite<'_>,
    ) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        self.read(range)?
            .try_for_each(|record| rewrite.push(record?))
    }

    fn take_given(
        &self,
        range: LsnRange,
        given: &mut Peekable<impl Iterator<Item = Record>>,
        rewrite: &mut Rewrite<'_>,
    ) -> Result<(), Error> {
        for lsn in range.iter() {
            let Some(record) = given.next_if(|record| record.lsn() <= lsn) else {
                return Err(misfit(lsn, Misfit::NotGiven));
            };
            if record.lsn() < lsn {
                return Err(misfit(record.lsn(), Misfit::NotLost));
            }
            self.check_given(&record)?;
            rewrite.push(record)?;
        }
        Ok(())
    }

    /// Whether a record is the one that was lost, as far as anything here still tells.
    fn check_given(&self, record: &Record) -> Result<(), Error> {
        let header = *record.header();
        let lsn = header.lsn;
        self.check_foreign(record)?;
        if header.block_size != self.ids.geometry.block_size
            || header.verify(record.payload()).is_err()
        {
            return Err(misfit(lsn, Misfit::Content));
        }
        // D2: under one entry an LSN has one content.
        let entry = self.state().lineage.entry_at(lsn);
        if entry.map(|entry| (entry.epoch, entry.incarnation))
            != Some((header.epoch, header.incarnation))
        {
            return Err(misfit(lsn, Misfit::Lineage));
        }
        let known = self.place_of(lsn);
        let same = known.is_none_or(|known| {
            (known.kind, known.no_hole, known.lba, known.blocks)
                == (header.kind, header.no_hole, header.lba, header.blocks)
        });
        match same {
            true => Ok(()),
            false => Err(misfit(lsn, Misfit::Content)),
        }
    }

    /// What an index or a sound frame still says of a lost record.
    fn place_of(&self, lsn: Lsn) -> Option<RecordPlace> {
        let found = self.state().find(LsnRange::new(lsn.before(), lsn)).ok()?;
        let entries = self.load(&found).ok()?;
        entries.first().map(RecordPlace::from)
    }

    /// Copies every file aside that is damaged, or that nothing tells the life of; durable with its
    /// name.
    fn copy_evidence(&self, lost: &[LsnRange]) -> Result<(), Error> {
        let (slots, mut damaged) = {
            let state = self.state();
            let held = state.segments.iter().filter(|segment| {
                lost.iter().any(|range| {
                    let runs = segment.entries.runs().iter();
                    runs.clone().any(|run| touch(run, range))
                })
            });
            let held: BTreeSet<u32> = held.map(|segment| segment.file.slot).collect();
            (state.slots.used.clone(), held)
        };
        let suspects = self.suspects.iter();
        let suspects: BTreeSet<&PathBuf> = suspects.collect();
        for slot in slots {
            let path = self.dir.join(file_name(slot));
            let unknown = !suspects.contains(&path) && !damaged.contains(&slot) && {
                let file = File::open(&self.disk, &path, OpenMode::Read)?;
                let page = usize::try_from(FIRST_FRAME_AT).expect("a page");
                let page = file.read(0, page);
                page.map_or(true, |page| SegmentHeader::decode(&page).is_err())
            };
            if unknown || suspects.contains(&path) {
                damaged.insert(slot);
            }
        }
        for slot in &damaged {
            self.copy_aside(*slot)?;
        }
        if damaged.is_empty() {
            return Ok(());
        }
        disk::sync_dir(self.disk.as_ref(), &self.dir)
    }

    /// The log id keeps the copies of two heals apart; within one, a copy is only ever repeated.
    fn copy_aside(&self, slot: u32) -> Result<(), Error> {
        let from = self.dir.join(file_name(slot));
        let from = File::open(&self.disk, &from, OpenMode::Read)?;
        let to = self.dir.join(format!("{slot:08}.{}.lost", self.ids.log));
        let to = File::open(&self.disk, &to, OpenMode::CreateOrOpen)?;
        let length = from.length()?;
        to.set_length(length)?;
        let mut at = 0;
        while at < length {
            match from.read(at, COPY_BYTES) {
                Ok(bytes) if bytes.is_empty() => break,
                Ok(bytes) => {
                    let count = bytes.len() as u64;
                    to.write_bytes(at, Buffer::copy_of(&bytes))?;
                    at += count;
                }
                Err(_) => {
                    copy_pages(&from, &to, at)?;
                    at += COPY_BYTES as u64;
                }
            }
        }
        to.sync()
    }
}

/// A bad sector costs the page that it lies on.
fn copy_pages(from: &File, to: &File, start: u64) -> Result<(), Error> {
    const PAGE: usize = 4096;
    for page in 0..(COPY_BYTES / PAGE) as u64 {
        let at = start + page * PAGE as u64;
        match from.read(at, PAGE) {
            Ok(bytes) if !bytes.is_empty() => to.write_bytes(at, Buffer::copy_of(&bytes))?,
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

fn touch(a: &LsnRange, b: &LsnRange) -> bool {
    a.after < b.through && b.after < a.through
}

#[cold]
fn misfit(lsn: Lsn, why: Misfit) -> Error {
    Error::Misfit { lsn, why }
}
