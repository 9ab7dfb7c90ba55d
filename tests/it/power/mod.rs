//! Power cuts on real file systems.
//!
//! The engine runs on a file system whose device records every write and every flush. Then, as
//! often as wanted: the record is cut anywhere, the device holds what a flush had covered and of
//! the later writes what chance leaves, down to single sectors; the file system is mounted, the
//! volume opened, and compared with what the world had been told before the cut.
//!
//! `SEAWALL_POWER_FS` names the file systems (all three in the gate), `SEAWALL_POWER_RUNS` how many
//! records are made on each, `SEAWALL_POWER_CUTS` how often each of them is cut,
//! `SEAWALL_POWER_SEED` from where to draw. A cut that fails leaves its device and its notes as
//! files, and prints where.
//!
//! The recorder needs root, `/dev/fuse`, loop devices and the file system in the kernel. What is
//! missing fails whoever names file systems; otherwise the test says that it was not run here.

mod device;
mod record;
mod selfcheck;
mod stress;

use std::io::{Seek, SeekFrom, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;

use device::{Device, Kind};
use record::{Record, Tear};

use crate::harness::{Random, not_run_here};

fn setting(name: &str, few: u64) -> u64 {
    std::env::var(name).map_or(few, |text| text.parse().expect("a number"))
}

/// File systems under test, less those that this machine cannot have unless they are asked for.
fn kinds() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let known = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];
        let Ok(named) = std::env::var("SEAWALL_POWER_FS") else {
            return known.into_iter().filter(|kind| is_here(*kind)).collect();
        };
        let kind = |name: &str| {
            let found = known.into_iter().find(|kind| kind.name() == name);
            found.unwrap_or_else(|| panic!("no file system under test is called {name:?}"))
        };
        named.split_whitespace().map(kind).collect()
    })
}

fn is_here(kind: Kind) -> bool {
    let made = Device::try_formatted(kind);
    if let Err(missing) = &made {
        not_run_here(&format!("power cuts on {}: {missing}", kind.name()));
    }
    made.is_ok()
}

/// Leaves what a cut left for whoever looks into its failure.
struct Evidence<'a> {
    kind: Kind,
    story: String,
    left: &'a Record,
}

impl Evidence<'_> {
    fn keep(&self) -> std::io::Result<PathBuf> {
        let dir = tempfile::Builder::new()
            .prefix("seawall-power-")
            .disable_cleanup(true)
            .tempdir()?;
        let mut disk = std::fs::File::create(dir.path().join("disk"))?;
        disk.set_len(device::BYTES)?;
        for (offset, bytes) in self.left.now().pieces() {
            disk.seek(SeekFrom::Start(offset))?;
            disk.write_all(bytes)?;
        }
        std::fs::write(dir.path().join("notes"), self.left.noted())?;
        Ok(dir.path().into())
    }
}

impl Drop for Evidence<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!(
                "{} {}: left in {:?}",
                self.kind.name(),
                self.story,
                self.keep()
            );
        }
    }
}

/// What became of the cuts of a campaign.
#[derive(Debug, Default)]
struct Tally {
    cuts: u64,
    /// Cuts in the middle of what a mount and an open do after a cut.
    nested: u64,
    /// Cuts that tore a sector of the file system's own, so that it could not be mounted; each was
    /// repeated without tearing below 4 KiB.
    unmountable: u64,
}

impl Tally {
    /// Cuts a record before event `at`, mounts what is left, lets `judge` look at it, and perhaps
    /// cuts that again.
    fn cut(
        &mut self,
        record: &Record,
        at: usize,
        depth: u64,
        (kind, random): (Kind, &mut Random),
        judge: &mut dyn FnMut(&Device),
    ) {
        let story = format!(
            "cut before event {at} of {}, depth {depth}",
            record.length()
        );
        let seed = random.next();
        let mut left = record.cut(at, Tear::Sector, &mut Random::new(seed));
        let mut device = Device::on(left.clone());
        if device.mount(kind).is_err() {
            self.unmountable += 1;
            drop(device);
            left = record.cut(at, Tear::Piece, &mut Random::new(seed));
            device = Device::on(left.clone());
            let evidence = Evidence {
                kind,
                story: story.clone(),
                left: &left,
            };
            device.mount(kind).unwrap_or_else(|e| panic!("{e}"));
            drop(evidence);
        }
        let evidence = Evidence {
            kind,
            story,
            left: &left,
        };
        judge(&device);
        drop(evidence);
        let after = device.off();
        match depth {
            0 => self.cuts += 1,
            _ => self.nested += 1,
        }
        if depth > 0 || random.below(4) > 0 {
            return;
        }
        let at = usize::try_from(random.below(after.length() as u64 + 1)).unwrap();
        self.cut(&after, at, depth + 1, (kind, random), judge);
    }
}
