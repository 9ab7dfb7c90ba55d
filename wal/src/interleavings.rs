//! The commit path under a scheduler that decides every step: several threads append, wait, mark,
//! truncate, step, stop and close one log over a simulated disk. A thread that nobody wakes is a
//! deadlock there, which the scheduler reports with the schedule that repeats it.
//!
//! Built and run apart from the other tests, as the README says under "Long campaigns".

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner, future, rand::Rng, thread};

use crate::disk::sim::{Effect, Fault, SimDisk};
use crate::disk::{self, Buffer, Disk};
use crate::log::DIR_NAME;
use crate::tests::contents;
use crate::*;

const DIR: &str = "/volume";
const BLOCK: u64 = 4096;

/// Time stands still.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn unix_ns(&self) -> u64 {
        1
    }

    fn monotonic_ns(&self) -> u64 {
        1
    }
}

/// What the appenders were told, by LSN: the stamp in the record and whether it is acknowledged. A
/// plain lock: it orders no thread, for it is never held at a step of the scheduler.
#[derive(Debug, Default)]
struct Told {
    stamps: BTreeMap<u64, u64>,
    acknowledged: u64,
}

/// One log and those who remember what it promised.
#[derive(Clone, Debug)]
struct World {
    sim: Arc<SimDisk>,
    log: Arc<Log>,
    told: Arc<Mutex<Told>>,
}

fn open(sim: &Arc<SimDisk>) -> Arc<Log> {
    let disk: Arc<dyn Disk> = Arc::clone(sim) as Arc<dyn Disk>;
    let dir = Path::new(DIR);
    let meta = Arc::new(Meta::open(&disk, dir, true).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(Still);
    let (log, report) = Log::open(&disk, dir, &meta, &clock, LogMode::Writable, Lsn::ZERO).unwrap();
    assert!(!matches!(report.end, ScanEnd::Damaged(_)), "{report:?}");
    log
}

impl World {
    /// A fresh log; whether its disk has durable writes or needs syncs is drawn.
    fn new() -> World {
        let seed = shuttle::rand::thread_rng().r#gen();
        let sim = match shuttle::rand::thread_rng().gen_bool(0.7) {
            true => SimDisk::new(seed),
            false => SimDisk::with_syncs(seed),
        };
        let disk: Arc<dyn Disk> = Arc::clone(&sim) as Arc<dyn Disk>;
        let dir = Path::new(DIR);
        disk::make_dir(disk.as_ref(), dir).unwrap();
        disk::make_dir(disk.as_ref(), &dir.join(DIR_NAME)).unwrap();
        disk::sync_dir(disk.as_ref(), dir).unwrap();
        disk::sync_dir(disk.as_ref(), Path::new("/")).unwrap();
        let mut contents = contents();
        // Small segments, so that a few appends rotate.
        contents.geometry.segment_bytes = 48 << 10;
        Meta::create(&disk, dir, contents).unwrap();
        let log = open(&sim);
        log.start_incarnation(Epoch::new(1)).unwrap();
        let told = Arc::default();
        World { sim, log, told }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends one record whose payload says who wrote it.
    fn append(&self, who: u64, index: u64, blocks: u64) -> Result<Ticket, Error> {
        let stamp = (who << 32) | (index + 1);
        let mut payload = Buffer::zeroed(usize::try_from(blocks * BLOCK).unwrap());
        payload[..8].copy_from_slice(&stamp.to_le_bytes());
        let change = Change::write(Lba(who * 16 + index), BlockSize::DEFAULT, payload);
        let ticket = self.log.append(vec![change])?;
        let lsn = ticket.range().through.get();
        assert_eq!(
            ticket.range().after.get() + 1,
            lsn,
            "one LSN for one record"
        );
        self.told().stamps.insert(lsn, stamp);
        Ok(ticket)
    }

    /// An acknowledgement: the frontier covers it, and it never was told a higher one.
    fn acknowledge(&self, lsn: u64, durable: Lsn) {
        assert!(
            durable.get() >= lsn,
            "LSN {lsn} acknowledged at {durable:?}"
        );
        let mut told = self.told();
        told.acknowledged = told.acknowledged.max(lsn);
    }

    fn append_and_wait(&self, who: u64, index: u64, blocks: u64) -> Result<(), Error> {
        let ticket = self.append(who, index, blocks)?;
        let lsn = ticket.range().through.get();
        let durable = ticket.wait()?;
        self.acknowledge(lsn, durable);
        Ok(())
    }

    fn spawn(&self, body: impl FnOnce(&World) + Send + 'static) -> thread::JoinHandle<()> {
        let world = self.clone();
        thread::spawn(move || body(&world))
    }

    /// Reopens what a power cut now would leave: all that was acknowledged before it is there, in
    /// order, and nothing else than what was appended. Gives the head.
    fn check_cut(&self) -> u64 {
        let acknowledged = self.told().acknowledged;
        let after = self.sim.crash_lose_all();
        self.check(&after, acknowledged)
    }

    fn check(&self, after: &Arc<SimDisk>, acknowledged: u64) -> u64 {
        let log = open(after);
        let head = log.frontiers().head.get();
        assert!(
            head >= acknowledged,
            "{acknowledged} acknowledged, head {head}"
        );
        let mut expected = 0;
        for record in log.read(LsnRange::new(Lsn::ZERO, Lsn::new(head))).unwrap() {
            let record = record.unwrap();
            expected += 1;
            assert_eq!(record.lsn().get(), expected);
            let stamp = u64::from_le_bytes(record.payload()[..8].try_into().unwrap());
            let told = self.told().stamps.get(&expected).copied();
            // An appender that has its LSN may not have had the time to note it.
            assert!(
                told.is_none_or(|told| told == stamp),
                "LSN {expected} is another record"
            );
        }
        assert_eq!(expected, head);
        head
    }
}

fn seeds() -> u64 {
    let wanted = std::env::var("SEAWALL_SEEDS").ok();
    wanted.map_or(4, |text| text.parse().expect("SEAWALL_SEEDS is a number"))
}

/// Explores a story: for each seed with random choices, and with few preemptions at drawn places.
fn explore(story: fn()) {
    const ITERATIONS: usize = 25;
    for seed in 0..seeds() {
        eprintln!("interleavings: seed {seed}");
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        config.silence_warnings = true;
        let random = RandomScheduler::new_from_seed(seed, ITERATIONS);
        Runner::new(random, config.clone()).run(story);
        let depth = 2 + usize::try_from(seed % 3).unwrap();
        let preempting = PctScheduler::new_from_seed(seed, depth, ITERATIONS);
        Runner::new(preempting, config).run(story);
    }
}

fn join(threads: Vec<thread::JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn every_caller_is_answered_and_what_it_was_told_survives_a_power_cut() {
    explore(|| {
        let world = World::new();
        let threads = (0..3).map(|who| {
            world.spawn(move |world| {
                for index in 0..2 {
                    world.append_and_wait(who, index, 1).unwrap();
                }
                if who == 0 {
                    world.check_cut();
                }
            })
        });
        join(threads.collect());
        assert_eq!(world.check_cut(), 6);
    });
}

#[test]
fn tickets_waited_for_in_any_order_are_all_answered() {
    explore(|| {
        let world = World::new();
        let threads = (0..2).map(|who| {
            world.spawn(move |world| {
                let tickets: Vec<_> = (0..4)
                    .map(|index| world.append(who, index, 2).unwrap())
                    .collect();
                for ticket in tickets.into_iter().rev() {
                    if let Some(durable) = ticket.check().unwrap() {
                        world.acknowledge(ticket.range().through.get(), durable);
                    }
                    let lsn = ticket.range().through.get();
                    world.acknowledge(lsn, ticket.wait().unwrap());
                }
            })
        });
        let mut threads: Vec<_> = threads.collect();
        threads.push(world.spawn(|world| {
            let mut before = Lsn::ZERO;
            for _ in 0..4 {
                let durable = world.log.sync().unwrap();
                assert!(
                    durable >= before,
                    "durable went from {before:?} to {durable:?}"
                );
                before = durable;
            }
        }));
        join(threads);
        assert_eq!(world.check_cut(), 8);
    });
}

#[test]
fn a_failed_write_or_sync_tells_every_waiter_and_nothing_is_acknowledged_later() {
    explore(|| {
        let world = World::new();
        let mut rng = shuttle::rand::thread_rng();
        let op = match rng.gen_bool(0.5) {
            true => IoOp::Write,
            false => IoOp::Sync,
        };
        let fault = Fault::at(op, Effect::LoseUnsynced);
        world.sim.inject(fault.on("wal").after(rng.gen_range(0..4)));
        let threads = (0..3).map(|who| {
            world.spawn(move |world| {
                let mut failed = None;
                for index in 0..3 {
                    match (world.append_and_wait(who, index, 2), failed) {
                        (Ok(()), None) => {}
                        (Ok(()), Some(_)) => panic!("acknowledged after a failure"),
                        (Err(Error::Poisoned { .. } | Error::Io { .. }), _) => {
                            failed = failed.or(Some(world.log.frontiers().durable));
                        }
                        (Err(error), _) => panic!("{error:?}"),
                    }
                }
                if let Some(durable) = failed {
                    assert_eq!(world.log.frontiers().durable, durable);
                }
            })
        });
        join(threads.collect());
        world.check_cut();
    });
}

#[test]
fn a_close_among_appends_loses_nothing_acknowledged_and_hangs_nobody() {
    explore(|| {
        let world = World::new();
        let threads = (0..2).map(|who| {
            world.spawn(move |world| {
                for index in 0..3 {
                    match world.append_and_wait(who, index, 1) {
                        Ok(()) => {}
                        Err(Error::Closed) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let mut threads: Vec<_> = threads.collect();
        threads.push(world.spawn(|world| world.log.close().unwrap()));
        join(threads);
        world.check_cut();
    });
}

#[test]
fn a_stop_among_appends_answers_everybody() {
    explore(|| {
        let world = World::new();
        let threads = (0..3).map(|who| {
            world.spawn(move |world| {
                for index in 0..2 {
                    match world.append_and_wait(who, index, 2) {
                        Ok(()) => {}
                        Err(Error::Closed) => break,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let mut threads: Vec<_> = threads.collect();
        threads.push(world.spawn(|world| world.log.stop()));
        join(threads);
        world.check_cut();
    });
}

#[test]
fn marks_and_background_steps_disturb_no_append_while_segments_rotate() {
    explore(|| {
        let world = World::new();
        let threads = (0..2).map(|who| {
            world.spawn(move |world| {
                for index in 0..4 {
                    world.append_and_wait(who, index, 2).unwrap();
                }
            })
        });
        let mut threads: Vec<_> = threads.collect();
        threads.push(world.spawn(|world| {
            for _ in 0..3 {
                world.log.step().unwrap();
                world.log.mark().unwrap();
            }
        }));
        join(threads);
        assert_eq!(world.check_cut(), 8);
    });
}

#[test]
fn a_truncation_among_appends_answers_everybody_and_nothing_cut_returns() {
    explore(|| {
        let world = World::new();
        world.append_and_wait(9, 0, 1).unwrap();
        let threads = (0..2).map(|who| {
            world.spawn(move |world| {
                for index in 0..3 {
                    match world.append(who, index, 1).and_then(Ticket::wait) {
                        // No incarnation, or what was cut is waited for.
                        Ok(_) | Err(Error::ReadOnly { .. } | Error::BeyondHead { .. }) => {}
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        });
        let mut threads: Vec<_> = threads.collect();
        threads.push(world.spawn(|world| {
            let after = Lsn::new(1);
            world.log.truncate(after).unwrap();
            let found = world.check_cut();
            // A truncation that found nothing to cut lets appends go on, so this is asked last.
            let head = world.log.frontiers().head;
            assert!(found <= head.get(), "records above {head:?} returned");
        }));
        join(threads);
        let head = world.log.sync().unwrap();
        world.log.start_incarnation(Epoch::new(1)).unwrap();
        world.append_and_wait(8, 0, 1).unwrap();
        assert_eq!(world.check_cut(), head.get() + 1);
    });
}

#[test]
fn awaited_tickets_are_called_back_whoever_drives_the_disk() {
    explore(|| {
        let world = World::new();
        let threads = (0..2).map(|who| {
            world.spawn(move |world| {
                for index in 0..2 {
                    let ticket = world.append(who, index, 1).unwrap();
                    let lsn = ticket.range().through.get();
                    let durable = future::block_on(ticket).unwrap();
                    world.acknowledge(lsn, durable);
                }
            })
        });
        let mut threads: Vec<_> = threads.collect();
        threads.push(world.spawn(|world| {
            while world.told().acknowledged < 4 {
                world.log.step().unwrap();
                thread::yield_now();
            }
        }));
        join(threads);
        assert_eq!(world.check_cut(), 4);
    });
}
