//! Primary and replica processes over TLS, and without it where it is due.

use std::path::Path;

use crate::harness::{
    Node, Random, assert_same_file, free_port, pki, program, scratch, seawall, write_file,
};

const BYTES: usize = 6 << 20;

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn call(words: &[&str], more: &[String]) -> Vec<String> {
    let words = words.iter().map(|word| (*word).to_owned());
    words.chain(more.iter().cloned()).collect()
}

/// A volume with data in `DIR/p`, and the image it was made from.
fn prepare(dir: &Path) -> String {
    let (volume, image) = (text(&dir.join("p")), text(&dir.join("in.img")));
    write_file(image.as_ref(), &Random::new(11).bytes(BYTES));
    seawall(&["create", &volume, "--size", "6M", "--segment-size", "1M"]).ok();
    seawall(&["import", &volume, &image]).ok();
    volume
}

/// A replica with the certificates in `dir` and a primary with those in `authority`, which is given
/// `more` arguments; the directory of the replica, and its address.
fn start(dir: &Path, authority: &Path, volume: &str, more: &[&str]) -> (Node, Node, [String; 2]) {
    let (copy, address) = (text(&dir.join("r")), format!("127.0.0.1:{}", free_port()));
    let listen = ["replica", &copy, "--id", "r1", "--listen", &address];
    let listen = call(&listen, &pki::arguments(dir, "replica"));
    let mut replica = Node::start(program("seawall"), &listen);
    replica.wait_for("listening");
    let assigned = format!("r1={address}");
    let serve = [&["primary", volume, "--replica", &assigned], more].concat();
    let serve = call(&serve, &pki::arguments(authority, "primary"));
    let primary = Node::start(program("seawall"), &serve);
    (replica, primary, [copy, address])
}

#[test]
fn a_primary_and_a_replica_come_into_sync_over_tls() {
    let dir = scratch();
    pki::issue(dir.path(), &["primary", "replica", "operator"]);
    let volume = prepare(dir.path());
    let (replica, mut primary, [copy, address]) =
        start(dir.path(), dir.path(), &volume, &["--ack", "all"]);
    primary.wait_for("replica r1 in sync");
    let ask = ["status", &address, "--json"];
    let operator = pki::arguments(dir.path(), "operator");
    let status = seawall(&call(&ask, &operator)).ok().json();
    assert_eq!(status["link"], "in_sync");
    seawall(&ask).refused(3, "speaks TLS");
    primary.kill();
    replica.kill();
    for (volume, name) in [(volume, "p.img"), (copy, "r.img")] {
        let image = text(&dir.path().join(name));
        seawall(&["export", &volume, &image]).ok();
        assert_same_file(&dir.path().join("in.img"), image.as_ref());
    }
}

#[test]
fn a_primary_of_another_authority_is_refused_by_name_in_both_processes() {
    let (dir, elsewhere) = (scratch(), scratch());
    pki::issue(dir.path(), &["replica", "operator"]);
    pki::issue(elsewhere.path(), &["primary"]);
    let volume = prepare(dir.path());
    let (_replica, mut primary, [_, address]) = start(dir.path(), elsewhere.path(), &volume, &[]);
    primary.wait_for("no TLS with");
    let operator = pki::arguments(dir.path(), "operator");
    let status = seawall(&call(&["status", &address, "--json"], &operator));
    let status = status.ok().json();
    let cause = status["link_cause"].as_str().expect("a cause");
    assert!(cause.contains("no TLS with"), "{cause}");
    assert_eq!(status["volume"], serde_json::Value::Null);
}

#[test]
fn an_address_outside_this_machine_needs_tls_or_a_word_about_it() {
    let dir = scratch();
    let volume = prepare(dir.path());
    let far = ["primary", &volume, "--replica", "r1=192.0.2.1:7000"];
    seawall(&far).refused(2, "--insecure-plaintext");
    pki::issue(dir.path(), &["primary"]);
    let mut half = call(&far, &pki::arguments(dir.path(), "primary"));
    half.truncate(far.len() + 2);
    assert_eq!(seawall(&half).code, Some(2));
    let mut swapped = call(&far, &pki::arguments(dir.path(), "primary"));
    swapped.swap(far.len() + 1, far.len() + 3);
    seawall(&swapped).refused(2, "primary.key");
}
