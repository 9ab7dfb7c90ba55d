//! Commands of cargo that take long: what they name has to exist.

use std::path::{Path, PathBuf};

use crate::harness::run;

/// Packages that documents name, and where they are.
const PACKAGES: &[(&str, &str)] = &[
    ("seawall-wal", "wal"),
    ("seawall-snapshot", "snapshot"),
    ("seawall-recovery", "recovery"),
    ("seawall-peers", "benches/peers"),
];

/// What is wrong with a command, if anything is.
pub(super) fn check(command: &str) -> Result<(), String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let all = sources(Path::new(env!("CARGO_MANIFEST_DIR")));
    for variable in words.iter().filter(|word| word.starts_with("SEAWALL_")) {
        let name = variable.split('=').next().unwrap_or_default();
        if !all.iter().any(|text| text.contains(&format!("\"{name}\""))) {
            return Err(format!("nothing reads {name}"));
        }
    }
    let after = |flag: &str| {
        let at = words.iter().position(|word| *word == flag)?;
        words.get(at + 1).copied()
    };
    let cargo = words.iter().position(|word| *word == "cargo");
    let subcommand = cargo.and_then(|at| words.get(at + 1)).copied();
    let mut home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    if let Some(package) = after("-p") {
        let known = PACKAGES.iter().find(|(name, _)| *name == package);
        let (_, below) = known.ok_or(format!("no package {package}"))?;
        home.push(below);
    }
    if let Some(manifest) = after("--manifest-path") {
        home.push(
            Path::new(manifest)
                .parent()
                .ok_or("no folder in --manifest-path")?,
        );
    }
    if !home.join("Cargo.toml").exists() {
        return Err(format!("{} holds no package", home.display()));
    }
    match (subcommand, after("--test")) {
        (Some("test"), Some("it")) => filter_of(&words).map_or(Ok(()), in_this_binary),
        (Some("test"), None) => {
            let filters = filters(&words);
            filters.iter().try_for_each(|name| in_sources(&home, name))
        }
        (Some("bench" | "run"), None) => Ok(()),
        _ => Err("no rule for it".into()),
    }
}

/// Names of tests that a command of cargo gives: behind the flags of cargo, or of the harness.
fn filters<'a>(words: &[&'a str]) -> Vec<&'a str> {
    const WITH_VALUE: [&str; 3] = ["-p", "--test", "--target-dir"];
    let mut found = Vec::new();
    let mut of_flag = false;
    for word in words.iter().skip_while(|word| **word != "cargo").skip(2) {
        if !of_flag_value(&mut of_flag, word, &WITH_VALUE) {
            found.push(*word);
        }
    }
    found
}

/// Whether a word is a flag or the value of the one before it.
fn of_flag_value(of_flag: &mut bool, word: &str, with_value: &[&str]) -> bool {
    let is_flag = word.starts_with('-');
    let is_value = std::mem::replace(of_flag, with_value.contains(&word));
    is_flag || is_value
}

fn filter_of<'a>(words: &[&'a str]) -> Option<&'a str> {
    filters(words).first().copied()
}

/// A filter of the integration tests has to leave some.
fn in_this_binary(filter: &str) -> Result<(), String> {
    let listed = run(std::env::current_exe().unwrap(), &["--list", filter]).ok();
    match listed.stdout.contains(": test") {
        true => Ok(()),
        false => Err(format!("no test of it matches {filter}")),
    }
}

/// A filter of a library's tests has to be a module or a part of the name of a test.
fn in_sources(home: &Path, filter: &str) -> Result<(), String> {
    let texts = sources(home);
    for name in filter.split("::").filter(|name| !name.is_empty()) {
        let module = format!("mod {name}");
        let names = |line: &str| {
            let line = line.trim_start();
            line.starts_with(&module) || (line.starts_with("fn ") && line.contains(name))
        };
        if !texts.iter().any(|text| text.lines().any(names)) {
            return Err(format!("no module or test {name} below {}", home.display()));
        }
    }
    Ok(())
}

/// Every source file below a directory that git tracks.
fn sources(below: &Path) -> Vec<String> {
    let listed = run("git", &["-C", below.to_str().unwrap(), "ls-files", "*.rs"]).ok();
    let read = |name: &str| std::fs::read_to_string(below.join(name)).ok();
    listed.stdout.lines().filter_map(read).collect()
}

#[test]
fn a_campaign_that_names_what_is_not_there_is_found() {
    assert_eq!(
        check("SEAWALL_SEEDS=5 cargo test --test it torture -- --nocapture"),
        Ok(())
    );
    for (wrong, what) in [
        (
            "SEAWALL_SEADS=5 cargo test --test it torture",
            "nothing reads",
        ),
        ("cargo test --test it tortoise", "no test of it"),
        ("cargo test -p seawall-wall --lib x", "no package"),
        ("cargo test -p seawall-wal --lib crush_tests", "no module"),
        ("cargo run --manifest-path tests/sin/Cargo.toml", "holds no"),
        ("cargo shave", "no rule"),
    ] {
        let found = check(wrong).expect_err(wrong);
        assert!(found.contains(what), "{wrong}: {found}");
    }
}
