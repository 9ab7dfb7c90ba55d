//! Reads a log from disk, frame by frame or by sealed index, and collects the facts that replay
//! decides on.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::disk::Disk;
use crate::entries::Entries;
use crate::frame::{FRAME_ALIGNMENT, FrameHeader, FrameKind};
use crate::handles::Handles;
use crate::index::{self, Scanned, SealedIndex, Summary};
use crate::replay::Facts;
use crate::report::Loss;
use crate::segment::{FIRST_FRAME_AT, FoundFrame, Scanner, SegmentFile, SegmentHeader};
use crate::slots::Slots;
use crate::{Corrupt, Damage, Error, Lsn, LsnRange, MetaContents};

/// One segment of the log, in memory.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) file: Arc<SegmentFile>,
    /// Retained records.
    pub(crate) entries: Entries,
    /// Head behind its last frame, truncations of later segments applied.
    pub(crate) through: Lsn,
    /// Offset behind its last frame.
    pub(crate) end: u64,
    /// Ends with a seal frame.
    pub(crate) sealed: bool,
    /// Its sealed index is on disk.
    pub(crate) indexed: bool,
}

/// Where the chain of frames goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Sequence of the next frame.
    pub(crate) sequence: u64,
    /// Digest of the last frame.
    pub(crate) previous: u128,
}

impl Link {
    /// Before the first frame of a log.
    pub(crate) const FIRST: Link = Link {
        sequence: 1,
        previous: 0,
    };

    /// Behind a frame.
    pub(crate) fn behind(frame: &FoundFrame) -> Link {
        Link {
            sequence: frame.header.sequence + 1,
            previous: frame.digest,
        }
    }

    /// Whether a frame is the one that comes here.
    pub(crate) fn leads_to(self, header: &FrameHeader) -> bool {
        header.sequence == self.sequence && header.previous == self.previous
    }
}

/// A record that is there and not whole.
#[derive(Clone, Debug)]
pub(crate) struct Bad {
    pub(crate) segment: usize,
    pub(crate) frame_at: u64,
    pub(crate) before: Link,
    pub(crate) head_before: Lsn,
    pub(crate) loss: Loss,
}

/// Everything a walk found.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) segments: Vec<Segment>,
    pub(crate) slots: Slots,
    pub(crate) link: Link,
    /// Head of the chain.
    pub(crate) head: Lsn,
    /// Highest recorded frontier, islands and meta included.
    pub(crate) frontier: Lsn,
    /// Highest recorded committed.
    pub(crate) committed: Lsn,
    /// What lies at the end of the chain, and where.
    pub(crate) stop: Corrupt,
    pub(crate) facts: Facts,
    pub(crate) scanned: u64,
    pub(crate) by_index: u64,
    pub(crate) records: u64,
    /// Bytes from the cut to the end of the last frame behind it, in the segment that is cut.
    pub(crate) bytes_cut: u64,
    /// Where the last frame behind the cut ends, in the segment that is cut.
    pub(crate) wipe_to: u64,
    /// Padding in the last segment that is not zero: a crash tore frames that hold nothing there,
    /// and are whole without it.
    pub(crate) soiled: Vec<Range<u64>>,
    pub(crate) bad: Vec<Bad>,
    pub(crate) islands: Vec<Island>,
    /// What lies between the tail and the first record on disk (D20).
    pub(crate) front: Option<Loss>,
    /// Records above this LSN were dropped because the lineage contradicts them.
    pub(crate) disowned: Option<Lsn>,
    /// The index of the segment that is missing where the chain ends.
    pub(crate) outlived: Option<SealedIndex>,
}

/// Sound frames behind a broken link: evidence, not a source of records (D13).
#[derive(Debug)]
pub(crate) struct Island {
    pub(crate) file: Arc<SegmentFile>,
    pub(crate) frame: FoundFrame,
    /// What lies between the frame before it, or where the look began, and itself.
    pub(crate) gap: Option<Corrupt>,
    /// Nothing in the gap looks like a frame of this life: what was there is absent.
    pub(crate) absent: bool,
}

impl Island {
    pub(crate) fn end(&self) -> u64 {
        self.frame.header.offset + self.frame.header.frame_bytes as u64
    }
}

/// What the walk needs to know of the volume.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) disk: &'a Arc<dyn Disk>,
    pub(crate) dir: &'a Path,
    pub(crate) handles: &'a Arc<Handles>,
    pub(crate) meta: &'a MetaContents,
    pub(crate) checkpoint: Lsn,
    pub(crate) writable: bool,
}

impl Place<'_> {
    fn identity(&self, generation: u64) -> SegmentHeader {
        SegmentHeader {
            volume: self.meta.volume,
            log: self.meta.log,
            generation,
            segment_bytes: self.meta.geometry.segment_bytes,
        }
    }

    /// Walks the log from its oldest retained segment to its end.
    pub(crate) fn walk(&self) -> Result<Walk, Error> {
        let (mut files, slots) = self.collect()?;
        let mut walk = Walk {
            segments: Vec::new(),
            slots,
            link: Link::FIRST,
            // An oldest segment without a frame goes on behind what was reclaimed.
            head: self.floor(),
            frontier: Lsn::ZERO,
            committed: self.meta.committed,
            stop: Corrupt {
                path: self.dir.into(),
                offset: 0,
                lsn: None,
                what: Damage::Missing,
            },
            facts: Facts {
                named_missing: false,
                frontier_above: false,
                unreadable: false,
                begun: false,
            },
            scanned: 0,
            by_index: 0,
            records: 0,
            bytes_cut: 0,
            wipe_to: 0,
            soiled: Vec::new(),
            bad: Vec::new(),
            islands: Vec::new(),
            front: None,
            disowned: None,
            outlived: None,
        };
        let mut next = self.meta.first_generation;
        let mut last_generation = 0;
        while let Some(generation) = next {
            let Some(file) = files.remove(&generation) else {
                walk.lost_segment(self.dir, generation);
                walk.outlived = self.index_of_lost(&walk, generation)?;
                break;
            };
            last_generation = generation;
            next = self.take_segment(&mut walk, file)?;
        }
        // Files of lives before the oldest retained one were reclaimed, and what lies in them says
        // nothing. Later ones may hold frames whose link is lost.
        for (generation, file) in files {
            let later = self
                .meta
                .first_generation
                .is_some_and(|first| generation > first);
            match later {
                true => walk.slots.later.push(file.slot),
                false => walk.slots.spare.push(file.slot),
            }
            if later && generation > last_generation {
                self.look_for_islands(&mut walk, &file, FIRST_FRAME_AT)?;
            }
        }
        self.disown(&mut walk);
        self.miss_the_front(&mut walk);
        self.conclude(&mut walk);
        Ok(walk)
    }

    /// Last LSN that nobody expects on disk.
    pub(crate) fn floor(&self) -> Lsn {
        self.meta.tail.max(self.meta.origin)
    }

    /// Adds one segment to the chain; gives the generation that its seal names.
    fn take_segment(&self, walk: &mut Walk, file: Arc<SegmentFile>) -> Result<Option<u64>, Error> {
        let first = walk.segments.is_empty();
        walk.soiled.clear();
        if let Some((summary, index)) = index::open(&file, self.meta.log)
            && (first || summary.first_sequence == walk.link.sequence)
            && (first || summary.first_previous == walk.link.previous)
            && (first || index.lsns().after == summary.left_of(walk.head))
        {
            walk.by_index += 1;
            let next = summary.next_generation;
            walk.push(file, summary, Entries::from(index));
            return Ok(next);
        }
        walk.scanned += 1;
        let identity = self.identity(file.generation);
        let handle = self.believable(&file)?;
        let mut scanner = Scanner::new(&handle, identity)?;
        let mut scanned: Option<Scanned> = None;
        let mut at = FIRST_FRAME_AT;
        let (mut link, mut head) = (walk.link, walk.head);
        let mut bad = Vec::new();
        let what = loop {
            let frame = match scanner.frame_at(at) {
                Ok(frame) => frame,
                Err(what) => break what,
            };
            let fresh = first && scanned.is_none();
            if let Err(what) = follows(&frame.header, link, head, fresh) {
                break what;
            }
            if fresh {
                head = frame.header.after;
            }
            if frame.header.kind == FrameKind::Truncation {
                // What comes behind it may be damaged at an LSN that it dropped.
                bad.retain(|bad: &Bad| bad.loss.lsns.through <= frame.header.after);
            }
            for record in frame.records.iter().filter(|record| record.state.is_err()) {
                bad.push(Bad {
                    segment: walk.segments.len(),
                    frame_at: at,
                    before: link,
                    head_before: head,
                    loss: loss_of_record(&scanner, record),
                });
            }
            link = Link::behind(&frame);
            head = frame.header.last();
            walk.soiled.extend_from_slice(&frame.soiled);
            scanned
                .get_or_insert_with(|| Scanned::begin(&frame))
                .push(&frame);
            at += frame.header.frame_bytes as u64;
            if frame.header.kind == FrameKind::Seal {
                break Damage::Missing;
            }
        };
        let next = scanned.as_ref().and_then(|all| all.summary.next_generation);
        match scanned {
            Some(Scanned { summary, entries }) => {
                walk.push(Arc::clone(&file), summary, Entries::from(entries));
            }
            None => walk.push_empty(Arc::clone(&file)),
        }
        walk.bad.append(&mut bad);
        if next.is_none() {
            walk.stop = Corrupt {
                path: scanner.path(),
                offset: at,
                lsn: None,
                what,
            };
            walk.facts.begun = scanner.looks_begun(at);
            self.look_for_islands(walk, &file, at)?;
        }
        Ok(next)
    }

    /// Looks for sound frames from `at` to the end of the file, at every 4 KiB (D13).
    fn look_for_islands(
        &self,
        walk: &mut Walk,
        file: &Arc<SegmentFile>,
        at: u64,
    ) -> Result<(), Error> {
        let handle = self.believable(file)?;
        let mut scanner = Scanner::new(&handle, self.identity(file.generation))?;
        let mut at = at;
        let (mut gap, mut absent) = (None, true);
        while at + FRAME_ALIGNMENT as u64 <= scanner.end() {
            match scanner.frame_at(at) {
                // Frames from before the end of the chain say nothing new (D13).
                Ok(frame) if frame.header.sequence < walk.link.sequence => {
                    at += frame.header.frame_bytes as u64;
                }
                Ok(frame) => {
                    at += frame.header.frame_bytes as u64;
                    walk.facts.begun = true;
                    walk.islands.push(Island {
                        file: Arc::clone(file),
                        frame,
                        gap: gap.take(),
                        absent: std::mem::replace(&mut absent, true),
                    });
                }
                Err(what) => {
                    absent &= !scanner.looks_begun(at);
                    gap.get_or_insert_with(|| Corrupt {
                        path: file.path().into(),
                        offset: at,
                        lsn: None,
                        what,
                    });
                    at += FRAME_ALIGNMENT as u64;
                }
            }
        }
        Ok(())
    }

    /// Adds up the evidence.
    fn conclude(&self, walk: &mut Walk) {
        // What lies at or below the tail is in the base: its damage takes nothing from anybody.
        walk.bad
            .retain(|bad| bad.loss.lsns.through > self.meta.tail);
        for island in &walk.islands {
            let header = &island.frame.header;
            walk.frontier = match header.kind {
                // What a truncation kept was durable before it was written.
                FrameKind::Truncation => walk.frontier.max(header.frontier).min(header.after),
                FrameKind::Mark => walk.frontier.max(header.after),
                FrameKind::Records | FrameKind::Seal => walk.frontier.max(header.frontier),
            };
        }
        // A truncation durably lowered what was dropped; what meta says is never above the rest.
        let meta = self.meta;
        let clean = meta.clean_close.map_or(Lsn::ZERO, |clean| clean.head);
        for recorded in [
            meta.committed,
            meta.tail,
            self.checkpoint,
            meta.origin,
            clean,
        ] {
            walk.frontier = walk.frontier.max(recorded);
        }
        // A cut takes whole frames, so a frontier inside a frame covers all of it.
        let whole = walk.bad.first().map_or(walk.head, |bad| bad.head_before);
        walk.facts.frontier_above = walk.frontier > whole;
        walk.facts.begun |= !walk.bad.is_empty();
        walk.facts.unreadable = meta.clean_close.is_none() && walk.met_unreadable();
        // Only a segment that was durable as a whole is followed by frames in a later one, and only
        // a durable truncation by another frame below the head. An LSN cannot tell: a truncation
        // lowers them.
        let chain_end = walk.segments.last().map(|last| last.file.generation);
        walk.facts.named_missing |= walk.islands.iter().any(|island| {
            let header = &island.frame.header;
            let goes_on = header.kind != FrameKind::Truncation;
            Some(header.generation) > chain_end || (goes_on && header.after < walk.head)
        });
        walk.facts.named_missing |= meta
            .clean_close
            .is_some_and(|clean| walk.link.sequence <= clean.sequence);
    }
}

/// Whether a frame follows the chain (L1, L6).
fn follows(header: &FrameHeader, link: Link, head: Lsn, fresh: bool) -> Result<(), Damage> {
    if fresh {
        return Ok(());
    }
    if !link.leads_to(header) {
        return Err(Damage::Link {
            expected: link.sequence,
            found: header.sequence,
        });
    }
    let follows = match header.kind {
        FrameKind::Truncation => header.after <= head,
        FrameKind::Records | FrameKind::Mark | FrameKind::Seal => header.after == head,
    };
    match follows {
        true => Ok(()),
        false => Err(Damage::LsnGap {
            expected: head.next(),
            found: header.after.next(),
        }),
    }
}

fn loss_of_record(scanner: &Scanner<'_>, record: &crate::segment::FoundRecord) -> Loss {
    let header = &record.header;
    Loss {
        at: Corrupt {
            path: scanner.path(),
            offset: record.payload_at,
            lsn: Some(header.lsn),
            what: record.state.err().unwrap_or(Damage::Missing),
        },
        lsns: LsnRange::new(header.lsn.before(), header.lsn),
        blocks: Some(vec![(header.lba, header.blocks)]),
        hole: false,
    }
}

impl Walk {
    fn push(&mut self, file: Arc<SegmentFile>, summary: Summary, entries: Entries) {
        self.link = Link {
            sequence: summary.last_sequence + 1,
            previous: summary.last_digest,
        };
        self.head = summary.through;
        if let Some(after) = summary.truncated_after {
            self.drop_above(after);
        }
        self.frontier = self.frontier.max(summary.frontier);
        self.committed = self.committed.max(summary.committed);
        self.records += entries.count();
        self.segments.push(Segment {
            file,
            through: summary.through,
            end: summary.end,
            sealed: summary.next_generation.is_some(),
            indexed: entries.is_settled(),
            entries,
        });
    }

    fn push_empty(&mut self, file: Arc<SegmentFile>) {
        self.segments.push(Segment {
            file,
            entries: Entries::default(),
            through: self.head,
            end: FIRST_FRAME_AT,
            sealed: false,
            indexed: false,
        });
    }

    /// Applies a truncation to everything that came before it.
    pub(crate) fn drop_above(&mut self, after: Lsn) {
        drop_above(&mut self.segments, after);
        self.frontier = self.frontier.min(after);
        self.bad.retain(|bad| bad.loss.lsns.through <= after);
    }

    fn lost_segment(&mut self, dir: &Path, generation: u64) {
        self.stop = Corrupt {
            path: dir.into(),
            offset: 0,
            lsn: Some(self.head.next()),
            what: Damage::Field {
                field: "generation",
                found: generation,
            },
        };
        self.facts.named_missing = true;
    }

    /// Cuts the torn tail in memory: the chain ends before the first frame that is not whole.
    pub(crate) fn cut(&mut self) {
        let cut = self.bad.first().map(|bad| bad.segment);
        let cut = cut.or(self.segments.len().checked_sub(1));
        if let Some(segment) = cut.map(|cut| &self.segments[cut]) {
            let here = |island: &&Island| Arc::ptr_eq(&island.file, &segment.file);
            let ends = self.islands.iter().filter(here).map(Island::end);
            self.wipe_to = ends.fold(segment.end, u64::max);
        }
        self.cut_at_bad();
        if let Some(segment) = self.segments.last() {
            // Bytes that are no frame, but this life's, count as the page they begin in.
            let cut = self.wipe_to.saturating_sub(segment.end);
            self.bytes_cut = cut.max(FRAME_ALIGNMENT as u64);
        }
    }

    fn cut_at_bad(&mut self) {
        let Some(bad) = self.bad.first().cloned() else {
            return;
        };
        self.bad.clear();
        for segment in self.segments.drain(bad.segment + 1..) {
            self.slots.later.push(segment.file.slot);
        }
        drop_above(&mut self.segments, bad.head_before);
        let segment = &mut self.segments[bad.segment];
        segment.end = bad.frame_at;
        segment.sealed = false;
        segment.indexed = false;
        self.link = bad.before;
        self.head = bad.head_before;
        self.stop = Corrupt {
            offset: bad.frame_at,
            ..bad.loss.at
        };
    }
}

/// Drops every record above `after` from `segments`.
pub(crate) fn drop_above(segments: &mut [Segment], after: Lsn) {
    for segment in segments.iter_mut().rev() {
        if segment.through <= after {
            break;
        }
        segment.entries.drop_above(after);
        segment.through = segment.through.min(after);
    }
}
