//! SIGKILL of an import at random moments: the volume verifies each time.

use std::time::{Duration, Instant};

use super::{arg, create, rounds};
use crate::harness::{Node, Random, assert_same_file, program, scratch, seawall, write_file};

/// A moment in `(0, whole]`.
pub(crate) fn moment(random: &mut Random, whole: Duration) -> Duration {
    let nanoseconds = u64::try_from(whole.as_nanos()).unwrap().max(1);
    Duration::from_nanos(1 + random.below(nanoseconds))
}

#[test]
fn an_import_killed_at_any_moment_leaves_a_sound_volume() {
    let dir = scratch();
    let (volume, image) = (arg(dir.path(), "vol"), arg(dir.path(), "in.img"));
    let mut random = Random::new(5);
    write_file(image.as_ref(), &random.bytes(16 << 20));
    create(&volume, "16M");
    let import = ["import", volume.as_str(), image.as_str()];
    let started = Instant::now();
    seawall(&import).ok();
    let whole = started.elapsed();
    for round in 0..rounds("SEAWALL_KILLS", 3) {
        let mut node = Node::start(program("seawall"), &import);
        let running = node.runs_for(moment(&mut random, whole));
        node.kill();
        println!(
            "round {round}: killed {}",
            if running { "running" } else { "after its end" }
        );
        seawall(&["verify", &volume]).ok();
    }
    seawall(&import).ok();
    let copy = arg(dir.path(), "out.img");
    seawall(&["export", &volume, &copy]).ok();
    assert_same_file(image.as_ref(), copy.as_ref());
}

/// Rounds between two fresh volumes, so that the record stays short.
const ROUNDS_PER_VOLUME: u64 = 50;
/// A stress run is killed within so many milliseconds.
const LIFE_MS: u64 = 400;

/// Where the volumes of a campaign lie: `SEAWALL_KILL_DIRS` names directories, each on a file
/// system of its own.
fn homes() -> Vec<std::path::PathBuf> {
    let named = std::env::var("SEAWALL_KILL_DIRS").unwrap_or_default();
    named.split_whitespace().map(Into::into).collect()
}

/// Kills a stress run again and again; every acknowledgement is in a file outside the process.
fn every_acknowledgement_is_kept(home: &std::path::Path, rounds: u64, random: &mut Random) -> u64 {
    let (mut volume, mut acks) = (String::new(), String::new());
    let mut unfinished = 0;
    for round in 0..rounds {
        if round % ROUNDS_PER_VOLUME == 0 {
            let number = round / ROUNDS_PER_VOLUME;
            volume = arg(home, &format!("stress-{number}"));
            acks = arg(home, &format!("acks-{number}"));
            create(&volume, "16M");
        }
        let backend = ["auto", "portable", "direct"][usize::try_from(random.below(3)).unwrap()];
        let seed = random.next().to_string();
        let call = [
            "stress",
            &volume,
            "--seed",
            &seed,
            "--acks",
            &acks,
            "--backend",
            backend,
        ];
        let mut node = Node::start(program("seawall"), &call);
        let time = Duration::from_millis(random.below(LIFE_MS));
        unfinished += u64::from(node.runs_for(time));
        node.kill();
        let checked = seawall(&["stress", &volume, "--check", "--acks", &acks]);
        println!(
            "{} round {round}: {backend}, killed after {time:?}: {}",
            home.display(),
            checked.stdout.trim()
        );
        checked.ok();
    }
    unfinished
}

#[test]
fn a_killed_stress_run_kept_every_acknowledgement() {
    let mut random = Random::new(29);
    let few = rounds("SEAWALL_KILLS", 6);
    let scratch = scratch();
    let mut homes = homes();
    if homes.is_empty() {
        homes.push(scratch.path().into());
    }
    for home in homes {
        let running = every_acknowledgement_is_kept(&home, few, &mut random);
        assert!(running > 0, "no run of {few} was killed while it ran");
    }
}
