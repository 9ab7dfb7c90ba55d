//! What was written, as a list that is replayed by brute force: the oracle of the stories. Written
//! from the rules (SEMANTICS 1.1, FORMAT.md), not from the code.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use seawall_wal::RecordPlace;
use xxhash_rust::xxh3::xxh3_128;

use crate::{Digest, Error, View};

/// Up to this size a state is compared byte by byte; of a larger one what was ever touched is.
const WHOLE_BYTES: u64 = 4 << 20;

/// The blocks of a state that are not zero.
pub(super) type State = BTreeMap<u64, Vec<u8>>;

/// What a caller asked for, in bytes of the volume.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Trim(u64, u64),
}

impl Change {
    fn range(&self) -> Range<u64> {
        match self {
            Change::Write(offset, bytes) => *offset..offset + bytes.len() as u64,
            Change::Zero(offset, length) | Change::Trim(offset, length) => *offset..offset + length,
        }
    }
}

/// What one record made of its blocks; `None` is zeros.
#[derive(Clone, Debug)]
struct Effect {
    blocks: Range<u64>,
    bytes: Option<Vec<u8>>,
}

/// One LSN that was acknowledged, and the furthest that was asked for: a crash in between leaves
/// either or something between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) acknowledged: u64,
    pub(super) asked: u64,
}

impl Moved {
    pub(super) fn ask(&mut self, lsn: u64) {
        self.asked = self.asked.max(lsn);
    }

    pub(super) fn settle(&mut self, lsn: u64) {
        self.acknowledged = lsn;
        self.ask(lsn);
    }

    pub(super) fn allows(&self, lsn: u64) -> bool {
        (self.acknowledged..=self.asked).contains(&lsn)
    }
}

/// Every record issued, and what was promised about them.
#[derive(Clone, Debug)]
pub(super) struct Oracle {
    pub(super) block: u64,
    pub(super) blocks: u64,
    history: Arc<Vec<Effect>>,
    /// Creation was acknowledged: from then on it opens.
    pub(super) created: bool,
    pub(super) durable: u64,
    pub(super) checkpoint: Moved,
    pub(super) tail: Moved,
    /// A clean close was acknowledged, and nothing was written since.
    pub(super) closed: bool,
}

impl Oracle {
    pub(super) fn new(block: u64, blocks: u64) -> Oracle {
        Oracle {
            block,
            blocks,
            history: Arc::default(),
            created: false,
            durable: 0,
            checkpoint: Moved::default(),
            tail: Moved::default(),
            closed: false,
        }
    }

    /// The same history behind a base that was installed at `lsn`: older states are gone.
    pub(super) fn installed_at(&self, lsn: u64) -> Oracle {
        let at = Moved {
            acknowledged: lsn,
            asked: lsn,
        };
        let mut oracle = self.clone();
        (oracle.checkpoint, oracle.tail, oracle.durable) = (at, at, lsn);
        oracle.cut(lsn);
        oracle
    }

    pub(super) fn bytes(&self) -> u64 {
        self.block * self.blocks
    }

    /// Last LSN issued.
    pub(super) fn head(&self) -> u64 {
        self.history.len() as u64
    }

    /// Nothing above `head` was ever written, or it was dropped.
    pub(super) fn cut(&mut self, head: u64) {
        Arc::make_mut(&mut self.history).truncate(usize::try_from(head).unwrap());
        self.durable = self.durable.min(head);
    }

    /// Blocks that a change covers; those of a trim are the whole ones inside.
    pub(super) fn covered(&self, change: &Change) -> Range<u64> {
        let bytes = change.range();
        let (first, end) = match change {
            Change::Trim(..) => (bytes.start.div_ceil(self.block), bytes.end / self.block),
            _ => (bytes.start / self.block, bytes.end.div_ceil(self.block)),
        };
        match bytes.is_empty() || first >= end {
            true => 0..0,
            false => first..end,
        }
    }

    /// Notes a change as one record, before it is asked for; false if it makes none.
    pub(super) fn issue(&mut self, change: &Change) -> bool {
        let covered = self.covered(change);
        if covered.is_empty() {
            return false;
        }
        let effect = self.effect(change, covered, &self.state(self.head()));
        Arc::make_mut(&mut self.history).push(effect);
        self.closed = false;
        true
    }

    /// Notes that `change`, issued last, became these records: together they cover its blocks, none
    /// of them twice.
    pub(super) fn split(&mut self, change: &Change, records: &[RecordPlace]) {
        let whole = self.history.last().unwrap().blocks.clone();
        let before = self.head() - 1;
        let state = self.state(before);
        self.cut(before);
        let mut pieces: Vec<_> = records
            .iter()
            .map(|record| record.lba.0..record.lba.0 + u64::from(record.blocks))
            .collect();
        for piece in &pieces {
            let effect = self.effect(change, piece.clone(), &state);
            Arc::make_mut(&mut self.history).push(effect);
        }
        pieces.sort_by_key(|piece| piece.start);
        let mut at = whole.start;
        for piece in pieces {
            assert_eq!(piece.start, at, "records of one change leave no gap");
            at = piece.end;
        }
        assert_eq!(at, whole.end, "records of one change cover it");
    }

    fn effect(&self, change: &Change, blocks: Range<u64>, state: &State) -> Effect {
        let (start, end) = (blocks.start * self.block, blocks.end * self.block);
        let asked = change.range();
        let zeros = !matches!(change, Change::Write(..));
        if zeros && asked.start <= start && end <= asked.end {
            return Effect {
                blocks,
                bytes: None,
            };
        }
        let length = |range: Range<u64>| usize::try_from(range.end - range.start).unwrap();
        let mut bytes = vec![0; length(start..end)];
        for (lba, old) in state.range(blocks.clone()) {
            let at = length(blocks.start * self.block..lba * self.block);
            bytes[at..at + old.len()].copy_from_slice(old);
        }
        let hit = asked.start.max(start)..asked.end.min(end);
        let into = length(start..hit.start)..length(start..hit.end);
        match change {
            Change::Write(offset, new) => {
                let from = length(*offset..hit.start)..length(*offset..hit.end);
                bytes[into].copy_from_slice(&new[from]);
            }
            Change::Zero(..) | Change::Trim(..) => bytes[into].fill(0),
        }
        Effect {
            blocks,
            bytes: Some(bytes),
        }
    }

    fn replay(&self, state: &mut State, lsn: u64) {
        let effect = &self.history[usize::try_from(lsn - 1).unwrap()];
        match &effect.bytes {
            None => state.retain(|lba, _| !effect.blocks.contains(lba)),
            Some(bytes) => {
                let blocks = bytes.chunks(usize::try_from(self.block).unwrap());
                for (lba, bytes) in effect.blocks.clone().zip(blocks) {
                    match bytes.iter().all(|byte| *byte == 0) {
                        true => state.remove(&lba),
                        false => state.insert(lba, bytes.to_vec()),
                    };
                }
            }
        }
    }

    pub(super) fn state(&self, lsn: u64) -> State {
        let mut state = State::new();
        (1..=lsn).for_each(|lsn| self.replay(&mut state, lsn));
        state
    }

    /// Every state of `[from, through]`, in order.
    pub(super) fn each_state(&self, from: u64, through: u64, mut look: impl FnMut(u64, &State)) {
        let mut state = self.state(from);
        look(from, &state);
        for lsn in from + 1..=through {
            self.replay(&mut state, lsn);
            look(lsn, &state);
        }
    }

    /// Ranges of blocks worth a look: everything, or the neighbourhood of every edge of a record.
    pub(super) fn windows(&self) -> Vec<Range<u64>> {
        if self.bytes() <= WHOLE_BYTES {
            return std::iter::once(0..self.blocks).collect();
        }
        let mut found: Vec<Range<u64>> = Vec::new();
        let edges = self.history.iter();
        let edges = edges.flat_map(|effect| [effect.blocks.start, effect.blocks.end]);
        let mut edges: Vec<u64> = edges.chain([0, self.blocks]).collect();
        edges.sort_unstable();
        for edge in edges {
            let window = edge.saturating_sub(2)..(edge + 2).min(self.blocks);
            match found.last_mut() {
                Some(last) if window.start <= last.end => last.end = last.end.max(window.end),
                _ => found.push(window),
            }
        }
        found
    }

    /// The digest of a state as FORMAT.md defines it.
    pub(super) fn digest(state: &State) -> Digest {
        let mut digest = 0u128;
        for (lba, bytes) in state {
            let sum = match xxh3_128(bytes) {
                0 => 1u128,
                sum => sum,
            };
            let input = [&lba.to_le_bytes()[..], &sum.to_le_bytes()[..]].concat();
            digest = digest.wrapping_add(xxh3_128(&input));
        }
        Digest(digest)
    }

    /// Demands that what `read` gives is `state`, wherever anything was ever written. Refusals are
    /// passed on; a wrong byte is never forgiven.
    pub(super) fn check_bytes(
        &self,
        state: &State,
        what: &str,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for window in self.windows() {
            let blocks = window.end - window.start;
            let mut found = vec![0xee; usize::try_from(blocks * self.block).unwrap()];
            read(window.start * self.block, &mut found)?;
            let found = found.chunks(usize::try_from(self.block).unwrap());
            for (lba, found) in window.zip(found) {
                let wanted = state.get(&lba);
                let same = match wanted {
                    None => found.iter().all(|byte| *byte == 0),
                    Some(wanted) => found == &wanted[..],
                };
                assert!(
                    same,
                    "{what}: block {lba} is {:?}.., not {:?}..",
                    &found[..8],
                    wanted.map(|bytes| &bytes[..8])
                );
            }
        }
        Ok(())
    }

    /// Demands that a view is exactly the state at its LSN: its bytes, its digest, its holes.
    pub(super) fn check_view(&self, view: &dyn View, state: &State) -> Result<(), Error> {
        let what = format!("state at {}", view.lsn());
        assert_eq!(view.size(), self.bytes(), "{what}");
        self.check_bytes(state, &what, |offset, out| view.read(offset, out))?;
        assert_eq!(view.digest()?, Oracle::digest(state), "{what}: digest");
        self.check_holes(state, &what, 0, |offset| view.next_data(offset))
    }

    /// Demands that everything `next_data` leaves out is zero.
    pub(super) fn check_holes(
        &self,
        state: &State,
        what: &str,
        from: u64,
        next_data: impl Fn(u64) -> Result<Option<(u64, u64)>, Error>,
    ) -> Result<(), Error> {
        let mut at = from;
        loop {
            let data = next_data(at)?;
            let end = data.map_or(self.bytes(), |(start, _)| start);
            let left_out = at.div_ceil(self.block)..end / self.block;
            if left_out.start < left_out.end {
                let lost = state.range(left_out).next();
                assert_eq!(lost.map(|(lba, _)| lba), None, "{what}: data called a hole");
            }
            let Some((start, end)) = data else {
                return Ok(());
            };
            assert!(at <= start && start < end && end <= self.bytes(), "{what}");
            at = end;
        }
    }
}
