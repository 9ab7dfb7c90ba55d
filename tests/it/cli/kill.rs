//! SIGKILL at random moments: the volume verifies, and what was acknowledged is there.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{arg, create, rounds};
use crate::harness::nbdkit_plugin;
use crate::harness::{Node, Random, assert_same_file, program, run, scratch, seawall, write_file};

const BLOCK: usize = 4096;

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

/// Blocks that a killed writer touched: their pattern before it and after it.
struct Expected {
    before: Vec<u8>,
    written: Vec<u8>,
    /// Blocks below this one were followed by a flush that completed.
    flushed: usize,
}

impl Expected {
    fn check(&self, image: &Path) -> Vec<u8> {
        let bytes = std::fs::read(image).unwrap();
        let found: Vec<u8> = bytes.chunks(BLOCK).map(|block| block[0]).collect();
        for (n, block) in bytes.chunks(BLOCK).enumerate() {
            assert!(
                block.iter().all(|byte| *byte == block[0]),
                "block {n} is mixed"
            );
            let old_is_fine = n >= self.flushed && block[0] == self.before[n];
            assert!(
                block[0] == self.written[n] || old_is_fine,
                "block {n} holds {}, before {}, written {}, flushed through {}",
                block[0],
                self.before[n],
                self.written[n],
                self.flushed
            );
        }
        found
    }
}

/// Writes and flushes block after block through qemu-io until the server is killed; gives the
/// number of blocks whose flush completed.
fn write_until_killed(volume: &str, dir: &Path, written: &[u8], after: Duration) -> usize {
    let (socket, script) = (arg(dir, "nbd.sock"), arg(dir, "script"));
    let pid = arg(dir, "nbd.pid");
    for stale in [&socket, &pid] {
        drop(std::fs::remove_file(stale));
    }
    let plugin = nbdkit_plugin();
    let volume = format!("dir={volume}");
    let serve = [
        "-f",
        "-U",
        &socket,
        "-P",
        &pid,
        plugin.to_str().unwrap(),
        &volume,
    ];
    let mut server = Node::start("nbdkit", &serve);
    while !Path::new(&pid).exists() {
        assert!(
            server.runs_for(Duration::from_millis(5)),
            "nbdkit ended: {server:#?}"
        );
    }
    let line = |(n, pattern)| format!("write -P {pattern} {}k 4k\nflush\n", n * BLOCK / 1024);
    let commands: String = written.iter().enumerate().map(line).collect();
    write_file(script.as_ref(), commands.as_bytes());
    let uri = format!("nbd+unix:///?socket={socket}");
    let mut client = Node::start_with_input("qemu-io", &["-f", "raw", &uri], script.as_ref());
    server.runs_for(after);
    server.kill();
    // A write that completed proves that the flush before it completed.
    let completed = client
        .all_lines()
        .iter()
        .filter(|l| l.contains("wrote 4096/4096"))
        .count();
    completed.saturating_sub(1)
}

#[test]
fn what_a_flush_acknowledged_survives_a_kill_of_nbdkit() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    let blocks = 1024;
    create(&volume, "4M");
    let mut random = Random::new(6);
    let mut before = vec![0; blocks];
    for round in 0..rounds("SEAWALL_KILLS", 3) {
        let pattern = |_| u8::try_from(1 + random.below(255)).unwrap();
        let written: Vec<u8> = (0..blocks).map(pattern).collect();
        let after = moment(&mut random, Duration::from_millis(1500));
        let flushed = write_until_killed(&volume, dir.path(), &written, after);
        println!("round {round}: killed after {after:?}, {flushed} flushes acknowledged");
        seawall(&["verify", &volume]).ok();
        let image = arg(dir.path(), "out.img");
        read_back(&volume, &image);
        let expected = Expected {
            before,
            written,
            flushed,
        };
        before = expected.check(image.as_ref());
    }
}

/// Reads the whole volume through a fresh nbdkit.
fn read_back(volume: &str, image: &str) {
    let plugin = nbdkit_plugin();
    let (volume, copy) = (format!("dir={volume}"), format!("nbdcopy \"$uri\" {image}"));
    run(
        "nbdkit",
        &["-U", "-", plugin.to_str().unwrap(), &volume, "--run", &copy],
    )
    .ok();
}
