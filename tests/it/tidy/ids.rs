//! Whatever code cites by number is defined in the repository.

use std::collections::BTreeSet;

use super::{Source, root, sample, sources};

/// A family of numbered statements, and the file that defines it.
struct Family {
    /// What stands before the number.
    prefix: &'static str,
    /// Path below the root.
    defined_in: &'static str,
    /// Where citations count: a path prefix.
    cited_under: &'static str,
}

const FAMILIES: &[Family] = &[
    family("W", "wal/src/lib.rs", "wal/src/"),
    family("S", "snapshot/src/lib.rs", "snapshot/src/"),
    family("R", "recovery/src/lib.rs", "recovery/src/"),
    family("D", "ARCHITECTURE.md", ""),
    family("L", "ARCHITECTURE.md", ""),
    family("L-W", "ARCHITECTURE.md", ""),
    family("L-T", "ARCHITECTURE.md", ""),
    family("L-R", "ARCHITECTURE.md", ""),
    family("L-M", "ARCHITECTURE.md", ""),
    family("L-U", "ARCHITECTURE.md", ""),
    family("L-N", "ARCHITECTURE.md", ""),
    family("L-B", "ARCHITECTURE.md", ""),
    family("L-S", "ARCHITECTURE.md", ""),
    family("L-D", "ARCHITECTURE.md", ""),
    family("L-Z", "ARCHITECTURE.md", ""),
    family("L-C", "ARCHITECTURE.md", ""),
    family("L-Y", "ARCHITECTURE.md", ""),
    family("L-E", "ARCHITECTURE.md", ""),
    family("L-O", "ARCHITECTURE.md", ""),
    family("A", "tests/BEHAVIOUR.md", ""),
    family("P", "tests/BEHAVIOUR.md", ""),
    family("H", "tests/BEHAVIOUR.md", ""),
    family("F", "tests/BEHAVIOUR.md", ""),
    family("G", "tests/BEHAVIOUR.md", ""),
];

const fn family(
    prefix: &'static str,
    defined_in: &'static str,
    cited_under: &'static str,
) -> Family {
    Family {
        prefix,
        defined_in,
        cited_under,
    }
}

/// The ids of one family in `text`: its prefix and one to three digits, as a word of its own.
fn ids(prefix: &str, text: &str) -> BTreeSet<String> {
    text.match_indices(prefix)
        .filter_map(|(at, _)| {
            let before = text[..at].chars().next_back();
            let rest = &text[at + prefix.len()..];
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let after = rest[digits..].chars().next();
            let whole = before.is_none_or(|c| !c.is_alphanumeric() && !"-_'\"{".contains(c))
                && after.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != '\'');
            (whole && (1..=3).contains(&digits)).then(|| format!("{prefix}{}", &rest[..digits]))
        })
        .collect()
}

/// The comment part of every line: ids in strings and names are data, not citations.
fn comments(file: &Source) -> String {
    let after_slashes = |line: &str| line.find("//").map(|at| line[at..].to_owned() + "\n");
    file.lines()
        .filter_map(|(_, line)| after_slashes(line))
        .collect()
}

fn undefined(file: &Source, family: &Family, defined: &BTreeSet<String>) -> Vec<String> {
    let tidy = file.path.starts_with("tests/it/tidy/");
    if tidy || !file.has_extension(&["rs"]) || !file.path.starts_with(family.cited_under) {
        return Vec::new();
    }
    ids(family.prefix, &comments(file))
        .difference(defined)
        .map(|id| {
            format!(
                "{}: {id} is not defined in {}",
                file.path, family.defined_in
            )
        })
        .collect()
}

#[test]
fn every_id_that_code_cites_is_defined() {
    let files = sources();
    let mut complaints = Vec::new();
    for family in FAMILIES {
        let text = std::fs::read_to_string(root().join(family.defined_in)).unwrap();
        let defined = ids(family.prefix, &text);
        complaints.extend(files.iter().flat_map(|f| undefined(f, family, &defined)));
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn an_id_without_a_definition_is_found() {
    let defined = ids("W", "//! - W1 holds\n//! - W2 too");
    let file = sample("wal/src/log.rs", "// W3: because\n// OK because W1");
    assert_eq!(undefined(&file, &FAMILIES[0], &defined).len(), 1);
}

#[test]
fn ids_are_words_of_their_own() {
    assert_eq!(ids("W", "W1, (W22) L-W3 FW4 W5x W").len(), 2);
    assert_eq!(ids("L-W", "L-W3").len(), 1);
    assert_eq!(ids("L", "L3 L-W3 {L4}").len(), 1);
}
