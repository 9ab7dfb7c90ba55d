//! What a volume must say, whatever it went through.

use super::oracle::{Oracle, State};
use super::*;

/// Preserved blocks go with the last pin, and never outlive a process.
pub(super) fn assert_nothing_preserved(sim: &SimDisk) {
    let paths = sim.paths();
    let left = paths.iter().find(|path| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("preserved-")
    });
    assert_eq!(left, None);
}

/// The frontiers of a volume that was just opened keep every promise, and are promises from now on.
pub(super) fn settle(volume: &Volume, oracle: &mut Oracle) {
    let f = volume.log().frontiers();
    let head = f.head.get();
    assert!(
        (oracle.durable..=oracle.head()).contains(&head),
        "{head} came back, {} were durable and {} issued",
        oracle.durable,
        oracle.head()
    );
    assert!(!oracle.closed || head == oracle.head(), "closed cleanly");
    assert_eq!(f.durable, f.head, "what an open shows is durable (L4)");
    let (tail, checkpoint) = (f.tail.get(), f.checkpoint.get());
    assert!(oracle.tail.allows(tail), "{tail} of {:?}", oracle.tail);
    assert!(
        oracle.checkpoint.allows(checkpoint),
        "{checkpoint} of {:?}",
        oracle.checkpoint
    );
    oracle.cut(head);
    oracle.durable = head;
    oracle.tail.settle(tail);
    oracle.tail.asked = tail;
    oracle.checkpoint.settle(checkpoint);
    oracle.checkpoint.asked = checkpoint;
}

/// Everything a volume says, `verify` included.
pub(super) fn agree(volume: &Arc<Volume>, oracle: &Oracle) -> Result<(), Error> {
    assert_eq!(damage_of(volume), []);
    states_agree(volume, oracle)
}

/// Head, every state from the base on, the refusal below it, and meta's digest.
pub(super) fn states_agree(volume: &Arc<Volume>, oracle: &Oracle) -> Result<(), Error> {
    let f = volume.log().frontiers();
    let (checkpoint, head) = (f.checkpoint.get(), f.head.get());
    let newest = oracle.state(head);
    oracle.check_bytes(&newest, "head", |offset, out| volume.read(offset, out))?;
    oracle.check_holes(&newest, "head", 0, |offset| volume.next_data(offset))?;
    let from = if f.tail == Lsn::ZERO { 0 } else { checkpoint };
    let mut refused = Ok(());
    oracle.each_state(from, head, |at, state: &State| {
        let view = volume.state_at(lsn(at), "agree");
        let checked = view.and_then(|view| oracle.check_view(&view, state));
        if at == checkpoint {
            let digest = (lsn(at), Oracle::digest(state));
            assert_eq!(volume.digest(), digest, "the digest in meta (S8)");
        }
        refused = refused.clone().and(checked);
    });
    if from > 0 {
        let below = volume.state_at(lsn(from - 1), "agree");
        assert!(
            matches!(below, Err(Error::StateReclaimed { base, .. }) if base == lsn(from)),
            "{below:?}"
        );
    }
    refused
}
