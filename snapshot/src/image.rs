//! Block image over Disk: the contents at one LSN with the sums that vouch for them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::disk::{
    Buffer, Bytes, Disk, File, OpenMode, list, make_dir, remove, rename, sync_dir,
};
use seawall_wal::{BlockSize, Geometry, Meta};

use crate::error::Error;
use crate::pipe::{ReadPipe, WritePipe, writes_to};
use crate::section::BaseFacts;
use crate::sumpage::Blocks;
use crate::sums::{Digest, Sums, block_sum};
use crate::to_usize;

/// Bytes moved by one call to the file.
pub(crate) const RUN_BYTES: usize = 1 << 20;

/// Name of the folder of all bases in a volume's directory.
pub(crate) const BASE_DIR: &str = "base";

/// The folder of base `id`.
pub(crate) fn base_dir(volume: &Path, id: u64) -> PathBuf {
    volume.join(BASE_DIR).join(id.to_string())
}

/// A way to the sums of some blocks.
type ReadSums = fn(&Sums, u64, usize) -> Result<Vec<Digest>, Error>;

/// One base on disk: `image` and `sums`.
#[derive(Debug)]
pub(crate) struct Image {
    /// Holes are punched and first written through it: the file system then finds places for many
    /// blocks at once.
    file: Arc<File>,
    /// Blocks that have their place are written past the page cache: a sync has little left to do
    /// then, and does not keep the log from the device.
    direct: Option<Arc<File>>,
    /// Reads go past the page cache: blocks are cached by whoever uses them, and memory here stays
    /// bounded.
    reads: Arc<File>,
    sums: Sums,
    block_size: BlockSize,
    blocks: u64,
    watch: Option<Watch>,
}

/// Tells an inspector that the owner of the volume has begun to write the image.
#[derive(Debug)]
struct Watch {
    disk: Arc<dyn Disk>,
    volume: PathBuf,
    facts: BaseFacts,
}

impl Watch {
    /// S3: an intent is in meta before a block changes. So whatever was read before this look at an
    /// unchanged meta is unchanged.
    fn check(&self) -> Result<(), Error> {
        let now = Meta::open(&self.disk, &self.volume, false)?.get();
        match BaseFacts::of(&now, &self.volume)? == self.facts {
            true => Ok(()),
            false => Err(Error::Overtaken {
                path: self.volume.clone(),
            }),
        }
    }
}

impl Image {
    /// Makes every read fail once the base is no longer as `facts` describe it.
    pub(crate) fn watched(mut self, volume: &Path, facts: BaseFacts) -> Image {
        self.watch = Some(Watch {
            disk: Arc::clone(self.file.disk()),
            volume: volume.into(),
            facts,
        });
        self
    }

    /// Creates an image of zeros in the new folder `dir`. The caller makes it durable by
    /// [`Image::sync`] and a sync of the folder's parent.
    pub(crate) fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        geometry: &Geometry,
    ) -> Result<Image, Error> {
        make_dir(disk.as_ref(), dir)?;
        let image = Image::open(disk, dir, geometry, OpenMode::CreateNew)?;
        image.file.set_length(geometry.bytes())?;
        sync_dir(disk.as_ref(), dir)?;
        Ok(image)
    }

    /// The same image, read past the page cache, which may show what the medium has lost.
    pub(crate) fn on_medium(&self) -> Result<Image, Error> {
        let read = OpenMode::Read;
        let reads = File::open_direct(self.file.disk(), self.path(), read)?;
        Ok(Image {
            file: Arc::new(File::open(self.file.disk(), self.path(), read)?),
            direct: None,
            reads: Arc::new(reads),
            sums: self.sums.on_medium()?,
            block_size: self.block_size,
            blocks: self.blocks,
            watch: None,
        })
    }

    /// Opens the image in `dir`.
    pub(crate) fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        geometry: &Geometry,
        mode: OpenMode,
    ) -> Result<Image, Error> {
        let path = dir.join("image");
        let file = Arc::new(File::open(disk, &path, mode)?);
        let direct = writes_to(disk, &path, mode)?;
        let reads = Arc::new(File::open_direct(disk, &path, OpenMode::Read)?);
        let blocks = Blocks {
            file: Arc::clone(&reads),
            size: geometry.block_size,
            count: geometry.blocks,
        };
        Ok(Image {
            file,
            direct,
            reads,
            sums: Sums::open(disk, &dir.join("sums"), mode, blocks)?,
            block_size: geometry.block_size,
            blocks: geometry.blocks,
            watch: None,
        })
    }

    /// Whether both files have the size of the volume, which a creation that was cut short may
    /// lack.
    pub(crate) fn has_full_length(&self) -> Result<bool, Error> {
        Ok(self.missized()?.is_none())
    }

    /// The file that does not have the size that the volume asks for.
    pub(crate) fn missized(&self) -> Result<Option<&Path>, Error> {
        if self.file.length()? != self.offset(self.blocks) {
            return Ok(Some(self.path()));
        }
        let whole = self.sums.has_full_length()?;
        Ok((!whole).then(|| self.sums.path()))
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn sums(&self) -> &Sums {
        &self.sums
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.blocks
    }

    pub(crate) fn block_size(&self) -> BlockSize {
        self.block_size
    }

    pub(crate) fn offset(&self, lba: u64) -> u64 {
        lba << self.block_size.shift()
    }

    /// Reads blocks from `lba` on into `out` and gives those of them that fail their sum. Sums come
    /// from memory, unless somebody else may change them.
    pub(crate) fn read(&self, lba: u64, out: &mut [u8]) -> Result<Vec<u64>, Error> {
        match &self.watch {
            None => self.read_with(lba, out, Sums::read_cached),
            Some(watch) => {
                let bad = self.read_unwatched(lba, out)?;
                watch.check()?;
                Ok(bad)
            }
        }
    }

    /// Fails when somebody else has begun to write the image that we inspect.
    pub(crate) fn check_watch(&self) -> Result<(), Error> {
        self.watch.as_ref().map_or(Ok(()), Watch::check)
    }

    /// As [`Image::read`], with everything from the disk, whatever the owner of the volume does:
    /// for `verify`, which looks again.
    pub(crate) fn read_unwatched(&self, lba: u64, out: &mut [u8]) -> Result<Vec<u64>, Error> {
        self.read_with(lba, out, Sums::read)
    }

    fn read_with(&self, lba: u64, out: &mut [u8], sums: ReadSums) -> Result<Vec<u64>, Error> {
        let mut bad = Vec::new();
        let mut at = lba;
        for run in out.chunks_mut(RUN_BYTES) {
            self.check_run(at, run, sums, &mut bad)?;
            at += (run.len() >> self.block_size.shift()) as u64;
        }
        Ok(bad)
    }

    /// Reads a run and adds the blocks of it that fail their sum, or cannot be read, or have a sum
    /// that cannot be read: a bad sector costs no more than what it covers (L-T5, L-E3).
    fn check_run(
        &self,
        lba: u64,
        run: &mut [u8],
        sums: ReadSums,
        bad: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let size = self.block_size.bytes_usize();
        match self.try_run(lba, run, sums, bad) {
            Err(error) if is_failed_read(&error) && run.len() > size => {
                for (lba, block) in (lba..).zip(run.chunks_mut(size)) {
                    self.check_run(lba, block, sums, bad)?;
                }
                Ok(())
            }
            // Once more: a failure that passes is no damage, and a block is not read again by those
            // who are told that it is damaged.
            Err(error) if is_failed_read(&error) => match self.try_run(lba, run, sums, bad) {
                Err(again) if is_failed_read(&again) => {
                    tracing::warn!(lba, %error, "a block of the image or its sum cannot be read");
                    bad.push(lba);
                    Ok(())
                }
                other => other,
            },
            other => other,
        }
    }

    fn try_run(
        &self,
        lba: u64,
        run: &mut [u8],
        sums: ReadSums,
        bad: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let bytes = self.reads.read_exact(self.offset(lba), run.len())?;
        run.copy_from_slice(&bytes);
        let count = run.len() >> self.block_size.shift();
        let sums = sums(&self.sums, lba, count)?;
        let blocks = run.chunks(self.block_size.bytes_usize());
        let found = (lba..).zip(blocks).zip(sums);
        bad.extend(
            found
                .filter(|((_, block), sum)| block_sum(block) != *sum)
                .map(|((lba, _), _)| lba),
        );
        Ok(())
    }

    /// Writes in flight of blocks that have their place.
    pub(crate) fn writes(&self) -> WritePipe {
        WritePipe::of(self.direct.as_ref().unwrap_or(&self.file))
    }

    /// Blocks read one by one, many in flight, past the page cache; whoever takes one checks it.
    pub(crate) fn reads(&self) -> ReadPipe {
        ReadPipe::of(&self.reads, self.block_size().bytes_usize())
    }

    /// Writes neighbours from `lba` on that may lie in a hole.
    pub(crate) fn fill(&self, lba: u64, buffers: Vec<Bytes>) -> Result<(), Error> {
        Ok(self.file.write(self.offset(lba), buffers)?)
    }

    /// Makes `range` what another image of the same shape holds there, holes included, if the file
    /// system lets them share the space; tells whether that is `expected`, by reading it again.
    /// Their sums are the caller's business.
    pub(crate) fn share_from(
        &self,
        other: &Image,
        range: &Range<u64>,
        expected: &[u8],
    ) -> Result<bool, Error> {
        if !self.file.copies_share() {
            return Ok(false);
        }
        self.punch(range)?;
        let mut at = range.start;
        while let Some(data) = other.next_data_unwatched(at)? {
            let part = data.start..data.end.min(range.end);
            if part.is_empty() {
                break;
            }
            let (first, length) = (self.offset(part.start), self.offset(part.end - part.start));
            self.file.copy_from(first, &other.file, first, length)?;
            at = part.end;
        }
        let copied = self
            .file
            .read_exact(self.offset(range.start), expected.len())?;
        Ok(*copied == *expected)
    }

    /// Makes `range` read zero and gives its space back.
    pub(crate) fn punch(&self, range: &Range<u64>) -> Result<(), Error> {
        let length = self.offset(range.end - range.start);
        Ok(self.file.punch_hole(self.offset(range.start), length)?)
    }

    /// Makes `range` read zero and keeps its space.
    pub(crate) fn zero(&self, range: &Range<u64>) -> Result<(), Error> {
        self.zeros(range)
            .try_for_each(|(lba, zeros)| Ok(self.file.write(self.offset(lba), vec![zeros])?))
    }

    /// Zeros for the blocks of a range, in runs that one call moves.
    pub(crate) fn zeros(&self, range: &Range<u64>) -> impl Iterator<Item = (u64, Bytes)> {
        let (end, shift) = (range.end, self.block_size.shift());
        range.clone().step_by(RUN_BYTES >> shift).map(move |lba| {
            let left = to_usize((end - lba) << shift);
            let zeros: Bytes = Arc::new(Buffer::zeroed(left.min(RUN_BYTES)));
            (lba, zeros)
        })
    }

    /// Makes what was written of the image durable.
    pub(crate) fn sync_blocks(&self) -> Result<(), Error> {
        Ok(self.file.sync()?)
    }

    /// Makes image and sums durable.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync()?;
        self.sums.sync()
    }

    /// First blocks at or behind `lba` that may hold data.
    pub(crate) fn next_data(&self, lba: u64) -> Result<Option<Range<u64>>, Error> {
        let data = self.next_data_unwatched(lba)?;
        self.check_watch()?;
        Ok(data)
    }

    /// As [`Image::next_data`], whatever the owner of the volume does.
    pub(crate) fn next_data_unwatched(&self, lba: u64) -> Result<Option<Range<u64>>, Error> {
        self.sums.blocks().next_data(lba)
    }
}

/// Whether it is the answer of a medium that could not read something.
pub(crate) fn is_failed_read(error: &Error) -> bool {
    let read = seawall_wal::IoOp::Read;
    matches!(error, Error::Log(seawall_wal::Error::Io { op, .. }) if *op == read)
}

/// The folder in which an install builds base `id`.
pub(crate) fn building_dir(volume: &Path, id: u64) -> PathBuf {
    volume.join(BASE_DIR).join(format!("{id}.new"))
}

/// Removes everything in `base/` but base `keep`: old bases and the preserved blocks of views,
/// which do not outlive their process. What an interrupted install has built stays for the next
/// attempt, which takes from it whatever still matches (D12), unless `all` is asked for.
pub(crate) fn sweep(disk: &dyn Disk, volume: &Path, keep: u64, all: bool) -> Result<(), Error> {
    let folder = volume.join(BASE_DIR);
    let (built, building) = (base_dir(volume, keep + 1), building_dir(volume, keep + 1));
    let mut names: Vec<_> = list(disk, &folder)?;
    if !all && names.iter().any(|name| built.ends_with(name)) {
        // An install was cut off between the last name and the switch.
        remove(disk, &building)?;
        rename(disk, &built, &building)?;
        names.retain(|name| !built.ends_with(name));
    }
    for name in names.iter().map(|name| folder.join(name)) {
        if name != base_dir(volume, keep) && (all || name != building) {
            remove(disk, &name)?;
        }
    }
    Ok(sync_dir(disk, &folder)?)
}
