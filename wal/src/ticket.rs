//! An append on its way: waited for, looked at, or awaited.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::log::Log;
use crate::{Error, Lsn, LsnRange, edge};

/// An append on its way. Dropping it does not undo the append: the records are then durable with
/// the next [`Log::sync`], or after a short idle time.
///
/// It can be waited for with [`Ticket::wait`], looked at with [`Ticket::check`], or awaited: it is
/// a future of no particular runtime.
#[derive(Debug)]
#[must_use = "an append is durable only once the ticket says so"]
pub struct Ticket {
    log: Arc<Log>,
    range: LsnRange,
}

impl Ticket {
    pub(crate) fn new(log: &Arc<Log>, range: LsnRange) -> Ticket {
        Ticket {
            log: Arc::clone(log),
            range,
        }
    }

    /// The LSNs assigned: dense, in order.
    #[must_use]
    pub fn range(&self) -> LsnRange {
        self.range
    }

    /// Waits until they are durable on this node; gives the durable LSN.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when a write or sync failed, [`Error::Io`] with ENOSPC when no segment
    /// can be prepared: the records then stay queued and a later sync may succeed.
    pub fn wait(self) -> Result<Lsn, Error> {
        self.log.sync_through(self.range.through)
    }

    /// Whether they are durable, without waiting; takes in what the disk completed meanwhile.
    /// Something else has to drive the disk: a caller that waits, or enough appends behind it.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`].
    pub fn check(&self) -> Result<Option<Lsn>, Error> {
        if let Some(durable) = self.durable() {
            return Ok(Some(durable));
        }
        self.log.look();
        match self.durable() {
            Some(durable) => Ok(Some(durable)),
            None => self.log.check_running().map(|()| None),
        }
    }

    fn durable(&self) -> Option<Lsn> {
        let durable = self.log.durable();
        (durable >= self.range.through).then_some(durable)
    }
}

impl Future for Ticket {
    type Output = Result<Lsn, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ticket = self.get_mut();
        match ticket.check() {
            Ok(Some(durable)) => Poll::Ready(Ok(durable)),
            Err(error) => Poll::Ready(Err(error)),
            Ok(None) => match ticket.log.call_back(ticket.range.through, context.waker()) {
                Ok(true) => Poll::Pending,
                Ok(false) => Poll::Ready(Ok(ticket.log.durable())),
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }
}

impl Log {
    /// Calls `waker` once `lsn` is durable or never will be; `false` when it is already.
    fn call_back(self: &Arc<Self>, lsn: Lsn, waker: &Waker) -> Result<bool, Error> {
        let mut state = self.state();
        if state.frontiers.durable >= lsn {
            return Ok(false);
        }
        state.check_running()?;
        if lsn > state.frontiers.head {
            let head = state.frontiers.head;
            return Err(Error::BeyondHead { through: lsn, head });
        }
        let waiting = state.wakers.entry(lsn).or_default();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
        let start = !state.attended && !self.disk.is_stepped();
        state.attended |= start;
        drop(state);
        self.called.notify_all();
        if start {
            edge::attend(self)
                .map_err(|source| Error::io(crate::IoOp::Open, self.dir(), None, source))?;
        }
        Ok(true)
    }

    /// Drives the disk for those who wait for a call, until nobody does. `true` when there was
    /// somebody. The edge thread calls it; where the disk is stepped, [`Log::step`] does.
    pub(crate) fn attend_once(&self) -> bool {
        let first = self.state().wakers.keys().next().copied();
        let Some(lsn) = first else { return false };
        if let Err(error) = self.sync_through(lsn) {
            // Whoever waits asks again, and gets the error itself.
            tracing::debug!(%error, lsn = lsn.get(), "an awaited append is not durable");
            let wakers = self.state().wakers.remove(&lsn);
            wakers.into_iter().flatten().for_each(Waker::wake);
        }
        true
    }

    /// Edge thread: sleeps until somebody asks to be called. `false` once the log is stopped.
    pub(crate) fn wait_for_call(&self, timeout: std::time::Duration) -> bool {
        let state = self.state();
        let idle = |state: &mut crate::state::State| state.wakers.is_empty() && !state.stopped;
        let waited = self.called.wait_timeout_while(state, timeout, idle);
        !waited.is_ok_and(|(state, _)| state.stopped)
    }
}
