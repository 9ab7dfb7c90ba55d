//! A log in steady state: segments rotate, the tail moves, files recycle.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use seawall_wal::disk::{Buffer, Bytes, Disk, make_dir};
use seawall_wal::{
    BlockSize, Change, Epoch, Error as WalError, Geometry, Lba, Log, LogId, LogMode, Lsn, LsnRange,
    Meta, MetaContents, RecordKind, Role, SegmentInfo, SegmentState, VolumeId,
};

use crate::bench::incompressible;
use crate::bench::subject::settled;
use crate::bench::turn::{Caller, Turn, Until, turn};
use crate::common;
use crate::edge;
use crate::error::Error;

/// Size of the volume that is written to, in blocks; a power of two.
const BLOCKS: u64 = 1 << 20;
/// Distance of two records of one caller, in blocks: odd, so that it visits all of them.
const STRIDE: u64 = 0x9e37_79b9;
/// Segments that a log may hold beyond what it retains, before their files recycle.
const POOL_SEGMENTS: u64 = 4;

/// What is appended, and how much of it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a record's payload.
    pub record_bytes: usize,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Bytes of payload that stay readable; `None` keeps everything.
    pub retained_bytes: Option<u64>,
}

impl Shape {
    /// Records of 4 KiB, segments of 64 MiB, 256 MiB retained.
    pub const DEFAULT: Shape = Shape {
        record_bytes: 4096,
        segment_bytes: 64 << 20,
        retained_bytes: Some(256 << 20),
    };

    /// Refuses what no log takes.
    ///
    /// # Errors
    /// [`Error::Usage`] that says what would do.
    pub fn check(&self) -> Result<(), Error> {
        let most = (self.segment_bytes / 4).min(1 << 20);
        let usage = |text: String| Err(Error::Usage(text));
        if !(1 << 20..=1 << 30).contains(&self.segment_bytes)
            || !self.segment_bytes.is_multiple_of(4096)
        {
            let found = self.segment_bytes;
            return usage(format!(
                "--segment-size {found} is no multiple of 4096 from 1M to 1G"
            ));
        }
        let bytes = self.record_bytes as u64;
        if bytes == 0 || !bytes.is_multiple_of(512) || bytes > most {
            return usage(format!("--size {bytes} is no multiple of 512 up to {most}"));
        }
        Ok(())
    }

    /// The largest block, of at most 4 KiB, that a record is whole blocks of.
    fn block_size(&self) -> Result<BlockSize, Error> {
        let shift = self.record_bytes.trailing_zeros().min(12);
        Ok(BlockSize::from_bytes(1 << shift)?)
    }

    /// Records that take `bytes` of payload.
    fn records(&self, bytes: u64) -> u64 {
        bytes / self.record_bytes as u64
    }
}

/// How a turn of appends is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Threads that append.
    pub callers: u32,
    /// Appends that each has in flight.
    pub in_flight: u32,
    /// Appends that nobody waits for, before one sync for all of them: together one operation.
    pub volatile: Option<u32>,
    /// A thread replays what is retained, over and over.
    pub reader: bool,
    /// Every record has a payload of its own, filled from the bytes of a request, as a server has
    /// to; otherwise those of a caller share one.
    pub filled: bool,
}

impl Load {
    /// Durable appends, one in flight for each caller.
    #[must_use]
    pub const fn durable(callers: u32) -> Load {
        Load {
            callers,
            in_flight: 1,
            volatile: None,
            reader: false,
            filled: false,
        }
    }

    /// The same with payloads that are filled one by one.
    #[must_use]
    pub const fn filled(self) -> Load {
        Load {
            filled: true,
            ..self
        }
    }

    /// Durable appends of one caller with many in flight: what fills a log fastest.
    pub const FILL: Load = Load {
        callers: 1,
        in_flight: 256,
        volatile: None,
        reader: false,
        filled: false,
    };
}

/// See the module text.
#[derive(Debug)]
pub struct Engine {
    log: Arc<Log>,
    shape: Shape,
    block_size: BlockSize,
}

impl Engine {
    /// A new log in the directory `dir`, which is made.
    ///
    /// # Errors
    /// [`Error::Usage`] for a shape that no log takes; otherwise what the log says.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, shape: Shape) -> Result<Engine, Error> {
        shape.check()?;
        make_dir(disk.as_ref(), dir)?;
        make_dir(disk.as_ref(), &dir.join("wal"))?;
        let geometry = Geometry {
            block_size: shape.block_size()?,
            blocks: BLOCKS,
            segment_bytes: shape.segment_bytes,
        };
        let (volume, log) = (VolumeId::random()?, LogId::random()?);
        let contents = MetaContents::of_new(volume, log, geometry, Role::Primary);
        drop(Meta::create(disk, dir, contents)?);
        let engine = Engine::open(disk, dir, shape, LogMode::Writable)?;
        engine.log.start_incarnation(Epoch::new(1))?;
        Ok(engine)
    }

    /// An existing log; it takes appends after [`Log::start_incarnation`].
    ///
    /// # Errors
    /// What the log says.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        shape: Shape,
        mode: LogMode,
    ) -> Result<Engine, Error> {
        let meta = Arc::new(Meta::open(disk, dir, mode == LogMode::Writable)?);
        // There is no image: as much is checkpointed as was reclaimed.
        let checkpoint = meta.get().tail;
        let (log, _) = Log::open(disk, dir, &meta, &common::clock(), mode, checkpoint)?;
        Ok(Engine {
            log,
            shape,
            block_size: shape.block_size()?,
        })
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// What is appended.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The retained records.
    #[must_use]
    pub fn retained(&self) -> LsnRange {
        let log = &self.log;
        LsnRange::new(log.first_retained().before(), log.frontiers().durable)
    }

    /// Segment files in use, oldest first.
    #[must_use]
    pub fn segment_files(&self) -> Vec<(PathBuf, u64)> {
        let used = |segment: &SegmentInfo| segment.state != SegmentState::Free;
        let segments = self.log.segments().into_iter().filter(used);
        let place = |segment: SegmentInfo| (self.log.dir().join(segment.name), segment.bytes);
        segments.map(place).collect()
    }

    /// Appends for a turn. The second figure is how many records the reader read meanwhile.
    ///
    /// # Errors
    /// The first that an append, the reader or the moving tail met.
    pub fn turn(&self, load: Load, until: Until) -> Result<(Turn, u64), Error> {
        let over = &AtomicBool::new(false);
        let (sender, receiver) = channel();
        let appends = move || {
            // The tail stops moving once the sender is gone, with the end of this closure.
            let turn = self.appends(load, until, &sender);
            over.store(true, Ordering::Release);
            turn
        };
        let aside = move || {
            let tail = move || self.move_tail(&receiver);
            let reader = || match load.reader {
                true => self.replay_until(over),
                false => Ok(0),
            };
            edge::beside(tail, reader)
        };
        let ((tail, read), turn) = edge::beside(aside, appends);
        tail?;
        Ok((turn?, read?))
    }

    fn appends(&self, load: Load, until: Until, tail: &Sender<Lsn>) -> Result<Turn, Error> {
        let appender = |index| self.appender(index, load.filled, tail.clone());
        let Some(each) = load.volatile else {
            return turn(load.callers, load.in_flight, until, appender);
        };
        let batches = |index| {
            let mut appender = appender(index);
            move || appender.batch(each)
        };
        Ok(turn(load.callers, 1, until, batches)?.with_records_each(f64::from(each)))
    }

    fn appender(&self, index: usize, filled: bool, tail: Sender<Lsn>) -> Appender<'_> {
        let request = incompressible(self.shape.record_bytes);
        let payload: Bytes = Arc::new(Buffer::copy_of(&request));
        let blocks = self.shape.record_bytes >> self.block_size.shift();
        Appender {
            engine: self,
            request: filled.then_some(request),
            payload,
            blocks: u32::try_from(blocks).unwrap_or(u32::MAX),
            next: index as u64 * (BLOCKS / 64),
            reclaim_every: self.shape.records(self.shape.segment_bytes),
            tail,
        }
    }

    /// Moves the tail behind the durable positions that it is told, as a checkpoint would, without
    /// an image: this measures the log alone.
    fn move_tail(&self, durable: &Receiver<Lsn>) -> Result<(), Error> {
        let Some(retained) = self.shape.retained_bytes else {
            return Ok(());
        };
        let retained = self.shape.records(retained);
        for lsn in durable {
            let through = Lsn::new(lsn.get().saturating_sub(retained));
            self.log.commit(through)?;
            self.log.set_checkpoint(through);
            self.log.reclaim(through)?;
        }
        Ok(())
    }

    /// Appends at least `records`, as fast as it goes.
    ///
    /// # Errors
    /// As [`Engine::turn`].
    pub fn fill(&self, records: u64, load: Load) -> Result<(), Error> {
        self.turn(load, Until::Done(records)).map(drop)
    }

    /// Appends until the files of the log recycle: what is retained is full once over, and so is
    /// the pool.
    ///
    /// # Errors
    /// As [`Engine::turn`].
    pub fn warm_up(&self) -> Result<(), Error> {
        let pool = POOL_SEGMENTS * self.shape.segment_bytes;
        let bytes = self.shape.retained_bytes.unwrap_or(0) + pool;
        self.fill(self.shape.records(bytes), Load::FILL)?;
        settled(|| self.log.stats());
        Ok(())
    }

    /// Appends until the last segment is half full: as much is to be scanned after a crash,
    /// however long the log.
    ///
    /// # Errors
    /// As [`Engine::turn`].
    pub fn fill_to_half_a_segment(&self, load: Load) -> Result<(), Error> {
        let step = self.shape.records(self.shape.segment_bytes / 16).max(1);
        let begun = self.active_generation();
        while self.active_generation() == begun {
            self.fill(step, load)?;
        }
        self.fill(self.shape.records(self.shape.segment_bytes / 2), load)
    }

    fn active_generation(&self) -> Option<u64> {
        let segments = self.log.segments();
        let active = segments
            .iter()
            .filter(|segment| segment.state != SegmentState::Free);
        active.map(|segment| segment.generation).max()
    }

    /// Replays what is retained until told that it is over, and some of it in any case; gives the
    /// number of records.
    fn replay_until(&self, over: &AtomicBool) -> Result<u64, Error> {
        let mut read = 0;
        loop {
            match self.retained().is_empty() {
                true => edge::pause(Duration::from_millis(1)),
                false => read += self.replay_once(over)?,
            }
            if over.load(Ordering::Acquire) {
                return Ok(read);
            }
        }
    }

    /// A segment's worth at a time, so that no more is held back from the tail than a replica
    /// would.
    fn replay_once(&self, over: &AtomicBool) -> Result<u64, Error> {
        let piece = self.shape.records(self.shape.segment_bytes).max(1);
        let (mut read, mut after, through) = (0, self.retained().after, self.retained().through);
        while after < through && (read == 0 || !over.load(Ordering::Acquire)) {
            let to = Lsn::new(after.get().saturating_add(piece)).min(through);
            match self.replay(LsnRange::new(after, to)) {
                Ok(records) => {
                    read += records;
                    after = to;
                }
                // The tail has moved on meanwhile.
                Err(WalError::Reclaimed { tail, .. }) => after = tail.max(after),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(read)
    }

    /// Reads every record of a range, each verified; gives their number.
    ///
    /// # Errors
    /// As [`Log::scan`].
    pub fn replay(&self, range: LsnRange) -> Result<u64, WalError> {
        let mut records = 0;
        self.log.scan(range, |header, payload| {
            std::hint::black_box((header.lsn, payload.first()));
            records += 1;
            Ok::<_, WalError>(())
        })?;
        Ok(records)
    }
}

/// One caller. What it shares with the others is the log, and nothing else.
struct Appender<'a> {
    engine: &'a Engine,
    /// What payloads are filled from, where each record has its own.
    request: Option<Vec<u8>>,
    payload: Bytes,
    blocks: u32,
    next: u64,
    reclaim_every: u64,
    tail: Sender<Lsn>,
}

impl Appender<'_> {
    fn change(&mut self) -> Change {
        self.next = self.next.wrapping_add(STRIDE);
        let blocks = u64::from(self.blocks);
        let payload = match &mut self.request {
            None => Arc::clone(&self.payload),
            Some(request) => {
                request[..8].copy_from_slice(&self.next.to_le_bytes());
                Arc::new(Buffer::copy_of(request))
            }
        };
        Change {
            kind: RecordKind::Write,
            no_hole: false,
            lba: Lba((self.next & (BLOCKS - 1)).min(BLOCKS - blocks)),
            blocks: self.blocks,
            payload,
        }
    }

    fn append(&mut self) -> Result<seawall_wal::Ticket, Error> {
        let change = self.change();
        Ok(self.engine.log.append(vec![change])?)
    }

    fn landed(&self, range: LsnRange) {
        // OK because the other end only goes after a failure, which the turn ends with.
        let every = self.reclaim_every.max(1);
        if range.after.get() / every != range.through.get() / every {
            let _ = self.tail.send(range.through);
        }
    }

    /// Appends without waiting, then one sync for all of them.
    fn batch(&mut self, count: u32) -> Result<(), Error> {
        let mut range: Option<LsnRange> = None;
        for _ in 0..count {
            let new = self.append()?.range();
            let after = range.map_or(new.after, |range| range.after);
            range = Some(LsnRange::new(after, new.through));
        }
        if let Some(range) = range {
            self.engine.log.sync_through(range.through)?;
            self.landed(range);
        }
        Ok(())
    }
}

impl Caller for Appender<'_> {
    type Flight = seawall_wal::Ticket;

    fn start(&mut self) -> Result<Self::Flight, Error> {
        self.append()
    }

    fn finish(&mut self, ticket: Self::Flight) -> Result<(), Error> {
        let range = ticket.range();
        ticket.wait()?;
        self.landed(range);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Shape = Shape {
        record_bytes: 4096,
        segment_bytes: 1 << 20,
        retained_bytes: Some(2 << 20),
    };

    fn small(dir: &Path, shape: Shape) -> Engine {
        Engine::create(&common::disk(), &dir.join("log"), shape).unwrap()
    }

    #[test]
    fn a_warm_log_holds_what_it_retains_and_recycles_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small(dir.path(), SMALL);
        engine.warm_up().unwrap();
        let head = engine.log().frontiers().head.get();
        assert!(head >= 6 * 256, "{head}");
        let retained = engine.retained().len();
        assert!((512..=4 * 256 + 512).contains(&retained), "{retained}");
        let before = engine.segment_files();
        engine.warm_up().unwrap();
        let names = |files: &[(PathBuf, u64)]| {
            let slots = files.iter().map(|(path, _)| path.clone());
            slots.collect::<std::collections::BTreeSet<_>>()
        };
        let all: std::collections::BTreeSet<_> = &names(&before) | &names(&engine.segment_files());
        assert!(all.len() <= 10, "files are reused: {all:?}");
    }

    #[test]
    fn every_shape_of_record_fills_the_log_it_asks_for() {
        for record_bytes in [512, 4096, 6144, 65_536, 262_144] {
            let dir = tempfile::tempdir().unwrap();
            let shape = Shape {
                record_bytes,
                ..SMALL
            };
            let engine = small(dir.path(), shape);
            let load = Load::durable(2).filled();
            let (turn, read) = engine.turn(load, Until::Done(9)).unwrap();
            assert!((turn.records() - 9.0).abs() < 1e-9);
            assert_eq!(read, 0);
            let record = engine.log().read_record(Lsn::new(9)).unwrap();
            assert_eq!(record.payload().len(), record_bytes);
            assert_eq!(engine.replay(engine.retained()).unwrap(), 9);
        }
    }

    #[test]
    fn a_batch_is_one_operation_of_many_records() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small(dir.path(), SMALL);
        let load = Load {
            volatile: Some(32),
            ..Load::durable(1)
        };
        let (turn, _) = engine.turn(load, Until::Done(3)).unwrap();
        assert!((turn.records() - 96.0).abs() < 1e-9);
        assert_eq!(engine.log().frontiers().durable, Lsn::new(96));
    }

    #[test]
    fn a_reader_replays_while_segments_recycle_under_it() {
        let dir = tempfile::tempdir().unwrap();
        let engine = small(dir.path(), SMALL);
        engine.warm_up().unwrap();
        let load = Load {
            reader: true,
            ..Load::FILL
        };
        let (turn, read) = engine.turn(load, Until::Done(4096)).unwrap();
        assert!((turn.records() - 4096.0).abs() < 1e-9);
        assert!(read > 0);
    }

    #[test]
    fn a_shape_that_no_log_takes_is_refused_with_what_would_do() {
        for (record_bytes, segment_bytes) in [
            (0, 1 << 20),
            (100, 1 << 20),
            (524_288, 1 << 20),
            (2 << 20, 64 << 20),
            (4096, 1 << 19),
            (4096, (1 << 20) + 512),
            (4096, 2 << 30),
        ] {
            let shape = Shape {
                record_bytes,
                segment_bytes,
                retained_bytes: None,
            };
            let error = shape.check().unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{shape:?}");
        }
        assert!(Shape::DEFAULT.check().is_ok());
    }
}
