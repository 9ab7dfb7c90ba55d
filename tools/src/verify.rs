//! `seawall verify`: every frame, the base, the sums, the invariant chain. Writes nothing.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall_snapshot::{Access, DamageFound, VerifyReport};
use seawall_wal::disk::Disk;
use seawall_wal::{Corrupt, Error as WalError, Frontiers, Loss, ReplayReport, ScanEnd};
use serde_json::{Value, json};

use crate::common;
use crate::error::Error;
use crate::exit::Exit;

/// Readings that must all see a damage before it counts: a process may be at work on the volume,
/// now or a moment ago (D24).
const READINGS: usize = 3;

/// Reads every frame, the base and the sums, and reports all damage.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume
    pub dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What one reading of a volume found.
#[derive(Debug)]
pub struct Findings {
    /// Every damaged place.
    pub damage: Vec<DamageFound>,
    /// Where a torn tail begins and how many bytes it has: no damage (L2).
    pub torn: Option<(Corrupt, u64)>,
    /// The chain, when the volume could be opened.
    pub frontiers: Option<Frontiers>,
    /// Records read.
    pub records: u64,
    /// Image blocks checked.
    pub blocks: u64,
}

/// Runs the command.
///
/// # Errors
/// Only when it cannot even look; damage is [`Exit::Found`].
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let disk = common::disk();
    let mut findings = read(&disk, &args.dir)?;
    for _ in 1..READINGS {
        if findings.damage.is_empty() {
            break;
        }
        findings = seen_again(&findings, read(&disk, &args.dir)?);
    }
    match args.json {
        true => writeln!(out, "{}", to_json(&findings))?,
        false => print(&args.dir, &findings, out)?,
    }
    Ok(match findings.damage.is_empty() {
        true => Exit::Fine,
        false => Exit::Found,
    })
}

/// Reads the volume in `dir` in full.
///
/// # Errors
/// Everything but damage.
pub fn read(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Findings, Error> {
    let error = match read_open(disk, dir) {
        Err(Error::Volume(seawall_snapshot::Error::Log(error))) => error,
        other => return other,
    };
    let damage = match error {
        WalError::Corrupt(at) => found(&at),
        error => found_missing(error, dir)?,
    };
    Ok(Findings {
        damage: vec![damage],
        torn: None,
        frontiers: None,
        records: 0,
        blocks: 0,
    })
}

/// A file that a volume must have, and that is not there or ends too early, is damage.
fn found_missing(error: WalError, dir: &Path) -> Result<DamageFound, Error> {
    use std::io::ErrorKind::{NotFound, UnexpectedEof};
    match &error {
        WalError::Io {
            path,
            offset,
            source,
            ..
        } if path.starts_with(dir) && matches!(source.kind(), NotFound | UnexpectedEof) => {
            Ok(DamageFound {
                file: path.clone(),
                offset: offset.unwrap_or(0),
                lsn: None,
                lsns: None,
                blocks: None,
                what: source.to_string(),
            })
        }
        _ => Err(error.into()),
    }
}

fn read_open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Findings, Error> {
    let (volume, replay) = common::open(disk, dir, Access::ReadOnly)?;
    let bar = common::progress(0, "verify");
    let report = volume.verify(&mut |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    Ok(collect(replay, report, volume.log().frontiers()))
}

/// Joins what replay and verify found; a place counts once.
fn collect(replay: ReplayReport, report: VerifyReport, frontiers: Frontiers) -> Findings {
    let mut damage = report.damage;
    let mut torn = None;
    match replay.end {
        ScanEnd::Clean => {}
        ScanEnd::Torn { at, bytes } => torn = Some((at, bytes)),
        ScanEnd::Damaged(losses) => {
            let place = |found: &DamageFound| (found.file.clone(), found.offset);
            let places: BTreeSet<_> = damage.iter().map(place).collect();
            let losses = losses.places.iter().map(found_loss);
            damage.extend(losses.filter(|loss| !places.contains(&place(loss))));
        }
    }
    Findings {
        damage,
        torn,
        frontiers: Some(frontiers),
        records: report.records,
        blocks: report.blocks,
    }
}

/// The later reading, with the damage that both saw alike.
fn seen_again(before: &Findings, mut now: Findings) -> Findings {
    now.damage.retain(|damage| before.damage.contains(damage));
    now
}

fn found(at: &Corrupt) -> DamageFound {
    DamageFound {
        file: at.path.clone(),
        offset: at.offset,
        lsn: at.lsn,
        lsns: None,
        blocks: None,
        what: at.what.to_string(),
    }
}

fn found_loss(loss: &Loss) -> DamageFound {
    let first = loss.blocks.as_ref().and_then(|blocks| blocks.first());
    let kind = if loss.hole { "hole" } else { "damage" };
    DamageFound {
        lsn: loss
            .at
            .lsn
            .or((!loss.lsns.is_empty()).then(|| loss.lsns.after.next())),
        blocks: first.map(|(lba, count)| (lba.0, u64::from(*count))),
        what: format!("{kind}: {}, LSNs {} are lost", loss.at.what, loss.lsns),
        ..found(&loss.at)
    }
}

fn print(dir: &Path, findings: &Findings, out: &mut dyn Write) -> Result<(), Error> {
    for damage in &findings.damage {
        write!(out, "{} at offset {}", damage.file.display(), damage.offset)?;
        match (damage.lsn, damage.lsns) {
            (Some(lsn), _) => write!(out, ", LSN {lsn}")?,
            (None, Some(lsns)) => write!(out, ", LSNs {lsns}")?,
            (None, None) => {}
        }
        if let Some((lba, blocks)) = damage.blocks {
            write!(out, ", block {lba} and {} more", blocks.saturating_sub(1))?;
        }
        writeln!(out, ": {}", damage.what)?;
    }
    if let Some((at, bytes)) = &findings.torn {
        writeln!(
            out,
            "torn tail: {at}; {bytes} bytes that were never acknowledged, cut at the next open"
        )?;
    }
    if let Some(chain) = findings.frontiers {
        writeln!(
            out,
            "tail {} checkpoint {} committed {} durable {} head {}",
            chain.tail, chain.checkpoint, chain.committed, chain.durable, chain.head
        )?;
    }
    let verdict = match findings.damage.len() {
        0 => "whole".to_owned(),
        count => format!(
            "{count} damaged places; recover from a replica, or export a state before the damage"
        ),
    };
    writeln!(
        out,
        "{}: {} records and {} image blocks read: {verdict}",
        dir.display(),
        findings.records,
        findings.blocks
    )?;
    Ok(())
}

fn to_json(findings: &Findings) -> Value {
    let damage: Vec<Value> = findings.damage.iter().map(damage_json).collect();
    let torn = findings
        .torn
        .as_ref()
        .map(|(at, bytes)| json!({"file": at.path, "offset": at.offset, "bytes": bytes}));
    let chain = findings.frontiers;
    json!({
        "ok": damage.is_empty(),
        "damage": damage,
        "torn": torn,
        "tail": chain.map(|chain| chain.tail.get()),
        "checkpoint": chain.map(|chain| chain.checkpoint.get()),
        "committed": chain.map(|chain| chain.committed.get()),
        "durable": chain.map(|chain| chain.durable.get()),
        "head": chain.map(|chain| chain.head.get()),
        "records": findings.records,
        "blocks": findings.blocks,
    })
}

fn damage_json(damage: &DamageFound) -> Value {
    json!({
        "file": damage.file,
        "offset": damage.offset,
        "lsn": damage.lsn.map(seawall_wal::Lsn::get),
        "after": damage.lsns.map(|lsns| lsns.after.get()),
        "through": damage.lsns.map(|lsns| lsns.through.get()),
        "lba": damage.blocks.map(|(lba, _)| lba),
        "blocks": damage.blocks.map(|(_, count)| count),
        "what": damage.what,
    })
}

#[cfg(test)]
mod tests {
    use seawall_wal::{Damage, LossReport, Lsn, LsnRange};

    use super::*;

    fn corrupt(offset: u64) -> Corrupt {
        Corrupt {
            path: "wal/00000001.seg".into(),
            offset,
            lsn: Some(Lsn::new(7)),
            what: Damage::Missing,
        }
    }

    fn replay(end: ScanEnd) -> ReplayReport {
        ReplayReport {
            end,
            segments_scanned: 1,
            segments_indexed: 0,
            records: 6,
            clean_close: false,
        }
    }

    fn report(damage: Vec<DamageFound>) -> VerifyReport {
        VerifyReport {
            damage,
            records: 6,
            blocks: 0,
        }
    }

    #[test]
    fn a_torn_tail_is_reported_and_is_no_damage() {
        let end = ScanEnd::Torn {
            at: corrupt(8192),
            bytes: 100,
        };
        let findings = collect(replay(end), report(vec![]), Frontiers::default());
        assert!(findings.damage.is_empty());
        assert_eq!(to_json(&findings)["ok"], true);
        assert_eq!(to_json(&findings)["torn"]["offset"], 8192);
    }

    #[test]
    fn a_loss_that_verify_saw_too_counts_once_and_names_file_offset_and_lsn() {
        let loss = Loss {
            at: corrupt(4096),
            lsns: LsnRange::new(Lsn::new(6), Lsn::new(7)),
            blocks: None,
            hole: false,
        };
        let end = ScanEnd::Damaged(LossReport {
            durable: Lsn::new(9),
            applied: Lsn::new(6),
            places: vec![loss.clone()],
        });
        let both = collect(
            replay(end.clone()),
            report(vec![found(&loss.at)]),
            Frontiers::default(),
        );
        assert_eq!(both.damage.len(), 1);
        let one = collect(replay(end), report(vec![]), Frontiers::default());
        let json = to_json(&one);
        assert_eq!(json["ok"], false);
        assert_eq!(json["damage"][0]["file"], "wal/00000001.seg");
        assert_eq!(json["damage"][0]["offset"], 4096);
        assert_eq!(json["damage"][0]["lsn"], 7);
    }
}
