//! Ranges without payload: zero, trim, and the map of what holds data.

use serde_json::Value;

use super::client::{FUA, NO_HOLE};
use super::server::{Server, verify, volume};
use crate::harness::{run, scratch};

/// Bytes that the files below `dir` occupy.
fn occupied(dir: &std::path::Path) -> u64 {
    let ended = run("du", &["-s", "--block-size=1", dir.to_str().unwrap()]).ok();
    ended
        .stdout
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// The map as `(offset, length, is a hole)`.
fn map(server: &Server) -> Vec<(u64, u64, bool)> {
    let ended = run("nbdinfo", &["--map", "--json", &server.uri()]).ok();
    let entries: Vec<Value> = serde_json::from_str(&ended.stdout).unwrap();
    let number = |entry: &Value, field: &str| entry[field].as_u64().unwrap();
    entries
        .iter()
        .map(|e| {
            (
                number(e, "offset"),
                number(e, "length"),
                number(e, "type") != 0,
            )
        })
        .collect()
}

/// Demands that the map covers the volume without gaps and calls no data a hole (N4).
#[track_caller]
fn check_map(server: &Server, contents: &[u8]) {
    let mut next = 0;
    for (offset, length, hole) in map(server) {
        assert_eq!(offset, next);
        assert!(length > 0);
        next += length;
        let range = usize::try_from(offset).unwrap()..usize::try_from(next).unwrap();
        let zero = contents[range].iter().all(|byte| *byte == 0);
        assert!(zero || !hole, "data at {offset} is called a hole");
    }
    assert_eq!(next, contents.len() as u64);
}

#[test]
fn zeroing_a_gigabyte_costs_neither_memory_nor_space() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=2G", "segment-size=1M"]);
    let mut client = server.connect();
    client.write(0, 1 << 30, &[9; 8192]).unwrap();
    let (memory, space) = (server.peak_memory(), occupied(&volume(home.path())));
    client.zero(FUA, 4096, 1 << 30).unwrap();
    client.zero(FUA | NO_HOLE, 4096, 1 << 30).unwrap();
    client.trim(FUA, 4096, 1 << 30).unwrap();
    let (memory_after, space_after) = (server.peak_memory(), occupied(&volume(home.path())));
    assert!(
        memory_after < memory + (32 << 20),
        "{memory} then {memory_after}"
    );
    assert!(
        space_after < space + (4 << 20),
        "{space} then {space_after}"
    );
    assert!(client.read(1 << 30, 4096).unwrap().iter().all(|b| *b == 0));
    assert!(
        client
            .read((1 << 30) + 4096, 4096)
            .unwrap()
            .iter()
            .all(|b| *b == 9)
    );
    drop(client);
    server.stop();
    verify(home.path());
}

#[test]
fn the_map_never_calls_data_a_hole() {
    let home = scratch();
    let mut server = Server::start(home.path(), &["size=8M", "segment-size=1M"]);
    let mut client = server.connect();
    for offset in [0, 4096, 12_288, 1 << 20, 3 << 20, (8 << 20) - 4096] {
        client.write(0, offset, &[5; 4096]).unwrap();
    }
    client.write(0, 5 << 20, &vec![6; 1 << 20]).unwrap();
    client.trim(0, 5 << 20, 512 << 10).unwrap();
    client.zero(0, 3 << 20, 4096).unwrap();
    client.zero(NO_HOLE, 4096, 4096).unwrap();
    client.flush().unwrap();
    drop(client);
    let contents = server.contents(home.path());
    check_map(&server, &contents);
    server.stop();
    server = Server::start(home.path(), &[]);
    assert!(server.contents(home.path()) == contents);
    check_map(&server, &contents);
    server.stop();
}

#[test]
fn an_empty_volume_is_one_hole_and_a_trimmed_range_becomes_one_again() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=64M", "segment-size=1M"]);
    assert_eq!(map(&server), [(0, 64 << 20, true)]);
    let mut client = server.connect();
    client.write(0, 1 << 20, &vec![1; 2 << 20]).unwrap();
    client.flush().unwrap();
    let data: u64 = map(&server).iter().filter(|e| !e.2).map(|e| e.1).sum();
    assert!((2 << 20..=4 << 20).contains(&data), "{data} bytes of data");
    client.trim(FUA, 1 << 20, 2 << 20).unwrap();
    let contents = server.contents(home.path());
    assert!(contents.iter().all(|byte| *byte == 0));
    check_map(&server, &contents);
    drop(client);
    server.stop();
}
