//! One primary, two replicas with their records, and everything that can happen to them.

use super::act::Act::{self, *};
use super::act::Event;
use super::*;
use crate::history::{DamageKind, Damaged};
use crate::rebuild::{self, Install};
use crate::testing::lineage;

const EPOCHS_MAX: u64 = 3;
const TICKS_MAX: u64 = 3;
const HEAD_MAX: usize = 5;

/// The replica: what it holds, record by record, and whom it is connected to.
pub(super) struct Node {
    pub(super) id: ReplicaId,
    /// The incarnation that wrote each record.
    pub(super) records: Vec<u64>,
    life: u8,
    marked: bool,
    link: Option<SessionId>,
    beside: Option<Vec<u64>>,
    endpoint: u64,
    assigned: bool,
    pub(super) plan: Option<Plan<TestPin>>,
    /// Ids that were current once.
    pub(super) old: Vec<SessionId>,
}

pub(super) struct World {
    pub(super) orchestrator: Orchestrator<TestPin>,
    pub(super) storage: TestStorage,
    pub(super) primary: Vec<u64>,
    pub(super) nodes: [Node; 2],
    pub(super) now: Tick,
    pub(super) version: u64,
}

impl Node {
    /// Whether it is connected and did not lose its directory since.
    pub(super) const fn is_here(&self) -> bool {
        self.link.is_some()
    }
}

fn node(name: &str, records: &[u64]) -> Node {
    Node {
        id: id(name),
        records: records.to_vec(),
        life: 1,
        marked: false,
        link: None,
        beside: None,
        endpoint: 1,
        assigned: true,
        plan: None,
        old: Vec::new(),
    }
}

/// The lineage of records given by their writers: incarnation n, always in epoch 1.
fn lineage_of(records: &[u64]) -> seawall_wal::Lineage {
    let mut entries: Vec<(u64, u64, u64)> = Vec::new();
    for (writer, at) in records.iter().zip(1..) {
        if entries.last().is_none_or(|last| last.1 != *writer) {
            entries.push((1, *writer, at));
        }
    }
    lineage(&entries)
}

impl World {
    /// The primary holds 1 to 4, of which 3 are committed and 1 is reclaimed; its base is at 2.
    pub(super) fn new(records: [&[u64]; 2]) -> World {
        let mut storage = TestStorage::new(history(4).committed(3).tail(1).base(2));
        storage.history.durable = lsn(4);
        let registry = Registry::new(EPOCH, SessionIds::new(1));
        let members = ["r1", "r2"].map(ReplicaId::new);
        let mut ledger = Ledger::confirmed(AckRule::Quorum, members, lsn(3));
        ledger.synced(lsn(4));
        let mut world = World {
            orchestrator: Orchestrator::new(registry, ledger, EventLog::default()),
            storage,
            primary: vec![1; 4],
            nodes: [node("r1", records[0]), node("r2", records[1])],
            now: T0,
            version: 0,
        };
        world.assign(EPOCH, None);
        world
    }

    fn assign(&mut self, epoch: Epoch, target: Option<(usize, Kind)>) -> Assigned {
        self.version += 1;
        let assignment = self.assignment(epoch, target);
        self.orchestrator.assign(&assignment, self.now)
    }

    pub(super) fn assignment(&self, epoch: Epoch, target: Option<(usize, Kind)>) -> Assignment {
        let listed = self.nodes.iter().filter(|node| node.assigned);
        let listed = listed.map(|node| {
            let address = Endpoint {
                version: node.endpoint,
                ..endpoint(node.id.as_str())
            };
            (node.id.clone(), address)
        });
        let mut assignment = Assignment::of(listed.collect(), epoch);
        assignment.version = Some(self.version);
        match target {
            Some((at, kind)) => assignment.recovering(self.nodes[at].id.clone(), kind),
            None => assignment,
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.orchestrator.registry.epoch()
    }

    pub(super) fn sender(&self, at: usize) -> Option<&Sender<TestPin>> {
        self.orchestrator.registry.sender(&self.nodes[at].id).ok()
    }

    fn current(&self, at: usize) -> Option<SessionId> {
        let sender = self.sender(at)?;
        sender.session_id().or(sender.stream_id())
    }

    fn phase(&self, at: usize) -> Option<Phase> {
        Some(self.sender(at)?.view().session?.phase().clone())
    }

    fn machine(&self, at: usize) -> Option<rebuild::Phase> {
        match self.phase(at)? {
            Phase::Rebuilding { machine, .. } => Some(machine.phase().clone()),
            _ => None,
        }
    }

    pub(super) fn facts(&self, at: usize) -> ReplicaFacts {
        let node = &self.nodes[at];
        let empty = ReplicaFacts::empty(NodeIncarnation([node.life; 16]));
        ReplicaFacts {
            volume: (node.life == 1).then_some(crate::testing::VOLUME),
            durable: lsn(node.records.len() as u64),
            lineage: lineage_of(&node.records),
            needs_rebuild: node.marked,
            ..empty
        }
        .named(&node.records)
    }

    /// Lets something happen. `false` when it cannot happen now.
    pub(super) fn apply(&mut self, (act, at): Event) -> bool {
        let before = [0, 1].map(|at| self.current(at));
        let happened = match act {
            RaiseEpoch | AssignEpoch | Wait | Write | Reclaim | Damage => self.on_primary(act),
            Move | Reassign | Takeover => self.on_assignment(act, at),
            _ => self.on_replica(act, at).unwrap_or(false),
        };
        for (at, before) in before.into_iter().enumerate() {
            if let Some(before) = before.filter(|before| self.current(at) != Some(*before)) {
                let node = &mut self.nodes[at];
                node.old = vec![before];
                node.link = None;
                node.beside = None;
            }
        }
        happened
    }

    fn on_primary(&mut self, act: Act) -> bool {
        let next = self.epoch().next();
        match act {
            RaiseEpoch if next.get() <= EPOCHS_MAX => {
                self.orchestrator.advance_epoch(next, self.now);
            }
            AssignEpoch if next.get() <= EPOCHS_MAX => {
                self.assign(next, None);
            }
            Wait if self.now.0 < TICKS_MAX => self.now.0 += 1,
            Write if self.primary.len() < HEAD_MAX => {
                self.primary.push(1);
                let head = lsn(self.primary.len() as u64);
                self.storage.history.head = head;
                self.storage.history.durable = head;
                self.orchestrator.synced(head, self.now);
            }
            Reclaim if self.storage.history.tail < lsn(2) && self.lowest_pin() >= lsn(2) => {
                self.storage.history.tail = lsn(2);
                self.storage.history.first_retained = lsn(3);
            }
            Damage if self.storage.history.damage.is_empty() => {
                self.storage.history.damage = vec![Damaged::at(lsn(3), DamageKind::Corrupt)];
            }
            _ => return false,
        }
        true
    }

    /// What reclaim has to respect.
    fn lowest_pin(&self) -> Lsn {
        let plans = self.nodes.iter().filter_map(|node| node.plan.as_ref());
        let plans = plans.filter_map(|plan| plan.with_pin(|pin| pin.after));
        let streams = (0..2).filter_map(|at| self.sender(at)?.view().stream);
        let streams = streams.map(|stream| stream.acknowledged);
        plans.chain(streams).min().unwrap_or(lsn(9))
    }

    fn on_assignment(&mut self, act: Act, at: usize) -> bool {
        let epoch = self.epoch();
        let assigned = match act {
            Move if self.nodes[at].endpoint == 1 => {
                self.nodes[at].endpoint = 2;
                self.assign(epoch, None)
            }
            Reassign => {
                self.nodes[at].assigned ^= true;
                self.assign(epoch, None)
            }
            Takeover => self.assign(epoch, Some((at, Kind::Rebuild))),
            _ => return false,
        };
        assert_eq!(assigned.refused, None);
        true
    }

    /// `None` when there is no session or stream to act on.
    fn on_replica(&mut self, act: Act, at: usize) -> Option<bool> {
        let now = self.now;
        let replica = self.nodes[at].id.clone();
        if let Attach | AttachRebuild = act {
            let kind = match act {
                Attach => Kind::CatchUp,
                _ => Kind::Rebuild,
            };
            let budget = crate::budget::Budget {
                stall_ticks_max: Some(1),
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
            if node.life > 1 {
                return Some(false);
            }
            (node.life, node.marked, node.link, node.beside) = (2, false, None, None);
            node.records.clear();
            return Some(true);
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
            CompleteUnpinned => {
                self.storage.refuse = Some(PinPart::Log);
                let result = self.orchestrator.complete(call, &mut self.storage);
                self.storage.refuse = None;
                linked && result.is_ok() || matches!(result, Err(Failure::PinRefused(_)))
            }
            Install | Verify | VerifyDiffers | BeginTail | TailAck | Finish | FinishDiffers
            | FinishUnheard => linked && self.rebuild(act, call, at)?,
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
                self.orchestrator
                    .ship(&replica, session, head, head)
                    .is_ok()
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
        self.nodes[at].plan = planned.ok();
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
                node.marked = false;
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
            } => source.target,
            rebuild::Phase::Tail { source, .. } => source.target,
            _ => return false,
        };
        let beside = self.nodes[at].beside.as_ref();
        beside.is_some_and(|beside| beside.len() as u64 == target.get())
    }

    /// All that matters of a state, in words; session ids are not part of it.
    pub(super) fn signature(&self) -> String {
        use std::fmt::Write as _;
        let mut text = format!(
            "{:?} {:?} {:?} {:?} {} pins",
            self.now,
            self.storage.history,
            self.orchestrator.ledger.committed(),
            self.epoch(),
            self.storage.count.held(),
        );
        for (at, node) in self.nodes.iter().enumerate() {
            let linked = node.link.is_some() && node.link == self.current(at);
            let pinned = node.plan.as_ref().map(Plan::is_pinned);
            write!(
                text,
                "\n{:?} {} {} {linked} {:?} {} {} {pinned:?} {} ",
                node.records,
                node.life,
                node.marked,
                node.beside,
                node.endpoint,
                node.assigned,
                node.old.is_empty(),
            )
            .unwrap();
            if let Some(sender) = self.sender(at) {
                let view = sender.view();
                let phase = view.session.map(|s| (s.kind(), s.phase().clone()));
                let stream = view.stream.map(|s| (s.epoch, s.shipped, s.acknowledged));
                write!(
                    text,
                    "{:?} {} {:?} {:?} {phase:?} {stream:?}",
                    view.state, view.needs_rebuild, view.epoch, view.endpoint,
                )
                .unwrap();
            }
        }
        text
    }
}

impl ReplicaFacts {
    /// An empty directory names no volume; one with records does (D8).
    fn named(mut self, records: &[u64]) -> ReplicaFacts {
        if !records.is_empty() {
            self.volume = Some(crate::testing::VOLUME);
        }
        self
    }
}
