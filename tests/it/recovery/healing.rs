//! Records lost to damage come back from the other node, between real processes (D14).

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Ended, Node, free_port, program, run, scratch, seawall, write_file};

const BLOCK: usize = 4096;
/// Blocks that are written, block n full of n + 1.
const BLOCKS: u8 = 40;

/// A primary's directory and two replicas that hold the same.
struct Site {
    dir: TempDir,
    addresses: [String; 2],
}

impl Site {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Everybody level, and at rest.
    fn level() -> Site {
        let site = Site {
            dir: scratch(),
            addresses: [(); 2].map(|()| format!("127.0.0.1:{}", free_port())),
        };
        let volume = site.path("vol");
        seawall(&["create", &volume, "--size", "1M", "--segment-size", "1M"]).ok();
        let replicas = site.replicas();
        let mut primary = site.primary();
        for n in 0..BLOCKS {
            let block = site.dir.path().join("block");
            write_file(&block, &[n + 1; BLOCK]);
            let at = usize::from(n) * BLOCK;
            ask(
                &mut primary,
                &format!("write 0 {BLOCK} {at} {}", block.display()),
            );
            ask(&mut primary, "flush");
        }
        site.settle(primary, replicas);
        site
    }

    fn replicas(&self) -> [Node; 2] {
        [0, 1].map(|n| {
            let (dir, id) = (self.path(&format!("r{n}")), format!("r{n}"));
            let call = ["replica", &dir, "--id", &id, "--listen", &self.addresses[n]];
            let mut node = Node::start(program("seawall"), &call);
            node.wait_for("is listening");
            node
        })
    }

    fn call(&self) -> Vec<String> {
        let volume = self.path("vol");
        let replicas = [0, 1].map(|n| format!("r{n}={}", self.addresses[n]));
        let words = [
            "primary",
            &volume,
            "--replica",
            &replicas[0],
            "--replica",
            &replicas[1],
        ];
        words.map(str::to_owned).to_vec()
    }

    fn primary(&self) -> Node {
        let mut words = self.call();
        words.push("--commands".into());
        Node::start_fed(program("seawall"), &words)
    }

    /// Waits until both replicas are level, and ends everybody.
    #[track_caller]
    fn settle(&self, mut primary: Node, replicas: [Node; 2]) {
        let head = ask(&mut primary, "flush")["committed"].as_u64().unwrap();
        for n in 0..2 {
            let waited = ask(&mut primary, &format!("wait r{n} {head} 60000"));
            assert_eq!(waited["in_sync"], true, "{}", ask(&mut primary, "status"));
        }
        primary.say("quit");
        assert!(primary.ended().success());
        for node in replicas {
            run("kill", &["-TERM", &node.id().to_string()]).ok();
            assert!(node.ended().success());
        }
    }

    /// Flips a bit of the record that wrote block `n`.
    #[track_caller]
    fn lose(&self, name: &str, n: u8) {
        let segment = self.dir.path().join(name).join("wal/00000000.seg");
        let mut bytes = std::fs::read(&segment).unwrap();
        let of = |block: &[u8]| block == [n + 1; BLOCK];
        let at = bytes.chunks(BLOCK).position(of).unwrap() * BLOCK;
        bytes[at + 7] ^= 16;
        std::fs::write(&segment, bytes).unwrap();
        let verified = seawall(&["verify", &self.path(name)]);
        assert_eq!(verified.code, Some(1), "{verified:#?}");
    }

    /// Whether every copy is whole and holds what was written.
    #[track_caller]
    fn check(&self) {
        for name in ["vol", "r0", "r1"] {
            seawall(&["verify", &self.path(name)]).ok();
            let image = self.dir.path().join("image");
            seawall(&["export", &self.path(name), image.to_str().unwrap()]).ok();
            let bytes = std::fs::read(&image).unwrap();
            std::fs::remove_file(&image).unwrap();
            for (n, block) in (0..BLOCKS).zip(bytes.chunks(BLOCK)) {
                assert!(block == [n + 1; BLOCK], "{name}, block {n}");
            }
        }
    }
}

#[track_caller]
fn ask(node: &mut Node, command: &str) -> Value {
    node.say(command);
    let answer: Value = serde_json::from_str(&node.wait_for("\"ok\"")).unwrap();
    assert_eq!(answer["ok"], true, "{command}: {answer}");
    answer
}

/// The outcomes of the recoveries that `status` shows.
fn recoveries(status: &Value) -> Vec<String> {
    let all = status["status"]["recoveries"].as_array().unwrap();
    let outcomes = all.iter().map(|one| one["outcome"].to_string());
    outcomes.collect()
}

#[test]
fn a_damaged_primary_starts_with_the_records_that_its_replicas_hold() {
    let site = Site::level();
    site.lose("vol", 4);
    site.lose("vol", 17);
    site.lose("r0", 17);
    // Without a replica there is nobody to ask, and nothing is changed.
    let alone = ["primary", &site.path("vol")].map(str::to_owned);
    seawall(&alone).refused(3, "lost");
    let unanswered: Ended = seawall(&site.call());
    unanswered.refused(3, "no replica gives them back");
    let replicas = site.replicas();
    let mut primary = site.primary();
    let greeting: Value = serde_json::from_str(&primary.wait_for("\"primary\"")).unwrap();
    assert_eq!(greeting["healed"], 2, "{greeting}");
    assert_eq!(greeting["end"], "no torn tail", "{greeting}");
    site.settle(primary, replicas);
    site.check();
}

#[test]
fn damaged_replicas_are_given_their_records_back_and_no_base() {
    let site = Site::level();
    site.lose("r0", 0);
    site.lose("r1", 39);
    site.lose("r1", 20);
    let replicas = site.replicas();
    let mut primary = site.primary();
    primary.wait_for("\"primary\"");
    ask(&mut primary, "flush");
    let status = ask(&mut primary, "status");
    let rebuilds = recoveries(&status);
    assert!(
        !rebuilds.iter().any(|outcome| outcome.contains("rebuild")),
        "{status:#}"
    );
    site.settle(primary, replicas);
    site.check();
    for name in ["r0", "r1"] {
        assert!(evidence(&site.dir.path().join(name).join("wal")), "{name}");
    }
}

/// Whether what was damaged is kept aside.
fn evidence(wal: &Path) -> bool {
    let mut names = std::fs::read_dir(wal).unwrap();
    names.any(|entry| {
        entry
            .unwrap()
            .path()
            .extension()
            .is_some_and(|ext| ext == "lost")
    })
}
