//! All pins of all crates, and the floor they put under reclaim (D20).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::log::Log;
use crate::{Error, Lsn};

/// What a pin holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinKind {
    /// Records after an LSN.
    Wal,
    /// The view of the image at one checkpoint.
    Snapshot,
    /// Image and records through a target.
    Base,
}

impl PinKind {
    /// Name as status prints it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PinKind::Wal => "wal",
            PinKind::Snapshot => "snapshot",
            PinKind::Base => "base",
        }
    }
}

/// One pin as status lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinInfo {
    /// Number of the pin, unique in this process.
    pub id: u64,
    /// Who holds it, for people: a session, a stream, a tool.
    pub owner: String,
    /// What it holds.
    pub kind: PinKind,
    /// The position it is about.
    pub lsn: Lsn,
    /// Monotonic nanoseconds since it was taken.
    pub age_ns: u64,
    /// Bytes of log or preserved blocks it keeps.
    pub bytes: u64,
}

#[derive(Debug)]
struct Pin {
    owner: String,
    kind: PinKind,
    lsn: Lsn,
    taken_ns: u64,
}

/// Every pin of one volume.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    pins: BTreeMap<u64, Pin>,
    next: u64,
}

impl Registry {
    pub(crate) fn add(&mut self, kind: PinKind, lsn: Lsn, owner: &str, now_ns: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        let pin = Pin {
            owner: owner.into(),
            kind,
            lsn,
            taken_ns: now_ns,
        };
        self.pins.insert(id, pin);
        id
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.pins.remove(&id);
    }

    pub(crate) fn position(&self, id: u64) -> Option<Lsn> {
        self.pins.get(&id).map(|pin| pin.lsn)
    }

    pub(crate) fn advance(&mut self, id: u64, after: Lsn) {
        if let Some(pin) = self.pins.get_mut(&id) {
            pin.lsn = pin.lsn.max(after);
        }
    }

    /// The last LSN that every pin on the log allows to be reclaimed; `None` without such a pin.
    pub(crate) fn floor(&self) -> Option<Lsn> {
        self.pins
            .values()
            .filter(|pin| pin.kind == PinKind::Wal)
            .map(|pin| pin.lsn)
            .min()
    }

    /// Every pin, oldest first; `bytes_after` says how much log lies behind an LSN.
    pub(crate) fn list(&self, now_ns: u64, bytes_after: impl Fn(Lsn) -> u64) -> Vec<PinInfo> {
        let info = |(id, pin): (&u64, &Pin)| PinInfo {
            id: *id,
            owner: pin.owner.clone(),
            kind: pin.kind,
            lsn: pin.lsn,
            age_ns: now_ns.saturating_sub(pin.taken_ns),
            bytes: if pin.kind == PinKind::Wal {
                bytes_after(pin.lsn)
            } else {
                0
            },
        };
        self.pins.iter().map(info).collect()
    }
}

/// A pin that lives as long as this value. One of kind `wal` keeps records after an LSN readable.
#[derive(Debug)]
pub struct WalPin {
    log: Arc<Log>,
    id: u64,
}

impl WalPin {
    pub(crate) fn new(log: Arc<Log>, id: u64) -> WalPin {
        WalPin { log, id }
    }

    /// Every record above this LSN that exists stays readable.
    #[must_use]
    pub fn after(&self) -> Lsn {
        self.log.pin_position(self.id)
    }

    /// Moves the pin up, never down: what a stream does with acknowledgements (D6). Space that it
    /// frees is reclaimed by the background, without waiting for a write.
    pub fn advance(&self, after: Lsn) {
        self.log.advance_pin(self.id, after);
    }
}

impl Drop for WalPin {
    fn drop(&mut self) {
        self.log.release_pin(self.id);
    }
}

/// How far reclaim may move when asked for `wanted`: never above the checkpoint, which would be our
/// caller's mistake and is refused before, and never past a pin.
pub(crate) fn reclaim_floor(wanted: Lsn, pins: Option<Lsn>) -> Lsn {
    pins.map_or(wanted, |pinned| wanted.min(pinned))
}

/// Refuses a pin below what is still there, in the caller's critical section (L-N2).
pub(crate) fn check_pin(after: Lsn, first_retained: Lsn) -> Result<(), Error> {
    match after.next() >= first_retained {
        true => Ok(()),
        false => Err(Error::Reclaimed {
            after,
            tail: first_retained.before(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_lowest_pin_and_goes_with_the_last_one() {
        // A192.
        let mut pins = Registry::default();
        assert_eq!(pins.floor(), None);
        let low = pins.add(PinKind::Wal, Lsn::new(10), "a", 0);
        let high = pins.add(PinKind::Wal, Lsn::new(11), "b", 0);
        pins.add(PinKind::Snapshot, Lsn::new(1), "c", 0);
        assert_eq!(pins.floor(), Some(Lsn::new(10)));
        pins.remove(low);
        assert_eq!(pins.floor(), Some(Lsn::new(11)));
        pins.remove(high);
        assert_eq!(pins.floor(), None);
    }

    #[test]
    fn reclaim_moves_as_far_as_the_floor_allows() {
        assert_eq!(reclaim_floor(Lsn::new(9), Some(Lsn::new(4))), Lsn::new(4));
        assert_eq!(reclaim_floor(Lsn::new(9), None), Lsn::new(9));
    }

    #[test]
    fn a_pin_below_the_tail_is_refused() {
        // A193.
        assert!(check_pin(Lsn::new(5), Lsn::new(6)).is_ok());
        assert!(matches!(
            check_pin(Lsn::new(4), Lsn::new(6)),
            Err(Error::Reclaimed { tail, .. }) if tail == Lsn::new(5)
        ));
    }
}
