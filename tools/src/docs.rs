//! `seawall docs`: man pages and shell completions of both commands, from the definitions that
//! their arguments are parsed with. Packagers call it; `--help` does not show it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use seawall_wal::disk::{self, Buffer, Disk, File, OpenMode};

use crate::common;
use crate::dump;
use crate::error::Error;
use crate::exit::Exit;

/// Shells with completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// Writes man pages to DIR/man1 and shell completions to DIR/completions.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write to; it is made when its parent is there
    pub dir: PathBuf,
}

/// Runs the command for `seawall` as its binary defines it, and for `wal-dump`.
///
/// # Errors
/// Files that cannot be written.
pub fn run(args: &Args, seawall: Command, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::disk();
    let (man, completions) = (args.dir.join("man1"), args.dir.join("completions"));
    for dir in [&args.dir, &man, &completions] {
        disk::make_dir(disk.as_ref(), dir)?;
    }
    let mut files = 0;
    for mut command in [seawall, dump::Args::command()] {
        command.build();
        files += pages(&disk, &man, &command)?;
        for shell in SHELLS {
            let name = command.get_name().to_owned();
            let file = match shell {
                Shell::Zsh => format!("_{name}"),
                shell => format!("{name}.{shell}"),
            };
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command, name, &mut text);
            write(&disk, &completions.join(file), &text)?;
            files += 1;
        }
    }
    writeln!(out, "{files} files in {}", args.dir.display())?;
    Ok(Exit::Fine)
}

/// One page for the command, and one for each of its subcommands that `--help` shows.
fn pages(disk: &Arc<dyn Disk>, dir: &Path, command: &Command) -> Result<u64, Error> {
    if command.is_hide_set() || command.get_name() == "help" {
        return Ok(0);
    }
    let mut text = Vec::new();
    let name = command.get_display_name().unwrap_or(command.get_name());
    Man::new(command.clone()).render(&mut text)?;
    write(disk, &dir.join(format!("{name}.1")), &text)?;
    let mut files = 1;
    for below in command.get_subcommands() {
        files += pages(disk, dir, below)?;
    }
    Ok(files)
}

fn write(disk: &Arc<dyn Disk>, path: &Path, text: &[u8]) -> Result<(), Error> {
    let file = File::open(disk, path, OpenMode::CreateOrOpen)?;
    file.set_length(0)?;
    file.write_bytes(0, Buffer::copy_of(text))?;
    Ok(())
}
