//! Numbers of a live process for Prometheus: its text format, over HTTP.
//!
//! Nothing can be changed here and no data of the volume is shown, so it is plain HTTP on any
//! address that is asked for.
#![expect(
    clippy::disallowed_types,
    reason = "this listener belongs to the tools and carries nothing of the protocol"
)]

use std::fmt::{Display, Write as _};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::Status;
use seawall_wal::Stats;

use crate::edge;
use crate::error::Error;

/// From the first byte of a request to the last one of its answer.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(2);

/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 8 << 10;

/// States of a replica, each a series of its own.
const STATES: [&str; 7] = [
    "disconnected",
    "connecting",
    "catching_up",
    "rebuilding",
    "in_sync",
    "degraded",
    "needs_rebuild",
];

/// Runs `front`, and meanwhile answers on `address`, if there is one, with what `text` gives.
///
/// # Errors
/// An address that cannot be listened on, before `front` runs; then what `front` says.
pub(crate) fn beside<T>(
    address: Option<&str>,
    text: impl Fn() -> String + Sync,
    front: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    let Some(address) = address else {
        return front();
    };
    let refuse = |source: std::io::Error| {
        Error::Usage(format!(
            "--metrics {address}: {source}; give a free host:port of this machine"
        ))
    };
    let listener = TcpListener::bind(address).map_err(refuse)?;
    let local = listener.local_addr().map_err(refuse)?;
    let over = AtomicBool::new(false);
    let serve = || {
        for stream in listener.incoming() {
            if over.load(Ordering::Acquire) {
                return;
            }
            // OK because a client that fails asks again, and nothing depends on it.
            drop(stream.and_then(|stream| answer(stream, &text)));
        }
    };
    edge::beside(serve, || {
        let _stop = Stop { over: &over, local };
        front()
    })
    .1
}

/// Ends the listener when dropped, so that a panic does not leave it behind.
struct Stop<'a> {
    over: &'a AtomicBool,
    local: SocketAddr,
}

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // OK because a listener that cannot be reached has ended. Connecting wakes it.
        drop(TcpStream::connect(self.local));
    }
}

fn answer(mut stream: TcpStream, text: impl Fn() -> String) -> std::io::Result<()> {
    let until = edge::now() + REQUEST_TIME_MAX;
    let mut request = Vec::new();
    let mut piece = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = until.saturating_duration_since(edge::now());
        if left.is_zero() || request.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&piece[..read]),
        }
    }
    let (code, body) = match request.starts_with(b"GET /metrics ") {
        true => ("200 OK", text()),
        false => ("404 Not Found", "GET /metrics is all there is\n".into()),
    };
    stream.set_write_timeout(Some(REQUEST_TIME_MAX))?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all((head + &body).as_bytes())
}

/// The text as it grows.
struct Text(String);

impl Text {
    /// Begins a metric.
    fn metric(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(
            self.0,
            "# HELP seawall_{name} {help}\n# TYPE seawall_{name} {kind}"
        )
        .expect("a String takes all");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, text)| format!("{label}=\"{}\"", escaped(text)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        writeln!(self.0, "seawall_{name}{labels} {value}").expect("a String takes all");
    }

    /// A metric with one sample.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.metric(name, kind, help);
        self.sample(name, &[], value);
    }
}

/// A text between the quotes of a label.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

/// Everything as text. `log` counts since the process opened the volume.
pub(crate) fn text(status: &Status, log: Option<Stats>) -> String {
    let mut text = Text(String::new());
    node(&mut text, status);
    let scrub = &status.scrub;
    for (name, help, value) in [
        ("scrub_passes", "Finished passes of the scrub", scrub.passes),
        ("scrub_blocks", "Blocks that it checked", scrub.blocks),
        (
            "scrub_repaired",
            "Blocks written again from the log",
            scrub.repaired,
        ),
        (
            "scrub_damaged",
            "Damaged blocks, in each pass",
            scrub.damaged,
        ),
    ] {
        text.single(&format!("{name}_total"), "counter", help, value);
    }
    if let Some(log) = log {
        for (name, help, value) in [
            ("records", "Records appended", log.records),
            ("frames", "Frames written", log.frames),
            ("frame_bytes", "Bytes of these frames", log.frame_bytes),
            ("segments_sealed", "Segments sealed", log.rotations),
            ("segments_prepared", "Segments prepared", log.prepared),
            (
                "dry_pool",
                "Times that no segment was prepared",
                log.dry_pool,
            ),
        ] {
            text.single(&format!("log_{name}_total"), "counter", help, value);
        }
    }
    pins(&mut text, status);
    replicas(&mut text, status);
    text.0
}

fn node(text: &mut Text, status: &Status) {
    text.metric("info", "gauge", "Which volume this is");
    let labels = [
        ("volume", status.volume.as_deref().unwrap_or("")),
        ("role", &status.role),
        ("id", status.id.as_deref().unwrap_or("")),
        ("backend", &status.backend),
    ];
    text.sample("info", &labels, 1);
    for (name, help, value) in [
        ("epoch", "Highest epoch persisted", status.epoch),
        ("tail_lsn", "Last LSN reclaimed", status.tail),
        ("checkpoint_lsn", "Last LSN in the image", status.checkpoint),
        (
            "committed_lsn",
            "Last LSN under the ack rule",
            status.committed,
        ),
        ("durable_lsn", "Last LSN synced here", status.durable),
        ("head_lsn", "Last LSN written", status.head),
        (
            "confirmed",
            "1 if the ack rule covered the head",
            status.confirmed.into(),
        ),
        (
            "needs_rebuild",
            "1 if this waits for a rebuild",
            status.needs_rebuild.into(),
        ),
        (
            "retained_bytes",
            "Bytes of frames retained",
            status.segments.bytes,
        ),
    ] {
        text.single(name, "gauge", help, value);
    }
    text.metric("segments", "gauge", "Segment files by state");
    let segments = status.segments;
    for (state, count) in [
        ("active", segments.active),
        ("sealed", segments.sealed),
        ("free", segments.free),
    ] {
        text.sample("segments", &[("state", state)], count);
    }
    if let Some(throttle) = &status.throttle {
        if let Some(limit) = throttle.limit_bytes_per_s {
            let help = "What recoveries may send; absent while nothing limits them";
            text.single("recovery_limit_bytes_per_second", "gauge", help, limit);
        }
        if let Some(latency) = throttle.latency_ms {
            let help = "Slowest durable write of late";
            text.single("write_latency_seconds", "gauge", help, latency / 1000.0);
        }
    }
}

/// By kind: owners come and go, and each would be a series for ever.
fn pins(text: &mut Text, status: &Status) {
    let kinds = ["wal", "snapshot", "base"];
    let of = |kind: &'static str| status.pins.iter().filter(move |pin| pin.kind == kind);
    text.metric("pins", "gauge", "Pins that hold something");
    for kind in kinds {
        let held = of(kind).filter(|pin| pin.broken.is_none()).count();
        text.sample("pins", &[("kind", kind)], held);
    }
    text.metric("pins_broken", "gauge", "Pins that hold nothing any more");
    for kind in kinds {
        let broken = of(kind).filter(|pin| pin.broken.is_some()).count();
        text.sample("pins_broken", &[("kind", kind)], broken);
    }
    text.metric("pin_age_seconds", "gauge", "Age of the oldest pin");
    for kind in kinds {
        let oldest = of(kind).map(|pin| pin.age_s).fold(0.0, f64::max);
        text.sample("pin_age_seconds", &[("kind", kind)], oldest);
    }
}

fn replicas(text: &mut Text, status: &Status) {
    if status.replicas.is_empty() {
        return;
    }
    text.metric("replica_state", "gauge", "1 for the state it is in");
    for replica in &status.replicas {
        for state in STATES {
            let labels = [("replica", replica.id.as_str()), ("state", state)];
            text.sample("replica_state", &labels, u8::from(replica.state == state));
        }
    }
    let known = || {
        let known = status.replicas.iter();
        known.filter_map(|replica| Some((replica.id.as_str(), replica.lsn?)))
    };
    text.metric("replica_lsn", "gauge", "Last LSN it has as durable");
    for (id, lsn) in known() {
        text.sample("replica_lsn", &[("replica", id)], lsn);
    }
    let help = "Durable records of the primary that it lacks";
    text.metric("replica_lag_records", "gauge", help);
    for (id, lsn) in known() {
        let lag = status.durable.saturating_sub(lsn);
        text.sample("replica_lag_records", &[("replica", id)], lag);
    }
    text.metric(
        "recovery_eta_seconds",
        "gauge",
        "Rest of a recovery's phase",
    );
    for replica in &status.replicas {
        if let Some(eta) = replica
            .progress
            .as_ref()
            .and_then(|progress| progress.eta_s)
        {
            text.sample("recovery_eta_seconds", &[("replica", &replica.id)], eta);
        }
    }
}

#[cfg(test)]
mod tests {
    use seawall_recovery::{PinStatus, ReplicaStatus};

    use super::*;

    #[test]
    fn names_of_replicas_are_escaped_and_pins_are_counted_by_kind() {
        let pin = |broken: Option<&str>| PinStatus {
            kind: "wal".into(),
            broken: broken.map(Into::into),
            ..PinStatus::default()
        };
        let status = Status {
            durable: 9,
            pins: vec![pin(None), pin(None), pin(Some("over its budget"))],
            replicas: vec![ReplicaStatus {
                id: "a\"b\\c\n".into(),
                state: "in_sync".into(),
                lsn: Some(4),
                ..ReplicaStatus::default()
            }],
            ..Status::default()
        };
        let text = text(&status, None);
        for line in [
            "seawall_replica_lag_records{replica=\"a\\\"b\\\\c\\n\"} 5",
            "seawall_pins{kind=\"wal\"} 2",
            "seawall_pins_broken{kind=\"wal\"} 1",
            "seawall_durable_lsn 9",
        ] {
            assert!(text.lines().any(|other| other == line), "{line}: {text}");
        }
    }
}
