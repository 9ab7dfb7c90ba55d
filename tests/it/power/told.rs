//! What the world was told of a primary and its replica, as lines, and what must follow from it.

use std::sync::Arc;

use seawall::snapshot::{Error, View, Volume};
use seawall::wal::Lsn;

use crate::harness::Random;

/// Unit of the changes.
pub(super) const SECTOR_BYTES: u64 = 512;
/// Old states of a volume that are compared, beside the newest.
const STATES: u64 = 2;

/// Sectors that became a stamp of their own, or zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) stamp: u64,
    pub(super) first: u64,
    pub(super) sectors: u64,
    pub(super) zero: bool,
}

impl Change {
    /// What it writes: no two sectors under no two stamps are alike.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let sectors = self.first..self.first + self.sectors;
        let words = sectors.flat_map(|sector| [sector, self.stamp].repeat(32));
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn apply(&self, state: &mut [u8]) {
        let from = usize::try_from(self.first * SECTOR_BYTES).unwrap();
        let length = usize::try_from(self.sectors * SECTOR_BYTES).unwrap();
        let place = &mut state[from..from + length];
        match self.zero {
            true => place.fill(0),
            false => place.copy_from_slice(&self.bytes()),
        }
    }
}

/// A volume as the world was told.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// The change with LSN 1 first.
    pub(super) history: Vec<Change>,
    pub(super) durable: u64,
    pub(super) committed: u64,
    checkpoint: u64,
    tail: u64,
}

impl World {
    /// After the first `lsn` changes of this history, all of them in the base.
    fn based_on(history: &[Change], lsn: u64) -> World {
        World {
            history: history[..usize::try_from(lsn).unwrap()].into(),
            durable: lsn,
            committed: lsn,
            checkpoint: lsn,
            tail: lsn,
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.history.len() as u64
    }

    /// How many of the first changes of both are the same.
    pub(super) fn common(&self, other: &World) -> u64 {
        let pairs = self.history.iter().zip(&other.history);
        pairs.take_while(|(one, two)| one == two).count() as u64
    }

    fn cut(&mut self, head: u64) {
        self.history.truncate(usize::try_from(head).unwrap());
        self.durable = self.durable.min(head);
    }

    /// The bytes of a volume at `lsn`.
    pub(super) fn contents(&self, lsn: u64, bytes: u64) -> Vec<u8> {
        let mut state = vec![0; usize::try_from(bytes).unwrap()];
        let through = usize::try_from(lsn).unwrap();
        for change in &self.history[..through] {
            change.apply(&mut state);
        }
        state
    }

    /// Demands that a view shows the state at `lsn`.
    pub(super) fn check(&self, lsn: u64, view: &dyn View) -> Result<(), String> {
        let mut found = vec![0; usize::try_from(view.size()).unwrap()];
        let read = view.read(0, &mut found);
        read.map_err(|e| format!("LSN {lsn} cannot be read: {e}"))?;
        let expected = self.contents(lsn, view.size());
        let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
        differs.map_or(Ok(()), |at| {
            Err(format!("LSN {lsn} differs from what was told at byte {at}"))
        })
    }

    /// Whether an opened volume is this one; gives its head.
    fn judge(&self, volume: &Arc<Volume>, random: &mut Random) -> Result<u64, String> {
        let found = volume.log().frontiers();
        let head = found.head.get();
        let base = volume.base_state().checkpoint.get();
        for (what, told, found) in [
            ("durable", self.durable, head),
            ("sent", head, self.head()),
            ("the checkpoint", self.checkpoint, base),
            ("the tail", self.tail, found.tail.get()),
        ] {
            if found < told {
                return Err(format!("{told} was {what}, {found} is left"));
            }
        }
        let old = (0..STATES).map(|_| base + random.below(head - base + 1));
        for lsn in old.chain([head]) {
            match volume.state_at(Lsn::new(lsn), "judge") {
                Ok(view) => self.check(lsn, &view)?,
                // The background captured meanwhile.
                Err(Error::StateReclaimed { .. }) if lsn < head => {}
                Err(e) => return Err(format!("LSN {lsn} has no state: {e}")),
            }
        }
        Ok(head)
    }
}

/// One volume, and what is being done to it as a whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) world: World,
    /// A base on its way, and whether it is built in place.
    installing: Option<(World, bool)>,
    /// It was seen without a base: only an install leads out.
    pub(super) incomplete: bool,
}

impl Told {
    fn install(&mut self) {
        let (world, _) = self.installing.take().unwrap();
        self.world = world;
        self.incomplete = false;
    }

    /// What an opened volume turned out to be, as the line that tells the world so.
    pub(super) fn judge(
        &self,
        volume: &Arc<Volume>,
        random: &mut Random,
    ) -> Result<String, String> {
        let new = self.installing.as_ref();
        if volume.incomplete_base().is_some() {
            let in_place = self.incomplete || new.is_some_and(|(_, in_place)| *in_place);
            let wrong = "the base is incomplete, and none was being installed in place";
            return in_place.then(|| "incomplete".into()).ok_or(wrong.into());
        }
        let old = match self.incomplete {
            false => self.world.judge(volume, random),
            true => Err("it was incomplete".into()),
        };
        let found = match (old, new) {
            (Ok(head), _) => format!("old {head}"),
            (Err(old), None) => return Err(old),
            (Err(old), Some((world, _))) => {
                let new = world.judge(volume, random);
                let new = new.map_err(|new| format!("not the old: {old}; not the new: {new}"))?;
                format!("new {new}")
            }
        };
        let verified = volume.verify(&mut |_, _| {}).map_err(|e| e.to_string())?;
        match (verified.damage.as_slice(), volume.pins().as_slice()) {
            ([], []) if volume.preserved_bytes() == 0 => Ok(found),
            found => Err(format!("damage, pins or preserved blocks: {found:?}")),
        }
    }
}

/// Everything that was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Tale {
    pub(super) primary: Told,
    pub(super) replica: Told,
    /// The highest stamp so far.
    pub(super) stamp: u64,
}

impl Tale {
    pub(super) fn read(notes: &str) -> Tale {
        let mut tale = Tale::default();
        notes.lines().for_each(|line| tale.take(line));
        tale
    }

    pub(super) fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<u64> = words[2..].iter().map(|w| w.parse().unwrap()).collect();
        let told = match words[0] {
            "primary" => &mut self.primary,
            _ => &mut self.replica,
        };
        let world = &mut told.world;
        match (words[1], numbers.as_slice()) {
            ("sent", &[stamp, first, sectors, zero]) => {
                self.stamp = self.stamp.max(stamp);
                world.history.push(Change {
                    stamp,
                    first,
                    sectors,
                    zero: zero == 1,
                });
            }
            ("durable", &[lsn]) => world.durable = lsn,
            ("committed", &[lsn]) => world.committed = lsn,
            ("captured", &[lsn]) => world.checkpoint = world.checkpoint.max(lsn),
            ("tail", &[lsn]) => world.tail = world.tail.max(lsn),
            // The replica takes what the primary has.
            ("takes", &[lsn]) => {
                let range = world.history.len()..usize::try_from(lsn).unwrap();
                let taken = &self.primary.world.history[range];
                self.replica.world.history.extend(taken);
            }
            ("cutting", &[lsn]) => world.durable = world.durable.min(lsn),
            ("cut", &[lsn]) => world.cut(lsn),
            ("installing", &[lsn, in_place]) => {
                let new = World::based_on(&self.primary.world.history, lsn);
                self.replica.installing = Some((new, in_place == 1));
            }
            ("installed", []) => told.install(),
            ("incomplete", []) => told.incomplete = true,
            (which @ ("old" | "new"), &[lsn]) => {
                if which == "new" {
                    told.install();
                }
                told.installing = None;
                told.world.cut(lsn);
                told.world.durable = lsn;
            }
            _ => panic!("a note that says nothing: {line:?}"),
        }
    }
}
