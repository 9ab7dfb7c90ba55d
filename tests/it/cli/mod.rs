//! The commands as an operator meets them: real programs, real files, real clients.

#[cfg(target_os = "linux")]
mod backend;
mod bench;
mod damage;
mod docs;
mod dump;
mod files;
mod kill;
mod live;
mod wrong_use;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall::snapshot::{Access, Volume};
use seawall::wal::SystemClock;
use seawall::wal::disk::{Disk, FileDisk};

pub(crate) use self::kill::moment;
use crate::harness::{run, seawall, write_file};

/// A path below `dir` as an argument.
pub(crate) fn arg(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().into()
}

/// How often a loop runs: `few` in the gate, as often as the variable says in a campaign.
pub(crate) fn rounds(variable: &str, few: u64) -> u64 {
    std::env::var(variable).map_or(few, |text| text.parse().expect("a number of rounds"))
}

/// Creates a volume with small segments, so that short tests rotate them.
#[track_caller]
pub(crate) fn create(volume: &str, size: &str) {
    seawall(&["create", volume, "--size", size, "--segment-size", "1M"]).ok();
}

/// Opens a volume as its owner.
pub(crate) fn open(volume: &str) -> Arc<Volume> {
    let disk: Arc<dyn Disk> = FileDisk::new();
    let clock = SystemClock::new();
    let (volume, _) = Volume::open(&disk, volume.as_ref(), &clock, Access::Primary).unwrap();
    volume
}

/// An ext4 image made from a tree: `SEAWALL_TREE` in a campaign, the sources of this repository and
/// some seeded files in the gate.
pub(crate) fn file_system(dir: &Path, megabytes: u32) -> PathBuf {
    let tree = std::env::var("SEAWALL_TREE").unwrap_or_else(|_| small_tree(dir));
    image_of(&tree, &dir.join("fs.img"), megabytes)
}

/// Makes an ext4 image of a tree.
pub(crate) fn image_of(tree: &str, image: &Path, megabytes: u32) -> PathBuf {
    let (file, size) = (image.to_str().unwrap(), format!("{megabytes}M"));
    run("mke2fs", &["-q", "-t", "ext4", "-d", tree, file, &size]).ok();
    image.into()
}

fn small_tree(dir: &Path) -> String {
    let tree = arg(dir, "tree");
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/wal");
    run("cp", &["-r", sources, &tree]).ok();
    let mut random = crate::harness::Random::new(2);
    for n in 0..40 {
        let length = usize::try_from(random.below(400_000)).unwrap();
        write_file(
            &PathBuf::from(&tree).join(format!("noise-{n}")),
            &random.bytes(length),
        );
    }
    tree
}
