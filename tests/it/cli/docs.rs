//! `seawall docs` covers what `--help` shows.

use std::path::Path;

use super::arg;
use crate::harness::{run, scratch, seawall, wal_dump};

/// The long flags that a help text lists.
fn flags(help: &str) -> Vec<String> {
    let flag = |line: &str| {
        let at = line.find("--")?;
        let own_line = line[..at].trim_start_matches([' ', ',']).len() <= 4;
        let is_flag = |c: &char| c.is_ascii_lowercase() || *c == '-';
        let name: String = line[at..].chars().take_while(is_flag).collect();
        (own_line && name.len() > 2).then_some(name)
    };
    help.lines()
        .filter(|line| line.starts_with("  "))
        .filter_map(flag)
        .collect()
}

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> Vec<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let listed = listed.take_while(|line| line.starts_with("  "));
    let names = listed.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

fn check(dir: &Path, binary: &str, page: &str, help: &str) {
    let file = dir.join("man1").join(format!("{page}.1"));
    let rendered = run("man", &["-l", file.to_str().unwrap()]).ok().stdout;
    // The renderer breaks lines and makes letters bold by overstriking.
    let rendered = rendered.replace(['\u{8}', '\n'], "");
    let found = flags(help);
    assert!(found.contains(&"--help".into()), "{page}: {help}");
    for flag in &found {
        assert!(
            rendered.contains(flag.as_str()),
            "{page}.1 lacks {flag}: {rendered}"
        );
    }
    for shell in ["bash", "fish"] {
        let file = dir.join("completions").join(format!("{binary}.{shell}"));
        let text = std::fs::read_to_string(file).unwrap();
        for flag in &found {
            let name = flag.trim_start_matches('-');
            assert!(
                text.contains(name),
                "{binary}.{shell} lacks {flag} of {page}"
            );
        }
    }
}

#[test]
fn man_pages_and_completions_cover_every_flag_of_both_commands() {
    let dir = scratch();
    let out = arg(dir.path(), "docs");
    seawall(&["docs", &out]).ok();
    // A second run writes the same files anew.
    seawall(&["docs", &out]).ok();
    let out = Path::new(&out);
    let help = seawall(&["--help"]).ok().stdout;
    let below = subcommands(&help);
    assert!(
        below.contains(&"primary".into()) && !below.contains(&"docs".into()),
        "{help}"
    );
    check(out, "seawall", "seawall", &help);
    for name in below {
        let help = seawall(&[&name, "--help"]).ok().stdout;
        check(out, "seawall", &format!("seawall-{name}"), &help);
    }
    let help = wal_dump(&["--help"]).ok().stdout;
    assert!(flags(&help).contains(&"--salvage".into()), "{help}");
    check(out, "wal-dump", "wal-dump", &help);
    let zsh = std::fs::read_to_string(out.join("completions/_wal-dump")).unwrap();
    assert!(zsh.starts_with("#compdef wal-dump") && zsh.contains("--salvage"));
}

#[test]
fn documents_that_cannot_be_written_are_refused() {
    let dir = scratch();
    let nowhere = arg(dir.path(), "a/b");
    seawall(&["docs", &nowhere]).refused(2, &nowhere);
}
