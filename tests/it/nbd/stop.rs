//! Ends: of a connection, and of the server under load.

use std::time::Duration;

use super::server::{Server, verify};
use crate::harness::scratch;

#[test]
fn a_client_that_hangs_up_in_a_write_changes_nothing_for_the_others() {
    let home = scratch();
    let server = Server::start(home.path(), &["size=4M", "segment-size=1M"]);
    let mut steady = server.connect();
    for round in 1..=20_u8 {
        let bytes = vec![round; 1 << 20];
        steady.write(0, 0, &bytes).unwrap();
        server.connect().hang_up_in_a_write(0, &[0xff; 1 << 20]);
        assert!(steady.read(0, 1 << 20).unwrap() == bytes, "round {round}");
    }
    drop(steady);
    server.stop();
    verify(home.path());
}

#[test]
fn a_server_stopped_under_load_keeps_what_it_answered() {
    let home = scratch();
    let mut server = Server::start(home.path(), &["size=4M", "segment-size=1M"]);
    for round in 1..=3_u8 {
        let write = |client: &mut super::client::Client, n: u64| {
            client.write(0, n << 20, &vec![round; 64 << 10])
        };
        let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
        for (client, n) in clients.iter_mut().zip(0..) {
            write(client, n).unwrap();
        }
        std::thread::scope(|scope| {
            for (mut client, n) in clients.into_iter().zip(0..) {
                scope.spawn(move || while write(&mut client, n).is_ok() {});
            }
            server.runs_for(Duration::from_millis(100));
            server.ask_to_stop();
        });
        server.wait();
        verify(home.path());
        server = Server::start(home.path(), &[]);
        let mut client = server.connect();
        for n in 0..4_u64 {
            assert!(client.read(n << 20, 64 << 10).unwrap() == [round; 64 << 10]);
        }
    }
    server.stop();
}
