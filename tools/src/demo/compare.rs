//! The last comparison: every copy against every other and against the input, byte by byte and by
//! digest, at the same LSN.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use seawall_snapshot::{Access, StateView, View};
use seawall_wal::disk::{self, Buffer, Disk, File, OpenMode};
use seawall_wal::{Inspected, Lsn, inspect_segment};

use crate::common::{self, PIECE_BYTES};
use crate::demo::Stage;
use crate::demo::timeline::{self, Step};
use crate::error::Error;
use crate::exit;

/// Names of the copies, the first primary first.
pub(super) const COPIES: [&str; 3] = ["p", "r1", "r2"];

/// One copy as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its name.
    pub id: String,
    /// Its head.
    pub lsn: u64,
    /// Digest of its state there, unless it cannot be read.
    pub digest: Option<String>,
}

/// Result of the last comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Whether every copy is whole, at the same LSN, and equal in every byte.
    pub equal: bool,
    /// The copies.
    pub copies: Vec<Copy>,
    /// What differs, for people; empty exactly when equal.
    pub differences: Vec<String>,
    /// Bytes of one copy.
    pub bytes: u64,
}

impl Comparison {
    pub(super) fn step(&self, time: Duration) -> Step {
        let lsn = self.copies.iter().map(|copy| copy.lsn).max().unwrap_or(0);
        let proof = match self.differences.first() {
            None => format!(
                "{} bytes of 3 copies and the input, and 3 digests",
                self.bytes
            ),
            Some(first) => first.clone(),
        };
        Step {
            step: "compare every copy".into(),
            outcome: if self.equal { "equal" } else { "not equal" }.into(),
            proof,
            after: 0,
            through: lsn,
            records: 0,
            bytes: self.bytes * COPIES.len() as u64,
            seconds: timeline::seconds(time),
        }
    }
}

/// An open copy: its state at the LSN of the comparison.
struct Opened {
    id: &'static str,
    view: StateView,
}

/// Compares the copies on `stage` at `lsn`. A copy that cannot be read is a difference, no error.
pub(super) fn compare(stage: &Stage, lsn: Lsn) -> Result<Comparison, Error> {
    let disk = common::disk();
    let (mut copies, mut views, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for id in COPIES {
        match open(&disk, id, &stage.dir(id), lsn) {
            Ok((copy, view)) => {
                if copy.lsn != lsn.get() {
                    differences.push(format!("copy {id} is at LSN {} and not {lsn}", copy.lsn));
                }
                copies.push(copy);
                views.push(view);
            }
            Err(error) => {
                differences.push(format!("copy {id}: {}", exit::line(&error)));
                copies.push(Copy {
                    id: id.into(),
                    lsn: 0,
                    digest: None,
                });
            }
        }
    }
    if copies
        .windows(2)
        .any(|pair| pair[0].digest != pair[1].digest)
    {
        differences.push("the digests differ".into());
    }
    let bytes = compare_bytes(&disk, stage, &views, &mut differences)?;
    Ok(Comparison {
        equal: differences.is_empty(),
        copies,
        differences,
        bytes,
    })
}

fn open(
    disk: &Arc<dyn Disk>,
    id: &'static str,
    dir: &Path,
    lsn: Lsn,
) -> Result<(Copy, Opened), Error> {
    let (volume, report) = common::open(disk, dir, Access::ReadOnly)?;
    if let Some(damaged) = common::damaged(dir, &report) {
        return Err(damaged);
    }
    let view = volume.state_at(lsn, "demo")?;
    let copy = Copy {
        id: id.into(),
        lsn: volume.log().frontiers().head.get(),
        digest: Some(view.digest()?.to_string()),
    };
    Ok((copy, Opened { id, view }))
}

/// Compares every byte of every readable copy with the input and, behind its end, with zeros. Gives
/// the size of a copy.
fn compare_bytes(
    disk: &Arc<dyn Disk>,
    stage: &Stage,
    views: &[Opened],
    differences: &mut Vec<String>,
) -> Result<u64, Error> {
    let input = File::open(disk, &stage.input, OpenMode::Read)?;
    let size = views.iter().map(|copy| copy.view.size()).max().unwrap_or(0);
    let mut offset = 0;
    let mut found = vec![0; usize::try_from(PIECE_BYTES).expect("1 MiB")];
    while offset < size && differences.is_empty() {
        // OK because the flag carries no other memory with it.
        if stage.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let length = usize::try_from(PIECE_BYTES.min(size - offset)).expect("at most 1 MiB");
        let expected = input_piece(&input, offset, length)?;
        for copy in views {
            let found = &mut found[..length];
            let difference = match copy.view.read(offset, found) {
                Err(error) => Some(exit::line(&error.into())),
                Ok(()) => first_difference(&expected, found)
                    .map(|at| format!("byte {} is not the input's", offset + at)),
            };
            differences.extend(difference.map(|text| format!("copy {}: {text}", copy.id)));
        }
        offset += length as u64;
    }
    Ok(size)
}

/// `length` bytes of the input, zeros behind its end.
fn input_piece(input: &File, offset: u64, length: usize) -> Result<Buffer, Error> {
    let read = input.read(offset, length)?;
    let mut piece = Buffer::zeroed(length);
    piece[..read.len()].copy_from_slice(&read);
    Ok(piece)
}

fn first_difference(left: &[u8], right: &[u8]) -> Option<u64> {
    if left == right {
        return None;
    }
    let at = left.iter().zip(right).position(|(l, r)| l != r);
    at.map(|at| at as u64)
}

/// Changes one byte of the copy in `dir`, as bit rot would: in the payload of its newest write, or
/// in the image when the log holds none.
pub(super) fn tamper(dir: &Path) -> Result<(), Error> {
    let disk = common::disk();
    let (path, offset) = match newest_payload(&disk, dir)? {
        Some(place) => place,
        None => first_image_byte(&disk, dir)?,
    };
    let file = File::open(&disk, &path, OpenMode::ReadWrite)?;
    let mut byte = file.read_exact(offset, 1)?;
    byte[0] ^= 1;
    file.write_bytes(offset, byte)?;
    file.sync()?;
    Ok(())
}

/// File and offset of the first payload byte of the newest write in the log.
fn newest_payload(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<(PathBuf, u64)>, Error> {
    let wal = dir.join("wal");
    let mut newest: Option<(Lsn, PathBuf, u64)> = None;
    for name in disk::list(disk.as_ref(), &wal)? {
        let path = wal.join(name);
        let found = inspect_segment(disk, &path, &mut |found| {
            if let Inspected::Record {
                header,
                payload_offset,
                payload,
                ..
            } = found
                && !payload.is_empty()
                && newest.as_ref().is_none_or(|(lsn, ..)| *lsn < header.lsn)
            {
                newest = Some((header.lsn, path.clone(), payload_offset));
            }
        });
        // OK because a spare segment without a header holds no record.
        drop(found);
    }
    Ok(newest.map(|(_, path, offset)| (path, offset)))
}

/// The first byte of data in the image.
fn first_image_byte(disk: &Arc<dyn Disk>, dir: &Path) -> Result<(PathBuf, u64), Error> {
    let base = dir.join("base");
    for name in disk::list(disk.as_ref(), &base)? {
        let path = base.join(name);
        let Ok(file) = File::open(disk, &path, OpenMode::Read) else {
            continue;
        };
        if let Ok(Some((offset, _))) = file.next_data(0) {
            return Ok((path, offset));
        }
    }
    Err(Error::BadPath {
        path: base,
        what: "holds no data to change",
        hint: "give a larger input",
    })
}

#[cfg(test)]
mod tests {
    use seawall_snapshot::{CreateOptions, Durability, Volume};
    use seawall_wal::{BlockSize, Geometry, Role};

    use super::*;

    /// Three copies that were written alike, save for one byte of copy `odd`.
    fn stage(odd: Option<&str>) -> (Stage, Lsn) {
        let disk = common::disk();
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_path_buf();
        let input = root.join("input");
        let bytes = [5; 8192];
        let file = File::open(&disk, &input, OpenMode::CreateNew).unwrap();
        file.write_bytes(0, Buffer::copy_of(&bytes)).unwrap();
        let mut lsn = Lsn::ZERO;
        for id in COPIES {
            let geometry = Geometry {
                block_size: BlockSize::DEFAULT,
                blocks: 4,
                segment_bytes: 1 << 20,
            };
            let options = CreateOptions {
                volume: None,
                geometry,
                role: Role::Primary,
            };
            Volume::create(&disk, &root.join(id), options).unwrap();
            let clock = common::clock();
            let opened = Volume::open(&disk, &root.join(id), &clock, Access::Primary);
            let volume = opened.unwrap().0;
            let mut written = bytes;
            written[4097] += u8::from(odd == Some(id));
            lsn = volume.write(0, &written, Durability::Durable).unwrap();
            volume.close().unwrap();
        }
        let stage = Stage {
            root,
            input,
            bytes: 8192,
            stop: Arc::default(),
            _temporary: Some(dir),
        };
        (stage, lsn)
    }

    #[test]
    fn copies_that_were_written_alike_are_equal() {
        let (stage, lsn) = stage(None);
        let comparison = compare(&stage, lsn).unwrap();
        assert_eq!(comparison.differences, Vec::<String>::new());
        assert!(comparison.equal);
    }

    #[test]
    fn one_byte_that_differs_under_a_good_sum_is_found_and_named() {
        let (stage, lsn) = stage(Some("r2"));
        let comparison = compare(&stage, lsn).unwrap();
        assert!(!comparison.equal);
        let digests = "the digests differ".to_owned();
        assert_eq!(comparison.differences, [digests]);
    }

    #[test]
    fn a_copy_at_another_lsn_is_not_equal() {
        let (stage, lsn) = stage(None);
        let comparison = compare(&stage, lsn.next()).unwrap();
        assert!(!comparison.equal);
        assert!(comparison.differences[0].contains("copy p"));
    }

    #[test]
    fn a_changed_byte_on_disk_is_found() {
        let (stage, lsn) = stage(None);
        tamper(&stage.dir("r1")).unwrap();
        let comparison = compare(&stage, lsn).unwrap();
        assert!(!comparison.equal);
        assert!(comparison.differences[0].contains("r1"));
    }
}
