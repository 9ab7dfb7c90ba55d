//! Packs a real file tree into one image: for each file a header block with its name and length,
//! then its bytes, padded to blocks; a hole between the source tree and the rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::disk::{self, Buffer, Disk, File, OpenMode};

use crate::common::PIECE_BYTES;
use crate::error::Error;

const BLOCK_BYTES: u64 = 4096;
/// What the image may grow to.
const IMAGE_BYTES_MAX: u64 = 96 << 20;
/// A hole between the two trees, so that the image is sparse.
const HOLE_BYTES: u64 = 6 << 20;

/// Writes the image to `path` and gives its size: the sources of this repository (or the current
/// directory), then what was built from them, this program among it.
pub(super) fn pack(disk: &Arc<dyn Disk>, path: &Path) -> Result<u64, Error> {
    let file = File::open(disk, path, OpenMode::CreateOrOpen)?;
    let mut image = Image { file, at: 0 };
    let sources = sources(disk);
    image.add_tree(disk, &sources, 0)?;
    image.at += HOLE_BYTES;
    let program = std::env::current_exe()?;
    image.add_file(disk, &program)?;
    if let Some(built) = program.parent() {
        image.add_tree(disk, built, 0)?;
    }
    image.file.set_length(image.at)?;
    image.file.sync()?;
    Ok(image.at)
}

/// The repository this program was built from, if it is still there.
fn sources(disk: &Arc<dyn Disk>) -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    match disk::list(disk.as_ref(), &repository) {
        Ok(_) => repository,
        Err(_) => PathBuf::from("."),
    }
}

struct Image {
    file: File,
    at: u64,
}

impl Image {
    /// Adds every file below `path`, in order of names; hidden and built ones are left out.
    fn add_tree(&mut self, disk: &Arc<dyn Disk>, path: &Path, depth: u32) -> Result<(), Error> {
        for name in disk::list(disk.as_ref(), path)? {
            let hidden = name.starts_with('.') || name == "target" || name == "incremental";
            if hidden || depth > 16 || self.at >= IMAGE_BYTES_MAX {
                continue;
            }
            let below = path.join(name);
            match disk::list(disk.as_ref(), &below) {
                Ok(_) => self.add_tree(disk, &below, depth + 1)?,
                Err(_) => self.add_file(disk, &below)?,
            }
        }
        Ok(())
    }

    /// Adds one file. One that cannot be read, or vanishes meanwhile, is left out.
    fn add_file(&mut self, disk: &Arc<dyn Disk>, path: &Path) -> Result<(), Error> {
        let Ok(source) = File::open(disk, path, OpenMode::Read) else {
            return Ok(());
        };
        let length = source.length()?;
        let room = IMAGE_BYTES_MAX.saturating_sub(self.at + BLOCK_BYTES);
        if length > room {
            return Ok(());
        }
        self.put(header(path, length))?;
        let mut done = 0;
        while done < length {
            let piece = usize::try_from((length - done).min(PIECE_BYTES)).expect("at most 1 MiB");
            let bytes = source.read(done, piece)?;
            if bytes.is_empty() {
                break;
            }
            done += bytes.len() as u64;
            self.put(bytes)?;
        }
        self.at = self.at.next_multiple_of(BLOCK_BYTES);
        Ok(())
    }

    fn put(&mut self, bytes: Buffer) -> Result<(), Error> {
        let length = bytes.len() as u64;
        self.file.write_bytes(self.at, bytes)?;
        self.at += length;
        Ok(())
    }
}

/// A block that names the file behind it.
fn header(path: &Path, length: u64) -> Buffer {
    let mut block = Buffer::zeroed(4096);
    let text = format!("{length} {}", path.display());
    let shown = text.len().min(block.len());
    block[..shown].copy_from_slice(&text.as_bytes()[..shown]);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_holds_the_sources_of_this_repository_and_a_hole() {
        let disk = crate::common::disk();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("input.img");
        let bytes = pack(&disk, &path).unwrap();
        let file = File::open(&disk, &path, OpenMode::Read).unwrap();
        assert_eq!(file.length().unwrap(), bytes);
        assert!(bytes > HOLE_BYTES && bytes <= IMAGE_BYTES_MAX + PIECE_BYTES);
        let first = file.read(0, 4096).unwrap();
        let name = String::from_utf8_lossy(&first).into_owned();
        assert!(name.contains(".."), "{name}");
    }
}
