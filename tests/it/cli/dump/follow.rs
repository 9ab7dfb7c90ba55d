//! `wal-dump --follow` behind a process that writes, recycles and loses bytes.

use std::path::Path;
use std::sync::Arc;

use seawall::snapshot::Volume;
use serde_json::Value;

use super::{fill, flip, open, place_of, volume_of, write};
use crate::cli::{arg, create};
use crate::harness::{Node, program, run, scratch};

/// A dump that follows, and ends within its test.
fn follow(volume: &str) -> Node {
    Node::start(program("wal-dump"), &[volume, "--follow", "--json"])
}

/// A new volume with three records, and who follows it.
fn followed(dir: &Path) -> (Arc<Volume>, Node) {
    let volume = arg(dir, "vol");
    create(&volume, "2M");
    let live = open(&volume);
    write(&live, 1..4);
    (live, follow(&volume))
}

fn interrupt(node: Node) {
    run("kill", &["-INT", &node.id().to_string()]).ok();
    assert_eq!(node.ended().code(), Some(0), "SIGINT is how it ends");
}

#[test]
fn a_follower_sees_each_record_once_across_rotations_until_it_is_interrupted() {
    let dir = scratch();
    let (live, mut node) = followed(dir.path());
    let mut seen = Vec::new();
    let mut expect = |through: u64, node: &mut Node| {
        for lsn in seen.len() as u64 + 1..=through {
            let line: Value = serde_json::from_str(&node.wait_for("\"lsn\"")).unwrap();
            assert_eq!(line["lsn"], lsn);
            assert_eq!(line["sum_ok"], true);
            seen.push(lsn);
        }
    };
    expect(3, &mut node);
    (0..2).for_each(|_| fill(&live));
    expect(3 + 2 * 16, &mut node);
    write(&live, 1..2);
    expect(3 + 2 * 16 + 1, &mut node);
    live.close().unwrap();
    interrupt(node);
}

#[test]
fn a_follower_says_what_was_recycled_before_it_was_read() {
    let dir = scratch();
    let (live, mut node) = followed(dir.path());
    for _ in 0..3 {
        node.wait_for("\"lsn\"");
    }
    run("kill", &["-STOP", &node.id().to_string()]).ok();
    for _ in 0..6 {
        fill(&live);
        live.commit_best_effort().unwrap();
        let head = live.checkpoint(None).unwrap();
        live.advance_tail(head).unwrap();
    }
    run("kill", &["-CONT", &node.id().to_string()]).ok();
    let line: Value = serde_json::from_str(&node.wait_for("recycled")).unwrap();
    let through = line["through"].as_u64().unwrap();
    assert!(
        line["after"].as_u64().unwrap() >= 3 && through > 3,
        "{line}"
    );
    // What follows is without a gap again.
    let line: Value = serde_json::from_str(&node.wait_for("\"lsn\"")).unwrap();
    assert_eq!(line["lsn"], through + 1);
    live.close().unwrap();
    interrupt(node);
}

#[test]
fn a_follower_tells_damage_and_goes_on_behind_it() {
    let dir = scratch();
    let volume = volume_of(dir.path(), 1..10);
    let (file, at) = place_of(&volume, 5);
    flip(&file, at - 100);
    let mut node = follow(&volume);
    for lsn in 1..5 {
        let line: Value = serde_json::from_str(&node.wait_for("\"lsn\"")).unwrap();
        assert_eq!(line["lsn"], lsn);
    }
    let line: Value = serde_json::from_str(&node.wait_for("unreadable")).unwrap();
    assert_eq!(line["lsn"], 5);
    let line: Value = serde_json::from_str(&node.wait_for("\"lsn\"")).unwrap();
    assert_eq!(line["lsn"], 6);
    interrupt(node);
}
