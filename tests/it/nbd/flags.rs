//! What is advertised is true, and nothing true is kept back (L section 6, flags).

use serde_json::{Value, json};

use super::server::Server;
use crate::harness::{run, scratch};

#[test]
fn every_capability_is_advertised() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=64M", "segment-size=1M"]);
    let info = run("nbdinfo", &["--json", &server.uri()]).ok();
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    let export = &info["exports"][0];
    for (field, expected) in [
        ("export-size", json!(64 << 20)),
        ("is_read_only", json!(false)),
        ("is_rotational", json!(false)),
        ("can_flush", json!(true)),
        ("can_fua", json!(true)),
        ("can_multi_conn", json!(true)),
        ("can_trim", json!(true)),
        ("can_zero", json!(true)),
        ("can_fast_zero", json!(true)),
        ("can_cache", json!(false)),
        ("block_size_minimum", json!(1)),
        ("block_size_preferred", json!(4096)),
        ("block_size_maximum", json!(32 << 20)),
    ] {
        assert_eq!(export[field], expected, "{field} in {export:#}");
    }
    server.stop();
}

#[test]
fn the_block_size_of_the_volume_is_the_preferred_one() {
    let home = scratch();
    let server = Server::start(
        home.path(),
        &["size=1M", "block-size=512", "segment-size=1M"],
    );
    let info = run("nbdinfo", &["--json", &server.uri()]).ok();
    let info: Value = serde_json::from_str(&info.stdout).unwrap();
    assert_eq!(info["exports"][0]["block_size_preferred"], 512, "{info:#}");
    assert_eq!(server.connect().size(), 1 << 20);
    server.stop();
}
