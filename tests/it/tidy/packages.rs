//! What is published of each library stands by itself: its licences, its first page, and every file
//! that its sources take in.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::root;

/// The libraries, and where they lie.
const PUBLISHED: [(&str, &str); 4] = [
    ("seawall-wal", "wal"),
    ("seawall-snapshot", "snapshot"),
    ("seawall-recovery", "recovery"),
    ("seawall", ""),
];

/// The files that are packed of a package.
fn packed(package: &str) -> BTreeSet<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let listed = Command::new(cargo)
        .args([
            "package",
            "--list",
            "--allow-dirty",
            "--offline",
            "-p",
            package,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success(), "{package}: {errors}");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    names.lines().map(PathBuf::from).collect()
}

/// `path` without its `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// The files that a source takes in by name.
fn taken_in(source: &str) -> impl Iterator<Item = &str> {
    let calls = source.match_indices("include_str!(\"");
    calls.filter_map(|(at, call)| source[at + call.len()..].split('"').next())
}

#[test]
fn what_is_published_of_a_library_stands_by_itself() {
    let mut complaints = Vec::new();
    for (package, dir) in PUBLISHED {
        let files = packed(package);
        for needed in ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "Cargo.toml"] {
            if !files.contains(Path::new(needed)) {
                complaints.push(format!("{package} is packed without {needed}"));
            }
        }
        let sources = files
            .iter()
            .filter(|file| file.extension().is_some_and(|e| e == "rs"));
        for source in sources {
            let text = std::fs::read_to_string(root().join(dir).join(source)).unwrap();
            for name in taken_in(&text) {
                let file = plain(&source.parent().unwrap().join(name));
                if !files.contains(&file) {
                    let (source, file) = (source.display(), file.display());
                    complaints.push(format!("{package}: {source} takes in {file}, not packed"));
                }
            }
        }
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn a_file_that_is_taken_in_is_found_by_its_name() {
    let source = "a include_str!(\"../x.md\") b include_str!(\"y\")";
    assert_eq!(taken_in(source).collect::<Vec<_>>(), ["../x.md", "y"]);
    assert_eq!(plain(Path::new("src/a/../../x.md")), Path::new("x.md"));
}
