//! `seawall bench open`: how long a volume takes to open, and the memory it then has, by its size
//! and that of its log.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;

use seawall_snapshot::{Access, Durability};
use seawall_wal::disk::open_backend;
use serde_json::{Value, json};

use super::device::{Device, forget, resident_bytes};
use super::paired::Spread;
use super::places::Places;
use super::report::rounded;
use super::subject::{BLOCK, Order, Sizes, Subject, image_files};
use super::turn::Until;
use super::{Backend, Run, report, scratch};
use crate::common::parse_size;
use crate::edge;
use crate::error::Error;

/// Threads that write the log.
const WRITERS: u32 = 16;

/// Opens volumes of every size named, with logs of every size named, each in a process of its own
/// with nothing of it in the page cache, and ended before as a crash would end it. The log holds
/// single blocks at random places over the whole volume, none of them captured. `shapes` has every
/// pair; the figures of the first level are the worst of them.
#[derive(Debug, clap::Args)]
#[command(mut_arg("turns", |turns| turns.default_value("3")))]
pub struct Open {
    /// How it is run; callers and seconds decide nothing
    #[command(flatten)]
    pub run: Run,
    /// Bytes of the volumes
    #[arg(long, default_value = "1G,1T", value_delimiter = ',', value_parser = parse_size)]
    pub volume_size: Vec<u64>,
    /// Payload bytes of their logs
    #[arg(long, default_value = "4M,1G", value_delimiter = ',', value_parser = parse_size)]
    pub log_size: Vec<u64>,
    /// Opens this volume and tells what it took; how the command calls itself
    #[arg(long, hide = true)]
    pub opened: Option<PathBuf>,
}

/// A volume that is opened again and again.
struct Shape {
    dir: PathBuf,
    volume_bytes: u64,
    log_bytes: u64,
    files: Vec<PathBuf>,
    /// Milliseconds of each open, and memory without file pages before and after it.
    opens: Vec<f64>,
    before: u64,
    after: u64,
}

/// Runs it.
///
/// # Errors
/// As [`super::write::measure`]; [`Error::Usage`] when this program cannot start itself.
pub(super) fn measure(args: &Open) -> Result<Value, Error> {
    if let Some(dir) = &args.opened {
        return opened(args.run.backend, dir);
    }
    let scratch = scratch(args.run.dir.as_deref())?;
    let mut shapes = Vec::new();
    for log_bytes in &args.log_size {
        for volume_bytes in &args.volume_size {
            let dir = scratch.path().join(format!("volume-{}", shapes.len()));
            shapes.push(Shape::build(args, dir, *volume_bytes, *log_bytes)?);
        }
    }
    for _ in 0..args.run.turns {
        for shape in &mut shapes {
            shape.open(args.run.backend)?;
        }
    }
    let backend = open_backend(args.run.backend.into())?.backend();
    Ok(report(
        args,
        &shapes,
        backend,
        &Device::below(scratch.path()),
    ))
}

impl Shape {
    fn build(args: &Open, dir: PathBuf, volume_bytes: u64, log_bytes: u64) -> Result<Shape, Error> {
        let disk = open_backend(args.run.backend.into())?;
        let sizes = Sizes {
            volume_bytes,
            segment_bytes: args.run.segment_size,
            log_bytes: Some(0),
        };
        let places = Places::over(volume_bytes, log_bytes, BLOCK.bytes_usize())?;
        let subject = Subject::create(&disk, &dir, sizes)?;
        let done = AtomicU64::new(0);
        let (until, once) = (Until::Done(places.count), Order::Once(&done));
        subject.writes(WRITERS, until, &places, once, Durability::Volatile)?;
        subject.volume().flush()?;
        let mut files = subject.log_files();
        files.extend(image_files(&dir));
        files.push(dir.join("meta"));
        // Without a clean close.
        drop(subject);
        Ok(Shape {
            dir,
            volume_bytes,
            log_bytes,
            files,
            opens: Vec::new(),
            before: 0,
            after: 0,
        })
    }

    /// One open, in a process of its own.
    fn open(&mut self, backend: Backend) -> Result<(), Error> {
        self.files.iter().try_for_each(|file| forget(file))?;
        let told = child(backend, &self.dir)?;
        let number = |field: &str| told[field].as_u64().unwrap_or(0);
        self.opens
            .push(told["open_ms"].as_f64().unwrap_or(f64::NAN));
        self.before = self.before.max(number("resident_bytes_before_open"));
        self.after = self.after.max(number("resident_bytes"));
        Ok(())
    }

    fn told(&self) -> Value {
        let open = Spread::of(self.opens.iter().copied());
        json!({
            "volume_bytes": self.volume_bytes,
            "log_bytes": self.log_bytes,
            "open_ms": rounded(open.median),
            "open_ms_min": rounded(open.min),
            "open_ms_max": rounded(open.max),
            "resident_bytes": self.after,
            "resident_bytes_before_open": self.before,
        })
    }
}

fn child(backend: Backend, dir: &Path) -> Result<Value, Error> {
    let backend = clap::ValueEnum::to_possible_value(&backend);
    let backend = backend.map_or_else(String::new, |value| value.get_name().to_owned());
    let output = Command::new(std::env::current_exe()?)
        .args(["bench", "open", "--json", "--backend", &backend, "--opened"])
        .arg(dir)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|_| {
        let dir = dir.display();
        Error::Usage(format!(
            "a process that opens {dir} ended with {}; try it with seawall status",
            output.status
        ))
    })
}

/// What the child does: opens the volume as a server would, without background work, and ends
/// as a crash would.
fn opened(backend: Backend, dir: &Path) -> Result<Value, Error> {
    let disk = open_backend(backend.into())?;
    // Only the background goes by these, and there is none.
    let sizes = Sizes {
        volume_bytes: BLOCK.bytes(),
        segment_bytes: 1 << 20,
        log_bytes: Some(0),
    };
    let before = resident_bytes();
    let begun = edge::now();
    let subject = Subject::open(&disk, dir, sizes, Access::Primary)?;
    let open = begun.elapsed();
    let after = resident_bytes();
    drop(subject);
    Ok(json!({
        "open_ms": rounded(open.as_secs_f64() * 1e3),
        "resident_bytes": after,
        "resident_bytes_before_open": before,
    }))
}

/// How much longer the largest volume takes than the smallest, with the log for which that is
/// most.
fn extra_ms(shapes: &[Shape], logs: &[u64]) -> Option<f64> {
    let median = |shape: &Shape| Spread::of(shape.opens.iter().copied()).median;
    let extra = logs.iter().filter_map(|log| {
        let with = || shapes.iter().filter(|shape| shape.log_bytes == *log);
        let small = with().min_by_key(|shape| shape.volume_bytes)?;
        let large = with().max_by_key(|shape| shape.volume_bytes)?;
        Some(median(large) - median(small))
    });
    extra.max_by(f64::total_cmp)
}

fn report(args: &Open, shapes: &[Shape], backend: &str, device: &Device) -> Value {
    let medians = shapes
        .iter()
        .map(|shape| Spread::of(shape.opens.iter().copied()).median);
    json!({
        "work": "open",
        "backend": backend,
        "device": device.name,
        "segment_bytes": args.run.segment_size,
        "open_ms": Spread::of(medians.map(rounded)).max,
        "extra_open_ms": extra_ms(shapes, &args.log_size).map(rounded),
        "resident_bytes": shapes.iter().map(|shape| shape.after).max(),
        "turns": args.run.turns,
        "shapes": shapes.iter().map(Shape::told).collect::<Vec<Value>>(),
    })
}

pub(super) fn print(result: &Value, out: &mut dyn Write) -> Result<(), Error> {
    report::print(
        result,
        &["open after a crash, nothing cached; {backend} on {device}"],
        out,
    )?;
    for shape in result["shapes"].as_array().into_iter().flatten() {
        let line = "volume of {volume_bytes} bytes, log of {log_bytes}: {open_ms} ms \
                    ({open_ms_min} to {open_ms_max}), {resident_bytes} bytes resident without \
                    file pages, {resident_bytes_before_open} before";
        report::print(shape, &[line], out)?;
    }
    let line = "the largest volume takes {extra_open_ms} ms more than the smallest";
    report::print(result, &[line], out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_ended_as_in_a_crash_opens_and_ends_so_again() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run {
            dir: None,
            callers: 1,
            seconds: 1,
            turns: 1,
            backend: Backend::Portable,
            size: 4096,
            segment_size: 1 << 20,
            json: true,
        };
        let args = Open {
            run,
            volume_size: vec![],
            log_size: vec![],
            opened: None,
        };
        let volume = dir.path().join("volume");
        let shape = Shape::build(&args, volume.clone(), 1 << 40, 3 << 20).unwrap();
        assert!(shape.files.len() > 4, "{:?}", shape.files);
        for _ in 0..2 {
            let told = opened(Backend::Portable, &volume).unwrap();
            assert!(
                told["open_ms"].as_f64().is_some_and(|time| time > 0.0),
                "{told}"
            );
            assert!(
                told["resident_bytes"]
                    .as_u64()
                    .is_some_and(|bytes| bytes > 0),
                "{told}"
            );
        }
    }

    #[test]
    fn the_extra_time_is_that_of_the_log_for_which_it_is_most() {
        let shape = |volume_bytes, log_bytes, opens: &[f64]| Shape {
            dir: PathBuf::new(),
            volume_bytes,
            log_bytes,
            files: Vec::new(),
            opens: opens.to_vec(),
            before: 0,
            after: 0,
        };
        let shapes = [
            shape(1, 10, &[5.0, 1.0, 2.0]),
            shape(9, 10, &[3.0, 3.0, 90.0]),
            shape(1, 20, &[10.0]),
            shape(9, 20, &[14.0]),
        ];
        assert_eq!(extra_ms(&shapes, &[10, 20]), Some(4.0));
        assert_eq!(extra_ms(&shapes, &[10]), Some(1.0));
        assert_eq!(extra_ms(&[], &[]), None);
    }
}
