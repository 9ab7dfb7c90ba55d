//! A primary and a replica on one device: changes, captures, reclaims over a tiny pool, pins, cut
//! suffixes, installed bases. The record gets everything that the world is told: an intention
//! before the deed, a promise right behind it.

use std::sync::Arc;

use seawall::snapshot::{
    Access, Background, CHUNK_BYTES, Chunk, Chunks, CreateOptions, Digest, Durability, Error,
    Install, Manifest, View, Volume, chunk_count, chunk_digest, chunk_range, read_chunk,
};
use seawall::wal::disk::{Choice, open_backend};
use seawall::wal::{BlockSize, Error as LogError, Geometry, Lsn, LsnRange, Role, SystemClock};
use seawall::wal::{Record as LogRecord, VolumeId};

use super::told::{Change, SECTOR_BYTES, Tale};
use super::{Device, Kind, Record, campaign, kinds, setting};
use crate::harness::Random;

/// Four MiB of blocks of 4 KiB, and a log whose segments come round again and again.
const GEOMETRY: Geometry = Geometry {
    block_size: BlockSize::DEFAULT,
    blocks: 1024,
    segment_bytes: 1 << 20,
};
const BLOCK_SECTORS: u64 = 8;
const SECTORS: u64 = GEOMETRY.blocks * BLOCK_SECTORS;
const CHANGE_SECTORS_MAX: u64 = 128;
/// A quarter of a segment.
const RECORD_SECTORS: u64 = GEOMETRY.segment_bytes / 4 / SECTOR_BYTES;
/// Log above which the background captures and reclaims.
const RETAINED_BYTES: u64 = 3 << 20;
/// Opens of one record.
const LIVES: u64 = 3;
/// Steps after a cut, which may be cut off in turn.
const STEPS_AFTER: u64 = 20;
const HELD_MAX: usize = 3;
const SESSION: [u8; 16] = [9; 16];

/// A view of the primary that is held, and what it must show.
type Held = (u64, Box<dyn View>);

struct Story<'a> {
    device: &'a Device,
    random: Random,
    tale: Tale,
    primary: Arc<Volume>,
    replica: Arc<Volume>,
    held: Vec<Held>,
}

fn open(
    device: &Device,
    name: &str,
    access: Access,
    random: &mut Random,
) -> Result<Arc<Volume>, String> {
    let choices = [Choice::Auto, Choice::Direct, Choice::Portable];
    let choice = choices[usize::try_from(random.below(3)).unwrap()];
    let disk = open_backend(choice).unwrap();
    let background = match random.below(2) {
        0 => Background::OFF,
        _ => Background {
            retained_bytes_soft: Some(RETAINED_BYTES),
            scrub_bytes_per_s: Some(1 << 20),
        },
    };
    let (dir, clock) = (device.path(name), SystemClock::new());
    let opened = Volume::open_with(&disk, &dir, &clock, access, background);
    Ok(opened.map_err(|e| format!("{name}: {e}"))?.0)
}

fn create(device: &Device) {
    for (name, role) in [("primary", Role::Primary), ("replica", Role::Replica)] {
        let disk = open_backend(Choice::Auto).unwrap();
        let options = CreateOptions {
            volume: Some(VolumeId([3; 16])),
            geometry: GEOMETRY,
            role,
        };
        Volume::create(&disk, &device.path(name), options).unwrap();
    }
}

impl Story<'_> {
    /// Opens both volumes, and demands that they are what the world was told.
    fn open(device: &Device, mut random: Random) -> Result<Story<'_>, String> {
        let primary = open(device, "primary", Access::Primary, &mut random)?;
        let replica = open(device, "replica", Access::Replica, &mut random)?;
        let notes = std::fs::read_to_string(device.notes()).unwrap();
        let mut story = Story {
            device,
            tale: Tale::read(&notes),
            random,
            primary,
            replica,
            held: Vec::new(),
        };
        let (tale, random) = (story.tale.clone(), &mut story.random);
        let primary = tale.primary.judge(&story.primary, random);
        let primary = primary.map_err(|e| format!("primary: {e}"))?;
        let replica = tale.replica.judge(&story.replica, random);
        let replica = replica.map_err(|e| format!("replica: {e}"))?;
        story.tell(format!("primary {primary}"));
        story.tell(format!("replica {replica}"));
        // Whoever told it tells it again: on disk committed is a lower bound (D1).
        for (volume, told) in [
            (&story.primary, &story.tale.primary),
            (&story.replica, &story.tale.replica),
        ] {
            if !told.incomplete {
                volume.log().commit(Lsn::new(told.world.committed)).unwrap();
            }
        }
        Ok(story)
    }

    fn tell(&mut self, line: String) {
        self.tale.take(&line);
        self.device.note(&(line + "\n"));
    }

    /// A number from `least` through `most`.
    fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.random.below(most - least + 1)
    }

    fn go(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.random.below(100) {
                0..56 => self.change(),
                56..64 => self.flush(),
                64..70 => self.commit(),
                70..74 => self.capture(),
                74..80 => self.advance_tail(),
                80..86 => self.receive(),
                86..90 => self.maintain_replica(),
                90..92 => self.truncate_primary(),
                92..93 => self.truncate_replica(),
                93..94 => self.install(),
                _ => self.pin(),
            }
        }
    }

    fn change(&mut self) {
        let kind = self.random.below(8);
        // Zeros of whole blocks are one record each, and what crosses no border of a record.
        let unit = if kind < 2 { BLOCK_SECTORS } else { 1 };
        let first = unit * self.random.below(SECTORS / unit);
        let room = CHANGE_SECTORS_MAX.min(RECORD_SECTORS - first % RECORD_SECTORS);
        let sectors = unit * self.between(1, room / unit);
        let change = Change {
            stamp: self.tale.stamp + 1,
            first,
            sectors,
            zero: kind < 2,
        };
        let stamp = change.stamp;
        let zero = u64::from(change.zero);
        self.tell(format!("primary sent {stamp} {first} {sectors} {zero}"));
        let durability = match self.random.below(8) {
            0 => Durability::Durable,
            _ => Durability::Volatile,
        };
        let (offset, length) = (first * SECTOR_BYTES, sectors * SECTOR_BYTES);
        let no_hole = self.random.below(2) == 0;
        let done = match kind {
            0 => self.primary.trim(offset, length, durability),
            1 => (self.primary).write_zeroes(offset, length, no_hole, durability),
            _ => self.primary.write(offset, &change.bytes(), durability),
        };
        let lsn = done.unwrap().get();
        assert_eq!(lsn, self.tale.primary.world.head(), "one LSN each");
        if durability == Durability::Durable {
            self.tell(format!("primary durable {lsn}"));
        }
    }

    fn flush(&mut self) {
        let durable = self.primary.flush().unwrap();
        assert_eq!(durable.get(), self.tale.primary.world.head());
        self.tell(format!("primary durable {durable}"));
    }

    fn commit(&mut self) {
        let world = &self.tale.primary.world;
        let lsn = self.between(world.committed, world.durable);
        self.primary.log().commit(Lsn::new(lsn)).unwrap();
        self.tell(format!("primary committed {lsn}"));
    }

    fn capture(&mut self) {
        let captured = self.primary.checkpoint(None).unwrap();
        self.tell(format!("primary captured {captured}"));
    }

    fn advance_tail(&mut self) {
        let lsn = self.between(0, self.tale.primary.world.committed);
        let tail = self.primary.advance_tail(Lsn::new(lsn)).unwrap();
        self.tell(format!("primary tail {tail}"));
    }

    /// Everything durable goes to the replica, by a base where the log has it no more.
    fn receive(&mut self) {
        if self.tale.replica.incomplete {
            return self.install();
        }
        let (ours, theirs) = (&self.tale.primary.world, &self.tale.replica.world);
        let (common, through) = (ours.common(theirs), ours.durable);
        if common < theirs.head() {
            self.cut_replica(common);
        }
        if through <= common {
            return;
        }
        let range = LsnRange::new(Lsn::new(common), Lsn::new(through));
        let records: Result<Vec<LogRecord>, _> = match self.primary.log().read(range) {
            Ok(records) => records.collect(),
            Err(LogError::Reclaimed { .. }) => return self.install(),
            Err(error) => panic!("{range:?}: {error}"),
        };
        self.tell(format!("replica takes {through}"));
        let ticket = self.replica.receive(records.unwrap()).unwrap();
        if self.random.below(3) > 0 {
            assert_eq!(ticket.wait().unwrap().get(), through);
            self.tell(format!("replica durable {through}"));
        }
    }

    fn maintain_replica(&mut self) {
        if self.tale.replica.incomplete {
            return self.install();
        }
        let (ours, theirs) = (&self.tale.primary.world, &self.tale.replica.world);
        let most = theirs.durable.min(ours.committed).min(ours.common(theirs));
        let lsn = self.between(theirs.committed.min(most), most);
        self.replica.log().commit(Lsn::new(lsn)).unwrap();
        let committed = self.tale.replica.world.committed.max(lsn);
        self.tell(format!("replica committed {committed}"));
        match self.random.below(2) {
            0 => {
                let captured = self.replica.checkpoint(None).unwrap();
                self.tell(format!("replica captured {captured}"));
            }
            _ => {
                let tail = self.replica.advance_tail(Lsn::new(lsn)).unwrap();
                self.tell(format!("replica tail {tail}"));
            }
        }
    }

    /// Other changes get the LSNs that were given to the suffix.
    fn truncate_primary(&mut self) {
        let world = &self.tale.primary.world;
        let lsn = self.between(world.committed, world.head());
        self.held.retain(|(held, _)| *held <= lsn);
        self.tell(format!("primary cutting {lsn}"));
        self.primary.truncate(Lsn::new(lsn)).unwrap();
        self.tell(format!("primary cut {lsn}"));
        // D2: they are changes of another incarnation.
        let log = self.primary.log();
        log.start_incarnation(log.meta().get().epoch).unwrap();
    }

    fn truncate_replica(&mut self) {
        if self.tale.replica.incomplete {
            return;
        }
        let world = &self.tale.replica.world;
        let lsn = self.between(world.committed, world.head());
        self.cut_replica(lsn);
    }

    fn cut_replica(&mut self, lsn: u64) {
        self.tell(format!("replica cutting {lsn}"));
        self.replica.truncate(Lsn::new(lsn)).unwrap();
        self.tell(format!("replica cut {lsn}"));
    }

    fn install(&mut self) {
        let committed = self.tale.primary.world.committed;
        let target = Lsn::new(committed);
        let view = self.primary.pin_base(target, "replica").unwrap();
        let manifest = Manifest {
            volume: self.primary.meta().get().volume,
            geometry: GEOMETRY,
            lsn: target,
            lineage: self.primary.log().lineage().through(target),
            committed: target,
        };
        let in_place = self.random.below(2) == 0;
        let told = u64::from(in_place);
        self.tell(format!("replica installing {target} {told}"));
        let install = match in_place {
            true => Install::begin_in_place(&self.replica, manifest, SESSION),
            false => Install::begin(&self.replica, manifest),
        };
        self.replica = transfer(install.unwrap(), &view).unwrap();
        self.tell("replica installed".into());
    }

    /// Takes a view of an old state, or compares one and lets it go.
    fn pin(&mut self) {
        if self.held.len() == HELD_MAX || self.random.below(3) == 0 {
            let count = self.held.len() as u64;
            if count > 0 {
                let one = usize::try_from(self.random.below(count)).unwrap();
                let (lsn, view) = self.held.swap_remove(one);
                let checked = self.tale.primary.world.check(lsn, view.as_ref());
                checked.unwrap_or_else(|e| panic!("a held view: {e}"));
            }
            return;
        }
        let base = self.primary.base_state().checkpoint.get();
        let lsn = self.between(base, self.tale.primary.world.durable);
        let taken: Result<Box<dyn View>, Error> = match self.random.below(3) {
            0 => (self.primary.state_at(Lsn::new(lsn), "held")).map(|view| Box::new(view) as _),
            1 => (self.primary.pin_snapshot("held")).map(|view| Box::new(view) as _),
            _ => (self.primary.pin_base(Lsn::new(lsn), "held")).map(|view| Box::new(view) as _),
        };
        match taken {
            Ok(view) => self.held.push((view.lsn().get(), view)),
            // The background captured meanwhile.
            Err(Error::StateReclaimed { .. }) => {}
            Err(error) => panic!("LSN {lsn}: {error}"),
        }
    }

    /// Ends this life of both, cleanly or not.
    fn end(mut self) {
        self.held.clear();
        if self.random.below(3) == 0 {
            self.primary.close().unwrap();
            let head = self.tale.primary.world.head();
            self.tell(format!("primary durable {head}"));
        }
    }
}

fn transfer(mut install: Install, view: &dyn View) -> Result<Arc<Volume>, Error> {
    for chunk in Chunks::of(view) {
        match chunk? {
            Chunk::Zero { first, count } => install.zero(first, count)?,
            Chunk::Data { index, digest } => {
                if !install.keep_if_present(index, digest)? {
                    install.put(index, &read_chunk(view, index)?.0, digest)?;
                }
            }
        }
    }
    let mut digests = Vec::new();
    for index in 0..chunk_count(view.size()) {
        let range = chunk_range(index, view.size());
        let mut bytes = vec![0; CHUNK_BYTES];
        bytes.truncate(usize::try_from(range.end - range.start).unwrap());
        view.read(range.start, &mut bytes)?;
        digests.extend(chunk_digest(&bytes, view.block_size()).to_bytes());
    }
    install.switch(Digest::of(&digests), view.digest()?)
}

/// Several lives of the two volumes from their creation, and where their record begins.
fn record(kind: Kind, random: &mut Random) -> (Record, usize) {
    let device = Device::formatted(kind);
    create(&device);
    let begin = device.position();
    for _ in 0..LIVES {
        let opened = Story::open(&device, Random::new(random.next()));
        let mut story = opened.unwrap_or_else(|e| panic!("{e}"));
        story.go(setting("SEAWALL_POWER_STEPS", 200));
        story.end();
    }
    (device.off(), begin)
}

#[test]
fn a_power_cut_takes_nothing_that_a_primary_and_its_replica_were_promised() {
    campaign(record, |device, random| {
        let opened = Story::open(device, Random::new(random.next()));
        let mut story = opened.unwrap_or_else(|e| panic!("{e}"));
        story.go(STEPS_AFTER);
        story.end();
    });
}

#[test]
fn the_story_finds_out_a_device_that_lies_about_its_flushes() {
    for &kind in kinds().iter().take(1) {
        let (record, begin) = record(kind, &mut Random::new(setting("SEAWALL_POWER_SEED", 1)));
        let kept = begin + (record.length() - begin) / 4;
        let mut device = Device::on(record.cut_of_a_liar(kept, record.length()));
        device.mount(kind).unwrap_or_else(|e| panic!("{e}"));
        let opened = Story::open(&device, Random::new(1)).map(|_| ());
        let found = opened.expect_err("promises were broken");
        assert!(found.contains("was durable"), "{found}");
    }
}
