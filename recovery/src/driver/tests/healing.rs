//! A log that lost records takes exactly these back from the other end (D14).

use seawall_wal::LsnRange;

use super::*;
use crate::event::What;

/// Blocks that a volume of these tests holds.
const BLOCKS: u64 = 24;

/// A primary with `ids` in sync, everything stopped again; the last LSN.
fn level(lab: &Lab, ids: &[&str]) -> Lsn {
    lab.create("p", 4 * MIB);
    let replicas: Vec<Replica> = ids.iter().map(|id| lab.replica(id)).collect();
    let replicas: Vec<&Replica> = replicas.iter().collect();
    let served = lab.serve("p", options(&replicas));
    let end = served.fill(0..BLOCKS, 1);
    ids.iter().for_each(|id| served.in_sync(id, end));
    served.stop();
    end
}

/// Damages records of a volume at rest.
fn lose(lab: &Lab, name: &str, lsns: &[u64]) {
    let volume = lab.open(name, Access::Maintain);
    lsns.iter()
        .for_each(|lsn| damage(lab, &volume, Lsn::new(*lsn)));
    volume.close().unwrap();
}

fn range(after: u64, through: u64) -> LsnRange {
    LsnRange::new(Lsn::new(after), Lsn::new(through))
}

fn healed(served: &Served) -> Vec<(LsnRange, u64)> {
    let events = served.primary.events();
    let healed = events.iter().filter_map(|event| match event.what {
        What::ReplicaHealed { range, records } => Some((range, records)),
        _ => None,
    });
    healed.collect()
}

// D14
#[test]
fn a_replica_takes_back_the_records_that_its_log_lost_and_nothing_else() {
    let lab = Lab::new();
    let end = level(&lab, &["r1"]);
    lose(&lab, "r1", &[5, 6, 11]);
    let replica = lab.replica("r1");
    let lost = replica.volume().unwrap().log().lost();
    assert_eq!(lost, [range(4, 6), range(10, 11)]);
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", end);
    assert_eq!(healed(&served), [(range(4, 11), 3)]);
    assert_eq!(served.last("r1").outcome, "zero gap");
    assert!(!served.primary.status().replicas[0].needs_rebuild);
    assert_equal(served.primary.volume(), &replica, end);
    // It takes records again, and a restart finds a whole log.
    let end = served.fill(0..4, 9);
    served.in_sync("r1", end);
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
    let volume = lab.open("r1", Access::Maintain);
    assert_eq!(volume.verify(&mut |_, _| {}).unwrap().damage, []);
    assert_eq!(volume.log().lost(), []);
    let all = LsnRange::new(Lsn::ZERO, end);
    assert_eq!(volume.log().read(all).unwrap().count() as u64, end.get());
    // What was damaged is kept aside.
    let kept = list(lab.disk.as_ref(), &lab.dir("r1").join("wal")).unwrap();
    assert!(kept.iter().any(|name| name.ends_with(".lost")), "{kept:?}");
}

#[test]
fn a_replica_gets_a_base_where_the_primary_has_reclaimed_what_it_lost() {
    let lab = Lab::new();
    let end = level(&lab, &["r1"]);
    lose(&lab, "r1", &[5]);
    let volume = lab.open("p", Access::Maintain);
    volume.advance_tail(Lsn::new(8)).unwrap();
    volume.close().unwrap();
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", end);
    assert_eq!(healed(&served), []);
    assert_eq!(served.last("r1").outcome, "rebuild");
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
}

// D15
#[test]
fn a_replica_gets_a_base_when_the_primary_finds_that_it_lost_the_record_too() {
    let lab = Lab::new();
    let end = level(&lab, &["r1"]);
    lose(&lab, "r1", &[5]);
    let volume = lab.open("p", Access::Primary);
    volume.commit_best_effort().unwrap();
    volume.checkpoint(Some(Lsn::new(12))).unwrap();
    // Nobody knows of it before the record is read for the replica.
    damage(&lab, &volume, Lsn::new(5));
    let replica = lab.replica("r1");
    let options = options(&[&replica]);
    let primary = Primary::start(&lab.disk, &lab.clock, volume, options).unwrap();
    let served = Served { primary };
    served.in_sync("r1", end);
    assert_eq!(healed(&served), []);
    assert_eq!(served.last("r1").source, "snapshot + tail");
    assert_equal(served.primary.volume(), &replica, end);
    served.primary.shutdown();
    replica.shutdown().unwrap();
}

#[test]
fn a_replica_of_another_history_takes_none_of_our_records_for_its_own() {
    let lab = Lab::new();
    level(&lab, &["r1"]);
    // Both write on by themselves: LSNs above the common ones name different records.
    lab.copy(&lab.dir("p"), &lab.dir("other"));
    let served = lab.serve("other", PrimaryOptions::default());
    let replica = lab.replica("r1");
    let strays = served.primary.volume().log().frontiers().head.next();
    drop(replica);
    served.fill(0..4, 50);
    served.stop();
    lab.promote("r1", 2);
    let volume = lab.open("r1", Access::Primary);
    for block in 0..6 {
        let bytes = [200; BLOCK_BYTES];
        volume
            .write(block * BLOCK, &bytes, Durability::Durable)
            .unwrap();
    }
    damage(&lab, &volume, strays);
    volume.close().unwrap();
    let meta = seawall_wal::Meta::open(&lab.disk, &lab.dir("r1"), true).unwrap();
    meta.update(|meta| meta.role = Role::Replica).unwrap();
    drop(meta);
    lab.promote("other", 3);
    let replica = lab.replica("r1");
    assert_eq!(replica.volume().unwrap().log().lost().len(), 1);
    let served = lab.serve("other", options(&[&replica]));
    let end = served.primary.volume().log().frontiers().head;
    served.in_sync("r1", end);
    assert_eq!(healed(&served), []);
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
}

// D14
#[test]
fn a_primary_takes_back_from_its_replicas_what_each_of_them_still_holds() {
    let lab = Lab::new();
    let end = level(&lab, &["r1", "r2"]);
    lose(&lab, "p", &[3, 9, 10, 20]);
    // Each replica lost something too, but no record is lost everywhere.
    lose(&lab, "r1", &[3]);
    lose(&lab, "r2", &[10]);
    let (r1, r2) = (lab.replica("r1"), lab.replica("r2"));
    let volume = lab.open("p", Access::Primary);
    assert!(volume.log().check_writable().is_err());
    let healed = Primary::heal(&volume, &options(&[&r1, &r2])).unwrap();
    assert_eq!(healed.records, 4);
    assert!(volume.is_closed());
    assert_eq!(healed.volume.log().lost(), []);
    assert_eq!(healed.volume.log().frontiers().durable, end);
    let options = options(&[&r1, &r2]);
    let primary = Primary::start(&lab.disk, &lab.clock, healed.volume, options).unwrap();
    let served = Served { primary };
    let end = served.fill(0..2, 40);
    for replica in [&r1, &r2] {
        served.in_sync(&replica.status().id.unwrap(), end);
        assert_equal(served.primary.volume(), replica, end);
    }
    served.stop();
    r1.shutdown().unwrap();
    r2.shutdown().unwrap();
}

#[test]
fn a_record_that_nobody_holds_is_named_and_the_damaged_log_stays_what_it_was() {
    let lab = Lab::new();
    level(&lab, &["r1"]);
    lose(&lab, "p", &[3, 9]);
    lose(&lab, "r1", &[9]);
    let replica = lab.replica("r1");
    let volume = lab.open("p", Access::Primary);
    let error = Primary::heal(&volume, &options(&[&replica])).unwrap_err();
    let Error::NotHealed {
        range: missing,
        causes,
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(*missing, range(8, 9));
    assert!(
        causes.contains("r1: ") && causes.contains("LSN 9"),
        "{causes}"
    );
    drop(volume);
    let volume = lab.open("p", Access::Maintain);
    assert_eq!(volume.log().lost(), [range(2, 3), range(8, 9)]);
    volume.close().unwrap();
    replica.shutdown().unwrap();
}

/// Everything of the volume into its image, and nothing of it left in the log.
fn reclaim(lab: &Lab, name: &str, through: Lsn) {
    let volume = lab.open(name, Access::Maintain);
    volume.advance_tail(through).unwrap();
    volume.close().unwrap();
}

/// Flips a bit of a block in the image of a volume at rest.
fn rot(lab: &Lab, name: &str, lba: u64) {
    let path = lab.dir(name).join("base/1/image");
    let image = File::open(&lab.disk, &path, OpenMode::ReadWrite).unwrap();
    let mut block = image.read_exact(lba * BLOCK, BLOCK_BYTES).unwrap().to_vec();
    block[99] ^= 4;
    image
        .write_bytes(lba * BLOCK, Buffer::copy_of(&block))
        .unwrap();
    image.sync().unwrap();
}

/// Looks through the image, and waits until `left` is what is damaged.
fn settles(served: &Served, volume: &Volume, left: &[u64]) {
    while !volume.scrub(u64::MAX).unwrap() {}
    let patience = PATIENCE.as_millis() / 10;
    let settled = (0..patience).any(|_| {
        served.primary.shared().pause(Duration::from_millis(10));
        volume.damaged_blocks(None, 99) == left
    });
    assert!(settled, "{:?}", volume.damaged_blocks(None, 99));
}

#[test]
fn a_damaged_block_of_either_image_comes_back_over_the_stream() {
    let lab = Lab::new();
    let end = level(&lab, &["r1"]);
    for name in ["p", "r1"] {
        reclaim(&lab, name, end);
    }
    rot(&lab, "p", 3);
    rot(&lab, "r1", 8);
    rot(&lab, "r1", 9);
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", end);
    let (ours, theirs) = (served.primary.volume(), replica.volume().unwrap());
    settles(&served, ours, &[]);
    settles(&served, &theirs, &[]);
    assert_eq!(ours.base_state().untrusted, None);
    assert_eq!(ours.scrub_status().repaired, 1);
    assert_eq!(theirs.scrub_status().repaired, 2);
    assert_equal(ours, &replica, end);
    assert_eq!(ours.verify(&mut |_, _| {}).unwrap().damage, []);
    assert_eq!(theirs.verify(&mut |_, _| {}).unwrap().damage, []);
    served.stop();
    replica.shutdown().unwrap();
}

#[test]
fn a_block_that_both_images_lost_stays_named_and_the_stream_goes_on() {
    let lab = Lab::new();
    let end = level(&lab, &["r1"]);
    for name in ["p", "r1"] {
        reclaim(&lab, name, end);
        rot(&lab, name, 3);
    }
    rot(&lab, "p", 5);
    let replica = lab.replica("r1");
    let served = lab.serve("p", options(&[&replica]));
    served.in_sync("r1", end);
    let theirs = replica.volume().unwrap();
    while !theirs.scrub(u64::MAX).unwrap() {}
    // Block 5 came back, so block 3 was asked for as well.
    settles(&served, served.primary.volume(), &[3]);
    assert_eq!(theirs.damaged_blocks(None, 9), [3]);
    // A new version writes over it.
    let end = served.fill(3..4, 77);
    served.in_sync("r1", end);
    assert_equal(served.primary.volume(), &replica, end);
    served.stop();
    replica.shutdown().unwrap();
}
