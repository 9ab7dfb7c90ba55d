//! A proxy between two ends of a TCP link that does to its bytes what bad networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What happens to bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing: they arrive.
    None,
    /// They arrive late, each piece by itself.
    Delay(Duration),
    /// They are swallowed; the connection stays open and looks well to both ends.
    HalfOpen,
    /// They are swallowed in the direction from the end that listens.
    Deaf,
    /// One bit of the next piece is flipped; then as `None`.
    Corrupt,
    /// The next piece is lost and what follows it arrives; then as `None`.
    Drop,
    /// The next piece arrives twice; then as `None`.
    Replay,
    /// Connections are reset, and new ones as well.
    Cut,
}

#[derive(Debug)]
struct State {
    fault: Fault,
    target: SocketAddr,
    streams: Vec<TcpStream>,
    /// Connections so far.
    connections: u64,
    /// Bytes that arrived at their other end.
    forwarded: u64,
    over: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A running proxy; dropping it cuts everything.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Proxy {
    /// A proxy before `target`.
    pub(crate) fn before(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let state = State {
            fault: Fault::None,
            target,
            streams: Vec::new(),
            connections: 0,
            forwarded: 0,
            over: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Proxy { shared, address }
    }

    /// Where to dial it.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// What happens from now on; `Cut` also ends what is open.
    pub(crate) fn set(&self, fault: Fault) {
        let mut state = self.shared.state.lock().unwrap();
        state.fault = fault;
        if fault == Fault::Cut {
            cut(&mut state);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Ends what is open; new connections are as the fault says.
    pub(crate) fn cut(&self) {
        cut(&mut self.shared.state.lock().unwrap());
    }

    /// Waits until a fault of one piece has struck; false when that takes over a minute.
    pub(crate) fn strikes(&self) -> bool {
        let state = self.shared.state.lock().unwrap();
        let patience = Duration::from_secs(60);
        let waiting = |state: &mut State| state.fault != Fault::None;
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(state, patience, waiting);
        !waited.unwrap().1.timed_out()
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.state.lock().unwrap().connections
    }

    /// Waits until `bytes` more arrived at either end; false when that takes over a minute.
    pub(crate) fn forwards(&self, bytes: u64) -> bool {
        let state = self.shared.state.lock().unwrap();
        let until = state.forwarded + bytes;
        let patience = Duration::from_secs(60);
        let waiting = |state: &mut State| state.forwarded < until;
        let changed = &self.shared.changed;
        let waited = changed.wait_timeout_while(state, patience, waiting);
        !waited.unwrap().1.timed_out()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock().unwrap();
        state.over = true;
        cut(&mut state);
        drop(state);
        self.shared.changed.notify_all();
        // OK because the connection exists only to wake `accept`.
        drop(TcpStream::connect(self.address));
    }
}

fn cut(state: &mut State) {
    for stream in state.streams.drain(..) {
        // OK because a stream that is gone needs no shutdown.
        drop(stream.shutdown(Shutdown::Both));
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((near, _)) = listener.accept() {
        let mut state = shared.state.lock().unwrap();
        if state.over {
            return;
        }
        state.connections += 1;
        let Ok(far) = TcpStream::connect(state.target) else {
            continue;
        };
        if state.fault == Fault::Cut {
            continue;
        }
        for (from, to, back) in [(&near, &far, false), (&far, &near, true)] {
            drop(from.set_nodelay(true));
            state.streams.push(from.try_clone().unwrap());
            let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
            let shared = Arc::clone(shared);
            std::thread::spawn(move || pump(from, to, back, &shared));
        }
    }
}

/// Carries bytes one way until either end is gone.
fn pump(mut from: TcpStream, mut to: TcpStream, back: bool, shared: &Shared) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut piece) {
        if count == 0
            || to
                .write_all(&struck(shared, &mut piece[..count], back))
                .is_err()
        {
            break;
        }
        shared.state.lock().unwrap().forwarded += count as u64;
        shared.changed.notify_all();
    }
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}

/// What arrives of one piece. Faults of one piece strike what the end that dialled says.
fn struck(shared: &Shared, piece: &mut [u8], back: bool) -> Vec<u8> {
    let mut state = shared.state.lock().unwrap();
    if let Fault::Delay(delay) = state.fault {
        let asleep = |state: &mut State| state.fault == Fault::Delay(delay) && !state.over;
        let waited = shared.changed.wait_timeout_while(state, delay, asleep);
        return match waited.unwrap().0.fault {
            Fault::HalfOpen => Vec::new(),
            _ => piece.to_vec(),
        };
    }
    let once = !back && matches!(state.fault, Fault::Corrupt | Fault::Drop | Fault::Replay);
    let fault = state.fault;
    if once {
        state.fault = Fault::None;
    }
    match fault {
        Fault::HalfOpen => Vec::new(),
        Fault::Deaf if back => Vec::new(),
        Fault::Corrupt if once => {
            let middle = piece.len() / 2;
            piece[middle] ^= 0x10;
            piece.to_vec()
        }
        Fault::Drop if once => Vec::new(),
        Fault::Replay if once => piece.repeat(2),
        _ => piece.to_vec(),
    }
}
