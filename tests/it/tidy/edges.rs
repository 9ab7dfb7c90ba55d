//! Dependencies point one way: recovery -> snapshot -> wal, and nothing upwards.

use std::process::Command;

use serde_json::Value;

use super::{Source, enforce, root, sample};

const LIBRARIES: [&str; 3] = ["seawall-wal", "seawall-snapshot", "seawall-recovery"];

/// Which packages of the workspace each one may use, tests included.
const MEMBER_EDGES: &[(&str, &[&str])] = &[
    ("seawall-wal", &[]),
    ("seawall-snapshot", &["seawall-wal"]),
    ("seawall-recovery", &["seawall-wal", "seawall-snapshot"]),
    ("seawall-tools", &LIBRARIES),
    ("seawall-nbdkit", &LIBRARIES),
    ("seawall-peers", &LIBRARIES),
    ("seawall", &LIBRARIES),
];

/// Third-party packages that have one home.
const HOMES: &[(&str, &[&str])] = &[
    ("memmap2", &["seawall-wal"]),
    ("io-uring", &["seawall-wal"]),
    ("rustls", &["seawall-recovery"]),
    ("rcgen", &[]),
    ("clap", &["seawall-tools"]),
    ("clap_complete", &["seawall-tools"]),
    ("clap_mangen", &["seawall-tools"]),
    ("anstream", &["seawall-tools"]),
    ("anstyle", &["seawall-tools"]),
    ("humantime", &["seawall-tools"]),
    ("indicatif", &["seawall-tools"]),
    ("tempfile", &["seawall-tools", "seawall-peers"]),
    ("proptest", &[]),
    ("criterion", &[]),
];

/// One dependency line of a manifest.
struct Edge<'a> {
    from: &'a str,
    to: &'a str,
    for_tests: bool,
}

fn complaint(edge: &Edge<'_>) -> Option<String> {
    let Edge {
        from,
        to,
        for_tests,
    } = *edge;
    if to == "seawall" || to.starts_with("seawall-") {
        let itself_for_tests = for_tests && from == to;
        let tools_for_tests = for_tests && from == "seawall" && to == "seawall-tools";
        let allowed = MEMBER_EDGES.iter().find(|(name, _)| *name == from);
        let known = allowed.is_some_and(|(_, targets)| targets.contains(&to));
        return (!known && !itself_for_tests && !tools_for_tests)
            .then(|| format!("{from} may not depend on {to}"));
    }
    let homes = HOMES.iter().find(|(name, _)| *name == to);
    let away = homes.is_some_and(|(_, homes)| !homes.contains(&from));
    (away && !for_tests).then(|| format!("{from} may not depend on {to}: it has another home"))
}

fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo metadata failed");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn dependencies_point_one_way() {
    let metadata = metadata();
    let mut seen = Vec::new();
    let mut complaints = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let from = package["name"].as_str().unwrap();
        seen.push(from);
        for dependency in package["dependencies"].as_array().unwrap() {
            complaints.extend(complaint(&Edge {
                from,
                to: dependency["name"].as_str().unwrap(),
                for_tests: dependency["kind"].as_str() == Some("dev"),
            }));
        }
    }
    for (name, _) in MEMBER_EDGES {
        assert!(
            seen.contains(name),
            "{name} is in the table but not in the workspace"
        );
    }
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn an_edge_upwards_is_refused() {
    let edge = |from, to, for_tests| Edge {
        from,
        to,
        for_tests,
    };
    assert!(complaint(&edge("seawall-wal", "seawall-snapshot", false)).is_some());
    assert!(complaint(&edge("seawall-wal", "seawall-recovery", true)).is_some());
    assert!(complaint(&edge("seawall", "seawall-tools", false)).is_some());
    assert!(complaint(&edge("seawall-snapshot", "memmap2", false)).is_some());
    assert!(complaint(&edge("seawall-wal", "seawall-wal", true)).is_none());
    assert!(complaint(&edge("seawall", "seawall-tools", true)).is_none());
}

/// Raw mappings and rings stay behind the Disk seam; unsafe code stays out of the upper crates.
fn leaves_its_place(file: &Source) -> Vec<String> {
    let inside = file.path.starts_with("wal/src/disk") || file.path.starts_with("tests/it/tidy/");
    if inside || !file.has_extension(&["rs"]) {
        return Vec::new();
    }
    file.lines()
        .filter(|(_, line)| line.contains("memmap2::") || line.contains("io_uring::"))
        .map(|(n, _)| format!("{}:{n}: belongs into wal/src/disk", file.path))
        .collect()
}

#[test]
fn maps_and_rings_stay_behind_the_disk_seam() {
    let stray = sample("wal/src/log.rs", "use memmap2::Mmap;");
    assert_eq!(leaves_its_place(&stray).len(), 1);
    enforce(leaves_its_place);
}

#[test]
fn upper_crates_forbid_unsafe_code() {
    for file in [
        "lib.rs",
        "snapshot/src/lib.rs",
        "recovery/src/lib.rs",
        "tools/src/lib.rs",
    ] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        assert!(
            text.contains("#![forbid(unsafe_code)]"),
            "{file} does not forbid unsafe code"
        );
    }
}
