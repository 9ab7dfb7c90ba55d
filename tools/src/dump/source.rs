//! Where records come from: segment files that belong together, in log order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::disk::{self, Disk};
use seawall_wal::{
    BlockSize, Corrupt, Damage, Error as WalError, Inspected, LineageEntry, LogId, Lsn, Meta,
    MetaContents, RecordHeader, VolumeId, inspect_segment,
};

use crate::common;
use crate::error::Error;

/// One segment file and what orders it.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) volume: Option<VolumeId>,
    pub(super) log: Option<LogId>,
    pub(super) generation: Option<u64>,
    pub(super) first_sequence: Option<u64>,
    truncations: Vec<(u64, Lsn)>,
    /// Its first and last readable record.
    pub(super) lsns: Option<(Lsn, Lsn)>,
    /// Size that the file was prepared with.
    pub(super) size: u64,
    /// Offset behind the last frame of this life.
    pub(super) end: u64,
    /// Neither its header nor its first frame says whose it is.
    pub(super) headless: Option<Corrupt>,
    /// Who wrote its records: the first LSN of each stretch.
    pub(super) lineage: Vec<LineageEntry>,
    /// Block size, and the first block behind every record.
    pub(super) shape: Option<(BlockSize, u64)>,
}

/// Segment files that belong together, in log order, with what meta says about them.
#[derive(Debug)]
pub(super) struct Source {
    /// The directory they were found in.
    pub(super) dir: Option<PathBuf>,
    pub(super) meta: Option<MetaContents>,
    pub(super) segments: Vec<Segment>,
    /// Segment files of other logs, before an install or a heal.
    pub(super) others: Vec<Segment>,
    /// Damage of `meta`, and files that claim a life that another one has.
    pub(super) odd: Vec<Corrupt>,
}

/// Finds the segment files behind `path`.
pub(super) fn gather(disk: &Arc<dyn Disk>, path: &Path) -> Result<Source, Error> {
    let names = match disk::list(disk.as_ref(), path) {
        Ok(names) => names,
        Err(WalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotADirectory => {
            return lone(survey(disk, path)?);
        }
        Err(other) => return Err(other.into()),
    };
    let (dir, wal) = match names.iter().any(|name| name == "wal") {
        true => (Some(path), path.join("wal")),
        false => (None, path.to_path_buf()),
    };
    let meta_dir = dir.or_else(|| path.parent());
    // OK because a dump also serves where meta is damaged or absent; then less is known.
    let (meta, mut odd) = meta_dir.map_or((None, Vec::new()), |dir| read_meta(disk, dir));
    let mut segments = Vec::new();
    let names = disk::list(disk.as_ref(), &wal)?;
    let bar = common::counter(names.len() as u64, "look");
    for name in names {
        bar.inc(1);
        if name.ends_with(".seg") {
            match survey(disk, &wal.join(name)) {
                Err(error) if is_gone(&error) => {}
                segment => segments.push(segment?),
            }
        }
    }
    bar.finish_and_clear();
    if segments.is_empty() {
        return Err(Error::BadPath {
            path: path.into(),
            what: "holds no segment file",
            hint: "give a volume directory, its wal directory or a .seg file",
        });
    }
    let others = put_in_order(&mut segments, meta.as_ref());
    odd.extend(twins(&segments));
    Ok(Source {
        dir: Some(path.into()),
        meta,
        segments,
        others,
        odd,
    })
}

/// What meta says, and the damage of its copies.
fn read_meta(disk: &Arc<dyn Disk>, dir: &Path) -> (Option<MetaContents>, Vec<Corrupt>) {
    let corrupt = |error| match error {
        WalError::Corrupt(at) => Some(at),
        _ => None,
    };
    match Meta::open(disk, dir, false) {
        Ok(meta) => {
            let damage = meta.verify().into_iter().filter_map(corrupt);
            (Some(meta.get()), damage.collect())
        }
        Err(error) => (None, corrupt(error).into_iter().collect()),
    }
}

/// Files that name a generation which an earlier one has: the log refuses to choose.
fn twins(segments: &[Segment]) -> impl Iterator<Item = Corrupt> {
    let mut lives = std::collections::BTreeSet::new();
    let twin = move |segment: &&Segment| match (segment.log, segment.generation) {
        (Some(log), Some(generation)) => !lives.insert((log.0, generation)),
        _ => false,
    };
    segments.iter().filter(twin).map(|segment| Corrupt {
        path: segment.path.clone(),
        offset: 0,
        lsn: None,
        what: Damage::Identity,
    })
}

/// A file on its own, if it was ever a segment.
fn lone(segment: Segment) -> Result<Source, Error> {
    use seawall_wal::Damage::{BadMagic, Length};
    match &segment.headless {
        Some(at) if matches!(at.what, BadMagic | Length { .. }) => Err(Error::BadPath {
            path: segment.path,
            what: "is no segment file",
            hint: "give a volume directory, its wal directory or a .seg file",
        }),
        _ => Ok(Source {
            dir: None,
            meta: None,
            segments: vec![segment],
            others: Vec::new(),
            odd: Vec::new(),
        }),
    }
}

/// Log order is the order of frames, then of generations. Files of another log are taken out.
fn put_in_order(segments: &mut Vec<Segment>, meta: Option<&MetaContents>) -> Vec<Segment> {
    let foreign = |segment: &mut Segment| match (meta, segment.log) {
        (Some(meta), Some(log)) => log != meta.log,
        _ => false,
    };
    let others = segments.extract_if(.., foreign).collect();
    segments.sort_by_key(|segment| {
        let last = u64::MAX;
        (
            segment.first_sequence.unwrap_or(last),
            segment.generation.unwrap_or(last),
            segment.name.clone(),
        )
    });
    others
}

/// Reads a file once for what orders it.
fn survey(disk: &Arc<dyn Disk>, path: &Path) -> Result<Segment, Error> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut segment = Segment {
        path: path.into(),
        name: name.to_string_lossy().into_owned(),
        ..Segment::default()
    };
    let result = inspect_segment(disk, path, &mut |found| match found {
        Inspected::Segment {
            volume,
            log,
            generation,
            segment_bytes,
        } => {
            segment.volume = Some(volume);
            segment.log = Some(log);
            segment.generation = Some(generation);
            segment.size = segment_bytes;
        }
        Inspected::Frame {
            offset,
            bytes,
            sequence,
            truncated_after,
            ..
        } => {
            segment.end = offset + bytes;
            segment.first_sequence.get_or_insert(sequence);
            let cut = truncated_after.map(|after| (sequence, after));
            segment.truncations.extend(cut);
        }
        Inspected::Record { header, .. } => {
            let first = segment.lsns.map_or(header.lsn, |(first, _)| first);
            segment.lsns = Some((first, header.lsn));
            segment.learn(header);
        }
        Inspected::Damage(_) => {}
    });
    match result {
        Err(WalError::Corrupt(at)) => segment.headless = Some(at),
        other => other?,
    }
    Ok(segment)
}

impl Segment {
    /// Remembers what tells the history and the shape of the volume where no meta does.
    fn learn(&mut self, header: &RecordHeader) {
        let end = header.lba.0 + u64::from(header.blocks);
        let most = self.shape.map_or(0, |(_, most)| most);
        self.shape = Some((header.block_size, end.max(most)));
        let last = self.lineage.last();
        let last = last.map(|entry| (entry.epoch, entry.incarnation));
        if last != Some((header.epoch, header.incarnation)) {
            self.lineage.push(LineageEntry {
                epoch: header.epoch,
                incarnation: header.incarnation,
                first: header.lsn,
            });
        }
    }
}

/// A live owner removed the file meanwhile: what it held was reclaimed.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Volume(seawall_snapshot::Error::Log(source)) if common::is_gone(source))
}

/// Takes what is found in a segment.
pub(super) type Each<'a> = &'a mut dyn FnMut(&Segment, Inspected<'_>) -> std::io::Result<()>;

/// Calls `each` for every thing in every segment, in log order.
pub(super) fn walk(disk: &Arc<dyn Disk>, source: &Source, each: Each<'_>) -> Result<(), Error> {
    for segment in &source.segments {
        match walk_segment(disk, segment, each) {
            Err(error) if is_gone(&error) => {}
            other => other?,
        }
    }
    Ok(())
}

/// As [`walk`], with a bar on standard error that shows how far it is.
pub(super) fn walk_watched(
    disk: &Arc<dyn Disk>,
    source: &Source,
    verb: &'static str,
    each: Each<'_>,
) -> Result<(), Error> {
    let all = source.segments.iter().map(|segment| segment.end).sum();
    let bar = common::progress(all, verb);
    let result = walk(disk, source, &mut |segment, found| {
        if let Inspected::Frame { bytes, .. } = &found {
            bar.inc(*bytes);
        }
        each(segment, found)
    });
    bar.finish_and_clear();
    result
}

fn walk_segment(disk: &Arc<dyn Disk>, segment: &Segment, each: Each<'_>) -> Result<(), Error> {
    if let Some(at) = &segment.headless {
        each(segment, Inspected::Damage(at))?;
        return Ok(());
    }
    let (mut result, mut reused) = (Ok(()), false);
    inspect_segment(disk, &segment.path, &mut |found| {
        if let Inspected::Segment { generation, .. } = found {
            // A live owner took the file for a new life since we looked.
            reused = segment.generation != Some(generation);
        }
        if result.is_ok() && !reused {
            result = each(segment, found);
        }
    })?;
    Ok(result?)
}

pub(super) fn state_of(source: &Source, sequence: u64, lsn: Lsn) -> &'static str {
    let truncated = source
        .segments
        .iter()
        .flat_map(|segment| &segment.truncations)
        .any(|(at, after)| sequence < *at && *after < lsn);
    let reclaimed = source.meta.as_ref().is_some_and(|meta| lsn <= meta.tail);
    match (truncated, reclaimed) {
        (true, _) => "truncated",
        (false, true) => "reclaimed",
        (false, false) => "live",
    }
}
