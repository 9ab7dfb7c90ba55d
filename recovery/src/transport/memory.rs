//! A pair of connected transports in memory, for tests. Messages pass through the codec.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::{Link, Transport};
use crate::error::Error;
use crate::message::{Header, Message};

#[derive(Debug, Default)]
struct Pipe {
    queue: Mutex<(VecDeque<Vec<u8>>, bool)>,
    changed: Condvar,
}

impl Pipe {
    fn close(&self) {
        self.queue.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
}

#[derive(Debug)]
struct End {
    to: Arc<Pipe>,
    from: Arc<Pipe>,
    peer: &'static str,
}

/// Two ends; what one sends, the other receives.
pub(crate) fn pair() -> (Link, Link) {
    let (a, b) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
    let end = |to: &Arc<Pipe>, from: &Arc<Pipe>, peer| {
        Arc::new(End {
            to: Arc::clone(to),
            from: Arc::clone(from),
            peer,
        })
    };
    (end(&a, &b, "replica"), end(&b, &a, "primary"))
}

impl End {
    fn closed(&self) -> Error {
        Error::Closed {
            peer: self.peer.into(),
        }
    }
}

impl Transport for End {
    fn send(&self, message: &Message) -> Result<(), Error> {
        let mut queue = self.to.queue.lock().unwrap();
        if queue.1 {
            return Err(self.closed());
        }
        queue.0.push_back(message.encode());
        self.to.changed.notify_all();
        Ok(())
    }

    fn receive(&self, timeout: Duration) -> Result<Option<Message>, Error> {
        let queue = self.from.queue.lock().unwrap();
        let empty = |(queue, closed): &mut (VecDeque<_>, bool)| queue.is_empty() && !*closed;
        let waited = self.from.changed.wait_timeout_while(queue, timeout, empty);
        let (mut queue, _) = waited.unwrap();
        let Some(bytes) = queue.0.pop_front() else {
            return match queue.1 {
                true => Err(self.closed()),
                false => Ok(None),
            };
        };
        let header = Header::decode(bytes.first_chunk().unwrap()).unwrap();
        let message = Message::decode(&header, &bytes[Header::BYTES..]);
        Ok(Some(message.unwrap()))
    }

    fn received(&self) -> u64 {
        // Messages are whole or not there.
        0
    }

    fn close(&self) {
        self.to.close();
        self.from.close();
    }

    fn peer(&self) -> &str {
        self.peer
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}

#[test]
fn what_one_end_sends_the_other_receives_until_it_closes() {
    use crate::message::{Body, Fence};
    let (primary, replica) = pair();
    let message = Message {
        fence: Fence::default(),
        body: Body::Alive,
    };
    primary.send(&message).unwrap();
    let got = replica.receive(Duration::from_secs(5)).unwrap().unwrap();
    assert!(matches!(got.body, Body::Alive));
    drop(primary);
    assert!(matches!(
        replica.receive(Duration::from_secs(5)),
        Err(Error::Closed { .. })
    ));
}
