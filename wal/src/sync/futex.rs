//! The gate over the futex of Linux: one word, and a system call only when somebody sleeps.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::futex::{self, Flags};

/// A counter of openings that threads sleep at.
///
/// Take [`Gate::value`], look whether there is a reason to sleep, then [`Gate::wait`] with that
/// value: an opening between the two is never missed, because it changed the value.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    word: AtomicU32,
    /// Threads that sleep or are about to: without any, opening costs no system call.
    sleepers: AtomicU32,
}

impl Gate {
    /// Openings so far; what the opener did before is visible to whoever reads its value here.
    pub(crate) fn value(&self) -> u32 {
        self.word.load(Ordering::Acquire)
    }

    /// Sleeps while the gate was not opened since `seen` was taken.
    pub(crate) fn wait(&self, seen: u32) {
        if self.value() != seen {
            return;
        }
        // OK because of sequential consistency: either the opener sees the sleeper below, or the
        // sleeper sees the opener's word. The kernel compares the word once more as it sleeps.
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        while self.word.load(Ordering::SeqCst) == seen {
            // OK because every answer, a signal included, leads to another look at the word.
            let _ = futex::wait(&self.word, Flags::PRIVATE, seen, None);
        }
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Opens for everybody who sleeps.
    pub(crate) fn open_all(&self) {
        self.open(i32::MAX.unsigned_abs());
    }

    /// Opens for one of those who sleep, and for everybody who has yet to look.
    pub(crate) fn open_one(&self) {
        self.open(1);
    }

    fn open(&self, count: u32) {
        self.word.fetch_add(1, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            futex::wake(&self.word, Flags::PRIVATE, count).expect("a wake of our own word");
        }
    }
}
