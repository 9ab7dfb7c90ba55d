//! Senders by replica id, and what an assignment does to them (1.7). One owner holds the registry,
//! so there is no gap between check and act (H29).

use std::collections::{BTreeMap, BTreeSet};

use seawall_wal::Epoch;

use crate::budget::Budget;
use crate::event::Unlogged;
use crate::failure::{Failure, Invalidation};
use crate::id::{ReplicaId, SessionId, SessionIds};
use crate::plan::Pin;
use crate::sender::{Endpoint, Note, Sender, SenderView, State};
use crate::session::{Kind, SessionOptions};

/// What the control plane wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The replicas of the volume and how they are reached.
    pub replicas: Vec<(ReplicaId, Endpoint)>,
    /// The epoch of the primary.
    pub epoch: Epoch,
    /// Orders assignments of one epoch, if the control plane counts them.
    pub version: Option<u64>,
    /// Replicas to recover now.
    pub targets: Vec<(ReplicaId, SessionOptions)>,
}

impl Assignment {
    /// An assignment that recovers nobody.
    #[must_use]
    pub const fn of(replicas: Vec<(ReplicaId, Endpoint)>, epoch: Epoch) -> Assignment {
        Assignment {
            replicas,
            epoch,
            version: None,
            targets: Vec::new(),
        }
    }

    /// The same, and recover this replica without limits.
    #[must_use]
    pub fn recovering(mut self, replica: ReplicaId, kind: Kind) -> Assignment {
        let budget = Budget::UNBOUNDED;
        self.targets
            .push((replica, SessionOptions { kind, budget }));
        self
    }
}

/// What an assignment changed; every list is sorted by replica id.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Assigned {
    /// Replicas with a new sender.
    pub added: Vec<ReplicaId>,
    /// Replicas whose sender was stopped and removed.
    pub removed: Vec<ReplicaId>,
    /// New sessions.
    pub created: Vec<(ReplicaId, SessionId)>,
    /// Sessions that replaced another: old and new id.
    pub superseded: Vec<(ReplicaId, SessionId, SessionId)>,
    /// Recovery targets that got no session, and why.
    pub failed: Vec<(ReplicaId, Failure)>,
    /// Why the whole assignment was refused; nothing changed then.
    pub refused: Option<Failure>,
}

/// How many senders are in which group of states (1.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Totals {
    /// All senders.
    pub all: usize,
    /// With a live stream.
    pub in_sync: usize,
    /// `connecting` and `catching_up`.
    pub recovering: usize,
    /// `degraded`.
    pub degraded: usize,
    /// `needs_rebuild` and `rebuilding`.
    pub rebuilding: usize,
}

/// One consistent reading of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Epoch of the registry.
    pub epoch: Epoch,
    /// Every sender, sorted by replica id.
    pub senders: Vec<SenderView>,
    /// The totals.
    pub totals: Totals,
}

/// All senders of one primary.
#[derive(Debug)]
pub struct Registry<P> {
    senders: BTreeMap<ReplicaId, Sender<P>>,
    epoch: Epoch,
    version: Option<u64>,
    ids: SessionIds,
    /// Notes of senders that are gone.
    last_words: Vec<(ReplicaId, Epoch, Note)>,
}

impl<P: Pin> Registry<P> {
    /// An empty registry at `epoch`, which is durable already (D8); `ids` is new with the process.
    #[must_use]
    pub const fn new(epoch: Epoch, ids: SessionIds) -> Registry<P> {
        Registry {
            senders: BTreeMap::new(),
            epoch,
            version: None,
            ids,
            last_words: Vec::new(),
        }
    }

    /// Takes up the version that was applied last in the epoch of the registry, before a restart.
    pub(crate) const fn resume(&mut self, version: Option<u64>) {
        self.version = version;
    }

    /// The epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The sender of a replica.
    ///
    /// # Errors
    /// [`Failure::UnknownReplica`].
    pub fn sender(&self, replica: &ReplicaId) -> Result<&Sender<P>, Failure> {
        self.senders.get(replica).ok_or_else(|| unknown(replica))
    }

    /// Lets `take` work on the sender of a replica. It is the only way to change one from outside,
    /// and what it refuses can be read only by writing it down (1.17).
    pub(crate) fn with_sender<R>(
        &mut self,
        replica: &ReplicaId,
        take: impl FnOnce(&mut Sender<P>) -> Result<R, Failure>,
    ) -> Result<R, Unlogged> {
        self.sender_mut(replica)
            .and_then(take)
            .map_err(Unlogged::new)
    }

    fn sender_mut(&mut self, replica: &ReplicaId) -> Result<&mut Sender<P>, Failure> {
        self.senders
            .get_mut(replica)
            .ok_or_else(|| unknown(replica))
    }

    /// Replica ids, sorted.
    pub fn replicas(&self) -> impl Iterator<Item = &ReplicaId> {
        self.senders.keys()
    }

    /// Number of senders.
    #[must_use]
    pub fn count(&self) -> usize {
        self.senders.len()
    }

    /// One consistent reading, sorted by replica id.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut totals = Totals {
            all: self.senders.len(),
            ..Totals::default()
        };
        for sender in self.senders.values() {
            match sender.state() {
                State::InSync => totals.in_sync += 1,
                State::Connecting | State::CatchingUp => totals.recovering += 1,
                State::Degraded => totals.degraded += 1,
                State::NeedsRebuild | State::Rebuilding => totals.rebuilding += 1,
                State::Disconnected => {}
            }
        }
        Status {
            epoch: self.epoch,
            senders: self.senders.values().map(Sender::view).collect(),
            totals,
        }
    }

    /// Hands over what happened to senders since the last call, in order of replica id.
    pub fn drain_notes(&mut self) -> Vec<(ReplicaId, Epoch, Note)> {
        let mut notes = std::mem::take(&mut self.last_words);
        for (id, sender) in &mut self.senders {
            let epoch = sender.epoch();
            let own = sender.drain_notes().into_iter();
            notes.extend(own.map(|note| (id.clone(), epoch, note)));
        }
        notes
    }

    /// Attaches a session at the epoch of the registry.
    ///
    /// # Errors
    /// [`Failure::UnknownReplica`] and those of [`Sender::attach`].
    pub fn attach(
        &mut self,
        replica: &ReplicaId,
        options: SessionOptions,
    ) -> Result<SessionId, Failure> {
        let epoch = self.epoch;
        let ids = &mut self.ids;
        let sender = self.senders.get_mut(replica);
        let sender = sender.ok_or_else(|| unknown(replica))?;
        sender.attach(epoch, options, ids)
    }

    /// Brings the senders in line with `replicas` and returns (added, removed), both sorted. The
    /// same input again changes nothing.
    pub fn reconcile(
        &mut self,
        replicas: &[(ReplicaId, Endpoint)],
        epoch: Epoch,
    ) -> (Vec<ReplicaId>, Vec<ReplicaId>) {
        let removed = self.remove_unlisted(replicas);
        let mut added = Vec::new();
        for (id, endpoint) in replicas {
            match self.senders.get_mut(id) {
                Some(sender) => sender.reassign(endpoint.clone(), epoch),
                None => {
                    let sender = Sender::new(id.clone(), endpoint.clone(), epoch);
                    self.senders.insert(id.clone(), sender);
                    added.push(id.clone());
                }
            }
        }
        added.sort();
        (added, removed)
    }

    /// Applies an assignment: admission, reconcile, then a session per recovery target. A refused
    /// one changes nothing at all (A152).
    pub fn assign(&mut self, assignment: &Assignment) -> Assigned {
        if let Err(refused) = self.admit(assignment) {
            return refuse(assignment, &refused);
        }
        self.version = self.version_after(assignment);
        self.epoch = assignment.epoch;
        let (added, removed) = self.reconcile(&assignment.replicas, assignment.epoch);
        let mut assigned = Assigned {
            added,
            removed,
            ..Assigned::default()
        };
        let mut targets = assignment.targets.clone();
        targets.sort_by(|a, b| a.0.cmp(&b.0));
        for (replica, options) in targets {
            self.recover(assignment.epoch, replica, options, &mut assigned);
        }
        assigned
    }

    /// The version that counts once `assignment` is applied.
    pub(crate) fn version_after(&self, assignment: &Assignment) -> Option<u64> {
        match assignment.epoch > self.epoch {
            true => assignment.version,
            false => assignment.version.or(self.version),
        }
    }

    /// Raises the epoch of the registry and of every sender in one step, and returns how many
    /// sessions died (1.15).
    pub fn advance_epoch(&mut self, epoch: Epoch) -> usize {
        if epoch > self.epoch {
            self.epoch = epoch;
            self.version = None;
        }
        self.senders
            .values_mut()
            .filter_map(|sender| sender.bump_epoch(epoch))
            .count()
    }

    /// Stops every sender.
    pub fn stop_all(&mut self) {
        self.senders.values_mut().for_each(Sender::stop);
    }

    /// Whether an assignment may be applied.
    ///
    /// # Errors
    /// [`Failure::StaleAssignment`], [`Failure::DuplicateReplica`], [`Failure::DuplicateEndpoint`].
    pub(crate) fn admit(&self, assignment: &Assignment) -> Result<(), Failure> {
        let older_version = match (assignment.version, self.version) {
            (Some(new), Some(applied)) => new < applied,
            (None, _) | (_, None) => false,
        };
        let older =
            assignment.epoch < self.epoch || assignment.epoch == self.epoch && older_version;
        if older {
            return Err(Failure::StaleAssignment {
                given: assignment.epoch,
                given_version: assignment.version,
                current: self.epoch,
                current_version: self.version,
            });
        }
        check_distinct(&assignment.replicas)
    }

    fn remove_unlisted(&mut self, replicas: &[(ReplicaId, Endpoint)]) -> Vec<ReplicaId> {
        let listed: BTreeSet<&ReplicaId> = replicas.iter().map(|(id, _)| id).collect();
        let gone = self.senders.keys().filter(|id| !listed.contains(id));
        let gone: Vec<ReplicaId> = gone.cloned().collect();
        for id in &gone {
            if let Some(mut sender) = self.senders.remove(id) {
                sender.stop();
                let epoch = sender.epoch();
                let own = sender.drain_notes().into_iter();
                self.last_words
                    .extend(own.map(|note| (id.clone(), epoch, note)));
            }
        }
        gone
    }

    /// A takeover answers an active session only; every other refusal stands (H16).
    fn recover(
        &mut self,
        epoch: Epoch,
        replica: ReplicaId,
        options: SessionOptions,
        assigned: &mut Assigned,
    ) {
        let Some(sender) = self.senders.get_mut(&replica) else {
            let failure = unknown(&replica);
            return assigned.failed.push((replica, failure));
        };
        match sender.attach(epoch, options, &mut self.ids) {
            Ok(id) => assigned.created.push((replica, id)),
            Err(Failure::SessionActive { current: old, .. }) => {
                let reason = Invalidation::AssignmentIntent;
                match sender.supersede(old, options, reason, &mut self.ids) {
                    Ok(new) => assigned.superseded.push((replica, old, new)),
                    Err(failure) => assigned.failed.push((replica, failure)),
                }
            }
            Err(failure) => assigned.failed.push((replica, failure)),
        }
    }
}

fn unknown(replica: &ReplicaId) -> Failure {
    Failure::UnknownReplica {
        replica: replica.clone(),
    }
}

/// What comes of an assignment that is refused.
pub(crate) fn refuse(assignment: &Assignment, refused: &Failure) -> Assigned {
    let targets = assignment.targets.iter();
    let mut failed: Vec<_> = targets
        .map(|(replica, _)| (replica.clone(), refused.clone()))
        .collect();
    failed.sort_by(|a, b| a.0.cmp(&b.0));
    Assigned {
        failed,
        refused: Some(refused.clone()),
        ..Assigned::default()
    }
}

fn check_distinct(replicas: &[(ReplicaId, Endpoint)]) -> Result<(), Failure> {
    for (at, (first, endpoint)) in replicas.iter().enumerate() {
        for (second, other) in &replicas[..at] {
            if first == second {
                return Err(Failure::DuplicateReplica {
                    replica: first.clone(),
                });
            }
            if endpoint == other {
                return Err(Failure::DuplicateEndpoint {
                    first: second.clone(),
                    second: first.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
