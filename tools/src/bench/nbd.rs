//! `seawall bench nbd`: fio against a volume served by nbdkit, beside a plain file served by nbdkit
//! and a plain file without a server.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::device::Device;
use super::floor::prepare;
use super::paired::Spread;
use super::report::{self, rounded};
use super::{Run, scratch};
use crate::common::parse_size;
use crate::error::Error;

/// Name of our plugin beside this program.
const PLUGIN: &str = "libnbdkit_seawall_plugin.so";

/// Random writes of fio for each way to flush: a flush behind every write with one and with all
/// callers, behind every 32nd, and none at all. In each round the raw file is written to (by as
/// many threads, with an fsync in place of a flush), then the same file through nbdkit's file
/// plugin, then a volume through ours. The floor is the file plugin. The figures of the first level
/// are those with a flush behind every write, for all callers; `shapes` has all of them. Needs
/// nbdkit and fio with its engine nbd; says so and ends where they are missing.
#[derive(Debug, clap::Args)]
#[command(mut_arg("callers", |callers| callers.default_value("16")))]
#[command(mut_arg("seconds", |seconds| seconds.default_value("36")))]
#[command(mut_arg("turns", |turns| turns.default_value("3")))]
pub struct Nbd {
    /// How it is run; the plugin chooses its backend by itself
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the volume, and of the file
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub volume_size: u64,
    /// Our plugin; otherwise the one beside this program
    #[arg(long)]
    pub plugin: Option<PathBuf>,
}

/// Who takes the writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Raw,
    FilePlugin,
    Seawall,
}

const CONTENDERS: [Contender; 3] = [Contender::Raw, Contender::FilePlugin, Contender::Seawall];

/// How it is written, and what each contender reached in each round.
struct Shape {
    /// Writes before a flush; 0 never flushes.
    fsync: u32,
    depth: u32,
    results: [Vec<Figures>; 3],
}

/// What fio reports.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// Runs it.
///
/// # Errors
/// A directory that takes no files, a server or a client that fails.
pub(super) fn measure(args: &Nbd) -> Result<Value, Error> {
    let plugin = match &args.plugin {
        Some(plugin) => plugin.clone(),
        None => std::env::current_exe()?.with_file_name(PLUGIN),
    };
    if let Some(reason) = lacking(&plugin) {
        return Ok(json!({"work": "nbd", "skipped": reason}));
    }
    let scratch = scratch(args.run.dir.as_deref())?;
    let file = scratch.path().join("file");
    prepare(&file, args.volume_size)?;
    let depth = args.run.callers;
    let mut shapes = [(1, depth), (1, 1), (32, depth), (0, depth)].map(|(fsync, depth)| Shape {
        fsync,
        depth,
        results: Default::default(),
    });
    let time = args.run.turn_time(12, 0).max(Duration::from_secs(1));
    for _ in 0..args.run.turns {
        for shape in &mut shapes {
            for (contender, results) in CONTENDERS.iter().zip(&mut shape.results) {
                let job = job(args, (shape.fsync, shape.depth), *contender, time);
                let output = match contender {
                    Contender::Raw => fio(&job, &file),
                    Contender::FilePlugin => served(&["file".as_ref(), file.as_os_str()], &job),
                    Contender::Seawall => {
                        let volume = format!("dir={}", scratch.path().join("volume").display());
                        let size = format!("size={}", args.volume_size);
                        served(&[plugin.as_os_str(), volume.as_ref(), size.as_ref()], &job)
                    }
                }?;
                results.push(figures(*contender, &output)?);
            }
        }
    }
    Ok(report(args, &shapes, &Device::below(scratch.path())))
}

/// The first of these programs that is missing, and how to come by it.
pub(super) fn missing<const COUNT: usize>(programs: [&str; COUNT]) -> Option<String> {
    programs.into_iter().find_map(|program| {
        let missing = Command::new(program).arg("--version").output().is_err();
        missing.then(|| format!("{program} is missing; install it"))
    })
}

/// The end of a program that failed, with what it said last.
pub(super) fn failed(program: &str, output: &Output) -> Error {
    let told = String::from_utf8_lossy(&output.stderr);
    let last = told.lines().last().unwrap_or("nothing said");
    let status = output.status;
    Error::Usage(format!(
        "{program} ended with {status}: {last}; run it by hand"
    ))
}

/// What is missing, and how to come by it.
fn lacking(plugin: &Path) -> Option<String> {
    let missing = missing(["nbdkit", "fio"]);
    if missing.is_some() {
        return missing;
    }
    let engines = Command::new("fio").arg("--enghelp").output();
    let engines = engines.map(|output| output.stdout).unwrap_or_default();
    if !String::from_utf8_lossy(&engines).contains("nbd") {
        return Some("fio has no engine nbd; install one built with libnbd".into());
    }
    match plugin.try_exists() {
        Ok(true) => None,
        _ => Some(format!(
            "{} is missing; build it with cargo build --release, or name it with --plugin",
            plugin.display()
        )),
    }
}

/// The words for fio, but for the place that is written to.
fn job(args: &Nbd, shape: (u32, u32), contender: Contender, time: Duration) -> Vec<String> {
    let (fsync, depth) = shape;
    let mut job: Vec<String> = [
        "--name=bench",
        "--rw=randwrite",
        "--norandommap",
        "--randrepeat=0",
        "--time_based",
        "--group_reporting",
        "--output-format=json",
    ]
    .map(String::from)
    .into();
    job.push(format!("--bs={}", args.run.size));
    job.push(format!("--size={}", args.volume_size));
    job.push(format!("--runtime={}", time.as_secs()));
    job.push(format!("--fsync={fsync}"));
    match contender {
        Contender::Raw => {
            job.extend(["--ioengine=psync".into(), "--thread".into()]);
            job.push(format!("--numjobs={depth}"));
        }
        Contender::FilePlugin | Contender::Seawall => {
            job.push("--ioengine=nbd".into());
            job.push(format!("--iodepth={depth}"));
        }
    }
    job
}

fn fio(job: &[String], file: &Path) -> Result<Output, Error> {
    let mut fio = Command::new("fio");
    fio.args(job).arg(format!("--filename={}", file.display()));
    Ok(fio.stdin(Stdio::null()).output()?)
}

/// nbdkit with this plugin and its parameters for as long as fio runs.
fn served(plugin: &[&std::ffi::OsStr], job: &[String]) -> Result<Output, Error> {
    let mut nbdkit = Command::new("nbdkit");
    nbdkit.args(["-U", "-", "--foreground"]).args(plugin);
    let run = format!("fio {} --uri=\"$uri\"", job.join(" "));
    Ok(nbdkit.args(["--run", &run]).stdin(Stdio::null()).output()?)
}

/// What a run of fio printed; it may warn in front of it.
fn figures(contender: Contender, output: &Output) -> Result<Figures, Error> {
    let text = String::from_utf8_lossy(&output.stdout);
    let start = text.find('{').unwrap_or(text.len());
    let parsed: Option<Value> = serde_json::from_str(&text[start..]).ok();
    let found = parsed.as_ref().and_then(figures_in);
    found
        .filter(|_| output.status.success())
        .ok_or_else(|| failed(&format!("fio against {contender:?}"), output))
}

fn figures_in(told: &Value) -> Option<Figures> {
    let write = &told["jobs"][0]["write"];
    let permille = |name: &str| Some(write["clat_ns"]["percentile"][name].as_f64()? / 1e3);
    Some(Figures {
        per_second: write["iops"].as_f64()?,
        p50_us: permille("50.000000")?,
        p99_us: permille("99.000000")?,
        p999_us: permille("99.900000")?,
    })
}

impl Shape {
    fn told(&self, record_bytes: usize) -> Map<String, Value> {
        let [raw, file, ours] = &self.results;
        let median = |results: &[Figures], which: fn(&Figures) -> f64| {
            rounded(Spread::of(results.iter().map(which)).median)
        };
        let mut fields = Map::new();
        for (name, theirs) in [("ratio", file), ("raw_ratio", raw)] {
            let pairs = ours.iter().zip(theirs);
            let pairs = pairs.map(|(ours, theirs)| (ours.per_second, theirs.per_second));
            report::put_spread(&mut fields, name, Spread::of_ratios(pairs));
        }
        let rate = |results| median(results, |each| each.per_second);
        report::join(
            &mut fields,
            json!({
                "callers": self.depth,
                "fsync": self.fsync,
                "records_per_s": rate(ours),
                "mb_per_s": rounded(report::megabytes(rate(ours), record_bytes)),
                "p50_us": median(ours, |each| each.p50_us),
                "p99_us": median(ours, |each| each.p99_us),
                "p999_us": median(ours, |each| each.p999_us),
                "floor_per_s": rate(file),
                "floor_p99_us": median(file, |each| each.p99_us),
                "raw_per_s": rate(raw),
            }),
        );
        fields
    }
}

fn report(args: &Nbd, shapes: &[Shape], device: &Device) -> Value {
    let told: Vec<_> = shapes
        .iter()
        .map(|shape| shape.told(args.run.size))
        .collect();
    let mut fields = told.first().cloned().unwrap_or_default();
    report::join(
        &mut fields,
        json!({
            "work": "nbd",
            "device": device.name,
            "in_flight": 1,
            "record_bytes": args.run.size,
            "volume_bytes": args.volume_size,
            "seconds": args.run.seconds,
            "turns": args.run.turns,
            "shapes": told,
        }),
    );
    Value::Object(fields)
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    let lines = [
        "skipped: {skipped}",
        "random writes of {record_bytes} bytes by fio, {volume_bytes} bytes on {device}",
    ];
    report::print(result, &lines, out)?;
    for shape in result["shapes"].as_array().into_iter().flatten() {
        let line = "fsync={fsync}, depth {callers}: {records_per_s} records/s, p50 {p50_us} us, \
                    p99 {p99_us} us; nbdkit's file plugin {floor_per_s}, ratio {ratio} \
                    ({ratio_min} to {ratio_max}); raw file {raw_per_s}, ratio {raw_ratio}";
        report::print(shape, &[line], out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_latencies_are_taken_from_their_fields() {
        let percentile = json!({"50.000000": 1000, "99.000000": 2500, "99.900000": 9000});
        let write = json!({"iops": 12.5, "clat_ns": {"percentile": percentile}});
        let expected = Figures {
            per_second: 12.5,
            p50_us: 1.0,
            p99_us: 2.5,
            p999_us: 9.0,
        };
        let told = json!({"jobs": [{"write": write}]});
        assert_eq!(figures_in(&told), Some(expected));
        assert_eq!(figures_in(&json!({"jobs": []})), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let reason = lacking(Path::new("/nowhere/plugin.so"));
        assert!(reason.is_some_and(|text| text.contains("missing") || text.contains("engine")));
    }

    #[test]
    fn ratios_are_paired_within_a_round() {
        let figures = |per_second| Figures {
            per_second,
            p50_us: 1.0,
            p99_us: 1.0,
            p999_us: 1.0,
        };
        let shape = Shape {
            fsync: 1,
            depth: 1,
            results: [[5.0, 5.0], [10.0, 1.0], [20.0, 3.0]].map(|both| both.map(figures).into()),
        };
        let told = shape.told(4096);
        assert_eq!(
            (&told["ratio_min"], &told["ratio_max"]),
            (&json!(2.0), &json!(3.0))
        );
        assert_eq!(told["raw_ratio_min"], json!(0.6));
    }
}
