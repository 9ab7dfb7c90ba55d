//! Creating and opening a volume.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use seawall_wal::disk::{Disk, File, OpenMode, list, make_dir, remove, sync_dir};
use seawall_wal::sync::Mutex;
use seawall_wal::{
    Clock, Epoch, Geometry, IoOp, Log, LogId, LogMode, LsnRange, Meta, MetaContents, Record,
    ReplayReport, Role, VolumeId,
};

use crate::edge::{Background, Edge};
use crate::error::Error;
use crate::image::{BASE_DIR, Image, base_dir, sweep};
use crate::lost::Lost;
use crate::mend::Damaged;
use crate::newest::Newest;
use crate::preserve::Preserved;
use crate::scrub::ScrubStatus;
use crate::section::BaseFacts;
use crate::volume::{Base, Volume};
use crate::{checkpoint, lock};

/// Shape and identity of a new volume.
#[derive(Clone, Copy, Debug)]
pub struct CreateOptions {
    /// Identity; `None` draws one. A replica takes its primary's (D8).
    pub volume: Option<VolumeId>,
    /// Shape.
    pub geometry: Geometry,
    /// Primary or replica.
    pub role: Role,
}

/// What the opener means to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Take writes: starts an incarnation at the epoch in meta (D2). Refused on a replica.
    Primary,
    /// Take records from a primary. Refused on a primary.
    Replica,
    /// Maintain without writing records (checkpoint, reclaim); any role.
    Maintain,
    /// Inspect; writes nothing, takes no lock.
    ReadOnly,
}

/// Smallest and largest segment (D19).
const SEGMENT_BYTES_MIN: u64 = 1 << 20;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// Looks at a volume that changes under our eyes, at most.
const LOOKS_MAX: u32 = 5;

fn check_geometry(geometry: &Geometry) -> Result<(), Error> {
    let refuse = |what, value| Err(Error::Log(seawall_wal::Error::Geometry { what, value }));
    let segment = geometry.segment_bytes;
    if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment) || !segment.is_multiple_of(4096)
    {
        return refuse(
            "segment size must be a multiple of 4096 from 1 MiB to 1 GiB",
            segment,
        );
    }
    let bytes = geometry
        .blocks
        .checked_mul(geometry.block_size.bytes())
        .filter(|bytes| i64::try_from(*bytes).is_ok());
    match bytes {
        Some(bytes) if bytes > 0 => Ok(()),
        _ => refuse(
            "a volume needs at least one block and at most 2^63 - 1 bytes",
            geometry.blocks,
        ),
    }
}

/// Marks a directory whose creation has not come to its end. It is durable before anything else is
/// made there, and gone before the volume is used: beside it nothing but a whole `meta` counts.
const CREATING: &str = "creating";

/// What an unfinished creation, or the daemon that ran it, may have left beside the marker.
const LEFTOVERS: [&str; 6] = ["meta", BASE_DIR, "wal", "lock", "recovery", "ctl"];

fn occupied(dir: &Path) -> Error {
    let kind = std::io::ErrorKind::DirectoryNotEmpty;
    Error::Log(seawall_wal::Error::io(
        IoOp::MakeDir,
        dir,
        None,
        kind.into(),
    ))
}

/// Takes a vacant directory for a creation: marked, locked, and empty but for the marker.
fn claim(disk: &Arc<dyn Disk>, dir: &Path) -> Result<File, Error> {
    if !Volume::is_vacant(disk, dir)? {
        return Err(occupied(dir));
    }
    let marker = take_lock(disk, dir, CREATING)?;
    // Under the lock once more: another creation may have come to its end meanwhile.
    let marked = list(disk.as_ref(), dir)?
        .iter()
        .any(|name| name == CREATING);
    if !marked || !Volume::is_vacant(disk, dir)? {
        return Err(occupied(dir));
    }
    marker.sync()?;
    sync_dir(disk.as_ref(), dir)?;
    clear(disk.as_ref(), dir)?;
    Ok(marker)
}

fn clear(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    for name in LEFTOVERS {
        remove(disk, &dir.join(name))?;
    }
    Ok(sync_dir(disk, dir)?)
}

/// Removes what a failed creation made: the directory too, if that was not there before.
fn take_back(disk: &dyn Disk, dir: &Path, made: bool) -> Result<(), Error> {
    clear(disk, dir)?;
    unmark(disk, dir)?;
    match made && list(disk, dir)?.is_empty() {
        true => Ok(remove(disk, dir)?),
        false => Ok(()),
    }
}

fn unmark(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    remove(disk, &dir.join(CREATING))?;
    Ok(sync_dir(disk, dir)?)
}

impl Volume {
    /// Creates the directory `dir` (its parent must exist) with an empty volume, durable in full.
    /// Meta is written last: before that the directory does not pass for a volume.
    ///
    /// # Errors
    /// [`Error::Log`]: the directory exists and is not empty, geometry, or I/O.
    pub fn create(disk: &Arc<dyn Disk>, dir: &Path, options: CreateOptions) -> Result<(), Error> {
        check_geometry(&options.geometry)?;
        let absent = list(disk.as_ref(), dir).is_err();
        make_dir(disk.as_ref(), dir)?;
        let marker = claim(disk, dir)?;
        let result = build(disk, dir, options);
        if result.is_err() {
            // OK because what is left is marked as unfinished.
            let _ = take_back(disk.as_ref(), dir, absent);
        }
        drop(marker);
        result
    }

    /// Whether [`Volume::create`] takes this directory: it is absent or empty, or it holds what a
    /// creation left that did not come to its end, which the next one clears away.
    ///
    /// # Errors
    /// [`Error::Log`] with `Io`.
    pub fn is_vacant(disk: &Arc<dyn Disk>, dir: &Path) -> Result<bool, Error> {
        use seawall_wal::Error::{Corrupt, Io, NotAVolume};
        let names = match list(disk.as_ref(), dir) {
            Ok(names) => names,
            Err(Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        let expected = |name: &String| name == CREATING || LEFTOVERS.contains(&name.as_str());
        if names.is_empty() {
            return Ok(true);
        }
        if !names.iter().any(|name| name == CREATING) || !names.iter().all(expected) {
            return Ok(false);
        }
        match Meta::open(disk, dir, false) {
            Ok(_) => Ok(false),
            Err(NotAVolume { .. } | Corrupt(_)) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens the volume: lock, meta, log replay, an open intent is finished (D9), the block index
    /// is rebuilt from the log. A primary or replica checkpoints and reclaims in the background.
    ///
    /// # Errors
    /// [`Error::Log`] with `Locked`, `NotAVolume`, damage or I/O; [`Error::WrongRole`].
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        clock: &Arc<dyn Clock>,
        access: Access,
    ) -> Result<(Arc<Volume>, ReplayReport), Error> {
        Volume::open_any(disk, dir, clock, access, None)
    }

    /// As [`Volume::open`], with the watermarks of background work given, or none of it.
    ///
    /// # Errors
    /// As [`Volume::open`].
    pub fn open_with(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        clock: &Arc<dyn Clock>,
        access: Access,
        background: Background,
    ) -> Result<(Arc<Volume>, ReplayReport), Error> {
        Volume::open_any(disk, dir, clock, access, Some(background))
    }

    fn open_any(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        clock: &Arc<dyn Clock>,
        access: Access,
        background: Option<Background>,
    ) -> Result<(Arc<Volume>, ReplayReport), Error> {
        // Before anything is created there: a wrong directory stays as it is.
        let meta = Meta::open(disk, dir, false)?;
        check_role(dir, meta.get().role, access)?;
        let lock_file = match access {
            Access::ReadOnly => None,
            Access::Primary | Access::Replica | Access::Maintain => {
                Some(take_lock(disk, dir, "lock")?)
            }
        };
        if access == Access::ReadOnly {
            return inspect(disk, dir, clock);
        }
        // Under the lock once more: what was read without it may have changed.
        let meta = Arc::new(Meta::open(disk, dir, true)?);
        if list(disk.as_ref(), dir)?
            .iter()
            .any(|name| name == CREATING)
        {
            // All but this was done when the creation was cut off.
            unmark(disk.as_ref(), dir)?;
        }
        let default = match access {
            Access::Primary | Access::Replica => Background::of(&meta.get().geometry),
            Access::Maintain | Access::ReadOnly => Background::OFF,
        };
        let held = Held {
            meta,
            lock_file,
            background: background.unwrap_or(default),
        };
        open_locked(disk, dir, clock, access, held)
    }

    /// Puts lost records of the log back, as [`Log::heal`] does, and gives the volume anew. This
    /// one is closed, and where the heal failed what was damaged is as it was. Reads and writes all
    /// of the retained log.
    ///
    /// # Errors
    /// As [`Log::heal`]; what opening answers.
    pub fn heal(
        &self,
        records: impl IntoIterator<Item = Record>,
    ) -> Result<(Arc<Volume>, ReplayReport), Error> {
        self.check_maintainer()?;
        let lock_file = self.shut();
        self.log.heal(records)?;
        self.open_anew(self.access, lock_file)
    }

    /// Opens what lies in our directory now, after [`Volume::shut`] gave the lock away.
    pub(crate) fn open_anew(
        &self,
        access: Access,
        lock_file: Option<File>,
    ) -> Result<(Arc<Volume>, ReplayReport), Error> {
        let held = Held {
            meta: Arc::clone(self.meta()),
            lock_file,
            background: self.edge.background(),
        };
        open_locked(&self.disk, &self.dir, &self.clock, access, held)
    }

    /// Makes the volume of a former primary a replica's, durably (D5): of what it holds, the first
    /// session cuts off what the history of the new primary does not have (D2).
    ///
    /// # Errors
    /// A directory without a volume, or whose volume somebody has open
    /// ([`seawall_wal::Error::Locked`]).
    pub fn demote(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), Error> {
        // Before a lock is created there: a wrong directory stays as it is.
        Meta::open(disk, dir, false)?;
        let _lock = take_lock(disk, dir, "lock")?;
        let meta = Meta::open(disk, dir, true)?;
        Ok(meta.update(|contents| contents.role = Role::Replica)?)
    }

    /// A second, independent look at what lies in our directory now.
    pub(crate) fn reopen_for_inspection(&self) -> Result<Arc<Volume>, Error> {
        let access = Access::ReadOnly;
        let opened =
            Volume::open_with(&self.disk, &self.dir, &self.clock, access, Background::OFF)?;
        Ok(opened.0)
    }
}

/// Opens a volume that its owner may be changing at this moment: what does not fit together then is
/// looked at again (D24).
fn inspect(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Result<(Arc<Volume>, ReplayReport), Error> {
    let mut looks = 1;
    loop {
        let meta = Arc::new(Meta::open(disk, dir, false)?);
        let seen = meta.get();
        let held = Held {
            meta,
            lock_file: None,
            background: Background::OFF,
        };
        let result = open_locked(disk, dir, clock, Access::ReadOnly, held);
        if result.is_ok() || looks == LOOKS_MAX || Meta::open(disk, dir, false)?.get() == seen {
            return result;
        }
        looks += 1;
    }
}

fn build(disk: &Arc<dyn Disk>, dir: &Path, options: CreateOptions) -> Result<(), Error> {
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        sync_dir(disk.as_ref(), parent)?;
    }
    let bases = dir.join(BASE_DIR);
    make_dir(disk.as_ref(), &bases)?;
    let base = base_dir(dir, BaseFacts::NEW.base);
    Image::create(disk, &base, &options.geometry)?.sync()?;
    sync_dir(disk.as_ref(), &bases)?;
    make_dir(disk.as_ref(), &dir.join("wal"))?;
    sync_dir(disk.as_ref(), dir)?;
    let volume = options.volume.map_or_else(VolumeId::random, Ok)?;
    let mut contents =
        MetaContents::of_new(volume, LogId::random()?, options.geometry, options.role);
    BaseFacts::NEW.store(&mut contents);
    Meta::create(disk, dir, contents)?;
    unmark(disk.as_ref(), dir)
}

fn check_role(dir: &Path, role: Role, access: Access) -> Result<(), Error> {
    let wrong = |role, hint| {
        let path = dir.into();
        Err(Error::WrongRole { path, role, hint })
    };
    match (access, role) {
        (Access::Primary, Role::Replica) => {
            wrong("replica", "promote it first with seawall promote")
        }
        (Access::Replica, Role::Primary) => {
            wrong("primary", "give its replica a directory of its own")
        }
        (Access::Primary, Role::Primary)
        | (Access::Replica, Role::Replica)
        | (Access::Maintain | Access::ReadOnly, _) => Ok(()),
    }
}

fn take_lock(disk: &Arc<dyn Disk>, dir: &Path, name: &str) -> Result<File, Error> {
    let file = File::open(disk, &dir.join(name), OpenMode::CreateOrOpen)?;
    match file.lock() {
        Ok(()) => Ok(file),
        Err(seawall_wal::Error::Io { source, .. })
            if source.kind() == std::io::ErrorKind::WouldBlock =>
        {
            Err(Error::Log(seawall_wal::Error::Locked { path: dir.into() }))
        }
        Err(error) => Err(error.into()),
    }
}

/// What an open takes over: from the files, or from the volume that an install replaces.
struct Held {
    meta: Arc<Meta>,
    lock_file: Option<File>,
    background: Background,
}

/// Opens a volume whose lock is held already, where one is needed.
fn open_locked(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    clock: &Arc<dyn Clock>,
    access: Access,
    held: Held,
) -> Result<(Arc<Volume>, ReplayReport), Error> {
    let writable = access != Access::ReadOnly;
    let meta = held.meta;
    let contents = meta.get();
    check_role(dir, contents.role, access)?;
    let facts = BaseFacts::of(&contents, dir)?;
    let (image_mode, log_mode) = match writable {
        true => (OpenMode::ReadWrite, LogMode::Writable),
        false => (OpenMode::Read, LogMode::ReadOnly),
    };
    if writable {
        sweep(disk.as_ref(), dir, facts.base, false)?;
    }
    let mut image = Image::open(
        disk,
        &base_dir(dir, facts.base),
        &contents.geometry,
        image_mode,
    )?;
    if writable {
        // L4: what an earlier process wrote and did not sync is durable before it is trusted.
        image.sync()?;
    } else {
        image = image.watched(dir, facts);
    }
    let (log, report) = Log::open(disk, dir, &meta, clock, log_mode, facts.checkpoint)?;
    let newest = Newest::of(&log.places(LsnRange::new(facts.checkpoint, log.applied()))?);
    let lost = Lost::of(&report, &log);
    let image = Arc::new(image);
    let preserved = Preserved::new(disk, dir.join(BASE_DIR), &image, &log);
    let volume = Arc::new(Volume {
        disk: Arc::clone(disk),
        dir: dir.into(),
        clock: Arc::clone(clock),
        access,
        geometry: contents.geometry,
        log,
        image,
        replay: report.clone(),
        newest,
        captures: AtomicU64::new(0),
        truncations: AtomicU64::new(0),
        lost,
        base: Mutex::new(Base {
            facts,
            failed: None,
            damaged: Damaged::default(),
        }),
        capture: Mutex::default(),
        preserved,
        lock_file: Mutex::new(held.lock_file),
        alone: AtomicBool::new(false),
        followed: AtomicU64::new(0),
        closed: AtomicBool::new(false),
        scrub: Mutex::new(ScrubStatus::from(facts.scrubbed)),
        edge: Edge::new(held.background),
    });
    if writable {
        start(&volume, contents.epoch)?;
    }
    Edge::start(&volume);
    Ok((volume, report))
}

/// What a writable open does before it serves anything but head.
fn start(volume: &Arc<Volume>, epoch: Epoch) -> Result<(), Error> {
    if volume.facts().incomplete.is_none() {
        let _one = lock(&volume.capture);
        // D9, D21: what cannot be finished now stays open; head is served from the log meanwhile.
        if let Err(error) = checkpoint::finish(volume) {
            tracing::warn!(%error, "an unfinished checkpoint stays open");
        }
    }
    // D14: above damage nobody writes, so no incarnation starts.
    if volume.access == Access::Primary && volume.log.check_writable().is_ok() {
        volume.log.start_incarnation(epoch.max(Epoch::new(1)))?;
    }
    Ok(())
}
