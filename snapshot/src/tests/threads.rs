//! Several threads at once, over real files.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests are about threads, so they start some"
)]

use super::*;

/// Readers, writers of whole and of parts of blocks, and checkpoints with reclaim, all at once.
#[test]
fn readers_see_whole_versions_while_writers_and_checkpoints_run() {
    let place = Place::on_files();
    let volume = place.primary();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3u64)
            .map(|writer| {
                let volume = &volume;
                scope.spawn(move || {
                    for round in 0..150u32 {
                        let value = u8::try_from(round % 250).unwrap() + 1;
                        let lba = writer * 16 + u64::from(round % 16);
                        let offset = lba * BLOCK as u64;
                        let bytes = [value; BLOCK];
                        match round % 10 {
                            9 => volume.trim(offset, BLOCK as u64, Durability::Volatile),
                            0 => volume.write(offset, &bytes, Durability::Durable),
                            _ => volume.write(offset, &bytes, Durability::Volatile),
                        }
                        .unwrap();
                    }
                })
            })
            .collect();
        // Two threads write interleaved bytes of the same block: none may undo the other.
        let halves: Vec<_> = (0..2u8)
            .map(|half| {
                let volume = &volume;
                scope.spawn(move || {
                    for at in 0..2000u64 {
                        let offset = 60 * BLOCK as u64 + at * 2 + u64::from(half);
                        volume
                            .write(offset, &[half + 1], Durability::Volatile)
                            .unwrap();
                    }
                })
            })
            .collect();
        let checkpoints = scope.spawn(|| {
            while !stop.load(Ordering::Acquire) {
                volume.flush().unwrap();
                let through = volume.checkpoint(None).unwrap();
                volume.advance_tail(through).unwrap();
            }
        });
        let reader = scope.spawn(|| {
            let mut seed = 1u64;
            while !stop.load(Ordering::Acquire) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let _ = get(&volume, (seed >> 33) % 48);
            }
        });
        for thread in writers.into_iter().chain(halves) {
            thread.join().unwrap();
        }
        stop.store(true, Ordering::Release);
        checkpoints.join().unwrap();
        reader.join().unwrap();
    });
    let mut bytes = [0; 4000];
    volume.read(60 * BLOCK as u64, &mut bytes).unwrap();
    assert_eq!(bytes, std::array::from_fn(|at| 1 + u8::from(at % 2 == 1)));
    volume.flush().unwrap();
    let head = volume.log().frontiers().head;
    let newest = volume.digest_at(head).unwrap();
    assert_eq!(volume.checkpoint(None).unwrap(), head);
    assert_eq!(volume.digest(), (head, newest));
    assert_eq!(damage_of(&volume), []);
    volume.close().unwrap();
    drop(volume);
    let volume = place.open("volume");
    assert_eq!(volume.digest_at(head).unwrap(), newest);
}

#[test]
fn views_stay_exact_while_the_edge_thread_captures() {
    let place = Place::on_files();
    place.create("volume", options(Role::Primary));
    let background = crate::Background {
        retained_bytes_soft: Some(1 << 20),
        ..crate::Background::OFF
    };
    let open = || {
        Volume::open_with(
            &place.disk,
            &place.dir("volume"),
            &place.clock,
            Access::Primary,
            background,
        )
    };
    let (volume, _) = open().unwrap();
    volume.commit_best_effort().unwrap();
    let mut pinned = Vec::new();
    for round in 1..=30u8 {
        for lba in 0..40 {
            let bytes = [round; BLOCK];
            let offset = lba * BLOCK as u64;
            volume.write(offset, &bytes, Durability::Volatile).unwrap();
        }
        volume.flush().unwrap();
        if round % 10 == 0 {
            let pin = volume.pin_base(volume.log().frontiers().durable, "test");
            pinned.push((round, pin.unwrap()));
        }
    }
    for (round, pin) in &pinned {
        let expected: Vec<_> = (0..40).map(|lba| (lba, *round)).collect();
        assert_eq!(contents(pin), expected);
        assert_eq!(pin.digest().unwrap(), digest_of(&expected));
    }
    // The thread was told during the writes and captures some time after; without it this ends
    // with the time of the test run.
    while volume.base_state().checkpoint == Lsn::ZERO {
        std::thread::yield_now();
    }
    volume.close().unwrap();
}
