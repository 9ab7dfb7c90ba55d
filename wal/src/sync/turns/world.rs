//! Who runs, who waits for what, and what time it is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::TaskId;
use crate::disk::sim::Rng;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A lock, a condition or a channel, by its address: compared, never ordered.
    Address(usize),
    /// The end of another.
    End(TaskId),
    /// Nothing but a time.
    Time,
}

/// How a world moves.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Of 1024 locks taken, so many let another thread go first.
    pub preemptions: u64,
    /// Most nanoseconds that one turn takes.
    pub turn_ns: u64,
    /// Turns after which a world is said to have no end.
    pub turns_max: u64,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            preemptions: 16,
            turn_ns: 2_000,
            turns_max: 20_000_000,
        }
    }
}

/// What a world was like at its end.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Of everything that was decided in it: equal for equal runs.
    pub trace: u64,
    /// Turns taken.
    pub turns: u64,
    /// Its time.
    pub now_ns: u64,
    /// Threads that have not ended.
    pub left: Vec<String>,
    /// What threads panicked with.
    pub panics: Vec<String>,
}

#[derive(Debug)]
struct Task {
    name: String,
    thread: Option<Thread>,
    waits: Option<(Key, Option<u64>)>,
    timed_out: bool,
}

#[derive(Debug)]
struct State {
    seed: u64,
    pace: Pace,
    rng: Rng,
    now_ns: u64,
    next: TaskId,
    tasks: BTreeMap<TaskId, Task>,
    turns: u64,
    trace: u64,
    panics: Vec<String>,
}

#[derive(Debug)]
pub(super) struct World {
    running: AtomicU64,
    state: Mutex<State>,
}

impl World {
    pub(super) fn new(seed: u64, pace: Pace) -> Arc<World> {
        let state = State {
            seed,
            pace,
            rng: Rng::new(seed ^ 0x7475_726e_7321),
            now_ns: 1_000_000_000,
            next: 0,
            tasks: BTreeMap::new(),
            turns: 0,
            trace: seed,
            panics: Vec::new(),
        };
        Arc::new(World {
            running: AtomicU64::new(0),
            state: Mutex::new(state),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // OK because a state that a panic left behind ends the world in the next turn.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn admit_first(&self, thread: Thread) -> TaskId {
        let id = self.admit("first");
        self.begin(id, thread);
        id
    }

    /// A thread that is about to be started.
    pub(super) fn admit(&self, name: &str) -> TaskId {
        let mut state = self.state();
        let id = state.next;
        state.next += 1;
        let task = Task {
            name: name.into(),
            thread: None,
            // Nobody hands the turn to a thread that is not there yet.
            waits: Some((Key::End(id), None)),
            timed_out: false,
        };
        state.tasks.insert(id, task);
        id
    }

    /// It was started and may have its turn.
    pub(super) fn begin(&self, id: TaskId, thread: Thread) {
        let mut state = self.state();
        if let Some(task) = state.tasks.get_mut(&id) {
            task.thread = Some(thread);
            task.waits = None;
        }
    }

    pub(super) fn await_turn(&self, me: TaskId) {
        while self.running.load(Ordering::Acquire) != me {
            std::thread::park();
        }
    }

    /// The last turn of a thread.
    pub(super) fn leave(&self, me: TaskId, panic: Option<String>) {
        let mut state = self.state();
        let task = state.tasks.remove(&me);
        if let (Some(task), Some(panic)) = (task, panic) {
            state.panics.push(format!("{}: {panic}", task.name));
        }
        state.wake(Key::End(me), usize::MAX);
        self.hand_over(state);
    }

    /// Gives the turn to whoever is next.
    fn hand_over(&self, mut state: MutexGuard<'_, State>) -> TaskId {
        let next = state.choose();
        let thread = state.tasks[&next].thread.clone();
        drop(state);
        self.running.store(next, Ordering::Release);
        if let Some(thread) = thread {
            thread.unpark();
        }
        next
    }

    /// Waits for `key` or a time; `true` when it was the time.
    pub(super) fn wait(&self, me: TaskId, key: Key, timeout: Option<Duration>) -> bool {
        let mut state = self.state();
        let now_ns = state.now_ns;
        let deadline = timeout.map(|timeout| {
            let timeout = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
            now_ns.saturating_add(timeout)
        });
        let task = state.task(me);
        task.waits = Some((key, deadline));
        task.timed_out = false;
        if self.hand_over(state) != me {
            self.await_turn(me);
        }
        self.state().task(me).timed_out
    }

    pub(super) fn yield_now(&self, me: TaskId) {
        if self.hand_over(self.state()) != me {
            self.await_turn(me);
        }
    }

    pub(super) fn preempt(&self, me: TaskId) {
        let mut state = self.state();
        let chance = state.pace.preemptions;
        if chance > 0 && state.tasks.len() > 1 && state.rng.below(1024) < chance {
            drop(state);
            self.yield_now(me);
        }
    }

    pub(super) fn wake(&self, key: Key, most: usize) {
        self.state().wake(key, most);
    }

    pub(super) fn has_ended(&self, task: TaskId) -> bool {
        !self.state().tasks.contains_key(&task)
    }

    pub(super) fn now_ns(&self) -> u64 {
        self.state().now_ns
    }

    pub(super) fn draw(&self) -> u64 {
        self.state().rng.next()
    }

    pub(super) fn note(&self, what: u64) {
        self.state().mix(what);
    }

    fn others(&self, me: TaskId) -> Vec<String> {
        let state = self.state();
        let others = state.tasks.iter().filter(|(id, _)| **id != me);
        others.map(|(_, task)| task.name.clone()).collect()
    }

    pub(super) fn outcome(&self) -> Outcome {
        let left = self.others(0);
        let state = self.state();
        Outcome {
            trace: state.trace,
            turns: state.turns,
            now_ns: state.now_ns,
            left,
            panics: state.panics.clone(),
        }
    }
}

impl State {
    fn task(&mut self, id: TaskId) -> &mut Task {
        self.tasks
            .get_mut(&id)
            .expect("a thread that runs is known")
    }

    fn mix(&mut self, what: u64) {
        self.trace = (self.trace ^ what)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23);
    }

    fn wake(&mut self, key: Key, most: usize) {
        let waits = |task: &Task| task.waits.is_some_and(|(its, _)| its == key);
        let waiting = self.tasks.iter().filter(|(_, task)| waits(task));
        let mut waiting: Vec<TaskId> = waiting.map(|(id, _)| *id).collect();
        while waiting.len() > most {
            waiting.remove(self.rng.index(waiting.len()));
        }
        for id in waiting {
            self.task(id).waits = None;
        }
    }

    /// Moves time on and picks who runs next.
    fn choose(&mut self) -> TaskId {
        self.turns += 1;
        assert!(
            self.turns < self.pace.turns_max,
            "seed {}: no end: {}",
            self.seed,
            self.waiting()
        );
        self.now_ns += 1 + self.rng.below(self.pace.turn_ns.max(1));
        self.ring();
        if self.tasks.values().all(|task| task.waits.is_some()) {
            let deadlines = self.tasks.values();
            let first = deadlines.filter_map(|task| task.waits?.1).min();
            self.now_ns = first.unwrap_or_else(|| {
                panic!("seed {}: nobody can go on: {}", self.seed, self.waiting())
            });
            self.ring();
        }
        let ready = self.tasks.iter().filter(|(_, task)| task.waits.is_none());
        let ready: Vec<TaskId> = ready.map(|(id, _)| *id).collect();
        let next = ready[self.rng.index(ready.len())];
        self.mix(next);
        self.mix(self.now_ns);
        next
    }

    /// Whoever waited for a time that has come may go on.
    fn ring(&mut self) {
        let now_ns = self.now_ns;
        for task in self.tasks.values_mut() {
            if task
                .waits
                .is_some_and(|(_, deadline)| deadline.is_some_and(|at| at <= now_ns))
            {
                task.waits = None;
                task.timed_out = true;
            }
        }
    }

    fn waiting(&self) -> String {
        let tasks = self.tasks.iter();
        let lines = tasks.map(|(id, task)| format!("\n  {id} {}: {:?}", task.name, task.waits));
        lines.collect()
    }
}
