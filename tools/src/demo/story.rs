//! The story: what happens to which copy, in order. Every decision shown is read from the primary's
//! own record of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use seawall_wal::Lsn;
use seawall_wal::disk;
use serde_json::Value;

use crate::common;
use crate::demo::Stage;
use crate::demo::node::{self, Node, word, words};
use crate::demo::timeline::{self, Step, Timeline};
use crate::edge;
use crate::error::Error;

/// The input is cut into parts, one for each scene; smaller ones make no story.
pub(super) const INPUT_BYTES_MIN: u64 = 1 << 20;

/// How long a replica may take to be in sync again.
const RECOVERY_MILLISECONDS: u64 = 240_000;

/// Ends of the parts of the input, in hundredths.
const BULK: u64 = 40;
const BRIEF: u64 = 48;
const LONG: u64 = 64;
const BEHIND: u64 = 68;
const AHEAD: u64 = 76;
const ELSEWHERE: u64 = 80;
const ALL: u64 = 100;

/// Plays every scene and gives the LSN at which all copies must be equal.
pub(super) fn play(
    stage: &Stage,
    timeline: &mut Timeline,
    out: &mut dyn Write,
) -> Result<Lsn, Error> {
    let mut cast = Cast {
        stage,
        timeline,
        out,
        primary: None,
        home: "p",
        replicas: BTreeMap::new(),
        addresses: BTreeMap::new(),
        seen: BTreeSet::new(),
        head: 0,
        rate: 50e6,
    };
    cast.initial_sync()?;
    cast.write_while_replicating()?;
    cast.stop_briefly()?;
    cast.stop_past_retention()?;
    cast.wipe()?;
    cast.promote_another()?;
    cast.kill_in_the_middle()?;
    cast.finish()
}

/// Everybody on stage, and the record of what happened.
struct Cast<'a> {
    stage: &'a Stage,
    timeline: &'a mut Timeline,
    out: &'a mut dyn Write,
    primary: Option<Node>,
    /// Directory of the primary.
    home: &'static str,
    replicas: BTreeMap<&'static str, Node>,
    addresses: BTreeMap<&'static str, String>,
    /// Sessions that were shown.
    seen: BTreeSet<String>,
    /// Head of the primary after the last write.
    head: u64,
    /// Bytes per second of the first bulk write.
    rate: f64,
}

// The scenes.
impl Cast<'_> {
    fn initial_sync(&mut self) -> Result<(), Error> {
        let size = (self.stage.bytes + (16 << 20)).next_multiple_of(1 << 20);
        let segment = (size / 16).next_power_of_two().clamp(1 << 20, 64 << 20);
        let (size, segment) = (size.to_string(), segment.to_string());
        let home = word(&self.stage.dir("p"));
        let create = ["create", &home, "--size", &size, "--segment-size", &segment];
        node::run(&words(&create))?;
        self.start_replica("r1", &[])?;
        self.start_replica("r2", &[])?;
        self.start_primary("p", &["r1", "r2"], &[])?;
        self.show_recovery("r1", "start, empty replica r1")?;
        self.show_recovery("r2", "start, empty replica r2")
    }

    fn write_while_replicating(&mut self) -> Result<(), Error> {
        let step = self.write(0, BULK, "write, replicating to r1, r2")?;
        self.rate = bytes_per_second(&step);
        self.show(step)?;
        self.wait("r1")?;
        self.wait("r2")
    }

    fn stop_briefly(&mut self) -> Result<(), Error> {
        self.kill_replica("r1");
        let step = self.write(BULK, BRIEF, "r1 is killed, writes go on")?;
        self.show(step)?;
        self.start_replica("r1", &[])?;
        self.show_recovery("r1", "r1 is back")
    }

    fn stop_past_retention(&mut self) -> Result<(), Error> {
        self.kill_replica("r1");
        let step = self.write(BRIEF, LONG, "r1 is killed again")?;
        self.show(step)?;
        self.reclaim()?;
        let step = self.write(LONG, BEHIND, "writes go on")?;
        self.show(step)?;
        self.start_replica("r1", &[])?;
        self.show_recovery("r1", "r1 is back, past retention")
    }

    fn reclaim(&mut self) -> Result<(), Error> {
        let started = edge::now();
        let checkpoint = number(&self.ask("checkpoint")?["checkpoint"]);
        let tail = number(&self.ask(&format!("reclaim {}", self.head))?["tail"]);
        self.show(Step {
            step: "checkpoint, reclaim the log".into(),
            outcome: format!("tail {tail}"),
            proof: format!("the base holds every record through {checkpoint}, durably"),
            through: tail,
            seconds: timeline::seconds(started.elapsed()),
            ..Step::default()
        })
    }

    fn wipe(&mut self) -> Result<(), Error> {
        self.end_primary()?;
        self.kill_replica("r2");
        disk::remove(common::disk().as_ref(), &self.stage.dir("r2"))?;
        self.start_replica("r2", &[])?;
        self.start_primary("p", &["r1", "r2"], &["--rebuild", "full"])?;
        self.show_recovery("r2", "r2 lost everything")?;
        self.show_recovery("r1", "r1 is asked for the same")
    }

    fn promote_another(&mut self) -> Result<(), Error> {
        self.kill_replica("r1");
        self.kill_replica("r2");
        let step = self.write_alone(BEHIND, AHEAD, "p writes with nobody listening")?;
        self.show(step)?;
        self.kill_primary();
        self.start_replica("r2", &[])?;
        self.promote("r1", 2, "r2")?;
        self.start_replica("p", &["--demote"])?;
        self.start_primary("r1", &["p", "r2"], &[])?;
        let step = self.write(AHEAD, ELSEWHERE, "r1 is primary and writes on")?;
        self.show(step)?;
        self.show_recovery("r2", "r2 follows r1")?;
        self.show_recovery("p", "p is back, ahead on a dead branch")
    }

    fn promote(&mut self, id: &str, epoch: u64, peer: &'static str) -> Result<(), Error> {
        let started = edge::now();
        let (home, epoch) = (word(&self.stage.dir(id)), epoch.to_string());
        let peer = format!("{peer}={}", self.addresses[peer]);
        let said = node::run(&words(&[
            "promote", &home, "--epoch", &epoch, "--peer", &peer,
        ]))?;
        self.show(Step {
            step: format!("p is killed, {id} is promoted"),
            outcome: format!("primary of epoch {epoch}"),
            proof: said,
            seconds: timeline::seconds(started.elapsed()),
            ..Step::default()
        })
    }

    fn kill_in_the_middle(&mut self) -> Result<(), Error> {
        let (from, length) = self.part(ELSEWHERE, ALL);
        let input = word(&self.stage.input);
        let (started, acknowledged) = (edge::now(), self.head);
        self.tell(&format!("write {from} {length} {from} {input}"))?;
        edge::pause(self.half_of(length));
        self.kill_primary();
        let greeting = self.start_primary("r1", &["p", "r2"], &[])?;
        let durable = number(&greeting["durable"]);
        self.show(Step {
            step: "SIGKILL to r1 while it writes".into(),
            outcome: format!("replayed, {}", text(&greeting["end"])),
            proof: format!(
                "{} records valid through {durable}, committed {} is a lower bound",
                greeting["records"], greeting["committed"]
            ),
            after: acknowledged,
            through: durable,
            records: durable.saturating_sub(acknowledged),
            bytes: 0,
            seconds: timeline::seconds(started.elapsed()),
        })?;
        self.confirm(&greeting)?;
        self.show_recovery("p", "p follows r1 again")?;
        self.show_recovery("r2", "r2 follows r1 again")
    }

    /// Until the ack rule has covered what the primary found (D1).
    fn confirm(&mut self, greeting: &Value) -> Result<(), Error> {
        let started = edge::now();
        let before = number(&greeting["committed"]);
        let committed = number(&self.ask("flush")?["committed"]);
        // D1: the quorum may have it before the last replica was asked for what it holds.
        let mut status = self.status()?;
        let patience = Duration::from_millis(RECOVERY_MILLISECONDS);
        while status["confirmed"] != true && started.elapsed() < patience {
            edge::pause(Duration::from_millis(5));
            status = self.status()?;
        }
        let confirmed = status["confirmed"] == true;
        self.head = number(&status["head"]);
        self.show(Step {
            step: "unconfirmed until a quorum has it".into(),
            outcome: if confirmed {
                "confirmed"
            } else {
                "not confirmed"
            }
            .into(),
            proof: format!("committed {committed} of durable {}", status["durable"]),
            after: before,
            through: committed,
            seconds: timeline::seconds(started.elapsed()),
            ..Step::default()
        })
    }

    fn finish(&mut self) -> Result<Lsn, Error> {
        let step = self.write(BEHIND, ALL, "write the rest")?;
        self.show(step)?;
        let followers: Vec<_> = self.replicas.keys().copied().collect();
        for id in &followers {
            self.wait(id)?;
        }
        self.end_primary()?;
        for (_, replica) in std::mem::take(&mut self.replicas) {
            replica.end()?;
        }
        Ok(Lsn::new(self.head))
    }
}

// What the scenes are made of.
impl Cast<'_> {
    fn show(&mut self, step: Step) -> Result<(), Error> {
        self.timeline.add(step, self.out)
    }

    /// Starts the replica `id` where it listened before.
    fn start_replica(&mut self, id: &'static str, flags: &[&str]) -> Result<(), Error> {
        let home = word(&self.stage.dir(id));
        let known = self.addresses.get(id);
        let listen = known.map_or("127.0.0.1:0", String::as_str);
        let mut args = words(&[
            "replica",
            &home,
            "--id",
            id,
            "--listen",
            listen,
            "--attached",
        ]);
        args.extend(words(flags));
        let mut replica = Node::start(id, &args, &self.stage.stop)?;
        let address = text(&replica.json()?["listening"]);
        self.addresses.insert(id, address);
        self.replicas.insert(id, replica);
        Ok(())
    }

    fn kill_replica(&mut self, id: &str) {
        drop(self.replicas.remove(id));
    }

    fn start_primary(
        &mut self,
        home: &'static str,
        replicas: &[&'static str],
        flags: &[&str],
    ) -> Result<Value, Error> {
        let dir = word(&self.stage.dir(home));
        let mut args = words(&["primary", &dir, "--ack", "quorum", "--commands"]);
        for id in replicas {
            args.extend(words(&[
                "--replica",
                &format!("{id}={}", self.addresses[id]),
            ]));
        }
        args.extend(words(flags));
        let mut primary = Node::start(home, &args, &self.stage.stop)?;
        let greeting = primary.json()?;
        self.home = home;
        self.head = number(&greeting["durable"]);
        self.primary = Some(primary);
        Ok(greeting)
    }

    fn kill_primary(&mut self) {
        drop(self.primary.take());
    }

    fn end_primary(&mut self) -> Result<(), Error> {
        match self.primary.take() {
            Some(primary) => primary.end(),
            None => Ok(()),
        }
    }

    fn primary(&mut self) -> &mut Node {
        self.primary
            .as_mut()
            .expect("the scenes start a primary first")
    }

    fn tell(&mut self, command: &str) -> Result<(), Error> {
        self.primary().tell(command)
    }

    fn ask(&mut self, command: &str) -> Result<Value, Error> {
        self.primary().ask(command)
    }

    fn status(&mut self) -> Result<Value, Error> {
        Ok(self.ask("status")?["status"].take())
    }

    /// First byte and length of a part of the input.
    fn part(&self, from: u64, to: u64) -> (u64, u64) {
        let cut = |hundredths: u64| match hundredths {
            ALL => self.stage.bytes,
            _ => self.stage.bytes / 100 * hundredths / 4096 * 4096,
        };
        (cut(from), cut(to) - cut(from))
    }

    /// About half the time that writing so many bytes takes.
    #[expect(clippy::cast_precision_loss, reason = "a guess at a duration")]
    fn half_of(&self, bytes: u64) -> Duration {
        let whole = bytes as f64 / self.rate;
        Duration::from_secs_f64((whole / 2.0).clamp(0.01, 2.0))
    }

    /// Writes a part of the input and waits until it is committed.
    fn write(&mut self, from: u64, to: u64, name: &str) -> Result<Step, Error> {
        let mut step = self.write_with(from, to, name, "flush")?;
        let status = self.status()?;
        step.outcome = format!("committed {}", status["committed"]);
        let in_sync: Vec<String> = status["replicas"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|replica| replica["state"] == "in_sync")
            .map(|replica| text(&replica["id"]))
            .collect();
        step.proof = format!(
            "durable on {} and {}, which is a quorum of 3",
            self.home,
            in_sync.join(", ")
        );
        Ok(step)
    }

    /// Writes a part that only the primary makes durable: never committed.
    fn write_alone(&mut self, from: u64, to: u64, name: &str) -> Result<Step, Error> {
        let mut step = self.write_with(from, to, name, "sync")?;
        let committed = self.status()?["committed"].take();
        step.outcome = "not committed".into();
        step.proof = format!(
            "durable on {} alone, committed stays {committed}",
            self.home
        );
        Ok(step)
    }

    fn write_with(&mut self, from: u64, to: u64, name: &str, end: &str) -> Result<Step, Error> {
        let (from, length) = self.part(from, to);
        let input = word(&self.stage.input);
        let started = edge::now();
        let after = self.head;
        let answer = self.ask(&format!("write {from} {length} {from} {input}"))?;
        self.ask(end)?;
        self.head = number(&answer["head"]);
        Ok(Step {
            step: name.into(),
            after,
            through: self.head,
            records: self.head - after,
            bytes: length,
            seconds: timeline::seconds(started.elapsed()),
            ..Step::default()
        })
    }

    /// Waits until the replica has acknowledged everything written.
    fn wait(&mut self, id: &str) -> Result<(), Error> {
        let head = self.head;
        let answer = self.ask(&format!("wait {id} {head} {RECOVERY_MILLISECONDS}"))?;
        match answer["in_sync"] == true {
            true => Ok(()),
            false => Err(Error::Node {
                name: id.into(),
                what: format!("it is not in sync at LSN {head}"),
            }),
        }
    }

    /// Waits until the replica is in sync and shows the recovery that brought it there.
    fn show_recovery(&mut self, id: &str, name: &str) -> Result<(), Error> {
        self.wait(id)?;
        let recoveries = self.status()?["recoveries"].take();
        let newest = recoveries
            .as_array()
            .into_iter()
            .flatten()
            .rfind(|recovery| self.is_news(id, recovery));
        let Some(recovery) = newest else {
            return Err(Error::Node {
                name: id.into(),
                what: "it is in sync without a recovery on record".into(),
            });
        };
        self.seen.insert(text(&recovery["session"]));
        self.show(step_of(recovery, name))
    }

    fn is_news(&self, id: &str, recovery: &Value) -> bool {
        recovery["replica"] == id
            && recovery["result"] == "in sync"
            && !self.seen.contains(&text(&recovery["session"]))
    }
}

/// A step from the primary's record of a recovery.
fn step_of(recovery: &Value, name: &str) -> Step {
    let outcome = match text(&recovery["source"]).as_str() {
        "none" | "log" => text(&recovery["outcome"]),
        source => format!("{}: {source}", text(&recovery["outcome"])),
    };
    let chunks = match number(&recovery["chunks_sent"]) + number(&recovery["chunks_matched"]) {
        0 => String::new(),
        _ => format!(
            "; chunks: {} sent, {} matched, {} zero",
            recovery["chunks_sent"], recovery["chunks_matched"], recovery["zero_chunks"]
        ),
    };
    let cut = match &recovery["truncated_to"] {
        Value::Null => String::new(),
        lsn => format!("; truncated to {lsn}"),
    };
    Step {
        step: name.into(),
        outcome,
        proof: format!("{}{chunks}{cut}", text(&recovery["proof"])),
        after: number(&recovery["after"]),
        through: number(&recovery["through"]),
        records: number(&recovery["records"]),
        bytes: number(&recovery["bytes"]),
        seconds: recovery["seconds"].as_f64().unwrap_or(0.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn bytes_per_second(step: &Step) -> f64 {
    step.bytes as f64 / step.seconds.max(1e-3)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("none").to_owned()
}
