//! Locks and conditions whose waits are turns of a world, and of the standard library outside.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::Ordering;
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::Duration;

use super::{Waiters, is_here, preempt, wait_at, wake_all, wake_one};

impl Waiters {
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    fn wait(&self, timeout: Option<Duration>) -> bool {
        self.0.fetch_add(1, Ordering::SeqCst);
        let timed_out = wait_at(self.address(), timeout);
        self.0.fetch_sub(1, Ordering::SeqCst);
        timed_out
    }

    fn wake_all(&self) {
        if self.0.load(Ordering::SeqCst) > 0 {
            wake_all(self.address());
        }
    }

    /// Takes what `attempt` gives, once it does not block.
    fn take<G>(&self, mut attempt: impl FnMut() -> TryLockResult<G>) -> LockResult<G> {
        preempt();
        loop {
            match attempt() {
                Ok(guard) => return Ok(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Err(poisoned),
                Err(TryLockError::WouldBlock) => drop(self.wait(None)),
            }
        }
    }
}

fn wrap<G, W>(result: LockResult<G>, wrap: impl FnOnce(G) -> W) -> LockResult<W> {
    match result {
        Ok(guard) => Ok(wrap(guard)),
        Err(poisoned) => Err(PoisonError::new(wrap(poisoned.into_inner()))),
    }
}

/// As [`std::sync::Mutex`].
#[derive(Default)]
pub struct Mutex<T> {
    waiters: Waiters,
    inner: std::sync::Mutex<T>,
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// As [`std::sync::MutexGuard`].
pub struct MutexGuard<'a, T> {
    lock: &'a Mutex<T>,
    inner: Option<std::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// As [`std::sync::Mutex::new`].
    pub const fn new(value: T) -> Mutex<T> {
        Mutex {
            waiters: Waiters(std::sync::atomic::AtomicU64::new(0)),
            inner: std::sync::Mutex::new(value),
        }
    }

    /// As [`std::sync::Mutex::lock`].
    ///
    /// # Errors
    /// As there.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let taken = match is_here() {
            true => self.waiters.take(|| self.inner.try_lock()),
            false => self.inner.lock(),
        };
        wrap(taken, |inner| self.guard(inner))
    }

    /// As [`std::sync::Mutex::try_lock`].
    ///
    /// # Errors
    /// As there.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        match self.inner.try_lock() {
            Ok(inner) => Ok(self.guard(inner)),
            Err(TryLockError::WouldBlock) => Err(TryLockError::WouldBlock),
            Err(TryLockError::Poisoned(poisoned)) => {
                let guard = self.guard(poisoned.into_inner());
                Err(TryLockError::Poisoned(PoisonError::new(guard)))
            }
        }
    }

    /// As [`std::sync::Mutex::into_inner`].
    ///
    /// # Errors
    /// As there.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }

    fn guard<'a>(&'a self, inner: std::sync::MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let inner = Some(inner);
        MutexGuard { lock: self, inner }
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner
            .as_ref()
            .expect("a guard holds until it is dropped")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner
            .as_mut()
            .expect("a guard holds until it is dropped")
    }
}

impl<T: fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            drop(inner);
            self.lock.waiters.wake_all();
        }
    }
}

/// As [`std::sync::WaitTimeoutResult`].
#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// As [`std::sync::WaitTimeoutResult::timed_out`].
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

/// As [`std::sync::Condvar`].
#[derive(Debug, Default)]
pub struct Condvar {
    waiters: Waiters,
    inner: std::sync::Condvar,
}

type Waited<'a, T> = LockResult<(MutexGuard<'a, T>, WaitTimeoutResult)>;

impl Condvar {
    /// As [`std::sync::Condvar::new`].
    #[must_use]
    pub const fn new() -> Condvar {
        Condvar {
            waiters: Waiters(std::sync::atomic::AtomicU64::new(0)),
            inner: std::sync::Condvar::new(),
        }
    }

    fn wait_for<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Option<Duration>,
    ) -> Waited<'a, T> {
        let lock = guard.lock;
        if is_here() {
            drop(guard);
            let timed_out = self.waiters.wait(timeout);
            return wrap(lock.lock(), |guard| (guard, WaitTimeoutResult(timed_out)));
        }
        let inner = guard
            .inner
            .take()
            .expect("a guard holds until it is dropped");
        let Some(timeout) = timeout else {
            let woken = wrap(self.inner.wait(inner), |inner| lock.guard(inner));
            return wrap(woken, |guard| (guard, WaitTimeoutResult(false)));
        };
        wrap(self.inner.wait_timeout(inner, timeout), |(inner, out)| {
            (lock.guard(inner), WaitTimeoutResult(out.timed_out()))
        })
    }

    /// As [`std::sync::Condvar::wait`].
    ///
    /// # Errors
    /// As there.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        wrap(self.wait_for(guard, None), |(guard, _)| guard)
    }

    /// As [`std::sync::Condvar::wait_timeout`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout: Duration,
    ) -> Waited<'a, T> {
        self.wait_for(guard, Some(timeout))
    }

    /// As [`std::sync::Condvar::wait_while`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&mut guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// As [`std::sync::Condvar::wait_timeout_while`].
    ///
    /// # Errors
    /// As there.
    pub fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        timeout: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> Waited<'a, T> {
        let begun = now();
        loop {
            if !condition(&mut guard) {
                return Ok((guard, WaitTimeoutResult(false)));
            }
            let left = timeout.saturating_sub(now().saturating_sub(begun));
            if left.is_zero() {
                return Ok((guard, WaitTimeoutResult(true)));
            }
            guard = self.wait_timeout(guard, left)?.0;
        }
    }

    /// As [`std::sync::Condvar::notify_one`].
    pub fn notify_one(&self) {
        if self.waiters.0.load(Ordering::SeqCst) > 0 {
            wake_one(self.waiters.address());
        }
        self.inner.notify_one();
    }

    /// As [`std::sync::Condvar::notify_all`].
    pub fn notify_all(&self) {
        self.waiters.wake_all();
        self.inner.notify_all();
    }
}

/// Time, in a world or outside of one.
#[expect(
    clippy::disallowed_methods,
    reason = "outside of a world a wait is one of the operating system"
)]
fn now() -> Duration {
    static BEGUN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    match is_here() {
        true => Duration::from_nanos(super::now_ns()),
        false => BEGUN.get_or_init(std::time::Instant::now).elapsed(),
    }
}

/// As [`std::sync::RwLock`].
#[derive(Default)]
pub struct RwLock<T> {
    waiters: Waiters,
    inner: std::sync::RwLock<T>,
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// As [`std::sync::RwLockReadGuard`].
#[derive(Debug)]
pub struct RwLockReadGuard<'a, T> {
    waiters: &'a Waiters,
    inner: Option<std::sync::RwLockReadGuard<'a, T>>,
}

/// As [`std::sync::RwLockWriteGuard`].
#[derive(Debug)]
pub struct RwLockWriteGuard<'a, T> {
    waiters: &'a Waiters,
    inner: Option<std::sync::RwLockWriteGuard<'a, T>>,
}

impl<T> RwLock<T> {
    /// As [`std::sync::RwLock::new`].
    pub const fn new(value: T) -> RwLock<T> {
        RwLock {
            waiters: Waiters(std::sync::atomic::AtomicU64::new(0)),
            inner: std::sync::RwLock::new(value),
        }
    }

    /// As [`std::sync::RwLock::into_inner`].
    ///
    /// # Errors
    /// As there.
    pub fn into_inner(self) -> LockResult<T> {
        self.inner.into_inner()
    }

    /// As [`std::sync::RwLock::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        let taken = match is_here() {
            true => self.waiters.take(|| self.inner.try_read()),
            false => self.inner.read(),
        };
        let waiters = &self.waiters;
        wrap(taken, |inner| RwLockReadGuard {
            waiters,
            inner: Some(inner),
        })
    }

    /// As [`std::sync::RwLock::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        let taken = match is_here() {
            true => self.waiters.take(|| self.inner.try_write()),
            false => self.inner.write(),
        };
        let waiters = &self.waiters;
        wrap(taken, |inner| RwLockWriteGuard {
            waiters,
            inner: Some(inner),
        })
    }
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner
            .as_ref()
            .expect("a guard holds until it is dropped")
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        self.waiters.wake_all();
    }
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner
            .as_ref()
            .expect("a guard holds until it is dropped")
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner
            .as_mut()
            .expect("a guard holds until it is dropped")
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        drop(self.inner.take());
        self.waiters.wake_all();
    }
}
