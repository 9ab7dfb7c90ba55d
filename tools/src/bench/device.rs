//! What the kernel says about the device under a directory, and about this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Advice, Mode, OFlags};
use seawall_wal::disk::{File, OpenMode};

use crate::common;
use crate::error::Error;

/// Bytes of a sector in the statistics of the kernel, whatever the device says.
const SECTOR_BYTES: u64 = 512;

/// A device, by its number.
#[derive(Clone, Debug)]
pub struct Device {
    /// Device and file system, as the kernel names them.
    pub name: String,
    /// Where the kernel describes it; missing for file systems without a device of their own.
    sys: PathBuf,
}

/// What reached a device so far, from all the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Flushes of its write cache.
    pub flushes: u64,
    /// Bytes written.
    pub bytes: u64,
}

impl Device {
    /// The one below the existing path `path`.
    #[must_use]
    pub fn below(path: &Path) -> Device {
        let number = rustix::fs::stat(path).map_or(0, |stat| stat.st_dev);
        let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
        Device {
            name: mount_of(path),
            sys: PathBuf::from(format!("/sys/dev/block/{major}:{minor}")),
        }
    }

    /// Its write cache: "write back" loses what was not flushed, "write through" does not.
    #[must_use]
    pub fn write_cache(&self) -> Option<String> {
        // A partition lies below its device.
        let places = ["queue/write_cache", "../queue/write_cache"];
        let found = places.iter().find_map(|place| text(&self.sys.join(place)));
        found.map(|text| text.trim().to_owned())
    }

    /// What reached it so far, if the kernel counts.
    #[must_use]
    pub fn traffic(&self) -> Option<Traffic> {
        traffic_in(&text(&self.sys.join("stat"))?)
    }
}

impl Traffic {
    /// What came to these since.
    #[must_use]
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic {
            flushes: self.flushes - before.flushes,
            bytes: self.bytes - before.bytes,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, more: Traffic) -> Traffic {
        Traffic {
            flushes: self.flushes + more.flushes,
            bytes: self.bytes + more.bytes,
        }
    }
}

/// Fields as in Documentation/block/stat.rst of the kernel.
fn traffic_in(stat: &str) -> Option<Traffic> {
    const SECTORS_WRITTEN: usize = 6;
    const FLUSHES: usize = 15;
    let fields: Vec<u64> = stat.split_whitespace().flat_map(str::parse).collect();
    Some(Traffic {
        flushes: *fields.get(FLUSHES)?,
        bytes: fields.get(SECTORS_WRITTEN)? * SECTOR_BYTES,
    })
}

/// A short file of the kernel.
fn text(path: &Path) -> Option<String> {
    let file = File::open(&common::disk(), path, OpenMode::Read).ok()?;
    let bytes = file.read(0, 1 << 20).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn mount_of(path: &Path) -> String {
    let mounts = text("/proc/self/mounts".as_ref()).unwrap_or_default();
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let below = fields.filter(|mount| mount.len() > 3 && path.starts_with(mount[1]));
    // Of two mounts on one place the later one is seen.
    let nearest = below.max_by_key(|mount| mount[1].len());
    nearest.map_or("unknown".into(), |mount| {
        format!("{} ({}, {})", mount[0], mount[2], mount[3])
    })
}

/// Processor time of this process so far.
#[must_use]
pub fn processor_time() -> Duration {
    let stat = text("/proc/self/stat".as_ref()).unwrap_or_default();
    ticks_in(&stat).map_or(Duration::ZERO, |ticks| {
        Duration::from_secs(ticks)
            / u32::try_from(rustix::param::clock_ticks_per_second()).unwrap_or(100)
    })
}

/// Memory of this process that no file backs, in bytes.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    anonymous_in(&text("/proc/self/status".as_ref())?)
}

fn anonymous_in(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes << 10)
}

/// User and system time. The name of the program comes before them and may hold anything.
fn ticks_in(stat: &str) -> Option<u64> {
    const USER: usize = 11;
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let user: u64 = fields.get(USER)?.parse().ok()?;
    let system: u64 = fields.get(USER + 1)?.parse().ok()?;
    Some(user + system)
}

/// Lets the page cache forget a file whose bytes are all on the device.
///
/// # Errors
/// The file cannot be opened.
pub fn forget(path: &Path) -> Result<(), Error> {
    let file =
        rustix::fs::open(path, OFlags::RDONLY, Mode::empty()).map_err(std::io::Error::from)?;
    rustix::fs::fdatasync(&file).map_err(std::io::Error::from)?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sectors_and_flushes_are_taken_from_their_columns() {
        let stat = "    1 2 3 4 5 6 70 8 9 10 11 12 13 14 15 160 17\n";
        let expected = Traffic {
            flushes: 160,
            bytes: 70 * 512,
        };
        assert_eq!(traffic_in(stat), Some(expected));
        assert_eq!(traffic_in("1 2 3 4 5 6 70 8 9 10 11"), None);
    }

    #[test]
    fn processor_time_is_read_behind_a_name_with_spaces_and_brackets() {
        let stat = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 40 2 13 14";
        assert_eq!(ticks_in(stat), Some(42));
    }

    #[test]
    fn memory_without_files_is_given_in_bytes() {
        let status = "VmRSS:\t    9 kB\nRssAnon:\t     12 kB\nRssFile:\t 3 kB\n";
        assert_eq!(anonymous_in(status), Some(12 << 10));
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0));
    }

    #[test]
    fn a_directory_lies_on_a_named_device() {
        let dir = tempfile::tempdir().unwrap();
        assert_ne!(Device::below(dir.path()).name, "unknown");
    }
}
