//! Seeds: inputs cut out of real logs, one for each thing a log may hold.

use std::path::Path;
use std::sync::Arc;

use super::mend::{self, Name};
use super::{DIR, LOG, contents, open, segment_path, volume};
use crate::disk::{Buffer, Disk, File, OpenMode};
use crate::frame::{FRAME_ALIGNMENT, FrameHeader};
use crate::meta::{COPY_BYTES, header as meta_at};
use crate::{BlockSize, Change, Epoch, Lba, Log, LogMode, Lsn, Meta, RecordHeader};

/// An input for one target.
#[derive(Debug)]
pub struct Seed {
    /// The target that takes it.
    pub target: &'static str,
    /// What it holds.
    pub name: String,
    /// The input.
    pub bytes: Vec<u8>,
}

fn write(lsn: u64, blocks: usize) -> Change {
    let payload = Buffer::copy_of(&vec![7; blocks * 512]);
    let block = BlockSize::from_shift(9).expect("the smallest block");
    Change::write(Lba(lsn), block, payload)
}

fn append(log: &Arc<Log>, changes: Vec<Change>) {
    let ticket = log.append(changes).expect("an empty log");
    ticket.wait().expect("a sound disk");
}

/// A log with every kind of record and frame: it rotates, is truncated, and may be closed.
fn story(closed: bool, rotations: bool) -> Arc<dyn Disk> {
    let disk = volume();
    Meta::create(&disk, Path::new(DIR), contents()).expect("an empty disk");
    let log = open(&disk, LogMode::Writable, Lsn::ZERO).expect("an empty log");
    log.start_incarnation(Epoch::new(1)).expect("an empty log");
    append(&log, vec![write(1, 1), Change::trim(Lba(4), 8)]);
    append(&log, vec![Change::write_zeroes(Lba(9), 3, true)]);
    if rotations {
        for lsn in 4..8 {
            append(&log, vec![write(lsn, 20), write(lsn + 1, 3)]);
        }
        log.mark().expect("a sound disk");
        log.truncate(Lsn::new(9)).expect("above every bound");
        log.start_incarnation(Epoch::new(2)).expect("a sound disk");
        append(&log, vec![write(10, 2)]);
        while log.step().expect("a sound disk") {}
    }
    match closed {
        true => log.close().expect("a sound disk"),
        false => log.stop(),
    }
    disk
}

fn read(disk: &Arc<dyn Disk>, path: &Path) -> Option<Vec<u8>> {
    let file = File::open(disk, path, OpenMode::Read).ok()?;
    let length = usize::try_from(file.length().ok()?).ok()?;
    Some(file.read(0, length).ok()?.to_vec())
}

/// The body of the first copy of a meta file.
fn body(disk: &Arc<dyn Disk>) -> Vec<u8> {
    let bytes = read(disk, &Path::new(DIR).join("meta")).expect("a volume has meta");
    assert_eq!(bytes.len(), 2 * COPY_BYTES);
    let length = &bytes[meta_at::LENGTH_AT..meta_at::COUNTER_AT];
    let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
    bytes[meta_at::BYTES..meta_at::BYTES + length].to_vec()
}

/// A segment without the zeros behind its last frame.
fn short(mut bytes: Vec<u8>) -> Vec<u8> {
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    bytes.truncate(used.next_multiple_of(FRAME_ALIGNMENT));
    bytes
}

/// Inputs for every target, cut out of logs that were just written.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, closed, rotations) in [
        ("small", false, false),
        ("closed", true, false),
        ("rotated", false, true),
    ] {
        let disk = story(closed, rotations);
        of_volume(name, &disk, &mut seeds);
    }
    for (number, blocks) in [1, 8].into_iter().enumerate() {
        let log = open_fresh();
        append(&log, vec![write(1, blocks)]);
        let all = crate::LsnRange::new(Lsn::ZERO, Lsn::new(1));
        let record = log.read(all).expect("it is there").next();
        let record = record.expect("one record").expect("it is whole");
        let mut bytes = vec![1];
        bytes.extend(record.header().encode());
        bytes.extend(record.payload().iter());
        seeds.push(Seed {
            target: "record",
            name: format!("write{number}"),
            bytes,
        });
    }
    seeds
}

fn open_fresh() -> Arc<Log> {
    let disk = volume();
    Meta::create(&disk, Path::new(DIR), contents()).expect("an empty disk");
    let log = open(&disk, LogMode::Writable, Lsn::ZERO).expect("an empty log");
    log.start_incarnation(Epoch::new(1)).expect("an empty log");
    log
}

fn of_volume(name: &str, disk: &Arc<dyn Disk>, seeds: &mut Vec<Seed>) {
    let mut push = |target, name: String, mode: u8, bytes: &[u8]| {
        let mut input = vec![mode];
        input.extend(bytes);
        seeds.push(Seed {
            target,
            name,
            bytes: input,
        });
    };
    let body = body(disk);
    push("meta", name.to_owned(), 1, &body);
    let mut all = Vec::new();
    mend::patches(Name::Meta, &body, &mut all);
    for slot in 0..u32::from(Name::SLOTS) {
        let path = segment_path(slot);
        if let Some(bytes) = read(disk, &path) {
            mend::patches(Name::Segment(slot), &bytes, &mut all);
            let bytes = short(bytes);
            push("segment", format!("{name}{slot}"), 3, &bytes);
            let frames = bytes.chunks_exact(FRAME_ALIGNMENT);
            for (number, page) in frames.enumerate().skip(1) {
                if let Ok((_, records, _)) = FrameHeader::decode(page) {
                    push("frame", format!("{name}{slot}-{number}"), 1, page);
                    for record in records {
                        let kind = record.kind;
                        let bytes = RecordHeader::encode(&record);
                        push(
                            "record",
                            format!("{name}{slot}-{number}-{kind:?}"),
                            1,
                            &bytes,
                        );
                    }
                }
            }
        }
        if let Some(bytes) = read(disk, &crate::index::path_of(&path)) {
            mend::patches(Name::Index(slot), &bytes, &mut all);
            push("index", format!("{name}{slot}"), 1, &bytes);
        }
    }
    push("directory", name.to_owned(), 3, &all);
    push("directory", format!("{name}-unmended"), 0, &all);
    debug_assert_eq!(LOG, contents().log, "indexes are of this log");
}
