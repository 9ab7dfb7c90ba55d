//! Programs that run until they are stopped, and are killed without mercy when dropped.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// How long a node may take to say what a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A port of the loopback interface that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A running program, its output as lines. Dropping it sends SIGKILL.
#[derive(Debug)]
pub(crate) struct Node {
    child: Child,
    #[expect(dead_code, reason = "every failed demand prints it")]
    call: String,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Node {
    /// Starts a program and listens to both of its outputs.
    pub(crate) fn start<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[A]) -> Node {
        Node::spawn(
            Command::new(program.as_ref())
                .args(args)
                .stdin(Stdio::null()),
        )
    }

    fn spawn(command: &mut Command) -> Node {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let call = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{call}: {e}"));
        let (sender, lines) = channel();
        let outputs: [Box<dyn Read + Send>; 2] = [
            Box::new(child.stdout.take().unwrap()),
            Box::new(child.stderr.take().unwrap()),
        ];
        for output in outputs {
            let sender = sender.clone();
            // The thread ends with the output, that is, with the program.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Node {
            child,
            call,
            lines,
            said: Vec::new(),
        }
    }

    /// As [`Node::start`], with a standard input that [`Node::say`] writes to.
    pub(crate) fn start_fed<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[A]) -> Node {
        Node::spawn(
            Command::new(program.as_ref())
                .args(args)
                .stdin(Stdio::piped()),
        )
    }

    /// Writes a line to its standard input.
    #[track_caller]
    pub(crate) fn say(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it was started fed");
        writeln!(input, "{line}").unwrap();
    }

    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `fragment` and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, fragment: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(fragment) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {fragment:?} in time: {self:#?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("ended without {fragment:?}: {self:#?}")
                }
            }
        }
    }

    /// Lets it run for at most `time`; true if it is still running after that.
    pub(crate) fn runs_for(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Timeout) => return self.child.try_wait().unwrap().is_none(),
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// The lines that were heard so far; they are forgotten here.
    pub(crate) fn take_said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// SIGKILL; gives every line that was not taken before.
    pub(crate) fn last_words(mut self) -> Vec<String> {
        self.stop();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        self.take_said()
    }

    /// SIGKILL, and waits until the process is gone.
    pub(crate) fn kill(mut self) {
        self.stop();
    }

    /// Waits until the program ends by itself.
    #[track_caller]
    pub(crate) fn ended(mut self) -> ExitStatus {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.said.push(line);
        }
        self.child.wait().unwrap()
    }

    fn stop(&mut self) {
        // OK because a process that has ended already is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop();
    }
}
