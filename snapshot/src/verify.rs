//! Reads everything a volume holds and says what is damaged, with its place. Writes nothing.

use std::path::PathBuf;

use seawall_wal::{
    Corrupt, Frontiers, Gap, Inspected, Lsn, LsnRange, Meta, ScanEnd, SegmentInfo, SegmentState,
    inspect_segment,
};

use crate::checkpoint::touched;
use crate::error::Error;
use crate::index::Index;
use crate::lock;
use crate::open::Access;
use crate::repair::Versions;
use crate::scrub::{Scrub, Scrubbed};
use crate::section::BaseFacts;
use crate::sumpage::{SECTOR_SUMS, sum_at};
use crate::sums::{Digest, Rot};
use crate::volume::Volume;

/// A segment without a frame ends behind its header page.
const SEGMENT_HEADER_BYTES: u64 = 4096;

/// One damaged place that `verify` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamageFound {
    /// File that holds it.
    pub file: PathBuf,
    /// Byte offset in it.
    pub offset: u64,
    /// Record hit, where known.
    pub lsn: Option<Lsn>,
    /// Of a block of the image: LSNs among which the record is that wrote it.
    pub lsns: Option<LsnRange>,
    /// Block hit and number of blocks, where known.
    pub blocks: Option<(u64, u64)>,
    /// What is wrong, for people.
    pub what: String,
}

/// Result of [`Volume::verify`].
#[derive(Clone, Debug)]
pub struct VerifyReport {
    /// Everything found; empty means whole.
    pub damage: Vec<DamageFound>,
    /// Frames' records read.
    pub records: u64,
    /// Image blocks checked against their sums.
    pub blocks: u64,
}

/// Bytes done and to do, for progress bars.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// Looks again at a volume that another process changed meanwhile, this often at most (D24).
const LOOKS_MAX: u32 = 3;

pub(crate) fn verify(volume: &Volume, progress: Progress<'_>) -> Result<VerifyReport, Error> {
    let mut report = Look::at(volume, progress)?;
    let mut seen = volume.meta().get();
    for _ in 1..LOOKS_MAX {
        if report.damage.is_empty() || volume.access != Access::ReadOnly {
            break;
        }
        let now = Meta::open(&volume.disk, &volume.dir, false)?.get();
        if now == seen {
            break;
        }
        // Somebody else is at work here: damage is what stays damaged.
        seen = now;
        let again = volume.reopen_for_inspection()?;
        let found = Look::at(&again, progress)?.damage;
        report.damage.retain(|damage| found.contains(damage));
    }
    Ok(report)
}

/// One pass over everything.
struct Look<'a> {
    volume: &'a Volume,
    report: VerifyReport,
    log_bytes: u64,
    done: u64,
}

impl Look<'_> {
    fn at(volume: &Volume, progress: Progress<'_>) -> Result<VerifyReport, Error> {
        let mut look = Look {
            volume,
            report: VerifyReport {
                damage: Vec::new(),
                records: 0,
                blocks: 0,
            },
            log_bytes: volume.log.segments().iter().map(|info| info.bytes).sum(),
            done: 0,
        };
        look.log(progress)?;
        look.meta();
        look.image(progress)?;
        look.chain(volume.log.frontiers());
        Ok(look.report)
    }

    fn note(&mut self, found: DamageFound) {
        if !self.report.damage.contains(&found) {
            self.report.damage.push(found);
        }
    }

    /// Every frame of every retained segment, then what only the whole log can show.
    fn log(&mut self, progress: Progress<'_>) -> Result<(), Error> {
        let total = self.log_bytes + self.volume.size();
        for info in self.volume.log.segments() {
            if info.state == SegmentState::Free {
                continue;
            }
            self.segment(&info);
            self.done += info.bytes;
            progress(self.done, total);
        }
        if let ScanEnd::Damaged(report) = &self.volume.replay.end {
            for loss in &report.places {
                let blocks = loss.blocks.as_ref().and_then(|blocks| blocks.first());
                self.note(DamageFound {
                    file: loss.at.path.clone(),
                    offset: loss.at.offset,
                    lsn: loss.at.lsn.or(Some(loss.lsns.after.next())),
                    lsns: None,
                    blocks: blocks.map(|(lba, count)| (lba.0, u64::from(*count))),
                    what: loss.at.what.to_string(),
                });
            }
        }
        let frontiers = self.volume.log.frontiers();
        let after = self.volume.log.first_retained().before();
        let gap = self.volume.log.prove(LsnRange::new(after, frontiers.head));
        if let (Err(gap), true) = (gap, self.report.damage.is_empty()) {
            self.note(DamageFound {
                file: self.volume.dir.join("wal"),
                offset: 0,
                lsn: match gap {
                    Gap::Hole { lsn } | Gap::Corrupt { lsn } => Some(lsn),
                    Gap::Reclaimed { .. } | Gap::BeyondHead { .. } => None,
                },
                lsns: None,
                blocks: None,
                what: format!("the log cannot be proven: {gap:?}"),
            });
        }
        Ok(())
    }

    fn segment(&mut self, info: &SegmentInfo) {
        let path = self.volume.dir.join("wal").join(&info.name);
        let mut damage: Vec<DamageFound> = Vec::new();
        let (mut records, mut ours) = (0, true);
        let (mut end, mut last) = (SEGMENT_HEADER_BYTES, None);
        let result = inspect_segment(&self.volume.disk, &path, &mut |found| match found {
            // Reused by its live owner since we looked.
            Inspected::Segment { generation, .. } => ours = generation == info.generation,
            Inspected::Damage(corrupt) => damage.push(found_in(corrupt)),
            Inspected::Record { header, sum_ok, .. } => {
                records += 1;
                last = Some(header.lsn);
                let hit = damage
                    .last_mut()
                    .filter(|last| last.lsn == Some(header.lsn));
                if let (Some(hit), false) = (hit, sum_ok) {
                    hit.blocks = Some((header.lba.0, header.blocks.into()));
                }
            }
            Inspected::Frame { offset, bytes, .. } => end = offset + bytes,
        });
        let looked_through = result.is_ok();
        match result {
            Err(seawall_wal::Error::Corrupt(corrupt)) => damage.push(found_in(&corrupt)),
            Err(error) => damage.push(DamageFound {
                file: path,
                offset: 0,
                lsn: info.lsns.map(|(first, _)| first),
                lsns: None,
                blocks: None,
                what: error.to_string(),
            }),
            Ok(()) => {}
        }
        if ours {
            self.report.records += records;
            // What lies behind the last frame is a torn tail or a live writer's, not damage (L2).
            damage.retain(|found| found.offset < info.bytes);
            if looked_through && end < info.bytes && damage.iter().all(|found| found.offset < end) {
                damage.push(self.cut_short(info, end, last));
            }
            damage.into_iter().for_each(|found| self.note(found));
        }
    }

    /// The sealed index knows of frames behind the last one that is there (D15).
    fn cut_short(&self, info: &SegmentInfo, end: u64, last: Option<Lsn>) -> DamageFound {
        let first_missing = match (last, info.lsns) {
            (None, lsns) => lsns.map(|(first, _)| first),
            (Some(last), Some((_, due))) if last < due => Some(last.next()),
            // Only frames without records are gone.
            (Some(_), _) => None,
        };
        DamageFound {
            file: self.volume.dir.join("wal").join(&info.name),
            offset: end,
            lsn: first_missing,
            lsns: None,
            blocks: None,
            what: format!("frames end at {end} of {} bytes", info.bytes),
        }
    }

    fn meta(&mut self) {
        for error in self.volume.meta().verify() {
            if let seawall_wal::Error::Corrupt(corrupt) = &error {
                self.note(found_in(corrupt));
            }
        }
    }

    /// Every block against its sum, and all sums against the digest in meta.
    fn image(&mut self, progress: Progress<'_>) -> Result<(), Error> {
        let volume = self.volume;
        // No checkpoint of ours writes meanwhile.
        let _one = lock(&volume.capture);
        let facts = volume.facts();
        if facts.incomplete.is_some() {
            let what = "the base is incomplete";
            self.note(self.in_image(None, what.into()));
            return Ok(());
        }
        if let Some(file) = volume.image.missized()? {
            let what = "the file does not have the size of the volume; rebuild this copy".into();
            self.note(DamageFound {
                file: file.into(),
                ..self.in_image(None, what)
            });
        }
        let excused = excused(volume, &facts);
        let expected = facts.intent.map_or(facts.digest, |intent| intent.rest);
        let mut digest = Digest::ZERO;
        let mut scrub = Scrub::of(&volume.image);
        while let Some(found) = scrub.step()? {
            self.run(&found, &excused);
            for (lba, sum) in &found.sums {
                if excused.piece(*lba, lba + 1).1.is_none() {
                    digest = digest.with_block(*lba, *sum);
                }
            }
            let done = scrub.position() << volume.geometry.block_size.shift();
            progress(self.done + done, self.log_bytes + volume.size());
        }
        // A damaged block says so itself; a digest that differs without one points at the sums.
        let bad = self
            .report
            .damage
            .iter()
            .any(|found| found.file == volume.image.path());
        if digest != expected && !bad {
            let sums = volume.image.sums().path().into();
            let what = format!("the sums give digest {digest} where meta records {expected}");
            self.note(DamageFound {
                file: sums,
                ..self.in_image(None, what)
            });
        }
        Ok(())
    }

    fn run(&mut self, found: &Scrubbed, excused: &Index) {
        self.report.blocks += found.range.end - found.range.start;
        // D24: the checkpoint that is under way writes both again.
        let is_due = |lba: &u64| excused.piece(*lba, lba + 1).1.is_some();
        for rot in &found.rotten {
            if rot.suspects.is_empty() || !rot.suspects.iter().all(is_due) {
                self.note(self.in_sums(rot));
            }
        }
        let bad = found.bad.iter().copied().filter(|lba| !is_due(lba));
        let bad: Vec<u64> = bad.collect();
        if bad.is_empty() {
            return;
        }
        let versions = Versions::find(&self.volume.log, self.volume.facts().checkpoint, &bad);
        for lba in bad {
            let lsns = versions.lsns(lba);
            let record = versions.found.piece(lba, lba + 1).1;
            let what = match record {
                Some(_) => "the block does not match its sum; the log holds it",
                None => "the block does not match its sum; the log does not hold it",
            };
            self.note(DamageFound {
                lsn: record.map(|record| record.lsn),
                lsns: Some(lsns),
                ..self.in_image(Some(lba), what.into())
            });
        }
    }

    fn in_image(&self, lba: Option<u64>, what: String) -> DamageFound {
        DamageFound {
            file: self.volume.image.path().into(),
            offset: lba.unwrap_or(0) << self.volume.geometry.block_size.shift(),
            lsn: None,
            lsns: None,
            blocks: lba.map(|lba| (lba, 1)),
            what,
        }
    }

    fn in_sums(&self, rot: &Rot) -> DamageFound {
        let sums = self.volume.image.sums();
        let count = SECTOR_SUMS.min(self.volume.geometry.blocks - rot.first);
        let what = match rot.suspects.is_empty() {
            true => "the sums of these blocks fail their own sum; the blocks are whole",
            false => "the sums of these blocks fail their own sum",
        };
        DamageFound {
            file: sums.path().into(),
            offset: sum_at(rot.lba),
            blocks: Some((rot.first, count)),
            ..self.in_image(None, what.into())
        }
    }

    fn chain(&mut self, found: Frontiers) {
        let holds = found.tail <= found.checkpoint
            && found.checkpoint <= found.committed
            && found.committed <= found.durable
            && found.durable <= found.head;
        if !holds {
            self.note(DamageFound {
                file: self.volume.dir.join("meta"),
                offset: 0,
                lsn: None,
                lsns: None,
                blocks: None,
                what: format!("the chain of frontiers is broken: {found:?}"),
            });
        }
    }
}

fn found_in(corrupt: &Corrupt) -> DamageFound {
    DamageFound {
        file: corrupt.path.clone(),
        offset: corrupt.offset,
        lsn: corrupt.lsn,
        lsns: None,
        blocks: None,
        what: corrupt.what.to_string(),
    }
}

/// Blocks whose newest record lies in `(checkpoint, intent]`.
fn excused(volume: &Volume, facts: &BaseFacts) -> Index {
    let Some(intent) = facts.intent else {
        return Index::default();
    };
    let range = volume.log.applied().min(intent.target);
    touched(&volume.log, facts.checkpoint, range).unwrap_or_default()
}
