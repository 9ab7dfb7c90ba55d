//! Placeholder.
use std::sync::{Condvar, Mutex};
#[derive(Debug, Default)]
pub(crate) struct Gate {
    word: Mutex<u32>,
    cond: Condvar,
}
impl Gate {
    pub(crate) fn value(&self) -> u32 {
        *self.word.lock().expect("x")
    }
    pub(crate) fn wait(&self, seen: u32) {
        let mut w = self.word.lock().expect("x");
        while *w == seen {
            w = self.cond.wait(w).expect("x");
        }
    }
    pub(crate) fn open_all(&self) {
        *self.word.lock().expect("x") += 1;
        self.cond.notify_all();
    }
    pub(crate) fn open_one(&self) {
        *self.word.lock().expect("x") += 1;
        self.cond.notify_one();
    }
}
pub(crate) fn yield_now() {
    std::thread::yield_now()
}
