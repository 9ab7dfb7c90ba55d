//! The segment files of a log directory, told apart by generation.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::disk::{self, File, OpenMode};
use crate::frame::{self, FRAME_ALIGNMENT, FrameHeader};
use crate::segment::{FIRST_FRAME_AT, SegmentFile, SegmentHeader, file_name, slot_of};
use crate::slots::Slots;
use crate::walk::Place;
use crate::{Damage, Error};

/// Files that are open at once while their names are gone through.
const OPEN_MAX: usize = 32;

impl Place<'_> {
    /// Segment files with their slots. L4: what we are about to believe has to be durable first.
    /// The syncs are under way together, because each one of a clean file still waits for the
    /// device, and a device answers many as fast as one.
    fn open_synced(&self, slots: &[u32]) -> Result<Vec<(u32, File)>, Error> {
        let mode = match self.writable {
            true => OpenMode::ReadWrite,
            false => OpenMode::Read,
        };
        let open = |slot: &u32| {
            let path = self.dir.join(file_name(*slot));
            File::open(self.disk, &path, mode).map(|file| (*slot, file))
        };
        let opened: Vec<_> = slots.iter().map(open).collect::<Result<_, _>>()?;
        if self.writable {
            File::sync_all(opened.iter().map(|(_, file)| file))?;
        }
        Ok(opened)
    }

    /// Every segment file of this log by generation, and the slots of all others.
    pub(crate) fn collect(&self) -> Result<(BTreeMap<u64, Arc<SegmentFile>>, Slots), Error> {
        let names = disk::list(self.disk.as_ref(), self.dir)?;
        let all: Vec<u32> = names.iter().filter_map(|name| slot_of(name)).collect();
        let (mut files, mut slots) = (BTreeMap::new(), Slots::default());
        for some in all.chunks(OPEN_MAX) {
            for (slot, file) in self.open_synced(some)? {
                slots.used.insert(slot);
                let Some(generation) = self.generation_believed(&file)? else {
                    if self.doubts_cache() {
                        // Its size may be one that no device has: the next life writes it anew.
                        file.set_length(0)?;
                    }
                    slots.spare.push(slot);
                    continue;
                };
                let segment = SegmentFile::at_rest(self.handles, self.dir, slot, generation);
                if let Some(twin) = files.insert(generation, Arc::new(segment)) {
                    return Err(Error::corrupt(twin.path(), 0, None, Damage::Identity));
                }
            }
        }
        if self.writable {
            disk::sync_dir(self.disk.as_ref(), self.dir)?;
        }
        Ok((files, slots))
    }

    /// Whether the page cache may show what no device will ever have (L-W1): before a clean close
    /// no sync failed.
    fn doubts_cache(&self) -> bool {
        self.writable && self.meta.clean_close.is_none()
    }

    /// A header that only the page cache has gives nobody a life: what is appended behind it would
    /// go with it at the next power cut.
    fn generation_believed(&self, file: &File) -> Result<Option<u64>, Error> {
        match self.doubts_cache() {
            true => {
                let medium = File::open_direct(self.disk, file.path(), OpenMode::Read)?;
                self.generation_of(&medium)
            }
            false => self.generation_of(file),
        }
    }

    /// Generation of a file of this log. A file of another volume is refused by name; one of an
    /// earlier log of ours, or one that was never prepared, may be reused.
    fn generation_of(&self, file: &File) -> Result<Option<u64>, Error> {
        let page = file.read(0, FRAME_ALIGNMENT);
        let page = page.as_deref().unwrap_or_default();
        match SegmentHeader::decode(page) {
            Ok(header) if header.volume != self.meta.volume => {
                Err(Error::corrupt(file.path(), 0, None, Damage::Identity))
            }
            Ok(header) => Ok((header.log == self.meta.log).then_some(header.generation)),
            // The header is damaged or cannot be read: the first frame says whose life this is.
            Err(_) => Ok(self.generation_of_first_frame(file)),
        }
    }

    fn generation_of_first_frame(&self, file: &File) -> Option<u64> {
        let page = file
            .read(FIRST_FRAME_AT, frame::payload_at(frame::FRAME_RECORDS_MAX))
            .ok()?;
        let (header, _, _) = FrameHeader::decode(&page).ok()?;
        (header.log == self.meta.log).then_some(header.generation)
    }

    /// A handle that shows what may be believed of a segment that no index speaks for: what the
    /// medium has. After a failed sync the page cache shows more than that, and goes on to show it
    /// to every later process (L-W1). Before a clean close none failed, and an inspection believes
    /// what its owner's readers see.
    pub(crate) fn believable(&self, file: &SegmentFile) -> Result<Arc<File>, Error> {
        match self.doubts_cache() {
            true => file.medium().map(Arc::new),
            false => file.reader(),
        }
    }
}
