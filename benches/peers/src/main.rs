//! Other logs under the same durability: every append returns only when its bytes are synced.
//!
//! `seawall-peers run` interleaves the floor, Seawall and the peers in rounds, each measurement in
//! a process of its own (`seawall-peers one`), and takes paired medians. The README beside the
//! manifest has the commands, what every engine is configured with and what is left out.

#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measurement reads clocks, the raw disk and the kernel's counters"
)]

mod cell;
mod device;
mod engines;
mod load;
mod options;
mod rounds;
mod row;
mod table;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use options::Options;

const USAGE: &str = "\
seawall-peers run [--threads 1,16,64] [--rounds 5] [--seconds 2] [--size 4096] [--engines a,b|all]
                  [--chunk 4] [--backend auto|uring|direct|portable] [--dir D] [--json FILE]
seawall-peers one --engine NAME [--threads 1] [--seconds 2] [--size 4096] [--dir D] [--backend B]
seawall-peers list";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let done = Options::parse(arguments).and_then(|options| match verb.as_str() {
        "run" => rounds::run(&options),
        "one" => one(&options),
        "list" => Ok(table::catalogue(&mut io::stdout())?),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, USAGE)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("seawall-peers: {error}");
            ExitCode::from(2)
        }
    }
}

fn one(options: &Options) -> io::Result<()> {
    if std::env::var_os(engines::QUIET).is_none() {
        let mut again = Command::new(std::env::current_exe()?);
        again
            .args(std::env::args_os().skip(1))
            .env(engines::QUIET, "1");
        return Err(again.exec());
    }
    let row = cell::measure(options)?;
    println!("{}", serde_json::to_string(&row)?);
    // The numbers are out and the directory is thrown away: no engine needs to be closed in order.
    std::process::exit(0)
}
