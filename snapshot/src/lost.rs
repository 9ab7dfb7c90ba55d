//! Blocks whose newest version may lie in a damaged part of the log (D14).

use std::ops::Range;
use std::sync::Arc;

use seawall_wal::{Lba, Log, LossReport, Lsn, LsnRange, RecordPlace, ReplayReport, ScanEnd};

use crate::error::Error;
use crate::rangemap::RangeMap;

/// What an open found beyond the last record that is applied.
#[derive(Debug)]
pub(crate) enum Lost {
    /// Nothing: the log is whole.
    Nothing,
    /// These blocks, and no others.
    Blocks {
        blocks: RangeMap<()>,
        cause: Arc<seawall_wal::Error>,
    },
    /// Any block: a lost record left no trace of what it touched.
    Anything { cause: Arc<seawall_wal::Error> },
}

impl Lost {
    pub(crate) fn of(report: &ReplayReport, log: &Log) -> Lost {
        let ScanEnd::Damaged(report) = &report.end else {
            return Lost::Nothing;
        };
        let cause = Arc::new(cause(report));
        match blocks_above(report, log) {
            Some(blocks) => Lost::Blocks { blocks, cause },
            None => Lost::Anything { cause },
        }
    }

    /// Refuses a read that could return less than the newest version.
    pub(crate) fn check(&self, range: &Range<u64>) -> Result<(), Error> {
        let (lba, cause) = match self {
            Lost::Nothing => return Ok(()),
            Lost::Anything { cause } => (range.start, cause),
            Lost::Blocks { blocks, cause } => {
                let mut pieces = blocks.pieces(range.clone());
                match pieces.find(|(_, value)| value.is_some()) {
                    None => return Ok(()),
                    Some((hit, _)) => (hit.start, cause),
                }
            }
        };
        Err(Error::NotApplied {
            lba: Lba(lba),
            cause: Arc::clone(cause),
        })
    }

    /// The end of the piece that begins at `at`, and whether it may be lost.
    pub(crate) fn piece(&self, at: u64, end: u64) -> (u64, bool) {
        match self {
            Lost::Nothing => (end, false),
            Lost::Anything { .. } => (end, true),
            Lost::Blocks { blocks, .. } => {
                let (piece_end, value) = blocks.piece(at, end);
                (piece_end, value.is_some())
            }
        }
    }

    /// Why records beyond the applied ones cannot be had, if that is so.
    pub(crate) fn cause(&self) -> Option<&seawall_wal::Error> {
        match self {
            Lost::Nothing => None,
            Lost::Anything { cause } | Lost::Blocks { cause, .. } => Some(cause),
        }
    }
}

fn cause(report: &LossReport) -> seawall_wal::Error {
    match report.places.first() {
        Some(loss) if !loss.hole => seawall_wal::Error::Corrupt(loss.at.clone()),
        _ => seawall_wal::Error::Hole {
            lsn: report.applied.next(),
        },
    }
}

/// Blocks touched above the applied records, or `None` when that is unknown.
fn blocks_above(report: &LossReport, log: &Log) -> Option<RangeMap<()>> {
    let mut blocks = RangeMap::default();
    let mut known = report.applied;
    for loss in &report.places {
        note_intact(&mut blocks, log, known, loss.lsns.after)?;
        for (lba, count) in loss.blocks.as_ref()? {
            blocks.insert(lba.0..lba.0 + u64::from(*count), ());
        }
        known = known.max(loss.lsns.through);
    }
    let end = log.frontiers().head.max(report.durable);
    note_intact(&mut blocks, log, known, end)?;
    Some(blocks)
}

fn note_intact(blocks: &mut RangeMap<()>, log: &Log, after: Lsn, through: Lsn) -> Option<()> {
    let range = LsnRange::new(after, through);
    let places: Vec<RecordPlace> = match range.is_empty() {
        true => Vec::new(),
        false => log.places(range).ok()?,
    };
    for place in places {
        let end = place.lba.0 + u64::from(place.blocks);
        blocks.insert(place.lba.0..end, ());
    }
    Some(())
}
