//! Wrong use: one clear line, the documented exit code, nothing changed.

use std::collections::BTreeMap;
use std::path::Path;

use seawall::wal::disk::{Disk, File, FileDisk, OpenMode, Operation};

use super::{arg, create};
use crate::harness::{
    Node, Random, free_port, program, run, scratch, seawall, wal_dump, write_file,
};

/// Every file below `dir` with its bytes.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                found.insert(path.to_str().unwrap().to_owned(), bytes);
            }
        }
    }
    found
}

/// Every command that wants an existing volume, called on `volume`.
fn commands_on(volume: &str, other: &str) -> Vec<Vec<String>> {
    let address = format!("127.0.0.1:{}", free_port());
    let replica = format!("r1={address}");
    [
        vec!["status", volume],
        vec!["verify", volume],
        vec!["checkpoint", volume],
        vec!["reclaim", volume, "--through", "1"],
        vec!["import", volume, other],
        vec!["export", volume, other],
        vec!["promote", volume, "--epoch", "2"],
        vec!["primary", volume, "--replica", &replica],
    ]
    .into_iter()
    .map(|call| call.into_iter().map(str::to_owned).collect())
    .collect()
}

#[test]
fn a_missing_directory_is_named_and_not_made() {
    let dir = scratch();
    let (volume, image) = (arg(dir.path(), "nowhere"), arg(dir.path(), "x.img"));
    write_file(image.as_ref(), &[0; 8192]);
    for call in commands_on(&volume, &image) {
        seawall(&call).refused(2, &volume);
        assert!(!Path::new(&volume).exists(), "{call:?} made the directory");
    }
    wal_dump(&[&volume]).refused(2, &volume);
}

#[test]
fn a_directory_that_is_no_volume_is_left_alone() {
    let dir = scratch();
    let (volume, image) = (arg(dir.path(), "home"), arg(dir.path(), "x.img"));
    std::fs::create_dir(&volume).unwrap();
    write_file(&Path::new(&volume).join("letter.txt"), b"dear reader");
    write_file(image.as_ref(), &[1; 8192]);
    let before = contents(dir.path());
    for call in commands_on(&volume, &image) {
        seawall(&call).refused(2, &volume);
        assert_eq!(contents(dir.path()), before, "{call:?} changed something");
    }
    seawall(&["create", &volume, "--size", "1M"]).refused(2, &volume);
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn a_second_process_on_a_volume_is_refused_and_changes_nothing() {
    let dir = scratch();
    let (volume, image) = (arg(dir.path(), "vol"), arg(dir.path(), "x.img"));
    write_file(image.as_ref(), &Random::new(1).bytes(1 << 20));
    create(&volume, "4M");
    seawall(&["import", &volume, &image]).ok();
    // Held by somebody who does nothing else: a volume would write indexes and marks meanwhile.
    let disk: std::sync::Arc<dyn Disk> = FileDisk::new();
    let path = Path::new(&volume).join("lock");
    let held = File::open(&disk, &path, OpenMode::ReadWrite).unwrap();
    disk.run(Operation::Lock { file: held.id() }).unwrap();
    let before = contents(dir.path());
    for call in [
        vec!["import", &volume, &image],
        vec!["checkpoint", &volume],
        vec!["reclaim", &volume, "--through", "1"],
        vec!["promote", &volume, "--epoch", "9"],
    ] {
        seawall(&call).refused(3, &volume);
        assert_eq!(contents(dir.path()), before, "{call:?} changed something");
    }
    drop(held);
    seawall(&["verify", &volume]).ok();
}

#[test]
fn a_size_that_is_no_multiple_of_the_block_is_refused() {
    let dir = scratch();
    let volume = arg(dir.path(), "vol");
    seawall(&["create", &volume, "--size", "1000001"]).refused(2, "1000001");
    seawall(&["create", &volume, "--size", "6144", "--block-size", "4096"]).refused(2, "6144");
    seawall(&["create", &volume, "--size", "1M", "--block-size", "3000"]).refused(2, "3000");
    seawall(&["create", &volume, "--size", "0"]).refused(2, "size");
    let most = u64::MAX.to_string();
    seawall(&["create", &volume, "--size", &most]).refused(2, &most);
    assert!(
        !Path::new(&volume).exists(),
        "a refused create left a directory"
    );
}

#[test]
fn an_image_larger_than_the_volume_is_refused_before_the_first_write() {
    let dir = scratch();
    let (volume, image) = (arg(dir.path(), "vol"), arg(dir.path(), "x.img"));
    create(&volume, "1M");
    write_file(image.as_ref(), &Random::new(1).bytes(2 << 20));
    let copy = arg(dir.path(), "copy.img");
    seawall(&["import", &volume, &image]).refused(2, &image);
    seawall(&["export", &volume, &copy]).ok();
    assert!(std::fs::read(&copy).unwrap().iter().all(|byte| *byte == 0));
}

/// A tmpfs that is unmounted when the value goes away.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// Mounts it, or `None` where the user may not.
    fn mount(size: &str) -> Option<SmallDisk> {
        let dir = scratch();
        let options = format!("size={size}");
        let path = dir.path().to_str().unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "none", path]);
        (mounted.code == Some(0)).then_some(SmallDisk(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &[self.0.path()]);
    }
}

#[test]
fn a_full_disk_fails_the_import_and_leaves_a_sound_volume() {
    let Some(small) = SmallDisk::mount("24M") else {
        println!("not shown: mounting a tmpfs needs root");
        return;
    };
    let dir = scratch();
    let (volume, image) = (arg(small.0.path(), "vol"), arg(dir.path(), "x.img"));
    write_file(image.as_ref(), &Random::new(3).bytes(64 << 20));
    create(&volume, "64M");
    seawall(&["import", &volume, &image]).refused(3, "space");
    seawall(&["verify", &volume]).ok();
}

#[test]
fn a_full_disk_fails_create_and_leaves_no_half_volume() {
    let Some(small) = SmallDisk::mount("8k") else {
        println!("not shown: mounting a tmpfs needs root");
        return;
    };
    let volume = arg(small.0.path(), "vol");
    seawall(&["create", &volume, "--size", "64M", "--segment-size", "16M"]).refused(3, "space");
    // OK because what is left is refused by name: no command takes it for a volume.
    let left = seawall(&["status", &volume]);
    assert_eq!(left.code, Some(2), "{left:#?}");
}

#[test]
fn a_replica_of_another_volume_is_refused_and_unchanged() {
    let dir = scratch();
    let (ours, theirs) = (arg(dir.path(), "ours"), arg(dir.path(), "theirs"));
    let (replica, image) = (arg(dir.path(), "rep"), arg(dir.path(), "x.img"));
    write_file(image.as_ref(), &Random::new(4).bytes(1 << 20));
    for volume in [&ours, &theirs] {
        create(volume, "4M");
        seawall(&["import", volume, &image]).ok();
    }
    let address = format!("127.0.0.1:{}", free_port());
    let peer = format!("r1={address}");
    let serve = ["replica", &replica, "--id", "r1", "--listen", &address];
    let mut node = Node::start(program("seawall"), &serve);
    node.wait_for("listening");
    let mut primary = Node::start(
        program("seawall"),
        &["primary", &theirs, "--replica", &peer],
    );
    primary.wait_for("in sync");
    primary.kill();
    let before = seawall(&["status", &replica, "--json"]).ok().json();
    seawall(&["primary", &ours, "--replica", &peer]).refused(2, "belongs to volume");
    node.kill();
    let after = seawall(&["status", &replica, "--json"]).ok().json();
    for field in ["volume", "head", "durable", "digest"] {
        assert_eq!(before[field], after[field], "{field} changed");
    }
}

#[test]
fn unknown_flags_and_commands_are_usage_errors() {
    assert_eq!(seawall(&["no-such-command"]).code, Some(2));
    assert_eq!(seawall(&["status"]).code, Some(2));
    assert_eq!(
        seawall(&["reclaim", "x", "--through", "many"]).code,
        Some(2)
    );
    assert_eq!(wal_dump::<&str>(&[]).code, Some(2));
}

#[test]
fn an_export_onto_a_directory_is_refused_and_leaves_nothing_beside_it() {
    let dir = scratch();
    let (volume, there) = (arg(dir.path(), "vol"), arg(dir.path(), "there"));
    create(&volume, "1M");
    std::fs::create_dir(&there).unwrap();
    seawall(&["export", &volume, &there]).refused(2, &there);
    let left = std::fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(left, 2, "something was left beside {there}");
}

#[test]
fn a_replica_without_a_name_is_refused() {
    let dir = scratch();
    let replica = arg(dir.path(), "replica");
    let call = ["replica", &replica, "--id", "", "--listen", "127.0.0.1:0"];
    seawall(&call).refused(2, "--id");
    assert!(!Path::new(&replica).exists());
}
