//! Threads that take turns: one runs at a time, a seed says who is next, and time is a number that
//! moves on when everybody waits.
//!
//! A thread belongs to a *world* from [`run`] or from being spawned within one. It hands its turn
//! on where it has to wait: for a lock, a condition, a channel, the end of another, or a time. So
//! the code of the product, which takes all of these from the module above, runs unchanged and
//! comes out the same for the same seed. Threads outside a world meet the standard library.

pub mod channel;
pub mod locks;
mod world;

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::Thread;
use std::time::Duration;

use world::{Key, World};
pub use world::{Outcome, Pace};

/// A thread of a world, in the order they were started.
pub type TaskId = u64;

thread_local! {
    static CALM: Cell<bool> = const { Cell::new(false) };
    static HERE: RefCell<Option<(Arc<World>, TaskId)>> = const { RefCell::new(None) };
}

fn here() -> Option<(Arc<World>, TaskId)> {
    // A thread that ends has no world any more.
    HERE.try_with(|here| here.borrow().clone()).ok().flatten()
}

/// Whether this thread takes turns.
#[must_use]
pub fn is_here() -> bool {
    here().is_some()
}

/// Runs `body` as the first thread of a world of its own; gives what the world was like at its end
/// beside the result.
pub fn run<R>(seed: u64, pace: Pace, body: impl FnOnce() -> R) -> (R, Outcome) {
    let world = World::new(seed, pace);
    let me = world.admit_first(std::thread::current());
    HERE.set(Some((Arc::clone(&world), me)));
    let result = catch_unwind(AssertUnwindSafe(body));
    HERE.set(None);
    match result {
        Ok(result) => (result, world.outcome()),
        Err(panic) => resume_unwind(panic),
    }
}

/// Nanoseconds since the world began; zero outside.
#[must_use]
pub fn now_ns() -> u64 {
    here().map_or(0, |(world, _)| world.now_ns())
}

/// A number drawn from the seed of the world, or `None` outside of one.
#[must_use]
pub fn draw() -> Option<u64> {
    here().map(|(world, _)| world.draw())
}

/// Notes something in the trace of the world, which two runs of one seed have in common.
pub fn note(what: u64) {
    if let Some((world, _)) = here() {
        world.note(what);
    }
}

/// Waits for a time to go by.
pub fn sleep(time: Duration) {
    if let Some((world, me)) = here() {
        world.wait(me, Key::Time, Some(time));
    }
}

/// Lets others run.
pub fn yield_now() {
    match here() {
        Some((world, me)) => world.yield_now(me),
        None => std::thread::yield_now(),
    }
}

/// Runs `body` as one step: nobody else's turn comes before its end, unless it waits.
pub fn calm<R>(body: impl FnOnce() -> R) -> R {
    let before = CALM.replace(true);
    let result = body();
    CALM.set(before);
    result
}

/// Makes a thread that is about to be started one of this world.
pub(crate) fn enrol<'a>(
    name: &str,
    work: impl FnOnce() + Send + 'a,
) -> (Option<TaskId>, impl FnOnce() + Send + 'a) {
    let entry = here().map(|(world, _)| (Arc::clone(&world), world.admit(name)));
    let id = entry.as_ref().map(|(_, id)| *id);
    let work = move || {
        let Some((world, me)) = entry else {
            return work();
        };
        HERE.set(Some((Arc::clone(&world), me)));
        world.await_turn(me);
        let result = catch_unwind(AssertUnwindSafe(work));
        HERE.set(None);
        let text = result.as_ref().err().map(|panic| text_of(panic.as_ref()));
        world.leave(me, text);
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    };
    (id, work)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "a panic without a text".into())
}

pub(crate) fn enrolled(task: Option<TaskId>, thread: &Thread) {
    if let (Some(task), Some((world, _))) = (task, here()) {
        world.begin(task, thread.clone());
    }
}

pub(crate) fn await_end(task: Option<TaskId>) {
    if let (Some(task), Some((world, me))) = (task, here()) {
        while !world.has_ended(task) {
            world.wait(me, Key::End(task), None);
        }
    }
}

pub(crate) fn has_ended(task: TaskId) -> bool {
    here().is_none_or(|(world, _)| world.has_ended(task))
}

/// Waits for the end of a scoped thread, on unwinding too.
pub(crate) struct AwaitEnd(pub(crate) Option<TaskId>);

impl Drop for AwaitEnd {
    fn drop(&mut self) {
        await_end(self.0);
    }
}

/// Random bytes from the seed of the world; outside of one they come from elsewhere.
pub(crate) fn random_16() -> Option<[u8; 16]> {
    let halves = [draw()?, draw()?];
    let mut bytes = [0; 16];
    for (out, half) in bytes.chunks_exact_mut(8).zip(halves) {
        out.copy_from_slice(&half.to_le_bytes());
    }
    Some(bytes)
}

/// Waits at `address` for a wake-up; `true` when time ran out first. Others run meanwhile.
fn wait_at(address: usize, timeout: Option<Duration>) -> bool {
    match here() {
        Some((world, me)) => world.wait(me, Key::Address(address), timeout),
        None => false,
    }
}

fn wake_all(address: usize) {
    if let Some((world, _)) = here() {
        world.wake(Key::Address(address), usize::MAX);
    }
}

fn wake_one(address: usize) {
    if let Some((world, _)) = here() {
        world.wake(Key::Address(address), 1);
    }
}

/// Now and then another thread goes first.
fn preempt() {
    if CALM.get() {
        return;
    }
    if let Some((world, me)) = here() {
        world.preempt(me);
    }
}

/// Threads that wait for something, so that a release without any costs nothing.
#[derive(Debug, Default)]
struct Waiters(AtomicU64);
