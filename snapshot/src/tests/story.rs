//! Stories: what a volume goes through, from a seed or from a list, side by side with the oracle.

use std::sync::{Mutex, MutexGuard};

use seawall_wal::disk::sim::{Rng, Visitor, Watch};
use seawall_wal::{LsnRange, PinKind};

use super::limited::Limited;
use super::oracle::{Change, Oracle};
use super::promises::{agree, settle};
use super::*;
use crate::BasePin;

/// Bytes zeroed at once: the oracle holds the parts of blocks at their ends as one piece.
const ZEROED_MAX: u64 = 64 << 20;

/// One step of a story. What it does beyond its fields is drawn from the seed.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Change(Change, Durability),
    /// Zeros that keep their space.
    ZeroInPlace(u64, u64),
    Flush,
    /// Captures through committed minus so many records.
    Checkpoint(u64),
    AdvanceTail(u64),
    Step,
    /// Reads so many bytes at this offset.
    Read(u64, u64),
    NextData(u64),
    /// Takes the state so many records before the head, compares it, lets it go.
    Look(u64),
    /// Keeps the state so many records before the head.
    PinState(u64),
    PinSnapshot,
    /// Pins the whole state so many records before durable.
    PinBase(u64),
    /// Compares a pin, counted from the oldest.
    ReadPin(u64),
    DropPin(u64),
    /// Everything that must be refused is.
    Refusals,
    /// Closes and opens again.
    Close,
    /// The process dies and is started again.
    Kill,
}

/// Shape of a volume under test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) block: u64,
    pub(super) blocks: u64,
}

impl Shape {
    pub(super) fn options(self, role: Role) -> CreateOptions {
        CreateOptions {
            volume: Some(VolumeId([7; 16])),
            geometry: Geometry {
                block_size: BlockSize::from_bytes(self.block).unwrap(),
                blocks: self.blocks,
                segment_bytes: 1 << 20,
            },
            role,
        }
    }

    /// Whole blocks filled with one byte.
    pub(super) fn write(self, lba: u64, blocks: u64, fill: u8) -> Op {
        let bytes = vec![fill; usize::try_from(blocks * self.block).unwrap()];
        let change = Change::Write(lba * self.block, bytes);
        Op::Change(change, Durability::Volatile)
    }

    /// A trim of whole blocks.
    pub(super) fn trim(self, lba: u64, blocks: u64, durability: Durability) -> Op {
        let change = Change::Trim(lba * self.block, blocks * self.block);
        Op::Change(change, durability)
    }

    /// A byte range around the boundaries of blocks, near one of few places in a large volume.
    fn range(self, random: &mut Rng, blocks_max: u64) -> (u64, u64) {
        let size = self.block * self.blocks;
        let near = self.blocks.min(40);
        let place = random.pick(&[0, self.blocks / 2, self.blocks - near]);
        let lba = (place + random.below(near)).min(self.blocks - 1);
        let around = random.pick(&[0, 0, 0, 1, self.block - 1, self.block / 3]);
        let offset = (lba * self.block + around).min(size - 1);
        let blocks = self.block * random.below(blocks_max + 1);
        let length = blocks + random.pick(&[0, 0, 0, 1, self.block - 1, self.block / 3]);
        (offset, length.clamp(1, size - offset))
    }

    /// A change small enough to be one record.
    pub(super) fn change(self, random: &mut Rng) -> Change {
        let blocks_max = ((32 << 10) / self.block).clamp(1, 5);
        let (offset, length) = self.range(random, blocks_max);
        match random.below(9) {
            0 | 1 => Change::Zero(offset, length),
            2 | 3 => Change::Trim(offset, length),
            _ => Change::Write(offset, bytes(random, length)),
        }
    }

    /// A change that takes several records, or covers a great many blocks.
    fn large_change(self, random: &mut Rng) -> Change {
        let (offset, _) = self.range(random, 1);
        let rest = self.block * self.blocks - offset;
        match random.below(3) {
            0 => Change::Zero(offset, 1 + random.below(rest.min(ZEROED_MAX))),
            1 => Change::Trim(offset, 1 + random.below(rest)),
            _ => {
                let length = (1 << 20) + random.below(1 << 20);
                Change::Write(offset, bytes(random, length.min(rest)))
            }
        }
    }

    pub(super) fn op(self, random: &mut Rng) -> Op {
        let back = random.below(7);
        match random.below(64) {
            0 => Op::Change(self.large_change(random), Durability::Volatile),
            1..=5 => Op::Flush,
            6..=9 => Op::Checkpoint(back / 2),
            10..=12 => Op::AdvanceTail(back),
            13 => Op::Step,
            14..=18 => {
                let (offset, length) = self.range(random, 6);
                Op::Read(offset, length)
            }
            19 => Op::NextData(self.range(random, 1).0),
            20..=23 => Op::Look(back),
            24 | 25 => Op::PinState(back),
            26 | 27 => Op::PinSnapshot,
            28 | 29 => Op::PinBase(back),
            30..=32 => Op::ReadPin(random.next()),
            33..=37 => Op::DropPin(random.next()),
            38 => Op::Refusals,
            39 => Op::Close,
            40 => Op::Kill,
            41 | 42 => {
                let (offset, length) = self.range(random, 3);
                Op::ZeroInPlace(offset, length)
            }
            43..=46 => Op::Change(self.change(random), Durability::Durable),
            _ => Op::Change(self.change(random), Durability::Volatile),
        }
    }
}

/// Bytes that are not zero, most of them unlike any others.
pub(super) fn bytes(random: &mut Rng, length: u64) -> Vec<u8> {
    let words = (0..length.div_ceil(8)).flat_map(|_| (random.next() | 1).to_le_bytes());
    words.take(usize::try_from(length).unwrap()).collect()
}

/// A view that the story keeps, and the log it holds: after which LSN.
#[derive(Debug)]
struct Held {
    view: Box<dyn View>,
    after: u64,
}

/// A volume in the middle of a story.
pub(super) struct Teller {
    pub(super) sim: Arc<SimDisk>,
    pub(super) oracle: Arc<Mutex<Oracle>>,
    pub(super) volume: Option<Arc<Volume>>,
    visitor: Visitor,
    disk: Arc<Limited>,
    held: Vec<Held>,
}

pub(super) fn nobody() -> Visitor {
    Arc::new(|_| {})
}

/// Opens what lies on a disk; without replicas.
pub(super) fn open(disk: Arc<dyn Disk>) -> Result<Arc<Volume>, Error> {
    let place = Place {
        disk,
        clock: Arc::new(Ticks::default()),
        root: "/".into(),
        _scratch: None,
    };
    let volume = place.try_open("volume", Access::Primary)?;
    volume.commit_best_effort()?;
    Ok(volume)
}

impl Teller {
    /// Creates the volume and opens it for the first time; `visitor` looks at every moment of it.
    pub(super) fn begin(
        sim: Arc<SimDisk>,
        oracle: Arc<Mutex<Oracle>>,
        visitor: Visitor,
        shape: Shape,
    ) -> Result<Teller, Error> {
        let disk = Limited::over(Watch::over(&sim, Arc::clone(&visitor)));
        let mut teller = Teller {
            sim,
            oracle,
            volume: None,
            visitor,
            disk,
            held: Vec::new(),
        };
        let options = shape.options(Role::Primary);
        let disk: Arc<dyn Disk> = teller.disk.clone();
        Volume::create(&disk, Path::new("/volume"), options)?;
        teller.oracle().created = true;
        teller.open()?;
        Ok(teller)
    }

    /// A story that nobody watches.
    pub(super) fn alone(sim: Arc<SimDisk>, shape: Shape) -> Result<Teller, Error> {
        let oracle = Arc::new(Mutex::new(Oracle::new(shape.block, shape.blocks)));
        Teller::begin(sim, oracle, nobody(), shape)
    }

    pub(super) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap()
    }

    pub(super) fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().expect("the volume is open")
    }

    fn frontiers(&self) -> seawall_wal::Frontiers {
        self.volume().log().frontiers()
    }

    pub(super) fn open(&mut self) -> Result<(), Error> {
        self.disk = Limited::over(Watch::over(&self.sim, Arc::clone(&self.visitor)));
        let volume = open(self.disk.clone())?;
        settle(&volume, &mut self.oracle.lock().unwrap());
        self.volume = Some(volume);
        Ok(())
    }

    /// The process ends here: pins are volatile (D10).
    pub(super) fn leave(&mut self) {
        self.held.clear();
        self.volume = None;
    }

    pub(super) fn carry_out(&mut self, op: &Op) -> Result<(), Error> {
        self.disk.refill();
        let head = self.oracle().head();
        match op {
            Op::Change(change, durability) => self.change(change, false, *durability)?,
            Op::ZeroInPlace(offset, length) => {
                let change = Change::Zero(*offset, *length);
                self.change(&change, true, Durability::Volatile)?;
            }
            Op::Flush => {
                let durable = self.volume().flush()?;
                assert_eq!(durable, lsn(head), "a flush covers what came before it");
                self.oracle().durable = head;
            }
            Op::Checkpoint(back) => self.checkpoint(*back)?,
            Op::AdvanceTail(back) => self.advance_tail(*back)?,
            Op::Step => {
                self.volume().step()?;
                self.volume().log().step()?;
            }
            Op::Read(offset, length) => self.read(*offset, *length)?,
            Op::NextData(offset) => {
                let oracle = self.oracle().clone();
                let volume = self.volume();
                oracle.check_holes(&oracle.state(head), "head", *offset, |offset| {
                    volume.next_data(offset)
                })?;
            }
            Op::Look(back) => self.look(head.saturating_sub(*back))?,
            Op::PinState(back) => {
                let at = head.saturating_sub(*back);
                if self.reachable(at) {
                    let view = self.volume().state_at(lsn(at), "story")?;
                    let after = self.base_of(at);
                    let view = Box::new(view);
                    self.held.push(Held { view, after });
                }
            }
            Op::PinSnapshot => self.pin_snapshot()?,
            Op::PinBase(back) => self.pin_base(*back)?,
            Op::ReadPin(at) => self.read_pin(*at)?,
            Op::DropPin(at) => self.drop_pin(*at),
            Op::Refusals => self.refusals(),
            Op::Close => {
                self.volume().close()?;
                {
                    let mut oracle = self.oracle();
                    (oracle.durable, oracle.closed) = (head, true);
                }
                self.leave();
                (self.visitor)(&self.sim);
                self.open()?;
            }
            Op::Kill => {
                let sim = self.sim.crash_keep_all();
                self.leave();
                self.sim = sim;
                self.open()?;
            }
        }
        self.assert_chain();
        (self.visitor)(&self.sim);
        Ok(())
    }

    /// What the volume says of itself is what was promised.
    fn assert_chain(&self) {
        let f = self.frontiers();
        let chain = [f.tail, f.checkpoint, f.committed, f.durable, f.head];
        assert!(chain.is_sorted(), "the chain is broken: {f:?}");
        let mut oracle = self.oracle();
        assert_eq!(f.head, lsn(oracle.head()));
        assert!(f.durable >= lsn(oracle.durable), "{f:?}");
        oracle.durable = f.durable.get();
    }

    fn change(
        &mut self,
        change: &Change,
        no_hole: bool,
        durability: Durability,
    ) -> Result<(), Error> {
        let before = self.oracle().head();
        let issued = self.oracle().issue(change);
        let volume = self.volume();
        let last = match change {
            Change::Write(offset, bytes) => volume.write(*offset, bytes, durability),
            Change::Zero(offset, length) => {
                volume.write_zeroes(*offset, *length, no_hole, durability)
            }
            Change::Trim(offset, length) => volume.trim(*offset, *length, durability),
        };
        let head = volume.log().frontiers().head;
        match (issued, &last) {
            // A refused change is in the log or it is not; a part of it is one record of several.
            (true, Err(_)) if head == lsn(before) => self.oracle().cut(before),
            (true, _) if head != lsn(before + 1) => {
                let records = volume.log().places(LsnRange::new(lsn(before), head));
                let records = records.expect("what was just written can be read");
                self.oracle().split(change, &records);
            }
            _ => {}
        }
        let last = last?;
        assert_eq!(last, head, "{change:?}");
        assert_eq!(head == lsn(before), !issued, "{change:?}");
        if durability == Durability::Durable {
            self.oracle().durable = head.get();
        }
        Ok(())
    }

    fn checkpoint(&mut self, back: u64) -> Result<(), Error> {
        let target = self.frontiers().committed.get().saturating_sub(back);
        self.oracle().checkpoint.ask(target);
        let reached = self.volume().checkpoint(Some(lsn(target)))?.get();
        self.captured(target, reached);
        Ok(())
    }

    fn captured(&self, target: u64, reached: u64) {
        let mut oracle = self.oracle();
        let wanted = target.max(oracle.checkpoint.acknowledged);
        // A failed attempt to a higher target is finished first (D21).
        let attempts = wanted..=oracle.checkpoint.asked;
        assert!(attempts.contains(&reached), "{reached} of {attempts:?}");
        oracle.checkpoint.settle(reached);
        let digest = Oracle::digest(&oracle.state(reached));
        assert_eq!(self.volume().digest(), (lsn(reached), digest), "S8");
        let base = self.volume().base_state();
        assert_eq!((base.untrusted, base.intent), (None, None));
    }

    /// How far the pins that are held let the tail go.
    fn floor(&self) -> u64 {
        let floor = self.held.iter().map(|held| held.after).min();
        floor.unwrap_or(u64::MAX)
    }

    fn advance_tail(&mut self, back: u64) -> Result<(), Error> {
        let target = self.frontiers().committed.get().saturating_sub(back);
        {
            let mut oracle = self.oracle();
            oracle.checkpoint.ask(target);
            oracle.tail.ask(target);
        }
        let tail = self.volume().advance_tail(lsn(target))?.get();
        self.captured(target, self.frontiers().checkpoint.get());
        // D10: a view that could not be kept holds nothing.
        let mut block = vec![0; usize::try_from(self.oracle().block).unwrap()];
        self.held.retain(|held| {
            let read = held.view.read(0, &mut block);
            !matches!(read, Err(Error::Log(seawall_wal::Error::PinBroken { .. })))
        });
        let mut oracle = self.oracle();
        let wanted = target.min(self.floor()).max(oracle.tail.acknowledged);
        assert_eq!(tail, wanted, "as far as the pins allow");
        oracle.tail.acknowledged = tail;
        Ok(())
    }

    fn read(&self, offset: u64, length: u64) -> Result<(), Error> {
        let oracle = self.oracle().clone();
        let state = oracle.state(oracle.head());
        let mut found = vec![0xee; usize::try_from(length).unwrap()];
        self.volume().read(offset, &mut found)?;
        let zeros = vec![0; usize::try_from(oracle.block).unwrap()];
        for (at, found) in (offset..).zip(found) {
            let block = state.get(&(at / oracle.block)).unwrap_or(&zeros);
            let wanted = block[usize::try_from(at % oracle.block).unwrap()];
            assert_eq!(found, wanted, "byte {at} of the volume");
        }
        Ok(())
    }

    /// SEMANTICS 1.1: from the base to the head; below it while the log still begins at 1.
    fn reachable(&self, at: u64) -> bool {
        let f = self.frontiers();
        lsn(at) >= f.checkpoint || f.tail == Lsn::ZERO
    }

    fn base_of(&self, at: u64) -> u64 {
        let checkpoint = self.frontiers().checkpoint.get();
        if at < checkpoint { 0 } else { checkpoint }
    }

    fn look(&self, at: u64) -> Result<(), Error> {
        let view = self.volume().state_at(lsn(at), "story");
        if !self.reachable(at) {
            let checkpoint = self.frontiers().checkpoint;
            assert!(
                matches!(
                    view,
                    Err(Error::StateReclaimed { lsn: asked, base })
                        if asked == lsn(at) && base == checkpoint
                ),
                "state at {at} below {checkpoint}: {view:?}"
            );
            return Ok(());
        }
        let oracle = self.oracle().clone();
        let state = oracle.state(at);
        oracle.check_view(&view?, &state)?;
        let digest = self.volume().digest_at(lsn(at))?;
        assert_eq!(digest, Oracle::digest(&state));
        Ok(())
    }

    fn pin_snapshot(&mut self) -> Result<(), Error> {
        let pin = self.volume().pin_snapshot("story")?;
        let checkpoint = self.frontiers().checkpoint;
        assert_eq!(pin.lsn(), checkpoint);
        self.listed(PinKind::Snapshot, checkpoint);
        let (view, after) = (Box::new(pin), checkpoint.get());
        self.held.push(Held { view, after });
        Ok(())
    }

    fn pin_base(&mut self, back: u64) -> Result<(), Error> {
        let target = self.frontiers().durable.get().saturating_sub(back);
        if !self.reachable(target) {
            let refused = self.volume().pin_base(lsn(target), "story");
            assert!(
                matches!(refused, Err(Error::StateReclaimed { .. })),
                "{refused:?}"
            );
            return Ok(());
        }
        let pin = self.volume().pin_base(lsn(target), "story")?;
        let after = self.base_of(target);
        assert_eq!(BasePin::checkpoint(&pin).map_or(0, Lsn::get), after);
        self.listed(PinKind::Base, lsn(target));
        let view = Box::new(pin);
        self.held.push(Held { view, after });
        Ok(())
    }

    fn listed(&self, kind: PinKind, at: Lsn) {
        let pins = self.volume().pins();
        let ours = |pin: &&seawall_wal::PinInfo| pin.owner == "story" && pin.kind == kind;
        assert!(
            pins.iter().filter(ours).any(|pin| pin.lsn == at),
            "{pins:?}"
        );
    }

    fn read_pin(&mut self, at: u64) -> Result<(), Error> {
        if self.held.is_empty() {
            return Ok(());
        }
        let at = usize::try_from(at % self.held.len() as u64).unwrap();
        let held = &self.held[at];
        let oracle = self.oracle().clone();
        let read = oracle.check_view(held.view.as_ref(), &oracle.state(held.view.lsn().get()));
        if let Err(Error::Log(seawall_wal::Error::PinBroken { .. })) = &read {
            self.held.remove(at);
        }
        read
    }

    pub(super) fn pins(&self) -> usize {
        self.held.len()
    }

    pub(super) fn drop_pin(&mut self, at: u64) {
        if self.held.is_empty() {
            return;
        }
        let at = usize::try_from(at % self.held.len() as u64).unwrap();
        drop(self.held.swap_remove(at));
        // What meta holds is a promise, whoever moved it.
        let tail = self.volume().meta().get().tail.get();
        let mut oracle = self.oracle();
        assert!(oracle.tail.allows(tail), "{tail} of {:?}", oracle.tail);
        assert!(tail <= self.floor().max(oracle.tail.acknowledged));
        oracle.tail.acknowledged = tail;
        drop(oracle);
        if self.held.is_empty() {
            assert_eq!(self.volume().pins(), [], "no pin survives its owner");
        }
    }

    fn refusals(&self) {
        let (volume, f) = (self.volume(), self.frontiers());
        let size = volume.size();
        let above = f.head.next();
        match volume.state_at(above, "story") {
            Err(Error::StateBeyondHead { lsn, head }) => assert_eq!((lsn, head), (above, f.head)),
            other => panic!("{other:?}"),
        }
        let pin = volume.pin_base(f.durable.next(), "story");
        assert!(
            matches!(pin, Err(Error::Log(seawall_wal::Error::BeyondHead { through, .. }))
                if through == f.durable.next()),
            "{pin:?}"
        );
        let outside = |result: Result<(), Error>| {
            assert!(
                matches!(result, Err(Error::OutOfRange { size: found, .. }) if found == size),
                "{result:?}"
            );
        };
        let volatile = Durability::Volatile;
        outside(volume.read(size - 1, &mut [0; 2]));
        outside(volume.write(size, &[1], volatile).map(drop));
        outside(volume.write_zeroes(1, u64::MAX, false, volatile).map(drop));
        outside(volume.trim(size - 1, 2, volatile).map(drop));
        let chain = |result: Result<Lsn, Error>| {
            let above = f.committed.next();
            assert!(
                matches!(
                    result,
                    Err(Error::Log(seawall_wal::Error::Chain { lsn, bound, .. }))
                        if lsn == above && bound == f.committed
                ),
                "{result:?}"
            );
        };
        chain(volume.checkpoint(Some(f.committed.next())));
        chain(volume.advance_tail(f.committed.next()));
        assert_eq!(volume.log().frontiers(), f, "a refusal changes nothing");
    }

    /// Everything the volume can say, against the oracle.
    pub(super) fn agree(&self) -> Result<(), Error> {
        let oracle = self.oracle().clone();
        agree(self.volume(), &oracle)
    }
}
