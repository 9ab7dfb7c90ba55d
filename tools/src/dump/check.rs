//! `wal-dump --verify`: feeds the judge with everything in log order and prints its verdict.

use std::io::Write;
use std::sync::Arc;

use seawall_wal::disk::Disk;
use seawall_wal::{Corrupt, Inspected};

use crate::dump::source::{Source, gather, walk_watched};
use crate::dump::verdict::{Judge, Known};
use crate::dump::{Args, damage_json};
use crate::error::Error;
use crate::paint::{self, Painted};

/// Readings of a directory that must all find a damage before it counts.
const READINGS: usize = 3;

/// What meta knows, with the tail moved down to the segment that holds it: that one is kept whole.
fn known(source: &Source) -> Known {
    let Some(meta) = &source.meta else {
        return Known::default();
    };
    let known = Known::from_meta(meta);
    let kept = source
        .segments
        .iter()
        .filter_map(|segment| segment.lsns)
        .find(|(_, last)| *last > known.tail);
    Known {
        tail: kept.map_or(known.tail, |(first, _)| known.tail.min(first.before())),
        ..known
    }
}

/// Damage, and torn places.
pub(super) fn judge(
    disk: &Arc<dyn Disk>,
    source: &Source,
) -> Result<(Vec<Corrupt>, Vec<Corrupt>), Error> {
    let known = known(source);
    let mut judge = Judge::new(known);
    let mut in_header = true;
    walk_watched(disk, source, "verify", &mut |segment, found| {
        match found {
            _ if segment.lsns.is_some_and(|(_, last)| last <= known.tail) => {}
            Inspected::Segment { .. } => in_header = true,
            Inspected::Frame {
                offset,
                sequence,
                frontier,
                truncated_after,
                ..
            } => {
                in_header = false;
                judge.frame(&segment.path, offset, sequence, frontier);
                if let Some(after) = truncated_after {
                    judge.truncated(after);
                }
            }
            Inspected::Record { offset, header, .. } => {
                judge.record(&segment.path, offset, header.lsn);
            }
            Inspected::Damage(at) if segment.first_sequence.is_none() => judge.headless(at),
            Inspected::Damage(at) if in_header && at.offset == 0 => judge.header(at),
            Inspected::Damage(at) => judge.damage(at),
        }
        Ok(())
    })?;
    let (mut damage, torn) = judge.verdict();
    damage.splice(0..0, source.odd.iter().cloned());
    Ok((damage, torn))
}

/// Prints damage; true when there is any.
pub(super) fn verify(
    disk: &Arc<dyn Disk>,
    source: &Source,
    args: &Args,
    out: &mut dyn Write,
) -> Result<bool, Error> {
    let (mut damage, torn) = judge(disk, source)?;
    // A live owner may have changed what we read: damage is what every reading finds (D24).
    for _ in 1..READINGS {
        let Some(path) = source.dir.as_ref().filter(|_| !damage.is_empty()) else {
            break;
        };
        let (again, _) = judge(disk, &gather(disk, path)?)?;
        damage.retain(|at| again.contains(at));
    }
    let kinds = [
        (&damage, "damage", paint::BAD),
        (&torn, "torn", paint::WARN),
    ];
    for (places, kind, style) in kinds {
        for at in places {
            match args.json {
                true => writeln!(out, "{}", damage_json(at, kind))?,
                false => writeln!(out, "{} {at}", Painted(style, format_args!("{kind}:")))?,
            }
        }
    }
    if !args.json {
        let segments = source.segments.len();
        match damage.len() {
            0 => writeln!(out, "{segments} segments, no damage")?,
            count => writeln!(
                out,
                "{segments} segments, {count} damaged places; recover from a replica"
            )?,
        }
    }
    Ok(!damage.is_empty())
}
