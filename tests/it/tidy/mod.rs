//! The rules of the repository that no lint knows. A rule given twice in review moves here.
//!
//! Each rule is a function from text to complaints, with a test that it can complain, and one test
//! that runs it over every file of the repository.

mod due;
mod edges;
mod ids;
mod packages;
mod text;

use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of the repository.
pub(crate) struct Source {
    /// Path below the root, with `/`.
    pub(crate) path: String,
    /// Content, or `None` when it is not UTF-8.
    pub(crate) text: Option<String>,
    /// Size in bytes.
    pub(crate) bytes: u64,
}

impl Source {
    fn has_extension(&self, wanted: &[&str]) -> bool {
        let extension = Path::new(&self.path).extension();
        wanted
            .iter()
            .any(|e| extension.is_some_and(|found| found == *e))
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let text = self.text.as_deref().unwrap_or("");
        text.lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file that git tracks or would track.
fn sources() -> Vec<Source> {
    let listed = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .expect("git is needed to list the files of the repository");
    assert!(listed.status.success(), "git ls-files failed");
    let names = String::from_utf8(listed.stdout).unwrap();
    let files: Vec<Source> = names
        .split_terminator('\0')
        .filter_map(|path| {
            // OK because a file deleted in the work tree is still listed until it is staged.
            let bytes = std::fs::read(root().join(path)).ok()?;
            Some(Source {
                path: path.into(),
                bytes: bytes.len() as u64,
                text: String::from_utf8(bytes).ok(),
            })
        })
        .collect();
    assert!(files.iter().any(|f| f.path == "lib.rs"), "no lib.rs listed");
    files
}

/// Runs a rule over the repository and fails with every complaint at once.
fn enforce(rule: impl Fn(&Source) -> Vec<String>) {
    let complaints: Vec<String> = sources().iter().flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[cfg(test)]
fn sample(path: &str, text: &str) -> Source {
    Source {
        path: path.into(),
        text: Some(text.into()),
        bytes: text.len() as u64,
    }
}
