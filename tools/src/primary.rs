//! `seawall primary`: a primary daemon, until SIGTERM or SIGINT.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use clap::ValueEnum;
use seawall_recovery::throttle::ThrottleOptions;
use seawall_recovery::{
    AckRule, Primary, PrimaryOptions, ReplicaAddress, ReplicaStatus, Security, Status,
};
use seawall_snapshot::{Access, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::{ReplayReport, ScanEnd};
use serde_json::json;

use crate::commands;
use crate::common;
use crate::control::{self, Follower};
use crate::edge::{self, Event};
use crate::error::Error;
use crate::exit::Exit;
use crate::link;
use crate::metrics;

/// How often the state of the replicas is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Serves a volume and keeps its replicas in step, until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume
    pub dir: PathBuf,
    /// A replica and where it listens
    #[arg(long = "replica", value_name = "ID=ADDR")]
    pub replicas: Vec<ReplicaAddress>,
    /// Where the replicas come from, if not from here
    #[command(flatten)]
    pub control: control::Args,
    /// When a write counts as committed
    #[arg(long, value_enum, default_value_t = Ack::BestEffort)]
    pub ack: Ack,
    /// Rebuild every replica once, although less may do
    #[arg(long, value_enum)]
    pub rebuild: Option<Rebuild>,
    /// host:port that answers seawall status
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<String>,
    /// host:port that answers GET /metrics in Prometheus text, over plain HTTP
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// How replicas are reached and questions are answered
    #[command(flatten)]
    pub link: link::Args,
    /// Recoveries slow down while durable writes take longer than this many milliseconds; 0 lets
    /// them run at full speed
    #[arg(long, value_name = "MS", default_value_t = 10)]
    pub recovery_latency_ms: u64,
    /// Bytes a second that all recoveries keep together, however slow writes are
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = common::parse_size)]
    pub recovery_floor: u64,
    /// Recoveries that send at the same time; others wait with what they need pinned
    #[arg(long, value_name = "N", default_value_t = 4,
          value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub recoveries: u64,
    /// Seconds that a replica which says it is alive may owe an acknowledgement
    #[arg(long, value_name = "S", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub stall_timeout: u64,
    /// Take commands on standard input, answer each with a line of JSON
    #[arg(long, hide = true)]
    pub commands: bool,
}

/// Ack rule, as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// The primary's own sync
    BestEffort,
    /// A majority of replicas and primary
    Quorum,
    /// Every replica and the primary
    All,
}

/// What may be asked for although less would do (D11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rebuild {
    /// The full base
    Full,
}

impl From<Ack> for AckRule {
    fn from(ack: Ack) -> AckRule {
        match ack {
            Ack::BestEffort => AckRule::BestEffort,
            Ack::Quorum => AckRule::Quorum,
            Ack::All => AckRule::All,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// A directory that is no primary's volume or in use, an address that cannot be used, damage below
/// the frontier.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::serving_disk()?;
    let events = edge::events(args.commands)?;
    let options = options(args, args.link.security(&disk)?);
    args.control.check(&disk)?;
    let (volume, report, healed) = open_healed(args, &disk, &options)?;
    let follower = Follower::begin(&disk, &args.control, &volume)?;
    let options = assigned(options, follower.as_ref());
    let followed = follower.is_some();
    let primary = Primary::start(&disk, &common::clock(), volume.clone(), options)?;
    let greeting = json!({
        "primary": args.dir,
        "listening": primary.listen_address().map(|address| address.to_string()),
        "records": report.records,
        "end": end_of(&report),
        "healed": healed,
        "clean_close": report.clean_close,
        "durable": volume.log().frontiers().durable.get(),
        "committed": volume.log().frontiers().committed.get(),
        "confirmed": primary.confirmed(),
    });
    match args.commands {
        true => writeln!(out, "{greeting}")?,
        false => {
            if healed > 0 {
                let what = "records that its log had lost came back from the replicas";
                writeln!(out, "{}: {healed} {what}", args.dir.display())?;
            }
            writeln!(out, "primary of {} is up", args.dir.display())?;
        }
    }
    out.flush()?;
    let text = || metrics::text(&primary.status(), Some(volume.log().stats()));
    let served = metrics::beside(args.metrics.as_deref(), text, || {
        control::beside(follower, &primary, || match args.commands {
            true => commands::serve(&primary, &events, out),
            false => watch(&primary, followed, &events, out),
        })
    });
    primary.shutdown();
    volume.close()?;
    served.map(|()| Exit::Fine)
}

fn assigned(options: PrimaryOptions, follower: Option<&Follower>) -> PrimaryOptions {
    PrimaryOptions {
        assignment: follower.map(Follower::assignment),
        ..options
    }
}

/// Opens the volume; what its log lost is fetched from its replicas first (D14). Gives how many
/// records came back.
fn open_healed(
    args: &Args,
    disk: &Arc<dyn Disk>,
    options: &PrimaryOptions,
) -> Result<(Arc<Volume>, ReplayReport, u64), Error> {
    let (volume, report) = common::open(disk, &args.dir, Access::Primary)?;
    let Some(damaged) = common::damaged(&args.dir, &report) else {
        return Ok((volume, report, 0));
    };
    let follower = Follower::begin(disk, &args.control, &volume)?;
    let options = assigned(options.clone(), follower.as_ref());
    if options.replicas.is_empty() && options.assignment.is_none() {
        return Err(damaged);
    }
    let healed = Primary::heal(&volume, &options)?;
    Ok((healed.volume, healed.report, healed.records))
}

/// How the log ended, for people.
fn end_of(report: &ReplayReport) -> String {
    match &report.end {
        ScanEnd::Clean if report.clean_close => "clean close".into(),
        ScanEnd::Clean => "no torn tail".into(),
        ScanEnd::Torn { .. } => "torn tail cut".into(),
        ScanEnd::Damaged(losses) => format!("damaged after LSN {}", losses.applied),
    }
}

fn options(args: &Args, security: Security) -> PrimaryOptions {
    let usual = PrimaryOptions::default();
    PrimaryOptions {
        // A command may write gigabytes before it flushes.
        commit_timeout: match args.commands {
            true => usual.commit_timeout * 20,
            false => usual.commit_timeout,
        },
        replicas: args.replicas.clone(),
        ack: args.ack.into(),
        rebuild_full: args.rebuild == Some(Rebuild::Full),
        listen: args.listen.clone(),
        security,
        throttle: ThrottleOptions {
            target: (args.recovery_latency_ms > 0)
                .then(|| Duration::from_millis(args.recovery_latency_ms)),
            floor_bytes_per_s: args.recovery_floor,
        },
        recoveries_max: args.recoveries,
        stall_timeout: Duration::from_secs(args.stall_timeout),
        ..usual
    }
}

/// Prints every change of a replica's state until told to stop. A replica that never followed and
/// says that it is not ours ends the command: it was named wrongly, and nothing else will help but
/// another assignment, where one may come.
fn watch(
    primary: &Primary,
    assigned_anew: bool,
    events: &Receiver<Event>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let (mut shown, mut followed) = (BTreeMap::new(), BTreeSet::new());
    loop {
        let status = primary.status();
        for line in changes(&status, &mut shown) {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
        let in_sync = status
            .replicas
            .iter()
            .filter(|replica| replica.state == "in_sync");
        followed.extend(in_sync.map(|replica| replica.id.clone()));
        let wrong = status.replicas.iter().find(|replica| replica.misassigned);
        let lasting = |replica: &&ReplicaStatus| !assigned_anew && !followed.contains(&replica.id);
        if let Some(replica) = wrong.filter(lasting) {
            return Err(Error::Misassigned {
                replica: replica.id.clone(),
                cause: replica.cause.clone().unwrap_or_default(),
            });
        }
        match events.recv_timeout(LOOK) {
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Ok(Event::Line(_) | Event::EndOfInput) | Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

/// Lines for the replicas whose state or cause is not what was shown last.
fn changes(status: &Status, shown: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut lines = Vec::new();
    shown.retain(|id, _| {
        let listed = status.replicas.iter().any(|replica| replica.id == *id);
        if !listed {
            lines.push(format!("replica {id} removed"));
        }
        listed
    });
    for replica in &status.replicas {
        let state = replica.state.replace('_', " ");
        let text = match &replica.cause {
            Some(cause) if state != "in sync" => format!("replica {} {state}: {cause}", replica.id),
            _ => format!("replica {} {state}", replica.id),
        };
        if shown.get(&replica.id) != Some(&text) {
            lines.push(text.clone());
            shown.insert(replica.id.clone(), text);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_printed_once_and_its_cause_with_it() {
        let mut status = Status {
            replicas: vec![ReplicaStatus {
                id: "r1".into(),
                state: "in_sync".into(),
                ..ReplicaStatus::default()
            }],
            ..Status::default()
        };
        let mut shown = BTreeMap::new();
        assert_eq!(changes(&status, &mut shown), ["replica r1 in sync"]);
        assert!(changes(&status, &mut shown).is_empty());
        status.replicas[0].state = "disconnected".into();
        status.replicas[0].cause = Some("r1 closed the connection".into());
        let lines = changes(&status, &mut shown);
        assert_eq!(lines, ["replica r1 disconnected: r1 closed the connection"]);
        status.replicas.clear();
        assert_eq!(changes(&status, &mut shown), ["replica r1 removed"]);
        assert!(changes(&status, &mut shown).is_empty());
    }
}
