//! Stamped writes by several callers, captures and reclaims: what `seawall stress` does.

use std::time::Duration;

use super::{Device, Kind, Record, Tally, kinds, setting};
use crate::cli::create;
use crate::harness::{Node, Random, program, seawall};

/// Acknowledgements before the first run is killed, and how long it goes on between two looks.
const KEPT_BEFORE_KILL: usize = 200;
const LOOK_EVERY: Duration = Duration::from_millis(5);

fn call(device: &Device, rest: &[&str]) -> Vec<String> {
    let notes = device.notes();
    let path = device.path("vol");
    let mut args = vec![
        "stress",
        path.to_str().unwrap(),
        "--acks",
        notes.to_str().unwrap(),
    ];
    args.extend(rest);
    args.into_iter().map(Into::into).collect()
}

/// A volume from its creation through runs of which one ends by SIGKILL, and where its record
/// begins.
fn record(kind: Kind, random: &mut Random) -> (Record, usize) {
    let device = Device::formatted(kind);
    create(device.path("vol").to_str().unwrap(), "8M");
    device.note("created\n");
    let begin = device.position();
    for run in 0..2 {
        let backend = ["portable", "direct", "auto"][usize::try_from(random.below(3)).unwrap()];
        let seed = random.next().to_string();
        let args = call(
            &device,
            &["--seed", &seed, "--seconds", "1", "--backend", backend],
        );
        if run == 0 {
            let mut node = Node::start(program("seawall"), &args);
            while device.kept() < KEPT_BEFORE_KILL && node.runs_for(LOOK_EVERY) {}
            node.kill();
        } else {
            seawall(&args).ok();
        }
    }
    (device.off(), begin)
}

/// Everything that was acknowledged before the cut is there, and nothing that was never sent.
fn judge(device: &Device) {
    let path = device.path("vol");
    let volume = path.to_str().unwrap();
    seawall(&["verify", volume]).ok();
    seawall(&call(device, &["--check"])).ok();
    seawall(&["verify", volume]).ok();
}

#[test]
fn a_power_cut_takes_nothing_that_stress_was_promised() {
    let seed = setting("SEAWALL_POWER_SEED", 1);
    for &kind in kinds() {
        let mut tally = Tally::default();
        for run in seed..seed + setting("SEAWALL_POWER_RUNS", 1) {
            let mut random = Random::new(run);
            let (record, begin) = record(kind, &mut random);
            println!(
                "{} seed {run}: {} events, {} flushes",
                kind.name(),
                record.length(),
                record.flushes()
            );
            for _ in 0..setting("SEAWALL_POWER_CUTS", 3) {
                let span = (record.length() + 1 - begin) as u64;
                let at = begin + usize::try_from(random.below(span)).unwrap();
                tally.cut(&record, at, 0, (kind, &mut random), &mut judge);
            }
        }
        println!("{}: {tally:?}", kind.name());
    }
}

#[test]
fn a_device_that_lies_about_its_flushes_is_found_out() {
    for &kind in kinds().iter().take(1) {
        let mut random = Random::new(setting("SEAWALL_POWER_SEED", 1));
        let (record, begin) = record(kind, &mut random);
        let kept = begin + (record.length() - begin) / 4;
        let mut device = Device::on(record.cut_of_a_liar(kept, record.length()));
        device.mount(kind).unwrap_or_else(|e| panic!("{e}"));
        let checked = seawall(&call(&device, &["--check"]));
        assert_eq!(checked.code, Some(1), "{checked:#?}");
        assert!(checked.stdout.contains("was acknowledged"), "{checked:#?}");
    }
}
