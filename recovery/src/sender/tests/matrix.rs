//! The verdict of every (position, call) pair of sender, session, rebuild machine and stream, as
//! text that is checked in: a changed transition shows as a changed line.

use super::*;
use crate::outcome::Source;
use crate::session::Phase;
use crate::testing::{assert_table, name_of};

const EXPECTED: &str = include_str!("matrix.txt");

const AT_50: Lsn = Lsn::new(50);
const AT_100: Lsn = Lsn::new(100);

/// A way to put a new sender somewhere; the id of its session or stream.
type Position = (&'static str, fn(&mut Bench) -> SessionId);

/// A call; what it refuses.
type Called = (
    &'static str,
    fn(&mut Bench, SessionId) -> Result<(), Failure>,
);

fn nobody() -> SessionId {
    SessionId {
        boot: 9,
        counter: 9,
    }
}

fn based() -> History {
    history(100).base(50)
}

fn source() -> Source {
    outcome::rebuild_source(&based(), Asked::Any)
}

const POSITIONS: &[Position] = &[
    ("idle", |_| nobody()),
    ("idle, marked", |bench| {
        bench.sender.restore(true, Some(NODE));
        nobody()
    }),
    ("init", |bench| bench.attach(Kind::CatchUp)),
    ("connecting", |bench| {
        let id = bench.attach(Kind::CatchUp);
        bench.sender.connect(id).unwrap();
        id
    }),
    ("handshake (100,100]", |bench| bench.handshaken(100)),
    ("handshake (50,100]", |bench| bench.handshaken(50)),
    ("handshake, cut to 100", |bench| bench.handshaken(105)),
    ("catchup, nothing sent", |bench| {
        let id = bench.handshaken(50);
        bench.sender.begin_catch_up(id, NOW).unwrap();
        id
    }),
    ("catchup, all sent", |bench| bench.catching_up(50)),
    ("catchup, converged", |bench| {
        let id = bench.catching_up(50);
        bench.sender.progress(id, AT_100, None).unwrap();
        id
    }),
    ("stream", Bench::in_sync),
    ("rebuild, init", |bench| bench.attach(Kind::Rebuild)),
    ("rebuild, connecting", |bench| {
        let id = bench.attach(Kind::Rebuild);
        bench.sender.connect(id).unwrap();
        id
    }),
    ("rebuild, handshake", |bench| {
        let id = bench.attach(Kind::Rebuild);
        bench.sender.connect(id).unwrap();
        bench.sender.handshake(id, &replica(10), &based()).unwrap();
        id
    }),
    ("rebuild, source selected", |bench| {
        bench.rebuilding(&based())
    }),
    ("rebuild, transfer", |bench| {
        let id = bench.rebuilding(&based());
        let install = Install::Beside;
        bench.sender.begin_transfer(id, install, NOW).unwrap();
        id
    }),
    ("rebuild, base verified", |bench| {
        let id = bench.rebuilding(&based());
        bench.transferred(id, 50);
        id
    }),
    ("rebuild, full base verified", |bench| {
        let id = bench.rebuilding(&history(100));
        bench.transferred(id, 100);
        id
    }),
    ("rebuild, tail at 50", |bench| {
        let id = bench.rebuilding(&based());
        bench.transferred(id, 50);
        bench.sender.begin_tail(id).unwrap();
        id
    }),
    ("rebuild, tail at 100", |bench| {
        let id = bench.rebuilding(&based());
        bench.transferred(id, 50);
        bench.sender.begin_tail(id).unwrap();
        bench.sender.tail_progress(id, AT_100, NOW).unwrap();
        id
    }),
    ("stopped", |bench| {
        let id = bench.attach(Kind::CatchUp);
        bench.sender.stop();
        id
    }),
];

const CALLS: &[Called] = &[
    ("attach", |bench, _| {
        let options = SessionOptions::unbounded(Kind::CatchUp);
        bench.attach_with(options).map(drop)
    }),
    ("attach rebuild", |bench, _| {
        let options = SessionOptions::unbounded(Kind::Rebuild);
        bench.attach_with(options).map(drop)
    }),
    ("supersede", |bench, id| {
        let options = SessionOptions::unbounded(Kind::CatchUp);
        let reason = Invalidation::AssignmentIntent;
        let superseded = bench.sender.supersede(id, options, reason, &mut bench.ids);
        superseded.map(drop)
    }),
    ("connect", |bench, id| bench.sender.connect(id)),
    ("handshake", |bench, id| {
        let answer = bench.sender.handshake(id, &replica(50), &history(100));
        answer.map(drop)
    }),
    ("handshake beyond retention", |bench, id| {
        let late = history(100).tail(60);
        bench.sender.handshake(id, &replica(50), &late).map(drop)
    }),
    ("handshake of a damaged primary", |bench, id| {
        let contradiction = history(80).committed(100);
        let answer = bench.sender.handshake(id, &replica(50), &contradiction);
        answer.map(drop)
    }),
    ("begin catch-up", |bench, id| {
        bench.sender.begin_catch_up(id, NOW)
    }),
    ("sent 100", |bench, id| bench.sender.sent(id, AT_100, 1)),
    ("progress 100", |bench, id| {
        bench.sender.progress(id, AT_100, Some(NOW))
    }),
    ("truncated 100", |bench, id| {
        bench.sender.truncated(id, AT_100)
    }),
    ("complete", |bench, id| bench.complete(id).map(drop)),
    ("complete, pin refused", |bench, id| {
        let refused = PinRefused {
            part: PinPart::Log,
            at: AT_100,
            why: PinRefusal::Policy,
        };
        bench.sender.complete(id, |_| Err(refused)).map(drop)
    }),
    ("select source", |bench, id| {
        bench.sender.select_source(id, source(), NOW)
    }),
    ("begin transfer", |bench, id| {
        bench.sender.begin_transfer(id, Install::Beside, NOW)
    }),
    ("transferred 50", |bench, id| {
        bench.sender.transfer_progress(id, AT_50)
    }),
    ("base verified", |bench, id| {
        bench.sender.base_verified(id, EQUAL)
    }),
    ("begin tail", |bench, id| bench.sender.begin_tail(id)),
    ("tail 100", |bench, id| {
        bench.sender.tail_progress(id, AT_100, NOW)
    }),
    ("complete rebuild", |bench, id| {
        bench.complete_rebuild(id).map(drop)
    }),
    ("complete rebuild, state differs", |bench, id| {
        let found = 8;
        let differs = Compared { found, ..EQUAL };
        let pins = Arc::clone(&bench.pins);
        let pin = |after| Ok(TestPin::new(&pins, after));
        bench.sender.complete_rebuild(id, differs, pin).map(drop)
    }),
    ("ship 120", |bench, id| {
        bench.sender.ship(id, lsn(120), lsn(120))
    }),
    ("acknowledge 100", |bench, id| {
        bench.sender.acknowledge(id, AT_100).map(drop)
    }),
    ("stream lost", |bench, id| {
        let cause = StreamEnd::LinkLost(Link::Closed);
        bench.sender.stream_lost(id, cause)
    }),
    ("link lost", |bench, id| {
        bench.sender.link_lost(id, Link::Closed)
    }),
    ("peer silent", |bench, id| {
        bench.sender.check_budget(id, NOW, Peer::Silent)
    }),
    ("invalidate to needs_rebuild", |bench, id| {
        let reason = Invalidation::PinBroken;
        bench.sender.invalidate(id, reason, State::NeedsRebuild)
    }),
    ("rebuild pin refused", |bench, id| {
        let refused = PinRefused {
            part: PinPart::FullBase,
            at: AT_100,
            why: PinRefusal::Policy,
        };
        bench.sender.pin_refused(id, refused)
    }),
    ("epoch rises", |bench, _| {
        bench.sender.advance_epoch(Epoch::new(2));
        Ok(())
    }),
    ("endpoint changes", |bench, _| {
        bench.sender.change_endpoint(endpoint("10.0.0.2"));
        Ok(())
    }),
    ("stop", |bench, _| {
        bench.sender.stop();
        Ok(())
    }),
];

/// State, mark, and what the sender works on.
fn shown(sender: &Sender<TestPin>) -> String {
    let view = sender.view();
    let mark = if view.needs_rebuild { ", marked" } else { "" };
    let work = match (&view.session, &view.stream) {
        (Some(session), _) => match session.phase() {
            Phase::Rebuilding { machine, .. } => format!(", rebuild {}", machine.phase().name()),
            phase => format!(", {}", phase.name()),
        },
        (None, Some(_)) => ", stream".to_owned(),
        (None, None) => String::new(),
    };
    format!("{}{mark}{work}", view.state)
}

fn matrix() -> String {
    let mut text = String::new();
    for (position, put) in POSITIONS {
        let mut bench = bench();
        put(&mut bench);
        text += &format!("{position}: {}\n", shown(&bench.sender));
        for (call, made) in CALLS {
            let mut bench = self::bench();
            let id = put(&mut bench);
            let before = bench.sender.view();
            let result = made(&mut bench, id);
            let same = bench.sender.view() == before;
            let now = if same {
                "unchanged".to_owned()
            } else {
                shown(&bench.sender)
            };
            let refused = result
                .err()
                .map(|failure| format!("{}; ", name_of(&failure)));
            text += &format!("  {call} -> {}{now}\n", refused.unwrap_or_default());
        }
    }
    text
}

#[test]
fn every_call_in_every_position_is_answered_as_written_down() {
    assert_table(&matrix(), EXPECTED);
}
