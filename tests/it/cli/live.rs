//! What a primary and its replica show while they run.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use super::{arg, create};
use crate::harness::{Node, free_port, program, run, scratch, seawall};

/// A primary of a volume, with a replica that is in sync.
struct Pair {
    volume: String,
    replica: Node,
    primary: Node,
}

fn free_address() -> String {
    format!("127.0.0.1:{}", free_port())
}

fn pair(dir: &Path, metrics: [&str; 2]) -> Pair {
    let (volume, replica_dir) = (arg(dir, "vol"), arg(dir, "rep"));
    create(&volume, "4M");
    let address = free_address();
    let serve = ["replica", &replica_dir, "--id", "r1", "--listen", &address];
    let serve = [&serve[..], &["--metrics", metrics[1]]].concat();
    let mut replica = Node::start(program("seawall"), &serve);
    replica.wait_for("listening");
    let peer = format!("r1={address}");
    let call = [
        "primary",
        &volume,
        "--replica",
        &peer,
        "--metrics",
        metrics[0],
    ];
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
    let [ours, theirs] = [free_address(), free_address()];
    let pair = pair(dir.path(), [&ours, &theirs]);
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

/// The answer to a request, whole.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The samples of a scrape by name and labels; every name has to be declared before.
fn scrape(address: &str) -> BTreeMap<String, f64> {
    let answer = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let length = format!("Content-Length: {}\r\n", body.len());
    assert!(head.contains(&length), "{head}");
    let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    for line in body.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            assert!(kinds.insert(name, kind).is_none(), "{name} twice");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert!(kinds.contains_key(name), "{line} before its type");
            let again = samples.insert(series.into(), value.parse().unwrap());
            assert!(again.is_none(), "{series} twice");
        }
    }
    samples
}

#[test]
fn a_scrape_of_primary_and_replica_is_what_their_status_says() {
    let dir = scratch();
    let [ours, theirs] = [free_address(), free_address()];
    let pair = pair(dir.path(), [&ours, &theirs]);
    let status = seawall(&["status", &pair.volume, "--json"]).ok().json();
    let primary = scrape(&ours);
    for name in [
        "epoch",
        "tail",
        "checkpoint",
        "committed",
        "durable",
        "head",
    ] {
        let lsn = if name == "epoch" { "" } else { "_lsn" };
        let found = primary[&format!("seawall_{name}{lsn}")];
        assert_eq!(Some(found), status[name].as_f64(), "{name}");
    }
    let state = "seawall_replica_state{replica=\"r1\",state=\"in_sync\"}";
    assert_eq!(primary[state], 1.0);
    assert_eq!(primary["seawall_replica_lag_records{replica=\"r1\"}"], 0.0);
    let replica = scrape(&theirs);
    assert_eq!(replica["seawall_epoch"], primary["seawall_epoch"]);
    let is_replica = |series: &String| series.contains("role=\"replica\"");
    assert!(replica.keys().any(is_replica), "{replica:?}");
    assert!(ask(&ours, "GET / HTTP/1.1\r\n\r\n").contains(" 404 "));
    // Every name on the dashboard is one of these.
    let names = |series: &String| series.split('{').next().unwrap().to_owned();
    let known: Vec<String> = primary.keys().map(names).collect();
    let board = include_str!("../../../tools/grafana.json");
    let named = board.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named: Vec<&str> = named.filter(|word| word.starts_with("seawall_")).collect();
    assert!(named.len() > 5);
    for name in named {
        assert!(known.iter().any(|other| other == name), "{name}");
    }
    run("kill", &["-TERM", &pair.primary.id().to_string()]).ok();
    assert_eq!(pair.primary.ended().code(), Some(0));
    run("kill", &["-TERM", &pair.replica.id().to_string()]).ok();
    assert_eq!(pair.replica.ended().code(), Some(0));
}
