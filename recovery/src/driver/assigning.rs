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
    // A random id serves as the boot nonce: session ids are never valid after a restart (H28).
    let nonce = VolumeId::random()?.0;
    let boot = u64::from_le_bytes(*nonce.first_chunk().expect("an id has 16 bytes"));
    let registry: Registry<VolumePin> = Registry::new(epoch, SessionIds::new(boot));
    let orchestrator = Orchestrator::new(registry, ledger, EventLog::default());
    let mut core = Core::new(orchestrator, state);
    core.assign(volume, &first, now)?;
    for extra in core.extras.values_mut() {
        extra.full_asked = options.rebuild_full;
    }
    Ok(core)
}

impl Core {
    /// Applies an assignment; one that is refused changes nothing (A152). Nothing may be appended
    /// meanwhile.
    pub(super) fn assign(
        &mut self,
        volume: &Volume,
        assignment: &Assignment,
        now: Tick,
    ) -> Result<Assigned, Error> {
        if let Some(promised) = self.deposed {
            let ours = self.orchestrator.registry().epoch();
            return Err(Error::Deposed { ours, promised });
        }
        if let Err(refused) = self.orchestrator.registry().admit(assignment) {
            self.orchestrator.assign(assignment, now);
            return Err(refused.into());
        }
        self.raise(volume, assignment)?;
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

    /// A higher epoch is durable before anybody hears of it, and so is the incarnation whose
    /// records carry it (D2, D8).
    fn raise(&mut self, volume: &Volume, assignment: &Assignment) -> Result<(), Error> {
        let epoch = assignment.epoch;
        if epoch > volume.meta().get().epoch {
            // What the entry before holds is durable before another begins.
            volume.log().sync()?;
            volume.log().start_incarnation(epoch)?;
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
