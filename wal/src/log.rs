//! The log: open, append, sync, read, prove, truncate, reclaim.

use std::path::Path;
use std::sync::Arc;

use crate::clock::Clock;
use crate::disk::Disk;
use crate::meta::Meta;
use crate::record::{Change, Record, RecordHeader};
use crate::retention::{PinInfo, PinKind, WalPin};
use crate::{Corrupt, Epoch, Error, Lba, Lineage, LineageEntry, Lsn, LsnRange};

/// How a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogMode {
    /// Replays, cuts a torn tail, takes appends.
    Writable,
    /// Replays and writes nothing at all: inspection, also of a live or damaged log.
    ReadOnly,
}

/// What replay found at the end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// The last frame is whole and nothing follows it.
    Clean,
    /// Damage above every recorded frontier: what a crash leaves. Cut by a writable open (L2).
    Torn {
        /// Where the cut is.
        at: Corrupt,
        /// Bytes from the cut to the last byte that a later frame of this generation covers.
        bytes: u64,
    },
    /// Damage at or below a recorded frontier; nothing is cut (D14).
    Damaged(LossReport),
}

/// What damage below the frontier took (D14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossReport {
    /// Highest frontier that a frame or meta recorded.
    pub durable: Lsn,
    /// Last LSN before the first damage: what is applied.
    pub applied: Lsn,
    /// Each damaged place.
    pub places: Vec<Loss>,
}

/// One damaged place and the records it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// File, offset and what is wrong.
    pub at: Corrupt,
    /// The LSNs lost there.
    pub lsns: LsnRange,
    /// The blocks they touched, where a header or an index survives; `None` is "unknown".
    pub blocks: Option<Vec<(Lba, u32)>>,
    /// Absent between intact neighbours, in place of present and damaged.
    pub hole: bool,
}

/// What an open found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayReport {
    /// How the log ended.
    pub end: ScanEnd,
    /// Segments read in full.
    pub segments_scanned: u64,
    /// Segments taken from their sealed index.
    pub segments_indexed: u64,
    /// Records found.
    pub records: u64,
    /// Whether the last writer closed cleanly.
    pub clean_close: bool,
}

/// The chain of frontiers of one log: `tail <= checkpoint <= committed <= durable <= head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Frontiers {
    /// Last LSN reclaimed.
    pub tail: Lsn,
    /// Last LSN wholly in the base image.
    pub checkpoint: Lsn,
    /// Last LSN acknowledged under the ack rule; a lower bound after an open (D1).
    pub committed: Lsn,
    /// Last LSN synced on this node.
    pub durable: Lsn,
    /// Last LSN written.
    pub head: Lsn,
}

/// One record as the index knows it, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Header without volume and lineage fields.
    pub lsn: Lsn,
    /// What it does.
    pub kind: crate::record::RecordKind,
    /// Write-zeroes only: the blocks keep their space.
    pub no_hole: bool,
    /// First block.
    pub lba: Lba,
    /// Number of blocks.
    pub blocks: u32,
}

/// Why a range cannot be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The range starts at or below the tail.
    Reclaimed {
        /// Last LSN that is gone.
        tail: Lsn,
    },
    /// The range ends beyond the head.
    BeyondHead {
        /// Last LSN written.
        head: Lsn,
    },
    /// Absent between intact neighbours.
    Hole {
        /// The missing LSN.
        lsn: Lsn,
    },
    /// Present, its sum fails.
    Corrupt {
        /// The damaged LSN.
        lsn: Lsn,
    },
}

/// State of one segment file for status and wal-dump.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// File name, for example "00000003.seg".
    pub name: String,
    /// Generation of its current life.
    pub generation: u64,
    /// Active, sealed or free.
    pub state: SegmentState,
    /// First and last LSN in it, if it holds records.
    pub lsns: Option<(Lsn, Lsn)>,
    /// Bytes in use by frames.
    pub bytes: u64,
}

/// Life of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Takes appends.
    Active,
    /// Full; its index is written from read-back.
    Sealed,
    /// Prepared, or waiting for reuse.
    Free,
}

/// A durable log on one machine. Cheap to share behind an [`Arc`]; every call takes `&self`.
#[derive(Debug)]
pub struct Log {
    meta: Arc<Meta>,
}

/// An append on its way. Dropping it does not undo the append.
#[derive(Debug)]
#[must_use = "an append is durable only once the ticket says so"]
pub struct Ticket {
    log: Arc<Log>,
    range: LsnRange,
}

impl Ticket {
    /// The LSNs assigned: dense, in order.
    #[must_use]
    pub fn range(&self) -> LsnRange {
        let _ = &self.log;
        self.range
    }

    /// Waits until they are durable on this node.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when a write or sync failed, [`Error::Io`] with ENOSPC when no segment
    /// can be prepared: the records then stay queued and a later sync may succeed.
    pub fn wait(self) -> Result<Lsn, Error> {
        todo!()
    }
}

impl Log {
    /// Opens the log of the volume in `dir` and replays it. `checkpoint` is what snapshot's section
    /// of meta says.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] only for damage that leaves nothing to open. Damage below
    /// the frontier opens the log read-only, see [`ScanEnd::Damaged`].
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        meta: &Arc<Meta>,
        clock: &Arc<dyn Clock>,
        mode: LogMode,
        checkpoint: Lsn,
    ) -> Result<(Arc<Log>, ReplayReport), Error> {
        let _ = (disk, dir, meta, clock, mode, checkpoint);
        todo!()
    }

    /// Starts an incarnation of a primary at `epoch` (D2): durable in meta before it returns.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Io`], or [`Error::Chain`]-like refusal of an epoch below ours.
    pub fn start_incarnation(&self, epoch: Epoch) -> Result<LineageEntry, Error> {
        let _ = epoch;
        todo!()
    }

    /// Waits until `bytes` more may be queued (back pressure). Call before taking locks that a
    /// reader needs.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn admit(&self, bytes: u64) -> Result<(), Error> {
        let _ = bytes;
        todo!()
    }

    /// Assigns the next LSNs to `changes` under our incarnation and queues them; does no I/O.
    /// They are readable through [`Log::read_blocks`] at once.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Poisoned`], [`Error::Geometry`] for blocks outside the volume
    /// or a payload over the limit.
    pub fn append(self: &Arc<Self>, changes: Vec<Change>) -> Result<Ticket, Error> {
        let _ = changes;
        todo!()
    }

    /// Queues records received from a primary, unchanged. The first must follow the head. A new
    /// lineage entry is made durable before its first record is queued.
    ///
    /// # Errors
    /// [`Error::NotNext`], [`Error::OtherVolume`], and as [`Log::append`].
    pub fn append_received(self: &Arc<Self>, records: Vec<Record>) -> Result<Ticket, Error> {
        let _ = records;
        todo!()
    }

    /// Makes everything appended before the call durable and returns the durable LSN.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn sync(&self) -> Result<Lsn, Error> {
        todo!()
    }

    /// Waits until `lsn` is durable, driving the write if nobody else does.
    ///
    /// # Errors
    /// As [`Ticket::wait`]; [`Error::BeyondHead`] for an LSN that was not appended.
    pub fn sync_through(&self, lsn: Lsn) -> Result<Lsn, Error> {
        let _ = lsn;
        todo!()
    }

    /// Blocks until durable passes `after`, or `timeout_ns` elapsed; gives durable. For shippers.
    #[must_use]
    pub fn wait_durable_beyond(&self, after: Lsn, timeout_ns: u64) -> Lsn {
        let _ = (after, timeout_ns);
        todo!()
    }

    /// The chain now.
    #[must_use]
    pub fn frontiers(&self) -> Frontiers {
        todo!()
    }

    /// Last LSN applied: the head, or the last one before the first damage (D14).
    #[must_use]
    pub fn applied(&self) -> Lsn {
        todo!()
    }

    /// First LSN that can be read: `max(tail + 1, first LSN on disk)`, or the next to be written.
    #[must_use]
    pub fn first_retained(&self) -> Lsn {
        todo!()
    }

    /// The lineage of the history through the head.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        todo!()
    }

    /// Whether it takes appends, and if not, why.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] or [`Error::Poisoned`].
    pub fn check_writable(&self) -> Result<(), Error> {
        todo!()
    }

    /// Raises committed in memory; a lower value changes nothing. It reaches meta with the next
    /// checkpoint and frame headers before that: a lower bound after a reopen (D1).
    ///
    /// # Errors
    /// [`Error::Chain`] beyond durable.
    pub fn commit(&self, lsn: Lsn) -> Result<(), Error> {
        let _ = lsn;
        todo!()
    }

    /// Told by snapshot once meta durably says so.
    ///
    /// # Panics
    /// When it would pass committed: our own mistake.
    pub fn set_checkpoint(&self, lsn: Lsn) {
        let _ = lsn;
        todo!()
    }

    /// Drops every record above `after`, durably, with a new segment generation behind it (D4).
    /// What is queued is written first.
    ///
    /// # Errors
    /// [`Error::Chain`] below tail, checkpoint or committed.
    pub fn truncate(&self, after: Lsn) -> Result<(), Error> {
        let _ = after;
        todo!()
    }

    /// Moves the tail to `lsn`, or as far as the pins allow, durably, and frees whole segments.
    /// Returns the tail.
    ///
    /// # Errors
    /// [`Error::Chain`] above head, committed or checkpoint (D20).
    pub fn reclaim(&self, lsn: Lsn) -> Result<Lsn, Error> {
        let _ = lsn;
        todo!()
    }

    /// The index entries of a range without payload, in order.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn places(&self, range: LsnRange) -> Result<Vec<RecordPlace>, Error> {
        let _ = range;
        todo!()
    }

    /// Every record of the range in order, each verified when it is read. All or nothing: what
    /// cannot be complete is refused before the first record (L7).
    ///
    /// # Errors
    /// [`Error::Reclaimed`], [`Error::BeyondHead`], [`Error::Hole`], [`Error::Corrupt`].
    pub fn read(self: &Arc<Self>, range: LsnRange) -> Result<RecordReader, Error> {
        let _ = range;
        todo!()
    }

    /// One record, verified.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_record(&self, lsn: Lsn) -> Result<Record, Error> {
        let _ = lsn;
        todo!()
    }

    /// Copies blocks out of the payload of write record `lsn`: `out.len()` bytes from block
    /// `first` of the record on. The whole record is verified.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn read_blocks(&self, lsn: Lsn, first: u32, out: &mut [u8]) -> Result<(), Error> {
        let _ = (lsn, first, out);
        todo!()
    }

    /// Proves from the indexes and the known damage that every record of the range is there (D15).
    ///
    /// # Errors
    /// The first gap.
    pub fn prove(&self, range: LsnRange) -> Result<(), Gap> {
        let _ = range;
        todo!()
    }

    /// Proves it by reading every byte. What it finds joins the known damage.
    ///
    /// # Errors
    /// [`Error`] variants of [`Log::read`].
    pub fn prove_full(&self, range: LsnRange) -> Result<(), Error> {
        let _ = range;
        todo!()
    }

    /// Damage known so far, by LSN; `true` where the record is absent (a hole).
    #[must_use]
    pub fn known_damage(&self) -> Vec<(Lsn, bool)> {
        todo!()
    }

    /// Keeps every record above `after` readable, checked against the retention floor in the same
    /// critical section (L-N2).
    ///
    /// # Errors
    /// [`Error::Reclaimed`].
    pub fn pin(self: &Arc<Self>, after: Lsn, owner: &str) -> Result<WalPin, Error> {
        let _ = (after, owner);
        todo!()
    }

    /// Lists a pin of another crate in the registry; it holds no log. Dropping it unlists it.
    pub fn register_pin(self: &Arc<Self>, kind: PinKind, lsn: Lsn, owner: &str) -> WalPin {
        let _ = (kind, lsn, owner);
        todo!()
    }

    /// Every pin, oldest first.
    #[must_use]
    pub fn pins(&self) -> Vec<PinInfo> {
        todo!()
    }

    /// Every segment file, in log order, free ones last.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }

    /// Bytes of frames in retained segments.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        todo!()
    }

    /// One step of background work: seal, prepare. `false` when there is nothing to do. The edge
    /// thread calls it; a simulator may instead.
    ///
    /// # Errors
    /// [`Error::Io`]; ENOSPC here is met before an append needs the space (L8).
    pub fn step(&self) -> Result<bool, Error> {
        todo!()
    }

    /// Writes a mark frame (frontier = head) if records were appended since the last one (D13).
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn mark(&self) -> Result<(), Error> {
        todo!()
    }

    /// Syncs, writes a mark, and leaves the clean-close mark in meta. Later appends are refused.
    ///
    /// # Errors
    /// As [`Ticket::wait`].
    pub fn close(&self) -> Result<(), Error> {
        todo!()
    }

    /// Its meta.
    #[must_use]
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }
}

/// Iterator over a range of records; see [`Log::read`].
#[derive(Debug)]
pub struct RecordReader {
    log: Arc<Log>,
    range: LsnRange,
}

impl Iterator for RecordReader {
    type Item = Result<Record, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let _ = (&self.log, self.range);
        todo!()
    }
}

/// Everything a scan of one segment file finds, for tools that look at a file alone.
pub fn inspect_segment(
    disk: &Arc<dyn Disk>,
    path: &Path,
    each: &mut dyn FnMut(Inspected<'_>),
) -> Result<(), Error> {
    let _ = (disk, path, each);
    todo!()
}

/// One thing that [`inspect_segment`] came across, in file order.
#[derive(Debug)]
pub enum Inspected<'a> {
    /// The segment header.
    Segment {
        /// Volume, log, generation as text fields for the tools.
        volume: crate::VolumeId,
        /// Log it belongs to.
        log: crate::LogId,
        /// Its generation.
        generation: u64,
    },
    /// A frame whose own sum holds.
    Frame {
        /// Byte offset in the file.
        offset: u64,
        /// "records", "mark", "truncation", "seal".
        kind: &'static str,
        /// Frame sequence.
        sequence: u64,
        /// Frontier it recorded.
        frontier: Lsn,
        /// Unix nanoseconds given by the writer.
        timestamp_ns: u64,
        /// Bytes of the frame.
        bytes: u64,
        /// Truncation only: what was kept.
        truncated_after: Option<Lsn>,
    },
    /// A record of the frame before.
    Record {
        /// Byte offset of its header.
        offset: u64,
        /// Its header.
        header: &'a RecordHeader,
        /// Whether its sum holds.
        sum_ok: bool,
        /// Its payload bytes as found.
        payload: &'a [u8],
    },
    /// Bytes that are no frame of this segment's life.
    Damage(&'a Corrupt),
}
