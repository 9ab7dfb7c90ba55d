//! Operations in flight on one file, a bounded number of them.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use seawall_wal::IoOp;
use seawall_wal::disk::{
    Buffer, Bytes, Completion, Disk, File, OpenMode, Operation, Output, Token,
};

use crate::error::Error;

/// Operations in flight at once: enough to keep a device busy, few enough that a write of the log
/// does not queue behind many of them.
const DEPTH: usize = 16;

/// A handle for writes past the page cache to a file that is opened in this way, unless only to be
/// read.
pub(crate) fn writes_to(
    disk: &Arc<dyn Disk>,
    path: &Path,
    mode: OpenMode,
) -> Result<Option<Arc<File>>, Error> {
    match mode {
        OpenMode::Read => Ok(None),
        _ => {
            let file = File::open_direct(disk, path, OpenMode::ReadWrite)?;
            Ok(Some(Arc::new(file)))
        }
    }
}

/// An operation that was submitted, with what it is about.
#[derive(Debug)]
struct Flying<T> {
    token: Token,
    offset: u64,
    about: T,
}

/// What is in flight, oldest first. Nothing is in flight any more once this value is gone.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    file: Arc<File>,
    op: IoOp,
    flying: VecDeque<Flying<T>>,
}

impl<T> Pipe<T> {
    fn of(file: &Arc<File>, op: IoOp) -> Pipe<T> {
        Pipe {
            file: Arc::clone(file),
            op,
            flying: VecDeque::with_capacity(DEPTH),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.flying.len() >= DEPTH
    }

    fn submit(&mut self, offset: u64, about: T, operation: Operation) {
        let token = self.file.disk().submit(operation);
        self.flying.push_back(Flying {
            token,
            offset,
            about,
        });
    }

    /// Waits for the oldest operation.
    fn land(&mut self) -> Option<Result<(T, Output), Error>> {
        let oldest = self.flying.pop_front()?;
        let done: Completion = self.file.disk().wait(oldest.token);
        let failed = |source| {
            let (path, offset) = (self.file.path(), Some(oldest.offset));
            Error::Log(seawall_wal::Error::io(self.op, path, offset, source))
        };
        Some(done.map(|output| (oldest.about, output)).map_err(failed))
    }
}

impl<T> Drop for Pipe<T> {
    fn drop(&mut self) {
        // OK because whoever drops it early has an error already.
        while self.land().is_some() {}
    }
}

/// Writes in flight.
#[derive(Debug)]
pub(crate) struct WritePipe(Pipe<()>);

impl WritePipe {
    pub(crate) fn of(file: &Arc<File>) -> WritePipe {
        WritePipe(Pipe::of(file, IoOp::Write))
    }

    /// Submits a write, once there is room for it.
    pub(crate) fn write(&mut self, offset: u64, buffers: Vec<Bytes>) -> Result<(), Error> {
        if self.0.is_full() {
            self.0.land().transpose()?;
        }
        let operation = Operation::Write {
            file: self.0.file.id(),
            offset,
            buffers,
            durable: false,
        };
        self.0.submit(offset, (), operation);
        Ok(())
    }

    /// Waits for all of them; the first failure counts.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        while let Some(done) = self.0.land() {
            done?;
        }
        Ok(())
    }
}

/// Reads of units of one size in flight, named by their number.
#[derive(Debug)]
pub(crate) struct ReadPipe {
    pipe: Pipe<u64>,
    unit: usize,
}

impl ReadPipe {
    pub(crate) fn of(file: &Arc<File>, unit: usize) -> ReadPipe {
        ReadPipe {
            pipe: Pipe::of(file, IoOp::Read),
            unit,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.pipe.is_full()
    }

    pub(crate) fn submit(&mut self, number: u64) {
        self.submit_run(number, 1);
    }

    /// As [`ReadPipe::submit`], of `count` units from this one on.
    pub(crate) fn submit_run(&mut self, number: u64, count: usize) {
        let offset = number * self.unit as u64;
        let operation = Operation::Read {
            file: self.pipe.file.id(),
            offset,
            buffer: Buffer::zeroed(count * self.unit),
        };
        self.pipe.submit(offset, number, operation);
    }

    /// The number of the oldest read.
    pub(crate) fn oldest(&self) -> Option<u64> {
        self.pipe.flying.front().map(|flying| flying.about)
    }

    /// What the oldest read gave; shorter than asked for only at the end of the file.
    pub(crate) fn take(&mut self) -> Option<Result<Buffer, Error>> {
        let done = self.pipe.land()?;
        Some(done.map(|(_, output)| match output {
            Output::Read { mut buffer, filled } => {
                buffer.truncate(filled);
                buffer
            }
            _ => Buffer::zeroed(0),
        }))
    }
}
