//! Puts deliberate bugs into a copy of the engine, one at a time, and counts the seeds until the
//! simulator notices: a check of what checks the engine.
#![expect(
    clippy::disallowed_methods,
    reason = "it copies sources and runs cargo, none of which is the engine's business"
)]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Parser;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Counts the seeds until the simulator notices each of the bugs in mutants.txt.
#[derive(Debug, Parser)]
struct Args {
    /// Most seeds for each
    #[arg(long, default_value_t = 600)]
    seeds: u64,
    /// Runs side by side
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Only those whose name contains this
    #[arg(long, default_value = "")]
    only: String,
}

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const MUTANTS: &str = include_str!("../../mutants.txt");

struct Mutant {
    name: String,
    path: PathBuf,
    old: String,
    new: String,
}

fn parse(text: &str) -> Result<Vec<Mutant>> {
    let entries = text.split("\n== ").skip(1);
    let parse = |entry: &str| {
        let (head, rest) = entry.split_once("\n<<<\n")?;
        let (name, path) = head.split_once('\n')?;
        let (old, rest) = rest.split_once("===\n")?;
        let (new, _) = rest.split_once(">>>")?;
        Some(Mutant {
            name: name.into(),
            path: path.trim().into(),
            old: old.into(),
            new: new.into(),
        })
    };
    let parse = |entry: &str| parse(entry).ok_or_else(|| format!("no entry: {entry}").into());
    entries.map(parse).collect()
}

/// Copies what git knows of `from`.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(from)
        .output()?;
    for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        let target = to.join(name);
        fs::create_dir_all(target.parent().ok_or("a file lies in a folder")?)?;
        let bytes = fs::read(from.join(name))?;
        // What did not change is not built again.
        if fs::read(&target).ok().as_ref() != Some(&bytes) {
            fs::write(&target, bytes)?;
        }
    }
    Ok(())
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let root = Path::new(ROOT).canonicalize()?;
    let scratch = root.join("target/mutants");
    let mutants = parse(MUTANTS)?;
    copy(&root, &scratch)?;
    let mut unnoticed = 0;
    for mutant in mutants
        .iter()
        .filter(|mutant| mutant.name.contains(&args.only))
    {
        let path = scratch.join(&mutant.path);
        let sound = fs::read_to_string(&path)?;
        if sound.matches(&mutant.old).count() != 1 {
            return Err(
                format!("{}: {} has it not once", mutant.name, mutant.path.display()).into(),
            );
        }
        fs::write(&path, sound.replace(&mutant.old, &mutant.new))?;
        let noticed = run(&scratch, &args);
        fs::write(&path, sound)?;
        match noticed? {
            Some(how) => println!("{}: {how}", mutant.name),
            None => {
                unnoticed += 1;
                println!("{}: NOT NOTICED within {} seeds", mutant.name, args.seeds);
            }
        }
    }
    println!("{unnoticed} of {} not noticed", mutants.len());
    Ok(match unnoticed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// How the simulator notices the bug that is in `scratch`, if it does.
fn run(scratch: &Path, args: &Args) -> Result<Option<String>> {
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--bin", "seawall-sim"])
        .args([
            "--manifest-path",
            "tests/sim/Cargo.toml",
            "--target-dir",
            "target",
        ])
        .current_dir(scratch)
        .stderr(Stdio::null())
        .status()?;
    if !built.success() {
        return Err("it does not build".into());
    }
    let (seeds, jobs) = (args.seeds.to_string(), args.jobs.to_string());
    let ran = Command::new(scratch.join("target/debug/seawall-sim"))
        .args(["1", &seeds, "--jobs", &jobs, "--first"])
        .stderr(Stdio::null())
        .output()?;
    if ran.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&ran.stdout);
    let line = |mark: &str| text.lines().find(|line| line.starts_with(mark));
    Ok(Some(match (line("seed "), line("violation: ")) {
        (Some(seed), Some(violation)) => format!("{seed}, {}", &violation["violation: ".len()..]),
        _ => format!("ends with {}", ran.status),
    }))
}

#[test]
fn every_mutant_finds_its_place_in_the_engine_once() {
    for mutant in parse(MUTANTS).unwrap() {
        let text = fs::read_to_string(Path::new(ROOT).join(&mutant.path)).unwrap();
        assert_eq!(text.matches(&mutant.old).count(), 1, "{}", mutant.name);
        assert_ne!(mutant.old, mutant.new, "{}", mutant.name);
    }
}
