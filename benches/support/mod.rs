//! What every bench needs: callers, the floor of the same disk, and a log in steady state.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use seawall_snapshot::{Access, CreateOptions, Volume};
use seawall_wal::disk::{Buffer, Choice, Disk, open_backend};
use seawall_wal::{BlockSize, Change, Geometry, Lba, Lsn, Role, SystemClock};
use tempfile::TempDir;

/// Bytes of one append: one block.
pub(crate) const PAYLOAD: usize = 4096;
/// Bytes of a segment, of ours and of a peer where it can be set.
pub(crate) const SEGMENT_BYTES: u64 = 64 << 20;
/// Records that stay readable while a bench runs: 256 MiB of payload.
const RETAINED: u64 = 65_536;
/// The tail moves once in so many records.
const RECLAIM_EVERY: u64 = 16_384;

/// What a run yielded.
pub(crate) struct Run {
    /// From the first append to the last.
    pub(crate) elapsed: Duration,
    /// Time of every append, ascending.
    nanoseconds: Vec<u64>,
}

impl Run {
    /// Appends per second.
    #[expect(clippy::cast_precision_loss, reason = "a rate for people to read")]
    pub(crate) fn per_second(&self) -> f64 {
        self.nanoseconds.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The `permille`-th latency in microseconds.
    pub(crate) fn microseconds(&self, permille: usize) -> u64 {
        let last = self.nanoseconds.len().saturating_sub(1);
        let at = last * permille / 1000;
        self.nanoseconds.get(at).map_or(0, |ns| ns / 1000)
    }
}

/// Lets `callers` threads append until `over` says so of the next number and the time since the
/// start; `append` gets the number.
pub(crate) fn run(
    callers: usize,
    over: impl Fn(u64, Duration) -> bool + Sync,
    append: impl Fn(u64) + Sync,
) -> Run {
    let next = AtomicU64::new(0);
    let start = Instant::now();
    let caller = || {
        let mut times = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let before = Instant::now();
            if over(number, before - start) {
                return times;
            }
            append(number);
            times.push(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    };
    let mut nanoseconds: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        let joined = threads
            .into_iter()
            .map(|t| t.join().expect("a caller panicked"));
        joined.flatten().collect()
    });
    let elapsed = start.elapsed();
    nanoseconds.sort_unstable();
    Run {
        elapsed,
        nanoseconds,
    }
}

/// A directory on the disk to measure: below `SEAWALL_BENCH_DIR`, or the temporary directory.
pub(crate) fn scratch() -> TempDir {
    let parent =
        std::env::var_os("SEAWALL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    TempDir::with_prefix_in("seawall-bench-", parent).expect("the bench directory takes files")
}

/// Device and file system below `path`, as the kernel names them.
pub(crate) fn device(path: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let below = fields.filter(|mount| mount.len() > 3 && path.starts_with(mount[1]));
    let nearest = below.max_by_key(|mount| mount[1].len());
    nearest.map_or("unknown".into(), |m| {
        format!("{} ({}, {})", m[0], m[2], m[3])
    })
}

/// Bytes that no compressor shrinks.
pub(crate) fn payload() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let word = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    word.flatten().take(PAYLOAD).collect()
}

/// The raw floor: overwrites of one block with `O_DIRECT` and `O_DSYNC`, no sum and no frame.
pub(crate) struct Floor {
    file: File,
    block: Buffer,
}

impl Floor {
    pub(crate) fn open(dir: &Path) -> Floor {
        let path = dir.join("floor");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let plain = options
            .open(&path)
            .expect("the bench directory takes files");
        let zeros = vec![0; 1 << 20];
        for offset in (0..SEGMENT_BYTES).step_by(zeros.len()) {
            plain
                .write_all_at(&zeros, offset)
                .expect("the disk has room");
        }
        plain.sync_all().expect("the disk syncs");
        let flags = (OFlags::DIRECT | OFlags::DSYNC).bits();
        options.custom_flags(flags.cast_signed());
        let file = options.open(&path).expect("the file system knows O_DIRECT");
        Floor {
            file,
            block: Buffer::copy_of(&payload()),
        }
    }

    pub(crate) fn append(&self, number: u64) {
        let offset = number * PAYLOAD as u64 % SEGMENT_BYTES;
        self.file
            .write_all_at(&self.block, offset)
            .expect("the disk writes");
    }
}

fn disk() -> Arc<dyn Disk> {
    open_backend(Choice::Auto).expect("some backend always opens")
}

/// Our log with segments that rotate and recycle.
pub(crate) struct Engine {
    volume: Arc<Volume>,
    payload: Vec<u8>,
    blocks: u64,
}

impl Engine {
    pub(crate) fn open(dir: &Path) -> Engine {
        let disk = disk();
        let dir = dir.join("volume");
        let blocks = 1 << 20;
        let geometry = Geometry {
            block_size: BlockSize::DEFAULT,
            blocks,
            segment_bytes: SEGMENT_BYTES,
        };
        let options = CreateOptions {
            volume: None,
            geometry,
            role: Role::Primary,
        };
        Volume::create(&disk, &dir, options).expect("an empty directory takes a volume");
        let clock = SystemClock::new();
        let (volume, _) = Volume::open(&disk, &dir, &clock, Access::Primary)
            .expect("a volume that was just created opens");
        Engine {
            volume,
            payload: payload(),
            blocks,
        }
    }

    /// The backend that the log runs on.
    pub(crate) fn backend() -> &'static str {
        disk().backend()
    }

    /// One durable append.
    pub(crate) fn append(&self, number: u64) {
        let log = self.volume.log();
        let lba = Lba(number.wrapping_mul(2_654_435_761) % self.blocks);
        let payload = Buffer::copy_of(&self.payload);
        let change = Change::write(lba, BlockSize::DEFAULT, payload);
        let lsn = log
            .append(vec![change])
            .and_then(|t| t.wait())
            .expect("the log appends");
        if lsn.get() % RECLAIM_EVERY == 0 {
            self.reclaim(lsn);
        }
    }

    /// Moves the tail as a checkpoint would, without an image: a bench of the log alone.
    fn reclaim(&self, durable: Lsn) {
        let log = self.volume.log();
        let through = Lsn::new(durable.get().saturating_sub(RETAINED));
        log.commit(through).expect("durable is committed");
        log.set_checkpoint(through);
        log.reclaim(through)
            .expect("what is checkpointed is reclaimed");
    }
}
