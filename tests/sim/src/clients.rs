//! Clients: each writes cells of its own and reads them back. Of some blocks each has a part, so
//! that writes meet in one block that do not meet in a cell.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use seawall_recovery::Primary;
use seawall_snapshot::Durability;
use seawall_wal::disk::sim::Rng;
use seawall_wal::sync::turns;

use crate::cluster::{CELLS, Cluster};
use crate::history::{CELL, Reign, bytes_of, stamp_of};

/// Most cells of one write.
const WRITE_MAX: u64 = 48;
/// Cells of a block.
const BLOCK: u64 = 8;
/// Cells that half of the writes go to.
const HOT: u64 = 16;

/// What one client writes and nobody else.
#[derive(Clone, Debug)]
pub struct Own {
    /// Cells in a row.
    cells: Range<u64>,
    /// Its part of each shared block.
    parts: Vec<Range<u64>>,
}

impl Own {
    /// What belongs to each of so many clients, when the first `shared` blocks are everybody's.
    #[must_use]
    pub fn of(clients: u64, shared: u64) -> Vec<Own> {
        let width = (CELLS - shared * BLOCK) / clients;
        let part = BLOCK / clients;
        let own = |client| {
            let first = shared * BLOCK + client * width;
            let begins = (0..shared).map(|block| block * BLOCK + client * part);
            Own {
                cells: first..first + width,
                parts: begins.map(|begin| begin..begin + part).collect(),
            }
        };
        (0..clients).map(own).collect()
    }
}

/// One client.
#[derive(Debug)]
pub struct Client {
    cluster: Arc<Cluster>,
    rng: Rng,
    own: Own,
    /// The reign whose cells it has read as a whole.
    known: Option<Reign>,
}

impl Client {
    /// A client that owns `own`.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, seed: u64, own: Own) -> Client {
        Client {
            cluster: Arc::clone(cluster),
            rng: Rng::new(seed),
            own,
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
            let parts = self.own.parts.clone();
            let mut all = std::iter::once(self.own.cells.clone()).chain(parts);
            if all.all(|cells| self.read(&primary, reign, cells)) {
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
        let parts = &self.own.parts;
        if !parts.is_empty() && self.rng.chance(8) {
            let part = parts[self.rng.index(parts.len())].clone();
            let first = part.start + self.rng.below(part.end - part.start);
            return first..first + 1 + self.rng.below(part.end - first);
        }
        let cells = self.own.cells.clone();
        let all = cells.end - cells.start;
        let within = if self.rng.chance(8) {
            HOT.min(all)
        } else {
            all
        };
        let length = 1 + self.rng.below(WRITE_MAX.min(within));
        let first = cells.start + self.rng.below(within - length + 1);
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
