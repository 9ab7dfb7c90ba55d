//! What a volume acknowledged, kept outside of it, and the states that follow from it alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};

use seawall::wal::Lsn;

/// Bytes `range` became what they are in an image of the writer, or zero.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) range: Range<usize>,
    pub(super) bytes: Option<Arc<Vec<u8>>>,
}

impl Write {
    fn apply(&self, state: &mut [u8]) {
        let place = &mut state[self.range.clone()];
        match &self.bytes {
            Some(bytes) => place.copy_from_slice(&bytes[self.range.clone()]),
            None => place.fill(0),
        }
    }
}

#[derive(Debug, Default)]
struct Known {
    writes: BTreeMap<u64, Write>,
    /// Every LSN up to here is known.
    through: u64,
    over: bool,
}

/// The acknowledged writes by LSN.
#[derive(Debug)]
pub(super) struct Record {
    size: usize,
    known: Mutex<Known>,
    grown: Condvar,
}

impl Record {
    pub(super) fn new(size: usize) -> Record {
        Record {
            size,
            known: Mutex::default(),
            grown: Condvar::new(),
        }
    }

    /// A write was acknowledged with this LSN, which no other write got.
    pub(super) fn add(&self, lsn: Lsn, write: Write) {
        let mut known = self.known.lock().unwrap();
        let before = known.writes.insert(lsn.get(), write);
        assert!(before.is_none(), "LSN {lsn} was given twice");
        while known.writes.contains_key(&(known.through + 1)) {
            known.through += 1;
        }
        self.grown.notify_all();
    }

    /// No more writes come.
    pub(super) fn finish(&self) {
        self.known.lock().unwrap().over = true;
        self.grown.notify_all();
    }

    /// Every write up to here is known.
    pub(super) fn through(&self) -> u64 {
        self.known.lock().unwrap().through
    }

    /// Waits until every write through `lsn` is known, or all are; gives through which they are.
    pub(super) fn wait_for(&self, lsn: u64) -> u64 {
        let known = self.known.lock().unwrap();
        let short = |known: &mut Known| known.through < lsn && !known.over;
        self.grown.wait_while(known, short).unwrap().through
    }

    /// Whether no more writes come.
    pub(super) fn is_over(&self) -> bool {
        self.known.lock().unwrap().over
    }

    /// The bytes of the volume at `lsn`.
    pub(super) fn replay(&self, lsn: Lsn) -> Vec<u8> {
        let through = self.wait_for(lsn.get());
        assert!(through >= lsn.get(), "LSN {lsn} was never acknowledged");
        let mut state = vec![0; self.size];
        let known = self.known.lock().unwrap();
        let writes = known.writes.range(..=lsn.get());
        writes.for_each(|(_, write)| write.apply(&mut state));
        state
    }
}

/// Demands that `found` is the replay through `lsn`.
#[track_caller]
pub(super) fn assert_replay(record: &Record, lsn: Lsn, found: &[u8], what: &str) {
    let expected = record.replay(lsn);
    assert_eq!(found.len(), expected.len(), "{what} at LSN {lsn}");
    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!(
        differs, None,
        "{what} at LSN {lsn}: first byte that differs"
    );
}
