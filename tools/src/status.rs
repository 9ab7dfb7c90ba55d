//! `seawall status`: one reading of a volume, live or from its files.

use std::io::Write;
use std::sync::Arc;

use seawall_recovery as recovery;
use seawall_snapshot::Access;
use seawall_wal::disk::Disk;
use serde_json::{Value, json};
use std::path::Path;

use crate::common;
use crate::error::Error;
use crate::exit::Exit;
use crate::link;

/// Shows frontiers, pins, replicas and segments of a volume.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of a volume, or host:port of a replica or of a primary that listens
    #[arg(value_name = "DIR|ADDR")]
    pub place: String,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// How an address is asked
    #[command(flatten)]
    pub link: link::Args,
}

/// Runs the command.
///
/// # Errors
/// A place that is neither a volume nor answers.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::disk();
    let text = match is_address(&args.place) {
        true => recovery::query_status(&args.place, &args.link.security(&disk)?)?,
        false => of_dir(&disk, Path::new(&args.place))?,
    };
    match args.json {
        true => writeln!(out, "{}", text.trim_end())?,
        false => print(&text, out)?,
    }
    Ok(Exit::Fine)
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

fn print(text: &str, out: &mut dyn Write) -> Result<(), Error> {
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
    writeln!(
        out,
        "tail {} checkpoint {} committed {} durable {} head {}",
        get("tail"),
        get("checkpoint"),
        get("committed"),
        get("durable"),
        get("head")
    )?;
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
    let replica = ["id", "address", "state", "session", "lsn", "cause"];
    rows("replica", &status["replicas"], &replica, out)?;
    for replica in status["replicas"].as_array().into_iter().flatten() {
        let title = format!("recovery of {}", plain(&replica["id"]));
        rows(&title, &json!([replica["progress"]]), &PROGRESS, out)?;
    }
    rows("throttle", &json!([status["throttle"]]), &THROTTLE, out)?;
    let recovery = ["replica", "outcome", "source", "proof", "result"];
    rows("recovery", &status["recoveries"], &recovery, out)
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
    fn a_backend_in_place_of_a_better_one_is_shown_with_its_reason() {
        let shown = |reason: Option<&str>| {
            let status = recovery::Status {
                backend: "direct".into(),
                backend_fallback: reason.map(str::to_owned),
                ..recovery::Status::default()
            };
            let mut out = Vec::new();
            print(&status.to_json(), &mut out).unwrap();
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
        print(&status.to_json(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let progress = "recovery of r1: phase base, bytes_total 100, bytes_done 50";
        assert!(text.contains(progress), "{text}");
        assert!(text.contains("throttle: cause floor"), "{text}");
        assert!(!text.contains("eta_s"), "unknown is not shown: {text}");
    }
}
