//! Fixtures of the unit tests: one constructor per thing, every option defaulted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use seawall_wal::{Epoch, Incarnation, Lineage, LineageEntry, Lsn, NodeIncarnation, VolumeId};

use crate::history::{Checkpoint, History, ReplicaFacts, Standing, Trust};
use crate::plan::{Pin, PinPart, PinRefusal, PinRefused, Storage};
use crate::sender::Endpoint;

pub(crate) const VOLUME: VolumeId = VolumeId([1; 16]);
pub(crate) const NODE: NodeIncarnation = NodeIncarnation([9; 16]);

pub(crate) fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}

pub(crate) fn entry(epoch: u64, incarnation: u64, first: u64) -> LineageEntry {
    LineageEntry {
        epoch: Epoch::new(epoch),
        incarnation: Incarnation::new(incarnation),
        first: lsn(first),
    }
}

pub(crate) fn lineage(entries: &[(u64, u64, u64)]) -> Lineage {
    let entries = entries.iter().map(|&(e, i, first)| entry(e, i, first));
    Lineage::from_entries(entries.collect()).expect("ordered entries")
}

/// A confirmed primary with everything through `head` synced and committed, nothing reclaimed, and
/// one lineage entry.
pub(crate) fn history(head: u64) -> History {
    History {
        volume: VOLUME,
        head: lsn(head),
        durable: lsn(head),
        committed: lsn(head),
        standing: Standing::Confirmed,
        tail: Lsn::ZERO,
        first_retained: lsn(1),
        checkpoint: None,
        lineage: lineage(&[(1, 1, 1)]),
        damage: Vec::new(),
        control_readable: true,
    }
}

impl History {
    pub(crate) fn tail(mut self, tail: u64) -> History {
        self.tail = lsn(tail);
        self.first_retained = lsn(tail).next();
        self
    }

    pub(crate) fn committed(mut self, committed: u64) -> History {
        self.committed = lsn(committed);
        self
    }

    pub(crate) fn base(mut self, base: u64) -> History {
        self.checkpoint = Some(Checkpoint {
            lsn: lsn(base),
            trust: Trust::Trusted,
        });
        self
    }

    pub(crate) fn untrusted(mut self) -> History {
        let base = self.checkpoint.as_mut().expect("a base to distrust");
        base.trust = Trust::Untrusted;
        self
    }

    pub(crate) fn unconfirmed(mut self) -> History {
        self.standing = Standing::Unconfirmed;
        self
    }

    pub(crate) fn with_lineage(mut self, entries: &[(u64, u64, u64)]) -> History {
        self.lineage = lineage(entries);
        self
    }
}

/// A replica of the same volume with one lineage entry.
pub(crate) fn replica(durable: u64) -> ReplicaFacts {
    ReplicaFacts {
        volume: Some(VOLUME),
        durable: lsn(durable),
        lineage: lineage(&[(1, 1, 1)]),
        ..ReplicaFacts::empty(NODE)
    }
}

impl ReplicaFacts {
    pub(crate) fn with_lineage(mut self, entries: &[(u64, u64, u64)]) -> ReplicaFacts {
        self.lineage = lineage(entries);
        self
    }
}

/// Numbers from a seed that the test prints (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of `0..end`, which is not empty.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of these.
    pub(crate) fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        let at = self.below(all.len() as u64);
        &all[usize::try_from(at).expect("an index")]
    }
}

pub(crate) fn endpoint(data: &str) -> Endpoint {
    Endpoint {
        data: data.to_owned(),
        control: format!("{data}-control"),
        version: 1,
    }
}

/// How many pins were given and dropped.
#[derive(Debug, Default)]
pub(crate) struct PinCount {
    given: AtomicUsize,
    dropped: AtomicUsize,
    /// Where the pin stands that was taken or moved last.
    after: AtomicU64,
}

impl PinCount {
    pub(crate) fn held(&self) -> usize {
        self.given.load(Ordering::Relaxed) - self.dropped()
    }

    pub(crate) fn after(&self) -> Lsn {
        lsn(self.after.load(Ordering::Relaxed))
    }

    pub(crate) fn dropped(&self) -> usize {
        self.dropped.load(Ordering::Relaxed)
    }
}

pub(crate) fn pins() -> Arc<PinCount> {
    Arc::default()
}

/// A pin that is counted.
#[derive(Debug)]
pub(crate) struct TestPin {
    count: Arc<PinCount>,
    pub(crate) after: Lsn,
}

impl TestPin {
    pub(crate) fn new(count: &Arc<PinCount>, after: Lsn) -> TestPin {
        count.given.fetch_add(1, Ordering::Relaxed);
        count.after.store(after.get(), Ordering::Relaxed);
        TestPin {
            count: Arc::clone(count),
            after,
        }
    }
}

impl Drop for TestPin {
    fn drop(&mut self) {
        self.count.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

impl Pin for TestPin {
    fn move_up(&mut self, after: Lsn) {
        assert!(after >= self.after, "a pin never moves down");
        self.after = after;
        self.count.after.store(after.get(), Ordering::Relaxed);
    }
}

/// Storage that answers with one history and refuses what it is told to refuse.
pub(crate) struct TestStorage {
    pub(crate) history: History,
    pub(crate) count: Arc<PinCount>,
    pub(crate) refuse: Option<PinPart>,
    /// Histories that replace the current one, one before each pin that is taken.
    pub(crate) moves: Vec<History>,
}

impl TestStorage {
    pub(crate) fn new(history: History) -> TestStorage {
        TestStorage {
            history,
            count: pins(),
            refuse: None,
            moves: Vec::new(),
        }
    }

    pub(crate) fn refusing(history: History, part: PinPart) -> TestStorage {
        TestStorage {
            refuse: Some(part),
            ..TestStorage::new(history)
        }
    }

    fn give(&mut self, part: PinPart, after: Lsn) -> Result<TestPin, PinRefused> {
        if let Some(next) = self.moves.pop() {
            self.history = next;
        }
        if self.refuse == Some(part) {
            return Err(PinRefused {
                part,
                at: after,
                why: PinRefusal::Policy,
            });
        }
        Ok(TestPin::new(&self.count, after))
    }
}

impl Storage for TestStorage {
    type Pin = TestPin;

    fn history(&mut self) -> History {
        self.history.clone()
    }

    fn pin_log(&mut self, after: Lsn) -> Result<TestPin, PinRefused> {
        let first_retained = self.history.first_retained;
        let pin = self.give(PinPart::Log, after)?;
        if after.next() < first_retained.max(self.history.first_retained) {
            return Err(PinRefused {
                part: PinPart::Log,
                at: after,
                why: PinRefusal::Reclaimed { first_retained },
            });
        }
        Ok(pin)
    }

    fn pin_snapshot_tail(&mut self, base: Lsn) -> Result<TestPin, PinRefused> {
        let snapshot = self.give(PinPart::Snapshot, base)?;
        let _log = self.pin_log(base)?;
        Ok(snapshot)
    }

    fn pin_full_base(&mut self, target: Lsn) -> Result<TestPin, PinRefused> {
        self.give(PinPart::FullBase, target)
    }
}

/// Compares a table with the one that is checked in, line by line.
pub(crate) fn assert_table(found: &str, expected: &str) {
    let rest = std::iter::repeat("");
    let changed: Vec<String> = found
        .lines()
        .zip(expected.lines().chain(rest))
        .filter(|(found, expected)| found != expected)
        .map(|(found, expected)| format!("- {expected}\n+ {found}"))
        .collect();
    let same = changed.is_empty() && found.lines().count() == expected.lines().count();
    assert!(
        same,
        "\n{}\n\nthe whole table:\n{found}",
        changed.join("\n")
    );
}

/// The name of a failure, for tables.
pub(crate) fn name_of(failure: &crate::failure::Failure) -> String {
    let text = format!("{failure:?}");
    let end = text.find(|c: char| !c.is_alphanumeric());
    text[..end.unwrap_or(text.len())].to_owned()
}
