//! The crash matrix of checkpoint and tail advance: a power cut at every change of the medium, and
//! a second one while the first is being recovered from.

use super::*;
use std::collections::BTreeMap;

/// Every state that was ever issued, and the last LSN that was acknowledged as durable.
#[derive(Clone, Default)]
struct Model {
    states: BTreeMap<u64, BTreeMap<u64, u8>>,
    durable: u64,
}

impl Model {
    fn head(&self) -> u64 {
        self.states.keys().next_back().copied().unwrap_or(0)
    }

    fn at(&self, lsn: u64) -> Vec<(u64, u8)> {
        let state = self.states.get(&lsn).cloned().unwrap_or_default();
        state.into_iter().filter(|(_, value)| *value != 0).collect()
    }

    fn issue(&mut self, lba: u64, count: u64, value: u8) {
        let mut state = self.states.get(&self.head()).cloned().unwrap_or_default();
        state.extend((lba..lba + count).map(|lba| (lba, value)));
        self.states.insert(self.head() + 1, state);
    }
}

fn write(volume: &Volume, model: &mut Model, lba: u64, count: u64, value: u8) -> Result<(), Error> {
    model.issue(lba, count, value);
    let bytes = vec![value; usize::try_from(count).unwrap() * BLOCK];
    volume.write(lba * BLOCK as u64, &bytes, Durability::Volatile)?;
    Ok(())
}

fn flush(volume: &Volume, model: &mut Model) -> Result<(), Error> {
    model.durable = volume.flush()?.get();
    Ok(())
}

/// Captures in several steps, over blocks that share pages of sums and over some that do not, with
/// holes, zeros that stay allocated, and a pinned view to preserve for.
fn live(volume: &Arc<Volume>, model: &mut Model) -> Result<(), Error> {
    let byte = |block: u64| block * BLOCK as u64;
    write(volume, model, 0, 4, 1)?;
    write(volume, model, 300, 2, 2)?;
    flush(volume, model)?;
    volume.checkpoint(None)?;
    let pin = volume.pin_snapshot("crash")?;
    let pinned = model.at(pin.lsn().get());
    write(volume, model, 1, 2, 3)?;
    model.issue(300, 1, 0);
    volume.trim(byte(300), byte(1), Durability::Volatile)?;
    model.issue(3, 1, 0);
    volume.write_zeroes(byte(3), byte(1), true, Durability::Volatile)?;
    write(volume, model, 2, 1, 4)?;
    flush(volume, model)?;
    write(volume, model, 0, 1, 5)?;
    volume.checkpoint(Some(lsn(5)))?;
    volume.checkpoint(None)?;
    assert_eq!(contents(&pin), pinned);
    drop(pin);
    volume.advance_tail(lsn(6))?;
    write(volume, model, 5, 1, 6)?;
    model.issue(0, 520, 0);
    volume.trim(0, byte(520), Durability::Volatile)?;
    write(volume, model, 301, 1, 7)?;
    flush(volume, model)?;
    volume.advance_tail(lsn(8))?;
    volume.checkpoint(None)?;
    volume.close()
}

fn wide() -> CreateOptions {
    CreateOptions {
        geometry: geometry(520),
        ..options(Role::Primary)
    }
}

fn run(boundary: Option<u64>) -> (Arc<SimDisk>, Model, u64) {
    let sim = SimDisk::new(1);
    let place = Place::simulated(&sim);
    place.create("volume", wide());
    let created = sim.changes();
    if let Some(boundary) = boundary {
        sim.freeze_after_ops(created + boundary);
    }
    let mut model = Model::default();
    let result = place
        .try_open("volume", Access::Primary)
        .and_then(|volume| {
            volume.commit_best_effort()?;
            live(&volume, &mut model)
        });
    match (&result, boundary) {
        (Ok(()), _) => {}
        (Err(error), None) => panic!("the life itself works: {error}"),
        (Err(error), Some(_)) => assert!(sim.is_frozen(), "only the freeze fails it: {error}"),
    }
    let changes = sim.changes() - created;
    (sim, model, changes)
}

/// Everything durable is there, nothing else is, and image, sums, digests and states agree.
fn check(sim: &Arc<SimDisk>, model: &Model, story: &str) {
    let opened = Place::simulated(sim).try_open("volume", Access::Primary);
    let volume = opened.unwrap_or_else(|error| panic!("{story}: {error}"));
    let frontiers = volume.log().frontiers();
    let head = frontiers.head.get();
    assert!(
        head >= model.durable,
        "{story}: {head} of {}",
        model.durable
    );
    assert!(head <= model.head(), "{story}: {head} was never issued");
    assert_eq!(volume.base_state().intent, None, "{story}");
    assert_eq!(volume.base_state().untrusted, None, "{story}");
    assert_eq!(
        volume.digest().1,
        digest_of(&model.at(frontiers.checkpoint.get())),
        "{story}"
    );
    for at in frontiers.checkpoint.get()..=head {
        let view = volume.state_at(lsn(at), "check").unwrap();
        assert_eq!(contents(&view), model.at(at), "{story}: state at {at}");
        assert_eq!(view.digest().unwrap(), digest_of(&model.at(at)), "{story}");
    }
    assert_eq!(damage_of(&volume), [], "{story}");
}

#[test]
fn no_crash_of_a_capture_or_of_its_recovery_leaves_a_mixture() {
    let (_, _, changes) = run(None);
    assert!(changes > 50, "{changes} changes");
    for boundary in 0..=changes {
        let (sim, model, _) = run(Some(boundary));
        let cuts = [sim.crash_lose_all(), sim.crash_keep_all()];
        let cuts = cuts.into_iter().chain((0..3).map(|seed| sim.crash(seed)));
        for (cut, once) in cuts.enumerate() {
            let story = format!("boundary {boundary}, cut {cut}");
            // The open that recovers is cut as well, at a point that depends on both.
            once.freeze_after_ops(once.changes() + (boundary * 7 + cut as u64 * 5) % 40);
            let recovering = Place::simulated(&once).try_open("volume", Access::Primary);
            drop(recovering);
            let twice = once.crash(boundary);
            check(&twice, &model, &format!("{story}, twice"));
            check(&twice.crash_lose_all(), &model, &format!("{story}, thrice"));
        }
    }
}
