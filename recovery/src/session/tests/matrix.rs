//! The verdict of every (phase, event) pair of a session, as text that is checked in.

use super::*;
use crate::testing::{assert_table, name_of};

const EXPECTED: &str = include_str!("matrix.txt");

fn truncating(through: u64) -> Event {
    Event::Handshake {
        range: range(through, through),
        truncate_to: Some(lsn(through)),
    }
}

fn source() -> Event {
    let source = Source {
        kind: SourceKind::SnapshotTail { base: lsn(50) },
        target: lsn(100),
    };
    let now = Tick(0);
    Event::Rebuild(rebuild::Event::SelectSource { source, now })
}

/// Every phase, with and without what its guards look at.
fn positions() -> Vec<(&'static str, Session)> {
    let rebuild = || session(Kind::Rebuild, Budget::UNBOUNDED);
    let sent_all = || vec![Event::Connect, handshake(50, 100), BEGIN, sent(100)];
    let done = || [sent_all(), vec![progress(100)]].concat();
    let whole = || vec![Event::Connect, handshake(0, 100)];
    vec![
        ("init", catch_up()),
        ("connecting", after(catch_up(), [Event::Connect])),
        (
            "handshake (50,100]",
            after(catch_up(), [Event::Connect, handshake(50, 100)]),
        ),
        (
            "handshake (100,100]",
            after(catch_up(), [Event::Connect, handshake(100, 100)]),
        ),
        (
            "handshake, to be cut to 100",
            after(catch_up(), [Event::Connect, truncating(100)]),
        ),
        (
            "catchup, nothing sent",
            after(catch_up(), {
                let mut events = sent_all();
                events.pop();
                events
            }),
        ),
        ("catchup, all sent", after(catch_up(), sent_all())),
        ("catchup, converged", after(catch_up(), done())),
        (
            "completed",
            after(catch_up(), [done(), vec![Event::Complete]].concat()),
        ),
        ("invalidated", after(catch_up(), [invalidate()])),
        ("rebuild, init", rebuild()),
        ("rebuild, connecting", after(rebuild(), [Event::Connect])),
        ("rebuild, handshake", after(rebuild(), whole())),
        (
            "rebuild, source selected",
            after(rebuild(), [whole(), vec![source()]].concat()),
        ),
        ("rebuild, invalidated", after(rebuild(), [invalidate()])),
    ]
}

fn events() -> Vec<(&'static str, Event)> {
    vec![
        ("connect", Event::Connect),
        ("handshake (50,100]", handshake(50, 100)),
        ("handshake (100,50]", handshake(100, 50)),
        ("begin catch-up", BEGIN),
        ("sent 100", sent(100)),
        ("sent 101", sent(101)),
        ("progress 100", progress(100)),
        ("progress 101", progress(101)),
        ("truncated 100", Event::Truncated { lsn: lsn(100) }),
        ("truncated 99", Event::Truncated { lsn: lsn(99) }),
        ("complete", Event::Complete),
        ("rebuild step", source()),
        ("invalidate", invalidate()),
    ]
}

fn matrix() -> String {
    let mut text = String::new();
    for (position, session) in positions() {
        text += &format!("{position}: {}\n", session.phase().name());
        for (name, event) in events() {
            let mut session = session.clone();
            let before = session.clone();
            let result = session.on(event);
            let now = match (session == before, session.phase()) {
                (true, _) => "unchanged",
                (false, phase) => phase.name(),
            };
            let refused = result.err().map(|failure| {
                assert_eq!(
                    session, before,
                    "{position}: {name}: a refusal changes nothing"
                );
                format!("{}; ", name_of(&failure))
            });
            text += &format!("  {name} -> {}{now}\n", refused.unwrap_or_default());
        }
    }
    text
}

#[test]
fn every_event_in_every_phase_of_a_session_is_answered_as_written_down() {
    assert_table(&matrix(), EXPECTED);
}
