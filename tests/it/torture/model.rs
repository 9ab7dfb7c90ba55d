//! The naive model: the whole state after every LSN, in memory.

use std::collections::BTreeMap;

use seawall::wal::Lsn;

use crate::harness::Random;

/// One operation of a client or an operator.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Write {
        offset: usize,
        bytes: Vec<u8>,
        durable: bool,
    },
    Zero {
        offset: usize,
        length: usize,
        no_hole: bool,
    },
    Trim {
        offset: usize,
        length: usize,
    },
    Flush,
    Checkpoint,
    /// One step of background work.
    Step,
    /// Reclaims through committed minus so many records.
    AdvanceTail {
        behind: u64,
    },
}

/// Shape of the volume under test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) block: usize,
    pub(super) blocks: usize,
}

impl Shape {
    pub(super) fn bytes(self) -> usize {
        self.block * self.blocks
    }

    /// A range of bytes, of any alignment, mostly short.
    fn range(self, random: &mut Random) -> (usize, usize) {
        let below = |random: &mut Random, bound: usize| {
            usize::try_from(random.below(bound as u64)).unwrap()
        };
        let offset = below(random, self.bytes());
        let length = 1 + below(random, self.block * 4);
        let whole_blocks = below(random, 2) == 0;
        let (offset, length) = match whole_blocks {
            true => (
                offset - offset % self.block,
                length.next_multiple_of(self.block),
            ),
            false => (offset, length),
        };
        (offset, length.min(self.bytes() - offset))
    }

    pub(super) fn op(self, random: &mut Random) -> Op {
        let (offset, length) = self.range(random);
        match random.below(22) {
            0..=8 => {
                let bytes = random.bytes(length);
                Op::Write {
                    offset,
                    bytes,
                    durable: random.below(3) == 0,
                }
            }
            9..=10 => Op::Zero {
                offset,
                length,
                no_hole: random.below(2) == 0,
            },
            11..=13 => Op::Trim { offset, length },
            14..=16 => Op::Flush,
            17..=18 => Op::Checkpoint,
            19 => Op::Step,
            _ => Op::AdvanceTail {
                behind: random.below(4),
            },
        }
    }
}

/// What the volume must hold, and what it may hold, after a crash at any moment.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) shape: Shape,
    states: BTreeMap<Lsn, Vec<u8>>,
    /// Last LSN that was acknowledged as durable.
    pub(super) durable: Lsn,
    /// Whether creation was reported done: from then on it must open.
    pub(super) created: bool,
}

impl Model {
    pub(super) fn new(shape: Shape) -> Model {
        let states = BTreeMap::from([(Lsn::ZERO, vec![0; shape.bytes()])]);
        Model {
            shape,
            states,
            durable: Lsn::ZERO,
            created: false,
        }
    }

    pub(super) fn head(&self) -> Lsn {
        *self.states.keys().next_back().unwrap()
    }

    pub(super) fn state(&self, lsn: Lsn) -> &[u8] {
        self.states
            .get(&lsn)
            .unwrap_or_else(|| panic!("LSN {lsn} was never issued"))
    }

    /// Notes what the next record would make of the state, before it is issued; false if the
    /// operation writes no record.
    pub(super) fn issue(&mut self, op: &Op) -> bool {
        let mut state = self.state(self.head()).to_vec();
        match op {
            Op::Write { offset, bytes, .. } => {
                state[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Op::Zero { offset, length, .. } => state[*offset..offset + length].fill(0),
            Op::Trim { offset, length } => {
                let block = self.shape.block;
                let first = offset.next_multiple_of(block);
                let end = (offset + length) / block * block;
                if first >= end {
                    return false;
                }
                state[first..end].fill(0);
            }
            Op::Flush | Op::Checkpoint | Op::Step | Op::AdvanceTail { .. } => return false,
        }
        self.states.insert(self.head().next(), state);
        true
    }

    /// After a crash the volume came back at `head`: nothing above it ever returns.
    pub(super) fn came_back_at(&mut self, head: Lsn) {
        assert!(
            head >= self.durable,
            "durable {} was lost, head is {head}",
            self.durable
        );
        assert!(head <= self.head(), "LSN {head} was never issued");
        self.states.retain(|lsn, _| *lsn <= head);
        self.durable = head;
    }
}
