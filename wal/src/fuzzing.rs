//! What must hold for every decoder of the crate whatever bytes it is given (W12): it does not
//! panic, what it accepts it writes back as it was, and a log that opened over any files keeps what
//! it acknowledges. Fuzz targets call these functions, and so does a test with mutated seeds.
//!
//! Every format here carries sums, which chance never hits. The first byte of an input says whether
//! the sums, and the links between frames, are made right before anybody reads it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::sim::SimDisk;
use crate::disk::{self, Buffer, Disk, File, OpenMode};
use crate::frame::{self, FrameHeader};
use crate::handles::Handles;
use crate::log::DIR_NAME;
use crate::segment::{SegmentFile, file_name};
use crate::{
    BlockSize, Change, Clock, Epoch, Error, Geometry, Incarnation, Lba, Lineage, Log, LogId,
    LogMode, Lsn, LsnRange, Meta, MetaContents, RecordHeader, Role, VolumeId,
};

mod mend;
mod seeds;
#[cfg(test)]
mod tests;

pub use seeds::{Seed, seeds};

const DIR: &str = "/volume";
const VOLUME: VolumeId = VolumeId([1; 16]);
const LOG: LogId = LogId([2; 16]);
/// Small, so that an input holds several.
const SEGMENT_BYTES: u64 = 48 << 10;
/// Larger segments of a mutated meta are opened for inspection only: preparing one writes it.
const SEGMENT_BYTES_MAX: u64 = 1 << 20;

/// Time stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn unix_ns(&self) -> u64 {
        1
    }

    fn monotonic_ns(&self) -> u64 {
        1
    }
}

fn contents() -> MetaContents {
    let geometry = Geometry {
        block_size: BlockSize::from_shift(9).expect("the smallest block"),
        blocks: 1 << 20,
        segment_bytes: SEGMENT_BYTES,
    };
    MetaContents::of_new(VOLUME, LOG, geometry, Role::Primary)
}

/// A directory on a simulated disk, durable.
fn volume() -> Arc<dyn Disk> {
    let disk: Arc<dyn Disk> = SimDisk::new(7);
    let dir = Path::new(DIR);
    for path in [dir.to_path_buf(), dir.join(DIR_NAME)] {
        disk::make_dir(disk.as_ref(), &path).expect("an empty disk");
    }
    for path in [Path::new("/"), dir] {
        disk::sync_dir(disk.as_ref(), path).expect("an empty disk");
    }
    disk
}

fn put(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) {
    let file = File::open(disk, path, OpenMode::CreateOrOpen).expect("a fresh disk");
    file.write_bytes(0, Buffer::copy_of(bytes))
        .expect("a fresh disk");
    file.sync().expect("a fresh disk");
    let parent = path.parent().expect("a path in the volume");
    disk::sync_dir(disk.as_ref(), parent).expect("a fresh disk");
}

fn segment_path(slot: u32) -> PathBuf {
    Path::new(DIR).join(DIR_NAME).join(file_name(slot))
}

fn open(disk: &Arc<dyn Disk>, mode: LogMode, checkpoint: Lsn) -> Result<Arc<Log>, Error> {
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(disk, dir, mode == LogMode::Writable)?);
    let clock: Arc<dyn Clock> = Arc::new(Still);
    Log::open(disk, dir, &meta, &clock, mode, checkpoint).map(|(log, _)| log)
}

/// A record header and the payload behind it.
pub fn record(data: &[u8]) {
    let Some((mode, bytes)) = mend::split(data) else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mode.sums {
        mend::record(&mut bytes);
    }
    let Ok(header) = RecordHeader::decode(&bytes) else {
        return;
    };
    assert_eq!(
        header.encode()[..],
        bytes[..RecordHeader::BYTES],
        "canonical"
    );
    assert_eq!(RecordHeader::decode(&header.encode()), Ok(header));
    let payload = bytes.get(RecordHeader::BYTES..).unwrap_or(&[]);
    let payload = payload.get(..header.payload_bytes()).unwrap_or(payload);
    let first = bytes.first_chunk().expect("a header was decoded");
    let whole = RecordHeader::decode_verified(first, payload);
    assert_eq!(
        whole.is_ok(),
        header.verify(payload).is_ok(),
        "one judgement"
    );
    let record = crate::Record::verified(header, Arc::new(Buffer::copy_of(payload)));
    assert_eq!(record.is_ok(), whole.is_ok(), "one judgement");
}

/// The header page of a frame.
pub fn frame(data: &[u8]) {
    let Some((mode, bytes)) = mend::split(data) else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mode.sums {
        mend::frame(&mut bytes);
    }
    let Ok((header, records, digest)) = FrameHeader::decode(&bytes) else {
        return;
    };
    let used = frame::headers_bytes(records.len());
    let encoded: Vec<_> = records.iter().map(RecordHeader::encode).collect();
    let (page, again) = header.encode(&encoded);
    assert_eq!(page[..used], bytes[..used], "canonical");
    assert_eq!(again, digest, "one digest");
    assert_eq!(
        header.last().get() - header.after.get(),
        records.len() as u64
    );
    let decoded = FrameHeader::decode(&page).expect("what was encoded");
    assert_eq!(decoded, (header, records, digest));
}

/// A segment file: looked at alone, and as the only one of a log.
pub fn segment(data: &[u8]) {
    let Some((mode, bytes)) = mend::split(data) else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mode.sums {
        mend::segment(&mut bytes, mode.links);
    }
    let disk = volume();
    put(&disk, &segment_path(0), &bytes);
    look_at(&disk, 0);
    let mut meta = contents();
    meta.first_generation = Some(1);
    meta.generation_next = 2;
    Meta::create(&disk, Path::new(DIR), meta).expect("a fresh disk");
    check_log(&disk);
}

fn look_at(disk: &Arc<dyn Disk>, slot: u32) {
    let mut seen = 0;
    let looked = crate::inspect_segment(disk, &segment_path(slot), &mut |_| seen += 1);
    if let Err(error) = looked {
        assert!(
            matches!(error, Error::Corrupt { .. } | Error::Io { .. }),
            "{error:?}"
        );
    }
}

/// The body of meta under sums that hold, or a copy with whatever sum it has.
pub fn meta(data: &[u8]) {
    let Some((mode, bytes)) = mend::split(data) else {
        return;
    };
    let dir = Path::new(DIR);
    let disk = volume();
    match mode.sums {
        true => put(&disk, &dir.join("meta"), &mend::meta(bytes)),
        false => put(&disk, &dir.join("meta"), bytes),
    }
    let Ok(meta) = Meta::open(&disk, dir, false) else {
        return;
    };
    let contents = meta.get();
    let again = volume();
    Meta::create(&again, dir, contents.clone()).expect("a fresh disk");
    let read = Meta::open(&again, dir, true).expect("what was written");
    assert_eq!(read.get(), contents, "read as it was written");
    assert_eq!(read.verify().len(), 0);
}

/// A sealed index: its header, then its pages of entries.
pub fn index(data: &[u8]) {
    let Some((mode, bytes)) = mend::split(data) else {
        return;
    };
    let mut bytes = bytes.to_vec();
    if mode.sums {
        mend::index(&mut bytes);
    }
    let disk = volume();
    let path = segment_path(0);
    put(&disk, &path, &[0; 4096]);
    put(&disk, &crate::index::path_of(&path), &bytes);
    let dir = path.parent().expect("a segment lies in a directory");
    let segment = SegmentFile::at_rest(&Handles::new(&disk), dir, 0, 1);
    let Some((_, index)) = crate::index::open(&segment, LOG) else {
        return;
    };
    let lsns = index.lsns();
    let count = lsns.through.get() - lsns.after.get();
    assert!(
        count * 32 <= bytes.len() as u64,
        "{count} entries in {} bytes",
        bytes.len()
    );
    if let Some(entries) = index.entries(lsns) {
        assert_eq!(entries.len() as u64, count);
        let mut lsn = lsns.after;
        for entry in entries {
            lsn = lsn.next();
            assert_eq!(entry.lsn, lsn, "one entry for each LSN");
        }
    }
}

/// A volume of several files.
pub fn directory(data: &[u8]) {
    let Some((mode, bytes)) = mend::split(data) else {
        return;
    };
    let disk = volume();
    for (file, mut bytes) in mend::files(bytes) {
        match file {
            mend::Name::Meta => bytes = mend::meta(&bytes),
            mend::Name::Segment(_) if mode.sums => mend::segment(&mut bytes, mode.links),
            mend::Name::Index(_) if mode.sums => mend::index(&mut bytes),
            _ => {}
        }
        put(&disk, &file.path(), &bytes);
        if let mend::Name::Segment(slot) = file {
            look_at(&disk, slot);
        }
    }
    check_log(&disk);
}

/// Opens whatever lies there, reads it, appends to it, and finds the appended record again.
fn check_log(disk: &Arc<dyn Disk>) {
    let Ok(meta) = Meta::open(disk, Path::new(DIR), false) else {
        return;
    };
    let (checkpoint, segment_bytes) = (meta.get().tail, meta.get().geometry.segment_bytes);
    drop(meta);
    if let Ok(log) = open(disk, LogMode::ReadOnly, checkpoint) {
        read_all(&log);
    }
    if segment_bytes > SEGMENT_BYTES_MAX {
        return;
    }
    let Ok(log) = open(disk, LogMode::Writable, checkpoint) else {
        return;
    };
    read_all(&log);
    let Some(head) = append(&log) else { return };
    drop(log);
    let log = open(disk, LogMode::Writable, checkpoint).expect("it was written to");
    assert_eq!(
        log.frontiers().head,
        head,
        "the acknowledged record is the last"
    );
    let last = LsnRange::new(head.before(), head);
    let records: Vec<_> = log.read(last).expect("it is there").collect();
    let record = records.first().and_then(|record| record.as_ref().ok());
    let record = record.expect("it is whole");
    assert_eq!(record.payload()[..], [9; 512]);
    log.close().expect("nothing failed");
}

fn read_all(log: &Arc<Log>) {
    let frontiers = log.frontiers();
    let first = log.first_retained();
    if first > frontiers.head {
        return;
    }
    let all = LsnRange::new(first.before(), frontiers.head);
    let proven = log.prove(all).is_ok();
    let Ok(records) = log.read(all) else {
        assert!(!proven, "what is proven is read");
        return;
    };
    let mut lsn = all.after;
    for record in records {
        let Ok(record) = record else { break };
        lsn = lsn.next();
        assert_eq!(record.lsn(), lsn, "dense");
        assert_eq!(record.header().verify(record.payload()), Ok(()));
    }
    let whole = log.prove_full(all).is_ok();
    assert_eq!(
        whole,
        lsn == frontiers.head,
        "read to the end iff all is whole"
    );
}

/// The head, when the log takes a record and acknowledges it.
fn append(log: &Arc<Log>) -> Option<Lsn> {
    log.start_incarnation(
        log.lineage()
            .last()
            .map_or(Epoch::new(1), |last| last.epoch),
    )
    .ok()?;
    let block = BlockSize::from_shift(9)?;
    let change = Change::write(Lba(3), block, Buffer::copy_of(&[9; 512]));
    let ticket = log.append(vec![change]).ok()?;
    let lsn = ticket.range().through;
    ticket.wait().ok()?;
    Some(lsn)
}
