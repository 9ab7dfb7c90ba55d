//! What is known of records that are gone (D14).

use std::path::Path;
use std::sync::Arc;

use crate::damage_tests::{DIR, create, open, segment};
use crate::disk::sim::SimDisk;
use crate::disk::{self, Buffer, Disk};
use crate::log::DIR_NAME;
use crate::*;

/// A log of records of one block each, at ten times their LSN, with every sealed segment indexed.
fn indexed(last: u64) -> (Arc<SimDisk>, Vec<SegmentInfo>) {
    let sim = create(48 << 10);
    let (log, _) = open(&sim);
    for lsn in 1..=last {
        let block = Buffer::copy_of(&[7; 4096]);
        let change = Change::write(Lba(lsn * 10), BlockSize::DEFAULT, block);
        log.append(vec![change]).unwrap().wait().unwrap();
        while log.step().unwrap() {}
    }
    let live = log.segments().into_iter();
    let sealed = live.filter(|segment| segment.state == SegmentState::Sealed);
    let sealed = sealed.collect();
    log.stop();
    (sim, sealed)
}

/// Opens the log without one of its files.
fn open_without(sim: &SimDisk, names: &[&str]) -> LossReport {
    let sim = sim.crash_keep_all();
    let disk: Arc<dyn Disk> = sim.clone();
    let dir = Path::new(DIR).join(DIR_NAME);
    for name in names {
        disk::remove(disk.as_ref(), &dir.join(name)).unwrap();
    }
    let (_, report) = open(&sim);
    match report.end {
        ScanEnd::Damaged(loss) => loss,
        other => panic!("{other:?}"),
    }
}

fn blocks(lsns: (Lsn, Lsn)) -> Vec<(Lba, u32)> {
    let lsns = lsns.0.get()..=lsns.1.get();
    lsns.map(|lsn| (Lba(lsn * 10), 1)).collect()
}

#[test]
fn the_index_of_a_missing_segment_tells_which_blocks_are_lost() {
    let (sim, sealed) = indexed(30);
    assert!(sealed.len() > 3, "{sealed:?}");
    for gone in &sealed {
        let (first, last) = gone.lsns.unwrap();
        let loss = open_without(&sim, &[&gone.name]);
        assert_eq!(loss.durable, Lsn::new(29), "{loss:?}");
        assert_eq!(loss.applied, first.before());
        let [place] = &loss.places[..] else {
            panic!("{loss:?}");
        };
        assert_eq!(place.lsns, LsnRange::new(first.before(), last));
        assert_eq!(place.blocks, Some(blocks((first, last))));
        assert!(place.hole);
    }
}

#[test]
fn without_the_index_the_lsns_are_known_and_the_blocks_are_not() {
    let (sim, sealed) = indexed(30);
    let gone = &sealed[1];
    let (first, last) = gone.lsns.unwrap();
    let index = gone.name.replace(".seg", ".idx");
    let loss = open_without(&sim, &[&gone.name, &index]);
    assert_eq!(loss.places[0].lsns, LsnRange::new(first.before(), last));
    assert_eq!(loss.places[0].blocks, None);
}

#[test]
fn the_index_of_the_last_sealed_segment_proves_what_was_durable() {
    // No frame behind it tells of the records that are gone: only their index does.
    let (sim, sealed) = indexed(30);
    let names = sealed.iter().map(|one| one.name.clone());
    let names: Vec<String> = names.collect();
    let (first, last) = sealed.last().unwrap().lsns.unwrap();
    let behind = (0..8).map(|slot| segment(slot).file_name().unwrap().to_owned());
    let behind = behind.map(|name| name.into_string().unwrap());
    let mut gone: Vec<String> = behind.filter(|name| !names.contains(name)).collect();
    gone.push(names.last().unwrap().clone());
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    let loss = open_without(&sim, &gone);
    assert_eq!(loss.durable, last);
    assert_eq!(loss.places[0].lsns, LsnRange::new(first.before(), last));
    assert_eq!(loss.places[0].blocks, Some(blocks((first, last))));
}
