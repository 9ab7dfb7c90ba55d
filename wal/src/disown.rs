//! Records that the lineage in meta contradicts: what a truncation dropped whose frame is lost (D2,
//! D4).
//!
//! Meta names a new entry before the first record under it, and entries that a truncation dropped
//! are replaced there before anything is written in their place. So every record of the log carries
//! the epoch and incarnation that the lineage gives for its LSN, whatever the crash; one that does
//! not was dropped, and it is no record. Under an entry that both histories share, one LSN has one
//! content, and nothing is left to tell apart.
//!
//! Along a chain of frames entries only rise. Those whole records of a stretch under one entry that
//! are nearest to its ends answer for what lies between, and the check reads a handful of records
//! however long the log is.

use crate::entries::Source;
use crate::frame::FrameKind;
use crate::index::Entry;
use crate::record::RecordHeader;
use crate::segment::FoundFrame;
use crate::walk::{Place, Segment, Walk};
use crate::{Epoch, Incarnation, Lsn, LsnRange};

type Writer = (Epoch, Incarnation);

impl Place<'_> {
    /// Drops the records of the chain that the lineage contradicts, and the islands that hold any.
    pub(crate) fn disown(&self, walk: &mut Walk) {
        walk.islands
            .sort_by_key(|island| island.frame.header.sequence);
        if let Some(first) = self.first_disowned(walk) {
            walk.drop_above(first.before());
            walk.head = first.before();
            walk.disowned = Some(first.before());
            walk.facts.named_missing = true;
        }
        let (kept, disowned): (Vec<_>, Vec<_>) = std::mem::take(&mut walk.islands)
            .into_iter()
            .partition(|island| self.disowned_of(&island.frame).is_none());
        walk.islands = kept;
        let lsns = disowned.iter().filter_map(|i| self.disowned_of(&i.frame));
        let Some(first) = lsns.min() else {
            return;
        };
        walk.facts.named_missing = true;
        // Their frontiers are of before the truncation, which kept at most what comes before.
        let proven = disowned.iter().map(|i| i.frame.header.frontier).max();
        let proven = proven.unwrap_or_default().min(first.before());
        walk.frontier = walk.frontier.max(proven);
    }

    /// First record of a frame that the lineage contradicts.
    fn disowned_of(&self, frame: &FoundFrame) -> Option<Lsn> {
        let records = (frame.header.kind == FrameKind::Records).then_some(&frame.records)?;
        let mut headers = records.iter().map(|record| &record.header);
        let odd = headers.find(|header| !self.owns(header.lsn, writer_of(header)))?;
        Some(odd.lsn)
    }

    /// Whether `writer` is who the lineage says wrote `lsn`; what is older than the table passes.
    fn owns(&self, lsn: Lsn, writer: Writer) -> bool {
        let entry = self.meta.lineage.entry_at(lsn);
        entry.is_none_or(|entry| (entry.epoch, entry.incarnation) == writer)
    }

    /// First LSN of the chain whose record the lineage contradicts.
    fn first_disowned(&self, walk: &Walk) -> Option<Lsn> {
        let first = walk
            .segments
            .iter()
            .find_map(|segment| segment.entries.first())?;
        let entries = self.meta.lineage.entries();
        for (index, entry) in entries.iter().enumerate() {
            let next = entries.get(index + 1).map(|next| next.first.before());
            let from = entry.first.max(first);
            let to = next.unwrap_or(walk.head).min(walk.head);
            if from > to {
                continue;
            }
            let inside = LsnRange::new(from.before(), to);
            // Before a record of an earlier entry there is none of this one, damaged or not.
            if let Some((_, false)) = self.first_whole(walk, inside) {
                return Some(from);
            }
            if let Some((odd, false)) = self.last_whole(walk, inside) {
                return Some(self.turn(walk, from, odd));
            }
        }
        None
    }

    /// First whole record above `agreeing`, which agrees or is damaged, up to `odd` that does not
    /// agree; entries rise, so there is one turn. What is damaged before it counts as damaged.
    fn turn(&self, walk: &Walk, mut agreeing: Lsn, mut odd: Lsn) -> Lsn {
        while agreeing.next() < odd {
            let middle = Lsn::new(agreeing.get() + (odd.get() - agreeing.get()) / 2);
            match self.last_whole(walk, LsnRange::new(agreeing, middle)) {
                Some((lsn, false)) => odd = lsn,
                Some((_, true)) | None => agreeing = middle,
            }
        }
        odd
    }

    /// The first record of a range that is whole, and whether it agrees: one that is damaged itself
    /// contradicts nobody, and vouches for nobody.
    fn first_whole(&self, walk: &Walk, range: LsnRange) -> Option<(Lsn, bool)> {
        lsns_of(range).find_map(|lsn| self.whole(walk, lsn))
    }

    /// As [`Place::first_whole`], from the end.
    fn last_whole(&self, walk: &Walk, range: LsnRange) -> Option<(Lsn, bool)> {
        lsns_of(range).rev().find_map(|lsn| self.whole(walk, lsn))
    }

    fn whole(&self, walk: &Walk, lsn: Lsn) -> Option<(Lsn, bool)> {
        let writer = writer_at(&walk.segments, lsn)?;
        Some((lsn, self.owns(lsn, writer)))
    }
}

fn lsns_of(range: LsnRange) -> impl DoubleEndedIterator<Item = Lsn> {
    (range.after.get()..range.through.get()).map(|lsn| Lsn::new(lsn).next())
}

fn writer_of(header: &RecordHeader) -> Writer {
    (header.epoch, header.incarnation)
}

/// Who wrote a record, read from disk and verified.
fn writer_at(segments: &[Segment], lsn: Lsn) -> Option<Writer> {
    let index = segments.partition_point(|segment| segment.through < lsn);
    let segment = segments.get(index)?;
    let part = segment.entries.part(LsnRange::new(lsn.before(), lsn))?;
    let entry = match segment.entries.source(part) {
        Source::Memory(entries) => entries.first().copied(),
        Source::Sealed(index) => index.entries(part)?.first().copied(),
    };
    read_writer(segment, entry?)
}

fn read_writer(segment: &Segment, entry: Entry) -> Option<Writer> {
    let file = segment.file.reader().ok()?;
    let header = file.read_exact(entry.header_at.into(), RecordHeader::BYTES);
    let header = RecordHeader::decode(&header.ok()?).ok()?;
    let payload = match header.payload_bytes() {
        0 => Vec::new(),
        bytes => file
            .read_exact(entry.payload_at.into(), bytes)
            .ok()?
            .to_vec(),
    };
    let whole = header.lsn == entry.lsn && header.verify(&payload).is_ok();
    whole.then(|| writer_of(&header))
}
