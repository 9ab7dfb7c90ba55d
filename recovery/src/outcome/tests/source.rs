//! The source of a rebuild (1.5).

use super::*;
use crate::history::{Gap, Trust};
use crate::testing::{history, lsn};

// A054, A055 and the table of section 1.1
#[test]
fn recoverable_asks_tail_head_and_damage_in_this_order() {
    let tail_50 = history(100).tail(50);
    assert_eq!(tail_50.recoverable(range(50, 100)), Ok(()));
    assert_eq!(
        tail_50.recoverable(range(49, 100)),
        Err(Gap::Reclaimed {
            first_needed: lsn(50),
            first_retained: lsn(51),
        })
    );
    assert_eq!(
        history(80).recoverable(range(0, 100)),
        Err(Gap::BeyondHead { head: lsn(80) })
    );
    let holed = History {
        damage: vec![Damaged::at(lsn(4), DamageKind::Hole)],
        ..history(6)
    };
    let hole = Err(Gap::Damaged {
        lsn: lsn(4),
        kind: DamageKind::Hole,
    });
    for (after, through, expected) in [
        (0, 6, hole),
        (0, 3, Ok(())),
        (0, 4, hole),
        (3, 5, hole),
        (4, 6, Ok(())),
    ] {
        assert_eq!(
            holed.recoverable(range(after, through)),
            expected,
            "({after}, {through}]"
        );
    }
    assert_eq!(history(50).recoverable(range(50, 50)), Ok(()));
    assert_eq!(history(50).recoverable(range(60, 40)), Ok(()));
}

fn full(why: WhyFull, target: u64) -> Source {
    Source {
        kind: SourceKind::FullBase { why },
        target: lsn(target),
    }
}

fn tail_unusable(base: u64, first_retained: u64) -> WhyFull {
    WhyFull::TailUnusable {
        base: lsn(base),
        gap: Gap::Reclaimed {
            first_needed: lsn(base + 1),
            first_retained: lsn(first_retained),
        },
    }
}

// A057 to A064, A237 and the table of section 1.5
#[test]
fn every_worked_value_of_the_source_table() {
    let snapshot = |base, target| Source {
        kind: SourceKind::SnapshotTail { base: lsn(base) },
        target: lsn(target),
    };
    let base = lsn(50);
    let above = WhyFull::AboveTarget {
        base,
        target: lsn(40),
    };
    let h = history(100);
    for (claim, history, asked, expected) in [
        (
            "A057",
            h.clone().tail(30).base(50),
            Asked::Any,
            snapshot(50, 100),
        ),
        (
            "A061, equality is fine",
            h.clone().tail(50).base(50),
            Asked::Any,
            snapshot(50, 100),
        ),
        (
            "A061",
            h.clone().tail(51).base(50),
            Asked::Any,
            full(tail_unusable(50, 52), 100),
        ),
        (
            "A060",
            h.clone().tail(80).base(50),
            Asked::Any,
            full(tail_unusable(50, 81), 100),
        ),
        (
            "60/50",
            h.clone().tail(60).base(50),
            Asked::Any,
            full(tail_unusable(50, 61), 100),
        ),
        (
            "60/40",
            h.clone().tail(60).base(40),
            Asked::Any,
            full(tail_unusable(40, 61), 100),
        ),
        (
            "A058",
            h.clone().base(50).untrusted(),
            Asked::Any,
            full(WhyFull::Untrusted { base }, 100),
        ),
        ("A059", h.clone(), Asked::Any, full(WhyFull::NoBase, 100)),
        (
            "A237",
            h.clone().tail(30).base(50),
            Asked::FullBase,
            full(WhyFull::Requested, 100),
        ),
        (
            "requested, and not sound anyway",
            h.clone().tail(60).base(50),
            Asked::FullBase,
            full(tail_unusable(50, 61), 100),
        ),
        (
            "A063",
            h.clone().tail(30).committed(0).base(50),
            Asked::Any,
            full(WhyFull::NothingCommitted { base }, 100),
        ),
        (
            "A064",
            history(200).committed(40).base(50),
            Asked::Any,
            full(above, 40),
        ),
        (
            "an empty base of a log that begins at 1",
            h.clone().base(0),
            Asked::Any,
            snapshot(0, 100),
        ),
        (
            "nothing was ever written",
            history(0),
            Asked::Any,
            full(WhyFull::NoBase, 0),
        ),
    ] {
        assert_eq!(rebuild_source(&history, asked), expected, "{claim}");
    }
}

// D1, 1.5: nothing unacknowledged enters a base.
#[test]
fn an_unconfirmed_primary_rebuilds_only_to_what_is_known_committed() {
    let source = rebuild_source(&reopened().base(60), Asked::Any);
    assert_eq!(source.target, lsn(90));
    assert_eq!(source.snapshot(), Some(lsn(60)));
    let nothing_known = history(100).committed(0).unconfirmed();
    assert_eq!(rebuild_source(&nothing_known, Asked::Any).target, lsn(0));
}

#[test]
fn damage_between_base_and_target_makes_the_tail_unusable() {
    let kind = DamageKind::Corrupt;
    let history = History {
        damage: vec![Damaged::at(lsn(70), kind)],
        ..history(100).base(50)
    };
    let gap = Gap::Damaged { lsn: lsn(70), kind };
    let why = WhyFull::TailUnusable { base: lsn(50), gap };
    assert_eq!(rebuild_source(&history, Asked::Any), full(why, 100));
    let trust = history.checkpoint.map(|checkpoint| checkpoint.trust);
    assert_eq!(trust, Some(Trust::Trusted));
}
