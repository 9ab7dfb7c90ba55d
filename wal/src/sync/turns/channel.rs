//! A bounded channel over the locks beside it: what [`std::sync::mpsc`] offers and we use.

use std::collections::VecDeque;
pub use std::sync::mpsc::{RecvTimeoutError, SendError};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::locks::{Condvar, Mutex, MutexGuard};

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    room: usize,
    senders: usize,
    receiver: bool,
}

#[derive(Debug)]
struct Channel<T> {
    queue: Mutex<Queue<T>>,
    changed: Condvar,
}

impl<T> Channel<T> {
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        // OK because every change of it is one step.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, queue: MutexGuard<'a, Queue<T>>) -> MutexGuard<'a, Queue<T>> {
        let woken = self.changed.wait(queue);
        woken.unwrap_or_else(PoisonError::into_inner)
    }
}

/// As [`std::sync::mpsc::SyncSender`].
#[derive(Debug)]
pub struct SyncSender<T>(Arc<Channel<T>>);

/// As [`std::sync::mpsc::Receiver`].
#[derive(Debug)]
pub struct Receiver<T>(Arc<Channel<T>>);

/// As [`std::sync::mpsc::sync_channel`], with room for one at least.
#[must_use]
pub fn sync_channel<T>(room: usize) -> (SyncSender<T>, Receiver<T>) {
    let queue = Queue {
        items: VecDeque::new(),
        room: room.max(1),
        senders: 1,
        receiver: true,
    };
    let channel = Arc::new(Channel {
        queue: Mutex::new(queue),
        changed: Condvar::new(),
    });
    (SyncSender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> SyncSender<T> {
    /// As [`std::sync::mpsc::SyncSender::send`].
    ///
    /// # Errors
    /// As there.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut queue = self.0.queue();
        while queue.receiver && queue.items.len() >= queue.room {
            queue = self.0.wait(queue);
        }
        if !queue.receiver {
            return Err(SendError(item));
        }
        queue.items.push_back(item);
        drop(queue);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Clone for SyncSender<T> {
    fn clone(&self) -> SyncSender<T> {
        self.0.queue().senders += 1;
        SyncSender(Arc::clone(&self.0))
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        self.0.queue().senders -= 1;
        self.0.changed.notify_all();
    }
}

impl<T> Receiver<T> {
    /// As [`std::sync::mpsc::Receiver::recv_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
        let idle = |queue: &mut Queue<T>| queue.items.is_empty() && queue.senders > 0;
        let waited = self
            .0
            .changed
            .wait_timeout_while(self.0.queue(), timeout, idle);
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let item = queue.items.pop_front();
        let gone = queue.senders == 0;
        drop(queue);
        self.0.changed.notify_all();
        item.ok_or(match gone {
            true => RecvTimeoutError::Disconnected,
            false => RecvTimeoutError::Timeout,
        })
    }

    /// As [`std::sync::mpsc::Receiver::try_iter`].
    pub fn try_iter(&self) -> impl Iterator<Item = T> {
        let items = std::mem::take(&mut self.0.queue().items);
        self.0.changed.notify_all();
        items.into_iter()
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.receiver = false;
        let items = std::mem::take(&mut queue.items);
        drop(queue);
        drop(items);
        self.0.changed.notify_all();
    }
}
