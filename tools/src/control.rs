//! `seawall primary --control`: the replicas come from a file that somebody else writes.

use std::io::{Write, stderr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::Primary;
use seawall_recovery::control::{ControlPlane, FromFile, Intent, VolumeFact};
use seawall_recovery::registry::Assignment;
use seawall_recovery::sender::Endpoint;
use seawall_snapshot::Volume;
use seawall_wal::disk::{Disk, File, OpenMode};

use crate::edge;
use crate::error::Error;

/// Between two looks at the file.
const LOOK: Duration = Duration::from_millis(200);
/// An assignment of thousands of volumes is smaller.
const BYTES_MAX: u64 = 16 << 20;

/// Where the replicas come from.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// JSON file that assigns the replicas; it is looked at all the time, and what changes there
    /// is done. Its epoch is the one of the last promotion. A replica has the id VOLUME/SERVER
    #[arg(
        long,
        value_name = "FILE",
        requires = "server",
        conflicts_with = "replicas"
    )]
    pub control: Option<PathBuf>,
    /// Stable name of this server in that file
    #[arg(long, value_name = "NAME", requires = "control",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub server: Option<String>,
}

impl Args {
    /// Refuses a file that is no assignment, before a volume is opened.
    pub(crate) fn check(&self, disk: &Arc<dyn Disk>) -> Result<(), Error> {
        match &self.control {
            Some(path) => parse(disk, path).map(drop),
            None => Ok(()),
        }
    }
}

/// The file that is followed, and what came of it.
#[derive(Debug)]
pub(crate) struct Follower {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    server: String,
    volume: Arc<Volume>,
    seen: Intent,
    /// Why what was seen last is not in force.
    refused: Option<String>,
    complaint: Option<String>,
}

impl Follower {
    /// Reads the file for the first time. Without an assignment there is nothing to serve.
    pub(crate) fn begin(
        disk: &Arc<dyn Disk>,
        args: &Args,
        volume: &Arc<Volume>,
    ) -> Result<Option<Follower>, Error> {
        let (Some(path), Some(server)) = (&args.control, &args.server) else {
            return Ok(None);
        };
        Ok(Some(Follower {
            disk: Arc::clone(disk),
            path: path.clone(),
            server: server.clone(),
            volume: Arc::clone(volume),
            seen: read(disk, path, server, volume)?,
            refused: None,
            complaint: None,
        }))
    }

    /// What to begin with.
    pub(crate) fn assignment(&self) -> Assignment {
        self.seen.assignment.clone()
    }

    /// Looks at the file and does what has changed; gives the line that a person should see. What
    /// cannot be followed leaves everything as it is.
    fn look(&mut self, primary: &Primary) -> Option<String> {
        let done = match read(&self.disk, &self.path, &self.server, &self.volume) {
            Ok(intent) if intent == self.seen => None,
            Ok(intent) => {
                let assigned = primary.assign(&intent.assignment);
                self.refused = assigned.err().map(|error| error.to_string());
                let (epoch, replicas) = (intent.assignment.epoch, intent.assignment.replicas.len());
                self.seen = intent;
                Some(format!("epoch {epoch}, replicas {replicas}: assigned"))
            }
            Err(error) => return self.complain(error.to_string()),
        };
        match self.refused.clone() {
            Some(refused) => self.complain(format!("{}: {refused}", self.path.display())),
            None => {
                let mended = self.complaint.take().map(|_| "followed again".to_owned());
                let news = done.or(mended)?;
                Some(format!("{}: {news}", self.path.display()))
            }
        }
    }

    /// The same complaint is made once.
    fn complain(&mut self, complaint: String) -> Option<String> {
        let new = self.complaint.as_ref() != Some(&complaint);
        let line = format!("{complaint}; what was assigned before it stays");
        self.complaint = Some(complaint);
        new.then_some(line)
    }
}

/// What the file says about `volume` on `server`.
fn read(disk: &Arc<dyn Disk>, path: &Path, server: &str, volume: &Volume) -> Result<Intent, Error> {
    let mut plane = parse(disk, path)?;
    let nowhere = Endpoint {
        data: String::new(),
        control: String::new(),
        version: 0,
    };
    let fact = VolumeFact::of_primary(volume, server, nowhere);
    let mut intents = plane.heartbeat(server, fact.as_slice());
    intents.pop().ok_or_else(|| Error::Unassigned {
        path: path.into(),
        server: server.into(),
        volume: volume.meta().get().volume,
    })
}

fn parse(disk: &Arc<dyn Disk>, path: &Path) -> Result<FromFile, Error> {
    let file = File::open(disk, path, OpenMode::Read)?;
    let length = file.length()?;
    if length > BYTES_MAX {
        return Err(Error::BadPath {
            path: path.into(),
            what: "is too long for an assignment",
            hint: "give a JSON file",
        });
    }
    let bytes = file.read(0, usize::try_from(length).unwrap_or(usize::MAX))?;
    FromFile::parse(&bytes).map_err(|source| Error::Control {
        path: path.into(),
        source,
    })
}

/// Follows the file on a second thread while `front` runs on this one.
pub(crate) fn beside<T>(
    follower: Option<Follower>,
    primary: &Primary,
    front: impl FnOnce() -> T,
) -> T {
    let Some(mut follower) = follower else {
        return front();
    };
    let over = AtomicBool::new(false);
    let follow = || {
        while !over.load(Ordering::Acquire) {
            if let Some(line) = follower.look(primary) {
                // OK because there is nowhere left to complain about a closed standard error.
                drop(writeln!(stderr(), "seawall: {line}"));
            }
            edge::pause(LOOK);
        }
    };
    edge::beside(follow, || {
        let _stop = Stop(&over);
        front()
    })
    .1
}

/// Ends the thread when dropped, so that a panic does not leave it behind.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
