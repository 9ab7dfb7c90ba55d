//! Crashes of an install: the old state or the new, wholly, and never in between (D12).

use super::*;
use crate::{CHUNK_BYTES, Chunk, Chunks, Install, Manifest, chunk_count, chunk_digest, read_chunk};

/// A chunk and a short one.
const WIDE: Shape = Shape {
    block: 4096,
    blocks: 256 + 3,
};

/// A primary whose state at `base` is sent, with records after it.
struct Source {
    teller: Teller,
    base: u64,
    pin: crate::BasePin,
}

fn source() -> Source {
    let mut teller = Teller::alone(SimDisk::new(77), WIDE).unwrap();
    let mut random = Rng::new(77);
    let mut write = |teller: &mut Teller, lba: u64| {
        let bytes = super::super::story::bytes(&mut random, WIDE.block);
        let change = Change::Write(lba * WIDE.block, bytes);
        teller
            .carry_out(&Op::Change(change, Durability::Durable))
            .unwrap();
    };
    for lba in [0, 256, 1, 257] {
        write(&mut teller, lba);
    }
    teller.carry_out(&Op::Checkpoint(1)).unwrap();
    write(&mut teller, 257);
    let base = teller.oracle().head();
    let pin = teller.volume().pin_base(lsn(base), "rebuild").unwrap();
    for lba in [2, 258] {
        write(&mut teller, lba);
    }
    Source { teller, base, pin }
}

impl Source {
    fn manifest(&self) -> Manifest {
        Manifest {
            volume: VolumeId([7; 16]),
            geometry: self.teller.volume().geometry(),
            lsn: lsn(self.base),
            lineage: self.teller.volume().log().lineage(),
            committed: lsn(self.base),
        }
    }

    fn records(&self, after: u64, through: u64) -> Vec<seawall_wal::Record> {
        let range = seawall_wal::LsnRange::new(lsn(after), lsn(through));
        let records = self.teller.volume().log().read(range).unwrap();
        records.map(Result::unwrap).collect()
    }

    /// Digest over all chunk digests, in order, of the bytes that the view gives.
    fn chunks_digest(&self) -> Digest {
        let size = self.pin.size();
        let mut digests = Vec::new();
        for index in 0..chunk_count(size) {
            let start = index * CHUNK_BYTES as u64;
            let length = (size - start).min(CHUNK_BYTES as u64);
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            self.pin.read(start, &mut bytes).unwrap();
            digests.extend(chunk_digest(&bytes, self.pin.block_size()).to_bytes());
        }
        Digest::of(&digests)
    }

    /// Sends what the replica does not have yet; gives how many chunks were sent.
    fn send(&self, install: &mut Install) -> Result<u64, Error> {
        let mut sent = 0;
        for chunk in Chunks::of(&self.pin) {
            match chunk.unwrap() {
                Chunk::Zero { first, count } => install.zero(first, count)?,
                Chunk::Data { index, digest } => {
                    if !install.keep_if_present(index, digest)? {
                        install.put(index, &read_chunk(&self.pin, index)?.0, digest)?;
                        sent += 1;
                    }
                }
            }
        }
        Ok(sent)
    }

    fn install(&self, old: &Arc<Volume>) -> Result<Arc<Volume>, Error> {
        let mut install = Install::begin(old, self.manifest())?;
        self.send(&mut install)?;
        install.switch(self.chunks_digest(), self.pin.digest()?)
    }
}

fn replica(disk: Arc<dyn Disk>) -> Result<Arc<Volume>, Error> {
    let place = Place {
        disk,
        ..Place::simulated(&SimDisk::new(0))
    };
    place.try_open("volume", Access::Replica)
}

/// Which states a crash may leave.
#[derive(Clone)]
struct Promise {
    old: Oracle,
    new: Oracle,
    switching: bool,
    switched: bool,
}

impl Promise {
    fn key(&self) -> [u64; 4] {
        let number = u64::from(self.switching) + u64::from(self.switched);
        [
            number,
            self.new.durable,
            self.new.checkpoint.asked,
            self.new.tail.asked,
        ]
    }

    /// What a volume that was opened has to agree with: only a base that was installed has a tail.
    fn side(&self, volume: &Volume) -> Oracle {
        match volume.log().frontiers().tail == Lsn::ZERO {
            true => {
                assert!(!self.switched, "the old state came back");
                self.old.clone()
            }
            false => {
                assert!(self.switching, "a base that was not switched to");
                self.new.clone()
            }
        }
    }
}

/// The log's frames are judged by its own crash tests; here everything else is.
fn agrees(volume: &Arc<Volume>, oracle: &Oracle) {
    states_agree(volume, oracle).unwrap();
    let in_log = |damage: &crate::DamageFound| wal(&damage.file);
    assert!(damage_of(volume).iter().all(in_log));
}

fn judge_install(
    sim: &Arc<SimDisk>,
    promise: &Promise,
    source: &Source,
    seed: u64,
    depth: u32,
    tally: &Mutex<Tally>,
) {
    if !tally.lock().unwrap().is_new(sim, &promise.key()) {
        return;
    }
    let mut random = Rng::new(seed);
    if depth > 0 && random.below(6) == 0 {
        let before = tally.lock().unwrap().distinct;
        for crashed in cuts(sim, &mut random, |disk| drop(replica(disk))) {
            judge_install(&crashed, promise, source, random.next(), depth - 1, tally);
        }
        let mut tally = tally.lock().unwrap();
        tally.nested += tally.distinct - before;
    }
    let volume = replica(sim.clone()).unwrap();
    let mut side = promise.side(&volume);
    settle(&volume, &mut side);
    agrees(&volume, &side);
    drop(volume);
    let again = sim.crash_lose_all();
    let volume = replica(again.clone()).unwrap();
    settle(&volume, &mut side);
    agrees(&volume, &side);
    if volume.log().frontiers().tail == Lsn::ZERO && random.below(3) == 0 {
        // The next attempt comes through, whatever this one has left behind.
        let new = source.install(&volume).unwrap();
        drop(volume);
        agrees(&new, &promise.new.installed_at(source.base));
        drop(new);
        let volume = replica(again.crash_lose_all()).unwrap();
        agrees(&volume, &promise.new.installed_at(source.base));
    }
}

/// An install beside an old state, with a first attempt that was broken off; then records behind
/// the base, a capture and a reclaim in the new log.
fn tell_install(source: &Arc<Source>, story: u64, tally: &Arc<Mutex<Tally>>) -> Result<(), Error> {
    let sim = match story % 2 {
        0 => SimDisk::new(story),
        _ => SimDisk::with_syncs(story),
    };
    let place = Place::simulated(&sim);
    place.create("volume", WIDE.options(Role::Replica));
    let old = replica(sim.clone())?;
    old.receive(source.records(0, 3))?.wait()?;
    old.log().commit(lsn(2))?;
    old.checkpoint(None)?;
    drop(old);
    let history = source.teller.oracle().clone();
    let mut before = history.clone();
    before.cut(3);
    before.durable = 3;
    before.tail = Default::default();
    before.checkpoint.settle(2);
    before.checkpoint.asked = 2;
    let promise = Arc::new(Mutex::new(Promise {
        old: before,
        new: history.installed_at(source.base),
        switching: false,
        switched: false,
    }));
    let (judged, theirs) = (Arc::clone(&promise), Arc::clone(source));
    let judge: Judge = Arc::new(move |sim, seed, tally| {
        let promise = judged.lock().unwrap().clone();
        judge_install(sim, &promise, &theirs, seed, 1, tally);
    });
    let visitor = cutter(INSTALLS, story, 5, tally, judge);
    let old = replica(Watch::over(&sim, visitor))?;
    let mut broken_off = Install::begin(&old, source.manifest())?;
    source.send(&mut broken_off)?;
    drop(broken_off);
    promise.lock().unwrap().switching = true;
    let new = source.install(&old)?;
    promise.lock().unwrap().switched = true;
    drop(old);
    let head = history.head();
    promise.lock().unwrap().new = {
        let mut new = history.clone();
        (new.tail, new.checkpoint) = Default::default();
        new.tail.settle(source.base);
        new.checkpoint.settle(source.base);
        new.durable = source.base;
        new
    };
    new.receive(source.records(source.base, head))?.wait()?;
    promise.lock().unwrap().new.durable = head;
    new.log().commit(lsn(head))?;
    promise.lock().unwrap().new.checkpoint.ask(head);
    new.checkpoint(None)?;
    {
        let new = &mut promise.lock().unwrap().new;
        new.checkpoint.settle(head);
        new.tail.ask(head);
    }
    new.advance_tail(lsn(head))?;
    promise.lock().unwrap().new.tail.settle(head);
    new.close()
}

const INSTALLS: &str = "every_crash_of_an_install_leaves_the_old_state_or_the_new";

#[test]
fn every_crash_of_an_install_leaves_the_old_state_or_the_new() {
    let source = Arc::new(source());
    let tally = Arc::default();
    let stories = match number("SEAWALL_STORY") {
        Some(story) => story..story + 1,
        // Long stories: a few for a hundred seeds.
        None => 0..2 + stories().end / 50,
    };
    for story in stories {
        println!("story {story}");
        tell_install(&source, story, &tally).unwrap();
        tally.lock().unwrap().seen.clear();
    }
    report(INSTALLS, &tally);
    let tally = tally.lock().unwrap();
    if number("SEAWALL_MOMENT").is_none() {
        assert!(tally.distinct > 30, "an install has many states: {tally:?}");
        assert!(tally.nested > 5, "opens are cut as well: {tally:?}");
    }
}

/// What a first attempt has built is taken over, chunk by chunk.
#[test]
fn an_install_that_was_broken_off_is_gone_on_with() {
    let source = source();
    let sim = SimDisk::new(5);
    Place::simulated(&sim).create("volume", WIDE.options(Role::Replica));
    let old = replica(sim.clone()).unwrap();
    let mut first = Install::begin(&old, source.manifest()).unwrap();
    assert_eq!(source.send(&mut first).unwrap(), 2);
    drop((first, old));
    let old = replica(sim.crash_keep_all()).unwrap();
    let mut second = Install::begin(&old, source.manifest()).unwrap();
    assert_eq!(
        source.send(&mut second).unwrap(),
        0,
        "nothing is sent twice"
    );
}
