//! What a log says about itself: frontiers, replay, loss, segments.

use crate::{Corrupt, Lba, Lsn, LsnRange, RecordKind};

/// What replay found at the end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScanEnd {
    /// The last frame is whole and nothing follows it.
    Clean,
    /// Damage above every recorded frontier: what a crash leaves. Cut by a writable open (L2).
    Torn {
        /// Where the cut is.
        at: Corrupt,
        /// Bytes that are cut: to the end of the last frame behind the cut in this segment, at
        /// least the page at the cut.
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

impl Frontiers {
    /// The chain that every mutation of a frontier passes through (W1).
    ///
    /// # Panics
    /// When it does not hold: our own mistake, caught before anything is acknowledged on it.
    pub(crate) fn assert_chain(&self) {
        let holds = self.tail <= self.checkpoint
            && self.checkpoint <= self.committed
            && self.committed <= self.durable
            && self.durable <= self.head;
        assert!(
            holds,
            "W1: tail <= checkpoint <= committed <= durable <= head, but {self:?}"
        );
    }
}

/// One record as the index knows it, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Its number.
    pub lsn: Lsn,
    /// What it does.
    pub kind: RecordKind,
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

/// Counters of a log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records appended.
    pub records: u64,
    /// Frames written, those without records included.
    pub frames: u64,
    /// Bytes of these frames.
    pub frame_bytes: u64,
    /// Segments sealed.
    pub rotations: u64,
    /// Segments prepared for a life.
    pub prepared: u64,
    /// Times that an append or a rotation found no segment prepared and had to do it itself.
    pub dry_pool: u64,
}
