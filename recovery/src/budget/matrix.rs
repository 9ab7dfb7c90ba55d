//! Which violation every combination of spending and limits gives, as text that is checked in.
//! Each of the four is below, at or over its limit of 10; rows say which, columns what is limited.

use super::*;
use crate::testing::assert_table;

const EXPECTED: &str = include_str!("matrix.txt");

const LIMIT: u64 = 10;
const SPENDING: [(char, u64); 3] = [('<', 9), ('=', 10), ('>', 11)];

/// What is limited: duration, records, bytes, stall.
const LIMITED: [(&str, [bool; 4]); 6] = [
    ("none", [false; 4]),
    ("duration", [true, false, false, false]),
    ("records", [false, true, false, false]),
    ("bytes", [false, false, true, false]),
    ("stall", [false, false, false, true]),
    ("all", [true; 4]),
];

fn budget(limited: [bool; 4]) -> Budget {
    let limit = |on: bool| on.then_some(LIMIT);
    Budget {
        duration_ticks_max: limit(limited[0]),
        records_max: limit(limited[1]),
        bytes_max: limit(limited[2]),
        stall_ticks_max: limit(limited[3]),
    }
}

fn name(violation: Option<Violation>) -> &'static str {
    match violation {
        None => "-",
        Some(Violation::Duration { .. }) => "duration",
        Some(Violation::Records { .. }) => "records",
        Some(Violation::Bytes { .. }) => "bytes",
        Some(Violation::Stalled { .. }) => "stalled",
    }
}

/// The verdict of every column for one row.
fn row(duration: u64, records: u64, bytes: u64, stall: u64, peer: Peer) -> String {
    let now = Tick(100);
    let spent = Tracker {
        start: Tick(now.0 - duration),
        records,
        bytes,
        last_progress: Tick(now.0 - stall),
    };
    let verdicts = LIMITED.map(|(column, limited)| {
        let verdict = name(budget(limited).check(&spent, now, peer));
        format!("{column}: {verdict}")
    });
    verdicts.join(", ")
}

fn matrix() -> String {
    let mut text = String::new();
    for (peer, said) in [(Peer::Answers, "answers"), (Peer::Silent, "is silent")] {
        text += &format!("the peer {said}; duration, records, bytes, stall\n");
        for (d, duration) in SPENDING {
            for (r, records) in SPENDING {
                for (b, bytes) in SPENDING {
                    for (s, stall) in SPENDING {
                        let verdicts = row(duration, records, bytes, stall, peer);
                        text += &format!("  {d}{r}{b}{s} -> {verdicts}\n");
                    }
                }
            }
        }
    }
    text
}

// A105, H23, D7
#[test]
fn every_spending_under_every_limit_gives_the_violation_that_is_written_down() {
    assert_table(&matrix(), EXPECTED);
}
