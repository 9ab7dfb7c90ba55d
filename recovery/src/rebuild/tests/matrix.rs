//! The verdict of every (phase, event) pair of a rebuild, as text that is checked in.

use super::*;
use crate::failure::Cancelled;
use crate::testing::{assert_table, name_of};

const EXPECTED: &str = include_str!("matrix.txt");

fn abort() -> Event {
    Event::Abort(Invalidation::ExecutorCancelled(Cancelled::ByRequest))
}

/// Every phase, with and without what its guards look at.
fn positions() -> Vec<(&'static str, Rebuild)> {
    let both = snapshot_tail(50, 100);
    let full = full_base(100);
    let mut selected = Rebuild::new();
    selected.on(select(both)).unwrap();
    let based = || vec![transferred(50), VERIFIED];
    let tailed = |through| [based(), vec![Event::BeginTail, tail(through)]].concat();
    vec![
        ("init", Rebuild::new()),
        ("source-select", selected),
        ("snapshot + tail: transfer", after(both, [])),
        (
            "snapshot + tail: base transferred",
            after(both, [transferred(50)]),
        ),
        ("snapshot + tail: base verified", after(both, based())),
        (
            "snapshot + tail: tail at 50",
            after(both, [based(), vec![Event::BeginTail]].concat()),
        ),
        ("snapshot + tail: tail at 99", after(both, tailed(99))),
        ("snapshot + tail: tail at 100", after(both, tailed(100))),
        ("full base: transfer", after(full, [])),
        ("full base: transferred", after(full, [transferred(100)])),
        (
            "full base: verified",
            after(full, [transferred(100), VERIFIED]),
        ),
        (
            "completed",
            after(full, [transferred(100), VERIFIED, COMPLETE]),
        ),
        ("aborted", after(both, [abort()])),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    let chunks = Event::Chunks {
        sent: 1,
        matched: 1,
        bytes: 1 << 20,
        now: Tick(3),
    };
    vec![
        ("select source", select(snapshot_tail(50, 100))),
        ("begin transfer", BEGIN),
        ("chunks", chunks),
        ("transferred 50", transferred(50)),
        ("transferred 100", transferred(100)),
        ("transferred 101", transferred(101)),
        ("base verified", VERIFIED),
        ("base differs", Event::BaseVerified(DIFFERENT)),
        ("begin tail", Event::BeginTail),
        ("tail 100", tail(100)),
        ("tail 101", tail(101)),
        ("complete", COMPLETE),
        ("complete, state differs", Event::Complete(DIFFERENT)),
        ("abort", abort()),
    ]
}

fn matrix() -> String {
    let mut text = String::new();
    for (position, rebuild) in positions() {
        text += &format!("{position}: {}\n", rebuild.phase().name());
        for (name, event) in events() {
            let mut rebuild = rebuild.clone();
            let before = rebuild.clone();
            let result = rebuild.on(event);
            let now = match rebuild == before {
                true => "unchanged",
                false => rebuild.phase().name(),
            };
            let refused = result
                .err()
                .map(|failure| format!("{}; ", name_of(&failure)));
            text += &format!("  {name} -> {}{now}\n", refused.unwrap_or_default());
        }
    }
    text
}

#[test]
fn every_event_in_every_phase_of_a_rebuild_is_answered_as_written_down() {
    assert_table(&matrix(), EXPECTED);
}
