//! `seawall promote`: makes this node the primary of a new epoch (D5).

use std::io::Write;
use std::path::PathBuf;

use seawall_recovery::{self as recovery, PromiseReport, Refusal, ReplicaAddress, Security};
use seawall_snapshot::{Access, Volume};
use seawall_wal::{Epoch, LineageEntry, Lsn};

use crate::common;
use crate::error::Error;
use crate::exit::Exit;
use crate::link;

/// Makes this directory the primary of a new epoch.
///
/// Every member given with --peer first promises the epoch, which ends the old primary's streams; a
/// majority must answer, and none may hold a newer history than this one.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the volume, not in use by a process
    pub dir: PathBuf,
    /// The new epoch, above every epoch so far
    #[arg(long)]
    pub epoch: u64,
    /// Another member of the volume, the old primary included if it may return
    #[arg(long = "peer", value_name = "ID=ADDR")]
    pub peers: Vec<ReplicaAddress>,
    /// How peers are asked
    #[command(flatten)]
    pub link: link::Args,
}

/// What decides between candidates: the newest lineage entry, then how far it is durable.
type Rank = (Option<(u64, u64)>, Lsn);

/// Runs the command.
///
/// # Errors
/// [`Error::NoMajority`], [`Error::Outranked`], [`Error::MarkedHoldsMore`],
/// [`Error::MarkedForRebuild`], an epoch that is not
/// above ours.
pub fn run(args: &Args, out: &mut dyn Write) -> Result<Exit, Error> {
    let epoch = Epoch::new(args.epoch);
    let disk = common::disk();
    // Before anything is opened for writing: a wrong epoch leaves the volume as it is.
    let ours = common::peek(&disk, &args.dir)?.epoch;
    if epoch <= ours {
        return Err(Error::EpochTooLow {
            dir: args.dir.clone(),
            asked: epoch,
            ours,
        });
    }
    let security = args.link.security(&disk)?;
    let volume = common::open_whole(&disk, &args.dir, Access::Maintain)?;
    check_mark(args, &volume)?;
    let reports = collect(args, epoch, &volume, &security)?;
    check_rank(&reports, own_rank(&volume))?;
    volume.promote(epoch)?;
    let durable = volume.log().frontiers().durable;
    volume.close()?;
    writeln!(
        out,
        "{} is primary of epoch {epoch}, its log is durable through LSN {durable}; {} of {} peers promised",
        args.dir.display(),
        reports.len(),
        args.peers.len()
    )?;
    Ok(Exit::Fine)
}

/// Among members, one that waits for a rebuild may not win; alone it is the desperate choice.
fn check_mark(args: &Args, volume: &Volume) -> Result<(), Error> {
    match recovery::Status::of_volume(volume).needs_rebuild && !args.peers.is_empty() {
        true => Err(Error::MarkedForRebuild {
            dir: args.dir.clone(),
        }),
        false => Ok(()),
    }
}

/// The promises of the peers; with this node they must be a majority of the members.
fn collect(
    args: &Args,
    epoch: Epoch,
    volume: &Volume,
    security: &Security,
) -> Result<Vec<PromiseReport>, Error> {
    let mut reports = Vec::new();
    let mut silent = None;
    for peer in &args.peers {
        match recovery::promise_epoch(&peer.address, epoch, security) {
            Ok(report) => reports.push(checked(report, peer, volume)?),
            // A peer that cannot keep a promise makes none: it counts like one that is silent.
            Err(
                error @ recovery::Error::Refused {
                    reason: Refusal::Failed { .. },
                    ..
                },
            ) => silent = Some(error),
            Err(error @ recovery::Error::Refused { .. }) => return Err(error.into()),
            Err(error) => silent = Some(error),
        }
    }
    let members = args.peers.len() + 1;
    let promised = reports.len() + 1;
    match (promised * 2 > members, silent) {
        (false, Some(cause)) => Err(Error::NoMajority {
            promised,
            members,
            cause,
        }),
        _ => Ok(reports),
    }
}

/// The report, if it comes from who was asked.
fn checked(
    report: PromiseReport,
    peer: &ReplicaAddress,
    volume: &Volume,
) -> Result<PromiseReport, Error> {
    let ours = volume.meta().get().volume;
    if report.id != peer.id {
        let text = format!(
            "{} calls itself {} and not {}; correct --peer",
            peer.address, report.id, peer.id
        );
        return Err(Error::Usage(text));
    }
    match report.volume {
        Some(found) if found != ours => Err(seawall_wal::Error::OtherVolume {
            expected: ours,
            found,
        }
        .into()),
        _ => Ok(report),
    }
}

fn entry_rank(entry: Option<LineageEntry>) -> Option<(u64, u64)> {
    entry.map(|entry| (entry.epoch.get(), entry.incarnation.get()))
}

fn own_rank(volume: &Volume) -> Rank {
    let durable = volume.log().frontiers().durable;
    (
        entry_rank(volume.log().lineage().entry_at(durable)),
        durable,
    )
}

/// Refuses when a peer holds more. One that waits for a rebuild may not win, but the ack rule may
/// have counted it before: where it holds more, its promise proves nothing about what was
/// acknowledged.
fn check_rank(reports: &[PromiseReport], ours: Rank) -> Result<(), Error> {
    let rank = |report: &&PromiseReport| (entry_rank(report.last_entry), report.durable);
    let above = reports.iter().filter(|report| rank(report) > ours);
    // One that may win is the way on, if there is one.
    let Some(best) = above.max_by_key(|report| (!report.needs_rebuild, rank(report))) else {
        return Ok(());
    };
    let (peer, theirs, ours) = (best.id.clone(), best.durable, ours.1);
    Err(match best.needs_rebuild {
        false => Error::Outranked { peer, theirs, ours },
        true => Error::MarkedHoldsMore { peer, theirs, ours },
    })
}

#[cfg(test)]
mod tests {
    use seawall_wal::Incarnation;

    use super::*;

    fn report(epoch: u64, durable: u64, needs_rebuild: bool) -> PromiseReport {
        PromiseReport {
            id: "r2".into(),
            volume: None,
            epoch: Epoch::new(9),
            last_entry: Some(LineageEntry {
                epoch: Epoch::new(epoch),
                incarnation: Incarnation::new(1),
                first: Lsn::new(1),
            }),
            durable: Lsn::new(durable),
            committed: Lsn::ZERO,
            needs_rebuild,
        }
    }

    // A245, D5
    #[test]
    fn a_peer_with_a_newer_entry_outranks_a_longer_log() {
        let ours = (Some((1, 3)), Lsn::new(110));
        let refused = check_rank(&[report(2, 105, false)], ours);
        assert!(matches!(refused, Err(Error::Outranked { peer, .. }) if peer == "r2"));
        // And the other way round nobody stands in its way, however long its log is.
        let ours = (Some((2, 1)), Lsn::new(105));
        assert!(check_rank(&[report(1, 110, false)], ours).is_ok());
    }

    #[test]
    fn a_peer_that_waits_for_a_rebuild_may_not_win_and_what_it_alone_holds_is_not_given_up() {
        let ours = (Some((1, 1)), Lsn::new(100));
        assert!(check_rank(&[report(1, 100, true)], ours).is_ok());
        assert!(matches!(
            check_rank(&[report(1, 101, true)], ours),
            Err(Error::MarkedHoldsMore { theirs, .. }) if theirs == Lsn::new(101)
        ));
        let both = [report(1, 500, true), report(1, 101, false)];
        assert!(matches!(
            check_rank(&both, ours),
            Err(Error::Outranked { theirs, .. }) if theirs == Lsn::new(101)
        ));
    }

    #[test]
    fn an_equal_peer_does_not_stand_in_the_way() {
        let ours = (Some((1, 1)), Lsn::new(100));
        assert!(check_rank(&[report(1, 100, false)], ours).is_ok());
        let refused = check_rank(&[report(1, 101, false)], ours);
        assert!(matches!(refused, Err(Error::Outranked { theirs, .. }) if theirs == Lsn::new(101)));
    }
}
