//! Mutated seeds through every decoder, a fixed number of them. The fuzz targets go further.

use super::*;

/// A target, what it checks, and how many inputs a seed gives it.
type Target = (&'static str, fn(&[u8]), u64);

const TARGETS: [Target; 6] = [
    ("record", record, 2000),
    ("frame", frame, 1000),
    ("index", index, 200),
    ("meta", meta, 100),
    ("segment", segment, 60),
    ("directory", directory, 60),
];

/// Small and repeatable.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        // One step of splitmix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).expect("below a length")
    }
}

/// Flips a bit, replaces a byte, writes a number that is at a limit, cuts, moves a piece.
fn mutate(bytes: &mut Vec<u8>, draw: &mut Draw) {
    let at = draw.below(bytes.len());
    match draw.below(6) {
        0 => bytes[at] ^= 1 << draw.below(8),
        1 => bytes[at] = bytes[at].wrapping_add(1),
        2 => bytes.truncate(at.max(1)),
        3 => {
            let limits = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, u64::from(u32::MAX)];
            let number = limits[draw.below(limits.len())].to_le_bytes();
            let width = number.len().min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        4 => {
            let length = draw.below(bytes.len() - at);
            let to = draw.below(bytes.len() - length);
            bytes.copy_within(at..at + length, to);
        }
        _ => bytes[0] = u8::try_from(draw.below(4)).expect("a mode"),
    }
}

#[test]
fn no_decoder_panics_over_mutated_bytes_and_what_it_accepts_it_writes_back() {
    let wanted = std::env::var("SEAWALL_SEEDS").ok();
    let count = wanted.map_or(4, |text| text.parse().expect("SEAWALL_SEEDS is a number"));
    let seeds = seeds();
    for (target, check, times) in TARGETS {
        let inputs: Vec<_> = seeds.iter().filter(|seed| seed.target == target).collect();
        assert!(!inputs.is_empty(), "{target} has no seed");
        for input in &inputs {
            check(&input.bytes);
        }
        for seed in 0..count {
            eprintln!("fuzzing: {target}, seed {seed}");
            let mut draw = Draw(seed);
            for _ in 0..times {
                let mut bytes = inputs[draw.below(inputs.len())].bytes.clone();
                for _ in 0..=draw.below(4) {
                    mutate(&mut bytes, &mut draw);
                }
                check(&bytes);
            }
        }
    }
}

/// A decoder that refused everything would pass above.
#[test]
fn the_seeds_are_accepted_by_their_decoders() {
    for seed in seeds() {
        let bytes = &seed.bytes[1..];
        match seed.target {
            "record" => drop(RecordHeader::decode(bytes).unwrap()),
            "frame" => drop(FrameHeader::decode(bytes).unwrap()),
            "directory" => {
                let files = mend::files(bytes);
                let disk = volume();
                for (name, bytes) in files {
                    match name {
                        mend::Name::Meta => put(&disk, &name.path(), &mend::meta(&bytes)),
                        _ => put(&disk, &name.path(), &bytes),
                    }
                }
                let log = open(&disk, LogMode::Writable, Lsn::ZERO).unwrap();
                assert!(log.frontiers().head >= Lsn::new(3), "{}", seed.name);
                append(&log).unwrap();
            }
            _ => {}
        }
    }
}

/// Writes the seeds to the corpus folders of the fuzz targets, if told where.
#[test]
fn seeds_are_written_where_the_fuzz_targets_look() {
    let Ok(corpus) = std::env::var("SEAWALL_FUZZ_CORPUS") else {
        return;
    };
    let disk: Arc<dyn Disk> = crate::disk::FileDisk::new();
    for seed in seeds() {
        let dir = Path::new(&corpus).join(seed.target);
        for dir in [Path::new(&corpus), &dir] {
            match disk::make_dir(disk.as_ref(), dir) {
                Ok(()) => {}
                Err(Error::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("{error}"),
            }
        }
        let path = dir.join(&seed.name);
        let file = File::open(&disk, &path, OpenMode::CreateOrOpen).unwrap();
        file.set_length(seed.bytes.len() as u64).unwrap();
        file.write_bytes(0, Buffer::copy_of(&seed.bytes)).unwrap();
    }
}

#[test]
fn a_frontier_that_nothing_reaches_costs_no_memory_for_each_lost_record() {
    // A sound frame said that 2^62 records were durable; each one became an entry of known damage.
    let seeds = seeds();
    let mut seeds = seeds.iter().filter(|seed| seed.target == "segment");
    let mut bytes = seeds.next().unwrap().bytes.clone();
    let frontier = 1 + frame::FRAME_ALIGNMENT + frame::layout::FRONTIER_AT;
    bytes[frontier..frontier + 8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    segment(&bytes);
}

#[test]
fn a_frame_with_the_last_of_all_numbers_is_damage() {
    // A sound frame said that everything was durable, and a read of the log panicked.
    let seeds = seeds();
    let seed = seeds.iter().find(|seed| seed.target == "segment").unwrap();
    for at in [frame::layout::FRONTIER_AT, frame::layout::COMMITTED_AT] {
        let mut bytes = seed.bytes.clone();
        let at = 1 + frame::FRAME_ALIGNMENT + at;
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        segment(&bytes);
        let (mode, bytes) = mend::split(&bytes).unwrap();
        let mut bytes = bytes.to_vec();
        mend::segment(&mut bytes, mode.links);
        let decoded = FrameHeader::decode(&bytes[frame::FRAME_ALIGNMENT..]);
        let Err(crate::Damage::Field { found, .. }) = decoded else {
            panic!("{decoded:?}");
        };
        assert_eq!(found, u64::MAX);
    }
}

/// A log whose meta was changed, closed before.
fn with_meta(change: impl FnOnce(&mut MetaContents)) -> Arc<dyn Disk> {
    let disk = volume();
    let mut meta = contents();
    change(&mut meta);
    Meta::create(&disk, Path::new(DIR), meta).unwrap();
    disk
}

#[test]
fn an_incarnation_that_meta_miscounts_leaves_a_meta_that_opens_again() {
    // The table of the lineage was written out of order, and no open could read it.
    let entry = crate::LineageEntry {
        epoch: Epoch::new(1),
        incarnation: Incarnation::new(9),
        first: Lsn::new(1),
    };
    let disk = with_meta(|meta| {
        meta.lineage = Lineage::from_entries(vec![entry]).unwrap();
        meta.tail = Lsn::new(5);
        meta.committed = Lsn::new(5);
        meta.origin = Lsn::new(5);
        meta.incarnation_next = Incarnation::new(2);
    });
    let log = open(&disk, LogMode::Writable, Lsn::new(5)).unwrap();
    assert_eq!(append(&log), Some(Lsn::new(6)));
    drop(log);
    let log = open(&disk, LogMode::Writable, Lsn::new(5)).unwrap();
    let written = log.lineage().last().unwrap();
    assert_eq!(written.incarnation, Incarnation::new(10));
}

#[test]
fn a_meta_that_leaves_nothing_to_count_with_or_to_write_to_is_damage() {
    let changes: [fn(&mut MetaContents); 6] = [
        |meta| meta.geometry.segment_bytes = 12_032,
        |meta| meta.geometry.segment_bytes = u64::MAX,
        |meta| meta.geometry.blocks = u64::MAX,
        |meta| meta.generation_next = u64::MAX,
        |meta| meta.tail = Lsn::new(u64::MAX),
        |meta| meta.incarnation_next = Incarnation::new(u64::MAX),
    ];
    for change in changes {
        let disk = with_meta(change);
        let opened = Meta::open(&disk, Path::new(DIR), true).map(drop);
        let Err(Error::Corrupt(corrupt)) = opened else {
            panic!("{opened:?}");
        };
        let what = corrupt.what;
        assert!(matches!(what, crate::Damage::Field { .. }), "{what:?}");
    }
}

#[test]
fn a_generation_that_meta_miscounts_leaves_a_log_that_rotates() {
    // The open panicked when it prepared a segment under a generation that was used before.
    for miscounted in [1, 2, 3] {
        let disk = with_meta(|_| ());
        let log = open(&disk, LogMode::Writable, Lsn::ZERO).unwrap();
        assert_eq!(append(&log), Some(Lsn::new(1)));
        log.close().unwrap();
        drop(log);
        let meta = Meta::open(&disk, Path::new(DIR), true).unwrap();
        meta.update(|meta| meta.generation_next = miscounted)
            .unwrap();
        drop(meta);
        for expected in 2..40 {
            let log = open(&disk, LogMode::Writable, Lsn::ZERO).unwrap();
            assert_eq!(append(&log), Some(Lsn::new(expected)));
            if expected % 2 == 0 {
                log.close().unwrap();
            }
        }
    }
}
