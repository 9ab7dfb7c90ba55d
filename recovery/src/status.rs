//! What `seawall status` shows: one consistent reading of one volume, as JSON (DESIGN section 6).

use std::time::Duration;

use seawall_snapshot::Volume;
use seawall_wal::{PinInfo, Role, SegmentState};
use serde::{Deserialize, Serialize};

use crate::progress::{Phase, Progress};
use crate::state::NodeState;
use crate::throttle::ThrottleView;

/// Status of one volume on one node. Field names are a contract with scripts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// Volume id in hexadecimal; absent on a replica that has not met its primary yet.
    pub volume: Option<String>,
    /// "primary" or "replica".
    pub role: String,
    /// Name of this node, where it has one.
    pub id: Option<String>,
    /// Whether this process serves the volume; false when a tool reads the files.
    pub live: bool,
    /// Highest epoch this node has persisted.
    pub epoch: u64,
    /// Last LSN reclaimed.
    pub tail: u64,
    /// Last LSN wholly in the base image.
    pub checkpoint: u64,
    /// Last LSN acknowledged under the ack rule; a lower bound while not confirmed (D1).
    pub committed: u64,
    /// Last LSN synced on this node.
    pub durable: u64,
    /// Last LSN written.
    pub head: u64,
    /// Digest of the whole state at `digest_lsn`, in hexadecimal (D18).
    pub digest: String,
    /// The LSN that `digest` belongs to.
    pub digest_lsn: u64,
    /// Whether the ack rule has covered the head since the primary was opened (D1).
    pub confirmed: bool,
    /// Ack rule, on a live primary: "best-effort", "quorum" or "all".
    pub ack: Option<String>,
    /// Whether this replica waits for a rebuild.
    pub needs_rebuild: bool,
    /// State of the link to the primary, on a live replica.
    pub link: Option<String>,
    /// Why the last connection to this replica that failed did so, on a live replica.
    pub link_cause: Option<String>,
    /// Every pin.
    pub pins: Vec<PinStatus>,
    /// Every replica, on a live primary.
    pub replicas: Vec<ReplicaStatus>,
    /// How recoveries give way to foreground writes, on a live primary.
    pub throttle: Option<ThrottleStatus>,
    /// Segment files.
    pub segments: SegmentStatus,
    /// How far the scrub of a live process is and what it found.
    pub scrub: ScrubStatus,
    /// Backend of the Disk seam.
    pub backend: String,
    /// Why it is not the better one that was asked for first, if so (L-U4).
    pub backend_fallback: Option<String>,
    /// Finished and aborted recoveries, oldest first.
    pub recoveries: Vec<RecoveryRecord>,
}

/// The scrub of the base image, since the process began.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ScrubStatus {
    /// First block that the pass under way has not looked at.
    pub position: u64,
    /// Passes that came to the end of the image.
    pub passes: u64,
    /// Blocks checked in all.
    pub blocks: u64,
    /// Damaged blocks written again from the log.
    pub repaired: u64,
    /// Damaged blocks that the log did not hold, counted in each pass.
    pub damaged: u64,
    /// The last finds, oldest first.
    pub finds: Vec<FindStatus>,
}

/// A damaged block that the scrub found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FindStatus {
    /// The block.
    pub lba: u64,
    /// The record that wrote it is behind this LSN,
    pub after: u64,
    /// and at or below this one.
    pub through: u64,
    /// Whether it was written again from the log.
    pub repaired: bool,
}

/// One pin.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PinStatus {
    /// Session, stream or tool that holds it.
    pub owner: String,
    /// "wal", "snapshot" or "base".
    pub kind: String,
    /// The position it is about.
    pub lsn: u64,
    /// Age in seconds.
    pub age_s: f64,
    /// Bytes of log that would be reclaimed without it, and of blocks preserved for it.
    pub bytes: u64,
    /// What is left of its budget of bytes, if it has one.
    pub bytes_left: Option<u64>,
    /// What is left of its budget of time in seconds, if it has one.
    pub time_left_s: Option<f64>,
    /// Why it holds nothing any more, if it was broken.
    pub broken: Option<String>,
}

/// One replica as its primary sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ReplicaStatus {
    /// Its id.
    pub id: String,
    /// Where it listens.
    pub address: String,
    /// "disconnected", "connecting", "catching_up", "rebuilding", "in_sync", "degraded" or
    /// "needs_rebuild".
    pub state: String,
    /// Session or stream, if there is one.
    pub session: Option<String>,
    /// Last LSN that the replica acknowledged as durable, if it ever answered.
    pub lsn: Option<u64>,
    /// Last LSN shipped to it in the present session or stream.
    pub shipped: Option<u64>,
    /// Whether the needs-rebuild mark is set.
    pub needs_rebuild: bool,
    /// Why the last session or stream ended, if one did.
    pub cause: Option<String>,
    /// Whether it refused because it belongs to another volume, has another id or another shape:
    /// only whoever assigned it can help.
    pub misassigned: bool,
    /// Chunks of the base done and to do, during a rebuild.
    pub chunks: Option<(u64, u64)>,
    /// How far a recovery is that is under way.
    pub progress: Option<ProgressStatus>,
    /// The newest decision about it, which may be from before a restart (D8).
    pub decision: Option<DecisionRecord>,
}

/// What was decided about a replica, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionRecord {
    /// The session that it was made in.
    pub session: String,
    /// When, in nanoseconds since 1970.
    pub unix_ns: u64,
    /// The outcome, "rebuild" once its source is chosen, or "refused".
    pub outcome: String,
    /// Its proof, or the source of the rebuild.
    pub proof: String,
}

/// How far a phase of a recovery is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProgressStatus {
    /// "queued", "catch-up", "base" or "tail".
    pub phase: String,
    /// Bytes of the image, in a base.
    pub bytes_total: Option<u64>,
    /// Bytes that are on the replica, in a base; what was skipped included, never above the total.
    pub bytes_done: Option<u64>,
    /// Bytes that match or are zero and were not sent, in a base.
    pub bytes_skipped: Option<u64>,
    /// Records to acknowledge, in a catch-up or a tail.
    pub records_total: Option<u64>,
    /// Records acknowledged, in a catch-up or a tail.
    pub records_done: Option<u64>,
    /// Bytes sent in this phase.
    pub bytes_sent: u64,
    /// Bytes sent in a second, of late; absent while unknown.
    pub bytes_per_s: Option<u64>,
    /// Seconds that the rest of this phase takes at its mean speed; absent while unknown, never
    /// more than it was before.
    pub eta_s: Option<f64>,
}

/// How recoveries give way to foreground writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ThrottleStatus {
    /// Bytes a second for all recoveries together; absent while nothing limits them.
    pub limit_bytes_per_s: Option<u64>,
    /// "free", "slow foreground", "floor" or "rising".
    pub cause: String,
    /// Slowest durable write or flush of the last tenth of a second that had one, in milliseconds.
    pub latency_ms: Option<f64>,
    /// Above this a write is slow, in milliseconds; absent where recoveries run at full speed.
    pub target_ms: Option<f64>,
    /// What recoveries keep together, in bytes a second.
    pub floor_bytes_per_s: u64,
}

/// Segment files by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SegmentStatus {
    /// Taking appends.
    pub active: u64,
    /// Full.
    pub sealed: u64,
    /// Prepared or waiting for reuse.
    pub free: u64,
    /// Bytes of frames in retained segments.
    pub bytes: u64,
}

/// One recovery of one replica, as it ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RecoveryRecord {
    /// Which replica.
    pub replica: String,
    /// Its session.
    pub session: String,
    /// "zero gap", "catch-up", "truncate" or "rebuild".
    pub outcome: String,
    /// The proof, for people.
    pub proof: String,
    /// "none", "log", "snapshot + tail" or "full base".
    pub source: String,
    /// The replica held everything through this LSN.
    pub after: u64,
    /// Frozen target.
    pub through: u64,
    /// What the replica was truncated to, if it was.
    pub truncated_to: Option<u64>,
    /// Records acknowledged.
    pub records: u64,
    /// Bytes of records and chunks sent.
    pub bytes: u64,
    /// Chunks whose bytes were sent.
    pub chunks_sent: u64,
    /// Chunks that matched and were not sent.
    pub chunks_matched: u64,
    /// Chunks of zeros, sent as ranges.
    pub zero_chunks: u64,
    /// How long it took.
    pub seconds: f64,
    /// "in sync", or why it was aborted.
    pub result: String,
    /// Digest of the state at `through` that both sides agreed on, after a rebuild.
    pub digest: Option<String>,
}

impl Status {
    /// Status of an open volume, without what only a live primary or replica knows.
    #[must_use]
    pub fn of_volume(volume: &Volume) -> Status {
        let meta = volume.meta().get();
        let frontiers = volume.log().frontiers();
        let (digest_lsn, digest) = volume.digest();
        let node = NodeState::read(volume.meta());
        Status {
            volume: Some(meta.volume.to_string()),
            role: match meta.role {
                Role::Primary => "primary".into(),
                Role::Replica => "replica".into(),
            },
            epoch: meta.epoch.get(),
            tail: frontiers.tail.get(),
            checkpoint: frontiers.checkpoint.get(),
            committed: frontiers.committed.get(),
            durable: frontiers.durable.get(),
            head: frontiers.head.get(),
            digest: digest.to_string(),
            digest_lsn: digest_lsn.get(),
            needs_rebuild: node.is_some_and(|node| node.needs_rebuild),
            pins: volume.pins().iter().map(PinStatus::of).collect(),
            segments: SegmentStatus::of(volume),
            scrub: ScrubStatus::of(volume),
            backend: volume.log().disk().backend().into(),
            backend_fallback: volume.log().disk().fallback().map(str::to_owned),
            ..Status::default()
        }
    }

    /// As one line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("numbers, text and lists always serialise")
    }
}

impl PinStatus {
    fn of(pin: &PinInfo) -> PinStatus {
        PinStatus {
            owner: pin.owner.clone(),
            kind: pin.kind.name().into(),
            lsn: pin.lsn.get(),
            age_s: Duration::from_nanos(pin.age_ns).as_secs_f64(),
            bytes: pin.bytes,
            bytes_left: pin.bytes_left,
            time_left_s: (pin.time_left_ns).map(|ns| Duration::from_nanos(ns).as_secs_f64()),
            broken: pin.broken.map(|why| why.to_string()),
        }
    }
}

impl ProgressStatus {
    pub(crate) fn of(progress: &Progress) -> ProgressStatus {
        let view = progress.view();
        let base = view.phase == Phase::Base;
        let records = matches!(view.phase, Phase::CatchUp | Phase::Tail);
        ProgressStatus {
            phase: view.phase.name().into(),
            bytes_total: base.then_some(view.total),
            bytes_done: base.then_some(view.done),
            bytes_skipped: base.then_some(view.skipped),
            records_total: records.then_some(view.total),
            records_done: records.then_some(view.done),
            bytes_sent: view.sent_bytes,
            bytes_per_s: view.bytes_per_s,
            eta_s: view.eta_ns.map(|ns| Duration::from_nanos(ns).as_secs_f64()),
        }
    }
}

impl ThrottleStatus {
    pub(crate) fn of(view: &ThrottleView) -> ThrottleStatus {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        ThrottleStatus {
            limit_bytes_per_s: view.limit_bytes_per_s,
            cause: view.cause.name().into(),
            latency_ms: view.latency_ns.map(|ns| ms(Duration::from_nanos(ns))),
            target_ms: view.options.target.map(ms),
            floor_bytes_per_s: view.options.floor_bytes_per_s,
        }
    }
}

impl ScrubStatus {
    fn of(volume: &Volume) -> ScrubStatus {
        let status = volume.scrub_status();
        let finds = status.finds.iter().map(|find| FindStatus {
            lba: find.lba,
            after: find.lsns.after.get(),
            through: find.lsns.through.get(),
            repaired: find.repaired,
        });
        ScrubStatus {
            position: status.position,
            passes: status.passes,
            blocks: status.blocks,
            repaired: status.repaired,
            damaged: status.damaged,
            finds: finds.collect(),
        }
    }
}

impl SegmentStatus {
    fn of(volume: &Volume) -> SegmentStatus {
        let mut status = SegmentStatus {
            bytes: volume.log().retained_bytes(),
            ..SegmentStatus::default()
        };
        for segment in volume.log().segments() {
            match segment.state {
                SegmentState::Active => status.active += 1,
                SegmentState::Sealed => status.sealed += 1,
                SegmentState::Free => status.free += 1,
            }
        }
        status
    }
}
