//! What makes two states the same: all that what follows can depend on, and nothing else.
//!
//! Left out, or reduced to what counts of it: session ids, boots, versions and endpoints (only
//! whether one is current counts), the epoch (all that lives is of the current one, which
//! `check` asserts in every state), clocks (ticks until the stall), incarnations (renamed in
//! order of appearance), the event log, and which replica is called the first.

use super::world::World;
use super::*;
use crate::outcome::{Source, SourceKind};
use crate::rebuild;
use crate::session::Truncation;
use xxhash_rust::xxh3::xxh3_128;

struct Bytes(Vec<u8>);

impl Bytes {
    fn put(&mut self, n: impl TryInto<u8>) {
        let n = n.try_into().ok().filter(|n| *n < 0xf0);
        self.0.push(n.expect("numbers of the model are small"));
    }

    fn lsn(&mut self, lsn: Option<Lsn>) {
        match lsn {
            Some(lsn) => self.put(lsn.get()),
            None => self.0.push(0xf0),
        }
    }

    fn range(&mut self, range: LsnRange) {
        self.lsn(Some(range.after));
        self.lsn(Some(range.through));
    }

    fn truncation(&mut self, truncation: Truncation) {
        match truncation {
            Truncation::NotRequired => self.lsn(None),
            Truncation::Required(to) => self.lsn(Some(to)),
            Truncation::Recorded(to) => self.put(0x80 + to.get()),
        }
    }

    /// Why a base is full changes nothing.
    fn source(&mut self, source: Source) {
        match source.kind {
            SourceKind::SnapshotTail { base } => self.lsn(Some(base)),
            SourceKind::FullBase { why: _ } => self.lsn(None),
        }
        self.lsn(Some(source.target));
    }

    fn machine(&mut self, machine: &rebuild::Phase) {
        match machine {
            rebuild::Phase::Init => self.put(0),
            rebuild::Phase::SourceSelect { source } => {
                self.put(1);
                self.source(*source);
            }
            rebuild::Phase::Transfer {
                source,
                install,
                through,
                base_verified,
            } => {
                self.put(2);
                self.source(*source);
                self.put(*install == Install::InPlace);
                self.lsn(Some(*through));
                self.put(*base_verified);
            }
            rebuild::Phase::Tail { source, applied } => {
                self.put(3);
                self.source(*source);
                self.lsn(Some(*applied));
            }
            rebuild::Phase::Completed { .. } | rebuild::Phase::Aborted(_) => {
                unreachable!("R4: a rebuild that is over leaves no session")
            }
        }
    }

    fn phase(&mut self, phase: &Phase) {
        match phase {
            Phase::Init => self.put(0),
            Phase::Connecting => self.put(1),
            Phase::Handshake { range, truncation } => {
                self.put(2);
                self.range(*range);
                self.truncation(*truncation);
            }
            Phase::CatchUp {
                range,
                recovered_to,
                sent_to,
                truncation,
                tracker: _,
            } => {
                self.put(3);
                self.range(*range);
                self.lsn(Some(*recovered_to));
                self.lsn(Some(*sent_to));
                self.truncation(*truncation);
            }
            Phase::Rebuilding { range, machine } => {
                self.put(4);
                self.range(*range);
                self.machine(machine.phase());
            }
            Phase::Completed { .. } | Phase::Invalidated(_) => {
                unreachable!("R4: a session that is over is detached")
            }
        }
    }
}

/// Writers by order of appearance: first in the primary's log, then in this one.
fn renamed(primary: &[u64], records: &[u64], out: &mut Bytes) {
    out.put(records.len());
    let mut known: Vec<u64> = Vec::new();
    for writer in primary {
        if !known.contains(writer) {
            known.push(*writer);
        }
    }
    for writer in records {
        let at = known.iter().position(|known| known == writer);
        out.put(at.unwrap_or(known.len()));
        if at.is_none() {
            known.push(*writer);
        }
    }
}

impl World {
    pub(super) fn signature(&self) -> u128 {
        let mut out = Bytes(Vec::with_capacity(128));
        let (history, ledger) = (&self.storage.history, &self.orchestrator.ledger);
        renamed(&[], &self.primary, &mut out);
        out.put(self.primary.last() == Some(&self.incarnation));
        out.lsn(Some(history.tail));
        out.lsn(Some(history.committed));
        out.put(history.damage.len());
        out.lsn(Some(ledger.committed()));
        out.lsn(ledger.inherited());
        out.put(self.orchestrator.registry.known_version().is_some());
        let mut replicas = [0, 1].map(|at| self.replica_bytes(at).0);
        replicas.sort_unstable();
        for replica in replicas {
            out.0.extend(replica);
            out.0.push(0xff);
        }
        xxh3_128(&out.0)
    }

    fn replica_bytes(&self, at: usize) -> Bytes {
        let mut out = Bytes(Vec::with_capacity(64));
        let node = &self.nodes[at];
        renamed(&self.primary, &node.records, &mut out);
        for is in [
            node.adopted,
            node.marked,
            node.incomplete,
            node.link.is_some(),
            node.assigned,
            node.plan.is_some(),
        ] {
            out.put(is);
        }
        match &node.beside {
            Some(beside) => renamed(&self.primary, beside, &mut out),
            None => out.lsn(None),
        }
        let plan = node.plan.as_ref();
        out.lsn(plan.and_then(|plan| plan.with_pin(|pin| pin.after)));
        let (stream, handshake, asked) = self.orchestrator.ledger.known(&node.id);
        out.lsn(stream);
        out.lsn(handshake);
        out.put(asked);
        let knows = |known: Option<NodeIncarnation>| match known {
            None => 0,
            Some(known) if known == node.node() => 1,
            Some(_) => 2,
        };
        let Some(sender) = self.sender(at) else {
            let (marked, known) = node.remembered;
            out.put(marked);
            out.put(knows(known));
            return out;
        };
        out.put(sender.needs_rebuild());
        out.put(knows(sender.known_node()));
        let view = sender.view();
        out.put(view.state as u8);
        if let Some(stream) = view.stream {
            out.put(1);
            out.lsn(Some(stream.shipped));
            out.lsn(Some(stream.acknowledged));
        }
        if let Some(session) = view.session {
            out.put(2);
            out.put(session.kind() == Kind::Rebuild);
            out.phase(session.phase());
            out.put(self.slack(at).unwrap_or(9));
        }
        out
    }
}
