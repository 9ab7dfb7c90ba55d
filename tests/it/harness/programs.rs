//! The programs of the workspace, built once with the profile of the running test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where cargo puts what the running profile builds: the parent of `deps`.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().to_path_buf()
}

fn build(profile_dir: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let mut command = Command::new(cargo);
    // What cargo says of the test's own package makes build scripts (ring's) run anew, and the next
    // build of the workspace anew again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let status = command
        .args([
            "build",
            "--quiet",
            "--package",
            "seawall-tools",
            "--package",
            "seawall-nbdkit",
        ])
        .args(["--profile", profile, "--target-dir"])
        .arg(profile_dir.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success(), "the programs do not build");
}

fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let dir = profile_dir();
        build(&dir);
        dir
    })
}

/// Path of `seawall` or `wal-dump`.
pub(crate) fn program(name: &str) -> PathBuf {
    built().join(name)
}

/// Path of the nbdkit plugin.
pub(crate) fn nbdkit_plugin() -> PathBuf {
    built().join("libnbdkit_seawall_plugin.so")
}
