//! Every command that README and OPERATIONS print, run as it is printed.
//!
//! A document is one bash script: the lines of its `sh` blocks in order, in a directory that holds
//! what a clone holds after `cargo build --release`. A comment `exit code N` behind a command says
//! how it ends, if not with 0. What takes longer than a test may, or needs what a machine may not
//! have, is in [`RULES`] with the reason, and still has to be a command that is understood.
//! Commands within a sentence, here and in the guide, have words like `DIR` in them: they are
//! parsed.

mod campaigns;
mod script;

use std::path::Path;

use crate::harness::{free_port, not_run_here, program, run, scratch, write_file};
use script::{Command, commands, spans};

/// What becomes of a command that is not run as it stands.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Its flags and values are parsed: it gets `--help` at its end.
    Parsed,
    /// As `Parsed`, what stands behind the program that measures it.
    ParsedInside,
    /// A server: it runs until it prints this, then gets the signal, and has to end with 0.
    Until(&'static str, &'static str),
    /// Its tests, packages and variables have to exist.
    Campaign,
    /// This runs in its place.
    Instead(&'static str),
}

/// The beginning of a command, what becomes of it, and why.
const RULES: &[(&str, Way, &str)] = &[
    ("./gate", Way::Instead("bash -n gate"), "it runs this test"),
    (
        "cargo build --release",
        Way::Instead("true"),
        "the programs of the test's own profile stand in target/release",
    ),
    (
        "seawall bench",
        Way::Parsed,
        "cli/bench.rs runs each, shortened",
    ),
    (
        "cargo bench",
        Way::Campaign,
        "minutes, and a build of its own",
    ),
    (
        "cargo run --release -p",
        Way::Campaign,
        "minutes, and a build of its own",
    ),
    (
        "cargo run --release --manifest-path",
        Way::Campaign,
        "minutes, and a workspace of its own",
    ),
    (
        "SEAWALL_",
        Way::Campaign,
        "hours; the gate runs the same tests with few seeds",
    ),
    (
        "perf record",
        Way::ParsedInside,
        "needs perf and leave to use it",
    ),
    (
        "perf report",
        Way::Instead("true"),
        "needs what perf recorded",
    ),
    (
        "strace",
        Way::ParsedInside,
        "needs strace and leave to trace",
    ),
    (
        "seawall primary vol --replica",
        Way::Until("replica r1 in sync", "INT"),
        "it runs until it is told to stop",
    ),
    (
        "seawall primary a --replica",
        Way::Until("replica b in sync", "INT"),
        "it runs until it is told to stop",
    ),
    (
        "seawall primary b --replica",
        Way::Until("replica a in sync", "INT"),
        "it runs until it is told to stop",
    ),
    (
        "seawall primary vol --control",
        Way::Parsed,
        "recovery/control.rs runs it with a file of assignments",
    ),
    (
        "seawall replica rep --id r1 --listen 10.",
        Way::Parsed,
        "an address of another network; recovery/tls.rs runs it with certificates",
    ),
    (
        "wal-dump vol --follow",
        Way::Until("", "INT"),
        "it runs until it is told to stop",
    ),
];

/// Functions of the script. `$at` is the line of the document.
const PRELUDE: &str = r#"
set -u
fail() { echo "FAILED: line $at: $*" >&2; exit 1; }
ended() { (($1 == $2)) || fail "exit code $1 where $2 is due"; }
cargo() {
    [[ "$1 $2 $3 $4 $5" == "run --release --bin seawall --" ]] || fail "no rule for cargo $*"
    shift 5
    seawall "$@"
}
until_said() {
    local wanted=$1 signal=$2 line="" seen="" pid
    shift 2
    exec 9< <(exec "$@" 2>&1)
    pid=$!
    while IFS= read -r line <&9; do
        echo "$line"
        [[ $line == *"$wanted"* ]] && seen=1 && break
    done
    [[ $seen ]] || fail "ended without saying: $wanted"
    kill -"$signal" "$pid"
    cat <&9
    wait "$pid"
}
trap 'kill $(jobs -p) 2>/dev/null' EXIT
"#;

/// The command as the script runs it, or what is wrong with it.
fn shell_of(command: &Command) -> Result<String, String> {
    let text = &command.text;
    let rule = RULES.iter().find(|(start, ..)| text.starts_with(start));
    let code = command.exit_code;
    let line = match rule.map(|(_, way, _)| *way) {
        None => text.clone(),
        Some(Way::Parsed) => format!("{} --help >help.txt", command.bare()),
        Some(Way::ParsedInside) => {
            let bare = command.bare();
            let inside = bare.find("target/release/").ok_or("no program of ours")?;
            format!("{} --help >help.txt", &bare[inside..])
        }
        Some(Way::Until(said, signal)) => format!("until_said '{said}' {signal} {text}"),
        Some(Way::Campaign) => {
            campaigns::check(&command.bare())?;
            "true".into()
        }
        Some(Way::Instead(other)) => other.into(),
    };
    Ok(format!(
        "at={}\necho \"line $at\"\n{line}\nended $? {code}\n",
        command.line
    ))
}

/// What a clone holds after a release build, as far as commands name it.
fn clone_of_the_repository(dir: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["wal", "gate"] {
        let from = root.join(name);
        run("cp", &["-r".as_ref(), from.as_os_str(), dir.as_os_str()]).ok();
    }
    let seawall = program("seawall");
    std::fs::create_dir(dir.join("target")).unwrap();
    std::os::unix::fs::symlink(seawall.parent().unwrap(), dir.join("target/release")).unwrap();
}

fn text_of(document: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(document);
    std::fs::read_to_string(path).unwrap()
}

/// Runs the commands of a document, and returns what they printed.
#[track_caller]
fn every_command_works(document: &str) -> String {
    let dir = scratch();
    clone_of_the_repository(dir.path());
    let commands = commands(&text_of(document));
    assert!(!commands.is_empty(), "{document} has no commands");
    let mut lines = PRELUDE.to_owned();
    lines += &format!(
        "PATH=\"{}:$PATH\"\n",
        dir.path().join("target/release").display()
    );
    for command in &commands {
        let shell = shell_of(command);
        lines += &shell.unwrap_or_else(|e| panic!("{document}:{}: {e}", command.line));
    }
    // The printed ports may be taken here.
    for printed in ["127.0.0.1:7001", "127.0.0.1:7002"] {
        lines = lines.replace(printed, &format!("127.0.0.1:{}", free_port()));
    }
    let script = dir.path().join("commands.bash");
    write_file(&script, lines.as_bytes());
    // In a group of its own, so that no server outlives it.
    let here = format!("cd '{}' && exec bash commands.bash", dir.path().display());
    let ended = run("timeout", &["-k", "5", "300", "bash", "-c", &here]);
    assert_eq!(ended.code, Some(0), "{document}: {ended:#?}");
    ended.stdout
}

/// Says and returns true if a program is missing that the commands of a document need.
fn lacks(programs: &[&str]) -> bool {
    let has = |name: &&&str| run("sh", &["-c", &format!("command -v {name}")]).code != Some(0);
    let missing: Vec<_> = programs.iter().filter(has).collect();
    if !missing.is_empty() {
        not_run_here(&format!("commands of the documents: no {missing:?}"));
    }
    !missing.is_empty()
}

#[test]
fn every_command_of_the_readme_works_as_printed() {
    if lacks(&["mke2fs", "nbdkit", "nbdcopy", "qemu-img"]) {
        return;
    }
    let said = every_command_works("README.md");
    for fact in ["equal", "in sync", "virtual size"] {
        assert!(said.contains(fact), "no {fact:?} in {said}");
    }
}

#[test]
fn every_command_of_the_operations_page_works_as_printed() {
    let said = every_command_works("OPERATIONS.md");
    for fact in ["b is primary of epoch 3", "b: ", ": whole"] {
        assert!(said.contains(fact), "no {fact:?} in {said}");
    }
}

#[test]
fn every_command_within_a_sentence_is_understood() {
    let mut parsed = 0;
    for document in ["OPERATIONS.md", "GUIDE.md"] {
        for command in spans(&text_of(document)) {
            let mut words = command.split_whitespace();
            let name = words.next().unwrap();
            let arguments: Vec<&str> = words.chain(["--help"]).collect();
            let ended = run(program(name), &arguments);
            assert_eq!(ended.code, Some(0), "{document}: {command}: {ended:#?}");
            parsed += 1;
        }
    }
    assert!(parsed > 8, "only {parsed} commands were found");
}

#[test]
fn every_exception_is_for_a_command_that_is_printed() {
    let printed: Vec<Command> = ["README.md", "OPERATIONS.md"]
        .iter()
        .flat_map(|name| commands(&text_of(name)))
        .collect();
    for (start, _, why) in RULES {
        let used = printed.iter().any(|c| c.text.starts_with(start));
        assert!(used, "no document prints {start:?}: drop its rule ({why})");
    }
}
