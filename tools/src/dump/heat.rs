//! Where in the volume the records went: cells of blocks, few enough to be looked at.

use std::collections::BTreeMap;

use seawall_wal::{RecordHeader, RecordKind};

/// Cells that are kept apart at most; beyond that they are merged in pairs.
const CELLS_MAX: u64 = 4096;

/// What happened in one cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cell {
    /// Records that touched it.
    pub(super) records: u64,
    /// Blocks written, each as often as it was.
    pub(super) written: u64,
    /// Blocks zeroed or trimmed.
    pub(super) cleared: u64,
}

impl Cell {
    fn add(&mut self, other: Cell) {
        self.records += other.records;
        self.written += other.written;
        self.cleared += other.cleared;
    }
}

/// The cells that records touched, each of `1 << shift` blocks.
#[derive(Debug, Default)]
pub(super) struct Heat {
    shift: u32,
    cells: BTreeMap<u64, Cell>,
}

impl Heat {
    /// Adds a record.
    pub(super) fn add(&mut self, header: &RecordHeader) {
        let (first, last) = (header.lba.0, header.lba.0 + u64::from(header.blocks) - 1);
        while last >> self.shift >= CELLS_MAX {
            self.double();
        }
        for cell in first >> self.shift..=last >> self.shift {
            let from = first.max(cell << self.shift);
            let to = last.min((cell << self.shift) + ((1 << self.shift) - 1));
            let blocks = to - from + 1;
            let written = header.kind == RecordKind::Write;
            self.cells.entry(cell).or_default().add(Cell {
                records: 1,
                written: if written { blocks } else { 0 },
                cleared: if written { 0 } else { blocks },
            });
        }
    }

    fn double(&mut self) {
        self.shift += 1;
        for (cell, heat) in std::mem::take(&mut self.cells) {
            self.cells.entry(cell >> 1).or_default().add(heat);
        }
    }

    /// Merges cells until `blocks` blocks need at most `cells` of them.
    pub(super) fn coarsen(&mut self, blocks: u64, cells: u64) {
        while self.shift < 63 && blocks.div_ceil(1 << self.shift) > cells {
            self.double();
        }
    }

    /// Blocks in a cell.
    pub(super) fn cell_blocks(&self) -> u64 {
        1 << self.shift
    }

    /// The cells that were touched: first block and what happened.
    pub(super) fn cells(&self) -> impl Iterator<Item = (u64, Cell)> {
        let cells = self.cells.iter();
        cells.map(|(cell, heat)| (cell << self.shift, *heat))
    }

    /// The cells that most records touched, the hottest first.
    pub(super) fn hottest(&self, count: usize) -> Vec<(u64, Cell)> {
        let mut cells: Vec<_> = self.cells().collect();
        cells.sort_by_key(|(first, cell)| (std::cmp::Reverse(cell.records), *first));
        cells.truncate(count);
        cells
    }
}

/// Blocks that were touched at least once.
#[derive(Debug, Default)]
pub(super) struct Touched {
    /// First block and the one behind the last, of ranges that neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
    blocks: u64,
}

impl Touched {
    /// Adds `blocks` blocks from `first` on.
    pub(super) fn add(&mut self, first: u64, blocks: u32) {
        let (mut from, mut to) = (first, first + u64::from(blocks));
        while let Some((&at, &end)) = self.ranges.range(..=to).next_back()
            && end >= from
        {
            self.ranges.remove(&at);
            self.blocks -= end - at;
            (from, to) = (from.min(at), to.max(end));
        }
        self.ranges.insert(from, to);
        self.blocks += to - from;
    }

    /// How many.
    pub(super) fn blocks(&self) -> u64 {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use seawall_wal::{BlockSize, Epoch, Incarnation, Lba, Lsn, VolumeId};

    use super::*;

    fn record(kind: RecordKind, lba: u64, blocks: u32) -> RecordHeader {
        RecordHeader {
            kind,
            no_hole: false,
            block_size: BlockSize::from_bytes(4096).unwrap(),
            volume: VolumeId([1; 16]),
            epoch: Epoch::new(1),
            incarnation: Incarnation::new(1),
            lsn: Lsn::new(1),
            lba: Lba(lba),
            blocks,
            sum: 0,
        }
    }

    proptest! {
        #[test]
        fn touched_blocks_are_counted_once(
            writes in proptest::collection::vec((0_u64..300, 1_u32..40), 0..60)
        ) {
            let mut touched = Touched::default();
            let mut naive = std::collections::BTreeSet::new();
            for (first, blocks) in writes {
                touched.add(first, blocks);
                naive.extend(first..first + u64::from(blocks));
                prop_assert_eq!(touched.blocks(), naive.len() as u64);
            }
        }
    }

    #[test]
    fn a_volume_of_any_size_fits_into_the_cells_and_no_block_is_lost() {
        let mut heat = Heat::default();
        for lba in [0, 5, 4095, 4096, 1 << 20, 1 << 50] {
            heat.add(&record(RecordKind::Write, lba, 3));
            heat.add(&record(RecordKind::Trim, lba, 2));
        }
        assert!(heat.cells().count() as u64 <= CELLS_MAX);
        assert_eq!(heat.cells().map(|(_, cell)| cell.written).sum::<u64>(), 18);
        assert_eq!(heat.cells().map(|(_, cell)| cell.cleared).sum::<u64>(), 12);
    }

    #[test]
    fn the_hottest_cell_is_the_one_with_most_records() {
        let mut heat = Heat::default();
        heat.add(&record(RecordKind::Write, 100, 50));
        (0..3).for_each(|_| heat.add(&record(RecordKind::Write, 7, 1)));
        assert_eq!(heat.hottest(1)[0].0, 7);
    }
}
