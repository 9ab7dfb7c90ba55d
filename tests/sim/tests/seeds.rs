//! A few seeds of the simulator, and that equal seeds are equal runs.
//!
//! `SEAWALL_SEEDS` says how many times twenty seeds, `SEAWALL_SEED` where they begin.

use seawall_sim::{Mix, run};

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn whatever_goes_wrong_nothing_acknowledged_is_lost_and_the_cluster_becomes_whole() {
    let first = number("SEAWALL_SEED", 1);
    for seed in first..first + 20 * number("SEAWALL_SEEDS", 12) {
        let report = run(seed, &Mix::swarm(seed));
        assert_eq!(report.violation, None, "{}", report.story());
    }
}

#[test]
fn equal_seeds_are_equal_runs() {
    for seed in 100..110 {
        let (one, other) = (run(seed, &Mix::swarm(seed)), run(seed, &Mix::swarm(seed)));
        assert_eq!(
            (one.trace, one.turns, one.story()),
            (other.trace, other.turns, other.story())
        );
    }
    let (one, other) = (run(1, &Mix::quiet()), run(2, &Mix::quiet()));
    assert_ne!(one.trace, other.trace, "the seed changes nothing");
}
