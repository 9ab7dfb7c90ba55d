//! The gate over a mutex and a condition variable: systems without a futex, and
//! schedulers of tests.

use std::sync::PoisonError;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// A counter of openings that threads sleep at.
///
/// Take [`Gate::value`], look whether there is a reason to sleep, then [`Gate::wait`] with that
/// value: an opening between the two is never missed, because it changed the value.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    word: Mutex<u32>,
    opened: Condvar,
}

impl Gate {
    fn word(&self) -> MutexGuard<'_, u32> {
        // OK because nothing panics under this lock.
        self.word.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Openings so far; what the opener did before is visible to whoever reads its value here.
    pub(crate) fn value(&self) -> u32 {
        *self.word()
    }

    /// Sleeps while the gate was not opened since `seen` was taken.
    pub(crate) fn wait(&self, seen: u32) {
        let mut word = self.word();
        while *word == seen {
            word = self
                .opened
                .wait(word)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens for everybody who sleeps.
    pub(crate) fn open_all(&self) {
        let mut word = self.word();
        *word = word.wrapping_add(1);
        drop(word);
        self.opened.notify_all();
    }

    /// Opens for one of those who sleep, and for everybody who has yet to look.
    pub(crate) fn open_one(&self) {
        let mut word = self.word();
        *word = word.wrapping_add(1);
        drop(word);
        self.opened.notify_one();
    }
}
