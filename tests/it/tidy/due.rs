//! Every acceptance number that is due has a test that names it.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use super::{Source, sample, sources};

/// The numbers of tests/BEHAVIOUR.md that are due. A test names one in the comment above it, in
/// its name, or in a text within it.
const DUE: &[RangeInclusive<u16>] = &[1..=209, 211..=250];

/// The numbers in `text`: a letter and three digits, not part of a longer word. In the name of a
/// function it stands between underscores.
fn numbers(text: &str, letter: char) -> impl Iterator<Item = u16> {
    let is_word = |c: char| c.is_ascii_alphanumeric();
    text.match_indices(letter).filter_map(move |(at, _)| {
        let rest = &text[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let whole = !text[..at].ends_with(is_word) && !rest[digits..].starts_with(is_word);
        (whole && digits == 3).then(|| rest[..3].parse().expect("three digits"))
    })
}

/// What the tests of a file name.
fn named(file: &Source) -> BTreeSet<u16> {
    let text = file.text.as_deref().unwrap_or("");
    let mut found = BTreeSet::new();
    for (at, mark) in text.match_indices("#[test]\n") {
        let above = text[..at].lines().rev();
        let above = above.skip_while(|line| line.trim().is_empty());
        for line in above.take_while(|line| line.trim_start().starts_with("//")) {
            found.extend(numbers(line, 'A'));
        }
        let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let indent = &text[line_start..at];
        let body = &text[at + mark.len()..];
        let end = body.find(&format!("\n{indent}}}\n")).unwrap_or(body.len());
        found.extend(numbers(&body[..end], 'A'));
        found.extend(numbers(body.lines().next().unwrap_or(""), 'a'));
    }
    found
}

fn is_test_source(file: &&Source) -> bool {
    file.has_extension(&["rs"]) && !file.path.starts_with("tests/it/tidy/")
}

#[test]
fn every_due_number_has_a_test_that_names_it() {
    let files = sources();
    let found: BTreeSet<u16> = files
        .iter()
        .filter(is_test_source)
        .flat_map(named)
        .collect();
    let missing: Vec<String> = DUE
        .iter()
        .flat_map(RangeInclusive::clone)
        .filter(|number| !found.contains(number))
        .map(|number| format!("A{number:03} is due and no test names it"))
        .collect();
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn only_tests_name_a_number() {
    let text = "// A001\nfn helper() {}\n\n// A002, A003: why\n#[test]\nfn a004_b() {\n    let _ = \
                (\"A005\", \"XA006\");\n}\n// A007\nmod x {\n    // A008\n    #[test]\n    fn f() \
                {\n        g(\"A009\");\n    }\n    const A: &str = \"A010\";\n}\n";
    let file = sample("x.rs", text);
    assert_eq!(named(&file), BTreeSet::from([2, 3, 4, 5, 8, 9]));
}
