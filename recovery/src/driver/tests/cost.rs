//! What a decision costs: facts that are in memory since the open, no byte of the log (D15).

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use seawall_wal::LsnRange;
use seawall_wal::disk::sim::SimDisk;

use super::*;
use crate::driver::storage::VolumeStorage;
use crate::history::ReplicaFacts;
use crate::outcome::{Row, classify};
use crate::plan::Storage;
use crate::testing::NODE;

#[test]
fn a_decision_reads_nothing_from_the_disk() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let disk: Arc<dyn Disk> = Arc::new(Watched {
        disk: SimDisk::new(1),
        before: move |_: &Operation| {
            counted.fetch_add(1, Ordering::Relaxed);
        },
    });
    let clock: Arc<dyn Clock> = SystemClock::new();
    let dir = Path::new("/p");
    create(&disk, dir, 64 * BLOCK);
    let (volume, _) = Volume::open(&disk, dir, &clock, Access::Primary).unwrap();
    for turn in 0..8 {
        let bytes = vec![turn; 256 << 10];
        volume.write(0, &bytes, Durability::Durable).unwrap();
    }
    volume.close().unwrap();
    drop(volume);
    let (volume, _) = Volume::open(&disk, dir, &clock, Access::ReadOnly).unwrap();
    let head = volume.log().frontiers().head;
    assert!(head >= Lsn::new(8), "several records in several segments");
    let behind = ReplicaFacts {
        volume: Some(volume.meta().get().volume),
        ..ReplicaFacts::empty(NODE)
    };
    let before = count.load(Ordering::Relaxed);
    let history = VolumeStorage {
        volume: &volume,
        owner: "test",
    }
    .history();
    let decision = classify(&history, &behind);
    let asked = count.load(Ordering::Relaxed) - before;
    assert_eq!(decision.row, Row::Gap, "{decision:?}");
    assert_eq!(asked, 0);
    // The same question answered by reading every byte does go to the disk.
    let all = LsnRange::new(Lsn::ZERO, head);
    volume.log().prove_full(all).unwrap();
    assert!(count.load(Ordering::Relaxed) > before);
}
