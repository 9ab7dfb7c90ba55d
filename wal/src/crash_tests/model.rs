//! What a story promised: the oracle of the crash tests, written from the rules and not from the
//! code.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::Buffer;
use crate::*;

pub(crate) const BLOCK: usize = 512;
pub(crate) const BLOCKS: u64 = 256;

/// SplitMix64: what a seed determines.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    /// A number in `0..bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// A number in `first..=last`.
    pub(crate) fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }
}

pub(crate) fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// One record as it was issued. The stamp names its content, whatever its LSN becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Issued {
    pub(crate) stamp: u64,
    pub(crate) kind: RecordKind,
    pub(crate) no_hole: bool,
    pub(crate) lba: u64,
    pub(crate) blocks: u32,
    pub(crate) writer: (Epoch, Incarnation),
}

impl Issued {
    /// Payload that no other stamp has, in no sector of it.
    fn payload(&self) -> Vec<u8> {
        let words = (u64::from(self.blocks) * BLOCK as u64) / 8;
        let word = |index| mixed(self.stamp << 16 | index).to_le_bytes();
        match self.kind {
            RecordKind::Write => (0..words).flat_map(word).collect(),
            RecordKind::WriteZeroes | RecordKind::Trim => Vec::new(),
        }
    }

    pub(crate) fn change(&self) -> Change {
        let (lba, blocks) = (Lba(self.lba), self.blocks);
        match self.kind {
            RecordKind::Write => {
                let size = BlockSize::from_bytes(BLOCK as u64).unwrap();
                Change::write(lba, size, Buffer::copy_of(&self.payload()))
            }
            RecordKind::WriteZeroes => Change::write_zeroes(lba, blocks, self.no_hole),
            RecordKind::Trim => Change::trim(lba, blocks),
        }
    }

    /// Demands that `record` is this one, at `lsn`.
    pub(crate) fn assert_is(&self, lsn: u64, record: &Record) {
        let header = record.header();
        let found = (header.kind, header.no_hole, header.lba.0, header.blocks);
        let wanted = (self.kind, self.no_hole, self.lba, self.blocks);
        assert_eq!(header.lsn.get(), lsn);
        assert_eq!(
            (found, header.epoch, header.incarnation),
            (wanted, self.writer.0, self.writer.1),
            "record {lsn} is another one"
        );
        assert!(
            record.payload()[..] == self.payload(),
            "the payload of record {lsn} is another one"
        );
    }
}

/// What was promised and what was asked for, at one moment of a story.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    /// Creation was acknowledged: from then on it opens.
    pub(crate) created: bool,
    /// Every record issued, from LSN 1 on.
    pub(crate) history: Arc<Vec<Issued>>,
    /// Number of records acknowledged as durable.
    pub(crate) durable: u64,
    /// A truncation on its way, to this LSN.
    pub(crate) cut: Option<u64>,
    /// The tail acknowledged, and the one asked for.
    pub(crate) tail: (u64, u64),
    /// What the base holds, durably.
    pub(crate) checkpoint: u64,
    /// Highest commit asked for.
    pub(crate) committed: u64,
    /// A clean close was acknowledged and nothing was written since.
    pub(crate) closed: bool,
    stamps: u64,
    /// D2: what each (epoch, incarnation, LSN) ever named.
    named: Arc<BTreeMap<(Epoch, Incarnation, u64), u64>>,
}

impl Model {
    pub(crate) fn issued(&self) -> u64 {
        self.history.len() as u64
    }

    pub(crate) fn record(&self, lsn: u64) -> &Issued {
        &self.history[usize::try_from(lsn - 1).unwrap()]
    }

    /// Notes a record before it is handed over, under the next LSN.
    pub(crate) fn issue(&mut self, record: Issued) -> Issued {
        self.stamps += 1;
        let record = Issued {
            stamp: self.stamps,
            ..record
        };
        Arc::make_mut(&mut self.history).push(record);
        let (epoch, incarnation) = record.writer;
        let name = (epoch, incarnation, self.issued());
        let twin = Arc::make_mut(&mut self.named).insert(name, record.stamp);
        assert_eq!(twin, None, "D2: {name:?} names two contents");
        record
    }

    /// Everything through `lsn` was acknowledged.
    pub(crate) fn acknowledge(&mut self, lsn: Lsn) {
        assert!(
            lsn.get() <= self.issued(),
            "{lsn} is called durable, {} were issued",
            self.issued()
        );
        self.durable = self.durable.max(lsn.get());
    }

    pub(crate) fn begin_truncation(&mut self, after: u64) {
        self.cut = Some(after);
    }

    pub(crate) fn truncated(&mut self) {
        let after = self.cut.take().expect("a truncation began");
        Arc::make_mut(&mut self.history).truncate(usize::try_from(after).unwrap());
        self.durable = after;
    }

    /// Whether a log that ends at `head` keeps every promise.
    pub(crate) fn allows(&self, head: u64) -> bool {
        self.cut == Some(head) || (self.durable..=self.issued()).contains(&head)
    }

    /// An open showed this much: from now on it is a promise.
    pub(crate) fn came_back(&mut self, frontiers: Frontiers) {
        let head = frontiers.head.get();
        assert!(self.allows(head), "{head} came back: {}", self.brief());
        Arc::make_mut(&mut self.history).truncate(usize::try_from(head).unwrap());
        self.durable = head;
        self.cut = None;
        self.tail = (frontiers.tail.get(), frontiers.tail.get());
        self.closed = false;
    }

    /// The facts in one line.
    pub(crate) fn brief(&self) -> String {
        let Model {
            durable,
            cut,
            tail,
            checkpoint,
            committed,
            closed,
            ..
        } = self;
        format!(
            "durable {durable}, issued {}, cut {cut:?}, tail {tail:?}, checkpoint {checkpoint}, \
             committed {committed}, closed {closed}",
            self.issued()
        )
    }

    /// The facts that decide what a state must be, for telling states apart.
    pub(crate) fn key(&self) -> [u64; 8] {
        let last = self.history.last().map_or(0, |record| record.stamp);
        [
            self.durable,
            self.issued(),
            last,
            self.cut.map_or(u64::MAX, |cut| cut),
            self.tail.0,
            self.tail.1 << 1 | u64::from(self.closed),
            self.checkpoint << 1 | u64::from(self.created),
            self.committed,
        ]
    }
}
