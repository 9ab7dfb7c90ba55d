//! What an assignment changes at a primary (1.7): the epoch, the senders, what is known beside
//! them.

use std::sync::Arc;

use seawall_snapshot::Volume;
use seawall_wal::disk::Disk;
use seawall_wal::{Epoch, VolumeId};

use super::core::{Core, Extra};
use super::primary::PrimaryOptions;
use super::storage::VolumePin;
use crate::ack::Ledger;
use crate::error::Error;
use crate::event::EventLog;
use crate::failure::Failure;
use crate::id::{ReplicaId, SessionIds, Tick};
use crate::orchestrator::Orchestrator;
use crate::registry::{Assigned, Assignment, Registry};
use crate::state::{Entry, StateLog};

/// The deciding half of a primary that has just opened.
pub(super) fn decide(
    disk: &Arc<dyn Disk>,
    volume: &Arc<Volume>,
    options: &PrimaryOptions,
    now: Tick,
) -> Result<Core, Error> {
    let state = StateLog::open(disk, volume.dir())?;
    let epoch = volume.meta().get().epoch;
    let first = options.assigned(epoch);
    let frontiers = volume.log().frontiers();
    // With its members from the start: without any it would be confirmed at once.
    let ledger = Ledger::reopened(
        options.ack,
        first.replicas.iter().map(|(id, _)| id.clone()),
        frontiers.durable,
        frontiers.committed,
    );
    let mut registry: Registry<VolumePin> = Registry::new(epoch, draw_ids()?);
    registry.resume(state.version(epoch.get()));
    let orchestrator = Orchestrator::new(registry, ledger, EventLog::default());
    let mut core = Core::new(orchestrator, state);
    core.assign(&first, now)?;
    for extra in core.extras.values_mut() {
        extra.full_asked = options.rebuild_full;
    }
    Ok(core)
}

/// Session ids of a process: a random boot nonce makes them invalid after a restart (H28).
pub(super) fn draw_ids() -> Result<SessionIds, Error> {
    let nonce = VolumeId::random()?.0;
    let boot = u64::from_le_bytes(*nonce.first_chunk().expect("an id has 16 bytes"));
    Ok(SessionIds::new(boot))
}

impl Core {
    /// Applies an assignment; one that is refused changes nothing (A152).
    pub(super) fn assign(&mut self, assignment: &Assignment, now: Tick) -> Result<Assigned, Error> {
        if let Some(promised) = self.deposed {
            let ours = self.orchestrator.registry().epoch();
            return Err(Error::Deposed { ours, promised });
        }
        let admitted = self.orchestrator.registry().admit(assignment);
        if let Err(refused) = admitted.and_then(|()| self.check_promoted(assignment)) {
            self.orchestrator
                .refuse_assignment(assignment, &refused, now);
            return Err(refused.into());
        }
        self.remember(assignment)?;
        // Its sessions come last: a mark that is remembered decides which kind they may be (H18).
        let members = Assignment {
            targets: Vec::new(),
            ..assignment.clone()
        };
        let mut assigned = self.orchestrator.assign(&members, now);
        for replica in &assigned.removed {
            self.extras.remove(replica);
        }
        for replica in &assigned.added {
            self.welcome(replica, now)?;
        }
        if !assignment.targets.is_empty() {
            let sessions = self.orchestrator.assign(assignment, now);
            assigned = Assigned {
                added: assigned.added,
                removed: assigned.removed,
                ..sessions
            };
        }
        Ok(assigned)
    }

    /// Who assigns gives no epoch: only members that promised it first do (D5). Another primary may
    /// have been promoted meanwhile, and what it was acknowledged would be cut off at its replicas.
    fn check_promoted(&self, assignment: &Assignment) -> Result<(), Failure> {
        let (given, current) = (assignment.epoch, self.orchestrator.registry().epoch());
        match given > current {
            true => Err(Failure::NotPromoted { given, current }),
            false => Ok(()),
        }
    }

    /// What a restart must not forget is durable before anything follows from it (D8).
    fn remember(&mut self, assignment: &Assignment) -> Result<(), Error> {
        let epoch = assignment.epoch;
        let version = self.orchestrator.registry().version_after(assignment);
        if let Some(version) = version
            && self.state.version(epoch.get()) != Some(version)
        {
            let epoch = epoch.get();
            self.state.append(Entry::Assigned { epoch, version })?;
        }
        for (replica, _) in &assignment.replicas {
            self.remember_epoch(replica, epoch)?;
        }
        Ok(())
    }

    fn remember_epoch(&mut self, replica: &ReplicaId, epoch: Epoch) -> Result<(), Error> {
        if self.state.remembered(replica.as_str()).epoch == Some(epoch.get()) {
            return Ok(());
        }
        self.state.append(Entry::Sender {
            replica: replica.to_string(),
            epoch: epoch.get(),
            node: None,
        })
    }

    /// A replica that was not assigned a moment ago, with what is remembered of it (D8).
    fn welcome(&mut self, replica: &ReplicaId, now: Tick) -> Result<(), Error> {
        let remembered = self.state.remembered(replica.as_str());
        let marked = remembered.mark.is_some();
        self.orchestrator
            .restore(replica, marked, remembered.node, now)?;
        self.keepers += 1;
        let extra = Extra {
            keeper: self.keepers,
            ..Extra::default()
        };
        self.extras.insert(replica.clone(), extra);
        Ok(())
    }
}
