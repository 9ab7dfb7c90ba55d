//! What can be asked for on the command line.

use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::engines;

/// The flags of every verb; each verb reads those that it knows.
#[derive(Debug)]
pub(crate) struct Options {
    /// The engine of one measurement.
    pub(crate) engine: String,
    /// The peers of a run.
    pub(crate) engines: Vec<&'static engines::Peer>,
    /// Threads that append.
    pub(crate) threads: Vec<usize>,
    /// Bytes of one record.
    pub(crate) sizes: Vec<usize>,
    pub(crate) rounds: usize,
    /// How long one measurement lasts after its warm-up.
    pub(crate) time: Duration,
    /// How long a warm-up may last before it has gone through its bytes.
    pub(crate) warm_up: Duration,
    /// Peers between two measurements of floor and Seawall.
    pub(crate) chunk: usize,
    /// A measurement ends early after so many bytes: not every engine gives space back.
    pub(crate) bytes_max: u64,
    pub(crate) backend: String,
    pub(crate) dir: PathBuf,
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    fn defaults() -> Options {
        let dir = std::env::var_os("SEAWALL_BENCH_DIR");
        Options {
            engine: String::new(),
            engines: engines::fair().collect(),
            threads: vec![1, 16, 64],
            sizes: vec![4096],
            rounds: 5,
            time: Duration::from_secs(2),
            warm_up: Duration::from_secs(3),
            chunk: 4,
            bytes_max: 16 << 30,
            backend: "auto".into(),
            dir: dir.map_or_else(std::env::temp_dir, PathBuf::from),
            json: None,
        }
    }

    /// Reads `--flag value` pairs.
    ///
    /// # Errors
    /// `InvalidInput` that names the flag.
    pub(crate) fn parse(arguments: impl Iterator<Item = String>) -> io::Result<Options> {
        let mut options = Options::defaults();
        let mut arguments = arguments.into_iter();
        while let Some(flag) = arguments.next() {
            let value = arguments.next();
            let value = value.ok_or_else(|| invalid(format!("{flag} wants a value")))?;
            options.set(&flag, &value)?;
        }
        Ok(options)
    }

    fn set(&mut self, flag: &str, value: &str) -> io::Result<()> {
        match flag {
            "--engine" => self.engine = value.into(),
            "--engines" => self.engines = peers(value)?,
            "--threads" => self.threads = positive_list(flag, value)?,
            "--size" => self.sizes = positive_list(flag, value)?,
            "--rounds" => self.rounds = number::<usize>(flag, value)?.max(1),
            "--seconds" => self.time = seconds(flag, value)?,
            "--warm-up" => self.warm_up = seconds(flag, value)?,
            "--chunk" => self.chunk = number::<usize>(flag, value)?.max(1),
            "--max-gib" => self.bytes_max = number::<u64>(flag, value)?.max(1) << 30,
            "--backend" => self.backend = value.into(),
            "--dir" => self.dir = value.into(),
            "--json" => self.json = Some(value.into()),
            _ => return Err(invalid(format!("no flag {flag}\n{}", crate::USAGE))),
        }
        Ok(())
    }
}

/// What is wrong with the command line.
pub(crate) fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn number<T: FromStr>(flag: &str, value: &str) -> io::Result<T> {
    let parsed = value.parse();
    parsed.map_err(|_| invalid(format!("{flag} takes numbers, not {value}")))
}

fn positive_list(flag: &str, value: &str) -> io::Result<Vec<usize>> {
    let numbers = value.split(',').map(|item| number(flag, item));
    let numbers: Vec<usize> = numbers.collect::<io::Result<_>>()?;
    match numbers.contains(&0) {
        true => Err(invalid(format!("{flag} takes numbers above 0"))),
        false => Ok(numbers),
    }
}

fn seconds(flag: &str, value: &str) -> io::Result<Duration> {
    let parsed = Duration::try_from_secs_f64(number(flag, value)?);
    parsed.map_err(|_| invalid(format!("{flag} takes seconds, not {value}")))
}

fn peers(names: &str) -> io::Result<Vec<&'static engines::Peer>> {
    if names == "all" {
        return Ok(engines::PEERS.iter().collect());
    }
    let found = names.split(',').map(|name| {
        let known = engines::PEERS.iter().find(|peer| peer.name == name);
        known.ok_or_else(|| invalid(format!("no peer {name}; `seawall-peers list` names them")))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> io::Result<Options> {
        Options::parse(text.split_whitespace().map(String::from))
    }

    #[test]
    fn lists_and_seconds_are_read() {
        let options = parse("--threads 1,64 --seconds 0.5 --engines okaywal,fjall").unwrap();
        assert_eq!(options.threads, [1, 64]);
        assert_eq!(options.time, Duration::from_millis(500));
        let names: Vec<_> = options.engines.iter().map(|peer| peer.name).collect();
        assert_eq!(names, ["okaywal", "fjall"]);
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (text, named) in [
            ("--engines okaywall", "okaywall"),
            ("--thread 1", "--thread"),
            ("--threads 0", "--threads"),
            ("--seconds -1", "--seconds"),
            ("--rounds", "--rounds"),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
    }
}
