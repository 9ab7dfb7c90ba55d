//! Trouble that waits for the worst moment: between a promise and the first word of whoever it was
//! given to, between the intent and the image, between what the page cache shows and what is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::simulated::Node;
use seawall_recovery::{AckRule, Primary};
use seawall_snapshot::Durability;
use seawall_wal::disk::sim::{Effect, Fault, Rng, SimDisk};
use seawall_wal::sync::{self, JoinHandle, turns};
use seawall_wal::{Epoch, IoOp, Lsn, Record};

use super::Trouble;
use crate::cluster::{CELLS, name};
use crate::history::{CELL, bytes_of};
use crate::operator;

impl Trouble {
    /// Another one leads while the primary is cut off. If `betrayed`, those who promised it are
    /// killed at once, and then the old primary reaches them and the new one does not.
    pub(super) fn usurp(&mut self, betrayed: bool) {
        let Some((old, _holds)) = self.hold_alone(|trouble| trouble.hold_leader()) else {
            return;
        };
        if self.cluster.nodes() < 3 {
            return;
        }
        let Some((primary, _)) = self.cluster.primary() else {
            return;
        };
        self.isolate(old, true);
        self.tell(old, "is cut off, and another one is to follow it");
        {
            let mut state = self.cluster.state();
            state.leader = None;
            self.cluster.history().end_reign();
        }
        let (stale, never) = self.write_stale(primary);
        self.cluster.state().treachery = betrayed;
        let won = self.promote_another(old);
        self.cluster.state().treachery = false;
        self.idle(4000);
        if !won {
            // Its own clients are told nothing of this: it begins anew.
            self.cluster.crash(old, false);
            drop(stale.join());
            self.isolate(old, false);
            return self.bring_back(old);
        }
        // Until the ack rule covers what the new primary began with, it may still fetch the rest.
        // Before anything of its epoch is committed, a longer log of the old one may win again.
        let confirmed = self.cluster.primary().is_some_and(|(primary, _)| {
            let log = primary.volume().log();
            let committed = log.frontiers().committed;
            // An epoch without a record has no entry.
            let epoch = primary.volume().meta().get().epoch;
            let own = log.lineage().last().filter(|entry| entry.epoch == epoch);
            primary.confirmed() && own.is_some_and(|entry| entry.first <= committed)
        });
        never.store(confirmed, Ordering::Relaxed);
        if betrayed {
            self.reach_the_betrayers(old);
        }
        self.isolate(old, false);
        if self.rng.chance(8) {
            drop(stale.join());
        }
        self.idle(4000);
        match self.rng.chance(8) {
            true => self.cluster.crash(old, true),
            false => self.cluster.stop(old),
        }
        self.come_back_as_replica(old);
    }

    /// Those who were killed come back, to the old primary alone.
    fn reach_the_betrayers(&mut self, old: Node) {
        let Some(winner) = self.cluster.state().leader else {
            return;
        };
        self.isolate(winner, true);
        let others = (0..self.cluster.nodes()).filter(|node| ![old, winner].contains(node));
        for node in others {
            self.cluster.network.unblock(old, node);
            self.cluster.network.unblock(node, old);
            if let Some(_hold) = self.cluster.hold(node) {
                self.bring_back(node);
            }
        }
        self.idle(8000);
        self.isolate(winner, false);
    }

    /// Writes to a primary that another one follows, beside everything else. None of them may be
    /// committed; and none may be seen, once the flag is set.
    fn write_stale(&mut self, primary: Arc<Primary>) -> (JoinHandle, Arc<AtomicBool>) {
        let promised = self.cluster.mix.ack != AckRule::BestEffort;
        let cluster = Arc::clone(&self.cluster);
        let seed = self.rng.next();
        let never = Arc::new(AtomicBool::new(false));
        let forbid = Arc::clone(&never);
        let stale = sync::spawn("stale", move || {
            let (mut rng, mut all) = (Rng::new(seed), Vec::new());
            for _ in 0..10 {
                let cell = rng.below(CELLS);
                let begun = cluster.history().begin_stale(cell..cell + 1);
                let bytes = bytes_of(begun.stamp, 1);
                all.push(begun);
                let written = primary.write(cell * CELL, &bytes, Durability::Durable);
                if written.is_ok() && promised {
                    let text = "a primary that is superseded committed a write (A202, A204)";
                    cluster.history().violate(text.into());
                }
                turns::sleep(Duration::from_millis(rng.below(1000)));
            }
            if forbid.load(Ordering::Relaxed) {
                all.iter().for_each(|begun| cluster.history().forbid(begun));
            }
        });
        (stale.expect("a thread"), never)
    }

    /// The primary is cut off and serves on, until it goes and another one follows it.
    pub(super) fn strand(&mut self) {
        let Some((old, _holds)) = self.hold_alone(|trouble| trouble.hold_leader()) else {
            return;
        };
        if self.cluster.nodes() < 3 {
            return;
        }
        self.tell(old, "is cut off and serves on");
        self.isolate(old, true);
        self.idle(3000);
        self.cluster.crash(old, self.rng.chance(8));
        self.isolate(old, false);
        self.succeed(old);
    }

    /// Power goes at some operation of a capture.
    pub(super) fn cut_capture(&mut self) {
        let node = self.any();
        let Some(_hold) = self.cluster.hold(node) else {
            return;
        };
        let Some(volume) = self.cluster.volume_of(node) else {
            return;
        };
        let sim = Arc::clone(self.cluster.state().slots[node as usize].disk.sim());
        let last = sim.changes() + self.rng.below(24);
        sim.freeze_after_ops(last);
        let captured = volume.checkpoint(None);
        drop(volume);
        self.tell(node, &format!("captures: {captured:?}"));
        self.cluster.crash(node, true);
        self.idle(500);
        self.bring_back(node);
    }

    /// What the state log of the primary learns is lost by a failed sync, and shown all the same
    /// until power goes.
    pub(super) fn forget(&mut self) {
        let Some((node, _hold)) = self.hold_leader() else {
            return;
        };
        self.tell(node, "can sync its state log no more");
        let sim = Arc::clone(self.cluster.state().slots[node as usize].disk.sim());
        let lost = Fault::at(IoOp::Sync, Effect::LoseUnsynced).on("recovery/");
        sim.inject(lost.for_ever());
        // What it has to remember.
        self.cluster.network.cut(node);
        self.idle(2000);
        for power in [false, true] {
            self.cluster.crash(node, power);
            self.idle(500);
            self.bring_back(node);
            self.idle(3000);
        }
    }

    /// A replica has an empty disk that is too small, or fails, when it first hears of the volume.
    pub(super) fn newcomer(&mut self) {
        let Some((node, _holds)) = self.hold_alone(Trouble::hold_replica) else {
            return;
        };
        let seed = turns::draw().unwrap_or_default();
        let small = self.rng.chance(8);
        let sim = match small {
            true => SimDisk::with_capacity(seed, self.rng.below(3 << 20)),
            false => SimDisk::new(seed),
        };
        self.cluster.state().slots[node as usize].earlier = None;
        self.lose_disk(node, "gets an empty disk that fails", Arc::clone(&sim));
        if !small {
            sim.inject(Fault::at_any(Effect::FailErrno(5)).after(self.rng.below(120)));
        }
        self.bring_back(node);
        self.idle(5000);
        sim.set_capacity(None);
        sim.clear_faults();
        self.tell(node, "has a sound disk");
        // What fails under a volume ends what runs on it; before there is one, the next try counts.
        if !small && self.cluster.volume_of(node).is_some() {
            self.restart(node);
        }
        self.bring_back(node);
    }

    /// A record of the log rots while the primary is stopped, and comes back from a replica.
    pub(super) fn damage(&mut self) {
        let Some((node, _holds)) = self.hold_alone(|trouble| trouble.hold_leader()) else {
            return;
        };
        let Some((primary, _)) = self.cluster.primary() else {
            return;
        };
        let log = primary.volume().log();
        let (first, last) = (log.first_retained().get(), log.frontiers().committed);
        if first > last.get() || self.cluster.nodes() < 3 {
            return;
        }
        let lsn = Lsn::new(first + self.rng.below(last.get() - first + 1));
        let mut others = (0..self.cluster.nodes()).filter(|other| *other != node);
        let held = others.any(|other| {
            let volume = self.cluster.volume_of(other);
            let holds = volume.is_some_and(|volume| volume.log().first_retained() <= lsn);
            holds && primary.wait_in_sync(&name(other), last, Duration::ZERO)
        });
        let record = log.read_record(lsn).ok().filter(|_| held);
        drop(primary);
        // Zeros would be found in front of the record too.
        let stamped = |record: &Record| record.payload().iter().any(|byte| *byte != 0);
        let Some(record) = record.filter(stamped) else {
            return;
        };
        // A clean close says how far the log goes: damage below that is never taken for a torn end.
        self.cluster.stop(node);
        if operator::damage(&self.cluster, node, record.payload()) {
            self.tell(node, &format!("has lost record {lsn}"));
        }
        self.idle(500);
        self.bring_back(node);
    }

    /// A replica is killed, and then asked by somebody who wanted to be primary long ago.
    pub(super) fn ask_late(&mut self) {
        let Some((node, _hold)) = self.hold_replica() else {
            return;
        };
        self.cluster.crash(node, self.rng.chance(4));
        self.idle(500);
        self.bring_back(node);
        let (from, address, reigning) = {
            let state = self.cluster.state();
            let address = state.slots[node as usize].address.clone();
            (state.last_leader, address, state.reigning)
        };
        // No later epoch than the one that reigns: that would take a promotion to its end.
        let epoch = Epoch::new(1 + self.rng.below(reigning));
        if let Some(from) = from.filter(|from| *from != node) {
            let answer = operator::ask(&self.cluster, from, (node, &address), epoch);
            let answer = answer.map(|report| report.durable);
            self.tell(node, &format!("is asked for {epoch} late: {answer:?}"));
        }
    }
}
