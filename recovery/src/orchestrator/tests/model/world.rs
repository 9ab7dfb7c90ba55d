//! One primary, two replicas with their records, and everything that can happen to them.

use super::act::Act::{self, *};
use super::act::{Event, ORDERLY};
use super::*;
use crate::history::{DamageKind, Damaged, IncompleteBase};
use crate::plan::Held;
use crate::rebuild;
use crate::testing::lineage;

const HEAD_MAX: usize = 3;
/// Budget of every session.
pub(super) const STALL_TICKS: u64 = 1;
/// What wrote the records that primary and replicas share at the start, and what a replica holds
/// that the primary never had.
const SHARED: u64 = 1;
pub(super) const FOREIGN: u64 = 2;

/// The replica: what it holds, record by record, and whom it is connected to.
#[derive(Clone)]
pub(super) struct Replica {
    pub(super) id: ReplicaId,
    /// The incarnation that wrote each record.
    pub(super) records: Vec<u64>,
    /// Which life its directory has, and whether it has a volume id although it holds nothing.
    pub(super) life: u8,
    pub(super) adopted: bool,
    pub(super) marked: bool,
    /// A base that was being installed over the old state.
    pub(super) incomplete: bool,
    pub(super) link: Option<SessionId>,
    pub(super) beside: Option<Vec<u64>>,
    pub(super) endpoint: u64,
    pub(super) assigned: bool,
    /// What the primary remembers of it while it is not assigned (D8).
    pub(super) remembered: (bool, Option<NodeIncarnation>),
    /// Ids that were current once: the last session and the last of another boot.
    pub(super) old: Vec<SessionId>,
}

pub(super) struct Node {
    pub(super) replica: Replica,
    pub(super) plan: Option<Plan<TestPin>>,
}

impl std::ops::Deref for Node {
    type Target = Replica;
    fn deref(&self) -> &Replica {
        &self.replica
    }
}

impl std::ops::DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Replica {
        &mut self.replica
    }
}

pub(super) struct World {
    pub(super) orchestrator: Orchestrator<TestPin>,
    pub(super) storage: TestStorage,
    pub(super) primary: Vec<u64>,
    /// What writes the next record of the primary.
    pub(super) incarnation: u64,
    pub(super) nodes: [Node; 2],
    pub(super) now: Tick,
    pub(super) version: u64,
    boot: u64,
}

impl Replica {
    pub(super) fn new(name: &str, records: &[u64]) -> Replica {
        Replica {
            id: id(name),
            records: records.to_vec(),
            life: 1,
            adopted: !records.is_empty(),
            marked: false,
            incomplete: false,
            link: None,
            beside: None,
            endpoint: 1,
            assigned: true,
            remembered: (false, None),
            old: Vec::new(),
        }
    }

    pub(super) const fn node(&self) -> NodeIncarnation {
        NodeIncarnation([self.life; 16])
    }

    /// Whether it is connected and did not lose its directory since.
    pub(super) const fn is_here(&self) -> bool {
        self.link.is_some()
    }
}

fn entries_of(records: &[u64]) -> Vec<(u64, u64, u64)> {
    let mut entries: Vec<(u64, u64, u64)> = Vec::new();
    for (writer, at) in records.iter().zip(1..) {
        if entries.last().is_none_or(|last| last.1 != *writer) {
            entries.push((1, *writer, at));
        }
    }
    entries
}

impl World {
    /// The primary holds 1 and 2, of which 1 is committed; its base is at 1.
    pub(super) fn new(records: [&[u64]; 2]) -> World {
        let storage = TestStorage::new(history(2).committed(1).base(1));
        let registry = Registry::new(EPOCH, SessionIds::new(1));
        let members = ["r1", "r2"].map(ReplicaId::new);
        let mut ledger = Ledger::confirmed(AckRule::Quorum, members, lsn(1));
        ledger.synced(lsn(2));
        let [first, second] = records;
        let nodes = [("r1", first), ("r2", second)].map(|(name, records)| Node {
            replica: Replica::new(name, records),
            plan: None,
        });
        let mut world = World {
            orchestrator: Orchestrator::new(registry, ledger, EventLog::new(1)),
            storage,
            primary: vec![SHARED; 2],
            incarnation: FOREIGN + 1,
            nodes,
            now: T0,
            version: 0,
            boot: 1,
        };
        world.extend_to_head();
        world.assign(EPOCH, None);
        world
    }

    /// A copy that shares nothing with this world.
    pub(super) fn forked(&self) -> World {
        let count = crate::testing::pins();
        let (registry, slots) = self.orchestrator.registry.forked(&count);
        let slot = |session| slots.iter().find(|slot| slot.0 == session);
        let plan = |plan: &Plan<TestPin>| {
            let names = (plan.replica.clone(), plan.session);
            let held = slot(plan.session).map(|slot| Held::clone(&slot.1));
            Plan::new(names, plan.proof.clone(), plan.work, held)
        };
        let node = |node: &Node| Node {
            replica: node.replica.clone(),
            plan: node.plan.as_ref().map(plan),
        };
        let ledger = self.orchestrator.ledger.clone();
        World {
            nodes: [node(&self.nodes[0]), node(&self.nodes[1])],
            orchestrator: Orchestrator::new(registry, ledger, EventLog::new(1)),
            storage: TestStorage {
                count,
                ..TestStorage::new(self.storage.history.clone())
            },
            primary: self.primary.clone(),
            incarnation: self.incarnation,
            now: self.now,
            version: self.version,
            boot: self.boot,
        }
    }

    /// The log ends where the records do, and the next record has the entry of this incarnation.
    pub(super) fn extend_to_head(&mut self) {
        let head = lsn(self.primary.len() as u64);
        let mut entries = entries_of(&self.primary);
        if self.primary.last() != Some(&self.incarnation) {
            entries.push((1, self.incarnation, head.next().get()));
        }
        let history = &mut self.storage.history;
        (history.head, history.durable) = (head, head);
        history.lineage = lineage(&entries);
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

    pub(super) fn current(&self, at: usize) -> Option<SessionId> {
        let sender = self.sender(at)?;
        sender.session_id().or(sender.stream_id())
    }

    pub(super) fn phase(&self, at: usize) -> Option<Phase> {
        Some(self.sender(at)?.view().session?.phase().clone())
    }

    pub(super) fn machine(&self, at: usize) -> Option<rebuild::Phase> {
        match self.phase(at)? {
            Phase::Rebuilding { machine, .. } => Some(machine.phase().clone()),
            _ => None,
        }
    }

    pub(super) fn facts(&self, at: usize) -> ReplicaFacts {
        let node = &self.nodes[at];
        let base = IncompleteBase {
            session: SessionId {
                boot: 0,
                counter: 0,
            },
            base: lsn(1),
        };
        ReplicaFacts {
            volume: node.adopted.then_some(crate::testing::VOLUME),
            durable: lsn(node.records.len() as u64),
            lineage: lineage(&entries_of(&node.records)),
            incomplete_base: node.incomplete.then_some(base),
            needs_rebuild: node.marked,
            ..ReplicaFacts::empty(node.node())
        }
    }

    /// Lets something happen. `false` when it cannot happen now.
    pub(super) fn apply(&mut self, (act, at): Event) -> bool {
        let before = [0, 1].map(|at| self.current(at));
        let happened = match act {
            RaiseEpoch | AssignEpoch | Wait | Write | Reclaim | Damage | Restart => {
                self.on_primary(act)
            }
            Move | Reassign | Takeover => self.on_assignment(act, at),
            Recover => self.recover(at),
            _ => self.on_replica(act, at).unwrap_or(false),
        };
        for (at, before) in before.into_iter().enumerate() {
            if let Some(before) = before.filter(|before| self.current(at) != Some(*before)) {
                let node = &mut self.nodes[at];
                node.old.retain(|old| old.boot != before.boot);
                node.old.push(before);
                node.link = None;
                node.beside = None;
            }
            let session = self.sender(at).and_then(Sender::session_id);
            let plan = &mut self.nodes[at].plan;
            if plan
                .as_ref()
                .is_some_and(|plan| Some(plan.session) != session)
            {
                let pinned = plan.take().is_some_and(|plan| plan.is_pinned());
                assert!(!pinned, "R5: a session that ends takes the pin of its plan");
            }
        }
        happened
    }

    /// Drives a replica on without faults until it is in sync.
    fn recover(&mut self, at: usize) -> bool {
        let in_sync = |world: &World| {
            let sender = world.sender(at);
            sender.is_some_and(|sender| sender.state() == State::InSync)
        };
        if in_sync(self) {
            return false;
        }
        let mut steps = 0..40;
        while !in_sync(self) && steps.next().is_some() {
            let mut acts = ORDERLY.iter();
            if !acts.any(|act| self.apply((*act, at))) {
                break;
            }
        }
        steps.start > 0
    }

    fn on_primary(&mut self, act: Act) -> bool {
        let next = self.epoch().next();
        let standing = self.orchestrator.ledger.standing();
        let committed = self.orchestrator.ledger.committed();
        match act {
            RaiseEpoch => {
                self.orchestrator.advance_epoch(next, self.now);
            }
            AssignEpoch => {
                let assigned = self.assign(next, None);
                assert_eq!(assigned.refused, None);
            }
            Wait if (0..2).any(|at| matches!(self.slack(at), Some(1..=STALL_TICKS))) => {
                self.now.0 += 1;
            }
            // Appends wait until the primary is confirmed (D1).
            Write if self.primary.len() < HEAD_MAX && standing == Standing::Confirmed => {
                self.primary.push(self.incarnation);
                self.extend_to_head();
                let head = self.storage.history.durable;
                self.orchestrator.synced(head, self.now);
            }
            Reclaim
                if self.storage.history.tail < lsn(1)
                    && self.lowest_pin() >= lsn(1)
                    && committed >= lsn(1) =>
            {
                self.storage.history.tail = lsn(1);
                self.storage.history.first_retained = lsn(2);
            }
            Damage if self.storage.history.damage.is_empty() => {
                self.storage.history.damage = vec![Damaged::at(lsn(2), DamageKind::Corrupt)];
            }
            Restart => self.restart(),
            _ => return false,
        }
        true
    }

    /// What is durable is the log, the marks and the nodes; committed is a lower bound (D1, D8).
    fn restart(&mut self) {
        for at in 0..2 {
            self.remember(at);
        }
        for node in &mut self.nodes {
            node.plan = None;
        }
        self.boot += 1;
        self.incarnation += 1;
        self.extend_to_head();
        let assigned = self.nodes.iter().filter(|node| node.assigned);
        let members = assigned.map(|node| node.id.clone());
        let History {
            durable, committed, ..
        } = self.storage.history;
        let ledger = Ledger::reopened(AckRule::Quorum, members, durable, committed);
        let registry = Registry::new(self.epoch(), SessionIds::new(self.boot));
        self.orchestrator = Orchestrator::new(registry, ledger, EventLog::new(1));
        self.assign(self.epoch(), None);
        for at in 0..2 {
            self.restore(at);
        }
    }

    fn remember(&mut self, at: usize) {
        if let Some(sender) = self.sender(at) {
            self.nodes[at].replica.remembered = (sender.needs_rebuild(), sender.known_node());
        }
    }

    fn restore(&mut self, at: usize) {
        let (marked, node) = self.nodes[at].remembered;
        let replica = self.nodes[at].id.clone();
        // OK because a replica that is not assigned has nothing to restore.
        let _ = self.orchestrator.restore(&replica, marked, node, self.now);
    }

    /// Ticks until the session of this replica has stalled; `None` when no tracker runs.
    pub(super) fn slack(&self, at: usize) -> Option<u64> {
        let session = self.sender(at)?.view().session?;
        (0..=STALL_TICKS + 1).find(|more| {
            let then = Tick(self.now.0 + more);
            session.check_budget(then, Peer::Answers).is_some()
        })
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
            // Where it was, or where it was not: only the difference counts.
            Move => {
                self.nodes[at].endpoint += 1;
                self.assign(epoch, None)
            }
            Reassign => {
                self.remember(at);
                self.nodes[at].assigned ^= true;
                let assigned = self.assign(epoch, None);
                self.restore(at);
                assigned
            }
            Takeover => self.assign(epoch, Some((at, Kind::Rebuild))),
            _ => return false,
        };
        assert_eq!(assigned.refused, None);
        true
    }
}
