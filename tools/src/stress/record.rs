//! The record of a stress run: what was sent and what was acknowledged, one line each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use seawall_wal::disk::{Buffer, File, OpenMode};

use super::stamped;
use crate::common;
use crate::error::Error;

/// Bytes of the record read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What a block was promised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Promise {
    /// Last stamp that was acknowledged as durable, or seen by a check; 0 before the first.
    pub(super) kept: u64,
    /// Stamps sent since, and that one.
    sent: Vec<u64>,
}

impl Promise {
    /// The stamp that the block holds, if that is one it may hold.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn judge(&self, block: u64, bytes: &[u8]) -> Result<u64, String> {
        let stamp =
            stamp_of(block, bytes).ok_or("it is torn, or holds another block".to_owned())?;
        if stamp < self.kept {
            return Err(format!(
                "stamp {} was acknowledged, {stamp} is there",
                self.kept
            ));
        }
        if stamp > 0 && !self.sent.contains(&stamp) {
            return Err(format!("stamp {stamp} is there and was never sent"));
        }
        Ok(stamp)
    }
}

/// The stamp that fills a block; 0 for one that was never written.
fn stamp_of(block: u64, bytes: &[u8]) -> Option<u64> {
    let word = bytes.get(8..16)?.try_into().ok()?;
    let stamp = u64::from_le_bytes(word);
    let whole = match stamp {
        0 => bytes.iter().all(|byte| *byte == 0),
        _ => bytes == stamped(block, stamp, bytes.len()),
    };
    whole.then_some(stamp)
}

/// Everything a record says.
#[derive(Debug, Default)]
pub(super) struct Record {
    blocks: BTreeMap<u64, Promise>,
    last: u64,
    kept: u64,
}

impl Record {
    /// Reads a record; a missing file is an empty one. A last line without its end was cut off by a
    /// kill, before the write or the acknowledgement that it was to speak of.
    pub(super) fn read(path: &Path) -> Result<Record, Error> {
        let mut record = Record::default();
        let file = File::open(&common::disk(), path, OpenMode::CreateOrOpen)?;
        let (mut at, mut rest) = (0, Vec::new());
        loop {
            let chunk = file.read(at, CHUNK_BYTES)?;
            if chunk.is_empty() {
                return Ok(record);
            }
            at += chunk.len() as u64;
            rest.extend_from_slice(&chunk);
            let end = rest.iter().rposition(|byte| *byte == b'\n');
            let lines: Vec<u8> = rest.drain(..end.map_or(0, |end| end + 1)).collect();
            for line in String::from_utf8_lossy(&lines).lines() {
                record.take(line);
            }
        }
    }

    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        let word = words.next();
        let mut number = || words.next()?.parse::<u64>().ok();
        let (Some(word), Some(block), Some(stamp)) = (word, number(), number()) else {
            return;
        };
        self.last = self.last.max(stamp);
        let promise = self.blocks.entry(block).or_default();
        match word {
            "sent" => promise.sent.push(stamp),
            "kept" => {
                self.kept += 1;
                promise.kept = promise.kept.max(stamp);
                let kept = promise.kept;
                promise.sent.retain(|sent| *sent >= kept);
            }
            _ => {}
        }
    }

    /// The highest stamp ever sent.
    pub(super) fn last_stamp(&self) -> u64 {
        self.last
    }

    /// Acknowledgements.
    pub(super) fn kept(&self) -> u64 {
        self.kept
    }

    pub(super) fn promises(&self) -> impl Iterator<Item = (u64, &Promise)> {
        self.blocks.iter().map(|(block, promise)| (*block, promise))
    }
}

/// Continues a record, line by line, each handed to the operating system before `note` returns.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    at: Mutex<u64>,
}

impl Writer {
    pub(super) fn append_to(path: &Path) -> Result<Writer, Error> {
        let file = File::open(&common::disk(), path, OpenMode::CreateOrOpen)?;
        // Behind a line that a kill cut off goes its end, so that it stays a line of its own.
        let at = file.length()?;
        file.write_bytes(at, Buffer::copy_of(b"\n"))?;
        Ok(Writer {
            file,
            at: Mutex::new(at + 1),
        })
    }

    pub(super) fn note(&self, word: &str, block: u64, stamp: u64) -> Result<(), Error> {
        let line = format!("{word} {block} {stamp}\n");
        // OK because the offset is moved behind the write that could fail.
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        self.file
            .write_bytes(*at, Buffer::copy_of(line.as_bytes()))?;
        *at += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(lines: &[&str]) -> Record {
        let mut record = Record::default();
        lines.iter().for_each(|line| record.take(line));
        record
    }

    #[test]
    fn a_block_holds_what_was_kept_or_sent_since() {
        let record = record(&[
            "sent 3 1", "sent 3 2", "kept 3 1", "sent 3 4", "junk", "sent 3",
        ]);
        assert_eq!((record.last_stamp(), record.kept()), (4, 1));
        let (block, promise) = record.promises().next().unwrap();
        let judge = |stamp| promise.judge(block, &stamped(3, stamp, 512));
        assert_eq!(judge(1), Ok(1));
        assert_eq!(judge(2), Ok(2));
        assert_eq!(judge(4), Ok(4));
        assert!(judge(3).is_err_and(|what| what.contains("never sent")));
        let zero = promise.judge(block, &[0; 512]);
        assert!(zero.is_err_and(|what| what.contains("1 was acknowledged")));
    }

    #[test]
    fn a_mixture_of_stamps_and_a_block_in_another_place_are_broken() {
        let record = record(&["sent 0 1", "sent 0 2"]);
        let (_, promise) = record.promises().next().unwrap();
        let mut torn = stamped(0, 1, 512);
        torn[256..].copy_from_slice(&stamped(0, 2, 256));
        assert!(promise.judge(0, &torn).is_err());
        assert!(promise.judge(0, &stamped(5, 1, 512)).is_err());
    }
}
