//! Trouble: chooses what goes wrong next, and brings back what it took down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::id::ReplicaId;
use seawall_recovery::session::Kind as Session;
use seawall_recovery::simulated::{Node, Weather};
use seawall_wal::disk::sim::{Effect, Fault, Rng, SimDisk};
use seawall_wal::sync::turns;
use seawall_wal::{Epoch, Lsn};

use crate::cluster::{Cluster, Hold, Running, name};
use crate::mix::Kind;
use crate::operator;

mod aimed;

/// Something that goes wrong again and again.
#[derive(Debug)]
pub struct Trouble {
    cluster: Arc<Cluster>,
    rng: Rng,
    over: Arc<AtomicBool>,
}

impl Trouble {
    /// Trouble until `over`.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, seed: u64, over: &Arc<AtomicBool>) -> Trouble {
        Trouble {
            cluster: Arc::clone(cluster),
            rng: Rng::new(seed),
            over: Arc::clone(over),
        }
    }

    /// Goes on until it is over.
    pub fn run(&mut self) {
        let kinds = self.cluster.mix.kinds.clone();
        while !self.over.load(Ordering::Relaxed) && !kinds.is_empty() {
            let pause = self.cluster.mix.pause_ms;
            self.idle(pause);
            self.bring_back_leader();
            let kind = self.rng.pick(&kinds);
            self.make(kind);
        }
    }

    fn idle(&mut self, most_ms: u64) {
        turns::sleep(Duration::from_millis(self.rng.below(most_ms + 1)));
    }

    fn make(&mut self, kind: Kind) {
        match kind {
            Kind::KillPrimary => self.crash_primary(false),
            Kind::CutPrimary => self.crash_primary(true),
            Kind::KillReplica => self.crash_replica(false),
            Kind::CutReplica => self.crash_replica(true),
            Kind::CutAll => self.cut_all(),
            Kind::Failover => self.fail_over(),
            Kind::Usurp | Kind::Betray => self.usurp(kind == Kind::Betray),
            Kind::Wipe => self.change_disk("gets an empty disk", |cluster, node| {
                cluster.state().slots[node as usize].earlier = None;
                Some(SimDisk::new(turns::draw().unwrap_or_default()))
            }),
            Kind::Restore => self.change_disk("gets an earlier disk", |cluster, node| {
                cluster.state().slots[node as usize].earlier.take()
            }),
            Kind::Isolate | Kind::OneWay => self.block(kind == Kind::OneWay),
            Kind::Reset => {
                let node = self.any();
                self.tell(node, "loses its connections");
                self.cluster.network.cut(node);
            }
            Kind::Storm => self.weather(Weather {
                delay_ns: 500_000_000,
                cut: 20,
                ns_per_kib: 200_000,
                ..Weather::default()
            }),
            Kind::Corrupt => self.weather(Weather {
                lost: 20,
                repeated: 20,
                changed: 20,
                ..self.cluster.mix.weather
            }),
            Kind::SlowDisk => self.slow_disk(),
            Kind::StuckDisk => {
                let node = self.any();
                self.tell(node, "has a stuck disk");
                let time = Duration::from_millis(self.rng.below(40_000));
                self.cluster.state().slots[node as usize].disk.stick(time);
            }
            Kind::DiskError => self.disk_fault(Fault::at_any(Effect::FailErrno(5))),
            Kind::LostSync => {
                self.disk_fault(Fault::at(seawall_wal::IoOp::Sync, Effect::LoseUnsynced))
            }
            Kind::FullDisk => self.full_disk(),
            Kind::Rot => self.rot(),
            Kind::ClockJump => {
                let node = self.any();
                let skew = i64::try_from(self.rng.below(1 << 50)).unwrap_or(0);
                let skew = if self.rng.chance(8) { skew } else { -skew };
                self.tell(node, "sees its wall clock jump");
                self.cluster.state().slots[node as usize].clock.jump(skew);
            }
            Kind::Reclaim => self.reclaim(),
            Kind::Move => self.move_replica(),
            Kind::Assign => self.assign(),
            Kind::Pause => {
                let node = self.any();
                self.tell(node, "stands still");
                let time = Duration::from_millis(self.rng.below(15_000));
                self.cluster.state().slots[node as usize].disk.stick(time);
                self.cluster.network.cut(node);
            }
            Kind::Strand => self.strand(),
            Kind::Capture => self.cut_capture(),
            Kind::Forget => self.forget(),
            Kind::Newcomer => self.newcomer(),
            Kind::Late => self.ask_late(),
            Kind::Damage => self.damage(),
        }
    }

    fn tell(&self, node: Node, what: &str) {
        self.cluster.tell(&format!("{} {what}", name(node)));
    }

    fn any(&mut self) -> Node {
        u32::try_from(self.rng.below(u64::from(self.cluster.nodes()))).expect("a few nodes")
    }

    fn hold_leader(&self) -> Option<(Node, Hold)> {
        let leader = self.cluster.state().leader?;
        let hold = self.cluster.hold(leader)?;
        // Another one may have come to lead meanwhile.
        (self.cluster.state().leader == Some(leader)).then_some((leader, hold))
    }

    fn hold_replica(&mut self) -> Option<(Node, Hold)> {
        let node = self.replica()?;
        let hold = self.cluster.hold(node)?;
        let runs = {
            let state = self.cluster.state();
            matches!(state.slots[node as usize].running, Running::Replica(_))
        };
        runs.then_some((node, hold))
    }

    /// Without a primary nothing is tried: whoever was it last is brought back.
    fn bring_back_leader(&mut self) {
        let last = {
            let state = self.cluster.state();
            state.last_leader.filter(|_| state.leader.is_none())
        };
        let Some(node) = last else { return };
        let Some(_hold) = self.cluster.hold(node) else {
            return;
        };
        if self.cluster.state().leader.is_none() {
            self.bring_back(node);
        }
    }

    /// A replica that runs.
    fn replica(&mut self) -> Option<Node> {
        let running: Vec<Node> = {
            let state = self.cluster.state();
            let slots = (0..).zip(&state.slots);
            let running = slots.filter(|(_, slot)| matches!(slot.running, Running::Replica(_)));
            running.map(|(node, _)| node).collect()
        };
        (!running.is_empty()).then(|| self.rng.pick(&running))
    }

    fn bring_back(&mut self, node: Node) {
        if let Err(error) = operator::bring_back(&self.cluster, node) {
            self.tell(node, &format!("does not come back: {error}"));
        }
    }

    fn crash_primary(&mut self, power: bool) {
        let Some((node, _hold)) = self.hold_leader() else {
            return;
        };
        self.cluster.crash(node, power);
        self.idle(3000);
        self.bring_back(node);
    }

    fn crash_replica(&mut self, power: bool) {
        let Some((node, _hold)) = self.hold_replica() else {
            return;
        };
        self.keep_image(node);
        self.cluster.crash(node, power);
        self.idle(6000);
        self.bring_back(node);
    }

    /// Remembers how the disk of a node is now, if nothing is remembered yet.
    fn keep_image(&self, node: Node) {
        let mut state = self.cluster.state();
        let slot = &mut state.slots[node as usize];
        if slot.earlier.is_none() && !slot.rotten {
            slot.earlier = Some(slot.disk.sim().crash(turns::draw().unwrap_or_default()));
        }
    }

    fn cut_all(&mut self) {
        let nodes = 0..self.cluster.nodes();
        let held = nodes.filter_map(|node| Some((node, self.cluster.hold(node)?)));
        let held: Vec<(Node, Hold)> = held.collect();
        for (node, _) in &held {
            self.cluster.crash(*node, true);
        }
        self.idle(2000);
        for (node, hold) in held {
            self.bring_back(node);
            drop(hold);
            self.idle(300);
        }
    }

    /// Whether every node but `gone` holds all that it ever made durable.
    fn is_sound_without(&self, gone: Node) -> bool {
        self.forgive();
        let state = self.cluster.state();
        let mut slots = (0..).zip(&state.slots);
        slots.all(|(node, slot)| node == gone || !slot.tainted)
    }

    /// Whoever is level with the primary holds everything again.
    fn forgive(&self) {
        let Some((primary, _)) = self.cluster.primary() else {
            return;
        };
        for node in 0..self.cluster.nodes() {
            let level = primary.wait_in_sync(&name(node), Lsn::ZERO, Duration::ZERO);
            let mut state = self.cluster.state();
            let slot = &mut state.slots[node as usize];
            slot.tainted &= !level || slot.rotten;
        }
    }

    /// Whether another one than `old` leads now, or is to as soon as its disk lets it.
    fn promote_another(&mut self, old: Node) -> bool {
        let Some((winner, _hold)) = self.hold_replica() else {
            return false;
        };
        if let Err(error) = operator::lead(&self.cluster, winner) {
            self.cluster.tell(&format!("nobody leads: {error}"));
        }
        self.cluster.state().last_leader != Some(old)
    }

    /// The right to change who leads, or to lose what somebody holds, and not both at a time: about
    /// the node that `choose` gives, if everybody else holds all that it ever made durable.
    fn hold_alone(
        &mut self,
        choose: impl FnOnce(&mut Trouble) -> Option<(Node, Hold)>,
    ) -> Option<(Node, [Hold; 2])> {
        let alone = self.cluster.hold(Node::MAX)?;
        let (node, hold) = choose(self)?;
        self.is_sound_without(node).then_some((node, [hold, alone]))
    }

    fn fail_over(&mut self) {
        let Some((old, _holds)) = self.hold_alone(|trouble| trouble.hold_leader()) else {
            return;
        };
        if self.cluster.nodes() < 3 {
            return;
        }
        match self.rng.below(3) {
            0 => self.cluster.crash(old, false),
            1 => self.cluster.crash(old, true),
            _ => self.cluster.stop(old),
        }
        self.idle(500);
        self.succeed(old);
    }

    /// Another node follows `old`, which is down, and `old` comes back as its replica.
    fn succeed(&mut self, old: Node) {
        if self.promote_another(old) {
            self.idle(5000);
            self.come_back_as_replica(old);
        } else {
            self.bring_back(old);
        }
    }

    fn come_back_as_replica(&mut self, old: Node) {
        if let Err(error) = self.cluster.demote(old) {
            self.tell(old, &format!("is not demoted: {error}"));
        }
        self.bring_back(old);
        operator::reassign(&self.cluster);
    }

    /// A replica loses what it has, if everybody else has everything.
    fn change_disk(
        &mut self,
        what: &str,
        disk: impl FnOnce(&Cluster, Node) -> Option<Arc<SimDisk>>,
    ) {
        let Some((node, _holds)) = self.hold_alone(Trouble::hold_replica) else {
            return;
        };
        let Some(sim) = disk(&self.cluster, node) else {
            return;
        };
        self.lose_disk(node, what, sim);
        self.idle(1000);
        self.bring_back(node);
    }

    /// A node loses power, and has this disk from then on.
    fn lose_disk(&self, node: Node, what: &str, sim: Arc<SimDisk>) {
        {
            let mut state = self.cluster.state();
            let slot = &mut state.slots[node as usize];
            slot.tainted = true;
            slot.rotten = false;
        }
        self.cluster.crash(node, true);
        self.tell(node, what);
        self.cluster.give_disk(node, sim);
    }

    /// Cuts a node off from everybody, or takes that back.
    fn isolate(&self, node: Node, isolated: bool) {
        let network = &self.cluster.network;
        for other in (0..self.cluster.nodes()).filter(|other| *other != node) {
            for (from, to) in [(node, other), (other, node)] {
                match isolated {
                    true => network.block(from, to),
                    false => network.unblock(from, to),
                }
            }
        }
    }

    fn block(&mut self, one_way: bool) {
        let (from, to) = (self.any(), self.any());
        if one_way {
            self.tell(from, &format!("cannot be heard by {}", name(to)));
            self.cluster.network.block(from, to);
            self.idle(20_000);
            return self.cluster.network.unblock(from, to);
        }
        self.tell(from, "is cut off");
        self.isolate(from, true);
        self.idle(20_000);
        self.isolate(from, false);
        self.tell(from, "is reachable again");
    }

    fn weather(&mut self, weather: Weather) {
        self.cluster.tell("a storm begins");
        self.cluster.network.set_weather(weather);
        self.idle(8000);
        self.cluster.network.set_weather(self.cluster.mix.weather);
        self.cluster.tell("the storm is over");
    }

    fn slow_disk(&mut self) {
        let node = self.any();
        self.tell(node, "has a slow disk");
        let disk = Arc::clone(&self.cluster.state().slots[node as usize].disk);
        disk.slow(Duration::from_millis(self.rng.pick(&[1, 10, 100])));
        self.idle(5000);
        disk.slow(Duration::from_micros(60));
    }

    fn disk_fault(&mut self, fault: Fault) {
        let node = self.any();
        let Some(_hold) = self.cluster.hold(node) else {
            return;
        };
        let after = self.rng.below(60);
        self.tell(node, &format!("gets {fault:?} after {after}"));
        let sim = Arc::clone(self.cluster.state().slots[node as usize].disk.sim());
        sim.inject(fault.after(after));
        self.idle(5000);
        sim.clear_faults();
        self.restart(node);
    }

    /// What runs on a node whose disk failed is started again.
    fn restart(&mut self, node: Node) {
        self.cluster.crash(node, false);
        self.idle(500);
        self.bring_back(node);
    }

    fn full_disk(&mut self) {
        let node = self.any();
        self.tell(node, "has a full disk");
        let sim = Arc::clone(self.cluster.state().slots[node as usize].disk.sim());
        sim.set_capacity(Some(0));
        self.idle(6000);
        sim.set_capacity(None);
        self.tell(node, "has space again");
    }

    fn rot(&mut self) {
        let Some((node, _holds)) = self.hold_alone(Trouble::hold_replica) else {
            return;
        };
        let sim = {
            let mut state = self.cluster.state();
            let slot = &mut state.slots[node as usize];
            slot.tainted = true;
            Arc::clone(slot.disk.sim())
        };
        let paths = sim.paths();
        if paths.is_empty() {
            return;
        }
        let path = &paths[self.rng.index(paths.len())];
        let bytes = sim.read_file(path).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        // Most of a file is space that nobody looks at: where something lies, more often.
        let mut at = self.rng.index(bytes.len());
        for _ in 0..64 {
            if bytes[at] != 0 {
                break;
            }
            at = self.rng.index(bytes.len());
        }
        let at = at as u64;
        self.tell(node, &format!("rots at {} of {}", at, path.display()));
        // OK because a file that was removed meanwhile has nothing to rot.
        drop(sim.flip(path, at, 1 << self.rng.below(8)));
        self.cluster.state().slots[node as usize].rotten = true;
    }

    fn reclaim(&mut self) {
        let Some((primary, _)) = self.cluster.primary() else {
            return;
        };
        let volume = primary.volume();
        let committed = volume.log().frontiers().committed;
        let advanced = volume.advance_tail(committed);
        self.cluster
            .tell(&format!("the log is reclaimed: {advanced:?}"));
    }

    fn move_replica(&mut self) {
        let Some((node, _hold)) = self.hold_replica() else {
            return;
        };
        self.cluster.stop(node);
        self.cluster.move_to_new_address(node);
        self.tell(node, "has another address");
        self.idle(500);
        self.bring_back(node);
        operator::reassign(&self.cluster);
    }

    fn assign(&mut self) {
        let Some((primary, _)) = self.cluster.primary() else {
            return;
        };
        let epoch = primary.volume().meta().get().epoch;
        let above = Epoch::new(epoch.get() + 1 + self.rng.below(3));
        let wrong = operator::assignment(&self.cluster, above);
        if primary.assign(&wrong).is_ok() {
            let text = format!("an assignment raised the epoch to {above} (D5)");
            self.cluster.history().violate(text);
        }
        operator::reassign(&self.cluster);
        operator::reassign(&self.cluster);
        // A control plane that wants a replica recovered, whatever that one is at.
        let Some(node) = self.replica().filter(|_| self.rng.chance(8)) else {
            return;
        };
        let kind = self
            .rng
            .pick(&[Session::CatchUp, Session::Rebuild, Session::Reassign]);
        let wanted = operator::assignment(&self.cluster, epoch);
        let assigned = primary.assign(&wanted.recovering(ReplicaId::new(&name(node)), kind));
        let assigned = assigned.map(|assigned| assigned.superseded.len());
        self.tell(node, &format!("is to be recovered, {kind:?}: {assigned:?}"));
    }
}
