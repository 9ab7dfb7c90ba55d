//! Writes that are durable by themselves, and what a power cut makes of those in flight.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::SimDisk;
use crate::disk::{self, Buffer, Bytes, Disk, File, OpenMode, Operation, Output, Token, contract};

fn file_of(sim: &Arc<SimDisk>, bytes: u64) -> File {
    let disk: Arc<dyn Disk> = sim.clone();
    let file = File::open_direct(&disk, Path::new("/a"), OpenMode::CreateNew).unwrap();
    disk::sync_dir(sim.as_ref(), Path::new("/")).unwrap();
    file.write_zeros(0, bytes).unwrap();
    file.sync().unwrap();
    file
}

fn sector(byte: u8) -> Vec<Bytes> {
    vec![Arc::new(Buffer::copy_of(&[byte; 512]))]
}

/// First byte of every sector after each of many power cuts.
fn outcomes(sim: &SimDisk) -> BTreeSet<Vec<u8>> {
    let firsts = |sim: &SimDisk| {
        let bytes = sim.read_file(Path::new("/a")).unwrap();
        bytes.chunks(512).map(|sector| sector[0]).collect()
    };
    (0..2_000).map(|seed| firsts(&sim.crash(seed))).collect()
}

#[test]
fn simulated_disk_keeps_the_contract_whichever_way_it_prefers_writes() {
    for seed in 0..4 {
        for make in [SimDisk::new, SimDisk::with_syncs] {
            contract::contract(|| {
                let sim = make(seed);
                disk::make_dir(sim.as_ref(), Path::new("/volume")).unwrap();
                (sim, "/volume".into())
            });
        }
    }
    assert!(SimDisk::new(1).durable_writes());
    assert!(!SimDisk::with_syncs(1).durable_writes());
    assert!(!SimDisk::with_syncs(1).crash(1).durable_writes());
}

#[test]
fn a_completed_durable_write_is_kept_and_no_other() {
    let sim = SimDisk::new(11);
    let file = file_of(&sim, 3 * 512);
    file.write(0, sector(1)).unwrap();
    file.write_durable(512, sector(2)).unwrap();
    file.write(1024, sector(3)).unwrap();
    let all = outcomes(&sim);
    let expected = [[0, 2, 0], [0, 2, 3], [1, 2, 0], [1, 2, 3]];
    assert_eq!(all, expected.iter().map(|one| one.to_vec()).collect());
}

#[test]
fn a_durable_write_hides_the_unsynced_past_of_its_own_sectors_only() {
    let sim = SimDisk::new(12);
    let file = file_of(&sim, 512);
    file.write(0, sector(1)).unwrap();
    file.write_durable(0, sector(2)).unwrap();
    assert_eq!(outcomes(&sim), BTreeSet::from([vec![2]]));
    file.write(0, sector(3)).unwrap();
    assert_eq!(outcomes(&sim), BTreeSet::from([vec![2], vec![3]]));
}

#[test]
fn durable_writes_in_flight_survive_in_any_subset_and_any_tear() {
    let sim = SimDisk::new(13);
    let file = file_of(&sim, 4 * 512);
    for slot in 0..2 {
        let halves = [sector(slot + 1), sector(slot + 1)].concat();
        sim.submit(Operation::Write {
            file: file.id(),
            offset: u64::from(slot) * 1024,
            buffers: halves,
            durable: true,
        });
    }
    assert_eq!(sim.in_flight(), 2);
    let all = outcomes(&sim);
    assert_eq!(all.len(), 16, "each sector on its own: {all:?}");
}

#[test]
fn durable_writes_in_flight_complete_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..60 {
        let sim = SimDisk::new(seed);
        let file = file_of(&sim, 3 * 512);
        let submit = |slot: u8| {
            sim.submit(Operation::Write {
                file: file.id(),
                offset: u64::from(slot) * 512,
                buffers: sector(slot + 1),
                durable: true,
            })
        };
        let tokens = [0, 1, 2].map(submit);
        let mut order = Vec::new();
        for landed in 1..=3 {
            // Asking for any token carries one operation out.
            assert!(sim.take(Token(u64::MAX)).is_none());
            let bytes = sim.read_file(Path::new("/a")).unwrap();
            order.extend(
                (0..3)
                    .filter(|slot| bytes[slot * 512] != 0 && !order.contains(slot))
                    .collect::<Vec<_>>(),
            );
            assert_eq!(order.len(), landed);
        }
        for token in tokens {
            assert!(matches!(sim.take(token), Some(Ok(Output::Done))));
        }
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6, "every order of three: {orders:?}");
}

#[test]
fn written_zeros_are_lost_like_any_write_and_kept_by_a_sync() {
    let sim = SimDisk::new(14);
    let file = file_of(&sim, 2 * 512);
    file.write_durable(0, [sector(1), sector(2)].concat())
        .unwrap();
    file.write_zeros(0, 1024).unwrap();
    let all = outcomes(&sim);
    let expected = [[0, 0], [0, 2], [1, 0], [1, 2]];
    assert_eq!(all, expected.iter().map(|one| one.to_vec()).collect());
    file.sync().unwrap();
    assert_eq!(outcomes(&sim), BTreeSet::from([vec![0, 0]]));
}
