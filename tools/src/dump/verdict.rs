//! Damage or torn tail: judges what `inspect_segment` came across in a log, in log order.
//!
//! Bytes that are no frame prove nothing by themselves. A damaged place is damage when some sound
//! frame, or meta, records a frontier at or above the first LSN that can be missing there, or when
//! a clean close named a later frame (D13). Otherwise it is what a crash leaves (L2). It is excused
//! when the log went on behind it with the very frame that was due: then it was cut.

use std::path::Path;

use seawall_wal::{Corrupt, Damage, Lsn, MetaContents};

/// What is known beside the segment files.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// Records at or below are reclaimed; nothing is missed there.
    pub(crate) tail: Lsn,
    /// Highest frontier that meta records.
    pub(crate) frontier: Lsn,
    /// Sequence of the mark that a clean close left.
    pub(crate) mark: Option<u64>,
    /// Whether the whole log is looked at, from the tail on.
    pub(crate) whole: bool,
}

impl Known {
    pub(crate) fn from_meta(meta: &MetaContents) -> Known {
        let closed = meta.clean_close.map_or(Lsn::ZERO, |close| close.head);
        Known {
            tail: meta.tail.max(meta.origin),
            frontier: meta.committed.max(closed),
            mark: meta.clean_close.map(|close| close.sequence),
            whole: true,
        }
    }
}

/// A place that may be damage, until the end of the log is known.
#[derive(Clone, Debug)]
struct Suspect {
    /// Frame that was due there, where known.
    sequence: Option<u64>,
    /// First LSN that can be missing there, where known.
    first: Option<Lsn>,
    at: Corrupt,
}

/// The judge. Feed it everything in log order, then ask for the verdict.
#[derive(Debug)]
pub(crate) struct Judge {
    known: Known,
    next_sequence: Option<u64>,
    next_lsn: Option<Lsn>,
    frontier: Lsn,
    suspects: Vec<Suspect>,
    headless: Vec<Corrupt>,
    last: Option<(std::path::PathBuf, u64)>,
}

impl Judge {
    pub(crate) fn new(known: Known) -> Judge {
        Judge {
            known,
            next_sequence: None,
            next_lsn: known.whole.then(|| known.tail.next()),
            frontier: known.frontier,
            suspects: Vec::new(),
            headless: Vec::new(),
            last: None,
        }
    }

    /// A frame whose own sum holds. Its records follow.
    pub(crate) fn frame(&mut self, path: &Path, offset: u64, sequence: u64, frontier: Lsn) {
        self.frontier = self.frontier.max(frontier);
        self.suspects
            .retain(|suspect| suspect.sequence.is_none_or(|due| due < sequence));
        if let Some(due) = self.next_sequence
            && due < sequence
            && !self.suspected(due)
        {
            let what = Damage::Link {
                expected: due,
                found: sequence,
            };
            self.suspect(path, offset, self.next_sequence, None, what);
        }
        self.next_sequence = Some(sequence + 1);
        self.last = Some((path.into(), offset));
    }

    fn suspected(&self, due: u64) -> bool {
        self.suspects
            .iter()
            .any(|suspect| suspect.sequence == Some(due))
    }

    /// A truncation: what lay above `after` was dropped on purpose (D4).
    pub(crate) fn truncated(&mut self, after: Lsn) {
        self.next_lsn = Some(after.next());
        self.frontier = self.frontier.min(after);
        self.suspects
            .retain(|suspect| suspect.first.is_none_or(|first| first <= after));
    }

    /// A record of the last frame.
    pub(crate) fn record(&mut self, path: &Path, offset: u64, lsn: Lsn) {
        // Retired segments lie in front of what was reclaimed: there nothing is due.
        let due = self.next_lsn.map(|next| next.max(self.known.tail.next()));
        for suspect in &mut self.suspects {
            // A header page goes with the record behind it; a place of unknown LSN in front of the
            // first frame can at most miss what precedes that record.
            let header = suspect.at.offset == 0;
            let first = if header { lsn } else { lsn.before() };
            suspect.first.get_or_insert(first);
        }
        if let Some(expected) = due
            && expected < lsn
            && self.suspects.iter().all(|suspect| suspect.first != due)
        {
            let what = Damage::LsnGap {
                expected,
                found: lsn,
            };
            // The gap lies before the frame of this record, so no later frame excuses it.
            let sequence = self.next_sequence.map(|next| next - 1);
            self.suspect(path, offset, sequence, Some(expected), what);
        }
        self.next_lsn = Some(lsn.next());
    }

    /// Bytes that are no frame, or a part of the last frame.
    pub(crate) fn damage(&mut self, at: &Corrupt) {
        let padding = matches!(
            at.what,
            Damage::Field {
                field: "padding",
                ..
            }
        );
        let sequence = match (&at.what, at.lsn.is_some() || padding) {
            // A gap between frames is judged when the next frame comes.
            (Damage::Link { .. }, _) => return,
            (_, true) => self.next_sequence.map(|next| next - 1),
            (_, false) => self.next_sequence,
        };
        self.suspects.push(Suspect {
            sequence,
            first: at.lsn.or(self.next_lsn),
            at: at.clone(),
        });
    }

    /// The header page of a segment whose frames can be read all the same.
    pub(crate) fn header(&mut self, at: &Corrupt) {
        self.suspects.push(Suspect {
            sequence: None,
            first: None,
            at: at.clone(),
        });
    }

    /// A file whose header is damaged: its place in the log is unknown. It is damage when the log
    /// lacks something, and a spare segment otherwise.
    pub(crate) fn headless(&mut self, at: &Corrupt) {
        self.headless.push(at.clone());
    }

    fn suspect(
        &mut self,
        path: &Path,
        offset: u64,
        sequence: Option<u64>,
        lsn: Option<Lsn>,
        what: Damage,
    ) {
        let at = Corrupt {
            path: path.into(),
            offset,
            lsn,
            what,
        };
        self.suspects.push(Suspect {
            sequence,
            first: lsn.or(self.next_lsn),
            at,
        });
    }

    /// Damage, each with the first LSN it hit, and the torn places.
    pub(crate) fn verdict(mut self) -> (Vec<Corrupt>, Vec<Corrupt>) {
        self.miss_the_end();
        let Judge {
            known,
            frontier,
            suspects,
            headless,
            ..
        } = self;
        let (mut damage, mut torn) = (Vec::new(), Vec::new());
        for suspect in suspects {
            let first = suspect.first.unwrap_or(known.tail.next());
            let marked = match (known.mark, suspect.sequence) {
                (Some(mark), Some(due)) => due <= mark,
                (mark, None) => mark.is_some(),
                (None, Some(_)) => false,
            };
            let at = Corrupt {
                lsn: suspect.at.lsn.or(Some(first)),
                ..suspect.at
            };
            match (first > known.tail, first <= frontier || marked) {
                (false, _) => {}
                (true, true) => damage.push(at),
                (true, false) => torn.push(at),
            }
        }
        if !damage.is_empty() || !known.whole {
            damage.splice(0..0, headless);
        }
        (damage, torn)
    }

    /// The log ends before a frontier, or before the mark of a clean close.
    fn miss_the_end(&mut self) {
        let lacks_lsn = self.next_lsn.is_some_and(|next| next <= self.frontier);
        let lacks_mark = match (self.known.mark, self.next_sequence) {
            (Some(mark), Some(next)) => next <= mark,
            _ => false,
        };
        if self.known.whole
            && (lacks_lsn || lacks_mark)
            && self.suspects.is_empty()
            && let Some((path, offset)) = self.last.take()
        {
            let first = self.next_lsn;
            self.suspect(&path, offset, self.next_sequence, first, Damage::Missing);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "wal/00000001.seg";

    fn lsn(number: u64) -> Lsn {
        Lsn::new(number)
    }

    /// One frame with one record: LSN and sequence are equal.
    fn frame(judge: &mut Judge, number: u64, frontier: u64) {
        let path = Path::new(PATH);
        judge.frame(path, number * 4096, number, lsn(frontier));
        judge.record(path, number * 4096 + 64, lsn(number));
    }

    fn broken(judge: &mut Judge, number: u64) {
        judge.damage(&Corrupt {
            path: PATH.into(),
            offset: number * 4096,
            lsn: None,
            what: Damage::Missing,
        });
    }

    fn known(frontier: u64, mark: Option<u64>) -> Known {
        Known {
            tail: Lsn::ZERO,
            frontier: lsn(frontier),
            mark,
            whole: true,
        }
    }

    #[test]
    fn a_whole_log_has_neither_damage_nor_a_torn_tail() {
        let mut judge = Judge::new(known(3, Some(3)));
        (1..=3).for_each(|number| frame(&mut judge, number, number - 1));
        assert_eq!(judge.verdict(), (vec![], vec![]));
    }

    #[test]
    fn damage_below_a_later_frontier_names_its_lsn() {
        let mut judge = Judge::new(known(0, None));
        frame(&mut judge, 1, 0);
        broken(&mut judge, 2);
        frame(&mut judge, 3, 2);
        let (damage, torn) = judge.verdict();
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].lsn, Some(lsn(2)));
        assert_eq!(damage[0].offset, 8192);
        assert_eq!(torn, vec![]);
    }

    #[test]
    fn damage_above_every_frontier_is_a_torn_tail() {
        let mut judge = Judge::new(known(0, None));
        frame(&mut judge, 1, 0);
        broken(&mut judge, 2);
        frame(&mut judge, 3, 1);
        let (damage, torn) = judge.verdict();
        assert_eq!(damage, vec![]);
        assert_eq!(torn.len(), 1);
    }

    #[test]
    fn a_cut_tail_behind_which_the_log_went_on_is_excused() {
        let mut judge = Judge::new(known(0, None));
        frame(&mut judge, 1, 0);
        broken(&mut judge, 2);
        frame(&mut judge, 2, 1);
        frame(&mut judge, 3, 2);
        assert_eq!(judge.verdict(), (vec![], vec![]));
    }

    #[test]
    fn after_a_clean_close_a_broken_mark_is_damage() {
        let mut judge = Judge::new(known(1, Some(2)));
        frame(&mut judge, 1, 0);
        broken(&mut judge, 2);
        let (damage, _) = judge.verdict();
        assert_eq!(damage.len(), 1);
    }

    #[test]
    fn a_missing_segment_is_damage() {
        let mut judge = Judge::new(known(0, None));
        frame(&mut judge, 1, 0);
        frame(&mut judge, 5, 4);
        let (damage, _) = judge.verdict();
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].lsn, Some(lsn(2)));
    }

    #[test]
    fn a_missing_first_segment_is_damage_whatever_follows() {
        let mut judge = Judge::new(known(5, Some(7)));
        (4..=7).for_each(|number| frame(&mut judge, number, number - 1));
        let (damage, _) = judge.verdict();
        assert_eq!((damage.len(), damage[0].lsn), (1, Some(lsn(1))));
    }

    #[test]
    fn what_is_missing_above_the_tail_is_damage_behind_a_retired_segment() {
        let tail = Known {
            tail: lsn(3),
            ..known(7, None)
        };
        let mut judge = Judge::new(tail);
        (1..=2).for_each(|number| frame(&mut judge, number, number - 1));
        (6..=7).for_each(|number| frame(&mut judge, number, number - 1));
        let (damage, _) = judge.verdict();
        assert_eq!(damage.first().and_then(|at| at.lsn), Some(lsn(4)));
        let mut whole = Judge::new(tail);
        (1..=2).for_each(|number| frame(&mut whole, number, number - 1));
        (4..=7).for_each(|number| frame(&mut whole, number, number - 1));
        assert_eq!(whole.verdict(), (vec![], vec![]));
    }

    #[test]
    fn a_log_that_ends_below_committed_is_damage() {
        let mut judge = Judge::new(known(4, None));
        frame(&mut judge, 1, 0);
        let (damage, _) = judge.verdict();
        assert_eq!(damage.len(), 1);
        assert_eq!(damage[0].lsn, Some(lsn(2)));
    }

    #[test]
    fn a_payload_that_fails_its_sum_below_a_frontier_is_damage() {
        let mut judge = Judge::new(known(0, None));
        judge.frame(Path::new(PATH), 4096, 1, Lsn::ZERO);
        judge.damage(&Corrupt {
            path: PATH.into(),
            offset: 4160,
            lsn: Some(lsn(1)),
            what: Damage::Unreadable,
        });
        judge.record(Path::new(PATH), 4160, lsn(1));
        frame(&mut judge, 2, 1);
        let (damage, _) = judge.verdict();
        assert_eq!(damage.len(), 1);
        assert_eq!((damage[0].lsn, damage[0].offset), (Some(lsn(1)), 4160));
    }

    #[test]
    fn a_damaged_header_page_before_good_frames_is_damage() {
        let mut judge = Judge::new(known(0, None));
        judge.header(&Corrupt {
            path: PATH.into(),
            offset: 0,
            lsn: None,
            what: Damage::BadMagic,
        });
        frame(&mut judge, 1, 0);
        frame(&mut judge, 2, 1);
        let (damage, _) = judge.verdict();
        assert_eq!((damage.len(), damage[0].lsn), (1, Some(lsn(1))));
    }

    #[test]
    fn a_file_without_a_header_is_damage_when_the_log_lacks_something() {
        let at = Corrupt {
            path: "wal/00000002.seg".into(),
            offset: 0,
            lsn: None,
            what: Damage::BadMagic,
        };
        let mut judge = Judge::new(known(4, None));
        frame(&mut judge, 1, 0);
        judge.headless(&at);
        let (damage, _) = judge.verdict();
        assert_eq!(damage[0], at);
        let mut spare = Judge::new(known(1, None));
        frame(&mut spare, 1, 0);
        spare.headless(&at);
        assert_eq!(spare.verdict(), (vec![], vec![]));
    }

    #[test]
    fn damage_at_or_below_the_tail_is_reclaimed_and_no_matter() {
        let mut judge = Judge::new(Known {
            tail: lsn(2),
            frontier: lsn(3),
            mark: None,
            whole: true,
        });
        frame(&mut judge, 1, 0);
        broken(&mut judge, 2);
        frame(&mut judge, 3, 2);
        assert_eq!(judge.verdict(), (vec![], vec![]));
    }

    #[test]
    fn a_damaged_header_page_of_a_reclaimed_segment_is_no_matter() {
        let mut judge = Judge::new(Known {
            tail: lsn(2),
            ..known(3, Some(3))
        });
        judge.header(&Corrupt {
            path: PATH.into(),
            offset: 0,
            lsn: None,
            what: Damage::BadMagic,
        });
        (1..=3).for_each(|number| frame(&mut judge, number, number - 1));
        assert_eq!(judge.verdict(), (vec![], vec![]));
    }

    #[test]
    fn truncated_records_are_not_missed() {
        let mut judge = Judge::new(known(2, None));
        (1..=5).for_each(|number| frame(&mut judge, number, number - 1));
        judge.frame(Path::new(PATH), 6 * 4096, 6, lsn(2));
        judge.truncated(lsn(2));
        assert_eq!(judge.verdict(), (vec![], vec![]));
    }
}
