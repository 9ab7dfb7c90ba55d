//! Questions on the listening address of a primary: many at once, nobody waits for another's.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_wal::sync::{Mutex, MutexGuard};

use super::{Threads, contained};
use crate::error::Error;
use crate::message::{Body, Message, Refusal};
use crate::transport::{Link, Listener};

/// Connections at a time; more are closed at once.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Time for a question to arrive whole.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// Gives the status as JSON.
pub(super) type Answer = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers until it is dropped.
#[derive(Debug)]
pub(super) struct Queries(Arc<Open>);

#[derive(Debug)]
struct Open {
    listener: Arc<dyn Listener>,
    /// Those that are being served, or `None` once closed.
    links: Mutex<Option<Vec<Link>>>,
    threads: Threads,
}

impl Queries {
    pub(super) fn serve(listener: Arc<dyn Listener>, answer: Answer) -> Queries {
        let open = Arc::new(Open {
            listener,
            links: Mutex::new(Some(Vec::new())),
            threads: Threads::default(),
        });
        let accepting = Arc::clone(&open);
        open.threads
            .start("seawall-listen", move || accept(&accepting, &answer));
        Queries(open)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.0.listener.address()
    }
}

impl Drop for Queries {
    fn drop(&mut self) {
        self.0.listener.close();
        let links = self.0.links().take();
        for link in links.into_iter().flatten() {
            link.close();
        }
        self.0.threads.join();
    }
}

impl Open {
    fn links(&self) -> MutexGuard<'_, Option<Vec<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(open: &Arc<Open>, answer: &Answer) {
    loop {
        let link = match open.listener.accept() {
            Ok(Some(link)) => link,
            Ok(None) => return,
            Err(error) => return tracing::warn!(%error, "the listening address ended"),
        };
        // Held until the thread is known: whoever closes waits for all of them.
        let mut links = open.links();
        let Some(served) = links.as_mut() else {
            return;
        };
        if served.len() >= CONNECTIONS_MAX {
            link.close();
            continue;
        }
        served.push(Arc::clone(&link));
        let (serving, answer) = (Arc::clone(open), Arc::clone(answer));
        open.threads.start("seawall-query", move || {
            if let Err(error) = contained(|| answer_one(&link, &answer)) {
                tracing::debug!(%error, "a query was not answered");
            }
            link.close();
            if let Some(links) = serving.links().as_mut() {
                links.retain(|other| !Arc::ptr_eq(other, &link));
            }
        });
    }
}

/// A primary answers questions and takes no orders.
fn answer_one(link: &Link, answer: &Answer) -> Result<(), Error> {
    let Some(message) = link.receive(FIRST_WORD)? else {
        return Ok(());
    };
    let body = match message.body {
        Body::StatusQuery => Body::StatusReply { json: answer() },
        _ => Body::Refused(Refusal::WrongRole),
    };
    link.send(&Message {
        fence: message.fence,
        body,
    })
}
