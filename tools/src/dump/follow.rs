//! `wal-dump --follow`: the list that goes on as the log does, until SIGINT or SIGTERM.
//!
//! It waits for a signal with a time limit, and looks at the log again when the time is over: at
//! one page of one file as long as nothing comes, and at the `ctl` socket of the owner for what is
//! durable.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use seawall_recovery as recovery;
use seawall_wal::disk::{self, Disk};
use seawall_wal::{Followed, Follower, Inspected, Lsn};
use serde_json::{Value, json};

use crate::common;
use crate::dump::Args;
use crate::dump::list::Printer;
use crate::edge;
use crate::error::Error;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Lists until it is told to stop.
pub(super) fn follow(
    disk: &Arc<dyn Disk>,
    path: &Path,
    args: &Args,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let (volume, wal) = directories(disk, path)?;
    // Before the first look, so that a signal during it is not lost.
    let events = edge::events(false)?;
    let mut follower = Follower::new(disk, &volume, &wal);
    let mut printer = Printer::new(args, out);
    loop {
        look(&volume, &mut follower, &mut printer)?;
        printer.flush()?;
        match events.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// The directory of the volume, and that of its segments.
fn directories(disk: &Arc<dyn Disk>, path: &Path) -> Result<(PathBuf, PathBuf), Error> {
    let names = disk::list(disk.as_ref(), path).map_err(|error| match error {
        seawall_wal::Error::Io { source, .. }
            if source.kind() == std::io::ErrorKind::NotADirectory =>
        {
            Error::BadPath {
                path: path.into(),
                what: "is a file, which nobody appends to alone",
                hint: "follow a volume directory or its wal directory",
            }
        }
        other => other.into(),
    })?;
    let is_volume = names.iter().any(|name| name == "wal");
    let is_log = names.iter().any(|name| name.ends_with(".seg"));
    match (is_volume, is_log) {
        (true, _) => Ok((path.into(), path.join("wal"))),
        (false, true) => Ok((common::parent_of(path).into(), path.into())),
        (false, false) => Err(Error::BadPath {
            path: path.into(),
            what: "holds no segment file",
            hint: "follow a volume directory or its wal directory",
        }),
    }
}

/// What the owner says is durable.
fn durable(volume: &Path) -> Option<Lsn> {
    // OK because without an answer the log itself tells, a little later.
    let text = recovery::query_ctl(volume).ok().flatten()?;
    let status: Value = serde_json::from_str(&text).ok()?;
    status["durable"].as_u64().map(Lsn::new)
}

fn look(volume: &Path, follower: &mut Follower, printer: &mut Printer<'_>) -> Result<(), Error> {
    let mut result = Ok(());
    let polled = follower.poll(durable(volume), &mut |found| {
        if result.is_ok() {
            result = print(&found, printer);
        }
    });
    result?;
    Ok(polled?)
}

fn print(found: &Followed<'_>, printer: &mut Printer<'_>) -> std::io::Result<()> {
    match found {
        // A frame is only read once the segment is known; its own line says no more.
        Followed::Found(_, Inspected::Segment { .. }) => Ok(()),
        Followed::Found(path, thing) => {
            let name = path.file_name().unwrap_or(path.as_os_str());
            printer.print(&name.to_string_lossy(), thing, &|_, _| "live")
        }
        Followed::Recycled(lsns) => printer.say(
            &json!({"kind": "recycled", "after": lsns.after.get(), "through": lsns.through.get()}),
            &format_args!(
                "not seen: LSNs {lsns} were recycled before they were read; a pin would keep them"
            ),
        ),
        Followed::Replaced => printer.say(
            &json!({"kind": "replaced"}),
            &"the volume has another log now, by an install or a heal; it follows from its start",
        ),
    }
}
