//! The nodes of a cluster: their disks, what runs on them, and who is primary.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex as Plain, MutexGuard as PlainGuard, PoisonError};
use std::time::Duration;

use seawall_recovery::budget::Budget;
use seawall_recovery::simulated::{Network, Node};
use seawall_recovery::{
    Primary, PrimaryOptions, Replica, ReplicaAddress, ReplicaOptions, Security,
};
use seawall_snapshot::{Access, Background, CreateOptions, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::disk::sim::SimDisk;
use seawall_wal::sync::{self, JoinHandle, Mutex, MutexGuard, turns};
use seawall_wal::{BlockSize, Clock, Epoch, Geometry, Lsn, LsnRange, Role};

use crate::disk::{TimedDisk, WorldClock};
use crate::history::{CELL, History, Reign};
use crate::mix::Mix;

/// Bytes of a block.
const BLOCK: u64 = 4096;
/// Blocks of the volume.
const BLOCKS: u64 = 512;
/// Cells of the volume.
pub const CELLS: u64 = BLOCKS * BLOCK / CELL;
/// Where every node has its volume.
pub const DIR: &str = "/volume";
/// What `verify` says of a base that is being installed in place.
const INCOMPLETE: &str = "the base is incomplete";
/// How long an acknowledgement may take before its waiter gives up.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

/// What runs on a node.
#[derive(Debug)]
pub enum Running {
    /// Nothing.
    Nothing,
    /// A primary.
    Primary(Arc<Primary>),
    /// A replica.
    Replica(Arc<Replica>),
}

/// One node.
#[derive(Debug)]
pub struct Slot {
    /// Its disk.
    pub disk: Arc<TimedDisk>,
    /// Its clock.
    pub clock: Arc<WorldClock>,
    /// Where its replica listens.
    pub address: String,
    /// What runs on it.
    pub running: Running,
    /// It lost something that it had made durable, and is not level again as far as anybody knows.
    pub tainted: bool,
    /// Bits of its disk are not what was written.
    pub rotten: bool,
    /// A record of its log is not what was written, and its replicas hold that record.
    pub damaged: bool,
    /// The highest epoch that it promised to anybody.
    pub promised: Epoch,
    /// Disks that it was given in place of its first.
    pub disks: u32,
    /// How its disk was some time ago.
    pub earlier: Option<Arc<SimDisk>>,
    /// Addresses it has had.
    moves: u32,
}

/// Everything that changes.
#[derive(Debug)]
pub struct State {
    /// The nodes; node 0 is primary at first.
    pub slots: Vec<Slot>,
    /// Who is primary.
    pub leader: Option<Node>,
    /// Who was primary last.
    pub last_leader: Option<Node>,
    /// The highest epoch that anybody was promoted to or tried to.
    pub epoch: u64,
    /// The highest epoch that anybody may have promised.
    pub asked: u64,
    /// The epoch of whoever is primary, or was last.
    pub reigning: u64,
    /// Nothing goes wrong any more, and nothing is limited.
    pub healed: bool,
    /// Whoever promises the next epoch that somebody wins is killed before the winner goes on.
    pub treachery: bool,
    /// Nodes that somebody is at, so that nobody else starts or stops what runs there.
    held: BTreeSet<Node>,
    /// Threads that bring something to its end.
    reapers: Vec<JoinHandle>,
}

/// A cluster of nodes.
#[derive(Debug)]
pub struct Cluster {
    /// Between the nodes.
    pub network: Network,
    /// How it was made.
    pub mix: Mix,
    state: Mutex<State>,
    history: Plain<History>,
    told: Plain<Vec<String>>,
    marks: Plain<BTreeMap<String, u64>>,
}

/// The right to start and stop what runs on a node.
#[derive(Debug)]
pub struct Hold {
    cluster: Arc<Cluster>,
    node: Node,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.cluster.state().held.remove(&self.node);
    }
}

/// The name of a node.
#[must_use]
pub fn name(node: Node) -> String {
    format!("n{node}")
}

fn address(node: Node, moves: u32) -> String {
    format!("10.0.{moves}.{}:7000", node + 1)
}

impl Slot {
    fn new(node: Node, sim: Arc<SimDisk>) -> Slot {
        Slot {
            disk: TimedDisk::over(sim),
            clock: Arc::new(WorldClock::default()),
            address: address(node, 0),
            running: Running::Nothing,
            tainted: false,
            rotten: false,
            damaged: false,
            promised: Epoch::default(),
            disks: 0,
            earlier: None,
            moves: 0,
        }
    }

    /// How often it got another address.
    #[must_use]
    pub fn moves(&self) -> u32 {
        self.moves
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::clone(&self.disk) as Arc<dyn Disk>
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock) as Arc<dyn Clock>
    }
}

impl Cluster {
    /// A cluster whose node 0 is primary of a new volume and whose other nodes are empty replicas.
    ///
    /// # Panics
    /// When that does not come about; nothing has gone wrong yet.
    #[must_use]
    pub fn new(mix: Mix) -> Arc<Cluster> {
        let draw = || turns::draw().unwrap_or_default();
        let nodes = 0..=mix.replicas;
        let slots = nodes.map(|node| Slot::new(node, SimDisk::new(draw())));
        let network = Network::new();
        network.set_weather(mix.weather);
        let cluster = Arc::new(Cluster {
            network,
            mix,
            state: Mutex::new(State {
                slots: slots.collect(),
                leader: None,
                last_leader: None,
                epoch: 1,
                asked: 1,
                reigning: 1,
                healed: false,
                treachery: false,
                held: BTreeSet::new(),
                reapers: Vec::new(),
            }),
            history: Plain::new(History::new(CELLS)),
            told: Plain::default(),
            marks: Plain::default(),
        });
        let disk = cluster.state().slots[0].disk();
        let options = CreateOptions {
            volume: None,
            geometry: Geometry {
                block_size: BlockSize::DEFAULT,
                blocks: BLOCKS,
                segment_bytes: 1 << 20,
            },
            role: Role::Primary,
        };
        Volume::create(&disk, Path::new(DIR), options).expect("a new volume");
        for node in 1..=cluster.mix.replicas {
            cluster.start_replica(node).expect("an empty replica");
        }
        cluster.start_primary(0).expect("a new primary");
        cluster
    }

    /// What changes.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to start and stop what runs on `node`, unless somebody has it.
    #[must_use]
    pub fn hold(self: &Arc<Self>, node: Node) -> Option<Hold> {
        let cluster = Arc::clone(self);
        let free = self.state().held.insert(node);
        free.then(|| Hold { cluster, node })
    }

    /// What was written and acknowledged.
    pub fn history(&self) -> PlainGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of the story.
    pub fn tell(&self, what: &str) {
        let at = turns::now_ns() / 1_000_000;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(format!("{:>6}.{:03} {what}", at / 1000, at % 1000));
        for byte in what.bytes() {
            turns::note(u64::from(byte));
        }
    }

    /// The story so far.
    #[must_use]
    pub fn told(&self) -> Vec<String> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.clone()
    }

    /// Nodes, the primary's included.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        self.mix.replicas + 1
    }

    /// The volume of what runs on a node.
    #[must_use]
    pub fn volume_of(&self, node: Node) -> Option<Arc<Volume>> {
        let state = self.state();
        match &state.slots[node as usize].running {
            Running::Nothing => None,
            Running::Primary(primary) => Some(Arc::clone(primary.volume())),
            Running::Replica(replica) => {
                let replica = Arc::clone(replica);
                drop(state);
                replica.volume()
            }
        }
    }

    /// Whoever is primary, and its reign.
    #[must_use]
    pub fn primary(&self) -> Option<(Arc<Primary>, Reign)> {
        let state = self.state();
        let leader = state.leader?;
        let reign = self.history().reign();
        match &state.slots[leader as usize].running {
            Running::Primary(primary) => Some((Arc::clone(primary), reign)),
            _ => None,
        }
    }

    /// What node `node` gives as its security.
    #[must_use]
    pub fn security(&self, node: Node) -> Security {
        Security::Simulated(self.network.post(node))
    }

    /// Where every node but `node` listens.
    fn others(state: &State, node: Node) -> Vec<ReplicaAddress> {
        let slots = (0..).zip(&state.slots);
        let others = slots.filter(|(other, _)| *other != node);
        let others = others.map(|(other, slot)| ReplicaAddress {
            id: name(other),
            address: slot.address.clone(),
        });
        others.collect()
    }

    /// Starts the primary on `node`, whose volume has that role.
    ///
    /// # Errors
    /// Those of opening the volume and of starting it.
    pub fn start_primary(&self, node: Node) -> Result<(), String> {
        let (disk, clock, replicas, healed) = {
            let state = self.state();
            let slot = &state.slots[node as usize];
            let others = Cluster::others(&state, node);
            (slot.disk(), slot.clock(), others, state.healed)
        };
        let options = PrimaryOptions {
            replicas,
            ack: self.mix.ack,
            rebuild_full: self.mix.rebuild_full,
            budget: if healed {
                Budget::UNBOUNDED
            } else {
                self.mix.budget
            },
            recoveries_max: self.mix.recoveries,
            security: self.security(node),
            commit_timeout: COMMIT_TIMEOUT,
            ..PrimaryOptions::default()
        };
        let background = Background {
            retained_bytes_soft: Some(3 << 20),
            scrub_bytes_per_s: Some(64 << 10),
        };
        let dir = Path::new(DIR);
        let opened = Volume::open_with(&disk, dir, &clock, Access::Primary, background);
        let (volume, _) = opened.map_err(|error| format!("open: {error}"))?;
        let volume = self.whole(node, volume, &options)?;
        if !healed {
            volume.log().set_pin_limits(self.mix.pins);
        }
        let started = Primary::start(&disk, &clock, Arc::clone(&volume), options);
        let primary = match started {
            Ok(primary) => primary,
            Err(error) => {
                let closed = volume.close();
                return Err(format!("start: {error} (closed: {})", closed.is_ok()));
            }
        };
        self.network.start(node);
        let mut state = self.state();
        let slot = &mut state.slots[node as usize];
        slot.running = Running::Primary(Arc::new(primary));
        state.leader = Some(node);
        state.last_leader = Some(node);
        drop(state);
        self.tell(&format!("{} is primary", name(node)));
        Ok(())
    }

    /// The volume of a primary that starts, with what its log has lost from its replicas, as
    /// `seawall primary` does.
    fn whole(
        &self,
        node: Node,
        volume: Arc<Volume>,
        options: &PrimaryOptions,
    ) -> Result<Arc<Volume>, String> {
        self.inspect(node, &volume);
        let damaged = self.state().slots[node as usize].damaged;
        if !damaged {
            return Ok(volume);
        }
        // An open believes the index of a sealed segment (D15): whoever was told by `verify` has
        // every record read.
        let log = volume.log();
        let tail = Lsn::new(log.first_retained().get().saturating_sub(1));
        let known = log.prove_full(LsnRange::new(tail, log.frontiers().durable));
        if known.is_ok() && log.lost().is_empty() {
            return Ok(volume);
        }
        let healed = Primary::heal(&volume, options).map_err(|error| format!("heal: {error}"))?;
        let text = format!("{} has {} records back", name(node), healed.records);
        self.tell(&text);
        {
            let mut state = self.state();
            let slot = &mut state.slots[node as usize];
            slot.damaged = false;
            slot.tainted = false;
        }
        self.inspect(node, &healed.volume);
        Ok(healed.volume)
    }

    /// Starts the replica on `node`.
    ///
    /// # Errors
    /// Those of opening its volume.
    pub fn start_replica(&self, node: Node) -> Result<(), String> {
        let (disk, clock, address) = {
            let state = self.state();
            let slot = &state.slots[node as usize];
            (slot.disk(), slot.clock(), slot.address.clone())
        };
        let options = ReplicaOptions {
            security: self.security(node),
            in_place: self.mix.in_place && node % 3 == 2,
        };
        let dir = Path::new(DIR);
        let served = Replica::serve(&disk, &clock, dir, &name(node), &address, options);
        let replica = served.map_err(|error| error.to_string())?;
        if let Some(volume) = replica.volume() {
            self.inspect(node, &volume);
        }
        self.network.start(node);
        self.state().slots[node as usize].running = Running::Replica(Arc::new(replica));
        Ok(())
    }

    /// A volume that was just opened is whole, unless its disk changes what it holds.
    fn inspect(&self, node: Node, volume: &Volume) {
        let bad = {
            let state = self.state();
            let slot = &state.slots[node as usize];
            slot.rotten || slot.damaged
        };
        if bad {
            return;
        }
        // OK because a disk that fails to be read is a fault of its own.
        let Ok(report) = volume.verify(&mut |_, _| ()) else {
            return;
        };
        // A base that is installed over the old one is neither of them until it is whole (D12).
        let in_place = self.mix.in_place;
        let mut damage = report.damage.iter();
        let damage = damage.find(|damage| !in_place || damage.what != INCOMPLETE);
        if let Some(damage) = damage {
            let text = format!("{} is damaged when it starts: {damage:?}", name(node));
            self.tell(&text);
            self.history().violate(text);
        }
    }

    /// Makes the volume of a former primary a replica's.
    ///
    /// # Errors
    /// Those of its meta.
    pub fn demote(&self, node: Node) -> Result<(), String> {
        let disk = self.state().slots[node as usize].disk();
        Volume::demote(&disk, Path::new(DIR)).map_err(|error| format!("demote: {error}"))
    }

    /// Whether the node has no volume.
    pub fn is_vacant(&self, node: Node) -> bool {
        let disk = self.state().slots[node as usize].disk();
        // OK because whoever cannot tell finds out when the volume is opened.
        Volume::is_vacant(&disk, Path::new(DIR)).unwrap_or(false)
    }

    /// Somebody may have promised `epoch`.
    pub fn note_asked(&self, epoch: Epoch) {
        let mut state = self.state();
        state.asked = state.asked.max(epoch.get());
    }

    /// The node stops at once: its process is killed, or the power of its machine goes.
    pub fn crash(&self, node: Node, power: bool) {
        let mut state = self.state();
        let running = turns::calm(|| {
            let choice = turns::draw().unwrap_or_default();
            let leads = state.leader == Some(node);
            let slot = &mut state.slots[node as usize];
            let sim = Arc::clone(slot.disk.sim());
            let after = match power {
                true => sim.crash(choice),
                false => sim.crash_keep_all(),
            };
            sim.freeze_after_ops(sim.changes());
            let frozen = std::mem::replace(&mut slot.disk, TimedDisk::over(after));
            frozen.heal();
            // Without power nobody is there to say that the node is gone.
            self.network.stop(node, !power);
            if leads {
                state.leader = None;
                self.history().end_reign();
            }
            let slot = &mut state.slots[node as usize];
            std::mem::replace(&mut slot.running, Running::Nothing)
        });
        drop(state);
        let what = if power { "loses power" } else { "is killed" };
        self.tell(&format!("{} {what}", name(node)));
        self.mark(&running);
        self.bury(running);
    }

    /// Stops what runs on a node in an orderly way.
    pub fn stop(&self, node: Node) {
        let running = {
            let mut state = self.state();
            if state.leader == Some(node) {
                state.leader = None;
                self.history().end_reign();
            }
            let slot = &mut state.slots[node as usize];
            std::mem::replace(&mut slot.running, Running::Nothing)
        };
        self.tell(&format!("{} is stopped", name(node)));
        self.mark(&running);
        end(running);
    }

    /// Ends what a crash left, beside everything else.
    fn bury(&self, running: Running) {
        let reaper = sync::spawn("reaper", move || end(running));
        let reaper = reaper.expect("a thread");
        let mut state = self.state();
        state.reapers.retain(|reaper| !reaper.is_finished());
        state.reapers.push(reaper);
    }

    /// Waits until everything that crashed has come to its end.
    pub fn mourn(&self) {
        let reapers = std::mem::take(&mut self.state().reapers);
        for reaper in reapers {
            if reaper.join().is_err() {
                self.history().violate("a reaper panicked".into());
            }
        }
    }

    /// The node gets this disk in place of the one it has, while nothing runs on it.
    pub fn give_disk(&self, node: Node, sim: Arc<SimDisk>) {
        let mut state = self.state();
        let slot = &mut state.slots[node as usize];
        slot.disk = TimedDisk::over(sim);
        slot.promised = Epoch::default();
        slot.damaged = false;
        slot.disks += 1;
        if state.last_leader == Some(node) {
            // What it held is gone: another one has to lead.
            state.asked = state.asked.max(state.reigning + 1);
        }
    }

    /// The node listens elsewhere from its next start on.
    pub fn move_to_new_address(&self, node: Node) {
        let mut state = self.state();
        let slot = &mut state.slots[node as usize];
        slot.moves += 1;
        slot.address = address(node, slot.moves);
    }
}

impl Cluster {
    /// What primaries told of their recoveries, by name.
    #[must_use]
    pub fn marks(&self) -> BTreeMap<String, u64> {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        marks.clone()
    }

    /// Keeps what a primary that goes told of its recoveries.
    fn mark(&self, running: &Running) {
        let Running::Primary(primary) = running else {
            return;
        };
        let events = primary.events();
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            *marks.entry(event.what.name().into()).or_default() += 1;
        }
    }
}

/// Ends what ran on a node, once nobody else holds it.
fn end(running: Running) {
    match running {
        Running::Nothing => {}
        Running::Primary(primary) => {
            let volume = Arc::clone(primary.volume());
            let primary = alone(primary);
            primary.shutdown();
            // OK because a disk that failed or froze takes no last words.
            drop(volume.close());
        }
        Running::Replica(replica) => {
            // OK for the same reason.
            drop(alone(replica).shutdown());
        }
    }
}

/// Waits until the caller holds the last reference.
fn alone<T>(mut shared: Arc<T>) -> T {
    loop {
        match Arc::try_unwrap(shared) {
            Ok(alone) => return alone,
            Err(again) => shared = again,
        }
        turns::sleep(Duration::from_millis(5));
    }
}
