//! What a primary and its replica show while they run.

use std::path::Path;

use super::{arg, create};
use crate::harness::{Node, free_port, program, run, scratch, seawall};

/// A primary of a volume, with a replica that is in sync.
struct Pair {
    volume: String,
    replica: Node,
    primary: Node,
}

fn pair(dir: &Path) -> Pair {
    let (volume, replica_dir) = (arg(dir, "vol"), arg(dir, "rep"));
    create(&volume, "4M");
    let address = format!("127.0.0.1:{}", free_port());
    let serve = ["replica", &replica_dir, "--id", "r1", "--listen", &address];
    let mut replica = Node::start(program("seawall"), &serve);
    replica.wait_for("listening");
    let peer = format!("r1={address}");
    let call = ["primary", &volume, "--replica", &peer];
    let mut primary = Node::start(program("seawall"), &call);
    primary.wait_for("in sync");
    Pair {
        volume,
        replica,
        primary,
    }
}

#[test]
fn a_watched_primary_shows_its_chain_and_its_replica_until_interrupted() {
    let dir = scratch();
    let pair = pair(dir.path());
    let words = ["status", &pair.volume, "--watch"];
    let mut watched = Node::start(program("seawall"), &words);
    let chain = watched.wait_for("checkpoint");
    let bare = !chain.contains('\x1b');
    assert!(
        chain.starts_with("tail 0 = checkpoint 0") && bare,
        "{chain}"
    );
    assert!(!watched.wait_for("replica r1  ").contains("records/s"));
    let second = watched.wait_for("replica r1  ");
    assert!(
        second.contains("in_sync") && second.contains("0 records behind, 0 records/s"),
        "{second}"
    );
    pair.replica.kill();
    loop {
        let line = watched.wait_for("replica r1  ");
        if !line.contains("in_sync") {
            break assert!(line.contains("connect"), "{line}");
        }
    }
    pair.primary.kill();
    watched.wait_for("at rest");
    run("kill", &["-INT", &watched.id().to_string()]).ok();
    assert_eq!(watched.ended().code(), Some(0), "SIGINT is how it ends");
    let nowhere = arg(dir.path(), "none");
    seawall(&["status", &nowhere, "--watch"]).refused(2, &nowhere);
}
