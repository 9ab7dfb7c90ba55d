//! Both ends of a connection, each named what it refuses.

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    date_time_ymd,
};
use seawall_wal::disk::{Buffer, FileDisk};
use tempfile::TempDir;

use super::*;
use crate::message::{Body, Fence, Message, Refusal};
use crate::transport::Link;
use crate::transport::Listener as _;
use crate::transport::tcp::{Socket, dial};

const PATIENCE: Duration = Duration::from_secs(20);
const HERE: &str = "127.0.0.1";

/// An authority, and a directory for what it signs.
pub(crate) struct Authority {
    dir: TempDir,
    name: &'static str,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &'static str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            dir: TempDir::new().unwrap(),
            name,
            pem,
            issuer: Issuer::new(params, key),
        }
    }

    fn sign(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Files {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Files {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// TLS with a certificate of this authority for `host`; peers are checked against `trusted`.
    fn node(&self, host: &str, trusted: &Authority) -> Security {
        let files = self.sign(host, |_| {});
        load(&self.dir, &files, &trusted.pem).unwrap()
    }

    pub(crate) fn peer(&self) -> Security {
        self.node(HERE, self)
    }

    fn expired(&self) -> Security {
        let files = self.sign(HERE, |params| {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        });
        load(&self.dir, &files, &self.pem).unwrap()
    }
}

struct Files {
    certificate: String,
    key: String,
}

fn load(dir: &TempDir, files: &Files, authority: &str) -> Result<Security, Error> {
    let disk: Arc<dyn Disk> = FileDisk::new();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        let file = File::open(&disk, &path, OpenMode::CreateOrOpen).unwrap();
        file.set_length(0).unwrap();
        let bytes = Buffer::copy_of(text.as_bytes());
        file.write_bytes(0, bytes).unwrap();
        path
    };
    let files = TlsFiles {
        certificate: write("cert.pem", &files.certificate),
        key: write("key.pem", &files.key),
        authority: write("ca.pem", authority),
    };
    Security::tls(&disk, &files)
}

fn message(body: Body) -> Message {
    Message {
        fence: Fence::default(),
        body,
    }
}

/// What each end of one connection got: a client that asks and a replica that answers, as the
/// driver does.
fn meet(client: &Security, server: &Security) -> (Result<Body, Error>, Result<Body, Error>) {
    let listener = Socket::bind("127.0.0.1:0", server).unwrap();
    let address = listener.address().to_string();
    let mut heard = None;
    let serve = || {
        let link = listener.accept().unwrap().unwrap();
        let got = link.receive(PATIENCE);
        let answer = match &got {
            Ok(_) => Body::StatusReply { json: "{}".into() },
            Err(_) => Body::Refused(Refusal::NoSession),
        };
        drop(link.send(&message(answer)));
        heard = Some(got);
    };
    let asked = seawall_wal::sync::beside("server", serve, || {
        let link = dial(&address, client, PATIENCE)?;
        // OK because the answer says more than a failed question.
        drop(link.send(&message(Body::StatusQuery)));
        link.receive(PATIENCE)
    });
    let body = |got: Result<Option<Message>, Error>| Ok(got?.expect("an answer in time").body);
    (body(asked), body(heard.unwrap()))
}

#[track_caller]
fn refused(ends: (Result<Body, Error>, Result<Body, Error>), client: &str, server: &str) {
    let said = |end: Result<Body, Error>| end.expect_err("it was not refused").to_string();
    let (at_client, at_server) = (said(ends.0), said(ends.1));
    assert!(at_client.contains(client), "client: {at_client}");
    assert!(at_server.contains(server), "server: {at_server}");
}

#[test]
fn two_peers_of_one_authority_speak() {
    let authority = Authority::new("one");
    let (client, server) = meet(&authority.peer(), &authority.peer());
    assert!(matches!(client, Ok(Body::StatusReply { json }) if json == "{}"));
    assert!(matches!(server, Ok(Body::StatusQuery)));
}

#[test]
fn a_certificate_of_another_authority_is_refused_by_name_on_both_ends() {
    let (one, other) = (Authority::new("one"), Authority::new("other"));
    let stranger = other.node(HERE, &one);
    refused(
        meet(&one.peer(), &stranger),
        "UnknownIssuer",
        "alert: UnknownCA",
    );
    refused(
        meet(&stranger, &one.peer()),
        "alert: UnknownCA",
        "UnknownIssuer",
    );
    assert_ne!(one.name, other.name);
}

#[test]
fn a_certificate_for_another_host_is_refused_by_name_on_both_ends() {
    let authority = Authority::new("one");
    let elsewhere = authority.node("elsewhere.example", &authority);
    refused(
        meet(&authority.peer(), &elsewhere),
        "not valid for name",
        "alert: BadCertificate",
    );
}

#[test]
fn an_expired_certificate_is_refused_by_name_on_both_ends() {
    let authority = Authority::new("one");
    let (now, past) = (authority.peer(), authority.expired());
    refused(
        meet(&now, &past),
        "certificate expired",
        "alert: CertificateExpired",
    );
    refused(
        meet(&past, &now),
        "alert: CertificateExpired",
        "certificate expired",
    );
}

#[test]
fn a_client_without_a_certificate_is_refused_by_name_on_both_ends() {
    let authority = Authority::new("one");
    let server = authority.peer();
    let Security::Tls(identity) = authority.peer() else {
        panic!("it has an identity");
    };
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let nameless = Security::Tls(Identity {
        client: Arc::new(client),
        server: identity.server,
    });
    refused(
        meet(&nameless, &server),
        "alert: CertificateRequired",
        "no certificates",
    );
}

#[test]
fn tls_and_plaintext_name_each_other() {
    let authority = Authority::new("one");
    let ends = meet(&Security::Loopback, &authority.peer());
    assert!(matches!(ends.0, Err(Error::PeerTls { .. })), "{ends:?}");
    assert!(
        matches!(ends.1, Err(Error::PeerPlaintext { .. })),
        "{ends:?}"
    );
    let ends = meet(&authority.peer(), &Security::Loopback);
    assert!(
        matches!(ends.0, Err(Error::PeerPlaintext { .. })),
        "{ends:?}"
    );
    assert!(matches!(ends.1, Err(Error::PeerTls { .. })), "{ends:?}");
}

#[test]
fn files_that_are_no_identity_are_named() {
    let authority = Authority::new("one");
    let good = || authority.sign(HERE, |_| {});
    let refused = |files: Files, trusted: &str, name: &str, what: &str| {
        let error = load(&authority.dir, &files, trusted).unwrap_err();
        assert!(
            matches!(&error, Error::TlsFile { path, what: found }
                if path.ends_with(Path::new(name)) && found.contains(what)),
            "{error}"
        );
    };
    let (mut no_certificate, mut no_key, mut other_key) = (good(), good(), good());
    no_certificate.certificate = "nothing".into();
    refused(no_certificate, &authority.pem, "cert.pem", "no certificate");
    no_key.key = no_key.certificate.clone();
    refused(no_key, &authority.pem, "key.pem", "no private key");
    other_key.key = good().key;
    refused(
        other_key,
        &authority.pem,
        "key.pem",
        "not the key of the certificate",
    );
    refused(good(), "", "ca.pem", "no certificate");
}

fn pair(authority: &Authority) -> (Link, Link) {
    let listener = Socket::bind("127.0.0.1:0", &authority.peer()).unwrap();
    let (address, mut accepted) = (listener.address().to_string(), None);
    let accept = || {
        let link = listener.accept().unwrap().unwrap();
        assert!(link.receive(PATIENCE).unwrap().is_some());
        accepted = Some(link);
    };
    let client = seawall_wal::sync::beside("server", accept, || {
        let link = dial(&address, &authority.peer(), PATIENCE).unwrap();
        link.send(&message(Body::Alive)).unwrap();
        link
    });
    (client, accepted.unwrap())
}

/// Two threads that write and one that reads at each end, each message longer than what the
/// sockets hold: a lock held across a read or a write would stop all of them.
#[test]
fn both_ends_write_while_they_read() {
    const MESSAGES: usize = 24;
    let (client, server) = pair(&Authority::new("one"));
    let text = "x".repeat(1 << 20);
    let send = |link: &Link| {
        for _ in 0..MESSAGES {
            let json = text.clone();
            link.send(&message(Body::StatusReply { json })).unwrap();
        }
    };
    let receive = |link: &Link| {
        for n in 0..2 * MESSAGES {
            let got = link.receive(PATIENCE).unwrap().expect("nothing hangs").body;
            assert!(
                matches!(got, Body::StatusReply { json } if json == text),
                "{n}"
            );
        }
    };
    use seawall_wal::sync::beside;
    beside(
        "a",
        || send(&client),
        || {
            beside(
                "b",
                || send(&client),
                || {
                    beside(
                        "c",
                        || send(&server),
                        || {
                            beside(
                                "d",
                                || send(&server),
                                || {
                                    beside("e", || receive(&server), || receive(&client));
                                },
                            );
                        },
                    );
                },
            );
        },
    );
}
