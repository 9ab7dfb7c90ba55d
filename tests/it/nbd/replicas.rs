//! A volume that nbdkit serves and replicas follow.

use std::path::{Path, PathBuf};

use super::client::{Client, FUA, NO_HOLE};
use super::server::{Server, verify, volume};
use crate::harness::{Node, Random, free_port, program, scratch, seawall};

const SIZE: usize = 4 << 20;

/// A replica process on loopback.
struct Replica {
    node: Node,
    dir: PathBuf,
    parameter: String,
}

impl Replica {
    fn address() -> String {
        format!("127.0.0.1:{}", free_port())
    }

    #[track_caller]
    fn start(home: &Path, id: &str, address: &str) -> Replica {
        let dir = home.join(id);
        let args = [
            "replica",
            dir.to_str().unwrap(),
            "--id",
            id,
            "--listen",
            address,
        ];
        let mut node = Node::start(program("seawall"), &args);
        node.wait_for("listening");
        let parameter = format!("replica={id}={address}");
        Replica {
            node,
            dir,
            parameter,
        }
    }

    /// SIGKILL, and every byte of what it holds.
    #[track_caller]
    fn kill_and_read(self, home: &Path) -> Vec<u8> {
        self.node.kill();
        let image = home.join("replica.img");
        drop(std::fs::remove_file(&image));
        seawall(&["export".as_ref(), self.dir.as_os_str(), image.as_os_str()]).ok();
        std::fs::read(image).unwrap()
    }
}

/// Writes, zeroes and trims; gives what the volume then holds. Ends with a flush.
fn requests(client: &mut Client) -> Vec<u8> {
    let mut model = Random::new(31).bytes(SIZE);
    for (n, chunk) in model.chunks(256 << 10).enumerate() {
        client.write(0, (n * (256 << 10)) as u64, chunk).unwrap();
    }
    client.write(FUA, 4097, b"unaligned").unwrap();
    model[4097..4106].copy_from_slice(b"unaligned");
    client.zero(NO_HOLE, 1 << 20, 100_000).unwrap();
    model[1 << 20..(1 << 20) + 100_000].fill(0);
    client.zero(0, 2 << 20, 300_000).unwrap();
    model[2 << 20..(2 << 20) + 300_000].fill(0);
    client.trim(FUA, 3 << 20, 512 << 10).unwrap();
    model[3 << 20..(3 << 20) + (512 << 10)].fill(0);
    client.flush().unwrap();
    model
}

#[test]
fn what_a_flush_answered_under_ack_all_is_on_the_replica_too() {
    let home = scratch();
    let replica = Replica::start(home.path(), "r1", &Replica::address());
    let size = format!("size={SIZE}");
    let parameters = [&size, "segment-size=1M", &replica.parameter, "ack=all"];
    let server = Server::start(home.path(), &parameters);
    let model = requests(&mut server.connect());
    server.kill();
    assert!(replica.kill_and_read(home.path()) == model);
    verify(home.path());
}

#[test]
fn under_best_effort_a_late_replica_catches_up_and_ends_up_equal() {
    let home = scratch();
    let address = Replica::address();
    let (size, parameter) = (format!("size={SIZE}"), format!("replica=r1={address}"));
    let server = Server::start(home.path(), &[&size, "segment-size=1M", &parameter]);
    let model = requests(&mut server.connect());
    assert!(server.contents(home.path()) == model);
    let replica = Replica::start(home.path(), "r1", &address);
    wait_in_sync(home.path());
    server.stop();
    assert!(replica.kill_and_read(home.path()) == model);
    verify(home.path());
}

/// Asks the live server until its replica has everything.
#[track_caller]
fn wait_in_sync(home: &Path) {
    let dir = volume(home);
    let args = ["status".as_ref(), dir.as_os_str(), "--json".as_ref()];
    for _ in 0..2000 {
        let status = seawall(&args).ok().json();
        let replica = &status["replicas"][0];
        if replica["state"] == "in_sync" && replica["lsn"] == status["head"] {
            return;
        }
    }
    panic!("never in sync: {:#}", seawall(&args).json());
}
