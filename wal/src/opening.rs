//! What an open finds: the walk, the verdict on it and the report. An inspection may meet a log
//! that its owner changes at that moment, and looks again at what does not fit together (D24).

use std::path::Path;
use std::sync::Arc;

use crate::handles::Handles;
use crate::meta::{Meta, MetaContents};
use crate::replay::{Verdict, verdict};
use crate::report::{ReplayReport, ScanEnd};
use crate::state::chain;
use crate::walk::{Place, Walk};
use crate::{Error, Lsn};

/// Looks of an inspection at a log that changes under its eyes, at most.
const LOOKS_MAX: u32 = 5;

/// A log as replay found it.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) contents: MetaContents,
    pub(crate) walk: Walk,
    pub(crate) verdict: Verdict,
    pub(crate) report: ReplayReport,
}

impl Opening {
    /// Walks the log and applies the verdict in memory.
    pub(crate) fn look(
        handles: &Arc<Handles>,
        dir: &Path,
        contents: MetaContents,
        checkpoint: Lsn,
        writable: bool,
    ) -> Result<Opening, Error> {
        let tail = contents.tail;
        if tail > checkpoint {
            let action = "open with the tail at";
            return Err(chain(action, tail, "checkpoint", checkpoint));
        }
        let place = Place {
            disk: handles.disk(),
            handles,
            dir,
            meta: &contents,
            checkpoint,
            writable,
        };
        let mut walk = place.walk()?;
        let verdict = verdict(walk.facts);
        let end = match verdict {
            Verdict::Clean => ScanEnd::Clean,
            Verdict::Torn => {
                walk.cut();
                ScanEnd::Torn {
                    at: walk.stop.clone(),
                    bytes: walk.bytes_cut,
                }
            }
            Verdict::Damaged => ScanEnd::Damaged(walk.keep_damaged()),
        };
        let report = ReplayReport {
            end,
            segments_scanned: walk.scanned,
            segments_indexed: walk.by_index,
            records: walk.records,
            clean_close: contents.clean_close.is_some(),
        };
        Ok(Opening {
            contents,
            walk,
            verdict,
            report,
        })
    }

    /// Looks without writing. Damage counts when two looks in a row find the same and meta, read
    /// behind the walk, still says what it said: frames and segments may have changed between two
    /// reads, and a frontier may be newer than the place that it covers was when it was read.
    pub(crate) fn inspect(
        handles: &Arc<Handles>,
        volume: &Path,
        dir: &Path,
        contents: MetaContents,
        checkpoint: Lsn,
    ) -> Result<Opening, Error> {
        let mut contents = contents;
        let mut before: Option<Option<ScanEnd>> = None;
        for _ in 1..LOOKS_MAX {
            let found = Opening::look(handles, dir, contents.clone(), checkpoint, false);
            if let Ok(opening) = &found
                && opening.verdict != Verdict::Damaged
            {
                return found;
            }
            let now = Meta::open(handles.disk(), volume, false)?.get();
            let end = found
                .as_ref()
                .ok()
                .map(|opening| opening.report.end.clone());
            if now == contents && before.as_ref() == Some(&end) {
                return found;
            }
            before = Some(end);
            contents = now;
        }
        Opening::look(handles, dir, contents, checkpoint, false)
    }
}
