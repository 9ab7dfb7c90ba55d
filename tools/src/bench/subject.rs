//! A volume that is measured: filled, written to and brought to rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seawall_snapshot::{Access, Background, CreateOptions, Durability, Volume};
use seawall_wal::disk::Disk;
use seawall_wal::{BlockSize, Geometry, Role, Stats};

use super::floor_read::Scatter;
use super::places::{Places, Shuffled};
use super::turn::{Turn, Until, turn};
use super::{incompressible, to_usize};
use crate::common;
use crate::edge;
use crate::error::Error;

/// Bytes of a block of every volume that is measured.
pub(super) const BLOCK: BlockSize = BlockSize::DEFAULT;
/// Bytes of one write that fills a volume.
const FILL_BYTES: usize = 1 << 20;
/// Threads that fill places one by one.
const FILLERS: u32 = 16;
/// Bytes written between two captures while a volume is filled.
const FILL_STEP: u64 = 256 << 20;
/// Segments that a log may hold beyond what it retains, before their files recycle.
const POOL_SEGMENTS: u64 = 4;

/// Rounds of background work after which a volume is not waited for any longer.
const STEPS_MAX: u32 = 100;

/// Size of a volume and of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Retained log above which the background captures and reclaims; 0 leaves both to the caller,
    /// `None` is what a volume of this size does by itself.
    pub log_bytes: Option<u64>,
}

impl Sizes {
    fn geometry(&self) -> Geometry {
        Geometry {
            block_size: BLOCK,
            blocks: self.volume_bytes / BLOCK.bytes(),
            segment_bytes: self.segment_bytes,
        }
    }

    fn background(&self) -> Background {
        let mut background = Background::of(&self.geometry());
        match self.log_bytes {
            None => {}
            Some(0) => background = Background::OFF,
            Some(bytes) => background.retained_bytes_soft = Some(bytes),
        }
        background
    }
}

/// Which place the next write goes to.
#[derive(Clone, Copy, Debug)]
pub enum Order<'a> {
    /// Any, again and again.
    Random,
    /// Each once, shuffled; the number counts those that are done.
    Once(&'a AtomicU64),
    /// Each once, from the first to the last.
    Rising(&'a AtomicU64),
}

/// See the module text.
#[derive(Debug)]
pub struct Subject {
    sizes: Sizes,
    volume: Arc<Volume>,
    /// Turns of writes so far: each goes to other places.
    turns: AtomicU64,
}

impl Subject {
    /// A new volume in `dir`, which is made, as a server without replicas opens it.
    ///
    /// # Errors
    /// What the volume says.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, sizes: Sizes) -> Result<Subject, Error> {
        let options = CreateOptions {
            volume: None,
            geometry: sizes.geometry(),
            role: Role::Primary,
        };
        Volume::create(disk, dir, options)?;
        Subject::open(disk, dir, sizes, Access::Primary)
    }

    /// An existing one.
    ///
    /// # Errors
    /// What the volume says.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        sizes: Sizes,
        access: Access,
    ) -> Result<Subject, Error> {
        let clock = common::clock();
        let (volume, _) = Volume::open_with(disk, dir, &clock, access, sizes.background())?;
        if access == Access::Primary {
            volume.commit_best_effort()?;
        }
        Ok(Subject {
            sizes,
            volume,
            turns: AtomicU64::new(0),
        })
    }

    /// The volume.
    #[must_use]
    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    /// Retained log above which the background works, if it does.
    #[must_use]
    pub fn log_bytes(&self) -> Option<u64> {
        self.sizes.background().retained_bytes_soft
    }

    /// The files of the log that hold records.
    #[must_use]
    pub fn log_files(&self) -> Vec<PathBuf> {
        let log = self.volume.log();
        let segments = log.segments().into_iter();
        let used = segments.filter(|segment| segment.lsns.is_some());
        used.map(|segment| log.dir().join(segment.name)).collect()
    }

    /// Writes of one place each, one in flight for each caller.
    ///
    /// # Errors
    /// The first failed write.
    pub fn writes(
        &self,
        callers: u32,
        until: Until,
        places: &Places,
        order: Order<'_>,
        durability: Durability,
    ) -> Result<Turn, Error> {
        let shuffled = Shuffled::below(places.count, self.sizes.volume_bytes);
        // Relaxed: only uniqueness counts.
        let first = to_usize(self.turns.fetch_add(u64::from(callers), Ordering::Relaxed));
        turn(callers, 1, until, |index| {
            let index = first + index;
            let mut scatter = Scatter::new(index);
            let mut bytes = incompressible(places.bytes);
            let mut stamp = (index as u64) << 48;
            move || {
                // Relaxed: only uniqueness counts.
                let number = match order {
                    Order::Random => scatter.below(places.count),
                    Order::Once(done) => shuffled.at(done.fetch_add(1, Ordering::Relaxed)),
                    Order::Rising(done) => done.fetch_add(1, Ordering::Relaxed) % places.count,
                };
                // No two writes are the same, so that none of them can be left out.
                stamp += 1;
                bytes[..8].copy_from_slice(&stamp.to_le_bytes());
                self.volume
                    .write(places.offset(number), &bytes, durability)?;
                Ok(())
            }
        })
    }

    /// Gives every place content in the image, and leaves no record in the log.
    ///
    /// # Errors
    /// What the volume says.
    pub fn fill(&self, places: &Places) -> Result<(), Error> {
        let bytes = places.count * places.bytes as u64;
        let (places, fillers) = match places.is_dense() {
            true => {
                let each = FILL_BYTES.min(to_usize(bytes));
                (Places::over(bytes, bytes, each)?, 1)
            }
            false => (*places, FILLERS),
        };
        let step = (FILL_STEP / places.bytes as u64).max(1);
        let done = AtomicU64::new(0);
        while done.load(Ordering::Relaxed) < places.count {
            let left = places.count - done.load(Ordering::Relaxed);
            let (until, rising) = (Until::Done(left.min(step)), Order::Rising(&done));
            self.writes(fillers, until, &places, rising, Durability::Volatile)?;
            self.drain()?;
        }
        Ok(())
    }

    /// Captures everything, and reclaims what can be.
    ///
    /// # Errors
    /// What the volume says.
    pub fn drain(&self) -> Result<(), Error> {
        let durable = self.volume.flush()?;
        self.volume.advance_tail(durable)?;
        Ok(())
    }

    /// Writes one place until the files of the log recycle, then comes to rest.
    ///
    /// # Errors
    /// What the volume says.
    pub fn warm_up(&self, places: &Places) -> Result<(), Error> {
        let bytes = self.log_bytes().unwrap_or(0) + POOL_SEGMENTS * self.sizes.segment_bytes;
        let until = Until::Done(bytes / places.bytes as u64);
        self.writes(
            FILLERS,
            until,
            &places.part(0..1),
            Order::Random,
            Durability::Volatile,
        )?;
        self.volume.flush()?;
        self.settle()?;
        settled(|| self.volume.log().stats());
        Ok(())
    }

    /// Waits until the background has nothing to do, and gives the time that took.
    ///
    /// # Errors
    /// What the volume says.
    pub fn settle(&self) -> Result<Duration, Error> {
        let begun = edge::now();
        let mut steps = 0;
        while self.volume.step()? && steps < STEPS_MAX {
            steps += 1;
        }
        // Below its watermark, and not until then, nothing is begun any more: what is in hand ends
        // before this call, which has nothing to capture, gets its turn.
        let checkpoint = self.volume.base_state().checkpoint;
        self.volume.checkpoint(Some(checkpoint))?;
        Ok(begun.elapsed())
    }
}

/// The files of the image of a volume that was never rebuilt: its blocks, and their sums.
pub(super) fn image_files(dir: &Path) -> [PathBuf; 2] {
    let base = dir.join("base").join("1");
    [base.join("image"), base.join("sums")]
}

/// Waits until the log's background has prepared what it wants to have ready, for some seconds.
pub(super) fn settled(stats: impl Fn() -> Stats) {
    let pause = Duration::from_millis(100);
    let mut before = None;
    for _ in 0..100 {
        let now = stats();
        if before.replace(now) == Some(now) {
            return;
        }
        edge::pause(pause);
    }
}
