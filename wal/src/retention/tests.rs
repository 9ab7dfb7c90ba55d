use super::*;

fn lsn(number: u64) -> Lsn {
    Lsn::new(number)
}

fn pin(pins: &mut Registry, kind: PinKind, after: u64, budget: PinBudget) -> u64 {
    let request = PinRequest {
        kind,
        lsn: lsn(after),
        after: lsn(after),
        owner: "test",
        budget,
    };
    pins.add(request, 0)
}

/// Three segments of 100 bytes that end at LSN 10, 20 and 30.
fn held() -> HeldBack {
    HeldBack(vec![(lsn(10), 100), (lsn(20), 100), (lsn(30), 100)])
}

fn whys(broken: &Broken) -> Vec<PinBreak> {
    let whys = broken.iter().map(|(pin, _)| pin.broken);
    whys.map(Option::unwrap).collect()
}

#[test]
fn the_floor_is_the_lowest_pin_of_any_kind_and_goes_with_the_last_one() {
    // A192.
    let mut pins = Registry::default();
    assert_eq!(pins.floor(), None);
    let low = pin(&mut pins, PinKind::Base, 10, PinBudget::default());
    let high = pin(&mut pins, PinKind::Wal, 11, PinBudget::default());
    let view = pin(&mut pins, PinKind::Snapshot, 12, PinBudget::default());
    assert_eq!(pins.floor(), Some(lsn(10)));
    pins.remove(low);
    assert_eq!(pins.floor(), Some(lsn(11)));
    pins.advance(high, lsn(15), 0);
    assert_eq!(pins.floor(), Some(lsn(12)));
    pins.remove(view);
    pins.remove(high);
    assert_eq!(pins.floor(), None);
}

#[test]
fn reclaim_moves_as_far_as_the_floor_allows() {
    assert_eq!(reclaim_floor(lsn(9), Some(lsn(4))), lsn(4));
    assert_eq!(reclaim_floor(lsn(9), None), lsn(9));
}

#[test]
fn a_pin_below_the_tail_is_refused() {
    // A193.
    assert!(check_pin(lsn(5), lsn(6)).is_ok());
    assert!(matches!(
        check_pin(lsn(4), lsn(6)),
        Err(Error::Reclaimed { tail, .. }) if tail == lsn(5)
    ));
}

// A195
#[test]
fn a_pin_is_listed_with_its_owner_its_age_and_what_is_left_until_its_deadline() {
    let mut pins = Registry::default();
    let deadline = PinBudget {
        bytes: None,
        time_ns: Some(50),
    };
    pin(&mut pins, PinKind::Wal, 10, deadline);
    pin(&mut pins, PinKind::Base, 10, PinBudget::default());
    let listed = pins.list(30, &held()).into_iter();
    let listed: Vec<_> = listed
        .map(|pin| (pin.owner, pin.age_ns, pin.time_left_ns))
        .collect();
    let owner = || "test".to_owned();
    assert_eq!(listed, [(owner(), 30, Some(20)), (owner(), 30, None)]);
}

#[test]
fn a_pin_over_its_bytes_is_broken_and_says_how_much_it_kept() {
    let mut pins = Registry::default();
    let budget = PinBudget {
        bytes: Some(250),
        time_ns: None,
    };
    let id = pin(&mut pins, PinKind::Wal, 10, budget);
    assert!(pins.enforce(0, &held()).is_empty());
    assert_eq!(pins.list(0, &held())[0].bytes_left, Some(50));
    // Preserved blocks count like log.
    pins.charge(id, 51);
    let over = PinBreak::Bytes {
        kept: 251,
        budget: 250,
    };
    assert_eq!(whys(&pins.enforce(0, &held())), [over]);
    let listed = &pins.list(0, &held())[0];
    assert_eq!((listed.bytes, listed.broken), (0, Some(over)));
    assert_eq!(pins.floor(), None);
    assert!(pins.enforce(0, &held()).is_empty(), "once is enough");
}

#[test]
fn a_pin_that_does_not_move_is_broken_when_its_time_is_over() {
    let mut pins = Registry::default();
    let budget = PinBudget {
        bytes: None,
        time_ns: Some(100),
    };
    let id = pin(&mut pins, PinKind::Wal, 1, budget);
    assert!(pins.enforce(100, &held()).is_empty());
    pins.advance(id, lsn(2), 100);
    assert!(pins.enforce(200, &held()).is_empty());
    assert_eq!(pins.list(150, &held())[0].time_left_ns, Some(50));
    // What is no move gives no time.
    pins.advance(id, lsn(2), 200);
    let over = PinBreak::Time {
        held_ns: 101,
        budget_ns: 100,
    };
    assert_eq!(whys(&pins.enforce(201, &held())), [over]);
}

#[test]
fn over_the_limit_of_all_pins_those_with_the_oldest_log_are_broken() {
    let mut pins = Registry::default();
    let oldest = pin(&mut pins, PinKind::Wal, 0, PinBudget::default());
    let old = pin(&mut pins, PinKind::Base, 9, PinBudget::default());
    let young = pin(&mut pins, PinKind::Wal, 20, PinBudget::default());
    pins.limits.log_bytes = Some(100);
    let why = PinBreak::LogLimit {
        kept: 300,
        limit: 100,
    };
    assert_eq!(whys(&pins.enforce(0, &held())), [why, why]);
    assert_eq!(pins.broken(oldest), Some(why));
    assert_eq!(pins.broken(old), Some(why));
    assert_eq!(pins.broken(young), None);
    // A pin that keeps nothing is no victim: its end gives nothing.
    assert!(
        pins.break_oldest(&HeldBack::default(), PinBreak::NoSpace)
            .is_empty()
    );
}

#[test]
fn a_broken_pin_neither_holds_nor_moves_the_floor_and_is_listed_until_it_is_released() {
    let mut pins = Registry::default();
    let id = pin(&mut pins, PinKind::Wal, 3, PinBudget::default());
    assert_eq!(
        whys(&pins.break_one(id, PinBreak::Ended)),
        [PinBreak::Ended]
    );
    assert!(pins.break_one(id, PinBreak::NoSpace).is_empty());
    assert_eq!(pins.broken(id), Some(PinBreak::Ended));
    assert_eq!(pins.floor(), None);
    assert_eq!(pins.list(0, &held()).len(), 1);
    pins.remove(id);
    pins.remove(id);
    assert!(pins.is_empty());
}
