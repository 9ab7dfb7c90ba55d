//! A running nbdkit with the plugin, stopped whatever happens to its test.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::Client;
use crate::harness::{Ended, Node, nbdkit_plugin, run, seawall};

/// A scratch volume and the nbdkit that serves it.
pub(super) struct Server {
    node: Node,
    socket: PathBuf,
}

impl Server {
    /// Serves `home/vol` with the further parameters, once it accepts connections.
    #[track_caller]
    pub(super) fn start(home: &Path, parameters: &[&str]) -> Server {
        let (socket, pid) = (home.join("nbd.sock"), home.join("nbd.pid"));
        for stale in [&socket, &pid] {
            drop(std::fs::remove_file(stale));
        }
        let (plugin, dir) = (nbdkit_plugin(), volume(home));
        let mut args: Vec<&std::ffi::OsStr> = vec!["-f".as_ref(), "--exit-with-parent".as_ref()];
        args.extend([
            "-U".as_ref(),
            socket.as_os_str(),
            "-P".as_ref(),
            pid.as_os_str(),
        ]);
        let dir = format!("dir={}", dir.display());
        args.extend([plugin.as_os_str(), dir.as_ref()]);
        args.extend(parameters.iter().map(|p| std::ffi::OsStr::new(*p)));
        let mut node = Node::start("nbdkit", &args);
        while !pid.exists() {
            let alive = node.runs_for(Duration::from_millis(5));
            assert!(alive, "nbdkit ended: {node:#?}");
        }
        Server { node, socket }
    }

    /// Waits until nbdkit has said something that contains `fragment`, since it was started.
    #[track_caller]
    pub(super) fn wait_for(&mut self, fragment: &str) {
        if !format!("{:?}", self.node).contains(fragment) {
            self.node.wait_for(fragment);
        }
    }

    /// What clients connect to.
    pub(super) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// A connection of our own client.
    #[track_caller]
    pub(super) fn connect(&self) -> Client {
        Client::connect(&self.socket)
    }

    /// Lets it run for `time`; panics when it ends by itself before.
    #[track_caller]
    pub(super) fn runs_for(&mut self, time: Duration) {
        assert!(self.node.runs_for(time), "nbdkit ended: {:#?}", self.node);
    }

    /// The most memory the server ever held, in bytes.
    pub(super) fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.node.id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().nth(1));
        kilobytes.unwrap().parse::<u64>().unwrap() << 10
    }

    /// SIGKILL.
    pub(super) fn kill(self) {
        self.node.kill();
    }

    /// SIGTERM, as an operator stops it, without waiting.
    pub(super) fn ask_to_stop(&self) {
        run("kill", &["-TERM", &self.node.id().to_string()]).ok();
    }

    /// SIGTERM, and waits for the orderly end.
    #[track_caller]
    pub(super) fn stop(self) {
        self.ask_to_stop();
        self.wait();
    }

    /// Waits for the orderly end of a server that was asked to stop.
    #[track_caller]
    pub(super) fn wait(self) {
        let status = self.node.ended();
        assert_eq!(status.code(), Some(0), "nbdkit ended with {status}");
    }

    /// Runs qemu-io commands, each of which must succeed.
    #[track_caller]
    pub(super) fn qemu_io(&self, commands: &[&str]) {
        let ended = self.qemu_io_ended(commands);
        for word in ["failed", "error"] {
            assert!(!ended.stdout.contains(word), "{ended:#?}");
        }
        ended.ok();
    }

    /// Runs qemu-io commands.
    pub(super) fn qemu_io_ended(&self, commands: &[&str]) -> Ended {
        let mut args = vec!["-f", "raw"];
        args.extend(commands.iter().flat_map(|command| ["-c", command]));
        let uri = self.uri();
        args.push(&uri);
        run("qemu-io", &args)
    }

    /// Every byte of the volume.
    #[track_caller]
    pub(super) fn contents(&self, home: &Path) -> Vec<u8> {
        let copy = home.join("contents.img");
        drop(std::fs::remove_file(&copy));
        run(
            "nbdcopy",
            &["--no-extents", &self.uri(), copy.to_str().unwrap()],
        )
        .ok();
        std::fs::read(copy).unwrap()
    }
}

/// Where the volume of a scratch directory lies.
pub(super) fn volume(home: &Path) -> PathBuf {
    home.join("vol")
}

/// Demands that `seawall verify` finds the volume whole.
#[track_caller]
pub(super) fn verify(home: &Path) {
    seawall(&["verify".as_ref(), volume(home).as_os_str()]).ok();
}
