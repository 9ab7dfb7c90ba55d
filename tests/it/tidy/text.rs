//! Rules about the text of single files.

use super::{Source, enforce, sample};

const WIDTH_MAX: usize = 100;
const BLOB_BYTES_MAX: u64 = 512 * 1024;
const LINES_MAX: usize = 600;

/// Files that were longer than [`LINES_MAX`] when the rule came, and how long they may be. Entries
/// shrink or go; a new one needs the answer to "which second noun has moved in".
const LONG_FILES: &[(&str, usize)] = &[];

/// Words that mark unfinished work, spelled so that this file does not contain them.
const UNFINISHED: [&str; 4] = [
    concat!("todo", "!"),
    concat!("unimplemented", "!"),
    concat!("FIX", "ME"),
    concat!("#[ig", "nore"),
];

/// Roots of the machines this is developed on; a tracked file that names one works nowhere else.
const MACHINE_PATHS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/ro", "ot/"),
    concat!("/fa", "rm/"),
];

fn is_written_by_us(file: &Source) -> bool {
    file.has_extension(&["rs", "toml", "md"]) || file.path == "gate" || file.path == ".ci/run"
}

fn not_ascii(file: &Source) -> Vec<String> {
    if !is_written_by_us(file) {
        return Vec::new();
    }
    file.lines()
        .filter(|(_, line)| !line.is_ascii())
        .map(|(n, _)| format!("{}:{n}: not ASCII", file.path))
        .chain(
            file.text
                .is_none()
                .then(|| format!("{}: not UTF-8", file.path)),
        )
        .collect()
}

/// The text of a message stays on one line, where a search finds it; a row of a table has to.
fn is_one_piece(line: &str) -> bool {
    const OPENINGS: [&str; 4] = ["#[error(\"", "\"", "//! |", "/// |"];
    let line = line.trim_start();
    OPENINGS.iter().any(|opening| line.starts_with(opening))
}

fn too_wide(file: &Source) -> Vec<String> {
    if !file.has_extension(&["rs"]) {
        return Vec::new();
    }
    file.lines()
        .filter(|(_, line)| line.chars().count() > WIDTH_MAX && !is_one_piece(line))
        .map(|(n, _)| format!("{}:{n}: wider than {WIDTH_MAX} columns", file.path))
        .collect()
}

fn too_long(file: &Source) -> Vec<String> {
    let lines = file.lines().count();
    let known = LONG_FILES.iter().find(|(path, _)| *path == file.path);
    let limit = known.map_or(LINES_MAX, |(_, limit)| *limit);
    if !file.has_extension(&["rs"]) || lines <= limit {
        return Vec::new();
    }
    vec![format!(
        "{}: {lines} lines, at most {limit}: which second noun has moved in?",
        file.path
    )]
}

fn too_big(file: &Source) -> Vec<String> {
    if file.bytes <= BLOB_BYTES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {} bytes, a blob", file.path, file.bytes)]
}

fn unfinished(file: &Source) -> Vec<String> {
    if !file.has_extension(&["rs"]) {
        return Vec::new();
    }
    file.lines()
        .filter_map(|(n, line)| {
            let word = UNFINISHED.iter().find(|word| line.contains(**word))?;
            Some(format!("{}:{n}: {word}", file.path))
        })
        .collect()
}

fn names_a_machine(file: &Source) -> Vec<String> {
    file.lines()
        .filter_map(|(n, line)| {
            let path = MACHINE_PATHS.iter().find(|path| line.contains(**path))?;
            Some(format!("{}:{n}: names {path}", file.path))
        })
        .collect()
}

/// Tests wait for events: a sleep is too short on one machine and too long on all others.
fn sleeps_in_a_test(file: &Source) -> Vec<String> {
    if !file.has_extension(&["rs"]) {
        return Vec::new();
    }
    let all_test = file.path.starts_with("tests/") || file.path.ends_with("tests.rs");
    let mut in_test = all_test;
    let mut complaints = Vec::new();
    for (n, line) in file.lines() {
        in_test |= line.trim_start().starts_with("#[cfg(test)]");
        let simulated = line.contains("turns::");
        if in_test && line.contains(concat!("sleep", "(")) && !simulated {
            complaints.push(format!("{}:{n}: a test sleeps", file.path));
        }
    }
    complaints
}

/// A `matches!` whose answer is dropped asserts nothing, and the compiler does not say so.
fn drops_a_match(file: &Source) -> Vec<String> {
    if !file.has_extension(&["rs"]) {
        return Vec::new();
    }
    let text = file.text.as_deref().unwrap_or("");
    text.match_indices("matches!(")
        .filter(|(at, opening)| {
            let before = text[..*at].trim_end().chars().next_back();
            let statement = before.is_none_or(|c| matches!(c, ';' | '{' | '}'));
            statement && ends_as_statement(&text[at + opening.len()..])
        })
        .map(|(at, _)| {
            let line = text[..at].lines().count();
            format!("{}:{line}: matches! is not asserted", file.path)
        })
        .collect()
}

/// Whether a semicolon follows the parenthesis that closes the one opened just before `rest`.
fn ends_as_statement(rest: &str) -> bool {
    let mut depth = 1;
    for (at, c) in rest.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return rest[at + 1..].trim_start().starts_with(';');
        }
    }
    false
}

#[test]
fn sources_are_ascii() {
    assert_eq!(not_ascii(&sample("a.rs", "\u{e9}")).len(), 1);
    enforce(not_ascii);
}

#[test]
fn lines_fit_in_a_hundred_columns() {
    assert_eq!(too_wide(&sample("a.rs", &"x".repeat(101))).len(), 1);
    assert_eq!(too_wide(&sample("a.rs", &"x".repeat(100))).len(), 0);
    enforce(too_wide);
}

#[test]
fn files_hold_one_noun_each() {
    assert_eq!(
        too_long(&sample("a.rs", &"x\n".repeat(LINES_MAX + 1))).len(),
        1
    );
    enforce(too_long);
}

#[test]
fn long_files_only_shrink() {
    for (path, _) in LONG_FILES {
        let file = super::sources().into_iter().find(|f| f.path == *path);
        let lines = file.map_or(0, |f| f.lines().count());
        assert!(lines > LINES_MAX, "{path} is short now; drop its entry");
    }
}

#[test]
fn no_blobs_are_tracked() {
    let mut blob = sample("a.bin", "");
    blob.bytes = BLOB_BYTES_MAX + 1;
    assert_eq!(too_big(&blob).len(), 1);
    enforce(too_big);
}

#[test]
fn nothing_is_left_unfinished() {
    for word in UNFINISHED {
        assert_eq!(unfinished(&sample("a.rs", word)).len(), 1);
    }
    enforce(unfinished);
}

#[test]
fn no_file_names_a_machine() {
    for path in MACHINE_PATHS {
        assert_eq!(names_a_machine(&sample("a.md", path)).len(), 1);
    }
    enforce(names_a_machine);
}

#[test]
fn no_test_sleeps() {
    let line = concat!("    std::thread::sleep", "(short);");
    assert_eq!(sleeps_in_a_test(&sample("tests/it/a.rs", line)).len(), 1);
    let inline = format!("#[cfg(test)]\nmod tests {{\n{line}\n}}");
    assert_eq!(sleeps_in_a_test(&sample("wal/src/a.rs", &inline)).len(), 1);
    assert_eq!(sleeps_in_a_test(&sample("wal/src/a.rs", line)).len(), 0);
    // Time that a seed gives takes none.
    let simulated = concat!("    turns::sleep", "(long);");
    assert_eq!(
        sleeps_in_a_test(&sample("tests/sim/a.rs", simulated)).len(),
        0
    );
    enforce(sleeps_in_a_test);
}

#[test]
fn every_match_in_a_test_is_asserted() {
    let dropped = "fn f() {\n    matches!(x, Some(_));\n}";
    assert_eq!(drops_a_match(&sample("a.rs", dropped)).len(), 1);
    let kept = "fn f() -> bool {\n    matches!(x, Some(_))\n}";
    assert_eq!(drops_a_match(&sample("a.rs", kept)).len(), 0);
    let bound = "let y = matches!(x, Some(_));";
    assert_eq!(drops_a_match(&sample("a.rs", bound)).len(), 0);
    enforce(drops_a_match);
}
