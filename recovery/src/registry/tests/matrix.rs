//! What every assignment does to a replica in every position (1.7), as text that is checked in.

use super::*;
use crate::testing::{assert_table, name_of};

const EXPECTED: &str = include_str!("matrix.txt");

/// A way to put replica r1 of a registry with r1 and r2 somewhere.
type Position = (&'static str, fn(&mut TestRegistry));

/// An assignment at the epoch of the registry, 2, whose version 5 was applied, unless it says so.
type Given = (&'static str, fn() -> Assignment);

const POSITIONS: &[Position] = &[
    ("without a session", |_| ()),
    ("in a session", |registry| {
        attach(registry, "r1");
    }),
    ("in sync", |registry| {
        let session = attach(registry, "r1");
        bring_in_sync(registry, "r1", session);
    }),
    ("marked", |registry| {
        registry.sender_mut(&id("r1")).unwrap().restore(true, None);
    }),
    ("stopped", |registry| registry.stop_all()),
];

fn usual() -> Assignment {
    Assignment {
        version: Some(5),
        ..assignment(&["r1", "r2"], 2)
    }
}

const GIVEN: &[Given] = &[
    ("the same", usual),
    ("recover r1", || usual().recovering(id("r1"), Kind::CatchUp)),
    ("rebuild r1", || usual().recovering(id("r1"), Kind::Rebuild)),
    ("recover r3, not listed", || {
        usual().recovering(id("r3"), Kind::CatchUp)
    }),
    ("r1 elsewhere", || {
        let mut given = usual();
        given.replicas[0].1 = endpoint("elsewhere");
        given
    }),
    ("r1 elsewhere, recover it", || {
        let mut given = usual().recovering(id("r1"), Kind::CatchUp);
        given.replicas[0].1 = endpoint("elsewhere");
        given
    }),
    ("without r1", || assignment(&["r2"], 2)),
    ("with r3", || assignment(&["r1", "r2", "r3"], 2)),
    ("epoch 3", || assignment(&["r1", "r2"], 3)),
    ("epoch 3, recover r1", || {
        assignment(&["r1", "r2"], 3).recovering(id("r1"), Kind::CatchUp)
    }),
    ("epoch 3, r1 elsewhere", || {
        let mut given = assignment(&["r1", "r2"], 3);
        given.replicas[0].1 = endpoint("elsewhere");
        given
    }),
    ("epoch 1, recover r1", || {
        assignment(&["r1", "r2"], 1).recovering(id("r1"), Kind::CatchUp)
    }),
    ("version 4, recover r1", || Assignment {
        version: Some(4),
        ..usual().recovering(id("r1"), Kind::CatchUp)
    }),
    ("r1 twice", || assignment(&["r1", "r2", "r1"], 2)),
    ("r1 and r2 at one address", || {
        let mut given = usual();
        given.replicas[1].1 = given.replicas[0].1.clone();
        given
    }),
];

fn placed(put: fn(&mut TestRegistry)) -> TestRegistry {
    let mut registry = registry();
    registry.assign(&usual());
    put(&mut registry);
    registry.drain_notes();
    registry
}

/// Lists that are not empty, what ended and why, then what became of r1.
fn shown(registry: &mut TestRegistry, assigned: &Assigned) -> String {
    let mut words = Vec::new();
    words.extend(assigned.added.iter().map(|id| format!("added {id}")));
    words.extend(assigned.removed.iter().map(|id| format!("removed {id}")));
    let created = assigned.created.iter();
    words.extend(created.map(|(id, _)| format!("created for {id}")));
    let superseded = assigned.superseded.iter();
    words.extend(superseded.map(|(id, _, _)| format!("superseded for {id}")));
    let failed = assigned.failed.iter();
    words.extend(failed.map(|(id, why)| format!("failed for {id}: {}", name_of(why))));
    let refused = assigned.refused.iter();
    words.extend(refused.map(|why| format!("refused: {}", name_of(why))));
    let notes = registry.drain_notes().into_iter();
    words.extend(notes.map(|(id, _, note)| match note {
        Note::SessionInvalidated { reason, .. } => format!("session of {id} ended: {reason}"),
        Note::StreamEnded { cause, .. } => format!("stream of {id} ended: {cause}"),
        note => format!("{note:?} of {id}"),
    }));
    words.push(match registry.sender(&id("r1")) {
        Ok(sender) => {
            let work = match (sender.session_id(), sender.stream_id()) {
                (Some(_), _) => ", a session",
                (None, Some(_)) => ", a stream",
                (None, None) => "",
            };
            format!("{} at epoch {}{work}", sender.state(), sender.epoch())
        }
        Err(_) => "gone".to_owned(),
    });
    words.join("; ")
}

fn matrix() -> String {
    let mut text = String::new();
    for &(position, put) in POSITIONS {
        text += &format!(
            "{position}: {}\n",
            shown(&mut placed(put), &Assigned::default())
        );
        for (name, given) in GIVEN {
            let mut registry = placed(put);
            let before = registry.status();
            let assigned = registry.assign(&given());
            let same = registry.status() == before;
            assert!(same || assigned.refused.is_none(), "{position}: {name}");
            let now = if same { "; unchanged" } else { "" };
            text += &format!("  {name} -> {}{now}\n", shown(&mut registry, &assigned));
        }
    }
    text
}

#[test]
fn every_assignment_in_every_position_does_what_is_written_down() {
    assert_table(&matrix(), EXPECTED);
}
