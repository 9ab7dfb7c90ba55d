//! io_uring may be forbidden, as containers do: then the engine works without it and says why
//! (L-U4).

use std::collections::BTreeMap;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

use super::{arg, create};
use crate::harness::{Node, program, seawall};

/// The number of `io_uring_setup` on every architecture.
const IO_URING_SETUP: i64 = 425;
const EPERM: u32 = 1;

/// Runs `work` in a thread that may set no ring up, nor may the programs that it starts.
fn without_rings(work: impl FnOnce() + Send) {
    let rules = BTreeMap::from([(IO_URING_SETUP, Vec::new())]);
    let (others, rings) = (SeccompAction::Allow, SeccompAction::Errno(EPERM));
    let here = std::env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, others, rings, here).unwrap();
    let filter: BpfProgram = filter.try_into().unwrap();
    thread::scope(|scope| {
        let forbidden = move || {
            apply_filter(&filter).unwrap();
            work();
        };
        scope.spawn(forbidden).join().unwrap();
    });
}

#[track_caller]
fn says_why(reason: Option<&str>) {
    let reason = reason.expect("a reason");
    assert!(reason.contains("io_uring"), "{reason}");
    assert!(reason.contains("Operation not permitted"), "{reason}");
}

#[test]
fn status_and_bench_say_why_the_backend_is_not_the_best_one() {
    let temp = tempfile::tempdir().unwrap();
    let volume = arg(temp.path(), "v");
    create(&volume, "16M");
    let at_rest = seawall(&["status", &volume, "--json"]).ok().json();
    assert_eq!(at_rest["backend_fallback"], serde_json::Value::Null);
    without_rings(|| {
        let mut primary = Node::start(program("seawall"), &["primary", &volume]);
        primary.wait_for("is up");
        let status = seawall(&["status", &volume, "--json"]).ok().json();
        assert_eq!(status["live"], true);
        assert_eq!(status["backend"], "direct");
        says_why(status["backend_fallback"].as_str());
        says_why(Some(&seawall(&["status", &volume]).ok().stdout));
        primary.kill();

        let bench = "bench append --seconds 1 --turns 2 --segment-size 1M --dir";
        let mut bench: Vec<&str> = bench.split(' ').collect();
        let dir = arg(temp.path(), "");
        bench.push(&dir);
        says_why(Some(&seawall(&bench).ok().stdout));
        bench.push("--json");
        let measured = seawall(&bench).ok().json();
        assert_eq!(measured["backend"], "direct");
        says_why(measured["backend_fallback"].as_str());
    });
}
