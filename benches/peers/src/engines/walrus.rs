//! walrus-rust: a log of topics in sparse files of 1 GB; every append is written under `O_SYNC` and
//! followed by an `fsync`, one at a time and topic.

use std::io;

use walrus_rust::{FsyncSchedule, ReadConsistency, Walrus};

use super::{Engine, Setup};

/// The variable without which it prints a line for every append.
pub(crate) const QUIET: &str = "WALRUS_QUIET";

struct Topics {
    log: Walrus,
    topics: Vec<String>,
}

fn open(setup: &Setup, topics: usize) -> io::Result<Box<dyn Engine>> {
    // Without a variable of its own it writes into a directory of the present one.
    std::env::set_current_dir(&setup.dir)?;
    let consistency = ReadConsistency::AtLeastOnce {
        persist_every: 1000,
    };
    let schedule = FsyncSchedule::SyncEach;
    Ok(Box::new(Topics {
        log: Walrus::with_consistency_and_schedule(consistency, schedule)?,
        topics: (0..topics).map(|topic| format!("t{topic}")).collect(),
    }))
}

pub(super) fn one_topic(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    open(setup, 1)
}

pub(super) fn topics(setup: &Setup) -> io::Result<Box<dyn Engine>> {
    open(setup, setup.lanes)
}

impl Engine for Topics {
    fn append(&self, thread: usize, payload: &[u8]) -> io::Result<()> {
        let topic = &self.topics[thread % self.topics.len()];
        self.log.append_for_topic(topic, payload)
    }

    fn configuration(&self) -> String {
        format!(
            "SyncEach, {} topic(s), fd backend; blocks of 10 MB in sparse files of 1 GB cannot be \
             set, nothing is given up before all of a file was read and 1000 cleaning ticks of 5 s \
             went by",
            self.topics.len()
        )
    }
}
