//! Geometry: block addresses, block size, and the ids that name a volume and a log.

use std::fmt;

use crate::error::Error;

/// Address of a block, counted in blocks from the start of the volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lba(pub u64);

impl fmt::Display for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Size of a block: a power of two from 512 bytes to 64 KiB, both included (D19).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockSize {
    shift: u8,
}

impl BlockSize {
    /// 4096 bytes.
    pub const DEFAULT: BlockSize = BlockSize { shift: 12 };

    /// From a number of bytes.
    ///
    /// # Errors
    /// [`Error::Geometry`] unless `bytes` is a power of two from 512 to 65536.
    pub fn from_bytes(bytes: u64) -> Result<BlockSize, Error> {
        match bytes.is_power_of_two() {
            true => BlockSize::from_shift(u8::try_from(bytes.trailing_zeros()).unwrap_or(0)),
            false => None,
        }
        .ok_or(Error::Geometry {
            what: "block size must be a power of two from 512 to 65536 bytes",
            value: bytes,
        })
    }

    /// From the base-2 logarithm, 9 to 16; `None` otherwise.
    #[must_use]
    pub const fn from_shift(shift: u8) -> Option<BlockSize> {
        if shift >= 9 && shift <= 16 {
            Some(BlockSize { shift })
        } else {
            None
        }
    }

    /// The base-2 logarithm, 9 to 16.
    #[must_use]
    pub const fn shift(self) -> u8 {
        self.shift
    }

    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << self.shift
    }

    /// Size in bytes, for buffer arithmetic.
    #[must_use]
    pub const fn bytes_usize(self) -> usize {
        1 << self.shift
    }
}

impl fmt::Debug for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes())
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a new id from the operating system's random source.
            ///
            /// # Errors
            /// [`Error::Io`] when the system has no randomness to give.
            pub fn random() -> Result<$name, Error> {
                crate::disk::random_16().map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

id!(
    /// Identity of a volume, the same on the primary and on every replica.
    VolumeId
);
id!(
    /// Identity of one log on one node. An installed base starts a new one (D12).
    LogId
);
id!(
    /// Identity of one life of a node's directory; drawn when a replica starts empty (D8).
    NodeIncarnation
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_size_is_a_power_of_two_in_range() {
        assert_eq!(BlockSize::from_bytes(512).unwrap().shift(), 9);
        assert_eq!(BlockSize::from_bytes(65536).unwrap().bytes(), 65536);
        for bytes in [0, 1, 256, 513, 4095, 131_072] {
            assert!(matches!(
                BlockSize::from_bytes(bytes),
                Err(Error::Geometry { value, .. }) if value == bytes
            ));
        }
    }
}
