//! Durable writes at a steady rate beside a recovery: what it costs those who write meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use seawall_recovery::Primary;
use seawall_snapshot::Durability;

use super::incompressible;
use super::places::Places;
use super::subject::BLOCK;
use super::turn::{Turn, Until, paced, turn};
use crate::bench::floor_read::Scatter;
use crate::error::Error;

/// Threads that write, at their own speed and at a steady rate alike.
const CALLERS: u32 = 16;
/// How long they show what they can do.
const TRIAL: Duration = Duration::from_secs(2);
/// The part of it that is asked of them afterwards.
const LOAD: f64 = 0.25;

/// Writes of single blocks, spread over the data.
#[derive(Debug)]
pub(super) struct Foreground {
    places: Places,
    per_second: f64,
}

impl Foreground {
    /// At a quarter of what `primary` takes from these threads.
    ///
    /// # Errors
    /// The first failed write.
    pub(super) fn at_quarter_load(primary: &Primary, data: u64) -> Result<Foreground, Error> {
        let mut foreground = Foreground {
            places: Places::over(data, data, BLOCK.bytes_usize())?,
            per_second: 0.0,
        };
        let writer = |index| foreground.writer(primary, index);
        let trial = turn(CALLERS, 1, Until::Elapsed(TRIAL), writer)?;
        foreground.per_second = trial.per_second() * LOAD;
        Ok(foreground)
    }

    /// Writes a second.
    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }

    /// Writes until `over`.
    ///
    /// # Errors
    /// The first failed write.
    pub(super) fn run(&self, primary: &Primary, over: &AtomicBool) -> Result<Turn, Error> {
        let interval = Duration::from_secs_f64(f64::from(CALLERS) / self.per_second.max(1.0));
        let over = || over.load(Ordering::Acquire);
        paced(CALLERS, interval, over, |index| self.writer(primary, index))
    }

    fn writer<'a>(
        &'a self,
        primary: &'a Primary,
        index: usize,
    ) -> impl FnMut() -> Result<(), Error> + use<'a> {
        let mut scatter = Scatter::new(index);
        let mut bytes = incompressible(self.places.bytes);
        let mut stamp = (index as u64) << 48;
        move || {
            stamp += 1;
            bytes[..8].copy_from_slice(&stamp.to_le_bytes());
            let offset = self.places.offset(scatter.below(self.places.count));
            primary.write(offset, &bytes, Durability::Durable)?;
            Ok(())
        }
    }
}
