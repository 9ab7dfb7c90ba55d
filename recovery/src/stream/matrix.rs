//! What a stream that began at 100 makes of every call in every position, as text that is checked
//! in: the verdict, then where it stands and after which LSN it keeps the log.

use super::*;
use crate::id::SessionIds;
use crate::testing::{NODE, TestPin, assert_table, lsn, name_of, pins};

const EXPECTED: &str = include_str!("matrix.txt");

/// Calls that lead to a position.
type Position = (&'static str, &'static [Call]);

#[derive(Clone, Copy, Debug)]
enum Call {
    /// Ship through, with our own log durable through.
    Ship(u64, u64),
    Acknowledge(u64),
}

use Call::{Acknowledge, Ship};

const POSITIONS: &[Position] = &[
    ("started", &[]),
    ("shipped through 120", &[Ship(120, 120)]),
    ("half acknowledged", &[Ship(120, 120), Acknowledge(110)]),
    ("all acknowledged", &[Ship(120, 120), Acknowledge(120)]),
];

const CALLS: &[Call] = &[
    Ship(99, 120),
    Ship(100, 100),
    Ship(120, 119),
    Ship(120, 120),
    Ship(130, 140),
    Acknowledge(0),
    Acknowledge(99),
    Acknowledge(100),
    Acknowledge(101),
    Acknowledge(110),
    Acknowledge(120),
    Acknowledge(121),
];

impl Call {
    fn name(self) -> String {
        match self {
            Ship(through, durable) => format!("ship {through}, durable {durable}"),
            Acknowledge(lsn) => format!("acknowledge {lsn}"),
        }
    }

    fn make(self, stream: &mut Stream<TestPin>) -> Result<String, Failure> {
        match self {
            Ship(through, durable) => {
                stream.ship(lsn(through), lsn(durable))?;
                Ok("shipped".to_owned())
            }
            Acknowledge(at) => Ok(format!("holds {}", stream.acknowledge(lsn(at))?)),
        }
    }
}

fn placed(calls: &[Call]) -> Stream<TestPin> {
    let id = SessionIds::new(1).next_id();
    let pin = TestPin::new(&pins(), lsn(60));
    let lineage = (id, Epoch::new(1));
    let replica = ReplicaId::new("r1");
    let mut stream = Stream::after_session(lineage, replica, NODE, lsn(100), pin);
    for call in calls {
        call.make(&mut stream).unwrap();
    }
    stream
}

fn shown(stream: &Stream<TestPin>) -> String {
    let StreamView {
        shipped,
        acknowledged,
        ..
    } = stream.view();
    let kept = stream.pin.after;
    format!("shipped {shipped}, acknowledged {acknowledged}, log kept after {kept}")
}

fn matrix() -> String {
    let mut text = String::new();
    for (position, calls) in POSITIONS {
        let before = shown(&placed(calls));
        text += &format!("{position}: {before}\n");
        for call in CALLS {
            let mut stream = placed(calls);
            let verdict = match call.make(&mut stream) {
                Ok(verdict) => verdict,
                Err(failure) => name_of(&failure),
            };
            let after = shown(&stream);
            let after = if after == before { "unchanged" } else { &after };
            text += &format!("  {} -> {verdict}; {after}\n", call.name());
        }
    }
    text
}

// D3, D6
#[test]
fn every_call_in_every_position_does_what_is_written_down() {
    assert_table(&matrix(), EXPECTED);
}
