//! Reads of the image that fall back on the log when a block fails its sum.

use std::sync::Arc;

use seawall_wal::{Lba, Log, Lsn, LsnRange};

use crate::error::Error;
use crate::image::Image;
use crate::index::{Content, Index};

/// Reads blocks of the image as they are at `checkpoint`. A block that fails its sum is taken from
/// the log where that still holds the version.
pub(crate) fn read_verified(
    image: &Image,
    log: &Arc<Log>,
    checkpoint: Lsn,
    lba: u64,
    out: &mut [u8],
) -> Result<(), Error> {
    let size = image.block_size().bytes_usize();
    for bad in image.read(lba, out)? {
        let first = crate::to_usize(bad - lba) * size;
        if !from_log(log, checkpoint, bad, &mut out[first..first + size]) {
            return Err(Error::ImageDamaged {
                path: image.path().into(),
                lba: Lba(bad),
            });
        }
        tracing::warn!(lba = bad, "a block of the image was repaired from the log");
    }
    Ok(())
}

/// Takes block `lba` as it was at `checkpoint` out of the log; `false` when the log cannot tell.
pub(crate) fn from_log(log: &Arc<Log>, checkpoint: Lsn, lba: u64, out: &mut [u8]) -> bool {
    let after = log.first_retained().before();
    let range = LsnRange::new(after, checkpoint);
    if range.is_empty() {
        return false;
    }
    let Ok(places) = log.places(range) else {
        return false;
    };
    let touching = |place: &&seawall_wal::RecordPlace| {
        place.lba.0 <= lba && lba < place.lba.0 + u64::from(place.blocks)
    };
    let Some(place) = places.iter().rfind(touching) else {
        return false;
    };
    match Index::of(std::slice::from_ref(place)).piece(lba, lba + 1).1 {
        Some(version) => match version.content {
            Content::Payload { first } => {
                let block = u32::try_from(lba - first).expect("a record has 32-bit counts");
                log.read_blocks(version.lsn, block, out).is_ok()
            }
            Content::Zeros | Content::Hole => {
                out.fill(0);
                true
            }
        },
        None => false,
    }
}
