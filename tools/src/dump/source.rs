//! Where records come from: segment files that belong together, in log order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_wal::disk::{self, Disk};
use seawall_wal::{
    Corrupt, Damage, Error as WalError, Inspected, LogId, Lsn, Meta, MetaContents, inspect_segment,
};

use crate::common;
use crate::error::Error;

/// One segment file and what orders it.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) name: String,
    log: Option<LogId>,
    generation: Option<u64>,
    pub(super) first_sequence: Option<u64>,
    truncations: Vec<(u64, Lsn)>,
    /// Its first and last readable record.
    pub(super) lsns: Option<(Lsn, Lsn)>,
    /// Neither its header nor its first frame says whose it is.
    headless: Option<Corrupt>,
}

/// Segment files that belong together, in log order, with what meta says about them.
#[derive(Debug)]
pub(super) struct Source {
    /// The directory they were found in.
    pub(super) dir: Option<PathBuf>,
    pub(super) meta: Option<MetaContents>,
    pub(super) segments: Vec<Segment>,
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
    for name in disk::list(disk.as_ref(), &wal)? {
        if name.ends_with(".seg") {
            match survey(disk, &wal.join(name)) {
                Err(error) if is_gone(&error) => {}
                segment => segments.push(segment?),
            }
        }
    }
    if segments.is_empty() {
        return Err(Error::BadPath {
            path: path.into(),
            what: "holds no segment file",
            hint: "give a volume directory, its wal directory or a .seg file",
        });
    }
    put_in_order(&mut segments, meta.as_ref());
    odd.extend(twins(&segments));
    Ok(Source {
        dir: Some(path.into()),
        meta,
        segments,
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
            odd: Vec::new(),
        }),
    }
}

/// Log order is the order of frames, then of generations. Files of another log are left out.
fn put_in_order(segments: &mut Vec<Segment>, meta: Option<&MetaContents>) {
    if let Some(meta) = meta {
        segments.retain(|segment| segment.log.is_none_or(|log| log == meta.log));
    }
    segments.sort_by_key(|segment| {
        let last = u64::MAX;
        (
            segment.first_sequence.unwrap_or(last),
            segment.generation.unwrap_or(last),
            segment.name.clone(),
        )
    });
}

/// Reads a file once for what orders it.
fn survey(disk: &Arc<dyn Disk>, path: &Path) -> Result<Segment, Error> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let mut segment = Segment {
        path: path.into(),
        name: name.to_string_lossy().into_owned(),
        log: None,
        generation: None,
        first_sequence: None,
        truncations: Vec::new(),
        lsns: None,
        headless: None,
    };
    let result = inspect_segment(disk, path, &mut |found| match found {
        Inspected::Segment {
            log, generation, ..
        } => {
            segment.log = Some(log);
            segment.generation = Some(generation);
        }
        Inspected::Frame {
            sequence,
            truncated_after,
            ..
        } => {
            segment.first_sequence.get_or_insert(sequence);
            let cut = truncated_after.map(|after| (sequence, after));
            segment.truncations.extend(cut);
        }
        Inspected::Record { header, .. } => {
            let first = segment.lsns.map_or(header.lsn, |(first, _)| first);
            segment.lsns = Some((first, header.lsn));
        }
        Inspected::Damage(_) => {}
    });
    match result {
        Err(WalError::Corrupt(at)) => segment.headless = Some(at),
        other => other?,
    }
    Ok(segment)
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
