//! Programs that run to their end.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use super::program;

/// What a program left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How it was called, for messages.
    #[expect(dead_code, reason = "every failed demand prints it")]
    call: String,
    /// Exit code, or `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) stdout: String,
    /// Standard error.
    pub(crate) stderr: String,
}

impl Ended {
    /// Demands exit code 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Ended {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// Demands `code` and one clear line on standard error that contains `fact`.
    #[track_caller]
    pub(crate) fn refused(&self, code: i32, fact: &str) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "one line wanted: {self:#?}");
        assert!(self.stderr.contains(fact), "no {fact:?} in {self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
    }

    /// Standard output as lines of JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<serde_json::Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:#?}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The last line of standard output as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        self.json_lines()
            .pop()
            .unwrap_or_else(|| panic!("no output: {self:#?}"))
    }
}

/// Runs any program to its end, without standard input.
pub(crate) fn run<A: AsRef<OsStr>>(name: impl AsRef<OsStr>, args: &[A]) -> Ended {
    let mut command = Command::new(name.as_ref());
    command.args(args).stdin(Stdio::null());
    command.env("LC_ALL", "C").env("RUST_BACKTRACE", "0");
    // Debian keeps mke2fs and e2fsck where a plain user's PATH does not look.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let call = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{call}: {e}"));
    Ended {
        call,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into(),
        stderr: String::from_utf8_lossy(&output.stderr).into(),
    }
}

/// Runs `seawall` to its end.
pub(crate) fn seawall<A: AsRef<OsStr>>(args: &[A]) -> Ended {
    run(program("seawall"), args)
}

/// Runs `wal-dump` to its end.
pub(crate) fn wal_dump<A: AsRef<OsStr>>(args: &[A]) -> Ended {
    run(program("wal-dump"), args)
}
