//! The handshake of a session: facts in, decision out, its meaning for session and mark.

use seawall_wal::{Lsn, LsnRange};

use super::{MarkCause, Note, Sender, State, Work};
use crate::failure::{Failure, Invalidation};
use crate::history::{History, ReplicaFacts};
use crate::id::SessionId;
use crate::outcome::{self, Asked, Decision, Outcome, Reason, Verdict};
use crate::plan::Pin;
use crate::session::{self, Kind, Step};

impl<P: Pin> Sender<P> {
    /// Decides what the replica needs, from its facts and our history, and notes the result in the
    /// session. The decision carries the proof. After the outcome needs rebuild the session is
    /// over and the replica marked.
    ///
    /// # Errors
    /// Authority, [`Failure::WrongPhase`]; [`Failure::NotYet`], after which the session still
    /// connects; [`Failure::HandshakeRefused`] and [`Failure::NeedsRebuild`] (the replica carries a
    /// mark of its own), after which it is over.
    pub fn handshake(
        &mut self,
        id: SessionId,
        facts: &ReplicaFacts,
        history: &History,
    ) -> Result<Decision, Failure> {
        let session = self.session(id)?;
        if !matches!(session.phase(), session::Phase::Connecting) {
            return Err(Failure::WrongPhase {
                step: Step::Handshake,
                phase: session.phase().name(),
            });
        }
        let kind = session.kind();
        let decision = outcome::classify(history, facts);
        if let Verdict::Refused = decision.verdict {
            let proof = Box::new(decision.proof);
            self.invalidate_to(
                Invalidation::HandshakeRefused(proof.clone()),
                State::Disconnected,
            );
            return Err(Failure::HandshakeRefused(proof));
        }
        self.recognise(facts);
        if let Verdict::NotYet { .. } = decision.verdict {
            return Err(Failure::NotYet(Box::new(decision)));
        }
        if kind == Kind::Rebuild {
            let source = outcome::rebuild_source(history, Asked::Any);
            let range = LsnRange::new(Lsn::ZERO, source.target);
            self.agree(range, None);
            return Ok(decision);
        }
        if facts.needs_rebuild {
            self.mark(MarkCause::ReplicaSaysSo);
            self.invalidate_to(Invalidation::ReplicaMarked, State::NeedsRebuild);
            return Err(Failure::NeedsRebuild {
                replica: self.replica.clone(),
            });
        }
        self.apply(&decision);
        Ok(decision)
    }

    /// Which life of the replica's directory speaks to us. Another one than before voids what it
    /// acknowledged; if it also starts from nothing, its identity was reset, and the mark that was
    /// about the old one is gone (D8).
    pub(crate) fn recognise(&mut self, facts: &ReplicaFacts) {
        let known = self.node.replace(facts.node);
        if known.is_none_or(|known| known == facts.node) {
            return;
        }
        let node = facts.node;
        self.notes.push(Note::AcknowledgementsVoided { node });
        let starts_empty = facts.durable.is_zero() && facts.incomplete_base.is_none();
        if starts_empty && !facts.needs_rebuild {
            self.clear_mark();
        }
    }

    /// What an outcome means for the session.
    fn apply(&mut self, decision: &Decision) {
        let Some(outcome) = decision.outcome() else {
            unreachable!("R4: deferred and refused decisions were answered above");
        };
        match outcome {
            Outcome::ZeroGap => {
                let at = decision.proof.replica_durable;
                self.agree(LsnRange::new(at, at), None);
            }
            Outcome::CatchUp { range, truncate_to } => self.agree(range, truncate_to),
            Outcome::NeedsRebuild => {
                if let Reason::Damaged { lsn, kind } = decision.proof.reason {
                    self.notes.push(Note::DamageFound { lsn, kind });
                }
                self.mark(MarkCause::Outcome);
                let proof = Box::new(decision.proof.clone());
                let reason = Invalidation::GapExceedsRetention(proof);
                self.invalidate_to(reason, State::NeedsRebuild);
            }
        }
    }

    fn agree(&mut self, range: LsnRange, truncate_to: Option<Lsn>) {
        let Work::Session { session, .. } = &mut self.work else {
            unreachable!("R4: a handshake belongs to a session");
        };
        session
            .on(session::Event::Handshake { range, truncate_to })
            .expect("a decided range never ends before it begins");
    }
}
