//! Damaged blocks of the image that the log does not hold, asked of the other end of a stream.

use seawall_snapshot::Volume;

use crate::message::Body;

/// Questions at a time.
const AT_ONCE: usize = 16;
/// Between two times.
const PAUSE_NS: u64 = 1_000_000_000;
/// Before blocks that nobody could give are asked for again.
const AGAIN_NS: u64 = 60 * PAUSE_NS;

/// Which blocks were asked for, and when others may be.
#[derive(Debug, Default)]
pub(super) struct Mender {
    /// The last one of this round.
    asked: Option<u64>,
    due_ns: u64,
}

impl Mender {
    /// What is to be asked now: every damaged block once in a round.
    pub(super) fn questions(&mut self, volume: &Volume, now_ns: u64) -> Vec<Body> {
        if now_ns < self.due_ns {
            return Vec::new();
        }
        let blocks = volume.damaged_blocks(self.asked, AT_ONCE);
        let over = blocks.is_empty() && self.asked.is_some();
        self.due_ns = now_ns + if over { AGAIN_NS } else { PAUSE_NS };
        self.asked = blocks.last().copied();
        let question = |lba| Body::BlockQuery { lba };
        blocks.into_iter().map(question).collect()
    }
}

/// What we hold of a block that the other end asks for.
pub(crate) fn answer(volume: &Volume, lba: u64) -> Body {
    let geometry = volume.geometry();
    let mut bytes = vec![0; geometry.block_size.bytes_usize()];
    let read = match lba < geometry.blocks {
        true => volume
            .read(lba << geometry.block_size.shift(), &mut bytes)
            .is_ok(),
        false => false,
    };
    if !read {
        bytes.clear();
    }
    Body::Block { lba, bytes }
}

/// Takes what the other end gave, if it is what was lost. A stream goes on whatever comes of it.
pub(crate) fn take(volume: &Volume, lba: u64, bytes: &[u8]) {
    if let Err(error) = volume.mend(lba, bytes) {
        tracing::warn!(lba, %error, "a damaged block of the image could not be written again");
    }
}
