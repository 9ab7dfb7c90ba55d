//! What happened, as people and scripts read it.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use crate::demo::Stage;
use crate::demo::compare::Comparison;
use crate::error::Error;

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// What was done, and to whom.
    pub step: String,
    /// What the engine decided.
    pub outcome: String,
    /// Why: the facts it decided from.
    pub proof: String,
    /// Records after this LSN.
    pub after: u64,
    /// Through this LSN.
    pub through: u64,
    /// Records moved or written.
    pub records: u64,
    /// Bytes moved or written.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
}

/// Prints steps as they happen and keeps them for the JSON at the end.
#[derive(Debug)]
pub(super) struct Timeline {
    json: bool,
    steps: Vec<Step>,
}

/// Millions of bytes.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

impl Timeline {
    pub(super) fn new(json: bool) -> Timeline {
        Timeline {
            json,
            steps: Vec::new(),
        }
    }

    /// Says what is about to happen.
    pub(super) fn open(&self, stage: &Stage, out: &mut dyn Write) -> Result<(), Error> {
        if !self.json {
            writeln!(
                out,
                "{:.1} MB of {}, primary p with replicas r1 and r2 in {}",
                megabytes(stage.bytes),
                stage.input.display(),
                stage.root.display()
            )?;
            out.flush()?;
        }
        Ok(())
    }

    /// Adds a step and shows it.
    pub(super) fn add(&mut self, step: Step, out: &mut dyn Write) -> Result<(), Error> {
        if !self.json {
            let number = self.steps.len() + 1;
            write!(out, "{number:>2}  {:<34} {:<26}", step.step, step.outcome)?;
            if step.records > 0 {
                write!(out, " {:>6} records", step.records)?;
            }
            if step.bytes > 0 {
                let rate = megabytes(step.bytes) / step.seconds.max(1e-6);
                write!(out, " {:>8.2} MB {rate:>8.1} MB/s", megabytes(step.bytes))?;
            }
            writeln!(out, " {:>7.3} s", step.seconds)?;
            writeln!(
                out,
                "      ({}, {}]  {}",
                step.after, step.through, step.proof
            )?;
            out.flush()?;
        }
        self.steps.push(step);
        Ok(())
    }

    /// Shows the table of copies, or everything as one JSON object.
    pub(super) fn close(&self, comparison: &Comparison, out: &mut dyn Write) -> Result<(), Error> {
        if self.json {
            writeln!(out, "{}", self.to_json(comparison))?;
            return Ok(());
        }
        for copy in &comparison.copies {
            let digest = copy.digest.as_deref().unwrap_or("unreadable");
            writeln!(
                out,
                "copy {:<3} LSN {:<8} digest {digest}",
                copy.id, copy.lsn
            )?;
        }
        let verdict = match comparison.differences.first() {
            None => "every copy is equal, byte by byte and by digest".to_owned(),
            Some(first) => format!("NOT EQUAL: {first}"),
        };
        writeln!(out, "{verdict}")?;
        Ok(())
    }

    fn to_json(&self, comparison: &Comparison) -> Value {
        let copies: Vec<Value> = comparison
            .copies
            .iter()
            .map(|copy| json!({"id": copy.id, "lsn": copy.lsn, "digest": copy.digest}))
            .collect();
        json!({
            "equal": comparison.equal,
            "copies": copies,
            "differences": comparison.differences,
            "steps": self.steps.iter().map(step_json).collect::<Vec<Value>>(),
        })
    }
}

fn step_json(step: &Step) -> Value {
    json!({
        "step": step.step,
        "outcome": step.outcome,
        "proof": step.proof,
        "after": step.after,
        "through": step.through,
        "records": step.records,
        "bytes": step.bytes,
        "seconds": step.seconds,
    })
}

/// Seconds as the timeline shows them.
pub(super) fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}
