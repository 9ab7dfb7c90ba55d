//! What can go wrong while serving or receiving a replica, as facts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use seawall_wal::{Epoch, Lsn};

use crate::message::{Invalid, Refusal};

/// Errors of serving and receiving. Errors of the volume pass through.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The volume refused or failed.
    #[error(transparent)]
    Volume(#[from] seawall_snapshot::Error),
    /// The log refused or failed.
    #[error(transparent)]
    Log(#[from] seawall_wal::Error),
    /// The deciding half refused a step, or it ended the session.
    #[error(transparent)]
    Failure(#[from] crate::failure::Failure),
    /// A socket call failed.
    #[error("cannot {op} {peer}: {source}")]
    Socket {
        /// What was tried.
        op: &'static str,
        /// The address or the path of the socket.
        peer: String,
        /// The reason given.
        source: Arc<std::io::Error>,
    },
    /// The peer closed the connection.
    #[error("{peer} closed the connection")]
    Closed {
        /// The peer.
        peer: String,
    },
    /// The peer said nothing for too long (D7).
    #[error("{peer} was silent for {silent:?}")]
    Silent {
        /// The peer.
        peer: String,
        /// For how long.
        silent: Duration,
    },
    /// The peer says that it is alive and does not do what is due.
    #[error("{peer} is alive, but {due} has been due for {stalled:?}")]
    Stalled {
        /// The peer.
        peer: String,
        /// What it owes.
        due: &'static str,
        /// For how long.
        stalled: Duration,
    },
    /// Bytes from the peer are no message of this protocol.
    #[error("{peer} sent a bad message: {what}")]
    Message {
        /// The peer.
        peer: String,
        /// What is wrong.
        what: Invalid,
    },
    /// The peer sent a message that the protocol does not allow here.
    #[error("{peer} sent {got} where {expected} is due")]
    Unexpected {
        /// The peer.
        peer: String,
        /// Name of the message.
        got: &'static str,
        /// What the protocol allows.
        expected: &'static str,
    },
    /// The peer refused, with its reason.
    #[error("{peer} refused: {reason}")]
    Refused {
        /// The peer.
        peer: String,
        /// Why.
        reason: Refusal,
    },
    /// A certificate, or what the peer said about ours, ends the connection.
    #[error(
        "no TLS with {peer}: {source}; look at the certificate, the key and the authority of both ends"
    )]
    Tls {
        /// The peer.
        peer: String,
        /// The reason given.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// This end was told to speak TLS and the peer does not.
    #[error("{peer} does not speak TLS; give it a certificate, a key and an authority too")]
    PeerPlaintext {
        /// The peer.
        peer: String,
    },
    /// The peer speaks TLS and this end was not told to.
    #[error("{peer} speaks TLS; pass --tls-cert, --tls-key and --tls-ca here too")]
    PeerTls {
        /// The peer.
        peer: String,
    },
    /// A file of the TLS identity cannot be used.
    #[error("{} {what}; give PEM files of a certificate, its key and the authority", path.display())]
    TlsFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An address outside this machine without transport security.
    #[error(
        "{address} is not a loopback address and the link is not encrypted; pass --tls-cert, --tls-key and --tls-ca, or --insecure-plaintext to use it all the same"
    )]
    Insecure {
        /// The address.
        address: SocketAddr,
    },
    /// An address that cannot be understood or resolved.
    #[error("{text:?} is not {expected}")]
    Address {
        /// What was given.
        text: String,
        /// What is expected.
        expected: &'static str,
    },
    /// The ack rule did not cover an LSN in time (D6). The record stays where it is, and a late
    /// acknowledgement still counts.
    #[error(
        "LSN {lsn} is durable here but was not acknowledged by the replicas within {timeout:?}; committed is {committed}"
    )]
    CommitTimeout {
        /// What was waited for.
        lsn: Lsn,
        /// How far the ack rule reached.
        committed: Lsn,
        /// How long was waited.
        timeout: Duration,
    },
    /// The primary reopened and the ack rule has not covered its head yet (D1).
    #[error(
        "the replicas have not confirmed the log through LSN {durable} within {timeout:?}; start them, or use the ack rule best-effort"
    )]
    Unconfirmed {
        /// Our durable head.
        durable: Lsn,
        /// How long was waited.
        timeout: Duration,
    },
    /// Another primary holds a newer epoch: this one must stop writing (D5).
    #[error(
        "epoch {ours} is over: a replica has promised epoch {promised}; open the new primary instead"
    )]
    Deposed {
        /// Our epoch.
        ours: Epoch,
        /// The one promised.
        promised: Epoch,
    },
    /// An assignment removed the replica, moved it, raised the epoch or asked for another session.
    #[error("the assignment of {peer} has changed")]
    Reassigned {
        /// The replica, as it was reached.
        peer: String,
    },
    /// Records that the log lost and that no replica gave back (D14).
    #[error(
        "records {range} of the log are lost and no replica gives them back ({causes}); start another replica that holds them, or promote the one that holds most"
    )]
    NotHealed {
        /// The first of them that is missing, and those that follow it.
        range: seawall_wal::LsnRange,
        /// What each replica said.
        causes: String,
    },
    /// The state log in `recovery/` is damaged.
    #[error("the state log {} is damaged at offset {offset}: {what}", path.display())]
    StateLog {
        /// The file.
        path: std::path::PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        what: seawall_wal::Damage,
    },
    /// A mistake of ours: one session ended with it, and no other.
    #[error("a session panicked: {what}; this is a bug of the engine")]
    Panicked {
        /// What it said.
        what: String,
    },
    /// The primary or replica was shut down while a call was waiting.
    #[error("shut down")]
    ShutDown,
}

impl Error {
    /// Whether a replica refused because it is not the one that it was assigned as.
    pub(crate) const fn is_misassigned(&self) -> bool {
        matches!(
            self,
            Error::Refused {
                reason: Refusal::OtherVolume { .. }
                    | Refusal::OtherId { .. }
                    | Refusal::OtherGeometry,
                ..
            }
        )
    }

    /// A socket failure with its place.
    #[cold]
    pub(crate) fn socket(op: &'static str, peer: &str, source: std::io::Error) -> Error {
        Error::Socket {
            op,
            peer: peer.into(),
            source: Arc::new(source),
        }
    }
}
