//! The storage that recovery plans with: one open volume, read under the lock of the core.

use std::fmt;
use std::sync::Arc;

use seawall_snapshot::{Error as VolumeError, View, Volume};
use seawall_wal::{Error as LogError, Lsn, WalPin};

use crate::history::{Checkpoint, DamageKind, Damaged, History, Standing, Trust};
use crate::plan::{Pin, PinPart, PinRefusal, PinRefused, Storage};

/// A claim on the volume: records after an LSN, and a base view while one is being sent.
pub(crate) struct VolumePin {
    log: WalPin,
    base: Option<Arc<dyn View>>,
}

impl VolumePin {
    /// The pinned base, until the pin moves up.
    pub(crate) fn base(&self) -> Option<Arc<dyn View>> {
        self.base.clone()
    }
}

impl fmt::Debug for VolumePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumePin after {}", self.log.after())
    }
}

impl Pin for VolumePin {
    fn move_up(&mut self, after: Lsn) {
        self.base = None;
        self.log.advance(after);
    }
}

/// What planning sees of an open volume.
pub(crate) struct VolumeStorage<'a> {
    pub(crate) volume: &'a Arc<Volume>,
    /// Who takes the pins, for status.
    pub(crate) owner: &'a str,
}

impl VolumeStorage<'_> {
    fn refused(&self, part: PinPart, at: Lsn, error: &VolumeError) -> PinRefused {
        let log = self.volume.log();
        let why = match error {
            VolumeError::Log(LogError::Reclaimed { .. }) => PinRefusal::Reclaimed {
                first_retained: log.first_retained(),
            },
            VolumeError::Log(LogError::BeyondHead { .. }) => PinRefusal::NotDurable {
                durable: log.frontiers().durable,
            },
            VolumeError::Log(LogError::Corrupt(corrupt)) => PinRefusal::Damaged {
                lsn: corrupt.lsn.unwrap_or(at),
            },
            VolumeError::Log(LogError::Hole { lsn }) => PinRefusal::Damaged { lsn: *lsn },
            VolumeError::Log(LogError::PinBroken { .. }) => PinRefusal::Policy,
            VolumeError::IntentOpen { target } => PinRefusal::Intent { target: *target },
            VolumeError::BaseIncomplete { .. } | VolumeError::StateReclaimed { .. } => {
                PinRefusal::NoBase
            }
            _ => PinRefusal::Resources,
        };
        PinRefused { part, at, why }
    }

    fn wal_pin(&self, part: PinPart, after: Lsn) -> Result<WalPin, PinRefused> {
        let pinned = self.volume.log().pin(after, self.owner);
        pinned.map_err(|error| self.refused(part, after, &error.into()))
    }
}

/// What a volume holds, read from the open log without a byte from the disk (D15). It counts as
/// unconfirmed: how far the ack rule has come is known to the [`Ledger`](crate::ack::Ledger) only.
#[must_use]
pub fn history_of(volume: &Volume) -> History {
    let log = volume.log();
    let frontiers = log.frontiers();
    let base = volume.base_state();
    let damage = log.known_damage();
    let damage = damage.into_iter().map(|(range, hole)| Damaged {
        range,
        kind: match hole {
            true => DamageKind::Hole,
            false => DamageKind::Corrupt,
        },
    });
    History {
        volume: volume.meta().get().volume,
        head: frontiers.head,
        durable: frontiers.durable,
        committed: frontiers.committed,
        // What the ledger knows replaces it.
        standing: Standing::Unconfirmed,
        tail: frontiers.tail,
        first_retained: log.first_retained(),
        checkpoint: Some(Checkpoint {
            lsn: base.checkpoint,
            trust: match base.untrusted {
                None => Trust::Trusted,
                Some(_) => Trust::Untrusted,
            },
        }),
        lineage: log.lineage().through(frontiers.head),
        damage: damage.collect(),
        control_readable: true,
    }
}

impl Storage for VolumeStorage<'_> {
    type Pin = VolumePin;

    fn history(&mut self) -> History {
        history_of(self.volume)
    }

    fn pin_log(&mut self, after: Lsn) -> Result<VolumePin, PinRefused> {
        let log = self.wal_pin(PinPart::Log, after)?;
        Ok(VolumePin { log, base: None })
    }

    fn pin_snapshot_tail(&mut self, base: Lsn) -> Result<VolumePin, PinRefused> {
        let part = PinPart::Snapshot;
        let pinned = self.volume.pin_snapshot(self.owner);
        let view = pinned.map_err(|error| self.refused(part, base, &error))?;
        if view.lsn() != base {
            let why = PinRefusal::NoBase;
            return Err(PinRefused {
                part,
                at: base,
                why,
            });
        }
        // OK as a second step: the view itself keeps the log after its checkpoint.
        let log = self.wal_pin(PinPart::Log, base)?;
        Ok(VolumePin {
            log,
            base: Some(Arc::new(view)),
        })
    }

    fn pin_full_base(&mut self, target: Lsn) -> Result<VolumePin, PinRefused> {
        let part = PinPart::FullBase;
        let pinned = self.volume.pin_base(target, self.owner);
        let view = pinned.map_err(|error| self.refused(part, target, &error))?;
        // OK as a second step: the view itself keeps the log after its checkpoint.
        let log = self.wal_pin(part, target)?;
        Ok(VolumePin {
            log,
            base: Some(Arc::new(view)),
        })
    }
}
