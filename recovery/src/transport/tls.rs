//! TLS 1.3 under the messages, by rustls: both ends show a certificate of one authority.
//!
//! One thread reads a connection while others write to it. What rustls keeps of it is behind one
//! lock, which nobody holds across a socket call: bytes are read from the socket first and opened
//! under the lock, sealed under the lock and written after it. Nothing here touches a socket.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
};
use seawall_wal::disk::{Disk, File, OpenMode};

use crate::error::Error;

/// Name of what is spoken inside.
const PROTOCOL: &[u8] = b"seawall/1";
/// Longest certificate, key or authority file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes taken from the socket in one read.
const READ_BYTES: usize = 64 << 10;

/// The PEM files that make a node known to its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate of this node, and what lies between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Certificates of the authorities that peers are checked against.
    pub authority: PathBuf,
}

/// How the connections of a node are protected.
#[derive(Clone, Debug, Default)]
pub enum Security {
    /// Not at all, so only loopback addresses are used.
    #[default]
    Loopback,
    /// Not at all: the network is trusted.
    InsecurePlaintext,
    /// TLS 1.3; both ends check the other.
    Tls(Identity),
    /// In a simulated network, as one of its nodes.
    #[cfg(feature = "turns")]
    Simulated(super::simulated::Post),
}

/// What a node shows to its peers and what it demands of them.
#[derive(Clone, Debug)]
pub struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Security {
    /// What TLS is spoken with, where it is.
    pub(super) fn identity(&self) -> Option<&Identity> {
        match self {
            Security::Tls(identity) => Some(identity),
            Security::Loopback | Security::InsecurePlaintext => None,
            #[cfg(feature = "turns")]
            Security::Simulated(_) => None,
        }
    }

    /// TLS with the identity in `files`.
    ///
    /// # Errors
    /// [`Error::TlsFile`] for a file that holds no certificate or key, or a key of another
    /// certificate; [`Error::Log`] for one that cannot be read.
    pub fn tls(disk: &Arc<dyn Disk>, files: &TlsFiles) -> Result<Security, Error> {
        let refuse = |path: &Path, what| Error::TlsFile {
            path: path.into(),
            what,
        };
        let chain = certificates(disk, &files.certificate)?;
        let mut roots = RootCertStore::empty();
        for authority in certificates(disk, &files.authority)? {
            let added = roots.add(authority);
            added.map_err(|_| refuse(&files.authority, "is no authority's certificate"))?;
        }
        let key = read(disk, &files.key)?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|_| refuse(&files.key, "holds no private key"))?;
        // What is left to go wrong is the pair of certificate and key.
        identity(chain, key, Arc::new(roots))
            .map(Security::Tls)
            .ok_or_else(|| refuse(&files.key, "is not the key of the certificate"))
    }
}

fn identity(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
) -> Option<Identity> {
    let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .ok()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain.clone(), key.clone_key())
        .ok()?;
    client.alpn_protocols = vec![PROTOCOL.to_vec()];
    client.resumption = Resumption::disabled();
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .ok()?
        .with_client_cert_verifier(verifier.build().ok()?)
        .with_single_cert(chain, key)
        .ok()?;
    server.alpn_protocols = vec![PROTOCOL.to_vec()];
    server.send_tls13_tickets = 0;
    Some(Identity {
        client: Arc::new(client),
        server: Arc::new(server),
    })
}

fn read(disk: &Arc<dyn Disk>, path: &Path) -> Result<Vec<u8>, Error> {
    let file = File::open(disk, path, OpenMode::Read)?;
    let length = file.length()?;
    let length = usize::try_from(length.min(FILE_BYTES_MAX)).expect("at most a mebibyte");
    Ok(file.read_exact(0, length)?.to_vec())
}

fn certificates(disk: &Arc<dyn Disk>, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let text = read(disk, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Error::TlsFile {
            path: path.into(),
            what: "holds no certificate",
        }),
    }
}

/// Bytes from the socket that were not opened yet.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    bytes: Vec<u8>,
    at: usize,
    end: usize,
}

impl Sealed {
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Where the next bytes from the socket go.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.bytes.resize(READ_BYTES, 0);
        &mut self.bytes
    }

    /// So many bytes were put into the room.
    pub(super) fn filled(&mut self, count: usize) {
        (self.at, self.end) = (0, count);
    }
}

/// One connection under TLS, without its socket.
#[derive(Debug)]
pub(super) struct Session {
    peer: String,
    connection: Mutex<Connection>,
}

impl Session {
    /// The end that dialled `text`, as HOST:PORT; the peer has to be that host.
    pub(super) fn dialled(identity: &Identity, text: &str) -> Result<Session, Error> {
        let host = text.rsplit_once(':').map_or(text, |(host, _port)| host);
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let name = ServerName::try_from(host).map_err(|_| Error::Address {
            text: text.into(),
            expected: "an address as HOST:PORT",
        })?;
        let connection = ClientConnection::new(Arc::clone(&identity.client), name);
        Session::of(text, connection.map(Connection::Client))
    }

    /// The end that accepted a connection.
    pub(super) fn accepted(identity: &Identity, peer: &str) -> Result<Session, Error> {
        let connection = ServerConnection::new(Arc::clone(&identity.server));
        Session::of(peer, connection.map(Connection::Server))
    }

    fn of(peer: &str, connection: Result<Connection, rustls::Error>) -> Result<Session, Error> {
        let connection = connection.map_err(|source| failed(peer, source))?;
        Ok(Session {
            peer: peer.into(),
            connection: Mutex::new(connection),
        })
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // OK because rustls refuses to go on after an error of its own.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the peer is not known yet.
    pub(super) fn is_handshaking(&self) -> bool {
        self.connection().is_handshaking()
    }

    /// Opened bytes, or `None` when more is needed from the socket. `Some(0)` is the end.
    pub(super) fn plain(&self, out: &mut [u8]) -> Option<usize> {
        match self.connection().reader().read(out) {
            Ok(count) => Some(count),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // The peer went without a word of goodbye: messages are whole or not there.
            Err(_) => Some(0),
        }
    }

    /// Opens what came from the socket, as much as there is room for. After an error the alert
    /// for the peer is to be written.
    pub(super) fn open(&self, sealed: &mut Sealed) -> Result<(), Error> {
        let mut connection = self.connection();
        let handshaking = connection.is_handshaking();
        let mut bytes = &sealed.bytes[sealed.at..sealed.end];
        let taken = connection.read_tls(&mut bytes);
        let opened = match taken {
            Ok(count) => {
                sealed.at += count;
                connection.process_new_packets().map(drop)
            }
            Err(source) => return Err(Error::socket("read from", &self.peer, source)),
        };
        opened.map_err(|source| match source {
            rustls::Error::InvalidMessage(_) if handshaking => Error::PeerPlaintext {
                peer: self.peer.clone(),
            },
            source => failed(&self.peer, source),
        })
    }

    /// Seals a beginning of `plain` behind what waits to be written, and gives its length; `out`
    /// holds the bytes for the socket. Whoever calls it holds the right to write, so that bytes go
    /// out in the order in which they were sealed.
    pub(super) fn seal(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<usize, Error> {
        let failed = |source| Error::socket("write to", &self.peer, source);
        let mut connection = self.connection();
        let taken = match plain {
            // After an error there is still an alert to write, and nothing else is taken.
            [] => 0,
            plain => connection.writer().write(plain).map_err(failed)?,
        };
        out.clear();
        while connection.wants_write() {
            connection.write_tls(out).map_err(failed)?;
        }
        Ok(taken)
    }

    /// Whether anything waits to be written that nobody asked for: alerts, new keys.
    pub(super) fn wants_write(&self) -> bool {
        self.connection().wants_write()
    }
}

#[cold]
fn failed(peer: &str, source: rustls::Error) -> Error {
    Error::Tls {
        peer: peer.into(),
        source: Arc::new(source),
    }
}

/// Whether bytes that should begin a message begin a TLS record: a hello, or an alert about what
/// we said.
pub(super) fn is_tls(bytes: &[u8]) -> bool {
    matches!(bytes, [0x15 | 0x16, 0x03, ..])
}

#[cfg(test)]
mod tests;
