//! The only writer of `meta`: two checksummed copies of what a volume must not forget (D17).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, PoisonError};

use byteorder::{ByteOrder, LittleEndian, ReadBytesExt, WriteBytesExt};
use xxhash_rust::xxh3::xxh3_128;

use crate::disk::{self, Buffer, Disk, File, OpenMode};
use crate::sync::{Mutex, MutexGuard};
use crate::{
    BlockSize, Damage, Epoch, Error, Incarnation, Lineage, LineageEntry, LogId, Lsn, VolumeId,
};

/// Shape of a volume, fixed when it is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Size of a block.
    pub block_size: BlockSize,
    /// Size of the volume in blocks.
    pub blocks: u64,
    /// Size of a segment file in bytes: 1 MiB to 1 GiB, a multiple of 4096.
    pub segment_bytes: u64,
}

impl Geometry {
    /// Whether a fresh segment takes the largest record it allows. Volumes have 1 MiB and more;
    /// below 16 KiB appends would go from one empty segment to the next.
    fn holds_records(&self) -> bool {
        let allowed = 16 << 10..=1 << 30;
        allowed.contains(&self.segment_bytes) && self.segment_bytes.is_multiple_of(4096)
    }

    /// Size of the volume in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * self.block_size.bytes()
    }
}

/// What a directory is to its volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Takes records from a primary; `seawall promote` makes it one (D5).
    Replica,
}

/// Section of `meta` that another crate owns. The bytes are that crate's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SectionId {
    /// Owned by crate snapshot.
    Snapshot,
    /// Owned by crate recovery.
    Recovery,
}

/// Versioned bytes of one section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Section {
    /// Format version of the bytes; 0 together with no bytes when the section was never written.
    pub version: u16,
    /// The bytes, at most 16 KiB.
    pub bytes: Vec<u8>,
}

/// The mark that a clean close leaves (D13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanClose {
    /// Sequence of the mark frame that ends the log.
    pub sequence: u64,
    /// Head at that moment, all of it durable.
    pub head: Lsn,
}

/// Everything `meta` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaContents {
    /// Identity of the volume.
    pub volume: VolumeId,
    /// Identity of the log in `wal/`. A new one drops every frame written under the old (D12).
    pub log: LogId,
    /// Shape of the volume.
    pub geometry: Geometry,
    /// What this directory is to the volume.
    pub role: Role,
    /// Highest epoch this node has persisted; older ones are refused.
    pub epoch: Epoch,
    /// Who wrote the history (D2).
    pub lineage: Lineage,
    /// Lower bound of committed (D1).
    pub committed: Lsn,
    /// Last LSN reclaimed.
    pub tail: Lsn,
    /// The log begins after this LSN: 0, or the LSN of the base it was installed with.
    pub origin: Lsn,
    /// Generation of the oldest segment kept; `None` while the log has no segment yet.
    pub first_generation: Option<u64>,
    /// Next unused segment generation; everything below may have been used.
    pub generation_next: u64,
    /// Next unused incarnation.
    pub incarnation_next: Incarnation,
    /// Left by a clean close, removed by the next writable open.
    pub clean_close: Option<CleanClose>,
    /// Sections of the other crates.
    pub sections: BTreeMap<SectionId, Section>,
}

/// Handle on `meta`. All changes of all crates go through it.
#[derive(Debug)]
pub struct Meta {
    file: File,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    contents: MetaContents,
    counter: u64,
    failed: Option<Arc<Error>>,
}

/// Name of the file in the volume directory.
const FILE_NAME: &str = "meta";
const MAGIC: u64 = u64::from_le_bytes(*b"SEAWMETA");
const VERSION: u16 = 1;
/// Distance of the two copies: no device sector or stripe unit holds both.
pub(crate) const COPY_BYTES: usize = 64 << 10;
const COPIES: u8 = 2;
const SECTION_BYTES_MAX: usize = 16 << 10;

pub(crate) mod header {
    pub(crate) const MAGIC_AT: usize = 0;
    pub(crate) const VERSION_AT: usize = 8;
    pub(crate) const PLACE_AT: usize = 10;
    pub(crate) const RESERVED_AT: usize = 11;
    pub(crate) const LENGTH_AT: usize = 12;
    pub(crate) const COUNTER_AT: usize = 16;
    pub(crate) const SUM_AT: usize = 24;
    pub(crate) const BYTES: usize = 40;
}

impl Meta {
    /// Writes the first `meta` of a volume in the existing directory `dir`, durable in both copies,
    /// its name included.
    ///
    /// # Errors
    /// [`Error::Io`]; of kind `AlreadyExists` when the directory already holds one.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, contents: MetaContents) -> Result<Meta, Error> {
        let file = File::open(disk, &dir.join(FILE_NAME), OpenMode::CreateNew)?;
        let state = State {
            contents: contents.clone(),
            counter: 0,
            failed: None,
        };
        let meta = Meta {
            file,
            state: Mutex::new(state),
        };
        meta.write_copies(&contents, 1)?;
        meta.state().counter = 1;
        disk::sync_dir(disk.as_ref(), dir)?;
        Ok(meta)
    }

    /// Reads the newest valid copy. With `writable`, the copies are synced and then read from the
    /// medium (L4), and a damaged or older copy is repaired.
    ///
    /// # Errors
    /// [`Error::NotAVolume`] without a meta file, [`Error::Corrupt`] without a valid copy.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path, writable: bool) -> Result<Meta, Error> {
        let path = dir.join(FILE_NAME);
        let mode = if writable {
            OpenMode::ReadWrite
        } else {
            OpenMode::Read
        };
        let file = File::open(disk, &path, mode).map_err(|error| match &error {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Error::NotAVolume {
                    path: dir.into(),
                    why: "it has no meta file",
                }
            }
            _ => error,
        })?;
        if writable {
            file.sync()?;
            disk::sync_dir(disk.as_ref(), dir)?;
        }
        // A sync that failed before left a copy in the page cache that no device has (L-W1).
        let medium = match writable {
            true => Some(File::open_direct(disk, &path, OpenMode::Read)?),
            false => None,
        };
        let read = medium.as_ref().unwrap_or(&file);
        let copies: Vec<_> = (0..COPIES).map(|place| read_copy(read, place)).collect();
        let newest = copies
            .iter()
            .filter_map(|copy| copy.as_ref().ok())
            .max_by_key(|copy| copy.0);
        let Some((counter, contents)) = newest.cloned() else {
            return match copies.into_iter().next() {
                Some(Err(error)) => Err(error),
                _ => Err(Error::corrupt(&path, 0, None, Damage::Missing)),
            };
        };
        let whole = copies
            .iter()
            .all(|copy| copy.as_ref().is_ok_and(|(other, _)| *other == counter));
        let state = State {
            contents: contents.clone(),
            counter,
            failed: None,
        };
        let meta = Meta {
            file,
            state: Mutex::new(state),
        };
        if writable && !whole {
            meta.write_copies(&contents, counter)?;
        }
        Ok(meta)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // OK because the state is replaced as a whole, after the write that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of what it says now.
    #[must_use]
    pub fn get(&self) -> MetaContents {
        self.state().contents.clone()
    }

    /// The tail that it names.
    pub(crate) fn tail(&self) -> Lsn {
        self.state().contents.tail
    }

    /// Changes it durably, in both copies before the call returns (D17). The change is made to a
    /// copy; when writing fails, what `get` says is unchanged and the handle refuses more changes.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Poisoned`] after an earlier failure; [`Error::Corrupt`] for a
    /// number with which it would not be read again, and nothing is written.
    pub fn update(&self, change: impl FnOnce(&mut MetaContents)) -> Result<(), Error> {
        let mut state = self.state();
        if let Some(first) = &state.failed {
            return Err(Error::Poisoned {
                first: Arc::clone(first),
            });
        }
        let mut contents = state.contents.clone();
        change(&mut contents);
        if contents == state.contents {
            return Ok(());
        }
        contents
            .check_numbers()
            .map_err(|what| Error::corrupt(self.file.path(), 0, None, what))?;
        let counter = state.counter + 1;
        if let Err(error) = self.write_copies(&contents, counter) {
            state.failed = Some(Arc::new(error.clone()));
            return Err(error);
        }
        state.contents = contents;
        state.counter = counter;
        Ok(())
    }

    /// One copy after the other: a crash leaves at least one of them whole.
    fn write_copies(&self, contents: &MetaContents, counter: u64) -> Result<(), Error> {
        for place in 0..COPIES {
            let copy = encode_copy(contents, counter, place);
            self.file
                .write_bytes(u64::from(place) * COPY_BYTES as u64, copy)?;
            self.file.sync()?;
        }
        Ok(())
    }

    /// Damage in either copy, for `verify`: a good copy hides a bad one from everybody else.
    ///
    /// # Errors
    /// Never for damage; the list says it.
    #[must_use]
    pub fn verify(&self) -> Vec<Error> {
        (0..COPIES)
            .filter_map(|place| read_copy(&self.file, place).err())
            .collect()
    }
}

fn read_copy(file: &File, place: u8) -> Result<(u64, MetaContents), Error> {
    let at = u64::from(place) * COPY_BYTES as u64;
    let bytes = file.read(at, COPY_BYTES)?;
    decode_copy(&bytes, place).map_err(|what| Error::corrupt(file.path(), at, None, what))
}

fn encode_copy(contents: &MetaContents, counter: u64, place: u8) -> Buffer {
    let body = contents.encode();
    let mut copy = Buffer::zeroed(COPY_BYTES);
    LittleEndian::write_u64(&mut copy[header::MAGIC_AT..], MAGIC);
    LittleEndian::write_u16(&mut copy[header::VERSION_AT..], VERSION);
    copy[header::PLACE_AT] = place;
    let length = u32::try_from(body.len()).expect("sections are bounded, so the body is");
    LittleEndian::write_u32(&mut copy[header::LENGTH_AT..], length);
    LittleEndian::write_u64(&mut copy[header::COUNTER_AT..], counter);
    copy[header::BYTES..header::BYTES + body.len()].copy_from_slice(&body);
    let sum = xxh3_128(&copy);
    LittleEndian::write_u128(&mut copy[header::SUM_AT..], sum);
    copy
}

fn decode_copy(bytes: &[u8], place: u8) -> Result<(u64, MetaContents), Damage> {
    if bytes.len() < COPY_BYTES {
        return Err(Damage::Length {
            found: bytes.len() as u64,
        });
    }
    if LittleEndian::read_u64(&bytes[header::MAGIC_AT..]) != MAGIC {
        return Err(Damage::BadMagic);
    }
    let version = LittleEndian::read_u16(&bytes[header::VERSION_AT..]);
    if version != VERSION {
        return Err(Damage::UnknownVersion { found: version });
    }
    let mut zeroed = bytes.to_vec();
    zeroed[header::SUM_AT..header::BYTES].fill(0);
    let (expected, found) = (
        LittleEndian::read_u128(&bytes[header::SUM_AT..]),
        xxh3_128(&zeroed),
    );
    if expected != found {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the low half names the mismatch"
        )]
        return Err(Damage::Checksum {
            expected: expected as u32,
            found: found as u32,
        });
    }
    if bytes[header::PLACE_AT] != place || bytes[header::RESERVED_AT] != 0 {
        return Err(Damage::Identity);
    }
    let length = LittleEndian::read_u32(&bytes[header::LENGTH_AT..]) as usize;
    let body = bytes.get(header::BYTES..header::BYTES + length);
    let body = body.ok_or(Damage::Length {
        found: length as u64,
    })?;
    let counter = LittleEndian::read_u64(&bytes[header::COUNTER_AT..]);
    Ok((counter, MetaContents::decode(body)?))
}

type Le = LittleEndian;
const GROWS: &str = "a vector takes every byte";

impl MetaContents {
    /// What a new, empty volume says of itself: nothing was written, under no lineage. A primary
    /// begins in epoch 1; a replica has none until its primary names one.
    #[must_use]
    pub fn of_new(volume: VolumeId, log: LogId, geometry: Geometry, role: Role) -> MetaContents {
        MetaContents {
            volume,
            log,
            geometry,
            role,
            epoch: match role {
                Role::Primary => Epoch::new(1),
                Role::Replica => Epoch::default(),
            },
            lineage: Lineage::default(),
            committed: Lsn::ZERO,
            tail: Lsn::ZERO,
            origin: Lsn::ZERO,
            first_generation: None,
            generation_next: 1,
            incarnation_next: Incarnation::new(1),
            clean_close: None,
            sections: BTreeMap::new(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(&self.volume.0);
        out.extend_from_slice(&self.log.0);
        out.push(self.geometry.block_size.shift());
        out.push(match self.role {
            Role::Primary => 1,
            Role::Replica => 2,
        });
        let first = u8::from(self.first_generation.is_some()) << 1;
        out.push(u8::from(self.clean_close.is_some()) | first);
        out.push(0);
        let entries = self.lineage.entries();
        out.write_u32::<Le>(u32::try_from(entries.len()).expect("bounded table"))
            .expect(GROWS);
        let clean = self.clean_close.unwrap_or(CleanClose {
            sequence: 0,
            head: Lsn::ZERO,
        });
        for number in [
            self.geometry.blocks,
            self.geometry.segment_bytes,
            self.epoch.get(),
            self.committed.get(),
            self.tail.get(),
            self.origin.get(),
            self.first_generation.unwrap_or(0),
            self.generation_next,
            self.incarnation_next.get(),
            clean.sequence,
            clean.head.get(),
        ] {
            out.write_u64::<Le>(number).expect(GROWS);
        }
        for entry in entries {
            for number in [
                entry.epoch.get(),
                entry.incarnation.get(),
                entry.first.get(),
            ] {
                out.write_u64::<Le>(number).expect(GROWS);
            }
        }
        for id in [SectionId::Snapshot, SectionId::Recovery] {
            self.encode_section(id, &mut out);
        }
        out
    }

    fn encode_section(&self, id: SectionId, out: &mut Vec<u8>) {
        let empty = Section::default();
        let section = self.sections.get(&id).unwrap_or(&empty);
        assert!(
            section.bytes.len() <= SECTION_BYTES_MAX,
            "a section is at most 16 KiB"
        );
        out.write_u16::<Le>(id.code()).expect(GROWS);
        out.write_u16::<Le>(section.version).expect(GROWS);
        let length = u32::try_from(section.bytes.len()).expect("bounded above");
        out.write_u32::<Le>(length).expect(GROWS);
        out.extend_from_slice(&section.bytes);
    }

    fn decode(mut bytes: &[u8]) -> Result<MetaContents, Damage> {
        let total = bytes.len() as u64;
        let short = |_| Damage::Length { found: total };
        let input = &mut bytes;
        let (mut volume, mut log) = (VolumeId([0; 16]), LogId([0; 16]));
        input.read_exact(&mut volume.0).map_err(short)?;
        input.read_exact(&mut log.0).map_err(short)?;
        let mut small = [0; 4];
        input.read_exact(&mut small).map_err(short)?;
        let [shift, role, flags, _] = small;
        let field = |field, found: u64| Damage::Field { field, found };
        let block_size = BlockSize::from_shift(shift).ok_or(field("block_shift", shift.into()))?;
        let role = match role {
            1 => Role::Primary,
            2 => Role::Replica,
            other => return Err(field("role", other.into())),
        };
        let lineage_count = input.read_u32::<Le>().map_err(short)? as usize;
        let mut number = || input.read_u64::<Le>().map_err(short);
        let geometry = Geometry {
            block_size,
            blocks: number()?,
            segment_bytes: number()?,
        };
        if !geometry.holds_records() {
            return Err(field("segment_bytes", geometry.segment_bytes));
        }
        if geometry.blocks.checked_mul(block_size.bytes()).is_none() {
            return Err(field("blocks", geometry.blocks));
        }
        let epoch = Epoch::new(number()?);
        let [committed, tail, origin] = [number()?, number()?, number()?].map(Lsn::new);
        let first_generation = number()?;
        let generation_next = number()?;
        let incarnation_next = Incarnation::new(number()?);
        let clean = CleanClose {
            sequence: number()?,
            head: Lsn::new(number()?),
        };
        if lineage_count > Lineage::ENTRIES_MAX {
            return Err(field("lineage_count", lineage_count as u64));
        }
        let mut entries = Vec::with_capacity(lineage_count);
        for _ in 0..lineage_count {
            entries.push(LineageEntry {
                epoch: Epoch::new(number()?),
                incarnation: Incarnation::new(number()?),
                first: Lsn::new(number()?),
            });
        }
        let lineage =
            Lineage::from_entries(entries).ok_or(field("lineage", lineage_count as u64))?;
        let mut sections = BTreeMap::new();
        for id in [SectionId::Snapshot, SectionId::Recovery] {
            if let Some(section) = decode_section(input, id)? {
                sections.insert(id, section);
            }
        }
        if !input.is_empty() {
            return Err(Damage::Length { found: total });
        }
        let contents = MetaContents {
            volume,
            log,
            geometry,
            role,
            epoch,
            lineage,
            committed,
            tail,
            origin,
            first_generation: (flags & 2 != 0).then_some(first_generation),
            generation_next,
            incarnation_next,
            clean_close: (flags & 1 != 0).then_some(clean),
            sections,
        };
        contents.check_numbers()?;
        Ok(contents)
    }

    /// Refuses a number behind which nothing could be counted, read or about to be written.
    fn check_numbers(&self) -> Result<(), Damage> {
        let last = self.lineage.last().map_or(0, |last| last.incarnation.get());
        let numbers = [
            ("epoch", self.epoch.get()),
            ("committed", self.committed.get()),
            ("tail", self.tail.get()),
            ("origin", self.origin.get()),
            ("generation_next", self.generation_next),
            ("incarnation_next", self.incarnation_next.get()),
            ("lineage", last),
        ];
        match numbers.into_iter().find(|(_, found)| *found == u64::MAX) {
            Some((field, found)) => Err(Damage::Field { field, found }),
            None => Ok(()),
        }
    }
}

fn decode_section(input: &mut &[u8], id: SectionId) -> Result<Option<Section>, Damage> {
    let left = input.len() as u64;
    let short = |_| Damage::Length { found: left };
    let code = input.read_u16::<Le>().map_err(short)?;
    if code != id.code() {
        return Err(Damage::Field {
            field: "section",
            found: code.into(),
        });
    }
    let version = input.read_u16::<Le>().map_err(short)?;
    let length = input.read_u32::<Le>().map_err(short)? as usize;
    if length > SECTION_BYTES_MAX || length > input.len() {
        return Err(Damage::Length {
            found: length as u64,
        });
    }
    let (bytes, rest) = input.split_at(length);
    *input = rest;
    let section = Section {
        version,
        bytes: bytes.to_vec(),
    };
    Ok((section != Section::default()).then_some(section))
}

impl SectionId {
    const fn code(self) -> u16 {
        match self {
            SectionId::Snapshot => 1,
            SectionId::Recovery => 2,
        }
    }
}

#[cfg(test)]
mod tests;
