//! Payload of records that were written lately, kept in memory for reads and for the next capture.
//!
//! Without it every capture reads back from the disk what was written to it a moment ago, and those
//! who write meanwhile wait for these reads.

use std::collections::BTreeMap;

use seawall_wal::Lsn;
use seawall_wal::disk::{Buffer, Bytes};
use seawall_wal::sync::Mutex;

use crate::{lock, to_usize};

/// Memory of the payload kept, at most.
const BYTES_MAX: usize = 64 << 20;
const SHARDS: u64 = 16;

/// See the module text. What is not here is in the log.
#[derive(Debug)]
pub(crate) struct Recent {
    /// By LSN, locked apart.
    shards: Vec<Mutex<Shard>>,
}

#[derive(Debug, Default)]
struct Shard {
    payloads: BTreeMap<Lsn, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    /// First block of the record.
    first: u64,
    payload: Bytes,
}

impl Kept {
    /// Memory that it takes: a small payload has a whole page.
    fn bytes(&self) -> usize {
        self.payload.len().max(Buffer::ALIGNMENT)
    }
}

impl Shard {
    fn forget(&mut self, lsn: Lsn) {
        if let Some(kept) = self.payloads.remove(&lsn) {
            self.bytes -= kept.bytes();
        }
    }
}

impl Recent {
    pub(crate) fn new() -> Recent {
        Recent {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    fn shard(&self, lsn: Lsn) -> &Mutex<Shard> {
        &self.shards[to_usize(lsn.get() % SHARDS)]
    }

    /// Keeps the payload of a record that begins at block `first`; the oldest give way to it.
    pub(crate) fn keep(&self, lsn: Lsn, first: u64, payload: &Bytes) {
        let mut shard = lock(self.shard(lsn));
        shard.forget(lsn);
        let payload = Bytes::clone(payload);
        let kept = Kept { first, payload };
        shard.bytes += kept.bytes();
        shard.payloads.insert(lsn, kept);
        while shard.bytes > BYTES_MAX / to_usize(SHARDS) {
            let Some((_, oldest)) = shard.payloads.pop_first() else {
                return;
            };
            shard.bytes -= oldest.bytes();
        }
    }

    /// The payload of the record at `lsn`, if that is one that begins at block `first`: an LSN that
    /// was truncated may have been given to another.
    pub(crate) fn get(&self, lsn: Lsn, first: u64) -> Option<Bytes> {
        let shard = lock(self.shard(lsn));
        let kept = shard.payloads.get(&lsn)?;
        (kept.first == first).then(|| Bytes::clone(&kept.payload))
    }

    /// Nobody will ask for this one, or not often.
    pub(crate) fn forget(&self, lsn: Lsn) {
        lock(self.shard(lsn)).forget(lsn);
    }

    /// Forgets every record at or below `through`.
    pub(crate) fn forget_through(&self, through: Lsn) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            let later = shard.payloads.split_off(&through.next());
            shard.payloads = later;
            shard.bytes = shard.payloads.values().map(Kept::bytes).sum();
        }
    }

    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            *lock(shard) = Shard::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn payload(lsn: u64, length: usize) -> Bytes {
        Arc::new(Buffer::copy_of(&vec![
            u8::try_from(lsn % 251).unwrap();
            length
        ]))
    }

    fn held(recent: &Recent) -> usize {
        let shards = recent.shards.iter();
        shards.map(|shard| lock(shard).bytes).sum()
    }

    #[test]
    fn the_oldest_give_way_and_bytes_stay_bounded() {
        let recent = Recent::new();
        for lsn in 1..=200 {
            recent.keep(Lsn::new(lsn), lsn, &payload(lsn, 1 << 20));
            assert!(held(&recent) <= BYTES_MAX);
        }
        assert!(recent.get(Lsn::new(1), 1).is_none());
        let newest = recent.get(Lsn::new(200), 200).unwrap();
        assert_eq!(newest[0], 200);
        recent.keep(Lsn::new(7), 7, &payload(7, 5 << 20));
        assert!(held(&recent) <= BYTES_MAX, "one that is too large alone");
    }

    #[test]
    fn payload_of_single_small_blocks_takes_no_more_memory_than_the_bound() {
        let recent = Recent::new();
        for lsn in 1..=200_000 {
            recent.keep(Lsn::new(lsn), lsn, &payload(lsn, 512));
        }
        let kept: usize = recent.shards.iter().map(|s| lock(s).payloads.len()).sum();
        assert!(
            kept * Buffer::ALIGNMENT <= BYTES_MAX,
            "{} MiB",
            (kept * Buffer::ALIGNMENT) >> 20
        );
    }

    #[test]
    fn an_lsn_that_is_kept_again_counts_once() {
        let recent = Recent::new();
        recent.keep(Lsn::new(5), 40, &payload(5, 8192));
        recent.keep(Lsn::new(5), 41, &payload(5, 4096));
        assert_eq!(held(&recent), 4096);
    }

    #[test]
    fn an_lsn_that_was_given_to_another_record_is_not_taken_for_it() {
        let recent = Recent::new();
        recent.keep(Lsn::new(5), 40, &payload(5, 4096));
        assert!(recent.get(Lsn::new(5), 41).is_none());
        recent.clear();
        assert!(recent.get(Lsn::new(5), 40).is_none());
    }

    #[test]
    fn what_is_captured_or_written_again_is_forgotten() {
        let recent = Recent::new();
        for lsn in 1..=100 {
            recent.keep(Lsn::new(lsn), 0, &payload(lsn, 4096));
        }
        recent.forget(Lsn::new(90));
        recent.forget_through(Lsn::new(50));
        let left: Vec<u64> = (1..=100)
            .filter(|lsn| recent.get(Lsn::new(*lsn), 0).is_some())
            .collect();
        let expected: Vec<u64> = (51..=100).filter(|lsn| *lsn != 90).collect();
        assert_eq!(left, expected);
        assert_eq!(held(&recent), expected.len() * 4096);
    }
}
