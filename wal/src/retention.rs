//! All pins of all crates, and the floor they put under reclaim (D20).
//!
//! A pin is a claim on space, and space is what appends and checkpoints need. So a pin has a
//! budget, all pins together have limits that are on by default, and a pin over either is broken:
//! it holds nothing from then on, its holder is told, and each of its reads answers
//! [`Error::PinBroken`] with the limit and what was kept. The victim of a limit is the pin that
//! holds the oldest log, because that is the one whose end gives space.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Weak};

use crate::log::Log;
use crate::{Error, Lsn};

/// What a pin holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinKind {
    /// Records after an LSN.
    Wal,
    /// The view of the image at one checkpoint, and the records after it.
    Snapshot,
    /// Image and records through a target, and the records after it.
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

/// What one pin may cost; `None` is no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinBudget {
    /// Bytes of log that would be reclaimed without it, and of blocks preserved for it.
    pub bytes: Option<u64>,
    /// Monotonic nanoseconds since it was taken or last moved up.
    pub time_ns: Option<u64>,
}

/// What all pins of a volume together may cost; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinLimits {
    /// Bytes of log that would be reclaimed if there were no pins.
    pub log_bytes: Option<u64>,
    /// Bytes of old blocks preserved for pinned views of the image.
    pub preserved_bytes: Option<u64>,
}

impl PinLimits {
    /// 8 GiB of log and 4 GiB of preserved blocks.
    pub const DEFAULT: PinLimits = PinLimits {
        log_bytes: Some(8 << 30),
        preserved_bytes: Some(4 << 30),
    };
    /// Until the disk is full.
    pub const NONE: PinLimits = PinLimits {
        log_bytes: None,
        preserved_bytes: None,
    };
}

/// Why a pin was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PinBreak {
    /// It kept more bytes than its budget.
    Bytes {
        /// Bytes it kept.
        kept: u64,
        /// Its budget.
        budget: u64,
    },
    /// It neither ended nor moved within its budget.
    Time {
        /// Nanoseconds since it was taken or last moved up.
        held_ns: u64,
        /// Its budget.
        budget_ns: u64,
    },
    /// All pins together kept more log than they may, and it held the oldest.
    LogLimit {
        /// Bytes of log that pins kept.
        kept: u64,
        /// The limit.
        limit: u64,
    },
    /// All pins together needed more preserved blocks than they may, and its view was the oldest.
    PreservedLimit {
        /// Bytes that were needed.
        needed: u64,
        /// The limit.
        limit: u64,
    },
    /// The disk is full, and it held the oldest log.
    NoSpace,
    /// Old blocks that its view needs could not be preserved.
    NotPreserved,
    /// The base that it views is replaced in place.
    BaseReplaced,
    /// Its owner gave it up.
    Ended,
}

impl fmt::Display for PinBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: &u64| ns / 1_000_000_000;
        match self {
            PinBreak::Bytes { kept, budget } => {
                write!(f, "it kept {kept} bytes and its budget is {budget}")
            }
            PinBreak::Time { held_ns, budget_ns } => write!(
                f,
                "it did not move for {} s and its budget is {} s",
                seconds(held_ns),
                seconds(budget_ns)
            ),
            PinBreak::LogLimit { kept, limit } => write!(
                f,
                "pins kept {kept} bytes of log, their limit is {limit}, and it held the oldest"
            ),
            PinBreak::PreservedLimit { needed, limit } => write!(
                f,
                "pinned views needed {needed} bytes of preserved blocks, their limit is {limit}, \
                 and its view was the oldest"
            ),
            PinBreak::NoSpace => f.write_str("the disk is full and it held the oldest log"),
            PinBreak::NotPreserved => {
                f.write_str("old blocks that it needs could not be preserved")
            }
            PinBreak::BaseReplaced => f.write_str("the base that it views is replaced in place"),
            PinBreak::Ended => f.write_str("its session ended"),
        }
    }
}

/// Is told when its pin is broken, so that it gives up at once what the pin was for.
pub trait PinHolder: Send + Sync + fmt::Debug {
    /// The pin holds nothing any more. Called once, under no lock of the log.
    fn broken(&self, why: PinBreak);
}

/// A pin that is asked for.
#[derive(Clone, Copy, Debug)]
pub struct PinRequest<'a> {
    /// What it holds.
    pub kind: PinKind,
    /// The position it is about.
    pub lsn: Lsn,
    /// Every record above this LSN stays readable.
    pub after: Lsn,
    /// Who holds it, for people: a session, a stream, a tool.
    pub owner: &'a str,
    /// What it may cost.
    pub budget: PinBudget,
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
    /// Bytes of log that would be reclaimed without it, and of blocks preserved for it. What two
    /// pins share is listed with both.
    pub bytes: u64,
    /// What is left of its budget of bytes, if it has one.
    pub bytes_left: Option<u64>,
    /// What is left of its budget of time, if it has one.
    pub time_left_ns: Option<u64>,
    /// Why it holds nothing any more.
    pub broken: Option<PinBreak>,
}

#[derive(Debug)]
struct Pin {
    owner: String,
    kind: PinKind,
    lsn: Lsn,
    after: Lsn,
    budget: PinBudget,
    taken_ns: u64,
    moved_ns: u64,
    preserved: u64,
    holder: Option<Weak<dyn PinHolder>>,
    broken: Option<PinBreak>,
}

/// Last LSN and bytes of each segment that could be reclaimed if there were no pins, in log order.
#[derive(Debug, Default)]
pub(crate) struct HeldBack(pub(crate) Vec<(Lsn, u64)>);

impl HeldBack {
    /// Bytes that a pin on the log after `after` keeps.
    fn bytes_after(&self, after: Lsn) -> u64 {
        let first = self.0.partition_point(|(through, _)| *through <= after);
        self.0[first..].iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Pin {
    fn kept(&self, held: &HeldBack) -> u64 {
        match self.broken {
            None => held.bytes_after(self.after) + self.preserved,
            Some(_) => 0,
        }
    }

    /// What it is over, if anything.
    fn excess(&self, now_ns: u64, held: &HeldBack) -> Option<PinBreak> {
        let kept = self.kept(held);
        let held_ns = now_ns.saturating_sub(self.moved_ns);
        match (self.budget.bytes, self.budget.time_ns) {
            (Some(budget), _) if kept > budget => Some(PinBreak::Bytes { kept, budget }),
            (_, Some(budget_ns)) if held_ns > budget_ns => {
                Some(PinBreak::Time { held_ns, budget_ns })
            }
            _ => None,
        }
    }

    fn info(&self, id: u64, now_ns: u64, held: &HeldBack) -> PinInfo {
        let (bytes, waited) = (self.kept(held), now_ns.saturating_sub(self.moved_ns));
        let left = |budget: Option<u64>, spent| budget.map(|budget| budget.saturating_sub(spent));
        PinInfo {
            id,
            owner: self.owner.clone(),
            kind: self.kind,
            lsn: self.lsn,
            age_ns: now_ns.saturating_sub(self.taken_ns),
            bytes,
            bytes_left: left(self.budget.bytes, bytes),
            time_left_ns: left(self.budget.time_ns, waited),
            broken: self.broken,
        }
    }
}

/// Pins that were just broken, and whom to tell.
pub(crate) type Broken = Vec<(PinInfo, Option<Weak<dyn PinHolder>>)>;

/// Every pin of one volume.
#[derive(Debug)]
pub(crate) struct Registry {
    pins: BTreeMap<u64, Pin>,
    next: u64,
    pub(crate) limits: PinLimits,
}

impl Default for Registry {
    fn default() -> Registry {
        Registry {
            pins: BTreeMap::new(),
            next: 0,
            limits: PinLimits::DEFAULT,
        }
    }
}

impl Registry {
    pub(crate) fn add(&mut self, request: PinRequest<'_>, now_ns: u64) -> u64 {
        let id = self.next;
        self.next += 1;
        let pin = Pin {
            owner: request.owner.into(),
            kind: request.kind,
            lsn: request.lsn,
            after: request.after,
            budget: request.budget,
            taken_ns: now_ns,
            moved_ns: now_ns,
            preserved: 0,
            holder: None,
            broken: None,
        };
        self.pins.insert(id, pin);
        id
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    pub(crate) fn remove(&mut self, id: u64) {
        self.pins.remove(&id);
    }

    pub(crate) fn hold(&mut self, id: u64, holder: Weak<dyn PinHolder>) {
        if let Some(pin) = self.pins.get_mut(&id) {
            pin.holder = Some(holder);
        }
    }

    pub(crate) fn position(&self, id: u64) -> Option<Lsn> {
        self.pins.get(&id).map(|pin| pin.after)
    }

    pub(crate) fn broken(&self, id: u64) -> Option<PinBreak> {
        self.pins.get(&id)?.broken
    }

    pub(crate) fn advance(&mut self, id: u64, after: Lsn, now_ns: u64) {
        if let Some(pin) = self.pins.get_mut(&id)
            && after > pin.after
        {
            pin.after = after;
            pin.lsn = pin.lsn.max(after);
            pin.moved_ns = now_ns;
        }
    }

    pub(crate) fn charge(&mut self, id: u64, preserved: u64) {
        if let Some(pin) = self.pins.get_mut(&id) {
            pin.preserved = preserved;
        }
    }

    fn holding(&self) -> impl Iterator<Item = (u64, &Pin)> {
        let whole = self.pins.iter().filter(|(_, pin)| pin.broken.is_none());
        whole.map(|(id, pin)| (*id, pin))
    }

    /// The last LSN that every pin allows to be reclaimed; `None` without a pin.
    pub(crate) fn floor(&self) -> Option<Lsn> {
        self.holding().map(|(_, pin)| pin.after).min()
    }

    /// Breaks one pin, unless it is broken or gone.
    pub(crate) fn break_one(&mut self, id: u64, why: PinBreak) -> Broken {
        let whole = self.pins.get_mut(&id).filter(|pin| pin.broken.is_none());
        let Some(pin) = whole else {
            return Vec::new();
        };
        pin.broken = Some(why);
        pin.preserved = 0;
        let info = pin.info(id, pin.taken_ns, &HeldBack::default());
        vec![(info, pin.holder.take())]
    }

    /// Breaks the pin that holds the oldest log, if it holds anything back.
    pub(crate) fn break_oldest(&mut self, held: &HeldBack, why: PinBreak) -> Broken {
        let oldest = self.holding().min_by_key(|(_, pin)| pin.after);
        let oldest = oldest.filter(|(_, pin)| held.bytes_after(pin.after) > 0);
        match oldest.map(|(id, _)| id) {
            Some(id) => self.break_one(id, why),
            None => Vec::new(),
        }
    }

    /// Breaks every pin over its budget, then the one with the oldest log while all of them keep
    /// more than they may.
    pub(crate) fn enforce(&mut self, now_ns: u64, held: &HeldBack) -> Broken {
        let over = self.holding();
        let over = over.filter_map(|(id, pin)| Some((id, pin.excess(now_ns, held)?)));
        let over: Vec<_> = over.collect();
        let mut broken = Vec::new();
        for (id, why) in over {
            broken.extend(self.break_one(id, why));
        }
        let Some(limit) = self.limits.log_bytes else {
            return broken;
        };
        while let Some(floor) = self.floor() {
            let kept = held.bytes_after(floor);
            if kept <= limit {
                break;
            }
            broken.extend(self.break_oldest(held, PinBreak::LogLimit { kept, limit }));
        }
        broken
    }

    /// Every pin, oldest first.
    pub(crate) fn list(&self, now_ns: u64, held: &HeldBack) -> Vec<PinInfo> {
        let info = |(id, pin): (&u64, &Pin)| pin.info(*id, now_ns, held);
        self.pins.iter().map(info).collect()
    }
}

/// A pin that lives as long as this value: every record above an LSN stays readable, unless the pin
/// is broken.
#[derive(Debug)]
pub struct WalPin {
    log: Arc<Log>,
    id: u64,
    taken_after: Lsn,
}

impl WalPin {
    pub(crate) fn new(log: Arc<Log>, id: u64, taken_after: Lsn) -> WalPin {
        WalPin {
            log,
            id,
            taken_after,
        }
    }

    /// Number of the pin, as [`PinInfo`] lists it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Every record above this LSN that exists stays readable while the pin is whole.
    #[must_use]
    pub fn after(&self) -> Lsn {
        self.log.pin_position(self.id).unwrap_or(self.taken_after)
    }

    /// Moves the pin up, never down: what a stream does with acknowledgements (D6). Space that it
    /// frees is reclaimed by the background, without waiting for a write.
    pub fn advance(&self, after: Lsn) {
        self.log.advance_pin(self.id, after);
    }

    /// Whether it still holds what it was taken for.
    ///
    /// # Errors
    /// [`Error::PinBroken`].
    pub fn check(&self) -> Result<(), Error> {
        match self.log.pin_broken(self.id) {
            None => Ok(()),
            Some(why) => Err(Error::PinBroken {
                after: self.after(),
                why,
            }),
        }
    }

    /// The result of a read under this pin; what went wrong because the pin was broken meanwhile
    /// says so.
    ///
    /// # Errors
    /// [`Error::PinBroken`], or the error of the read.
    pub fn explain<T, E: From<Error>>(&self, read: Result<T, E>) -> Result<T, E> {
        match read {
            Ok(value) => Ok(value),
            Err(error) => Err(self.check().err().map_or(error, E::from)),
        }
    }

    /// Names who is to be told when it is broken.
    pub fn set_holder(&self, holder: Weak<dyn PinHolder>) {
        self.log.hold_pin(self.id, holder);
    }

    /// Says how many bytes of blocks are preserved for it.
    pub fn charge(&self, preserved: u64) {
        self.log.charge_pin(self.id, preserved);
    }

    /// Breaks it: it holds nothing from now on.
    pub fn break_now(&self, why: PinBreak) {
        self.log.break_pin(self.id, why);
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
mod tests;
