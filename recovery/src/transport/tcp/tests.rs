//! Tests of plain connections.
#![expect(clippy::disallowed_types, reason = "peers that are no transport")]

use super::*;
use crate::message::{Body, Fence, Invalid};

const PATIENCE: Duration = Duration::from_secs(5);

fn pair() -> (Link, Link) {
    let listener = Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    let client = dial(
        &listener.address().to_string(),
        &Security::Loopback,
        PATIENCE,
    )
    .unwrap();
    let server = listener.accept().unwrap().unwrap();
    (client, server)
}

fn raw_pair() -> (TcpStream, Link) {
    let listener = Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    let raw = TcpStream::connect(listener.address()).unwrap();
    (raw, listener.accept().unwrap().unwrap())
}

fn message(body: Body) -> Message {
    Message {
        fence: Fence::default(),
        body,
    }
}

#[test]
fn an_address_outside_this_machine_is_refused_unless_allowed() {
    assert!(matches!(
        resolve("192.0.2.1:7000", &Security::Loopback),
        Err(Error::Insecure { address }) if address.port() == 7000
    ));
    assert!(resolve("192.0.2.1:7000", &Security::InsecurePlaintext).is_ok());
    assert!(resolve("127.0.0.1:7000", &Security::Loopback).is_ok());
    assert!(matches!(
        resolve("no address", &Security::Loopback),
        Err(Error::Address { .. })
    ));
}

#[test]
fn a_message_that_arrives_in_pieces_is_kept_across_timeouts() {
    let (mut raw, server) = raw_pair();
    let bytes = message(Body::StatusReply { json: "{}".into() }).encode();
    for part in bytes.chunks(9) {
        let early = server.receive(Duration::from_millis(1)).unwrap();
        assert!(early.is_none());
        raw.write_all(part).unwrap();
    }
    let got = server.receive(PATIENCE).unwrap().unwrap();
    assert!(matches!(got.body, Body::StatusReply { json } if json == "{}"));
}

/// A wait that began anew with each byte would last as long as a peer likes.
#[test]
fn a_peer_that_sends_byte_by_byte_does_not_stretch_a_wait() {
    let (mut raw, server) = raw_pair();
    let json = "x".repeat(2 << 20 >> 1);
    let bytes = message(Body::StatusReply { json }).encode();
    let (go_on, more) = std::sync::mpsc::channel();
    // Less than what counts as life, however fast it comes.
    let sender = move || {
        for part in bytes.chunks(20_000).take(2) {
            for byte in part {
                raw.write_all(&[*byte]).unwrap();
            }
            if more.recv().is_err() {
                return;
            }
        }
    };
    seawall_wal::sync::beside("trickle", sender, move || {
        let early = server.receive(Duration::from_millis(20)).unwrap();
        assert!(early.is_none());
        go_on.send(()).unwrap();
        // To the last byte: a sender that is not done sees the connection break.
        while server.received() < 40_000 {
            assert!(server.receive(Duration::from_millis(20)).unwrap().is_none());
        }
        go_on.send(()).unwrap();
        server.close();
    });
}

#[test]
fn close_ends_a_receive_on_both_sides() {
    let (client, server) = pair();
    client.close();
    for end in [server, client] {
        assert!(matches!(end.receive(PATIENCE), Err(Error::Closed { .. })));
    }
}

#[test]
fn a_bad_byte_ends_the_connection_with_its_reason() {
    let (mut raw, server) = raw_pair();
    let mut bytes = message(Body::Alive).encode();
    bytes[5] ^= 1;
    raw.write_all(&bytes).unwrap();
    let what = Invalid::Version { found: 257 };
    assert!(matches!(
        server.receive(PATIENCE),
        Err(Error::Message { what: found, .. }) if found == what
    ));
    assert!(server.receive(PATIENCE).is_err());
}

#[test]
fn a_closed_listener_accepts_nobody() {
    let listener = Socket::bind("127.0.0.1:0", &Security::Loopback).unwrap();
    listener.close();
    assert!(listener.accept().unwrap().is_none());
}
