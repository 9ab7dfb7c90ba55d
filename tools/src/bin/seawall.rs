//! `seawall`: makes, fills, inspects and serves volumes.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use seawall_tools::exit::Exit;
use seawall_tools::{
    Error, bench, create, demo, docs, export, import, main_of, maintain, primary, promote, replica,
    status, stress, verify,
};

/// Block volumes on a write-ahead log, with replicas and proven recovery.
#[derive(Debug, Parser)]
#[command(name = "seawall", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Create(create::Args),
    Import(import::Args),
    Export(export::Args),
    Checkpoint(maintain::CheckpointArgs),
    Reclaim(maintain::ReclaimArgs),
    Replica(replica::Args),
    Primary(primary::Args),
    Promote(promote::Args),
    Status(status::Args),
    Verify(verify::Args),
    Bench(bench::Args),
    Stress(stress::Args),
    #[command(hide = true)]
    Docs(docs::Args),
}

fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Error> {
    match &arguments.command {
        Command::Demo(args) => demo::run(args, out),
        Command::Create(args) => create::run(args, out),
        Command::Import(args) => import::run(args, out),
        Command::Export(args) => export::run(args, out),
        Command::Checkpoint(args) => maintain::checkpoint(args, out),
        Command::Reclaim(args) => maintain::reclaim(args, out),
        Command::Replica(args) => replica::run(args, out),
        Command::Primary(args) => primary::run(args, out),
        Command::Promote(args) => promote::run(args, out),
        Command::Status(args) => status::run(args, out),
        Command::Verify(args) => verify::run(args, out),
        Command::Bench(args) => bench::run(args, out),
        Command::Stress(args) => stress::run(args, out),
        Command::Docs(args) => docs::run(args, Arguments::command(), out),
    }
}

fn main() -> ExitCode {
    main_of::main(std::env::args_os(), run)
}
