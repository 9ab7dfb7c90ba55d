//! Line commands to a primary on standard input, each answered by one line of JSON. The demo drives
//! its primary with them.
//!
//! | line | answer |
//! |---|---|
//! | `write FROM LENGTH AT FILE` | copies bytes of FILE to AT: `bytes`, `head` |
//! | `flush` | everything written is committed: `committed` |
//! | `sync` | everything written is durable here, committed or not: `durable` |
//! | `checkpoint` | `checkpoint` |
//! | `reclaim LSN` | `tail` |
//! | `wait ID LSN MILLISECONDS` | `in_sync` |
//! | `status` | the status object as `status` |
//! | `quit` | a clean end |

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use seawall_recovery::Primary;
use seawall_wal::Lsn;
use seawall_wal::disk::{File, OpenMode};
use serde_json::{Value, json};

use crate::common;
use crate::copy;
use crate::edge::Event;
use crate::error::Error;
use crate::exit;

/// One parsed line.
#[derive(Debug, PartialEq, Eq)]
enum Command<'a> {
    Write {
        from: u64,
        length: u64,
        at: u64,
        file: &'a Path,
    },
    Flush,
    Sync,
    Checkpoint,
    Reclaim(Lsn),
    Wait {
        id: &'a str,
        lsn: Lsn,
        patience: Duration,
    },
    Status,
    Quit,
}

fn parse(line: &str) -> Option<Command<'_>> {
    let (word, rest) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    match word {
        "write" => {
            let mut parts = rest.splitn(4, ' ');
            Some(Command::Write {
                from: parts.next()?.parse().ok()?,
                length: parts.next()?.parse().ok()?,
                at: parts.next()?.parse().ok()?,
                file: Path::new(parts.next()?),
            })
        }
        "wait" => {
            let mut parts = rest.splitn(3, ' ');
            Some(Command::Wait {
                id: parts.next()?,
                lsn: Lsn::new(parts.next()?.parse().ok()?),
                patience: Duration::from_millis(parts.next()?.parse().ok()?),
            })
        }
        "reclaim" => Some(Command::Reclaim(Lsn::new(rest.parse().ok()?))),
        "flush" => Some(Command::Flush),
        "sync" => Some(Command::Sync),
        "checkpoint" => Some(Command::Checkpoint),
        "status" => Some(Command::Status),
        "quit" => Some(Command::Quit),
        _ => None,
    }
}

/// Answers commands until `quit`, the end of the input, or a signal.
pub(crate) fn serve(
    primary: &Primary,
    events: &Receiver<Event>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    for event in events {
        let line = match event {
            Event::Line(line) => line,
            Event::Stop | Event::EndOfInput => return Ok(()),
        };
        let command = parse(&line);
        if command == Some(Command::Quit) {
            return Ok(());
        }
        let answer = match command {
            Some(command) => carry_out(primary, &command)
                .unwrap_or_else(|error| json!({"ok": false, "error": exit::line(&error)})),
            None => json!({"ok": false, "error": format!("no such command: {line}")}),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn carry_out(primary: &Primary, command: &Command<'_>) -> Result<Value, Error> {
    let volume = primary.volume();
    Ok(match command {
        Command::Write {
            from,
            length,
            at,
            file,
        } => {
            let image = File::open(&common::disk(), file, OpenMode::Read)?;
            copy::range(&image, *from, *length, primary, *at)?;
            let head = volume.log().frontiers().head;
            json!({"ok": true, "bytes": length, "head": head.get()})
        }
        Command::Flush => json!({"ok": true, "committed": primary.flush()?.get()}),
        Command::Sync => json!({"ok": true, "durable": volume.flush()?.get()}),
        Command::Checkpoint => json!({"ok": true, "checkpoint": volume.checkpoint(None)?.get()}),
        Command::Reclaim(lsn) => json!({"ok": true, "tail": volume.advance_tail(*lsn)?.get()}),
        Command::Wait { id, lsn, patience } => {
            json!({"ok": true, "in_sync": primary.wait_in_sync(id, *lsn, *patience)})
        }
        Command::Status => {
            let status = serde_json::to_value(primary.status())
                .expect("numbers, text and lists always serialise");
            json!({"ok": true, "status": status})
        }
        Command::Quit => json!({"ok": true}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_may_hold_spaces() {
        let expected = Command::Write {
            from: 0,
            length: 4096,
            at: 8192,
            file: Path::new("/tmp/a b"),
        };
        assert_eq!(parse("write 0 4096 8192 /tmp/a b"), Some(expected));
    }

    #[test]
    fn a_line_that_lacks_a_word_is_no_command() {
        for line in ["", "write 1 2", "wait r1 5", "reclaim", "reclaim x", "stop"] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
