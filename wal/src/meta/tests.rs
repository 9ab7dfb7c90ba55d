//! The bytes of meta, and which of its copies is believed.

use super::*;
use crate::disk::sim::SimDisk;

pub(crate) fn sample() -> MetaContents {
    MetaContents {
        volume: VolumeId([7; 16]),
        log: LogId([9; 16]),
        geometry: Geometry {
            block_size: BlockSize::DEFAULT,
            blocks: 1000,
            segment_bytes: 1 << 20,
        },
        role: Role::Replica,
        epoch: Epoch::new(3),
        lineage: Lineage::default().with(LineageEntry {
            epoch: Epoch::new(3),
            incarnation: Incarnation::new(4),
            first: Lsn::new(5),
        }),
        committed: Lsn::new(90),
        tail: Lsn::new(10),
        origin: Lsn::ZERO,
        first_generation: Some(6),
        generation_next: 12,
        incarnation_next: Incarnation::new(5),
        clean_close: Some(CleanClose {
            sequence: 44,
            head: Lsn::new(105),
        }),
        sections: BTreeMap::from([(
            SectionId::Recovery,
            Section {
                version: 1,
                bytes: vec![1, 2, 3],
            },
        )]),
    }
}

#[test]
fn a_copy_round_trips() {
    let copy = encode_copy(&sample(), 17, 1);
    assert_eq!(decode_copy(&copy, 1), Ok((17, sample())));
}

#[test]
fn every_single_bit_flip_is_refused() {
    let copy = encode_copy(&sample(), 17, 0);
    for at in (0..header::BYTES + sample().encode().len()).chain([COPY_BYTES - 1]) {
        for bit in 0..8 {
            let mut bytes = copy.to_vec();
            bytes[at] ^= 1 << bit;
            assert!(
                decode_copy(&bytes, 0).is_err(),
                "flip of bit {bit} in byte {at}"
            );
        }
    }
}

#[test]
fn a_copy_in_the_wrong_place_is_refused() {
    let copy = encode_copy(&sample(), 17, 0);
    assert_eq!(decode_copy(&copy, 1), Err(Damage::Identity));
}

#[test]
fn no_change_that_could_not_be_read_again_is_written() {
    // The lineage of a base is what a peer sent.
    let last = |epoch, incarnation| {
        let entry = LineageEntry {
            epoch: Epoch::new(epoch),
            incarnation: Incarnation::new(incarnation),
            first: Lsn::new(1),
        };
        Lineage::from_entries(vec![entry]).unwrap()
    };
    let changes: [fn(&mut MetaContents); 6] = [
        |meta| meta.epoch = Epoch::new(u64::MAX),
        |meta| meta.committed = Lsn::new(u64::MAX),
        |meta| meta.tail = Lsn::new(u64::MAX),
        |meta| meta.origin = Lsn::new(u64::MAX),
        |meta| meta.generation_next = u64::MAX,
        |meta| meta.incarnation_next = Incarnation::new(u64::MAX),
    ];
    let disk: Arc<dyn Disk> = SimDisk::new(1);
    let dir = Path::new("/");
    let meta = Meta::create(&disk, dir, sample()).unwrap();
    for change in changes {
        assert!(matches!(meta.update(change), Err(Error::Corrupt(_))));
    }
    let refused = meta.update(|meta| meta.lineage = last(1, u64::MAX));
    assert!(matches!(refused, Err(Error::Corrupt(_))));
    assert_eq!(Meta::open(&disk, dir, true).unwrap().get(), sample());
    // It goes on.
    meta.update(|meta| meta.lineage = last(1, u64::MAX - 1))
        .unwrap();
    let read = Meta::open(&disk, dir, true).unwrap().get();
    assert_eq!(read.lineage, last(1, u64::MAX - 1));
}
