//! Crash replay: what the scan saw at the end of the log, and what follows from it (L2).

/// Facts about the end of the chain of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Something that was durable before anything referred to it is not there: the mark frame of a
    /// recorded clean close, the segment that a seal names, the end of a segment that frames in a
    /// later one follow, the truncation that frames below the head follow or that the lineage tells
    /// of, the records behind the tail.
    pub(crate) named_missing: bool,
    /// A frontier recorded by any sound frame of this log, or by meta, lies above the last record
    /// that is whole.
    pub(crate) frontier_above: bool,
    /// The device could not read the place where the chain ends, or a record of it, and no clean
    /// close says that nothing lies there.
    pub(crate) unreadable: bool,
    /// At the end of the chain, or behind it, lies something that this life of the segment wrote.
    pub(crate) begun: bool,
}

/// What to do with the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on behind the last frame.
    Clean,
    /// Cut, and make unreadable what lies behind the cut, before the first append.
    Torn,
    /// Cut nothing; open read-only (D14).
    Damaged,
}

/// One row of the table: a condition, a verdict, and the history that leads there.
struct Row {
    verdict: Verdict,
    holds: fn(Facts) -> bool,
}

const ROWS: [Row; 5] = [
    // Named-missing: a clean close wrote a mark behind every frame and then said so in meta; a
    // segment was prepared before a seal named it, and synced to its end before a frame went to the
    // next; a truncation was synced before anything followed it. It is gone, so it was damaged
    // since (D13).
    Row {
        verdict: Verdict::Damaged,
        holds: |facts| facts.named_missing,
    },
    // Below-frontier: a sync covered these records, a later frame or meta says so, and they are not
    // whole. They may have been acknowledged, so nothing may be cut (D14).
    Row {
        verdict: Verdict::Damaged,
        holds: |facts| !facts.named_missing && facts.frontier_above,
    },
    // Unreadable: a crash leaves old or new bytes, not an error, so this is no end of the log. What
    // lies there may have been acknowledged (L-T5).
    Row {
        verdict: Verdict::Damaged,
        holds: |facts| !facts.named_missing && !facts.frontier_above && facts.unreadable,
    },
    // Torn-tail: frames were on their way when the power went; nothing says that they were durable.
    Row {
        verdict: Verdict::Torn,
        holds: |facts| {
            !facts.named_missing && !facts.frontier_above && !facts.unreadable && facts.begun
        },
    },
    // Clean-end: behind the last frame lies space that this life never wrote to.
    Row {
        verdict: Verdict::Clean,
        holds: |facts| {
            !facts.named_missing && !facts.frontier_above && !facts.unreadable && !facts.begun
        },
    },
];

/// The one row that holds.
pub(crate) fn verdict(facts: Facts) -> Verdict {
    let row = ROWS.iter().find(|row| (row.holds)(facts));
    row.expect("the rows cover every combination, as the test shows")
        .verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_one_row_holds_for_every_combination() {
        for bits in 0..16 {
            let facts = Facts {
                named_missing: bits & 1 != 0,
                frontier_above: bits & 2 != 0,
                unreadable: bits & 8 != 0,
                begun: bits & 4 != 0,
            };
            let rows = ROWS.iter().filter(|row| (row.holds)(facts)).count();
            assert_eq!(rows, 1, "{facts:?}");
            // L2, L-T5: what a frontier covers is never cut, nor what nobody could look at.
            let covered = facts.frontier_above || facts.named_missing || facts.unreadable;
            assert_eq!(verdict(facts) == Verdict::Damaged, covered, "{facts:?}");
        }
    }
}
