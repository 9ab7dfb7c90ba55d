//! What was written, what was acknowledged, and what a read may therefore see.
//!
//! The unit is a cell of 512 bytes. Each cell is written by one client, so its versions have an
//! order. Two rules explain every read:
//!
//! - While a primary lives, a read sees the newest acknowledged version, or a newer one that was
//!   begun.
//! - After a crash or a promotion a read sees no version older than the newest committed one; and
//!   what the first read saw is what stays.
//!
//! Nothing here takes part in the turns of a world: every call is one step.

use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of a cell.
pub const CELL: u64 = 512;

/// Contents of a cell: a number written over and over; zero for zeroes.
pub type Stamp = u64;

#[derive(Clone, Debug)]
struct Cell {
    /// Every version begun, oldest first; the first is what a new volume reads.
    versions: Vec<Stamp>,
    /// Oldest version that this reign may show.
    shown: usize,
    /// Newest version that is committed.
    committed: usize,
    /// Version that this reign began with, once a read told.
    inherited: Option<usize>,
    /// Versions begun before this reign.
    before: usize,
    /// Acknowledged and not yet known as committed: the version and when.
    waiting: Vec<(usize, u64)>,
}

/// A time during which one primary serves without a restart.
pub type Reign = u64;

/// A write to some cells, as its client remembers it.
#[derive(Clone, Debug)]
pub struct Begun {
    /// The cells.
    pub cells: Range<u64>,
    /// What they hold afterwards.
    pub stamp: Stamp,
    reign: Reign,
    first: Vec<usize>,
}

/// The whole history of a volume.
#[derive(Debug)]
pub struct History {
    cells: Vec<Cell>,
    reign: Reign,
    stamps: Stamp,
    acknowledged: u64,
    forbidden: BTreeSet<Stamp>,
    /// What a primary of an earlier reign still acknowledges is no promise.
    void_before: Reign,
    /// What was found that cannot be explained.
    violations: Vec<String>,
    /// Writes acknowledged, committed, and cells read.
    pub counts: [u64; 3],
}

impl History {
    /// A volume of so many cells that was never written.
    #[must_use]
    pub fn new(cells: u64) -> History {
        let cell = Cell {
            versions: vec![0],
            shown: 0,
            committed: 0,
            inherited: None,
            before: 1,
            waiting: Vec::new(),
        };
        History {
            cells: vec![cell; usize::try_from(cells).expect("a small volume")],
            reign: 0,
            stamps: 0,
            acknowledged: 0,
            forbidden: BTreeSet::new(),
            void_before: 0,
            violations: Vec::new(),
            counts: [0; 3],
        }
    }

    fn cell(&mut self, cell: u64) -> &mut Cell {
        &mut self.cells[usize::try_from(cell).expect("a cell of this volume")]
    }

    /// The first violation.
    #[must_use]
    pub fn violation(&self) -> Option<&str> {
        self.violations.first().map(String::as_str)
    }

    /// Notes a violation that was seen elsewhere.
    pub fn violate(&mut self, text: String) {
        self.violations.push(text);
    }

    /// The reign now.
    #[must_use]
    pub fn reign(&self) -> Reign {
        self.reign
    }

    /// A primary goes, by crash or by order: from now on the next one's reads are what counts.
    pub fn end_reign(&mut self) {
        self.reign += 1;
        for cell in &mut self.cells {
            cell.shown = cell.committed;
            cell.inherited = None;
            cell.before = cell.versions.len();
            cell.waiting.clear();
        }
    }

    /// As [`History::end_reign`] where nothing that was acknowledged has to be kept: the ack rule
    /// was best effort, and another node took over.
    pub fn end_reign_without_promise(&mut self) {
        for cell in &mut self.cells {
            cell.committed = 0;
        }
        self.end_reign();
        self.void_before = self.reign;
    }

    /// A write to the primary of `reign` begins: with a new stamp, or with zeroes. `None` when that
    /// reign is over.
    pub fn begin(&mut self, reign: Reign, cells: Range<u64>, zeroes: bool) -> Option<Begun> {
        if reign != self.reign {
            return None;
        }
        self.stamps += 1;
        let stamp = if zeroes { 0 } else { self.stamps };
        let first = cells.clone().map(|cell| {
            let cell = self.cell(cell);
            cell.versions.push(stamp);
            cell.versions.len() - 1
        });
        let first = first.collect();
        Some(Begun {
            cells,
            stamp,
            reign,
            first,
        })
    }

    /// A write begins at a primary whose reign is over, or about to be.
    pub fn begin_stale(&mut self, cells: Range<u64>) -> Begun {
        let reign = self.reign;
        let begun = self
            .begin(reign, cells, false)
            .expect("it is the reign now");
        Begun {
            reign: Reign::MAX,
            ..begun
        }
    }

    /// Another primary reigns: what was written at the old one must never be seen.
    pub fn forbid(&mut self, begun: &Begun) {
        self.forbidden.insert(begun.stamp);
    }

    /// A write was acknowledged.
    pub fn acknowledge(&mut self, begun: &Begun) {
        if begun.reign != self.reign {
            return;
        }
        self.counts[0] += 1;
        self.acknowledged += 1;
        let at = self.acknowledged;
        for (cell, index) in begun.cells.clone().zip(&begun.first) {
            let cell = self.cell(cell);
            cell.shown = cell.shown.max(*index);
            cell.waiting.push((*index, at));
        }
    }

    /// A write was acknowledged as committed.
    pub fn commit(&mut self, begun: &Begun) {
        if begun.reign < self.void_before {
            return;
        }
        self.acknowledge(begun);
        self.counts[1] += 1;
        let stale = begun.reign != self.reign;
        for (cell, index) in begun.cells.clone().zip(&begun.first) {
            let inherited = self.cell(cell).inherited;
            if stale && inherited.is_some_and(|inherited| inherited < *index) {
                self.violate(format!(
                    "cell {cell}: version {index} was committed by a primary whose successor had \
                     begun with version {inherited:?}"
                ));
            }
            let of = self.cell(cell);
            of.committed = of.committed.max(*index);
            of.shown = of.shown.max(of.committed);
        }
    }

    /// A flush begins now; what it gives goes to [`History::flushed`].
    #[must_use]
    pub fn flush_begins(&self) -> (Reign, u64) {
        (self.reign, self.acknowledged)
    }

    /// The flush came back: what was acknowledged before it began is committed.
    pub fn flushed(&mut self, (reign, before): (Reign, u64)) {
        if reign != self.reign {
            return;
        }
        for cell in &mut self.cells {
            let covered = cell.waiting.iter().filter(|(_, at)| *at <= before);
            if let Some(newest) = covered.map(|(index, _)| *index).max() {
                cell.committed = cell.committed.max(newest);
                cell.waiting.retain(|(_, at)| *at > before);
            }
        }
    }

    /// A read by the client that owns the cell, with none of its writes under way, gave `stamp`.
    /// `settled`: the primary is confirmed, so what it began with is committed (D1).
    pub fn read(&mut self, at: u64, stamp: Stamp, reign: Reign, settled: bool) {
        if reign != self.reign {
            return;
        }
        self.counts[2] += 1;
        self.check_allowed(at, stamp);
        let cell = self.cell(at);
        let may = cell.shown..cell.versions.len();
        let seen = may
            .clone()
            .filter(|index| cell.versions[*index] == stamp)
            .collect::<Vec<_>>();
        let Some(&newest) = seen.last() else {
            let known = cell.versions.iter().position(|version| *version == stamp);
            let text = format!(
                "cell {at}: read stamp {stamp} (version {known:?}), of versions {may:?} that may be \
                 seen (committed {}), in reign {reign}: {:?}",
                cell.committed,
                &cell.versions[may.start..]
            );
            return self.violate(text);
        };
        // Zeroes look alike: only what is the one way to read it is held against later reads.
        if seen.len() == 1 {
            cell.shown = newest;
            if settled && cell.inherited.is_none() && newest < cell.before {
                cell.inherited = Some(newest);
                cell.committed = cell.committed.max(newest);
            }
        }
    }

    fn check_allowed(&mut self, at: u64, stamp: Stamp) {
        if self.forbidden.contains(&stamp) {
            self.violate(format!(
                "cell {at} holds stamp {stamp}, which was written at a primary that was superseded \
                 and could reach nobody"
            ));
        }
    }

    /// Whether the bytes of a whole copy hold, cell by cell, something that may be there.
    pub fn explains(&mut self, bytes: &[u8], what: &str) {
        let width = usize::try_from(CELL).expect("a small number");
        for (at, cell) in bytes.chunks(width).enumerate() {
            let at = at as u64;
            match stamp_of(cell) {
                Some(stamp) => {
                    self.check_allowed(at, stamp);
                    let of = self.cell(at);
                    let may = of.shown..of.versions.len();
                    if !may.clone().any(|index| of.versions[index] == stamp) {
                        let committed = of.committed;
                        self.violate(format!(
                            "{what}: cell {at} holds stamp {stamp}, not one of versions {may:?} \
                             (committed {committed})"
                        ));
                    }
                }
                None => self.violate(format!("{what}: cell {at} is torn")),
            }
        }
    }
}

/// The bytes of cells with this stamp.
#[must_use]
pub fn bytes_of(stamp: Stamp, cells: u64) -> Vec<u8> {
    let words = usize::try_from(cells * CELL / 8).expect("a small write");
    std::iter::repeat_n(stamp.to_le_bytes(), words)
        .flatten()
        .collect()
}

/// The stamp of a cell; `None` when its words differ.
#[must_use]
pub fn stamp_of(cell: &[u8]) -> Option<Stamp> {
    let mut words = cell.chunks_exact(8);
    let word = |bytes: &[u8]| Stamp::from_le_bytes(*bytes.first_chunk().expect("eight bytes"));
    let first = word(words.next()?);
    words.all(|bytes| word(bytes) == first).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_committed_version_that_is_gone_is_a_violation() {
        let mut history = History::new(4);
        let old = history.begin(0, 0..2, false).unwrap();
        history.commit(&old);
        history.read(0, old.stamp, 0, true);
        assert_eq!(history.violation(), None);
        history.end_reign();
        history.read(1, 0, 1, true);
        assert!(history.violation().unwrap().contains("cell 1"));
    }

    #[test]
    fn what_was_not_committed_may_go_but_not_come_back() {
        let mut history = History::new(1);
        let lost = history.begin(0, 0..1, false).unwrap();
        history.acknowledge(&lost);
        history.end_reign();
        history.read(0, 0, 1, true);
        assert_eq!(history.violation(), None);
        let next = history.begin(1, 0..1, false).unwrap();
        history.acknowledge(&next);
        history.read(0, lost.stamp, 1, true);
        assert!(history.violation().is_some());
    }

    #[test]
    fn a_flush_commits_what_was_acknowledged_before_it_began() {
        let mut history = History::new(2);
        let before = history.begin(0, 0..1, false).unwrap();
        history.acknowledge(&before);
        let flush = history.flush_begins();
        let during = history.begin(0, 1..2, false).unwrap();
        history.acknowledge(&during);
        history.flushed(flush);
        history.end_reign();
        history.read(1, 0, 1, false);
        assert_eq!(history.violation(), None);
        history.read(0, 0, 1, false);
        assert!(history.violation().is_some());
    }
}
