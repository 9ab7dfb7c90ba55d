//! A network in memory between the nodes of one world (see `seawall_wal::sync::turns`).
//!
//! It behaves as TCP does where an engine can tell: what was sent arrives in order after a delay,
//! or never; a way that is blocked holds everything back until it is opened; an end that went away
//! without a word leaves the other one waiting. Delays are drawn from the seed of the world.
//! What TCP rules out but a broken middle box may do, losing, repeating and changing whole
//! messages, is there too and is asked for by name.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use seawall_wal::sync::turns;
use seawall_wal::sync::{Condvar, Mutex, MutexGuard};

use super::{Link, Listener, Transport};
use crate::error::Error;
use crate::message::{Header, Message};

/// Bytes on their way to one end before its peer has to wait.
const WINDOW_BYTES: usize = 4 << 20;
/// A send that makes no progress for this long ends its connection, as over TCP (D7).
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// A node of the network, by its number.
pub type Node = u32;

/// What messages meet on their way, in thousandths of them, and how long they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Most nanoseconds that a message is on its way.
    pub delay_ns: u64,
    /// Nanoseconds that a KiB takes.
    pub ns_per_kib: u64,
    /// The connection breaks instead.
    pub cut: u64,
    /// The message never arrives; later ones do.
    pub lost: u64,
    /// It arrives twice.
    pub repeated: u64,
    /// One bit of it is another.
    pub changed: u64,
}

impl Default for Weather {
    fn default() -> Weather {
        Weather {
            delay_ns: 200_000,
            ns_per_kib: 1_000,
            cut: 0,
            lost: 0,
            repeated: 0,
            changed: 0,
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    from: Node,
    to: Node,
    /// When each may be received, and its bytes.
    queue: VecDeque<(u64, Vec<u8>)>,
    bytes: usize,
    received: u64,
    /// The sender sends no more.
    ended: bool,
    /// The receiver reads no more.
    broken: bool,
}

/// A connection: the pipe of whoever dialled, and that of whoever accepted.
#[derive(Debug)]
struct Connection {
    pipes: [Pipe; 2],
    /// Ends that somebody holds.
    held: u32,
    /// Ends whose node stopped; nothing that is left of it has an effect.
    gone: [bool; 2],
}

impl Connection {
    /// Ends the side `side` (0 dialled, 1 accepted).
    fn end(&mut self, side: usize) {
        self.pipes[side].ended = true;
        self.pipes[1 - side].broken = true;
    }

    fn sides_at(&self, node: Node) -> impl Iterator<Item = usize> + use<> {
        let at = [self.pipes[0].from == node, self.pipes[1].from == node];
        (0..2).filter(move |side| at[*side])
    }
}

/// A connection that was dialled and not accepted yet.
#[derive(Debug)]
struct Dialled {
    link: u64,
    from: Node,
}

#[derive(Debug, Default)]
struct State {
    weather: Weather,
    /// Ways that nothing passes, and how often each was asked for.
    blocked: BTreeMap<(Node, Node), u32>,
    ports: BTreeMap<String, Port>,
    links: BTreeMap<u64, Connection>,
    next: u64,
}

#[derive(Debug)]
struct Port {
    /// Which of those that listened here it is.
    number: u64,
    node: Node,
    waiting: VecDeque<Dialled>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

/// The network of one world.
#[derive(Clone, Debug, Default)]
pub struct Network(Arc<Inner>);

/// The network as one of its nodes has it.
#[derive(Clone, Debug)]
pub struct Post {
    network: Network,
    node: Node,
}

impl Network {
    /// One without connections.
    #[must_use]
    pub fn new() -> Network {
        Network::default()
    }

    /// What `node` gives as its `Security`.
    #[must_use]
    pub fn post(&self, node: Node) -> Post {
        Post {
            network: self.clone(),
            node,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // OK because every change of it is one step.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state());
        self.0.changed.notify_all();
        result
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        let waited = self.0.changed.wait_timeout(state, most);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What messages that are sent from now on meet.
    pub fn set_weather(&self, weather: Weather) {
        self.change(|state| state.weather = weather);
    }

    /// Nothing passes from `from` to `to` until it is unblocked as often; the other way is another
    /// way.
    pub fn block(&self, from: Node, to: Node) {
        self.change(|state| *state.blocked.entry((from, to)).or_default() += 1);
    }

    /// Takes back one [`Network::block`].
    pub fn unblock(&self, from: Node, to: Node) {
        self.change(|state| {
            let times = state.blocked.entry((from, to)).or_default();
            *times = times.saturating_sub(1);
        });
    }

    /// Opens every way.
    pub fn open_all(&self) {
        self.change(|state| state.blocked.clear());
    }

    /// Breaks every connection of `node`; both ends are told.
    pub fn cut(&self, node: Node) {
        self.change(|state| {
            for link in state.links.values_mut() {
                if link.sides_at(node).next().is_some() {
                    link.end(0);
                    link.end(1);
                }
            }
        });
    }

    /// `node` stops at once. Its peers are told by its kernel, or by nobody when the power went.
    pub fn stop(&self, node: Node, told: bool) {
        self.change(|state| {
            state.ports.retain(|_, port| port.node != node);
            for link in state.links.values_mut() {
                for side in link.sides_at(node) {
                    link.gone[side] = true;
                    if told {
                        link.end(side);
                    }
                }
            }
        });
    }

    /// `node` is there again: whoever still talks to what it was hears that it is gone.
    pub fn start(&self, node: Node) {
        self.change(|state| {
            for link in state.links.values_mut() {
                for side in link.sides_at(node) {
                    if link.gone[side] {
                        link.end(side);
                    }
                }
            }
        });
    }

    /// Connections that somebody holds an end of.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.state().links.len()
    }
}

impl State {
    fn is_open(&self, from: Node, to: Node) -> bool {
        self.blocked
            .get(&(from, to))
            .is_none_or(|times| *times == 0)
    }
}

fn refused(text: &str, kind: std::io::ErrorKind) -> Error {
    Error::socket("connect to", text, kind.into())
}

/// A number of the world below `bound`, or zero.
fn below(bound: u64) -> u64 {
    match bound {
        0 => 0,
        bound => turns::draw().unwrap_or_default() % bound,
    }
}

/// Whether it happens, in so many of a thousand cases.
fn happens(thousandths: u64) -> bool {
    thousandths > 0 && below(1000) < thousandths
}

impl Post {
    pub(super) fn dial(&self, text: &str, timeout: Duration) -> Result<Link, Error> {
        let network = &self.network;
        let deadline = turns::now_ns() + nanos(timeout);
        let mut state = network.state();
        loop {
            let port = state.ports.get(text);
            let node = port.filter(|port| !port.closed).map(|port| port.node);
            let reachable = node.is_none_or(|node| {
                state.is_open(self.node, node) && state.is_open(node, self.node)
            });
            match node {
                None => return Err(refused(text, std::io::ErrorKind::ConnectionRefused)),
                Some(_) if reachable => break,
                Some(_) => {}
            }
            let left = deadline.saturating_sub(turns::now_ns());
            if left == 0 {
                return Err(refused(text, std::io::ErrorKind::TimedOut));
            }
            state = network.wait(state, Duration::from_nanos(left));
        }
        let link = state.next;
        state.next += 1;
        let port = state.ports.get_mut(text).expect("it was just looked at");
        let (from, to) = (self.node, port.node);
        port.waiting.push_back(Dialled { link, from });
        let pipe = |from, to| Pipe {
            from,
            to,
            ..Pipe::default()
        };
        let connection = Connection {
            pipes: [pipe(from, to), pipe(to, from)],
            held: 1,
            gone: [false; 2],
        };
        state.links.insert(link, connection);
        drop(state);
        network.0.changed.notify_all();
        Ok(Arc::new(End {
            network: network.clone(),
            link,
            side: 0,
            peer: text.into(),
        }))
    }

    pub(super) fn listen(&self, text: &str) -> Result<Socket, Error> {
        let address = text.parse().map_err(|_| Error::Address {
            text: text.into(),
            expected: "an address as IP:PORT",
        })?;
        let node = self.node;
        let number = self.network.change(|state| {
            let number = state.next;
            state.next += 1;
            let port = Port {
                number,
                node,
                waiting: VecDeque::new(),
                closed: false,
            };
            state.ports.insert(text.into(), port);
            number
        });
        Ok(Socket {
            network: self.network.clone(),
            text: text.into(),
            number,
            address,
        })
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Where connections to one node arrive.
#[derive(Debug)]
pub(super) struct Socket {
    network: Network,
    text: String,
    number: u64,
    address: SocketAddr,
}

impl Listener for Socket {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn accept(&self) -> Result<Option<Link>, Error> {
        let mut state = self.network.state();
        loop {
            let port = state.ports.get_mut(&self.text);
            let Some(port) = port.filter(|port| !port.closed && port.number == self.number) else {
                return Ok(None);
            };
            if let Some(dialled) = port.waiting.pop_front() {
                if let Some(link) = state.links.get_mut(&dialled.link) {
                    link.held += 1;
                }
                return Ok(Some(Arc::new(End {
                    network: self.network.clone(),
                    link: dialled.link,
                    side: 1,
                    peer: format!("node {}", dialled.from),
                })));
            }
            state = self.network.wait(state, Duration::from_secs(3600));
        }
    }

    fn close(&self) {
        self.network.change(|state| {
            let port = state.ports.get_mut(&self.text);
            let Some(port) = port.filter(|port| port.number == self.number) else {
                return;
            };
            port.closed = true;
            for dialled in std::mem::take(&mut port.waiting) {
                if let Some(link) = state.links.get_mut(&dialled.link) {
                    link.end(1);
                }
            }
        });
    }
}

/// One end of a connection.
#[derive(Debug)]
struct End {
    network: Network,
    link: u64,
    side: usize,
    peer: String,
}

impl End {
    fn closed(&self) -> Error {
        Error::Closed {
            peer: self.peer.clone(),
        }
    }

    /// The connection, unless the node that this end belongs to has stopped.
    fn link<'a>(&self, state: &'a mut State) -> Option<&'a mut Connection> {
        let link = state.links.get_mut(&self.link)?;
        (!link.gone[self.side]).then_some(link)
    }

    fn outwards<'a>(&self, state: &'a mut State) -> Option<&'a mut Pipe> {
        Some(&mut self.link(state)?.pipes[self.side])
    }

    fn inwards<'a>(&self, state: &'a mut State) -> Option<&'a mut Pipe> {
        Some(&mut self.link(state)?.pipes[1 - self.side])
    }

    /// Waits until the window has room.
    fn room(&self) -> Result<MutexGuard<'_, State>, Error> {
        let deadline = turns::now_ns() + nanos(SEND_TIMEOUT);
        let mut state = self.network.state();
        loop {
            let Some(pipe) = self.outwards(&mut state) else {
                return Err(self.closed());
            };
            let (ended, broken, bytes) = (pipe.ended, pipe.broken, pipe.bytes);
            let (from, to) = (pipe.from, pipe.to);
            // That nobody reads any more is news from there.
            if ended || (broken && state.is_open(to, from)) {
                return Err(self.closed());
            }
            if bytes < WINDOW_BYTES {
                return Ok(state);
            }
            let left = deadline.saturating_sub(turns::now_ns());
            if left == 0 {
                drop(state);
                self.close();
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(Error::socket("write to", &self.peer, source));
            }
            state = self.network.wait(state, Duration::from_nanos(left));
        }
    }

    /// What is done with the bytes of a message that is due.
    fn open(&self, bytes: &[u8]) -> Result<Message, Error> {
        let invalid = |what| Error::Message {
            peer: self.peer.clone(),
            what,
        };
        let first = bytes.first_chunk().ok_or_else(|| self.closed())?;
        let header = Header::decode(first).map_err(invalid)?;
        Message::decode(&header, &bytes[Header::BYTES..]).map_err(invalid)
    }
}

impl Transport for End {
    fn send(&self, message: &Message) -> Result<(), Error> {
        let mut bytes = message.encode();
        let mut state = self.room()?;
        let weather = state.weather;
        if happens(weather.cut) {
            drop(state);
            self.close();
            return Err(self.closed());
        }
        if happens(weather.lost) {
            return Ok(());
        }
        if happens(weather.changed) {
            let bit = below(bytes.len() as u64 * 8);
            let at = usize::try_from(bit / 8).expect("an index of these bytes");
            bytes[at] ^= 1 << (bit % 8);
        }
        let copies = if happens(weather.repeated) { 2 } else { 1 };
        let pipe = self.outwards(&mut state).expect("there is room in it");
        for _ in 0..copies {
            let size = bytes.len() as u64;
            let takes = below(weather.delay_ns.max(1)) + size * weather.ns_per_kib / 1024;
            let last = pipe.queue.back().map_or(0, |(at, _)| *at);
            pipe.bytes += bytes.len();
            pipe.queue
                .push_back((last.max(turns::now_ns() + takes), bytes.clone()));
        }
        drop(state);
        self.network.0.changed.notify_all();
        Ok(())
    }

    fn receive(&self, timeout: Duration) -> Result<Option<Message>, Error> {
        let deadline = turns::now_ns().saturating_add(nanos(timeout));
        let mut state = self.network.state();
        loop {
            let now = turns::now_ns();
            let Some(pipe) = self.inwards(&mut state) else {
                return Err(self.closed());
            };
            let way = (pipe.from, pipe.to);
            let due = pipe.queue.front().map(|(at, _)| *at);
            let (ended, broken) = (pipe.ended, pipe.broken);
            let open = state.is_open(way.0, way.1);
            if broken || (open && ended && due.is_none()) {
                return Err(self.closed());
            }
            if let Some(at) = due
                && open
                && at <= now
            {
                let pipe = self.inwards(&mut state).expect("it was just looked at");
                let (_, bytes) = pipe.queue.pop_front().expect("one is due");
                pipe.bytes -= bytes.len();
                pipe.received += bytes.len() as u64;
                drop(state);
                self.network.0.changed.notify_all();
                let opened = self.open(&bytes);
                if opened.is_err() {
                    self.close();
                }
                return opened.map(Some);
            }
            if now >= deadline {
                return Ok(None);
            }
            let next = due.filter(|_| open).unwrap_or(deadline).min(deadline);
            let most = Duration::from_nanos(next.saturating_sub(now).max(1));
            state = self.network.wait(state, most);
        }
    }

    fn received(&self) -> u64 {
        let mut state = self.network.state();
        self.inwards(&mut state).map_or(0, |pipe| pipe.received)
    }

    fn close(&self) {
        self.network.change(|state| {
            if let Some(link) = self.link(state) {
                link.end(self.side);
            }
        });
    }

    fn peer(&self) -> &str {
        &self.peer
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
        self.network.change(|state| {
            if let Some(link) = state.links.get_mut(&self.link) {
                link.held -= 1;
                if link.held == 0 {
                    state.links.remove(&self.link);
                }
            }
        });
    }
}
