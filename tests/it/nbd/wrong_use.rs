//! Wrong use: one clear line that names the place and the way out, and nothing changed.

use std::path::Path;

use super::server::{Server, volume};
use crate::harness::{Ended, nbdkit_plugin, run, scratch};

/// Starts nbdkit with parameters it must refuse.
fn serve(parameters: &[&str]) -> Ended {
    let plugin = nbdkit_plugin();
    let mut args = vec!["-U", "-", plugin.to_str().unwrap()];
    args.extend(parameters);
    args.extend(["--run", "true"]);
    run("nbdkit", &args)
}

fn dir_of(home: &Path) -> String {
    format!("dir={}", volume(home).display())
}

#[test]
fn parameters_are_refused_by_name() {
    let home = scratch();
    let dir = dir_of(home.path());
    serve(&[]).refused(1, "dir=DIR");
    serve(&[&dir, "colour=red"]).refused(1, "colour");
    serve(&[&dir, "size=big"]).refused(1, "size=big");
    serve(&[&dir, "size=4097"]).refused(1, "4097");
    serve(&[&dir, "size=1M", "block-size=3000"]).refused(1, "3000");
    serve(&[&dir, "size=1M", "ack=most"]).refused(1, "ack=most");
    serve(&[&dir, "size=1M", "ack=quorum"]).refused(1, "replica=ID=ADDR");
    serve(&[&dir, "size=1M", "replica=here"]).refused(1, "ID=HOST:PORT");
    serve(&[&dir, "size=1M", "replica=a=192.0.2.1:7"]).refused(1, "192.0.2.1:7");
    serve(&[&dir, "size=1M", "replica=a=127.0.0.1:x"]).refused(1, "127.0.0.1:x");
    assert!(!volume(home.path()).exists(), "a refusal left a directory");
}

#[test]
fn a_missing_volume_is_created_only_with_a_size() {
    let home = scratch();
    let dir = dir_of(home.path());
    serve(&[&dir]).refused(1, "size=10G");
    assert!(!volume(home.path()).exists());
    serve(&[&dir, "size=1M", "segment-size=1M"]).ok();
    serve(&[&dir]).ok();
    serve(&[&dir, "size=1M", "segment-size=1M"]).ok();
    serve(&[&dir, "size=2M", "segment-size=1M"]).refused(1, "size=1048576");
}

#[test]
fn a_directory_that_is_no_volume_is_left_alone() {
    let home = scratch();
    let letter = volume(home.path()).join("letter.txt");
    std::fs::create_dir(volume(home.path())).unwrap();
    std::fs::write(&letter, "dear reader").unwrap();
    let path = volume(home.path());
    serve(&[&dir_of(home.path()), "size=1M", "segment-size=1M"]).refused(1, path.to_str().unwrap());
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    assert_eq!(std::fs::read(&letter).unwrap(), b"dear reader");
}

#[test]
fn a_volume_in_use_is_refused_before_the_fork() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=1M", "segment-size=1M"]);
    let path = volume(home.path());
    serve(&[&dir_of(home.path())]).refused(1, path.to_str().unwrap());
    let mut client = server.connect();
    client.write(0, 0, &[1; 4096]).unwrap();
    client.flush().unwrap();
    drop(client);
    server.stop();
    serve(&[&dir_of(home.path())]).ok();
}
