//! States at an LSN: the worked values of SEMANTICS 1.1.

use super::*;

/// b1=100@1, b2=200@2, b1=300@3, b3=400@4, b2=500@5 in one byte each.
fn worked() -> Arc<Volume> {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for (lba, value) in [(1, 10), (2, 20), (1, 30), (3, 40), (2, 50)] {
        put(&volume, lba, value);
    }
    volume
}

#[test]
fn a011_each_state_holds_the_records_through_it() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for (lba, value) in [(1, 100), (1, 200), (2, 30)] {
        put(&volume, lba, value);
    }
    assert_eq!(state(&volume, 0), []);
    assert_eq!(state(&volume, 1), [(1, 100)]);
    assert_eq!(state(&volume, 2), [(1, 200)]);
    assert_eq!(state(&volume, 3), [(1, 200), (2, 30)]);
}

#[test]
fn a015_a016_states_above_the_tail_include_what_was_reclaimed() {
    let volume = worked();
    assert_eq!(volume.advance_tail(lsn(3)).unwrap(), lsn(3));
    assert_eq!(state(&volume, 5), [(1, 30), (2, 50), (3, 40)]);
    assert_eq!(state(&volume, 4), [(1, 30), (2, 20), (3, 40)]);
    assert_eq!(state(&volume, 3), [(1, 30), (2, 20)]);
    assert!(matches!(
        volume.state_at(lsn(2), "test"),
        Err(Error::StateReclaimed { lsn, base }) if lsn.get() == 2 && base.get() == 3
    ));
}

#[test]
fn a017_the_state_at_the_base_is_there_and_the_one_below_is_not() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for value in 1..=10 {
        put(&volume, u64::from(value), value);
    }
    volume.advance_tail(lsn(5)).unwrap();
    assert!(matches!(
        volume.state_at(lsn(3), "test"),
        Err(Error::StateReclaimed { .. })
    ));
    assert_eq!(state(&volume, 5).len(), 5);
}

#[test]
fn a018_a_block_whose_only_write_was_reclaimed_is_still_there() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for (lba, value) in [(60, 42), (1, 100), (1, 200)] {
        put(&volume, lba, value);
    }
    volume.advance_tail(lsn(2)).unwrap();
    assert_eq!(state(&volume, 3), [(1, 200), (60, 42)]);
}

#[test]
fn a019_moving_the_tail_changes_no_state_above_it() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for value in 1..=100u8 {
        put(&volume, u64::from(value % 5), value);
    }
    let before = state(&volume, 100);
    let digest = volume.digest_at(lsn(100)).unwrap();
    volume.advance_tail(lsn(50)).unwrap();
    assert_eq!(state(&volume, 100), before);
    assert_eq!(volume.digest_at(lsn(100)).unwrap(), digest);
    assert_eq!(digest, digest_of(&before));
}

#[test]
fn while_the_log_begins_at_1_the_empty_base_counts() {
    let volume = worked();
    volume.checkpoint(Some(lsn(4))).unwrap();
    assert_eq!(state(&volume, 2), [(1, 10), (2, 20)]);
    assert_eq!(
        volume.digest_at(lsn(2)).unwrap(),
        digest_of(&[(1, 10), (2, 20)])
    );
}

#[test]
fn a033_the_tail_passes_neither_committed_nor_head() {
    let volume = Place::simulated(&SimDisk::new(1)).primary();
    for value in 1..=5 {
        put(&volume, 1, value);
    }
    assert!(matches!(
        volume.advance_tail(lsn(9)),
        Err(Error::Log(seawall_wal::Error::Chain { bound_name: "committed", bound, .. }))
            if bound == lsn(5)
    ));
    assert_eq!(volume.log().frontiers().tail, Lsn::ZERO);
}

#[test]
fn a035_the_state_beyond_head_is_an_error() {
    let volume = worked();
    assert!(matches!(
        volume.state_at(lsn(100), "test"),
        Err(Error::StateBeyondHead { head, .. }) if head == lsn(5)
    ));
}

#[test]
fn a009_a_lower_tail_changes_nothing() {
    let volume = worked();
    volume.advance_tail(lsn(4)).unwrap();
    assert_eq!(volume.advance_tail(lsn(3)).unwrap(), lsn(4));
    assert_eq!(volume.base_state().checkpoint, lsn(4));
}

#[test]
fn every_digest_equals_the_one_from_the_bytes() {
    let volume = worked();
    volume
        .write_zeroes(BLOCK as u64, BLOCK as u64, true, Durability::Durable)
        .unwrap();
    volume
        .trim(2 * BLOCK as u64, BLOCK as u64, Durability::Durable)
        .unwrap();
    volume.checkpoint(Some(lsn(3))).unwrap();
    assert_eq!(volume.digest(), (lsn(3), digest_of(&[(1, 30), (2, 20)])));
    for at in 3..=7 {
        let expected = digest_of(&state(&volume, at));
        assert_eq!(volume.digest_at(lsn(at)).unwrap(), expected, "at {at}");
    }
    volume.checkpoint(None).unwrap();
    assert_eq!(volume.digest(), (lsn(7), digest_of(&[(3, 40)])));
}

#[test]
fn writes_of_any_alignment_equal_a_plain_array() {
    let volume = Place::simulated(&SimDisk::new(3)).primary();
    let size = usize::try_from(volume.size()).unwrap();
    let mut naive = vec![0u8; size];
    let mut seed = 12345u64;
    let mut draw = |bound: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(seed >> 33).unwrap() % bound
    };
    for round in 0..200 {
        let offset = draw(size);
        let length = draw(size - offset).min(20_000);
        let (at, count) = (offset as u64, length as u64);
        match draw(4) {
            0 => {
                volume
                    .write_zeroes(at, count, round % 2 == 0, Durability::Volatile)
                    .unwrap();
                naive[offset..offset + length].fill(0);
            }
            1 => {
                volume.trim(at, count, Durability::Volatile).unwrap();
                let first = offset.next_multiple_of(BLOCK);
                let last = (offset + length) / BLOCK * BLOCK;
                if first < last {
                    naive[first..last].fill(0);
                }
            }
            _ => {
                let bytes: Vec<u8> = (0..length)
                    .map(|_| u8::try_from(draw(256)).unwrap())
                    .collect();
                volume.write(at, &bytes, Durability::Volatile).unwrap();
                naive[offset..offset + length].copy_from_slice(&bytes);
            }
        }
        if round % 40 == 0 {
            volume.flush().unwrap();
            volume.checkpoint(None).unwrap();
        }
        let at = draw(size);
        let mut out = vec![0xee; draw(size - at).min(30_000)];
        volume.read(at as u64, &mut out).unwrap();
        assert!(out == naive[at..at + out.len()], "round {round}");
    }
    volume.flush().unwrap();
    volume.checkpoint(None).unwrap();
    let mut out = vec![0xee; size];
    volume.read(0, &mut out).unwrap();
    assert!(out == naive);
    assert_eq!(damage_of(&volume), []);
}

#[test]
fn what_next_data_leaves_out_reads_zero() {
    let volume = worked();
    volume.checkpoint(Some(lsn(4))).unwrap();
    put(&volume, 40, 7);
    volume
        .trim(3 * BLOCK as u64, BLOCK as u64, Durability::Durable)
        .unwrap();
    let view = volume.state_at(lsn(7), "test").unwrap();
    for pass in 0..2 {
        let (mut at, mut covered) = (0, vec![false; usize::try_from(BLOCKS).unwrap()]);
        while let Some((first, second)) = match pass {
            0 => volume.next_data(at).unwrap(),
            _ => view.next_data(at).unwrap(),
        } {
            assert!(first >= at && second > first, "it moves forward");
            for lba in first / BLOCK as u64..second / BLOCK as u64 {
                covered[usize::try_from(lba).unwrap()] = true;
            }
            at = second;
        }
        for (lba, covered) in (0..).zip(covered) {
            assert!(covered || get(&volume, lba) == 0, "block {lba}");
        }
    }
}
