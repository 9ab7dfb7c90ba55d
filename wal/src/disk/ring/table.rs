//! What is in flight: a slot for every operation, so that nothing is looked up by hashing.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use io_uring::squeue;
use rustix::io::Errno;

use super::work::{Next, Work};
use crate::disk::file::open::Open;
use crate::disk::file::used_token;
use crate::disk::{Completion, FileId, Operation, Token};

/// Operations the ring holds at once. Each has at most one entry in either queue, so neither ever
/// overflows (L-U5). What comes on top completes in `submit`, as on the portable backend.
pub(super) const IN_FLIGHT_MAX: usize = 256;

/// Tells tokens of the ring from those of the portable backend, which counts from one.
const OF_RING: u64 = 1 << 63;

#[derive(Debug)]
struct Flying {
    file: FileId,
    /// Keeps the descriptors that the kernel was told open, so that their numbers cannot come to
    /// mean another file (L-U6).
    open: Arc<Open>,
    work: Work,
}

#[derive(Debug, Default)]
enum Content {
    #[default]
    Free,
    Flying(Flying),
    Done(Completion),
}

#[derive(Debug, Default)]
struct Slot {
    /// Every use of the slot has a token of its own.
    uses: u64,
    /// Threads that sleep until the operation has landed.
    sleepers: usize,
    content: Content,
}

#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Completions that nobody took while all slots were needed.
    aside: HashMap<Token, Completion>,
    /// Somebody waits in the kernel and will look at the completion queue.
    pub(super) reaping: bool,
    /// The ring refused to work; what is in flight stays owned by it for ever.
    pub(super) broken: Option<i32>,
}

/// Whether a token was given by the ring.
pub(super) fn is_of_ring(token: Token) -> bool {
    token.0 & OF_RING != 0
}

/// The slot that a token names.
pub(super) fn slot_of(token: Token) -> usize {
    usize::try_from(token.0 % IN_FLIGHT_MAX as u64).unwrap_or(0)
}

fn token_of(slot: usize, uses: u64) -> Token {
    Token(OF_RING | (uses * IN_FLIGHT_MAX as u64 + slot as u64))
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            slots: (0..IN_FLIGHT_MAX).map(|_| Slot::default()).collect(),
            free: (0..IN_FLIGHT_MAX).rev().collect(),
            aside: HashMap::new(),
            reaping: false,
            broken: None,
        }
    }

    /// Gives an operation a slot and says what to tell the kernel; it comes back when there is no
    /// room, or no ring.
    pub(super) fn start(
        &mut self,
        file: FileId,
        open: Arc<Open>,
        operation: Operation,
    ) -> Result<(Token, squeue::Entry), Operation> {
        if self.free.is_empty() {
            self.set_aside();
        }
        let Some(&slot) = self.free.last().filter(|_| self.broken.is_none()) else {
            return Err(operation);
        };
        let mut work = Work::of(operation, &open)?;
        self.free.pop();
        let entry = work.entry(&open);
        let used = &mut self.slots[slot];
        used.uses += 1;
        used.content = Content::Flying(Flying { file, open, work });
        let token = token_of(slot, used.uses);
        Ok((token, entry.user_data(token.0)))
    }

    /// Frees the slots of completions that wait to be taken.
    fn set_aside(&mut self) {
        for (slot, used) in self.slots.iter_mut().enumerate() {
            if let Content::Done(_) = used.content
                && let Content::Done(completion) = std::mem::take(&mut used.content)
            {
                self.aside.insert(token_of(slot, used.uses), completion);
                self.free.push(slot);
            }
        }
    }

    fn current(&mut self, token: Token) -> Option<&mut Slot> {
        let slot = slot_of(token);
        let used = self.slots.get_mut(slot)?;
        (token_of(slot, used.uses) == token).then_some(used)
    }

    pub(super) fn is_flying(&self, token: Token) -> bool {
        let slot = slot_of(token);
        let used = &self.slots[slot];
        token_of(slot, used.uses) == token && matches!(used.content, Content::Flying(_))
    }

    /// Some operation in flight, on one handle or on any.
    pub(super) fn any_flying(&self, on: Option<FileId>) -> Option<Token> {
        let mut slots = self.slots.iter().enumerate();
        slots.find_map(|(slot, used)| match &used.content {
            Content::Flying(flying) if on.is_none_or(|file| flying.file == file) => {
                Some(token_of(slot, used.uses))
            }
            _ => None,
        })
    }

    /// Takes an answer of the kernel in; the entry to submit when there is more to do.
    pub(super) fn complete(&mut self, token: Token, result: i32) -> Option<squeue::Entry> {
        let used = self.current(token)?;
        let Content::Flying(flying) = &mut used.content else {
            return None;
        };
        let failed = match flying.work.advance(result) {
            Next::Again => {
                let entry = flying.work.entry(&flying.open);
                return Some(entry.user_data(token.0));
            }
            Next::Finished => None,
            Next::Failed(error) => Some(error),
        };
        if let Content::Flying(flying) = std::mem::take(&mut used.content) {
            let done = failed.map_or_else(|| flying.work.output(), Err);
            used.content = Content::Done(done);
        }
        None
    }

    pub(super) fn fail(&mut self, error: &io::Error) {
        let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        self.broken.get_or_insert(errno);
    }

    /// The completion of a token, or `None` while it is in flight.
    pub(super) fn answer(&mut self, token: Token) -> Option<Completion> {
        let broken = self.broken;
        let Some(used) = self.current(token) else {
            return Some(
                self.aside
                    .remove(&token)
                    .unwrap_or_else(|| Err(used_token())),
            );
        };
        match std::mem::take(&mut used.content) {
            Content::Done(completion) => {
                self.free.push(slot_of(token));
                Some(completion)
            }
            Content::Free => Some(
                self.aside
                    .remove(&token)
                    .unwrap_or_else(|| Err(used_token())),
            ),
            flying @ Content::Flying(_) => {
                used.content = flying;
                broken.map(|errno| Err(io::Error::from_raw_os_error(errno)))
            }
        }
    }

    pub(super) fn fall_asleep(&mut self, token: Token) {
        self.slots[slot_of(token)].sleepers += 1;
    }

    pub(super) fn wake_up(&mut self, token: Token) {
        self.slots[slot_of(token)].sleepers -= 1;
    }

    /// Slots where somebody sleeps, the landed ones or those in flight.
    pub(super) fn slept_for(&self, landed: bool) -> impl Iterator<Item = usize> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(move |(slot, used)| {
            let flying = matches!(used.content, Content::Flying(_));
            (used.sleepers > 0 && flying != landed).then_some(slot)
        })
    }
}
