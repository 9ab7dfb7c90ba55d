//! Nodes of the demo: real processes of this program, killed whatever happens.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use serde_json::Value;

use crate::edge;
use crate::error::Error;

/// How long a node may take for one answer.
const PATIENCE: Duration = Duration::from_secs(600);
/// How often a wait looks whether the demo was told to stop.
const LOOK: Duration = Duration::from_millis(50);
/// How long a node may take to close its volume.
const FAREWELL: Duration = Duration::from_secs(30);

/// One running process. Dropping it sends SIGKILL and waits for its end.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    child: Child,
    lines: Receiver<String>,
    complaints: Receiver<String>,
    stop: Arc<AtomicBool>,
}

impl Node {
    /// Starts this program with `args`. The process ends with its standard input, so that nothing
    /// is left behind even if we are killed.
    pub(super) fn start(
        name: &str,
        args: &[String],
        stop: &Arc<AtomicBool>,
    ) -> Result<Node, Error> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        Ok(Node {
            name: name.into(),
            child,
            lines: edge::lines(stdout),
            complaints: edge::lines(stderr),
            stop: Arc::clone(stop),
        })
    }

    /// The next line of its standard output.
    pub(super) fn line(&mut self) -> Result<String, Error> {
        let started = edge::now();
        loop {
            match self.lines.recv_timeout(LOOK) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed("it ended")),
                Err(RecvTimeoutError::Timeout) => {}
            }
            // OK because the flag carries no other memory with it.
            if self.stop.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            if started.elapsed() > PATIENCE {
                return Err(self.failed("it did not answer within 600 s"));
            }
        }
    }

    /// The next line as JSON.
    pub(super) fn json(&mut self) -> Result<Value, Error> {
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|_| self.failed(&line))
    }

    /// Sends a command without waiting for its answer.
    pub(super) fn tell(&mut self, command: &str) -> Result<(), Error> {
        let sent = match self.child.stdin.as_mut() {
            Some(input) => writeln!(input, "{command}").and_then(|()| input.flush()),
            None => Ok(()),
        };
        sent.map_err(|_| self.failed(&format!("it took no command {command}")))
    }

    /// Sends a command and gives its answer; an answer that is not ok is an error.
    pub(super) fn ask(&mut self, command: &str) -> Result<Value, Error> {
        self.tell(command)?;
        let answer = self.json()?;
        match answer["ok"] == true {
            true => Ok(answer),
            false => {
                let said = answer["error"].as_str().unwrap_or("no reason given");
                Err(self.failed(&format!("{command}: {said}")))
            }
        }
    }

    /// Closes its standard input, which is a clean end, and waits for it.
    pub(super) fn end(mut self) -> Result<(), Error> {
        drop(self.child.stdin.take());
        let started = edge::now();
        while started.elapsed() < FAREWELL {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.failed(&format!("it ended with {status}"))),
                None => edge::pause(Duration::from_millis(5)),
            }
        }
        Err(self.failed("it did not end"))
    }

    /// What went wrong, with what it last said about it.
    fn failed(&self, what: &str) -> Error {
        let complaint = self.complaints.recv_timeout(LOOK).ok();
        Error::Node {
            name: self.name.clone(),
            what: complaint.map_or(what.to_owned(), |said| format!("{what} ({said})")),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // OK because a process that has ended already is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs this program to its end and demands exit code 0.
pub(super) fn run(args: &[String]) -> Result<String, Error> {
    let output = Command::new(std::env::current_exe()?)
        .args(args)
        .stdin(Stdio::null())
        .output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(Error::Node {
            name: args.first().cloned().unwrap_or_default(),
            what: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        }),
    }
}

/// Words of a command line.
pub(super) fn words(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// A path as a word of a command line.
pub(super) fn word(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
