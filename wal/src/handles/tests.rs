//! However long a log is, few of its files are open.

use std::path::Path;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;
use crate::damage_tests::{change, stamps};
use crate::disk::sim::SimDisk;
use crate::disk::{self, FileDisk};
use crate::log::DIR_NAME;
use crate::tests::contents;
use crate::*;

/// Room for one record of a block.
const SEGMENT_BYTES: u64 = 16 << 10;

fn create(disk: &Arc<dyn Disk>, dir: &Path) {
    disk::make_dir(disk.as_ref(), dir).unwrap();
    disk::make_dir(disk.as_ref(), &dir.join(DIR_NAME)).unwrap();
    disk::sync_dir(disk.as_ref(), dir).unwrap();
    disk::sync_dir(disk.as_ref(), dir.parent().unwrap()).unwrap();
    let mut contents = contents();
    contents.geometry.segment_bytes = SEGMENT_BYTES;
    Meta::create(disk, dir, contents).unwrap();
}

fn open(disk: &Arc<dyn Disk>, dir: &Path, checkpoint: u64) -> Arc<Log> {
    let meta = Arc::new(Meta::open(disk, dir, true).unwrap());
    let (clock, mode) = (SystemClock::new(), LogMode::Writable);
    let (log, _) = Log::open(disk, dir, &meta, &clock, mode, Lsn::new(checkpoint)).unwrap();
    log.start_incarnation(Epoch::new(1)).unwrap();
    log
}

fn stamp(lsn: u64) -> u8 {
    u8::try_from(lsn % 251).unwrap()
}

/// One record a segment, through `last`.
fn fill(log: &Arc<Log>, last: u64) {
    for lsn in log.frontiers().head.get() + 1..=last {
        let appended = log.append(vec![change(stamp(lsn))]).unwrap();
        appended.wait().unwrap();
        while log.disk().is_stepped() && log.step().unwrap() {}
    }
}

fn expect(log: &Arc<Log>, after: u64, through: u64) {
    let expected: Vec<u8> = (after + 1..=through).map(stamp).collect();
    assert!(stamps(log, after, through) == expected);
    // One by one and against the order, so that no handle is the one of the read before.
    for lsn in (after + 1..=through).rev().step_by(7) {
        let record = log.read_record(Lsn::new(lsn)).unwrap();
        assert_eq!(record.payload()[0], stamp(lsn));
    }
}

/// Fills a log, reads it, opens it anew, and drops both of its ends.
fn live_through(disk: &Arc<dyn Disk>, dir: &Path, segments: u64) {
    create(disk, dir);
    let log = open(disk, dir, 0);
    fill(&log, segments);
    assert!(log.segments().len() as u64 >= segments);
    expect(&log, 0, segments);
    log.stop();
    drop(log);

    let log = open(disk, dir, 0);
    expect(&log, 0, segments);
    let kept = segments - segments / 4;
    log.truncate(Lsn::new(kept)).unwrap();
    let gone = segments / 4;
    log.commit(Lsn::new(gone)).unwrap();
    log.set_checkpoint(Lsn::new(gone));
    log.reclaim(Lsn::new(gone)).unwrap();
    while log.step().unwrap() {}
    log.start_incarnation(Epoch::new(1)).unwrap();
    fill(&log, kept + 50);
    expect(&log, gone, kept + 50);
    log.close().unwrap();
}

/// Of so many segments in the gate; `SEAWALL_SEGMENTS` says how many in a campaign.
#[test]
fn a_log_of_many_segments_takes_few_descriptors() {
    let segments = std::env::var("SEAWALL_SEGMENTS").map_or(500, |text| text.parse().unwrap());
    let sim = SimDisk::new(1);
    let disk: Arc<dyn Disk> = sim.clone();
    live_through(&disk, Path::new("/volume"), segments);
    let most = sim.descriptors_max();
    assert!(most < 64, "{most} descriptors");
}

const CHILD: &str = "SEAWALL_TEST_FEW_DESCRIPTORS";

/// The limit holds for a whole process, so the test runs itself in one of its own.
#[test]
fn a_process_of_few_descriptors_opens_a_log_of_many_segments() {
    let name = "handles::tests::a_process_of_few_descriptors_opens_a_log_of_many_segments";
    if std::env::var_os(CHILD).is_none() {
        let test = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(test);
        let child = child.args(["--exact", name, "--nocapture"]);
        let ended = child.env(CHILD, "1").output().unwrap();
        assert!(ended.status.success(), "{ended:?}");
        return;
    }
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = Some(128);
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let disk = disk::open_backend(disk::Choice::Auto).unwrap();
    live_through(&disk, &temp.path().join("volume"), 150);
    let portable: Arc<dyn Disk> = FileDisk::new();
    let log = open(&portable, &temp.path().join("volume"), 37);
    expect(&log, 37, 163);
}
