//! One connection of a primary to one replica: what is sent, what was heard, and when.
//!
//! One thread listens, another speaks. The listener answers for liveness in both directions: it
//! notices silence, and it says that we are alive while the speaker is busy elsewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_wal::sync::Mutex;
use seawall_wal::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use seawall_wal::{Clock, Log, Lsn, LsnRange};

use super::contained;
use crate::error::Error;
use crate::message::{Body, Fence, Message};
use crate::transport::Link;

/// Silence that ends a connection (D7).
pub(super) const SILENCE: Duration = Duration::from_secs(5);
/// After this long without a message we say that we are alive.
pub(super) const ALIVE_AFTER: Duration = Duration::from_secs(1);
/// So many bytes of a message that is not whole yet are a sign of life: a slow link is no silence,
/// and a peer that trickles is none for long.
const LIFE_BYTES: u64 = 64 << 10;
/// A message that is not sent after this long never will be: the peer reads less than a link
/// carries whose bytes are a sign of life.
const SEND_MAX: Duration = Duration::from_secs(180);
/// How often the listener looks at the clock.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// Messages that may wait for the speaker.
pub(super) const INBOX_MAX: usize = 256;

/// Bytes of a connection that were counted as a sign of life.
#[derive(Debug, Default)]
pub(super) struct Life(AtomicU64);

impl Life {
    /// Whether enough bytes arrived since this was true last.
    pub(super) fn shows(&self, link: &Link) -> bool {
        let arrived = link.received();
        let enough = arrived >= self.0.load(Ordering::Relaxed) + LIFE_BYTES;
        if enough {
            self.0.store(arrived, Ordering::Relaxed);
        }
        enough
    }
}

/// Both halves of one connection.
#[derive(Debug)]
pub(super) struct Conversation {
    link: Link,
    fence: Fence,
    clock: Arc<dyn Clock>,
    heard_ns: AtomicU64,
    sent_ns: AtomicU64,
    /// When the message under way was begun; 0 is none.
    sending_ns: AtomicU64,
    life: Life,
    sending: Mutex<()>,
    over: Mutex<Option<Error>>,
}

impl Conversation {
    pub(super) fn new(link: Link, fence: Fence, clock: &Arc<dyn Clock>) -> Conversation {
        let now = clock.monotonic_ns();
        Conversation {
            link,
            fence,
            clock: Arc::clone(clock),
            heard_ns: AtomicU64::new(now),
            sent_ns: AtomicU64::new(now),
            sending_ns: AtomicU64::new(0),
            life: Life::default(),
            sending: Mutex::new(()),
            over: Mutex::new(None),
        }
    }

    pub(super) fn peer(&self) -> String {
        self.link.peer().to_owned()
    }

    pub(super) fn close(&self) {
        self.link.close();
    }

    /// Sends one message of this session.
    pub(super) fn send(&self, body: Body) -> Result<(), Error> {
        let one_at_a_time = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = self.transmit(body);
        drop(one_at_a_time);
        // The listener knows better why a connection ended.
        sent.map_err(|error| self.cause().unwrap_or(error))
    }

    fn transmit(&self, body: Body) -> Result<(), Error> {
        let fence = self.fence;
        let now = self.clock.monotonic_ns().max(1);
        self.sending_ns.store(now, Ordering::Relaxed);
        let sent = self.link.send(&Message { fence, body });
        self.sending_ns.store(0, Ordering::Relaxed);
        self.sent_ns
            .store(self.clock.monotonic_ns(), Ordering::Relaxed);
        sent
    }

    /// Says that we are alive, if nothing else was said for a while.
    pub(super) fn send_alive(&self) -> Result<(), Error> {
        if self.since(&self.sent_ns) < ALIVE_AFTER {
            return Ok(());
        }
        // A send that is under way says it better.
        let Ok(_free) = self.sending.try_lock() else {
            return Ok(());
        };
        self.transmit(Body::Alive)
    }

    fn since(&self, moment: &AtomicU64) -> Duration {
        let moment = moment.load(Ordering::Relaxed);
        Duration::from_nanos(self.clock.monotonic_ns().saturating_sub(moment))
    }

    /// Why the connection ended, once it has.
    pub(super) fn cause(&self) -> Option<Error> {
        let over = self.over.lock().unwrap_or_else(PoisonError::into_inner);
        over.clone()
    }

    /// The listener: hands every message on until the connection ends, or `over` says that nobody
    /// wants it any more, which is asked whenever there is nothing to hear. `take` may take a
    /// message for itself; it gives back what is for the speaker.
    pub(super) fn listen(
        &self,
        inbox: &SyncSender<Body>,
        take: impl Fn(Body) -> Option<Body>,
        over: impl Fn() -> bool,
    ) {
        let ended = contained(|| {
            loop {
                match self.hear()? {
                    None if over() => return Err(Error::Reassigned { peer: self.peer() }),
                    None => {}
                    Some(body) => {
                        let Some(body) = take(body) else { continue };
                        if inbox.send(body).is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        });
        // The speaker wants nothing more, or has to be told why nothing comes.
        if let Err(error) = ended {
            *self.over.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            self.close();
        }
    }

    fn hear(&self) -> Result<Option<Body>, Error> {
        let message = self.link.receive(LOOK)?;
        self.send_alive()?;
        self.check_sending()?;
        let Some(message) = message else {
            if self.life.shows(&self.link) {
                let now = self.clock.monotonic_ns();
                self.heard_ns.store(now, Ordering::Relaxed);
            }
            let silent = self.since(&self.heard_ns);
            return match silent < SILENCE {
                true => Ok(None),
                false => Err(Error::Silent {
                    peer: self.peer(),
                    silent,
                }),
            };
        };
        self.heard_ns
            .store(self.clock.monotonic_ns(), Ordering::Relaxed);
        let peer = self.peer();
        match message.body {
            Body::Refused(reason) => Err(Error::Refused { peer, reason }),
            body if message.fence != self.fence => Err(Error::Unexpected {
                peer,
                got: body.name(),
                expected: "a message of this session",
            }),
            Body::Bye => Err(Error::Closed { peer }),
            Body::Alive => Ok(None),
            body => Ok(Some(body)),
        }
    }

    /// A peer that says it is alive and reads nothing holds the speaker, not the session.
    fn check_sending(&self) -> Result<(), Error> {
        let stalled = match self.sending_ns.load(Ordering::Relaxed) {
            0 => return Ok(()),
            begun => self.since(&AtomicU64::new(begun)),
        };
        match stalled > SEND_MAX {
            false => Ok(()),
            true => Err(self.stalled("to read what was sent", stalled)),
        }
    }

    /// The error for a peer that is alive and does not do what is due.
    pub(super) fn stalled(&self, due: &'static str, stalled: Duration) -> Error {
        Error::Stalled {
            peer: self.peer(),
            due,
            stalled,
        }
    }

    /// The next message for the speaker; `None` when none came within `timeout`.
    pub(super) fn receive(
        &self,
        inbox: &Receiver<Body>,
        timeout: Duration,
    ) -> Result<Option<Body>, Error> {
        match inbox.recv_timeout(timeout) {
            Ok(body) => Ok(Some(body)),
            Err(RecvTimeoutError::Timeout) => match self.cause() {
                Some(cause) => Err(cause),
                None => Ok(None),
            },
            Err(RecvTimeoutError::Disconnected) => {
                let peer = self.peer();
                Err(self.cause().unwrap_or(Error::Closed { peer }))
            }
        }
    }

    /// The error for a message that is not due.
    pub(super) fn unexpected(&self, got: &Body, expected: &'static str) -> Error {
        Error::Unexpected {
            peer: self.peer(),
            got: got.name(),
            expected,
        }
    }
}

/// Splits records into batches of about a mebibyte.
pub(super) struct Batch {
    pub(super) records: Vec<seawall_wal::Record>,
    pub(super) bytes: u64,
}

impl Batch {
    const BYTES: u64 = 1 << 20;

    pub(super) const fn new() -> Batch {
        Batch {
            records: Vec::new(),
            bytes: 0,
        }
    }

    /// Sends the records of a range, a batch at a time.
    pub(super) fn each(
        log: &Arc<Log>,
        range: LsnRange,
        mut send: impl FnMut(Batch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut batch = Batch::new();
        for record in log.read(range)? {
            if let Some(full) = batch.push(record?) {
                send(full)?;
            }
        }
        match batch.records.is_empty() {
            true => Ok(()),
            false => send(batch),
        }
    }

    /// Takes a record; gives the full batch before it when it would not fit.
    pub(super) fn push(&mut self, record: seawall_wal::Record) -> Option<Batch> {
        let bytes = record.bytes() as u64;
        let full = !self.records.is_empty() && self.bytes + bytes > Batch::BYTES;
        let before = full.then(|| std::mem::replace(self, Batch::new()));
        self.records.push(record);
        self.bytes += bytes;
        before
    }

    pub(super) fn last(&self) -> Option<Lsn> {
        self.records.last().map(seawall_wal::Record::lsn)
    }
}
