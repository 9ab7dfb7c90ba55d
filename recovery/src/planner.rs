//! Planning (1.20): read the history, take the pin, read again, and decide from what is seen under
//! the pin. So a tail that moves in between is met by a new decision, never by a plan for the old
//! facts (H08).

use crate::event::What;
use crate::failure::Failure;
use crate::history::{History, ReplicaFacts};
use crate::orchestrator::{Call, Orchestrator};
use crate::outcome::{self, Asked, Decision, Outcome, Source, SourceKind, Verdict};
use crate::plan::{Held, Pin, PinPart, PinRefused, PinRequest, Plan, Storage, Work};
use crate::session::{Kind, Step};

/// How often the history is read again when it moves under us, before the attempt is given up.
const TRIES_MAX: u32 = 8;

impl<P: Pin> Orchestrator<P> {
    /// Decides what a replica needs and plans it. A zero gap completes by itself: the stream lives
    /// when this returns. After the outcome needs rebuild the session is over; the plan says so.
    ///
    /// # Errors
    /// Authority; [`Failure::WrongKind`] for a rebuild session; those of
    /// [`Sender::handshake`](crate::sender::Sender::handshake); [`Failure::PinRefused`], after
    /// which the session is over; [`Failure::HistoryMoved`].
    pub fn plan<S: Storage<Pin = P>>(
        &mut self,
        call: Call<'_>,
        facts: &ReplicaFacts,
        storage: &mut S,
    ) -> Result<Plan<P>, Failure> {
        self.admit(call, false)?;
        for _ in 0..TRIES_MAX {
            let first = self.history(storage);
            let wanted = request(&outcome::classify(&first, facts));
            let pin = match wanted.map(|wanted| wanted.take(storage)).transpose() {
                Ok(pin) => pin,
                Err(refused) if self.history(storage) == first => {
                    return Err(self.refuse_pin(call, facts, &first, refused));
                }
                Err(_) => continue,
            };
            let seen = self.history(storage);
            if request(&outcome::classify(&seen, facts)) == wanted {
                return self.plan_seen(call, facts, &seen, pin, storage);
            }
        }
        Err(self.moved(call))
    }

    /// Plans a rebuild: source, target and pin are bound here and nowhere later (A190).
    ///
    /// # Errors
    /// As [`Self::plan`]; [`Failure::WrongKind`] for any other session.
    pub fn plan_rebuild<S: Storage<Pin = P>>(
        &mut self,
        call: Call<'_>,
        facts: &ReplicaFacts,
        asked: Asked,
        storage: &mut S,
    ) -> Result<Plan<P>, Failure> {
        self.admit(call, true)?;
        for _ in 0..TRIES_MAX {
            let before = self.history(storage);
            let first = outcome::classify(&before, facts);
            if first.outcome().is_none() {
                // OK because rows 1 to 3 hold for a rebuild too: this handshake is refused.
                self.handshake_or_wait(call, facts, &before)?;
            }
            let source = outcome::rebuild_source(&before, asked);
            let work = Work::Rebuild { source };
            let wanted = work.pin().expect("every source is pinned");
            let pin = match wanted.take(storage) {
                Ok(pin) => pin,
                Err(refused) if self.history(storage) == before => {
                    return Err(self.refuse_rebuild_pin(call, refused));
                }
                Err(_) => continue,
            };
            let seen = self.history(storage);
            if !still_sound(&seen, source) {
                continue;
            }
            let decision = self.handshake_or_wait(call, facts, &seen)?;
            self.asked(call.replica, call.now);
            let held = self.bind(call, source, pin)?;
            let names = (call.replica.clone(), call.session);
            return Ok(Plan::new(names, decision.proof, work, Some(held)));
        }
        Err(self.moved(call))
    }

    /// Whether the call has authority over a session that is planned this way.
    fn admit(&mut self, call: Call<'_>, rebuild: bool) -> Result<(), Failure> {
        let sender = self.registry.sender(call.replica);
        let kind = sender.and_then(|sender| sender.authority(call.session));
        let refused = match kind {
            Ok(kind) if (kind == Kind::Rebuild) == rebuild => return Ok(()),
            Ok(kind) => Failure::WrongKind {
                step: match rebuild {
                    true => Step::Rebuild,
                    false => Step::Handshake,
                },
                kind,
            },
            Err(failure) => failure,
        };
        self.log_of(
            call,
            match rebuild {
                true => What::RebuildSourceFailed(refused.clone()),
                false => What::HandshakeFailed(refused.clone()),
            },
        );
        Err(refused)
    }

    /// What storage holds, with what only the ledger knows: how far the ack rule has come.
    fn history<S: Storage<Pin = P>>(&self, storage: &mut S) -> History {
        let mut history = storage.history();
        history.standing = self.ledger.standing();
        history.committed = history.committed.max(self.ledger.committed());
        history
    }

    fn handshake(
        &mut self,
        call: Call<'_>,
        facts: &ReplicaFacts,
        history: &History,
    ) -> Result<Decision, Failure> {
        self.step(
            call,
            |sender| sender.handshake(call.session, facts, history),
            |decision| Some(handshake_event(decision)),
            |failure| match failure {
                Failure::NotYet(decision) => What::HandshakeDeferred {
                    proof: Box::new(decision.proof),
                },
                failure => What::HandshakeFailed(failure),
            },
        )
    }

    /// What a replica reports to an unconfirmed primary counts (D1). Records that it holds above
    /// our head under our own last entry may have been acknowledged, so they have to be fetched
    /// and covered as well before we are confirmed: a rebuild would drop them as surely as a
    /// truncation.
    fn count_handshake(&mut self, call: Call<'_>, decision: &Decision) {
        let was = self.ledger.standing();
        if let Verdict::NotYet { fetch: Some(range) } = decision.verdict {
            self.ledger.found_above(range.through);
        }
        if let Some(lsn) = decision.acknowledges {
            self.ledger.handshake_acknowledged(call.replica, lsn);
        }
        self.ledger.asked(call.replica);
        self.log_confirmed(was, call.now);
    }

    /// The handshake, which counts at once where the replica has to wait: it is neither cut nor
    /// rebuilt before we are confirmed, and we may need what it acknowledges for just that (D1).
    /// That it is to be rebuilt, or that we remember it as marked, changes nothing in this; one
    /// that knows of its mark acknowledges nothing.
    fn handshake_or_wait(
        &mut self,
        call: Call<'_>,
        facts: &ReplicaFacts,
        history: &History,
    ) -> Result<Decision, Failure> {
        let result = self.handshake(call, facts, history);
        if let Err(Failure::NotYet(decision)) = &result {
            self.count_handshake(call, decision);
        }
        result
    }

    /// R9: the facts have been seen under the pin, and from here the decision stands.
    fn plan_seen<S: Storage<Pin = P>>(
        &mut self,
        call: Call<'_>,
        facts: &ReplicaFacts,
        seen: &History,
        pin: Option<P>,
        storage: &mut S,
    ) -> Result<Plan<P>, Failure> {
        let decision = self.handshake_or_wait(call, facts, seen)?;
        self.count_handshake(call, &decision);
        let outcome = decision
            .outcome()
            .expect("a handshake that succeeds has an outcome");
        let work = Work::of(outcome);
        match work {
            Work::ZeroGap => self.complete_zero_gap(call, storage)?,
            Work::CatchUp { range, .. } => self.log_of(call, What::PlanCatchUp { range }),
            Work::TruncateOnly { to } => self.log_of(call, What::PlanTruncateOnly { to }),
            Work::NeedsRebuild => {
                let proof = Box::new(decision.proof.clone());
                self.log_of(call, What::Escalated { proof });
            }
            Work::Rebuild { .. } => unreachable!("R4: no outcome is a rebuild plan"),
        }
        let held = pin.map(Held::new);
        if let Some(held) = &held {
            let session_side = held.clone();
            self.step(
                call,
                |sender| sender.hold(call.session, session_side),
                |()| None,
                What::HandshakeFailed,
            )?;
        }
        let names = (call.replica.clone(), call.session);
        Ok(Plan::new(names, decision.proof, work, held))
    }

    fn complete_zero_gap<S: Storage<Pin = P>>(
        &mut self,
        call: Call<'_>,
        storage: &mut S,
    ) -> Result<(), Failure> {
        let zero_gap = true;
        self.step(
            call,
            |sender| sender.complete(call.session, |at| storage.pin_log(at)),
            |&at| Some(What::Completed { at, zero_gap }),
            What::CompletionRejected,
        )?;
        Ok(())
    }

    /// Fixes source and target in the session and hands it the pin.
    fn bind(&mut self, call: Call<'_>, source: Source, pin: P) -> Result<Held<P>, Failure> {
        let held = Held::new(pin);
        let session_side = held.clone();
        self.step(
            call,
            |sender| {
                sender.select_source(call.session, source, call.now)?;
                sender.hold(call.session, session_side)
            },
            |()| Some(What::RebuildSourceSelected(source)),
            What::RebuildSourceFailed,
        )?;
        self.log_of(
            call,
            match source.kind {
                SourceKind::SnapshotTail { .. } => What::PlanRebuildSnapshotTail(source),
                SourceKind::FullBase { .. } => What::PlanRebuildFullBase(source),
            },
        );
        Ok(held)
    }

    /// One fail-closed way out for every refused pin (H10): the session ends, its cause is logged.
    fn refuse_pin(
        &mut self,
        call: Call<'_>,
        facts: &ReplicaFacts,
        history: &History,
        refused: PinRefused,
    ) -> Failure {
        if let Err(failure) = self.handshake(call, facts, history) {
            return failure;
        }
        self.end_for_pin(call, refused, What::WalPinFailed(refused))
    }

    fn refuse_rebuild_pin(&mut self, call: Call<'_>, refused: PinRefused) -> Failure {
        let what = match refused.part {
            PinPart::FullBase => What::FullBasePinFailed(refused),
            PinPart::Snapshot | PinPart::Log => What::SnapshotPinFailed(refused),
        };
        self.end_for_pin(call, refused, what)
    }

    fn end_for_pin(&mut self, call: Call<'_>, refused: PinRefused, what: What) -> Failure {
        let ended = self.step(
            call,
            |sender| sender.pin_refused(call.session, refused),
            |()| Some(what.clone()),
            |_| what.clone(),
        );
        match ended {
            Ok(()) => Failure::PinRefused(refused),
            Err(failure) => failure,
        }
    }

    /// The history would not stand still. The session goes on and may be planned again.
    fn moved(&mut self, call: Call<'_>) -> Failure {
        let tries = TRIES_MAX;
        let failure = Failure::HistoryMoved { tries };
        self.log_of(call, What::HandshakeFailed(failure.clone()));
        failure
    }
}

/// The pin that a decision asks for.
fn request(decision: &Decision) -> Option<PinRequest> {
    decision.outcome().map(Work::of).and_then(|work| work.pin())
}

/// Whether a source that was chosen before its pin still holds under it. The pin itself keeps base
/// and log; what it cannot keep is a record from being found damaged.
fn still_sound(history: &History, source: Source) -> bool {
    match source.kind {
        SourceKind::SnapshotTail { base } => {
            let range = seawall_wal::LsnRange::new(base, source.target);
            history.recoverable(range).is_ok()
        }
        SourceKind::FullBase { .. } => true,
    }
}

fn handshake_event(decision: &Decision) -> What {
    What::Handshake {
        outcome: decision
            .outcome()
            .as_ref()
            .map_or("deferred", Outcome::name),
        proof: Box::new(decision.proof.clone()),
    }
}
