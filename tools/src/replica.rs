//! `seawall replica`: a replica daemon, until SIGTERM or SIGINT.

use std::io::Write;
use std::path::PathBuf;

use seawall_recovery::{Replica, ReplicaOptions};
use seawall_snapshot::Volume;
use serde_json::json;

use crate::common;
use crate::edge::{self, Event};
use crate::error::Error;
use crate::exit::Exit;
use crate::link;
use crate::metrics;

/// Receives the records of a primary and acknowledges them, until SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume; a missing or empty one takes what its first primary has
    pub dir: PathBuf,
    /// Stable name of this replica
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub id: String,
    /// host:port to listen on; port 0 picks one and prints it as JSON
    #[arg(long, value_name = "ADDR")]
    pub listen: String,
    /// The directory was a primary's whose epoch is over: it becomes a replica
    #[arg(long)]
    pub demote: bool,
    /// host:port that answers GET /metrics in Prometheus text, over plain HTTP
    #[arg(long, value_name = "ADDR")]
    pub metrics: Option<String>,
    /// How the primary is met
    #[command(flatten)]
    pub link: link::Args,
    /// Where a new base is built: beside the old one, which stays until it is whole, or over it,
    /// for a node without the space for two; until that is whole this replica holds nothing
    #[arg(long, value_enum, default_value_t = Install::Beside)]
    pub install: Install,
    /// Print the address as JSON, and end with standard input
    #[arg(long, hide = true)]
    pub attached: bool,
}

/// Where a base is installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Install {
    /// Beside the old one
    Beside,
    /// Over the old one
    InPlace,
}

/// Runs the command.
///
/// # Errors
/// A directory that holds something else, is a primary's or in use, and an address that cannot be
/// listened on.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::serving_disk()?;
    let events = edge::events(args.attached)?;
    let options = ReplicaOptions {
        security: args.link.security(&disk)?,
        in_place: args.install == Install::InPlace,
    };
    common::check_parent(&disk, &args.dir)?;
    if args.demote {
        common::check_volume(&disk, &args.dir)?;
        Volume::demote(&disk, &args.dir)?;
    }
    let clock = common::clock();
    let replica = Replica::serve(&disk, &clock, &args.dir, &args.id, &args.listen, options)?;
    announce(args, &replica, out)?;
    let text = || {
        let log = replica.volume().map(|volume| volume.log().stats());
        metrics::text(&replica.status(), log)
    };
    let served = metrics::beside(args.metrics.as_deref(), text, || {
        events.iter().find(|event| !matches!(event, Event::Line(_)));
        Ok(())
    });
    replica.shutdown()?;
    served?;
    Ok(Exit::Fine)
}

fn announce(args: &Args, replica: &Replica, out: &mut dyn Write) -> Result<(), Error> {
    let address = replica.address().to_string();
    match args.attached || args.listen.ends_with(":0") {
        true => writeln!(out, "{}", json!({"id": args.id, "listening": address}))?,
        false => writeln!(out, "replica {} is listening on {address}", args.id)?,
    }
    out.flush()?;
    Ok(())
}
