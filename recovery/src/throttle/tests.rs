//! The controller as a table, and in a loop with a disk that two sides share.

use super::*;

const MS: u64 = 1_000_000;
const MIB: u64 = 1 << 20;
const FLOOR: u64 = 4 * MIB;

fn options() -> ThrottleOptions {
    ThrottleOptions {
        target: Some(Duration::from_millis(10)),
        floor_bytes_per_s: FLOOR,
    }
}

/// What follows a window with so many writes, so many of them slow, and so many bytes sent, from
/// a limit.
fn next(limit: Option<u64>, writes: u64, slow: u64, sent: u64) -> (Option<u64>, Cause) {
    let mut throttle = Throttle::new(options(), 0);
    throttle.limit = limit;
    for n in 0..writes {
        throttle.wrote(if n < slow { 11 * MS } else { 10 * MS }, 1);
    }
    let _ = throttle.send(sent, 1);
    throttle.advance(WINDOW_NS);
    (throttle.limit, throttle.cause)
}

#[test]
fn one_window_decides_as_the_table_says() {
    let mib = |n: u64| Some(n * MIB);
    // A window is a tenth of a second: 10 MiB sent are 100 MiB/s.
    let table = [
        // limit, writes, slow, sent -> limit, cause
        (None, 0, 0, 10 * MIB, None, Cause::Free),
        (None, 10, 1, 10 * MIB, None, Cause::Free),
        (None, 10, 2, 10 * MIB, mib(50), Cause::SlowForeground),
        (None, 10, 10, 0, None, Cause::Free),
        (None, 1, 1, MIB / 10, Some(FLOOR), Cause::Floor),
        (mib(50), 10, 2, 5 * MIB, mib(25), Cause::SlowForeground),
        // A limit that nobody reaches falls to half of what is sent, or it would not be felt.
        (mib(50), 10, 2, MIB, mib(5), Cause::SlowForeground),
        (mib(5), 10, 2, MIB / 2, Some(FLOOR), Cause::Floor),
        (Some(FLOOR), 10, 10, MIB / 2, Some(FLOOR), Cause::Floor),
        (mib(40), 10, 1, 4 * MIB, mib(50), Cause::Rising),
        (mib(40), 0, 0, 4 * MIB, mib(80), Cause::Rising),
        (mib(4000), 0, 0, 4 * MIB, None, Cause::Free),
        (mib(40), 0, 0, 0, None, Cause::Free),
    ];
    for (limit, writes, slow, sent, expected, cause) in table {
        let found = next(limit, writes, slow, sent);
        assert_eq!(found, (expected, cause), "{limit:?} {writes} {slow} {sent}");
    }
}

#[test]
fn without_a_target_nothing_is_slow() {
    let free = ThrottleOptions {
        target: None,
        ..options()
    };
    let mut throttle = Throttle::new(free, 0);
    for now in 0..100 {
        throttle.wrote(u64::MAX - 1, now * WINDOW_NS);
        assert_eq!(throttle.send(MIB, now * WINDOW_NS), 0);
    }
    assert_eq!(throttle.view().cause, Cause::Free);
}

#[test]
fn bytes_wait_until_those_before_them_are_gone_at_the_limit() {
    let mut throttle = Throttle::new(options(), 0);
    throttle.limit = Some(MIB);
    assert_eq!(throttle.send(MIB / 128, 0), 0);
    assert_eq!(throttle.send(MIB / 128, 0), 7_812_500);
    assert_eq!(throttle.send(MIB / 128, 30 * MS), 0);
}

#[test]
fn a_clock_that_stands_or_jumps_is_harmless() {
    let mut throttle = Throttle::new(options(), u64::MAX / 2);
    throttle.wrote(20 * MS, 0);
    let _ = throttle.send(MIB, 0);
    throttle.advance(u64::MAX);
    assert_eq!(throttle.view().cause, Cause::Free);
}

/// A disk of 200 MiB/s: a write of the foreground takes 1 ms on the idle disk and longer the more
/// of it a recovery takes. Gives bytes moved by the recovery and the slow share of the writes, in
/// percent, over `seconds` after the first two.
fn run(seconds: u64, writes_per_window: u64, base_ns: u64) -> (u64, u64, Throttle) {
    const CAPACITY: u64 = 200 * MIB;
    let mut throttle = Throttle::new(options(), 0);
    let (mut now, mut moved, mut writes, mut slow) = (0_u64, 0, 0, 0);
    let settled = 2_000 * MS;
    let mut sent_in_window = 0;
    let mut window_end = WINDOW_NS;
    while now < settled + seconds * 1_000 * MS {
        let bytes = MIB / 4;
        let wait = throttle.send(bytes, now);
        // The disk itself takes its time for what is sent.
        now += wait + bytes * 1_000_000_000 / CAPACITY;
        sent_in_window += bytes;
        moved += if now > settled { bytes } else { 0 };
        if now < window_end {
            continue;
        }
        let busy = (sent_in_window * 10 * 100 / CAPACITY).min(98);
        let latency = base_ns * 100 / (100 - busy);
        for _ in 0..writes_per_window {
            throttle.wrote(latency, now);
            if now > settled {
                writes += 1;
                slow += u64::from(latency > 10 * MS);
            }
        }
        sent_in_window = 0;
        window_end = now + WINDOW_NS;
    }
    (moved / seconds, slow * 100 / writes.max(1), throttle)
}

#[test]
fn a_busy_foreground_stays_below_its_target_most_of_the_time() {
    let (rate, slow, _) = run(30, 50, 2 * MS);
    // 2 ms become 10 ms where the recovery takes four fifths of the disk.
    assert!(slow <= 25, "{slow} percent of the writes were slow");
    assert!(rate >= 50 * MIB, "the recovery got {rate} bytes a second");
}

#[test]
fn a_recovery_keeps_its_floor_however_slow_the_foreground_is() {
    let (rate, slow, throttle) = run(30, 50, 50 * MS);
    assert_eq!(slow, 100);
    assert_eq!(throttle.view().cause, Cause::Floor);
    assert!((FLOOR * 9 / 10..=FLOOR * 2).contains(&rate), "{rate}");
}

#[test]
fn an_idle_foreground_leaves_the_disk_to_the_recovery() {
    let (rate, _, throttle) = run(30, 0, MS);
    assert!(rate >= 190 * MIB, "{rate}");
    assert_eq!(throttle.view().cause, Cause::Free);
}

#[test]
fn a_limit_falls_away_once_the_foreground_is_gone() {
    let mut throttle = Throttle::new(options(), 0);
    throttle.limit = Some(FLOOR);
    throttle.advance(20 * WINDOW_NS);
    assert_eq!(throttle.view().limit_bytes_per_s, None);
}
