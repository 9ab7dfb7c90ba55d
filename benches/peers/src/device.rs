//! The block device below the directory: its counters, what it is, and waiting until it is idle.

use std::fmt::Write;
use std::fs::{self, read_to_string};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Dirty pages below which a measurement may start.
const DIRTY_KIB_MAX: u64 = 1024;
/// Others may keep the page cache dirty for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Counters of a block device since it was attached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters {
    pub(crate) writes: u64,
    /// Of 512 bytes each, whatever the device's own sector is.
    pub(crate) sectors: u64,
    pub(crate) flushes: u64,
}

impl Counters {
    pub(crate) fn since(self, before: Counters) -> Counters {
        Counters {
            writes: self.writes.wrapping_sub(before.writes),
            sectors: self.sectors.wrapping_sub(before.sectors),
            flushes: self.flushes.wrapping_sub(before.flushes),
        }
    }

    /// Reads the fields of `/sys/block/*/stat`: the fifth is writes, the seventh sectors written,
    /// the sixteenth flush requests.
    fn parse(text: &str) -> Option<Counters> {
        let fields = text.split_whitespace().map(str::parse);
        let fields: Vec<u64> = fields.collect::<Result<_, _>>().ok()?;
        Some(Counters {
            writes: *fields.get(4)?,
            sectors: *fields.get(6)?,
            flushes: *fields.get(15)?,
        })
    }
}

/// The device that holds a directory.
#[derive(Debug)]
pub(crate) struct Device {
    /// Its directory in sysfs, where the file system has one device.
    sys: Option<PathBuf>,
}

impl Device {
    pub(crate) fn below(dir: &Path) -> io::Result<Device> {
        let id = fs::metadata(dir)?.dev();
        let (major, minor) = (rustix::fs::major(id), rustix::fs::minor(id));
        let sys = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
        let sys = sys.join("stat").exists().then_some(sys);
        Ok(Device { sys })
    }

    /// `None` where the file system has no single block device.
    pub(crate) fn counters(&self) -> Option<Counters> {
        Counters::parse(&read_to_string(self.sys.as_ref()?.join("stat")).ok()?)
    }

    /// What the report has to say of the machine, one fact a line.
    pub(crate) fn describe(&self, dir: &Path) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "- {name}: {}", value.trim());
        };
        line("file system", mount(dir));
        line("device queue", self.queue());
        line("kernel", read("/proc/sys/kernel/osrelease"));
        line("processor", processor());
        line(
            "memory",
            field("/proc/meminfo", "MemTotal").unwrap_or_default(),
        );
        line("load average at the start", read("/proc/loadavg"));
        text
    }

    fn queue(&self) -> String {
        let Some(sys) = &self.sys else {
            return "no single block device below this file system".into();
        };
        // A partition has its queue in the directory of the whole device.
        let whole = [sys.join("queue"), sys.join("../queue")];
        let Some(queue) = whole.iter().find(|queue| queue.exists()) else {
            return "unknown".into();
        };
        let facts = [
            "write_cache",
            "fua",
            "rotational",
            "logical_block_size",
            "physical_block_size",
            "atomic_write_max_bytes",
        ];
        let facts = facts.map(|name| {
            let value = read_to_string(queue.join(name)).unwrap_or_default();
            format!("{name} {}", value.trim())
        });
        facts.join(", ")
    }
}

fn read(path: &str) -> String {
    read_to_string(path).unwrap_or_default()
}

/// The value behind `name:` in a file of `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    Some(value.trim().to_owned())
}

fn processor() -> String {
    let model = field("/proc/cpuinfo", "model name").unwrap_or_default();
    let count = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{count} x {model}")
}

fn mount(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = read("/proc/self/mounts");
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let below = fields.filter(|mount| mount.len() > 3 && dir.starts_with(mount[1]));
    let nearest = below.max_by_key(|mount| mount[1].len());
    nearest.map_or("unknown".into(), |m| {
        format!("{} ({}, {})", m[0], m[2], m[3])
    })
}

/// Bytes that wait for write-back, in KiB.
fn dirty() -> u64 {
    let value = field("/proc/meminfo", "Dirty");
    let number = value.and_then(|value| value.split(' ').next()?.parse().ok());
    number.unwrap_or(0)
}

/// Syncs everything and waits until hardly a page is dirty. `false` when others kept it dirty.
pub(crate) fn settle() -> bool {
    let start = Instant::now();
    loop {
        rustix::fs::sync();
        if dirty() < DIRTY_KIB_MAX {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_kernel_are_counted_from_the_left() {
        let text = " 1 2 3 4 50 6 700 8 9 10 11 12 13 14 15 1600 17\n";
        let counters = Counters::parse(text).unwrap();
        assert_eq!((counters.writes, counters.sectors), (50, 700));
        assert_eq!(counters.flushes, 1600);
    }

    #[test]
    fn a_kernel_without_flush_counts_has_no_counters() {
        assert!(Counters::parse("1 2 3 4 5 6 7 8 9 10 11").is_none());
    }
}
