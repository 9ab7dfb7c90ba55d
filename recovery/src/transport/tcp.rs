//! Messages over TCP, under TLS where that was asked for. The only TCP sockets of the crate are
//! here.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this file and ctl.rs are the place for sockets, and a wait on one has an end"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::tls::{self, Sealed, Security, Session};
use super::{Link, Listener, Transport};
use crate::error::Error;
use crate::message::{Body, Fence, Header, Message, Refusal};

/// A write that makes no progress for this long means that the peer is gone (D7).
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// How long and how much is read from a peer that was sent an alert: closing with unread bytes
/// would reset the connection, and the alert with it.
const PARTING: Duration = Duration::from_secs(1);
const PARTING_BYTES: usize = 64 << 10;

/// One TCP connection.
#[derive(Debug)]
pub(crate) struct TcpTransport {
    stream: TcpStream,
    peer: String,
    tls: Option<Session>,
    received: AtomicU64,
    /// Sealed bytes on their way; whoever holds it may write.
    writing: Mutex<Vec<u8>>,
    reading: Mutex<Partial>,
}

/// What arrived of the message that is being received.
#[derive(Debug, Default)]
struct Partial {
    bytes: Vec<u8>,
    filled: usize,
    header: Option<Header>,
    /// Under TLS: what came from the socket and was not opened yet.
    sealed: Sealed,
}

/// Where to listen or dial: resolved, and refused outside this machine unless TLS protects it or
/// it is allowed.
pub(crate) fn resolve(text: &str, security: &Security) -> Result<SocketAddr, Error> {
    let address = text.to_socket_addrs().ok().and_then(|mut all| all.next());
    let address = address.ok_or_else(|| Error::Address {
        text: text.into(),
        expected: "an address as HOST:PORT",
    })?;
    match security {
        Security::Loopback if !address.ip().is_loopback() => Err(Error::Insecure { address }),
        Security::Loopback | Security::InsecurePlaintext | Security::Tls(_) => Ok(address),
        #[cfg(feature = "turns")]
        Security::Simulated(_) => Ok(address),
    }
}

/// Dials `text`; under TLS the peer is known when this returns.
pub(crate) fn dial(text: &str, security: &Security, timeout: Duration) -> Result<Link, Error> {
    let address = resolve(text, security)?;
    let identity = security.identity();
    let tls = identity.map(|identity| Session::dialled(identity, text));
    let tls = tls.transpose()?;
    let stream = TcpStream::connect_timeout(&address, timeout)
        .map_err(|source| Error::socket("connect to", text, source))?;
    let transport = TcpTransport::new(stream, text, tls)?;
    transport.shake_hands(timeout)?;
    Ok(Arc::new(transport))
}

impl TcpTransport {
    fn new(stream: TcpStream, peer: &str, tls: Option<Session>) -> Result<TcpTransport, Error> {
        let configure = |result: std::io::Result<()>| {
            result.map_err(|source| Error::socket("configure the connection to", peer, source))
        };
        configure(stream.set_nodelay(true))?;
        configure(stream.set_write_timeout(Some(SEND_TIMEOUT)))?;
        Ok(TcpTransport {
            stream,
            peer: peer.into(),
            tls,
            received: AtomicU64::new(0),
            writing: Mutex::default(),
            reading: Mutex::default(),
        })
    }

    fn closed(&self) -> Error {
        Error::Closed {
            peer: self.peer.clone(),
        }
    }

    /// Bytes from the socket, at least one; `None` when there are none until `deadline`.
    fn take(&self, out: &mut [u8], deadline: Instant) -> Result<Option<usize>, Error> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // A wait of no time at all would be one without an end.
            let left = left.max(Duration::from_millis(1));
            let taken = self.stream.set_read_timeout(Some(left));
            match taken.and_then(|()| (&self.stream).read(out)) {
                Ok(0) => return Err(self.closed()),
                Ok(count) => {
                    self.received.fetch_add(count as u64, Ordering::Relaxed);
                    return Ok(Some(count));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if is_timeout(&error) => return Ok(None),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(self.closed());
                }
                Err(source) => return Err(Error::socket("read from", &self.peer, source)),
            }
        }
    }

    /// Bytes of messages, at least one; `None` when there are none until `deadline`.
    fn read(
        &self,
        sealed: &mut Sealed,
        out: &mut [u8],
        deadline: Instant,
    ) -> Result<Option<usize>, Error> {
        let Some(tls) = &self.tls else {
            return self.take(out, deadline);
        };
        loop {
            match tls.plain(out) {
                Some(0) => return Err(self.closed()),
                Some(count) => return Ok(Some(count)),
                None => {}
            }
            if sealed.is_empty() && !self.take_sealed(sealed, deadline)? {
                return Ok(None);
            }
            self.open(tls, sealed)?;
        }
    }

    /// Reads from the socket, with no lock held that a sender needs.
    fn take_sealed(&self, sealed: &mut Sealed, deadline: Instant) -> Result<bool, Error> {
        let taken = self.take(sealed.room(), deadline)?;
        sealed.filled(taken.unwrap_or(0));
        Ok(taken.is_some())
    }

    fn open(&self, tls: &Session, sealed: &mut Sealed) -> Result<(), Error> {
        let opened = tls.open(sealed);
        let answered = self.answer(tls);
        if opened.is_err() {
            self.part();
        }
        opened.and(answered)
    }

    /// Writes what TLS wants to say by itself. A sender that is at it says it too: it looks again
    /// after its last byte, so this never waits for one.
    fn answer(&self, tls: &Session) -> Result<(), Error> {
        while tls.wants_write() {
            let mut out = match self.writing.try_lock() {
                Ok(out) => out,
                Err(TryLockError::Poisoned(out)) => out.into_inner(),
                Err(TryLockError::WouldBlock) => return Ok(()),
            };
            tls.seal(&[], &mut out)?;
            self.put(&out)?;
        }
        Ok(())
    }

    /// The connection is over and the peer was told why: let it hear that.
    fn part(&self) {
        let deadline = Instant::now() + PARTING;
        // OK because a peer that is gone misses nothing.
        drop(self.stream.shutdown(Shutdown::Write));
        let (mut dropped, mut bytes) = (0, [0; 4096]);
        while dropped < PARTING_BYTES && Instant::now() < deadline {
            match self.take(&mut bytes, deadline) {
                Ok(Some(count)) => dropped += count,
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The end that dialled: until the peer is known.
    fn shake_hands(&self, timeout: Duration) -> Result<(), Error> {
        let Some(tls) = &self.tls else { return Ok(()) };
        let deadline = Instant::now() + timeout;
        let mut partial = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        self.answer(tls)?;
        while tls.is_handshaking() {
            let sealed = &mut partial.sealed;
            if sealed.is_empty() && !self.take_sealed(sealed, deadline)? {
                return Err(Error::Silent {
                    peer: self.peer.clone(),
                    silent: timeout,
                });
            }
            self.open(tls, sealed)?;
        }
        Ok(())
    }

    fn put(&self, bytes: &[u8]) -> Result<(), Error> {
        (&self.stream).write_all(bytes).map_err(|source| {
            self.close();
            Error::socket("write to", &self.peer, source)
        })
    }

    fn send_sealed(&self, tls: &Session, message: &[u8]) -> Result<(), Error> {
        let mut rest = message;
        let mut out = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        while !rest.is_empty() {
            let taken = tls.seal(rest, &mut out)?;
            self.put(&out)?;
            if taken == 0 {
                // Nobody sends before the peer is known, so this connection is over.
                return Err(self.closed());
            }
            rest = &rest[taken..];
        }
        drop(out);
        self.answer(tls)
    }

    /// Fills `partial` up to `wanted` bytes; `false` when the deadline came first.
    fn fill(&self, partial: &mut Partial, wanted: usize, deadline: Instant) -> Result<bool, Error> {
        partial.bytes.resize(wanted, 0);
        while partial.filled < wanted {
            let out = &mut partial.bytes[partial.filled..];
            match self.read(&mut partial.sealed, out, deadline)? {
                Some(count) => partial.filled += count,
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    fn receive_into(
        &self,
        partial: &mut Partial,
        deadline: Instant,
    ) -> Result<Option<Message>, Error> {
        let invalid = |what| Error::Message {
            peer: self.peer.clone(),
            what,
        };
        let header = match partial.header {
            Some(header) => header,
            None => {
                if !self.fill(partial, Header::BYTES, deadline)? {
                    return Ok(None);
                }
                let bytes = partial.bytes.first_chunk();
                let bytes = bytes.expect("a header was just filled");
                *partial
                    .header
                    .insert(Header::decode(bytes).map_err(invalid)?)
            }
        };
        if !self.fill(partial, Header::BYTES + header.body_bytes(), deadline)? {
            return Ok(None);
        }
        let message = Message::decode(&header, &partial.bytes[Header::BYTES..]).map_err(invalid)?;
        partial.header = None;
        partial.filled = 0;
        Ok(Some(message))
    }
}

impl TcpTransport {
    /// A peer that speaks TLS to an end that does not is told so in words that TLS refuses too.
    fn name_tls(
        &self,
        partial: &Partial,
        received: Result<Option<Message>, Error>,
    ) -> Result<Option<Message>, Error> {
        let begun = &partial.bytes[..partial.filled];
        let plain = self.tls.is_none() && partial.header.is_none();
        match received {
            Err(Error::Closed { peer } | Error::Message { peer, .. })
                if plain && tls::is_tls(begun) =>
            {
                let refused = Message {
                    fence: Fence::default(),
                    body: Body::Refused(Refusal::NoSession),
                };
                // OK because a peer that is gone misses nothing.
                drop(self.put(&refused.encode()));
                self.part();
                Err(Error::PeerTls { peer })
            }
            received => received,
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

impl Transport for TcpTransport {
    fn send(&self, message: &Message) -> Result<(), Error> {
        let bytes = message.encode();
        match &self.tls {
            Some(tls) => self.send_sealed(tls, &bytes),
            None => {
                let _one = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
                self.put(&bytes)
            }
        }
    }

    fn receive(&self, timeout: Duration) -> Result<Option<Message>, Error> {
        let mut partial = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let received = self.receive_into(&mut partial, Instant::now() + timeout);
        let received = self.name_tls(&partial, received);
        if received.is_err() {
            self.close();
        }
        received
    }

    fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
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
pub(crate) struct Socket {
    socket: TcpListener,
    address: SocketAddr,
    security: Security,
    closed: AtomicBool,
}

impl Socket {
    /// Binds `text`.
    pub(crate) fn bind(text: &str, security: &Security) -> Result<Socket, Error> {
        let failed = |source| Error::socket("listen on", text, source);
        let socket = TcpListener::bind(resolve(text, security)?).map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Socket {
            socket,
            address,
            security: security.clone(),
            closed: AtomicBool::new(false),
        })
    }

    /// Under TLS the peer is unknown until its first message is received: nobody waits for it here.
    fn accepted(&self, stream: TcpStream, peer: &str) -> Result<TcpTransport, Error> {
        let identity = self.security.identity();
        let tls = identity.map(|identity| Session::accepted(identity, peer));
        TcpTransport::new(stream, peer, tls.transpose()?)
    }
}

impl Listener for Socket {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> Result<Option<Link>, Error> {
        loop {
            let accepted = self.socket.accept();
            if self.closed.load(Ordering::Acquire) {
                return Ok(None);
            }
            match accepted {
                // OK to ignore a failure: a connection that dies this early has nobody to tell.
                Ok((stream, peer)) => {
                    if let Ok(transport) = self.accepted(stream, &peer.to_string()) {
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

    fn close(&self) {
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
mod tests;
