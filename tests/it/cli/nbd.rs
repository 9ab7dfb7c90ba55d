//! Real clients through nbdkit.

use super::{arg, create, file_system};
use crate::harness::{Ended, assert_same_file, nbdkit_plugin, run, scratch, seawall};

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

/// Runs qemu-io commands against the volume, each demanded to succeed.
#[track_caller]
fn qemu_io(volume: &str, commands: &[&str]) {
    let quoted: String = commands.iter().map(|c| format!(" -c '{c}'")).collect();
    let ended = through_nbdkit(volume, &format!("qemu-io -f raw{quoted} \"$uri\"")).ok();
    for word in ["failed", "error"] {
        assert!(!ended.stdout.contains(word), "{ended:#?}");
    }
}

#[test]
fn qemu_io_reads_what_it_wrote_before_and_after_a_restart() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "16M");
    let reads = [
        "read -P 1 0 64k",
        "read -P 2 64k 4k",
        "read -P 0 68k 4k",
        "read -P 0 1M 512k",
        "read -P 3 1536k 512k",
        "read -P 0 2M 256k",
        "read -P 4 2304k 256k",
        "read -P 0 3M 64k",
        "read -P 5 3136k 64k",
        "read -P 6 4097k 3k",
        "read -P 0 8M 8M",
    ];
    let writes = [
        "write -P 1 0 64k",
        "write -f -P 2 64k 4k",
        "flush",
        "write -P 3 1M 1M",
        "write -z 1M 512k",
        "write -P 4 2M 512k",
        "write -z -u 2M 256k",
        "write -P 5 3M 128k",
        "discard 3M 64k",
        "write -P 6 4097k 3k",
    ];
    qemu_io(&volume, &[&writes[..], &reads[..]].concat());
    qemu_io(&volume, &reads);
    seawall(&["verify", &volume]).ok();
    seawall(&["checkpoint", &volume]).ok();
    qemu_io(&volume, &reads);
    seawall(&["verify", &volume]).ok();
}

#[test]
fn a_wrong_pattern_is_noticed_by_the_same_means() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    create(&volume, "1M");
    let ended = through_nbdkit(&volume, "qemu-io -f raw -c 'read -P 1 0 4k' \"$uri\"");
    assert!(
        ended.stdout.contains("Pattern verification failed"),
        "{ended:#?}"
    );
}

#[test]
fn a_file_system_survives_import_and_export() {
    let dir = scratch();
    let megabytes = if std::env::var_os("SEAWALL_TREE").is_some() {
        512
    } else {
        48
    };
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
    let megabytes = if std::env::var_os("SEAWALL_TREE").is_some() {
        512
    } else {
        48
    };
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
