//! Crash states of the log: stories that are cut at every change of the medium and at every
//! completion of an operation in flight, with any subset of what was not synced lost or torn
//! (DESIGN section 7).
//!
//! `SEAWALL_SEEDS` says how many random stories are told, `SEAWALL_CHOICES` how many ways the
//! medium chooses at each moment. A failure prints the line that repeats its state alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::disk::sim::{SimDisk, Visitor};

pub(crate) mod judge;
pub(crate) mod model;
pub(crate) mod story;

use judge::{Tally, judge};
use model::{Model, mixed};
use story::{Op, Teller, fixed_story, random_story};

/// Choices at one moment that gave a state seen before, until no more are drawn there; each new
/// state allows two more.
const KNOWN_MAX: u64 = 2;
/// A crash, a crash of the open that repairs it, and a crash of the open after that.
const DEPTH: u32 = 2;

/// A number from the environment.
pub(crate) fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is no number")),
    )
}

pub(crate) fn seeds() -> u64 {
    number("SEAWALL_SEEDS").unwrap_or(4)
}

/// Every which fault, flip or bad sector is tried: some in the gate, all in a campaign.
pub(crate) fn stride(gate: u64) -> u64 {
    number("SEAWALL_STRIDE").unwrap_or(gate)
}

/// How many ways the medium may choose at each moment, beside losing and keeping everything.
fn choices() -> u64 {
    number("SEAWALL_CHOICES").unwrap_or(4)
}

/// One state of a story: the moment, and what the medium kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    story: u64,
    moment: u64,
    choice: u64,
}

/// Prints how to repeat a state when judging it fails.
struct Rerun {
    test: &'static str,
    state: State,
}

impl Drop for Rerun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let State {
                story,
                moment,
                choice,
            } = self.state;
            println!(
                "rerun: SEAWALL_STORY={story} SEAWALL_MOMENT={moment} SEAWALL_CHOICE={choice} \
                 cargo test -p seawall-wal {} -- --nocapture",
                self.test
            );
        }
    }
}

/// What one campaign runs, and what it saw.
struct Campaign {
    test: &'static str,
    choices: u64,
    /// Only this moment and choice, when a failure is repeated.
    moment: Option<u64>,
    choice: Option<u64>,
    tally: Arc<Mutex<Tally>>,
}

impl Campaign {
    fn new(test: &'static str, choices: u64) -> Campaign {
        Campaign {
            test,
            choices,
            moment: number("SEAWALL_MOMENT"),
            choice: number("SEAWALL_CHOICE"),
            tally: Arc::default(),
        }
    }

    /// Cuts the disk in every way it is asked to, and judges what is left.
    fn visitor(&self, story: u64, model: &Arc<Mutex<Model>>) -> Visitor {
        let (test, choices, tally) = (self.test, self.choices, Arc::clone(&self.tally));
        let (only_moment, only_choice) = (self.moment, self.choice);
        let (moments, model) = (AtomicU64::new(0), Arc::clone(model));
        Arc::new(move |sim: &Arc<SimDisk>| {
            let moment = moments.fetch_add(1, Ordering::Relaxed);
            if only_moment.is_some_and(|only| only != moment) {
                return;
            }
            let model = model.lock().unwrap().clone();
            {
                let mut tally = tally.lock().unwrap();
                tally.in_flight_max = tally.in_flight_max.max(sim.in_flight());
            }
            let (mut known, mut new) = (0, 0);
            for choice in 0..choices + 2 {
                if only_choice.is_some_and(|only| only != choice) {
                    continue;
                }
                let state = State {
                    story,
                    moment,
                    choice,
                };
                let _rerun = Rerun { test, state };
                let seed = mixed(story << 40 ^ moment << 16 ^ choice);
                let crashed = match choice {
                    0 => sim.crash_lose_all(),
                    1 => sim.crash_keep_all(),
                    _ => sim.crash(seed),
                };
                match judge(&crashed, &model, seed, DEPTH, &tally) {
                    true => new += 1,
                    false => known += 1,
                }
                // Where little is unsynced there is little to choose.
                if known > KNOWN_MAX + 2 * new {
                    break;
                }
            }
        })
    }

    /// Tells one story, cut at every moment of it.
    fn tell(&self, seed: u64, ops: &[Op]) {
        let model = Arc::default();
        let visitor = self.visitor(seed, &model);
        // Both ways to make frames durable.
        let sim = match seed % 2 {
            0 => SimDisk::with_syncs(seed),
            _ => SimDisk::new(seed),
        };
        let mut teller = Teller::begin(sim, model, visitor, seed).unwrap();
        for op in ops {
            let told = teller.carry_out(*op);
            assert!(told.is_ok(), "story {seed}, {op:?}: {told:?}");
        }
    }

    fn report(&self, stories: &str) {
        let tally = self.tally.lock().unwrap();
        println!(
            "{}: {stories}: {} cuts, {} different states on {} different media, {} of them in the \
             middle of an open; {} logs opened, {} torn tails cut; at most {} operations in flight",
            self.test,
            tally.visited,
            tally.distinct,
            tally.media(),
            tally.nested,
            tally.opens,
            tally.torn,
            tally.in_flight_max
        );
    }
}

#[test]
fn every_crash_of_append_rotate_truncate_and_reclaim_is_survived() {
    let campaign = Campaign::new(
        "every_crash_of_append_rotate_truncate_and_reclaim_is_survived",
        choices().max(8),
    );
    let stories = number("SEAWALL_STORY").map_or(vec![2, 5], |story| vec![story]);
    for story in &stories {
        campaign.tell(*story, &fixed_story());
    }
    campaign.report(&format!("stories {stories:?}"));
    let tally = campaign.tally.lock().unwrap();
    if campaign.moment.is_none() {
        assert!(
            tally.distinct > 300,
            "the story has many states, not {tally:?}"
        );
        assert!(tally.nested > 15, "opens are cut as well: {tally:?}");
        assert!(tally.torn > 20, "tails are torn: {tally:?}");
    }
}

#[test]
fn every_crash_of_a_random_story_is_survived() {
    let campaign = Campaign::new("every_crash_of_a_random_story_is_survived", choices());
    let stories = match number("SEAWALL_STORY") {
        Some(story) => story..story + 1,
        None => 0..seeds(),
    };
    for seed in stories.clone() {
        println!("story {seed}");
        campaign.tell(seed, &random_story(seed));
        if seed % 100 == 99 {
            campaign.report(&format!("stories {}..={seed}", stories.start));
        }
    }
    campaign.report(&format!("stories {stories:?}"));
    assert!(campaign.tally.lock().unwrap().visited > 0);
}
