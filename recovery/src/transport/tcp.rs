//! Messages over TCP. The only TCP sockets of the crate are here.
#![expect(
    clippy::disallowed_types,
    reason = "this file and ctl.rs are the place for sockets"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::{Link, Transport};
use crate::error::Error;
use crate::message::{Header, Message};

/// A write that makes no progress for this long means that the peer is gone (D7).
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct TcpTransport {
    stream: TcpStream,
    peer: String,
    writing: Mutex<()>,
    reading: Mutex<Partial>,
}

/// What arrived of the message that is being received.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    filled: usize,
    header: Option<Header>,
}

/// Where to listen or dial: resolved, and refused outside this machine unless that is allowed.
pub(crate) fn resolve(text: &str, insecure: bool) -> Result<SocketAddr, Error> {
    let address = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    let address = address.ok_or_else(|| Error::Address {
        text: text.into(),
        expected: "an address as HOST:PORT",
    })?;
    match address.ip().is_loopback() || insecure {
        true => Ok(address),
        false => Err(Error::Insecure { address }),
    }
}

/// Dials `text`.
pub(crate) fn dial(text: &str, insecure: bool, timeout: Duration) -> Result<Link, Error> {
    let address = resolve(text, insecure)?;
    let stream = TcpStream::connect_timeout(&address, timeout)
        .map_err(|source| Error::socket("connect to", text, source))?;
    TcpTransport::new(stream, text).map(|transport| Arc::new(transport) as Link)
}

impl TcpTransport {
    fn new(stream: TcpStream, peer: &str) -> Result<TcpTransport, Error> {
        let configure = |result: std::io::Result<()>| {
            result.map_err(|source| Error::socket("configure the connection to", peer, source))
        };
        configure(stream.set_nodelay(true))?;
        configure(stream.set_write_timeout(Some(SEND_TIMEOUT)))?;
        Ok(TcpTransport {
            stream,
            peer: peer.into(),
            writing: Mutex::new(()),
            reading: Mutex::new(Partial::default()),
        })
    }

    fn closed(&self) -> Error {
        Error::Closed {
            peer: self.peer.clone(),
        }
    }

    /// Fills `partial` up to `wanted` bytes; `false` when the timeout passed first.
    fn fill(&self, partial: &mut Partial, wanted: usize) -> Result<bool, Error> {
        partial.bytes.resize(wanted, 0);
        while partial.filled < wanted {
            match (&self.stream).read(&mut partial.bytes[partial.filled..]) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => partial.filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(self.closed());
                }
                Err(source) => return Err(Error::socket("read from", &self.peer, source)),
            }
        }
        Ok(true)
    }

    fn receive_into(&self, partial: &mut Partial) -> Result<Option<Message>, Error> {
        let invalid = |what| Error::Message {
            peer: self.peer.clone(),
            what,
        };
        let header = match partial.header {
            Some(header) => header,
            None => {
                if !self.fill(partial, Header::BYTES)? {
                    return Ok(None);
                }
                let bytes = partial.bytes.first_chunk();
                let bytes = bytes.expect("a header was just filled");
                *partial
                    .header
                    .insert(Header::decode(bytes).map_err(invalid)?)
            }
        };
        if !self.fill(partial, Header::BYTES + header.body_bytes())? {
            return Ok(None);
        }
        let message = Message::decode(&header, &partial.bytes[Header::BYTES..]).map_err(invalid)?;
        partial.header = None;
        partial.filled = 0;
        Ok(Some(message))
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Transport for TcpTransport {
    fn send(&self, message: &Message) -> Result<(), Error> {
        let bytes = message.encode();
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.stream).write_all(&bytes).map_err(|source| {
            self.close();
            Error::socket("write to", &self.peer, source)
        })
    }

    fn receive(&self, timeout: Duration) -> Result<Option<Message>, Error> {
        let mut partial = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let timeout = timeout.max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(timeout))
            .map_err(|source| Error::socket("configure the connection to", &self.peer, source))?;
        let received = self.receive_into(&mut partial);
        if received.is_err() {
            self.close();
        }
        received
    }

    fn close(&self) {
        // OK because a connection that is already gone needs no shutdown.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}

impl Drop for TcpTransport {
    fn drop(&mut self) {
        self.close();
    }
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    closed: AtomicBool,
}

impl Listener {
    /// Binds `text`.
    pub(crate) fn bind(text: &str, insecure: bool) -> Result<Listener, Error> {
        let failed = |source| Error::socket("listen on", text, source);
        let socket = TcpListener::bind(resolve(text, insecure)?).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Listener {
            socket,
            address,
            closed: AtomicBool::new(false),
        })
    }

    /// The address bound, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, or `None` once closed.
    pub(crate) fn accept(&self) -> Result<Option<Link>, Error> {
        loop {
            let accepted = self.socket.accept();
            if self.closed.load(Ordering::Acquire) {
                return Ok(None);
            }
            match accepted {
                // OK to ignore a failure: a connection that dies this early has nobody to tell.
                Ok((stream, peer)) => {
                    if let Ok(transport) = TcpTransport::new(stream, &peer.to_string()) {
                        return Ok(Some(Arc::new(transport)));
                    }
                }
                Err(error) if is_transient(&error) => {}
                Err(source) => {
                    let address = self.address.to_string();
                    return Err(Error::socket("accept on", &address, source));
                }
            }
        }
    }

    /// Wakes `accept`, which then gives `None`.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        // OK because the connection exists only to wake `accept`.
        drop(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
    }
}

/// A connection that was gone before it was accepted does not end the listener.
fn is_transient(error: &std::io::Error) -> bool {
    use ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Body, Fence, Invalid};

    const PATIENCE: Duration = Duration::from_secs(5);

    fn pair() -> (Link, Link) {
        let listener = Listener::bind("127.0.0.1:0", false).unwrap();
        let client = dial(&listener.address().to_string(), false, PATIENCE).unwrap();
        let server = listener.accept().unwrap().unwrap();
        (client, server)
    }

    fn raw_pair() -> (TcpStream, Link) {
        let listener = Listener::bind("127.0.0.1:0", false).unwrap();
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
            resolve("192.0.2.1:7000", false),
            Err(Error::Insecure { address }) if address.port() == 7000
        ));
        assert!(resolve("192.0.2.1:7000", true).is_ok());
        assert!(resolve("127.0.0.1:7000", false).is_ok());
        assert!(matches!(
            resolve("no address", false),
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
        let listener = Listener::bind("127.0.0.1:0", false).unwrap();
        listener.close();
        assert!(listener.accept().unwrap().is_none());
    }
}
