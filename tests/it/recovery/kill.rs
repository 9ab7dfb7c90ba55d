//! SIGKILL of the primary, of the replica, and of both twice, at random moments of every kind of
//! recovery: it ends by itself, the copies are equal, and nothing acknowledged is lost.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::site::Site;
use crate::cli::{moment, rounds};
use crate::harness::{Node, program};

/// Rounds at one site, the first of them without a kill: it tells how long the recovery takes.
const ROUNDS_PER_SITE: u64 = 6;

/// Which processes die, and how often in one recovery.
#[derive(Clone, Copy, Debug)]
enum Victims {
    Replica,
    Primary,
    BothTwice,
}

const VICTIMS: [Victims; 3] = [Victims::Replica, Victims::Primary, Victims::BothTwice];

/// The rounds of one kind; the seed of a site is the number of its first round.
/// `SEAWALL_KILL_FROM` starts at another site than the first.
fn sites() -> impl Iterator<Item = Range<u64>> {
    let first = rounds("SEAWALL_KILL_FROM", 0);
    let end = first + rounds("SEAWALL_KILLS", 3);
    let step = usize::try_from(ROUNDS_PER_SITE).unwrap();
    (first..end)
        .step_by(step)
        .map(move |from| from..end.min(from + ROUNDS_PER_SITE))
}

/// Brings about a recovery, and gives the replica that it is about.
type Begin = fn(&mut Site) -> usize;

/// Kills in the recovery that `begin` brings about, which has this outcome and source.
fn kills_in(kind: &str, outcome: &str, source: &str, begin: Begin) {
    for site_rounds in sites() {
        println!("{kind}: SEAWALL_KILL_FROM={}", site_rounds.start);
        let mut site = Site::new(site_rounds.start);
        site.write_through(20);
        let replica = begin(&mut site);
        let started = Instant::now();
        site.expect_in_sync(replica);
        assert!(site.answered(), "never in sync");
        let whole = started.elapsed();
        let recovery = site.recovery(replica);
        let found = [&recovery["outcome"], &recovery["source"]];
        assert_eq!(found, [outcome, source], "{recovery:#}");
        for round in site_rounds {
            site.settle();
            site.compare();
            site.full = false;
            site.start_all();
            site.settle();
            let victims = VICTIMS[usize::try_from(round % 3).unwrap()];
            let replica = begin(&mut site);
            for strike in strikes(&site, replica, victims) {
                let time = moment(&mut site.random, whole);
                let pieces = site.random.below(8);
                site.write(pieces);
                site.flush();
                site.expect_in_sync(replica);
                let over = match site.run_for(time) {
                    true => "over",
                    false => "running",
                };
                println!("{kind} round {round}: {victims:?} after {time:?} of {whole:?}, {over}");
                strike.iter().for_each(|node| site.kill(*node));
                strike.iter().for_each(|node| site.start(*node));
            }
        }
        site.settle();
        site.compare();
    }
}

/// Who is killed together, one time after the other.
fn strikes(site: &Site, replica: usize, victims: Victims) -> Vec<Vec<usize>> {
    match victims {
        Victims::Replica => vec![vec![replica]],
        Victims::Primary => vec![vec![site.primary]],
        Victims::BothTwice => vec![vec![replica, site.primary]; 2],
    }
}

/// A replica is away while others write.
fn fall_behind(site: &mut Site) -> usize {
    let [replica, _] = site.any_followers();
    site.kill(replica);
    let pieces = 10 + site.random.below(40);
    site.write_through(pieces);
    replica
}

/// Primary and replica start, so that the recovery begins at once.
fn meet(site: &mut Site, replica: usize) -> usize {
    site.kill(site.primary);
    site.start(replica);
    site.start(site.primary);
    replica
}

#[test]
fn a_tail_replay_that_is_killed_goes_on_by_itself() {
    kills_in("tail", "catch-up", "log", |site| {
        let replica = fall_behind(site);
        meet(site, replica)
    });
}

fn lose_the_log(site: &mut Site) -> usize {
    let replica = fall_behind(site);
    site.ask("checkpoint");
    let head = site.ask("status")["status"]["head"].take();
    site.ask(&format!("reclaim {head}"));
    let pieces = 1 + site.random.below(20);
    site.write_through(pieces);
    replica
}

#[test]
fn a_snapshot_with_its_tail_that_is_killed_is_sent_again() {
    kills_in("snapshot", "rebuild", "snapshot + tail", |site| {
        let replica = lose_the_log(site);
        meet(site, replica)
    });
}

#[test]
fn a_full_base_that_is_killed_is_sent_again() {
    kills_in("full", "rebuild", "full base", |site| {
        let replica = lose_the_log(site);
        site.wipe(replica);
        site.full = true;
        meet(site, replica)
    });
}

/// The primary writes what nobody else gets, and another one becomes primary.
fn fork(site: &mut Site) -> usize {
    let ([winner, peer], old) = (site.any_followers(), site.primary);
    site.kill(winner);
    site.kill(peer);
    let pieces = 1 + site.random.below(40);
    site.write(pieces);
    site.ask("sync");
    site.kill(old);
    site.start(peer);
    site.promote(winner, peer);
    // D1: without a record of its own the new primary may yet take those of the old one.
    site.start(site.primary);
    site.write_through(1);
    meet(site, old)
}

#[test]
fn a_truncation_after_a_promotion_that_is_killed_ends_on_the_new_branch() {
    kills_in("truncation", "truncate", "log", fork);
}

/// The primary dies while it writes. The promotion of a follower is killed `times`, or the peer
/// that promises, or both; then it is left alone. Gives how long that took.
fn promote(site: &mut Site, victims: Victims, times: u64, whole: Duration) -> Duration {
    let ([winner, peer], old) = (site.any_followers(), site.primary);
    let pieces = 1 + site.random.below(40);
    site.write(pieces);
    site.flush();
    let time = moment(&mut site.random, Duration::from_millis(100));
    site.run_for(time);
    site.kill(old);
    site.kill(winner);
    for _ in 0..times {
        let mut promotion = Node::start(program("seawall"), &site.promotion(winner));
        let time = moment(&mut site.random, whole);
        let over = match promotion.runs_for(time) {
            true => "running",
            false => "over",
        };
        println!("promotion: {victims:?} after {time:?} of {whole:?}, {over}");
        match victims {
            Victims::Primary => promotion.kill(),
            Victims::Replica => {
                site.kill(peer);
                // OK because the promise may have come before the kill, or not.
                let _promoted_or_not = promotion.ended();
                site.start(peer);
            }
            Victims::BothTwice => {
                site.kill(peer);
                promotion.kill();
                site.start(peer);
            }
        }
    }
    let started = Instant::now();
    site.promote(winner, peer);
    let took = started.elapsed();
    site.start(old);
    site.start(site.primary);
    took
}

#[test]
fn a_promotion_that_is_killed_is_repeated_and_loses_nothing() {
    for site_rounds in sites() {
        println!("promotion: SEAWALL_KILL_FROM={}", site_rounds.start);
        let mut site = Site::new(site_rounds.start);
        site.write_through(20);
        let whole = promote(&mut site, Victims::Primary, 0, Duration::ZERO);
        for round in site_rounds {
            site.settle();
            site.compare();
            site.start_all();
            site.settle();
            println!("promotion round {round}");
            let victims = VICTIMS[usize::try_from(round % 3).unwrap()];
            let times = 1 + u64::from(matches!(victims, Victims::BothTwice));
            promote(&mut site, victims, times, whole);
        }
        site.settle();
        site.compare();
    }
}
