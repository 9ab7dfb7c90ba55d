//! Names and numbers of recovery: replicas, sessions, ticks.

use std::fmt;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use seawall_wal::VolumeId;

/// Stable name of a replica. Opaque: it never contains or derives from an address (A199).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(Arc<str>);

impl ReplicaId {
    /// The replica with this name.
    #[must_use]
    pub fn new(name: &str) -> ReplicaId {
        ReplicaId(Arc::from(name))
    }

    /// The replica of `volume` on the server with this stable id; `None` without a server id,
    /// which is never made up from an address (A198, A199).
    #[must_use]
    pub fn on_server(volume: VolumeId, server: &str) -> Option<ReplicaId> {
        (!server.is_empty()).then(|| ReplicaId::new(&format!("{volume}/{server}")))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Id of a session, and of the stream it becomes (D6). Never reused in a process and never valid
/// after a restart, because every process draws its own boot nonce (A092).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// Drawn at random once per process.
    pub boot: u64,
    /// Counted up within the process.
    pub counter: u64,
}

impl SessionId {
    /// As it lies in a message and in meta: boot, then counter, little-endian.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        let mut out = [0; 16];
        out[..8].copy_from_slice(&self.boot.to_le_bytes());
        out[8..].copy_from_slice(&self.counter.to_le_bytes());
        out
    }

    /// From these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> SessionId {
        SessionId {
            boot: LittleEndian::read_u64(&bytes),
            counter: LittleEndian::read_u64(&bytes[8..]),
        }
    }
}

impl fmt::Display for SessionId {
    /// The counter behind the low 16 bits of the nonce: short enough for a timeline.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}-{}", self.boot & 0xffff, self.counter)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hands out session ids of one process.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub struct SessionIds {
    boot: u64,
    given: u64,
}

impl SessionIds {
    /// A source for the process that drew `boot`.
    #[must_use]
    pub const fn new(boot: u64) -> SessionIds {
        SessionIds { boot, given: 0 }
    }

    /// The next id.
    ///
    /// # Panics
    /// After `u64::MAX` ids, which no process reaches.
    pub fn next_id(&mut self) -> SessionId {
        self.given = self.given.checked_add(1).expect("fewer sessions than 2^64");
        SessionId {
            boot: self.boot,
            counter: self.given,
        }
    }
}

/// A moment of the one monotonic clock, in ticks. R2: only the caller knows the clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(pub u64);

impl Tick {
    /// Ticks since `earlier`; 0 when the clock moved backwards (H23).
    #[must_use]
    pub const fn since(self, earlier: Tick) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A092
    #[test]
    fn a_session_id_of_another_boot_is_another_id() {
        let first = SessionIds::new(1).next_id();
        let second = SessionIds::new(2).next_id();
        assert_eq!(first.counter, second.counter);
        assert_ne!(first, second);
    }

    // A198, A199
    #[test]
    fn a_replica_id_is_made_of_volume_and_server_or_not_at_all() {
        let volume = VolumeId([7; 16]);
        let id = ReplicaId::on_server(volume, "rack-3").expect("a server id");
        assert_eq!(id.as_str(), format!("{volume}/rack-3"));
        assert_eq!(ReplicaId::on_server(volume, ""), None);
    }

    // A108
    #[test]
    fn a_clock_that_moves_backwards_measures_nothing() {
        assert_eq!(Tick(5).since(Tick(9)), 0);
        assert_eq!(Tick(9).since(Tick(5)), 4);
    }
}
