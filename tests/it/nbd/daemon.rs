//! nbdkit as a daemon: it forks and goes to `/` between the check and the open (N2).

use std::path::Path;

use super::server::verify;
use crate::harness::{nbdkit_plugin, run, scratch};

/// A daemon by its process id, killed when the value goes away.
struct Daemon(String);

impl Daemon {
    /// Starts nbdkit in `home` on the relative directory `vol`; the process started ends at once.
    fn start(home: &Path, parameters: &str) -> Daemon {
        let script = format!(
            "cd {} && nbdkit -U $PWD/nbd.sock -P $PWD/nbd.pid {} vol {parameters}",
            home.display(),
            nbdkit_plugin().display()
        );
        run("sh", &["-c", &script]).ok();
        // The name appears a moment before the number in it.
        let ready = "until [ -s nbd.pid ]; do :; done; cat nbd.pid";
        let script = format!("cd {} && {ready}", home.display());
        let pid = run("timeout", &["60", "sh", "-c", &script]).ok();
        Daemon(pid.stdout.trim().to_owned())
    }

    fn signal(&self, signal: &str) -> bool {
        run("kill", &[signal, self.0.as_str()]).code == Some(0)
    }

    fn stop(self) {
        assert!(self.signal("-TERM"));
        let gone = format!("while kill -0 {} 2>/dev/null; do :; done", self.0);
        run("timeout", &["60", "sh", "-c", &gone]).ok();
        std::mem::forget(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal("-KILL");
    }
}

#[test]
fn a_daemon_on_a_relative_directory_serves_it_and_closes_it() {
    let home = scratch();
    let socket = home.path().join("nbd.sock");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let daemon = Daemon::start(home.path(), "size=1M segment-size=1M");
    run("qemu-io", &["-f", "raw", "-c", "write -P 1 0 64k", &uri]).ok();
    daemon.stop();
    verify(home.path());
    std::fs::remove_file(&socket).unwrap();
    std::fs::remove_file(home.path().join("nbd.pid")).unwrap();
    let daemon = Daemon::start(home.path(), "");
    let read = run("qemu-io", &["-f", "raw", "-c", "read -P 1 0 64k", &uri]).ok();
    assert!(!read.stdout.contains("failed"), "{read:#?}");
    daemon.stop();
    verify(home.path());
}
