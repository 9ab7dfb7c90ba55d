//! The edge of the tools: threads, the clock, signals and standard input live here and nowhere
//! else.
#![expect(
    clippy::disallowed_methods,
    reason = "the edge of a command line tool has threads and a clock"
)]

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What reaches a daemon from outside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// SIGTERM or SIGINT.
    Stop,
    /// A line of standard input.
    Line(String),
    /// Standard input has ended.
    EndOfInput,
}

/// Now, on the clock that never runs backwards.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits. For polling another process; nothing in the engine waits like this.
pub(crate) fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Runs `aside` on a second thread while `front` runs on this one, and gives both results.
pub(crate) fn beside<A: Send, B>(
    aside: impl FnOnce() -> A + Send,
    front: impl FnOnce() -> B,
) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(aside);
        let front = front();
        let aside = match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        (aside, front)
    })
}

/// Runs `work(0)` to `work(count - 1)`, each on a thread of its own, and gives the results in
/// order.
pub(crate) fn fan_out<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..count)
            .map(|index| scope.spawn(move || work(index)))
            .collect();
        threads
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            })
            .collect()
    })
}

/// Signals, and the lines of standard input where `input` asks for them, as they come.
pub(crate) fn events(input: bool) -> std::io::Result<Receiver<Event>> {
    let (sender, receiver) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if input {
        let sender = sender.clone();
        std::thread::spawn(move || send_lines(&sender));
    }
    std::thread::spawn(move || {
        signals
            .forever()
            .take_while(|_| sender.send(Event::Stop).is_ok())
            .for_each(drop);
    });
    Ok(receiver)
}

/// How long a process may take to end after its input: it may wait for peers that have gone too.
const GRACE: Duration = Duration::from_secs(20);

/// Sends the lines, then sees to it that the process ends: whoever fed it is no longer there.
fn send_lines(sender: &Sender<Event>) {
    let lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let mut lines = lines.map(Event::Line).chain([Event::EndOfInput]);
    lines.all(|event| sender.send(event).is_ok());
    std::thread::sleep(GRACE);
    // As a kill: what was acknowledged is durable, the next open replays the rest.
    std::process::exit(3);
}

/// A flag that SIGINT and SIGTERM set.
pub(crate) fn stop_flag() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// The lines of another process, as they come; the channel ends with it.
pub(crate) fn lines(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines().map_while(Result::ok);
        lines.all(|line| sender.send(line).is_ok());
    });
    receiver
}
