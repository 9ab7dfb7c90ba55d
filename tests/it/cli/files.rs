//! A real file system goes in and comes out: same bytes, and `e2fsck` finds it clean.

use super::{arg, create, file_system};
use crate::harness::{Ended, assert_same_file, nbdkit_plugin, run, scratch, seawall};

/// Megabytes of the image; a tree given from outside may be a large one.
fn size() -> u32 {
    match std::env::var_os("SEAWALL_TREE") {
        Some(_) => 512,
        None => 48,
    }
}

/// Runs a shell command against the volume served by nbdkit; `$uri` is its address.
fn through_nbdkit(volume: &str, command: &str) -> Ended {
    let plugin = nbdkit_plugin();
    let volume = format!("dir={volume}");
    run(
        "nbdkit",
        &[
            "-U",
            "-",
            plugin.to_str().unwrap(),
            &volume,
            "--run",
            command,
        ],
    )
}

#[test]
fn a_file_system_survives_import_and_export() {
    let dir = scratch();
    let megabytes = size();
    let image = file_system(dir.path(), megabytes);
    let (volume, copy) = (arg(dir.path(), "vol"), arg(dir.path(), "copy.img"));
    create(&volume, &format!("{megabytes}M"));
    seawall(&["import", &volume, image.to_str().unwrap()]).ok();
    seawall(&["export", &volume, &copy]).ok();
    assert_same_file(&image, copy.as_ref());
    run("e2fsck", &["-fn", &copy]).ok();
    seawall(&["checkpoint", &volume]).ok();
    seawall(&["export", &volume, &copy]).ok();
    assert_same_file(&image, copy.as_ref());
    seawall(&["verify", &volume]).ok();
}

#[test]
fn a_file_system_survives_nbdcopy_in_both_directions() {
    let dir = scratch();
    let megabytes = size();
    let image = file_system(dir.path(), megabytes);
    let (volume, copy) = (arg(dir.path(), "vol"), arg(dir.path(), "copy.img"));
    create(&volume, &format!("{megabytes}M"));
    let put = format!("nbdcopy --flush {} \"$uri\"", image.display());
    through_nbdkit(&volume, &put).ok();
    through_nbdkit(&volume, &format!("nbdcopy \"$uri\" {copy}")).ok();
    assert_same_file(&image, copy.as_ref());
    run("e2fsck", &["-fn", &copy]).ok();
    seawall(&["verify", &volume]).ok();
}
