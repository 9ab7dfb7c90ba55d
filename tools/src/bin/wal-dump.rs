//! `wal-dump`: lists and checks the records of a log.

use std::process::ExitCode;

use seawall_tools::{dump, main_of};

fn main() -> ExitCode {
    main_of::main(std::env::args_os(), dump::run)
}
