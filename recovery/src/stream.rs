//! Live shipping: what a completed session becomes, under the same id (D6).

use seawall_wal::{Epoch, Lsn, NodeIncarnation};

use crate::failure::Failure;
use crate::id::{ReplicaId, SessionId};
use crate::plan::Pin;

/// A live stream. It owns the pin of the log after what the replica acknowledged; dropping the
/// stream drops the pin, exactly once.
#[derive(Debug)]
pub struct Stream<P> {
    id: SessionId,
    replica: ReplicaId,
    epoch: Epoch,
    node: NodeIncarnation,
    shipped: Lsn,
    acknowledged: Lsn,
    pin: P,
}

/// A detached copy of what a stream knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamView {
    /// The id of the session it came from.
    pub id: SessionId,
    /// The replica.
    pub replica: ReplicaId,
    /// The epoch.
    pub epoch: Epoch,
    /// Which life of the replica's directory it ships to (D8).
    pub node: NodeIncarnation,
    /// Last LSN shipped.
    pub shipped: Lsn,
    /// Last LSN acknowledged as durable.
    pub acknowledged: Lsn,
}

impl<P: Pin> Stream<P> {
    /// The stream that follows a session which ended at `at`.
    pub(crate) fn after_session(
        (id, epoch): (SessionId, Epoch),
        replica: ReplicaId,
        node: NodeIncarnation,
        at: Lsn,
        pin: P,
    ) -> Stream<P> {
        let mut stream = Stream {
            id,
            replica,
            epoch,
            node,
            shipped: at,
            acknowledged: at,
            pin,
        };
        stream.pin.move_up(at);
        stream
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> SessionId {
        self.id
    }

    /// Its epoch.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Records went to the replica through `through`. A lower one changes nothing.
    ///
    /// # Errors
    /// [`Failure::BeyondDurable`] when our own log is synced only through `own_durable` (D3).
    pub(crate) fn ship(&mut self, through: Lsn, own_durable: Lsn) -> Result<(), Failure> {
        if through > own_durable {
            return Err(Failure::BeyondDurable {
                lsn: through,
                durable: own_durable,
            });
        }
        self.shipped = self.shipped.max(through);
        Ok(())
    }

    /// The replica acknowledged everything through `lsn` as durable; the pin moves up to it. A
    /// lower one succeeds and changes nothing.
    ///
    /// # Errors
    /// [`Failure::BeyondSent`] when it was never shipped.
    pub(crate) fn acknowledge(&mut self, lsn: Lsn) -> Result<Lsn, Failure> {
        if lsn > self.shipped {
            return Err(Failure::BeyondSent {
                lsn,
                sent: self.shipped,
            });
        }
        if lsn > self.acknowledged {
            self.acknowledged = lsn;
            self.pin.move_up(lsn);
        }
        Ok(self.acknowledged)
    }

    #[cfg(test)]
    pub(crate) fn forked(
        &self,
        count: &std::sync::Arc<crate::testing::PinCount>,
    ) -> Stream<crate::testing::TestPin> {
        Stream {
            id: self.id,
            replica: self.replica.clone(),
            epoch: self.epoch,
            node: self.node,
            shipped: self.shipped,
            acknowledged: self.acknowledged,
            pin: crate::testing::TestPin::new(count, self.acknowledged),
        }
    }

    /// A detached copy.
    #[must_use]
    pub fn view(&self) -> StreamView {
        StreamView {
            id: self.id,
            replica: self.replica.clone(),
            epoch: self.epoch,
            node: self.node,
            shipped: self.shipped,
            acknowledged: self.acknowledged,
        }
    }
}

#[cfg(test)]
mod matrix;
