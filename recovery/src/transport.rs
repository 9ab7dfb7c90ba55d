//! The only seam to peers. Contract of a transport; it MUST hold for every implementation.
//!
//! - Messages arrive whole, in the order they were sent, each at most once, or not at all.
//! - `send` blocks while the peer does not read; `close`, from any thread, ends that with an error.
//! - `receive` gives `None` when no message was whole within its timeout, however its bytes
//!   trickle, and keeps what arrived in part for the next call. It is called by one thread at a
//!   time; `send` by any number.
//! - After any error, and after `close`, the connection is over: every later call fails.
//! - Nothing is trusted: whatever the peer sends, `receive` answers with a message or a typed
//!   error, and allocates at most the limits of PROTOCOL.md.

pub(crate) mod ctl;
#[cfg(feature = "turns")]
pub mod simulated;
pub(crate) mod tcp;
pub(crate) mod tls;

#[cfg(test)]
pub(crate) mod memory;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::message::Message;
use tls::Security;

/// One connection to one peer. See the module text for what it MUST do.
pub(crate) trait Transport: Send + Sync + fmt::Debug {
    /// Sends one message.
    fn send(&self, message: &Message) -> Result<(), Error>;

    /// The next message, or `None` when `timeout` passed without one.
    fn receive(&self, timeout: Duration) -> Result<Option<Message>, Error>;

    /// Bytes that arrived so far, those of a message that is not whole yet included.
    fn received(&self) -> u64;

    /// Ends the connection; both sides notice.
    fn close(&self);

    /// The peer, for people.
    fn peer(&self) -> &str;
}

/// A connection that several threads use.
pub(crate) type Link = Arc<dyn Transport>;

/// Where connections arrive.
pub(crate) trait Listener: Send + Sync + fmt::Debug {
    /// The address bound, with the real port.
    fn address(&self) -> SocketAddr;

    /// The next connection, or `None` once closed.
    fn accept(&self) -> Result<Option<Link>, Error>;

    /// Wakes `accept`, which then gives `None`.
    fn close(&self);
}

/// Dials `text`; under TLS the peer is known when this returns.
pub(crate) fn dial(text: &str, security: &Security, timeout: Duration) -> Result<Link, Error> {
    #[cfg(feature = "turns")]
    if let Security::Simulated(post) = security {
        return post.dial(text, timeout);
    }
    tcp::dial(text, security, timeout)
}

/// Listens on `text`.
pub(crate) fn listen(text: &str, security: &Security) -> Result<Arc<dyn Listener>, Error> {
    #[cfg(feature = "turns")]
    if let Security::Simulated(post) = security {
        return Ok(Arc::new(post.listen(text)?));
    }
    Ok(Arc::new(tcp::Socket::bind(text, security)?))
}
