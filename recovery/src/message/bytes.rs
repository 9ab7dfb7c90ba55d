//! Fields of a body: a writer over a vector, a bounded reader over a slice.

use byteorder::{ByteOrder, LittleEndian};
use seawall_snapshot::Digest;
use seawall_wal::{BlockSize, Epoch, Geometry, Incarnation, Lineage, LineageEntry, Lsn, LsnRange};

use super::Invalid;

/// Longest text in a message.
pub(super) const TEXT_BYTES_MAX: usize = 512;
/// Most ranges of LSNs in a message.
pub(crate) const RANGES_MAX: usize = 64;

/// Appends fields to `out`.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.u8(u8::from(value));
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn lsn(&mut self, value: Lsn) {
        self.u64(value.get());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    pub(super) fn digest(&mut self, value: Digest) {
        self.0.extend_from_slice(&value.0.to_le_bytes());
    }

    /// A presence byte and the value, or zeros of the same size.
    pub(super) fn optional<const N: usize>(&mut self, value: Option<[u8; N]>) {
        self.bool(value.is_some());
        self.bytes(&value.unwrap_or([0; N]));
    }

    pub(super) fn optional_lsn(&mut self, value: Option<Lsn>) {
        self.optional(value.map(|lsn| lsn.get().to_le_bytes()));
    }

    /// Text, cut at a character boundary when it is over the limit.
    pub(super) fn text(&mut self, value: &str) {
        let end = value.floor_char_boundary(TEXT_BYTES_MAX);
        self.u16(u16::try_from(end).expect("text is cut to 512 bytes"));
        self.bytes(&value.as_bytes()[..end]);
    }

    pub(super) fn lineage(&mut self, value: &Lineage) {
        let count = value.entries().len();
        self.u16(u16::try_from(count).expect("a lineage has at most 64 entries"));
        for entry in value.entries() {
            self.bytes(&encode_entry(*entry));
        }
    }

    pub(super) fn ranges(&mut self, value: &[LsnRange]) {
        let count = value.len().min(RANGES_MAX);
        self.u16(u16::try_from(count).expect("at most 64 ranges"));
        for range in &value[..count] {
            self.lsn(range.after);
            self.lsn(range.through);
        }
    }

    pub(super) fn geometry(&mut self, value: &Geometry) {
        self.u8(value.block_size.shift());
        self.u64(value.blocks);
        self.u64(value.segment_bytes);
    }
}

/// Epoch, incarnation, first LSN.
pub(super) fn encode_entry(entry: LineageEntry) -> [u8; 24] {
    let mut out = [0; 24];
    LittleEndian::write_u64(&mut out[..8], entry.epoch.get());
    LittleEndian::write_u64(&mut out[8..16], entry.incarnation.get());
    LittleEndian::write_u64(&mut out[16..], entry.first.get());
    out
}

pub(super) fn decode_entry(bytes: [u8; 24]) -> LineageEntry {
    LineageEntry {
        epoch: Epoch::new(LittleEndian::read_u64(&bytes[..8])),
        incarnation: Incarnation::new(LittleEndian::read_u64(&bytes[8..16])),
        first: Lsn::new(LittleEndian::read_u64(&bytes[16..])),
    }
}

/// Whether an incarnation can have been counted to. The log counts on from what it receives, so a
/// number near the end would leave it nothing to count with.
pub(super) const fn is_sane(incarnation: Incarnation) -> bool {
    incarnation.get() <= u64::MAX / 2
}

/// Takes fields from the front of a slice; never reads past it.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Invalid> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Invalid::Length)?;
        self.0 = rest;
        Ok(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (front, rest) = self.0.split_first_chunk::<N>().ok_or(Invalid::Length)?;
        self.0 = rest;
        Ok(*front)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Invalid> {
        self.array::<1>().map(|bytes| bytes[0])
    }

    pub(super) fn bool(&mut self, field: &'static str) -> Result<bool, Invalid> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Invalid::Field { field }),
        }
    }

    pub(super) fn u16(&mut self) -> Result<u16, Invalid> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Invalid> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Invalid> {
        self.array().map(u64::from_le_bytes)
    }

    /// A position. The last number is no LSN, so that `next` exists for whatever a peer sends.
    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, Invalid> {
        match self.u64()? {
            u64::MAX => Err(Invalid::Field { field }),
            number => Ok(Lsn::new(number)),
        }
    }

    pub(super) fn digest(&mut self) -> Result<Digest, Invalid> {
        self.array().map(|bytes| Digest(u128::from_le_bytes(bytes)))
    }

    pub(super) fn optional<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<Option<[u8; N]>, Invalid> {
        let present = self.bool(field)?;
        let value = self.array::<N>()?;
        match present {
            true => Ok(Some(value)),
            false if value == [0; N] => Ok(None),
            false => Err(Invalid::Field { field }),
        }
    }

    pub(super) fn optional_lsn(&mut self, field: &'static str) -> Result<Option<Lsn>, Invalid> {
        let value = self.optional::<8>(field)?;
        value.map(|bytes| Reader(&bytes).lsn(field)).transpose()
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<String, Invalid> {
        let length = usize::from(self.u16()?);
        if length > TEXT_BYTES_MAX {
            return Err(Invalid::Field { field });
        }
        let bytes = self.take(length)?;
        std::str::from_utf8(bytes)
            .map(str::to_owned)
            .map_err(|_| Invalid::Field { field })
    }

    pub(super) fn lineage(&mut self) -> Result<Lineage, Invalid> {
        let field = Invalid::Field { field: "lineage" };
        let count = usize::from(self.u16()?);
        if count > Lineage::ENTRIES_MAX {
            return Err(field);
        }
        let entries = (0..count).map(|_| self.array().map(decode_entry));
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        let sane = entries
            .iter()
            .all(|entry| entry.first.get() != u64::MAX && is_sane(entry.incarnation));
        match sane {
            true => Lineage::from_entries(entries).ok_or(field),
            false => Err(field),
        }
    }

    /// Ranges that are not empty, in order, and apart from each other.
    pub(super) fn ranges(&mut self, field: &'static str) -> Result<Vec<LsnRange>, Invalid> {
        let count = usize::from(self.u16()?);
        if count > RANGES_MAX {
            return Err(Invalid::Field { field });
        }
        let mut ranges: Vec<LsnRange> = Vec::with_capacity(count);
        for _ in 0..count {
            let range = LsnRange::new(self.lsn(field)?, self.lsn(field)?);
            let last = ranges.last().map(|last| last.through);
            if range.is_empty() || last.is_some_and(|last| last >= range.after) {
                return Err(Invalid::Field { field });
            }
            ranges.push(range);
        }
        Ok(ranges)
    }

    pub(super) fn geometry(&mut self) -> Result<Geometry, Invalid> {
        let shift = self.u8()?;
        let geometry = Geometry {
            block_size: BlockSize::from_shift(shift).ok_or(Invalid::Field {
                field: "block_shift",
            })?,
            blocks: self.u64()?,
            segment_bytes: self.u64()?,
        };
        let bytes = geometry.blocks.checked_mul(geometry.block_size.bytes());
        match bytes.is_some_and(|bytes| bytes <= i64::MAX as u64) {
            true => Ok(geometry),
            false => Err(Invalid::Field { field: "blocks" }),
        }
    }

    /// Every byte was a field.
    pub(super) fn end(&self) -> Result<(), Invalid> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(Invalid::Length),
        }
    }
}
