//! SIGKILL of an import at random moments: the volume verifies each time.

use std::time::{Duration, Instant};

use super::{arg, create, rounds};
use crate::harness::{Node, Random, assert_same_file, program, scratch, seawall, write_file};

/// A moment in `(0, whole]`.
fn moment(random: &mut Random, whole: Duration) -> Duration {
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
