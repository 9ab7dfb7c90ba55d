//! What recovery must not forget (D8): the state log in `recovery/`, and its section of meta.
//!
//! The state log is append-only. An entry is
//!
//! ```text
//! length u32 | crc32 u32 over sequence and payload | sequence u64 | payload: one JSON object
//! ```
//!
//! An entry is valid iff its length is within the limit, its sum holds and its sequence follows the
//! one before it. Entries behind the last valid one are a torn tail when no valid entry of a higher
//! sequence lies behind it, and are cut; otherwise the log is damaged, and opening it fails. Every
//! append is synced before it returns. A log over its limit is rewritten, in a new file that is
//! renamed over the old one; so is one to which an append failed, before the next one. What an open
//! finds is written and synced once more: after a failed sync the page cache may show what the
//! medium will never have, however often it is synced (L-W1, L-W2).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use seawall_wal::disk::{self, Buffer, Disk, File, OpenMode};
use seawall_wal::{Damage, Meta, NodeIncarnation, Section, SectionId};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::status::{DecisionRecord, RecoveryRecord};

/// Name of the folder and of the file in it.
const FOLDER: &str = "recovery";
const NAME: &str = "state";
const NEW: &str = "state.new";

const HEADER_BYTES: usize = 16;
const PAYLOAD_BYTES_MAX: usize = 64 << 10;
/// A log longer than this is rewritten at open.
const REWRITE_BYTES: u64 = 256 << 10;
/// A log that grew to this is rewritten while it is open: well above what a rewrite keeps.
const REWRITE_BYTES_LIVE: u64 = 4 << 20;
/// Recoveries that a rewrite keeps, beside what is known of each replica.
const HISTORY_MAX: usize = 256;

/// One thing that is remembered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub(crate) enum Entry {
    /// The needs-rebuild mark of a replica was set or cleared.
    Mark {
        replica: String,
        set: bool,
        cause: String,
    },
    /// A sender took this epoch and met this life of the replica's directory.
    Sender {
        replica: String,
        epoch: u64,
        node: Option<String>,
    },
    /// An assignment with this version was applied.
    Assigned { epoch: u64, version: u64 },
    /// A decision with its proof.
    Decision {
        replica: String,
        #[serde(flatten)]
        made: DecisionRecord,
    },
    /// A recovery that ended.
    Recovery(Box<RecoveryRecord>),
}

/// What is remembered of one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// Cause of the needs-rebuild mark, while it is set.
    pub(crate) mark: Option<String>,
    /// Epoch of its sender.
    pub(crate) epoch: Option<u64>,
    /// Life of its directory.
    pub(crate) node: Option<NodeIncarnation>,
    /// The newest decision about it.
    pub(crate) decision: Option<DecisionRecord>,
}

/// The open state log.
#[derive(Debug)]
pub(crate) struct StateLog {
    file: File,
    end: u64,
    sequence: u64,
    replicas: BTreeMap<String, Remembered>,
    /// Epoch and version of the assignment applied last, of those that had a version.
    assigned: Option<(u64, u64)>,
    recoveries: Vec<RecoveryRecord>,
    /// A write or sync failed: nothing is appended to this file any more (L3).
    failed: bool,
}

struct Scan {
    entries: Vec<Entry>,
    end: usize,
    sequence: u64,
}

impl StateLog {
    /// Opens the state log of the volume in `dir`, creates it if there is none, cuts a torn tail.
    pub(crate) fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<StateLog, Error> {
        let folder = dir.join(FOLDER);
        disk::make_dir(disk.as_ref(), &folder)?;
        disk::sync_dir(disk.as_ref(), dir)?;
        disk::remove(disk.as_ref(), &folder.join(NEW))?;
        let path = folder.join(NAME);
        let file = File::open(disk, &path, OpenMode::CreateOrOpen)?;
        disk::sync_dir(disk.as_ref(), &folder)?;
        let length = file.length()?;
        let bytes = file.read(0, usize::try_from(length).unwrap_or(usize::MAX))?;
        let scan = scan(&bytes, &path)?;
        if scan.end as u64 != length {
            file.set_length(scan.end as u64)?;
        }
        // What is built upon is not only in the page cache (L4).
        file.write_bytes(0, Buffer::copy_of(&bytes[..scan.end]))?;
        file.sync()?;
        let mut log = StateLog {
            file,
            end: scan.end as u64,
            sequence: scan.sequence,
            replicas: BTreeMap::new(),
            assigned: None,
            recoveries: Vec::new(),
            failed: false,
        };
        scan.entries.into_iter().for_each(|entry| log.learn(entry));
        if log.end > REWRITE_BYTES {
            log.rewrite()?;
        }
        Ok(log)
    }

    /// What is remembered of `replica`.
    pub(crate) fn remembered(&self, replica: &str) -> Remembered {
        self.replicas.get(replica).cloned().unwrap_or_default()
    }

    /// The version of the assignment applied last in `epoch`.
    pub(crate) fn version(&self, epoch: u64) -> Option<u64> {
        let assigned = self.assigned.filter(|(of, _)| *of == epoch);
        assigned.map(|(_, version)| version)
    }

    /// Whether `entry` is the decision that was made last, also before a restart: a flapping link
    /// comes to the same one again and again, and once is enough.
    pub(crate) fn repeats(&self, entry: &Entry) -> bool {
        let Entry::Decision { replica, made } = entry else {
            return false;
        };
        let known = self.replicas.get(replica);
        let last = known.and_then(|known| known.decision.as_ref());
        last.is_some_and(|last| (&last.outcome, &last.proof) == (&made.outcome, &made.proof))
    }

    /// Every recovery that is remembered, oldest first.
    pub(crate) fn recoveries(&self) -> &[RecoveryRecord] {
        &self.recoveries
    }

    /// Appends `entry` and makes it durable. After a failure the next call begins a new file, with
    /// all that was appended before: where space has returned it succeeds (D21).
    pub(crate) fn append(&mut self, entry: Entry) -> Result<(), Error> {
        if self.failed {
            self.rewrite()?;
        }
        // Until it has come to its end.
        self.failed = true;
        self.write(entry)?;
        self.failed = false;
        Ok(())
    }

    fn write(&mut self, entry: Entry) -> Result<(), Error> {
        let bytes = encode(self.sequence + 1, &entry);
        self.file.write_bytes(self.end, Buffer::copy_of(&bytes))?;
        self.file.sync()?;
        self.end += bytes.len() as u64;
        self.sequence += 1;
        self.learn(entry);
        match self.end > REWRITE_BYTES_LIVE {
            true => self.rewrite(),
            false => Ok(()),
        }
    }

    fn learn(&mut self, entry: Entry) {
        match entry {
            Entry::Mark {
                replica,
                set,
                cause,
            } => {
                let remembered = self.replicas.entry(replica).or_default();
                remembered.mark = set.then_some(cause);
            }
            Entry::Sender {
                replica,
                epoch,
                node,
            } => {
                let remembered = self.replicas.entry(replica).or_default();
                remembered.epoch = remembered.epoch.max(Some(epoch));
                remembered.node = node.as_deref().and_then(parse_node).or(remembered.node);
            }
            Entry::Assigned { epoch, version } => self.assigned = Some((epoch, version)),
            Entry::Decision { replica, made } => {
                self.replicas.entry(replica).or_default().decision = Some(made);
            }
            Entry::Recovery(record) => self.recoveries.push(*record),
        }
        let surplus = self.recoveries.len().saturating_sub(HISTORY_MAX);
        self.recoveries.drain(..surplus);
    }

    /// What has to survive a rewrite, in an order that teaches the same.
    fn essence(&self) -> Vec<Entry> {
        let assigned = self.assigned;
        let assigned = assigned.map(|(epoch, version)| Entry::Assigned { epoch, version });
        let mut entries: Vec<Entry> = assigned.into_iter().collect();
        for (replica, known) in &self.replicas {
            if let Some(epoch) = known.epoch {
                entries.push(Entry::Sender {
                    replica: replica.clone(),
                    epoch,
                    node: known.node.map(|node| node.to_string()),
                });
            }
            if let Some(cause) = &known.mark {
                entries.push(Entry::Mark {
                    replica: replica.clone(),
                    set: true,
                    cause: cause.clone(),
                });
            }
            if let Some(made) = &known.decision {
                entries.push(Entry::Decision {
                    replica: replica.clone(),
                    made: made.clone(),
                });
            }
        }
        let recoveries = self.recoveries.iter().cloned();
        entries.extend(recoveries.map(|record| Entry::Recovery(Box::new(record))));
        entries
    }

    fn rewrite(&mut self) -> Result<(), Error> {
        let disk = Arc::clone(self.file.disk());
        let old = self.file.path().to_path_buf();
        let new = old.with_file_name(NEW);
        let mut bytes = Vec::new();
        let mut sequence = self.sequence;
        for entry in self.essence() {
            sequence += 1;
            bytes.extend_from_slice(&encode(sequence, &entry));
        }
        disk::remove(disk.as_ref(), &new)?;
        let file = File::open(&disk, &new, OpenMode::CreateNew)?;
        file.write_bytes(0, Buffer::copy_of(&bytes))?;
        file.sync()?;
        disk::rename(disk.as_ref(), &new, &old)?;
        let folder = old.parent().expect("the file lies in its folder");
        disk::sync_dir(disk.as_ref(), folder)?;
        // Opened by its final name, so that errors name it.
        self.file = File::open(&disk, &old, OpenMode::ReadWrite)?;
        self.end = bytes.len() as u64;
        self.sequence = sequence;
        Ok(())
    }
}

fn parse_node(text: &str) -> Option<NodeIncarnation> {
    let number = u128::from_str_radix(text, 16).ok()?;
    let bytes = number.swap_bytes().to_le_bytes();
    (text.len() == 32).then_some(NodeIncarnation(bytes))
}

fn sum(sequence: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&sequence.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

fn encode(sequence: u64, entry: &Entry) -> Vec<u8> {
    let payload = serde_json::to_vec(entry).expect("text and numbers always serialise");
    assert!(
        payload.len() <= PAYLOAD_BYTES_MAX,
        "texts in entries are bounded where they arise"
    );
    let mut bytes = vec![0; HEADER_BYTES];
    let length = u32::try_from(payload.len()).expect("checked against the limit");
    LittleEndian::write_u32(&mut bytes[..4], length);
    LittleEndian::write_u32(&mut bytes[4..8], sum(sequence, &payload));
    LittleEndian::write_u64(&mut bytes[8..16], sequence);
    bytes.extend_from_slice(&payload);
    bytes
}

/// The entry at the front of `bytes`, with its sequence and length, if it is valid in itself.
fn decode(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let length = LittleEndian::read_u32(&header[..4]) as usize;
    let payload = rest.get(..length)?;
    let sequence = LittleEndian::read_u64(&header[8..]);
    let holds = length > 0
        && length <= PAYLOAD_BYTES_MAX
        && LittleEndian::read_u32(&header[4..8]) == sum(sequence, payload);
    holds.then_some((sequence, payload))
}

fn scan(bytes: &[u8], path: &Path) -> Result<Scan, Error> {
    let mut scan = Scan {
        entries: Vec::new(),
        end: 0,
        sequence: 0,
    };
    let damaged = |offset: usize, what| Error::StateLog {
        path: PathBuf::from(path),
        offset: offset as u64,
        what,
    };
    while let Some((sequence, payload)) = decode(&bytes[scan.end..]) {
        // A rewritten log begins at any sequence.
        let expected = scan.sequence + 1;
        if sequence != expected && scan.end != 0 {
            let found = sequence;
            return Err(damaged(scan.end, Damage::Link { expected, found }));
        }
        let entry = serde_json::from_slice(payload).map_err(|_| {
            let field = "payload";
            damaged(scan.end, Damage::Field { field, found: 0 })
        })?;
        scan.entries.push(entry);
        scan.sequence = sequence;
        scan.end += HEADER_BYTES + payload.len();
    }
    let later = (scan.end + 1..bytes.len()).find_map(|at| decode(&bytes[at..]));
    match later {
        Some((sequence, _)) if sequence > scan.sequence => Err(damaged(scan.end, Damage::Missing)),
        _ => Ok(scan),
    }
}

/// Recovery's section of meta on a replica.
///
/// ```text
/// version 1: node incarnation 16 bytes | flags 1 byte, bit 0: needs-rebuild mark
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeState {
    /// This life of the directory (D8).
    pub(crate) node: NodeIncarnation,
    /// The replica's copy of the needs-rebuild mark.
    pub(crate) needs_rebuild: bool,
}

impl NodeState {
    const VERSION: u16 = 1;
    const BYTES: usize = 17;

    /// What meta says; `None` when the section was never written, or by a build we do not know.
    pub(crate) fn read(meta: &Meta) -> Option<NodeState> {
        let contents = meta.get();
        let section = contents.sections.get(&SectionId::Recovery)?;
        if section.version != NodeState::VERSION || section.bytes.len() != NodeState::BYTES {
            return None;
        }
        let mut node = NodeIncarnation([0; 16]);
        node.0.copy_from_slice(&section.bytes[..16]);
        let needs_rebuild = section.bytes[16] & 1 != 0;
        Some(NodeState {
            node,
            needs_rebuild,
        })
    }

    /// What meta says, or a newly drawn incarnation, durable before this returns.
    pub(crate) fn read_or_draw(meta: &Meta) -> Result<NodeState, Error> {
        if let Some(state) = NodeState::read(meta) {
            return Ok(state);
        }
        let state = NodeState {
            node: NodeIncarnation::random()?,
            needs_rebuild: false,
        };
        state.write(meta)?;
        Ok(state)
    }

    /// Makes it durable in both copies of meta (D17).
    pub(crate) fn write(&self, meta: &Meta) -> Result<(), Error> {
        let mut bytes = self.node.0.to_vec();
        bytes.push(u8::from(self.needs_rebuild));
        let section = Section {
            version: NodeState::VERSION,
            bytes,
        };
        meta.update(|contents| {
            contents.sections.insert(SectionId::Recovery, section);
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
