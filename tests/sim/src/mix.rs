//! Which faults a run has, and how often.

use seawall_recovery::AckRule;
use seawall_recovery::budget::Budget;
use seawall_recovery::simulated::Weather;
use seawall_wal::PinLimits;
use seawall_wal::disk::sim::Rng;

/// What can go wrong, for [`crate::trouble`] to choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The primary's process is killed and started again.
    KillPrimary,
    /// The primary loses power and comes back.
    CutPrimary,
    /// A replica's process is killed and started again.
    KillReplica,
    /// A replica loses power and comes back.
    CutReplica,
    /// Power goes everywhere at once.
    CutAll,
    /// The primary goes, a replica is promoted, the old primary returns as a replica.
    Failover,
    /// The primary is cut off from everybody while a replica is promoted; it learns of it later.
    Usurp,
    /// A replica comes back with an empty disk.
    Wipe,
    /// A replica comes back with the disk it had some time ago.
    Restore,
    /// A node is cut off, in both directions.
    Isolate,
    /// Nothing passes in one direction between two nodes.
    OneWay,
    /// Every connection of a node breaks.
    Reset,
    /// Messages are slow, and some break their connection.
    Storm,
    /// Messages get lost, repeated or changed although the connection stands.
    Corrupt,
    /// A disk becomes slow.
    SlowDisk,
    /// A disk answers nothing for a while.
    StuckDisk,
    /// An operation of a disk fails.
    DiskError,
    /// A sync of a disk fails, and what it covered is gone.
    LostSync,
    /// A disk is full for a while.
    FullDisk,
    /// A bit rots on the disk of a replica.
    Rot,
    /// A wall clock jumps.
    ClockJump,
    /// The primary reclaims its log, so that whoever is behind needs a base.
    Reclaim,
    /// A replica gets another address.
    Move,
    /// Assignments come twice, late, and for an epoch that nobody was promoted to.
    Assign,
    /// A replica's process stands still for a while.
    Pause,
    /// The primary is cut off and goes on serving, then it goes and another one follows it.
    Strand,
    /// A node loses power at some operation of a capture.
    Capture,
    /// A primary is killed when its state log could not be synced, and loses power later.
    Forget,
    /// A replica comes back with an empty disk that is too small, or fails, for a while.
    Newcomer,
    /// Whoever promised a new epoch is killed at once, and comes back to the old primary alone.
    Betray,
    /// A replica is killed, and somebody who wanted to be primary long ago asks it again.
    Late,
    /// A record rots in the log of a primary at rest, and a replica holds it.
    Damage,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 32] = [
        Kind::KillPrimary,
        Kind::CutPrimary,
        Kind::KillReplica,
        Kind::CutReplica,
        Kind::CutAll,
        Kind::Failover,
        Kind::Usurp,
        Kind::Wipe,
        Kind::Restore,
        Kind::Isolate,
        Kind::OneWay,
        Kind::Reset,
        Kind::Storm,
        Kind::Corrupt,
        Kind::SlowDisk,
        Kind::StuckDisk,
        Kind::DiskError,
        Kind::LostSync,
        Kind::FullDisk,
        Kind::Rot,
        Kind::ClockJump,
        Kind::Reclaim,
        Kind::Move,
        Kind::Assign,
        Kind::Pause,
        Kind::Strand,
        Kind::Capture,
        Kind::Forget,
        Kind::Newcomer,
        Kind::Betray,
        Kind::Late,
        Kind::Damage,
    ];

    /// Whether another one becomes primary, or may have to.
    fn promotes(self) -> bool {
        use Kind::{Betray, Damage, Failover, Strand, Usurp};
        [Failover, Usurp, Strand, Betray, Damage].contains(&self)
    }
}

/// The shape of one run.
#[derive(Clone, Debug)]
pub struct Mix {
    /// Replicas beside the primary.
    pub replicas: u32,
    /// When a write counts as committed.
    pub ack: AckRule,
    /// Clients, each with cells of its own.
    pub clients: u64,
    /// Blocks of which every client has a part.
    pub shared: u64,
    /// Operations of each client.
    pub operations: u64,
    /// What may go wrong.
    pub kinds: Vec<Kind>,
    /// Most milliseconds between two things that go wrong.
    pub pause_ms: u64,
    /// Of 1024 locks taken, so many let another thread go first.
    pub preemptions: u64,
    /// What a recovery may spend while not all is healed.
    pub budget: Budget,
    /// What pins may keep while not all is healed.
    pub pins: PinLimits,
    /// Recoveries that send at a time.
    pub recoveries: u64,
    /// Every third replica installs a base over the old one.
    pub in_place: bool,
    /// Every replica is rebuilt once for each primary that starts.
    pub rebuild_full: bool,
    /// What messages meet when no storm rages.
    pub weather: Weather,
}

impl Mix {
    /// Nothing goes wrong.
    #[must_use]
    pub fn quiet() -> Mix {
        Mix {
            replicas: 2,
            ack: AckRule::Quorum,
            clients: 2,
            shared: 2,
            operations: 40,
            kinds: Vec::new(),
            pause_ms: 2000,
            preemptions: 16,
            budget: Budget::UNBOUNDED,
            pins: PinLimits::DEFAULT,
            recoveries: 4,
            in_place: false,
            rebuild_full: false,
            weather: Weather::default(),
        }
    }

    /// What `seed` says: each run has other faults, in another measure.
    #[must_use]
    pub fn swarm(seed: u64) -> Mix {
        let mut rng = Rng::new(seed ^ 0x6d69_7865_7321);
        let likely = rng.pick(&[2, 4, 8, 16]);
        let kinds = Kind::ALL.into_iter().filter(|_| rng.chance(likely));
        let kinds = kinds.collect();
        let mut mix = Mix {
            replicas: rng.pick(&[1, 2, 2, 2, 3]),
            ack: rng.pick(&[
                AckRule::Quorum,
                AckRule::Quorum,
                AckRule::All,
                AckRule::BestEffort,
            ]),
            clients: 1 + rng.below(4),
            shared: rng.pick(&[0, 1, 8]),
            operations: rng.pick(&[20, 60, 120]),
            kinds,
            pause_ms: rng.pick(&[200, 1000, 5000]),
            preemptions: rng.pick(&[0, 4, 64]),
            budget: match rng.below(16) {
                0 => Budget {
                    duration_ticks_max: Some(rng.pick(&[1, 30, 1000])),
                    ..Budget::UNBOUNDED
                },
                1 => Budget {
                    records_max: Some(rng.below(20)),
                    ..Budget::UNBOUNDED
                },
                2 => Budget {
                    bytes_max: Some(rng.below(1 << 18)),
                    ..Budget::UNBOUNDED
                },
                3 => Budget {
                    stall_ticks_max: Some(rng.pick(&[1, 100, 2000])),
                    ..Budget::UNBOUNDED
                },
                _ => Budget::UNBOUNDED,
            },
            pins: match rng.below(6) {
                0 => PinLimits {
                    log_bytes: Some(rng.pick(&[0, 1 << 20, 3 << 20])),
                    ..PinLimits::DEFAULT
                },
                1 => PinLimits {
                    preserved_bytes: Some(rng.below(1 << 16)),
                    ..PinLimits::DEFAULT
                },
                _ => PinLimits::DEFAULT,
            },
            recoveries: rng.pick(&[1, 1, 4]),
            in_place: rng.chance(4),
            rebuild_full: rng.chance(2),
            weather: Weather {
                delay_ns: rng.pick(&[50_000, 1_000_000, 20_000_000]),
                ..Weather::default()
            },
        };
        if mix.in_place {
            // In the middle of it a replica holds nothing of what it acknowledged.
            mix.kinds.retain(|kind| !kind.promotes());
        }
        mix
    }
}
