//! `seawall bench decide`: what it costs to decide about a replica, and to prove the same by
//! reading every byte.

use std::io::Write;
use std::sync::atomic::AtomicU64;

use seawall_recovery::history::{History, ReplicaFacts};
use seawall_recovery::history_of;
use seawall_recovery::outcome::{Decision, classify};
use seawall_snapshot::{Access, Durability, Volume};
use seawall_wal::disk::open_backend;
use seawall_wal::{LsnRange, NodeIncarnation};
use serde_json::{Value, json};

use super::device::{Device, forget};
use super::paired::Spread;
use super::places::Places;
use super::report::{self, rounded};
use super::subject::{BLOCK, Order, Sizes, Subject};
use super::turn::{Turn, Until, turn};
use super::{Run, scratch};
use crate::common::parse_size;
use crate::edge;
use crate::error::Error;

/// Threads that write the log.
const WRITERS: u32 = 16;

/// Decides about a replica of a volume with so much log: one that lacks all of it, so that every
/// record of the log is judged. A decision is the facts, read from the open log, and the outcome
/// with its proof. Beside it, what `prove_full` takes, which reads every byte: once with nothing in
/// the page cache, then with what fits.
#[derive(Debug, clap::Args)]
pub struct Decide {
    /// How it is run; callers decide at the same time
    #[command(flatten)]
    pub run: Run,
    /// Payload bytes of the log
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub log_size: u64,
}

/// A replica that holds nothing of this volume yet.
fn replica(history: &History) -> ReplicaFacts {
    ReplicaFacts {
        volume: Some(history.volume),
        ..ReplicaFacts::empty(NodeIncarnation([1; 16]))
    }
}

fn decide(volume: &Volume) -> Decision {
    let history = history_of(volume);
    classify(&history, &replica(&history))
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`].
pub(super) fn measure(args: &Decide) -> Result<Value, Error> {
    let scratch = scratch(args.run.dir.as_deref())?;
    let dir = scratch.path().join("volume");
    let disk = open_backend(args.run.backend.into())?;
    let sizes = Sizes {
        volume_bytes: args.log_size.next_multiple_of(BLOCK.bytes()),
        segment_bytes: args.run.segment_size,
        // Nothing is captured, so nothing is reclaimed.
        log_bytes: Some(0),
    };
    let subject = Subject::create(&disk, &dir, sizes)?;
    let places = Places::over(sizes.volume_bytes, args.log_size, BLOCK.bytes_usize())?;
    let done = AtomicU64::new(0);
    let (until, once) = (Until::Done(places.count), Order::Once(&done));
    subject.writes(WRITERS, until, &places, once, Durability::Volatile)?;
    subject.volume().flush()?;
    let files = subject.log_files();
    subject.volume().close()?;
    drop(subject);
    let subject = Subject::open(&disk, &dir, sizes, Access::Primary)?;
    let volume = subject.volume();
    let begun = edge::now();
    let decision = decide(volume);
    let first = begun.elapsed();
    let turns = (0..args.run.turns).map(|_| {
        let until = Until::Elapsed(args.run.turn_time(2, 0));
        turn(args.run.callers, 1, until, |_| {
            || {
                std::hint::black_box(decide(volume));
                Ok(())
            }
        })
    });
    let turns = turns.collect::<Result<Vec<Turn>, Error>>()?;
    let all = LsnRange::new(volume.log().frontiers().tail, decision.proof.head);
    let prove = || {
        let begun = edge::now();
        volume.log().prove_full(all)?;
        Ok::<f64, Error>(begun.elapsed().as_secs_f64())
    };
    files.iter().try_for_each(|file| forget(file))?;
    let cold = prove()?;
    let warm = (0..args.run.turns).map(|_| prove());
    let warm = Spread::of(warm.collect::<Result<Vec<f64>, Error>>()?).median;
    let mut fields = report::rates(&Turn::all(&turns), 0);
    // A decision has no bytes.
    fields.remove("mb_per_s");
    let rate = |seconds| report::megabytes(1.0 / seconds, super::to_usize(args.log_size));
    report::join(
        &mut fields,
        json!({
            "work": "decide",
            "backend": disk.backend(),
            "device": Device::below(scratch.path()).name,
            "callers": args.run.callers,
            "segment_bytes": args.run.segment_size,
            "records": all.len(),
            "log_bytes": args.log_size,
            "outcome": decision.outcome().map(|outcome| outcome.name()),
            "proof": decision.proof.to_string(),
            "first_decision_us": rounded(first.as_secs_f64() * 1e6),
            "prove_full_cold_ms": rounded(cold * 1e3),
            "prove_full_cold_mb_per_s": rounded(rate(cold)),
            "prove_full_ms": rounded(warm * 1e3),
            "prove_full_mb_per_s": rounded(rate(warm)),
            "seconds": args.run.seconds,
            "turns": args.run.turns,
        }),
    );
    Ok(Value::Object(fields))
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "decisions about a log of {records} records, {log_bytes} bytes of payload; {backend} on {device}",
        "{outcome}: {proof}",
        "{p50_us} us, p99 {p99_us} us, p99.9 {p999_us} us, at most {max_us} us; the first after \
         the open {first_decision_us} us; {records_per_s} a second",
        "prove_full reads every byte: {prove_full_cold_ms} ms ({prove_full_cold_mb_per_s} MB/s) \
         with nothing cached, {prove_full_ms} ms ({prove_full_mb_per_s} MB/s) after that",
    ];
    report::print(result, &lines, out)
}
