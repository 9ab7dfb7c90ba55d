//! What can happen to one replica, and what the primary's driver does with it.

use super::act::Act::{self, *};
use super::world::{Replica, STALL_TICKS, World};
use super::*;
use crate::outcome::Verdict;
use crate::rebuild::{self, Install};

impl World {
    /// `None` when there is no session or stream to act on.
    pub(super) fn on_replica(&mut self, act: Act, at: usize) -> Option<bool> {
        let now = self.now;
        let replica = self.nodes[at].id.clone();
        if let Attach | AttachRebuild = act {
            let kind = match act {
                Attach => Kind::CatchUp,
                _ => Kind::Rebuild,
            };
            let budget = crate::budget::Budget {
                stall_ticks_max: Some(STALL_TICKS),
                ..crate::budget::Budget::UNBOUNDED
            };
            let options = SessionOptions { kind, budget };
            return Some(self.orchestrator.attach(&replica, options, now).is_ok());
        }
        if let DropPlan = act {
            return Some(self.nodes[at].plan.take().is_some());
        }
        if let Cancel = act {
            let plan = self.nodes[at].plan.take()?;
            self.orchestrator.cancel(plan, Cancelled::ByRequest, now);
            return Some(true);
        }
        if let Wipe = act {
            let node = &mut self.nodes[at];
            let wiped = Replica {
                life: node.life.wrapping_add(1),
                endpoint: node.endpoint,
                assigned: node.assigned,
                remembered: node.remembered,
                old: node.old.clone(),
                ..Replica::new(node.id.as_str(), &[])
            };
            node.replica = wiped;
            return Some(true);
        }
        if let NotReached = act {
            let (_, _, asked) = self.orchestrator.ledger.known(&replica);
            let unasked = !asked && self.sender(at)?.session_id().is_none();
            if unasked {
                self.orchestrator.asked(&replica, now);
            }
            return Some(unasked);
        }
        let session = self.current(at)?;
        let call = Call {
            now,
            replica: &replica,
            session,
        };
        let linked = self.nodes[at].link == Some(session);
        Some(match act {
            Connect => {
                let connected = self.orchestrator.connect(call).is_ok();
                if connected {
                    self.nodes[at].link = Some(session);
                }
                connected
            }
            Fetch => linked && self.fetch(call, at),
            Decide | DecideUnpinned => linked && self.plan(call, at, act == DecideUnpinned),
            Begin => {
                let Phase::Handshake { range, .. } = self.phase(at)? else {
                    return Some(false);
                };
                self.orchestrator.begin_catch_up(call, range).is_ok()
            }
            Cut => linked && self.cut(call, at)?,
            Send | Ack => linked && self.catch_up(call, at, act == Ack)?,
            Complete => linked && self.orchestrator.complete(call, &mut self.storage).is_ok(),
            CompleteUnpinned if linked => {
                self.storage.refuse = Some(PinPart::Log);
                let result = self.orchestrator.complete(call, &mut self.storage);
                self.storage.refuse = None;
                result.is_ok() || matches!(result, Err(Failure::PinRefused(_)))
            }
            Install | InstallInPlace | Verify | VerifyDiffers | BeginTail | TailAck | Finish
            | FinishDiffers | FinishUnheard => linked && self.rebuild(act, call, at)?,
            LinkLost => self.orchestrator.link_lost(call, Link::Closed).is_ok(),
            Silence | CheckBudget => {
                let peer = match act {
                    Silence => Peer::Silent,
                    _ => Peer::Answers,
                };
                self.orchestrator.check_budget(call, peer).is_err()
            }
            Ship => {
                let head = self.storage.history.durable;
                self.orchestrator.ship(call, head, head).is_ok()
            }
            StreamAck => {
                let stream = self.sender(at)?.view().stream?;
                if !linked {
                    return Some(false);
                }
                let held = self.nodes[at].records.len() as u64;
                assert_eq!(
                    held,
                    stream.acknowledged.get(),
                    "a stream goes on where it ended"
                );
                let shipped = usize::try_from(stream.shipped.get()).unwrap();
                let more = &self.primary[self.nodes[at].records.len()..shipped];
                self.nodes[at].records.extend(more);
                self.orchestrator.acknowledge(call, stream.shipped).unwrap();
                !more.is_empty()
            }
            StreamLost => {
                let cause = StreamEnd::LinkLost(Link::Closed);
                self.orchestrator.stream_lost(call, cause).is_ok()
            }
            _ => false,
        })
    }

    fn plan(&mut self, call: Call<'_>, at: usize, unpinned: bool) -> bool {
        let facts = self.facts(at);
        let phase = self.phase(at);
        if phase != Some(Phase::Connecting) {
            return false;
        }
        let kind = self.sender(at).unwrap().authority(call.session).unwrap();
        let rebuild = kind == Kind::Rebuild;
        let storage = &mut self.storage;
        if unpinned {
            let source = outcome::rebuild_source(&storage.history, Asked::Any);
            storage.refuse = Some(match (rebuild, source.snapshot()) {
                (false, _) => PinPart::Log,
                (true, Some(_)) => PinPart::Snapshot,
                (true, None) => PinPart::FullBase,
            });
        }
        let planned = match rebuild {
            true => self
                .orchestrator
                .plan_rebuild(call, &facts, Asked::Any, storage),
            false => self.orchestrator.plan(call, &facts, storage),
        };
        storage.refuse = None;
        self.nodes[at].adopted = true;
        self.nodes[at].plan = planned.ok();
        true
    }

    /// The records above our head go into our log before anything new does (D1).
    fn fetch(&mut self, call: Call<'_>, at: usize) -> bool {
        if self.phase(at) != Some(Phase::Connecting) {
            return false;
        }
        let history = History {
            standing: self.orchestrator.ledger.standing(),
            ..self.storage.history.clone()
        };
        let Verdict::NotYet { fetch: Some(range) } =
            outcome::classify(&history, &self.facts(at)).verdict
        else {
            return false;
        };
        let through = usize::try_from(range.through.get()).unwrap();
        let found = &self.nodes[at].records[self.primary.len()..through];
        self.primary.extend(found);
        self.extend_to_head();
        self.orchestrator.fetched(call, range);
        true
    }

    fn cut(&mut self, call: Call<'_>, at: usize) -> Option<bool> {
        let truncation = match self.phase(at)? {
            Phase::Handshake { truncation, .. } | Phase::CatchUp { truncation, .. } => truncation,
            _ => return Some(false),
        };
        let crate::session::Truncation::Required(to) = truncation else {
            return Some(false);
        };
        let keep = usize::try_from(to.get()).unwrap();
        self.nodes[at].records.truncate(keep);
        Some(self.orchestrator.truncated(call, to).is_ok())
    }

    fn catch_up(&mut self, call: Call<'_>, at: usize, ack: bool) -> Option<bool> {
        let Phase::CatchUp {
            recovered_to,
            sent_to,
            ..
        } = self.phase(at)?
        else {
            return Some(false);
        };
        if !ack {
            return Some(self.orchestrator.sent(call, sent_to.next(), 1).is_ok());
        }
        if recovered_to == sent_to {
            return Some(false);
        }
        let held = self.nodes[at].records.len();
        assert_eq!(
            held as u64,
            recovered_to.get(),
            "records follow what is held"
        );
        self.nodes[at].records.push(self.primary[held]);
        self.orchestrator
            .progress(call, recovered_to.next())
            .unwrap();
        Some(true)
    }

    fn rebuild(&mut self, act: Act, call: Call<'_>, at: usize) -> Option<bool> {
        let machine = self.machine(at)?;
        let differs = Compared {
            expected: 7,
            found: 8,
        };
        Some(match (act, machine) {
            (Install, rebuild::Phase::SourceSelect { .. }) => {
                self.nodes[at].marked = true;
                self.orchestrator
                    .begin_transfer(call, Install::Beside)
                    .unwrap();
                true
            }
            (InstallInPlace, rebuild::Phase::SourceSelect { .. }) => {
                let node = &mut self.nodes[at];
                (node.marked, node.incomplete) = (true, true);
                node.records.clear();
                self.orchestrator
                    .begin_transfer(call, Install::InPlace)
                    .unwrap();
                true
            }
            (Verify, rebuild::Phase::Transfer { source, .. }) => {
                let through = source.snapshot().unwrap_or(source.target);
                let base = &self.primary[..usize::try_from(through.get()).unwrap()];
                self.nodes[at].beside = Some(base.to_vec());
                self.orchestrator
                    .base_verified(call, through, EQUAL)
                    .is_ok()
            }
            (VerifyDiffers, rebuild::Phase::Transfer { source, .. }) => {
                let through = source.snapshot().unwrap_or(source.target);
                self.orchestrator
                    .base_verified(call, through, differs)
                    .unwrap_err();
                true
            }
            (BeginTail, rebuild::Phase::Transfer { .. }) => {
                self.orchestrator.begin_tail(call).is_ok()
            }
            (TailAck, rebuild::Phase::Tail { applied, source }) if applied < source.target => {
                let beside = self.nodes[at].beside.as_mut().expect("a verified base");
                assert_eq!(beside.len() as u64, applied.get());
                beside.push(self.primary[beside.len()]);
                self.orchestrator
                    .tail_progress(call, applied.next())
                    .unwrap();
                true
            }
            (FinishDiffers, _) => self
                .orchestrator
                .complete_rebuild(call, differs, &mut self.storage)
                .is_err_and(|failure| matches!(failure, Failure::DigestDiffers { .. })),
            (Finish | FinishUnheard, machine) if self.is_whole(at, &machine) => {
                let node = &mut self.nodes[at];
                node.records = node.beside.take().expect("a whole base");
                (node.marked, node.incomplete) = (false, false);
                if act == FinishUnheard {
                    return Some(self.orchestrator.link_lost(call, Link::Closed).is_ok());
                }
                let done = self
                    .orchestrator
                    .complete_rebuild(call, EQUAL, &mut self.storage);
                done.unwrap();
                true
            }
            _ => false,
        })
    }

    /// Whether the replica may switch: a verified base, and the tail through the target.
    fn is_whole(&self, at: usize, machine: &rebuild::Phase) -> bool {
        let target = match machine {
            rebuild::Phase::Transfer {
                source,
                base_verified: true,
                ..
            } if source.snapshot().is_none() => source.target,
            rebuild::Phase::Tail { source, .. } => source.target,
            _ => return false,
        };
        let beside = self.nodes[at].beside.as_ref();
        beside.is_some_and(|beside| beside.len() as u64 == target.get())
    }
}
