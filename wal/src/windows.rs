//! A file that is gone through front to back: one window is looked at while the next is read.

use crate::Damage;
use crate::disk::{Buffer, File, Operation, Output, Token};
use crate::frame::FRAME_ALIGNMENT;

/// Bytes of a window.
const WINDOW_BYTES: usize = 2 << 20;
/// Window of a reader that others should hardly notice.
pub(crate) const SMALL_WINDOW_BYTES: usize = 256 << 10;

/// Bytes of the file from `at` on.
#[derive(Debug)]
struct Window {
    at: u64,
    bytes: Buffer,
}

impl Window {
    fn end(&self) -> u64 {
        self.at + self.bytes.len() as u64
    }

    /// The part of `[offset, end)` that lies in it.
    fn part(&self, offset: u64, end: u64) -> &[u8] {
        let inside = |at: u64| usize::try_from(at.clamp(self.at, self.end()) - self.at);
        match (inside(offset), inside(end)) {
            (Ok(from), Ok(to)) => &self.bytes[from..to.max(from)],
            _ => &[],
        }
    }
}

/// The window behind the one that is looked at.
#[derive(Debug)]
enum Next {
    Nothing,
    /// On its way, from that offset on.
    Flying(Token, u64),
    Here(Window),
}

/// See the module text. Three windows are in memory at most: the one that was passed is kept for
/// the next read.
#[derive(Debug)]
pub(crate) struct Windows<'a> {
    file: &'a File,
    /// Nothing is read from here on.
    end: u64,
    width: usize,
    here: Window,
    next: Next,
    /// Bytes that lie in both.
    joint: Vec<u8>,
    /// The last window that was passed, for the next read.
    used: Option<Buffer>,
}

impl<'a> Windows<'a> {
    pub(crate) fn new(file: &'a File, end: u64) -> Windows<'a> {
        Windows {
            file,
            end,
            width: WINDOW_BYTES,
            here: Window {
                at: 0,
                bytes: Buffer::zeroed(0),
            },
            next: Next::Nothing,
            joint: Vec::new(),
            used: None,
        }
    }

    /// Small windows, and nothing is read ahead.
    pub(crate) fn set_small(&mut self) {
        self.width = SMALL_WINDOW_BYTES;
    }

    pub(crate) fn file(&self) -> &'a File {
        self.file
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Nothing in front of `offset` will be asked for soon.
    pub(crate) fn pass(&mut self, offset: u64) {
        if offset >= self.here.end()
            && self.landed().is_some()
            && let Next::Here(next) = std::mem::replace(&mut self.next, Next::Nothing)
        {
            self.used = Some(std::mem::replace(&mut self.here, next).bytes);
        }
        let going_on = offset > self.here.at && offset < self.here.end();
        if going_on && self.width == WINDOW_BYTES && matches!(self.next, Next::Nothing) {
            self.read_ahead();
        }
    }

    fn read_ahead(&mut self) {
        let at = self.here.end();
        let length = self.width_at(at);
        if length == 0 {
            return;
        }
        let buffer = match self.used.take() {
            Some(used) if used.len() == length => used,
            _ => Buffer::zeroed(length),
        };
        let token = self.file.disk().submit(Operation::Read {
            file: self.file.id(),
            offset: at,
            buffer,
        });
        self.next = Next::Flying(token, at);
    }

    fn width_at(&self, at: u64) -> usize {
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        self.width.min(left)
    }

    /// The next window, once it is here and if it could be read.
    fn landed(&mut self) -> Option<&Window> {
        if let Next::Flying(token, at) = self.next {
            self.next = match self.file.disk().wait(token) {
                Ok(Output::Read { mut buffer, filled }) => {
                    buffer.truncate(filled);
                    Next::Here(Window { at, bytes: buffer })
                }
                // Whoever needs its bytes reads them again, and learns what is wrong.
                _ => Next::Nothing,
            };
        }
        match &self.next {
            Next::Here(window) => Some(window),
            Next::Nothing | Next::Flying(..) => None,
        }
    }

    /// Bytes of the file, as many as asked for, or why they cannot be had.
    pub(crate) fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], Damage> {
        let end = offset + length as u64;
        if end > self.end {
            return Err(Damage::Length { found: end });
        }
        if offset < self.here.at || end > self.here.end() {
            let ahead = offset >= self.here.at && self.landed().is_some_and(|w| end <= w.end());
            if ahead {
                return Ok(self.joined(offset, end));
            }
            self.move_to(offset, length)?;
        }
        Ok(self.here.part(offset, end))
    }

    /// Bytes of which the last lies in the next window.
    fn joined(&mut self, offset: u64, end: u64) -> &[u8] {
        let Next::Here(next) = &self.next else {
            return &[];
        };
        if offset >= next.at {
            return next.part(offset, end);
        }
        self.joint.clear();
        self.joint.extend_from_slice(self.here.part(offset, end));
        self.joint.extend_from_slice(next.part(offset, end));
        &self.joint
    }

    fn move_to(&mut self, offset: u64, length: usize) -> Result<(), Damage> {
        self.settle();
        let at = offset / FRAME_ALIGNMENT as u64 * FRAME_ALIGNMENT as u64;
        let needed = usize::try_from(offset - at).expect("less than a page") + length;
        let wide = self.file.read_exact(at, needed.max(self.width_at(at)));
        // A bad sector costs what lies on it, not the window around it (L-E3).
        let bytes = wide.or_else(|_| self.file.read_exact(at, needed));
        let bytes = bytes.map_err(|_| Damage::Unreadable)?;
        self.here = Window { at, bytes };
        Ok(())
    }

    /// Waits for what is on its way, and forgets it.
    fn settle(&mut self) {
        if let Next::Flying(token, _) = std::mem::replace(&mut self.next, Next::Nothing) {
            // OK because nobody asked for these bytes yet.
            drop(self.file.disk().wait(token));
        }
    }
}

impl Drop for Windows<'_> {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::disk::sim::{Effect, Fault, SimDisk};
    use crate::disk::{Disk, OpenMode};
    use crate::{IoOp, disk};

    const PAGE: u64 = FRAME_ALIGNMENT as u64;
    /// Two windows and a half.
    const BYTES: u64 = 5 << 20;

    fn byte(at: u64) -> u8 {
        u8::try_from(at % 251).unwrap()
    }

    fn contents(range: std::ops::Range<u64>) -> Vec<u8> {
        range.map(byte).collect()
    }

    fn file(sim: &Arc<SimDisk>) -> File {
        let sim: Arc<dyn Disk> = sim.clone();
        let file = File::open(&sim, Path::new("/a"), OpenMode::CreateNew).unwrap();
        let bytes = Buffer::copy_of(&contents(0..BYTES));
        file.write(0, vec![Arc::new(bytes)]).unwrap();
        disk::sync_dir(sim.as_ref(), Path::new("/")).unwrap();
        file
    }

    /// Goes through the file in frames of `frame` bytes, each looked at back to front.
    fn walk(windows: &mut Windows<'_>, frame: u64) {
        let mut at = 0;
        while at < BYTES {
            let end = (at + frame).min(BYTES);
            windows.pass(at);
            for (from, to) in [(at, at + 100), (end - 100, end), (at, end)] {
                let length = usize::try_from(to - from).unwrap();
                assert!(windows.bytes(from, length).unwrap() == contents(from..to));
            }
            at = end;
        }
    }

    #[test]
    fn frames_of_every_size_are_shown_whole_across_windows() {
        let file = file(&SimDisk::new(1));
        for pages in [1, 3, 100, 511, 512, 513, 700, 1280] {
            walk(&mut Windows::new(&file, BYTES), pages * PAGE);
            let mut small = Windows::new(&file, BYTES);
            small.set_small();
            walk(&mut small, pages * PAGE);
        }
    }

    #[test]
    fn a_scan_that_goes_on_reads_each_byte_once_and_one_that_peeks_reads_one_window() {
        let sim = SimDisk::new(1);
        let file = file(&sim);
        let failing = |nth| Fault::at(IoOp::Read, Effect::FailErrno(5)).after(nth);
        sim.inject(failing(3));
        walk(&mut Windows::new(&file, BYTES), 3 * PAGE);
        assert_eq!(sim.faults_left(), 1, "there was a fourth read");
        sim.clear_faults();
        sim.inject(failing(1));
        let mut windows = Windows::new(&file, BYTES);
        windows.pass(0);
        windows.bytes(0, 4096).unwrap();
        drop(windows);
        assert_eq!(sim.faults_left(), 1, "there was a second read");
    }

    #[test]
    fn a_failed_read_ahead_costs_only_what_cannot_be_read() {
        let sim = SimDisk::new(1);
        let file = file(&sim);
        let mut windows = Windows::new(&file, BYTES);
        windows.bytes(0, 4096).unwrap();
        // The next window, and its second try.
        for _ in 0..2 {
            sim.inject(Fault::at(IoOp::Read, Effect::FailErrno(5)));
        }
        windows.pass(PAGE);
        let at = WINDOW_BYTES as u64;
        assert!(windows.bytes(at, 4096).unwrap() == contents(at..at + 4096));
        assert_eq!(sim.faults_left(), 0);
    }

    #[test]
    fn nothing_is_shown_behind_the_end() {
        let file = file(&SimDisk::new(1));
        let mut windows = Windows::new(&file, PAGE);
        assert_eq!(
            windows.bytes(PAGE - 1, 2),
            Err(Damage::Length { found: PAGE + 1 })
        );
    }
}
