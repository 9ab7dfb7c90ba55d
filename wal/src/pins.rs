//! Pins of a log: taking, moving, breaking and releasing them. What they mean is in `retention`.

use std::sync::{Arc, Weak};

use crate::log::Log;
use crate::retention::{
    Broken, HeldBack, PinBreak, PinBudget, PinHolder, PinInfo, PinKind, PinLimits, PinRequest,
    WalPin, check_pin,
};
use crate::state::State;
use crate::{Error, Lsn};

impl Log {
    /// Keeps every record above `after` readable, checked against the retention floor in the same
    /// critical section (L-N2).
    ///
    /// # Errors
    /// [`Error::Reclaimed`].
    pub fn pin(self: &Arc<Self>, after: Lsn, owner: &str) -> Result<WalPin, Error> {
        self.pin_as(PinRequest {
            kind: PinKind::Wal,
            lsn: after,
            after,
            owner,
            budget: PinBudget::default(),
        })
    }

    /// As [`Log::pin`], for a pin of any kind and with a budget: one entry in the registry, and one
    /// claim that holds as a whole or not at all.
    ///
    /// # Errors
    /// [`Error::Reclaimed`].
    pub fn pin_as(self: &Arc<Self>, request: PinRequest<'_>) -> Result<WalPin, Error> {
        let now = self.clock.monotonic_ns();
        let mut state = self.state();
        check_pin(request.after, state.first_retained())?;
        let id = state.pins.add(request, now);
        drop(state);
        Ok(WalPin::new(Arc::clone(self), id, request.after))
    }

    pub(crate) fn pin_position(&self, id: u64) -> Option<Lsn> {
        self.state().pins.position(id)
    }

    pub(crate) fn pin_broken(&self, id: u64) -> Option<PinBreak> {
        self.state().pins.broken(id)
    }

    pub(crate) fn hold_pin(&self, id: u64, holder: Weak<dyn PinHolder>) {
        self.state().pins.hold(id, holder);
    }

    pub(crate) fn advance_pin(&self, id: u64, after: Lsn) {
        let now = self.clock.monotonic_ns();
        let mut state = self.state();
        state.pins.advance(id, after, now);
        self.signal_work(&state);
    }

    pub(crate) fn release_pin(&self, id: u64) {
        let mut state = self.state();
        state.pins.remove(id);
        self.signal_work(&state);
    }

    pub(crate) fn charge_pin(&self, id: u64, preserved: u64) {
        self.state().pins.charge(id, preserved);
        self.enforce_pins();
    }

    pub(crate) fn break_pin(&self, id: u64, why: PinBreak) {
        let mut state = self.state();
        let told = state.pins.break_one(id, why);
        self.signal_work(&state);
        drop(state);
        tell(told);
    }

    /// What all pins together may keep; [`PinLimits::DEFAULT`] until this is called.
    pub fn set_pin_limits(&self, limits: PinLimits) {
        self.state().pins.limits = limits;
        self.enforce_pins();
    }

    /// What all pins together may keep.
    #[must_use]
    pub fn pin_limits(&self) -> PinLimits {
        self.state().pins.limits
    }

    /// Breaks every pin that is over its budget, then, while pins keep more log than they may, the
    /// one that holds the oldest. What they held is reclaimed by the background (P09), which also
    /// calls this with each of its steps. Gives how many were broken.
    pub fn enforce_pins(&self) -> usize {
        let now = self.clock.monotonic_ns();
        let mut state = self.state();
        if state.pins.is_empty() {
            return 0;
        }
        let held = held_back(&state);
        let told = state.pins.enforce(now, &held);
        if !told.is_empty() {
            self.signal_work(&state);
        }
        drop(state);
        tell(told)
    }

    /// The disk is full: breaks the pin that holds the oldest log, if one holds back anything that
    /// would give a segment to write in, and reclaims what it held.
    pub(crate) fn make_space(&self) -> Result<bool, Error> {
        let mut state = self.state();
        let held = held_back(&state);
        let told = state.pins.break_oldest(&held, PinBreak::NoSpace);
        let wanted = state.reclaim_wanted;
        drop(state);
        if tell(told) == 0 {
            return Ok(false);
        }
        self.reclaim(wanted).map(|_| true)
    }

    /// Every pin, oldest first.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        let now = self.clock.monotonic_ns();
        let state = self.state();
        state.pins.list(now, &held_back(&state))
    }
}

/// What could be reclaimed if there were no pins.
fn held_back(state: &State) -> HeldBack {
    let sealed = state.segments.len().saturating_sub(1);
    let wanted = state.reclaim_wanted;
    let segments = state.segments[..sealed].iter();
    let held = segments.take_while(|segment| segment.through <= wanted);
    HeldBack(held.map(|segment| (segment.through, segment.end)).collect())
}

/// Tells holders, under no lock of ours, that their pin is broken.
fn tell(broken: Broken) -> usize {
    for (pin, holder) in &broken {
        let why = pin.broken.expect("it was just broken");
        let (owner, kind, lsn) = (&pin.owner, pin.kind.name(), pin.lsn);
        tracing::warn!(%owner, kind, %lsn, %why, "a pin is broken");
        if let Some(holder) = holder.as_ref().and_then(Weak::upgrade) {
            holder.broken(why);
        }
    }
    broken.len()
}
