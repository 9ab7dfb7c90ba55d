//! One run: trouble, then healing, then what must hold.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::Primary;
use seawall_recovery::budget::Budget;
use seawall_snapshot::{Durability, Volume};
use seawall_wal::disk::sim::{Rng, SimDisk};
use seawall_wal::sync::{self, turns};
use seawall_wal::{Lsn, PinLimits};

use crate::clients::{Client, Own};
use crate::cluster::{Cluster, name};
use crate::history::bytes_of;
use crate::mix::Mix;
use crate::operator;
use crate::trouble::Trouble;

/// Time of a healed cluster until everybody is level.
const HEALING: Duration = Duration::from_secs(600);
/// Troubles at a time.
const TROUBLES: u64 = 2;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What must hold and does not.
    pub violation: Option<String>,
    /// Of everything that was decided: equal for equal runs.
    pub trace: u64,
    /// Turns taken.
    pub turns: u64,
    /// Seconds of the world.
    pub seconds: u64,
    /// Writes acknowledged, committed, and cells read.
    pub counts: [u64; 3],
    /// Promotions that came about.
    pub promotions: u64,
    /// Events of recovery, by name.
    pub marks: std::collections::BTreeMap<String, u64>,
    told: Vec<String>,
}

impl Report {
    /// The story of the run, line by line.
    #[must_use]
    pub fn story(&self) -> String {
        let mut text = format!("seed {}\n", self.seed);
        for line in &self.told {
            // OK because a String takes everything.
            let _ = writeln!(text, "{line}");
        }
        if let Some(violation) = &self.violation {
            let _ = writeln!(text, "violation: {violation}");
        }
        text
    }
}

fn pace(mix: &Mix) -> turns::Pace {
    turns::Pace {
        preemptions: mix.preemptions,
        // A run takes some ten thousand.
        turns_max: 1_000_000,
        ..turns::Pace::default()
    }
}

/// Runs the cluster of `seed` through what `mix` allows.
#[must_use]
pub fn run(seed: u64, mix: &Mix) -> Report {
    let (report, outcome) = turns::run(seed, pace(mix), || play(seed, mix.clone()));
    let mut report = report;
    report.trace = outcome.trace;
    report.turns = outcome.turns;
    report.seconds = outcome.now_ns / 1_000_000_000;
    let mut wrong = |text: String| {
        report.violation.get_or_insert(text);
    };
    if let Some(panic) = outcome.panics.first() {
        wrong(format!("a thread panicked: {panic}"));
    }
    if !outcome.left.is_empty() {
        wrong(format!("threads are left over: {:?}", outcome.left));
    }
    report
}

/// Runs `body` in a cluster of its own, then heals it; for tests of one situation.
///
/// # Panics
/// With the story, when the cluster does not become whole.
pub fn scene(seed: u64, mix: &Mix, body: impl FnOnce(&Arc<Cluster>)) {
    let (cluster, outcome) = turns::run(seed, pace(mix), || {
        let cluster = Cluster::new(mix.clone());
        body(&cluster);
        finish(&cluster);
        cluster
    });
    let told = cluster.told().join("\n");
    let violation = cluster.history().violation().map(str::to_owned);
    assert_eq!(violation, None, "seed {seed}\n{told}");
    for of in [outcome.left, outcome.panics] {
        assert_eq!(of, Vec::<String>::new(), "seed {seed}\n{told}");
    }
}

fn play(seed: u64, mix: Mix) -> Report {
    let cluster = Cluster::new(mix);
    let over = Arc::new(AtomicBool::new(false));
    let mut rng = Rng::new(seed);
    let owned = Own::of(cluster.mix.clients, cluster.mix.shared);
    let clients: Vec<_> = owned
        .into_iter()
        .map(|own| {
            let mut client = Client::new(&cluster, rng.next(), own);
            let operations = cluster.mix.operations;
            let work = move || client.run(operations);
            sync::spawn("client", work).expect("a thread")
        })
        .collect();
    let troubles: Vec<_> = (0..TROUBLES)
        .map(|_| {
            let mut trouble = Trouble::new(&cluster, rng.next(), &over);
            sync::spawn("trouble", move || trouble.run()).expect("a thread")
        })
        .collect();
    let mut joined = true;
    for client in clients {
        joined &= client.join().is_ok();
    }
    over.store(true, Ordering::Relaxed);
    for trouble in troubles {
        joined &= trouble.join().is_ok();
    }
    if joined {
        finish(&cluster);
    }
    let history = cluster.history();
    let told = cluster.told();
    let promotions = told.iter().filter(|line| line.contains("is promoted to"));
    Report {
        seed,
        violation: history.violation().map(str::to_owned),
        trace: 0,
        turns: 0,
        seconds: 0,
        counts: history.counts,
        promotions: promotions.count() as u64,
        marks: cluster.marks(),
        told,
    }
}

/// The second phase: everything is healed, and the cluster must become whole and go.
fn finish(cluster: &Arc<Cluster>) {
    cluster.tell("everything is healed");
    heal(cluster);
    if let Some((primary, _)) = cluster.primary() {
        if let Err(text) = converge(cluster, &primary) {
            cluster.history().violate(text);
        }
        drop(primary);
    } else {
        cluster.history().violate("nobody is primary".into());
    }
    for node in 0..cluster.nodes() {
        let volume = cluster.volume_of(node);
        cluster.stop(node);
        let left = volume.map_or_else(Vec::new, |volume| volume.pins());
        if !left.is_empty() {
            let text = format!("{} leaves pins behind: {left:?}", name(node));
            cluster.history().violate(text);
        }
    }
    cluster.mourn();
    let connections = cluster.network.connections();
    if connections > 0 {
        let text = format!("{connections} connections are left over");
        cluster.history().violate(text);
    }
}

fn heal(cluster: &Arc<Cluster>) {
    cluster.network.open_all();
    cluster.network.set_weather(cluster.mix.weather);
    for node in 0..cluster.nodes() {
        let rotten = {
            let state = cluster.state();
            let leads = state.last_leader == Some(node);
            let slot = &state.slots[node as usize];
            slot.disk.heal();
            // A replica that nobody told of its damage would keep it (D15).
            slot.rotten || slot.damaged && !leads
        };
        if rotten {
            // What an operator does with a disk that gives other bytes than it got.
            cluster.crash(node, true);
            cluster.give_disk(node, SimDisk::new(turns::draw().unwrap_or_default()));
            cluster.tell(&format!("{} gets a new disk", name(node)));
        }
    }
    lift_limits(cluster);
    // Whoever has to be promoted anew needs promises.
    let last = cluster.state().last_leader;
    let others = (0..cluster.nodes()).filter(|node| Some(*node) != last);
    let order = others.chain(last);
    for node in order {
        let hold = cluster.hold(node).expect("nobody else is left");
        let back = operator::bring_back(cluster, node);
        drop(hold);
        if let Err(error) = back {
            let text = format!(
                "{} does not start although it was healed: {error}",
                name(node)
            );
            cluster.history().violate(text);
        }
    }
    operator::reassign(cluster);
}

/// What pins may keep can be said at any time; the other options of a primary stay as long as it
/// runs.
fn lift_limits(cluster: &Cluster) {
    cluster.state().healed = true;
    let Some((primary, _)) = cluster.primary() else {
        return;
    };
    primary.volume().log().set_pin_limits(PinLimits::DEFAULT);
    drop(primary);
    let leader = cluster.state().leader;
    if let Some(leader) = leader.filter(|_| cluster.mix.budget != Budget::UNBOUNDED) {
        cluster.stop(leader);
    }
}

fn converge(cluster: &Cluster, primary: &Primary) -> Result<(), String> {
    // What counts as in sync must be so of what runs now.
    let (_, reign) = cluster.primary().ok_or("nobody is primary")?;
    let begun = cluster.history().begin(reign, 0..1, false);
    let begun = begun.ok_or("its reign is over")?;
    let until = turns::now_ns() + u64::try_from(HEALING.as_nanos()).expect("some minutes");
    let bytes = bytes_of(begun.stamp, 1);
    let head = loop {
        match primary.write(0, &bytes, Durability::Durable) {
            Ok(head) => break head,
            Err(error) if turns::now_ns() > until => {
                let replicas = primary.status().replicas;
                return Err(format!(
                    "no write although all is healed: {error}; {replicas:?}"
                ));
            }
            Err(_) => turns::sleep(Duration::from_millis(500)),
        }
    };
    cluster.history().commit(&begun);
    let leader = cluster.state().leader;
    for node in (0..cluster.nodes()).filter(|node| Some(*node) != leader) {
        let left = Duration::from_nanos(until.saturating_sub(turns::now_ns()));
        if !primary.wait_in_sync(&name(node), head, left) {
            let status = primary.status();
            let of = status.replicas.iter().find(|of| of.id == name(node));
            return Err(format!("{} is not in sync with {head}: {of:?}", name(node)));
        }
    }
    let ours = contents(primary.volume(), head)?;
    cluster
        .history()
        .explains(&ours.1, "the primary at the end");
    for node in (0..cluster.nodes()).filter(|node| Some(*node) != leader) {
        let volume = cluster
            .volume_of(node)
            .ok_or("a replica without a volume is in sync")?;
        let theirs = contents(&volume, head).map_err(|text| format!("{}: {text}", name(node)))?;
        if ours != theirs {
            let same = ours.1 == theirs.1;
            return Err(format!(
                "{} differs at {head}; same bytes: {same}",
                name(node)
            ));
        }
        check(cluster, node, &volume).map_err(|text| format!("{}: {text}", name(node)))?;
    }
    let leader = leader.ok_or("nobody leads")?;
    check(cluster, leader, primary.volume())
}

/// Digest and bytes at `lsn`, which is the head.
fn contents(volume: &Arc<Volume>, lsn: Lsn) -> Result<(String, Vec<u8>), String> {
    let digest = volume.digest_at(lsn).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; usize::try_from(volume.size()).expect("a small volume")];
    let read = volume.read(0, &mut bytes);
    read.map_err(|error| error.to_string())?;
    Ok((format!("{digest:?}"), bytes))
}

/// Everything that is checked against sums is whole.
fn check(cluster: &Cluster, node: u32, volume: &Volume) -> Result<(), String> {
    let report = volume.verify(&mut |_, _| ());
    let report = report.map_err(|error| format!("verify: {error}"))?;
    // What rotted may have been reclaimed before anybody asked for it.
    let rotted = cluster.state().slots[node as usize].damaged;
    let tail = volume.log().frontiers().tail;
    let gone = |lsn: Option<Lsn>| rotted && lsn.is_some_and(|lsn| lsn <= tail);
    let mut damage = report.damage.iter();
    match damage.find(|damage| !gone(damage.lsn)) {
        None => Ok(()),
        Some(damage) => Err(format!("verify finds {damage:?}")),
    }
}
