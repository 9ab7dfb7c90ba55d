//! What an operator or a control plane does: promotes as D5 says, brings nodes back, assigns.

use std::path::Path;
use std::sync::Arc;

use seawall_recovery::id::ReplicaId;
use seawall_recovery::registry::Assignment;
use seawall_recovery::sender::Endpoint;
use seawall_recovery::simulated::Node;
use seawall_recovery::{AckRule, PromiseReport, Refusal, Status, promise_epoch};
use seawall_snapshot::{Access, Background, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::sync::turns;
use seawall_wal::{Clock, Epoch, LineageEntry, Lsn};

use crate::cluster::{Cluster, DIR, Hold, Running, name};

/// What decides between candidates (D5).
type Rank = (Option<(u64, u64)>, Lsn);

fn rank(entry: Option<LineageEntry>, durable: Lsn) -> Rank {
    let entry = entry.map(|entry| (entry.epoch.get(), entry.incarnation.get()));
    (entry, durable)
}

/// How a promotion ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Promotion {
    /// The node is primary now.
    Won,
    /// Another one holds more and has to be asked.
    Outranked(Node),
    /// It did not come about.
    Failed(String),
}

/// Makes the node `first` primary, or whoever holds more than it; the caller holds every node that
/// is down. Gives who it is.
///
/// # Errors
/// Why nobody is.
pub fn lead(cluster: &Arc<Cluster>, first: Node) -> Result<(Node, Vec<Hold>), String> {
    let mut holds = Vec::new();
    let mut node = first;
    for _ in 0..cluster.nodes() {
        match promote(cluster, node) {
            Promotion::Won => return Ok((node, holds)),
            Promotion::Failed(error) => return Err(error),
            Promotion::Outranked(better) => {
                let hold = cluster.hold(better);
                holds.push(hold.ok_or("somebody else is at the one that holds more")?);
                node = better;
            }
        }
    }
    Err("each holds more than the other".into())
}

/// Makes the replica on `winner` the primary of a new epoch; whoever does not answer is left out.
pub fn promote(cluster: &Arc<Cluster>, winner: Node) -> Promotion {
    let epoch = {
        let mut state = cluster.state();
        state.epoch += 1;
        Epoch::new(state.epoch)
    };
    cluster.stop(winner);
    let promoted = try_to_promote(cluster, winner, epoch);
    if promoted != Promotion::Won {
        cluster.tell(&format!("{} is not promoted: {promoted:?}", name(winner)));
        return match cluster.start_replica(winner) {
            Ok(()) => promoted,
            Err(error) => Promotion::Failed(format!("{promoted:?}, and then: {error}")),
        };
    }
    if cluster.mix.ack == AckRule::BestEffort {
        cluster.history().end_reign_without_promise();
    }
    cluster.tell(&format!("{} is promoted to {epoch}", name(winner)));
    {
        let mut state = cluster.state();
        state.reigning = epoch.get();
        state.last_leader = Some(winner);
    }
    match cluster.start_primary(winner) {
        Ok(()) => Promotion::Won,
        Err(error) => Promotion::Failed(error),
    }
}

fn try_to_promote(cluster: &Arc<Cluster>, winner: Node, epoch: Epoch) -> Promotion {
    let (disk, clock) = {
        let state = cluster.state();
        let slot = &state.slots[winner as usize];
        let disk: Arc<dyn Disk> = slot.disk.clone();
        let clock: Arc<dyn Clock> = slot.clock.clone();
        (disk, clock)
    };
    let dir = Path::new(DIR);
    let opened = Volume::open_with(&disk, dir, &clock, Access::Maintain, Background::OFF);
    let volume = match opened {
        Ok((volume, _)) => volume,
        Err(error) => return Promotion::Failed(error.to_string()),
    };
    let promoted = decide(cluster, winner, epoch, &volume);
    if promoted == Promotion::Won && std::mem::take(&mut cluster.state().treachery) {
        betray(cluster, winner, epoch);
    }
    let promoted = match promoted {
        Promotion::Won => {
            cluster.note_asked(epoch);
            match volume.promote(epoch) {
                Ok(()) => Promotion::Won,
                Err(error) => Promotion::Failed(error.to_string()),
            }
        }
        other => other,
    };
    match volume.close() {
        Ok(()) => promoted,
        Err(error) => Promotion::Failed(error.to_string()),
    }
}

/// Kills everybody else who promised this epoch, and nothing else.
fn betray(cluster: &Arc<Cluster>, winner: Node, epoch: Epoch) {
    for node in (0..cluster.nodes()).filter(|node| *node != winner) {
        let Some(_hold) = cluster.hold(node) else {
            continue;
        };
        let promised = {
            let state = cluster.state();
            let slot = &state.slots[node as usize];
            slot.promised == epoch && matches!(slot.running, Running::Replica(_))
        };
        if promised {
            cluster.crash(node, turns::draw().is_some_and(|drawn| drawn % 2 == 0));
        }
    }
}

fn decide(cluster: &Cluster, winner: Node, epoch: Epoch, volume: &Volume) -> Promotion {
    if Status::of_volume(volume).needs_rebuild {
        return Promotion::Failed("it waits for a rebuild".into());
    }
    let durable = volume.log().frontiers().durable;
    let ours = rank(volume.log().lineage().entry_at(durable), durable);
    let peers: Vec<(Node, String)> = {
        let state = cluster.state();
        let slots = (0..).zip(&state.slots);
        let others = slots.filter(|(node, _)| *node != winner);
        others
            .map(|(node, slot)| (node, slot.address.clone()))
            .collect()
    };
    let mut promises = 1;
    let mut best: Option<(bool, Rank, Node)> = None;
    for (node, address) in peers {
        match ask(cluster, winner, (node, &address), epoch) {
            Ok(report) => {
                promises += 1;
                let theirs = rank_of(&report);
                // One that waits for a rebuild may not win, but the ack rule may have counted it.
                if theirs > ours {
                    best = best.max(Some((!report.needs_rebuild, theirs, node)));
                }
            }
            Err(seawall_recovery::Error::Refused {
                reason: Refusal::EpochTooOld { promised },
                ..
            }) => return Promotion::Failed(format!("{} has promised {promised}", name(node))),
            Err(_silent) => {}
        }
    }
    match best {
        _ if promises * 2 <= cluster.nodes() => {
            Promotion::Failed(format!("{promises} of {} promise", cluster.nodes()))
        }
        Some((true, _, node)) => Promotion::Outranked(node),
        Some((false, _, node)) => {
            Promotion::Failed(format!("{} waits for a rebuild and holds more", name(node)))
        }
        None => Promotion::Won,
    }
}

/// Asks a node for its promise, which it must not have given to anybody of this epoch or a later
/// one.
///
/// # Errors
/// Why it gives none.
pub fn ask(
    cluster: &Cluster,
    from: Node,
    (node, address): (Node, &str),
    epoch: Epoch,
) -> Result<PromiseReport, seawall_recovery::Error> {
    let known = |cluster: &Cluster| {
        let state = cluster.state();
        let slot = &state.slots[node as usize];
        (slot.promised, slot.disks)
    };
    let (before, disks) = known(cluster);
    let answer = promise_epoch(address, epoch, &cluster.security(from));
    if !matches!(answer, Err(seawall_recovery::Error::Refused { .. })) {
        // An answer that did not arrive may have been a promise.
        cluster.note_asked(epoch);
    }
    let report = answer?;
    let mut state = cluster.state();
    let slot = &mut state.slots[node as usize];
    // OK because what another disk held is no promise of this one.
    if slot.disks != disks || slot.tainted {
        return Ok(report);
    }
    slot.promised = slot.promised.max(epoch);
    if epoch <= before {
        let text = format!("{} promised {before}, and then {epoch} (D5)", name(node));
        cluster.history().violate(text);
    }
    Ok(report)
}

fn rank_of(report: &PromiseReport) -> Rank {
    rank(report.last_entry, report.durable)
}

/// A record with this payload rots in the log of a node at rest. Whether it was found there.
pub fn damage(cluster: &Cluster, node: Node, payload: &[u8]) -> bool {
    let mut state = cluster.state();
    let slot = &mut state.slots[node as usize];
    let sim = slot.disk.sim();
    let paths = sim.paths().into_iter();
    for path in paths.filter(|path| path.starts_with(Path::new(DIR).join("wal"))) {
        let bytes = sim.read_file(&path).unwrap_or_default();
        let mut sectors = (0..bytes.len()).step_by(512);
        let at = sectors.find(|at| bytes[*at..].starts_with(payload));
        if at.is_some_and(|at| sim.flip(&path, at as u64, 1).is_ok()) {
            slot.damaged = true;
            slot.tainted = true;
            return true;
        }
    }
    false
}

/// What the leader of `cluster` should have assigned now.
#[must_use]
pub fn assignment(cluster: &Cluster, epoch: Epoch) -> Assignment {
    let state = cluster.state();
    let slots = (0..).zip(&state.slots);
    let others = slots.filter(|(node, _)| state.leader != Some(*node));
    let replicas = others.map(|(node, slot)| {
        let endpoint = Endpoint {
            data: slot.address.clone(),
            control: slot.address.clone(),
            version: u64::from(slot.moves()),
        };
        (ReplicaId::new(&name(node)), endpoint)
    });
    Assignment::of(replicas.collect(), epoch)
}

/// Tells whoever is primary where its replicas are now.
pub fn reassign(cluster: &Cluster) {
    let Some((primary, _)) = cluster.primary() else {
        return;
    };
    let epoch = primary.volume().meta().get().epoch;
    let assigned = primary.assign(&assignment(cluster, epoch));
    if let Err(error) = assigned {
        cluster.tell(&format!("an assignment is refused: {error}"));
    }
}

/// What it has lost may be reclaimed everywhere, or nobody who holds it answers, or it got another
/// disk: another one leads.
fn give_up(cluster: &Arc<Cluster>, node: Node) -> Result<(), String> {
    let others: Vec<Node> = {
        let state = cluster.state();
        let slots = (0..).zip(&state.slots);
        let running = slots.filter(|(_, slot)| matches!(slot.running, Running::Replica(_)));
        running.map(|(node, _)| node).collect()
    };
    let first = *others.first().ok_or("nobody else is there")?;
    let _hold = cluster.hold(first).ok_or("somebody is at the next one")?;
    lead(cluster, first)?;
    if !cluster.is_vacant(node) {
        cluster.demote(node)?;
    }
    cluster.start_replica(node)
}

/// Brings a node back that the caller holds: whoever was primary last as that, if nobody else may
/// be, everybody else as a replica.
///
/// # Errors
/// Why it does not start.
pub fn bring_back(cluster: &Arc<Cluster>, node: Node) -> Result<(), String> {
    let (leads, superseded, down) = {
        let state = cluster.state();
        let slot = &state.slots[node as usize];
        let down = matches!(slot.running, Running::Nothing);
        let leads = state.last_leader == Some(node) && state.leader.is_none();
        (leads, state.asked > state.reigning, down)
    };
    match (down, leads) {
        (false, false) => Ok(()),
        (true, false) => cluster.start_replica(node),
        (true, true) if !superseded => match cluster.start_primary(node) {
            Err(error) if cluster.state().slots[node as usize].damaged => {
                give_up(cluster, node).map_err(|then| format!("{error}; {then}"))
            }
            started => started,
        },
        (true, true) if cluster.is_vacant(node) => give_up(cluster, node),
        // Somebody may have promised a later epoch to one that did not become primary.
        (_, true) => {
            if down {
                cluster.demote(node)?;
            }
            lead(cluster, node).map(drop)
        }
    }
}
