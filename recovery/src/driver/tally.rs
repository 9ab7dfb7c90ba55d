//! What one recovery moved, for its record.

use super::attempt::Attempt;
use super::storage::VolumePin;
use crate::error::Error;
use crate::outcome::SourceKind;
use crate::plan::{Plan, Work};
use crate::status::RecoveryRecord;

/// The record of a recovery that is under way.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) record: RecoveryRecord,
}

impl Tally {
    pub(super) fn begin(attempt: &Attempt<'_>, plan: &Plan<VolumePin>) -> Tally {
        let proof = &plan.proof;
        let mut record = RecoveryRecord {
            replica: attempt.replica.to_string(),
            session: plan.session.to_string(),
            proof: proof.to_string(),
            after: proof.replica_durable.get(),
            through: proof.committed.get(),
            ..RecoveryRecord::default()
        };
        let (outcome, source) = match plan.work {
            Work::ZeroGap => ("zero gap", "none".to_owned()),
            Work::NeedsRebuild => ("needs rebuild", "none".to_owned()),
            Work::TruncateOnly { to } => {
                record.after = to.get();
                record.through = to.get();
                record.truncated_to = Some(to.get());
                ("truncate", "none".to_owned())
            }
            Work::CatchUp { range, truncate_to } => {
                record.after = range.after.get();
                record.through = range.through.get();
                record.truncated_to = truncate_to.map(seawall_wal::Lsn::get);
                match truncate_to {
                    Some(_) => ("truncate", "log".to_owned()),
                    None => ("catch-up", "log".to_owned()),
                }
            }
            Work::Rebuild { source } => {
                record.through = source.target.get();
                record.proof = format!("{}; {source}", record.proof);
                let name = match source.kind {
                    SourceKind::SnapshotTail { base } => {
                        record.after = base.get();
                        "snapshot + tail"
                    }
                    SourceKind::FullBase { .. } => {
                        record.after = 0;
                        "full base"
                    }
                };
                ("rebuild", name.to_owned())
            }
        };
        record.outcome = outcome.to_owned();
        record.source = source;
        Tally { record }
    }

    /// Remembers how it ended.
    pub(super) fn finish(mut self, attempt: &Attempt<'_>, result: &str) -> Result<(), Error> {
        let ticks = attempt.shared.now().since(attempt.started);
        self.record.seconds = std::time::Duration::from_millis(ticks).as_secs_f64();
        self.record.result = result.to_owned();
        attempt.shared.record(self.record)
    }
}
