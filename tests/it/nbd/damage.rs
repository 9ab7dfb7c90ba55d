//! A damaged log: served read-only, and what is damaged is an error, never data (D14).

use std::path::Path;

use super::client::Failure;
use super::server::{Server, volume};
use crate::harness::{run, scratch, seawall};

const EPERM: u32 = 1;
const EIO: u32 = 5;
const BLOCK: usize = 4096;

/// Flips one bit of the first payload block that holds `byte` throughout.
#[track_caller]
fn flip_a_bit_of(byte: u8, segments: &Path) {
    let segment = segments.join("00000000.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    let is_it = |block: &[u8]| block.iter().all(|found| *found == byte);
    let at = bytes.chunks(BLOCK).position(is_it).unwrap() * BLOCK;
    bytes[at + 1000] ^= 4;
    std::fs::write(&segment, bytes).unwrap();
}

#[test]
fn a_damaged_log_is_served_read_only_and_its_damage_is_eio() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=1M", "segment-size=1M"]);
    let mut client = server.connect();
    for n in 1..=8_u8 {
        let offset = u64::from(n) * BLOCK as u64;
        client.write(0, offset, &[n; BLOCK]).unwrap();
        client.flush().unwrap();
    }
    drop(client);
    server.stop();
    flip_a_bit_of(5, &volume(home.path()).join("wal"));
    let found = seawall(&["verify".as_ref(), volume(home.path()).as_os_str()]);
    assert_eq!(found.code, Some(1), "{found:#?}");

    let mut server = Server::start(home.path(), &[]);
    server.wait_for("damage at or below LSN");
    run("nbdinfo", &["--is", "readonly", &server.uri()]).ok();
    let mut client = server.connect();
    for n in 1..=4_u8 {
        let offset = u64::from(n) * BLOCK as u64;
        assert!(
            client.read(offset, BLOCK).unwrap() == [n; BLOCK],
            "block {n}"
        );
    }
    let damaged = client.read(5 * BLOCK as u64, BLOCK);
    assert!(matches!(damaged, Err(Failure::Errno(EIO))), "{damaged:?}");
    let refused = client.write(0, 0, &[1; BLOCK]);
    assert!(matches!(refused, Err(Failure::Errno(EPERM))), "{refused:?}");
    drop(client);
    server.stop();
}
