//! Seawall, through the public interface of its crates.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use seawall_snapshot::{Access, CreateOptions, Volume};
use seawall_wal::disk::{Buffer, Choice, Disk, open_backend};
use seawall_wal::{BlockSize, Change, Geometry, Lba, Lsn, Role, SystemClock, Ticket};

use super::{Engine, Marks, SEGMENT_BYTES, Setup, failed};
use crate::options::invalid;

/// Blocks of the volume that is written to.
const BLOCKS: u64 = 1 << 20;
/// Appends that the single caller of the second row keeps in flight.
const IN_FLIGHT: usize = 256;

struct Seawall {
    volume: Arc<Volume>,
    block_size: BlockSize,
    blocks_per_record: u64,
    next: AtomicU64,
    marks: Marks<Lsn>,
    /// Appends that a caller leaves behind before it waits for its oldest one.
    in_flight: usize,
    waiting: Mutex<VecDeque<Ticket>>,
    backend: &'static str,
}

fn choice(backend: &str) -> io::Result<Choice> {
    match backend {
        "auto" => Ok(Choice::Auto),
        "uring" => Ok(Choice::Uring),
        "direct" => Ok(Choice::Direct),
        "portable" => Ok(Choice::Portable),
        _ => Err(invalid(format!("no backend {backend}"))),
    }
}

/// One append at a time and thread.
pub(super) fn one_at_a_time(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    Ok(Box::new(Seawall::open(setup, 0)?))
}

/// One thread with many appends in flight.
pub(super) fn in_flight(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    Ok(Box::new(Seawall::open(setup, IN_FLIGHT)?))
}

impl Seawall {
    fn open(setup: &Setup, in_flight: usize) -> io::Result<Seawall> {
        let block_bytes = (setup.size as u64).min(BlockSize::DEFAULT.bytes());
        if !(setup.size as u64).is_multiple_of(block_bytes) {
            return Err(invalid("Seawall writes whole blocks".into()));
        }
        let block_size = BlockSize::from_bytes(block_bytes).map_err(failed)?;
        let disk = open_backend(choice(&setup.backend)?).map_err(failed)?;
        let options = CreateOptions {
            volume: None,
            geometry: Geometry {
                block_size,
                blocks: BLOCKS,
                segment_bytes: SEGMENT_BYTES,
            },
            role: Role::Primary,
        };
        let dir = setup.dir.join("volume");
        Volume::create(&disk, &dir, options).map_err(failed)?;
        let clock = SystemClock::new();
        let opened = Volume::open(&disk, &dir, &clock, Access::Primary);
        let (volume, _) = opened.map_err(failed)?;
        Ok(Seawall {
            volume,
            block_size,
            blocks_per_record: setup.size as u64 / block_bytes,
            next: AtomicU64::new(0),
            marks: Marks::new(),
            in_flight,
            waiting: Mutex::new(VecDeque::new()),
            backend: Disk::backend(disk.as_ref()),
        })
    }

    fn submit(&self, payload: &[u8]) -> io::Result<Ticket> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let places = BLOCKS / self.blocks_per_record;
        let place = number.wrapping_mul(2_654_435_761) % places;
        let lba = Lba(place * self.blocks_per_record);
        let change = Change::write(lba, self.block_size, Buffer::copy_of(payload));
        self.volume.log().append(vec![change]).map_err(failed)
    }
}

impl Engine for Seawall {
    fn append(&self, _: usize, payload: &[u8]) -> io::Result<()> {
        let ticket = self.submit(payload)?;
        if self.in_flight == 0 {
            return ticket.wait().map(drop).map_err(failed);
        }
        let mut waiting = self.waiting.lock().expect("no thread panics holding it");
        waiting.push_back(ticket);
        match waiting.len() < self.in_flight {
            true => Ok(()),
            false => waiting
                .pop_front()
                .map_or(Ok(()), |oldest| oldest.wait().map(drop).map_err(failed)),
        }
    }

    /// Moves the tail as a checkpoint would, without an image: this measures the log alone.
    fn retire(&self) -> io::Result<()> {
        let log = self.volume.log();
        let Some(through) = self.marks.next(log.frontiers().durable) else {
            return Ok(());
        };
        log.commit(through).map_err(failed)?;
        log.set_checkpoint(through);
        log.reclaim(through).map(drop).map_err(failed)
    }

    fn finish(&self) -> io::Result<()> {
        let mut waiting = self.waiting.lock().expect("no thread panics holding it");
        for ticket in waiting.drain(..) {
            ticket.wait().map_err(failed)?;
        }
        Ok(())
    }

    fn configuration(&self) -> String {
        let in_flight = match self.in_flight {
            0 => String::new(),
            count => format!(", {count} in flight; latency is that of the oldest's wait"),
        };
        format!(
            "backend {}, segments of 64 MiB, 256 MiB retained{in_flight}",
            self.backend
        )
    }
}
