//! The simulated disk: a live and a durable image, faults, completions in any order (D22).
//!
//! # Fault model
//!
//! Everything below follows from seeds, so a failing run repeats. For each fault: why an engine
//! over this disk must survive it.
//!
//! | Fault | Why it must be survived |
//! |---|---|
//! | Operations in flight complete in any order | Kernels and devices reorder; only waiting for a completion orders (L-U1, L-W13) |
//! | A sync covers only what completed before it was submitted | A frontier taken after the sync began covers bytes it did not write (L-W5, L5) |
//! | A power cut keeps any subset of the unsynced sectors, each as any of its versions since the last sync | Write caches drain as they like; 512 bytes are the unit that may tear (D19, L-T2) |
//! | A power cut keeps any size the file had since the last sync; where a write grew it, any sector boundary on the way | Sizes are metadata and reach the medium on their own |
//! | A power cut keeps any subset of the unsynced creations, renames and removals that respects their order on each name; a rename is there wholly or not at all | A name is durable only after a sync of its directory (L-W8) |
//! | A file's bytes are durable and its name is not, or the other way round | They are two syncs |
//! | Removing a directory stops half-way | It is one removal per name |
//! | Operations in flight at the cut took place, or not, or in part | Nobody was told of their end |
//! | kill -9 keeps every completed operation, but durable it is not | Bytes in the page cache only are lost by the next power cut, after they were read (L-W2, L4) |
//! | A sync fails, and the bytes it should have written are never durable, though later syncs succeed and reads still see them, save those of a handle opened `Read` and `direct` | Kernels mark such pages clean, and only the page cache has them (L-W1, L-W2, L3) |
//! | A write, sync or any other operation fails with a given error, once or for ever | EIO and ENOSPC come anywhere (L-E1, L-T5, D21) |
//! | A write takes a prefix and fails | L-W4, L-W6 |
//! | Space runs out in the middle of a write | L-E1, L-E2 |
//! | Bytes change on the medium | Bit rot is found by a checksum on every read (D14, L-T1) |
//! | A range cannot be read | EIO is an answer, not the end of the log (L-T5, L-E3) |
//! | The machine stops at any sync, or at any operation that changes the medium | The crash matrix visits every boundary |
//!
//! Not injected, because no engine on one disk can survive it: a sync that lies, a sector that
//! changes after it was synced and keeps a valid sum.
//!
//! # Use
//!
//! One thread suffices: operations stay in flight until somebody calls `wait` or `take`, which
//! carry operations out in an order drawn from the seed. Several threads may share the disk; then
//! the order is theirs as well. Paths are taken below one root, which always exists and is durable.
//!
//! ```
//! use std::path::Path;
//! use std::sync::Arc;
//! use seawall_wal::disk::sim::SimDisk;
//! use seawall_wal::disk::{self, Buffer, Disk, File, OpenMode};
//!
//! let sim = SimDisk::new(7);
//! let disk: Arc<dyn Disk> = sim.clone();
//! let file = File::open(&disk, Path::new("/a"), OpenMode::CreateNew)?;
//! file.write_bytes(0, Buffer::copy_of(b"kept"))?;
//! file.sync()?;
//! disk::sync_dir(disk.as_ref(), Path::new("/"))?;
//! file.write_bytes(0, Buffer::copy_of(b"lost"))?;
//! let after = sim.crash_lose_all();
//! assert_eq!(after.read_file(Path::new("/a"))?, b"kept");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(test)]
mod durable_tests;
mod fault;
mod image;
mod media;
mod names;
mod rng;
mod state;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::{Completion, Disk, Operation, Token};
use crate::sync::{Mutex, MutexGuard};
pub use fault::{Effect, Fault};
pub use image::SECTOR;
use media::Media;
pub use rng::Rng;
use state::State;
pub use watch::{Visitor, Watch};

/// A simulated disk. See the module text for what it does to its user.
pub struct SimDisk {
    state: Mutex<State>,
    durable_writes: bool,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimDisk({} syncs)", self.syncs())
    }
}

impl SimDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new(seed: u64) -> Arc<SimDisk> {
        SimDisk::from_media(Media::new(None), Rng::new(seed), 0, true)
    }

    /// An empty disk of so many bytes, shared by all files; names take none.
    #[must_use]
    pub fn with_capacity(seed: u64, bytes: u64) -> Arc<SimDisk> {
        SimDisk::from_media(Media::new(Some(bytes)), Rng::new(seed), 0, true)
    }

    /// An empty disk whose user writes, then syncs, in place of writes that are durable one by one.
    #[must_use]
    pub fn with_syncs(seed: u64) -> Arc<SimDisk> {
        SimDisk::from_media(Media::new(None), Rng::new(seed), 0, false)
    }

    fn from_media(media: Media, rng: Rng, next_id: u64, durable_writes: bool) -> Arc<SimDisk> {
        Arc::new(SimDisk {
            durable_writes,
            state: Mutex::new(State::new(media, rng, next_id)),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the capacity: space was added, or taken by somebody else.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().media.set_capacity(bytes);
    }

    /// The disk after a power cut now: what was synced is there, and of the rest whatever
    /// `choice_seed` draws. Handles, locks and the fault script are gone, unreadable ranges stay.
    /// This disk goes on, so that one moment can be cut many ways.
    #[must_use]
    pub fn crash(&self, choice_seed: u64) -> Arc<SimDisk> {
        let mut rng = Rng::new(choice_seed);
        let state = self.state();
        let mut media = state.media_with_some_in_flight(&mut rng);
        media.settle(&mut rng);
        SimDisk::from_media(media, rng, state.next_id(), self.durable_writes)
    }

    /// The disk after a power cut now that kept nothing unsynced.
    #[must_use]
    pub fn crash_lose_all(&self) -> Arc<SimDisk> {
        let state = self.state();
        let mut media = state.media.clone();
        media.lose_unsynced();
        SimDisk::from_media(media, state.rng(), state.next_id(), self.durable_writes)
    }

    /// The disk after kill -9: everything completed is there, as durable as it was, and operations
    /// in flight took place or not. A `crash` of the result still loses what was never synced.
    #[must_use]
    pub fn crash_keep_all(&self) -> Arc<SimDisk> {
        let state = self.state();
        let mut rng = state.rng();
        let mut media = state.media_with_some_in_flight(&mut rng);
        media.close_all();
        SimDisk::from_media(media, rng, state.next_id(), self.durable_writes)
    }

    /// Syncs of files and directories carried out so far.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.state().syncs()
    }

    /// Operations carried out so far that may change the medium: creating, writing, setting sizes,
    /// punching holes, renaming, removing, making directories, and syncs.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.state().changes()
    }

    /// Most descriptors that the handles of this disk took at a time: one each, and two of a handle
    /// opened `direct`.
    #[must_use]
    pub fn descriptors_max(&self) -> usize {
        self.state().descriptors_max()
    }

    /// Lets [`SimDisk::syncs`] reach `syncs`; the next sync is not carried out, and from then on
    /// every operation fails and nothing changes. With `syncs` of a first run, `0..=syncs` are all
    /// the boundaries of a second one.
    pub fn freeze_after(&self, syncs: u64) {
        self.state().freeze_after_syncs(syncs);
    }

    /// Like [`SimDisk::freeze_after`], at a boundary of [`SimDisk::changes`].
    pub fn freeze_after_ops(&self, changes: u64) {
        self.state().freeze_after_changes(changes);
    }

    /// Whether a boundary was reached.
    #[must_use]
    pub fn is_frozen(&self) -> bool {
        self.state().is_frozen()
    }

    /// Operations submitted and not yet completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.state().in_flight()
    }

    /// Adds a line to the fault script.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Lines of the fault script that no operation has met for the last time.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.state().faults.left()
    }

    /// Empties the fault script.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Bit rot: inverts the bits of `mask` in one byte, live and durable.
    ///
    /// # Errors
    /// `NotFound`, or `InvalidInput` behind the end of the file.
    pub fn flip(&self, path: &Path, offset: u64, mask: u8) -> io::Result<()> {
        self.state().rot(path, offset, 1, |_, byte| byte ^ mask)
    }

    /// Bit rot: replaces bytes, live and durable.
    ///
    /// # Errors
    /// As [`SimDisk::flip`].
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.state()
            .rot(path, offset, bytes.len(), |index, _| bytes[index])
    }

    /// Reads that meet this range of the file fail with `EIO` from now on, after crashes as well.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn set_unreadable(&self, path: &Path, range: Range<u64>) -> io::Result<()> {
        let mut state = self.state();
        let node = state.media.find(path)?;
        state.media.file_mut(node)?.set_unreadable(range);
        Ok(())
    }

    /// Ends what [`SimDisk::set_unreadable`] did to a file.
    ///
    /// # Errors
    /// As [`SimDisk::set_unreadable`].
    pub fn set_readable(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        let node = state.media.find(path)?;
        state.media.file_mut(node)?.set_readable();
        Ok(())
    }

    /// What a reader of the file sees now, past every fault.
    ///
    /// # Errors
    /// `NotFound`, or that it is a directory.
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        let file = state.media.file(state.media.find(path)?)?;
        let mut bytes = vec![0; usize::try_from(file.size()).map_err(io::Error::other)?];
        file.read(0, &mut bytes);
        Ok(bytes)
    }

    /// A number for what is on the disk: the names and bytes of all files as a reader sees them,
    /// and the bytes that are durable. Disks with different ones are different.
    #[must_use]
    pub fn digest(&self) -> u128 {
        let state = self.state();
        let mut hash = Xxh3::new();
        for path in state.media.paths() {
            hash.update(path.as_os_str().as_encoded_bytes());
            let file = state.media.find(&path).and_then(|n| state.media.file(n));
            file.expect("paths names files").digest(&mut hash);
        }
        hash.digest128()
    }

    /// Paths of all files, sorted, from the root.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().media.paths()
    }
}

impl Disk for SimDisk {
    fn is_stepped(&self) -> bool {
        true
    }

    fn submit(&self, operation: Operation) -> Token {
        self.state().submit(operation)
    }

    fn take(&self, token: Token) -> Option<Completion> {
        let mut state = self.state();
        state.step();
        state.take(token)
    }

    fn wait(&self, token: Token) -> Completion {
        self.state().wait(token)
    }

    fn durable_writes(&self) -> bool {
        self.durable_writes
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn backend(&self) -> &'static str {
        "simulated"
    }
}
