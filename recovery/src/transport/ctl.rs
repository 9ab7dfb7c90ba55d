//! The read-only Unix socket `ctl` in a volume directory (D24): one line of JSON per connection.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "this file and tcp.rs are the place for sockets; a socket's name is no volume file"
)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::error::Error;

/// Name of the socket in the volume directory.
const NAME: &str = "ctl";
/// Longest answer that is believed.
const ANSWER_BYTES_MAX: u64 = 4 << 20;
/// A process that holds the socket answers within this time.
const TIMEOUT: Duration = Duration::from_secs(10);

fn failed(op: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.display().to_string();
    move |source| Error::socket(op, &path, source)
}

/// The listening socket; its name goes away with it.
#[derive(Debug)]
pub(crate) struct CtlListener {
    socket: UnixListener,
    path: PathBuf,
    closed: AtomicBool,
}

impl CtlListener {
    /// Binds `DIR/ctl`. The caller holds the volume's lock, so a socket that is there is stale.
    pub(crate) fn bind(dir: &Path) -> Result<CtlListener, Error> {
        let path = dir.join(NAME);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove the stale socket", &path)(error));
            }
            _ => {}
        }
        Ok(CtlListener {
            socket: UnixListener::bind(&path).map_err(failed("listen on", &path))?,
            path,
            closed: AtomicBool::new(false),
        })
    }

    /// Answers the next connection with one line; `false` once closed.
    pub(crate) fn answer(&self, line: impl FnOnce() -> String) -> Result<bool, Error> {
        let accepted = self.socket.accept();
        if self.closed.load(Ordering::Acquire) {
            return Ok(false);
        }
        let (mut stream, _) = accepted.map_err(failed("accept on", &self.path))?;
        // OK because a reader that hangs up has only itself to blame.
        drop(stream.set_write_timeout(Some(TIMEOUT)));
        drop(stream.write_all((line() + "\n").as_bytes()));
        Ok(true)
    }

    /// Wakes `answer`, which then gives `false`.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        // OK because the connection exists only to wake `accept`.
        drop(UnixStream::connect(&self.path));
    }
}

impl Drop for CtlListener {
    fn drop(&mut self) {
        // OK because a stale name is removed by the next start.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Reads the one line, or `None` when no process answers.
pub(crate) fn query(dir: &Path) -> Result<Option<String>, Error> {
    let path = dir.join(NAME);
    let stream = match UnixStream::connect(&path) {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => return Ok(None),
        Err(error) => return Err(failed("connect to", &path)(error)),
    };
    let read = |stream: UnixStream| {
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut line = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut line)?;
        Ok(line)
    };
    let line = read(stream).map_err(failed("read from", &path))?;
    // A process that was just stopping hung up without an answer: nobody holds the volume.
    Ok((!line.is_empty()).then(|| line.trim_end().to_owned()))
}

fn is_absent(error: &std::io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory)
}
