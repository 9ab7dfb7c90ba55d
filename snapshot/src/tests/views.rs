//! Pinned views while the volume moves on.

use super::*;
use crate::{CHUNK_BYTES, Chunk, Chunks, chunk_digest, read_chunk};
use seawall_wal::IoOp;
use seawall_wal::PinKind;
use seawall_wal::disk::sim::{Effect, Fault};

const CHUNK_BLOCKS: u64 = (CHUNK_BYTES / BLOCK) as u64;

#[test]
fn a234_a_snapshot_pin_reads_the_old_state_during_and_after_a_checkpoint() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    for value in 1..=50 {
        put(&volume, u64::from(value % 10), value);
    }
    volume.checkpoint(Some(lsn(50))).unwrap();
    let before = state(&volume, 50);
    let pin = volume.pin_snapshot("rebuild").unwrap();
    for value in 51..=100 {
        put(&volume, u64::from(value % 20), value);
    }
    volume
        .trim(0, 5 * BLOCK as u64, Durability::Durable)
        .unwrap();
    volume.checkpoint(Some(lsn(75))).unwrap();
    assert_eq!(contents(&pin), before);
    volume.checkpoint(None).unwrap();
    assert_eq!(contents(&pin), before);
    assert_eq!(pin.lsn(), lsn(50));
    assert_eq!(pin.digest().unwrap(), digest_of(&before));
    assert_eq!(get(&volume, 15), 95);
    // The log after the view stays for its tail.
    assert_eq!(volume.advance_tail(lsn(101)).unwrap(), lsn(50));
    let tail = pin.wal_pin("stream").unwrap();
    drop(pin);
    assert_eq!(tail.after(), lsn(50));
    assert_eq!(volume.advance_tail(lsn(101)).unwrap(), lsn(50));
    drop(tail);
    assert_eq!(volume.advance_tail(lsn(101)).unwrap(), lsn(101));
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn a234_a_snapshot_pin_reads_the_old_state_wherever_a_checkpoint_stands() {
    for written in 0.. {
        let sim = SimDisk::new(1);
        let volume = Place::simulated(&sim).primary();
        for value in 1..=50 {
            put(&volume, u64::from(value % 25) * 2, value);
        }
        volume.checkpoint(Some(lsn(50))).unwrap();
        let before = state(&volume, 50);
        let pin = volume.pin_snapshot("rebuild").unwrap();
        // Every third block, so that the image is written in many places.
        for value in 51..=70 {
            put(&volume, u64::from(value - 50) * 3, value);
        }
        let full = Effect::Fail(std::io::ErrorKind::StorageFull);
        sim.inject(Fault::at(IoOp::Write, full).on("/image").after(written));
        let stopped = volume.checkpoint(None).is_err();
        assert_eq!(contents(&pin), before, "{written} writes");
        assert_eq!(pin.digest().unwrap(), digest_of(&before));
        if !stopped {
            assert!(written >= 10, "{written} writes");
            break;
        }
        sim.clear_faults();
        assert_eq!(volume.checkpoint(None).unwrap(), lsn(70));
        assert_eq!(contents(&pin), before, "{written} writes, and the rest");
    }
}

#[test]
fn a235_a_base_pin_reads_its_target_whatever_is_written_and_captured() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for value in 1..=100 {
        put(&volume, u64::from(value % 16), value);
        if value == 50 {
            volume.checkpoint(None).unwrap();
        }
    }
    let expected = state(&volume, 100);
    let pin = volume.pin_base(lsn(100), "full base").unwrap();
    assert_eq!(pin.checkpoint(), Some(lsn(50)));
    for value in 101..=200 {
        put(&volume, u64::from(value % 24), value);
        if value == 175 {
            volume.checkpoint(Some(lsn(150))).unwrap();
        }
    }
    assert_eq!(contents(&pin), expected);
    assert_eq!(pin.digest().unwrap(), digest_of(&expected));
    assert_eq!(volume.base_state().checkpoint, lsn(150));
}

#[test]
fn a_base_above_durable_is_refused() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    put(&volume, 1, 1);
    let head = volume.write(0, &[2; BLOCK], Durability::Volatile).unwrap();
    assert!(matches!(
        volume.pin_base(head, "full base"),
        Err(Error::Log(seawall_wal::Error::BeyondHead { through, head }))
            if through == lsn(2) && head == lsn(1)
    ));
}

#[test]
fn pins_are_listed_with_their_owner_until_they_drop() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    put(&volume, 1, 1);
    let snapshot = volume.pin_snapshot("r1").unwrap();
    let base = volume.pin_base(lsn(1), "r2").unwrap();
    let listed = |kind, owner: &str| {
        let pins = volume.pins();
        pins.iter()
            .any(|pin| pin.kind == kind && pin.owner == owner)
    };
    assert!(listed(PinKind::Snapshot, "r1") && listed(PinKind::Base, "r2"));
    drop((snapshot, base));
    assert_eq!(volume.pins(), []);
}

#[test]
fn preserved_blocks_go_with_their_view_and_never_outlive_a_process() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    let preserved = |sim: &SimDisk| {
        let paths = sim.paths();
        let names = paths.iter().filter_map(|path| path.file_name()?.to_str());
        names.filter(|name| name.starts_with("preserved-")).count()
    };
    let rewrite = |from: u8| {
        put(&volume, 1, from);
        volume.checkpoint(None).unwrap();
        let pin = volume.pin_snapshot("test").unwrap();
        put(&volume, 1, from + 1);
        volume.checkpoint(None).unwrap();
        assert_eq!(contents(&pin), [(1, from)]);
        pin
    };
    let first = rewrite(10);
    assert_eq!(preserved(&sim), 1);
    drop(first);
    assert_eq!(preserved(&sim), 0);
    let _second = rewrite(20);
    let after = sim.crash_keep_all();
    assert_eq!(preserved(&after), 1);
    let _volume = reopen(&after);
    assert_eq!(preserved(&after), 0);
}

#[test]
fn a_view_that_cannot_be_preserved_is_broken_and_stops_no_checkpoint() {
    let sim = SimDisk::new(1);
    let volume = Place::simulated(&sim).primary();
    put(&volume, 1, 1);
    volume.checkpoint(None).unwrap();
    let pin = volume.pin_snapshot("slow replica").unwrap();
    put(&volume, 1, 2);
    let full = Effect::Fail(std::io::ErrorKind::StorageFull);
    sim.inject(Fault::at(IoOp::Write, full).on("preserved-"));
    assert_eq!(volume.checkpoint(None).unwrap(), lsn(2));
    let mut out = [0; BLOCK];
    assert!(matches!(
        pin.read(BLOCK as u64, &mut out),
        Err(Error::Log(seawall_wal::Error::PinBroken { after, .. })) if after == lsn(1)
    ));
    // A new pin gets a new view.
    assert_eq!(contents(&volume.pin_snapshot("again").unwrap()), [(1, 2)]);
}

#[test]
fn chunks_cover_a_view_in_order_with_holes_as_ranges() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let mut options = options(Role::Primary);
    // Five chunks, the last one short.
    options.geometry = geometry(4 * 256 + 8);
    place.create("volume", options);
    let volume = place.open("volume");
    put(&volume, 256, 5);
    put(&volume, 4 * 256 + 7, 6);
    let view = volume.state_at(lsn(2), "test").unwrap();
    let chunks: Vec<Chunk> = Chunks::of(&view).map(Result::unwrap).collect();
    let mut second = vec![0; CHUNK_BYTES];
    second[..BLOCK].fill(5);
    let mut last = vec![0; 8 * BLOCK];
    last[7 * BLOCK..].fill(6);
    let data = |index, bytes: &[u8]| Chunk::Data {
        index,
        digest: chunk_digest(bytes, BlockSize::DEFAULT),
    };
    let zero = |first, count| Chunk::Zero { first, count };
    let (one, four) = (data(1, &second), data(4, &last));
    let all = [zero(0, 1), one.clone(), zero(2, 2), four.clone()];
    assert_eq!(chunks, all);
    let resumed = |first| Chunks::from(&view, first).map(Result::unwrap);
    assert_eq!(resumed(1).collect::<Vec<_>>(), all[1..]);
    assert_eq!(resumed(3).collect::<Vec<_>>(), [zero(3, 1), four]);
    assert_eq!(resumed(5).count(), 0);
    let read = read_chunk(&view, 1).unwrap();
    assert_eq!(
        read,
        (second.clone(), chunk_digest(&second, BlockSize::DEFAULT))
    );
    // The digests of a pinned base come from its sums and from the log above it.
    volume.checkpoint(Some(lsn(1))).unwrap();
    volume.log().sync().unwrap();
    let pin = volume.pin_base(lsn(2), "test").unwrap();
    assert_eq!(pin.checkpoint(), Some(lsn(1)));
    let image = Path::new("/volume/base/1/image");
    sim.set_unreadable(image, 0..volume.size()).unwrap();
    let chunks: Vec<Chunk> = Chunks::of(&pin).map(Result::unwrap).collect();
    assert_eq!(chunks, all);
    let empty = volume.state_at(Lsn::ZERO, "test").unwrap();
    let chunks: Vec<Chunk> = Chunks::of(&empty).map(Result::unwrap).collect();
    assert_eq!(chunks, [zero(0, 5)]);
}

#[test]
fn an_inspector_never_mixes_its_state_with_a_newer_base() {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    let volume = place.primary();
    for value in 1..=20 {
        put(&volume, u64::from(value), value);
    }
    volume.checkpoint(Some(lsn(10))).unwrap();
    let inspected = place.try_open("volume", Access::ReadOnly).unwrap();
    let view = inspected.state_at(lsn(15), "export").unwrap();
    let mut out = [0; BLOCK];
    view.read(5 * BLOCK as u64, &mut out).unwrap();
    put(&volume, 5, 99);
    volume.checkpoint(None).unwrap();
    let overtaken = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::Overtaken { .. })), "{result:?}");
    };
    overtaken(view.read(5 * BLOCK as u64, &mut out));
    overtaken(view.digest().map(drop));
    overtaken(inspected.read(5 * BLOCK as u64, &mut out));
    overtaken(inspected.next_data(0).map(drop));
    // Verify looks again, and finds what it looks at whole.
    assert_eq!(damage_of(&inspected), []);
    let again = place.try_open("volume", Access::ReadOnly).unwrap();
    assert_eq!(get(&again, 5), 99);
}

/// Counts how often a view is asked where its data is.
#[derive(Debug)]
struct Counted<'a>(&'a dyn View, std::sync::atomic::AtomicU64);

impl View for Counted<'_> {
    fn lsn(&self) -> Lsn {
        self.0.lsn()
    }

    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.0.read(offset, out)
    }

    fn sums(&self, bytes: std::ops::Range<u64>) -> Result<Vec<Digest>, Error> {
        self.0.sums(bytes)
    }

    fn block_size(&self) -> BlockSize {
        self.0.block_size()
    }

    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>, Error> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.next_data(offset)
    }

    fn digest(&self) -> Result<Digest, Error> {
        self.0.digest()
    }
}

#[test]
fn the_data_of_a_view_is_looked_for_once_for_each_run_and_not_for_each_chunk() {
    // Small records over an image that is full: 3 chunks, a hole of 2, and 1 chunk.
    let place = Place::simulated(&SimDisk::new(1));
    let volume = place.primary_of(6 * CHUNK_BLOCKS);
    for chunk in [0, 1, 2, 5] {
        let bytes = vec![7; CHUNK_BYTES];
        let offset = chunk * CHUNK_BYTES as u64;
        volume.write(offset, &bytes, Durability::Durable).unwrap();
    }
    let captured = volume.flush().unwrap();
    volume.log().commit(captured).unwrap();
    volume.checkpoint(None).unwrap();
    for lba in (0..3 * CHUNK_BLOCKS).step_by(2) {
        put(&volume, lba, 9);
    }
    let pin = volume.pin_base(volume.flush().unwrap(), "test").unwrap();
    let counted = Counted(&pin, 0.into());
    let chunks: Vec<Chunk> = Chunks::of(&counted).map(Result::unwrap).collect();
    let direct: Vec<Chunk> = Chunks::of(&pin).map(Result::unwrap).collect();
    assert_eq!(chunks, direct);
    assert_eq!(chunks.len(), 5, "{chunks:?}");
    let asked = counted.1.into_inner();
    assert!(asked <= 2, "asked {asked} times for two runs of data");
}
