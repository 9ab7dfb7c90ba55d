//! `seawall status`: one reading of a volume, live or from its files.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use seawall_recovery as recovery;
use seawall_snapshot::Access;
use seawall_wal::disk::Disk;
use serde_json::{Value, json};
use std::path::Path;

use crate::common;
use crate::edge::{self, Event};
use crate::error::Error;
use crate::exit::{self, Exit};
use crate::link;
use crate::paint::{self, Painted};

/// Shows frontiers, pins, replicas and segments of a volume.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of a volume, or host:port of a replica or of a primary that listens
    #[arg(value_name = "DIR|ADDR")]
    pub place: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Look again every second, with the slope of each replica, until SIGINT
    #[arg(long)]
    pub watch: bool,
    /// How an address is asked
    #[command(flatten)]
    pub link: link::Args,
}

/// Runs the command.
///
/// # Errors
/// A place that is neither a volume nor answers.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    if args.watch {
        return watch(args, out);
    }
    let text = look(args)?;
    show(args, &text, None, out)?;
    Ok(Exit::Fine)
}

fn look(args: &Args) -> Result<String, Error> {
    let disk = common::disk();
    match is_address(&args.place) {
        true => Ok(recovery::query_status(
            &args.place,
            &args.link.security(&disk)?,
        )?),
        false => of_dir(&disk, Path::new(&args.place)),
    }
}

fn show(
    args: &Args,
    text: &str,
    before: Option<&Before>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    match args.json {
        true => Ok(writeln!(out, "{}", text.trim_end())?),
        false => print(text, before, out),
    }
}

/// Between two looks of `--watch`.
const LOOK: Duration = Duration::from_secs(1);

/// An earlier look, and how long ago it was.
struct Before {
    status: Value,
    seconds: f64,
}

fn watch(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let events = edge::events(false)?;
    let mut last: Option<(Value, Instant)> = None;
    loop {
        let (text, now) = match look(args) {
            Ok(text) => (text, edge::now()),
            // The first look tells a wrong place; later it may be back in a moment.
            Err(error) if last.is_none() => return Err(error),
            Err(error) => {
                writeln!(out, "{}", Painted(paint::BAD, exit::line(&error)))?;
                out.flush()?;
                match wait(&events) {
                    true => continue,
                    false => return Ok(Exit::Fine),
                }
            }
        };
        let before = last.take().map(|(status, then)| Before {
            status,
            seconds: now.duration_since(then).as_secs_f64(),
        });
        if !args.json {
            // To the upper left of an empty screen; anything but a terminal does not get it.
            write!(out, "\x1b[2J\x1b[H")?;
        }
        show(args, &text, before.as_ref(), out)?;
        out.flush()?;
        last = serde_json::from_str(&text).ok().map(|status| (status, now));
        if !wait(&events) {
            return Ok(Exit::Fine);
        }
    }
}

/// Waits for the next look; false if there is to be none.
fn wait(events: &Receiver<Event>) -> bool {
    events.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout)
}

/// A place with a colon and without a slash is an address.
fn is_address(place: &str) -> bool {
    !place.contains('/')
        && place
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// From the process that holds the volume, otherwise from the files, which are only read.
fn of_dir(disk: &Arc<dyn Disk>, dir: &Path) -> Result<String, Error> {
    common::check_volume(disk, dir)?;
    if let Ok(Some(text)) = recovery::query_ctl(dir) {
        return Ok(text);
    }
    let (volume, _) = common::open(disk, dir, Access::ReadOnly)?;
    Ok(recovery::Status::of_volume(&volume).to_json())
}

fn print(text: &str, before: Option<&Before>, out: &mut dyn Write) -> Result<(), Error> {
    let status: Value = serde_json::from_str(text)
        .map_err(|_| Error::Usage("the answer is no status; is it a Seawall process?".into()))?;
    let get = |name: &str| plain(&status[name]);
    let live = if status["live"] == true {
        "live"
    } else {
        "at rest"
    };
    writeln!(
        out,
        "volume {} {} {live}, epoch {}",
        get("volume"),
        get("role"),
        get("epoch")
    )?;
    chain(&status, out)?;
    retained(&status, out)?;
    writeln!(out, "digest {} at LSN {}", get("digest"), get("digest_lsn"))?;
    let segments = &status["segments"];
    writeln!(
        out,
        "segments: {} active, {} sealed, {} free, {} bytes retained; backend {}",
        plain(&segments["active"]),
        plain(&segments["sealed"]),
        plain(&segments["free"]),
        plain(&segments["bytes"]),
        get("backend")
    )?;
    if !status["backend_fallback"].is_null() {
        writeln!(
            out,
            "a better backend was not to be had: {}",
            get("backend_fallback")
        )?;
    }
    let scrub = &status["scrub"];
    writeln!(
        out,
        "scrub: at block {}, {} passes, {} blocks checked, {} repaired, {} damaged",
        plain(&scrub["position"]),
        plain(&scrub["passes"]),
        plain(&scrub["blocks"]),
        plain(&scrub["repaired"]),
        plain(&scrub["damaged"])
    )?;
    let find = ["lba", "after", "through", "repaired"];
    rows("damaged block", &scrub["finds"], &find, out)?;
    let pin = ["owner", "kind", "lsn", "age_s", "bytes"];
    let limits = ["bytes_left", "time_left_s", "broken"];
    rows("pin", &status["pins"], &[&pin[..], &limits].concat(), out)?;
    replicas(&status, before, out)?;
    for replica in status["replicas"].as_array().into_iter().flatten() {
        let title = format!("recovery of {}", plain(&replica["id"]));
        rows(&title, &json!([replica["progress"]]), &PROGRESS, out)?;
    }
    rows("throttle", &json!([status["throttle"]]), &THROTTLE, out)?;
    let recovery = ["replica", "outcome", "source", "proof", "result"];
    rows("recovery", &status["recoveries"], &recovery, out)
}

/// The chain of frontiers, with the number of records between each two.
fn chain(status: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let names = ["tail", "checkpoint", "committed", "durable", "head"];
    let mut last: Option<u64> = None;
    for name in names {
        let position = status[name].as_u64().unwrap_or(0);
        match last {
            None => {}
            Some(last) if last == position => write!(out, " = ")?,
            Some(last) => write!(out, " --{}--> ", position.saturating_sub(last))?,
        }
        write!(out, "{name} {}", Painted(paint::TITLE, position))?;
        last = Some(position);
    }
    Ok(writeln!(out)?)
}

/// Why the log above the tail is kept.
fn retained(status: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let position = |name: &str| status[name].as_u64().unwrap_or(0);
    let (tail, checkpoint) = (position("tail"), position("checkpoint"));
    let beyond = position("head").saturating_sub(checkpoint);
    if beyond > 0 {
        writeln!(out, "retained: {beyond} records that the image lacks")?;
    }
    let pins = status["pins"].as_array().into_iter().flatten();
    let holds = pins.filter(|pin| pin["broken"].is_null());
    let oldest = holds.min_by_key(|pin| pin["lsn"].as_u64());
    let held = oldest.and_then(|pin| Some((pin, pin["lsn"].as_u64()?)));
    match held.filter(|(_, lsn)| *lsn < checkpoint) {
        Some((pin, lsn)) => writeln!(
            out,
            "retained: {} records in the image, for the pin of {} at LSN {lsn}",
            checkpoint.saturating_sub(lsn.max(tail)),
            plain(&pin["owner"])
        )?,
        None if tail < checkpoint => writeln!(
            out,
            "reclaimable: {} records in the image that no pin holds, by whole segments",
            checkpoint - tail
        )?,
        None => {}
    }
    Ok(())
}

/// One line for each replica: state, how far it is behind, and how fast that changes.
fn replicas(status: &Value, before: Option<&Before>, out: &mut dyn Write) -> Result<(), Error> {
    let list = status["replicas"].as_array().into_iter().flatten();
    let durable = status["durable"].as_u64().unwrap_or(0);
    for replica in list {
        let state = plain(&replica["state"]);
        let style = match state.as_str() {
            "in_sync" => paint::GOOD,
            "needs_rebuild" => paint::BAD,
            _ => paint::WARN,
        };
        write!(
            out,
            "replica {:<12} {} at {}",
            plain(&replica["id"]),
            Painted(style, format_args!("{state:<13}")),
            plain(&replica["address"])
        )?;
        if let Some(lsn) = replica["lsn"].as_u64() {
            let lag = durable.saturating_sub(lsn);
            write!(out, ", LSN {lsn}, {lag} records behind")?;
            if let Some(slope) = before.and_then(|before| slope(replica, lsn, before)) {
                write!(out, ", {slope:.0} records/s")?;
                if lag > 0 && slope >= 1.0 {
                    write!(out, ", level in {:.0} s if writes stop", lag as f64 / slope)?;
                }
            }
        }
        if let Some([done, all]) = replica["chunks"].as_array().map(Vec::as_slice) {
            let part = done.as_f64().unwrap_or(0.0) / all.as_f64().unwrap_or(0.0).max(1.0);
            write!(out, ", {done} of {all} chunks ({:.0} %)", part * 100.0)?;
        }
        for field in ["session", "cause"] {
            if !replica[field].is_null() {
                write!(out, ", {field} {}", plain(&replica[field]))?;
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Records a second that the replica acknowledged since the look before.
fn slope(replica: &Value, lsn: u64, before: &Before) -> Option<f64> {
    let list = before.status["replicas"].as_array()?;
    let then = list.iter().find(|other| other["id"] == replica["id"])?;
    let then = then["lsn"].as_u64()?;
    (before.seconds > 0.0).then(|| lsn.saturating_sub(then) as f64 / before.seconds)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Fields of a recovery under way.
const PROGRESS: [&str; 9] = [
    "phase",
    "bytes_total",
    "bytes_done",
    "bytes_skipped",
    "records_total",
    "records_done",
    "bytes_sent",
    "bytes_per_s",
    "eta_s",
];

/// Fields of what slows recoveries.
const THROTTLE: [&str; 5] = [
    "cause",
    "limit_bytes_per_s",
    "latency_ms",
    "target_ms",
    "floor_bytes_per_s",
];

/// One line for each element of a list, with those fields that have a value.
fn rows(title: &str, list: &Value, fields: &[&str], out: &mut dyn Write) -> Result<(), Error> {
    for row in list.as_array().into_iter().flatten() {
        if row.is_null() {
            continue;
        }
        let shown = fields.iter().filter(|field| !row[**field].is_null());
        let text: Vec<String> = shown
            .map(|field| format!("{field} {}", plain(&row[*field])))
            .collect();
        writeln!(out, "{title}: {}", text.join(", "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_with_port_is_an_address_and_one_with_slash_is_a_directory() {
        assert!(is_address("127.0.0.1:9000"));
        assert!(is_address("[::1]:9000"));
        assert!(!is_address("/srv/vol:1"));
        assert!(!is_address("vol"));
        assert!(!is_address("vol:x"));
    }

    #[test]
    fn the_chain_is_drawn_with_what_keeps_the_log_and_how_fast_a_replica_comes() {
        let replica = |lsn| recovery::ReplicaStatus {
            id: "r1".into(),
            state: "catching_up".into(),
            lsn: Some(lsn),
            ..recovery::ReplicaStatus::default()
        };
        let status = recovery::Status {
            tail: 10,
            checkpoint: 50,
            committed: 70,
            durable: 80,
            head: 80,
            pins: vec![recovery::PinStatus {
                owner: "backup".into(),
                lsn: 20,
                ..recovery::PinStatus::default()
            }],
            replicas: vec![replica(60)],
            ..recovery::Status::default()
        };
        let then = recovery::Status {
            replicas: vec![replica(40)],
            ..status.clone()
        };
        let before = Before {
            status: serde_json::from_str(&then.to_json()).unwrap(),
            seconds: 2.0,
        };
        let mut out = Vec::new();
        print(&status.to_json(), Some(&before), &mut out).unwrap();
        let told = anstream::adapter::strip_bytes(&out).into_vec();
        let told = String::from_utf8(told).unwrap();
        for fact in [
            "tail 10 --40--> checkpoint 50 --20--> committed 70 --10--> durable 80 = head 80",
            "retained: 30 records that the image lacks",
            "retained: 30 records in the image, for the pin of backup at LSN 20",
            "LSN 60, 20 records behind, 10 records/s, level in 2 s if writes stop",
        ] {
            assert!(told.contains(fact), "no {fact:?} in {told}");
        }
    }

    #[test]
    fn a_backend_in_place_of_a_better_one_is_shown_with_its_reason() {
        let shown = |reason: Option<&str>| {
            let status = recovery::Status {
                backend: "direct".into(),
                backend_fallback: reason.map(str::to_owned),
                ..recovery::Status::default()
            };
            let mut out = Vec::new();
            print(&status.to_json(), None, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let told = shown(Some("io_uring cannot be used: forbidden"));
        assert!(told.contains("backend direct"), "{told}");
        assert!(
            told.contains("io_uring cannot be used: forbidden"),
            "{told}"
        );
        assert!(!shown(None).contains("better"));
    }

    #[test]
    fn a_recovery_under_way_and_what_slows_it_are_shown() {
        let status = recovery::Status {
            replicas: vec![recovery::ReplicaStatus {
                id: "r1".into(),
                progress: Some(recovery::ProgressStatus {
                    phase: "base".into(),
                    bytes_total: Some(100),
                    bytes_done: Some(50),
                    ..recovery::ProgressStatus::default()
                }),
                ..recovery::ReplicaStatus::default()
            }],
            throttle: Some(recovery::ThrottleStatus {
                cause: "floor".into(),
                ..recovery::ThrottleStatus::default()
            }),
            ..recovery::Status::default()
        };
        let mut out = Vec::new();
        print(&status.to_json(), None, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let progress = "recovery of r1: phase base, bytes_total 100, bytes_done 50";
        assert!(text.contains(progress), "{text}");
        assert!(text.contains("throttle: cause floor"), "{text}");
        assert!(!text.contains("eta_s"), "unknown is not shown: {text}");
    }
}
