//! The acceptance lines of the simulator, each between whole nodes, with several seeds.

use std::sync::Arc;
use std::time::Duration;

use seawall_recovery::budget::Budget;
use seawall_recovery::simulated::Weather;
use seawall_recovery::{AckRule, Error, Primary};
use seawall_sim::cluster::{Cluster, name};
use seawall_sim::history::{CELL, bytes_of, stamp_of};
use seawall_sim::operator::{self, Promotion};
use seawall_sim::{Mix, scene};
use seawall_snapshot::{Durability, Error as VolumeError};
use seawall_wal::disk::sim::SimDisk;
use seawall_wal::sync::turns;
use seawall_wal::{Lsn, LsnRange};

const PATIENCE: Duration = Duration::from_secs(60);

fn with(ack: AckRule, body: impl Fn(&Arc<Cluster>)) {
    let mix = Mix {
        ack,
        ..Mix::quiet()
    };
    under(&mix, body);
}

/// Several seeds, each with every replica in sync.
fn under(mix: &Mix, body: impl Fn(&Arc<Cluster>)) {
    for seed in 0..5 {
        scene(seed, mix, |cluster| {
            let (primary, _) = cluster.primary().unwrap();
            for node in 1..cluster.nodes() {
                assert!(primary.wait_in_sync(&name(node), Lsn::ZERO, PATIENCE));
            }
            drop(primary);
            body(cluster);
        });
    }
}

fn primary(cluster: &Cluster) -> Arc<Primary> {
    cluster.primary().expect("somebody is primary").0
}

/// Writes one cell, as the history knows it.
fn write(cluster: &Cluster, cell: u64) -> (u64, Result<Lsn, Error>) {
    write_cells(cluster, cell, 1)
}

fn write_cells(cluster: &Cluster, cell: u64, cells: u64) -> (u64, Result<Lsn, Error>) {
    let (primary, reign) = cluster.primary().unwrap();
    let begun = cluster.history().begin(reign, cell..cell + cells, false);
    let begun = begun.unwrap();
    let bytes = bytes_of(begun.stamp, cells);
    let written = primary.write(cell * CELL, &bytes, Durability::Durable);
    if written.is_ok() {
        cluster.history().commit(&begun);
    }
    (begun.stamp, written)
}

fn read(cluster: &Cluster, cell: u64) -> u64 {
    let mut bytes = [0; 512];
    primary(cluster).read(cell * CELL, &mut bytes).unwrap();
    stamp_of(&bytes).unwrap()
}

fn isolate(cluster: &Cluster, node: u32) {
    for other in 0..cluster.nodes() {
        cluster.network.block(node, other);
        cluster.network.block(other, node);
    }
}

fn promote(cluster: &Arc<Cluster>, node: u32) {
    assert_eq!(operator::promote(cluster, node), Promotion::Won);
}

/// A former primary comes back as a replica.
fn return_as_replica(cluster: &Arc<Cluster>, node: u32) {
    cluster.demote(node).unwrap();
    operator::bring_back(cluster, node).unwrap();
}

// A201
#[test]
fn a_write_commits_with_the_primary_and_one_and_survives_the_promotion_of_that_one() {
    with(AckRule::Quorum, |cluster| {
        isolate(cluster, 2);
        let (stamp, written) = write(cluster, 7);
        assert!(written.is_ok(), "{written:?}");
        cluster.network.open_all();
        cluster.crash(0, true);
        promote(cluster, 1);
        assert_eq!(read(cluster, 7), stamp);
        return_as_replica(cluster, 0);
    });
}

// A202
#[test]
fn what_an_isolated_primary_writes_is_not_committed_and_is_absent_on_the_promoted_node() {
    with(AckRule::Quorum, |cluster| {
        let (before, written) = write(cluster, 7);
        assert!(written.is_ok());
        isolate(cluster, 0);
        let (lost, written) = write(cluster, 7);
        assert!(
            matches!(written, Err(Error::CommitTimeout { .. })),
            "{written:?}"
        );
        cluster.stop(0);
        promote(cluster, 1);
        assert_eq!(read(cluster, 7), before);
        assert!(write(cluster, 8).1.is_ok());
        cluster.network.open_all();
        return_as_replica(cluster, 0);
        assert!(write(cluster, 9).1.is_ok());
        assert_ne!(read(cluster, 7), lost);
    });
}

// A203
#[test]
fn a_stopped_replica_holds_a_commit_up_under_all_and_not_under_quorum() {
    for (ack, commits) in [(AckRule::All, false), (AckRule::Quorum, true)] {
        with(ack, |cluster| {
            cluster.stop(2);
            let (_, written) = write(cluster, 3);
            assert_eq!(written.is_ok(), commits, "{written:?}");
        });
    }
}

// A204
#[test]
fn an_old_primary_changes_nothing_after_a_promotion() {
    with(AckRule::Quorum, |cluster| {
        let (before, written) = write(cluster, 7);
        assert!(written.is_ok());
        let old = primary(cluster);
        isolate(cluster, 0);
        cluster.history().end_reign();
        promote(cluster, 1);
        assert!(write(cluster, 8).1.is_ok());
        let committed = primary(cluster).status().committed;
        cluster.network.open_all();
        let stale = old.write(7 * CELL, &bytes_of(u64::MAX, 1), Durability::Durable);
        assert!(stale.is_err());
        turns::sleep(Duration::from_secs(20));
        assert!(matches!(
            old.write(7 * CELL, &bytes_of(u64::MAX, 1), Durability::Volatile),
            Err(Error::Deposed { .. })
        ));
        assert_eq!(read(cluster, 7), before);
        assert_eq!(primary(cluster).status().committed, committed);
        drop(old);
        cluster.stop(0);
        return_as_replica(cluster, 0);
    });
}

// A205, A206: also with a late acknowledgement, which still counts (D6).
#[test]
fn a_barrier_waits_for_what_did_not_arrive_and_a_late_acknowledgement_commits_it() {
    with(AckRule::All, |cluster| {
        let (_, first) = write(cluster, 1);
        let first = first.unwrap();
        isolate(cluster, 2);
        let (_, second) = write(cluster, 2);
        let Err(Error::CommitTimeout { lsn, committed, .. }) = second else {
            panic!("{second:?}");
        };
        assert_eq!((lsn, committed), (first.next(), first));
        assert_eq!(primary(cluster).status().committed, first.get());
        cluster.network.open_all();
        let late = primary(cluster).wait_committed(lsn, PATIENCE);
        assert_eq!(late.unwrap(), lsn);
    });
}

/// What the primary told of `n2`, by name.
fn events(cluster: &Cluster) -> Vec<&'static str> {
    let events = primary(cluster).events();
    let of = events.iter().filter(|event| {
        let replica = event.replica.as_ref();
        replica.is_some_and(|replica| replica.as_str() == "n2")
    });
    of.map(|event| event.what.name()).collect()
}

fn wait_for(cluster: &Cluster, event: &str) {
    let begun = turns::now_ns();
    while !events(cluster).contains(&event) {
        let waited = Duration::from_nanos(turns::now_ns() - begun);
        assert!(waited < PATIENCE, "no {event}: {:?}", events(cluster));
        turns::sleep(Duration::from_millis(1));
    }
}

fn limited(budget: Budget) -> Mix {
    Mix {
        budget,
        ..Mix::quiet()
    }
}

/// 24 records of 64 KiB that `n2` has to catch up with.
fn fall_behind(cluster: &Cluster) -> Lsn {
    cluster.crash(2, false);
    let mut head = Lsn::ZERO;
    for at in 0..24 {
        head = write_cells(cluster, at * 128, 128).1.unwrap();
    }
    head
}

/// A millisecond for each KiB.
fn slow_down(cluster: &Cluster) {
    cluster.network.set_weather(Weather {
        ns_per_kib: 1_000_000,
        ..Weather::default()
    });
}

// A208
#[test]
fn a_catch_up_that_takes_too_long_needs_a_rebuild() {
    let budget = Budget {
        duration_ticks_max: Some(3),
        ..Budget::UNBOUNDED
    };
    under(&limited(budget), |cluster| {
        fall_behind(cluster);
        slow_down(cluster);
        operator::bring_back(cluster, 2).unwrap();
        wait_for(cluster, "budget-escalated");
        assert!(events(cluster).contains(&"marked"));
        turns::sleep(Duration::from_secs(20));
        let status = primary(cluster).status();
        let n2 = status.replicas.iter().find(|of| of.id == "n2").unwrap();
        assert!(n2.needs_rebuild, "{n2:?}");
        let n1 = status.replicas.iter().find(|of| of.id == "n1").unwrap();
        assert_eq!((n1.state.as_str(), n1.needs_rebuild), ("in_sync", false));
    });
}

// A208
#[test]
fn the_time_of_a_catch_up_that_ended_does_not_run_on() {
    let budget = Budget {
        duration_ticks_max: Some(4000),
        ..Budget::UNBOUNDED
    };
    under(&limited(budget), |cluster| {
        let head = fall_behind(cluster);
        slow_down(cluster);
        operator::bring_back(cluster, 2).unwrap();
        assert!(primary(cluster).wait_in_sync("n2", head, PATIENCE));
        let before = events(cluster);
        turns::sleep(Duration::from_secs(30));
        assert_eq!(events(cluster), before);
        assert!(primary(cluster).wait_in_sync("n2", head, Duration::ZERO));
    });
}

// A209
#[test]
fn a_catch_up_that_is_cut_off_leaves_the_prefix_that_it_made_durable() {
    let budget = Budget {
        duration_ticks_max: Some(3000),
        ..Budget::UNBOUNDED
    };
    under(&limited(budget), |cluster| {
        let before = primary(cluster).flush().unwrap();
        cluster.crash(2, false);
        let mut head = before;
        for at in 0..4 {
            head = write_cells(cluster, at * 1024, 1024).1.unwrap();
        }
        let disk = Arc::clone(&cluster.state().slots[2].disk);
        disk.slow(Duration::from_millis(20));
        operator::bring_back(cluster, 2).unwrap();
        let durable = |cluster: &Cluster| {
            let volume = cluster.volume_of(2).unwrap();
            volume.log().frontiers().durable
        };
        while durable(cluster) == before {
            turns::sleep(Duration::from_millis(1));
        }
        disk.stick(Duration::from_secs(5));
        wait_for(cluster, "budget-escalated");
        let kept = durable(cluster);
        assert!(before < kept && kept < head, "{before} {kept} {head}");
        // Until something else is whole, it is what a restart finds.
        isolate(cluster, 2);
        cluster.crash(2, true);
        operator::bring_back(cluster, 2).unwrap();
        assert!(durable(cluster) >= kept);
        cluster.network.open_all();
    });
}

// A216
#[test]
fn a_range_with_a_damaged_record_is_recovered_once_a_replica_has_supplied_it() {
    with(AckRule::Quorum, |cluster| {
        let before = primary(cluster).flush().unwrap();
        cluster.crash(2, true);
        let written: Vec<_> = (0..8).map(|cell| write(cluster, 8 * cell)).collect();
        let (stamp, lsn) = (written[3].0, written[3].1.as_ref().unwrap());
        let lsn = *lsn;
        let head = *written[7].1.as_ref().unwrap();
        let whole = LsnRange::new(before, head);
        let record = primary(cluster).volume().log().read_record(lsn).unwrap();
        assert_eq!(primary(cluster).volume().log().prove(whole), Ok(()));
        assert!(primary(cluster).wait_in_sync("n1", head, PATIENCE));
        cluster.stop(0);
        assert!(operator::damage(cluster, 0, record.payload()));
        // Nobody who holds it is there.
        isolate(cluster, 1);
        let refused = operator::bring_back(cluster, 0).unwrap_err();
        assert!(
            refused.contains(&format!("records ({}, {lsn}]", lsn.get() - 1)),
            "{refused}"
        );
        cluster.network.open_all();
        operator::bring_back(cluster, 0).unwrap();
        primary(cluster).volume().log().prove_full(whole).unwrap();
        operator::bring_back(cluster, 2).unwrap();
        assert!(primary(cluster).wait_in_sync("n2", head, PATIENCE));
        let records = primary(cluster).recoveries();
        let last = records.iter().rfind(|record| record.replica == "n2");
        assert_eq!(last.unwrap().outcome, "catch-up");
        assert_eq!(read(cluster, 24), stamp);
    });
}

// A217
#[test]
fn a_recovery_that_is_asked_for_while_one_is_under_way_begins_nothing() {
    with(AckRule::Quorum, |cluster| {
        let head = fall_behind(cluster);
        slow_down(cluster);
        let count = |event| {
            events(cluster)
                .iter()
                .filter(|name| **name == event)
                .count()
        };
        let sessions = count("session-created");
        operator::bring_back(cluster, 2).unwrap();
        let under_way = count("catchup-started");
        while count("catchup-started") == under_way {
            turns::sleep(Duration::from_millis(1));
        }
        for _ in 0..5 {
            operator::reassign(cluster);
            turns::sleep(Duration::from_millis(100));
        }
        assert!(
            !primary(cluster).wait_in_sync("n2", head, Duration::ZERO),
            "too fast"
        );
        assert!(primary(cluster).wait_in_sync("n2", head, PATIENCE));
        assert_eq!(count("session-created"), sessions + 1);
        assert_eq!(count("session-superseded") + count("session-failed"), 0);
        let records = primary(cluster).recoveries();
        let of = records.iter().filter(|record| record.replica == "n2");
        assert_eq!(of.filter(|record| record.outcome == "catch-up").count(), 1);
    });
}

// A211
#[test]
fn five_flaps_with_small_gaps_are_five_catch_ups_and_never_a_rebuild() {
    with(AckRule::Quorum, |cluster| {
        for flap in 0..5 {
            cluster.crash(2, flap % 2 == 0);
            let (_, written) = write(cluster, flap);
            operator::bring_back(cluster, 2).unwrap();
            let lsn = written.unwrap();
            assert!(primary(cluster).wait_in_sync("n2", lsn, PATIENCE));
        }
        let records = primary(cluster).recoveries();
        let of = records.iter().filter(|record| record.replica == "n2");
        let outcomes: Vec<&str> = of.map(|record| record.outcome.as_str()).collect();
        assert!(!outcomes.contains(&"rebuild"), "{outcomes:?}");
        let catch_ups = outcomes.iter().filter(|outcome| **outcome == "catch-up");
        assert!(catch_ups.count() >= 5, "{outcomes:?}");
    });
}

// A212: wherever in its recovery it stops, it ends level; with a fresh session each time.
#[test]
fn a_replica_that_stops_in_the_middle_of_a_recovery_goes_on_from_what_it_holds() {
    for rebuild in [false, true] {
        with(AckRule::BestEffort, |cluster| {
            cluster.stop(2);
            for cell in (0..4096).step_by(64) {
                assert!(write(cluster, cell).1.is_ok());
            }
            if rebuild {
                let primary = primary(cluster);
                let head = primary.flush().unwrap();
                primary.volume().advance_tail(head).unwrap();
            }
            for pause in [1, 3, 10, 30] {
                operator::bring_back(cluster, 2).unwrap();
                turns::sleep(Duration::from_millis(pause));
                cluster.crash(2, pause % 2 == 1);
            }
            operator::bring_back(cluster, 2).unwrap();
            let head = primary(cluster).flush().unwrap();
            assert!(primary(cluster).wait_in_sync("n2", head, PATIENCE));
            let records = primary(cluster).recoveries();
            let last = records.iter().rfind(|record| record.replica == "n2");
            let outcome = last.unwrap().outcome.as_str();
            let expected = if rebuild { "rebuild" } else { "catch-up" };
            assert!(outcome == expected || outcome == "zero gap", "{outcome}");
        });
    }
}

// D21: where the state log cannot be written, what follows from it does not come about; with space
// again all goes on without a restart.
#[test]
fn a_session_that_could_not_be_remembered_stands_in_nobodys_way() {
    with(AckRule::Quorum, |cluster| {
        cluster.crash(2, true);
        assert!(write(cluster, 1).1.is_ok());
        let sim = Arc::clone(cluster.state().slots[0].disk.sim());
        sim.set_capacity(Some(0));
        operator::bring_back(cluster, 2).unwrap();
        turns::sleep(Duration::from_secs(5));
        sim.set_capacity(None);
        let (_, written) = write(cluster, 2);
        let lsn = written.unwrap();
        assert!(primary(cluster).wait_in_sync("n2", lsn, PATIENCE));
    });
}

// D8, D21
#[test]
fn a_replica_whose_disk_was_full_at_its_first_handshake_takes_the_next_one() {
    for bytes in (0..1 << 21).step_by(1 << 17) {
        with(AckRule::BestEffort, |cluster| {
            let sim = SimDisk::with_capacity(7, bytes);
            cluster.crash(2, true);
            cluster.give_disk(2, Arc::clone(&sim));
            operator::bring_back(cluster, 2).unwrap();
            let (_, written) = write(cluster, 1);
            turns::sleep(Duration::from_secs(5));
            sim.set_capacity(None);
            assert!(primary(cluster).wait_in_sync("n2", written.unwrap(), PATIENCE));
        });
    }
}

// L-W1, D21: an error of the disk ends what runs on it, and nothing that was acknowledged goes.
#[test]
fn a_primary_whose_sync_failed_acknowledges_nothing_more_until_it_is_started_again() {
    use seawall_wal::disk::sim::{Effect, Fault};
    with(AckRule::Quorum, |cluster| {
        let (kept, written) = write(cluster, 1);
        assert!(written.is_ok());
        let sim = Arc::clone(cluster.state().slots[0].disk.sim());
        let lost = Fault::at(seawall_wal::IoOp::Write, Effect::FailErrno(5)).on("wal/");
        sim.inject(lost.for_ever());
        let (_, written) = write(cluster, 2);
        assert!(written.is_err(), "{written:?}");
        sim.clear_faults();
        let (_, written) = write(cluster, 3);
        assert!(
            matches!(&written, Err(Error::Volume(VolumeError::Log(_)))),
            "{written:?}"
        );
        cluster.crash(0, false);
        operator::bring_back(cluster, 0).unwrap();
        assert!(write(cluster, 4).1.is_ok());
        assert_eq!(read(cluster, 1), kept);
    });
}

// A207
#[test]
fn a_barrier_does_not_expire_for_what_an_acknowledgement_commits_in_the_same_moment() {
    let mut expired = 0;
    for seed in 0..20 {
        let mix = Mix {
            ack: AckRule::All,
            preemptions: 512,
            ..Mix::quiet()
        };
        scene(seed, &mix, |cluster| {
            let (primary, reign) = cluster.primary().unwrap();
            for node in 1..cluster.nodes() {
                assert!(primary.wait_in_sync(&name(node), Lsn::ZERO, PATIENCE));
            }
            for micros in (0..600).step_by(10) {
                let begun = cluster.history().begin(reign, 5..6, false).unwrap();
                let bytes = bytes_of(begun.stamp, 1);
                let lsn = primary.write(5 * CELL, &bytes, Durability::Volatile);
                let lsn = lsn.unwrap();
                primary.volume().flush().unwrap();
                match primary.wait_committed(lsn, Duration::from_micros(micros)) {
                    Ok(committed) => assert!(committed >= lsn),
                    Err(Error::CommitTimeout { committed, .. }) => {
                        assert!(
                            committed < lsn,
                            "{lsn} expired, and {committed} is committed"
                        );
                        expired += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    assert!(expired > 0, "no barrier came near its end");
}

// D1, D11: one that may be neither cut nor rebuilt yet acknowledges all that we share with it.
#[test]
fn a_primary_that_rebuilds_everybody_is_confirmed_although_one_of_them_is_ahead() {
    let mix = Mix {
        ack: AckRule::All,
        rebuild_full: true,
        ..Mix::quiet()
    };
    under(&mix, |cluster| {
        let (stamp, written) = write(cluster, 7);
        assert!(written.is_ok());
        cluster.stop(0);
        promote(cluster, 1);
        return_as_replica(cluster, 0);
        let first = primary(cluster);
        for node in [0, 2] {
            assert!(first.wait_in_sync(&name(node), Lsn::ZERO, PATIENCE));
        }
        assert!(first.confirmed());
        drop(first);
        isolate(cluster, 1);
        let (_, ahead) = write(cluster, 8);
        assert!(
            matches!(ahead, Err(Error::CommitTimeout { .. })),
            "{ahead:?}"
        );
        cluster.stop(1);
        promote(cluster, 2);
        cluster.network.open_all();
        return_as_replica(cluster, 1);
        let second = primary(cluster);
        for node in [0, 1] {
            assert!(
                second.wait_in_sync(&name(node), Lsn::ZERO, PATIENCE),
                "n{node}"
            );
        }
        assert!(second.confirmed());
        assert_eq!(read(cluster, 7), stamp);
        assert!(write(cluster, 9).1.is_ok());
    });
}
