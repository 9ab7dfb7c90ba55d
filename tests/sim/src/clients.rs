//! Clients: each writes cells of its own and reads them back.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use seawall_recovery::Primary;
use seawall_snapshot::Durability;
use seawall_wal::disk::sim::Rng;
use seawall_wal::sync::turns;

use crate::cluster::Cluster;
use crate::history::{CELL, Reign, bytes_of, stamp_of};

/// Most cells of one write.
const CELLS_MAX: u64 = 48;
/// Cells of a block.
const BLOCK: u64 = 8;
/// Cells that half of the writes go to.
const HOT: u64 = 16;

/// One client.
#[derive(Debug)]
pub struct Client {
    cluster: Arc<Cluster>,
    rng: Rng,
    cells: Range<u64>,
    /// The reign whose cells it has read as a whole.
    known: Option<Reign>,
}

impl Client {
    /// A client that owns `cells`.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, seed: u64, cells: Range<u64>) -> Client {
        Client {
            cluster: Arc::clone(cluster),
            rng: Rng::new(seed),
            cells,
            known: None,
        }
    }

    /// Does so many operations, each on whoever is primary then.
    pub fn run(&mut self, operations: u64) {
        for _ in 0..operations {
            let think = self.rng.pick(&[0, 0, 1, 10, 100, 400]);
            turns::sleep(Duration::from_millis(self.rng.below(think + 1)));
            self.operate();
        }
    }

    fn operate(&mut self) {
        let Some((primary, reign)) = self.cluster.primary() else {
            turns::sleep(Duration::from_millis(50));
            return;
        };
        if self.known != Some(reign) {
            let whole = self.cells.clone();
            if self.read(&primary, reign, whole) {
                self.known = primary.confirmed().then_some(reign);
            }
        }
        match self.rng.below(16) {
            0..=5 => self.write(&primary, reign, Durability::Volatile),
            6..=8 => self.write(&primary, reign, Durability::Durable),
            9 => self.zero(&primary, reign),
            10..=11 => self.flush(&primary, reign),
            _ => {
                let range = self.range();
                self.read(&primary, reign, range);
            }
        }
    }

    fn range(&mut self) -> Range<u64> {
        let all = self.cells.end - self.cells.start;
        let within = if self.rng.chance(8) {
            HOT.min(all)
        } else {
            all
        };
        let length = 1 + self.rng.below(CELLS_MAX.min(within));
        let first = self.cells.start + self.rng.below(within - length + 1);
        first..first + length
    }

    fn write(&mut self, primary: &Primary, reign: Reign, durability: Durability) {
        let cells = self.range();
        let begun = self.cluster.history().begin(reign, cells.clone(), false);
        let Some(begun) = begun else { return };
        let bytes = bytes_of(begun.stamp, cells.end - cells.start);
        let written = primary.write(cells.start * CELL, &bytes, durability);
        if written.is_ok() {
            let mut history = self.cluster.history();
            match durability {
                Durability::Volatile => history.acknowledge(&begun),
                Durability::Durable => history.commit(&begun),
            }
        }
    }

    fn zero(&mut self, primary: &Primary, reign: Reign) {
        let way = self.rng.below(3);
        let mut cells = self.range();
        if way == 0 {
            // A trim gives up whole blocks and leaves the rest as it is.
            let whole = cells.start.next_multiple_of(BLOCK)..cells.end / BLOCK * BLOCK;
            if whole.is_empty() {
                return;
            }
            cells = whole;
        }
        let begun = self.cluster.history().begin(reign, cells.clone(), true);
        let Some(begun) = begun else { return };
        let (offset, length) = (cells.start * CELL, (cells.end - cells.start) * CELL);
        let written = match way {
            0 => primary.trim(offset, length, Durability::Durable),
            way => primary.write_zeroes(offset, length, way == 1, Durability::Durable),
        };
        if written.is_ok() {
            self.cluster.history().commit(&begun);
        }
    }

    fn flush(&mut self, primary: &Primary, reign: Reign) {
        let before = self.cluster.history().flush_begins();
        if before.0 == reign && primary.flush().is_ok() {
            self.cluster.history().flushed(before);
        }
    }

    /// Whether the read succeeded.
    fn read(&mut self, primary: &Primary, reign: Reign, cells: Range<u64>) -> bool {
        let length = usize::try_from((cells.end - cells.start) * CELL).expect("a small volume");
        let mut bytes = vec![0; length];
        let settled = primary.confirmed();
        if primary.read(cells.start * CELL, &mut bytes).is_err() {
            return false;
        }
        let mut history = self.cluster.history();
        let width = usize::try_from(CELL).expect("a small number");
        for (cell, bytes) in cells.zip(bytes.chunks(width)) {
            match stamp_of(bytes) {
                Some(stamp) => history.read(cell, stamp, reign, settled),
                None => history.violate(format!("cell {cell}: read torn in reign {reign}")),
            }
        }
        true
    }
}
