//! Record codec: one logical operation, the same bytes on disk and on the wire.

use std::sync::Arc;

use crate::disk::{Buffer, Bytes};
use crate::{BlockSize, Damage, Epoch, Incarnation, Lba, Lsn, VolumeId};

use byteorder::{ByteOrder, LittleEndian};

/// What a record does to its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// The blocks take the payload.
    Write,
    /// The blocks read zero. They keep their space when the record says so.
    WriteZeroes,
    /// The blocks read zero and give their space back.
    Trim,
}

impl RecordKind {
    /// Code in the format, never 0.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            RecordKind::Write => 1,
            RecordKind::WriteZeroes => 2,
            RecordKind::Trim => 3,
        }
    }

    /// From the code in the format.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<RecordKind> {
        match code {
            1 => Some(RecordKind::Write),
            2 => Some(RecordKind::WriteZeroes),
            3 => Some(RecordKind::Trim),
            _ => None,
        }
    }

    /// Name as the tools print it: "write", "write-zeroes", "trim".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            RecordKind::Write => "write",
            RecordKind::WriteZeroes => "write-zeroes",
            RecordKind::Trim => "trim",
        }
    }
}

/// Header of a record, 64 bytes. See FORMAT.md, "Record header".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it does.
    pub kind: RecordKind,
    /// Write-zeroes only: the blocks keep their space.
    pub no_hole: bool,
    /// Block size of the volume.
    pub block_size: BlockSize,
    /// Volume it belongs to.
    pub volume: VolumeId,
    /// Epoch of the primary that wrote it.
    pub epoch: Epoch,
    /// Incarnation of that primary.
    pub incarnation: Incarnation,
    /// Its number.
    pub lsn: Lsn,
    /// First block.
    pub lba: Lba,
    /// Number of blocks, at least 1.
    pub blocks: u32,
    /// CRC-32 over the payload, then the header with this field zero.
    pub sum: u32,
}

impl RecordHeader {
    /// Size of the encoded header.
    pub const BYTES: usize = 64;
    /// Largest payload of one record: 1 MiB (D19).
    pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

    pub(crate) const SUM_AT: usize = 0;
    pub(crate) const KIND_AT: usize = 4;
    pub(crate) const FLAGS_AT: usize = 5;
    pub(crate) const BLOCK_SHIFT_AT: usize = 6;
    pub(crate) const RESERVED_AT: usize = 7;
    pub(crate) const VOLUME_AT: usize = 8;
    pub(crate) const EPOCH_AT: usize = 24;
    pub(crate) const INCARNATION_AT: usize = 32;
    pub(crate) const LSN_AT: usize = 40;
    pub(crate) const LBA_AT: usize = 48;
    pub(crate) const BLOCKS_AT: usize = 56;
    pub(crate) const PAYLOAD_BYTES_AT: usize = 60;

    const FLAG_NO_HOLE: u8 = 1;

    /// Bytes of payload behind the header; 0 unless it is a write.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        match self.kind {
            RecordKind::Write => self.blocks as usize * self.block_size.bytes_usize(),
            RecordKind::WriteZeroes | RecordKind::Trim => 0,
        }
    }

    /// The header as it lies on disk and travels.
    #[must_use]
    pub fn encode(&self) -> [u8; RecordHeader::BYTES] {
        let mut bytes = [0; RecordHeader::BYTES];
        LittleEndian::write_u32(&mut bytes[Self::SUM_AT..], self.sum);
        bytes[Self::KIND_AT] = self.kind.code();
        bytes[Self::FLAGS_AT] = if self.no_hole { Self::FLAG_NO_HOLE } else { 0 };
        bytes[Self::BLOCK_SHIFT_AT] = self.block_size.shift();
        bytes[Self::VOLUME_AT..Self::EPOCH_AT].copy_from_slice(&self.volume.0);
        LittleEndian::write_u64(&mut bytes[Self::EPOCH_AT..], self.epoch.get());
        LittleEndian::write_u64(&mut bytes[Self::INCARNATION_AT..], self.incarnation.get());
        LittleEndian::write_u64(&mut bytes[Self::LSN_AT..], self.lsn.get());
        LittleEndian::write_u64(&mut bytes[Self::LBA_AT..], self.lba.0);
        LittleEndian::write_u32(&mut bytes[Self::BLOCKS_AT..], self.blocks);
        let payload = u32::try_from(self.payload_bytes()).expect("a payload is at most 1 MiB");
        LittleEndian::write_u32(&mut bytes[Self::PAYLOAD_BYTES_AT..], payload);
        bytes
    }

    /// Decodes a header that may hold anything. Its sum is checked by [`RecordHeader::verify`],
    /// once the payload is there; every length in it is bounded here.
    ///
    /// # Errors
    /// The first field that contradicts the format.
    pub fn decode(bytes: &[u8]) -> Result<RecordHeader, Damage> {
        let Some(bytes) = bytes.first_chunk::<{ RecordHeader::BYTES }>() else {
            return Err(Damage::Length {
                found: bytes.len() as u64,
            });
        };
        let field = |field, found: u64| Damage::Field { field, found };
        let kind = RecordKind::from_code(bytes[Self::KIND_AT])
            .ok_or(field("kind", bytes[Self::KIND_AT].into()))?;
        let flags = bytes[Self::FLAGS_AT];
        let no_hole = flags == Self::FLAG_NO_HOLE;
        if flags != 0 && !(no_hole && kind == RecordKind::WriteZeroes) {
            return Err(field("flags", flags.into()));
        }
        let block_size = BlockSize::from_shift(bytes[Self::BLOCK_SHIFT_AT])
            .ok_or(field("block_shift", bytes[Self::BLOCK_SHIFT_AT].into()))?;
        if bytes[Self::RESERVED_AT] != 0 {
            return Err(field("reserved", bytes[Self::RESERVED_AT].into()));
        }
        let mut volume = VolumeId([0; 16]);
        volume
            .0
            .copy_from_slice(&bytes[Self::VOLUME_AT..Self::EPOCH_AT]);
        let header = RecordHeader {
            kind,
            no_hole,
            block_size,
            volume,
            epoch: Epoch::new(LittleEndian::read_u64(&bytes[Self::EPOCH_AT..])),
            incarnation: Incarnation::new(LittleEndian::read_u64(&bytes[Self::INCARNATION_AT..])),
            lsn: Lsn::new(LittleEndian::read_u64(&bytes[Self::LSN_AT..])),
            lba: Lba(LittleEndian::read_u64(&bytes[Self::LBA_AT..])),
            blocks: LittleEndian::read_u32(&bytes[Self::BLOCKS_AT..]),
            sum: LittleEndian::read_u32(&bytes[Self::SUM_AT..]),
        };
        header.check_bounds(LittleEndian::read_u32(&bytes[Self::PAYLOAD_BYTES_AT..]))?;
        Ok(header)
    }

    fn check_bounds(&self, payload_bytes: u32) -> Result<(), Damage> {
        if self.lsn.is_zero() || self.lsn.get() == u64::MAX {
            return Err(Damage::Field {
                field: "lsn",
                found: self.lsn.get(),
            });
        }
        let end = self.lba.0.checked_add(u64::from(self.blocks));
        let bytes = end.and_then(|end| end.checked_mul(self.block_size.bytes()));
        let too_long =
            self.kind == RecordKind::Write && self.payload_bytes() > Self::PAYLOAD_BYTES_MAX;
        if self.blocks == 0 || bytes.is_none() || too_long {
            return Err(Damage::Length {
                found: self.blocks.into(),
            });
        }
        if payload_bytes as usize != self.payload_bytes() {
            return Err(Damage::Length {
                found: payload_bytes.into(),
            });
        }
        Ok(())
    }

    /// CRC-32 over the payload, then the header with its sum field zero.
    #[must_use]
    pub fn compute_sum(&self, payload: &[u8]) -> u32 {
        self.sum_behind(crc32fast::hash(payload))
    }

    /// The sum, when the payload's own is known: the header comes behind it, so that the longer
    /// part can be summed before the record has a number.
    fn sum_behind(&self, payload_sum: u32) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(payload_sum);
        hasher.update(&RecordHeader { sum: 0, ..*self }.encode());
        hasher.finalize()
    }

    /// Checks the payload and the header against the sum.
    ///
    /// # Errors
    /// [`Damage::Length`] for a payload of the wrong size, [`Damage::Checksum`] otherwise.
    pub fn verify(&self, payload: &[u8]) -> Result<(), Damage> {
        if payload.len() != self.payload_bytes() {
            return Err(Damage::Length {
                found: payload.len() as u64,
            });
        }
        let found = self.compute_sum(payload);
        match found == self.sum {
            true => Ok(()),
            false => Err(Damage::Checksum {
                expected: self.sum,
                found,
            }),
        }
    }
}

impl RecordHeader {
    /// Decodes a header and checks it and its payload against the sum, over the bytes as they lie.
    ///
    /// # Errors
    /// As [`RecordHeader::decode`] and [`RecordHeader::verify`].
    pub(crate) fn decode_verified(
        bytes: &[u8; RecordHeader::BYTES],
        payload: &[u8],
    ) -> Result<RecordHeader, Damage> {
        let header = RecordHeader::decode(bytes)?;
        if payload.len() != header.payload_bytes() {
            return Err(Damage::Length {
                found: payload.len() as u64,
            });
        }
        let mut summed = *bytes;
        summed[Self::SUM_AT..Self::KIND_AT].fill(0);
        let mut hasher = crc32fast::Hasher::new_with_initial(crc32fast::hash(payload));
        hasher.update(&summed);
        let found = hasher.finalize();
        match found == header.sum {
            true => Ok(header),
            false => Err(Damage::Checksum {
                expected: header.sum,
                found,
            }),
        }
    }
}

/// Largest payload of one record in a log of such segments: 1 MiB, or a quarter of a segment.
pub(crate) fn payload_bytes_max(segment_bytes: u64) -> usize {
    let quarter = usize::try_from(segment_bytes / 4).unwrap_or(usize::MAX);
    RecordHeader::PAYLOAD_BYTES_MAX.min(quarter)
}

/// A change of our own whose payload is summed and that has no number yet.
#[derive(Debug)]
pub(crate) struct Unnumbered {
    header: RecordHeader,
    payload: Bytes,
    payload_sum: u32,
}

impl Unnumbered {
    pub(crate) fn new(change: Change, volume: VolumeId, block_size: BlockSize) -> Unnumbered {
        let header = RecordHeader {
            kind: change.kind,
            no_hole: change.no_hole,
            block_size,
            volume,
            epoch: Epoch::default(),
            incarnation: Incarnation::default(),
            lsn: Lsn::ZERO,
            lba: change.lba,
            blocks: change.blocks,
            sum: 0,
        };
        Unnumbered {
            header,
            payload_sum: crc32fast::hash(&change.payload),
            payload: change.payload,
        }
    }

    pub(crate) fn number(self, epoch: Epoch, incarnation: Incarnation, lsn: Lsn) -> Record {
        let mut header = RecordHeader {
            epoch,
            incarnation,
            lsn,
            ..self.header
        };
        header.sum = header.sum_behind(self.payload_sum);
        let payload = self.payload;
        Record { header, payload }
    }
}

/// A record whose sum was checked or computed by us.
#[derive(Clone, Debug)]
pub struct Record {
    header: RecordHeader,
    payload: Bytes,
}

impl Record {
    /// A new record; its sum is computed here.
    ///
    /// # Panics
    /// When the payload does not have the length the header asks for.
    #[must_use]
    pub fn seal(header: RecordHeader, payload: Bytes) -> Record {
        assert_eq!(
            payload.len(),
            header.payload_bytes(),
            "payload of the length in the header"
        );
        let header = RecordHeader {
            sum: header.compute_sum(&payload),
            ..header
        };
        Record { header, payload }
    }

    /// A record from disk or from a peer.
    ///
    /// # Errors
    /// [`Damage::Length`] or [`Damage::Checksum`].
    pub fn verified(header: RecordHeader, payload: Bytes) -> Result<Record, Damage> {
        header.verify(&payload)?;
        Ok(Record { header, payload })
    }

    /// A record whose sum the caller has just checked.
    pub(crate) const fn checked(header: RecordHeader, payload: Bytes) -> Record {
        Record { header, payload }
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &RecordHeader {
        &self.header
    }

    /// Its number.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.header.lsn
    }

    /// Its payload; empty unless it is a write.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Bytes that it takes on disk or on the wire, without the frame or message around it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        RecordHeader::BYTES + self.payload.len()
    }
}

/// One change to the volume, before it has an LSN.
#[derive(Clone, Debug)]
pub struct Change {
    /// What it does.
    pub kind: RecordKind,
    /// Write-zeroes only: the blocks keep their space.
    pub no_hole: bool,
    /// First block.
    pub lba: Lba,
    /// Number of blocks, at least 1.
    pub blocks: u32,
    /// `blocks` blocks for a write, empty otherwise.
    pub payload: Bytes,
}

impl Change {
    /// Writes `payload`, a whole number of blocks, at `lba`.
    #[must_use]
    pub fn write(lba: Lba, block_size: BlockSize, payload: Buffer) -> Change {
        let blocks = u32::try_from(payload.len() >> block_size.shift()).unwrap_or(u32::MAX);
        Change {
            kind: RecordKind::Write,
            no_hole: false,
            lba,
            blocks,
            payload: Arc::new(payload),
        }
    }

    /// Makes blocks read zero; `no_hole` keeps their space.
    #[must_use]
    pub fn write_zeroes(lba: Lba, blocks: u32, no_hole: bool) -> Change {
        let payload = Arc::new(Buffer::zeroed(0));
        Change {
            kind: RecordKind::WriteZeroes,
            no_hole,
            lba,
            blocks,
            payload,
        }
    }

    /// Makes blocks read zero and gives their space back.
    #[must_use]
    pub fn trim(lba: Lba, blocks: u32) -> Change {
        let payload = Arc::new(Buffer::zeroed(0));
        Change {
            kind: RecordKind::Trim,
            no_hole: false,
            lba,
            blocks,
            payload,
        }
    }
}
